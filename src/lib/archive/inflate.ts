/**
 * Decompresses a layer as it arrives: gzip with any number of members, zstd with any number of frames, or uncompressed. The first bytes
 * tell which.
 *
 * The synchronous inflater drives the private handle of node:zlib's streams (`_handle.writeSync`, `_writeState`), which needs no thread
 * change and no allocation for each block. `canInflateSynchronously` tests it; on an engine without it, `openInflater` uses the public
 * streams.
 *
 * As in Go, trailing bytes after the last gzip member or zstd frame are an error. As in gzip, zeros after a gzip member are padding.
 */

import type {Gunzip, ZstdDecompress} from 'node:zlib';
import {ErrdefsError, isErrdefs} from '../errdefs.ts';

/** Receives decompressed bytes. The chunk is valid only during the call, because its memory is reused. */
export type ChunkHandler = (chunk: Uint8Array) => void;

/** Provides memory for each block. A chunk handler that keeps a block makes this return other memory from then on. */
export type BufferProvider = () => Uint8Array;

export type Compression = 'gzip' | 'zstd' | 'none';

export interface Inflater {
  /** `undefined` until four bytes have arrived. */
  readonly kind: Compression | undefined;
  /**
   * @throws data_loss the compressed bytes are damaged
   * @throws resource_exhausted a zstd window over 128 MiB
   */
  write(chunk: Uint8Array): void;
  /** @throws data_loss the compressed bytes are truncated */
  end(): void;
  /** Frees memory; required in any case. */
  close(): void;
}

/** As `Inflater`. Await `write` before the next call, and do not change its chunk until then. */
export interface AsyncInflater {
  readonly kind: Compression | undefined;
  write(chunk: Uint8Array): void | Promise<void>;
  end(): void | Promise<void>;
  close(): void;
}

/** Most bytes of an output chunk. */
const OUTPUT_BYTES = 256 * 1024;
const EMPTY = new Uint8Array(0);

const GZIP_MAGIC = [0x1f, 0x8b, 0x08];
const ZSTD_MAGIC = 0xfd2fb528;
/** The low four bits of a skippable frame's magic number are arbitrary. */
const SKIPPABLE_MAGIC = 0x184d2a50;
const ZSTD_MAGIC_BYTES = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd);

/** The compression of a stream. @param head its first bytes: four, or all that it has */
export function detectCompression(head: Uint8Array): Compression {
  if (GZIP_MAGIC.every((byte, i) => head[i] === byte)) return 'gzip';
  if (head.length < 4) return 'none';
  const magic = new DataView(head.buffer, head.byteOffset).getUint32(0, true);
  return magic === ZSTD_MAGIC || (magic & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC ? 'zstd' : 'none';
}

const damaged = (reason: string, cause?: unknown): ErrdefsError =>
  new ErrdefsError('data_loss', `compressed stream: ${reason}`, cause === undefined ? {} : {cause});

/** Maps an error of node:zlib by its code. */
function fromZlib(err: {readonly code?: string | undefined; readonly message: string}): ErrdefsError {
  const isOutOfMemory =
    err.code === 'Z_MEM_ERROR' || err.code === 'ZSTD_error_memory_allocation' || err.code === 'ZSTD_error_frameParameter_windowTooLarge';
  return isOutOfMemory
    ? new ErrdefsError('resource_exhausted', `compressed stream: ${err.message}`, {cause: err})
    : damaged(err.message, err);
}

/** The private part of a zlib stream that this module uses. */
interface ZlibHandle {
  onerror: (message: string, errno: number, code: string) => void;
  /** Reads `input`, fills `output`, and stores the remaining bytes of both in `_writeState`: [output, input]. */
  writeSync(flush: number, input: Uint8Array, inAt: number, inLength: number, output: Uint8Array, outAt: number, outLength: number): void;
}

interface Decompressor {
  write(chunk: Uint8Array): void;
  end(): void;
  close(): void;
}

/** Drives a node:zlib decompressor by its handle. */
class HandleDecompressor {
  readonly #stream: Gunzip | ZstdDecompress;
  readonly #handle: ZlibHandle;
  readonly #state: Uint32Array;
  readonly #nextBuffer: BufferProvider;
  readonly #onChunk: ChunkHandler;
  #failure: ErrdefsError | undefined;

  constructor(stream: Gunzip | ZstdDecompress, onChunk: ChunkHandler, nextBuffer: BufferProvider) {
    const {_handle: handle, _writeState: state} = stream as unknown as {_handle?: ZlibHandle; _writeState?: Uint32Array};
    if (typeof handle?.writeSync !== 'function' || !(state instanceof Uint32Array))
      throw new ErrdefsError('not_implemented', 'synchronous decompression on this engine');
    handle.onerror = (message, _errno, code) => {
      this.#failure = fromZlib({message, code});
    };
    this.#stream = stream;
    this.#handle = handle;
    this.#state = state;
    this.#nextBuffer = nextBuffer;
    this.#onChunk = onChunk;
  }

  /** Decompresses until the chunk is consumed, or the stream has ended. Returns the number of consumed bytes. */
  drain(flush: number, chunk: Uint8Array): number {
    for (let at = 0; ; ) {
      const block = this.#nextBuffer();
      const offered = chunk.length - at;
      this.#handle.writeSync(flush, chunk, at, offered, block, 0, block.length);
      if (this.#failure !== undefined) throw this.#failure;
      const left = this.#state[0]!;
      const taken = offered - this.#state[1]!;
      at += taken;
      if (left < block.length) this.#onChunk(block.subarray(0, block.length - left));
      // After a full block, more output may follow without more input.
      if (left > 0 && (at === chunk.length || (taken === 0 && left === block.length))) return at;
    }
  }

  close(): void {
    this.#stream.close();
  }
}

const zlib = (): typeof import('node:zlib') => process.getBuiltinModule('node:zlib');

/** Only zeros may follow the last gzip member. */
function checkPadding(chunk: Uint8Array, at: number): void {
  for (let i = at; i < chunk.length; i++) if (chunk[i] !== 0) throw damaged('bytes follow the last gzip member');
}

class GzipDecompressor implements Decompressor {
  readonly #decompressor: HandleDecompressor;
  #inPadding = false;

  constructor(onChunk: ChunkHandler, nextBuffer: BufferProvider) {
    this.#decompressor = new HandleDecompressor(zlib().createGunzip({chunkSize: 64}), onChunk, nextBuffer);
  }

  write(chunk: Uint8Array): void {
    // The handle continues with the next member, and stops before zeros.
    const taken = this.#inPadding ? 0 : this.#decompressor.drain(zlib().constants.Z_NO_FLUSH, chunk);
    this.#inPadding = taken < chunk.length;
    checkPadding(chunk, taken);
  }

  end(): void {
    if (!this.#inPadding) this.#decompressor.drain(zlib().constants.Z_FINISH, EMPTY);
  }

  close(): void {
    this.#decompressor.close();
  }
}

type FrameState = 'magic' | 'skip-size' | 'skip' | 'descriptor' | 'header' | 'block' | 'content' | 'checksum';

/**
 * Splits a zstd stream into frames by its frame and block headers. Engines differ at the end of a stream and in what may follow it, so this
 * decides both. Omits skippable frames.
 *
 * Format: RFC 8878, section 3.1.
 */
class ZstdFrames {
  #state: FrameState = 'magic';
  /** Bytes that this state still needs. */
  #remaining = 4;
  /** Bytes of this state so far, as a little-endian number. */
  #value = 0;
  #factor = 1;
  #inFrame = false;
  #lastBlock = false;
  #hasChecksum = false;

  get isBetweenFrames(): boolean {
    return this.#state === 'magic' && this.#remaining === 4;
  }

  /** @param emit receives the bytes of frames with content, and whether they end the frame */
  split(chunk: Uint8Array, emit: (part: Uint8Array, last: boolean) => void): void {
    let from = 0;
    let at = 0;
    while (at < chunk.length) {
      if (this.#state === 'content' || this.#state === 'header' || this.#state === 'skip') {
        const n = Math.min(this.#remaining, chunk.length - at);
        this.#remaining -= n;
        at += n;
      } else {
        this.#value += chunk[at]! * this.#factor;
        this.#factor *= 256;
        this.#remaining--;
        at++;
      }
      if (this.#remaining > 0) continue;
      const wasInFrame = this.#inFrame;
      this.#advance();
      if (wasInFrame === this.#inFrame) continue;
      if (wasInFrame) emit(chunk.subarray(from, at), true);
      else emit(ZSTD_MAGIC_BYTES, false);
      from = at;
    }
    if (this.#inFrame && from < chunk.length) emit(chunk.subarray(from), false);
  }

  #enter(state: FrameState, left: number): void {
    this.#state = state;
    this.#remaining = left;
    this.#value = 0;
    this.#factor = 1;
  }

  /** Ends the state, whose bytes are complete. */
  #advance(): void {
    const value = this.#value;
    switch (this.#state) {
      case 'magic':
        if (value === ZSTD_MAGIC) {
          this.#inFrame = true;
          this.#enter('descriptor', 1);
        } else if ((value & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC) this.#enter('skip-size', 4);
        else throw damaged('bytes follow the last zstd frame');
        break;
      case 'skip-size':
        if (value > 0) this.#enter('skip', value);
        else this.#enter('magic', 4);
        break;
      case 'descriptor': {
        const isSingleSegment = (value & 0x20) !== 0;
        const contentSize = [isSingleSegment ? 1 : 0, 2, 4, 8][value >> 6]!;
        this.#hasChecksum = (value & 0x04) !== 0;
        this.#enter('header', (isSingleSegment ? 0 : 1) + [0, 1, 2, 4][value & 3]! + contentSize);
        break;
      }
      case 'header':
        this.#enter('block', 3);
        break;
      case 'block': {
        this.#lastBlock = (value & 1) !== 0;
        const type = (value >> 1) & 3;
        const size = type === 1 ? 1 : value >> 3;
        if (type === 3) throw damaged('reserved block type');
        if (size > 0) this.#enter('content', size);
        else this.#endBlock();
        break;
      }
      case 'content':
        this.#endBlock();
        break;
      case 'checksum':
        this.#endFrame();
        break;
      case 'skip':
        this.#enter('magic', 4);
    }
  }

  #endBlock(): void {
    if (!this.#lastBlock) this.#enter('block', 3);
    else if (this.#hasChecksum) this.#enter('checksum', 4);
    else this.#endFrame();
  }

  #endFrame(): void {
    this.#inFrame = false;
    this.#enter('magic', 4);
  }
}

class ZstdDecompressor implements Decompressor {
  readonly #frames = new ZstdFrames();
  readonly #decompressor: HandleDecompressor;

  constructor(onChunk: ChunkHandler, nextBuffer: BufferProvider) {
    this.#decompressor = new HandleDecompressor(zlib().createZstdDecompress({chunkSize: 64}), onChunk, nextBuffer);
  }

  write(chunk: Uint8Array): void {
    this.#frames.split(chunk, (part) => {
      if (this.#decompressor.drain(zlib().constants.ZSTD_e_continue, part) < part.length) throw damaged('truncated zstd frame');
    });
  }

  end(): void {
    if (!this.#frames.isBetweenFrames) throw damaged('truncated');
  }

  close(): void {
    this.#decompressor.close();
  }
}

/** Detects the format by the first bytes, and starts its decompressor. */
class FormatDetector<E extends {write(chunk: Uint8Array): unknown}> {
  kind: Compression | undefined;
  decompressor: E | undefined;
  #head: Uint8Array = EMPTY;
  readonly #start: (kind: 'gzip' | 'zstd') => E;

  constructor(start: (kind: 'gzip' | 'zstd') => E) {
    this.#start = start;
  }

  /** Returns the bytes to decompress, once the format is known. @param ended the input is complete */
  take(chunk: Uint8Array, ended: boolean): Uint8Array {
    if (this.kind !== undefined) return chunk;
    const bytes = this.#head.length === 0 ? chunk : Buffer.concat([this.#head, chunk]);
    if (bytes.length < 4 && !ended) {
      this.#head = Uint8Array.from(bytes);
      return EMPTY;
    }
    this.#head = EMPTY;
    this.kind = detectCompression(bytes);
    if (this.kind !== 'none') this.decompressor = this.#start(this.kind);
    return bytes;
  }
}

/** Allocates one buffer on first use, and reuses it. */
function reusedBuffer(bytes: number): BufferProvider {
  let buffer: Uint8Array | undefined;
  return () => {
    buffer ??= Buffer.allocUnsafeSlow(bytes);
    return buffer;
  };
}

/**
 * Opens a synchronous inflater.
 *
 * @throws not_implemented (from `write`) the stream is compressed, and this engine has no synchronous handle
 */
export function createSyncInflater(onChunk: ChunkHandler, nextBuffer: BufferProvider = reusedBuffer(OUTPUT_BYTES)): Inflater {
  const detector = new FormatDetector<Decompressor>((kind) =>
    kind === 'gzip' ? new GzipDecompressor(onChunk, nextBuffer) : new ZstdDecompressor(onChunk, nextBuffer),
  );
  const decompress = (bytes: Uint8Array): void => {
    if (bytes.length === 0) return;
    if (detector.decompressor === undefined) onChunk(bytes);
    else detector.decompressor.write(bytes);
  };
  return {
    get kind() {
      return detector.kind;
    },
    write(chunk) {
      decompress(detector.take(chunk, false));
    },
    end() {
      decompress(detector.take(EMPTY, true));
      detector.decompressor?.end();
    },
    close() {
      detector.decompressor?.close();
    },
  };
}

let isSynchronous: boolean | undefined;

/** Two gzip members and two zstd frames, each pair `berth ` forty times. */
const SAMPLES = [
  'H4sIAAAAAAAC/0tKLSrJUEiiKQkAvqgBs2QAAAAfiwgAAAAAAAL/y1BISi0qyRgUJAAaMrdIjAAAAA==',
  'KLUv/SBkbQAAMGJlcnRoIAEAm6kUASi1L/0gjG0AADBoIGJlcnQBAINQpQg=',
];

/** Tests once, with small inputs and outputs, whether this engine's zlib works synchronously. */
export function canInflateSynchronously(): boolean {
  isSynchronous ??= SAMPLES.every((sample) => {
    const expected = 'berth '.repeat(40);
    let text = '';
    const inflater = createSyncInflater((chunk) => {
      text += Buffer.from(chunk).toString();
      if (text.length > expected.length) throw damaged('the output is longer than the input was');
    }, reusedBuffer(7));
    try {
      for (const byte of Buffer.from(sample, 'base64')) inflater.write(Uint8Array.of(byte));
      inflater.end();
      return text === expected;
    } catch (err) {
      if (!isErrdefs(err) && !(err instanceof TypeError)) throw err;
      return false;
    } finally {
      inflater.close();
    }
  });
  return isSynchronous;
}

/** Drives a node:zlib decompressor by its public stream. */
class StreamDecompressor {
  readonly #stream: Gunzip | ZstdDecompress;
  #failure: unknown;

  constructor(stream: Gunzip | ZstdDecompress, onChunk: ChunkHandler) {
    this.#stream = stream;
    stream.on('data', (chunk: Buffer) => {
      try {
        onChunk(chunk);
      } catch (err) {
        stream.destroy(err as Error);
      }
    });
    stream.on('error', (err: NodeJS.ErrnoException) => {
      this.#failure ??= isErrdefs(err) || err.code === undefined ? err : fromZlib(err);
    });
  }

  /** Returns the number of consumed bytes: fewer than given after the end of the compressed data. */
  async write(chunk: Uint8Array): Promise<number> {
    const before = this.#stream.bytesWritten;
    await this.#completed((done) => this.#stream.write(chunk, done));
    return this.#stream.bytesWritten - before;
  }

  async end(): Promise<void> {
    await this.#completed((done) => this.#stream.once('end', done).end());
  }

  async #completed(action: (done: () => void) => void): Promise<void> {
    const {promise, resolve} = Promise.withResolvers<void>();
    // A failed stream closes without calling back.
    this.#stream.once('close', resolve);
    action(resolve);
    await promise;
    this.#stream.off('close', resolve);
    if (this.#failure !== undefined) throw this.#failure;
  }

  close(): void {
    this.#stream.destroy();
  }
}

interface AsyncDecompressor {
  write(chunk: Uint8Array): Promise<void>;
  end(): Promise<void>;
  close(): void;
}

function createGzipStream(onChunk: ChunkHandler): AsyncDecompressor {
  const decompressor = new StreamDecompressor(zlib().createGunzip({chunkSize: OUTPUT_BYTES}), onChunk);
  let inPadding = false;
  return {
    async write(chunk) {
      const taken = inPadding ? 0 : await decompressor.write(chunk);
      inPadding = taken < chunk.length;
      checkPadding(chunk, taken);
    },
    async end() {
      if (!inPadding) await decompressor.end();
    },
    close: () => decompressor.close(),
  };
}

function createZstdStream(onChunk: ChunkHandler): AsyncDecompressor {
  const frames = new ZstdFrames();
  let decompressor: StreamDecompressor | undefined;
  return {
    async write(chunk) {
      const parts: (readonly [part: Uint8Array, last: boolean])[] = [];
      frames.split(chunk, (part, last) => parts.push([part, last]));
      for (const [part, last] of parts) {
        // A public stream ends after its first frame, so each frame gets its own.
        decompressor ??= new StreamDecompressor(zlib().createZstdDecompress({chunkSize: OUTPUT_BYTES}), onChunk);
        await decompressor.write(part);
        if (!last) continue;
        await decompressor.end();
        decompressor = undefined;
      }
    },
    async end() {
      if (!frames.isBetweenFrames) throw damaged('truncated');
    },
    close: () => decompressor?.close(),
  };
}

/** Inflates with node:zlib's public streams: slower, but works on any engine. */
export function createStreamInflater(onChunk: ChunkHandler): AsyncInflater {
  const detector = new FormatDetector<AsyncDecompressor>((kind) =>
    kind === 'gzip' ? createGzipStream(onChunk) : createZstdStream(onChunk),
  );
  const decompress = async (bytes: Uint8Array): Promise<void> => {
    if (bytes.length === 0) return;
    if (detector.decompressor === undefined) onChunk(bytes);
    else await detector.decompressor.write(bytes);
  };
  return {
    get kind() {
      return detector.kind;
    },
    async write(chunk) {
      await decompress(detector.take(chunk, false));
    },
    async end() {
      await decompress(detector.take(EMPTY, true));
      await detector.decompressor?.end();
    },
    close() {
      detector.decompressor?.close();
    },
  };
}

/**
 * Opens the synchronous inflater if the engine allows it, else one of public streams. Await the results of `write` and `end`.
 *
 * @param nextBuffer used by the synchronous inflater; uncompressed bytes are passed on as written
 */
export const openInflater = (onChunk: ChunkHandler, nextBuffer?: BufferProvider): AsyncInflater =>
  canInflateSynchronously() ? createSyncInflater(onChunk, nextBuffer) : createStreamInflater(onChunk);
