/** What needs another kernel than a build machine may have, in a virtual machine: limits by cgroups of version 2, AppArmor. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {profileText} from '../../src/lib/runtime/apparmor.ts';
import {executable} from '../cli/harness.ts';
import {requiresImage} from '../support/cached-images.ts';
import {SAMPLE, temporaryDirectory} from '../support/helpers.ts';
import {bootVirtualMachine, MACHINE_USER, newDisk, requiresVirtualMachine, type VirtualMachine} from '../support/virtual-machine.ts';

/** A container of runc's, `a`, confined by the profile `own`, with the capability that mounting takes. */
const START = `
apparmor_parser --replace --skip-cache </exchange/profile
mkdir -p /tmp/bundle/rootfs/bin
cd /tmp/bundle
cp /usr/bin/busybox rootfs/bin
for name in sh sleep ping cat mount; do ln -sf busybox rootfs/bin/$name; done
runc spec
sed -i 's/"terminal": true/"terminal": false/
        s/"noNewPrivileges": true/"noNewPrivileges": true, "apparmorProfile": "own"/
        s/"sh"/"sleep", "1000"/
        s/"readonly": true/"readonly": false/
        s/"CAP_KILL",/"CAP_KILL", "CAP_NET_RAW", "CAP_SYS_ADMIN",/' config.json
runc run -d a </dev/null >/tmp/bundle/output 2>&1
runc exec a cat /proc/self/attr/current`;

/** Commands in the container, and whether they may. */
const COMMANDS: readonly (readonly [command: string, allowed: boolean])[] = [
  ['echo >/file', true],
  ['ping -c 1 -W 5 127.0.0.1', true],
  ['echo 0 >/proc/self/oom_score_adj', true],
  ['sleep 100 & kill $!', true],
  ['mount -t tmpfs tmpfs /bin', false],
  ['cat /proc/kcore', false],
  ['echo 1 >/proc/sys/kernel/panic', false],
];

/** Commands of containers with the profile, by their flags, and what they say: what docker's containers may. */
const CONFINED: readonly (readonly [flags: string, command: string, output: RegExp])[] = [
  ['', 'cat /proc/self/attr/current', /^confined \(enforce\)$/m],
  ['--net-host', 'ping -c 1 -W 5 127.0.0.1', /1 packets received/],
  ['-v /tmp/shared:/data', 'echo x >/data/f; chown 33 /data/f; mv /data/f /data/g; stat -c %u /data/g', /^33$/m],
  ['-v named:/data --tmpfs /t', 'echo x | tee /data/f /t/f', /^x$/m],
  ['--sysctl net.ipv4.ip_forward=1', 'cat /proc/sys/net/ipv4/ip_forward', /^1$/m],
  ['--cap-add NET_ADMIN --cap-add SYS_PTRACE', 'ip link set lo up; cat /proc/1/environ | wc -c', /^[1-9]\d*$/m],
  ['--pid host', 'kill -0 1; echo $?', /^0$/m],
  ['--read-only', 'touch /f', /Read-only file system/],
  ['', 'sleep 100 & kill $!; wait; su root -c id; chroot / true; mknod /x c 1 3; echo $?', /^uid=0.*\n0$/m],
  ['--cap-add SYS_ADMIN', 'mount -t tmpfs t /bin', /Permission denied/],
];

/** A container's flags, and what the kernel's files then say of its cgroup. */
const LIMITS =
  '--memory 64M --memory-reservation 32M --memory-swap 96M --cpus 0.5 --cpu-shares 512 --pids-limit 50 --cpuset-cpus 0 --cpuset-mems 0';
const FILES: Readonly<Record<string, string>> = {
  'memory.max': '67108864',
  'memory.low': '33554432',
  'memory.swap.max': '33554432',
  'cpu.max': '50000 100000',
  'cpu.weight': '20',
  'pids.max': '50',
  'cpuset.cpus': '0',
  'cpuset.mems': '0',
};
const CHANGES = '--memory 128M --memory-swap 160M --cpus 0.25 --pids-limit 30';
const CHANGED = {...FILES, 'memory.max': '134217728', 'cpu.max': '25000 100000', 'pids.max': '30'};

/** Of `limited`, whose first process is `sleep`. */
const showing = (files: Readonly<Record<string, string>>): string => `cgroup=/sys/fs/cgroup$(sed s/0::// /proc/$(pgrep -x sleep)/cgroup)
for file in ${Object.keys(files).join(' ')}; do echo "$file=$(cat $cgroup/$file)"; done`;
const SHOW = showing(FILES);
const lines = (files: Readonly<Record<string, string>>): string =>
  Object.entries(files)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('');

/** What a user's manager is given by systemd: all but the processors' names. */
const delegated = (files: Readonly<Record<string, string>>) =>
  Object.fromEntries(Object.entries(files).filter(([name]) => !name.startsWith('cpuset.')));
const DELEGATED = delegated(FILES);
const SHOW_DELEGATED = showing(DELEGATED);
const DELEGATED_LIMITS = LIMITS.replace(/ --cpuset.*/, '');

/** `as SCRIPT`, as the machine's ordinary user, with the session of nobody; `groups` are those of the user that are left. */
const USER = `
cat >/usr/local/bin/as <<'END'
#!/bin/sh
exec setpriv --reuid ${MACHINE_USER.uid} --regid ${MACHINE_USER.uid} --init-groups env -i HOME=/home/${MACHINE_USER.name} PATH="$PATH" XDG_RUNTIME_DIR="$XDG_RUNTIME_DIR" sh -c "$1"
END
cat >/usr/local/bin/groups-left <<'END'
#!/bin/sh
for n in 1 2 3 4 5 6 7 8 9 10; do
  left=$(find /sys/fs/cgroup -name '*~*' -o -path '*/user.slice/*' -name 'run-*.scope' -o -name supervisor)
  test -n "$left" || exit 0
  sleep 0.5
done
echo "$left"
END
chmod +x /usr/local/bin/as /usr/local/bin/groups-left`;

/** The command, and busybox as an archive. @returns `undefined` where there is no such image */
function filesWithImage(t: TestContext): Readonly<Record<string, string>> | undefined {
  const layout = requiresImage(t, 'busybox')?.layout;
  if (layout === undefined) return undefined;
  const directory = temporaryDirectory(t);
  const ctr = join(directory, 'ctr');
  writeFileSync(ctr, '#!/bin/sh\nBERTH_PROGRAM=ctr exec /exchange/berth "$@"\n', {mode: 0o755});
  const archive = join(directory, 'archive');
  execFileSync('tar', ['-C', layout, '-cf', archive, 'blobs', 'index.json', 'oci-layout']);
  return {berth: executable, ctr, archive};
}

async function machineWithImage(t: TestContext): Promise<VirtualMachine | undefined> {
  const files = filesWithImage(t);
  return files && bootVirtualMachine(t, {files});
}

/** A change of a store: a command, and what is there afterwards, as lines of `CONTENTS`. */
interface Change {
  readonly command: string;
  readonly adds?: string;
  readonly removes?: string;
  /** There only while the command runs; of one that was killed, until the next of its name, or `prune`. */
  readonly lends?: string;
}

/** What goes on beside them, in a namespace of its own: layers come and go. */
const BUSY = `(set +e; while :; do
  ctr -n busy images import --progress none --base-name busy /exchange/archive
  ctr -n busy images rm docker.io/library/busy:latest
done) >/dev/null 2>&1 &`;

/** All that the changes make and remove. */
const CONTENTS = `for ns in $(ctr namespaces ls -q | grep -vx busy); do
  echo "namespace $ns"
  for name in $(ctr -n $ns images ls -q); do echo "image $ns $name"; done
  for name in $(ctr -n $ns containers ls -q); do echo "container $ns $name"; done
done`;

const REF = 'docker.io/library/base:latest';

/** Changes with nothing left to chance but their choice: what is removed was there. @param present lines of `CONTENTS`; changed as they say */
function changes(choose: (count: number) => number, present: Set<string>, count: number, first: number): readonly Change[] {
  const pick = (prefix: string): string | undefined => {
    const found = [...present].filter((line) => line.startsWith(prefix));
    return found[choose(found.length)]?.slice(prefix.length);
  };
  const image = (n: number): string => `docker.io/library/i${n}:latest`;
  const kinds: readonly ((n: number) => Change | '' | undefined)[] = [
    (n) => ({command: `ctr images tag ${REF} i${n}`, adds: `image default ${image(n)}`}),
    (n) => ({command: `ctr containers create ${REF} c${n} sh -c "echo ${n} >/etc/made"`, adds: `container default c${n}`}),
    (n) => ({command: `ctr run --rm ${REF} r${n} true`, lends: `container default r${n}`}),
    (n) => ({command: `ctr namespaces create n${n}`, adds: `namespace n${n}`}),
    (n) => {
      const container = pick('container default c');
      return (
        container && {command: `sh -c 'ctr tasks start c${container} && ctr commit c${container} i${n}'`, adds: `image default ${image(n)}`}
      );
    },
    (n) => {
      const namespace = pick('namespace n');
      return (
        namespace && {
          command: `ctr -n n${namespace} images import --progress none --base-name i${n} /exchange/archive`,
          adds: `image n${namespace} ${image(n)}`,
        }
      );
    },
    () => {
      const found = pick('image default docker.io/library/i');
      return found && {command: `ctr images rm docker.io/library/i${found}`, removes: `image default docker.io/library/i${found}`};
    },
    () => {
      const found = pick('image n');
      const [namespace, name] = found?.split(' ') ?? [];
      return found && {command: `ctr -n n${namespace} images rm ${name}`, removes: `image n${found}`};
    },
    () => {
      const found = pick('container default c');
      return found && {command: `ctr containers rm c${found}`, removes: `container default c${found}`};
    },
    () => ({command: 'ctr gc'}),
  ];
  const made: Change[] = [];
  for (let n = first; made.length < count; n++) {
    const change = kinds[choose(kinds.length)]!(n);
    if (!change) continue;
    made.push(change);
    if (change.adds !== undefined) present.add(change.adds);
    if (change.removes !== undefined) present.delete(change.removes);
  }
  return made;
}

/** Numbers that a seed determines. */
function chooser(seed: number): (count: number) => number {
  let state = seed;
  return (count) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * count);
  };
}

const CUTS = 10;
/** More than are made before the power is cut. */
const CHANGES_A_BOOT = 60;

describe('a virtual machine', () => {
  it('keeps what was done when its power is cut, and a store that can be repaired', async (t) => {
    if (!requiresVirtualMachine(t)) return;
    const files = filesWithImage(t);
    if (files === undefined) return;
    const seed = SAMPLE;
    t.diagnostic(`seed ${seed}`);
    const choose = chooser(seed);
    const disk = join(temporaryDirectory(t), 'disk');
    newDisk(disk, 1 << 30);
    execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', disk]);
    const root = 'export BERTH_ROOT=/disk/berth';
    /** What is there, and perhaps, by a change that the power was cut in. */
    let present: ReadonlySet<string> = new Set<string>();
    let doubtful: Change | undefined;
    let done = 0;
    for (let cuts = 0; ; cuts++) {
      const machine = await bootVirtualMachine(t, {files, disk});
      await machine.ok('mkdir /disk; mount /dev/vdb /disk');
      const contents = async (): Promise<ReadonlySet<string>> => new Set((await machine.ok(`${root}; ${CONTENTS}`)).trimEnd().split('\n'));
      if (cuts === 0) await machine.ok(`${root}; ctr images import --progress none --base-name base /exchange/archive`);
      else {
        const found = await contents();
        const about = [doubtful?.adds, doubtful?.removes, doubtful?.lends];
        const wrong = [...found.symmetricDifference(present)].filter((line) => !about.includes(line));
        assert.deepEqual(wrong, [], `after cut ${cuts}, in ${doubtful?.command}`);
        const lent = doubtful?.lends !== undefined && found.has(doubtful.lends) ? `ctr containers rm ${doubtful.lends.split(' ')[2]};` : '';
        const said = await machine.ok(`${root}; ctr check --deep 2>&1 || { ctr check --repair && ctr check --deep; }; ${lent} ctr gc`);
        t.diagnostic(`check: ${said.trim().replaceAll('\n', '; ')}`);
        assert.deepEqual(await contents(), new Set([...found].filter((line) => line !== doubtful?.lends)));
        const images = [...found].filter((line) => line.startsWith('image default ')).map((line) => line.split(' ')[2]!);
        for (const name of [REF, images[choose(images.length)]!]) await machine.ok(`${root}; ctr run --rm ${name} check true`);
      }
      present = await contents();
      if (cuts === CUTS) break;
      const planned = changes(choose, new Set(present), CHANGES_A_BOOT, done * 1000);
      const script = planned.map(
        ({command}, n) => `${command} >/tmp/said 2>&1 || { cat /tmp/said; exit 1; }; echo "@done ${n + 1}" >/dev/ttyS0`,
      );
      const before = machine.console.length;
      const run = machine.run(`${root}; set -e\n${cuts % 2 === 0 ? '' : BUSY}\n${script.join('\n')}`).then(
        ({status, output}) => assert.fail(`ended with ${status}: ${output}`),
        () => undefined,
      );
      const count = (): number => Number([...machine.console.slice(before).matchAll(/@done (\d+)/g)].at(-1)?.[1] ?? 0);
      const enough = 1 + choose(6);
      while (count() < enough) await Promise.race([delay(50), run]);
      await delay(choose(3000));
      await machine.cut();
      await run;
      done = cuts + 1;
      const kept = planned.slice(0, count());
      const after = new Set(present);
      for (const {adds, removes} of kept) {
        if (adds !== undefined) after.add(adds);
        if (removes !== undefined) after.delete(removes);
      }
      present = after;
      doubtful = planned[kept.length];
      t.diagnostic(`cut ${done}: ${kept.length} changes, then in ${doubtful?.command}`);
    }
  });

  it('limits containers by cgroups of version 2, and leaves none', async (t) => {
    if (!requiresVirtualMachine(t)) return;
    const machine = await machineWithImage(t);
    if (machine === undefined) return;
    await machine.ok('ctr images import --progress none /exchange/archive');
    await machine.ok(`ctr run -d ${LIMITS} $(ctr images ls -q) limited sleep 1000`);
    assert.equal(await machine.ok(SHOW), lines(FILES));
    await machine.ok(`ctr containers update ${CHANGES} limited`);
    assert.equal(await machine.ok(SHOW), lines(CHANGED));
    assert.match(await machine.ok('ctr tasks metrics limited'), /^memory\.usage_limit +134217728$/m);
    assert.equal(await machine.ok('ctr tasks pause limited >/tmp/said; cat /sys/fs/cgroup/default/limited*/cgroup.freeze'), '1\n');
    await machine.ok('ctr tasks resume limited; ctr containers rm -f limited; ! ls -d /sys/fs/cgroup/default/limited*');
  });

  it('limits those of a user without root by what systemd delegates, and leaves no group', async (t) => {
    if (!requiresVirtualMachine(t)) return;
    const machine = await machineWithImage(t);
    if (machine === undefined) return;
    const {uid} = MACHINE_USER;
    const as = (script: string): string => `XDG_RUNTIME_DIR=$directory as '${script}'`;
    const ok = (script: string, directory = `/run/user/${uid}`): Promise<string> => machine.ok(`directory=${directory}\n${as(script)}`);
    const image = 'base';
    await machine.ok(USER);
    // No manager of this user's units: no group, and a container without limits needs none.
    await machine.ok(`mkdir /tmp/state; chown ${uid} /tmp/state`);
    await ok('ctr images import --progress none --base-name base /exchange/archive', '/tmp/state');
    assert.match(await ok(`ctr run --rm ${image} a cat /proc/self/cgroup`, '/tmp/state'), /^0::\/system.slice\/agent.service$/m);
    const none = await machine.run(`directory=/tmp/state\n${as(`ctr run --rm --memory 64M ${image} a true`)}`);
    assert.match(none.output, new RegExp(`no limit of memory: failed precondition\nhint: .*loginctl enable-linger ${uid};`));

    await machine.ok(`loginctl enable-linger ${uid}; until test -S /run/user/${uid}/systemd/private; do sleep 0.5; done`);
    await ok(`ctr run -d ${DELEGATED_LIMITS} ${image} limited sleep 1000`);
    assert.equal(await machine.ok(SHOW_DELEGATED), lines(DELEGATED));
    const group = await machine.ok('cat /proc/$(pgrep -x sleep)/cgroup');
    assert.match(group, /^0::\/user.slice\/.*\.scope\/limited~[\d.]+\n$/);
    assert.equal(await ok('ctr exec limited cat /proc/self/cgroup'), group);
    await ok('ctr exec -d limited sleep 1001');
    assert.equal(await machine.ok('cat /proc/$(pgrep -f "^sleep 1001")/cgroup; pkill -f "^sleep 1001"'), group);
    await ok(`ctr containers update ${CHANGES} limited`);
    assert.equal(await machine.ok(SHOW_DELEGATED), lines(delegated(CHANGED)));
    assert.match(await ok('ctr tasks metrics limited'), /^memory\.usage_limit +134217728$/m);
    assert.match(await ok('ctr tasks stats --no-stream limited'), /^limited +\S+% +.* 128\.0 MiB /m);
    assert.match(await ok('ctr pause limited >&2; ctr tasks ls; ctr resume limited >&2; ctr tasks ls'), /PAUSED[\s\S]*RUNNING/);
    await ok('ctr commit limited made:1; ctr diff limited');
    assert.match(await ok(`script -qec "ctr run --rm -t --memory 64M ${image} a tty" /dev/null`), /\/dev\/pts\/0\r?$/m);
    assert.match(await ok(`ctr run --rm --runtime crun --memory 64M ${image} a cat /proc/self/cgroup`), /\.scope\/a~/);
    await ok('ctr containers rm -f limited');
    assert.equal(await machine.ok('groups-left'), '');

    // A controller that the manager has not.
    const refused = await machine.run(`directory=/run/user/${uid}\n${as(`ctr run --rm --cpuset-cpus 0 ${image} a true`)}`);
    assert.match(refused.output, /has not been given the controller cpuset: failed precondition\nhint: as root: /);
    await machine.ok(/hint: as root: (.*); or leave/.exec(refused.output)![1]!);
    await ok(`ctr run -d ${LIMITS} ${image} limited sleep 1000`);
    assert.equal(await machine.ok(SHOW), lines(FILES));

    // Whatever is killed, nothing is left.
    await machine.ok('kill -9 $(pgrep -x conmon)');
    await ok('ctr containers rm -f limited');
    await machine.run(`directory=/run/user/${uid}\n${as(`timeout -s KILL 6 ctr run --rm --memory 64M ${image} killed sleep 1000`)}`);
    await ok('ctr tasks rm -f killed || :; ctr gc >&2');
    assert.equal(await machine.ok('groups-left'), '');

    // Out of memory, in the foreground and not.
    const eats = 'tail /dev/zero';
    const limit = '--memory 16M --memory-swap 16M';
    assert.match(await ok(`ctr run --rm ${limit} ${image} o1 ${eats} || echo status $?`), /^status 137$/m);
    assert.equal(await ok(`ctr run -d ${limit} ${image} o2 ${eats} >/dev/null; ctr tasks wait o2`), '137\n');
    assert.match(await ok('ctr events --since 10m | grep /tasks/oom'), /"container_id":"o2"/);
    await ok('ctr containers rm -f o2');
    assert.equal(await machine.ok('groups-left'), '');

    // A group of the user's own, of systemd or not, is divided, and its limits hold.
    const scope = 'systemd-run --user --scope --quiet -p Delegate=yes -p MemoryMax=300M';
    await ok(`${scope} ctr run -d --memory 64M ${image} limited sleep 1000`);
    assert.match(
      await machine.ok('cat /proc/$(pgrep -x sleep)/cgroup; cat /sys/fs/cgroup/user.slice/*/*/*/run-*.scope/memory.max'),
      /scope\/limited~.*\n314572800\n$/,
    );
    await ok('ctr containers rm -f limited');
    assert.equal(await machine.ok('groups-left'), '');
    // A unit that was not delegated is systemd's to divide, which would drop the limits.
    await ok(`systemd-run --user --quiet --unit undivided -E PATH="$PATH" ctr run --memory 64M ${image} limited sleep 1000`);
    await machine.ok('until pgrep -x sleep; do sleep 0.5; done');
    await ok('systemctl --user set-property --runtime undivided MemoryMax=300M');
    assert.match(
      await machine.ok('g=$(sed s/0::// /proc/$(pgrep -x sleep)/cgroup); echo $g; cat /sys/fs/cgroup/$g/memory.max'),
      /\.scope\/limited~.*\n67108864\n$/,
    );
    await ok('ctr containers rm -f limited');
    await machine.ok(`loginctl disable-linger ${uid}; while test -d /run/user/${uid}; do sleep 0.5; done
      mkdir -p /sys/fs/cgroup/own; chown -R ${uid} /sys/fs/cgroup/own; echo $$ >/sys/fs/cgroup/own/cgroup.procs
      directory=/tmp/state
      ${as(`ctr run -d --memory 64M ${image} limited sleep 1000`)}`);
    assert.match(await machine.ok('cat /proc/$(pgrep -x sleep)/cgroup'), /^0::\/own\/limited~/);
    await ok('ctr containers rm -f limited', '/tmp/state');
    assert.equal(await machine.ok('ls -d /sys/fs/cgroup/own/*/'), '/sys/fs/cgroup/own/supervisor/\n');
  });

  it("leaves a container with berth's AppArmor profile what docker's containers may", async (t) => {
    if (!requiresVirtualMachine(t)) return;
    const machine = await machineWithImage(t);
    if (machine === undefined) return;
    await machine.ok('mkdir /tmp/shared; ctr images import --progress none --base-name base /exchange/archive');
    const profile = '--apparmor-default-profile confined';
    for (const [flags, command, output] of CONFINED)
      assert.match(
        (await machine.run(`ctr run --rm ${profile} ${flags} base a sh -c '${command}'`)).output,
        output,
        `${flags}: ${command}`,
      );
    assert.match(await machine.ok(`script -qec "ctr run --rm -t ${profile} base a tty" /dev/null`), /\/dev\/pts\/0\r?$/m);
    await machine.ok(`ctr run -d ${profile} base b sh -c 'trap "exit 5" TERM; while :; do sleep 0.2; done'`);
    assert.match(await machine.ok('ctr exec b cat /proc/self/attr/current'), /^confined/);
    await machine.ok('ctr cp b:/etc/passwd /tmp/; ctr pause b; ctr resume b; ctr commit b made:1; ctr stop b');
    assert.match(await machine.ok('ctr tasks ls'), /STOPPED 5 /);
  });

  it("confines a container by berth's AppArmor profile, and leaves it what containers do", async (t) => {
    if (!requiresVirtualMachine(t)) return;
    const profile = join(temporaryDirectory(t), 'profile');
    writeFileSync(profile, profileText('own'));
    const machine = await bootVirtualMachine(t, {files: {profile}});
    assert.match(await machine.ok(START), /^own \(enforce\)$/m);
    for (const [command, allowed] of COMMANDS) {
      const {status, output} = await machine.run(`runc exec a sh -c '${command}'`);
      assert.equal(status === 0, allowed, `${command}: ${output}`);
    }
    // From outside, it is ended as any other.
    await machine.ok('runc kill a KILL; until runc delete a; do sleep 0.5; done');
  });
});
