/** A container's tree that is deeper than the longest path: every command that walks it works. */
import assert from 'node:assert/strict';
import {readdirSync} from 'node:fs';
import {describe, it} from 'node:test';
import {diskUsage} from '../../e2e/fixtures.ts';
import {makeDeep} from '../../support/deep-trees.ts';
import {requiresRoot} from '../../support/helpers.ts';
import {pulled} from './pulled-store.ts';

const DEPTH = 454;
const NAME_BYTES = 10;

describe('a deep tree', () => {
  for (const snapshotter of ['erofs', 'overlayfs', 'native'])
    it(`can be measured, committed, used as a parent, checked and removed, ${snapshotter}`, async (t) => {
      if (!requiresRoot(t)) return;
      const {client, path} = await pulled(t, snapshotter);
      const namespace = client.namespace('default');
      const snapshots = namespace.snapshots(snapshotter);
      const [top] = (await snapshots.list()).filter(({parent}) => parent !== undefined);
      await snapshots.prepare('deep', top!.key);
      const before = await snapshots.usage('deep');
      const {layer} = await snapshots.get('deep');
      makeDeep(path('layers', layer!, 'fs'), DEPTH, NAME_BYTES);
      assert.equal((await snapshots.usage('deep')).inodes - before.inodes, DEPTH + 1);
      await snapshots.commit('committed', 'deep');
      await snapshots.prepare('child', 'committed');
      assert.equal((await snapshots.usage('child')).inodes, snapshotter === 'native' ? before.inodes + DEPTH + 1 : 1);
      assert.equal((await client.df()).disk, diskUsage(client.root));
      assert.deepEqual((await client.check({deep: true})).findings, []);
      await client.prune({dryRun: true});
      await snapshots.delete('child');
      await snapshots.delete('committed');
      await client.prune({});
      assert.deepEqual(readdirSync(path('trash')), []);
      assert.ok(!readdirSync(path('layers')).includes(layer!));
      assert.equal((await client.df()).disk, diskUsage(client.root));
    });
});
