/** Moves damaged entries of the state directory out of the store's way. */
import {lstatSync, mkdirSync} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {moveInto, removeTree, renameInto} from '../fs/durable.ts';
import {runSync} from '../fs/spawn.ts';
import type {Layout} from './layout.ts';

/** Moves a file or a tree; to another filesystem by copying. */
function moveOrCopy(path: string, target: string): void {
  try {
    renameInto(path, target, {sync: true});
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EXDEV') throw err;
    if (lstatSync(path).isFile()) {
      moveInto(path, target, {sync: true});
      return;
    }
    mkdirSync(dirname(target), {recursive: true, mode: 0o700});
    const {status, stderr} = runSync('cp', ['--archive', '--no-target-directory', '--', path, target], {package: 'coreutils'});
    if (status !== 0) throw new ErrdefsError('data_loss', `copy of ${path} ended with status ${status}: ${stderr.trim()}`, {cause: err});
    removeTree(path);
  }
}

/**
 * Moves a damaged entry to a directory that nothing reads and nothing removes.
 *
 * @param path absolute, below the root or the runtime state directory
 * @returns its new path; `undefined` when it is gone
 */
export function quarantine(layout: Layout, path: string): string | undefined {
  const when = `${new Date().toISOString().replaceAll(':', '')}-${Math.random().toString(36).slice(2, 8)}`;
  const isBelow = path.startsWith(`${layout.root}/`);
  const target = join(layout.damaged, when, isBelow ? path.slice(layout.root.length + 1) : basename(path));
  try {
    moveOrCopy(path, target);
    return target;
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw fromErrno(err, path);
  }
}
