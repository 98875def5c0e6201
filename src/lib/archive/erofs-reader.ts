/** Looks up names in an EROFS index, of `erofs-index.ts` or mkfs.erofs, without a mount. Format: the kernel's fs/erofs/erofs_fs.h. */
import {closeSync, fstatSync, openSync, readSync} from 'node:fs';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import type {LowerEntry, LowerTree} from './lower-tree.ts';

const SUPERBLOCK = 1024;
const MAGIC = 0xe0f5e1e2;
/** Block sizes that the kernel mounts, as powers of two. */
const BLOCK_BITS: readonly number[] = [9, 10, 11, 12, 13, 14, 15, 16];
const INODE_UNIT = 32;
const DIRENT_BYTES = 12;
const XATTR_HEADER_BYTES = 12;
/** Data layouts of an inode. */
const PLAIN = 0;
const INLINE = 2;
const S_IFMT = 0o170000;
const S_IFCHR = 0o020000;
const S_IFDIR = 0o040000;
const PREFIXES: ReadonlyMap<number, string> = new Map([
  [1, 'user.'],
  [2, 'system.posix_acl_access'],
  [3, 'system.posix_acl_default'],
  [4, 'trusted.'],
  [6, 'security.'],
]);

/** Fields of an inode on disk. */
interface Inode {
  readonly offset: number;
  /** Bytes of the inode without extended attributes and inline data. */
  readonly length: number;
  readonly layout: number;
  readonly xattrBytes: number;
  readonly mode: number;
  readonly size: number;
  readonly blockOrDevice: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSec: number;
  readonly mtimeNs: number;
}

/**
 * @param path an index, or an index and its tar in one file
 * @throws data_loss it is not an index
 */
export function openErofs(path: string): LowerTree {
  const damaged = (problem: string): ErrdefsError => new ErrdefsError('data_loss', `${path} ${problem}`);
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (err) {
    throw fromErrno(err, path);
  }

  const fileSize = fstatSync(fd).size;
  /** Checks that a range lies in the file: offsets and sizes may be damaged. */
  const read = (offset: number, length: number): Buffer => {
    if (offset < 0 || offset + length > fileSize) throw damaged('ends too early');
    const bytes = Buffer.alloc(length);
    let done = 0;
    while (done < length) {
      const n = readSync(fd, bytes, done, length - done, offset + done);
      if (n === 0) throw damaged('is truncated');
      done += n;
    }
    return bytes;
  };

  const readInode = (offset: number): Inode => {
    const bytes = read(offset, 64);
    const format = bytes.readUInt16LE(0);
    const isExtended = (format & 1) === 1;
    const icount = bytes.readUInt16LE(2);
    const common = {
      offset,
      layout: (format >> 1) & 7,
      xattrBytes: icount === 0 ? 0 : XATTR_HEADER_BYTES + 4 * (icount - 1),
      mode: bytes.readUInt16LE(4),
      blockOrDevice: bytes.readUInt32LE(16),
    };
    if (!isExtended)
      return {
        ...common,
        length: 32,
        size: bytes.readUInt32LE(8),
        uid: bytes.readUInt16LE(24),
        gid: bytes.readUInt16LE(26),
        mtimeSec: buildTime,
        mtimeNs: buildTimeNs,
      };
    return {
      ...common,
      length: 64,
      size: Number(bytes.readBigUInt64LE(8)),
      uid: bytes.readUInt32LE(24),
      gid: bytes.readUInt32LE(28),
      mtimeSec: Number(bytes.readBigInt64LE(32)),
      mtimeNs: bytes.readUInt32LE(40),
    };
  };

  /** Block `n` of a directory's data. */
  const readBlock = (inode: Inode, n: number): Buffer => {
    const start = n * block;
    const length = Math.min(block, inode.size - start);
    const isTail = inode.layout === INLINE && start === Math.floor((inode.size - 1) / block) * block;
    if (inode.layout !== PLAIN && inode.layout !== INLINE) throw damaged('has a directory of an unknown layout');
    return read(isTail ? inode.offset + inode.length + inode.xattrBytes : inode.blockOrDevice * block + start, length);
  };

  /** Finds a name in a directory. Blocks, and names in each block, are sorted by their bytes. */
  const findEntry = (dir: Inode, name: Buffer): Inode | undefined => {
    if (dir.size > fileSize) throw damaged('has a directory of an impossible size');
    let [low, high] = [0, Math.ceil(dir.size / block) - 1];
    while (low <= high) {
      const middle = Math.floor((low + high) / 2);
      const bytes = readBlock(dir, middle);
      const count = bytes.readUInt16LE(8) / DIRENT_BYTES;
      const nameAt = (i: number): Buffer => {
        const end = i + 1 < count ? bytes.readUInt16LE(DIRENT_BYTES * (i + 1) + 8) : bytes.length;
        const field = bytes.subarray(bytes.readUInt16LE(DIRENT_BYTES * i + 8), end);
        const zero = i + 1 < count ? -1 : field.indexOf(0);
        return zero < 0 ? field : field.subarray(0, zero);
      };
      if (!Number.isInteger(count) || count < 1) throw damaged('has a damaged directory');
      if (Buffer.compare(name, nameAt(0)) < 0) high = middle - 1;
      else if (Buffer.compare(name, nameAt(count - 1)) > 0) low = middle + 1;
      else {
        for (let i = 0; i < count; i++)
          if (name.equals(nameAt(i))) return readInode(Number(bytes.readBigUInt64LE(DIRENT_BYTES * i)) * INODE_UNIT + metadataStart);
        return undefined;
      }
    }
    return undefined;
  };

  /** @returns offset of the next attribute */
  const readXattr = (bytes: Buffer, at: number, xattrs: Map<string, Buffer>): number => {
    const [nameLength, prefix, size] = [bytes.readUInt8(at), bytes.readUInt8(at + 1), bytes.readUInt16LE(at + 2)];
    const value = at + 4 + nameLength;
    xattrs.set((PREFIXES.get(prefix) ?? '') + bytes.toString('latin1', at + 4, value), bytes.subarray(value, value + size));
    return (value + size + 3) & ~3;
  };

  const readXattrs = ({offset, length, xattrBytes}: Inode): ReadonlyMap<string, Buffer> => {
    const xattrs = new Map<string, Buffer>();
    if (xattrBytes === 0) return xattrs;
    const bytes = read(offset + length, xattrBytes);
    const shared = bytes.readUInt8(4);
    for (let i = 0; i < shared; i++) {
      // mkfs.erofs stores attributes that several inodes share once.
      const at = sharedXattrs + 4 * bytes.readUInt32LE(XATTR_HEADER_BYTES + 4 * i);
      const head = read(at, 4);
      readXattr(read(at, head.length + head.readUInt8(0) + head.readUInt16LE(2)), 0, xattrs);
    }
    for (let at = XATTR_HEADER_BYTES + 4 * shared; at + 4 <= bytes.length; ) at = readXattr(bytes, at, xattrs);
    return xattrs;
  };

  const superblock = (): Buffer => {
    try {
      const bytes = read(SUPERBLOCK, 128);
      if (bytes.readUInt32LE(0) !== MAGIC || !BLOCK_BITS.includes(bytes.readUInt8(12))) throw damaged('is not an EROFS image');
      return bytes;
    } catch (err) {
      closeSync(fd);
      throw fromErrno(err, path);
    }
  };
  const header = superblock();
  const block = 2 ** header.readUInt8(12);
  const metadataStart = header.readUInt32LE(40) * block;
  const sharedXattrs = header.readUInt32LE(44) * block;
  const buildTime = Number(header.readBigUInt64LE(24));
  const buildTimeNs = header.readUInt32LE(32);
  const root = header.readUInt16LE(14) * INODE_UNIT + metadataStart;

  return {
    lookup(names): LowerEntry | undefined {
      try {
        let inode: Inode | undefined = readInode(root);
        for (const name of names) {
          if ((inode.mode & S_IFMT) !== S_IFDIR) return undefined;
          inode = findEntry(inode, Buffer.from(name, 'latin1'));
          if (inode === undefined) return undefined;
        }
        const {mode, uid, gid, mtimeSec, mtimeNs, blockOrDevice} = inode;
        if ((mode & S_IFMT) !== S_IFDIR) return {kind: (mode & S_IFMT) === S_IFCHR && blockOrDevice === 0 ? 'whiteout' : 'other'};
        return {kind: 'directory', attributes: {mode: mode & 0o7777, uid, gid, mtimeSec, mtimeNs}, xattrs: readXattrs(inode)};
      } catch (err) {
        if (err instanceof RangeError) throw damaged('has a damaged inode');
        throw fromErrno(err, path);
      }
    },
    close: () => closeSync(fd),
  };
}
