/** Whether one unpacked tree is what another one is: name by name, attribute by attribute, byte by byte. */
import {type BigIntStats, closeSync, openSync, readdirSync, readlinkSync, readSync} from 'node:fs';
import {setImmediate} from 'node:timers/promises';
import {type Code, fromErrno, is, isErrdefs} from '../errdefs.ts';
import {fsPath, lstat} from './lowers.ts';
import {readXattrs} from './special.ts';
import {displayName} from './tar.ts';

/** Bytes of a file read at a time. */
const CHUNK = 256 << 10;
/** Directories whose extended attributes are asked for together. */
const BATCH = 256;

type Field = readonly [name: string, of: (stat: BigIntStats) => bigint, show: (value: bigint) => string];

const octal = (value: bigint): string => value.toString(8).padStart(4, '0');
const FIELDS: readonly Field[] = [
  ['type', ({mode}) => mode & 0o170000n, octal],
  ['mode', ({mode}) => mode & 0o7777n, octal],
  ['user', ({uid}) => uid, String],
  ['group', ({gid}) => gid, String],
  ['mtime', ({mtimeNs}) => mtimeNs, (ns) => new Date(Number(ns / 1_000_000n)).toISOString()],
];

/**
 * The first thing in `actual` that is not as in `expected`, in a few words that begin with its path below the roots;
 * `undefined` when there is none. Extended attributes are compared on directories, where overlayfs keeps its marks. The time
 * of the roots themselves is that of their making, and not compared.
 *
 * Takes memory for the names of the directories on the way down, and for files with several names.
 *
 * @param expected, actual absolute paths of directories
 */
export async function findDifference(expected: string, actual: string, signal?: AbortSignal): Promise<string | undefined> {
  const comparison = new Comparison(Buffer.from(expected).toString('latin1'), Buffer.from(actual).toString('latin1'), signal);
  try {
    return (await comparison.directory('')) ?? comparison.xattrs();
  } catch (err) {
    const mapped = fromErrno(err, `comparison of ${actual}`);
    const {path = actual} = err as NodeJS.ErrnoException;
    if (!isErrdefs(mapped) || !UNREADABLE.includes(mapped.code) || !String(path).startsWith(actual)) throw mapped;
    return `${show(String(path).slice(actual.length))} cannot be read: ${mapped.details?.errno}`;
  }
}

/** What a damaged filesystem answers: it was mounted from an index. */
const UNREADABLE: readonly Code[] = ['data_loss', 'not_found', 'not_implemented', 'failed_precondition', 'invalid_argument'];

class Comparison {
  readonly #roots: readonly [expected: string, actual: string];
  readonly #signal: AbortSignal | undefined;
  /** First name of each inode that has several: what is one file there is one file here. */
  readonly #names: readonly [Map<bigint, string>, Map<bigint, string>] = [new Map(), new Map()];
  readonly #buffers = [Buffer.allocUnsafe(CHUNK), Buffer.allocUnsafe(CHUNK)] as const;
  /** Directories whose extended attributes are still to be compared. */
  #pending: string[] = [];

  constructor(expected: string, actual: string, signal: AbortSignal | undefined) {
    this.#roots = [expected, actual];
    this.#signal = signal;
  }

  /** Both paths of a name. */
  #both(path: string): readonly [expected: string, actual: string] {
    const [expected, actual] = this.#roots;
    return [expected + path, actual + path];
  }

  async directory(path: string): Promise<string | undefined> {
    await setImmediate();
    this.#signal?.throwIfAborted();
    const attributes = this.#attributes(path);
    if (attributes !== undefined) return attributes;
    this.#pending.push(path);
    if (this.#pending.length >= BATCH) {
      const marks = this.xattrs();
      if (marks !== undefined) return marks;
    }
    const [expected, actual] = this.#both(path).map((dir) => new Set(readdirSync(fsPath(dir), {encoding: 'latin1'})));
    const missing = [...expected!].find((name) => !actual!.has(name));
    if (missing !== undefined) return `${show(`${path}/${missing}`)} is missing`;
    const extra = [...actual!].find((name) => !expected!.has(name));
    if (extra !== undefined) return `${show(`${path}/${extra}`)} does not belong there`;
    for (const name of [...expected!].sort()) {
      const below = `${path}/${name}`;
      const found = lstat(this.#roots[0] + below)!.isDirectory() ? await this.directory(below) : this.#leaf(below);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #attributes(path: string): string | undefined {
    const [expected, actual] = this.#both(path).map((one) => lstat(one));
    if (expected === undefined || actual === undefined) return `${show(path)} is missing`;
    for (const [name, of, text] of FIELDS) {
      if (path === '' && name === 'mtime') continue;
      const [right, found] = [of(expected), of(actual)];
      if (right !== found) return `${show(path)} has ${name} ${text(found)}, not ${text(right)}`;
    }
    return undefined;
  }

  #leaf(path: string): string | undefined {
    const attributes = this.#attributes(path);
    if (attributes !== undefined) return attributes;
    const both = this.#both(path);
    const [expected, actual] = both.map((one) => lstat(one)!) as [BigIntStats, BigIntStats];
    if (expected.nlink !== actual.nlink) return `${show(path)} has ${actual.nlink} names, not ${expected.nlink}`;
    if (expected.isSymbolicLink()) {
      const [right, found] = both.map((one) => readlinkSync(fsPath(one), {encoding: 'latin1'}));
      return right === found ? undefined : `${show(path)} leads to ${show(found!)}, not ${show(right!)}`;
    }
    if (expected.isCharacterDevice() || expected.isBlockDevice())
      return expected.rdev === actual.rdev ? undefined : `${show(path)} is another device`;
    const [first, other] = [this.#firstName(0, expected, path), this.#firstName(1, actual, path)];
    if (first !== other) return `${show(path)} is another file than ${show(first === path ? other : first)}`;
    if (!expected.isFile() || first !== path) return undefined;
    if (expected.size !== actual.size) return `${show(path)} has ${actual.size} B, not ${expected.size} B`;
    try {
      return this.#sameBytes(both) ? undefined : `${show(path)} has other bytes`;
    } catch (err) {
      throw Object.assign(err as NodeJS.ErrnoException, {path: both[1]});
    }
  }

  #firstName(side: 0 | 1, {ino, nlink}: BigIntStats, path: string): string {
    if (nlink === 1n) return path;
    const first = this.#names[side].get(ino);
    if (first === undefined) this.#names[side].set(ino, path);
    return first ?? path;
  }

  #sameBytes(paths: readonly [string, string]): boolean {
    const fds: number[] = [];
    try {
      for (const path of paths) fds.push(openSync(fsPath(path), 'r'));
      for (;;) {
        const [a, b] = this.#buffers.map((buffer, i) => buffer.subarray(0, readSync(fds[i]!, buffer))) as [Buffer, Buffer];
        if (!a.equals(b)) return false;
        if (a.length === 0) return true;
      }
    } finally {
      for (const fd of fds) closeSync(fd);
    }
  }

  /** Compares the extended attributes of the directories seen so far. */
  xattrs(): string | undefined {
    const paths = this.#pending;
    this.#pending = [];
    const all = marks(this.#roots.flatMap((root) => paths.map((path) => root + path)));
    if (all === undefined) return 'extended attributes cannot be read';
    const different = paths.findIndex((_, i) => !sameMarks(all[i]!, all[paths.length + i]!));
    return different === -1 ? undefined : `${show(paths[different]!)} has other extended attributes`;
  }
}

/** `undefined` where the filesystem fails. */
function marks(paths: readonly string[]): readonly ReadonlyMap<string, Buffer>[] | undefined {
  try {
    return readXattrs(paths);
  } catch (err) {
    if (!is(err, 'internal')) throw err;
    return undefined;
  }
}

const sameMarks = (a: ReadonlyMap<string, Buffer>, b: ReadonlyMap<string, Buffer>): boolean =>
  a.size === b.size && [...a].every(([key, value]) => b.get(key)?.equals(value) ?? false);

const show = (path: string): string => displayName(path === '' ? '/' : path);
