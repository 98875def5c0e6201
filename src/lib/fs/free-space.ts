/** FreeSpace on a filesystem: bytes that a stranger sends must not take the last of it. */
import {statfsSync} from 'node:fs';
import {ErrdefsError, fromErrno} from '../errdefs.ts';

/** The reserve: this fraction of a filesystem, at most this many bytes. */
const RESERVED_PART = 1 / 50;
const RESERVED_BYTES = 256 << 20;

export interface FreeSpace {
  /** Bytes that may still be written; the reserve is not among them. May be negative. */
  readonly bytes: number;
  /** Bytes that are kept free. */
  readonly reserved: number;
  /** Inodes that may still be made; the reserve is not among them. May be negative. */
  readonly inodes: number;
}

/** @param path anything on the filesystem */
export function freeSpaceAt(path: string): FreeSpace {
  try {
    const {bsize, blocks, bavail, files, ffree} = statfsSync(path);
    const reserved = Math.floor(Math.min(blocks * bsize * RESERVED_PART, RESERVED_BYTES));
    // A filesystem without bounds counts no blocks, and one that makes inodes as it needs them no files.
    const bytes = blocks === 0 ? Number.POSITIVE_INFINITY : bavail * bsize - reserved;
    return {bytes, reserved, inodes: files === 0 ? Number.POSITIVE_INFINITY : ffree - Math.ceil(files * RESERVED_PART)};
  } catch (err) {
    throw fromErrno(err, path);
  }
}

const HINT = 'free disk space with "berth prune" or "berth images rm REF"';

/**
 * Checks that so many bytes fit.
 *
 * @param what needs them
 * @throws resource_exhausted with both numbers
 */
export function requireFreeSpace(path: string, needed: number, what: string): void {
  const {bytes} = freeSpaceAt(path);
  if (needed > bytes)
    throw new ErrdefsError('resource_exhausted', `${what}: ${needed} B needed, ${Math.max(bytes, 0)} B available`, {
      hint: HINT,
      details: {needed, available: Math.max(bytes, 0)},
    });
}

/** Most bytes between two checks; several writers may run at once. */
const LOOK_EVERY = 64 << 20;
const LOOK_AFTER = 64 << 10;
/** Of an archive, the fewest that make an inode: a tar header. */
const ENTRY_BYTES = 512;

/** Checks the free space while an unknown number of bytes is written. */
export class FreeSpaceGuard {
  readonly #path: string;
  readonly #what: string;
  /** Bytes at which the disk is looked at again. */
  #next = 0;

  /** @param path anything on the filesystem @param what is being written, for the message */
  constructor(path: string, what: string) {
    this.#path = path;
    this.#what = what;
  }

  /**
   * Calls statfs(2) only now and then, more often the less is free.
   *
   * @param written bytes so far
   * @throws resource_exhausted only the reserve is left
   */
  check(written: number): void {
    if (written < this.#next) return;
    const {bytes, reserved, inodes} = freeSpaceAt(this.#path);
    if (bytes <= 0 || inodes <= 0)
      throw new ErrdefsError(
        'resource_exhausted',
        `${this.#what} stopped after ${written} B: the disk has ${bytes <= 0 ? `${bytes + reserved} B` : 'almost no inodes'} left`,
        {hint: HINT, details: {written, path: this.#path}},
      );
    this.#next = written + Math.max(Math.min(LOOK_EVERY, bytes / 8, (inodes / 8) * ENTRY_BYTES), LOOK_AFTER);
  }
}

/** Free bytes and inodes below which a filesystem is as good as full. */
export const NEARLY_FULL_BYTES = 1 << 20;
const LITTLE_INODES = 64;

/**
 * Whether next to nothing more can be written where `path` lies.
 *
 * @param needed bytes that are to be written, if that is more
 * @throws an error of node:fs: `path` is not there, or not to be asked
 */
export const isNearlyFull = (path: string, needed = 0): boolean => !hasRoom(path, Math.max(NEARLY_FULL_BYTES, needed), LITTLE_INODES);

/** Whether so many bytes and inodes are free where `path` lies. @throws as `isNearlyFull` */
export function hasRoom(path: string, bytes: number, inodes: number): boolean {
  const {bavail, bsize, blocks, files, ffree} = statfsSync(path);
  // A filesystem without bounds counts no blocks, and one that makes inodes as it needs them no files.
  return (blocks === 0 || bavail * bsize >= bytes) && (files === 0 || ffree >= inodes);
}

/** Whether nothing more can be written where `path` lies. For programs that have failed there, whose messages have no fixed form. @throws as `isNearlyFull` */
export const isFull = (path: string): boolean => !hasRoom(path, 1, 1);

/** OVERLAYFS_SUPER_MAGIC of statfs(2). */
const OVERLAYFS = 0x794c7630;

/** Whether a directory lies on overlayfs, as everything in most containers does: the kernel takes none for the writable layer of another. */
export const isOnOverlay = (directory: string): boolean => statfsSync(directory).type === OVERLAYFS;
