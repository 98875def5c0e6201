import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {deflateRawSync, gzipSync} from 'node:zlib';
import {openRemote} from '../../../src/lib/remotes/index.ts';
import {type Fault, startFakeRegistry} from '../../fakes/registry.ts';
import {streamed} from '../../suites/resolver.ts';
import {is, onEnd} from '../../support/helpers.ts';

/** Half of it can be compressed. */
const BYTES = Buffer.concat([randomBytes(400_000), Buffer.alloc(400_000, 'berth')]);

async function open(t: TestContext) {
  const registry = await startFakeRegistry(t);
  const remote = openRemote({backoffMs: 1, stallTimeoutMs: 2000});
  onEnd(t, () => remote.close());
  const image = registry.addImage('team/app', 'v1', [BYTES]);
  const ref = {domain: registry.host, path: 'team/app', tag: 'v1'};
  return {registry, remote, image, ref, fetcher: remote.fetcher(ref), layer: image.layers[0]!};
}

const encoded = (encoding: string, encode: (bytes: Buffer) => Buffer): Fault => ({
  headers: {'content-encoding': encoding, 'content-length': null},
  body: encode,
});

describe('an answer in an encoding', () => {
  for (const [name, fault] of [
    ['gzip', {encoding: 'gzip'}],
    ['deflate', {encoding: 'deflate'}],
    ['zstd', {encoding: 'zstd'}],
    ['x-gzip', encoded('x-gzip', gzipSync)],
    ['bare deflate', encoded('deflate', deflateRawSync)],
    ['gzip, twice', encoded('GZIP, gzip', (bytes) => gzipSync(gzipSync(bytes)))],
    ['gzip of several members', encoded('gzip', (bytes) => Buffer.concat([gzipSync(bytes.subarray(0, 99)), gzipSync(bytes.subarray(99))]))],
    ['identity', encoded('identity', (bytes) => bytes)],
  ] as const satisfies readonly (readonly [string, Fault])[])
    it(`is what was encoded, for documents and layers: ${name}`, async (t) => {
      const {registry, remote, ref, image, fetcher, layer} = await open(t);
      registry.fault(fault);
      assert.deepEqual((await remote.resolve(ref)).descriptor, image.manifest);
      assert.equal((await fetcher.bytes(image.config, {limit: 1000})).length, image.config.size);
      for (const offset of [0, 5, BYTES.length - 1])
        assert.ok((await streamed(fetcher, layer, offset)).equals(BYTES.subarray(offset)), `from ${offset}`);
    });
  it('continues after a break, at the offset of the decoded bytes', async (t) => {
    const {registry, fetcher, layer} = await open(t);
    registry.fault({encoding: 'gzip', truncateAt: 300_000, times: 1});
    assert.ok((await streamed(fetcher, layer)).equals(BYTES));
  });
  it('is delivered in order to a slow sink', async (t) => {
    const {registry, fetcher, layer} = await open(t);
    registry.fault({encoding: 'gzip'});
    const chunks: Buffer[] = [];
    let running = 0;
    const sink = async (chunk: Buffer): Promise<void> => {
      assert.equal(++running, 1);
      await sleep(1);
      chunks.push(chunk);
      running--;
    };
    await fetcher.stream(layer, sink, {offset: 0});
    assert.ok(Buffer.concat(chunks).equals(BYTES));
  });
  it("ends with its sink's own failure", async (t) => {
    const {registry, fetcher, layer} = await open(t);
    registry.fault({encoding: 'gzip'});
    const mine = new Error('disk full');
    await assert.rejects(
      fetcher.stream(
        layer,
        async () => {
          throw mine;
        },
        {offset: 0},
      ),
      (err) => err === mine,
    );
  });

  for (const [what, fault] of [
    ['is not one', encoded('gzip', (bytes) => bytes)],
    ['has no end', encoded('gzip', (bytes) => gzipSync(bytes).subarray(0, -9))],
    ['is not known', encoded('br', (bytes) => bytes)],
    ['is one of many', encoded('gzip, gzip, gzip', (bytes) => bytes)],
    ['holds more than was promised', encoded('gzip', (bytes) => gzipSync(Buffer.concat([bytes, bytes])))],
    ['holds less than was promised', encoded('gzip', (bytes) => gzipSync(bytes.subarray(1)))],
  ] as const satisfies readonly (readonly [string, Fault])[])
    it(`that ${what} is refused`, async (t) => {
      const {registry, remote, ref, image, fetcher, layer} = await open(t);
      registry.fault(fault);
      await assert.rejects(fetcher.bytes(image.config, {limit: 1000}), is('failed_precondition'));
      // Fewer bytes than promised are a blob that broke off.
      await assert.rejects(streamed(fetcher, layer), (err) => is(what.includes('less') ? 'unavailable' : 'failed_precondition')(err));
      await assert.rejects(remote.resolve({...ref, digest: image.manifest.digest}), is('failed_precondition'));
    });
  it('that expands a thousandfold is aborted early', async (t) => {
    const {registry, fetcher, image} = await open(t);
    const bomb = gzipSync(Buffer.alloc(96 << 20));
    registry.fault(encoded('gzip', () => bomb));
    const before = process.memoryUsage().rss;
    await assert.rejects(fetcher.bytes(image.config, {limit: 1000}), is('failed_precondition'));
    assert.ok(process.memoryUsage().rss - before < 48 << 20, 'it was not unpacked');
  });
});
