/**
 * Disk space set aside for removals. A removal on a full disk still takes a lock and commits, which makes new files; the
 * largest is its record in the journal, which holds every path and document that it removes.
 *
 * `cache/reserve/space` is long enough for the removal of every record, and follows them: a change that adds records
 * lengthens it before it commits, and is refused where the disk has no room for that. Where space has been given up, the
 * file keeps its length and has a hole. Empty files beside it hold inodes.
 *
 * A removal that is killed leaves the reserve given up, and somebody else may take its space before the next one. So the beginning of
 * the file, and the first of the empty files, are a spare: given up only where the rest is not enough, it suffices to remove one thing.
 */
import {randomBytes} from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
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
/** The spare, and bytes for everything but the record: a lock, directories that grow, counts that are replaced. */
const BASE_BYTES = SPARE_BYTES + (512 << 10);
const INODES = SPARE_INODES + 32;
const STEP_BYTES = 256 << 10;
/** Unit of `st_blocks`, whatever the filesystem's is. */
const STAT_BLOCK = 512;

/** Bytes that the removal of a document adds to a record of the journal, besides the document: its path twice, and what is around it. */
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

  /** Whether it is given up for a removal of this process: nothing else may take its space then. */
  get isReleased(): boolean {
    return this.#released;
  }

  /** Whether a removal of this process is under way. */
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

  /** Where the disk is all but full, gives up the rest of the cache and the reserve: the spare only where the disk is full even then. */
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
      // It is not there, or not ours: the removal says what is wrong.
    }
  }

  /** Keeps so many bytes and inodes of the reserve. */
  #truncateTo(size: number, bytes: number, inodes: number): void {
    this.#open((fd) => {
      for (const name of this.#inodeFiles()) if (Number(name) >= inodes) unlinkIfPresent(join(this.#directory, name));
      ftruncateSync(fd, bytes);
      ftruncateSync(fd, size);
      fsyncSync(fd); // some filesystems free blocks only then
    });
  }

  /**
   * Sets aside what the removal of new records takes, under the store's lock. A removal is not held up by what it adds.
   *
   * @throws resource_exhausted there is no room to set aside what removing the new records takes
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
        // Where it has holes on a full disk, a removal that is about to begin counts on what is free.
        const isFree = this.#isFull(before) || !isNearlyFull(this.#layout.root, 2 * Math.max(size, NEARLY_FULL_BYTES));
        ftruncateSync(fd, size + bytes);
        if (isFree && this.#fill(fd, size)) return;
        ftruncateSync(fd, size);
        throw new ErrdefsError('resource_exhausted', `no disk space to set aside for removals below ${this.#layout.root}`, {
          hint: 'free disk space: prune, or images rm',
        });
      });
    } catch (err) {
      throw fromErrno(err, this.#space);
    }
  }

  /** Gives back what the removal of records that are gone would have taken. */
  shrink(bytes: number): void {
    try {
      this.#open((fd) => {
        const {size} = fstatSync(fd);
        if (size >= BASE_BYTES) ftruncateSync(fd, Math.max(BASE_BYTES, size - bytes));
      });
    } catch {
      // Then it has more than it needs.
    }
  }

  /** Whether it was made, and its length is known. */
  get isCreated(): boolean {
    return (statSync(this.#space, {throwIfNoEntry: false})?.size ?? 0) >= BASE_BYTES;
  }

  /** Whether all of it is set aside. */
  get isFull(): boolean {
    const stat = statSync(this.#space, {throwIfNoEntry: false});
    return stat !== undefined && this.#isFull(stat);
  }

  #isFull({size, blocks}: Stats): boolean {
    return size >= BASE_BYTES && blocks * STAT_BLOCK >= size && this.#inodeFiles().length >= INODES;
  }

  /** Makes it for the records that are there, under the store's lock, with nothing left to apply. */
  create(): void {
    for (const directory of [this.#layout.cache, this.#directory]) makeDirectory(directory);
    const fd = openSync(this.#space, constants.O_RDWR | constants.O_CREAT, 0o600);
    try {
      ftruncateSync(fd, BASE_BYTES + removalBytesOfAll(this.#layout.root));
    } finally {
      closeSync(fd);
    }
  }

  /** Sets aside what was given up, as far as there is room, under the store's lock. */
  refill(): void {
    this.#open((fd) => this.#fill(fd, 0));
  }

  /** @param known where a hole may begin, if all before has its blocks @returns whether all of it is set aside */
  #fill(fd: number, known: number): boolean {
    const {size, blocks} = fstatSync(fd);
    let at = blocks * STAT_BLOCK >= size ? size : blocks * STAT_BLOCK >= known ? known : 0;
    try {
      // Not zeros: some filesystems would keep none of them.
      while (at < size) at += writeSync(fd, randomBytes(Math.min(STEP_BYTES, size - at)), 0, undefined, at);
      const there = new Set(this.#inodeFiles());
      for (let i = 0; there.size < INODES; i++) {
        const name = String(i);
        if (!there.has(name)) writeFileSync(join(this.#directory, name), '', {mode: 0o600});
        there.add(name);
      }
      return true;
    } catch (err) {
      if (hasCode(fromErrno(err, this.#space), 'resource_exhausted')) return false;
      throw err;
    }
  }

  #inodeFiles(): readonly string[] {
    return readdirSync(this.#directory).filter((name) => name !== 'space');
  }

  /** Runs `fn` on the file; `undefined` where there is none. */
  #open<T>(fn: (fd: number) => T): T | undefined {
    let fd: number;
    try {
      fd = openSync(this.#space, 'r+');
    } catch (err) {
      if (['ENOENT', 'ENOTDIR'].includes((err as NodeJS.ErrnoException).code ?? '')) return undefined;
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
    // Not recursively: a root that is gone is not made anew.
    mkdirSync(path, {mode: 0o700});
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw err;
  }
}

/** Bytes that the removal of every record adds to the journal's record of it. */
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
