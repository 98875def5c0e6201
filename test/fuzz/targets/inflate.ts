/** Inflates by the handle and by public streams. */
import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {gzipSync, zstdCompressSync} from 'node:zlib';
import {
  type AsyncInflater,
  type ChunkHandler,
  createStreamInflater,
  createSyncInflater,
  type Inflater,
} from '../../../src/lib/archive/inflate.ts';
import {ErrdefsError, isErrdefs} from '../../../src/lib/errdefs.ts';
import type {Target} from '../target.ts';

/** Most output bytes of an input. */
const MAX_OUTPUT_BYTES = 8 << 20;
const TOO_MUCH = {most: MAX_OUTPUT_BYTES};

async function inflate(bytes: Buffer, open: (sink: ChunkHandler) => Inflater | AsyncInflater, chunk: number): Promise<unknown> {
  const hash = createHash('sha256');
  let size = 0;
  const inflater = open((piece) => {
    size += piece.length;
    if (size > MAX_OUTPUT_BYTES) throw new ErrdefsError('resource_exhausted', 'input', {details: TOO_MUCH});
    hash.update(piece);
  });
  try {
    for (let at = 0; at < bytes.length; at += chunk) await inflater.write(bytes.subarray(at, at + chunk));
    await inflater.end();
    return hash.digest('hex');
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return err;
  } finally {
    inflater.close();
  }
}

const text = Buffer.from('layer '.repeat(300));
const skippable = Buffer.from('502a4d1804000000abcdabcd', 'hex');

export const target: Target = {
  name: 'inflate',
  seeds: [
    gzipSync(text),
    gzipSync(text, {level: 0}),
    zstdCompressSync(text),
    Buffer.concat([gzipSync(text), gzipSync('second')]),
    Buffer.concat([gzipSync(text), Buffer.alloc(512)]),
    Buffer.concat([zstdCompressSync(text), skippable, zstdCompressSync('second')]),
    gzipSync(Buffer.alloc(1 << 20)),
    zstdCompressSync(Buffer.alloc(1 << 20)),
    text,
  ],
  tokens: ['\x1f\x8b\x08', '\x28\xb5\x2f\xfd', '\x50\x2a\x4d\x18', '\0\0\0\0'],
  sources: ['/archive/inflate.ts'],
  refuses: ['data_loss', 'resource_exhausted'],
  async run(bytes) {
    const outcomes = [
      await inflate(bytes, createSyncInflater, bytes.length + 1),
      await inflate(bytes, createSyncInflater, 1 + (bytes.length % 61)),
      await inflate(bytes, createStreamInflater, 1 + (bytes.length % 997)),
    ];
    // The limit stops each inflater at another byte.
    if (outcomes.some((outcome) => isErrdefs(outcome) && outcome.details === TOO_MUCH)) return;
    // With several errors, either may come first.
    const [first, ...others] = outcomes.map((outcome) => (isErrdefs(outcome) ? 'refused' : outcome));
    for (const other of others) assert.equal(other, first, 'it makes no difference how a stream is read');
    if (isErrdefs(outcomes[0])) throw outcomes[0];
  },
};
