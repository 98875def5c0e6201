/** A thread's part of a download: its bytes are hashed and kept, as they come. */
import {setImmediate} from 'node:timers/promises';
import type {Descriptor} from '../../oci/descriptor.ts';
import {Ingest} from '../../store/blob-store.ts';
import {type ThreadError, toThreadError} from './errors.ts';
import {type Ring, slotOf} from './ring.ts';
import {inTurns, type Port} from './yielding-port.ts';

export interface KeepingJob {
  /** The object, for messages: `layer sha256:…`. */
  readonly what: string;
  readonly ingestPath: string;
  readonly expected: Pick<Descriptor, 'digest' | 'size'>;
}

/** A number is the length of the next slot's bytes. */
export type ToKeeping = number | 'end' | 'close';

export type FromKeeping =
  /** Bytes that an earlier attempt left: where the network goes on. */
  | {readonly type: 'started'; readonly offset: number}
  /** One more slot is dealt with. */
  | {readonly type: 'slot'}
  /** The blob is whole, right, and on the disk. */
  | {readonly type: 'done'}
  | {readonly type: 'error'; readonly error: ThreadError};

/** Those who wait for the blob see by its time that somebody works on it, while no bytes come; in milliseconds. */
const TOUCH_MS = 1000;

/** Keeps one blob, from the slots of a ring. */
export function serveKeeping({what, ingestPath, expected}: KeepingJob, ring: Ring, port: Port<FromKeeping, ToKeeping>): void {
  let ingest: Ingest | undefined;
  const close = (): void => {
    ingest?.close();
    ingest = undefined;
  };
  const fail = (err: unknown): void => {
    close();
    port.postMessage({type: 'error', error: toThreadError(err)});
  };
  const attempt = (action: () => void): void => {
    try {
      action();
    } catch (err) {
      fail(err);
    }
  };
  const start = async (): Promise<void> => {
    const opened = Ingest.reopen(ingestPath, expected, what);
    ingest = opened;
    // Others have their turn: an earlier attempt may have left gigabytes.
    let touched = performance.now();
    for (const _ of opened.existing()) {
      await setImmediate();
      if (ingest === undefined) return;
      if (performance.now() - touched < TOUCH_MS) continue;
      touched = performance.now();
      opened.touch();
    }
    port.postMessage({type: 'started', offset: opened.offset});
  };
  let taken = 0;
  inTurns(port, (message) => {
    if (message === 'close') {
      close();
      port.close();
    } else if (ingest === undefined) {
      return; // it has failed, and said so
    } else if (message === 'end') {
      attempt(() => {
        ingest!.finish();
        close();
        port.postMessage({type: 'done'});
      });
    } else {
      attempt(() => {
        ingest!.write(slotOf(ring, taken++ % ring.slots, message));
        port.postMessage({type: 'slot'});
      });
    }
  });
  start().catch(fail);
}
