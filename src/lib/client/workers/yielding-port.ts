/**
 * Message handling that yields to other ports. An engine delivers all messages of a port, new ones included, before it turns to the
 * next port or to a child that has ended. One busy job would delay all others until its end.
 */
import {setImmediate} from 'node:timers/promises';

/** One end of a channel between threads. */
export interface Port<Out, In> {
  on(event: 'message', listener: (message: In) => void): unknown;
  postMessage(message: Out): void;
  close(): void;
}

/** Handles a port's messages one after the other, each in its own turn of the event loop. `close` is handled at once. */
export function serialize<In>(port: Pick<Port<never, In>, 'on'>, handle: (message: In) => void | Promise<void>): void {
  let queue: Promise<void> = Promise.resolve();
  port.on('message', (message) => {
    if (message === 'close') void handle(message);
    else queue = queue.then(() => setImmediate()).then(() => handle(message));
  });
}
