/** Layers on a kernel that mounts EROFS images only from block devices: the same trees, with one file for each layer. */
import assert from 'node:assert/strict';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {diskUsage} from '../../e2e/fixtures.ts';
import {requiresProgram} from '../../support/helpers.ts';
import {assertNoLoops, loopsBelow, requiresLoopDevices, stateOnLoops} from '../../support/loop-devices.ts';
import {withMounted} from '../../support/mounted-snapshot.ts';
import {diffTrees, readTree} from '../../support/tree.ts';
import {names, pulled, saysAll} from './pulled-store.ts';

describe('layers on loop devices', () => {
  it('have the same tree, lie in one file each, and leave no device', async (t) => {
    if (!(await requiresLoopDevices(t)) || !requiresProgram(t, 'getfattr')) return;
    const rig = await pulled(t, 'erofs', {state: stateOnLoops(t)});
    const {client, ref, path} = rig;
    assert.deepEqual(
      [0, 1].map((n) => names(rig.layer(n)).filter((name) => name !== 'fs')),
      [
        ['layer.img', 'layer.json'],
        ['layer.img', 'layer.json'],
      ],
    );
    const ns = client.namespace('default');
    await ns.pull(ref, {snapshotter: 'overlayfs'});
    const trees = [];
    for (const snapshotter of ['erofs', 'overlayfs']) {
      const snapshots = ns.snapshots(snapshotter);
      const top = (await snapshots.list()).find(({parent}) => parent !== undefined)!;
      const mounts = await snapshots.view('v', top.key);
      if (snapshotter === 'erofs')
        assert.deepEqual(mounts[0], {type: 'erofs', source: join(rig.layer(1), 'layer.img'), options: ['ro', 'loop']});
      trees.push(
        await withMounted(mounts, (root) => {
          assert.equal(loopsBelow(client.root).length, snapshotter === 'erofs' ? 2 : 0);
          return readTree(root);
        }),
      );
    }
    assert.deepEqual(diffTrees(trees[0]!, trees[1]!, {ignore: (where, field) => where === '.' && field === 'mtime'}), []);
    assert.deepEqual(saysAll(await client.check({deep: true})), []);
    const usage = await client.df();
    assert.equal(usage.disk, diskUsage(client.root));
    await assertNoLoops(client.root);
    assert.deepEqual(names(path('work')), []);
  });
});
