/** Record files as they lie on the disk, and what to say where something else lies in their place. */
import {constants, lstatSync, readdirSync, readFileSync, type Stats, statSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {ErrdefsError, fromErrno, isErrdefs} from '../errdefs.ts';
import {isTemporary} from '../fs/durable.ts';

/** The next step of whoever meets damage that `check --repair` can mend. */
export const REPAIR_HINT = 'repair it: check --repair';

/** The same of damage that is seen only where every byte is read. */
export const DEEP_REPAIR_HINT = 'repair it: check --deep --repair';

/** Whether a file of a directory of records may be one: others are passed over. A key's leading dot is encoded. */
export const isDocument = (name: string): boolean => name.endsWith('.json') && !name.startsWith('.');

/** Somebody has copied or renamed the file of a record. */
export const misplacedRecord = (file: string, key: string): ErrdefsError =>
  new ErrdefsError('data_loss', `${file} is the record of ${JSON.stringify(key)}`, {hint: 'remove the file, or give it its own name'});

/** Errors by which the system says that something is not there, or not what was looked for. */
const ABSENT: readonly unknown[] = ['ENOENT', 'ENOTDIR', 'EISDIR', 'ELOOP', 'ENXIO'];

/** Of a pipe, too, there is an end. Numbers are taken, as by open; the types know only words. */
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

/** Something of another kind, or a link that leads nowhere, is at `path`. Nothing is said of what is not there. */
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
  return new ErrdefsError('data_loss', `${path} ${problem}`, {hint, details: {misfit: path}});
}

/** Whether an error says that something of another kind is in the place of a file or directory of ours; the detail `misfit` tells where. */
export const isWrongType = (err: unknown): err is ErrdefsError & {readonly details: {readonly misfit: string}} =>
  isErrdefs(err) && typeof err.details?.misfit === 'string';

/** @throws data_loss something else is there than a directory, or a link to one; that nothing is there is fine */
export function assertDirectory(path: string): void {
  const problem = wrongType(path, 'directory');
  if (problem !== undefined) throw problem;
}

/** @throws data_loss something else is at `path`, or in the place of a directory on the way to it from `root` */
function assertPath(root: string, path: string, wanted: keyof typeof TYPE_PROBLEMS): void {
  for (let at = path, kind = wanted; at.length > root.length; at = dirname(at), kind = 'directory') {
    const problem = wrongType(at, kind);
    if (problem !== undefined) throw problem;
    if (stat(at, lstatSync) !== undefined) break;
  }
}

/** @param path below `root` @throws data_loss something else is in the place of a document, or of a directory on the way to it */
export const assertReplaceable = (root: string, path: string): void => assertPath(root, join(root, path), 'file');

/** After a call on `path` failed: returns where that is absent and nothing but directories leads there. */
function assertAbsent(err: unknown, root: string, path: string, wanted: keyof typeof TYPE_PROBLEMS): void {
  const {code} = err as NodeJS.ErrnoException;
  if (!ABSENT.includes(code)) throw fromErrno(err, path);
  assertPath(root, path, wanted);
  if (code !== 'ENOENT') throw fromErrno(err, path); // it was so a moment ago
}

/**
 * The document in a file below `root`, or `undefined` when there is none.
 *
 * @param path below `root`
 * @throws data_loss it cannot be read as one; something else is there, or in the place of a directory on the way
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

/** Names of the directories in one, and of links, sorted: a file among them is a stranger's. @throws data_loss as `readDocument` */
export const listDirectories = (root: string, directory: string): readonly string[] =>
  list(root, directory, (entry) => entry.isDirectory() || entry.isSymbolicLink());
