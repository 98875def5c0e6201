/** Mounts by way of loop devices: whatever ends, and however, its devices go with it. */
import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {existsSync, mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {indexTar} from '../../../src/lib/client/workers/layer-index.ts';
import {cleanup} from '../../../src/lib/runtime/bundle.ts';
import {assertLoops} from '../../../src/lib/runtime/loops.ts';
import type {Mount} from '../../../src/lib/runtime/mounts.ts';
import {findRuntime} from '../../../src/lib/runtime/runc.ts';
import {openView} from '../../../src/lib/runtime/view.ts';
import {EROFS_IMAGE, EROFS_TAR} from '../../../src/lib/store/erofs.ts';
import {is} from '../../support/helpers.ts';
import {assertNoLoops, loopsBelow, requiresLoopDevices} from '../../support/loop-devices.ts';
import {ENGINES, eventually, initPid, NODE, newRig, processesIn, type Rig, requiresRuntime, watch} from './rig.ts';

/** A layer with one file, `name`; with `tree` also what is in that directory. */
async function makeImage(rig: Rig, name: string, tree?: string): Promise<Mount> {
  const directory = join(rig.dir, `image-${name}`);
  mkdirSync(directory);
  writeFileSync(join(directory, 'name'), name);
  const parts = ['-C', directory, 'name', ...(tree === undefined ? [] : ['-C', tree, '.'])];
  execFileSync('tar', ['-cf', join(directory, EROFS_TAR), ...parts]);
  assert.ok(await indexTar(directory, 'loop'));
  return {type: 'erofs', source: join(directory, EROFS_IMAGE), options: ['ro', 'loop']};
}

/** A writable tree of two images; what is in the lower one can be run. */
async function overlaid(rig: Rig, id: string, images?: readonly [upper: Mount, lower: Mount]): Promise<Mount[]> {
  const [upper, lower] = images ?? [await makeImage(rig, `upper-${id}`), await makeImage(rig, `lower-${id}`, rig.lower)];
  const [own, work] = [join(rig.dir, `own-${id}`), join(rig.dir, `work-${id}`)];
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
      const rig = newRig(t);
      const mounts = await overlaid(rig, 'c');
      const driven = rig.drive(engine, rig.waiting('cat /name; touch /mine'), {mounts});
      await initPid(rig);
      assert.equal(loopsBelow(rig.dir).length, 2);
      rig.open();
      assert.equal((await driven.ended).status, 0);
      assert.equal(driven.output(), 'upper-c');
      assert.ok(existsSync(join(rig.dir, 'own-c/mine')));
      await assertNoLoops(rig.dir);
      await rig.assertNothingLeft();
    });

  it('outlive a tool that is killed as long as its container, and go with that', async (t) => {
    if (!(await requiresAll(t))) return;
    const rig = newRig(t);
    const driven = rig.drive(NODE, {args: ['sleep', '1000']}, {mounts: await overlaid(rig, 'c')});
    const pid = await initPid(rig);
    driven.child.kill('SIGKILL');
    await eventually('the end of the tool', () => driven.child.signalCode !== null);
    assert.equal(loopsBelow(rig.dir).length, 2);
    process.kill(pid, 'SIGKILL');
    await assertNoLoops(rig.dir);
    await eventually('the end of the container', () => !existsSync(`/proc/${pid}`));
    await cleanup(rig.stateDir, 'c', findRuntime(), {kill: true});
    await rig.assertNothingLeft();
  });

  it('go with a container that is killed, and with one that is cleared away', async (t) => {
    if (!(await requiresAll(t))) return;
    const rig = newRig(t);
    const driven = rig.drive(NODE, {args: ['sleep', '1000']}, {mounts: await overlaid(rig, 'c')});
    process.kill(await initPid(rig), 'SIGKILL');
    assert.equal((await driven.ended).status, 137);
    await assertNoLoops(rig.dir);
    const [upper, lower] = [`image-upper-c`, `image-lower-c`].map(
      (name): Mount => ({type: 'erofs', source: join(rig.dir, name, EROFS_IMAGE), options: ['ro', 'loop']}),
    );
    const again = rig.drive(NODE, {args: ['sleep', '1000']}, {mounts: await overlaid(rig, 'again', [upper!, lower!])});
    await initPid(rig);
    again.child.kill('SIGKILL');
    await eventually('the end of the tool', () => again.child.signalCode !== null);
    await cleanup(rig.stateDir, 'c', findRuntime(), {kill: true});
    await assertNoLoops(rig.dir);
    await rig.assertNothingLeft();
  });

  it('go when all processes of a run are killed at once, at any moment', async (t) => {
    if (!(await requiresAll(t))) return;
    const rig = newRig(t);
    const mounts = await overlaid(rig, 'c');
    let held = 0;
    for (let n = 0; n < 15; n++) {
      const {child} = rig.drive(ENGINES.at(-1)!, {args: ['sleep', '1000']}, {mounts});
      await eventually('bundle', () => existsSync(join(rig.stateDir, 'bundles/c/bundle/fstab')));
      await delay(n * 4);
      held += loopsBelow(rig.dir).length;
      for (const pid of [`${child.pid}`, ...processesIn(rig.dir)]) killIfThere(Number(pid));
      await eventually('the end of the tool', () => child.signalCode !== null);
      await cleanup(rig.stateDir, 'c', findRuntime(), {kill: true});
      await assertNoLoops(rig.dir);
    }
    assert.ok(held > 0);
    await rig.assertNothingLeft();
  });

  it('serve thirty runs at once, some of the same images, each seeing its own', async (t) => {
    if (!(await requiresAll(t))) return;
    const rig = newRig(t);
    const lower = await makeImage(rig, 'lower', rig.lower);
    const uppers = await Promise.all(['a', 'b', 'c', 'd'].map((name) => makeImage(rig, name)));
    const outputs = await Promise.all(
      Array.from({length: 30}, async (_, i) => {
        const mounts = await overlaid(rig, `${i}`, [uppers[i % 4]!, lower]);
        const {exitStatus, stdout, stderr} = await rig.run({args: ['cat', '/name']}, {id: `c${i}`, mounts});
        return `${exitStatus} ${stdout}${stderr}`;
      }),
    );
    assert.deepEqual(
      outputs,
      outputs.map((_, i) => `0 ${'abcd'[i % 4]}`),
    );
    await assertNoLoops(rig.dir);
    await rig.assertNothingLeft();
  });

  it('that there are not enough of are resources exhausted', async (t) => {
    if (!(await requiresAll(t))) return;
    const rig = newRig(t);
    const argv = rig.argv(NODE, {args: ['true']}, {mounts: await overlaid(rig, 'c')});
    const few = 'mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && exec "$@"';
    const {ended, output} = watch(
      spawn('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', few, 'sh', ...argv], {stdio: ['ignore', 'pipe', 'pipe']}),
    );
    assert.equal((await ended).status, 125, output());
    assert.match(output(), /container "c": loop devices, of which 2 are needed: resource exhausted/);
    await assertNoLoops(rig.dir);
    await rig.assertNothingLeft();
  });

  it('that show another image than was meant are found out', async (t) => {
    if (!(await requiresAll(t))) return;
    const rig = newRig(t);
    const [one, other] = [await makeImage(rig, 'one'), await makeImage(rig, 'other')];
    const place = join(rig.dir, 'a view');
    const {paths, close} = await openView(place, [one]);
    try {
      const pid = Number(/\d+/.exec(paths[0]!)![0]);
      const target = join(place, 'rootfs');
      assertLoops(pid, [{image: one.source, target}]);
      assert.throws(() => assertLoops(pid, [{image: other.source, target}]), is('aborted'));
      assert.throws(() => assertLoops(pid, [{image: one.source, target: place}]), is('aborted'));
    } finally {
      await close();
    }
    await assertNoLoops(rig.dir);
  });

  it('are not what a broken image is told of', async (t) => {
    if (!(await requiresAll(t))) return;
    const rig = newRig(t);
    const image = await makeImage(rig, 'broken');
    writeFileSync(image.source, Buffer.alloc(8192));
    await assert.rejects(openView(join(rig.dir, 'view'), [image]), is('failed_precondition'));
    await assertNoLoops(rig.dir);
  });
});
