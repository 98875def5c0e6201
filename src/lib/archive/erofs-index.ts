/**
 * Builds the EROFS index of a layer from its tar headers, in the same pass as everything else: a small file system image whose files lie in
 * the tar. The kernel mounts both as one tree.
 *
 * The tree is the same as the applied one. If a header cannot be represented, or depends on the lower layers, `reasons` tells why, and the
 * layer is extracted. A needless extraction is allowed; a wrong index is not.
 *
 * Format: the kernel's fs/erofs/erofs_fs.h. Blocks have 512 bytes like those of a tar (Linux 6.4). The tar is an extra device that
 * continues the block addresses of the index, so each file is one plain extent. The same tar gives the same bytes.
 */
import {inheritedGid} from './extraction-tree.ts';
import {
  MAX_ENTRIES,
  MAX_IMPLICIT_STEPS,
  MAX_INDEXED_IMPLICIT,
  MAX_INDEXED_NAMES,
  MAX_LAYER_BYTES,
  overLimit,
  tooManyImplicit,
} from './limits.ts';
import type {TarHandler, TarHeader, TarType} from './tar.ts';

/**
 * Why a layer has to be extracted: `sparse` a sparse file; `dotdot` a name with `..`; `name` a name that is invalid on Linux, or an empty
 * link target; `implied-parent` a parent after an entry in it; `symlink-parent` a parent that is a symbolic link; `type-change` a parent
 * that is another file; `duplicate` a repeated directory with extended attributes, or in place of another file; `missing-link` a hard link
 * to a file that the layer does not have before it; `link-attributes` a hard link whose header differs from its target; `whiteout` a
 * whiteout of an entry of the same layer, of the root, without a name, or with content; `device-zero` a node 0/0, which looks like a
 * whiteout; `reserved` extended attributes `trusted.*`; `xattr` other extended attributes that cannot be set or are too large; `time` an
 * mtime out of range; `root` an entry for the root that is not a directory; `large` more names than are kept in memory.
 */
export type Reason =
  | 'sparse'
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
  | 'reserved'
  | 'xattr'
  | 'time'
  | 'root'
  | 'large';

/** A directory that contains entries, and that the layer does not carry. */
export interface ImplicitParent {
  /** Binary string, below the root. */
  readonly path: string;
  /** It holds only whiteouts, so it does not exist unless a lower layer has it. */
  readonly whiteoutsOnly: boolean;
  /** Offset of its inode in the index, in bytes. */
  readonly inode: number;
}

export interface EncodedIndex {
  /** The index in chunks; its length is a multiple of the alignment. */
  readonly bytes: Iterable<Buffer>;
  /** Parents first. They have default attributes; `implicit-parents.ts` sets those of the lower layers. */
  readonly implicitParents: readonly ImplicitParent[];
  /** The layer has whiteouts or opaque marks, which only overlayfs understands. */
  readonly hasWhiteouts: boolean;
}

/** `entry` throws resource_exhausted if the layer has too many entries or bytes. */
export interface ErofsIndex extends TarHandler {
  /** Empty as long as nothing speaks against an index. */
  readonly reasons: ReadonlySet<Reason>;
  readonly entries: number;
  /** Sum of the sizes in the headers, in bytes. */
  readonly size: number;
  /**
   * @param tarBytes size of the tar
   * @param alignment of the index's length in bytes, a multiple of 512. With it the tar can follow the index in one file.
   */
  encode(tarBytes: number, alignment?: number): EncodedIndex;
}

const BLOCK = 512;
const SUPERBLOCK = 1024;
const SUPERBLOCK_BYTES = 128;
const DEVICE_BYTES = 128;
const MAGIC = 0xe0f5e1e2;
const COMPAT_MTIME = 0x2;
const INCOMPAT_DEVICE_TABLE = 0x8;

/** Inodes are aligned to this; an inode's number is its offset in these units. */
const INODE_UNIT = 32;
const INODE_BYTES = 64;
const FORMAT_PLAIN = 0x1;
const FORMAT_INLINE = 0x5;
const DIRENT_BYTES = 12;
const XATTR_HEADER_BYTES = 12;
/** Largest size for the inode's 16-bit count. */
const MAX_XATTR_BYTES = XATTR_HEADER_BYTES + 4 * 0xfffe;
/** Bytes of a name without its prefix, and of a value. */
const MAX_XATTR_NAME = 255;
const MAX_XATTR_VALUE = 0xffff;

const S_IFMT = 0o170000;
const S_IFIFO = 0o010000;
const S_IFCHR = 0o020000;
const S_IFDIR = 0o040000;
const S_IFBLK = 0o060000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const MODES: Readonly<Record<TarType, number>> = {
  file: S_IFREG,
  directory: S_IFDIR,
  symlink: S_IFLNK,
  char: S_IFCHR,
  block: S_IFBLK,
  fifo: S_IFIFO,
  link: 0,
  global: 0,
};
/** `file_type` of a directory entry, by file type of the inode. */
const FILE_TYPES: ReadonlyMap<number, number> = new Map([
  [S_IFREG, 1],
  [S_IFDIR, 2],
  [S_IFCHR, 3],
  [S_IFBLK, 4],
  [S_IFIFO, 5],
  [S_IFLNK, 7],
]);

const XATTR_PREFIXES: readonly (readonly [prefix: string, index: number])[] = [
  ['user.', 1],
  ['trusted.', 4],
  ['security.', 6],
];
/** Types that can have extended attributes `user.*`. */
const USER_XATTRS: ReadonlySet<TarType> = new Set(['file', 'directory', 'link']);

const PREFIX = '.wh.';
const OPAQUE = '.wh..wh..opq';
const OPAQUE_XATTR: readonly [string, Buffer] = ['trusted.overlay.opaque', Buffer.from('y')];
/** An empty value makes overlayfs look for whiteouts in a directory that no lower layer has. */
const ORIGIN_XATTR: readonly [string, Buffer] = ['trusted.overlay.origin', Buffer.alloc(0)];
/** Last second that the applier keeps. */
const MAX_TIME = 9_223_372_036;
const MAX_NAME = 255;

type Xattrs = ReadonlyMap<string, Buffer>;
const NO_XATTRS: Xattrs = new Map();

/** Bytes that extended attributes take behind an inode. */
function xattrBytes(xattrs: Xattrs): number {
  let size = 0;
  for (const [key, value] of xattrs) size += (4 + xattrName(key).name.length + value.length + 3) & ~3;
  return size === 0 ? 0 : XATTR_HEADER_BYTES + size;
}

function xattrName(key: string): {readonly index: number; readonly name: string} {
  const [prefix, index] = XATTR_PREFIXES.find(([known]) => key.startsWith(known))!;
  return {index, name: key.slice(prefix.length)};
}

/** A node's number: a place in each column of `Nodes`. */
type Id = number;
const ROOT: Id = 0;
/** All whiteouts are names of one inode. */
const WHITEOUT: Id = 1;

/** A column that holds twice as much. */
function doubled<T extends Uint16Array | Uint32Array | Float64Array>(column: T): T {
  const more = new (column.constructor as new (length: number) => T)(2 * column.length);
  more.set(column);
  return more;
}

const FIRST_CAPACITY = 1024;

/** The inodes, one column a field: a million of them must not be a million objects. */
class Nodes {
  count = 0;
  mode = new Uint16Array(FIRST_CAPACITY);
  uid = new Uint32Array(FIRST_CAPACITY);
  gid = new Uint32Array(FIRST_CAPACITY);
  mtimeSec = new Float64Array(FIRST_CAPACITY);
  mtimeNs = new Uint32Array(FIRST_CAPACITY);
  /** Of a file or a link's text, in bytes; of a directory, its entries. */
  size = new Float64Array(FIRST_CAPACITY);
  /** Of a file, where in the tar it begins, in blocks; of a node, its device number. */
  place = new Uint32Array(FIRST_CAPACITY);
  nlink = new Uint32Array(FIRST_CAPACITY);
  readonly xattrs = new Map<Id, Xattrs>();
  readonly targets = new Map<Id, string>();
  readonly directories = new Map<Id, Map<string, Id>>([[ROOT, new Map()]]);

  add(mode: number, {uid, gid, mtimeSec, mtimeNs}: Pick<TarHeader, 'uid' | 'gid' | 'mtimeSec' | 'mtimeNs'>): Id {
    if (this.count === this.mode.length) this.#grow();
    const id = this.count++;
    this.mode[id] = mode;
    this.uid[id] = uid;
    this.gid[id] = gid;
    this.mtimeSec[id] = mtimeSec;
    this.mtimeNs[id] = mtimeNs;
    return id;
  }

  #grow(): void {
    this.mode = doubled(this.mode);
    this.uid = doubled(this.uid);
    this.gid = doubled(this.gid);
    this.mtimeSec = doubled(this.mtimeSec);
    this.mtimeNs = doubled(this.mtimeNs);
    this.size = doubled(this.size);
    this.place = doubled(this.place);
    this.nlink = doubled(this.nlink);
  }

  kind(id: Id): number {
    return this.mode[id]! & S_IFMT;
  }

  entriesOf(id: Id): Map<string, Id> | undefined {
    return this.directories.get(id);
  }
}

const NOBODY = {uid: 0, gid: 0, mtimeSec: 0, mtimeNs: 0};

export function createErofsIndex(): ErofsIndex {
  const reasons = new Set<Reason>();
  let nodes = createNodes();
  /** Directories that the layer does not carry, as far as it is read, and whether only whiteouts have needed them. */
  const implied = new Map<Id, boolean>();
  const opaque = new Set<Id>();
  /** Names in the tree, those counted twice that came twice. */
  let names = 0;
  /** What the implied directories come to. */
  let steps = 0;
  let entries = 0;
  let size = 0;
  let hasTime = false;

  const makeDirectory = (mode: number, header: Pick<TarHeader, 'uid' | 'gid' | 'mtimeSec' | 'mtimeNs'>): Id => {
    const id = nodes.add(S_IFDIR | mode, header);
    nodes.directories.set(id, new Map());
    return id;
  };

  /** The directory that a path of names leads to; undefined when it does not lead to one by directories alone. */
  const walk = (path: readonly string[], needing: TarHeader | 'missing-link', isWhiteout = false): Id | undefined => {
    let at = ROOT;
    for (const [i, name] of path.entries()) {
      const siblings = nodes.entriesOf(at)!;
      let next = siblings.get(name);
      if (next === undefined) {
        if (needing === 'missing-link') {
          reasons.add(needing);
          return undefined;
        }
        const gid = inheritedGid({mode: nodes.mode[at]!, gid: nodes.gid[at]!}) ?? 0;
        next = makeDirectory(0o755, {uid: 0, gid, mtimeSec: needing.mtimeSec, mtimeNs: needing.mtimeNs});
        siblings.set(name, next);
        implied.set(next, isWhiteout);
        names++;
        steps += i + 1;
        if (steps > MAX_IMPLICIT_STEPS) throw tooManyImplicit();
      } else if (nodes.kind(next) !== S_IFDIR) {
        reasons.add(nodes.kind(next) === S_IFLNK ? 'symlink-parent' : 'type-change');
        return undefined;
      } else if (!isWhiteout && needing !== 'missing-link' && implied.get(next) === true) {
        // If nothing was below, this is the first entry that it would be made for.
        implied.set(next, false);
        nodes.mtimeSec[next] = needing.mtimeSec;
        nodes.mtimeNs[next] = needing.mtimeNs;
      }
      at = next;
    }
    return at;
  };

  const addWhiteout = (header: TarHeader, dir: Id, base: string): void => {
    const hidden = base.slice(PREFIX.length);
    if (header.size > 0 || hidden === '' || hidden === '.' || hidden === '..') reasons.add('whiteout');
    if (base === OPAQUE) {
      if (dir === ROOT) reasons.add('whiteout');
      opaque.add(dir);
      return;
    }
    const siblings = nodes.entriesOf(dir)!;
    if (siblings.has(hidden)) reasons.add('whiteout');
    siblings.set(hidden, WHITEOUT);
  };

  const findLinkTarget = (header: TarHeader): Id | undefined => {
    const path = namesOf(header.linkname);
    const base = path.pop();
    if (base === undefined || base === '..' || path.includes('..')) {
      reasons.add('dotdot');
      return undefined;
    }
    const parent = walk(path, 'missing-link');
    const target = parent === undefined ? undefined : nodes.entriesOf(parent)!.get(base);
    if (target === undefined || target === WHITEOUT || nodes.kind(target) === S_IFDIR || header.linkname.endsWith('/')) {
      reasons.add('missing-link');
      return undefined;
    }
    if (!isSameInode(nodes, target, header)) reasons.add('link-attributes');
    return target;
  };

  const addDirectory = (header: TarHeader, siblings: Map<string, Id>, base: string): void => {
    const before = siblings.get(base);
    const isDirectory = before !== undefined && nodes.kind(before) === S_IFDIR;
    if (before !== undefined && (!isDirectory || header.xattrs.size > 0 || nodes.xattrs.has(before)))
      reasons.add(before === WHITEOUT ? 'whiteout' : 'duplicate');
    const id = isDirectory ? before : makeDirectory(header.mode, header);
    if (isDirectory) {
      if (implied.delete(id)) reasons.add('implied-parent');
      nodes.mode[id] = S_IFDIR | header.mode;
      nodes.uid[id] = header.uid;
      nodes.gid[id] = header.gid;
      nodes.mtimeSec[id] = header.mtimeSec;
      nodes.mtimeNs[id] = header.mtimeNs;
    }
    if (header.xattrs.size > 0) nodes.xattrs.set(id, header.xattrs);
    siblings.set(base, id);
  };

  const addOther = (header: TarHeader, siblings: Map<string, Id>, base: string, contentStart: number): void => {
    const {type, mode, linkname} = header;
    const id = nodes.add(MODES[type] | (type === 'symlink' ? 0o777 : mode), header);
    if (type === 'file') {
      nodes.size[id] = header.size;
      nodes.place[id] = contentStart / BLOCK;
    } else if (type === 'symlink') {
      nodes.size[id] = linkname.length;
      nodes.targets.set(id, linkname);
    } else if (type !== 'fifo') nodes.place[id] = deviceNumber(header);
    if (header.xattrs.size > 0) nodes.xattrs.set(id, header.xattrs);
    siblings.set(base, id);
  };

  const add = (header: TarHeader, contentStart: number): void => {
    const {name, type, mtimeSec} = header;
    if (type === 'global') return;
    if (!hasTime) {
      hasTime = true;
      nodes.mtimeSec[ROOT] = mtimeSec;
      nodes.mtimeNs[ROOT] = header.mtimeNs;
    }
    if (header.sparse !== undefined) reasons.add('sparse');
    if (mtimeSec < 0 || mtimeSec > MAX_TIME) reasons.add('time');
    checkXattrs(header, reasons);
    const path = namesOf(name);
    if (path.includes('..')) {
      reasons.add('dotdot');
      return;
    }
    if (path.some((part) => part.length > MAX_NAME)) reasons.add('name');
    if (type === 'symlink' && header.linkname === '') reasons.add('name');
    const base = path.pop();
    if (base === undefined) {
      // A layer's root is the mounting tool's to make: what the archive says of it is not kept.
      if (type !== 'directory') reasons.add('root');
      return;
    }
    const dir = walk(path, header, base.startsWith(PREFIX));
    if (dir === undefined) return;
    names++;
    if (base.startsWith(PREFIX)) {
      addWhiteout(header, dir, base);
      return;
    }
    const siblings = nodes.entriesOf(dir)!;
    const before = siblings.get(base);
    if (before === WHITEOUT) reasons.add('whiteout');
    if (before !== undefined && type !== 'directory' && nodes.kind(before) === S_IFDIR && implied.size > 0) reasons.add('type-change');
    if ((type === 'char' || type === 'block') && header.devmajor === 0 && header.devminor === 0) reasons.add('device-zero');
    if (type === 'directory') addDirectory(header, siblings, base);
    else if (type === 'link') {
      // What is in the way goes first, though it be the target.
      siblings.delete(base);
      const target = findLinkTarget(header);
      if (target !== undefined) siblings.set(base, target);
    } else addOther(header, siblings, base, contentStart);
  };

  return {
    reasons,
    get entries() {
      return entries;
    },
    get size() {
      return size;
    },
    entry(header, contentStart) {
      entries++;
      size += header.size;
      if (entries > MAX_ENTRIES) throw overLimit(`layer has more than ${MAX_ENTRIES} entries`, {entries: MAX_ENTRIES});
      if (size > MAX_LAYER_BYTES) throw overLimit(`layer has more than ${MAX_LAYER_BYTES} B`, {bytes: MAX_LAYER_BYTES});
      if (names <= MAX_INDEXED_NAMES && implied.size <= MAX_INDEXED_IMPLICIT) add(header, contentStart);
      else {
        reasons.add('large');
        names = Number.POSITIVE_INFINITY;
        nodes = createNodes();
        implied.clear();
      }
    },
    data() {},
    entryEnd() {},
    encode(tarBytes, alignment = BLOCK) {
      for (const id of opaque) {
        nodes.xattrs.set(id, new Map([...(nodes.xattrs.get(id) ?? NO_XATTRS), OPAQUE_XATTR]));
        // overlayfs would list them: it looks for whiteouts only in a directory that something below shows in.
        const siblings = nodes.entriesOf(id)!;
        for (const [name, entry] of siblings) if (entry === WHITEOUT) siblings.delete(name);
      }
      const layout = layOut(nodes);
      return {
        bytes: encode(nodes, layout, Math.ceil(tarBytes / BLOCK), alignment),
        implicitParents: implied.size === 0 ? [] : [...impliedIn(nodes, ROOT, '', implied, layout)],
        hasWhiteouts: opaque.size > 0 || layout.inodes[WHITEOUT] !== 0,
      };
    },
  };
}

function createNodes(): Nodes {
  const nodes = new Nodes();
  nodes.add(S_IFDIR | 0o755, NOBODY);
  nodes.add(S_IFCHR, NOBODY);
  return nodes;
}

const namesOf = (path: string): string[] => path.split('/').filter((name) => name !== '' && name !== '.');

/** As the kernel's new_encode_dev. */
const deviceNumber = ({devmajor, devminor}: TarHeader): number => ((devminor & 0xff) | (devmajor << 8) | ((devminor & ~0xff) << 12)) >>> 0;

function checkXattrs({type, xattrs}: TarHeader, reasons: Set<Reason>): void {
  if (xattrs.size === 0) return;
  let isIndexable = true;
  for (const [key, value] of xattrs) {
    if (key.startsWith('trusted.')) reasons.add('reserved');
    else if (!key.startsWith('security.') && !(key.startsWith('user.') && USER_XATTRS.has(type))) isIndexable = false;
    else isIndexable &&= xattrName(key).name.length <= MAX_XATTR_NAME && value.length <= MAX_XATTR_VALUE;
  }
  // Room for one of overlayfs.
  if (!isIndexable || (!reasons.has('reserved') && xattrBytes(xattrs) > MAX_XATTR_BYTES - 64)) reasons.add('xattr');
}

/** Whether a hard link's header says the same as the inode that it is a name of. The mode of a symbolic link is nothing. */
function isSameInode(nodes: Nodes, id: Id, {mode, uid, gid, mtimeSec, mtimeNs, xattrs}: TarHeader): boolean {
  const known = nodes.xattrs.get(id) ?? NO_XATTRS;
  return (
    (nodes.kind(id) === S_IFLNK || (nodes.mode[id]! & ~S_IFMT) === mode) &&
    nodes.uid[id] === uid &&
    nodes.gid[id] === gid &&
    nodes.mtimeSec[id] === mtimeSec &&
    nodes.mtimeNs[id] === mtimeNs &&
    (xattrs.size === 0 || (xattrs.size === known.size && [...xattrs].every(([key, value]) => known.get(key)?.equals(value) === true)))
  );
}

/** The implied ones among the directories below `dir`, parents first. */
function* impliedIn(nodes: Nodes, dir: Id, prefix: string, implied: ReadonlyMap<Id, boolean>, layout: Layout): Generator<ImplicitParent> {
  for (const [name, child] of nodes.entriesOf(dir)!) {
    if (nodes.kind(child) !== S_IFDIR) continue;
    const path = prefix + name;
    if (implied.has(child)) yield {path, whiteoutsOnly: holdsOnlyWhiteouts(nodes, child), inode: layout.inodes[child]!};
    yield* impliedIn(nodes, child, `${path}/`, implied, layout);
  }
}

/** Whiteouts, and directories that are there for whiteouts alone. */
function holdsOnlyWhiteouts(nodes: Nodes, dir: Id): boolean {
  for (const child of nodes.entriesOf(dir)!.values()) {
    const below = nodes.entriesOf(child);
    if (child !== WHITEOUT && (below === undefined || below.size === 0 || !holdsOnlyWhiteouts(nodes, child))) return false;
  }
  return true;
}

/** Where everything lies in the index. */
interface Layout {
  /** Directories with their parents, in the order in which their entries' inodes lie. */
  readonly directories: readonly (readonly [dir: Id, parent: Id])[];
  /** By id, the inode's offset in bytes; 0 for a node that has no name any more. */
  readonly inodes: Float64Array;
  /** By id, the offset of a directory's or a link's data in bytes; absent where it lies behind the inode. */
  readonly data: ReadonlyMap<Id, number>;
  /** Names of a directory in the order of their bytes, `.` and `..` among them. */
  readonly names: ReadonlyMap<Id, readonly string[]>;
  readonly count: number;
  /** Where the inodes end, and the data. */
  readonly inodesEnd: number;
  readonly end: number;
}

const alignUp = (offset: number, unit: number): number => Math.ceil(offset / unit) * unit;

/** Gives every inode and every directory its place: the inodes of a directory's entries lie side by side. */
function layOut(nodes: Nodes): Layout {
  const directories: (readonly [Id, Id])[] = [[ROOT, ROOT]];
  const inodes = new Float64Array(nodes.count);
  const names = new Map<Id, readonly string[]>();
  const external: Id[] = [];
  let at = SUPERBLOCK + SUPERBLOCK_BYTES + DEVICE_BYTES;
  let count = 0;

  const place = (id: Id): void => {
    const head = INODE_BYTES + xattrBytes(nodes.xattrs.get(id) ?? NO_XATTRS);
    const tail = nodes.kind(id) === S_IFDIR || nodes.kind(id) === S_IFLNK ? nodes.size[id]! : 0;
    at = alignUp(at, INODE_UNIT);
    const isInline = tail > 0 && tail <= BLOCK - INODE_UNIT;
    // Data behind an inode lies in one block; so does an inode, for whoever reads it.
    const fits = (): boolean => (isInline ? ((at + head) % BLOCK) + tail <= BLOCK : (at % BLOCK) + INODE_BYTES <= BLOCK);
    while (!fits()) at += INODE_UNIT;
    if (tail > 0 && !isInline) external.push(id);
    inodes[id] = at;
    at += head + (isInline ? tail : 0);
    count++;
  };
  const enter = (id: Id): void => {
    const entries = nodes.entriesOf(id)!;
    if (hasWhiteout(entries)) nodes.xattrs.set(id, new Map([...(nodes.xattrs.get(id) ?? NO_XATTRS), ORIGIN_XATTR]));
    // Binary strings sort as their bytes do.
    const sorted = [...entries.keys(), '.', '..'].sort();
    names.set(id, sorted);
    nodes.size[id] = directorySize(sorted);
  };

  enter(ROOT);
  place(ROOT);
  nodes.nlink[ROOT] = 2;
  for (let i = 0; i < directories.length; i++) {
    const [dir] = directories[i]!;
    const entries = nodes.entriesOf(dir)!;
    for (const name of names.get(dir)!) {
      if (name === '.' || name === '..') continue;
      const id = entries.get(name)!;
      if (nodes.kind(id) === S_IFDIR) {
        nodes.nlink[dir]!++;
        nodes.nlink[id] = 2;
        directories.push([id, dir]);
        enter(id);
      } else nodes.nlink[id]!++;
      if (inodes[id] === 0) place(id);
    }
  }
  const inodesEnd = at;
  const data = new Map<Id, number>();
  for (const id of external) {
    at = alignUp(at, BLOCK);
    data.set(id, at);
    at += nodes.size[id]!;
  }
  return {directories, inodes, data, names, count, inodesEnd, end: alignUp(at, BLOCK)};
}

function hasWhiteout(entries: ReadonlyMap<string, Id>): boolean {
  for (const id of entries.values()) if (id === WHITEOUT) return true;
  return false;
}

/** How many of the names from `start` on one block takes. */
function namesInBlock(sorted: readonly string[], start: number): {readonly end: number; readonly bytes: number} {
  let bytes = 0;
  let end = start;
  for (; end < sorted.length; end++) {
    const more = DIRENT_BYTES + sorted[end]!.length;
    if (bytes + more > BLOCK) break;
    bytes += more;
  }
  return {end, bytes};
}

function directorySize(sorted: readonly string[]): number {
  for (let start = 0, size = 0; ; size += BLOCK) {
    const {end, bytes} = namesInBlock(sorted, start);
    if (end === sorted.length) return size + bytes;
    start = end;
  }
}

/** Bytes of an output chunk. */
const CHUNK = 1 << 20;

/** Writes into consecutive buffers, with zeros between writes. */
class Pieces {
  readonly done: Buffer[] = [];
  #piece = Buffer.alloc(CHUNK);
  #start = 0;

  /** Reserves `length` bytes at `offset`, which must not decrease. */
  reserve(offset: number, length: number): {readonly buffer: Buffer; readonly at: number} {
    while (offset + length > this.#start + this.#piece.length) {
      // Ends the buffer before bytes that do not fit.
      const end = Math.min(offset, this.#start + this.#piece.length) - this.#start;
      this.done.push(this.#piece.subarray(0, end));
      this.#start += end;
      this.#piece = Buffer.alloc(Math.max(CHUNK, length));
    }
    return {buffer: this.#piece, at: offset - this.#start};
  }

  finish(length: number): void {
    this.reserve(length, 0);
    this.done.push(this.#piece.subarray(0, length - this.#start));
  }

  *take(): Generator<Buffer> {
    yield* this.done.splice(0);
  }
}

function* encode(nodes: Nodes, layout: Layout, tarBlocks: number, alignment: number): Generator<Buffer> {
  const pieces = new Pieces();
  const length = alignUp(layout.end, alignment);
  const indexBlocks = length / BLOCK;
  putSuperblock(pieces, layout, indexBlocks, tarBlocks);
  const written = new Set<Id>();
  let serial = 0;
  const put = (id: Id, parent: Id): void => {
    putInode(pieces, nodes, layout, id, parent, indexBlocks, ++serial);
  };
  put(ROOT, ROOT);
  for (const [dir] of layout.directories) {
    const entries = nodes.entriesOf(dir)!;
    for (const name of layout.names.get(dir)!) {
      if (name === '.' || name === '..') continue;
      const id = entries.get(name)!;
      // Only what may have several names can come again.
      if (nodes.nlink[id]! > 1 && nodes.kind(id) !== S_IFDIR) {
        if (written.has(id)) continue;
        written.add(id);
      }
      put(id, dir);
    }
    yield* pieces.take();
  }
  const parents = new Map(layout.directories.filter(([dir]) => layout.data.has(dir)));
  for (const [id, offset] of layout.data) {
    const target = nodes.targets.get(id);
    if (target === undefined) {
      for (let start = 0, at = offset; start < layout.names.get(id)!.length; at += BLOCK)
        start = putDirectoryBlock(pieces, nodes, layout, id, parents.get(id)!, start, at);
    } else {
      const {buffer, at} = pieces.reserve(offset, target.length);
      buffer.write(target, at, 'latin1');
    }
    yield* pieces.take();
  }
  pieces.finish(length);
  yield* pieces.take();
}

function putSuperblock(pieces: Pieces, layout: Layout, indexBlocks: number, tarBlocks: number): void {
  const {buffer, at} = pieces.reserve(SUPERBLOCK, SUPERBLOCK_BYTES + DEVICE_BYTES);
  buffer.writeUInt32LE(MAGIC, at);
  buffer.writeUInt32LE(COMPAT_MTIME, at + 8);
  buffer.writeUInt8(Math.log2(BLOCK), at + 12);
  buffer.writeUInt16LE(layout.inodes[ROOT]! / INODE_UNIT, at + 14);
  buffer.writeBigUInt64LE(BigInt(layout.count), at + 16);
  buffer.writeUInt32LE(indexBlocks, at + 36);
  buffer.writeUInt32LE(INCOMPAT_DEVICE_TABLE, at + 80);
  buffer.writeUInt16LE(1, at + 86);
  buffer.writeUInt16LE((SUPERBLOCK + SUPERBLOCK_BYTES) / DEVICE_BYTES, at + 88);
  buffer.writeUInt32LE(tarBlocks, at + SUPERBLOCK_BYTES + 64);
  buffer.writeUInt32LE(indexBlocks, at + SUPERBLOCK_BYTES + 68);
}

/** Offsets in an inode of fields that lower layers can change. */
export const INODE_FIELDS = {mode: 4, uid: 24, gid: 28, mtimeSec: 32, mtimeNs: 40} as const;

function putInode(pieces: Pieces, nodes: Nodes, layout: Layout, id: Id, parent: Id, indexBlocks: number, serial: number): void {
  const xattrs = nodes.xattrs.get(id) ?? NO_XATTRS;
  const xattrSize = xattrBytes(xattrs);
  const size = nodes.size[id]!;
  const kind = nodes.kind(id);
  const hasData = kind === S_IFDIR || kind === S_IFLNK;
  const external = layout.data.get(id);
  const isInline = hasData && external === undefined;
  const length = INODE_BYTES + xattrSize + (isInline ? size : 0);
  const {buffer, at} = pieces.reserve(layout.inodes[id]!, length);
  buffer.writeUInt16LE(isInline ? FORMAT_INLINE : FORMAT_PLAIN, at);
  if (xattrSize > 0) buffer.writeUInt16LE((xattrSize - XATTR_HEADER_BYTES) / 4 + 1, at + 2);
  buffer.writeUInt16LE(nodes.mode[id]!, at + INODE_FIELDS.mode);
  buffer.writeBigUInt64LE(BigInt(size), at + 8);
  let place = nodes.place[id]!;
  if (external !== undefined) place = external / BLOCK;
  else if (kind === S_IFREG) place += indexBlocks;
  buffer.writeUInt32LE(place, at + 16);
  buffer.writeUInt32LE(serial, at + 20);
  buffer.writeUInt32LE(nodes.uid[id]!, at + INODE_FIELDS.uid);
  buffer.writeUInt32LE(nodes.gid[id]!, at + INODE_FIELDS.gid);
  buffer.writeBigInt64LE(BigInt(nodes.mtimeSec[id]!), at + INODE_FIELDS.mtimeSec);
  buffer.writeUInt32LE(nodes.mtimeNs[id]!, at + INODE_FIELDS.mtimeNs);
  buffer.writeUInt32LE(nodes.nlink[id]!, at + 44);
  let end = at + INODE_BYTES;
  if (xattrSize > 0) {
    end += XATTR_HEADER_BYTES;
    for (const [key, value] of xattrs) {
      const {index, name} = xattrName(key);
      buffer.writeUInt8(name.length, end);
      buffer.writeUInt8(index, end + 1);
      buffer.writeUInt16LE(value.length, end + 2);
      buffer.write(name, end + 4, 'latin1');
      value.copy(buffer, end + 4 + name.length);
      end += (4 + name.length + value.length + 3) & ~3;
    }
  }
  if (!isInline) return;
  if (kind === S_IFLNK) buffer.write(nodes.targets.get(id)!, end, 'latin1');
  else writeDirents(buffer, end, nodes, layout, id, parent, 0, layout.names.get(id)!.length);
}

/** @returns the first name of the next block */
function putDirectoryBlock(pieces: Pieces, nodes: Nodes, layout: Layout, dir: Id, parent: Id, start: number, offset: number): number {
  const {end, bytes} = namesInBlock(layout.names.get(dir)!, start);
  const {buffer, at} = pieces.reserve(offset, bytes);
  writeDirents(buffer, at, nodes, layout, dir, parent, start, end);
  return end;
}

/** Entries, then their names, from `start` up to `end` of a directory's sorted names. */
function writeDirents(buffer: Buffer, at: number, nodes: Nodes, layout: Layout, dir: Id, parent: Id, start: number, end: number): void {
  const names = layout.names.get(dir)!;
  const entries = nodes.entriesOf(dir)!;
  let nameOffset = DIRENT_BYTES * (end - start);
  for (let i = start; i < end; i++) {
    const name = names[i]!;
    const id = name === '.' ? dir : name === '..' ? parent : entries.get(name)!;
    const entry = at + DIRENT_BYTES * (i - start);
    buffer.writeBigUInt64LE(BigInt(layout.inodes[id]! / INODE_UNIT), entry);
    buffer.writeUInt16LE(nameOffset, entry + 8);
    buffer.writeUInt8(FILE_TYPES.get(nodes.kind(id))!, entry + 10);
    buffer.write(name, at + nameOffset, 'latin1');
    nameOffset += name.length;
  }
}
