/**
 * The tar around an image: files of an OCI layout or of docker's archive. Layers, which are tars as well, are read by `apply.ts` and
 * `erofs-index.ts`. An archive is hostile, so it is read by our parser; outer-tar-writer.ts writes with tar-stream (decision 0020).
 */
import {closeSync, fstatSync, openSync, readSync} from 'node:fs';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {createTarReader, type TarHeader} from './tar.ts';

/** Most entries of the tar around images. */
export const MAX_ARCHIVE_ENTRIES = 100_000;

/** What a tar contains, in order: the header of an entry, its bytes, and its end. */
export type TarEvent =
  | {readonly type: 'entry'; readonly header: TarHeader}
  | {readonly type: 'data'; readonly chunk: Buffer}
  | {readonly type: 'end'};

function countEntries(): () => void {
  let entries = 0;
  return () => {
    if (++entries > MAX_ARCHIVE_ENTRIES)
      throw new ErrdefsError('resource_exhausted', `the archive has more than ${MAX_ARCHIVE_ENTRIES} entries`, {
        hint: 'it is larger than any archive of images needs to be',
      });
  };
}

/**
 * Parses a tar as it comes. A chunk of an entry is a part of a chunk of the source.
 *
 * @throws data_loss | invalid_argument | resource_exhausted as `createTarReader`
 */
export async function* readTarStream(source: AsyncIterable<Uint8Array>): AsyncGenerator<TarEvent> {
  const count = countEntries();
  let events: TarEvent[] = [];
  const reader = createTarReader({
    entry: (header) => {
      count();
      events.push({type: 'entry', header});
    },
    data: (chunk) => void events.push({type: 'data', chunk}),
    entryEnd: () => void events.push({type: 'end'}),
  });
  const taken = (): readonly TarEvent[] => {
    const those = events;
    events = [];
    return those;
  };
  for await (const chunk of source) {
    let failure: {readonly err: unknown} | undefined;
    try {
      reader.write(chunk);
    } catch (err) {
      failure = {err};
    }
    // What came before the damage is whole.
    yield* taken();
    if (failure !== undefined) throw failure.err;
  }
  reader.end();
  yield* taken();
}

/** An entry of a tar on disk. */
export interface TarMember {
  readonly header: TarHeader;
  /** Offset of its content in the archive. */
  readonly offset: number;
}

/** Bytes that are read for each header. */
const BLOCK = 512;

/**
 * Lists the entries of an uncompressed tar without reading their content.
 *
 * @throws data_loss the archive is damaged or truncated
 */
export function scanTar(fd: number, what: string): readonly TarMember[] {
  const members: TarMember[] = [];
  const count = countEntries();
  const reader = createTarReader({
    entry: (header, offset) => {
      count();
      members.push({header, offset});
    },
    data: () => {},
    entryEnd: () => {},
  });
  try {
    const {size} = fstatSync(fd);
    const block = Buffer.allocUnsafe(BLOCK);
    for (let at = 0; ; ) {
      const content = Math.min(reader.pending, size - at);
      if (content > 0) {
        reader.skip(content);
        at += content;
        continue;
      }
      const n = readSync(fd, block, 0, BLOCK, at);
      if (n === 0) break;
      reader.write(block.subarray(0, n));
      at += n;
      if (reader.isComplete) break;
    }
    reader.end();
  } catch (err) {
    throw fromErrno(err, what);
  }
  return members;
}

/** Bytes that are read at once. Archives are in the page cache, or are read ahead; the threads that Bun starts for other reads take 30 MB. */
const CHUNK = 1 << 18;

/**
 * Bytes of an open file.
 *
 * @param start offset in the file
 * @param end offset after the last byte
 * @throws data_loss the file is shorter
 */
export async function* readRange(fd: number, start: number, end: number, what: string): AsyncGenerator<Buffer> {
  for (let at = start; at < end; ) {
    let n: number;
    // A new buffer for each chunk: the reader may keep it.
    const buffer = Buffer.allocUnsafe(Math.min(CHUNK, end - at));
    try {
      n = readSync(fd, buffer, 0, buffer.length, at);
    } catch (err) {
      throw fromErrno(err, what);
    }
    if (n === 0) throw new ErrdefsError('data_loss', `${what} has become shorter`);
    at += n;
    yield buffer.subarray(0, n);
  }
}

/** Opens a file for reading. @param what for messages */
export function openFile(path: string, what: string): {readonly fd: number; close(): void} {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (err) {
    throw fromErrno(err, what);
  }
  return {
    fd,
    close: () => {
      if (fd < 0) return;
      closeSync(fd);
      fd = -1;
    },
  };
}
