/** Interrupts long synchronous work: lets the event loop run, and notices an abort. */
import {setImmediate} from 'node:timers/promises';

/** Called after each piece of work. @throws the signal's reason, once it is aborted */
export type Pause = () => Promise<void>;

/** Milliseconds of work between two turns of the event loop. */
const EVERY_MS = 20;

export function createPause(signal: AbortSignal | undefined): Pause {
  let last = performance.now();
  return async () => {
    if (performance.now() - last >= EVERY_MS) {
      await setImmediate();
      last = performance.now();
    }
    signal?.throwIfAborted();
  };
}
