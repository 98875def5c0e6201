/**
 * Decides from the headers alone, in the pass that everything else happens in, whether `mkfs.erofs --tar=i --aufs` makes of a
 * layer what applying it makes. What it is not known to do alike goes the other way: the answer may be cautious, never
 * hopeful.
 *
 * Where the two part was tried out with erofs-utils 1.8.6 and read there, lib/tar.c and lib/rebuild.c.
 */

import {
  MAX_ENTRIES,
  MAX_IMPLIED_STEPS,
  MAX_INDEXED_IMPLIED,
  MAX_INDEXED_NAMES,
  MAX_LAYER_BYTES,
  overLimit,
  tooManyImplied,
} from './limits.ts';
import type {TarHandler, TarHeader, TarType} from './tar.ts';

/**
 * Why a layer must be applied entry by entry:
 * `format` a header that readers understand differently; `dotdot` a name with `..`; `name` one of more than 255 bytes;
 * `implied-parent` a parent that the layer carries only later than what is in it, or one below a directory with setgid;
 * `symlink-parent` one that is a symbolic link; `type-change` one that is neither; `duplicate` a name that comes again as a
 * directory, having been none, or with extended attributes; `missing-link` a hard link to what is not in the layer so far;
 * `link-attributes` one whose header disagrees with its target's; `whiteout` one of what the same layer has, of everything, with
 * content or no name, or a directory named like one; `device-zero` a node 0/0, which looks like a whiteout; `mode` a symbolic
 * link of another mode than Linux gives it; `reserved` extended attributes `trusted.*`; `xattr` others that may not be settable
 * there; `time` an mtime that is not kept; `root` other than the usual attributes for the root; `large` more names than are
 * looked at.
 */
export type Reason =
  | 'format'
  | 'dotdot'
  | 'name'
  | 'implied-parent'
  | 'symlink-parent'
  | 'type-change'
  | 'duplicate'
  | 'missing-link'
  | 'link-attributes'
  | 'whiteout'
  | 'device-zero'
  | 'mode'
  | 'reserved'
  | 'xattr'
  | 'time'
  | 'root'
  | 'large';

/** A directory that entries lie in and that the layer does not carry. */
export interface ImpliedParent {
  /** Binary string, below the root. */
  readonly path: string;
  /** The mtime of the entry that first needed it; of a whiteout where nothing else does. */
  readonly mtimeSec: number;
  readonly mtimeNs: number;
  /** It holds nothing but whiteouts: where there is nothing below, it is not made. */
  readonly whiteoutsOnly: boolean;
}

/** The entry that gives an implied parent its time. */
interface Needed extends Pick<ImpliedParent, 'mtimeSec' | 'mtimeNs'> {
  readonly isWhiteout: boolean;
}

/** `entry` throws resource_exhausted where there are more entries or bytes than a layer may have. */
export interface LayerScan extends TarHandler {
  /** Empty as long as nothing speaks against indexing. */
  readonly reasons: ReadonlySet<Reason>;
  /** Parents first. An index needs entries for them, with the attributes that they have in the layers below: see `implied.ts`. */
  impliedParents(): readonly ImpliedParent[];
  readonly entries: number;
  /** Sum of the sizes in the headers, in bytes. */
  readonly size: number;
}

/** What a name in a directory is: a directory, a whiteout, or something else with what its attributes add up to. */
type Known = Directory | Leaf;
type Directory = Map<string, Known>;
/** Two bits of kind, 16 of the extended attributes' checksum, 32 of the others'. */
type Leaf = number;

const OTHER = 0;
const SYMLINK = 1;
const WHITEOUT = 2;
const KINDS = 4;
const XATTR_SUMS = 0x10000;

const kindOf = (leaf: Leaf): number => leaf % KINDS;
const xattrSumOf = (leaf: Leaf): number => Math.floor(leaf / KINDS) % XATTR_SUMS;
const sumOf = (leaf: Leaf): number => Math.floor(leaf / KINDS / XATTR_SUMS);

const PREFIX = '.wh.';
const OPAQUE = '.wh..wh..opq';
/** Last second that applying keeps. */
const MAX_TIME = 9_223_372_036;

export function createLayerScan(): LayerScan {
  const reasons = new Set<Reason>();
  const root: Directory = new Map();
  /** Directories whose headers have extended attributes. */
  const withXattrs = new WeakSet<Directory>();
  /** Directories whose headers have setgid: one that is made in them takes their group. */
  const withSetgid = new WeakSet<Directory>();
  /** Directories that the layer does not carry, as far as it is read. */
  const implied = new Map<Directory, Needed>();
  /** Names in the tree, those counted twice that came twice. */
  let names = 0;
  /** What the implied directories come to. */
  let steps = 0;
  let entries = 0;
  let size = 0;

  /** The directory that a path of names leads to; undefined when it does not lead to one by directories alone. */
  const walk = (path: readonly string[], needing: TarHeader | 'missing-link', isWhiteout = false): Directory | undefined => {
    let at = root;
    const need = (dir: Directory): void => {
      if (needing !== 'missing-link') implied.set(dir, {mtimeSec: needing.mtimeSec, mtimeNs: needing.mtimeNs, isWhiteout});
    };
    for (const [i, name] of path.entries()) {
      // mkfs.erofs takes it for a whiteout wherever it stands in a name.
      if (name.startsWith(PREFIX)) reasons.add('whiteout');
      let next = at.get(name);
      if (next === undefined) {
        if (needing === 'missing-link') {
          reasons.add(needing);
          return undefined;
        }
        next = new Map();
        at.set(name, next);
        if (withSetgid.has(at)) reasons.add('implied-parent');
        need(next);
        names++;
        steps += i + 1;
        if (steps > MAX_IMPLIED_STEPS) throw tooManyImplied();
      } else if (typeof next === 'number') {
        reasons.add(kindOf(next) === SYMLINK ? 'symlink-parent' : 'type-change');
        return undefined;
      } else if (!isWhiteout && implied.size > 0 && implied.get(next)?.isWhiteout === true) need(next);
      at = next;
    }
    return at;
  };

  const scanWhiteout = (header: TarHeader, dir: Directory, base: string): void => {
    const hidden = base.slice(PREFIX.length);
    if (header.size > 0 || hidden === '' || hidden === '.' || hidden === '..') reasons.add('whiteout');
    if (base === OPAQUE) {
      if (dir === root) reasons.add('whiteout');
      return;
    }
    if (dir.has(hidden)) reasons.add('whiteout');
    dir.set(hidden, WHITEOUT);
  };

  const scanLink = (header: TarHeader): Known => {
    const path = namesOf(header.linkname);
    const base = path.pop();
    if (base === undefined || base === '..' || path.includes('..')) {
      reasons.add('dotdot');
      return OTHER;
    }
    const target = walk(path, 'missing-link')?.get(base);
    if (typeof target !== 'number' || kindOf(target) === WHITEOUT || header.linkname.endsWith('/')) {
      reasons.add('missing-link');
      return OTHER;
    }
    const xattrs = header.xattrs.size === 0 || xattrSumOf(target) === sumXattrs(header);
    if (!xattrs || sumOf(target) !== sum(header, kindOf(target))) reasons.add('link-attributes');
    return target;
  };

  const scanDirectory = (header: TarHeader, before: Known | undefined): Directory => {
    if (before !== undefined && (typeof before === 'number' || header.xattrs.size > 0 || withXattrs.has(before)))
      reasons.add(before === WHITEOUT ? 'whiteout' : 'duplicate');
    const dir: Directory = before instanceof Map ? before : new Map();
    if (implied.delete(dir)) reasons.add('implied-parent');
    if (header.xattrs.size > 0) withXattrs.add(dir);
    if ((header.mode & 0o2000) === 0) withSetgid.delete(dir);
    else withSetgid.add(dir);
    return dir;
  };

  const scan = (header: TarHeader): void => {
    const {name, type, mode, xattrs, mtimeSec} = header;
    if (header.quirks.length > 0 || type === 'global' || (type === 'symlink' && header.linkname === '')) reasons.add('format');
    if (mtimeSec < 0 || mtimeSec > MAX_TIME) reasons.add('time');
    if (type === 'symlink' && mode !== 0o777) reasons.add('mode');
    for (const key of xattrs.keys()) {
      if (key.startsWith('trusted.')) reasons.add('reserved');
      else if (!key.startsWith('security.') && !(key.startsWith('user.') && USER_XATTRS.has(type))) reasons.add('xattr');
    }
    const path = namesOf(name);
    if (path.includes('..')) {
      reasons.add('dotdot');
      return;
    }
    if (path.some((part) => part.length > 255)) reasons.add('name');
    const base = path.pop();
    if (base === undefined) {
      if (type !== 'directory' || header.mode !== 0o755 || header.uid !== 0 || header.gid !== 0 || xattrs.size > 0) reasons.add('root');
      return;
    }
    const dir = walk(path, header, base.startsWith(PREFIX));
    if (dir === undefined) return;
    names++;
    if (base.startsWith(PREFIX)) {
      scanWhiteout(header, dir, base);
      return;
    }
    const before = dir.get(base);
    if (before === WHITEOUT) reasons.add('whiteout');
    if (before instanceof Map && type !== 'directory' && implied.size > 0) reasons.add('type-change');
    if ((type === 'char' || type === 'block') && header.devmajor === 0 && header.devminor === 0) reasons.add('device-zero');
    if (type === 'directory') dir.set(base, scanDirectory(header, before));
    else if (type === 'link') {
      // What is in the way goes first, though it be the target.
      dir.delete(base);
      dir.set(base, scanLink(header));
    } else {
      const kind = type === 'symlink' ? SYMLINK : OTHER;
      dir.set(base, (sum(header, kind) * XATTR_SUMS + sumXattrs(header)) * KINDS + kind);
    }
  };

  return {
    reasons,
    impliedParents: () => (implied.size === 0 ? [] : [...impliedIn(root, '', implied)]),
    get entries() {
      return entries;
    },
    get size() {
      return size;
    },
    entry(header) {
      entries++;
      size += header.size;
      if (entries > MAX_ENTRIES) throw overLimit(`layer has more than ${MAX_ENTRIES} entries`, {entries: MAX_ENTRIES});
      if (size > MAX_LAYER_BYTES) throw overLimit(`layer has more than ${MAX_LAYER_BYTES} B`, {bytes: MAX_LAYER_BYTES});
      if (names <= MAX_INDEXED_NAMES && implied.size <= MAX_INDEXED_IMPLIED) scan(header);
      else {
        reasons.add('large');
        names = Number.POSITIVE_INFINITY;
        root.clear();
        implied.clear();
      }
    },
    data() {},
    entryEnd() {},
  };
}

/** The implied ones among the directories below `dir`, parents first. */
function* impliedIn(dir: Directory, prefix: string, implied: ReadonlyMap<Directory, Needed>): Generator<ImpliedParent> {
  for (const [name, child] of dir) {
    if (!(child instanceof Map)) continue;
    const path = prefix + name;
    const times = implied.get(child);
    if (times !== undefined) yield {path, mtimeSec: times.mtimeSec, mtimeNs: times.mtimeNs, whiteoutsOnly: holdsOnlyWhiteouts(child)};
    yield* impliedIn(child, `${path}/`, implied);
  }
}

/** Whiteouts, and directories that are there for whiteouts alone. */
const holdsOnlyWhiteouts = (dir: Directory): boolean =>
  [...dir.values()].every((known) => known === WHITEOUT || (known instanceof Map && known.size > 0 && holdsOnlyWhiteouts(known)));

/** Types that may have extended attributes `user.*`. */
const USER_XATTRS: ReadonlySet<TarType> = new Set(['file', 'directory', 'link']);

const namesOf = (path: string): string[] => path.split('/').filter((name) => name !== '' && name !== '.');

const mix = (sum: number, value: number): number => (Math.imul(sum ^ value, 0x01000193) + 1) | 0;

/** Of what a hard link's header repeats; 32 bits. The mode of a symbolic link is nothing. */
function sum({mode, uid, gid, mtimeSec, mtimeNs}: TarHeader, kind: number): number {
  return [kind === SYMLINK ? 0 : mode, uid, gid, mtimeSec, Math.floor(mtimeSec / 2 ** 32), mtimeNs].reduce(mix, 0) >>> 0;
}

/** 16 bits; 0 for none. */
function sumXattrs({xattrs}: TarHeader): number {
  let all = 0;
  for (const [key, value] of xattrs) all ^= Buffer.concat([Buffer.from(`${key}=`, 'latin1'), value]).reduce(mix, 0);
  return (all ^ (all >>> 16)) & (XATTR_SUMS - 1);
}
