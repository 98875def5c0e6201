/** What is left when a process of a run is killed, and how it goes away. */
import assert from 'node:assert/strict';
import {existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {formatIdentity, liveness, ownIdentity, parseIdentity} from '../../../src/lib/fs/process.ts';
import {startLauncher} from '../../../src/lib/runtime/launcher.ts';
import {planMounts} from '../../../src/lib/runtime/mount-plan.ts';
import {findRuntime} from '../../../src/lib/runtime/oci-runtime.ts';
import {claimBundle, cleanup, listRuns, removeBundle, runPath, runtimeRoot} from '../../../src/lib/runtime/run-directory.ts';
import {is, slow, temporaryDirectory} from '../../support/helpers.ts';
import {ENGINES, eventually, initPid, NODE, newHarness, type RunHarness, requiresRuntime} from './run-harness.ts';

/** The pid of the runtime, which the chain has become. */
const runtimePid = (harness: RunHarness): number =>
  readdirSync(join(harness.stateDir, 'bundles/c'))
    .filter((name) => name.startsWith('runtime.'))
    .map((name) => parseIdentity(name.slice('runtime.'.length))!.pid)[0]!;

const states = async (harness: RunHarness): Promise<readonly (readonly [string, string])[]> =>
  (await listRuns(harness.stateDir, findRuntime())).map(({id, state}) => [id, state]);

const isAlive = (pid: number): boolean =>
  existsSync(`/proc/${pid}`) && !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));

for (const engine of ENGINES)
  describe(`on ${engine.name}, when the tool is killed`, () => {
    it('the container runs on, is told, and leaves files only', async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      const driven = harness.drive(engine, harness.waiting('echo done'));
      const pid = await initPid(harness);
      assert.deepEqual(await states(harness), [['c', 'running']]);
      driven.child.kill('SIGKILL');
      await eventually('the end of the tool', () => driven.child.signalCode === 'SIGKILL');

      assert.ok(isAlive(pid));
      assert.deepEqual(await states(harness), [['c', 'orphaned']]);
      await assert.rejects(harness.run({args: ['true']}), is('already_exists'));
      await assert.rejects(cleanup(harness.stateDir, 'c', findRuntime()), is('failed_precondition'));

      harness.open();
      await driven.expect(/done/);
      await eventually('the end of the container', () => !isAlive(pid));
      await eventually('the end of the runtime', () => !existsSync(join(runtimeRoot(harness.stateDir), 'c')));
      await delay(50);
      assert.deepEqual(await states(harness), [['c', 'stale']]);
      assert.ok(!readFileSync('/proc/self/mountinfo', 'utf8').includes(harness.dir));

      await cleanup(harness.stateDir, 'c', findRuntime());
      await cleanup(harness.stateDir, 'c', findRuntime());
      await harness.assertNothingLeft();
    });
  });

describe('when the tool is killed', () => {
  it('the container can be killed as well', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const driven = harness.drive(NODE, {args: ['sleep', '1000']});
    const pid = await initPid(harness);
    driven.child.kill('SIGKILL');
    await eventually('the end of the tool', () => driven.child.signalCode !== null);
    await cleanup(harness.stateDir, 'c', findRuntime(), {kill: true});
    assert.ok(!isAlive(pid));
    await harness.assertNothingLeft();
  });

  it('a runtime that has not made the container yet counts, and the next run of that ID ends it', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const runtime = join(harness.dir, 'slow');
    writeFileSync(runtime, '#!/bin/sh\necho waits; sleep 1000\n', {mode: 0o755});
    const driven = harness.drive(NODE, {args: ['true']}, {runtime});
    await driven.expect(/waits/);
    driven.child.kill('SIGKILL');
    await eventually('the end of the tool', () => driven.child.signalCode !== null);
    assert.deepEqual(await states(harness), [['c', 'orphaned']]);
    assert.equal((await harness.run({args: ['true']})).exitStatus, 0);
    await harness.assertNothingLeft();
  });

  it('before the container runs, nothing runs', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const driven = harness.drive(NODE, {args: ['sleep', '1000']});
    await eventually('bundle', () => existsSync(join(harness.stateDir, 'bundles/c/bundle/fstab')));
    driven.child.kill('SIGKILL');
    await eventually('the end of the tool', () => driven.child.signalCode !== null);
    const run = (await listRuns(harness.stateDir, findRuntime()))[0]!;
    // The release may have been given already; then it is a container like any other.
    await cleanup(harness.stateDir, 'c', findRuntime(), {kill: run.state === 'orphaned'});
    await harness.assertNothingLeft();
  });

  it('the next run of that ID clears away what it left', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const driven = harness.drive(NODE, {args: ['sleep', '1000']});
    const pid = await initPid(harness);
    process.kill(runtimePid(harness), 'SIGKILL');
    driven.child.kill('SIGKILL');
    await driven.ended;
    // Its runtime is dead too, so only the runtime's own record tells that it runs on.
    assert.ok(isAlive(pid));
    assert.deepEqual(await states(harness), [['c', 'orphaned']]);
    await assert.rejects(harness.run({args: ['true']}), is('already_exists'));
    process.kill(pid, 'SIGKILL');
    await eventually('the end of the container', () => !isAlive(pid));
    assert.deepEqual(await states(harness), [['c', 'stale']]);
    assert.equal((await harness.run({args: ['true']})).exitStatus, 0);
    await harness.assertNothingLeft();
  });

  it('at any moment, the next run of that ID works', async (t) => {
    if (!requiresRuntime(t) || !slow(t)) return;
    const harness = newHarness(t);
    for (let n = 0; n < 12; n++) {
      const driven = harness.drive(ENGINES.at(-1)!, {args: ['true']});
      await eventually('bundle', () => driven.child.exitCode !== null || existsSync(join(harness.stateDir, 'bundles/c')));
      await delay(n * 4);
      driven.child.kill('SIGKILL');
      await driven.ended;
      await eventually('the end of the container', () => !isRunning(harness));
      assert.equal((await harness.run({args: ['true']})).exitStatus, 0);
      await harness.assertNothingLeft();
    }
  });
  const isRunning = (harness: RunHarness): boolean => existsSync(join(harness.stateDir, 'bundles/c')) && isAlive(runtimePid(harness) ?? 0);
});

describe('when the runtime is killed', () => {
  it('the run fails, and the container is ended with it', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const run = harness.run({args: ['sleep', '1000']});
    const pid = await initPid(harness);
    process.kill(runtimePid(harness), 'SIGKILL');
    await assert.rejects(run, is('aborted'));
    assert.ok(!isAlive(pid));
    await harness.assertNothingLeft();
  });

  it('at any moment of its start, nothing is left', async (t) => {
    if (!requiresRuntime(t) || !slow(t)) return;
    const harness = newHarness(t);
    let kills = 0;
    for (let n = 0; n < 20; n++) {
      const run = harness.run({args: ['true']}).then(
        () => 'ended',
        (err: unknown) => is('aborted')(err) && 'killed',
      );
      await eventually('runtime', () => existsSync(join(harness.stateDir, 'bundles/c/bundle/config.json')) && runtimePid(harness));
      const pid = runtimePid(harness);
      await delay(n * 2);
      if (isAlive(pid)) process.kill(pid, 'SIGKILL');
      if ((await run) === 'killed') kills++;
      await harness.assertNothingLeft();
    }
    assert.ok(kills > 0);
  });
});

describe('a claim', () => {
  /** The directory of a run of a process that is dead. */
  const abandon = (run: string): void => {
    mkdirSync(join(run, 'bundle/rootfs'), {recursive: true});
    mkdirSync(join(run, 'bundle/m/0'), {recursive: true});
    writeFileSync(join(run, `owner.${formatIdentity({...ownIdentity(), startTime: '1'})}`), '');
    writeFileSync(join(run, 'bundle/config.json'), '{}');
  };

  it('of an abandoned ID is granted to one of many processes', async (t) => {
    if (!requiresRuntime(t)) return;
    const dir = temporaryDirectory(t);
    for (let round = 0; round < 20; round++) {
      abandon(runPath(dir, 'c'));
      const claims = await Promise.allSettled(Array.from({length: 8}, () => claimBundle(dir, 'c', findRuntime())));
      const given = claims.filter((claim) => claim.status === 'fulfilled');
      assert.equal(given.length, 1);
      for (const claim of claims) if (claim.status === 'rejected') is('already_exists')(claim.reason);
      removeBundle(given[0]!.value);
      assert.deepEqual(readdirSync(join(dir, 'bundles')), []);
    }
  });

  it('removes incomplete bundles of dead processes, and no others', async (t) => {
    if (!requiresRuntime(t)) return;
    const dir = temporaryDirectory(t);
    const dead = {...ownIdentity(), startTime: '1'};
    assert.equal(liveness(dead), 'dead');
    abandon(join(dir, 'bundles', `.${formatIdentity(dead)}.1`));
    mkdirSync(join(dir, 'bundles', `.${formatIdentity(ownIdentity())}.99`));
    removeBundle(await claimBundle(dir, 'c', findRuntime()));
    assert.deepEqual(readdirSync(join(dir, 'bundles')), [`.${formatIdentity(ownIdentity())}.99`]);
    assert.deepEqual(await listRuns(dir, findRuntime()), []);
  });

  it('never deletes files of a file system that is mounted on a root', (t) => {
    const dir = temporaryDirectory(t);
    abandon(join(dir, 'c'));
    writeFileSync(join(dir, 'c/bundle/rootfs/image'), 'canary');
    assert.throws(() => removeBundle(join(dir, 'c')), {code: 'ENOTEMPTY'});
    assert.equal(readFileSync(join(dir, 'c/bundle/rootfs/image'), 'utf8'), 'canary');
  });
});

it('a process that mounts and is killed is not taken for one without the right to mount', async (t) => {
  if (!requiresRuntime(t)) return;
  const bundle = temporaryDirectory(t);
  mkdirSync(join(bundle, 'rootfs'));
  const launcher = await startLauncher(bundle, ['/bin/true'], ['ignore', 'ignore', 'ignore']);
  process.kill(launcher.pid, 'SIGKILL');
  await assert.rejects(launcher.mount(planMounts([{type: 'tmpfs', source: 'tmpfs', options: []}])), is('aborted'));
});
