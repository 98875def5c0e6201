import assert from 'node:assert/strict';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {Store} from '../../../src/lib/store/store.ts';
import {newClient} from '../../helpers.ts';
import {digestOf, imageRecord} from '../../records.ts';
import {readJSON, writeJSON} from './rig.ts';

describe('rows of many images', () => {
  it('are cached, and the cache of another boot is not believed', async (t) => {
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
    // Its generation may be another change's now.
    writeJSON(file, {...cache, rows: (cache.rows as unknown[]).slice(1), bootId: '0'.repeat(32)});
    assert.equal(await count(), 300);
  });
});
