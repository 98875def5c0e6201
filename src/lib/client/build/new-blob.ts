/** Blobs in the making: bytes go to an ingest, and become a blob when the image that needs them is whole. */
import type {Gzip, ZstdCompress} from 'node:zlib';
import {ErrdefsError, isErrdefs} from '../../errdefs.ts';
import type {Lock} from '../../fs/lock.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {createHash, randomHex} from '../../oci/hash.ts';
import {Ingest, ingestKey} from '../../store/blob-store.ts';
import type {Context} from '../context.ts';
import type {LayerCompression} from '../types/index.ts';

type Compression = NonNullable<LayerCompression['compression']>;

/** Highest compression level of each format. */
const MAX_LEVEL: Readonly<Record<Compression, number>> = {none: 0, gzip: 9, zstd: 22};

/** @throws invalid_argument the format has no such level */
export function checkLevel(compression: Compression, level: number | undefined): void {
  if (level === undefined) return;
  if (compression === 'none') throw new ErrdefsError('invalid_argument', `level ${level} without compression`);
  if (!Number.isSafeInteger(level) || level < 1 || level > MAX_LEVEL[compression])
    throw new ErrdefsError('invalid_argument', `level ${level}: ${compression} has levels 1 to ${MAX_LEVEL[compression]}`);
}

/** An ingest of a blob whose digest is not known yet. */
export class NewBlob implements Disposable {
  readonly #context: Context;
  readonly #key: string;
  readonly #ingest: Ingest;
  readonly #lock: Lock;
  #digest: Digest | undefined;
  #published = false;

  private constructor(context: Context, key: string, ingest: Ingest, lock: Lock) {
    this.#context = context;
    this.#key = key;
    this.#ingest = ingest;
    this.#lock = lock;
  }

  /** @param ref names the ingest in `content active` */
  static async open(context: Context, namespace: string, ref: string): Promise<NewBlob> {
    const {store, lockTimeoutMs} = context;
    const own = `${ref} ${randomHex(8)}`;
    const key = ingestKey(namespace, own);
    store.ensureCreated();
    const lock = await store.blobs.lock(key, {timeoutMs: lockTimeoutMs, purpose: own});
    try {
      return new NewBlob(context, key, Ingest.open(store.blobs.beginIngest(key, {ref: own, namespace, total: 0}), {}, own), lock);
    } catch (err) {
      lock.release();
      throw err;
    }
  }

  write(chunk: Uint8Array): void {
    this.#ingest.write(chunk);
  }

  /** Completes and syncs the bytes; they are no blob before `publish`. */
  finish(): {readonly digest: Digest; readonly size: number} {
    this.#ingest.sync();
    this.#digest = this.#ingest.digest();
    return {digest: this.#digest, size: this.#ingest.offset};
  }

  /** Makes the bytes a blob. The caller has leased its digest, and syncs its name. */
  publish(): void {
    this.#context.store.blobs.publish(this.#key, this.#digest!, {syncName: false});
    this.#published = true;
  }

  /** Discards what is not published. */
  [Symbol.dispose](): void {
    const {blobs} = this.#context.store;
    this.#ingest.close();
    if (!this.#published) blobs.discardIngestQuietly(this.#key);
    this.#lock.release();
  }
}

const zlib = (): typeof import('node:zlib') => process.getBuiltinModule('node:zlib');

/** A new layer: takes a tar and keeps it compressed. Compression runs in threads of the engine. */
export class LayerSink {
  readonly #blob: NewBlob;
  readonly #stream: Gzip | ZstdCompress | undefined;
  readonly #hash = createHash('sha256');
  #failure: unknown;

  /** @param blob receives the compressed bytes */
  constructor(blob: NewBlob, compression: Compression, level: number | undefined) {
    this.#blob = blob;
    this.#stream = openCompressor(compression, level);
    this.#stream?.on('data', (chunk: Buffer) => {
      try {
        blob.write(chunk);
      } catch (err) {
        this.#stream!.destroy(err as Error);
      }
    });
    this.#stream?.on('error', (err: Error) => {
      this.#failure ??= isErrdefs(err) ? err : new ErrdefsError('internal', `compression: ${err.message}`, {cause: err});
    });
  }

  /** Takes the next bytes of the tar. They may be reused once the promise is settled. */
  async write(chunk: Uint8Array): Promise<void> {
    this.#hash.update(chunk);
    const stream = this.#stream;
    if (stream === undefined) this.#blob.write(chunk);
    else await this.#completed((done) => stream.write(chunk, done));
  }

  /** @returns digest and size of the compressed layer, and the digest of the tar */
  async finish(): Promise<{readonly digest: Digest; readonly size: number; readonly diffID: Digest}> {
    const stream = this.#stream;
    if (stream !== undefined) await this.#completed((done) => stream.once('end', done).end());
    return {...this.#blob.finish(), diffID: `sha256:${this.#hash.digest('hex')}` as Digest};
  }

  async #completed(action: (done: () => void) => void): Promise<void> {
    const {promise, resolve} = Promise.withResolvers<void>();
    // A failed stream closes without calling back.
    this.#stream!.once('close', resolve);
    action(resolve);
    await promise;
    this.#stream!.off('close', resolve);
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Frees the memory of the compressor. */
  close(): void {
    this.#stream?.destroy();
  }
}

export function openCompressor(compression: Compression, level: number | undefined): Gzip | ZstdCompress | undefined {
  if (compression === 'none') return undefined;
  const {constants, createGzip, createZstdCompress} = zlib();
  if (compression === 'gzip') return createGzip({chunkSize: 1 << 16, ...(level === undefined ? {} : {level})});
  return createZstdCompress({
    chunkSize: 1 << 16,
    ...(level === undefined ? {} : {params: {[constants.ZSTD_c_compressionLevel]: level}}),
  });
}
