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
  MAX_INDEXED_BYTES,
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
 * mtime out of range; `root` an entry for the root that is not a directory; `large` more names or text than is kept in memory.
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
  /** Parents first. They have default attributes; `inherit-parent-attributes.ts` sets those of the lower layers. */
  readonly implicitParents: readonly ImplicitParent[];
  /** The layer has whiteouts or opaque marks, which only overlayfs understands. */
  readonly hasWhiteouts: boolean;
}

/** `entry` throws resource_exhausted if the layer has too many entries or bytes. */
export interface ErofsIndex extends TarHandler {
  /** Empty as long as nothing speaks against an index. From the first reason on, entries are only counted. */
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

/** An extended attribute as it lies behind an inode; a binary string. */
function encodeXattr([key, value]: readonly [string, Buffer]): string {
  const {index, name} = xattrName(key);
  const head = String.fromCharCode(name.length, index, value.length & 0xff, value.length >> 8);
  return `${head}${name}${value.toString('latin1')}${'\0'.repeat(-(name.length + value.length) & 3)}`;
}

/** Splits joined results of `encodeXattr`. */
function splitXattrs(all: string): string[] {
  const found: string[] = [];
  for (let at = 0, end = 0; at < all.length; at = end) {
    end = at + ((4 + all.charCodeAt(at) + all.charCodeAt(at + 2) + (all.charCodeAt(at + 3) << 8) + 3) & ~3);
    found.push(all.slice(at, end));
  }
  return found;
}

/** @param bytes of the results of `encodeXattr` */
const xattrSize = (bytes: number): number => (bytes === 0 ? 0 : XATTR_HEADER_BYTES + bytes);

function xattrName(key: string): {readonly index: number; readonly name: string} {
  const [prefix, index] = XATTR_PREFIXES.find(([known]) => key.startsWith(known))!;
  return {index, name: key.slice(prefix.length)};
}

/** A node's number: a place in each of its columns. */
type Id = number;
const ROOT: Id = 0;
/** All whiteouts are names of one inode. */
const WHITEOUT: Id = 1;
/** Node of a name without a file: the root is never an entry. */
const NOTHING: Id = ROOT;

/** A name's number: a place in each of its columns. */
type NameId = number;
/** `.` and `..`, which every directory has. */
const SELF: NameId = 0;
const PARENT: NameId = 1;

type Column = Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer> | Float64Array<ArrayBuffer>;

/** A column that grows in place. Copies would stay in memory: Bun does not return freed buffers to the system at once. */
function column<T extends Column>(Type: {new (buffer: ArrayBuffer): T; readonly BYTES_PER_ELEMENT: number}): T {
  const bytes = (length: number): number => length * Type.BYTES_PER_ELEMENT;
  return new Type(new ArrayBuffer(bytes(FIRST_CAPACITY), {maxByteLength: bytes(MAX_CAPACITY)}));
}

function grow(columns: readonly Column[]): void {
  for (const {buffer} of columns) buffer.resize(Math.min(2 * buffer.byteLength, buffer.maxByteLength));
}

const FIRST_CAPACITY = 1024;
const MAX_CAPACITY = MAX_INDEXED_NAMES + 1024;
const HASH_FACTOR = 0x9e3779b1;
/** A secret seed, so that no layer can contain only names with the same hash. The index does not depend on it. */
const HASH_SEED = Math.floor(Math.random() * 2 ** 32);

/** Inodes and their names: a column for each field, and one buffer for all text. A million entries must not be a million objects. */
class Tree {
  count = 0;
  readonly mode = column(Uint16Array);
  readonly uid = column(Uint32Array);
  readonly gid = column(Uint32Array);
  readonly mtimeSec = column(Float64Array);
  readonly mtimeNs = column(Uint32Array);
  /** Of a file or a link's text, in bytes; of a directory, its entries. */
  readonly size = column(Float64Array);
  /** File: start of its content in the tar, in blocks. Device: its number. Symbolic link: start of its target in `text`. Directory: its name's `NameId`. */
  readonly place = column(Uint32Array);
  readonly nlink = column(Uint32Array);
  /** Start of a node's extended attributes in `text`, and their length in bytes. */
  readonly xattrs = column(Uint32Array);
  readonly xattrBytes = column(Uint32Array);

  names = 0;
  readonly directory = column(Uint32Array);
  readonly node = column(Uint32Array);
  readonly nameStart = column(Uint32Array);
  readonly nameLength = column(Uint16Array);

  /** Names, link targets, extended attributes. */
  text = Buffer.alloc(1 << 16);
  textLength = 0;
  /** Hash table of names by directory and bytes, at most half full. */
  #table = new Uint32Array(2 * FIRST_CAPACITY);

  constructor() {
    this.#addName(ROOT, this.addText('.'), 1);
    this.#addName(ROOT, this.addText('..'), 2);
    this.add(S_IFDIR | 0o755, NOBODY);
    this.add(S_IFCHR, NOBODY);
  }

  add(mode: number, {uid, gid, mtimeSec, mtimeNs}: Owner): Id {
    if (this.count === this.mode.length) {
      grow([this.mode, this.uid, this.gid, this.mtimeSec, this.mtimeNs, this.size, this.place, this.nlink, this.xattrs, this.xattrBytes]);
    }
    const id = this.count++;
    this.mode[id] = mode;
    this.uid[id] = uid;
    this.gid[id] = gid;
    this.mtimeSec[id] = mtimeSec;
    this.mtimeNs[id] = mtimeNs;
    return id;
  }

  addDirectory(mode: number, owner: Owner, name: NameId): Id {
    const id = this.add(S_IFDIR | mode, owner);
    this.place[id] = name;
    this.node[name] = id;
    return id;
  }

  /** @returns its start in `text` */
  addText(text: string): number {
    const start = this.#putText(text);
    this.textLength += text.length;
    return start;
  }

  addXattrs(id: Id, xattrs: Iterable<readonly [string, Buffer]>): void {
    const all = this.xattrsOf(id) + Array.from(xattrs, encodeXattr).join('');
    this.xattrs[id] = this.addText(all);
    this.xattrBytes[id] = all.length;
  }

  xattrsOf(id: Id): string {
    return this.#textAt(this.xattrs[id]!, this.xattrBytes[id]!);
  }

  kind(id: Id): number {
    return this.mode[id]! & S_IFMT;
  }

  parentOf(dir: Id): Id {
    return this.directory[this.place[dir]!]!;
  }

  nameOf(name: NameId): string {
    return this.#textAt(this.nameStart[name]!, this.nameLength[name]!);
  }

  /** Finds a name in a directory, or adds it with the node `NOTHING`. */
  find(dir: Id, name: string): NameId {
    const start = this.#putText(name);
    const mask = this.#table.length - 1;
    let place = this.#hash(dir, start, name.length) & mask;
    for (let found = this.#table[place]!; found !== 0; found = this.#table[place]!) {
      if (
        this.directory[found] === dir &&
        this.nameLength[found] === name.length &&
        this.#isText(this.nameStart[found]!, start, name.length)
      )
        return found;
      place = (place + 1) & mask;
    }
    this.textLength += name.length;
    this.#table[place] = this.names;
    this.#addName(dir, start, name.length);
    if (2 * this.names > this.#table.length) this.#growTable();
    return this.names - 1;
  }

  /** Compares two names by their bytes. */
  compare(a: NameId, b: NameId): number {
    const {text} = this;
    let i = this.nameStart[a]!;
    let j = this.nameStart[b]!;
    const more = this.nameLength[a]! - this.nameLength[b]!;
    const end = i + this.nameLength[a]! - Math.max(more, 0);
    for (; i < end; i++, j++) if (text[i] !== text[j]) return text[i]! - text[j]!;
    return more;
  }

  #addName(dir: Id, start: number, length: number): void {
    if (this.names === this.node.length) grow([this.directory, this.node, this.nameStart, this.nameLength]);
    const name = this.names++;
    this.directory[name] = dir;
    this.nameStart[name] = start;
    this.nameLength[name] = length;
  }

  #textAt(start: number, length: number): string {
    return this.text.toString('latin1', start, start + length);
  }

  /** Writes after the end of the text, without moving the end. */
  #putText(text: string): number {
    while (this.textLength + text.length > this.text.length) this.text = Buffer.from(this.text.buffer.transfer(2 * this.text.length));
    this.text.write(text, this.textLength, 'latin1');
    return this.textLength;
  }

  #isText(a: number, b: number, length: number): boolean {
    for (let i = 0; i < length; i++) if (this.text[a + i] !== this.text[b + i]) return false;
    return true;
  }

  #hash(dir: Id, start: number, length: number): number {
    let hash = Math.imul(HASH_SEED ^ dir, HASH_FACTOR);
    for (let i = start; i < start + length; i++) {
      hash = Math.imul(hash ^ this.text[i]!, HASH_FACTOR);
      hash ^= hash >>> 15;
    }
    return hash;
  }

  #growTable(): void {
    this.#table = new Uint32Array(2 * this.#table.length);
    const mask = this.#table.length - 1;
    for (let name = PARENT + 1; name < this.names; name++) {
      let place = this.#hash(this.directory[name]!, this.nameStart[name]!, this.nameLength[name]!) & mask;
      while (this.#table[place] !== 0) place = (place + 1) & mask;
      this.#table[place] = name;
    }
  }
}

type Owner = Pick<TarHeader, 'uid' | 'gid' | 'mtimeSec' | 'mtimeNs'>;
const NOBODY = {uid: 0, gid: 0, mtimeSec: 0, mtimeNs: 0};

export function createErofsIndex(): ErofsIndex {
  const reasons = new Set<Reason>();
  let tree = new Tree();
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

  /** The directory that a path of names leads to; undefined when it does not lead to one by directories alone. */
  const walk = (path: readonly string[], needing: TarHeader | 'missing-link', isWhiteout = false): Id | undefined => {
    let at = ROOT;
    for (const [i, part] of path.entries()) {
      const name = tree.find(at, part);
      let next = tree.node[name]!;
      if (next === NOTHING) {
        if (needing === 'missing-link') {
          reasons.add(needing);
          return undefined;
        }
        const gid = inheritedGid({mode: tree.mode[at]!, gid: tree.gid[at]!}) ?? 0;
        next = tree.addDirectory(0o755, {uid: 0, gid, mtimeSec: needing.mtimeSec, mtimeNs: needing.mtimeNs}, name);
        implied.set(next, isWhiteout);
        names++;
        steps += i + 1;
        if (steps > MAX_IMPLICIT_STEPS) throw tooManyImplicit();
      } else if (tree.kind(next) !== S_IFDIR) {
        reasons.add(tree.kind(next) === S_IFLNK ? 'symlink-parent' : 'type-change');
        return undefined;
      } else if (!isWhiteout && needing !== 'missing-link' && implied.get(next) === true) {
        // If nothing was below, this is the first entry that it would be made for.
        implied.set(next, false);
        tree.mtimeSec[next] = needing.mtimeSec;
        tree.mtimeNs[next] = needing.mtimeNs;
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
    const name = tree.find(dir, hidden);
    if (tree.node[name] !== NOTHING) reasons.add('whiteout');
    tree.node[name] = WHITEOUT;
  };

  const findLinkTarget = (header: TarHeader): Id => {
    const path = namesOf(header.linkname);
    const base = path.pop();
    if (base === undefined || base === '..' || path.includes('..')) {
      reasons.add('dotdot');
      return NOTHING;
    }
    const parent = walk(path, 'missing-link');
    const target = parent === undefined ? NOTHING : tree.node[tree.find(parent, base)]!;
    if (target === NOTHING || target === WHITEOUT || tree.kind(target) === S_IFDIR || header.linkname.endsWith('/')) {
      reasons.add('missing-link');
      return NOTHING;
    }
    if (!isSameInode(tree, target, header)) reasons.add('link-attributes');
    return target;
  };

  const addDirectory = (header: TarHeader, name: NameId): void => {
    const before = tree.node[name]!;
    const isDirectory = before !== NOTHING && tree.kind(before) === S_IFDIR;
    if (before !== NOTHING && (!isDirectory || header.xattrs.size > 0 || tree.xattrBytes[before]! > 0))
      reasons.add(before === WHITEOUT ? 'whiteout' : 'duplicate');
    const id = isDirectory ? before : tree.addDirectory(header.mode, header, name);
    if (isDirectory) {
      if (implied.delete(id)) reasons.add('implied-parent');
      tree.mode[id] = S_IFDIR | header.mode;
      tree.uid[id] = header.uid;
      tree.gid[id] = header.gid;
      tree.mtimeSec[id] = header.mtimeSec;
      tree.mtimeNs[id] = header.mtimeNs;
    }
    if (header.xattrs.size > 0) tree.addXattrs(id, header.xattrs);
  };

  const addOther = (header: TarHeader, name: NameId, contentStart: number): void => {
    const {type, mode, linkname} = header;
    const id = tree.add(MODES[type] | (type === 'symlink' ? 0o777 : mode), header);
    if (type === 'file') {
      tree.size[id] = header.size;
      tree.place[id] = contentStart / BLOCK;
    } else if (type === 'symlink') {
      tree.size[id] = linkname.length;
      tree.place[id] = tree.addText(linkname);
    } else if (type !== 'fifo') tree.place[id] = deviceNumber(header);
    if (header.xattrs.size > 0) tree.addXattrs(id, header.xattrs);
    tree.node[name] = id;
  };

  const add = (header: TarHeader, contentStart: number): void => {
    const {type, mtimeSec} = header;
    if (type === 'global') return;
    if (!hasTime) {
      hasTime = true;
      tree.mtimeSec[ROOT] = mtimeSec;
      tree.mtimeNs[ROOT] = header.mtimeNs;
    }
    if (header.sparse !== undefined) reasons.add('sparse');
    if (mtimeSec < 0 || mtimeSec > MAX_TIME) reasons.add('time');
    checkXattrs(header, reasons);
    const path = namesOf(header.name);
    if (path.includes('..')) reasons.add('dotdot');
    if (path.some((part) => part.length > MAX_NAME)) reasons.add('name');
    if (type === 'symlink' && header.linkname === '') reasons.add('name');
    if (reasons.size > 0) return;
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
    const name = tree.find(dir, base);
    const before = tree.node[name]!;
    if (before === WHITEOUT) reasons.add('whiteout');
    if (before !== NOTHING && type !== 'directory' && tree.kind(before) === S_IFDIR && implied.size > 0) reasons.add('type-change');
    if ((type === 'char' || type === 'block') && header.devmajor === 0 && header.devminor === 0) reasons.add('device-zero');
    if (type === 'directory') addDirectory(header, name);
    else if (type === 'link') {
      // What is in the way goes first, though it be the target.
      tree.node[name] = NOTHING;
      const target = findLinkTarget(header);
      tree.node[name] = target;
    } else addOther(header, name, contentStart);
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
      if (reasons.size > 0) return;
      add(header, contentStart);
      if (names > MAX_INDEXED_NAMES || implied.size > MAX_INDEXED_IMPLICIT || tree.textLength > MAX_INDEXED_BYTES) reasons.add('large');
      if (reasons.size === 0) return;
      tree = new Tree();
      implied.clear();
      opaque.clear();
    },
    data() {},
    entryEnd() {},
    encode(tarBytes, alignment = BLOCK) {
      const layout = layOut(tree, opaque);
      return {
        bytes: encode(tree, layout, Math.ceil(tarBytes / BLOCK), alignment),
        implicitParents: implied.size === 0 ? [] : [...impliedIn(tree, layout, implied)],
        hasWhiteouts: opaque.size > 0 || layout.inodes[WHITEOUT] !== 0,
      };
    },
  };
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
  const isLarge = (): boolean => xattrSize(Array.from(xattrs, encodeXattr).join('').length) > MAX_XATTR_BYTES - 64;
  if (!isIndexable || (!reasons.has('reserved') && isLarge())) reasons.add('xattr');
}

/** Whether a hard link's header says the same as the inode that it is a name of. The mode of a symbolic link is nothing. */
function isSameInode(tree: Tree, id: Id, {mode, uid, gid, mtimeSec, mtimeNs, xattrs}: TarHeader): boolean {
  return (
    (tree.kind(id) === S_IFLNK || (tree.mode[id]! & ~S_IFMT) === mode) &&
    tree.uid[id] === uid &&
    tree.gid[id] === gid &&
    tree.mtimeSec[id] === mtimeSec &&
    tree.mtimeNs[id] === mtimeNs &&
    (xattrs.size === 0 || Array.from(xattrs, encodeXattr).sort().join('') === splitXattrs(tree.xattrsOf(id)).sort().join(''))
  );
}

/** The implied ones among the directories, parents first. */
function* impliedIn(tree: Tree, layout: Layout, implied: ReadonlyMap<Id, boolean>): Generator<ImplicitParent> {
  const pathOf = (dir: Id): string => {
    const name = tree.nameOf(tree.place[dir]!);
    const parent = tree.parentOf(dir);
    return parent === ROOT ? name : `${pathOf(parent)}/${name}`;
  };
  for (const dir of layout.directories)
    if (implied.has(dir))
      yield {path: pathOf(dir), whiteoutsOnly: holdsOnlyWhiteouts(tree, layout, dir), inode: layout.inodes[dir]! * INODE_UNIT};
}

/** Whiteouts, and directories that are there for whiteouts alone. */
function holdsOnlyWhiteouts(tree: Tree, layout: Layout, dir: Id): boolean {
  return layout.namesIn(dir).every((name) => {
    const child = tree.node[name]!;
    return (
      name === SELF ||
      name === PARENT ||
      child === WHITEOUT ||
      (layout.namesIn(child).length > 2 && holdsOnlyWhiteouts(tree, layout, child))
    );
  });
}

/** Where everything lies in the index. */
interface Layout {
  /** In the order in which their entries' inodes lie. */
  readonly directories: readonly Id[];
  /** By id, the inode's number, which says where it lies; 0 for a node that has no name any more. */
  readonly inodes: Uint32Array;
  /** By id, the offset of a directory's or a link's data in bytes; absent where it lies behind the inode. */
  readonly data: ReadonlyMap<Id, number>;
  /** Names of a directory in the order of their bytes, `.` and `..` among them. */
  readonly namesIn: (dir: Id) => Uint32Array;
  readonly count: number;
  readonly end: number;
}

const alignUp = (offset: number, unit: number): number => Math.ceil(offset / unit) * unit;

/** Gives every inode and every directory its place: the inodes of a directory's entries lie side by side. */
function layOut(tree: Tree, opaque: ReadonlySet<Id>): Layout {
  const namesIn = namesByDirectory(tree, opaque);
  const directories: Id[] = [ROOT];
  const inodes = new Uint32Array(tree.count);
  const external: Id[] = [];
  let at = SUPERBLOCK + SUPERBLOCK_BYTES + DEVICE_BYTES;
  let count = 0;

  const place = (id: Id): void => {
    const head = INODE_BYTES + xattrSize(tree.xattrBytes[id]!);
    const tail = tree.kind(id) === S_IFDIR || tree.kind(id) === S_IFLNK ? tree.size[id]! : 0;
    at = alignUp(at, INODE_UNIT);
    const isInline = tail > 0 && tail <= BLOCK - INODE_UNIT;
    // Data behind an inode lies in one block; so does an inode, for whoever reads it.
    while (isInline ? ((at + head) % BLOCK) + tail > BLOCK : (at % BLOCK) + INODE_BYTES > BLOCK) at += INODE_UNIT;
    if (tail > 0 && !isInline) external.push(id);
    inodes[id] = at / INODE_UNIT;
    at += head + (isInline ? tail : 0);
    count++;
  };
  const byBytes = (a: NameId, b: NameId): number => tree.compare(a, b);
  const isWhiteout = (name: NameId): boolean => tree.node[name] === WHITEOUT;
  const enter = (dir: Id): void => {
    const names = namesIn(dir).sort(byBytes);
    if (opaque.has(dir)) tree.addXattrs(dir, [OPAQUE_XATTR]);
    else if (names.some(isWhiteout)) tree.addXattrs(dir, [ORIGIN_XATTR]);
    tree.size[dir] = directorySize(tree, names);
  };

  enter(ROOT);
  place(ROOT);
  tree.nlink[ROOT] = 2;
  for (let i = 0; i < directories.length; i++) {
    const dir = directories[i]!;
    const names = namesIn(dir);
    // No iterator, here and below: it allocates an object for each name.
    for (let k = 0; k < names.length; k++) {
      const id = tree.node[names[k]!]!;
      if (names[k]! <= PARENT) continue;
      if (tree.kind(id) === S_IFDIR) {
        tree.nlink[dir]!++;
        tree.nlink[id] = 2;
        directories.push(id);
        enter(id);
      } else tree.nlink[id]!++;
      if (inodes[id] === 0) place(id);
    }
  }
  const data = new Map<Id, number>();
  for (const id of external) {
    at = alignUp(at, BLOCK);
    data.set(id, at);
    at += tree.size[id]!;
  }
  return {directories, inodes, data, namesIn, count, end: alignUp(at, BLOCK)};
}

/** Names of each directory; the caller may sort the arrays. */
function namesByDirectory(tree: Tree, opaque: ReadonlySet<Id>): (dir: Id) => Uint32Array {
  // overlayfs would list the whiteouts of an opaque directory: it looks for whiteouts only in one that something below shows in.
  const isListed = (name: NameId): boolean =>
    tree.node[name] !== NOTHING && (tree.node[name] !== WHITEOUT || !opaque.has(tree.directory[name]!));
  const starts = new Uint32Array(tree.count + 1);
  for (let id = ROOT; id < tree.count; id++) if (tree.kind(id) === S_IFDIR) starts[id] = 2;
  for (let name = PARENT + 1; name < tree.names; name++) if (isListed(name)) starts[tree.directory[name]!]!++;
  for (let id = 1; id <= tree.count; id++) starts[id]! += starts[id - 1]!;
  // Filled from the end, so that `starts` turns from ends into starts.
  const all = new Uint32Array(starts[tree.count]!);
  for (let name = tree.names - 1; name > PARENT; name--) if (isListed(name)) all[--starts[tree.directory[name]!]!] = name;
  for (let id = ROOT; id < tree.count; id++) if (tree.kind(id) === S_IFDIR) for (const name of [PARENT, SELF]) all[--starts[id]!] = name;
  return (dir) => all.subarray(starts[dir], starts[dir + 1]);
}

/** How many of the names from `start` on one block takes. */
function namesInBlock(tree: Tree, sorted: Uint32Array, start: number): {readonly end: number; readonly bytes: number} {
  let bytes = 0;
  let end = start;
  for (; end < sorted.length; end++) {
    const more = DIRENT_BYTES + tree.nameLength[sorted[end]!]!;
    if (bytes + more > BLOCK) break;
    bytes += more;
  }
  return {end, bytes};
}

function directorySize(tree: Tree, sorted: Uint32Array): number {
  for (let start = 0, size = 0; ; size += BLOCK) {
    const {end, bytes} = namesInBlock(tree, sorted, start);
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

function* encode(tree: Tree, layout: Layout, tarBlocks: number, alignment: number): Generator<Buffer> {
  const pieces = new Pieces();
  const length = alignUp(layout.end, alignment);
  const indexBlocks = length / BLOCK;
  putSuperblock(pieces, layout, indexBlocks, tarBlocks);
  let serial = 0;
  putInode(pieces, tree, layout, ROOT, indexBlocks, ++serial);
  let last = ROOT;
  for (const dir of layout.directories) {
    const names = layout.namesIn(dir);
    for (let i = 0; i < names.length; i++) {
      const id = tree.node[names[i]!]!;
      // Inodes lie in the order of their first names.
      if (names[i]! <= PARENT || layout.inodes[id]! <= layout.inodes[last]!) continue;
      putInode(pieces, tree, layout, id, indexBlocks, ++serial);
      last = id;
      if (pieces.done.length > 0) yield* pieces.take();
    }
  }
  for (const [id, offset] of layout.data) {
    if (tree.kind(id) === S_IFLNK) {
      const {buffer, at} = pieces.reserve(offset, tree.size[id]!);
      putText(buffer, at, tree, tree.place[id]!, tree.size[id]!);
    } else
      for (let names = layout.namesIn(id), start = 0, at = offset; start < names.length; at += BLOCK) {
        const {end, bytes} = namesInBlock(tree, names, start);
        const piece = pieces.reserve(at, bytes);
        writeDirents(piece.buffer, piece.at, tree, layout, id, names.subarray(start, end));
        start = end;
        if (pieces.done.length > 0) yield* pieces.take();
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
  buffer.writeUInt16LE(layout.inodes[ROOT]!, at + 14);
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

function putInode(pieces: Pieces, tree: Tree, layout: Layout, id: Id, indexBlocks: number, serial: number): void {
  const xattrBytes = tree.xattrBytes[id]!;
  const size = tree.size[id]!;
  const kind = tree.kind(id);
  const hasData = kind === S_IFDIR || kind === S_IFLNK;
  const external = layout.data.get(id);
  const isInline = hasData && external === undefined;
  const length = INODE_BYTES + xattrSize(xattrBytes) + (isInline ? size : 0);
  const {buffer, at} = pieces.reserve(layout.inodes[id]! * INODE_UNIT, length);
  buffer.writeUInt16LE(isInline ? FORMAT_INLINE : FORMAT_PLAIN, at);
  if (xattrBytes > 0) buffer.writeUInt16LE(xattrBytes / 4 + 1, at + 2);
  buffer.writeUInt16LE(tree.mode[id]!, at + INODE_FIELDS.mode);
  writeUint64(buffer, size, at + 8);
  let place = hasData ? (external ?? 0) / BLOCK : tree.place[id]!;
  if (kind === S_IFREG) place += indexBlocks;
  buffer.writeUInt32LE(place, at + 16);
  buffer.writeUInt32LE(serial, at + 20);
  buffer.writeUInt32LE(tree.uid[id]!, at + INODE_FIELDS.uid);
  buffer.writeUInt32LE(tree.gid[id]!, at + INODE_FIELDS.gid);
  writeUint64(buffer, tree.mtimeSec[id]!, at + INODE_FIELDS.mtimeSec);
  buffer.writeUInt32LE(tree.mtimeNs[id]!, at + INODE_FIELDS.mtimeNs);
  buffer.writeUInt32LE(tree.nlink[id]!, at + 44);
  const end = at + INODE_BYTES + xattrSize(xattrBytes);
  putText(buffer, end - xattrBytes, tree, tree.xattrs[id]!, xattrBytes);
  if (!isInline) return;
  if (kind === S_IFLNK) putText(buffer, end, tree, tree.place[id]!, size);
  else writeDirents(buffer, end, tree, layout, id, layout.namesIn(id));
}

function writeUint64(buffer: Buffer, value: number, at: number): void {
  buffer.writeUInt32LE(value % 2 ** 32, at);
  buffer.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
}

function putText(buffer: Buffer, at: number, {text}: Tree, start: number, length: number): void {
  for (let i = 0; i < length; i++) buffer[at + i] = text[start + i]!;
}

/** Entries, then their names. */
function writeDirents(buffer: Buffer, at: number, tree: Tree, layout: Layout, dir: Id, names: Uint32Array): void {
  let nameOffset = DIRENT_BYTES * names.length;
  for (let i = 0; i < names.length; i++) {
    const name = names[i]!;
    const id = name === SELF ? dir : name === PARENT ? tree.parentOf(dir) : tree.node[name]!;
    const entry = at + DIRENT_BYTES * i;
    writeUint64(buffer, layout.inodes[id]!, entry);
    buffer.writeUInt16LE(nameOffset, entry + 8);
    buffer.writeUInt8(FILE_TYPES.get(tree.kind(id))!, entry + 10);
    putText(buffer, at + nameOffset, tree, tree.nameStart[name]!, tree.nameLength[name]!);
    nameOffset += tree.nameLength[name]!;
  }
}
