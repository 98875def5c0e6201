/**
 * Layers are unpacked in the thread of the test, so that whatever changes something is counted by one `arm` of failpoints.ts,
 * and in the same order each time. To be imported before anything is unpacked. Only for layers that are smaller than what may
 * be under way between two threads: a thread that waits for itself waits for ever.
 */
import {EventEmitter} from 'node:events';
import {registerHooks} from 'node:module';
import type {Transferable} from 'node:worker_threads';
import {serve, type ToWorker} from '../../src/lib/client/workers/thread.ts';

/** What client/workers/pool.ts asks of a thread. Messages are copied, and come later, as between threads. */
class Threadless extends EventEmitter {
  #receive: (message: ToWorker) => void = () => {};
  #ended = false;

  constructor() {
    super();
    serve({
      on: (_event, listener) => {
        this.#receive = listener;
      },
    });
  }

  #later<T>(message: T, transfer: readonly Transferable[], deliver: (copy: T) => void): void {
    const copy = structuredClone(message, {transfer: [...transfer]});
    setImmediate(() => {
      if (!this.#ended) deliver(copy);
    });
  }

  postMessage(message: ToWorker, transfer: readonly Transferable[] = []): void {
    this.#later(message, transfer, (copy) => this.#receive(copy));
  }

  ref(): void {}

  unref(): void {}

  async terminate(): Promise<void> {
    this.#ended = true;
  }
}

export const spawnWorker = async (): Promise<Threadless> => new Threadless();

registerHooks({
  resolve: (specifier, context, next) =>
    specifier === './spawn-worker.ts' ? {url: import.meta.url, shortCircuit: true} : next(specifier, context),
});
