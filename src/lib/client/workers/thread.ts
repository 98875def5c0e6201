/**
 * Entry of a worker thread. Two threads share one pass over a blob: one stores its bytes (ingest-job.ts), the other inflates them
 * (here) and sends the tar back to the first, which unpacks it (unpack-job.ts). Jobs of a thread alternate chunk by chunk.
 */
import {closeSync, openSync, readSync} from 'node:fs';
import {setImmediate} from 'node:timers/promises';
import {type MessagePort, parentPort} from 'node:worker_threads';
import {type AsyncInflater, openInflater} from '../../archive/inflate.ts';
import {fromErrno} from '../../errdefs.ts';
import {fromThreadError, type ThreadError, toThreadError} from './errors.ts';
import {type FromIngester, type IngestJob, serveIngesting, type ToIngester} from './ingest-job.ts';
import {type Ring, RingWriter, slotOf} from './ring.ts';
import {type FromUnpacker, serveUnpacking, type ToUnpacker, type UnpackJob, type UnpackResult} from './unpack-job.ts';
import {type Port, serialize} from './yielding-port.ts';

/** Channel between the inflating and the unpacking thread; each gets one end of the port. */
export interface UnpackChannel {
  readonly port: MessagePort;
  readonly ring: Ring;
}

export interface InflateJob {
  /** The object, for messages: `layer sha256:…`. */
  readonly what: string;
  /** A file with the first bytes of the blob. */
  readonly file?: {readonly path: string; readonly bytes: number};
}

/** Jobs for a thread, each with the port of its messages. */
export type ToWorker =
  | {readonly type: 'ingest'; readonly job: IngestJob; readonly input: Ring; readonly port: MessagePort}
  | {readonly type: 'inflate'; readonly job: InflateJob; readonly input: Ring; readonly port: MessagePort; readonly channel: UnpackChannel}
  | {readonly type: 'unpack'; readonly job: UnpackJob; readonly channel: UnpackChannel};

/** A number is the length of the next slot's bytes. */
export type ToInflater = number | 'end' | 'close';

export type FromInflater =
  /** `inflatedBytes` counts from the start; `slot` says whether one more slot is read. */
  | {readonly type: 'progress'; readonly inflatedBytes: number; readonly slot: boolean}
  | {readonly type: 'done'; readonly result: UnpackResult}
  | {readonly type: 'error'; readonly error: ThreadError};

/** Bytes per read of a file. */
const CHUNK = 256 << 10;

/** The unpacking thread has stopped; its answer has the reason. */
class UnpackerStopped extends Error {}

/** The unpacking thread's job, as the inflating thread sees it. */
class UnpackerHandle {
  readonly #port: Port<ToUnpacker, FromUnpacker>;
  readonly #writer: RingWriter;
  readonly #answer = Promise.withResolvers<FromUnpacker>();

  constructor({port, ring}: UnpackChannel) {
    this.#port = port as Port<ToUnpacker, FromUnpacker>;
    this.#writer = new RingWriter(ring, (length) => this.#port.postMessage(length));
    this.#port.on('message', (message) => this.#answer.resolve(message));
    this.#answer.promise.catch(() => undefined);
  }

  /** Memory to inflate into. */
  get slot(): Uint8Array {
    return this.#writer.slot;
  }

  write(chunk: Uint8Array): void {
    if (!this.#writer.write(chunk)) throw new UnpackerStopped();
  }

  async end(): Promise<UnpackResult> {
    this.#port.postMessage('end');
    const {result, error} = await this.#answer.promise;
    if (error !== undefined) throw fromThreadError(error);
    return result;
  }

  /** @throws the error of the unpacking thread */
  async explain(): Promise<never> {
    const {error} = await this.#answer.promise;
    throw error === undefined ? new Error('a layer was completed before its last byte') : fromThreadError(error);
  }

  close(): void {
    this.#port.postMessage('close');
    this.#port.close();
    // No answer will come. A job that waits for one holds its file.
    this.#answer.reject(new UnpackerStopped());
  }
}

class LayerInflater {
  readonly #job: InflateJob;
  readonly #unpacker: UnpackerHandle;
  readonly #inflater: AsyncInflater;
  #inflatedBytes = 0;
  #closed = false;

  constructor(job: InflateJob, channel: UnpackChannel) {
    const unpacker = new UnpackerHandle(channel);
    this.#job = job;
    this.#unpacker = unpacker;
    this.#inflater = openInflater(
      (chunk) => {
        this.#inflatedBytes += chunk.length;
        unpacker.write(chunk);
      },
      () => unpacker.slot,
    );
  }

  /** Inflated bytes so far. */
  get inflatedBytes(): number {
    return this.#inflatedBytes;
  }

  /** Inflates the job's file; yields to other jobs between chunks. */
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
    // Writing to a closed inflater would crash the process.
    if (this.#closed) return;
    try {
      await this.#inflater.write(chunk);
    } catch (err) {
      throw err instanceof UnpackerStopped ? await this.#unpacker.explain() : err;
    }
  }

  async end(): Promise<UnpackResult> {
    try {
      await this.#inflater.end();
    } catch (err) {
      throw err instanceof UnpackerStopped ? await this.#unpacker.explain() : err;
    }
    return this.#unpacker.end();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#inflater.close();
    this.#unpacker.close();
  }
}

/** Inflates one layer from the slots of `input`. */
function serveInflating(job: InflateJob, input: Ring, channel: UnpackChannel, port: Port<FromInflater, ToInflater>): void {
  const inflater = new LayerInflater(job, channel);
  const sendProgress = (slot: boolean): void => port.postMessage({type: 'progress', inflatedBytes: inflater.inflatedBytes, slot});
  let isFinished = false;
  let taken = 0;
  const attempt = async (action: () => Promise<void>): Promise<void> => {
    try {
      if (!isFinished) await action();
    } catch (err) {
      if (isFinished) return;
      isFinished = true;
      inflater.close();
      port.postMessage({type: 'error', error: toThreadError(err)});
    }
  };
  const begun = attempt(() => inflater.begin(() => sendProgress(false)));
  serialize(port, async (message) => {
    if (message === 'close') {
      isFinished = true;
      inflater.close();
      port.close();
      return;
    }
    const slot = typeof message === 'number' ? slotOf(input, taken++ % input.slots, message) : undefined;
    await begun;
    await attempt(async () => {
      if (slot === undefined) {
        const result = await inflater.end();
        if (!isFinished) port.postMessage({type: 'done', result});
      } else {
        await inflater.write(slot);
        sendProgress(true);
      }
    });
  });
}

/** Starts the jobs that arrive on a thread's own port. */
export function serve(port: Pick<Port<never, ToWorker>, 'on'>): void {
  port.on('message', (message) => {
    if (message.type === 'unpack')
      serveUnpacking(message.job, message.channel.ring, message.channel.port as Port<FromUnpacker, ToUnpacker>);
    else if (message.type === 'ingest') serveIngesting(message.job, message.input, message.port as Port<FromIngester, ToIngester>);
    else serveInflating(message.job, message.input, message.channel, message.port as Port<FromInflater, ToInflater>);
  });
}

if (parentPort !== null) serve(parentPort);
