/** df agrees with du(1), and assigns usage to namespaces. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {mkdirSync, symlinkSync, writeFileSync} from 'node:fs';
import {describe, it} from 'node:test';
import type {DiskUsage, SpaceUsed} from '../../../src/lib/client/types/index.ts';
import {diskUsage} from '../../e2e/fixtures.ts';
import {is, newClient, requiresRoot} from '../../support/helpers.ts';
import {dir, file, link, tar} from '../../support/tartest.ts';
import {CONFIG, DEAD, LAYERS, pulled, withContainer} from './pulled-store.ts';

const PARTS = ['content', 'snapshots', 'writable', 'ingests', 'unnamed', 'leftovers', 'damaged', 'records'] as const;

function assertWhole(usage: DiskUsage): void {
  assert.equal(usage.disk, diskUsage(usage.root));
  assert.equal(
    PARTS.reduce((sum, part) => sum + usage[part].disk, 0),
    usage.disk,
    'the parts are the whole',
  );
}

const bytesOf = ({size}: SpaceUsed): number => size;

describe('df', () => {
  it('reports zero for a missing store', async (t) => {
    const usage = await (await newClient(t)).df();
    assertWhole(usage);
    assert.deepEqual([usage.namespaces, usage.content], [[], {count: 0, size: 0, disk: 0}]);
  });

  for (const snapshotter of ['erofs', 'overlayfs', 'native'])
    it(`adds up to the result of du, ${snapshotter}`, async (t) => {
      if (!requiresRoot(t)) return;
      const rig = await pulled(t, snapshotter);
      const {client, path} = rig;
      await withContainer(rig);
      await client.namespace('other').pull(rig.ref, {snapshotter: 'overlayfs'});
      // Names of any bytes, holes, several names.
      const odd = tar(dir('d'), file('d/\xff\xfe', 'x'), file('d/big', Buffer.alloc(300_000)), link('d/big', 'd/same'));
      rig.registry.addImage('odd', 'latest', [odd], {...CONFIG, rootfs: {type: 'layers', diff_ids: [rig.registry.addBlob(odd).digest]}});
      await client.namespace('other').pull(`${rig.registry.host}/odd:latest`, {snapshotter});
      for (const name of [`work/${DEAD}.x`, `trash/${DEAD}.x`, 'damaged/x', 'content/ingest/y', 'cache/z', 'namespaces/default/foreign']) {
        mkdirSync(path(name), {recursive: true});
        writeFileSync(path(name, 'data'), 'x'.repeat(10_000));
      }
      writeFileSync(path('content/blobs/sha256', 'a'.repeat(64)), 'nobody names it');
      symlinkSync('/usr', path('usr'));
      // Before a sync, filesystems only estimate the number of blocks.
      execFileSync('sync', ['--file-system', client.root]);
      const usage = await client.df();
      assertWhole(usage);
      assert.deepEqual([usage.unnamed.count, usage.ingests.size, usage.damaged.size, usage.leftovers.size], [1, 10_000, 10_000, 20_000]);
    });

  it('separates unique from shared usage of namespaces', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {client, ref, image} = rig;
    const sizes = [image.manifest, image.config, ...image.layers].map(({size}) => size);
    const total = sizes.reduce((sum, size) => sum + size, 0);
    const before = await client.df();
    const [alone] = before.namespaces;
    assert.deepEqual([alone!.name, alone!.images, alone!.containers], ['default', 1, 0]);
    assert.deepEqual([alone!.content.count, bytesOf(alone!.content), alone!.content.shared], [4, total, 0]);
    assert.deepEqual([alone!.content.unique, alone!.snapshots.unique], [alone!.content.disk, alone!.snapshots.disk]);
    assert.deepEqual([alone!.snapshots.count, alone!.writable.count], [2, 0]);

    await client.namespace('other').pull(ref, {snapshotter: 'overlayfs'});
    const more = [...LAYERS, tar(file('more', 'x'.repeat(50_000)))];
    const diffIDs = more.map((layer) => rig.registry.addBlob(layer).digest);
    rig.registry.addImage('more', 'latest', more, {...CONFIG, rootfs: {type: 'layers', diff_ids: diffIDs}});
    await client.namespace('other').pull(`${rig.registry.host}/more:latest`, {snapshotter: 'overlayfs'});
    await withContainer(rig);
    const after = await client.df();
    const [own, other] = after.namespaces;
    assert.deepEqual([own!.content.unique, own!.content.shared], [0, alone!.content.disk]);
    assert.deepEqual([other!.content.shared, other!.snapshots.shared], [alone!.content.disk, alone!.snapshots.disk]);
    assert.deepEqual([other!.images, other!.content.count, other!.snapshots.count], [2, 7, 3]);
    assert.ok(other!.content.unique > 50_000 && other!.snapshots.unique > 50_000);
    assert.deepEqual([own!.containers, own!.writable.count, other!.writable.count], [1, 1, 0]);
    assert.equal(after.content.disk, own!.content.shared + other!.content.unique, 'each thing once');
    assertWhole(after);
    for (const {content, snapshots, writable, used, quota} of after.namespaces)
      assert.deepEqual([used, quota], [content.size + snapshots.disk + writable.disk, undefined]);
    await client.namespaces.label('other', {'berth/quota-bytes': '123456789'});
    assert.deepEqual(
      (await client.df()).namespaces.map(({quota}) => quota),
      [undefined, 123_456_789],
    );
  });

  it('fails when a record cannot be read', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    writeFileSync(rig.record('images', rig.ref), '{');
    await assert.rejects(rig.client.df(), is('data_loss'));
  });
});
