/** The threads in which bytes are hashed, inflated and laid out, so that the main thread has the network, the signals and the bars to itself. */
import {availableParallelism} from 'node:os';
import type {Worker} from 'node:worker_threads';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import type {Descriptor} from '../../oci/descriptor.ts';
import {fromThreadError} from './errors.ts';
import type {FromKeeping, ToKeeping} from './ingest-job.ts';
import {createRing, type Ring, RingPool, slotOf, stop} from './ring.ts';
import type {FromInflating, Passage, ToInflating, ToWorker} from './thread.ts';
import type {Laid, LayingJob} from './unpack-job.ts';
import type {Port} from './yielding-port.ts';

/** Chunks of the network are gathered up to this size, in bytes: a message costs as much as copying 100 kB. */
const BATCH = 512 << 10;
/** So many of them may be on their way to a worker before the network has to wait. */
const BATCHES = 4;
/** On a slow wire they are not held back longer than this, in milliseconds: what has not been handed over is lost with the process. */
const BATCH_MS = 100;
/** What a layer inflates to goes from thread to thread in pieces of so many bytes, so many under way. */
const PIECE = 512 << 10;
const PIECES = 4;

export interface LayerJob {
  /** The object, for messages: `layer sha256:…`. */
  readonly what: string;
  /** Bytes of the blob. */
  readonly size: number;
  /** Where the bytes come from: the network by way of the caller, into an ingest; or a blob that is here. */
  readonly source:
    | {
        readonly kind: 'network';
        readonly ingestPath: string;
        readonly expected: Pick<Descriptor, 'digest' | 'size'>;
        /** No earlier attempt has left anything: the network need not wait for the thread that would look. */
        readonly isNew: boolean;
      }
    | {readonly kind: 'blob'; readonly path: string};
  /** Absent: the bytes are only stored. */
  readonly lay?: Omit<LayingJob, 'what'>;
}

/** One layer's way through the workers. Bytes go in, the result comes out. */
export interface LayerTask {
  /** Bytes of the blob that are already here: where the network goes on. */
  readonly offset: Promise<number>;
  /** What was made of it; `undefined` when the bytes are only stored. */
  readonly result: Promise<Laid | undefined>;
  /** Hands over bytes from `offset` on; a promise means that a worker is behind, and resolves when it has caught up. */
  write(chunk: Uint8Array): void | Promise<void>;
  /** No more bytes will come; `result` settles soon. */
  end(): void;
  /** Ends the task; what was downloaded stays, what was unpacked is the caller's to remove. `result` rejects. */
  abort(reason: unknown): void;
}

/** Two threads: one inflates, the other one keeps blobs and lays layers out. A thread that did all would wait for itself. */
interface Pair {
  readonly inflating: Worker;
  readonly laying: Worker;
  /** Ends each task under way. */
  readonly running: Set<(err: unknown) => void>;
  /** Why no more tasks can be done: a thread that did not start, or has died, takes messages all the same. */
  readonly failure: {readonly reason: unknown} | undefined;
}

/** Memory between the threads: from the network to a pair, and within a pair. */
interface Rings {
  readonly input: RingPool;
  readonly passage: RingPool;
}

/** A pair in the pool. */
interface Member {
  readonly started: Promise<Pair>;
  /** Bytes of blobs that it has before it. */
  load: number;
}

export class WorkerPool {
  #size: number | undefined;
  /** Those that can take jobs: one that did not start, or has died, is none of them, and another takes its place. */
  readonly #members: Member[] = [];
  readonly #rings: Rings = {input: new RingPool(BATCH, BATCHES), passage: new RingPool(PIECE, PIECES)};
  readonly #spawn: () => Promise<Worker>;
  #closed = false;

  /**
   * @param size pairs of threads at most, by default as the machine has processors; each is started when it is first needed
   * @param spawn starts a thread
   */
  constructor(size?: number, spawn = async () => (await import('./spawn.ts')).spawnWorker()) {
    this.#size = size;
    this.#spawn = spawn;
  }

  async #start(onFailure: () => void): Promise<Pair> {
    const workers: Worker[] = [];
    const running = new Set<(err: unknown) => void>();
    let failure: Pair['failure'];
    const end = (reason: unknown): void => {
      failure ??= {reason};
      onFailure();
      for (const fail of running) fail(reason);
      for (const worker of workers) void worker.terminate();
    };
    const add = async (): Promise<Worker> => {
      const worker = await this.#spawn();
      workers.push(worker);
      worker.on('error', (err) => end(noThread(err)));
      worker.on('exit', (status) => end(new ErrdefsError('internal', `worker thread ended with status ${status}`)));
      worker.unref();
      return worker;
    };
    const [inflating, laying] = await Promise.allSettled([add(), add()]);
    for (const started of [inflating, laying])
      if (started.status === 'rejected') {
        end(noThread(started.reason));
        throw failure!.reason;
      }
    return {
      inflating: (inflating as PromiseFulfilledResult<Worker>).value,
      laying: (laying as PromiseFulfilledResult<Worker>).value,
      running,
      get failure() {
        return failure;
      },
    };
  }

  /** Bytes of blobs that each pair has before it, and one more for each job. */
  get load(): readonly number[] {
    return this.#members.map(({load}) => load);
  }

  /** Starts the first threads while there is something else to wait for. */
  warm(): void {
    if (this.#members.length === 0) this.#add();
  }

  #add(): Member {
    const drop = (): void => {
      const index = this.#members.indexOf(member);
      if (index >= 0) this.#members.splice(index, 1);
    };
    const member: Member = {started: this.#start(drop), load: 0};
    member.started.catch(drop); // the caller with a job for it gets the error
    this.#members.push(member);
    return member;
  }

  /** The pair with the least to do. */
  #pick(): Member {
    this.#size ??= Math.max(1, Math.min(Math.floor(availableParallelism() / 2), 2));
    const [least] = [...this.#members].sort((a, b) => a.load - b.load);
    return least === undefined || (least.load > 0 && this.#members.length < this.#size) ? this.#add() : least;
  }

  /**
   * Begins a job. Its weight on the pool ends with `result`.
   *
   * @param onProgress bytes that have been unpacked so far
   */
  async run(job: LayerJob, onProgress: (bytes: number) => void): Promise<LayerTask> {
    const member = this.#pick();
    const weight = job.size + 1;
    member.load += weight;
    const pair = await member.started;
    return new Task(pair, job, this.#rings, onProgress, () => {
      member.load -= weight;
    });
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const {started} of [...this.#members]) {
      const pair = await started.catch(() => undefined);
      if (pair === undefined) continue;
      const {inflating, laying, running} = pair;
      const isIdle = running.size === 0;
      for (const fail of running) fail(new ErrdefsError('canceled', 'job'));
      const ended = Promise.all([inflating.terminate(), laying.terminate()]);
      // Threads that write nothing any more are not waited for: an engine takes long to end one, and nothing to end the process.
      if (!isIdle) await ended;
    }
  }
}

/** What kept a thread from starting, or ended it. */
const noThread = (err: unknown): unknown =>
  (err as NodeJS.ErrnoException).code === 'ERR_WORKER_INIT_FAILED'
    ? new ErrdefsError('resource_exhausted', `worker thread: ${(err as Error).message}`, {cause: err})
    : fromErrno(err, 'worker thread');

const EMPTY = createRing(0, 0);

class Task implements LayerTask {
  readonly #pair: Pair;
  readonly #onEnd: () => void;
  readonly #fail = (err: unknown): void => this.abort(err);
  readonly #offset = Promise.withResolvers<number>();
  readonly #result = Promise.withResolvers<Laid | undefined>();
  readonly #kept = Promise.withResolvers<void>();
  readonly #unpacked = Promise.withResolvers<Laid | undefined>();
  readonly #batches: Batches;
  readonly #rings: Rings;
  /** Absent where there is no network. */
  readonly #input: Ring | undefined;
  /** Memory by which the threads hand a layer over. */
  #passage: Ring | undefined;
  #keeping: Port<ToKeeping, FromKeeping> | undefined;
  #inflating: Port<ToInflating, FromInflating> | undefined;
  #over = false;

  constructor(pair: Pair, job: LayerJob, rings: Rings, onProgress: (bytes: number) => void, onEnd: () => void) {
    this.#pair = pair;
    this.#rings = rings;
    this.#onEnd = onEnd;
    pair.running.add(this.#fail);
    for (const worker of [pair.inflating, pair.laying]) worker.ref();
    // Whoever awaits `result` hears of it.
    for (const {promise} of [this.#offset, this.#kept, this.#unpacked]) promise.catch(() => {});
    const readers: Reader[] = job.lay === undefined ? ['keeping'] : ['keeping', 'inflating'];
    this.#input = job.source.kind === 'blob' ? undefined : rings.input.take();
    const input = this.#input ?? EMPTY;
    this.#batches = new Batches(input, readers, (length) => {
      this.#keeping?.postMessage(length);
      this.#inflating?.postMessage(length);
    });
    const unpack = (file: {readonly path: string; readonly bytes: number} | undefined): void => this.#inflate(job, input, file, onProgress);
    if (job.source.kind === 'network') this.#keep(job.what, job.source, input, unpack);
    else {
      this.#offset.resolve(job.size);
      this.#kept.resolve();
      unpack({path: job.source.path, bytes: job.size});
      this.#inflating?.postMessage('end');
    }
    void this.#settle();
    if (pair.failure !== undefined) this.abort(pair.failure.reason);
  }

  get offset(): Promise<number> {
    return this.#offset.promise;
  }

  get result(): Promise<Laid | undefined> {
    return this.#result.promise;
  }

  #keep(
    what: string,
    {ingestPath, expected, isNew}: Extract<LayerJob['source'], {readonly kind: 'network'}>,
    input: Ring,
    unpack: (file: {readonly path: string; readonly bytes: number} | undefined) => void,
  ): void {
    // The global one: to import it is to load threads, which most commands need not.
    const {port1, port2} = new MessageChannel();
    this.#pair.laying.postMessage({type: 'keep', job: {what, ingestPath, expected}, input, port: port2} satisfies ToWorker, [port2]);
    const keeping = port1 as Port<ToKeeping, FromKeeping>;
    this.#keeping = keeping;
    const start = (offset: number): void => {
      unpack(offset === 0 ? undefined : {path: ingestPath, bytes: offset});
      this.#offset.resolve(offset);
    };
    keeping.on('message', (message) => {
      switch (message.type) {
        case 'started':
          if (!this.#over && !isNew) start(message.offset);
          break;
        case 'slot':
          this.#batches.release('keeping');
          break;
        case 'done':
          this.#kept.resolve();
          break;
        case 'error':
          this.#kept.reject(fromThreadError(message.error));
      }
    });
    if (isNew) start(0);
  }

  #inflate(
    {what, lay}: LayerJob,
    input: Ring,
    file: {readonly path: string; readonly bytes: number} | undefined,
    onProgress: (bytes: number) => void,
  ): void {
    if (lay === undefined) {
      this.#unpacked.resolve(undefined);
      return;
    }
    const [own, passage] = [new MessageChannel(), new MessageChannel()];
    const ring = this.#rings.passage.take();
    this.#passage = ring;
    this.#pair.laying.postMessage({type: 'lay', job: {what, ...lay}, passage: {port: passage.port2, ring}} satisfies ToWorker, [
      passage.port2,
    ]);
    this.#pair.inflating.postMessage(
      {
        type: 'inflate',
        job: {what, ...(file && {file})},
        input,
        port: own.port2,
        passage: {port: passage.port1, ring} satisfies Passage,
      } satisfies ToWorker,
      [own.port2, passage.port1],
    );
    const inflating = own.port1 as Port<ToInflating, FromInflating>;
    this.#inflating = inflating;
    inflating.on('message', (message) => {
      switch (message.type) {
        case 'progress':
          if (message.slot) this.#batches.release('inflating');
          onProgress(message.unpacked);
          break;
        case 'done':
          this.#unpacked.resolve(message.laid);
          break;
        case 'error':
          this.#unpacked.reject(fromThreadError(message.error));
          // The blob goes on: its bytes are worth keeping, and its digest tells whether the layer is wrong or only arrived so.
          this.#batches.forget('inflating');
      }
    });
  }

  /** The blob first: its digest is what the bytes are judged by, before anything is believed of what they unpack to. */
  async #settle(): Promise<void> {
    try {
      await this.#kept.promise;
      const laid = await this.#unpacked.promise;
      this.#end();
      // All readers have said that they are done; of a task that failed nobody knows who still reads or writes.
      if (this.#input !== undefined) this.#rings.input.giveBack(this.#input);
      if (this.#passage !== undefined) this.#rings.passage.giveBack(this.#passage);
      this.#result.resolve(laid);
    } catch (err) {
      this.abort(err);
    }
  }

  write(chunk: Uint8Array): void | Promise<void> {
    return this.#over ? undefined : this.#batches.write(chunk);
  }

  end(): void {
    this.#batches.flush();
    this.#keeping?.postMessage('end');
    this.#inflating?.postMessage('end');
  }

  abort(reason: unknown): void {
    if (this.#over) return;
    this.#end();
    this.#offset.reject(reason);
    this.#result.reject(reason);
  }

  #end(): void {
    this.#over = true;
    const {running, inflating, laying} = this.#pair;
    running.delete(this.#fail);
    if (this.#passage !== undefined) stop(this.#passage);
    for (const port of [this.#keeping, this.#inflating]) {
      port?.postMessage('close');
      port?.close();
    }
    this.#batches.stop();
    if (running.size === 0) for (const worker of [inflating, laying]) worker.unref();
    this.#onEnd();
  }
}

type Reader = 'keeping' | 'inflating';

/**
 * The main thread's end of a ring with one or two readers. It never blocks: it is told of free slots by message, and has its
 * writer wait by promise.
 */
class Batches {
  readonly #ring: Ring;
  readonly #send: (length: number) => void;
  /** Slots that each reader has not dealt with yet. */
  readonly #underWay: Record<Reader, number> = {keeping: 0, inflating: 0};
  readonly #readers: Reader[];
  /** Index of the slot that is being filled, and its bytes so far. */
  #slot = 0;
  #filled = 0;
  /** Runs while bytes wait for a slot to be full: the next ones may be long in coming. */
  #flushSoon: NodeJS.Timeout | undefined;
  /** What did not fit any more, and whoever waits until it does. */
  #rest: Uint8Array = new Uint8Array(0);
  #drained: (() => void) | undefined;
  #stopped = false;

  constructor(ring: Ring, readers: readonly Reader[], send: (length: number) => void) {
    this.#ring = ring;
    this.#readers = [...readers];
    this.#send = send;
  }

  /** Slots that some reader has before it. */
  get #behind(): number {
    return Math.max(...this.#readers.map((reader) => this.#underWay[reader]));
  }

  write(chunk: Uint8Array): void | Promise<void> {
    const rest = this.#put(chunk);
    if (this.#filled > 0) this.#flushSoon ??= setTimeout(() => this.flush(), BATCH_MS);
    if (this.#behind < this.#ring.slots || this.#stopped) return;
    this.#rest = Uint8Array.prototype.slice.call(rest);
    return new Promise((resolve) => {
      this.#drained = resolve;
    });
  }

  /** @returns what has no room */
  #put(bytes: Uint8Array): Uint8Array {
    let at = 0;
    while (at < bytes.length && this.#behind < this.#ring.slots) {
      const part = bytes.subarray(at, at + this.#ring.slotBytes - this.#filled);
      slotOf(this.#ring, this.#slot).set(part, this.#filled);
      at += part.length;
      this.#filled += part.length;
      if (this.#filled === this.#ring.slotBytes) this.flush();
    }
    return bytes.subarray(at);
  }

  flush(): void {
    clearTimeout(this.#flushSoon);
    this.#flushSoon = undefined;
    if (this.#filled === 0) return;
    for (const reader of this.#readers) this.#underWay[reader]++;
    this.#send(this.#filled);
    this.#slot = (this.#slot + 1) % this.#ring.slots;
    this.#filled = 0;
  }

  /** A reader has dealt with its oldest slot. */
  release(reader: Reader): void {
    this.#underWay[reader]--;
    this.#goOn();
  }

  /** A reader takes no more. */
  forget(reader: Reader): void {
    this.#readers.splice(this.#readers.indexOf(reader), 1);
    this.#goOn();
  }

  #goOn(): void {
    if (this.#drained === undefined || this.#behind > this.#ring.slots / 2) return;
    this.#rest = this.#put(this.#rest);
    if (this.#rest.length === 0) this.#resume();
  }

  /** Nobody takes any more: whoever waits goes on. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#flushSoon);
    this.#resume();
  }

  #resume(): void {
    this.#drained?.();
    this.#drained = undefined;
  }
}
