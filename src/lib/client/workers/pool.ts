/** Worker threads that hash, inflate and unpack. They leave the main thread free for network, signals and progress bars. */
import {availableParallelism} from 'node:os';
import type {Worker} from 'node:worker_threads';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import type {Digest} from '../../oci/descriptor.ts';
import type {Expected} from '../../store/content-contract.ts';
import {fromThreadError} from './errors.ts';
import type {FromIngester, ToIngester} from './ingest-job.ts';
import {createRing, type Ring, RingPool, slotOf, stopReading} from './ring.ts';
import type {FromInflater, ToInflater, ToWorker, UnpackChannel} from './thread.ts';
import type {UnpackJob, UnpackResult} from './unpack-job.ts';
import type {Port} from './yielding-port.ts';

/** Bytes gathered from the network before a message is sent; a message costs as much as copying 100 kB. */
const INPUT_SLOT_BYTES = 512 << 10;
/** Filled slots that may wait for a worker before the network has to wait. */
const INPUT_SLOTS = 4;
/** Longest time that received bytes wait for a full slot, in milliseconds. A killed process loses the bytes in an unsent slot. */
const FLUSH_MS = 100;
/** Size, in bytes, and number of the slots between the inflating and the unpacking thread. */
const CHANNEL_SLOT_BYTES = 512 << 10;
const CHANNEL_SLOTS = 4;

export interface LayerJob {
  /** The object, for messages: `layer sha256:…`. */
  readonly what: string;
  /** Bytes of the blob. */
  readonly size: number;
  /** Either the network, by way of the caller, with an ingest; or a local blob. */
  readonly source:
    | {
        readonly kind: 'network';
        readonly ingestPath: string;
        readonly expected: Expected;
        /** No earlier attempt has left bytes, so the network need not wait for a thread to count them. */
        readonly isNew: boolean;
      }
    | {readonly kind: 'blob'; readonly path: string};
  /** Absent: the bytes are only stored. */
  readonly unpack?: Omit<UnpackJob, 'what'>;
}

/** A layer that the workers store and unpack. */
export interface LayerTask {
  /** Bytes of the blob that are present already; the download continues from here. */
  readonly offset: Promise<number>;
  /** The blob's digest, once its bytes are stored, whatever becomes of unpacking; `undefined` for a local blob. */
  readonly stored: Promise<Digest | undefined>;
  /** `undefined` when the bytes are only stored. */
  readonly result: Promise<UnpackResult | undefined>;
  /** Takes the next bytes, the first at `offset`. Returns a promise while a worker is behind; it resolves when the worker has caught up. */
  write(chunk: Uint8Array): void | Promise<void>;
  /** No more bytes will come; `result` settles soon. */
  end(): void;
  /** Ends the task: `result` rejects. Downloaded bytes stay; the caller removes the unpacked files. */
  abort(reason: unknown): void;
}

/** Two threads: one inflates, the other stores blobs and unpacks layers. Decision 0008 has the reasons. */
interface ThreadPair {
  readonly inflater: Worker;
  readonly unpacker: Worker;
  /** Functions that fail the running tasks. */
  readonly running: Set<(err: unknown) => void>;
  /** Set once a thread has failed to start or has died. Such a thread still accepts messages, and never answers. */
  readonly failure: {readonly reason: unknown} | undefined;
}

/** Shared memory from the main thread to a pair, and between the threads of a pair. */
interface Rings {
  readonly input: RingPool;
  readonly channel: RingPool;
}

/** A pair in the pool. */
interface PoolMember {
  readonly started: Promise<ThreadPair>;
  /** Bytes of blobs in its queue. */
  load: number;
}

export class WorkerPool {
  #size: number | undefined;
  /** Pairs that accept jobs. A pair that failed is removed and replaced. */
  readonly #members: PoolMember[] = [];
  readonly #rings: Rings = {input: new RingPool(INPUT_SLOT_BYTES, INPUT_SLOTS), channel: new RingPool(CHANNEL_SLOT_BYTES, CHANNEL_SLOTS)};
  readonly #spawn: () => Promise<Worker>;
  #closed = false;

  /**
   * @param size largest number of pairs; by default it depends on the number of processors. Each pair starts when it is first needed
   * @param spawn starts a thread
   */
  constructor(size?: number, spawn = async () => (await import('./spawn.ts')).spawnWorker()) {
    this.#size = size;
    this.#spawn = spawn;
  }

  async #start(onFailure: () => void): Promise<ThreadPair> {
    const workers: Worker[] = [];
    const running = new Set<(err: unknown) => void>();
    let failure: ThreadPair['failure'];
    const end = (reason: unknown): void => {
      failure ??= {reason};
      onFailure();
      for (const fail of running) fail(reason);
      for (const worker of workers) void worker.terminate();
    };
    const add = async (): Promise<Worker> => {
      const worker = await this.#spawn();
      workers.push(worker);
      worker.on('error', (err) => end(threadFailure(err)));
      worker.on('exit', (status) => end(new ErrdefsError('internal', `worker thread ended with status ${status}`)));
      worker.unref();
      return worker;
    };
    const [inflater, unpacker] = await Promise.allSettled([add(), add()]);
    for (const started of [inflater, unpacker])
      if (started.status === 'rejected') {
        end(threadFailure(started.reason));
        throw failure!.reason;
      }
    return {
      inflater: (inflater as PromiseFulfilledResult<Worker>).value,
      unpacker: (unpacker as PromiseFulfilledResult<Worker>).value,
      running,
      get failure() {
        return failure;
      },
    };
  }

  /** Bytes of blobs in the queue of each pair, plus one for each job. */
  get load(): readonly number[] {
    return this.#members.map(({load}) => load);
  }

  /** Starts the first pair ahead of its first job. */
  warm(): void {
    if (this.#members.length === 0) this.#add();
  }

  #add(): PoolMember {
    const drop = (): void => {
      const index = this.#members.indexOf(member);
      if (index >= 0) this.#members.splice(index, 1);
    };
    const member: PoolMember = {started: this.#start(drop), load: 0};
    member.started.catch(drop); // the job's caller gets the error
    this.#members.push(member);
    return member;
  }

  /** The pair with the shortest queue. */
  #pick(): PoolMember {
    this.#size ??= Math.max(1, Math.min(Math.floor(availableParallelism() / 2), 2));
    const [least] = [...this.#members].sort((a, b) => a.load - b.load);
    return least === undefined || (least.load > 0 && this.#members.length < this.#size) ? this.#add() : least;
  }

  /**
   * Begins a job. It counts in `load` until `result` settles.
   *
   * @param onProgress receives the number of bytes inflated so far
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
      const {inflater, unpacker, running} = pair;
      const isIdle = running.size === 0;
      for (const fail of running) fail(new ErrdefsError('canceled', 'job'));
      const ended = Promise.all([inflater.terminate(), unpacker.terminate()]);
      // An idle thread writes nothing. Ending it takes an engine long; ending the process does not.
      if (!isIdle) await ended;
    }
  }
}

/** The error of a thread that did not start, or that died. */
const threadFailure = (err: unknown): unknown =>
  (err as NodeJS.ErrnoException).code === 'ERR_WORKER_INIT_FAILED'
    ? new ErrdefsError('resource_exhausted', `worker thread: ${(err as Error).message}`, {cause: err})
    : fromErrno(err, 'worker thread');

const EMPTY = createRing(0, 0);

class Task implements LayerTask {
  readonly #pair: ThreadPair;
  readonly #onEnd: () => void;
  readonly #fail = (err: unknown): void => this.abort(err);
  readonly #offset = Promise.withResolvers<number>();
  readonly #result = Promise.withResolvers<UnpackResult | undefined>();
  readonly #stored = Promise.withResolvers<Digest | undefined>();
  readonly #unpacked = Promise.withResolvers<UnpackResult | undefined>();
  readonly #producer: RingProducer;
  readonly #rings: Rings;
  /** Absent for a local blob. */
  readonly #input: Ring | undefined;
  /** Between the threads of the pair. */
  #channelRing: Ring | undefined;
  #ingestPort: Port<ToIngester, FromIngester> | undefined;
  #inflatePort: Port<ToInflater, FromInflater> | undefined;
  #isFinished = false;

  constructor(pair: ThreadPair, job: LayerJob, rings: Rings, onProgress: (bytes: number) => void, onEnd: () => void) {
    this.#pair = pair;
    this.#rings = rings;
    this.#onEnd = onEnd;
    pair.running.add(this.#fail);
    for (const worker of [pair.inflater, pair.unpacker]) worker.ref();
    // Failures reach the caller through `result`.
    for (const {promise} of [this.#offset, this.#stored, this.#unpacked]) promise.catch(() => {});
    const readers: Reader[] = job.unpack === undefined ? ['ingester'] : ['ingester', 'inflater'];
    this.#input = job.source.kind === 'blob' ? undefined : rings.input.acquire();
    const input = this.#input ?? EMPTY;
    this.#producer = new RingProducer(input, readers, (length) => {
      this.#ingestPort?.postMessage(length);
      this.#inflatePort?.postMessage(length);
    });
    const startUnpacking = (file: {readonly path: string; readonly bytes: number} | undefined): void =>
      this.#inflate(job, input, file, onProgress);
    if (job.source.kind === 'network') this.#ingest(job.what, job.source, input, startUnpacking);
    else {
      this.#offset.resolve(job.size);
      this.#stored.resolve(undefined);
      startUnpacking({path: job.source.path, bytes: job.size});
      this.#inflatePort?.postMessage('end');
    }
    void this.#finish();
    if (pair.failure !== undefined) this.abort(pair.failure.reason);
  }

  get offset(): Promise<number> {
    return this.#offset.promise;
  }

  get stored(): Promise<Digest | undefined> {
    return this.#stored.promise;
  }

  get result(): Promise<UnpackResult | undefined> {
    return this.#result.promise;
  }

  #ingest(
    what: string,
    {ingestPath, expected, isNew}: Extract<LayerJob['source'], {readonly kind: 'network'}>,
    input: Ring,
    startUnpacking: (file: {readonly path: string; readonly bytes: number} | undefined) => void,
  ): void {
    // The global MessageChannel: importing it would load node:worker_threads, which most commands do not need.
    const {port1, port2} = new MessageChannel();
    this.#pair.unpacker.postMessage({type: 'ingest', job: {what, ingestPath, expected}, input, port: port2} satisfies ToWorker, [port2]);
    const ingester = port1 as Port<ToIngester, FromIngester>;
    this.#ingestPort = ingester;
    const start = (offset: number): void => {
      startUnpacking(offset === 0 ? undefined : {path: ingestPath, bytes: offset});
      this.#offset.resolve(offset);
    };
    ingester.on('message', (message) => {
      switch (message.type) {
        case 'started':
          if (!this.#isFinished && !isNew) start(message.offset);
          break;
        case 'slot':
          this.#producer.slotDone('ingester');
          break;
        case 'done':
          this.#stored.resolve(message.digest);
          break;
        case 'error':
          this.#stored.reject(fromThreadError(message.error));
      }
    });
    if (isNew) start(0);
  }

  #inflate(
    {what, unpack}: LayerJob,
    input: Ring,
    file: {readonly path: string; readonly bytes: number} | undefined,
    onProgress: (bytes: number) => void,
  ): void {
    if (unpack === undefined) {
      this.#unpacked.resolve(undefined);
      return;
    }
    const [own, channel] = [new MessageChannel(), new MessageChannel()];
    const ring = this.#rings.channel.acquire();
    this.#channelRing = ring;
    this.#pair.unpacker.postMessage({type: 'unpack', job: {what, ...unpack}, channel: {port: channel.port2, ring}} satisfies ToWorker, [
      channel.port2,
    ]);
    this.#pair.inflater.postMessage(
      {
        type: 'inflate',
        job: {what, ...(file && {file})},
        input,
        port: own.port2,
        channel: {port: channel.port1, ring} satisfies UnpackChannel,
      } satisfies ToWorker,
      [own.port2, channel.port1],
    );
    const inflater = own.port1 as Port<ToInflater, FromInflater>;
    this.#inflatePort = inflater;
    inflater.on('message', (message) => {
      switch (message.type) {
        case 'progress':
          if (message.slot) this.#producer.slotDone('inflater');
          onProgress(message.inflatedBytes);
          break;
        case 'done':
          this.#unpacked.resolve(message.result);
          break;
        case 'error':
          this.#unpacked.reject(fromThreadError(message.error));
          // Storing the blob continues: its digest decides whether the layer itself is wrong or only its transfer.
          this.#producer.dropReader('inflater');
      }
    });
  }

  /** Awaits the blob first: an error of its digest takes precedence over one of unpacking. */
  async #finish(): Promise<void> {
    try {
      await this.#stored.promise;
      const unpacked = await this.#unpacked.promise;
      this.#end();
      // All readers have finished. After a failure a thread may still use the rings, so they are not reused.
      if (this.#input !== undefined) this.#rings.input.release(this.#input);
      if (this.#channelRing !== undefined) this.#rings.channel.release(this.#channelRing);
      this.#result.resolve(unpacked);
    } catch (err) {
      this.abort(err);
    }
  }

  write(chunk: Uint8Array): void | Promise<void> {
    return this.#isFinished ? undefined : this.#producer.write(chunk);
  }

  end(): void {
    this.#producer.flush();
    this.#ingestPort?.postMessage('end');
    this.#inflatePort?.postMessage('end');
  }

  abort(reason: unknown): void {
    if (this.#isFinished) return;
    this.#end();
    this.#offset.reject(reason);
    this.#stored.reject(reason);
    this.#result.reject(reason);
  }

  #end(): void {
    this.#isFinished = true;
    const {running, inflater, unpacker} = this.#pair;
    running.delete(this.#fail);
    if (this.#channelRing !== undefined) stopReading(this.#channelRing);
    for (const port of [this.#ingestPort, this.#inflatePort]) {
      port?.postMessage('close');
      port?.close();
    }
    this.#producer.stop();
    if (running.size === 0) for (const worker of [inflater, unpacker]) worker.unref();
    this.#onEnd();
  }
}

type Reader = 'ingester' | 'inflater';

/**
 * The main thread's end of a ring with one or two readers. It never blocks: messages announce free slots, and a writer waits for a
 * promise.
 */
class RingProducer {
  readonly #ring: Ring;
  readonly #send: (length: number) => void;
  /** Number of slots that each reader has still to read. */
  readonly #pending: Record<Reader, number> = {ingester: 0, inflater: 0};
  readonly #readers: Reader[];
  /** Index of the slot that is filled next, and its bytes so far. */
  #slot = 0;
  #filled = 0;
  /** Sends a slot that has not become full in time. */
  #flushTimer: NodeJS.Timeout | undefined;
  /** Bytes that found no free slot, and the resolver of their writer's promise. */
  #overflow: Uint8Array = new Uint8Array(0);
  #drained: (() => void) | undefined;
  #stopped = false;

  constructor(ring: Ring, readers: readonly Reader[], send: (length: number) => void) {
    this.#ring = ring;
    this.#readers = [...readers];
    this.#send = send;
  }

  /** Slots that the slowest reader has still to read. */
  get #backlog(): number {
    return Math.max(...this.#readers.map((reader) => this.#pending[reader]));
  }

  write(chunk: Uint8Array): void | Promise<void> {
    const rest = this.#fill(chunk);
    if (this.#filled > 0) this.#flushTimer ??= setTimeout(() => this.flush(), FLUSH_MS);
    if (this.#backlog < this.#ring.slots || this.#stopped) return;
    this.#overflow = Uint8Array.prototype.slice.call(rest);
    return new Promise((resolve) => {
      this.#drained = resolve;
    });
  }

  /** @returns bytes that found no free slot */
  #fill(bytes: Uint8Array): Uint8Array {
    let at = 0;
    while (at < bytes.length && this.#backlog < this.#ring.slots) {
      const part = bytes.subarray(at, at + this.#ring.slotBytes - this.#filled);
      slotOf(this.#ring, this.#slot).set(part, this.#filled);
      at += part.length;
      this.#filled += part.length;
      if (this.#filled === this.#ring.slotBytes) this.flush();
    }
    return bytes.subarray(at);
  }

  flush(): void {
    clearTimeout(this.#flushTimer);
    this.#flushTimer = undefined;
    if (this.#filled === 0) return;
    for (const reader of this.#readers) this.#pending[reader]++;
    this.#send(this.#filled);
    this.#slot = (this.#slot + 1) % this.#ring.slots;
    this.#filled = 0;
  }

  /** A reader has finished its oldest slot. */
  slotDone(reader: Reader): void {
    this.#pending[reader]--;
    this.#refill();
  }

  /** A reader has failed: nothing waits for it any more. */
  dropReader(reader: Reader): void {
    this.#readers.splice(this.#readers.indexOf(reader), 1);
    this.#refill();
  }

  #refill(): void {
    if (this.#drained === undefined || this.#backlog > this.#ring.slots / 2) return;
    this.#overflow = this.#fill(this.#overflow);
    if (this.#overflow.length === 0) this.#resume();
  }

  /** No reader is left: a waiting writer continues, and its bytes are dropped. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#flushTimer);
    this.#resume();
  }

  #resume(): void {
    this.#drained?.();
    this.#drained = undefined;
  }
}
