/** Files of an archive of images on disk: a directory, or a tar. Each is read from any offset, so only what is wanted is read. */
import {closeSync, constants, fstatSync, openSync, readSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, isErrdefs, wrap} from '../errdefs.ts';
import type {Digest} from '../oci/descriptor.ts';
import {cleanName} from './archive-documents.ts';
import {type Compression, detectCompression} from './inflate.ts';
import {openFile, readRange, scanTar} from './outer-tar-reader.ts';
import {displayName} from './tar.ts';

/** Files of an archive by their cleaned names. */
export interface ArchiveFiles {
  /** What the archive is, for messages: `archive "redis.tar"`. */
  readonly what: string;
  /** Bytes of a file; `undefined` when there is no such file. */
  size(name: string): number | undefined;
  /** One name for all names that lead to the same file; `undefined` when there is no such file. */
  resolve(name: string): string | undefined;
  /** @throws data_loss the file is shorter than `size` */
  read(name: string, offset?: number): AsyncIterable<Buffer>;
  /** The file's digest, where it is known without reading the file. */
  digest?(name: string): Digest | undefined;
  close(): void;
}

/** What a path leads to, by its type and its first bytes. */
export type ArchiveKind = 'directory' | 'tar' | 'stream';

const MAGIC_BYTES = 4;

/**
 * How an archive can be read: a directory, a tar in which one can seek, or only from its beginning to its end (compressed, or a pipe).
 *
 * @throws not_found | permission_denied
 */
export function archiveKind(path: string, what: string): ArchiveKind {
  let fd: number | undefined;
  try {
    // Opening a pipe would wait for its writer.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const stat = fstatSync(fd);
    if (stat.isDirectory()) return 'directory';
    if (!stat.isFile()) return 'stream';
    const head = Buffer.alloc(MAGIC_BYTES);
    readSync(fd, head, 0, MAGIC_BYTES, 0);
    return detectCompression(head) === 'none' ? 'tar' : 'stream';
  } catch (err) {
    throw fromErrno(err, what);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** The files of a directory. Symbolic links are followed: the directory is the caller's, and a blob's digest is checked. */
export function openDirectoryFiles(path: string, what: string): ArchiveFiles {
  const open = (name: string): {readonly fd: number; readonly size: number; readonly id: string} | undefined => {
    try {
      const fd = openSync(join(path, name), constants.O_RDONLY | constants.O_NONBLOCK);
      const stat = fstatSync(fd);
      if (stat.isFile()) return {fd, size: stat.size, id: `${stat.dev}:${stat.ino}`};
      closeSync(fd);
      return undefined;
    } catch (err) {
      const {code} = err as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
      throw fromErrno(err, `${name} of ${what}`);
    }
  };
  /** The first name of each file, by device and inode. */
  const first = new Map<string, string>();
  return {
    what,
    size: (name) => {
      const file = open(name);
      if (file !== undefined) closeSync(file.fd);
      return file?.size;
    },
    resolve: (name) => {
      const file = open(name);
      if (file === undefined) return undefined;
      closeSync(file.fd);
      const known = first.get(file.id) ?? name;
      first.set(file.id, known);
      return known;
    },
    async *read(name, offset = 0) {
      const file = open(name);
      if (file === undefined) throw missingFile(what, name);
      try {
        yield* readRange(file.fd, offset, file.size, `${name} of ${what}`);
      } finally {
        closeSync(file.fd);
      }
    },
    close: () => {},
  };
}

export const missingFile = (what: string, name: string): ErrdefsError =>
  new ErrdefsError('not_found', `${what} has no ${JSON.stringify(name)}`, {hint: 'the archive is incomplete: make it again'});

/** Names the archive in an error that does not name it yet, and gives an errno its class. */
export function ofArchive(what: string, err: unknown): unknown {
  const known = fromErrno(err, what);
  return isErrdefs(known) && known.message.startsWith(what) ? known : wrap(what, known);
}

/** Where a file's bytes lie. */
interface Extent {
  readonly offset: number;
  readonly size: number;
}

/**
 * The files of an uncompressed tar. Links between its entries are resolved; links out of it lead nowhere.
 *
 * @throws data_loss the tar is damaged @throws invalid_argument a name occurs twice
 */
export function openTarFiles(path: string, what: string): ArchiveFiles {
  const {fd, close} = openFile(path, what);
  try {
    const extents = new Map<string, Extent>();
    const links = new LinkTable(what);
    for (const {header, offset} of scanTar(fd, what)) {
      const name = links.add(header);
      if (name !== undefined) extents.set(name, {offset, size: header.size});
    }
    const find = (name: string): Extent | undefined => extents.get(links.resolve(name));
    return {
      what,
      size: (name) => find(name)?.size,
      resolve: (name) => (find(name) === undefined ? undefined : links.resolve(name)),
      async *read(name, from = 0) {
        const extent = find(name);
        if (extent === undefined) throw missingFile(what, name);
        yield* readRange(fd, extent.offset + from, extent.offset + extent.size, `${name} of ${what}`);
      },
      close,
    };
  } catch (err) {
    close();
    throw ofArchive(what, err);
  }
}

/** Most links that lead from one name to a file. */
const MAX_LINKS = 32;

/** Names of a tar's entries, and the links between them. Directories and special files are passed over. */
export class LinkTable {
  readonly #what: string;
  readonly #names = new Set<string>();
  readonly #links = new Map<string, string>();

  constructor(what: string) {
    this.#what = what;
  }

  /**
   * Adds an entry.
   *
   * @returns the cleaned name of a file; `undefined` for anything else
   * @throws invalid_argument the name was there already, or leads out of the archive; or the file is sparse
   */
  add({name: raw, linkname, type, sparse}: {name: string; linkname: string; type: string; sparse?: unknown}): string | undefined {
    if (type !== 'file' && type !== 'link' && type !== 'symlink') return undefined;
    const refuse = (reason: string): ErrdefsError =>
      new ErrdefsError('invalid_argument', `${this.#what}: entry ${displayName(raw)} ${reason}`);
    const name = cleanName(raw);
    if (name === undefined || name === '') throw refuse('leads out of the archive');
    if (this.#names.has(name)) throw refuse('occurs twice');
    this.#names.add(name);
    if (type === 'file') {
      if (sparse !== undefined) throw refuse('is a sparse file, which no archive of images has');
      return name;
    }
    // A hard link names an entry of the archive, a symbolic link starts at its own directory.
    const target = cleanName(type === 'link' ? linkname : join(name, '..', linkname));
    if (target !== undefined && !linkname.startsWith('/')) this.#links.set(name, target);
    return undefined;
  }

  /** The name to which links lead. */
  resolve(name: string): string {
    let at = name;
    for (let i = 0; i < MAX_LINKS; i++) {
      const next = this.#links.get(at);
      if (next === undefined) return at;
      at = next;
    }
    return name;
  }
}

/** All bytes of a small file. @throws not_found @throws invalid_argument it is larger than `limit` */
export async function readFile(files: ArchiveFiles, name: string, limit: number): Promise<Buffer> {
  const size = files.size(name);
  if (size === undefined) throw missingFile(files.what, name);
  if (size > limit) throw new ErrdefsError('invalid_argument', `${name} of ${files.what} has ${size} B, at most ${limit} are read`);
  const chunks: Buffer[] = [];
  for await (const chunk of files.read(name)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The compression of a file, by its first bytes. */
export async function compressionOf(files: ArchiveFiles, name: string): Promise<Compression> {
  for await (const chunk of files.read(name)) return detectCompression(chunk.subarray(0, MAGIC_BYTES));
  return 'none';
}
