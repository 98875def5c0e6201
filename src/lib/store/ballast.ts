/**
 * The ballast: disk space set aside for removals. Even a removal needs space, for a lock and a commit; the largest new file is its journal
 * record, which holds every path and document that it removes.
 *
 * `cache/reserve/space` is long enough for the removal of every record: a transaction that adds records lengthens it before the commit, and
 * is refused when the disk has no space for that. While the ballast is released, the file keeps its length and has a hole. Empty files
 * beside it hold inodes.
 *
 * A killed removal leaves the ballast released, and another process may take the space before the next removal. So the beginning of the
 * file and the first empty files are a spare, enough to remove one thing. It is released only when the rest is not enough.
 */
import {randomBytes} from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  type Stats,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, hasCode} from '../errdefs.ts';
import {listIfPresent, unlinkIfPresent} from '../fs/durable.ts';
import {hasRoom, isNearlyFull, NEARLY_FULL_BYTES} from '../fs/free-space.ts';
import {type Layout, recordPath} from './layout.ts';

const SPARE_BYTES = 512 << 10;
const SPARE_INODES = 32;
/** The spare, and bytes for everything except the journal record: a lock, growing directories, replaced counts. */
const BASE_BYTES = SPARE_BYTES + (512 << 10);
const INODES = SPARE_INODES + 32;
const STEP_BYTES = 256 << 10;
/** Unit of `st_blocks` on every filesystem. */
const STAT_BLOCK = 512;

/** Bytes that removing a document adds to a journal record besides the document: its path twice, and JSON syntax. */
export const removalBytes = (path: string): number => 2 * path.length + 64;

export class Ballast {
  readonly #layout: Layout;
  readonly #directory: string;
  readonly #space: string;
  #removals = 0;
  #released = false;

  constructor(layout: Layout) {
    this.#layout = layout;
    this.#directory = join(layout.cache, 'reserve');
    this.#space = join(this.#directory, 'space');
  }

  /** Whether the ballast is released for a removal of this process; nothing else may take its space then. */
  get isReleased(): boolean {
    return this.#released;
  }

  /** Whether this process is in a removal. */
  get isRemoving(): boolean {
    return this.#removals > 0;
  }

  beginRemoval(): void {
    this.#removals++;
    this.release();
  }

  endRemoval(): void {
    if (--this.#removals === 0) this.#released = false;
  }

  /** Releases the ballast and the rest of the cache on a nearly full disk; the spare only if the disk is still full. */
  release(): void {
    try {
      const size = this.#open((fd) => fstatSync(fd).size) ?? 0;
      if (!isNearlyFull(this.#layout.root, size)) return;
      this.#released = true;
      for (const name of listIfPresent(this.#layout.cache))
        if (name !== 'reserve') rmSync(join(this.#layout.cache, name), {recursive: true, force: true});
      this.#truncateTo(size, SPARE_BYTES, SPARE_INODES);
      if (!hasRoom(this.#layout.root, SPARE_BYTES / 2, SPARE_INODES / 2)) this.#truncateTo(size, 0, 0);
    } catch {
      // Missing or not writable: the removal itself reports the error.
    }
  }

  /** Keeps only the first bytes and inodes of the ballast. */
  #truncateTo(size: number, bytes: number, inodes: number): void {
    this.#open((fd) => {
      for (const name of this.#inodeFiles()) if (Number(name) >= inodes) unlinkIfPresent(join(this.#directory, name));
      ftruncateSync(fd, bytes);
      ftruncateSync(fd, size);
      fsyncSync(fd); // some filesystems free blocks only on a sync
    });
  }

  /**
   * Lengthens the ballast for the removal of new records. The caller holds the lock. A removal's own additions never fail here.
   *
   * @throws resource_exhausted the disk has no space for it
   */
  grow(bytes: number): void {
    try {
      this.#open((fd) => {
        const before = fstatSync(fd);
        const {size} = before;
        if (size < BASE_BYTES) return;
        if (this.isRemoving) {
          ftruncateSync(fd, size + bytes);
          return;
        }
        // Holes on a full disk: a removal that is about to start needs the free space.
        const isFree = this.#isFull(before) || !isNearlyFull(this.#layout.root, 2 * Math.max(size, NEARLY_FULL_BYTES));
        ftruncateSync(fd, size + bytes);
        if (isFree && this.#fill(fd, size)) return;
        ftruncateSync(fd, size);
        throw new ErrdefsError('resource_exhausted', `no disk space to set aside for removals below ${this.#layout.root}`, {
          hint: 'free disk space with "berth prune" or "berth images rm REF"',
        });
      });
    } catch (err) {
      throw fromErrno(err, this.#space);
    }
  }

  /** Shortens the ballast by what the removal of deleted records would have needed. */
  shrink(bytes: number): void {
    try {
      this.#open((fd) => {
        const {size} = fstatSync(fd);
        if (size >= BASE_BYTES) ftruncateSync(fd, Math.max(BASE_BYTES, size - bytes));
      });
    } catch {
      // The ballast stays larger than needed.
    }
  }

  /** Whether the ballast was created with a valid length. */
  get isCreated(): boolean {
    return (this.#stat()?.size ?? 0) >= BASE_BYTES;
  }

  /** Whether all its blocks and inodes are allocated. */
  get isFull(): boolean {
    const stat = this.#stat();
    return stat !== undefined && this.#isFull(stat);
  }

  /** Of the file with the space; `undefined` when it is missing, or something else is in its place. */
  #stat(): Stats | undefined {
    const stat = lstatSync(this.#space, {throwIfNoEntry: false});
    return stat?.isFile() === true ? stat : undefined;
  }

  #isFull({size, blocks}: Stats): boolean {
    return size >= BASE_BYTES && blocks * STAT_BLOCK >= size && this.#inodeFiles().length >= INODES;
  }

  /** Creates the ballast for all existing records. The caller holds the lock and has applied everything. */
  create(): void {
    for (const directory of [this.#layout.cache, this.#directory]) makeDirectory(directory);
    if (this.#stat() === undefined) rmSync(this.#space, {recursive: true, force: true});
    const fd = openSync(this.#space, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    try {
      ftruncateSync(fd, BASE_BYTES + removalBytesOfAll(this.#layout.root));
    } finally {
      closeSync(fd);
    }
  }

  /** Allocates released space again, as far as the disk allows. The caller holds the lock. */
  refill(): void {
    this.#open((fd) => this.#fill(fd, 0));
  }

  /** @param known offset where a hole may begin @returns whether everything is allocated */
  #fill(fd: number, known: number): boolean {
    const {size, blocks} = fstatSync(fd);
    let at = blocks * STAT_BLOCK >= size ? size : blocks * STAT_BLOCK >= known ? known : 0;
    try {
      // Not zeros: some filesystems would store none.
      while (at < size) at += writeSync(fd, randomBytes(Math.min(STEP_BYTES, size - at)), 0, undefined, at);
      const there = new Set(this.#inodeFiles());
      for (let i = 0; there.size < INODES; i++) {
        const name = String(i);
        if (there.has(name)) continue;
        const path = join(this.#directory, name);
        rmSync(path, {recursive: true, force: true}); // a link or a directory in its place
        writeFileSync(path, '', {mode: 0o600, flag: 'wx'});
        there.add(name);
      }
      return true;
    } catch (err) {
      if (hasCode(fromErrno(err, this.#space), 'resource_exhausted')) return false;
      throw err;
    }
  }

  #inodeFiles(): readonly string[] {
    return readdirSync(this.#directory, {withFileTypes: true}).flatMap((entry) =>
      entry.name !== 'space' && entry.isFile() ? entry.name : [],
    );
  }

  /** Runs `fn` on the file; `undefined` when it is missing. */
  #open<T>(fn: (fd: number) => T): T | undefined {
    let fd: number;
    try {
      fd = openSync(this.#space, constants.O_RDWR | constants.O_NOFOLLOW);
    } catch (err) {
      if (['ENOENT', 'ENOTDIR', 'ELOOP', 'EISDIR'].includes((err as NodeJS.ErrnoException).code ?? '')) return undefined;
      throw err;
    }
    try {
      return fn(fd);
    } finally {
      closeSync(fd);
    }
  }
}

function makeDirectory(path: string): void {
  try {
    // Not recursively: a removed root must not be created again.
    mkdirSync(path, {mode: 0o700});
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw err;
  }
}

/** Bytes that removing every record adds to a journal record. */
function removalBytesOfAll(root: string): number {
  let bytes = 0;
  const visit = (path: string): void => {
    for (const entry of readdirSync(join(root, path), {withFileTypes: true})) {
      const below = `${path}/${entry.name}`;
      if (entry.isDirectory()) visit(below);
      else if (entry.isFile()) bytes += statSync(join(root, below)).size + removalBytes(below);
    }
  };
  for (const top of [recordPath.namespaces, recordPath.sharedRefs])
    if (statSync(join(root, top), {throwIfNoEntry: false}) !== undefined) visit(top);
  return bytes;
}
