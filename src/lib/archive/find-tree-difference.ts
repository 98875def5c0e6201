/** Compares two unpacked trees: names, attributes and content. */
import {type BigIntStats, closeSync, lstatSync, openSync, readdirSync, readlinkSync, readSync} from 'node:fs';
import {setImmediate} from 'node:timers/promises';
import {type Code, fromErrno, hasCode, isErrdefs} from '../errdefs.ts';
import {Directory} from '../fs/walk.ts';
import {OPAQUE, ORIGIN} from './overlay-view.ts';
import {readXattrs} from './special-files.ts';
import {displayName} from './tar.ts';

/** Bytes of a file read at a time. */
const CHUNK_BYTES = 256 << 10;
/** Directories whose extended attributes are read together. */
const XATTR_BATCH = 256;

/** Largest millisecond of a Date, in both directions from 1970; a damaged index can exceed it. */
const MAX_DATE_MS = 8_640_000_000_000_000n;

function showTime(ns: bigint): string {
  const ms = ns / 1_000_000n;
  return ms >= -MAX_DATE_MS && ms <= MAX_DATE_MS ? new Date(Number(ms)).toISOString() : `${ns} ns since 1970`;
}

type Field = readonly [name: string, of: (stat: BigIntStats) => bigint, show: (value: bigint) => string];

const octal = (value: bigint): string => value.toString(8).padStart(4, '0');
const FIELDS: readonly Field[] = [
  ['type', ({mode}) => mode & 0o170000n, octal],
  ['mode', ({mode}) => mode & 0o7777n, octal],
  ['user', ({uid}) => uid, String],
  ['group', ({gid}) => gid, String],
  ['mtime', ({mtimeNs}) => mtimeNs, showTime],
];

/**
 * Finds the first difference of `actual` from `expected`. Compares extended attributes of directories only, where overlayfs has its marks.
 * Ignores the mtime of the roots, which is their creation time.
 *
 * Memory use: names of the directories on the current path, and inodes with several names.
 *
 * @param expected, actual absolute paths of directories
 * @returns a short text that begins with a path below the roots; `undefined` for equal trees
 */
export async function findDifference(expected: string, actual: string, signal?: AbortSignal): Promise<string | undefined> {
  const comparison = new Comparison(signal);
  try {
    return (await comparison.compareDirectory('', [new Directory(expected), new Directory(actual)])) ?? comparison.comparePendingXattrs();
  } catch (err) {
    if (!(err instanceof UnreadableError)) throw fromErrno(err, `comparison of ${actual}`);
    const mapped = fromErrno(err.cause, `comparison of ${actual}`);
    if (!isErrdefs(mapped) || !UNREADABLE.includes(mapped.code)) throw mapped;
    return `${show(err.path)} cannot be read: ${mapped.details?.errno}`;
  }
}

/** Errors of reads in a file system that is mounted from a damaged index. */
const UNREADABLE: readonly Code[] = ['data_loss', 'not_found', 'not_implemented', 'failed_precondition', 'invalid_argument'];

/** The actual tree cannot be read. */
class UnreadableError extends Error {
  /** Below the root. */
  readonly path: string;

  constructor(path: string, cause: unknown) {
    super('unreadable', {cause});
    this.path = path;
  }
}

/** One value from each tree. */
type Pair<T> = readonly [expected: T, actual: T];

const readBoth = <T, R>([expected, actual]: Pair<T>, path: string, read: (one: T) => R): Pair<R> => {
  const wanted = read(expected);
  try {
    return [wanted, read(actual)];
  } catch (err) {
    throw new UnreadableError(path, err);
  }
};

const isWhiteout = (stat: BigIntStats): boolean => stat.isCharacterDevice() && stat.rdev === 0n;

interface ExpectedDirectory {
  readonly path: Buffer;
  readonly parent: ExpectedDirectory | undefined;
}

/**
 * Tells whether a name that only one tree has is a whiteout below an opaque directory. An index keeps such whiteouts, an extraction omits
 * them. An unreadable name is not one.
 */
function isRedundantWhiteout(directory: ExpectedDirectory, path: Buffer): boolean {
  try {
    if (!isWhiteout(lstatSync(path, {bigint: true}))) return false;
  } catch {
    return false;
  }
  const paths: string[] = [];
  for (let at: ExpectedDirectory | undefined = directory; at !== undefined; at = at.parent) paths.push(at.path.toString('latin1'));
  return tryReadXattrs(paths)?.some((xattrs) => [...xattrs.keys()].some((key) => key.endsWith(`.${OPAQUE}`))) ?? false;
}

class Comparison {
  readonly #signal: AbortSignal | undefined;
  /** First path of each inode with several names. Hard links in one tree must be hard links in the other. */
  readonly #firstNames: Pair<Map<bigint, string>> = [new Map(), new Map()];
  readonly #buffers: Pair<Buffer> = [Buffer.allocUnsafe(CHUNK_BYTES), Buffer.allocUnsafe(CHUNK_BYTES)];
  /** Directories whose extended attributes are not yet compared. */
  #pending: {readonly path: string; readonly paths: Pair<Buffer>}[] = [];

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal;
  }

  async compareDirectory(path: string, directories: Pair<Directory>, parent?: ExpectedDirectory): Promise<string | undefined> {
    await setImmediate();
    this.#signal?.throwIfAborted();
    const difference = this.#compareAttributes(
      path,
      this.#stats(
        path,
        readBoth(directories, path, (one) => one.path),
      ),
    );
    if (difference !== undefined) return difference;
    this.#pending.push({path, paths: [directories[0].path, directories[1].path]});
    if (this.#pending.length >= XATTR_BATCH) {
      const difference = this.comparePendingXattrs();
      if (difference !== undefined) return difference;
    }
    const directory: ExpectedDirectory = {path: directories[0].path, parent};
    const names = readBoth(directories, path, (one) => new Set(readdirSync(one.path, {encoding: 'latin1'})));
    const [expected, actual] = names;
    const missing = [...expected].find(
      (name) => !actual.has(name) && !isRedundantWhiteout(directory, directories[0].at(Buffer.from(name, 'latin1'))),
    );
    if (missing !== undefined) return `${show(`${path}/${missing}`)} is missing`;
    const extra = [...actual].find(
      (name) => !expected.has(name) && !isRedundantWhiteout(directory, directories[1].at(Buffer.from(name, 'latin1'))),
    );
    if (extra !== undefined) return `${show(`${path}/${extra}`)} does not belong there`;
    for (const name of [...expected].filter((one) => actual.has(one)).sort()) {
      const found = await this.#compareEntry(`${path}/${name}`, directories, Buffer.from(name, 'latin1'), directory);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  async #compareEntry(path: string, directories: Pair<Directory>, name: Buffer, parent: ExpectedDirectory): Promise<string | undefined> {
    const paths = readBoth(directories, path, (one) => one.at(name));
    const stats = this.#stats(path, paths);
    if (!stats[0].isDirectory() || !stats[1].isDirectory()) return this.#compareLeaf(path, paths, stats);
    const entered: Directory[] = [];
    try {
      const both = readBoth(directories, path, (one) => {
        const directory = one.enter(name);
        entered.push(directory);
        return directory;
      });
      const found = await this.compareDirectory(path, both, parent);
      // The pending paths lead through open descriptors, so compare them before closing those.
      return found === undefined && both.some(({isOpen}) => isOpen) ? this.comparePendingXattrs() : found;
    } finally {
      for (const directory of entered) directory.close();
    }
  }

  #stats(path: string, paths: Pair<Buffer>): Pair<BigIntStats> {
    return readBoth(paths, path, (place) => lstatSync(place, {bigint: true}));
  }

  #compareAttributes(path: string, [expected, actual]: Pair<BigIntStats>): string | undefined {
    for (const [name, of, text] of FIELDS) {
      if (path === '' && name === 'mtime') continue;
      // A symbolic link's mode has no meaning on Linux.
      if (name === 'mode' && expected.isSymbolicLink()) continue;
      const [wanted, found] = [of(expected), of(actual)];
      if (wanted !== found) return `${show(path)} has ${name} ${text(found)}, not ${text(wanted)}`;
    }
    return undefined;
  }

  #compareLeaf(path: string, paths: Pair<Buffer>, stats: Pair<BigIntStats>): string | undefined {
    const [expected, actual] = stats;
    // Other attributes of a whiteout are never visible; extracted whiteouts share an inode.
    if (isWhiteout(expected) && isWhiteout(actual)) return undefined;
    const attributes = this.#compareAttributes(path, stats);
    if (attributes !== undefined) return attributes;
    if (expected.nlink !== actual.nlink) return `${show(path)} has ${actual.nlink} names, not ${expected.nlink}`;
    if (expected.isSymbolicLink()) {
      const [wanted, found] = readBoth(paths, path, (place) => readlinkSync(place, {encoding: 'latin1'}));
      return wanted === found ? undefined : `${show(path)} points to ${show(found)}, not ${show(wanted)}`;
    }
    if (expected.isCharacterDevice() || expected.isBlockDevice())
      return expected.rdev === actual.rdev ? undefined : `${show(path)} is a different device`;
    const [first, other] = [this.#firstName(0, expected, path), this.#firstName(1, actual, path)];
    if (first !== other) return `${show(path)} is not the same file as ${show(first === path ? other : first)}`;
    if (!expected.isFile() || first !== path) return undefined;
    if (expected.size !== actual.size) return `${show(path)} has ${actual.size} B, not ${expected.size} B`;
    return this.#sameBytes(path, paths) ? undefined : `${show(path)} has different content`;
  }

  #firstName(side: 0 | 1, {ino, nlink}: BigIntStats, path: string): string {
    if (nlink === 1n) return path;
    const first = this.#firstNames[side].get(ino);
    if (first === undefined) this.#firstNames[side].set(ino, path);
    return first ?? path;
  }

  #sameBytes(path: string, paths: Pair<Buffer>): boolean {
    const open: number[] = [];
    try {
      const fds = readBoth(paths, path, (place) => {
        open.push(openSync(place, 'r'));
        return open.at(-1)!;
      });
      for (;;) {
        const [a, b] = readBoth([0, 1] as const, path, (i) => this.#buffers[i]!.subarray(0, readSync(fds[i]!, this.#buffers[i]!)));
        if (!a.equals(b)) return false;
        if (a.length === 0) return true;
      }
    } finally {
      for (const fd of open) closeSync(fd);
    }
  }

  /** Compares the extended attributes of pending directories. */
  comparePendingXattrs(): string | undefined {
    const pending = this.#pending;
    this.#pending = [];
    const all = tryReadXattrs(([0, 1] as const).flatMap((side) => pending.map(({paths}) => paths[side].toString('latin1'))));
    if (all === undefined) return 'extended attributes cannot be read';
    const differing = pending.find((_, i) => !sameXattrs(all[i]!, all[pending.length + i]!));
    return differing === undefined ? undefined : `${show(differing.path)} has different extended attributes`;
  }
}

/** `undefined` if the file system fails. */
function tryReadXattrs(paths: readonly string[]): readonly ReadonlyMap<string, Buffer>[] | undefined {
  try {
    return readXattrs(paths);
  } catch (err) {
    if (!hasCode(err, 'internal')) throw err;
    return undefined;
  }
}

/** Ignores overlayfs' origin attribute: it does not affect the merged tree, and indexes and extractions set it on different directories. */
function sameXattrs(a: ReadonlyMap<string, Buffer>, b: ReadonlyMap<string, Buffer>): boolean {
  const [wanted, found] = [a, b].map((all) => [...all].filter(([key]) => !key.endsWith(`.${ORIGIN}`)));
  return wanted!.length === found!.length && wanted!.every(([key, value]) => b.get(key)?.equals(value) ?? false);
}

const show = (path: string): string => displayName(path === '' ? '/' : path);
