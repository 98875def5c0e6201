/** What a copy copies to where: docker's rules for `docker cp`, as its reference has them. */
import {posix} from 'node:path';
import {ErrdefsError} from '../../errdefs.ts';

export type FileKind = 'directory' | 'other';

export interface CopyEnd {
  /** As the user wrote it. */
  readonly path: string;
  /** Absent where there is no such file. A link at the end of the source is no directory, unless it is followed. */
  readonly kind?: FileKind | undefined;
}

/** Whether the path says itself that it is a directory, as one with `/` or `/.` at its end does. */
export const saysDirectory = (path: string): boolean => /(?:^|\/)\.{0,2}$/.test(path);

/** Whether a path names what is in a directory, and not the directory. */
const saysContents = (path: string): boolean => /(?:^|\/)\.$/.test(path);

export interface CopyPlan {
  /**
   * `into`: the source gets the name `name` in the target, or without a name what is in the source comes to be in the target.
   * `as`: the source becomes the target, in the place of a file or as a new one.
   */
  readonly how: 'into' | 'as';
  readonly name?: string;
}

/**
 * @throws not_found there is no source, or no directory for the target
 * @throws failed_precondition a directory is wanted where another file is
 */
export function planCopy(source: CopyEnd, target: CopyEnd): CopyPlan {
  const noDirectory = (path: string): ErrdefsError => new ErrdefsError('failed_precondition', `${JSON.stringify(path)} is not a directory`);
  if (source.kind === undefined) throw new ErrdefsError('not_found', JSON.stringify(source.path));
  if (source.kind === 'other' && saysDirectory(source.path)) throw noDirectory(source.path);
  if (target.kind === 'directory') {
    const name = posix.basename(posix.resolve('/', source.path));
    return {how: 'into', ...(name === '' || saysContents(source.path) ? {} : {name})};
  }
  if (target.kind === 'other') {
    if (source.kind === 'directory') throw new ErrdefsError('failed_precondition', 'a directory cannot replace another file');
    if (saysDirectory(target.path)) throw noDirectory(target.path);
  } else if (source.kind === 'other' && saysDirectory(target.path))
    throw new ErrdefsError('not_found', `directory ${JSON.stringify(target.path)}`, {hint: 'make it first, or name a file'});
  return {how: 'as'};
}
