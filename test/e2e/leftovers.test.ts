/**
 * kill -9 of the command, the runtime and the container, alone and together, at every step of `run --rm`: the next cleaning command
 * removes its bundle, cgroup, runtime state, mounts and processes.
 */
import assert from 'node:assert/strict';
import {existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmdirSync, rmSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {type CommandLine, commandLine, root, run as runProgram} from '../cli/harness.ts';
import {
  isShort,
  newClient,
  onEnd,
  requiresProgram,
  requiresRoot,
  requiresRootOfMachine,
  type Scope,
  type Skippable,
  TORTURE,
} from '../support/helpers.ts';
import {eventually, names, publishedImages, start} from './fixtures.ts';

const published = publishedImages();
const requiresRuntime = (t: Skippable): boolean => requiresRoot(t) && requiresProgram(t, 'runc', 'unshare', 'mount');
const SEED = Number(process.env.BERTH_TEST_SEED ?? 1);
const CGROUPS = '/sys/fs/cgroup';

/** A namespace of this test only: all tests share the machine's cgroups. */
const NAMESPACE = `left-${process.pid}`;
const namespaceCgroups = (): readonly string[] =>
  ['', ...readdirSync(CGROUPS)].map((tree) => join(CGROUPS, tree, NAMESPACE)).filter((path) => existsSync(path));
const cgroups = (): readonly string[] =>
  namespaceCgroups().flatMap((path) =>
    readdirSync(path, {withFileTypes: true}).flatMap((entry) => (entry.isDirectory() ? [join(path, entry.name)] : [])),
  );

const runsOf = (ctr: CommandLine): string => join(ctr.env.BERTH_STATE!, 'runs', NAMESPACE);
const directoryOf = (ctr: CommandLine): string => join(runsOf(ctr), 'bundles/r');

/** The pid in a file of the run, or in its name. */
function pidOf(ctr: CommandLine, who: 'runtime' | 'container'): number | undefined {
  if (who === 'runtime')
    return Number(/^runtime\.(\d+)\./.exec(names(directoryOf(ctr)).find((name) => name.startsWith('runtime.')) ?? '')?.[1]);
  try {
    return Number(readFileSync(join(directoryOf(ctr), 'init.pid'), 'latin1'));
  } catch {
    // Before it is told, it is among those in the cgroup.
  }
  for (const cgroup of cgroups()) {
    try {
      const pid = Number(readFileSync(join(cgroup, 'cgroup.procs'), 'latin1').split('\n')[0]);
      if (pid > 0) return pid;
    } catch {
      // It has gone.
    }
  }
  return undefined;
}

/** Steps of a run that are visible from outside, in order. */
const STEPS: Readonly<Record<string, (ctr: CommandLine) => boolean>> = {
  'has begun': () => true,
  'has its id': (ctr) => existsSync(directoryOf(ctr)),
  'has its snapshot': (ctr) => names(join(ctr.env.BERTH_ROOT!, 'namespaces', NAMESPACE, 'containers')).length > 0,
  'has its specification': (ctr) => existsSync(join(directoryOf(ctr), 'bundle/config.json')),
  'has told its runtime': (ctr) => names(directoryOf(ctr)).some((name) => name.startsWith('runtime.')),
  'has the runtime’s own state': (ctr) => names(join(runsOf(ctr), 'runtime')).length > 0,
  'has a cgroup': () => cgroups().length > 0,
  'has a process in its cgroup': (ctr) => pidOf(ctr, 'container') !== undefined,
  'has started': (ctr) => existsSync(join(directoryOf(ctr), 'init.pid')),
};

const VICTIMS: readonly (readonly ('command' | 'runtime' | 'container')[])[] = [
  ['command'],
  ['runtime'],
  ['container'],
  ['command', 'runtime'],
  ['runtime', 'command'],
  ['command', 'container'],
  ['runtime', 'container'],
  ['command', 'runtime', 'container'],
];

const CLEANERS: readonly (readonly string[])[] = [['prune'], ['gc'], ['namespaces', 'rm', '--recursive', NAMESPACE]];

/** Cgroups with processes. */
const populated = (): readonly string[] =>
  cgroups().filter((path) => {
    try {
      return readFileSync(join(path, 'cgroup.procs'), 'latin1') !== '';
    } catch {
      return false; // it is gone
    }
  });

/** Processes that were told of a directory, or work in it. */
function processesIn(directory: string, working = true): readonly string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
        const isThere = working && readlinkSync(`/proc/${pid}/cwd`).startsWith(directory);
        return isThere || command.includes(directory) ? [`${pid} ${command}`] : [];
      } catch {
        return []; // it is gone
      }
    });
}

function leftovers(ctr: CommandLine): readonly string[] {
  const state = ctr.env.BERTH_STATE!;
  return [
    ...['bundles', 'runtime'].flatMap((kind) => names(join(runsOf(ctr), kind)).map((name) => `${kind}/${name}`)),
    ...cgroups(),
    ...processesIn(state),
    ...readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes(state) || line.includes(ctr.env.BERTH_ROOT!)),
  ];
}

/** Ends and removes leftovers of a failed test. */
function tidy(scope: Scope): void {
  onEnd(scope, async () => {
    for (const path of [...cgroups(), ...namespaceCgroups()])
      for (let n = 0; existsSync(path) && n < 200; n++) {
        try {
          for (const pid of readFileSync(join(path, 'cgroup.procs'), 'latin1').split('\n'))
            if (pid !== '') process.kill(Number(pid), 'SIGKILL');
          rmdirSync(path);
        } catch {
          await delay(10);
        }
      }
  });
}

/** All rounds there are, or for a short run some of each step, victim and cleaner. */
function rounds(): readonly {readonly step: string; readonly victims: (typeof VICTIMS)[number]; readonly cleaner: readonly string[]}[] {
  const steps = Object.keys(STEPS);
  const all = steps.flatMap((step) => VICTIMS.flatMap((victims) => CLEANERS.map((cleaner) => ({step, victims, cleaner}))));
  if (TORTURE) return all;
  const count = isShort() ? 9 : 18;
  return Array.from({length: count}, (_, n) => ({
    step: steps[n % steps.length]!,
    victims: VICTIMS[(n * 5 + SEED) % VICTIMS.length]!,
    cleaner: CLEANERS[(n + Math.floor(n / steps.length) + SEED) % CLEANERS.length]!,
  }));
}

describe('a killed run --rm', () => {
  it('leaves nothing after the next cleaning command', async (t) => {
    if (!requiresRuntime(t)) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    tidy(t);
    const ctr = commandLine(t, 'executable');
    const run = ['-n', NAMESPACE, 'run', '--rm', image.ref, 'r', 'sleep', '0.2'];
    let killed = 0;
    for (const {step, victims, cleaner} of rounds())
      await t.test(`seed ${SEED}: ${victims.join(' and ')} when it ${step}; ${cleaner[0]}`, async () => {
        await ctr.ok(['-n', NAMESPACE, 'pull', '--progress', 'none', image.ref]);
        const running = start(ctr, run);
        let over = false;
        running.child.once('exit', () => {
          over = true;
        });
        while (!over && !STEPS[step]!(ctr)) await new Promise((done) => setImmediate(done));
        for (const victim of victims) {
          const pid = victim === 'command' ? running.child.pid : pidOf(ctr, victim);
          if (pid === undefined || !(pid > 0)) continue;
          try {
            process.kill(pid, 'SIGKILL');
            killed++;
          } catch {
            // It has ended.
          }
        }
        // A container that outlives its command keeps its standard streams.
        await eventually('the end of the command', () => running.child.exitCode !== null || running.child.signalCode !== null);
        await eventually('the end of the runtime', () => processesIn(ctr.env.BERTH_STATE!, false).length === 0);
        // A container whose runtime was killed before the start waits forever. Without control groups it is known by what the runtime has told.
        const container = pidOf(ctr, 'container');
        const ended = (): boolean => populated().length === 0 && (container === undefined || !existsSync(`/proc/${container}`));
        await eventually('the end of the container', ended, 1500).catch(() => undefined);
        await ctr.ok(cleaner[0] === 'namespaces' ? cleaner : ['-n', NAMESPACE, ...cleaner]);
        assert.deepEqual(leftovers(ctr), []);
        if (cleaner[0] === 'prune') assert.equal(await ctr.ok(['-n', NAMESPACE, 'containers', 'ls', '-q']), '');
        if (cleaner[0] === 'namespaces') assert.ok(!existsSync(runsOf(ctr)));
      });
    t.diagnostic(`${killed} processes were killed`);
    assert.ok(killed > 0);
  });
});

describe('the cgroup of a namespace', () => {
  for (const isForeign of [false, true])
    it(`${isForeign ? 'stays where it was there before its first run' : 'goes with the namespace'}`, async (t) => {
      if (!requiresRuntime(t) || !requiresRootOfMachine(t, 'control groups')) return;
      const image = await published(t, 'busybox');
      if (image === undefined) return;
      const namespace = `cg-${process.pid}-${Number(isForeign)}`;
      const places = (): string[] =>
        ['', ...readdirSync(CGROUPS)].map((tree) => join(CGROUPS, tree, namespace)).filter((path) => existsSync(path));
      onEnd(t, () => {
        for (const path of places()) rmdirSync(path);
      });
      const own = ['', 'pids', 'unified'].map((tree) => join(CGROUPS, tree)).find((tree) => existsSync(join(tree, 'cgroup.procs')))!;
      if (isForeign) mkdirSync(join(own, namespace));
      const client = await newClient(t);
      const ns = client.namespace(namespace);
      await ns.pull(image.ref, {snapshotter: 'overlayfs'});
      for (const id of ['one', 'two'])
        assert.equal((await ns.run(image.ref, id, {args: ['true'], rm: true, snapshotter: 'overlayfs'})).exitStatus, 0);
      assert.ok(places().length > 0, 'a run has made it');
      await client.namespaces.delete(namespace, {recursive: true});
      assert.deepEqual(places().includes(join(own, namespace)), isForeign);
      if (!isForeign) assert.deepEqual(places(), []);
    });
});

it('cgroups that a flag names go with the namespace as far as its runs have made them', async (t) => {
  if (!requiresRuntime(t) || !requiresRootOfMachine(t, 'control groups')) return;
  const image = await published(t, 'busybox');
  if (image === undefined) return;
  const namespace = `cg-${process.pid}`;
  const at = (path: string): string[] =>
    ['', ...readdirSync(CGROUPS)].map((tree) => join(CGROUPS, tree, path)).filter((directory) => existsSync(directory));
  const foreign = `${namespace}-there`;
  const own = ['', 'pids', 'unified'].map((tree) => join(CGROUPS, tree)).find((tree) => existsSync(join(tree, 'cgroup.procs')))!;
  onEnd(t, () => {
    for (const path of [`${foreign}/made/leaf`, `${foreign}/made`, foreign, namespace]) for (const found of at(path)) rmdirSync(found);
  });
  // Nothing is in them, and yet they are somebody else's.
  for (const name of [namespace, foreign]) mkdirSync(join(own, name));
  const client = await newClient(t);
  const ns = client.namespace(namespace);
  await ns.pull(image.ref, {snapshotter: 'overlayfs'});
  const cgroup = `/${foreign}/made/leaf`;
  for (const id of ['one', 'two'])
    assert.equal((await ns.run(image.ref, id, {args: ['true'], rm: true, cgroup, snapshotter: 'overlayfs'})).exitStatus, 0);
  assert.ok(at(`${foreign}/made`).length > 0, 'a run has made it');
  await client.namespaces.delete(namespace, {recursive: true});
  assert.deepEqual(at(`${foreign}/made`), []);
  assert.deepEqual(at(namespace), [join(own, namespace)]);
  assert.ok(at(foreign).includes(join(own, foreign)));
});

describe('a container whose state directory was removed', () => {
  for (const flags of [[], ['--rm']])
    it(`keeps its snapshot as long as it runs ${flags.join('')}`, async (t) => {
      if (!requiresRuntime(t) || !requiresRootOfMachine(t, 'control groups')) return;
      const image = await published(t, 'busybox');
      if (image === undefined) return;
      tidy(t);
      const ctr = commandLine(t, 'executable');
      const of = (...args: string[]): string[] => ['-n', NAMESPACE, ...args];
      await ctr.ok(of('pull', '--progress', 'none', image.ref));
      const running = start(ctr, of('run', ...flags, image.ref, 'r', 'sleep', '1000'));
      const pid = await eventually('container', () => existsSync(join(directoryOf(ctr), 'init.pid')) && pidOf(ctr, 'container'));
      for (const name of readdirSync(ctr.env.BERTH_STATE!))
        rmSync(join(ctr.env.BERTH_STATE!, name), {recursive: true, force: true, maxRetries: 3}); // The command still writes its events.
      if (flags.length > 0) running.child.kill('SIGKILL');

      const layers = names(join(ctr.env.BERTH_ROOT!, 'layers'));
      assert.equal((await ctr(of('containers', 'rm', 'r'))).status, 9);
      assert.equal((await ctr(['namespaces', 'rm', '--recursive', NAMESPACE])).status, 9);
      await ctr.ok(of('prune'));
      await ctr.ok(of('check', '--repair', '--progress', 'none'));
      assert.equal(JSON.parse((await ctr(of('--json', 'run', ...flags, image.ref, 'r', 'true'))).stderr).error.kind, 'already_exists');
      assert.deepEqual(names(join(ctr.env.BERTH_ROOT!, 'layers')), layers);
      assert.equal(await ctr.ok(of('containers', 'ls', '-q')), 'r\n');
      assert.ok(existsSync(`/proc/${pid}`));

      process.kill(pid, 'SIGKILL');
      assert.equal((await running.ended).status, 137);
      await eventually('the end of the container', () => !existsSync(`/proc/${pid}`));
      if (flags.length === 0) await ctr.ok(of('containers', 'rm', 'r'));
      else await ctr.ok(of('prune', 'snapshots'));
      assert.equal(await ctr.ok(of('containers', 'ls', '-q')), '');
    });

  it('is recognised when only cgroups version 2 is mounted', async (t) => {
    if (!requiresRuntime(t) || !requiresRootOfMachine(t, 'control groups')) return;
    const unified = join(CGROUPS, 'unified');
    if (!existsSync(join(unified, 'cgroup.procs'))) return t.skip('this machine has one version of cgroups, which all other tests meet');
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    tidy(t);
    const ctr = commandLine(t, 'executable');
    const script = `
      mount --bind ${unified} ${CGROUPS} && $ctr pull --progress none $ref >&2 || exit
      $ctr run $ref r sleep 2 &
      until test -e $BERTH_STATE/runs/$CONTAINERD_NAMESPACE/bundles/r/init.pid; do sleep 0.02; done
      $ctr containers rm r; echo $?
      rm -rf $BERTH_STATE/*
      $ctr containers rm r; echo $?
      wait
      $ctr containers rm r; echo $?`;
    const env = {...ctr.env, CONTAINERD_NAMESPACE: NAMESPACE, ctr: join(root, 'bin/ctr'), ref: image.ref};
    const {stdout, stderr} = await runProgram('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script], {env});
    assert.equal(stdout, '9\n9\nr\n0\n', stderr);
  });
});
