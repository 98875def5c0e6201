/** Reads a blob's source in the parts that uploads need. */
import {ErrdefsError} from '../errdefs.ts';
import type {Descriptor} from '../oci/descriptor.ts';
import type {OpenBlob} from './types.ts';

/**
 * One reader of a blob. The source stays open between parts that follow each other, and is opened anew for every other part.
 *
 * The last chunk is given only after the source has ended: a source that finds at its end that its bytes are wrong fails before they are
 * complete at the registry.
 */
export class UploadBody {
  readonly #desc: Descriptor;
  readonly #what: string;
  readonly #open: OpenBlob;
  readonly #onProgress: (offset: number) => void;
  #source: AsyncIterator<Uint8Array> | undefined;
  /** Bytes that were given so far. */
  #position = 0;
  /** The chunk that is given next, once `#ahead` is known; it begins at `#position`. */
  #current: Buffer | undefined;

  /** @param onProgress gets the number of the blob's bytes that are on their way */
  constructor(desc: Descriptor, what: string, open: OpenBlob, onProgress: (offset: number) => void) {
    this.#desc = desc;
    this.#what = what;
    this.#open = open;
    this.#onProgress = onProgress;
  }

  /** @throws data_loss the source has more or fewer bytes than the descriptor promises @throws errors of the source, unchanged */
  async *read(from: number, length: number): AsyncGenerator<Buffer> {
    if (this.#source === undefined || from !== this.#position) await this.#reopen(from);
    for (let left = length; left > 0; ) {
      const current = await this.#ready();
      const part = current.subarray(0, left);
      this.#current = part.length === current.length ? undefined : current.subarray(part.length);
      this.#position += part.length;
      left -= part.length;
      this.#onProgress(this.#position);
      yield part;
    }
  }

  async #reopen(from: number): Promise<void> {
    await this.close();
    this.#source = this.#open(from)[Symbol.asyncIterator]();
    this.#position = from;
  }

  /** The chunk at the position. If it is the blob's last one, the source has ended. */
  async #ready(): Promise<Buffer> {
    this.#current ??= await this.#next();
    const {size} = this.#desc;
    const end = this.#position + (this.#current?.length ?? 0);
    const isWhole = this.#current !== undefined && (end < size || (end === size && (await this.#next()) === undefined));
    if (isWhole) return this.#current!;
    const found = this.#current === undefined ? `only ${this.#position} B` : 'more bytes';
    throw new ErrdefsError('data_loss', `${this.#what}: the source has ${found}, not the ${size} B expected`);
  }

  async #next(): Promise<Buffer | undefined> {
    for (;;) {
      const {done, value} = await this.#source!.next();
      if (done) return undefined;
      if (value.length > 0) return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    }
  }

  async close(): Promise<void> {
    const source = this.#source;
    this.#source = undefined;
    this.#current = undefined;
    await source?.return?.().catch(() => undefined);
  }
}
