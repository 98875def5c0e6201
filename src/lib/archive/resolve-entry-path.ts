/** Follows the path of a layer's entry within a tree in memory, so that symbolic links cannot leave the root. */
import {ErrdefsError} from '../errdefs.ts';
import {displayName} from './tar.ts';

/** Most symbolic links for one name (as many as containerd allows), and most components in all. */
const MAX_LINKS = 255;
const MAX_STEPS = 65_536;

interface TreeDirectory<Dir> {
  readonly parent: Dir | undefined;
  /** Below the root; empty for the root. */
  readonly path: string;
}

/** What a name stands for: a directory, a symbolic link, something else, or nothing. */
export type Found<Dir> = Dir | {readonly target: string} | 'other' | undefined;

/**
 * @param lookup finds a name in a directory
 * @param onAssumedAbsent told of a component that does not exist, when the path leaves it by `..`
 * @returns the last directory that exists, and the names after it that do not
 * @throws failed_precondition a component is not a directory, or links form a cycle
 */
export function resolveEntryPath<Dir extends TreeDirectory<Dir>>(
  root: Dir,
  path: string,
  lookup: (dir: Dir, name: string) => Found<Dir>,
  onAssumedAbsent?: (path: string) => void,
): {dir: Dir; missing: string[]} {
  let dir = root;
  const missing: string[] = [];
  const todo = path.split('/').reverse();
  let links = 0;
  let steps = 0;
  for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
    if (++steps > MAX_STEPS) throw tooManyLinks();
    if (name === '' || name === '.') continue;
    if (name === '..') {
      if (missing.length === 0) dir = dir.parent ?? dir;
      else {
        onAssumedAbsent?.(join(dir, missing.join('/')));
        missing.pop();
      }
      continue;
    }
    const found = missing.length > 0 ? undefined : lookup(dir, name);
    if (found === undefined) missing.push(name);
    else if (found === 'other') throw new ErrdefsError('failed_precondition', `${displayName(join(dir, name))} is not a directory`);
    else if ('target' in found) {
      if (++links > MAX_LINKS) throw tooManyLinks();
      if (found.target.startsWith('/')) dir = root;
      todo.push(...found.target.split('/').reverse());
    } else dir = found;
  }
  return {dir, missing};
}

const join = ({path}: {readonly path: string}, base: string): string => (path === '' ? base : `${path}/${base}`);

const tooManyLinks = (): ErrdefsError => new ErrdefsError('failed_precondition', 'too many symbolic links in its path');
