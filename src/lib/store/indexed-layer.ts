/**
 * Layers as EROFS images: the layer's inflated tar is kept as it is, and a small index tells the kernel where in it each
 * file lies. Nothing is extracted, and no path of the image is ever created on this machine.
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

/** Names in a layer's directory: tar and index, */
export const EROFS_TAR = 'layer.tar';
export const EROFS_INDEX = 'layer.erofs';
/** or both in one file, the index first. */
export const EROFS_IMAGE = 'layer.img';

/**
 * What the kernel reads an indexed layer from: its two files, as Linux can from 6.12 on, or one file by way of a loop device,
 * which comes and goes with the mount.
 */
export type Backing = 'files' | 'loop';

/** An index, in pieces, whose length is a multiple of `alignment` bytes. */
export type MakeIndex = (alignment: number) => Iterable<Buffer>;

/** Writes the index beside `directory`'s tar, and for a loop device makes one file of the two, the index first. */
export function writeIndex(directory: string, backing: Backing, makeIndex: MakeIndex): void {
  const path = join(directory, EROFS_INDEX);
  let fd = -1;
  try {
    fd = openSync(path, 'wx+', 0o600);
    // In front of a tar in one file there is room for whole blocks of the filesystem only.
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

/** Bytes that replace others of an index. */
export interface IndexPatch {
  readonly offset: number;
  readonly bytes: Buffer;
}

/** Changes the index of a layer in the making. */
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

/** Of an index that is written here, in bytes: that of a tar. */
const BLOCK = 512;
/** Bytes written at a time: on some filesystems larger writes are slower. */
const MAX_WRITE = 128 << 10;
const SUPERBLOCK = 1024;

/** The kernel's names and sizes; see fs/erofs/erofs_fs.h. */
const MAGIC = 0xe0f5e1e2;
const DEVICE_SLOT = 128;
const UNIFIED_ADDRESS = 68;

interface Superblock {
  /** Size of a block, in bytes. */
  readonly block: number;
  /** Where in it the address of its first further device stands. */
  readonly slot: number;
  readonly inodes: number;
}

/** Of an image or index. @throws data_loss */
function readSuperblock(fd: number, what: string): Superblock {
  const bytes = Buffer.alloc(128);
  readSync(fd, bytes, 0, bytes.length, SUPERBLOCK);
  const block = 2 ** bytes.readUInt8(12);
  const slot = DEVICE_SLOT * bytes.readUInt16LE(88) + UNIFIED_ADDRESS;
  if (bytes.readUInt32LE(0) !== MAGIC || bytes.readUInt16LE(86) !== 1 || slot + 4 > fstatSync(fd).size)
    throw new ErrdefsError('data_loss', `${what} is not an EROFS image`);
  return {block, slot, inodes: Number(bytes.readBigUInt64LE(16))};
}

/** Bytes moved at a time. */
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
 * Makes one file of a tar and its index: the device that the index names need not be one of its own, it may follow in the same
 * file where the index ends (Linux 6.4). Nothing of the tar is written anew where the filesystem can make room before it.
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

/** @returns false where the filesystem, or this machine's fallocate, cannot: then the file is as it was */
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
  /** Where in the file it begins, in bytes. */
  readonly start: number;
  readonly backing: Backing;
}

/** @returns `undefined` for a layer that was extracted @throws data_loss an image does not say where its tar is */
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

/** The files of an indexed layer, and their sizes in bytes; none for a layer that was extracted. */
export function indexedFiles(directory: string): Readonly<Record<string, number>> {
  const sizes: Record<string, number> = {};
  for (const name of [EROFS_IMAGE, EROFS_INDEX, EROFS_TAR]) {
    const stat = lstatSync(join(directory, name), {throwIfNoEntry: false});
    if (stat !== undefined) sizes[name] = stat.size;
  }
  return sizes;
}

/**
 * What an indexed layer lacks, in a few words, as far as names and sizes tell.
 *
 * @param expected as `indexedFiles` when it was made; absent where that was not noted
 * @returns `undefined` when it lacks nothing; `extracted` for a layer that is not indexed
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

/** Puts a layer's tar into `directory`, which is made, as the tar of a layer that is to be indexed. */
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

/** The file of a layer that is the same for the same tar: its index, or the whole. */
export const indexFile = (directory: string): string | undefined =>
  [EROFS_IMAGE, EROFS_INDEX].map((name) => join(directory, name)).find((path) => existsSync(path));

/** Whether two indexes, or images, are the same. */
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

/** What an indexed layer takes, with the inodes that its superblock counts; `undefined` for a layer that was extracted. */
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
