/** Reads layers of the store or of files, and writes new ones. */
import {createReadStream} from 'node:fs';
import {availableParallelism} from 'node:os';
import {type Compression, detectCompression, openInflater} from '../../archive/inflate.ts';
import {createTarReader} from '../../archive/tar.ts';
import {ErrdefsError, fromErrno, wrap} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {createHash} from '../../oci/hash.ts';
import {isForeignLayer, layerType, type MediaTypeFamily} from '../../oci/mediatypes.ts';
import {LocalContentStore} from '../../store/local-content-store.ts';
import type {LayerCompression} from '../types/index.ts';
import type {DerivedLayer, RawDescriptor} from './documents.ts';
import type {ImageBuild} from './image-build.ts';
import {LayerSink} from './new-blob.ts';

/** Compressed bytes that are inflated at once; what they become is in memory until it is taken. */
const SLICE = 1 << 14;

/** Layers that are compressed at once. */
export const PARALLEL_LAYERS = Math.max(1, Math.min(4, availableParallelism()));

/** The compression that a layer of the store really has. */
export function compressionOf({context, namespace}: ImageBuild, {digest}: Pick<Descriptor, 'digest'>): Compression {
  using reader = new LocalContentStore(context.store, namespace, context).open(digest);
  const head = Buffer.alloc(4);
  return detectCompression(head.subarray(0, reader.read(head, 0)));
}

/** Bytes of a layer as its tar, in pieces that the caller may keep. */
async function* inflated(source: AsyncIterable<Uint8Array>, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
  let pieces: Uint8Array[] = [];
  const inflater = openInflater(
    (chunk) => pieces.push(chunk),
    () => Buffer.allocUnsafeSlow(1 << 16),
  );
  try {
    for await (const chunk of source) {
      signal?.throwIfAborted();
      for (let at = 0; at < chunk.length; at += SLICE) {
        await inflater.write(chunk.subarray(at, at + SLICE));
        yield* pieces;
        pieces = [];
      }
    }
    await inflater.end();
    yield* pieces;
  } finally {
    inflater.close();
  }
}

/** The tar of a layer of the store. @throws failed_precondition after the last byte: its digest is not the diff ID */
export async function* readLayer(
  build: ImageBuild,
  layer: Pick<Descriptor, 'digest' | 'size'>,
  diffID: Digest,
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  const content = new LocalContentStore(build.context.store, build.namespace, build.context);
  for await (const chunk of inflated(content.read(layer.digest), build.signal)) {
    hash.update(chunk);
    yield chunk;
  }
  const actual = `sha256:${hash.digest('hex')}`;
  if (actual !== diffID)
    throw new ErrdefsError('failed_precondition', `layer ${layer.digest} unpacks to ${actual}, but the image's config says ${diffID}`);
}

/** Writes a layer of a tar. @param ref names it in `content active` */
export async function writeLayer(
  build: ImageBuild,
  ref: string,
  {compression, level}: {readonly compression: Compression; readonly level?: number | undefined},
  fill: (sink: LayerSink) => Promise<void>,
): Promise<{readonly digest: Digest; readonly size: number; readonly diffID: Digest}> {
  const sink = new LayerSink(await build.newBlob(ref), compression, level);
  try {
    await fill(sink);
    return await sink.finish();
  } finally {
    sink.close();
  }
}

/**
 * The compression that a layer gets.
 *
 * @param actual what it has
 * @throws failed_precondition docker's media types have none for zstd
 */
export function targetCompression(family: MediaTypeFamily, actual: Compression, asked: Compression | undefined): Compression {
  if (family === 'oci' || (asked ?? actual) !== 'zstd') return asked ?? actual;
  if (asked === undefined) return 'gzip';
  throw new ErrdefsError('failed_precondition', "docker's media types have none for zstd", {hint: "use OCI's: --oci"});
}

/**
 * Brings a layer of the store into a form: shared where it has that form, else compressed anew.
 *
 * @returns its new descriptor, for `replaceDescriptor`
 */
export async function convertLayer(
  build: ImageBuild,
  raw: RawDescriptor,
  diffID: Digest,
  family: MediaTypeFamily,
  {compression: asked, level}: LayerCompression,
): Promise<DerivedLayer> {
  const actual = compressionOf(build, raw);
  const compression = targetCompression(family, actual, asked);
  const row = {ref: `layer-${raw.digest}`, total: raw.size};
  if (compression === actual && level === undefined) {
    build.emit({...row, status: 'exists', offset: raw.size});
    const mediaType = layerType(family, compression, isForeignLayer(raw.mediaType));
    return {descriptor: {mediaType, digest: raw.digest, size: raw.size}, diffID};
  }
  build.emit({...row, status: 'checking', offset: 0});
  const {digest, size} = await writeLayer(build, `convert ${raw.digest}`, {compression, level}, async (sink) => {
    for await (const chunk of readLayer(build, raw, diffID)) await sink.write(chunk);
  });
  build.emit({...row, status: 'done', offset: raw.size});
  // New bytes are nowhere else, so that the layer is no foreign one.
  return {descriptor: {mediaType: layerType(family, compression), digest, size}, diffID};
}

/** The bytes of a file. @throws not_found, permission_denied, … */
async function* fileBytes(path: string): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of createReadStream(path, {highWaterMark: 1 << 18})) yield chunk as Buffer;
  } catch (err) {
    throw fromErrno(err, `layer ${JSON.stringify(path)}`);
  }
}

/** Bytes that the caller gives. */
async function* givenBytes(source: AsyncIterable<Uint8Array>, what: string): AsyncGenerator<Uint8Array> {
  try {
    yield* source;
  } catch (err) {
    throw fromErrno(err, what);
  }
}

/**
 * Adds a layer from a tar: the path of a file, or its bytes. A compressed one is kept as it is, where that is the form that was asked for.
 *
 * @throws data_loss, invalid_argument no tar, or a damaged one
 */
export async function addLayer(
  build: ImageBuild,
  tar: string | AsyncIterable<Uint8Array>,
  family: MediaTypeFamily,
  options: LayerCompression,
): Promise<DerivedLayer> {
  const what = typeof tar === 'string' ? `layer ${JSON.stringify(tar)}` : 'layer of a stream';
  const source = (typeof tar === 'string' ? fileBytes(tar) : givenBytes(tar, what))[Symbol.asyncIterator]();
  try {
    const head: Uint8Array[] = [];
    let length = 0;
    for (; length < 4; length += head.at(-1)!.length) {
      const next = await source.next();
      if (next.done === true) break;
      head.push(next.value);
    }
    if (length === 0) throw new ErrdefsError('invalid_argument', 'it is empty');
    async function* whole(): AsyncGenerator<Uint8Array> {
      yield* head;
      for (let next = await source.next(); next.done !== true; next = await source.next()) yield next.value;
    }
    const actual = detectCompression(Buffer.concat(head));
    const compression = targetCompression(family, actual, options.compression ?? (actual === 'none' ? 'gzip' : undefined));
    const reader = createTarReader({entry: () => {}, data: () => {}, entryEnd: () => {}});
    const keep = compression === actual && options.level === undefined;
    const {digest, size, diffID} = keep
      ? await keepLayer(build, what, whole(), (chunk) => reader.write(chunk))
      : await writeLayer(build, what, {compression, level: options.level}, async (sink) => {
          for await (const chunk of inflated(whole(), build.signal)) {
            reader.write(chunk);
            await sink.write(chunk);
          }
        });
    reader.end();
    build.emit({ref: `layer-${digest}`, status: 'done', offset: size, total: size});
    return {descriptor: {mediaType: layerType(family, compression), digest, size}, diffID};
  } catch (err) {
    throw err instanceof ErrdefsError && !err.message.startsWith(what) ? wrap(what, err) : err;
  } finally {
    await source.return?.(undefined);
  }
}

/** Keeps compressed bytes as they are. @param check receives the tar */
async function keepLayer(
  build: ImageBuild,
  ref: string,
  source: AsyncIterable<Uint8Array>,
  check: (chunk: Uint8Array) => void,
): Promise<{readonly digest: Digest; readonly size: number; readonly diffID: Digest}> {
  const blob = await build.newBlob(ref);
  const hash = createHash('sha256');
  async function* kept(): AsyncGenerator<Uint8Array> {
    for await (const chunk of source) {
      blob.write(chunk);
      yield chunk;
    }
  }
  for await (const chunk of inflated(kept(), build.signal)) {
    hash.update(chunk);
    check(chunk);
  }
  return {...blob.finish(), diffID: `sha256:${hash.digest('hex')}` as Digest};
}

/** Calls `fn` for each item, several at once; after a failure no other call begins, and those under way are awaited. @returns the results in order */
export async function inParallel<T, R>(items: readonly T[], fn: (item: T) => Promise<R>): Promise<readonly R[]> {
  const results: R[] = [];
  let next = 0;
  let failed = false;
  const lane = async (): Promise<void> => {
    while (!failed && next < items.length) {
      const i = next++;
      try {
        results[i] = await fn(items[i]!);
      } catch (err) {
        failed = true;
        throw err;
      }
    }
  };
  const ended = await Promise.allSettled(Array.from({length: Math.min(PARALLEL_LAYERS, items.length)}, lane));
  const failure = ended.find((one) => one.status === 'rejected');
  if (failure !== undefined) throw failure.reason;
  return results;
}
