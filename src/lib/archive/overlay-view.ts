/**
 * Lower layers merged by the rules of overlayfs, read by lstat only.
 *
 * Each is a layer in overlay form, or all are one merged root without marks. In overlay form a 0/0 character device is a whiteout, and
 * `trusted.overlay.opaque` or `user.overlay.opaque` hides the same directory of the layers below.
 */

import {type BigIntStats, lstatSync, readdirSync, readlinkSync} from 'node:fs';
import {type Attributes, readXattrs} from './special-files.ts';

/** Names of overlayfs' extended attributes, after the prefix `trusted.` or `user.`. */
export const OPAQUE = 'overlay.opaque';

/** An empty value means "copied up". Without it overlayfs lists the whiteouts of a directory that has no lower directory. */
export const ORIGIN = 'overlay.origin';

/** Converts a binary string to a path for node:fs. */
export const fsPath = (path: string): string | Buffer => (/[^ -~]/.test(path) ? Buffer.from(path, 'latin1') : path);

/** Lower directories of one merged directory, topmost first; absolute, binary strings. */
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

/** `undefined` for an absent path. Other errors, such as ENOTDIR, are thrown. */
export function lstat(path: string): BigIntStats | undefined {
  return lstatSync(fsPath(path), {bigint: true, throwIfNoEntry: false});
}

/** A name in one layer: a directory `D`, a whiteout, or another file `O`. */
export type Entry<D, O> = {readonly directory: D} | {readonly other: O} | 'whiteout';

const isOpaque = (xattrs: ReadonlyMap<string, Buffer>): boolean =>
  (xattrs.get(`trusted.${OPAQUE}`) ?? xattrs.get(`user.${OPAQUE}`))?.toString() === 'y';

/**
 * Merges one name of several layers by the rule of overlayfs.
 *
 * @param entries the name in each layer, topmost first
 * @param xattrs reads the extended attributes of directories, one result for each, in order
 * @returns the merged directories, topmost first, or the file that hides the name in the layers below; `undefined` for an absent name
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
  // The lowest directory has nothing to hide.
  const end = xattrs(found.slice(0, -1)).findIndex(isOpaque);
  return {directories: (end < 0 ? found : found.slice(0, end + 1)) as [D, ...D[]]};
}

export const isWhiteout = (stat: BigIntStats): boolean => stat.isCharacterDevice() && stat.rdev === 0n;

export class LowerView {
  readonly roots: Lowerdirs;
  /** By path. */
  readonly #xattrs = new Map<string, ReadonlyMap<string, Buffer>>();

  /** @param lowers absolute paths, topmost first */
  constructor(lowers: readonly string[]) {
    this.roots = lowers.map((path) => Buffer.from(path).toString('latin1'));
  }

  /** Finds a name in a merged directory. */
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

  /** Finds a path below the merged root. `undefined` also if a parent is not a directory. */
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

  /** Visible names of the merged root. */
  names(): string[] {
    const all = new Set(this.roots.flatMap((dir) => readdirSync(fsPath(dir), {encoding: 'latin1'})));
    return [...all].filter((name) => this.lookup(this.roots, name) !== undefined).sort();
  }

  /** Extended attributes of lower directories, one result for each, in order; cached. */
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
