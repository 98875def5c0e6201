import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {BlobLocations} from '../../../src/lib/client/copy/blob-locations.ts';
import type {BlobOutcome} from '../../../src/lib/client/copy/types.ts';
import {digestOf} from '../../../src/lib/oci/hash.ts';

const DIGEST = digestOf(Buffer.from('blob'));
const at = (path: string, domain = 'registry.example') => ({domain, path});
const signal = new AbortController().signal;

/** A put that ends when it is told to. */
function pending() {
  const {promise, resolve, reject} = Promise.withResolvers<BlobOutcome>();
  let from: readonly string[] | undefined;
  const put = (known: readonly string[]): Promise<BlobOutcome> => {
    from = known;
    return promise;
  };
  return {put, resolve, reject, from: () => from};
}
const turn = () => new Promise((resolve) => setImmediate(resolve));

describe('several copies of a blob to one registry', () => {
  it('go one after the other, and each knows where the earlier ones have put it', async () => {
    const locations = new BlobLocations();
    const [a, b, c] = [pending(), pending(), pending()];
    const puts = [
      locations.put(at('a'), DIGEST, a.put, signal),
      locations.put(at('b'), DIGEST, b.put, signal),
      locations.put(at('c'), DIGEST, c.put, signal),
    ];
    await turn();
    assert.deepEqual([a.from(), b.from(), c.from()], [[], undefined, undefined]);
    a.resolve('copied');
    await turn();
    assert.deepEqual([b.from(), c.from()], [['a'], undefined]);
    b.resolve('mounted');
    await turn();
    assert.deepEqual(c.from(), ['a', 'b']);
    c.resolve('exists');
    assert.deepEqual(await Promise.all(puts), ['copied', 'mounted', 'exists']);
  });

  it('go on after one that fails, which has put it nowhere', async () => {
    const locations = new BlobLocations();
    const [a, b] = [pending(), pending()];
    const first = assert.rejects(locations.put(at('a'), DIGEST, a.put, signal), /broken/);
    const second = locations.put(at('b'), DIGEST, b.put, signal);
    a.reject(new Error('broken'));
    await first;
    await turn();
    assert.deepEqual(b.from(), []);
    b.resolve('copied');
    assert.equal(await second, 'copied');
  });

  it('do not wait for other registries or other blobs, nor after their signal', async () => {
    const locations = new BlobLocations();
    const [a, b, c, d] = [pending(), pending(), pending(), pending()];
    const stop = new AbortController();
    const first = locations.put(at('a'), DIGEST, a.put, signal);
    void locations.put(at('a', 'other.example'), DIGEST, b.put, signal);
    void locations.put(at('a'), digestOf(Buffer.from('other')), c.put, signal);
    const waiting = locations.put(at('b'), DIGEST, d.put, stop.signal);
    assert.deepEqual([b.from(), c.from()], [[], []]);
    stop.abort(new Error('stopped'));
    await assert.rejects(waiting, /stopped/);
    await assert.rejects(locations.put(at('c'), DIGEST, d.put, stop.signal), /stopped/);
    assert.equal(d.from(), undefined);
    a.resolve('copied');
    assert.equal(await first, 'copied');
  });
});
