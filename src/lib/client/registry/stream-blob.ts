/** A blob of a registry as an async iterable. */
import type {Descriptor} from '../../oci/descriptor.ts';
import {SpentBuffers} from '../../remotes/spent-buffers.ts';
import type {Fetcher} from '../../remotes/types.ts';

/** Bytes that may wait for the caller; with more the connection is paused. */
const WINDOW_BYTES = 1024 * 1024;

/** Most bytes that a caller may still read after it has taken those that follow: several times what a socket holds back. */
const heldBytes = (): number => Math.max(256 * 1024, 2 * process.getBuiltinModule('node:stream').getDefaultHighWaterMark(false));

export interface StreamBlobOptions {
  readonly signal?: AbortSignal | undefined;
  /** The caller passes chunks on at once, to a file or a socket, and keeps none: their memory is given back soon after. Default false. */
  readonly passesOn?: boolean;
}

/**
 * Streams a blob from `offset` on; its digest is not verified. The connection is closed when the caller stops early.
 *
 * @throws errors of `Fetcher.stream`, after the bytes that arrived before
 */
export async function* streamBlob(
  fetcher: Fetcher,
  desc: Descriptor,
  offset: number,
  {signal, passesOn = false}: StreamBlobOptions = {},
): AsyncGenerator<Buffer> {
  const spent = passesOn ? new SpentBuffers(heldBytes()) : undefined;
  const stop = new AbortController();
  const queue: Buffer[] = [];
  let queued = 0;
  let resume: (() => void) | undefined;
  let end: {readonly err?: unknown} | undefined;
  let change = Promise.withResolvers<void>();
  const finish = (result: {readonly err?: unknown}): void => {
    end = result;
    change.resolve();
  };
  fetcher
    .stream(
      desc,
      (chunk) => {
        queue.push(chunk);
        queued += chunk.length;
        change.resolve();
        if (queued < WINDOW_BYTES) return undefined;
        return new Promise((resolve) => {
          resume = resolve;
        });
      },
      {offset, signal: signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal])},
    )
    .then(
      () => finish({}),
      (err: unknown) => finish({err}),
    );
  try {
    for (;;) {
      const chunk = queue.shift();
      if (chunk !== undefined) {
        queued -= chunk.length;
        yield chunk;
        spent?.add(chunk);
        if (queued < WINDOW_BYTES) resume?.();
      } else if (end !== undefined) {
        if ('err' in end) throw end.err;
        return;
      } else {
        change = Promise.withResolvers();
        await change.promise;
      }
    }
  } finally {
    stop.abort();
    resume?.();
  }
}
