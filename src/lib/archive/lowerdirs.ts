/**
 * The trees below a layer, seen as one: what overlayfs would show of them. Read only, link by link, by lstat.
 *
 * A lower is a layer in overlay form (a 0/0 character device hides a name, `trusted.overlay.opaque` or `user.overlay.opaque`
 * hides what is below a directory), or one merged root, in which neither is to be seen.
 */

import {type BigIntStats, lstatSync, readdirSync, readlinkSync} from 'node:fs';
import {type Attributes, readXattrs} from './special-files.ts';

/** Names of overlayfs' marks, behind `trusted.` or `user.`. */
export const OPAQUE = 'overlay.opaque';

/** Set and empty, it says "copied up from somewhere": overlayfs then does not list whiteouts in a directory that has nothing below. */
export const ORIGIN = 'overlay.origin';

/** A path of binary characters for a call of node:fs. */
export const fsPath = (path: string): string | Buffer => (/[^ -~]/.test(path) ? Buffer.from(path, 'latin1') : path);

/** Directories of lowers that lie at one path of the merged tree, nearest first; absolute, binary strings. */
export type Lowerdirs = readonly string[];

export type MergedEntry =
  | {readonly kind: 'directory'; readonly lowerdirs: Lowerdirs; readonly attributes: Attributes}
  /** `target` is a binary string. */
  | {readonly kind: 'symlink'; readonly path: string; readonly target: string}
  | {readonly kind: 'other'; readonly path: string};

export function attributesOf(stat: BigIntStats): Attributes {
  const {mode, uid, gid, mtimeNs} = stat;
  const sec = mtimeNs / 1_000_000_000n - (mtimeNs % 1_000_000_000n < 0n ? 1n : 0n);
  return {
    mode: Number(mode & 0o7777n),
    uid: Number(uid),
    gid: Number(gid),
    mtimeSec: Number(sec),
    mtimeNs: Number(mtimeNs - sec * 1_000_000_000n),
  };
}

/** Undefined when there is nothing. A name too long, or a parent that is not a directory, is an error as always. */
export function lstat(path: string): BigIntStats | undefined {
  return lstatSync(fsPath(path), {bigint: true, throwIfNoEntry: false});
}

/** What one tree has under a name: a directory `D`, or anything else `O`. */
export type Entry<D, O> = {readonly directory: D} | {readonly other: O} | 'whiteout';

const isOpaque = (xattrs: ReadonlyMap<string, Buffer>): boolean =>
  (xattrs.get(`trusted.${OPAQUE}`) ?? xattrs.get(`user.${OPAQUE}`))?.toString() === 'y';

/**
 * The rule of overlayfs for one name: the directories that it merges, or the one thing that hides everything below it.
 *
 * @param entries what the trees have under the name, nearest first
 * @param xattrs extended attributes of directories, one answer for each, in order
 * @returns `undefined` when nothing is there; directories nearest first
 */
export function mergeEntries<D, O>(
  entries: Iterable<Entry<D, O> | undefined>,
  xattrs: (directories: readonly D[]) => readonly ReadonlyMap<string, Buffer>[],
): {readonly directories: readonly [D, ...D[]]} | {readonly other: O} | undefined {
  const found: D[] = [];
  for (const entry of entries) {
    if (entry === undefined) continue;
    if (entry === 'whiteout') break;
    if ('directory' in entry) {
      found.push(entry.directory);
      continue;
    }
    if (found.length === 0) return entry;
    break;
  }
  if (found.length === 0) return undefined;
  // The last one hides nothing, opaque or not.
  const end = xattrs(found.slice(0, -1)).findIndex(isOpaque);
  return {directories: (end < 0 ? found : found.slice(0, end + 1)) as [D, ...D[]]};
}

/** Whether it hides a name. */
export const isWhiteout = (stat: BigIntStats): boolean => stat.isCharacterDevice() && stat.rdev === 0n;

export class LowerView {
  readonly roots: Lowerdirs;
  /** Of directories, by path. */
  readonly #xattrs = new Map<string, ReadonlyMap<string, Buffer>>();

  /** @param lowers absolute paths of the trees, nearest first */
  constructor(lowers: readonly string[]) {
    this.roots = lowers.map((path) => Buffer.from(path).toString('latin1'));
  }

  /** What is visible as `name` in the merged directory; undefined when nothing is. */
  lookup(lowerdirs: Lowerdirs, name: string): MergedEntry | undefined {
    const found = mergeEntries(entriesAt(lowerdirs, name), (dirs) => this.xattrs(dirs.map(({path}) => path)));
    if (found === undefined) return undefined;
    if ('other' in found) {
      const {path, stat} = found.other;
      return stat.isSymbolicLink()
        ? {kind: 'symlink', path, target: readlinkSync(fsPath(path), {encoding: 'latin1'})}
        : {kind: 'other', path};
    }
    const {directories} = found;
    return {kind: 'directory', lowerdirs: directories.map(({path}) => path), attributes: attributesOf(directories[0].stat)};
  }

  /** As `lookup`, for a path of real directories; undefined also when one of them is none. */
  find(path: string): MergedEntry | undefined {
    const names = path.split('/');
    const last = names.pop()!;
    let lowerdirs: Lowerdirs = this.roots;
    for (const name of names) {
      const below = this.lookup(lowerdirs, name);
      if (below?.kind !== 'directory') return undefined;
      lowerdirs = below.lowerdirs;
    }
    return this.lookup(lowerdirs, last);
  }

  /** Names visible in the merged root. */
  names(): string[] {
    const all = new Set(this.roots.flatMap((dir) => readdirSync(fsPath(dir), {encoding: 'latin1'})));
    return [...all].filter((name) => this.lookup(this.roots, name) !== undefined).sort();
  }

  /** Extended attributes of directories of the lowers, one answer for each, in order; each is asked for once. */
  xattrs(dirs: readonly string[]): readonly ReadonlyMap<string, Buffer>[] {
    const unknown = dirs.filter((dir) => !this.#xattrs.has(dir));
    readXattrs(unknown).forEach((all, i) => void this.#xattrs.set(unknown[i]!, all));
    return dirs.map((dir) => this.#xattrs.get(dir)!);
  }
}

interface LowerPath {
  readonly path: string;
  readonly stat: BigIntStats;
}

function* entriesAt(lowerdirs: Lowerdirs, name: string): Generator<Entry<LowerPath, LowerPath> | undefined> {
  for (const dir of lowerdirs) {
    const path = `${dir}/${name}`;
    const stat = lstat(path);
    if (stat === undefined) yield undefined;
    else if (stat.isDirectory()) yield {directory: {path, stat}};
    else yield isWhiteout(stat) ? 'whiteout' : {other: {path, stat}};
  }
}
