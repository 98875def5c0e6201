/**
 * Turns of the jobs of one thread. An engine hands over everything that one port has, and has got meanwhile, before it looks at
 * the next port or at a child that has ended: a job whose port never runs dry would keep all others waiting for its end.
 */
import {setImmediate} from 'node:timers/promises';

/** One end of a channel between threads. */
export interface Port<Out, In> {
  on(event: 'message', listener: (message: In) => void): unknown;
  postMessage(message: Out): void;
  close(): void;
}

/**
 * Deals with a port's messages one after the other, each in a turn of the event loop of its own, so that other ports have theirs
 * in between. `close` is dealt with at once.
 */
export function inTurns<In>(port: Pick<Port<never, In>, 'on'>, deal: (message: In) => void | Promise<void>): void {
  let queue: Promise<void> = Promise.resolve();
  port.on('message', (message) => {
    if (message === 'close') void deal(message);
    else queue = queue.then(() => setImmediate()).then(() => deal(message));
  });
}
