/** Calls of node:fs that may find their file gone. */
import {readdirSync} from 'node:fs';

/** Runs a call of node:fs. @returns false if it fails with one of these errnos */
export function ignoreErrno(codes: readonly string[], call: () => void): boolean {
  try {
    call();
    return true;
  } catch (err) {
    if (codes.includes((err as NodeJS.ErrnoException).code ?? '')) return false;
    throw err;
  }
}

/** Names in a directory; none where it does not exist. */
export function list(directory: string): readonly string[] {
  let names: readonly string[] = [];
  ignoreErrno(['ENOENT', 'ENOTDIR'], () => {
    names = readdirSync(directory);
  });
  return names;
}
