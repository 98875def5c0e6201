/** Verifies that a directory is this user's alone, before berth trusts its content. */
import {lstatSync, mkdirSync, type Stats, statSync} from 'node:fs';
import {dirname} from 'node:path';
import {quoteWord} from '../berth-command.ts';
import {ErrdefsError, fromErrno} from '../errdefs.ts';

/** Whether users other than this one and root may make entries there. A group of this process's own does not count: many users have one each. */
const isOpen = ({mode, gid}: Stats): boolean => (mode & 0o002) !== 0 || ((mode & 0o020) !== 0 && gid !== 0 && gid !== process.getegid?.());

const isOurs = ({uid}: Stats): boolean => uid === 0 || uid === process.geteuid?.();

const look = (path: string): Stats | undefined => lstatSync(path, {throwIfNoEntry: false});

/** Makes a missing directory where somebody else could make it first. Elsewhere it is left to the first write. */
function makeWhereShared(directory: string): void {
  const parent = dirname(directory);
  if (look(parent) === undefined) makeWhereShared(parent);
  const above = statSync(parent, {throwIfNoEntry: false});
  if (above === undefined || !isOpen(above)) return;
  try {
    mkdirSync(directory, {mode: 0o700});
  } catch (err) {
    const {code} = err as NodeJS.ErrnoException;
    if (code !== 'EEXIST' && code !== 'EROFS') throw err;
  }
}

/**
 * Refuses a directory that belongs to another user, or that others may write to. One that is missing is made, readable by
 * its owner alone, where others could make it first, such as in /tmp.
 *
 * @param what the directory, for messages
 * @throws permission_denied @throws failed_precondition something else has the name
 */
export function assertPrivate(directory: string, what = `directory ${directory}`): void {
  const hint = 'name another directory, or remove this one if nothing uses it';
  try {
    if (look(directory) === undefined) makeWhereShared(directory);
    const entry = look(directory);
    if (entry === undefined) return;
    const stats = entry.isSymbolicLink() && isOurs(entry) ? statSync(directory) : entry;
    if (!isOurs(stats)) throw new ErrdefsError('permission_denied', `${what} belongs to user ${stats.uid}`, {hint});
    if (!stats.isDirectory()) throw new ErrdefsError('failed_precondition', `${what} is not a directory`, {hint});
    if (isOpen(stats))
      throw new ErrdefsError('permission_denied', `${what} is writable by others (mode ${(stats.mode & 0o7777).toString(8)})`, {
        hint: `chmod go-w ${quoteWord(directory)}`,
      });
  } catch (err) {
    throw fromErrno(err, what);
  }
}
