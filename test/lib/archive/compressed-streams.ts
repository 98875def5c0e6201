/** Compressed streams, whole and damaged, with the outcome of each inflater. As a program, prints the outcomes as JSON. */
import {createHash} from 'node:crypto';
import {constants, gzipSync, zstdCompressSync} from 'node:zlib';
import {
  type AsyncInflater,
  type ChunkHandler,
  canInflateSynchronously,
  createStreamInflater,
  createSyncInflater,
} from '../../../src/lib/archive/inflate.ts';
import {codeOf} from '../../../src/lib/errdefs.ts';

/** 300 kB of compressible text without repetition. */
export const PLAIN = Buffer.from(Array.from({length: 30_000}, (_, i) => `${i * 7919}`.padStart(10)).join(''));

/** Members and frames, split at a fixed offset. */
const GZIP = Buffer.concat([PLAIN.subarray(0, 100_000), PLAIN.subarray(100_000)].map((part) => gzipSync(part)));
const SKIPPABLE = Buffer.from('5f2a4d180400000001020304', 'hex');
const CHECKSUM = {params: {[constants.ZSTD_c_checksumFlag]: 1}};
const ZSTD = Buffer.concat([
  SKIPPABLE,
  zstdCompressSync(PLAIN.subarray(0, 100_000), CHECKSUM),
  SKIPPABLE,
  zstdCompressSync(PLAIN.subarray(100_000)),
]);

function damaged(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at]! ^= 0xff;
  return copy;
}

/** `error`: expected error class. */
export const STREAMS: Readonly<
  Record<string, {readonly bytes: Uint8Array; readonly plain?: Uint8Array; readonly kind: string; readonly error?: string}>
> = {
  'gzip, two members': {bytes: GZIP, kind: 'gzip'},
  'gzip and zeros': {bytes: Buffer.concat([GZIP, Buffer.alloc(1000)]), kind: 'gzip'},
  'zstd, skippable frames and two others': {bytes: ZSTD, kind: 'zstd'},
  'zstd, with a skippable frame of no length': {bytes: Buffer.concat([ZSTD, Buffer.from('502a4d1800000000', 'hex')]), kind: 'zstd'},
  'zstd, one byte repeated': {bytes: zstdCompressSync(Buffer.alloc(500_000, 'a')), plain: Buffer.alloc(500_000, 'a'), kind: 'zstd'},
  'zstd, nothing in it': {bytes: zstdCompressSync(Buffer.alloc(0)), plain: Buffer.alloc(0), kind: 'zstd'},
  neither: {bytes: PLAIN, kind: 'none'},
  'three bytes': {bytes: Buffer.from('abc'), plain: Buffer.from('abc'), kind: 'none'},
  nothing: {bytes: Buffer.alloc(0), plain: Buffer.alloc(0), kind: 'none'},
  'gzip, cut short by a byte': {bytes: GZIP.subarray(0, -1), kind: 'gzip', error: 'data_loss'},
  'gzip, cut short in the second member': {bytes: GZIP.subarray(0, -20_000), kind: 'gzip', error: 'data_loss'},
  'gzip, cut short in its header': {bytes: GZIP.subarray(0, 4), kind: 'gzip', error: 'data_loss'},
  'gzip, its magic only': {bytes: GZIP.subarray(0, 3), kind: 'gzip', error: 'data_loss'},
  'gzip, damaged': {bytes: damaged(GZIP, 5000), kind: 'gzip', error: 'data_loss'},
  'gzip, its checksum damaged': {bytes: damaged(GZIP, GZIP.length - 8), kind: 'gzip', error: 'data_loss'},
  'gzip and garbage': {bytes: Buffer.concat([GZIP, Buffer.from('garbage')]), kind: 'gzip', error: 'data_loss'},
  'gzip and a byte': {bytes: Buffer.concat([GZIP, Buffer.from('x')]), kind: 'gzip', error: 'data_loss'},
  'gzip, zeros and garbage': {bytes: Buffer.concat([GZIP, Buffer.alloc(10), Buffer.from('x')]), kind: 'gzip', error: 'data_loss'},
  'gzip, zeros and gzip': {bytes: Buffer.concat([GZIP, Buffer.alloc(512), GZIP]), kind: 'gzip', error: 'data_loss'},
  'zstd, cut short by a byte': {bytes: ZSTD.subarray(0, -1), kind: 'zstd', error: 'data_loss'},
  'zstd, cut short in the first frame': {bytes: ZSTD.subarray(0, 1000), kind: 'zstd', error: 'data_loss'},
  'zstd, cut short in a skippable frame': {bytes: SKIPPABLE.subarray(0, -1), kind: 'zstd', error: 'data_loss'},
  'zstd, damaged': {bytes: damaged(ZSTD, 5000), kind: 'zstd', error: 'data_loss'},
  'zstd and garbage': {bytes: Buffer.concat([ZSTD, Buffer.from('garbage')]), kind: 'zstd', error: 'data_loss'},
  'zstd and zeros': {bytes: Buffer.concat([ZSTD, Buffer.alloc(8)]), kind: 'zstd', error: 'data_loss'},
  'zstd, a window of 512 MiB asked for': {bytes: Buffer.from('28b52ffd0098010000', 'hex'), kind: 'zstd', error: 'resource_exhausted'},
};

export interface Outcome {
  readonly kind: string;
  readonly error?: string;
  /** Of the output, if there was no error. */
  readonly sha256?: string;
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export async function inflate(open: (sink: ChunkHandler) => AsyncInflater, bytes: Uint8Array, step: number): Promise<Outcome> {
  const hash = createHash('sha256');
  const inflater = open((chunk) => hash.update(chunk));
  let error: string | undefined;
  try {
    for (let at = 0; at < bytes.length; at += step) await inflater.write(bytes.subarray(at, at + step));
    await inflater.end();
  } catch (err) {
    error = codeOf(err);
  } finally {
    inflater.close();
  }
  const kind = inflater.kind ?? 'unknown';
  return error === undefined ? {kind, sha256: hash.digest('hex')} : {kind, error};
}

export const OPENERS = {synchronous: createSyncInflater, public: createStreamInflater};

export async function inflateAll(): Promise<Record<string, Outcome>> {
  const outcomes: Record<string, Outcome> = {};
  for (const [name, {bytes}] of Object.entries(STREAMS))
    for (const [way, open] of Object.entries(OPENERS))
      for (const step of [bytes.length + 1, 1013, 61])
        outcomes[`${name}; ${way}; ${step > bytes.length ? 'at once' : `by ${step} bytes`}`] = await inflate(open, bytes, step);
  return outcomes;
}

if (import.meta.main) console.log(JSON.stringify({synchronous: canInflateSynchronously(), outcomes: await inflateAll()}));
