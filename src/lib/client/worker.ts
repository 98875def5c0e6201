/**
 * The worker threads' side: one pass over a blob's bytes. One thread hashes them, keeps them as a blob and inflates them;
 * what comes out goes to a second one, which lays the layer out (laying.ts). Jobs of one thread take turns chunk by chunk.
 */
import {closeSync, openSync, readSync} from 'node:fs';
import {setImmediate} from 'node:timers/promises';
import {type MessagePort, parentPort} from 'node:worker_threads';
import {type AsyncInflater, openInflater} from '../archive/inflate.ts';
import {fromErrno} from '../errdefs.ts';
import type {Descriptor} from '../oci/descriptor.ts';
import {Ingest} from '../store/blobs.ts';
import {type FromLaying, type Laid, type LayingJob, type Port, serveLaying, type ToLaying} from './laying.ts';
import {type Ring, RingWriter, slotOf} from './ring.ts';
import {fromThreadError, type ThreadError, toThreadError} from './thread-errors.ts';

export interface LayerJob {
  /** The object, for messages: `layer sha256:…`. */
  readonly what: string;
  /** Where the bytes come from: the network by way of the main thread, into an ingest; or a blob that is here. */
  readonly source:
    | {readonly kind: 'network'; readonly ingestPath: string; readonly expected: Pick<Descriptor, 'digest' | 'size'>}
    | {readonly kind: 'blob'; readonly path: string};
}

export interface LayerResult {
  /** Bytes of the blob, in all. */
  readonly size: number;
  /** Absent when the bytes are only stored. */
  readonly laid?: Laid;
}

/** The way from the thread that inflates to the one that lays out; each of them gets one end of the port. */
export interface Passage {
  readonly port: MessagePort;
  readonly ring: Ring;
}

export type ToWorker =
  /** `input` brings the chunks; without `passage` the bytes are only stored. */
  | {readonly type: 'start'; readonly id: number; readonly job: LayerJob; readonly input: Ring; readonly passage?: Passage}
  | {readonly type: 'lay'; readonly job: LayingJob; readonly passage: Passage}
  | {readonly type: 'chunk'; readonly id: number; readonly slot: number; readonly length: number}
  | {readonly type: 'end'; readonly id: number}
  | {readonly type: 'abort'; readonly id: number};

export type FromWorker =
  | {readonly type: 'started'; readonly id: number; readonly offset: number}
  /** As many chunks are dealt with; `unpacked` bytes have come out so far. */
  | {readonly type: 'ack'; readonly id: number; readonly chunks: 0 | 1; readonly unpacked: number}
  | {readonly type: 'done'; readonly id: number; readonly result: LayerResult}
  | {readonly type: 'error'; readonly id: number; readonly error: ThreadError};

/** Bytes read from a blob at a time. */
const CHUNK = 256 << 10;

/** Its reason is the other thread's to say. */
class Refused extends Error {}

/** The thread that lays a layer out, seen from the one that inflates it. */
class LayingThread {
  readonly #port: Port<ToLaying, FromLaying>;
  readonly #writer: RingWriter;
  readonly #answer: Promise<FromLaying>;

  constructor({port, ring}: Passage) {
    this.#port = port as Port<ToLaying, FromLaying>;
    this.#writer = new RingWriter(ring, (length) => this.#port.postMessage(length));
    this.#answer = new Promise((resolve) => void this.#port.on('message', resolve));
  }

  /** Memory to inflate into. */
  get slot(): Uint8Array {
    return this.#writer.slot;
  }

  write(chunk: Uint8Array): void {
    if (!this.#writer.write(chunk)) throw new Refused();
  }

  async end(): Promise<Laid> {
    this.#port.postMessage('end');
    const {laid, error} = await this.#answer;
    if (error !== undefined) throw fromThreadError(error);
    return laid;
  }

  close(): void {
    this.#port.postMessage('close');
    this.#port.close();
  }
}

class LayerPipeline {
  readonly #job: LayerJob;
  readonly #ingest: Ingest | undefined;
  readonly #inflater: AsyncInflater | undefined;
  readonly #laying: LayingThread | undefined;
  #unpackFailure: {readonly err: unknown} | undefined;
  #unpacked = 0;
  #size = 0;
  #closed = false;

  constructor(job: LayerJob, passage: Passage | undefined) {
    this.#job = job;
    if (passage !== undefined) {
      const laying = new LayingThread(passage);
      this.#laying = laying;
      this.#inflater = openInflater(
        (chunk) => {
          this.#unpacked += chunk.length;
          laying.write(chunk);
        },
        () => laying.slot,
      );
    }
    try {
      if (job.source.kind === 'network') this.#ingest = Ingest.reopen(job.source.ingestPath, job.source.expected, job.what);
    } catch (err) {
      this.close();
      throw err;
    }
  }

  /** Bytes that have come out so far. */
  get unpacked(): number {
    return this.#unpacked;
  }

  /** Takes what an earlier attempt left of a download. @returns bytes of the blob that are here */
  async resume(): Promise<number> {
    for (const chunk of this.#ingest?.existing() ?? []) {
      if (this.#closed) break;
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
      // A decompressor that is closed must not be used again: the process would die of it.
      for (let n = readSync(fd, buffer); n > 0 && !this.#closed; n = readSync(fd, buffer)) {
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
    const size = this.#size;
    if (this.#laying === undefined) return {size};
    if (this.#unpackFailure === undefined) await this.#inflater!.end();
    else if (!(this.#unpackFailure.err instanceof Refused)) throw this.#unpackFailure.err;
    return {size, laid: await this.#laying.end()};
  }

  close(): void {
    this.#closed = true;
    this.#ingest?.close();
    this.#inflater?.close();
    this.#laying?.close();
  }
}

/** Serves one end of a thread's channel. Messages of one job are dealt with in order, jobs side by side. */
export function serve(port: Pick<Port<FromWorker, ToWorker>, 'on' | 'postMessage'>): void {
  const jobs = new Map<number, {readonly pipeline: LayerPipeline; readonly input: Ring; queue: Promise<void> | undefined}>();
  const close = (id: number): void => {
    jobs.get(id)?.pipeline.close();
    jobs.delete(id);
  };
  const fail = (id: number, err: unknown): void => {
    close(id);
    port.postMessage({type: 'error', id, error: toThreadError(err)});
  };
  const finish = async (id: number, pipeline: LayerPipeline): Promise<void> => {
    const result = await pipeline.end();
    if (!jobs.has(id)) return; // aborted meanwhile
    close(id);
    port.postMessage({type: 'done', id, result});
  };
  const start = async (id: number, pipeline: LayerPipeline, {source}: LayerJob): Promise<void> => {
    port.postMessage({type: 'started', id, offset: await pipeline.resume()});
    if (source.kind !== 'blob') return;
    await pipeline.pump(source.path, () => port.postMessage({type: 'ack', id, chunks: 0, unpacked: pipeline.unpacked}));
    if (jobs.has(id)) await finish(id, pipeline);
  };
  type ForJob = Exclude<ToWorker, {readonly type: 'lay'}>;
  const take = (message: ForJob, pipeline: LayerPipeline, input: Ring): void | Promise<void> => {
    const {id} = message;
    if (message.type === 'start') return start(id, pipeline, message.job);
    if (message.type === 'end') return finish(id, pipeline);
    if (message.type !== 'chunk') return close(id);
    const ack = (): void => port.postMessage({type: 'ack', id, chunks: 1, unpacked: pipeline.unpacked});
    const written = pipeline.write(slotOf(input, message.slot, message.length));
    if (written instanceof Promise) return written.then(ack);
    ack();
  };
  port.on('message', (message) => {
    if (message.type === 'lay') {
      serveLaying(message.job, message.passage.ring, message.passage.port as Port<FromLaying, ToLaying>);
      return;
    }
    const {id} = message;
    try {
      if (message.type === 'start')
        jobs.set(id, {pipeline: new LayerPipeline(message.job, message.passage), input: message.input, queue: undefined});
      const job = jobs.get(id);
      if (job === undefined) return; // it has failed already, and said so
      // An abort does not wait for what it aborts.
      if (message.type === 'abort') return close(id);
      const taken =
        job.queue === undefined
          ? take(message, job.pipeline, job.input)
          : job.queue.then(() => (jobs.has(id) ? take(message, job.pipeline, job.input) : undefined));
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
