/** Long work of one thread, in pieces: others have their turn in between, and an abort is heard. */
import {setImmediate} from 'node:timers/promises';

/** To be called after each piece. @throws the signal's reason, once it is aborted */
export type Pause = () => Promise<void>;

/** Milliseconds of work between two turns of the event loop. */
const EVERY_MS = 20;

export function pauses(signal: AbortSignal | undefined): Pause {
  let last = performance.now();
  return async () => {
    if (performance.now() - last >= EVERY_MS) {
      await setImmediate();
      last = performance.now();
    }
    signal?.throwIfAborted();
  };
}
