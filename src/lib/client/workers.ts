/** The threads in which bytes are hashed, inflated and laid out, so that the main thread has the network, the signals and the bars to itself. */
import {availableParallelism} from 'node:os';
import type {Worker} from 'node:worker_threads';
import {ErrdefsError, type ErrorJSON, fromJSON} from '../errdefs.ts';
import type {FromWorker, LayerJob, LayerResult, ToWorker} from './worker.ts';

/** Bytes that may be on their way to a worker before the network has to wait. */
const HIGH_WATER = 8 << 20;
/** Chunks of the network are gathered up to this size, in bytes: a message costs as much as copying 100 kB. */
const BATCH = 512 << 10;
/** On a slow wire they are not held back longer than this, in milliseconds: what has not been handed over is lost with the process. */
const BATCH_MS = 100;

/** One layer's way through a worker. Bytes go in, the result comes out. */
export interface LayerTask {
  /** Bytes of the blob that are already here: where the network goes on. */
  readonly offset: Promise<number>;
  readonly result: Promise<LayerResult>;
  /** Hands over bytes; a promise means that the worker is behind, and resolves when it has caught up. */
  write(chunk: Uint8Array): void | Promise<void>;
  /** No more bytes will come; `result` settles soon. */
  end(): void;
  /** Ends the task; what was downloaded stays, what was unpacked is the caller's to remove. `result` rejects. */
  abort(reason: unknown): void;
}

interface Running {
  onMessage(message: FromWorker): void;
  fail(err: unknown): void;
}

interface Thread {
  readonly worker: Worker;
  readonly running: Map<number, Running>;
}

export class WorkerPool {
  readonly #size: number;
  readonly #threads: Promise<Thread>[] = [];
  #load: number[] = [];
  #nextId = 1;
  #closed = false;

  /** @param size threads at most; each is started when it is first needed */
  constructor(size = Math.max(2, Math.min(availableParallelism(), 4))) {
    this.#size = size;
  }

  async #start(): Promise<Thread> {
    const {spawnWorker} = await import('./spawn-worker.ts');
    const worker = spawnWorker();
    const running = new Map<number, Running>();
    worker.on('message', (message: FromWorker) => running.get(message.id)?.onMessage(message));
    const stop = (err: unknown): void => {
      for (const task of running.values()) task.fail(err);
      running.clear();
    };
    worker.on('error', stop);
    worker.on('exit', (status) => stop(new ErrdefsError('internal', `worker thread ended with status ${status}`)));
    worker.unref();
    return {worker, running};
  }

  /** The thread with the least to do. */
  #pick(): {index: number; thread: Promise<Thread>} {
    let index = this.#load.indexOf(Math.min(...this.#load));
    if (this.#threads.length < this.#size && (index < 0 || this.#load[index]! > 0)) {
      index = this.#threads.push(this.#start()) - 1;
      this.#load.push(0);
    }
    this.#load[index]!++;
    return {index, thread: this.#threads[index]!};
  }

  /** Begins a job. Its weight on the pool ends with `result`. */
  async run(job: LayerJob, onProgress: (bytes: number) => void): Promise<LayerTask> {
    const {index, thread} = this.#pick();
    const {worker, running} = await thread;
    const id = this.#nextId++;
    const offset = Promise.withResolvers<number>();
    const result = Promise.withResolvers<LayerResult>();
    offset.promise.catch(() => {}); // whoever awaits `result` hears of it
    let outstanding = 0;
    let batch: Uint8Array[] = [];
    let batched = 0;
    let flushed = performance.now();
    let drained: (() => void) | undefined;
    const send = (message: ToWorker, transfer: ArrayBuffer[] = []): void => worker.postMessage(message, transfer);
    const flush = (): void => {
      flushed = performance.now();
      if (batched === 0) return;
      const bytes = new Uint8Array(batched);
      let at = 0;
      for (const chunk of batch) {
        bytes.set(chunk, at);
        at += chunk.length;
      }
      outstanding += batched;
      batch = [];
      batched = 0;
      send({type: 'chunk', id, bytes}, [bytes.buffer]);
    };
    const settle = (): void => {
      if (!running.delete(id)) return;
      this.#load[index]!--;
      if (running.size === 0) worker.unref();
      drained?.();
    };
    const fail = (err: unknown): void => {
      settle();
      offset.reject(err);
      result.reject(err);
    };
    running.set(id, {
      fail,
      onMessage: (message) => {
        switch (message.type) {
          case 'started':
            offset.resolve(message.offset);
            break;
          case 'ack':
            outstanding -= message.bytes;
            onProgress(message.unpacked);
            if (outstanding <= HIGH_WATER / 2) drained?.();
            break;
          case 'done':
            settle();
            result.resolve(message.result);
            break;
          case 'error':
            fail(fromWorkerError(message.error));
            break;
        }
      },
    });
    worker.ref();
    send({type: 'start', id, job});
    return {
      offset: offset.promise,
      result: result.promise,
      write: (chunk) => {
        batch.push(Uint8Array.prototype.slice.call(chunk));
        batched += chunk.length;
        if (batched < BATCH && performance.now() - flushed < BATCH_MS) return;
        flush();
        if (outstanding <= HIGH_WATER || !running.has(id)) return;
        return new Promise<void>((resolve) => {
          drained = () => {
            drained = undefined;
            resolve();
          };
        });
      },
      end: () => {
        flush();
        send({type: 'end', id});
      },
      abort: (reason) => {
        if (!running.has(id)) return;
        send({type: 'abort', id});
        fail(reason);
      },
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.all(this.#threads.map(async (thread) => (await thread).worker.terminate()));
  }
}

/** An error that crossed the thread boundary: a class of ours, or a bug with the stack that it had there. */
function fromWorkerError({
  json,
  bug,
}: {
  readonly json?: ErrorJSON;
  readonly bug?: {readonly message: string; readonly stack: string};
}): Error {
  if (json !== undefined) return fromJSON(json);
  const err = new Error(bug?.message ?? 'worker failed');
  if (bug !== undefined) err.stack = bug.stack;
  return err;
}
