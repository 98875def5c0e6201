/** How bytes become durable. Synchronous on purpose: a transaction is a few of these in a row, and a thread-pool hop costs more than the call. */
import {
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {fromErrno} from '../errdefs.ts';
import {liveness, parseIdentity, uniqueName} from './process.ts';

/** A name beside `path` that no other process and no other call uses, and that tells whose it is (see `sweepTemporary`). */
export const temporaryName = (path: string): string => join(dirname(path), `.tmp.${uniqueName()}`);

export const isErrno = (err: unknown, ...codes: string[]): boolean =>
  codes.includes((err as NodeJS.ErrnoException | undefined)?.code ?? '');

/** What a failed read of `path` is thrown as. What the caller may know a reason for, something else in its place, stays as it is. */
const unreadable = (err: unknown, path: string): unknown => (isErrno(err, 'ENOTDIR', 'EISDIR', 'ELOOP') ? err : fromErrno(err, path));

/** The file's text, or `undefined` when there is none. */
export function readIfPresent(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw unreadable(err, path);
  }
}

/** The directory's names, sorted; empty when there is no such directory. */
export function listIfPresent(path: string): readonly string[] {
  try {
    return readdirSync(path).sort();
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return [];
    throw unreadable(err, path);
  }
}

/** The path, or where it is not there the nearest one above it that is. @param path absolute */
export function nearestExisting(path: string): string {
  let existing = path;
  while (!existsSync(existing)) existing = dirname(existing);
  return existing;
}

export function unlinkIfPresent(path: string): void {
  try {
    unlinkSync(path);
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
  }
}

/** Removes a directory, unless there is something in it; does nothing if it is not there. @throws an error of node:fs */
export function removeIfEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch (err) {
    if (!isErrno(err, 'ENOTEMPTY', 'EEXIST', 'ENOENT')) throw err;
  }
}

/** Errno of an error for which Node's `rmSync` has no name: nearly all. */
const UV_UNKNOWN = -4094;

/** Removes a file, or a directory with everything in it; one that is not there is success. Errors say why. */
export function removeTree(path: string): void {
  try {
    rmSync(path, {recursive: true, force: true});
  } catch (err) {
    if ((err as NodeJS.ErrnoException).errno !== UV_UNKNOWN) throw err;
    removeSlowly(path);
  }
}

/** The same by calls that tell the errno. */
function removeSlowly(path: string): void {
  const stat = lstatSync(path, {throwIfNoEntry: false});
  if (stat === undefined) return;
  if (!stat.isDirectory()) {
    unlinkIfPresent(path);
    return;
  }
  for (const name of listIfPresent(path)) removeSlowly(join(path, name));
  try {
    rmdirSync(path);
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
  }
}

/**
 * Removes a directory to which a thread may still write that was told to stop; one that is not there is success. Once the directory has
 * another name, the thread's paths lead nowhere, so only a system call that is already under way can add an entry.
 */
export function discardTree(path: string): void {
  const discarded = `${path}.discarded`;
  try {
    renameSync(path, discarded);
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return;
    throw err;
  }
  try {
    removeTree(discarded);
  } catch (err) {
    if (!isErrno(err, 'ENOTEMPTY')) throw err;
    removeTree(discarded);
  }
}

/**
 * Removes a directory that cannot be renamed, `first` before everything else: from then on nobody takes it for a whole one.
 *
 * Everything is reached through the directory's descriptor. Should another process remove it too, and make a new one of that name
 * meanwhile, the new one keeps what is in it.
 *
 * @param options.sync whether the removal of `first` is on the disk before anything else goes
 * @param options.unless called once the directory is open, with a path that stays its own; true: it is left as it is
 */
export function removeInPlace(
  path: string,
  first: string,
  options: {readonly sync: boolean; readonly unless?: (pinned: string) => boolean},
): void {
  const fd = openSync(path, 'r');
  try {
    const pinned = `/proc/self/fd/${fd}`;
    if (options.unless?.(pinned) === true) return;
    unlinkIfPresent(join(pinned, first));
    if (options.sync) fsyncSync(fd);
    for (const name of listIfPresent(pinned)) removeTree(join(pinned, name));
  } finally {
    closeSync(fd);
  }
  removeIfEmpty(path);
}

/** Mount points at or below a directory. See proc_pid_mountinfo(5). */
export function mountPointsBelow(directory: string): readonly string[] {
  const points = (readIfPresent('/proc/self/mountinfo') ?? '')
    .split('\n')
    .map((line) =>
      (line.split(' ', 5)[4] ?? '').replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
    );
  return points.filter((point) => point === directory || point.startsWith(`${directory}/`));
}

/**
 * Writes all bytes at a position of an open file. Also in the middle of a stream this is done at once: the bytes go to the page cache, the hop to a
 * thread takes longer, and the threads that Bun starts for it take 20 MB.
 */
export function writeAt(fd: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, position + done);
}

/** Flushes a file or a directory to the disk. */
export function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/**
 * Makes a directory and those above it, as far as they are missing.
 *
 * @param options.sync whether their names are on the disk on return
 * @returns whether anything was missing
 */
export function makeDirectories(path: string, options: {readonly sync: boolean; readonly mode?: number}): boolean {
  const make = (): boolean => {
    try {
      mkdirSync(path, {mode: options.mode ?? 0o700});
      return true;
    } catch (err) {
      if (isErrno(err, 'EEXIST')) return false;
      throw err;
    }
  };
  let made: boolean;
  try {
    made = make();
  } catch (err) {
    if (!isErrno(err, 'ENOENT') || dirname(path) === path) throw err;
    makeDirectories(dirname(path), options);
    made = make();
  }
  // The name of a new directory is an entry of the one above it.
  if (made && options.sync) syncPath(dirname(path));
  return made;
}

function writeTemporary(path: string, data: string | Uint8Array, mode: number, sync: boolean): string {
  const temporary = temporaryName(path);
  const fd = openSync(temporary, 'wx', mode);
  try {
    writeFileSync(fd, data);
    if (sync) fsyncSync(fd);
  } catch (err) {
    unlinkQuietly(temporary);
    throw err;
  } finally {
    closeSync(fd);
  }
  return temporary;
}

/** Removes a file of ours that is in nobody's way: where that fails, `sweepTemporary` is there for it, and what was meant to be said stays said. */
function unlinkQuietly(temporary: string): void {
  try {
    unlinkSync(temporary);
  } catch {
    // See above.
  }
}

/**
 * Replaces or makes a file: readers see the old bytes or the new ones, never a part. Makes missing directories.
 *
 * @param options.sync whether the bytes and the name are on the disk on return; `bytes`: they are before it has the name, which is
 *   the caller's to sync; without it they may be lost with the power, and only then
 */
export function writeAtomic(
  path: string,
  data: string | Uint8Array,
  options: {readonly sync: boolean | 'bytes'; readonly mode?: number},
): void {
  withParent(path, {sync: options.sync === true}, () => {
    const temporary = writeTemporary(path, data, options.mode ?? 0o600, options.sync !== false);
    try {
      renameSync(temporary, path);
    } catch (err) {
      unlinkQuietly(temporary);
      throw err;
    }
  });
  if (options.sync === true) syncPath(dirname(path));
}

/**
 * Makes a file that must not exist yet, whole. Its bytes are on the disk before it has its name; for the name, sync the
 * directory.
 *
 * @param options.sync without it, bytes and name may be lost with the power, and only then
 * @returns false when a file of that name was there already; it is left as it was
 */
export function createExclusive(path: string, data: string | Uint8Array, {sync = true}: {readonly sync?: boolean} = {}): boolean {
  return withParent(path, {sync}, () => {
    const temporary = writeTemporary(path, data, 0o600, sync);
    try {
      linkSync(temporary, path);
      return true;
    } catch (err) {
      if (isErrno(err, 'EEXIST')) return false;
      throw err;
    } finally {
      unlinkQuietly(temporary);
    }
  });
}

/** Runs `action`; where it fails because the directory of `path` is missing, makes that and runs it again. */
function withParent<T>(path: string, options: {readonly sync: boolean}, action: () => T): T {
  try {
    return action();
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
  }
  makeDirectories(dirname(path), {sync: options.sync});
  return action();
}

/**
 * Renames, making missing directories of the target.
 *
 * @param options.sync whether the new name is on the disk on return
 */
export function renameInto(from: string, to: string, options: {readonly sync: boolean} = {sync: false}): void {
  withParent(to, options, () => renameSync(from, to));
  if (options.sync) syncPath(dirname(to));
}

/** As `renameInto`, of a file that may have to go to another filesystem: then its bytes are copied, and on the disk before it has its name. */
export function moveInto(from: string, to: string, options: {readonly sync: boolean}): void {
  try {
    renameInto(from, to, options);
  } catch (err) {
    if (!isErrno(err, 'EXDEV')) throw err;
    const temporary = temporaryName(to);
    try {
      copyFileSync(from, temporary);
      syncPath(temporary);
      renameInto(temporary, to, options);
    } catch (failure) {
      unlinkQuietly(temporary);
      throw failure;
    }
    unlinkSync(from);
  }
}

/** Removes the temporary names that dead processes left in `directory`: all that can be, then the first error is thrown. */
export function sweepTemporary(directory: string): void {
  forEachDespiteErrors(listIfPresent(directory).filter(isTemporary), (name) => {
    const owner = parseIdentity(name.slice('.tmp.'.length));
    if (owner === undefined || liveness(owner) === 'dead') removeTree(join(directory, name));
  });
}

/** As `sweepTemporary`, in a directory that is not ours: only names that tell a dead process. */
export function sweepOwnTemporary(directory: string): void {
  forEachDespiteErrors(listIfPresent(directory).filter(isTemporary), (name) => {
    const owner = parseIdentity(name.slice('.tmp.'.length));
    if (owner !== undefined && liveness(owner) === 'dead') removeTree(join(directory, name));
  });
}

/** Runs `step` for each item, whatever becomes of the others, and then throws the first error. */
export function forEachDespiteErrors<T>(items: readonly T[], step: (item: T) => void): void {
  const errors: unknown[] = [];
  for (const item of items) {
    try {
      step(item);
    } catch (err) {
      errors.push(err);
    }
  }
  if (errors.length > 0) throw errors[0];
}

/** True for names that a write in the making has: a listing passes over them. */
export const isTemporary = (path: string): boolean => basename(path).startsWith('.tmp.');
