/** The limit of the rate: over all connections together, without bursts. */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {describe, it} from 'node:test';
import {OCI_LAYER} from '../../../src/lib/oci/mediatypes.ts';
import {openRemote} from '../../../src/lib/remotes/index.ts';
import {digestOf, startFakeRegistry} from '../../fakes/registry.ts';
import {streamed} from '../../suites/resolver.ts';
import {is, onEnd} from '../../support/helpers.ts';

/** Most bytes of one chunk of a socket. */
const CHUNK = 64 << 10;

/** Most bytes in any window of the length that begins with an arrival. */
function mostWithin(arrivals: readonly {readonly at: number; readonly bytes: number}[], windowMs: number): number {
  return Math.max(
    ...arrivals.map(({at}) => arrivals.reduce((sum, one) => sum + (one.at >= at && one.at < at + windowMs ? one.bytes : 0), 0)),
  );
}

describe('--limit-rate', () => {
  it('bounds all connections of all remotes together, at any time', async (t) => {
    const rate = 400_000;
    const registry = await startFakeRegistry(t);
    const blobs = Array.from({length: 3}, () => randomBytes(150_000));
    const descs = blobs.map((bytes) => registry.addBlob(bytes, OCI_LAYER));
    const arrivals: {at: number; bytes: number}[] = [];
    const started = performance.now();
    await Promise.all(
      descs.map(async (desc, i) => {
        const remote = openRemote({limitRate: rate});
        onEnd(t, () => remote.close());
        const chunks: Buffer[] = [];
        const sink = (chunk: Buffer): void => {
          arrivals.push({at: performance.now() - started, bytes: chunk.length});
          chunks.push(chunk);
        };
        await remote.fetcher({domain: registry.host, path: 'a'}).stream(desc, sink, {offset: 0});
        assert.ok(Buffer.concat(chunks).equals(blobs[i]!));
      }),
    );
    const total = 450_000;
    const elapsed = performance.now() - started;
    assert.ok(elapsed >= (total / rate) * 1000 * 0.95, `${total} B in ${elapsed} ms`);
    for (const windowMs of [100, 300]) {
      const most = mostWithin(arrivals, windowMs);
      assert.ok(most <= (rate * windowMs) / 1000 + 4 * CHUNK, `${most} B within ${windowMs} ms`);
    }
  });

  it('is no stall, however slow it is', async (t) => {
    const registry = await startFakeRegistry(t);
    const bytes = randomBytes(100_000);
    const desc = registry.addBlob(bytes, OCI_LAYER);
    const remote = openRemote({limitRate: 100_000, stallTimeoutMs: 100});
    onEnd(t, () => remote.close());
    assert.ok((await streamed(remote.fetcher({domain: registry.host, path: 'a'}), desc)).equals(bytes));
    assert.equal(registry.requests.length, 1);
  });

  it('ends with the signal', async (t) => {
    const registry = await startFakeRegistry(t);
    const desc = registry.addBlob(randomBytes(1 << 20), OCI_LAYER);
    const remote = openRemote({limitRate: 10});
    onEnd(t, () => remote.close());
    const fetcher = remote.fetcher({domain: registry.host, path: 'a'});
    await assert.rejects(streamed(fetcher, desc, 0, AbortSignal.timeout(200)), is('deadline_exceeded'));
  });

  it('bounds what is pushed as well', async (t) => {
    const registry = await startFakeRegistry(t);
    const bytes = randomBytes(300_000);
    const desc = {mediaType: OCI_LAYER, digest: digestOf(bytes), size: bytes.length};
    const remote = openRemote({limitRate: 300_001});
    onEnd(t, () => remote.close());
    async function* open(offset: number): AsyncGenerator<Buffer> {
      yield bytes.subarray(offset);
    }
    const started = performance.now();
    await remote.pusher({domain: registry.host, path: 'a'}).blob(desc, open);
    const elapsed = performance.now() - started;
    assert.ok(elapsed >= 750, `${bytes.length} B in ${elapsed} ms`);
    assert.ok((await streamed(remote.fetcher({domain: registry.host, path: 'a'}), desc)).equals(bytes));
  });
});
