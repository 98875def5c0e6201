/** Reads and syncs record files, and reports anything else in their place. */
import {closeSync, constants, fsyncSync, lstatSync, openSync, readdirSync, readFileSync, type Stats, statSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {ErrdefsError, fromErrno, isErrdefs} from '../errdefs.ts';
import {isTemporary} from '../fs/durable.ts';

/** Hint for damage that `check --repair` repairs. */
export const REPAIR_HINT = 'repair it: berth check --repair';

/** Hint for damage that is found only by reading every byte. */
export const DEEP_REPAIR_HINT = 'repair it: berth check --deep --repair';

/** Whether a file name can be a record's; others are skipped. A key's leading dot is encoded. */
export const isDocument = (name: string): boolean => name.endsWith('.json') && !name.startsWith('.');

/** Error for a record under another record's file name, as a copy or a rename leaves it. */
export const misplacedRecord = (file: string, key: string): ErrdefsError =>
  new ErrdefsError('data_loss', `${file} is the record of ${JSON.stringify(key)}`, {hint: 'remove the file, or give it its own name'});

/** Error codes for a missing file or another file type. */
const ABSENT: readonly unknown[] = ['ENOENT', 'ENOTDIR', 'EISDIR', 'ELOOP', 'ENXIO'];

/** Does not block on a FIFO. `open` takes numbers; the types allow only strings. */
const READ_FLAGS = (constants.O_RDONLY | constants.O_NONBLOCK) as unknown as string;

const TYPE_PROBLEMS = {
  file: (stat: Stats) => (stat.isFile() ? undefined : stat.isDirectory() ? 'is a directory instead of a file' : 'is not a file'),
  directory: (stat: Stats) => (stat.isDirectory() ? undefined : 'is not a directory'),
} as const;

function stat(path: string, of: typeof lstatSync | typeof statSync): Stats | undefined {
  try {
    return of(path, {throwIfNoEntry: false}) as Stats | undefined;
  } catch (err) {
    if (ABSENT.includes((err as NodeJS.ErrnoException).code)) return undefined;
    throw fromErrno(err, path);
  }
}

/** Error for another file type or a dangling link at `path`; `undefined` when the type is right or nothing is there. */
function wrongType(path: string, wanted: keyof typeof TYPE_PROBLEMS): ErrdefsError | undefined {
  const found = stat(path, lstatSync);
  if (found === undefined) return undefined;
  const target = found.isSymbolicLink() ? stat(path, statSync) : found;
  const problem = target === undefined ? 'is a dangling symbolic link' : TYPE_PROBLEMS[wanted](target);
  if (problem === undefined) return undefined;
  const hint =
    wanted === 'file'
      ? REPAIR_HINT
      : target === undefined
        ? 'restore its target: a disk may not be mounted'
        : 'move it away, and restore the directory';
  return new ErrdefsError('data_loss', `${path} ${problem}`, {hint, details: {wrongTypePath: path}});
}

/** Whether an error reports a wrong file type in the state directory; its detail `wrongTypePath` is the path. */
export const isWrongType = (err: unknown): err is ErrdefsError & {readonly details: {readonly wrongTypePath: string}} =>
  isErrdefs(err) && typeof err.details?.wrongTypePath === 'string';

/** @throws data_loss `path` exists and is not a directory or a link to one */
export function assertDirectory(path: string): void {
  const problem = wrongType(path, 'directory');
  if (problem !== undefined) throw problem;
}

/** @throws data_loss `path` or one of its parents below `root` has the wrong file type */
function assertPath(root: string, path: string, wanted: keyof typeof TYPE_PROBLEMS): void {
  for (let at = path, kind = wanted; at.length > root.length; at = dirname(at), kind = 'directory') {
    const problem = wrongType(at, kind);
    if (problem !== undefined) throw problem;
    if (stat(at, lstatSync) !== undefined) break;
  }
}

/** @param path below `root` @throws data_loss it or one of its parents has the wrong file type */
export const assertReplaceable = (root: string, path: string): void => assertPath(root, join(root, path), 'file');

/** After a call on `path` failed: returns if `path` is just missing, throws otherwise. */
function assertAbsent(err: unknown, root: string, path: string, wanted: keyof typeof TYPE_PROBLEMS): void {
  const {code} = err as NodeJS.ErrnoException;
  if (!ABSENT.includes(code)) throw fromErrno(err, path);
  assertPath(root, path, wanted);
  if (code !== 'ENOENT') throw fromErrno(err, path); // the file type was wrong a moment ago
}

/**
 * Reads the document in a file; `undefined` when it is missing.
 *
 * @param path below `root`
 * @throws data_loss the file is not JSON, or it or one of its parents has the wrong file type
 */
export function readDocument(root: string, path: string): unknown {
  const file = join(root, path);
  let text: string;
  try {
    text = readFileSync(file, {encoding: 'utf8', flag: READ_FLAGS});
  } catch (err) {
    assertAbsent(err, root, file, 'file');
    return undefined;
  }
  try {
    return JSON.parse(text);
  } catch (err) {
    throw new ErrdefsError('data_loss', `${file} is not valid JSON`, {cause: err, hint: REPAIR_HINT});
  }
}

function list(
  root: string,
  directory: string,
  keep: (entry: {name: string; isDirectory(): boolean; isSymbolicLink(): boolean}) => boolean,
) {
  const path = join(root, directory);
  try {
    return readdirSync(path, {withFileTypes: true})
      .filter((entry) => !isTemporary(entry.name) && keep(entry))
      .map(({name}) => name)
      .sort();
  } catch (err) {
    assertAbsent(err, root, path, 'directory');
    return [];
  }
}

/** Names of the documents in a directory below `root`, sorted. @throws data_loss as `readDocument` */
export const listDocuments = (root: string, directory: string): readonly string[] => list(root, directory, ({name}) => isDocument(name));

/** Names of the subdirectories and links, sorted; files are foreign and skipped. @throws data_loss as `readDocument` */
export const listDirectories = (root: string, directory: string): readonly string[] =>
  list(root, directory, (entry) => entry.isDirectory() || entry.isSymbolicLink());

/** Syncs a file or a directory; an absent one is no error. */
export function syncIfPresent(path: string): void {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw fromErrno(err, `sync ${path}`);
  }
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
