/**
 * Writes entries of a tar to a tree that others may change meanwhile. Every file is made by its name in its directory's descriptor, without
 * following links; how a directory is found is the caller's matter.
 *
 * A file appears whole: it is written beside its name, and takes the place of what is there. A directory does not take the place of another
 * file, nor the other way round.
 */
import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  ftruncateSync,
  futimesSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  renameSync,
  type Stats,
  symlinkSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {uniqueName} from '../fs/process.ts';
import {runSync} from '../fs/spawn.ts';
import {fsPath} from './overlay-view.ts';
import {displayName, type TarHandler, type TarHeader} from './tar.ts';

const MAX_DEPTH = 255;

export interface TreeWriterOptions {
  /**
   * Opens a directory of the tree.
   *
   * @param path binary string, relative; empty for the tree itself
   * @returns an O_PATH descriptor, which the writer closes @throws ENOENT it is missing
   */
  open(path: string): number;
  /** Owner of all files. Absent: as in the entries, with set-ID bits, device nodes, and the attributes of directories that exist. */
  readonly owner?: Owner | undefined;
  /** What the tree's owners are for this process, where that differs. */
  readonly mapOwner?: ((owner: Owner) => Owner) | undefined;
  /** Called before anything is written, with the most bytes that it takes of the disk; may throw. */
  readonly admit?: ((bytes: number) => void) | undefined;
}

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** Of a filesystem; the name of a file takes no more of its directory. */
const BLOCK = 4096;

/** The most bytes of the disk that an entry takes besides its contents: an inode's attributes, its name, and an overlay's copy of a directory. */
const ENTRY_BYTES = 2 * BLOCK;

const inBlocks = (bytes: number): number => Math.ceil(bytes / BLOCK) * BLOCK;

/** A directory that was made, or gets other attributes. */
interface MadeDirectory {
  readonly path: string;
  readonly inode: string;
  readonly header: TarHeader;
}

const at = (directory: number, name: string): string | Buffer => fsPath(`/proc/self/fd/${directory}/${name}`);
const inodeOf = ({dev, ino}: Stats): string => `${dev}:${ino}`;
const splitPath = (path: string): readonly [parent: string, name: string] => {
  const slash = path.lastIndexOf('/');
  return [path.slice(0, Math.max(slash, 0)), path.slice(slash + 1)];
};

export class TreeWriter implements TarHandler {
  readonly #options: TreeWriterOptions;
  readonly #made: MadeDirectory[] = [];
  #parent: {readonly path: string; readonly fd: number} | undefined;
  #open: {readonly fd: number; readonly temporary: string; readonly header: TarHeader; position: number; region: number} | undefined;
  /** Files other than directories, and their bytes. */
  readonly written = {files: 0, bytes: 0};

  constructor(options: TreeWriterOptions) {
    this.#options = options;
  }

  /**
   * @throws failed_precondition a directory would replace another file, or another file a directory; a device node without its owner
   * @throws invalid_argument the name leads out of the tree
   */
  entry(header: TarHeader): void {
    if (header.type === 'global') return;
    const path = pathOf(header.name);
    if (path === '') return;
    try {
      this.#enter(path, header);
    } catch (err) {
      throw fromErrno(err, displayName(path));
    }
  }

  data(chunk: Buffer): void {
    const file = this.#open;
    if (file === undefined) return;
    const {sparse} = file.header;
    try {
      for (let rest = chunk; rest.length > 0; ) {
        const region = sparse?.[file.region];
        const room = region === undefined ? rest.length : region.offset + region.size - file.position;
        if (region !== undefined && room === 0) {
          file.position = sparse![++file.region]?.offset ?? file.position;
          continue;
        }
        const length = writeSync(file.fd, rest, 0, Math.min(rest.length, room), file.position);
        file.position += length;
        rest = rest.subarray(length);
      }
    } catch (err) {
      throw fromErrno(err, displayName(file.header.name));
    }
    this.written.bytes += chunk.length;
  }

  entryEnd(): void {
    const file = this.#open;
    if (file === undefined) return;
    const {fd, header, temporary} = file;
    try {
      if (header.sparse !== undefined) ftruncateSync(fd, header.size);
      this.#setAttributes(fd, header);
      this.#open = undefined;
      closeSync(fd);
      this.#place(temporary, splitPath(pathOf(header.name))[1]);
    } catch (err) {
      throw fromErrno(err, displayName(header.name));
    }
  }

  /** Gives directories their attributes. */
  finish(): void {
    for (const {path, inode, header} of this.#made.splice(0).reverse()) {
      try {
        const found = this.#options.open(path);
        try {
          const fd = openSync(`/proc/self/fd/${found}`, constants.O_RDONLY | constants.O_DIRECTORY);
          try {
            if (inodeOf(fstatSync(fd)) === inode) this.#setAttributes(fd, header);
          } finally {
            closeSync(fd);
          }
        } finally {
          closeSync(found);
        }
      } catch (err) {
        if (!['ENOENT', 'ENOTDIR', 'ELOOP'].includes((err as NodeJS.ErrnoException).code ?? '')) throw fromErrno(err, displayName(path));
      }
    }
  }

  /** Removes the file that is not whole. */
  close(): void {
    const [file, parent] = [this.#open, this.#parent];
    this.#open = undefined;
    this.#parent = undefined;
    if (file !== undefined) closeSync(file.fd);
    if (parent === undefined) return;
    if (file !== undefined) unlinkIfPresent(at(parent.fd, file.temporary));
    closeSync(parent.fd);
  }

  #enter(path: string, header: TarHeader): void {
    const [parent, name] = splitPath(path);
    const directory = this.#directory(parent);
    const existing = lstatSync(at(directory, name), {throwIfNoEntry: false});
    this.#options.admit?.(ENTRY_BYTES + (header.type === 'file' ? inBlocks(contentBytes(header)) : 0));
    if (header.type === 'directory') {
      if (existing !== undefined && !existing.isDirectory())
        throw new ErrdefsError('failed_precondition', `${displayName(path)}: a directory cannot replace another file`);
      if (existing === undefined) mkdirSync(at(directory, name), {mode: 0o700});
      if (existing !== undefined && this.#options.owner !== undefined) return;
      const fd = openSync(at(directory, name), constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
      try {
        this.#made.push({path, inode: inodeOf(fstatSync(fd)), header});
      } finally {
        closeSync(fd);
      }
      return;
    }
    if (existing?.isDirectory() === true)
      throw new ErrdefsError('failed_precondition', `${displayName(path)} is a directory, which another file cannot replace`);
    const temporary = `.${uniqueName()}`;
    this.written.files++;
    if (header.type === 'file') {
      const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
      this.#open = {
        fd: openSync(at(directory, temporary), flags, 0o600),
        temporary,
        header,
        position: header.sparse?.[0]?.offset ?? 0,
        region: 0,
      };
      return;
    }
    try {
      this.#make(directory, temporary, path, header);
      this.#place(temporary, name);
    } finally {
      // Of two names of one file rename(2) keeps both.
      unlinkIfPresent(at(directory, temporary));
    }
  }

  /** Makes a link or a special file. */
  #make(directory: number, name: string, path: string, header: TarHeader): void {
    const made = at(directory, name);
    if (header.type === 'link') {
      const [parent, target] = splitPath(pathOf(header.linkname));
      const from = this.#options.open(parent);
      try {
        // An overlay copies what it links to.
        this.#options.admit?.(inBlocks(lstatSync(at(from, target), {throwIfNoEntry: false})?.size ?? 0));
        linkSync(at(from, target), made);
      } finally {
        closeSync(from);
      }
      return;
    }
    const {uid, gid} = this.#ownerOf(header);
    if (header.type === 'symlink') {
      symlinkSync(fsPath(header.linkname), made);
      lchownSync(made, uid, gid);
      lutimesSync(made, timeOf(header), timeOf(header));
      return;
    }
    if (header.type !== 'fifo' && this.#options.owner !== undefined)
      throw new ErrdefsError('failed_precondition', `${displayName(path)} is a device node`, {hint: 'copy it with its owner: --archive'});
    const kind = {char: ['c'], block: ['b'], fifo: ['p']}[header.type as 'char' | 'block' | 'fifo'];
    const numbers = header.type === 'fifo' ? [] : [String(header.devmajor), String(header.devminor)];
    const {status, stderr} = runSync('mknod', ['-m', '600', `./${name}`, ...kind, ...numbers], {
      package: 'coreutils',
      cwd: `/proc/${process.pid}/fd/${directory}`,
    });
    if (status !== 0) throw new ErrdefsError('permission_denied', `${displayName(path)}: ${stderr.trim()}`);
    // Through a descriptor, because chmod(2) follows links.
    const fd = openSync(made, O_PATH | constants.O_NOFOLLOW);
    try {
      lchownSync(made, uid, gid);
      chmodSync(`/proc/self/fd/${fd}`, this.#modeOf(header));
      lutimesSync(made, timeOf(header), timeOf(header));
    } finally {
      closeSync(fd);
    }
  }

  /** The name that a file was written under becomes its own. */
  #place(temporary: string, name: string): void {
    const {fd} = this.#parent!;
    try {
      renameSync(at(fd, temporary), at(fd, name));
    } catch (err) {
      unlinkIfPresent(at(fd, temporary));
      throw err;
    }
  }

  /** A directory of the tree, made with those above it where it is missing; open until the next call. */
  #directory(path: string): number {
    if (this.#parent?.path === path) return this.#parent.fd;
    const fd = this.#openOrMake(path);
    if (this.#parent !== undefined) closeSync(this.#parent.fd);
    this.#parent = {path, fd};
    return fd;
  }

  #openOrMake(path: string): number {
    try {
      return this.#options.open(path);
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'ENOENT' || path === '') throw err;
    }
    const [parent, name] = splitPath(path);
    const above = this.#openOrMake(parent);
    try {
      this.#options.admit?.(ENTRY_BYTES);
      mkdirSync(at(above, name), {mode: 0o755});
      const {uid, gid} = this.#ownerOf({uid: process.geteuid!(), gid: process.getegid!()});
      lchownSync(at(above, name), uid, gid);
    } finally {
      closeSync(above);
    }
    return this.#options.open(path);
  }

  #ownerOf(own: Owner): Owner {
    const {owner = own, mapOwner = (one) => one} = this.#options;
    return mapOwner(owner);
  }

  #modeOf({mode, type}: TarHeader): number {
    if (this.#options.owner === undefined) return mode;
    return mode & (type === 'directory' ? 0o1777 : 0o777);
  }

  #setAttributes(fd: number, header: TarHeader): void {
    const {uid, gid} = this.#ownerOf(header);
    fchownSync(fd, uid, gid);
    fchmodSync(fd, this.#modeOf(header));
    futimesSync(fd, timeOf(header), timeOf(header));
  }
}

const O_PATH = 0o10000000;

/** Bytes of a file's contents; of a sparse one, those of its regions, each in blocks of its own. */
const contentBytes = ({size, sparse}: TarHeader): number =>
  sparse === undefined ? size : sparse.reduce((sum, region) => sum + inBlocks(region.size) + BLOCK, 0);

/** To a microsecond. Node takes a negative number for the present. */
const timeOf = ({mtimeSec, mtimeNs}: TarHeader): number | Date =>
  mtimeSec < 0 ? new Date(mtimeSec * 1000 + mtimeNs / 1e6) : mtimeSec + mtimeNs / 1e9;

function unlinkIfPresent(path: string | Buffer): void {
  try {
    unlinkSync(path);
  } catch {
    // There is none; or an earlier error says more.
  }
}

/** The path of an entry's name, without what means nothing. @throws invalid_argument it leads out of the tree */
function pathOf(name: string): string {
  const names = name.split('/').filter((one) => one !== '' && one !== '.');
  if (names.includes('..') || names.length > MAX_DEPTH)
    throw new ErrdefsError('invalid_argument', `the archive has the name ${displayName(name)}`, {
      hint: 'make it without names that lead out',
    });
  return names.join('/');
}

/** Opens a directory below another one, following no links. @param path binary string @returns an O_PATH descriptor of the caller's */
export function openBelow(directory: number, path: string): number {
  let fd = openSync(`/proc/self/fd/${directory}/.`, O_PATH | constants.O_DIRECTORY);
  for (const name of path.split('/')) {
    if (name === '') continue;
    try {
      const next = openSync(at(fd, name), O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW);
      closeSync(fd);
      fd = next;
    } catch (err) {
      closeSync(fd);
      throw err;
    }
  }
  return fd;
}
