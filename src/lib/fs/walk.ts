/** Walks trees of any depth. A system call takes 4095 bytes of path, but openat(2) can create deeper trees. */
import {closeSync, constants, lstatSync, openSync, readdirSync, type Stats} from 'node:fs';

/** Bytes of a path from which on names are reached through an open directory; a name has up to 255. */
const LONG = 1500;
/** Whether what is below a path is reached through an open directory. */
export const isLong = (path: Buffer): boolean => path.length >= LONG;

const OPEN = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** A directory with a path that is short enough for every call and program. */
export class Directory {
  /** Valid until `close`. */
  readonly path: Buffer;
  readonly #fd: number;

  /** @param path of at most 1500 bytes */
  constructor(path: string | Buffer, fd = -1) {
    this.path = Buffer.from(path as string);
    this.#fd = fd;
  }

  /** Path of a name in it. */
  at(name: string | Buffer): Buffer {
    return Buffer.concat([this.path, SLASH, Buffer.from(name as string)]);
  }

  /** A directory in it. @throws ENOTDIR it is another file, or a link */
  enter(name: string | Buffer): Directory {
    const path = this.at(name);
    if (!isLong(path)) return new Directory(path);
    const fd = openSync(path, OPEN);
    return new Directory(`/proc/${process.pid}/fd/${fd}/.`, fd);
  }

  /** Its own descriptor is open: its path is not where it lies. */
  get isOpen(): boolean {
    return this.#fd >= 0;
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
  }
}

const SLASH = Buffer.from('/');

/**
 * Visits a file, or a directory with all in it, parents first, following no links. Names that vanish meanwhile are passed over,
 * but for the root.
 *
 * @param visit gets a path that is good during the call; false keeps it out of a directory
 * @throws the operating system's errors
 */
export function walk(root: string | Buffer, visit: (stat: Stats, path: Buffer) => unknown): void {
  const stat = lstatSync(root);
  if (visit(stat, Buffer.from(root as string)) === false || !stat.isDirectory()) return;
  const entered: Entered[] = [{directory: new Directory(root), names: readdirSync(root, {encoding: 'buffer'})}];
  try {
    for (let at = entered.at(-1); at !== undefined; at = entered.at(-1)) {
      const name = at.names.pop();
      if (name === undefined) {
        entered.pop();
        at.directory.close();
        continue;
      }
      const path = at.directory.at(name);
      const found = lstatSync(path, {throwIfNoEntry: false});
      if (found === undefined || visit(found, path) === false || !found.isDirectory()) continue;
      const next = enter(at.directory, name);
      if (next !== undefined) entered.push(next);
    }
  } finally {
    for (const {directory} of entered) directory.close();
  }
}

interface Entered {
  readonly directory: Directory;
  /** Those that are still to be visited. */
  readonly names: Buffer[];
}

/** @returns `undefined` where it is not a directory any more */
function enter(parent: Directory, name: Buffer): Entered | undefined {
  let directory: Directory | undefined;
  try {
    directory = parent.enter(name);
    return {directory, names: readdirSync(directory.path, {encoding: 'buffer'})};
  } catch (err) {
    directory?.close();
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes((err as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw err;
  }
}
