/** The mark that the next collection has to look at everything. */
import {fromErrno, isErrdefs} from '../errdefs.ts';
import {writeAtomic} from '../fs/durable.ts';
import type {Layout} from './layout.ts';

/**
 * Notes that unreferenced blobs or layers may exist: a process ended after a commit, perhaps before its `afterCommit`. The next collection
 * then marks everything. See gc.ts.
 */
export function markNeedsFullGc(layout: Layout): void {
  try {
    writeAtomic(layout.unswept, '', {sync: false});
  } catch (err) {
    // Garbage is harmless, and the caller's own error matters more. `prune` marks everything anyway.
    if (!isErrdefs(fromErrno(err, layout.unswept))) throw err;
  }
}
