/**
 * Indexed layers: the layer's inflated tar stays as it is, and a small EROFS index tells the kernel where each file lies in it. Nothing is
 * extracted, so no path of the image is ever created on this machine.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, hasCode} from '../errdefs.ts';
import {runSync} from '../fs/spawn.ts';
import type {TreeUsage} from './disk-usage.ts';

/** Files in the layer's directory: a tar and its index, */
export const EROFS_TAR = 'layer.tar';
export const EROFS_INDEX = 'layer.erofs';
/** or one file, the index first. */
export const EROFS_IMAGE = 'layer.img';

/**
 * How the kernel reads an indexed layer: from the two files (Linux 6.12 and later), or from one joined file on a loop device that lives as
 * long as the mount.
 */
export type Backing = 'files' | 'loop';

/** Makes an index in pieces; its total length is a multiple of `alignment` bytes. */
export type MakeIndex = (alignment: number) => Iterable<Buffer>;

/** Writes the index of the tar in `directory`. For a loop device, joins both to one file, the index first. */
export function writeIndex(directory: string, backing: Backing, makeIndex: MakeIndex): void {
  const path = join(directory, EROFS_INDEX);
  let fd = -1;
  try {
    fd = openSync(path, 'wx+', 0o600);
    // The filesystem can insert only whole blocks before the tar.
    const alignment = backing === 'loop' ? Math.max(statfsSync(directory).bsize, BLOCK) : BLOCK;
    let size = 0;
    for (const piece of makeIndex(alignment)) {
      writeAllAt(fd, piece, size);
      size += piece.length;
    }
    if (backing === 'loop') joinFiles(directory, fd);
  } catch (err) {
    throw fromErrno(err, path);
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}

/** Replacement for bytes of an index. */
export interface IndexPatch {
  readonly offset: number;
  readonly bytes: Buffer;
}

/** Patches the index of an unpublished layer. */
export function patchIndex(directory: string, patches: readonly IndexPatch[]): void {
  const path = indexFile(directory)!;
  try {
    const fd = openSync(path, 'r+');
    try {
      for (const {offset, bytes} of patches) writeAllAt(fd, bytes, offset);
    } finally {
      closeSync(fd);
    }
  } catch (err) {
    throw fromErrno(err, path);
  }
}

function writeAllAt(fd: number, bytes: Buffer, at: number): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, Math.min(bytes.length - done, MAX_WRITE), at + done);
}

/** Block size of our indexes in bytes; it is that of a tar. */
const BLOCK = 512;
/** Largest write in bytes; larger ones are slower on some filesystems. */
const MAX_WRITE = 128 << 10;
const SUPERBLOCK = 1024;

/** Constants from Linux, fs/erofs/erofs_fs.h. */
const MAGIC = 0xe0f5e1e2;
const DEVICE_SLOT = 128;
const UNIFIED_ADDRESS = 68;

interface Superblock {
  /** Block size in bytes. */
  readonly block: number;
  /** Offset of the first device's unified address. */
  readonly slot: number;
  readonly inodes: number;
}

/** @throws data_loss the file is not an EROFS image or index */
function readSuperblock(fd: number, what: string): Superblock {
  const bytes = Buffer.alloc(128);
  readSync(fd, bytes, 0, bytes.length, SUPERBLOCK);
  const block = 2 ** bytes.readUInt8(12);
  const slot = DEVICE_SLOT * bytes.readUInt16LE(88) + UNIFIED_ADDRESS;
  if (bytes.readUInt32LE(0) !== MAGIC || bytes.readUInt16LE(86) !== 1 || slot + 4 > fstatSync(fd).size)
    throw new ErrdefsError('data_loss', `${what} is not an EROFS image`);
  return {block, slot, inodes: Number(bytes.readBigUInt64LE(16))};
}

/** Buffer size for copies, in bytes. */
const CHUNK = 1 << 20;

function copyBytes(from: number, start: number, to: number, at: number): void {
  const buffer = Buffer.allocUnsafe(CHUNK);
  for (let done = 0, n = 0; ; done += n) {
    n = readSync(from, buffer, 0, CHUNK, start + done);
    if (n === 0) return;
    writeAllAt(to, buffer.subarray(0, n), at + done);
  }
}

/**
 * Joins a tar and its index to one file. The device that the index names may follow in the same file (Linux 6.4). Where the filesystem can
 * insert a range, the tar is not copied.
 */
function joinFiles(directory: string, index: number): void {
  const [tar, image] = [EROFS_TAR, EROFS_IMAGE].map((name) => join(directory, name)) as [string, string];
  const start = fstatSync(index).size;
  const isInserted = insertRange(tar, start);
  const joined = openSync(isInserted ? tar : image, isInserted ? 'r+' : 'wx+', 0o600);
  try {
    if (!isInserted) copyFile(tar, joined, start);
    copyBytes(index, 0, joined, 0);
  } finally {
    closeSync(joined);
  }
  if (isInserted) renameSync(tar, image);
  else rmSync(tar);
  rmSync(join(directory, EROFS_INDEX));
}

/**
 * Inserts `length` bytes at the beginning of a file. @returns false when the filesystem or `fallocate` does not support it; the file is
 * unchanged
 */
function insertRange(path: string, length: number): boolean {
  try {
    return runSync('fallocate', ['--insert-range', '--length', String(length), path], {package: 'util-linux'}).status === 0;
  } catch (err) {
    if (hasCode(err, 'unavailable')) return false;
    throw err;
  }
}

function copyFile(from: string, to: number, at: number): void {
  const fd = openSync(from, 'r');
  try {
    copyBytes(fd, 0, to, at);
  } finally {
    closeSync(fd);
  }
}

/** The tar of an indexed layer. */
export interface IndexedTar {
  readonly path: string;
  /** Offset of the tar in the file, in bytes. */
  readonly start: number;
  readonly backing: Backing;
}

/** @returns `undefined` for an extracted layer @throws data_loss the image does not say where its tar is */
export function findTar(directory: string): IndexedTar | undefined {
  const [tar, image] = [EROFS_TAR, EROFS_IMAGE].map((name) => join(directory, name)) as [string, string];
  if (existsSync(tar)) return {path: tar, start: 0, backing: 'files'};
  if (!existsSync(image)) return undefined;
  const fd = openSync(image, 'r');
  try {
    const {block, slot} = readSuperblock(fd, image);
    const address = Buffer.alloc(4);
    readSync(fd, address, 0, address.length, slot);
    const start = address.readUInt32LE() * block;
    if (start > fstatSync(fd).size) throw new ErrdefsError('data_loss', `${image} ends before its tar`);
    return {path: image, start, backing: 'loop'};
  } finally {
    closeSync(fd);
  }
}

/** File sizes of an indexed layer in bytes; empty for an extracted layer. */
export function indexedFiles(directory: string): Readonly<Record<string, number>> {
  const sizes: Record<string, number> = {};
  for (const name of [EROFS_IMAGE, EROFS_INDEX, EROFS_TAR]) {
    const stat = lstatSync(join(directory, name), {throwIfNoEntry: false});
    if (stat !== undefined) sizes[name] = stat.size;
  }
  return sizes;
}

/**
 * Why an indexed layer is unusable, judged by file names, types and sizes.
 *
 * @param expected `indexedFiles` of the new layer; undefined when it was not recorded
 * @returns undefined when nothing is wrong; `extracted` for a layer that is not indexed
 */
export function indexedDefect(directory: string, expected: Readonly<Record<string, number>> | undefined): string | undefined {
  const found = indexedFiles(directory);
  const names = Object.keys(expected ?? found);
  if (names.length === 0) return 'extracted';
  const wanted = names.includes(EROFS_IMAGE) ? [EROFS_IMAGE] : [EROFS_INDEX, EROFS_TAR];
  for (const name of wanted) {
    if (found[name] === undefined) return `lacks ${name}`;
    if (!lstatSync(join(directory, name)).isFile()) return `${name} is not a file`;
    if (expected !== undefined && found[name] !== expected[name]) return `${name} has ${found[name]} B instead of ${expected[name]} B`;
    closeSync(openSync(join(directory, name), 'r'));
  }
  return undefined;
}

/** Creates `directory` with a layer's tar in it, so that the layer can be indexed again. */
export function linkOrCopyTar({path, start, backing}: IndexedTar, directory: string): void {
  mkdirSync(directory, {recursive: true});
  const tar = join(directory, EROFS_TAR);
  if (backing === 'files') {
    linkSync(path, tar);
    return;
  }
  const [from, to] = [openSync(path, 'r'), openSync(tar, 'wx', 0o600)];
  try {
    copyBytes(from, start, to, 0);
  } finally {
    for (const fd of [from, to]) closeSync(fd);
  }
}

/** The file that equal tars have in common: the index, or the joined image. */
export const indexFile = (directory: string): string | undefined =>
  [EROFS_IMAGE, EROFS_INDEX].map((name) => join(directory, name)).find((path) => existsSync(path));

export function isSameIndex(one: string, other: string): boolean {
  const fds = [one, other].map((path) => openSync(path, 'r')) as [number, number];
  const buffers = [Buffer.alloc(1 << 18), Buffer.alloc(1 << 18)] as const;
  try {
    for (let at = 0; ; ) {
      const [a, b] = buffers.map((buffer, i) => buffer.subarray(0, readSync(fds[i]!, buffer, 0, buffer.length, at))) as [Buffer, Buffer];
      if (!a.equals(b)) return false;
      if (a.length === 0) return true;
      at += a.length;
    }
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

/** Disk usage of an indexed layer; the inodes are those of its superblock. @returns `undefined` for an extracted layer */
export function indexedUsage(directory: string): TreeUsage | undefined {
  const path = indexFile(directory);
  if (path === undefined) return undefined;
  const tar = path.endsWith(EROFS_IMAGE) ? 0 : statSync(join(directory, EROFS_TAR)).blocks;
  const fd = openSync(path, 'r');
  try {
    return {size: 512 * (fstatSync(fd).blocks + tar), inodes: readSuperblock(fd, path).inodes};
  } finally {
    closeSync(fd);
  }
}
