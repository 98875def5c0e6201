/** The threads in which bytes are hashed, inflated and laid out, so that the main thread has the network, the signals and the bars to itself. */
import {availableParallelism} from 'node:os';
import {MessageChannel, type Worker} from 'node:worker_threads';
import {ErrdefsError} from '../errdefs.ts';
import type {LayingJob} from './laying.ts';
import {createRing, type Ring, slotOf, stop} from './ring.ts';
import {fromThreadError} from './thread-errors.ts';
import type {FromWorker, LayerJob, LayerResult, Passage, ToWorker} from './worker.ts';

/** Chunks of the network are gathered up to this size, in bytes: a message costs as much as copying 100 kB. */
const BATCH = 512 << 10;
/** So many of them may be on their way to a worker before the network has to wait. */
const BATCHES = 8;
/** On a slow wire they are not held back longer than this, in milliseconds: what has not been handed over is lost with the process. */
const BATCH_MS = 100;
/** What a layer inflates to goes from thread to thread in pieces of so many bytes, so many under way. */
const PIECE = 512 << 10;
const PIECES = 4;

/** One layer's way through the workers. Bytes go in, the result comes out. */
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

/** Two threads: one hashes and inflates, the other one lays out. A thread that did both would wait for itself. */
interface Pair {
  readonly inflating: Worker;
  readonly laying: Worker;
  readonly running: Map<number, Running>;
}

export class WorkerPool {
  readonly #size: number;
  readonly #pairs: Promise<Pair>[] = [];
  /** Bytes of blobs that each pair has before it. */
  readonly #load: number[] = [];
  #nextId = 1;
  #closed = false;

  /** @param size pairs of threads at most; each is started when it is first needed */
  constructor(size = Math.max(1, Math.min(Math.floor(availableParallelism() / 2), 2))) {
    this.#size = size;
  }

  async #start(): Promise<Pair> {
    const {spawnWorker} = await import('./spawn-worker.ts');
    const running = new Map<number, Running>();
    const end = (err: unknown): void => {
      for (const task of running.values()) task.fail(err);
      running.clear();
    };
    const [inflating, laying] = [spawnWorker(), spawnWorker()] as const;
    for (const worker of [inflating, laying]) {
      worker.on('error', end);
      worker.on('exit', (status) => end(new ErrdefsError('internal', `worker thread ended with status ${status}`)));
      worker.unref();
    }
    inflating.on('message', (message: FromWorker) => running.get(message.id)?.onMessage(message));
    return {inflating, laying, running};
  }

  /** Starts the first threads while there is something else to wait for. */
  warm(): void {
    if (this.#pairs.length === 0) this.#add();
  }

  #add(): number {
    this.#load.push(0);
    return this.#pairs.push(this.#start()) - 1;
  }

  /** The pair with the least to do. */
  #pick(): number {
    const index = this.#load.indexOf(Math.min(...this.#load));
    return index < 0 || (this.#load[index]! > 0 && this.#pairs.length < this.#size) ? this.#add() : index;
  }

  /**
   * Begins a job. Its weight on the pool ends with `result`.
   *
   * @param size bytes of the blob
   * @param lay absent: the bytes are only stored
   */
  async run(
    {job, size, lay}: {readonly job: LayerJob; readonly size: number; readonly lay?: LayingJob},
    onProgress: (bytes: number) => void,
  ): Promise<LayerTask> {
    const index = this.#pick();
    this.#load[index]! += size + 1;
    const {inflating, laying, running} = await this.#pairs[index]!;
    const id = this.#nextId++;
    const offset = Promise.withResolvers<number>();
    const result = Promise.withResolvers<LayerResult>();
    offset.promise.catch(() => {}); // whoever awaits `result` hears of it
    const input = createRing(BATCH, job.source.kind === 'network' ? BATCHES : 0);
    const ring = lay === undefined ? undefined : createRing(PIECE, PIECES);
    const settle = (): void => {
      if (!running.delete(id)) return;
      this.#load[index]! -= size + 1;
      if (ring !== undefined) stop(ring);
      if (running.size === 0) for (const worker of [inflating, laying]) worker.unref();
      batches.stop();
    };
    const send = (message: ToWorker): void => inflating.postMessage(message);
    const batches = new Batches(input, (slot, length) => send({type: 'chunk', id, slot, length}));
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
            onProgress(message.unpacked);
            if (message.chunks > 0) batches.release();
            break;
          case 'done':
            settle();
            result.resolve(message.result);
            break;
          case 'error':
            fail(fromThreadError(message.error));
            break;
        }
      },
    });
    for (const worker of [inflating, laying]) worker.ref();
    if (ring === undefined) send({type: 'start', id, job, input});
    else {
      const {port1, port2} = new MessageChannel();
      const passages = [port1, port2].map((port): Passage => ({port, ring})) as [Passage, Passage];
      laying.postMessage({type: 'lay', job: lay!, passage: passages[1]} satisfies ToWorker, [port2]);
      inflating.postMessage({type: 'start', id, job, input, passage: passages[0]} satisfies ToWorker, [port1]);
    }
    return {
      offset: offset.promise,
      result: result.promise,
      write: (chunk) => (running.has(id) ? batches.write(chunk) : undefined),
      end: () => {
        batches.flush();
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
    for (const pair of this.#pairs) {
      const {inflating, laying, running} = await pair;
      const isIdle = running.size === 0;
      for (const task of running.values()) task.fail(new ErrdefsError('canceled', 'job'));
      const ended = Promise.all([inflating.terminate(), laying.terminate()]);
      // Threads that write nothing any more are not waited for: an engine takes long to end one, and nothing to end the process.
      if (!isIdle) await ended;
    }
  }
}

/** The main thread's end of a ring. It never blocks: it is told of free slots by message, and has its writer wait by promise. */
class Batches {
  readonly #ring: Ring;
  readonly #send: (slot: number, length: number) => void;
  /** Index of the slot that is being filled, and its bytes so far. */
  #slot = 0;
  #filled = 0;
  #underWay = 0;
  #flushed = performance.now();
  /** What did not fit any more, and whoever waits until it does. */
  #rest: Uint8Array = new Uint8Array(0);
  #drained: (() => void) | undefined;
  #stopped = false;

  constructor(ring: Ring, send: (slot: number, length: number) => void) {
    this.#ring = ring;
    this.#send = send;
  }

  write(chunk: Uint8Array): void | Promise<void> {
    const rest = this.#put(chunk);
    if (performance.now() - this.#flushed >= BATCH_MS) this.flush();
    if (this.#underWay < this.#ring.slots || this.#stopped) return;
    this.#rest = Uint8Array.prototype.slice.call(rest);
    return new Promise((resolve) => {
      this.#drained = resolve;
    });
  }

  /** @returns what has no room */
  #put(bytes: Uint8Array): Uint8Array {
    let at = 0;
    while (at < bytes.length && this.#underWay < this.#ring.slots) {
      const part = bytes.subarray(at, at + this.#ring.slotBytes - this.#filled);
      slotOf(this.#ring, this.#slot).set(part, this.#filled);
      at += part.length;
      this.#filled += part.length;
      if (this.#filled === this.#ring.slotBytes) this.flush();
    }
    return bytes.subarray(at);
  }

  flush(): void {
    this.#flushed = performance.now();
    if (this.#filled === 0) return;
    this.#send(this.#slot, this.#filled);
    this.#underWay++;
    this.#slot = (this.#slot + 1) % this.#ring.slots;
    this.#filled = 0;
  }

  /** The worker has dealt with the oldest slot. */
  release(): void {
    this.#underWay--;
    if (this.#drained === undefined || this.#underWay > this.#ring.slots / 2) return;
    this.#rest = this.#put(this.#rest);
    if (this.#rest.length === 0) this.#resume();
  }

  /** Nobody takes any more: whoever waits goes on. */
  stop(): void {
    this.#stopped = true;
    this.#resume();
  }

  #resume(): void {
    this.#drained?.();
    this.#drained = undefined;
  }
}
