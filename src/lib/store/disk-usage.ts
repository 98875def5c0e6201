/** Disk usage of a layer's tree. */
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {walk} from '../fs/walk.ts';

export interface TreeUsage {
  /** Bytes on disk. */
  readonly size: number;
  readonly inodes: number;
}

/** Disk usage of a tree; a file with several hard links counts once. @throws data_loss the tree is missing */
export function treeUsage(root: string | Buffer): TreeUsage {
  const seen = new Set<number>();
  let size = 0;
  try {
    walk(root, ({ino, blocks}) => {
      if (!seen.has(ino)) size += blocks * 512;
      seen.add(ino);
    });
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT')
      throw new ErrdefsError('data_loss', `tree ${String(root)} is not on disk`, {cause: err});
    throw fromErrno(err, `tree ${String(root)}`);
  }
  return {size, inodes: seen.size};
}
