/**
 * Finds what changed between two trees.
 *
 * What counts as changed, and in which order it is told, after containerd and its continuity (fs/diff.go, path.go): mode, owner and device
 * numbers; of all but directories size and mtime as well, and where neither mtime has a fraction of a second the content. An mtime alone
 * does not change a directory. Unlike there, the extended attributes that a layer keeps count as well. A regular file of one name that overlayfs has
 * copied up counts as changed whatever it looks like.
 */
import {type BigIntStats, closeSync, lstatSync, openSync, readdirSync, readlinkSync, readSync} from 'node:fs';
import {setImmediate} from 'node:timers/promises';
import {Directory} from '../fs/walk.ts';
import {differingXattrs} from './kept-xattrs.ts';

/** A name that was added, modified or deleted; or an unchanged name of a file that has a changed one. */
export interface TreeChange {
  readonly kind: 'added' | 'modified' | 'deleted' | 'unmodified';
  /** Binary string, relative to the root, without a leading slash. */
  readonly path: string;
  /** Of the name in the changed tree; absent for a deleted one. */
  readonly stat?: BigIntStats;
}

export interface TreePair {
  /** Absent for an empty tree. */
  readonly lower: string | undefined;
  readonly upper: string;
  /** The directory with which overlayfs makes `upper` of `lower`: what it does not have is not changed, and not looked at. */
  readonly overlaid?: string | undefined;
  /** `lower` came out of layers, which keep whole seconds: mtimes are the same within a second, and then contents are compared. */
  readonly wholeSeconds?: boolean;
}

/** Batches of names after which other work gets its turn. */
const TURN = 500;
const CHUNK_BYTES = 256 << 10;
const NANOSECONDS = 1_000_000_000n;

/** The kernel's limit for one path, with room for that of the tree. Of what lies deeper, attributes are not compared. */
const MAX_PATH = 3000;

interface Found extends TreeChange {
  /** Attributes may be all that differs. */
  readonly hasXattrs?: boolean;
}

const namesIn = (directory: Directory | undefined): readonly string[] =>
  directory === undefined ? [] : readdirSync(directory.path, {encoding: 'latin1'}).sort();

/** A directory in the three trees. */
interface Place {
  readonly lower: Directory | undefined;
  readonly upper: Directory;
  /** Absent where everything is to be compared. */
  readonly overlaid: Directory | undefined;
}

interface ListedPlace extends Place {
  /** Those that may have changed, sorted. */
  readonly names: readonly string[];
}

function listed(place: Place): ListedPlace {
  const upper = new Set(namesIn(place.upper));
  const own = place.overlaid === undefined ? undefined : new Set(namesIn(place.overlaid));
  const names = [...new Set([...upper, ...namesIn(place.lower)])].filter((name) => !upper.has(name) || (own?.has(name) ?? true)).sort();
  return {...place, names};
}

/** @returns `undefined` for a name that has vanished, or become something else, meanwhile */
function unlessVanished<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (err) {
    if (!['ENOENT', 'ENOTDIR', 'ELOOP'].includes((err as NodeJS.ErrnoException).code ?? '')) throw err;
    return undefined;
  }
}

/** Changes in containerd's order: by name, a directory before what is in it. Names that vanish meanwhile are passed over. */
export async function findChanges(
  {lower, upper, overlaid, wholeSeconds = false}: TreePair,
  signal?: AbortSignal,
): Promise<readonly TreeChange[]> {
  const search = new Search(wholeSeconds, signal);
  const open = (path: string | undefined): Directory | undefined => (path === undefined ? undefined : new Directory(path));
  await search.compare('', listed({lower: open(lower), upper: new Directory(upper), overlaid: open(overlaid)}));
  if (lower !== undefined) await search.compareXattrs(lower, upper);
  return search.changes();
}

class Search {
  /** In nanoseconds, as it is compared. */
  readonly #timeOf: (stat: BigIntStats) => bigint;
  readonly #signal: AbortSignal | undefined;
  readonly #found: Found[] = [];
  /** Inodes with several names of which one is changed. */
  readonly #changedInodes = new Set<string>();
  #visited = 0;

  constructor(wholeSeconds: boolean, signal: AbortSignal | undefined) {
    this.#timeOf = wholeSeconds ? ({mtimeNs}) => mtimeNs - (((mtimeNs % NANOSECONDS) + NANOSECONDS) % NANOSECONDS) : ({mtimeNs}) => mtimeNs;
    this.#signal = signal;
  }

  /** Unchanged names only of files that have a changed one. */
  changes(): readonly TreeChange[] {
    return this.#found.filter(({kind, stat}) => kind !== 'unmodified' || (stat !== undefined && this.#changedInodes.has(inodeOf(stat))));
  }

  /** Looks for names that only their attributes tell apart. */
  async compareXattrs(lower: string, upper: string): Promise<void> {
    const alike = this.#found.flatMap((found, at) =>
      found.hasXattrs === true && found.path.length < MAX_PATH ? {path: found.path, at} : [],
    );
    const paths = alike.map(({path}) => path);
    for (const i of await differingXattrs([lower, upper], paths, this.#signal)) {
      const {path, at} = alike[i]!;
      const stat = unlessVanished(() => lstatSync(Buffer.from(`${upper}/${path}`, 'latin1'), {bigint: true}));
      if (stat === undefined) continue;
      this.#found[at] = {kind: 'modified', path, stat};
      if (!stat.isDirectory() && stat.nlink > 1n) this.#changedInodes.add(inodeOf(stat));
    }
  }

  async compare(path: string, {names, ...place}: ListedPlace): Promise<void> {
    for (const name of names) {
      if (++this.#visited % TURN === 0) await setImmediate();
      this.#signal?.throwIfAborted();
      await this.#compareName(path === '' ? name : `${path}/${name}`, Buffer.from(name, 'latin1'), place);
    }
  }

  async #compareName(path: string, name: Buffer, place: Place): Promise<void> {
    const now = statOf(place.upper.at(name));
    const before = place.lower === undefined ? undefined : statOf(place.lower.at(name));
    if (now === undefined) {
      if (before !== undefined) this.#found.push({kind: 'deleted', path});
      return;
    }
    const isCollected = place.overlaid !== undefined && now.isFile() && now.nlink === 1n;
    const isSame =
      before !== undefined && !isCollected && unlessVanished(() => this.#isSame(now, before, place.upper.at(name), place.lower!.at(name)));
    if (isSame === undefined) return;
    if (!isSame) {
      this.#found.push({kind: before === undefined ? 'added' : 'modified', path, stat: now});
      if (!now.isDirectory() && now.nlink > 1n) this.#changedInodes.add(inodeOf(now));
    } else {
      const hasXattrs = now.isFile() || now.isDirectory();
      if (!now.isDirectory() && now.nlink > 1n) this.#found.push({kind: 'unmodified', path, stat: now, hasXattrs});
      else if (hasXattrs) this.#found.push({kind: 'unmodified', path, hasXattrs});
    }
    if (now.isDirectory()) await this.#descend(path, name, place, before);
  }

  async #descend(path: string, name: Buffer, place: Place, before: BigIntStats | undefined): Promise<void> {
    const entered: Directory[] = [];
    const enter = (parent: Directory): Directory => {
      const directory = parent.enter(name);
      entered.push(directory);
      return directory;
    };
    try {
      const within = unlessVanished(() => {
        const upper = enter(place.upper);
        const lower = before?.isDirectory() === true ? enter(place.lower!) : undefined;
        return listed({lower, upper, overlaid: place.overlaid !== undefined && lower !== undefined ? enter(place.overlaid) : undefined});
      });
      if (within !== undefined) await this.compare(path, within);
    } finally {
      for (const directory of entered) directory.close();
    }
  }

  #isSame(now: BigIntStats, before: BigIntStats, path: Buffer, beforePath: Buffer): boolean {
    if (now.mode !== before.mode || now.uid !== before.uid || now.gid !== before.gid || now.rdev !== before.rdev) return false;
    if (now.isDirectory()) return true;
    const time = this.#timeOf(now);
    if (now.size !== before.size || time !== this.#timeOf(before)) return false;
    if (now.isSymbolicLink()) return readlinkSync(path, 'buffer').equals(readlinkSync(beforePath, 'buffer'));
    if (!now.isFile() || time % NANOSECONDS !== 0n) return true;
    return hasSameBytes(path, beforePath);
  }
}

const statOf = (path: Buffer): BigIntStats | undefined => lstatSync(path, {bigint: true, throwIfNoEntry: false});

export const inodeOf = ({dev, ino}: BigIntStats): string => `${dev}:${ino}`;

function hasSameBytes(...paths: readonly [Buffer, Buffer]): boolean {
  const open: number[] = [];
  try {
    for (const path of paths) open.push(openSync(path, 'r'));
    const [a, b] = [Buffer.allocUnsafe(CHUNK_BYTES), Buffer.allocUnsafe(CHUNK_BYTES)];
    for (;;) {
      const [n, m] = [readSync(open[0]!, a), readSync(open[1]!, b)];
      if (n !== m || !a.subarray(0, n).equals(b.subarray(0, m))) return false;
      if (n === 0) return true;
    }
  } finally {
    for (const fd of open) closeSync(fd);
  }
}
