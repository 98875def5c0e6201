/** `snapshots diff`: the layer that makes one snapshot's tree of another's. */
import {open} from 'node:fs/promises';
import {join} from 'node:path';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import {removeTree} from '../../fs/durable.ts';
import {DOCKER_LAYER, OCI_LAYER} from '../../oci/mediatypes.ts';
import type {Context} from '../context.ts';
import type {SnapshotDiffOptions} from '../types/index.ts';
import {openCompressor} from './new-blob.ts';
import {isInUse, snapshotLayer} from './snapshot-changes.ts';

const COMPRESSIONS: Readonly<Record<string, 'none' | 'gzip' | 'zstd'>> = {
  [OCI_LAYER]: 'none',
  [`${OCI_LAYER}+gzip`]: 'gzip',
  [`${OCI_LAYER}+zstd`]: 'zstd',
  [DOCKER_LAYER]: 'none',
  [`${DOCKER_LAYER}.gzip`]: 'gzip',
};

const CHUNK_BYTES = 256 << 10;

export async function diffSnapshots(
  context: Context,
  namespace: string,
  snapshotter: string,
  key: string,
  {against, mediaType = `${OCI_LAYER}+gzip`, latest, signal}: SnapshotDiffOptions,
): Promise<AsyncIterable<Uint8Array>> {
  const compression = COMPRESSIONS[mediaType];
  if (compression === undefined)
    throw new ErrdefsError('not_implemented', `media type ${JSON.stringify(mediaType)}`, {
      hint: `there are ${Object.keys(COMPRESSIONS).join(', ')}`,
    });
  const seconds = latest === undefined ? undefined : Math.floor(Date.parse(latest) / 1000);
  const pair = {namespace, snapshotter, key, against};
  const layer = compressed(snapshotLayer(context, pair, {latest: seconds, signal}), compression);
  return (await isInUse(context, pair)) ? spooled(context, layer) : layer;
}

/** Reads all before it gives the first byte, so that a slow reader does not keep a container paused. */
async function* spooled(context: Context, source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const {layers, housekeeping} = context.store;
  const work = layers.createWork();
  try {
    const file = await open(join(work, 'layer'), 'wx+', 0o600).catch((err: unknown) => {
      throw fromErrno(err, work);
    });
    try {
      for await (const chunk of source) await file.writeFile(chunk);
      for (let position = 0; ; ) {
        const {bytesRead, buffer} = await file.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES, position);
        if (bytesRead === 0) break;
        position += bytesRead;
        yield buffer.subarray(0, bytesRead);
      }
    } finally {
      await file.close();
    }
  } finally {
    housekeeping.attempt(`directory ${work}`, () => removeTree(work));
  }
}

async function* compressed(source: AsyncIterable<Buffer>, compression: 'none' | 'gzip' | 'zstd'): AsyncGenerator<Uint8Array> {
  const stream = openCompressor(compression, undefined);
  if (stream === undefined) {
    yield* source;
    return;
  }
  let out: Buffer[] = [];
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => {});
  stream.on('data', (chunk: Buffer) => out.push(chunk));
  stream.on('error', failed.reject);
  const settle = (action: (done: () => void) => unknown): Promise<void> =>
    Promise.race([new Promise<void>((resolve) => void action(() => resolve())), failed.promise]);
  try {
    for await (const chunk of source) {
      await settle((done) => stream.write(chunk, done));
      yield* out;
      out = [];
    }
    await settle((done) => stream.once('end', done).end());
    yield* out;
  } finally {
    stream.destroy();
  }
}
