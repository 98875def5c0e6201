/** Paths of archives. */
import {ErrdefsError} from '../../errdefs.ts';

/** @throws invalid_argument no path can be this text */
export function assertPath(path: string): void {
  if (path === '' || path.includes('\0')) throw new ErrdefsError('invalid_argument', `path ${JSON.stringify(path)}`);
}
