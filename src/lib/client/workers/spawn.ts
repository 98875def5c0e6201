/**
 * The one place that knows where the worker thread's code lies: beside this file in source and on Node, embedded in the executable; and
 * where a program that uses the library has bundled it, in the bundle.
 */
import {existsSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {Worker} from 'node:worker_threads';

/** Set by scripts/build.ts: the worker's entry, relative to the built files. */
declare const BERTH_WORKER: string | undefined;

/** The built entry, where it lies beside this code. Bundlers leave it behind, and those for CommonJS leave `import.meta` empty. */
function builtEntry(): URL | undefined {
  const entry = URL.parse(BERTH_WORKER!, import.meta.url);
  return entry?.protocol === 'file:' && existsSync(fileURLToPath(entry)) ? entry : undefined;
}

/** Starts a thread that runs thread.ts; the caller ends it. */
export async function spawnWorker(): Promise<Worker> {
  if (typeof BERTH_WORKER === 'undefined') return new Worker(new URL('./thread.ts', import.meta.url));
  // In a compiled executable an entry is found by its path, not by a URL.
  if (process.versions.bun !== undefined) return new Worker(BERTH_WORKER);
  const entry = builtEntry();
  if (entry !== undefined) return new Worker(entry);
  const {default: code} = await import('berth:worker-code');
  return new Worker(code, {eval: true});
}
