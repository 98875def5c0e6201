/** Runs removals with the ballast released, and refills it. */
import type {Store} from './store.ts';

/** Creates or refills the ballast, then applies transactions that had no space. Never fails. */
export async function maintainBallast(store: Store): Promise<void> {
  try {
    if (store.exists() && (!store.ballast.isFull || store.pending() > 0)) await store.applyPending();
  } catch {
    // A read-only disk or a foreign directory: no ballast then.
  }
}

/** Runs a removal. On a nearly full disk, the ballast is released before it and refilled from what it freed. */
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
