/**
 * Finds the code of the worker thread. It lies beside this file in source and on Node, in the executable when compiled, and in the
 * bundle of a program that has bundled the library.
 */
import {existsSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {Worker} from 'node:worker_threads';

/** Set by scripts/build.ts: the worker's entry, relative to the built files. */
declare const BERTH_WORKER: string | undefined;

/** The built entry beside this code. Bundlers do not copy it, and those for CommonJS leave `import.meta` empty. */
function builtEntry(): URL | undefined {
  const entry = URL.parse(BERTH_WORKER!, import.meta.url);
  return entry?.protocol === 'file:' && existsSync(fileURLToPath(entry)) ? entry : undefined;
}

/** Starts a thread that runs thread.ts; the caller ends it. */
export async function spawnWorker(): Promise<Worker> {
  if (typeof BERTH_WORKER === 'undefined') return new Worker(new URL('./thread.ts', import.meta.url));
  // A compiled executable finds its entry by path, not by URL.
  if (process.versions.bun !== undefined) return new Worker(BERTH_WORKER);
  const entry = builtEntry();
  if (entry !== undefined) return new Worker(entry);
  const {default: code} = await import('berth:worker-code');
  return new Worker(code, {eval: true});
}
