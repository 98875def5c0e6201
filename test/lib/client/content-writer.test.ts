/** A content writer against a model of its bytes, and leases that keep what was written. */
import assert from 'node:assert/strict';
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import type {ContentWriter, LeaseResource} from '../../../src/lib/client/types/index.ts';
import {digestOf} from '../../fakes/registry.ts';
import {randomNumbers} from '../../fuzz/seeded-random.ts';
import {is, newClient, SAMPLE, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';

/** Whole numbers below `limit`. */
function numbers(seed: number): (limit: number) => number {
  const next = randomNumbers(seed);
  return (limit) => Math.floor(next() * limit);
}

describe('a content writer', () => {
  it('holds the bytes of a model, over any writes, truncations, closes and other processes of its ref', async (t) => {
    const root = temporaryDirectory(t, 'berth-root-');
    // Two clients share nothing but the disk.
    const clients = [await newClient(t, {root}), await newClient(t, {root})];
    for (let round = 0; round < (TORTURE ? 200 : 12); round++) {
      const next = numbers(SAMPLE * 1000 + round);
      const ref = `r${round}`;
      const open = (): Promise<ContentWriter> => clients[next(2)]!.namespace('default').content.writer(ref);
      let model = Buffer.alloc(0);
      let writer = await open();
      for (let step = 0; step < 12; step++) {
        const what = next(10);
        if (what < 6) {
          const chunk = Buffer.alloc(next(5000), next(256));
          await writer.write(chunk);
          model = Buffer.concat([model, chunk]);
        } else if (what < 9) {
          await writer.close();
          await assert.rejects(writer.write(Buffer.alloc(1)), is('failed_precondition'));
          writer = await open();
        } else {
          assert.equal((await writer.truncate()).offset, 0);
          model = Buffer.alloc(0);
        }
        const {offset, ref: named} = await writer.status();
        assert.deepEqual([offset, named], [model.length, ref]);
      }
      await assert.rejects(
        clients[0]!
          .namespace('other')
          .content.writer(ref)
          .then((other) => other.commit({expectedSize: 1})),
        is('failed_precondition'),
        'a ref is private to its namespace',
      );
      const made = await writer.commit({expectedDigest: digestOf(model), labels: {'containerd.io/gc.root': 'x', round: String(round)}});
      assert.deepEqual([made.digest, made.size, made.labels.round], [digestOf(model), model.length, String(round)]);
      const chunks: Uint8Array[] = [];
      for await (const chunk of await clients[1]!.namespace('default').content.open(made.digest)) chunks.push(chunk);
      assert.ok(Buffer.concat(chunks).equals(model));
      await clients[0]!.namespace('default').content.delete(made.digest);
    }
    assert.deepEqual(checkStore(root), []);
  });

  it('refuses what it was not promised, and keeps the bytes for the next one', async (t) => {
    const {content} = (await newClient(t, {lockTimeoutMs: 100})).namespace('default');
    const bytes = Buffer.from('promised');
    const writer = await content.writer('r', {expectedSize: bytes.length, expectedDigest: digestOf(bytes)});
    await assert.rejects(content.writer('r'), is('unavailable'));
    await writer.write(bytes.subarray(0, 4));
    await assert.rejects(writer.commit(), is('failed_precondition'));
    await assert.rejects(writer.status(), is('failed_precondition'), 'closed');
    assert.deepEqual(
      (await content.active()).map(({ref, offset, total}) => [ref, offset, total]),
      [['r', 4, bytes.length]],
    );
    const next = await content.writer('r', {expectedSize: bytes.length, expectedDigest: digestOf(bytes)});
    assert.equal((await next.status()).offset, 4);
    await assert.rejects(next.write(Buffer.alloc(5)), is('failed_precondition'));
    await next.write(bytes.subarray(4));
    assert.equal((await next.commit()).digest, digestOf(bytes));
    await assert.rejects(content.writer('other', {expectedDigest: digestOf(bytes)}), is('already_exists'));
  });
});

describe('resources of a lease', () => {
  it('keep content and snapshots as long as the lease has them', async (t) => {
    const client = await newClient(t);
    const ns = client.namespace('default');
    const bytes = Buffer.from('kept by a lease');
    const digest = digestOf(bytes);
    const blob = join(client.root, 'content/blobs', digest.replace(':', '/'));
    await ns.leases.create({id: 'l'});
    const content: LeaseResource = {id: digest, type: 'content'};
    const snapshot: LeaseResource = {id: 'name/with/slashes', type: 'snapshots/native'};
    await ns.leases.addResource('l', snapshot);
    await ns.leases.addResource('l', content);
    await ns.leases.addResource('l', content);
    assert.deepEqual(await ns.leases.resources('l'), [content, snapshot]);

    const writer = await ns.content.writer('w');
    await writer.write(bytes);
    await writer.commit();
    const snapshots = ns.snapshots('native');
    await snapshots.prepare('work');
    await snapshots.commit(snapshot.id, 'work');
    await client.gc();
    assert.equal((await ns.content.get(digest)).size, bytes.length);
    assert.equal((await snapshots.get(snapshot.id)).kind, 'committed');

    await ns.leases.deleteResource('l', content);
    assert.equal(existsSync(blob), false, 'collected at once');
    await assert.rejects(ns.content.get(digest), is('not_found'));
    await ns.leases.deleteResource('l', content);
    assert.deepEqual(await ns.leases.resources('l'), [snapshot]);
    assert.deepEqual(checkStore(client.root), []);
  });

  it('are of the types that a lease can keep, and of a lease that is there', async (t) => {
    const {leases} = (await newClient(t)).namespace('default');
    const digest = digestOf(Buffer.alloc(0));
    await assert.rejects(leases.addResource('none', {id: digest, type: 'content'}), is('not_found'));
    await assert.rejects(leases.resources('none'), is('not_found'));
    await leases.create({id: 'l'});
    await assert.rejects(leases.addResource('l', {id: 'r', type: 'ingests'}), is('not_implemented'));
    await assert.rejects(leases.addResource('l', {id: 'nope', type: 'content'}), is('invalid_argument'));
    await assert.rejects(leases.addResource('l', {id: '', type: 'snapshots/native'}), is('invalid_argument'));
    await assert.rejects(leases.deleteResource('none', {id: digest, type: 'content'}), is('not_found'));
    assert.deepEqual(await leases.resources('l'), []);
  });
});
