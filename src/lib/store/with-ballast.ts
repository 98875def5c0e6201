/** Runs removals with the ballast released, and refills it. */
import type {Store} from './store.ts';

/** Makes the reserve where it is missing, sets aside what was given up, and then applies what could not be for want of room. Never fails. */
export async function maintainBallast(store: Store): Promise<void> {
  try {
    if (store.exists() && (!store.ballast.isFull || store.pending() > 0)) await store.applyPending();
  } catch {
    // A disk that is not to be written, or a store that is not for us: then there is none.
  }
}

/** Runs what removes something. When the disk is all but full, the reserve is given up for it before, and made anew of what it gave back. */
export async function withBallast<T>(store: Store, action: () => Promise<T>): Promise<T> {
  if (!store.exists()) return action();
  store.ballast.beginRemoval();
  try {
    return await action();
  } finally {
    store.ballast.endRemoval();
    await maintainBallast(store);
  }
}
