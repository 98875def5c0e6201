import assert from 'node:assert/strict';
import {rmSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {Store} from '../../../src/lib/store/store.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {newClient} from '../../support/helpers.ts';
import {contentRecord, digestOf, imageRecord, type MadeImage, makeImage} from '../../support/records.ts';
import {readJSON, writeJSON} from './pulled-store.ts';

describe('rows of many images', () => {
  it('are cached, and the cache of an earlier boot is ignored', async (t) => {
    const client = await newClient(t);
    const store = new Store({root: client.root, lockTimeoutMs: 1000});
    await store.update('many', (tx) => {
      for (let i = 0; i < 300; i++) tx.namespace('default').images.put(imageRecord(`x.example/${i}:1`, digestOf(`${i}`)));
    });
    const count = async (): Promise<number> => (await client.namespace('default').images.list()).length;
    assert.equal(await count(), 300);
    const file = join(client.root, 'cache/images/default.json');
    const cache = readJSON(file);
    writeJSON(file, {...cache, rows: (cache.rows as unknown[]).slice(1)});
    assert.equal(await count(), 299, 'it is used');
    // Another change may have its generation now.
    writeJSON(file, {...cache, rows: (cache.rows as unknown[]).slice(1), bootId: '0'.repeat(32)});
    assert.equal(await count(), 300);
  });

  it('are the same as without a cache, after any change', async (t) => {
    const client = await newClient(t);
    const store = new Store({root: client.root, lockTimeoutMs: 1000});
    const {images} = client.namespace('default');
    const file = join(client.root, 'cache/images/default.json');
    const made: MadeImage[] = [];
    for (let i = 0; i < 6; i++) made.push(await makeImage(store, 'default', `x.example/made${i}:1`));
    await makeImage(store, 'other', 'x.example/other:1');
    await store.update('many', (tx) => {
      for (let i = 0; i < 300; i++) tx.namespace('default').images.put(imageRecord(`x.example/${i}:1`, digestOf(`${i}`)));
    });
    const seed = 3;
    const {pick, below} = randomOf(seed, 0);
    const name = (): string => `x.example/${below(20)}:1`;
    const log: string[] = [];
    for (let round = 0; round < 20; round++) {
      await images.list(); // writes the cache if there is none
      const cache = readJSON(file);
      assert.equal((cache.rows as unknown[]).length > 256, true);
      for (let changes = 1 + below(3); changes > 0; changes--)
        await store.update('a change', (tx) => {
          const ns = tx.namespace('default');
          const {manifest, content, name: own} = pick(made);
          const change = pick(['label', 'add', 'remove', 'tag', 'move', 'lose', 'find', 'elsewhere'] as const);
          const old = ns.images.find(name());
          log.push(change);
          if (change === 'label' && old !== undefined) ns.images.put({...old, labels: {round: String(round)}});
          if (change === 'add') ns.images.put(imageRecord(`x.example/new${below(9)}:1`, digestOf(String(below(9)))));
          if (change === 'remove') ns.images.delete(pick([name(), `x.example/new${below(9)}:1`]));
          if (change === 'tag')
            ns.images.put({...imageRecord(name(), manifest), target: ns.images.find(own)?.target ?? imageRecord('', manifest).target});
          if (change === 'move' && old !== undefined) ns.images.put({...old, target: imageRecord('', digestOf(String(round))).target});
          // As after `content rm`: the image stays, and its row changes.
          const digest = pick(content);
          if (change === 'lose') ns.content.delete(digest);
          if (change === 'find') ns.content.put(contentRecord(digest, {'containerd.io/gc.root': 'yes'}, store.blobs.size(digest)!));
          if (change === 'elsewhere') tx.namespace('other').content.delete(pick(tx.namespace('other').content.list())?.digest ?? '');
        });
      const seen = await images.list();
      rmSync(file);
      assert.deepEqual(seen, await images.list(), `seed ${seed}, round ${round}: ${log.join(', ')}`);
      // Older caches are updated as well.
      if (below(2) === 0) writeJSON(file, cache);
    }
  });
});
