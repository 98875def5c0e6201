/** How bytes become durable. Synchronous on purpose: a transaction is a few of these in a row, and a thread-pool hop costs more than the call. */
import {
  closeSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {formatIdentity, liveness, ownIdentity, parseIdentity} from './process.ts';

let counter = 0;

/** A name beside `path` that no other process and no other call uses, and that tells whose it is (see `sweepTemporary`). */
export const temporaryName = (path: string): string => join(dirname(path), `.tmp.${formatIdentity(ownIdentity())}.${++counter}`);

const isErrno = (err: unknown, ...codes: string[]): boolean => codes.includes((err as NodeJS.ErrnoException | undefined)?.code ?? '');

/** The file's text, or `undefined` when there is none. Other failures are thrown as they are. */
export function readIfPresent(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw err;
  }
}

/** The directory's names, sorted; empty when there is no such directory. */
export function listIfPresent(path: string): readonly string[] {
  try {
    return readdirSync(path).sort();
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return [];
    throw err;
  }
}

export function unlinkIfPresent(path: string): void {
  try {
    unlinkSync(path);
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
  }
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

function writeTemporary(path: string, data: string | Uint8Array, mode: number, sync: boolean): string {
  const temporary = temporaryName(path);
  const fd = openSync(temporary, 'wx', mode);
  try {
    writeFileSync(fd, data);
    if (sync) fsyncSync(fd);
  } catch (err) {
    unlinkIfPresent(temporary);
    throw err;
  } finally {
    closeSync(fd);
  }
  return temporary;
}

/**
 * Replaces or makes a file: readers see the old bytes or the new ones, never a part. Makes missing directories.
 *
 * @param options.sync whether the bytes and the name are on the disk on return; without it they may be lost with the power, and only then
 */
export function writeAtomic(path: string, data: string | Uint8Array, options: {readonly sync: boolean; readonly mode?: number}): void {
  const attempt = (): void => {
    const temporary = writeTemporary(path, data, options.mode ?? 0o600, options.sync);
    try {
      renameSync(temporary, path);
    } catch (err) {
      unlinkIfPresent(temporary);
      throw err;
    }
  };
  withParent(path, attempt);
  if (options.sync) syncPath(dirname(path));
}

/**
 * Makes a file that must not exist yet, whole and durable.
 *
 * @returns false when a file of that name was there already; it is left as it was
 */
export function createExclusive(path: string, data: string | Uint8Array, mode = 0o600): boolean {
  return withParent(path, () => {
    const temporary = writeTemporary(path, data, mode, true);
    try {
      linkSync(temporary, path);
    } catch (err) {
      if (isErrno(err, 'EEXIST')) return false;
      throw err;
    } finally {
      unlinkIfPresent(temporary);
    }
    syncPath(dirname(path));
    return true;
  });
}

/** Runs `action`; where it fails because the directory of `path` is missing, makes that and runs it again. */
function withParent<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
  }
  mkdirSync(dirname(path), {recursive: true, mode: 0o700});
  return action();
}

/** Renames, making missing directories of the target. */
export const renameInto = (from: string, to: string): void => withParent(to, () => renameSync(from, to));

/** Removes the temporary names that dead processes left in `directory`. */
export function sweepTemporary(directory: string): void {
  for (const name of listIfPresent(directory)) {
    if (!name.startsWith('.tmp.')) continue;
    const owner = parseIdentity(name.slice('.tmp.'.length));
    if (owner === undefined || liveness(owner) === 'dead') rmSync(join(directory, name), {recursive: true, force: true});
  }
}

/** True for names that `temporaryName` makes: a listing passes over them. */
export const isTemporary = (path: string): boolean => basename(path).startsWith('.tmp.');
