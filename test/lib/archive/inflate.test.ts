import assert from 'node:assert/strict';
import {once} from 'node:events';
import {describe, it} from 'node:test';
import {createGzip, gzipSync, zstdCompressSync} from 'node:zlib';
import {canInflateSynchronously, createStreamInflater, createSyncInflater, openInflater} from '../../../src/lib/archive/inflate.ts';
import {is} from '../../support/helpers.ts';
import {inflate, inflateAll, OPENERS, type Outcome, PLAIN, STREAMS, sha256} from './compressed-streams.ts';
import {findBun, runInBun} from './run-in-bun.ts';

const bun = (): {synchronous: boolean; outcomes: Record<string, Outcome>} => runInBun('compressed-streams.ts') as ReturnType<typeof bun>;

function check(outcomes: Record<string, Outcome>): void {
  for (const [name, outcome] of Object.entries(outcomes)) {
    const {kind, error, plain = PLAIN} = STREAMS[name.slice(0, name.indexOf(';'))]!;
    assert.deepEqual(outcome, {kind, ...(error === undefined ? {sha256: sha256(plain)} : {error})}, name);
  }
}

describe('inflating', () => {
  it('is synchronous in this Node; otherwise the private part of zlib has changed', () => assert.equal(canInflateSynchronously(), true));

  it('gives the same output in both ways, for any chunk size', async () => check(await inflateAll()));

  it('is synchronous in this Bun, with the same output', (t) => {
    if (findBun() === undefined) {
      t.skip('needs Bun');
      return;
    }
    const {synchronous, outcomes} = bun();
    assert.equal(synchronous, true);
    check(outcomes);
  });

  it('is synchronous where possible', async () => {
    const inflater = openInflater(() => {});
    assert.equal(inflater.write(gzipSync('x')), undefined);
    inflater.close();
  });

  for (const [way, open] of Object.entries(OPENERS))
    it(`throws the error of its chunk handler: ${way}`, async () => {
      for (const bytes of [gzipSync('text'), zstdCompressSync('text'), Buffer.from('text')]) {
        const inflater = open(() => {
          throw new Error('from the handler');
        });
        await assert.rejects(async () => {
          await inflater.write(bytes);
          await inflater.end();
        }, /from the handler/);
        inflater.close();
      }
    });

  it('needs no more memory for more output', async () => {
    // 256 MiB of zeros in 260 kB.
    const gzip = createGzip();
    const parts: Buffer[] = [];
    gzip.on('data', (chunk: Buffer) => parts.push(chunk));
    const block = Buffer.alloc(1 << 20);
    for (let i = 0; i < 256; i++) if (!gzip.write(block)) await once(gzip, 'drain');
    await once(gzip.end(), 'end');
    const bomb = Buffer.concat(parts);
    for (const open of [createSyncInflater, createStreamInflater]) {
      let size = 0;
      let largest = 0;
      const inflater = open((chunk) => {
        size += chunk.length;
        largest = Math.max(largest, process.memoryUsage.rss());
      });
      const before = process.memoryUsage.rss();
      await inflater.write(bomb);
      await inflater.end();
      inflater.close();
      assert.equal(size, 256 << 20);
      assert.ok(largest - before < 64 << 20, `${(largest - before) >> 20} MiB more`);
    }
  });

  it('reuses one output buffer', () => {
    const buffers = new Set<ArrayBufferLike>();
    const inflater = createSyncInflater((chunk) => buffers.add(chunk.buffer));
    inflater.write(gzipSync(Buffer.alloc(1 << 20)));
    inflater.end();
    inflater.close();
    assert.equal(buffers.size, 1);
  });

  for (const [way, open] of Object.entries(OPENERS))
    it(`accepts only zeros after zeros, no further member: ${way}`, async () => {
      const inflater = open(() => {});
      await inflater.write(Buffer.concat([gzipSync('one'), Buffer.alloc(8)]));
      await inflater.write(Buffer.alloc(8));
      await assert.rejects(async () => inflater.write(gzipSync('another')), is('data_loss'));
      inflater.close();
    });

  it('detects the format by four bytes', () => {
    const inflater = createSyncInflater(() => {});
    inflater.write(Buffer.from([0x28, 0xb5]));
    assert.equal(inflater.kind, undefined);
    inflater.write(Buffer.from([0x2f, 0xfd]));
    assert.equal(inflater.kind, 'zstd');
    inflater.close();
  });

  it('fails with data_loss on random damage, or gives other bytes', async () => {
    for (let seed = 1; seed <= 60; seed++) {
      for (const source of [STREAMS['gzip, two members']!.bytes, STREAMS['zstd, skippable frames and two others']!.bytes]) {
        const bytes = Buffer.from(source);
        for (let i = 0; i < 4; i++) bytes[(seed * 7919 + i * 104_729) % bytes.length] = seed * 31 + i;
        for (const open of Object.values(OPENERS)) {
          const {error} = await inflate(open, bytes, 4096);
          assert.ok([undefined, 'data_loss', 'resource_exhausted'].includes(error), `seed ${seed}: ${error}`);
        }
      }
    }
  });
});
