/**
 * Reads a tree that others may change meanwhile, as the entries of a tar. Every file is opened by its name in its directory's descriptor,
 * without following links, so nothing outside of the tree is ever read.
 */
import {closeSync, constants, fstatSync, openSync, readdirSync, readlinkSync, readSync, statfsSync} from 'node:fs';
import {ErrdefsError} from '../errdefs.ts';
import {inodeOf} from './find-tree-changes.ts';
import {attributesOf, fsPath} from './overlay-view.ts';
import {displayName, type TarHeader} from './tar.ts';

const O_PATH = 0o10000000;
const CHUNK_BYTES = 256 << 10;

/** Filesystems that show the kernel's state, from linux/magic.h: proc, sysfs, cgroup, cgroup2, devpts, mqueue, debugfs, tracefs, securityfs. */
const KERNEL_FILESYSTEMS: readonly number[] = [
  0x9fa0, 0x62656572, 0x27e0eb, 0x63677270, 0x1cd1, 0x19800202, 0x64626720, 0x74726163, 0x73636673,
];

export interface TreeEntry {
  readonly header: TarHeader;
  /** Of a regular file; `header.size` bytes. To be read before the next entry. A chunk is valid until the next one. */
  readonly content: Iterable<Buffer>;
}

/**
 * A file, or a directory with all in it, sorted by name. Sockets are left out, and what is in mounted filesystems of the kernel.
 *
 * @param file an O_PATH descriptor of it, which stays open
 * @param link where it is a symbolic link: its path
 * @param name of the first entry; binary string
 * @throws aborted a file became shorter while it was read
 */
export function* readEntries(file: number, link: string, name: string): Generator<TreeEntry> {
  yield* new TreeReader().read(file, link, name, undefined);
}

class TreeReader {
  /** First names of files with several. */
  readonly #names = new Map<string, string>();

  *read(file: number, path: string, name: string, parentDevice: bigint | undefined): Generator<TreeEntry> {
    const stat = fstatSync(file, {bigint: true});
    const common = {...EMPTY, ...attributesOf(stat), xattrs: NO_XATTRS, name};
    if (stat.isDirectory()) {
      yield {header: {...common, type: 'directory'}, content: []};
      if (parentDevice !== stat.dev && parentDevice !== undefined && isOfKernel(file)) return;
      yield* this.#readDirectory(file, name, stat.dev);
      return;
    }
    const id = inodeOf(stat);
    const first = this.#names.get(id);
    if (first !== undefined) {
      yield {header: {...common, type: 'link', linkname: first}, content: []};
      return;
    }
    if (stat.nlink > 1n && !stat.isSocket()) this.#names.set(id, name);
    if (stat.isSymbolicLink())
      yield {header: {...common, type: 'symlink', linkname: readlinkSync(fsPath(path), {encoding: 'latin1'})}, content: []};
    else if (stat.isFile()) {
      const size = Number(stat.size);
      yield {header: {...common, type: 'file', size}, content: readContent(file, size, name)};
    } else if (stat.isFIFO()) yield {header: {...common, type: 'fifo'}, content: []};
    else if (!stat.isSocket()) {
      const type = stat.isCharacterDevice() ? 'char' : 'block';
      yield {header: {...common, type, ...deviceNumbers(stat.rdev)}, content: []};
    }
  }

  *#readDirectory(file: number, name: string, device: bigint): Generator<TreeEntry> {
    const directory = openSync(`/proc/self/fd/${file}`, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      for (const child of readdirSync(`/proc/self/fd/${directory}`, {encoding: 'latin1'}).sort()) {
        const path = `/proc/self/fd/${directory}/${child}`;
        let opened: number;
        try {
          opened = openSync(fsPath(path), O_PATH | constants.O_NOFOLLOW);
        } catch (err) {
          if ((err as NodeJS.ErrnoException).code === 'ENOENT') continue; // it has vanished
          throw err;
        }
        try {
          yield* this.read(opened, path, name === '' ? child : `${name}/${child}`, device);
        } finally {
          closeSync(opened);
        }
      }
    } finally {
      closeSync(directory);
    }
  }
}

const NO_XATTRS: ReadonlyMap<string, Buffer> = new Map();
const EMPTY = {linkname: '', size: 0, devmajor: 0, devminor: 0, quirks: []} as const;

const isOfKernel = (file: number): boolean => KERNEL_FILESYSTEMS.includes(statfsSync(`/proc/self/fd/${file}/.`).type >>> 0);

/** As glibc's gnu_dev_major and gnu_dev_minor. */
const deviceNumbers = (rdev: bigint): {readonly devmajor: number; readonly devminor: number} => ({
  devmajor: Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn)),
  devminor: Number((rdev & 0xffn) | ((rdev >> 12n) & ~0xffn)),
});

function* readContent(file: number, size: number, name: string): Generator<Buffer> {
  if (size === 0) return;
  const fd = openSync(`/proc/self/fd/${file}`, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const buffer = Buffer.allocUnsafe(Math.min(size, CHUNK_BYTES));
    for (let left = size; left > 0; ) {
      const length = readSync(fd, buffer, 0, Math.min(left, buffer.length), null);
      if (length === 0) throw new ErrdefsError('aborted', `${displayName(name)} became shorter while it was read`, {hint: 'run it again'});
      left -= length;
      yield buffer.subarray(0, length);
    }
  } finally {
    closeSync(fd);
  }
}
