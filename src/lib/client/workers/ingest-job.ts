/** The worker side of a download: hashes the bytes and stores them as they arrive. */
import {setImmediate} from 'node:timers/promises';
import type {Digest} from '../../oci/descriptor.ts';
import {Ingest} from '../../store/blob-store.ts';
import type {Expected} from '../../store/content-contract.ts';
import {type ThreadError, toThreadError} from './errors.ts';
import {type Ring, slotOf} from './ring.ts';
import {type Port, serialize} from './yielding-port.ts';

export interface IngestJob {
  /** The object, for messages: `layer sha256:…`. */
  readonly what: string;
  readonly ingestPath: string;
  readonly expected: Expected;
}

/** A number is the length of the next slot's bytes. */
export type ToIngester = number | 'end' | 'close';

export type FromIngester =
  /** Bytes that an earlier attempt left; the download continues from here. */
  | {readonly type: 'started'; readonly offset: number}
  /** One more slot is stored. */
  | {readonly type: 'slot'}
  /** The blob is complete, verified and synced. */
  | {readonly type: 'done'; readonly digest: Digest}
  | {readonly type: 'error'; readonly error: ThreadError};

/** Interval at which the ingest's time is renewed while its bytes are hashed, in milliseconds. Waiters take it as a sign of life. */
const TOUCH_MS = 1000;

/** Stores one blob from the slots of a ring. */
export function serveIngesting({what, ingestPath, expected}: IngestJob, ring: Ring, port: Port<FromIngester, ToIngester>): void {
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
    // Yields to other jobs: an earlier attempt may have left gigabytes.
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
  serialize(port, (message) => {
    if (message === 'close') {
      close();
      port.close();
    } else if (ingest === undefined) {
      return; // the job has failed and sent its error
    } else if (message === 'end') {
      attempt(() => {
        const {digest} = ingest!.finish();
        close();
        port.postMessage({type: 'done', digest});
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
