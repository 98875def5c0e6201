/** The one place that knows where the worker thread's code lies: beside this file in source and on Node, embedded in the executable. */
import {Worker} from 'node:worker_threads';

/** Set by scripts/build.ts: the worker's entry, relative to the built files. */
declare const BERTH_WORKER: string | undefined;

/** Starts a thread that runs worker.ts; the caller ends it. */
export function spawnWorker(): Worker {
  if (typeof BERTH_WORKER === 'undefined') return new Worker(new URL('./worker.ts', import.meta.url));
  // In a compiled executable an entry is found by its path, not by a URL.
  if (process.versions.bun !== undefined) return new Worker(BERTH_WORKER);
  return new Worker(new URL(BERTH_WORKER, import.meta.url));
}
