/**
 * `unpack` into a directory that is killed, that fails, that finds no space, that is not alone. A bundle is whole or not there, whoever was
 * first has it, and another `unpack` into the same directory works.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statfsSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {after, describe, it, type TestContext} from 'node:test';
import '../../fakes/in-thread-workers.ts';
import {type Code, ErrdefsError, exitStatus} from '../../../src/lib/errdefs.ts';
import {fileScope} from '../../e2e/fixtures.ts';
import {child, command, ok, type Place, publish, rootOf} from '../../e2e/interrupt.ts';
import {arm, disarm, killedHere} from '../../fakes/failpoints.ts';
import {startFakeRegistry} from '../../fakes/registry.ts';
import {requiresRoot, type Scope, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {makeSmallDisk, requiresSmallDisk} from '../../support/small-disk.ts';
import {diffTrees, readTree, type TreeEntry} from '../../support/tree.ts';

const FAULTS: Readonly<Record<string, Code>> = {
  EIO: 'data_loss',
  ENOSPC: 'resource_exhausted',
  EACCES: 'permission_denied',
  EMFILE: 'resource_exhausted',
};

interface World {
  readonly place: Place;
  /** To be unpacked into. */
  readonly bundle: string;
  readonly unpack: readonly string[];
  /** What an undisturbed `unpack` makes. */
  readonly goal: readonly TreeEntry[];
}

const scope = fileScope();
after(() => disarm());

async function world(t: Scope): Promise<World> {
  const registry = await startFakeRegistry(scope);
  const place = temporaryDirectory(t);
  const ref = publish(registry, 'app');
  await ok(place, ['pull', '--no-unpack', ref]);
  const bundle = join(place, 'bundle');
  const unpack = ['unpack', ref, '{place}/bundle'];
  await ok(place, unpack);
  const goal = readTree(bundle);
  rmSync(bundle, {recursive: true});
  return {place, bundle, unpack, goal};
}

/** The root's own time and the sizes of directories, which the description of the tree has, too, and the times of what is made here are of no image. */
function assertWhole({bundle, goal}: World, when: string): void {
  const isOurs = (path: string): boolean => !path.startsWith('rootfs/');
  const ignore = (path: string, field: string): boolean =>
    (field === 'mtime' && isOurs(path)) || (['content', 'size'].includes(field) && path.endsWith('.mtree'));
  assert.deepEqual(diffTrees(goal, readTree(bundle), {ignore}), [], when);
  JSON.parse(readFileSync(join(bundle, 'umoci.json'), 'utf8'));
}

/** Another `unpack` into the same directory is done, or finds a whole bundle. */
async function assertAgain(w: World, when: string): Promise<void> {
  const isWhole = existsSync(join(w.bundle, 'umoci.json'));
  const {status, stderr} = await command(w.place, w.unpack);
  if (isWhole) {
    assert.equal(status, exitStatus(new ErrdefsError('failed_precondition', '')), `${when}: ${stderr}`);
    assert.match(stderr, /is not empty/, when);
  } else assert.equal(status, 0, `${when}: ${stderr}`);
  assertWhole(w, when);
  assert.deepEqual(checkStore(rootOf(w.place)), [], when);
}

/** Calls below the bundle of an undisturbed `unpack`. */
async function count(w: World): Promise<number> {
  arm({below: w.bundle, action: 'EIO', at: 0});
  await ok(w.place, w.unpack);
  const {calls} = disarm();
  rmSync(w.bundle, {recursive: true});
  return calls;
}

describe('unpack into a directory', () => {
  it('that is stopped at any change leaves a whole bundle, or what the next one removes', async (t) => {
    if (!requiresRoot(t)) return;
    const w = await world(t);
    const calls = await count(w);
    for (let at = 1; at <= calls; at++) {
      arm({below: w.bundle, action: 'EFROZEN', at, lasting: true, torn: at % 2 === 0});
      await command(w.place, w.unpack);
      assert.ok(disarm().failures > 0);
      killedHere(w.place);
      await assertAgain(w, `stopped at call ${at} of ${calls}`);
      rmSync(w.bundle, {recursive: true});
    }
    t.diagnostic(`${calls} calls`);
  });

  it('leaves the same when it is killed', async (t) => {
    if (!requiresRoot(t)) return;
    const w = await world(t);
    const calls = await count(w);
    let killed = 0;
    for (let at = 1; at <= calls; at += TORTURE ? 1 : 4) {
      const {signal} = await child(t, w.place, w.unpack, {below: w.bundle, action: 'kill', at, torn: true}).ended;
      if (signal !== null) killed++;
      await assertAgain(w, `killed at call ${at}`);
      rmSync(w.bundle, {recursive: true});
    }
    assert.ok(killed > 2);
  });

  it('that fails says why, and leaves the directory as it was', async (t) => {
    if (!requiresRoot(t)) return;
    const w = await world(t);
    const calls = await count(w);
    for (let at = 1; at <= calls; at++) {
      const [errno, code] = Object.entries(FAULTS)[at % 4]!;
      const isNew = at % 3 === 0;
      if (!isNew) mkdirSync(w.bundle);
      arm({below: w.bundle, action: errno, at, torn: at % 2 === 0});
      const {status, stderr} = await command(w.place, ['--json', ...w.unpack]);
      disarm();
      const when = `${errno} at call ${at} of ${calls}: ${stderr}`;
      if (status === 0) assertWhole(w, when);
      else {
        assert.equal(status, exitStatus(new ErrdefsError(code, '')), when);
        assert.equal(existsSync(w.bundle), !isNew, when);
        if (!isNew) assert.deepEqual(readdirSync(w.bundle), [], when);
        await assertAgain(w, when);
      }
      rmSync(w.bundle, {recursive: true});
    }
  });

  it('that others unpack into at once is the bundle of one of them', async (t) => {
    if (!requiresRoot(t)) return;
    const w = await world(t);
    const calls = await count(w);
    for (let round = 0; round < (TORTURE ? 60 : 3); round++) {
      // One of them is killed, or none.
      const at = round % 3 === 0 ? 0 : 1 + ((round * 37) % calls);
      const ended = await Promise.all(
        Array.from(
          {length: TORTURE ? 8 : 3},
          (_, i) => child(t, w.place, w.unpack, {below: w.bundle, action: 'kill', at: i === 0 ? at : 0}).ended,
        ),
      );
      const when = `round ${round}: ${ended.map(({status, signal, stderr}) => `${status} ${signal} ${stderr}`).join('; ')}`;
      const done = ended.filter(({status}) => status === 0).length;
      assert.ok(done <= 1 && (at > 0 || done === 1), when);
      for (const {status, signal} of ended)
        assert.ok(status === 0 || signal === 'SIGKILL' || status === exitStatus(new ErrdefsError('failed_precondition', '')), when);
      await assertAgain(w, when);
      rmSync(w.bundle, {recursive: true});
    }
  });

  it('on a disk without space or inodes says so, gives back what it took, and works when there is some', async (t: TestContext) => {
    if (!(await requiresSmallDisk(t))) return;
    const w = await world(t);
    const at = w.bundle;
    mkdirSync(at);
    const shape = {size: 4 << 20, blockSize: 1024, inodes: 200, features: '^has_journal,^resize_inode'};
    const unmount = (await makeSmallDisk(temporaryDirectory(t), shape))(at);
    try {
      const unpack = [...w.unpack.slice(0, -1), '{place}/bundle/new'];
      const there = {...w, bundle: join(at, 'new'), unpack};
      let [refused, done] = [0, 0];
      for (const what of ['bytes', 'inodes'] as const)
        for (let left = 0; left < (what === 'bytes' ? 160 : 24); left += (what === 'bytes' ? 16 : 2) >> (TORTURE ? 1 : 0)) {
          const filler = join(at, 'filler');
          mkdirSync(filler);
          const {bavail, bsize, ffree} = statfsSync(at);
          if (what === 'bytes') execFileSync('fallocate', ['--length', String(bavail * bsize - left * 1024), join(filler, 'f')]);
          else for (let i = ffree; i > left; i--) writeFileSync(join(filler, String(i)), '');
          const before = statfsSync(at);
          const {status, stderr} = await command(w.place, unpack);
          const when = `${left} of ${what} left: ${stderr}`;
          if (status === 0) {
            assertWhole(there, when);
            done++;
            rmSync(there.bundle, {recursive: true});
          } else {
            refused++;
            assert.equal(status, exitStatus(new ErrdefsError('resource_exhausted', '')), when);
            assert.equal(existsSync(there.bundle), false, when);
            const now = statfsSync(at);
            assert.equal(now.ffree, before.ffree, when);
          }
          rmSync(filler, {recursive: true});
        }
      assert.ok(refused > 4 && done > 4, `${refused} refused, ${done} done`);
      await assertAgain(there, 'with space');
    } finally {
      unmount();
    }
  });
});
