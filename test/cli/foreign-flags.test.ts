/** What people type who know ctr, docker and podman: each flag of their `run` is supported, or refused by name with what to do instead. */
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import type {CommandClass} from '../../src/cli/command-types.ts';
import {foreignFlagHint} from '../../src/cli/foreign-flags.ts';
import {readFlag} from '../../src/cli/read-flag-words.ts';
import {canonicalID, resolveCommand} from '../../src/cli/resolve-command.ts';
import {GLOBAL_FLAGS} from '../../src/cli/shared-flags.ts';
import {UNSUPPORTED_FLAGS} from '../../src/cli/unsupported-flags.ts';
import Checkpoint from '../../src/commands/containers/checkpoint.ts';
import Create from '../../src/commands/containers/create.ts';
import Restore from '../../src/commands/containers/restore.ts';
import RemoveContainer from '../../src/commands/containers/rm.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import Run from '../../src/commands/run.ts';
import CheckpointTask from '../../src/commands/tasks/checkpoint.ts';
import Exec from '../../src/commands/tasks/exec.ts';
import Kill from '../../src/commands/tasks/kill.ts';
import Remove from '../../src/commands/tasks/rm.ts';
import Start from '../../src/commands/tasks/start.ts';
import {ErrdefsError} from '../../src/lib/errdefs.ts';
import {requiresProgram} from '../support/helpers.ts';
import {root} from './harness.ts';

const words = (text: string): readonly string[] => text.trim().split(/\s+/);

/** `docker run --help` of 29. */
const DOCKER = words(`
  --add-host --annotation --attach --blkio-weight --blkio-weight-device --cap-add --cap-drop --cgroup-parent --cgroupns --cidfile --cpu-count
  --cpu-percent --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime --cpu-shares --cpus --cpuset-cpus --cpuset-mems --detach --detach-keys
  --device --device-cgroup-rule --device-read-bps --device-read-iops --device-write-bps --device-write-iops --disable-content-trust --dns
  --dns-opt --dns-option --dns-search --domainname --entrypoint --env --env-file --expose --gpus --group-add --health-cmd --health-interval
  --health-retries --health-start-interval --health-start-period --health-timeout --help --hostname --init --interactive --io-maxbandwidth
  --io-maxiops --ip --ip6 --ipc --isolation --kernel-memory --label --label-file --link --link-local-ip --log-driver --log-opt --mac-address
  --memory --memory-reservation --memory-swap --memory-swappiness --mount --name --net --net-alias --network --network-alias --no-healthcheck
  --oom-kill-disable --oom-score-adj --pid --pids-limit --platform --privileged --publish --publish-all --pull --quiet --read-only --restart
  --rm --runtime --security-opt --shm-size --sig-proxy --stop-signal --stop-timeout --storage-opt --sysctl --tmpfs --tty --ulimit
  --use-api-socket --user --userns --uts --volume --volume-driver --volumes-from --workdir
  -a -d -e -h -i -l -m -p -P -q -t -u -v -w`);

/** `ctr run --help` of containerd 1.7 and 2.2. */
const CTR = words(`
  --allow-new-privs --annotation --apparmor-default-profile --apparmor-profile --blockio-class --blockio-config-file --cap-add --cap-drop
  --cgroup --cni --config --cpu-period --cpu-quota --cpu-shares --cpus --cpuset-cpus --cpuset-mems --cwd --detach --device --dump-config --entrypoint
  --env --env-file --fifo-dir --gidmap --gpus --hostname --label --log-uri --memory-limit --mount --net-host --no-pivot --null-io --pid-file
  --platform --privileged --privileged-without-host-devices --rdt-class --read-only --remap-labels --rlimit-nofile --rm --rootfs
  --rootfs-propagation --runc-binary --runc-root --runc-systemd-cgroup --runtime --runtime-config-path --sandbox --seccomp --seccomp-profile
  --snapshotter --snapshotter-label --tty --uidmap --user --with-ns -c -d -t -u`);

const flags = {...GLOBAL_FLAGS, ...Run.flags};
/** A value that no flag converts: only names matter here. */
const isKnown = (flag: string): boolean => {
  try {
    readFlag([flag, 'x'], 0, flags);
    return true;
  } catch (err) {
    assert.ok(err instanceof ErrdefsError);
    return !err.message.includes('unknown flag');
  }
};

function assertAnswered(flag: string): void {
  const hint = UNSUPPORTED_FLAGS[flag];
  assert.notEqual(
    isKnown(flag),
    hint !== undefined,
    `${flag}: supported and refused by name exclude each other, and one of them is needed`,
  );
}

describe('flags of other programs', () => {
  it('of docker and ctr are supported or refused by name', () => {
    for (const flag of [...DOCKER, ...CTR]) assertAnswered(flag);
  });

  it('of the podman here, too', (t) => {
    if (!requiresProgram(t, 'podman')) return;
    const help = execFileSync('podman', ['run', '--help'], {encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore']});
    const found = [...help.matchAll(/^ +(?:(-[a-zA-Z]), )?(--[a-z0-9-]+)/gm)].flatMap(([, short, long]) => [short ?? [], long!].flat());
    assert.ok(found.length > 100, `${found.length} flags`);
    for (const flag of found) assertAnswered(flag);
  });

  it('that are refused are not refused for nothing', () => {
    for (const [flag, hint] of Object.entries(UNSUPPORTED_FLAGS)) assert.ok(!isKnown(flag), `${flag}: ${hint}`);
  });

  // `--help` of containerd 1.7 and 2.2.
  for (const [command, names] of [
    [Start, '--null-io --log-uri --fifo-dir --pid-file --detach -d'],
    [Checkpoint, '--rw --image --task'],
    [Restore, '--rw --live'],
    [CheckpointTask, '--exit --image-path --work-path'],
    [Exec, '--cwd --tty -t --detach -d --exec-id --fifo-dir --log-uri --user'],
    [Kill, '--signal -s --exec-id --all -a'],
    [Remove, '--force -f --exec-id'],
    [RemoveContainer, '--keep-snapshot'],
    [Create, '--fifo-dir --dump-config'],
  ] as const)
    it(`of ctr's ${command.name} are supported or refused by name`, () => {
      const known = {...GLOBAL_FLAGS, ...command.flags};
      for (const flag of words(names))
        try {
          readFlag([flag, 'x'], 0, known, command.flagHints);
          assert.equal(command.flagHints[flag], undefined, flag);
        } catch (err) {
          assert.ok(err instanceof ErrdefsError && err.hint === command.flagHints[flag] && err.hint !== undefined, `${flag}: ${err}`);
        }
    });
});

/** What a program prints with `--help`. */
const helpOf = (program: string, line: readonly string[]): string => spawnSync(program, [...line, '--help'], {encoding: 'utf8'}).stdout;

/** Commands that a program's help lists. */
function listed(program: string, line: readonly string[] = []): readonly (readonly string[])[] {
  const [, text = ''] = /(?:Commands|COMMANDS):\n([\s\S]*?)\n(?:Options|Flags|OPTIONS|GLOBAL OPTIONS):/.exec(helpOf(program, line)) ?? [];
  return [...text.matchAll(/^ +([a-z][\w-]*)/gm)].map(([, name]) => [...line, name!]).filter((found) => found.at(-1) !== 'help');
}

const flagsIn = (help: string): readonly string[] =>
  [...help.slice(Math.max(0, help.search(/OPTIONS:|Options:|Flags:/))).matchAll(/(?<=^ +|, )--?[a-zA-Z][a-zA-Z0-9-]*/gm)].map(
    ([flag]) => flag,
  );

const commandOf = async (id: string): Promise<CommandClass> => (await COMMANDS.commands[id]!()).default;

async function isAnswered(id: string, flag: string): Promise<boolean> {
  const {flags: own, flagHints} = await commandOf(id);
  try {
    readFlag([flag, 'x'], 0, {...GLOBAL_FLAGS, ...own}, flagHints);
    return true;
  } catch (err) {
    assert.ok(err instanceof ErrdefsError);
    return !err.message.includes('unknown flag') || flagHints[flag] !== undefined || foreignFlagHint(id, flag) !== undefined;
  }
}

/** Docker is no test's need: its commands are these, and podman has its flags. */
const DOCKER_COMMANDS = [
  ...words(`attach bake build builder buildx commit compose config container context cp create diff events exec export history image images
    import info inspect kill load login logout logs manifest network node pause plugin port ps pull push rename restart rm rmi run save search
    secret service stack start stats stop swarm system tag top trust unpause update version volume wait`).map((name) => [name]),
  ...Object.entries({
    container: `attach commit cp create diff exec export inspect kill logs ls pause port prune rename restart rm run start stats stop top unpause
      update wait`,
    image: 'build history import inspect load ls prune pull push rm save tag',
    volume: 'create inspect ls prune rm update',
  }).flatMap(([topic, verbs]) => words(verbs).map((verb) => [topic, verb])),
];

const PROGRAMS: Readonly<Record<string, () => readonly (readonly string[])[]>> = {
  docker: () => DOCKER_COMMANDS,
  podman: () => ['', 'container', 'image', 'volume', 'system'].flatMap((topic) => listed('podman', topic === '' ? [] : [topic])),
  skopeo: () => listed('skopeo'),
  ctr: () =>
    ['', 'images', 'containers', 'content', 'snapshots', 'tasks', 'namespaces', 'leases'].flatMap((topic) =>
      listed('ctr', topic === '' ? [] : [topic]),
    ),
};

describe('commands of other programs', () => {
  for (const [program, commands] of Object.entries(PROGRAMS)) {
    it(`of ${program} are ours, or refused by name with what to do`, (t) => {
      if (program !== 'docker' && !requiresProgram(t, program)) return;
      const lines = commands();
      assert.ok(lines.length > 5);
      for (const line of lines)
        try {
          resolveCommand(line, COMMANDS);
        } catch (err) {
          assert.ok(err instanceof ErrdefsError);
          assert.doesNotMatch(err.hint!, /^see "berth (?:\w+ )?--help"$|^did you mean/, line.join(' '));
        }
    });

    if (program !== 'docker')
      it(`of ${program} have flags that are ours, or refused by name with what to do`, async (t) => {
        if (!requiresProgram(t, program)) return;
        const unanswered: string[] = [];
        for (const line of commands()) {
          const id = canonicalID(COMMANDS, line);
          if (!Object.hasOwn(COMMANDS.commands, id)) continue;
          for (const flag of flagsIn(helpOf(program, line)))
            if (!(await isAnswered(id, flag))) unanswered.push(`${line.join(' ')} ${flag}`);
        }
        assert.deepEqual(unanswered, []);
      });
  }
});

describe('hints about other programs', () => {
  it('give commands and flags that there are', async () => {
    const wrong: string[] = [];
    for (const file of ['foreign-flags', 'unsupported-flags', 'resolve-command', 'container-flags', 'task-flags'])
      for (const [, line] of readFileSync(join(root, `src/cli/${file}.ts`), 'utf8').matchAll(/"berth ([a-z][^"$`]*)"/g))
        try {
          const resolved = resolveCommand(words(line!), COMMANDS);
          if (resolved.kind !== 'command') continue;
          const {flags: own} = await commandOf(resolved.id);
          // Words after a command in a container are that command's.
          const until = resolved.id === 'tasks exec' ? resolved.argv.indexOf('ID') : resolved.argv.length;
          for (const [i, word] of resolved.argv.entries())
            if (word.startsWith('-') && word !== '-' && i < until) readFlag(resolved.argv, i, {...GLOBAL_FLAGS, ...own});
        } catch (err) {
          wrong.push(`${line}: ${(err as Error).message}`);
        }
    assert.deepEqual(wrong, []);
  });
});
