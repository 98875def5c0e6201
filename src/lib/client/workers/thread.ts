/**
 * The worker threads' side: one pass over a blob's bytes. They are kept as a blob by one thread (ingest-job.ts) and inflated by
 * another one, here; what comes out goes back to the first, which lays the layer out (unpack-job.ts). Jobs of one thread take
 * turns chunk by chunk.
 */
import {closeSync, openSync, readSync} from 'node:fs';
import {setImmediate} from 'node:timers/promises';
import {type MessagePort, parentPort} from 'node:worker_threads';
import {type AsyncInflater, openInflater} from '../../archive/inflate.ts';
import {fromErrno} from '../../errdefs.ts';
import {fromThreadError, type ThreadError, toThreadError} from './errors.ts';
import {type FromKeeping, type KeepingJob, serveKeeping, type ToKeeping} from './ingest-job.ts';
import {type Ring, RingWriter, slotOf} from './ring.ts';
import {type FromLaying, type Laid, type LayingJob, serveLaying, type ToLaying} from './unpack-job.ts';
import {inTurns, type Port} from './yielding-port.ts';

/** A layer's way from the thread that inflates to the one that lays out; each of them gets one end of the port. */
export interface Passage {
  readonly port: MessagePort;
  readonly ring: Ring;
}

export interface InflatingJob {
  /** The object, for messages: `layer sha256:…`. */
  readonly what: string;
  /** A file whose first bytes come before all others. */
  readonly file?: {readonly path: string; readonly bytes: number};
}

/** To a thread, by its own channel: what is to be done, and the channel by which it goes on. */
export type ToWorker =
  | {readonly type: 'keep'; readonly job: KeepingJob; readonly input: Ring; readonly port: MessagePort}
  | {readonly type: 'inflate'; readonly job: InflatingJob; readonly input: Ring; readonly port: MessagePort; readonly passage: Passage}
  | {readonly type: 'lay'; readonly job: LayingJob; readonly passage: Passage};

/** A number is the length of the next slot's bytes. */
export type ToInflating = number | 'end' | 'close';

export type FromInflating =
  /** Bytes that have come out so far. @param slot whether one more is dealt with */
  | {readonly type: 'progress'; readonly unpacked: number; readonly slot: boolean}
  | {readonly type: 'done'; readonly laid: Laid}
  | {readonly type: 'error'; readonly error: ThreadError};

/** Bytes read from a file at a time. */
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

  /** @throws why it refused */
  async explain(): Promise<never> {
    const {error} = await this.#answer;
    throw error === undefined ? new Error('a layer was completed before its last byte') : fromThreadError(error);
  }

  close(): void {
    this.#port.postMessage('close');
    this.#port.close();
  }
}

class Inflating {
  readonly #job: InflatingJob;
  readonly #laying: LayingThread;
  readonly #inflater: AsyncInflater;
  #unpacked = 0;
  #closed = false;

  constructor(job: InflatingJob, passage: Passage) {
    const laying = new LayingThread(passage);
    this.#job = job;
    this.#laying = laying;
    this.#inflater = openInflater(
      (chunk) => {
        this.#unpacked += chunk.length;
        laying.write(chunk);
      },
      () => laying.slot,
    );
  }

  /** Bytes that have come out so far. */
  get unpacked(): number {
    return this.#unpacked;
  }

  /** The bytes of the job's file; other jobs get their turns between the chunks. */
  async begin(onChunk: () => void): Promise<void> {
    const {what, file} = this.#job;
    if (file === undefined) return;
    let fd: number | undefined;
    try {
      fd = openSync(file.path, 'r');
      const buffer = Buffer.allocUnsafe(CHUNK);
      for (let left = file.bytes; left > 0 && !this.#closed; ) {
        const n = readSync(fd, buffer, 0, Math.min(left, CHUNK), null);
        if (n === 0) break;
        left -= n;
        await this.write(buffer.subarray(0, n));
        onChunk();
        await setImmediate();
      }
    } catch (err) {
      throw fromErrno(err, what);
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
  }

  async write(chunk: Uint8Array): Promise<void> {
    // One that is closed must not be used again: the process would die of it.
    if (this.#closed) return;
    try {
      await this.#inflater.write(chunk);
    } catch (err) {
      throw err instanceof Refused ? await this.#laying.explain() : err;
    }
  }

  async end(): Promise<Laid> {
    try {
      await this.#inflater.end();
    } catch (err) {
      throw err instanceof Refused ? await this.#laying.explain() : err;
    }
    return this.#laying.end();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#inflater.close();
    this.#laying.close();
  }
}

/** Inflates one layer, from the slots of `input`. */
function serveInflating(job: InflatingJob, input: Ring, passage: Passage, port: Port<FromInflating, ToInflating>): void {
  const inflating = new Inflating(job, passage);
  const tell = (slot: boolean): void => port.postMessage({type: 'progress', unpacked: inflating.unpacked, slot});
  let isOver = false;
  let taken = 0;
  const attempt = async (action: () => Promise<void>): Promise<void> => {
    try {
      if (!isOver) await action();
    } catch (err) {
      if (isOver) return;
      isOver = true;
      inflating.close();
      port.postMessage({type: 'error', error: toThreadError(err)});
    }
  };
  const begun = attempt(() => inflating.begin(() => tell(false)));
  inTurns(port, async (message) => {
    if (message === 'close') {
      isOver = true;
      inflating.close();
      port.close();
      return;
    }
    const slot = typeof message === 'number' ? slotOf(input, taken++ % input.slots, message) : undefined;
    await begun;
    await attempt(async () => {
      if (slot === undefined) {
        const laid = await inflating.end();
        if (!isOver) port.postMessage({type: 'done', laid});
      } else {
        await inflating.write(slot);
        tell(true);
      }
    });
  });
}

/** Serves a thread's own channel. */
export function serve(port: Pick<Port<never, ToWorker>, 'on'>): void {
  port.on('message', (message) => {
    if (message.type === 'lay') serveLaying(message.job, message.passage.ring, message.passage.port as Port<FromLaying, ToLaying>);
    else if (message.type === 'keep') serveKeeping(message.job, message.input, message.port as Port<FromKeeping, ToKeeping>);
    else serveInflating(message.job, message.input, message.passage, message.port as Port<FromInflating, ToInflating>);
  });
}

if (parentPort !== null) serve(parentPort);
