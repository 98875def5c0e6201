/**
 * A run among neighbours that plant things in its way: whatever has the name that a run writes, or trusts, it ends soon, and
 * the files of whoever runs it stay as they are.
 */
import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import {dirname, join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {type Code, codeOf, type ErrdefsError} from '../../../src/lib/errdefs.ts';
import {formatIdentity, ownIdentity} from '../../../src/lib/fs/process.ts';
import {findRuntime} from '../../../src/lib/runtime/oci-runtime.ts';
import {resolveSpec} from '../../../src/lib/runtime/resolve-spec.ts';
import {bundleIn, cleanup, runPath} from '../../../src/lib/runtime/run-directory.ts';
import {createSpec} from '../../../src/lib/runtime/spec.ts';
import type {MountSpec} from '../../../src/lib/runtime/spec-option-types.ts';
import {randomNumbers} from '../../fuzz/seeded-random.ts';
import {onEnd, requiresRoot, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {eventually, initPid, NODE, newHarness, requiresRuntime} from './run-harness.ts';

const NOBODY = 65_534;
const SEED = Number(process.env.BERTH_TEST_SEED ?? 1);

/** The same choices for the same seed. */
function choices(seed: number): <T>(values: readonly T[]) => T {
  const next = randomNumbers(seed);
  return (values) => values[Math.floor(next() * values.length)]!;
}

/** Files of ours that nobody may change, and a way to see that they are as they were. */
function canary(t: TestContext): {readonly dir: string; readonly file: string; assertUnchanged(what: string): void} {
  const dir = join(temporaryDirectory(t), 'victim');
  mkdirSync(join(dir, 'empty'), {recursive: true});
  writeFileSync(join(dir, 'file'), 'precious', {mode: 0o600});
  // No times of access, nor counts of links: to be linked to changes nothing.
  const look = (): string =>
    execFileSync('find', [dir, '-printf', '%P %y %m %U:%G %s %T@ %l\\n'], {encoding: 'utf8'}) + readFileSync(join(dir, 'file'), 'utf8');
  const before = look();
  return {dir, file: join(dir, 'file'), assertUnchanged: (what) => assert.equal(look(), before, what)};
}

type Planter = (path: string, victim: {readonly dir: string; readonly file: string}) => void;

/** What can be there before we come. */
const PLANTED: Readonly<Record<string, Planter>> = {
  nothing: () => undefined,
  'a file': (path) => writeFileSync(path, 'A=1\n'),
  'an empty file': (path) => writeFileSync(path, ''),
  "another user's file": (path) => {
    writeFileSync(path, 'A=1\n');
    chownSync(path, NOBODY, NOBODY);
  },
  'a file that all may write': (path) => {
    writeFileSync(path, 'A=1\n');
    chmodSync(path, 0o666);
  },
  'a link to a file': (path, {file}) => symlinkSync(file, path),
  'a link to a directory': (path, {dir}) => symlinkSync(dir, path),
  'a link to nothing': (path, {dir}) => symlinkSync(join(dir, 'new'), path),
  'a link to itself': (path) => symlinkSync(path, path),
  'a hard link': (path, {file}) => linkSync(file, path),
  'a FIFO': (path) => execFileSync('mkfifo', [path]),
  'a directory': (path) => mkdirSync(path),
  'a device': (path) => execFileSync('mknod', [path, 'c', '1', '5']),
};

const REFUSED: readonly Code[] = ['failed_precondition', 'invalid_argument', 'not_found', 'permission_denied'];

describe('a pid file', () => {
  for (const [what, plant] of Object.entries(PLANTED))
    it(`where ${what} was is a file of its own, or refused before anything runs`, async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      const victim = canary(t);
      const shared = join(harness.dir, 'shared');
      mkdirSync(shared);
      chmodSync(shared, 0o1777);
      const umask = process.umask();
      onEnd(t, () => void process.umask(umask));
      for (const mask of [0, 0o022, 0o077]) {
        const pidFile = join(shared, `pid-${mask}`);
        plant(pidFile, victim);
        const planted = lstatSync(pidFile, {throwIfNoEntry: false});
        // The name that a temporary file had once.
        symlinkSync(join(victim.dir, 'file'), join(shared, `.pid-${mask}.${process.pid}`));
        process.umask(mask);
        try {
          assert.equal((await harness.run({args: ['sh', '-c', 'echo >> /ran']}, {pidFile})).exitStatus, 0);
          const stat = lstatSync(pidFile);
          assert.ok(stat.isFile());
          assert.deepEqual([stat.mode & 0o777, stat.uid, stat.nlink], [0o644 & ~mask, 0, 1]);
          assert.match(readFileSync(pidFile, 'latin1'), /^\d+$/);
        } catch (err) {
          if (err instanceof assert.AssertionError) throw err;
          assert.ok(REFUSED.includes(codeOf(err)), String(err));
          assert.ok(!existsSync(join(harness.upper, 'ran')), 'it ran');
          assert.equal(lstatSync(pidFile, {throwIfNoEntry: false})?.ino, planted?.ino);
        } finally {
          process.umask(umask);
        }
        victim.assertUnchanged(`umask ${mask.toString(8)}`);
        rmSync(join(harness.upper, 'ran'), {force: true});
      }
      assert.deepEqual(
        readdirSync(shared).filter((name) => name.startsWith('.tmp.')),
        [],
      );
      await harness.assertNothingLeft();
    });
});

describe('an environment file', () => {
  const request = (path: string, signal: AbortSignal) =>
    resolveSpec({cgroupsPath: '/ns/id', image: {Env: ['B=2']}, options: {args: ['true'], envFiles: [path]}, signal});

  for (const [what, plant] of Object.entries(PLANTED))
    it(`that is ${what} is read or refused, and never waited for beyond the time limit`, async (t) => {
      if (!requiresRoot(t)) return;
      const victim = canary(t);
      const path = join(temporaryDirectory(t), 'env');
      plant(path, victim);
      const outcome = await request(path, AbortSignal.timeout(200)).then(
        () => 'read' as const,
        (err: unknown) => codeOf(err),
      );
      assert.ok(outcome === 'read' || REFUSED.includes(outcome) || (what === 'a FIFO' && outcome === 'canceled'), outcome);
      victim.assertUnchanged(outcome);
    });

  it('that is a FIFO is read as it is written', async (t) => {
    if (!requiresRuntime(t)) return;
    const path = join(temporaryDirectory(t), 'env');
    execFileSync('mkfifo', [path]);
    // It comes late, and in pieces.
    const script = `sleep 0.1; exec > '${path}'; echo A=1; sleep 0.1; echo '# no'; echo C; echo B=3`;
    const writer = spawn('sh', ['-c', script], {stdio: 'ignore'});
    onEnd(t, () => void writer.kill('SIGKILL'));
    const harness = newHarness(t);
    const options = {args: ['sh', '-c', 'echo $A-$B-$C'], envFiles: [path]};
    const {stdout} = await harness.run(options, {image: {Env: ['PATH=/bin', 'B=2', 'C=2']}});
    assert.equal(stdout, '1-3-\n');
  });

  it('that has no end is refused', async () => {
    await assert.rejects(request('/dev/zero', AbortSignal.timeout(20_000)), (err) => codeOf(err) === 'invalid_argument');
  });
});

describe('a mount', () => {
  const bind = (source: string, options: readonly string[] = ['rbind', 'rw']): MountSpec => ({
    type: 'bind',
    source,
    destination: '/mnt',
    options,
  });

  it('with a relative source is of the directory of the caller, not of the bundle', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    mkdirSync(join(harness.lower, 'mnt'));
    const cwd = process.cwd();
    onEnd(t, () => process.chdir(cwd));
    for (const source of ['.', './', '..', 'sub', 'sub/..', './sub/../../here']) {
      const above = temporaryDirectory(t);
      const here = join(above, 'here');
      mkdirSync(join(here, 'sub'), {recursive: true});
      process.chdir(here);
      const run = harness.run({args: ['sh', '-c', 'echo {} > /mnt/config.json'], mounts: [bind(source)]});
      const {exitStatus} = await run.finally(() => process.chdir(cwd));
      assert.equal(exitStatus, 0);
      assert.ok(existsSync(join(here, source, 'config.json')), source);
      await harness.assertNothingLeft();
    }
  });

  for (const mount of [
    bind(''),
    bind('.'),
    bind('rootfs'),
    bind('..', ['bind']),
    {type: 'none', source: 'x', destination: '/mnt', options: ['rbind']},
    {type: 'ext4', source: './disk', destination: '/mnt', options: []},
    {type: 'overlay', source: 'overlay', destination: '/mnt', options: ['lowerdir=/a', 'upperdir=.', 'workdir=/b']},
    {type: 'overlay', source: 'overlay', destination: '/mnt', options: ['lowerdir+=l']},
  ])
    it(`${JSON.stringify(mount)} never reaches the runtime`, () => {
      const options = {args: ['true'], mounts: [mount]};
      const user = {uid: 0, gid: 0, additionalGids: [0]};
      const host = {hostname: '', files: [], capabilities: [], devices: []};
      assert.throws(
        () => createSpec({cgroupsPath: '/ns/id', image: {}, options, envFile: [], user, host}),
        (err: ErrdefsError) => err.code === 'invalid_argument',
      );
    });
});

describe('a bundle that a container got hold of', () => {
  /** A cgroup of somebody else, with a process in it, in each tree. */
  async function foreign(t: TestContext, name: string): Promise<{readonly path: string; isAlive(): boolean}> {
    const child = spawn('sleep', ['1000'], {stdio: 'ignore'});
    const ended = new Promise((done) => child.once('exit', done));
    const trees = ['', ...readdirSync('/sys/fs/cgroup')]
      .map((tree) => join('/sys/fs/cgroup', tree))
      .filter((tree) => existsSync(join(tree, 'cgroup.procs')) && dirname(tree) !== '/sys/fs');
    const places = trees.filter((tree) => !existsSync(join(tree, '..', 'cgroup.procs'))).map((tree) => join(tree, name));
    for (const place of places) {
      mkdirSync(place, {recursive: true});
      // A cpuset that has no processors takes no process.
      if (!place.includes('cpuset')) writeFileSync(join(place, 'cgroup.procs'), String(child.pid));
    }
    onEnd(t, async () => {
      child.kill('SIGKILL');
      await ended;
      for (const place of places) if (existsSync(place)) rmdirSync(place);
    });
    const isAlive = (): boolean => child.exitCode === null && child.signalCode === null && places.every((place) => existsSync(place));
    assert.ok(places.length > 0 && isAlive());
    return {path: `/${name}`, isAlive};
  }

  it('makes no later command end, remove or change what is not its own', async (t) => {
    if (!requiresRuntime(t)) return;
    const choose = choices(SEED);
    const victim = canary(t);
    const neighbour = await foreign(t, `berth-foreign-${process.pid}`);
    const dead = formatIdentity({...ownIdentity(), startTime: '1'});
    const alive = formatIdentity(ownIdentity());
    const spec = JSON.stringify({linux: {cgroupsPath: neighbour.path}, root: {path: victim.dir}, mounts: []});
    const names = [
      'config.json',
      'init.pid',
      'log.json',
      'fstab',
      `runtime.${dead}`,
      `owner.${dead}`,
      `runtime.${alive}`,
      'l',
      'state.json',
    ];
    const plants: readonly Planter[] = [
      (path) => writeFileSync(path, spec),
      (path) => writeFileSync(path, neighbour.path),
      (path) => writeFileSync(path, '1'),
      PLANTED['a link to a file']!,
      PLANTED['a link to a directory']!,
      PLANTED['a link to nothing']!,
      PLANTED['a hard link']!,
      PLANTED['a FIFO']!,
    ];
    for (let round = 0; round < (TORTURE ? 40 : 4); round++) {
      const harness = newHarness(t);
      const driven = harness.drive(NODE, {args: ['sleep', '1000']});
      const pid = await initPid(harness);
      const bundle = bundleIn(runPath(harness.stateDir, 'c'));
      const said: string[] = [];
      for (const name of names) {
        // What once was believed comes often.
        const plant = choose([plants[0]!, choose(plants)]);
        if (choose([true, false, false])) continue;
        rmSync(join(bundle, name), {recursive: true, force: true});
        plant(join(bundle, name), victim);
        said.push(`${name}: ${plants.indexOf(plant)}`);
      }
      const what = `seed ${SEED}, round ${round}: ${said.join(', ')}`;
      // Its end: by the container itself, or after its runner was killed.
      if (round % 2 === 1) {
        process.kill(pid, 'SIGKILL');
        assert.equal((await driven.ended).status, 137, what);
      } else {
        driven.child.kill('SIGKILL');
        await eventually('the end of the tool', () => driven.child.signalCode !== null);
        process.kill(pid, 'SIGKILL');
        await eventually('the end of the container', () => !existsSync(`/proc/${pid}`));
        await delay(50);
        await cleanup(harness.stateDir, 'c', findRuntime(), {kill: true});
      }
      assert.ok(neighbour.isAlive(), what);
      victim.assertUnchanged(what);
      await harness.assertNothingLeft();
    }
  });
});
