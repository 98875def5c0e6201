/**
 * Layers that were unpacked in an earlier boot: unless they were synced, they are rebuilt from their blobs. A user's own tree is never
 * removed.
 */
import assert from 'node:assert/strict';
import {existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync} from 'node:fs';
import {basename, join} from 'node:path';
import {describe, it} from 'node:test';
import {bootId} from '../../../src/lib/fs/process.ts';
import {SnapshotStore} from '../../../src/lib/store/snapshots.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {is, requiresRoot, type Skippable} from '../../support/helpers.ts';
import {requiresLoopDevices, stateOnLoops} from '../../support/loop-devices.ts';
import {fromAnotherBoot, names, type PulledStore, pulled, readJSON, saysAll, withContainer, writeJSON} from './pulled-store.ts';

/** Truncates a file, as a power loss may: its name exists without its bytes. */
function tear(rig: PulledStore, n: number): void {
  const layer = rig.layer(n);
  if (rig.snapshotter === 'erofs') for (const name of ['layer.tar', 'layer.erofs']) truncateSync(join(layer, name), 0);
  else truncateSync(join(layer, 'fs', n === 0 ? 'etc/a' : 'b'), 0);
}

const canUse = (t: Skippable): boolean => requiresRoot(t);

/** Damage that a power loss may do to a file that was not synced. */
const TORN: Readonly<Record<string, (path: string) => void>> = {
  gone: (path) => rmSync(path),
  empty: (path) => truncateSync(path, 0),
  cut: (path) => truncateSync(path, Math.floor(statSync(path).size / 2)),
  zeroed: (path) => writeFileSync(path, Buffer.alloc(statSync(path).size)),
};

describe('an indexed layer that a power loss damaged is rebuilt from its blob', () => {
  for (const [backing, files] of [
    ['files', ['layer.tar', 'layer.erofs', 'layer.json']],
    ['loop', ['layer.img', 'layer.json']],
  ] as const)
    for (const name of files)
      it(`${name}, mounted from ${backing}`, async (t) => {
        if (backing === 'loop' ? !(await requiresLoopDevices(t)) : !canUse(t)) return;
        const rig = await pulled(t, 'erofs', backing === 'loop' ? {state: stateOnLoops(t)} : {});
        const whole = [0, 1].map((n) => readFileSync(join(rig.layer(n), backing === 'loop' ? 'layer.img' : 'layer.tar')));
        rig.registry.clear();
        for (const [how, tear] of Object.entries(TORN))
          for (const n of [0, 1]) {
            fromAnotherBoot(rig.layer(n));
            tear(join(rig.layer(n), name));
            const {transferredBytes} = await rig.client.namespace('default').pull(rig.ref, {snapshotter: 'erofs'});
            assert.equal(transferredBytes, 0);
            assert.deepEqual(names(rig.layer(n)), names(rig.layer(1 - n)), `${how}, layer ${n}`);
            assert.equal(readFileSync(join(rig.layer(n), backing === 'loop' ? 'layer.img' : 'layer.tar')).length, whole[n]!.length);
          }
        assert.equal(rig.registry.count('GET', /blobs/), 0);
        assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
      });
});

describe('a layer of an earlier boot', () => {
  for (const snapshotter of ['erofs', 'overlayfs', 'native'])
    for (const torn of [[0], [1], [0, 1]])
      it(`is rebuilt by the next pull, ${snapshotter}, ${torn.join(' and ')}`, async (t) => {
        if (!canUse(t)) return;
        const rig = await pulled(t, snapshotter);
        for (const n of torn) {
          tear(rig, n);
          fromAnotherBoot(rig.layer(n));
        }
        rig.registry.clear();
        await rig.client.namespace('default').pull(rig.ref, {snapshotter});
        assert.equal(rig.registry.count('GET', /blobs/), 0, 'from the blob that is here');
        assert.deepEqual(
          [0, 1].map((n) => readJSON(join(rig.layer(n), 'layer.json')).bootId),
          [bootId(), bootId()],
        );
        assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
        assert.deepEqual([names(rig.path('trash')), names(rig.path('work'))], [[], []], 'nothing of the old one is left');
      });

  it('is rebuilt by another namespace, for all namespaces', async (t) => {
    if (!canUse(t)) return;
    const rig = await pulled(t, 'overlayfs');
    tear(rig, 0);
    fromAnotherBoot(rig.layer(0));
    await rig.client.namespace('other').pull(rig.ref, {snapshotter: 'overlayfs'});
    assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
  });

  it('is reported, and not used as a lower layer', async (t) => {
    if (!canUse(t)) return;
    const rig = await pulled(t, 'overlayfs');
    fromAnotherBoot(rig.layer(0));
    const snapshots = rig.client.namespace('default').snapshots('overlayfs');
    const [top] = (await snapshots.list()).filter(({parent}) => parent !== undefined);
    await assert.rejects(snapshots.prepare('work', top!.key), is('data_loss'));
    const [image] = await rig.client.namespace('default').images.check({snapshotter: 'overlayfs'});
    assert.deepEqual([image!.status, image!.unpacked], ['complete', false]);
    await rig.client.namespace('default').pull(rig.ref, {snapshotter: 'overlayfs'});
    await snapshots.prepare('work', top!.key);
  });

  it('is used unchanged when it was synced', async (t) => {
    if (!canUse(t)) return;
    const rig = await pulled(t, 'overlayfs');
    for (const n of [0, 1]) {
      const path = join(rig.layer(n), 'layer.json');
      writeJSON(path, {...readJSON(path), bootId: 'f'.repeat(32), durable: true});
    }
    await rig.client.namespace('default').pull(rig.ref, {snapshotter: 'overlayfs'});
    assert.deepEqual(
      [0, 1].map((n) => readJSON(join(rig.layer(n), 'layer.json')).bootId),
      ['f'.repeat(32), 'f'.repeat(32)],
    );
  });

  it("with an unreadable layer.json is rebuilt; a user's own tree is kept", async (t) => {
    if (!canUse(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {layer} = await withContainer(rig);
    const own = rig.path('layers', layer);
    for (const text of ['', '{"version":1,"snap', 'null', '{"version":2}']) {
      for (const path of [rig.layer(0), rig.layer(1), own]) writeFileSync(join(path, 'layer.json'), text);
      await rig.client.namespace('default').pull(rig.ref, {snapshotter: 'overlayfs'});
      assert.deepEqual(
        [0, 1].map((n) => readJSON(join(rig.layer(n), 'layer.json')).bootId),
        [bootId(), bootId()],
      );
      assert.equal(readFileSync(join(own, 'fs/mine'), 'utf8'), 'what a user made');
      await rig.client.gc();
      await rig.client.namespace('default').images.tag(rig.ref, `x.example/${text.length}:1`);
      await rig.client.namespace('default').images.delete(`x.example/${text.length}:1`);
      assert.equal(readFileSync(join(own, 'fs/mine'), 'utf8'), 'what a user made', 'by collections neither');
    }
    const store = new Store({root: rig.client.root, lockTimeoutMs: 1000});
    const mounts = new SnapshotStore(store, 'default', 'overlayfs').mounts('c1');
    assert.ok(JSON.stringify(mounts).includes(basename(own)), 'and its container can still have it');
    assert.ok(existsSync(own));
  });

  it('is rebuilt when it is missing, also when only a parent has no record', async (t) => {
    if (!canUse(t)) return;
    const rig = await pulled(t, 'overlayfs');
    rmSync(rig.layer(0), {recursive: true});
    await rig.client.namespace('default').pull(rig.ref, {snapshotter: 'overlayfs'});
    assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
  });
});
