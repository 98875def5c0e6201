/** Mounts by way of loop devices: whatever ends, and however, its devices go with it. */
import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {existsSync, mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {indexTar} from '../../../src/lib/client/workers/layer-index.ts';
import type {Mount} from '../../../src/lib/runtime/mount-plan.ts';
import {findRuntime} from '../../../src/lib/runtime/oci-runtime.ts';
import {cleanup} from '../../../src/lib/runtime/run-directory.ts';
import {verifyLoopDevices} from '../../../src/lib/runtime/verify-loop-devices.ts';
import {EROFS_IMAGE, EROFS_TAR} from '../../../src/lib/store/indexed-layer.ts';
import {is} from '../../support/helpers.ts';
import {assertNoLoops, loopsBelow, requiresLoopDevices} from '../../support/loop-devices.ts';
import {openPrivateMount} from '../../support/private-mount.ts';
import {ENGINES, eventually, initPid, NODE, newHarness, processesIn, type RunHarness, requiresRuntime, watch} from './run-harness.ts';

/** A layer with one file, `name`; with `tree` also what is in that directory. */
async function makeImage(harness: RunHarness, name: string, tree?: string): Promise<Mount> {
  const directory = join(harness.dir, `image-${name}`);
  mkdirSync(directory);
  writeFileSync(join(directory, 'name'), name);
  const parts = ['-C', directory, 'name', ...(tree === undefined ? [] : ['-C', tree, '.'])];
  execFileSync('tar', ['-cf', join(directory, EROFS_TAR), ...parts]);
  assert.ok(await indexTar(directory, 'loop'));
  return {type: 'erofs', source: join(directory, EROFS_IMAGE), options: ['ro', 'loop']};
}

/** A writable tree of two images; what is in the lower one can be run. */
async function overlaid(harness: RunHarness, id: string, images?: readonly [upper: Mount, lower: Mount]): Promise<Mount[]> {
  const [upper, lower] = images ?? [await makeImage(harness, `upper-${id}`), await makeImage(harness, `lower-${id}`, harness.lower)];
  const [own, work] = [join(harness.dir, `own-${id}`), join(harness.dir, `work-${id}`)];
  for (const path of [own, work]) mkdirSync(path);
  return [
    upper,
    lower,
    {type: 'overlay', source: 'overlay', options: [`workdir=${work}`, `upperdir=${own}`, 'lowerdir={{ mount 0 }}:{{ mount 1 }}']},
  ];
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'ESRCH') throw err;
  }
}

const requiresAll = async (t: TestContext): Promise<boolean> => requiresRuntime(t) && (await requiresLoopDevices(t));

describe('loop devices', () => {
  for (const engine of ENGINES)
    it(`go with a run that ends, on ${engine.name}`, async (t) => {
      if (!(await requiresAll(t))) return;
      const harness = newHarness(t);
      const mounts = await overlaid(harness, 'c');
      const driven = harness.drive(engine, harness.waiting('cat /name; touch /mine'), {mounts});
      await initPid(harness);
      assert.equal(loopsBelow(harness.dir).length, 2);
      harness.open();
      assert.equal((await driven.ended).status, 0);
      assert.equal(driven.output(), 'upper-c');
      assert.ok(existsSync(join(harness.dir, 'own-c/mine')));
      await assertNoLoops(harness.dir);
      await harness.assertNothingLeft();
    });

  it('outlive a tool that is killed as long as its container, and go with that', async (t) => {
    if (!(await requiresAll(t))) return;
    const harness = newHarness(t);
    const driven = harness.drive(NODE, {args: ['sleep', '1000']}, {mounts: await overlaid(harness, 'c')});
    const pid = await initPid(harness);
    driven.child.kill('SIGKILL');
    await eventually('the end of the tool', () => driven.child.signalCode !== null);
    assert.equal(loopsBelow(harness.dir).length, 2);
    process.kill(pid, 'SIGKILL');
    await assertNoLoops(harness.dir);
    await eventually('the end of the container', () => !existsSync(`/proc/${pid}`));
    await cleanup(harness.stateDir, 'c', findRuntime(), {kill: true});
    await harness.assertNothingLeft();
  });

  it('go with a container that is killed, and with one that is cleared away', async (t) => {
    if (!(await requiresAll(t))) return;
    const harness = newHarness(t);
    const driven = harness.drive(NODE, {args: ['sleep', '1000']}, {mounts: await overlaid(harness, 'c')});
    process.kill(await initPid(harness), 'SIGKILL');
    assert.equal((await driven.ended).status, 137);
    await assertNoLoops(harness.dir);
    const [upper, lower] = [`image-upper-c`, `image-lower-c`].map(
      (name): Mount => ({type: 'erofs', source: join(harness.dir, name, EROFS_IMAGE), options: ['ro', 'loop']}),
    );
    const again = harness.drive(NODE, {args: ['sleep', '1000']}, {mounts: await overlaid(harness, 'again', [upper!, lower!])});
    await initPid(harness);
    again.child.kill('SIGKILL');
    await eventually('the end of the tool', () => again.child.signalCode !== null);
    await cleanup(harness.stateDir, 'c', findRuntime(), {kill: true});
    await assertNoLoops(harness.dir);
    await harness.assertNothingLeft();
  });

  it('go when all processes of a run are killed at once, at any moment', async (t) => {
    if (!(await requiresAll(t))) return;
    const harness = newHarness(t);
    const mounts = await overlaid(harness, 'c');
    let held = 0;
    for (let n = 0; n < 15; n++) {
      const {child} = harness.drive(ENGINES.at(-1)!, {args: ['sleep', '1000']}, {mounts});
      await eventually('bundle', () => existsSync(join(harness.stateDir, 'bundles/c/bundle/fstab')));
      await delay(n * 4);
      held += loopsBelow(harness.dir).length;
      for (const pid of [`${child.pid}`, ...processesIn(harness.dir)]) killIfThere(Number(pid));
      await eventually('the end of the tool', () => child.signalCode !== null);
      await cleanup(harness.stateDir, 'c', findRuntime(), {kill: true});
      await assertNoLoops(harness.dir);
    }
    assert.ok(held > 0);
    await harness.assertNothingLeft();
  });

  it('serve thirty runs at once, some of the same images, each seeing its own', async (t) => {
    if (!(await requiresAll(t))) return;
    const harness = newHarness(t);
    const lower = await makeImage(harness, 'lower', harness.lower);
    const uppers = await Promise.all(['a', 'b', 'c', 'd'].map((name) => makeImage(harness, name)));
    const outputs = await Promise.all(
      Array.from({length: 30}, async (_, i) => {
        const mounts = await overlaid(harness, `${i}`, [uppers[i % 4]!, lower]);
        const {exitStatus, stdout, stderr} = await harness.run({args: ['cat', '/name']}, {id: `c${i}`, mounts});
        return `${exitStatus} ${stdout}${stderr}`;
      }),
    );
    assert.deepEqual(
      outputs,
      outputs.map((_, i) => `0 ${'abcd'[i % 4]}`),
    );
    await assertNoLoops(harness.dir);
    await harness.assertNothingLeft();
  });

  it('that there are not enough of are resources exhausted', async (t) => {
    if (!(await requiresAll(t))) return;
    const harness = newHarness(t);
    const argv = harness.argv(NODE, {args: ['true']}, {mounts: await overlaid(harness, 'c')});
    const few = 'mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && exec "$@"';
    const {ended, output} = watch(
      spawn('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', few, 'sh', ...argv], {stdio: ['ignore', 'pipe', 'pipe']}),
    );
    assert.equal((await ended).status, 125, output());
    assert.match(output(), /container "c": not enough loop devices: 2 needed: resource exhausted/);
    await assertNoLoops(harness.dir);
    await harness.assertNothingLeft();
  });

  it('that show another image than was meant are found out', async (t) => {
    if (!(await requiresAll(t))) return;
    const harness = newHarness(t);
    const [one, other] = [await makeImage(harness, 'one'), await makeImage(harness, 'other')];
    const place = join(harness.dir, 'a view');
    const {paths, close} = await openPrivateMount(place, [one]);
    try {
      const pid = Number(/\d+/.exec(paths[0]!)![0]);
      const target = join(place, 'rootfs');
      verifyLoopDevices(pid, [{image: one.source, target}]);
      assert.throws(() => verifyLoopDevices(pid, [{image: other.source, target}]), is('aborted'));
      assert.throws(() => verifyLoopDevices(pid, [{image: one.source, target: place}]), is('aborted'));
    } finally {
      await close();
    }
    await assertNoLoops(harness.dir);
  });

  it('are not what a broken image is told of', async (t) => {
    if (!(await requiresAll(t))) return;
    const harness = newHarness(t);
    const image = await makeImage(harness, 'broken');
    writeFileSync(image.source, Buffer.alloc(8192));
    await assert.rejects(openPrivateMount(join(harness.dir, 'view'), [image]), is('failed_precondition'));
    await assertNoLoops(harness.dir);
  });
});
