/**
 * The worker thread's side: one pass over a blob's bytes – hash, blob file, inflate, diff ID, tree. Everything in it is
 * synchronous; jobs of one thread take turns chunk by chunk.
 */
import {createHash, type Hash} from 'node:crypto';
import {closeSync, openSync, readSync, rmSync, writeSync} from 'node:fs';
import {join} from 'node:path';
import {setImmediate} from 'node:timers/promises';
import {parentPort} from 'node:worker_threads';
import {type Applier, type ApplyResult, createApplier} from '../archive/apply.ts';
import {type AsyncInflater, openInflater} from '../archive/inflate.ts';
import {createLayerScan, type ImpliedParent, type LayerScan} from '../archive/scan.ts';
import {createTarReader, type TarReader} from '../archive/tar.ts';
import {ErrdefsError, type ErrorJSON, fromErrno, isErrdefs, resolve, toJSON} from '../errdefs.ts';
import type {Descriptor, Digest} from '../oci/descriptor.ts';
import {Ingest} from '../store/blobs.ts';
import {EROFS_TAR, indexTar} from '../store/erofs.ts';
import type {LayerForm} from '../store/snapshotters.ts';

export interface LayerJob {
  /** The object, for messages: `layer sha256:…`. */
  readonly what: string;
  /** Where the bytes come from: the network by way of the main thread, into an ingest; or a blob that is here. */
  readonly source:
    | {readonly kind: 'network'; readonly ingestPath: string; readonly expected: Pick<Descriptor, 'digest' | 'size'>}
    | {readonly kind: 'blob'; readonly path: string};
  /** Absent: the bytes are only stored. */
  readonly unpack?: {
    /** The layer's directory; its tree is made in `fs` in it. */
    readonly directory: string;
    readonly form: LayerForm;
    /** Trees below, nearest first; absent while they are not known. */
    readonly lowers?: readonly string[];
    readonly diffID: Digest;
  };
}

export interface LayerResult {
  /** Bytes of the blob, in all. */
  readonly size: number;
  /** Absent when nothing was extracted: the layer was only stored, or indexed. */
  readonly applied?: ApplyResult;
  /** Present when the layer can be indexed once the layers below are known. */
  readonly unindexed?: Unindexed;
  readonly warnings: readonly string[];
}

/** What an index waits for. */
export interface Unindexed {
  readonly impliedParents: readonly ImpliedParent[];
  /** Where the tar's entries end, in bytes. */
  readonly entriesEnd: number;
}

export type ToWorker =
  | {readonly type: 'start'; readonly id: number; readonly job: LayerJob}
  | {readonly type: 'chunk'; readonly id: number; readonly bytes: Uint8Array}
  | {readonly type: 'end'; readonly id: number}
  | {readonly type: 'abort'; readonly id: number};

export type FromWorker =
  | {readonly type: 'started'; readonly id: number; readonly offset: number}
  /** `bytes` of the blob are dealt with; `unpacked` bytes of the tree are made so far. */
  | {readonly type: 'ack'; readonly id: number; readonly bytes: number; readonly unpacked: number}
  | {readonly type: 'done'; readonly id: number; readonly result: LayerResult}
  | {
      readonly type: 'error';
      readonly id: number;
      readonly error: {readonly json?: ErrorJSON; readonly bug?: {readonly message: string; readonly stack: string}};
    };

/** Bytes read from a blob at a time. */
const CHUNK = 256 << 10;
/** Bytes written at a time: on some filesystems larger writes are slower. */
const MAX_WRITE = 128 << 10;

/** Where an inflated layer goes. */
interface Target {
  write(chunk: Uint8Array): void;
  end(): Pick<LayerResult, 'applied' | 'unindexed'>;
  close(): void;
}

class LayerPipeline {
  readonly #job: LayerJob;
  readonly #ingest: Ingest | undefined;
  readonly #inflater: AsyncInflater | undefined;
  readonly #target: Target | undefined;
  readonly #diffHash: Hash | undefined;
  readonly #warnings: string[] = [];
  #unpackFailure: {readonly err: unknown} | undefined;
  #unpacked = 0;
  #size = 0;

  constructor(job: LayerJob) {
    this.#job = job;
    if (job.source.kind === 'network') this.#ingest = Ingest.reopen(job.source.ingestPath, job.source.expected, job.what);
    if (job.unpack === undefined) return;
    const target = openTarget(job.unpack, (message) => this.#warnings.push(message));
    const hash = createHash('sha256');
    this.#target = target;
    this.#diffHash = hash;
    this.#inflater = openInflater((chunk) => {
      hash.update(chunk);
      target.write(chunk);
      this.#unpacked += chunk.length;
    });
  }

  /** Bytes of the tree's tar that are dealt with. */
  get unpacked(): number {
    return this.#unpacked;
  }

  /** Takes what an earlier attempt left of a download. @returns bytes of the blob that are here */
  async resume(): Promise<number> {
    for (const chunk of this.#ingest?.existing() ?? []) {
      this.#size += chunk.length;
      await this.#inflate(chunk);
    }
    return this.#size;
  }

  write(chunk: Uint8Array): void | Promise<void> {
    this.#ingest?.write(chunk);
    this.#size += chunk.length;
    return this.#inflate(chunk);
  }

  /** A failure here waits until the blob is whole: its digest tells whether the layer is wrong or only arrived wrong, and its bytes are worth keeping. */
  #inflate(chunk: Uint8Array): void | Promise<void> {
    if (this.#inflater === undefined || this.#unpackFailure !== undefined) return;
    const fail = (err: unknown): void => {
      this.#unpackFailure = {err};
    };
    try {
      return this.#inflater.write(chunk)?.catch(fail);
    } catch (err) {
      fail(err);
    }
  }

  /** Reads the whole of a blob that is here; other jobs get their turns between the chunks. */
  async pump(path: string, onChunk: () => void): Promise<void> {
    let fd: number | undefined;
    try {
      fd = openSync(path, 'r');
      const buffer = Buffer.allocUnsafe(CHUNK);
      for (let n = readSync(fd, buffer); n > 0; n = readSync(fd, buffer)) {
        await this.write(buffer.subarray(0, n));
        onChunk();
        await setImmediate();
      }
    } catch (err) {
      throw fromErrno(err, this.#job.what);
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
  }

  /** The blob first: its digest is what the bytes are judged by, before anything is believed of what they unpack to. */
  async end(): Promise<LayerResult> {
    this.#ingest?.finish();
    if (this.#unpackFailure !== undefined) throw this.#unpackFailure.err;
    const result = {size: this.#size, warnings: this.#warnings};
    if (this.#target === undefined) return result;
    await this.#inflater!.end();
    const diffID = `sha256:${this.#diffHash!.digest('hex')}`;
    if (diffID !== this.#job.unpack!.diffID)
      throw new ErrdefsError(
        'failed_precondition',
        `${this.#job.what} unpacks to ${diffID}, the image's config says ${this.#job.unpack!.diffID}`,
      );
    return {...result, ...this.#target.end()};
  }

  close(): void {
    this.#ingest?.close();
    this.#inflater?.close();
    this.#target?.close();
  }
}

function openTarget(unpack: NonNullable<LayerJob['unpack']>, warn: (message: string) => void): Target {
  const {directory, form, lowers} = unpack;
  const applier = (): Applier =>
    createApplier({
      root: join(directory, 'fs'),
      form: form === 'plain' ? 'plain' : 'overlay',
      ...(lowers === undefined ? {} : {lowers}),
      warn,
    });
  // With the layers below at hand a layer is there to be extracted: it was found to need them.
  if (form === 'erofs' && lowers === undefined) return new IndexedTarget(directory, applier);
  const tree = applier();
  return {write: (chunk) => tree.write(chunk), end: () => ({applied: tree.end()}), close: () => tree.abort()};
}

/** Keeps the tar as it is and indexes it; one that an index would not do right is extracted at the end. */
class IndexedTarget implements Target {
  readonly #directory: string;
  readonly #applier: () => Applier;
  readonly #scan: LayerScan = createLayerScan();
  readonly #reader: TarReader = createTarReader(this.#scan);
  #size = 0;
  #fd: number;

  constructor(directory: string, applier: () => Applier) {
    this.#directory = directory;
    this.#applier = applier;
    this.#fd = openSync(join(directory, EROFS_TAR), 'wx+', 0o600);
  }

  write(chunk: Uint8Array): void {
    try {
      for (let done = 0; done < chunk.length; ) done += writeSync(this.#fd, chunk, done, Math.min(chunk.length - done, MAX_WRITE));
    } catch (err) {
      throw fromErrno(err, join(this.#directory, EROFS_TAR));
    }
    this.#size += chunk.length;
    this.#reader.write(chunk);
  }

  end(): Pick<LayerResult, 'applied' | 'unindexed'> {
    this.#reader.end();
    const {entriesEnd} = this.#reader;
    const impliedParents = this.#scan.impliedParents();
    // Some writers leave out the last padding; the kernel does not read half a block.
    const isWhole = this.#size >= entriesEnd;
    if (this.#scan.reasons.size === 0 && isWhole) {
      if (impliedParents.length > 0) return {unindexed: {impliedParents, entriesEnd}};
      if (indexTar(this.#directory)) return {};
    }
    const tree = this.#applier();
    try {
      const buffer = Buffer.allocUnsafe(CHUNK);
      for (let at = 0, n = 0; ; at += n) {
        n = readSync(this.#fd, buffer, 0, CHUNK, at);
        if (n === 0) break;
        tree.write(buffer.subarray(0, n));
      }
      const applied = tree.end();
      rmSync(join(this.#directory, EROFS_TAR));
      return {applied};
    } finally {
      tree.abort();
    }
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}

/** Serves one end of a thread's channel. Messages of one job are dealt with in order, jobs side by side. */
export function serve(port: {
  on(event: 'message', listener: (message: ToWorker) => void): unknown;
  postMessage(message: FromWorker): void;
}): void {
  const jobs = new Map<number, {readonly pipeline: LayerPipeline; queue: Promise<void> | undefined}>();
  const close = (id: number): void => {
    jobs.get(id)?.pipeline.close();
    jobs.delete(id);
  };
  const fail = (id: number, err: unknown): void => {
    close(id);
    const known = isErrdefs(err) || resolve(err) !== 'unknown';
    const bug = {message: String((err as Error)?.message ?? err), stack: String((err as Error)?.stack ?? '')};
    port.postMessage({type: 'error', id, error: known ? {json: toJSON(err)} : {bug}});
  };
  const finish = async (id: number, pipeline: LayerPipeline): Promise<void> => {
    const result = await pipeline.end();
    close(id);
    port.postMessage({type: 'done', id, result});
  };
  const start = async (id: number, pipeline: LayerPipeline, {source}: LayerJob): Promise<void> => {
    port.postMessage({type: 'started', id, offset: await pipeline.resume()});
    if (source.kind !== 'blob') return;
    await pipeline.pump(source.path, () => {
      if (!jobs.has(id)) throw new ErrdefsError('canceled', 'job');
      port.postMessage({type: 'ack', id, bytes: 0, unpacked: pipeline.unpacked});
    });
    await finish(id, pipeline);
  };
  const take = (message: ToWorker, pipeline: LayerPipeline): void | Promise<void> => {
    const {id} = message;
    if (message.type === 'start') return start(id, pipeline, message.job);
    if (message.type === 'end') return finish(id, pipeline);
    if (message.type !== 'chunk') return close(id);
    const ack = (): void => port.postMessage({type: 'ack', id, bytes: message.bytes.length, unpacked: pipeline.unpacked});
    const written = pipeline.write(message.bytes);
    if (written instanceof Promise) return written.then(ack);
    ack();
  };
  port.on('message', (message) => {
    const {id} = message;
    try {
      if (message.type === 'start') jobs.set(id, {pipeline: new LayerPipeline(message.job), queue: undefined});
      const job = jobs.get(id);
      if (job === undefined) return; // it has failed already, and said so
      // An abort does not wait for what it aborts.
      if (message.type === 'abort') return close(id);
      const taken =
        job.queue === undefined
          ? take(message, job.pipeline)
          : job.queue.then(() => (jobs.has(id) ? take(message, job.pipeline) : undefined));
      if (!(taken instanceof Promise)) return;
      const queue = taken
        .catch((err: unknown) => {
          if (jobs.has(id)) fail(id, err);
        })
        .then(() => {
          if (job.queue === queue) job.queue = undefined;
        });
      job.queue = queue;
    } catch (err) {
      fail(id, err);
    }
  });
}

if (parentPort !== null) serve(parentPort);
