/**
 * Looks up paths in a container's root without leaving it: opens each name relative to its directory's descriptor, and resolves
 * symbolic links itself, with `/` and `..` relative to that root. Creates nothing.
 */
import {Buffer} from 'node:buffer';
import {closeSync, constants, fstatSync, openSync, readlinkSync, readSync, type Stats} from 'node:fs';
import {ErrdefsError, fromErrno} from '../errdefs.ts';

const O_PATH = 0o10000000;
/** The kernel's limit for one path. */
const MAX_LINKS = 40;
const MAX_DEPTH = 256;

/**
 * The container's future mounts: its path, and the host path of a bind mount; `undefined` for mounts that only the container will
 * have, such as /proc.
 */
export type MountPoints = ReadonlyMap<string, string | undefined>;

const NO_MOUNTS: MountPoints = new Map();

/** A file or directory, after all symbolic links. */
export interface ResolvedFile {
  /** Path in the root, without symbolic links. */
  readonly path: string;
  readonly stats: Stats;
  /** The directories on the path. */
  readonly searched: readonly Stats[];
  /** At most `length` bytes from `position` on. @throws EINVAL not a regular file */
  read(position: number, length: number): Buffer;
}

/** Paths are latin1 strings, one character a byte: names in an image need not be UTF-8. */
const toBytes = (path: string): string => Buffer.from(path).toString('latin1');
const fromBytes = (path: string): string => Buffer.from(path, 'latin1').toString();
const names = (path: string): string[] => path.split('/').filter((name) => name !== '' && name !== '.');
const errno = (code: string, path: string): Error => Object.assign(new Error(`${code}: ${path}`), {code, path});
const open = (path: string, flags: number): number => openSync(Buffer.from(path, 'latin1'), flags);

/** @returns its target; `undefined` if the name is no symbolic link any more */
function readLink(path: string): string | undefined {
  try {
    return readlinkSync(Buffer.from(path, 'latin1'), {encoding: 'buffer'}).toString('latin1');
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EINVAL') throw err;
    return undefined;
  }
}

function read(fd: number, stats: Stats, path: string, position: number, length: number): Buffer {
  if (!stats.isFile()) throw errno('EINVAL', path);
  // Opening through the checked descriptor guarantees that it is the same file.
  const file = openSync(`/proc/self/fd/${fd}`, constants.O_RDONLY);
  try {
    const buffer = Buffer.alloc(Math.max(0, Math.min(length, stats.size - position)));
    let size = 0;
    for (let n = -1; n !== 0 && size < buffer.length; size += n) n = readSync(file, buffer, size, buffer.length - size, position + size);
    return buffer.subarray(0, size);
  } finally {
    closeSync(file);
  }
}

/** Where a path leads. Its descriptors are valid until `close`, whatever happens to the path. */
export interface Place {
  /** Path in the root, without symbolic links but for the last name of an unfollowed one. Binary string. */
  readonly path: string;
  /** Of the directory that has the name, or would have it; an O_PATH descriptor. */
  readonly directory: number;
  /** Binary string; `.` for the root and for a directory on which something is to be mounted. */
  readonly name: string;
  /** O_PATH descriptor of the file; absent where there is none. */
  readonly file?: number;
  readonly stats?: Stats;
  /** A file on which something is to be mounted: `directory` and `name` are those of what the mount hides. */
  readonly isHidden?: boolean;
  close(): void;
}

interface Step {
  readonly fd: number;
  readonly name: string;
  /** Reached through the host path of a mount. */
  readonly isMount?: boolean;
}

interface WalkOptions {
  readonly mounts?: MountPoints;
  /** Whether a symbolic link at the end is followed. Default true. */
  readonly follow?: boolean;
}

export class RootReader {
  readonly #root: number;

  /** @param directory the root; its own path is a host path, resolved as usual */
  constructor(directory: string) {
    this.#root = openSync(directory, O_PATH | constants.O_DIRECTORY);
  }

  close(): void {
    closeSync(this.#root);
  }

  /**
   * Resolves a path, with or without a leading `/`.
   *
   * @throws errors of the operating system (ENOENT, ENOTDIR, ELOOP, …); EXDEV the path crosses a mount whose content is not known yet
   */
  lookup<T>(path: string, use: (found: ResolvedFile) => T, mounts: MountPoints = NO_MOUNTS): T {
    return this.#walk(toBytes(path), {mounts}, (at, rest, fd, searched) => {
      if (rest !== undefined) throw rest;
      const stats = fstatSync(fd);
      return use({path: fromBytes(at), stats, searched, read: (position, length) => read(fd, stats, at, position, length)});
    });
  }

  /**
   * Calls `use` with a path at which other processes see the directory, too, while `use` runs.
   *
   * @returns `undefined` where there is no directory
   */
  withDirectory<T>(path: string, use: (path: string) => T): T | undefined {
    return this.#walk(toBytes(path), {}, (_, rest, fd) =>
      rest === undefined && fstatSync(fd).isDirectory() ? use(`/proc/${process.pid}/fd/${fd}`) : undefined,
    );
  }

  /** The path without symbolic links: where a mount on `path` would land. Names that do not exist are kept. */
  mountTarget(path: string, mounts: MountPoints = NO_MOUNTS): string {
    return this.#walk(toBytes(path), {mounts}, (at) => fromBytes(at));
  }

  /**
   * Opens a path, or the place where it would be.
   *
   * @param path binary string
   * @throws as `lookup`; ENOENT, ENOTDIR also where a directory on the way is missing
   */
  place(path: string, options: WalkOptions = {}): Place {
    return this.#walk(path, options, (at, rest, _fd, _searched, way) => {
      const last = way.at(-1);
      const isMissing = rest !== undefined && (rest as NodeJS.ErrnoException).code === 'ENOENT' && (way.at(-2)?.fd ?? this.#root) >= 0;
      if (rest !== undefined && !isMissing) throw rest;
      const opened: number[] = [];
      const again = (fd: number, flags = 0): number => {
        const copy = openSync(`/proc/self/fd/${fd}`, O_PATH | flags);
        opened.push(copy);
        return copy;
      };
      const close = (): void => {
        for (const fd of opened.splice(0)) closeSync(fd);
      };
      try {
        const stats = isMissing ? undefined : fstatSync(last?.fd ?? this.#root);
        const isOwnParent = last === undefined || (last.isMount === true && stats?.isDirectory() === true);
        const directory = again(isOwnParent ? (last?.fd ?? this.#root) : (way.at(-2)?.fd ?? this.#root), constants.O_DIRECTORY);
        const name = isOwnParent ? '.' : last.name;
        if (stats === undefined) return {path: at, directory, name, close};
        // A descriptor of a link cannot be opened once more.
        const isHidden = last?.isMount === true && !isOwnParent;
        if (!stats.isSymbolicLink()) return {path: at, directory, name, file: again(last?.fd ?? this.#root), stats, isHidden, close};
        const file = open(`/proc/self/fd/${directory}/${name}`, O_PATH | constants.O_NOFOLLOW);
        opened.push(file);
        return {path: at, directory, name, file, stats: fstatSync(file), close};
      } catch (err) {
        close();
        throw err;
      }
    });
  }

  /**
   * Reads a whole file of the image.
   *
   * @returns `undefined` if there is none
   * @throws failed_precondition not a regular file, or more than `limit` bytes
   */
  readFile(path: string, limit: number): string | undefined {
    const what = `${path} of the image`;
    try {
      return this.lookup(path, ({stats, read}) => {
        if (!stats.isFile()) throw new ErrdefsError('failed_precondition', `${what} is not a regular file`);
        if (stats.size > limit) throw new ErrdefsError('failed_precondition', `${what} exceeds ${limit} bytes`);
        return read(0, limit).toString();
      });
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw fromErrno(err, what);
    }
  }

  #walk<T>(
    path: string,
    {mounts = NO_MOUNTS, follow = true}: WalkOptions,
    use: (at: string, rest: Error | undefined, fd: number, searched: readonly Stats[], way: readonly Step[]) => T,
  ): T {
    const way: Step[] = [];
    const searched: Stats[] = [];
    const todo = names(path).reverse();
    let links = 0;
    let failure: Error | undefined;
    const up = (): void => {
      const last = way.pop();
      if (last !== undefined && last.fd >= 0) closeSync(last.fd);
    };
    try {
      for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
        if (name === '..') {
          up();
          continue;
        }
        if (way.length === MAX_DEPTH) throw errno('ENAMETOOLONG', path);
        if (failure !== undefined) {
          way.push({fd: -1, name});
          continue;
        }
        const at = `/${[...way.map((step) => step.name), name].join('/')}`;
        const mountPoint = fromBytes(at);
        const here = way.at(-1)?.fd ?? this.#root;
        const file = `/proc/self/fd/${here}/${name}`;
        searched.push(fstatSync(here));
        try {
          if (mounts.has(mountPoint)) {
            const source = mounts.get(mountPoint);
            if (source === undefined) throw errno('EXDEV', at);
            way.push({fd: openSync(source, O_PATH), name, isMount: true});
            continue;
          }
          const fd = open(file, O_PATH | constants.O_NOFOLLOW);
          way.push({fd, name});
          if (!fstatSync(fd).isSymbolicLink() || (!follow && todo.length === 0)) continue;
          up();
          if (++links > MAX_LINKS) throw errno('ELOOP', path);
          const target = readLink(file);
          if (target === undefined) {
            // Replaced since it was opened: what is there now is looked at.
            todo.push(name);
            continue;
          }
          if (target.startsWith('/')) while (way.length > 0) up();
          todo.push(...names(target).reverse());
        } catch (err) {
          // The runtime will create missing parents of mount points.
          const holds = [...mounts.keys()].some((point) => point.startsWith(`${mountPoint}/`));
          failure = holds && (err as NodeJS.ErrnoException).code === 'ENOENT' ? errno('EXDEV', at) : (err as Error);
          way.push({fd: -1, name});
        }
      }
      return use(`/${way.map((step) => step.name).join('/')}`, failure, way.at(-1)?.fd ?? this.#root, searched, way);
    } finally {
      while (way.length > 0) up();
    }
  }
}
