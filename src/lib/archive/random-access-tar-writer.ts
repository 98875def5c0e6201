/** Writes a tar into a file in which entries have their place before their bytes have come. */
import type {FileHandle} from 'node:fs/promises';
import {pack} from 'tar-stream';
import {ErrdefsError} from '../errdefs.ts';
import {writeAt} from '../fs/durable.ts';

const BLOCK = 512;
const padded = (size: number): number => Math.ceil(size / BLOCK) * BLOCK;

/** The header of a file, by tar-stream: time 0, owner 0:0, mode 0644. */
async function headerOf(name: string, size: number): Promise<Buffer> {
  const tar = pack();
  const readable = new Promise<void>((resolve) => void tar.once('readable', () => resolve()));
  // The entry ends without its bytes, which is an error that is of no interest.
  tar.entry({name, size, type: 'file', mode: 0o644, mtime: new Date(0), uid: 0, gid: 0}, () => {});
  await readable;
  const chunks: Buffer[] = [];
  for (let chunk = tar.read() as Buffer | null; chunk !== null; chunk = tar.read() as Buffer | null) chunks.push(chunk);
  tar.destroy();
  return Buffer.concat(chunks);
}

/** Writes a chunk at an offset from the beginning of an entry. */
export type EntryWriter = (chunk: Buffer, offset: number) => void;

/** A tar file in the making. The caller owns the file, which is empty. */
export class TarFile {
  readonly #file: FileHandle;
  #end = 0;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Makes room for an entry. Entries may be written at once, each by its own writer. The writer must write all of it. */
  async reserve(name: string, size: number): Promise<EntryWriter> {
    const header = await headerOf(name, size);
    const start = this.#end;
    const content = start + header.length;
    this.#end = content + padded(size);
    this.#write(header, start);
    return (chunk, offset) => {
      if (offset + chunk.length > size) throw new ErrdefsError('failed_precondition', `${name}: more than ${size} B`);
      this.#write(chunk, content + offset);
    };
  }

  /** Appends an entry of unknown size. No other entry may be reserved meanwhile. @returns bytes written */
  async append(name: string, source: AsyncIterable<Uint8Array>): Promise<number> {
    const start = this.#end;
    // Each size up to 8 GiB has a header of this length, and so have larger ones: tar-stream writes them in base 256.
    const reserved = (await headerOf(name, 0)).length;
    let size = 0;
    for await (const chunk of source) {
      this.#write(chunk, start + reserved + size);
      size += chunk.length;
    }
    const header = await headerOf(name, size);
    if (header.length !== reserved) throw new ErrdefsError('internal', `header of ${name}: ${header.length} B instead of ${reserved} B`);
    this.#write(header, start);
    this.#end = start + reserved + padded(size);
    return size;
  }

  /** Appends the two empty blocks that end a tar. The padding of entries is a hole in the file. */
  async finish(): Promise<void> {
    await this.#file.truncate(this.#end + 2 * BLOCK);
  }

  #write(bytes: Uint8Array, position: number): void {
    writeAt(this.#file.fd, bytes, position);
  }
}
