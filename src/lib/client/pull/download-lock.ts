/**
 * The right to download a blob, which one of those who want it has at a time. A holder that makes no progress is overtaken: the first
 * of those who wait begins an ingest of its own, from a copy of the holder's bytes. Ingests have nothing in common but the name of the
 * blob that they become, so that a holder that goes on later does no harm: its blob takes the place of an equal one.
 */
import {constants, copyFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {is} from '../../errdefs.ts';
import {makeDirectories} from '../../fs/durable.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {downloadKey, ingestKey} from '../../store/blob-store.ts';
import type {Store} from '../../store/store.ts';

export interface DownloadLock extends Disposable {
  /** Of the ingest. */
  readonly key: string;
}

export interface DownloadLockOptions {
  /** How long a holder may make no progress, or show no sign of life, before it is overtaken, in milliseconds. */
  readonly timeoutMs: number;
  readonly purpose: string;
  readonly signal: AbortSignal;
  /** Called every now and then while another has it, with the bytes that it has. */
  readonly onWait?: (offset: number) => void;
}

/** Milliseconds between two looks at a holder. */
const LOOK_MS = 250;

/** Ingest of a blob's n-th download under way, from 0. No namespace has an empty name, so that no user's ingest is among them. */
const keyOf = (digest: Digest, n: number): string => (n === 0 ? downloadKey(digest) : ingestKey('', `${digest} ${n}`));

/** @throws canceled | deadline_exceeded `signal` was aborted */
export async function lockDownload(store: Store, blob: Descriptor, options: DownloadLockOptions): Promise<DownloadLock> {
  const {timeoutMs, purpose, signal, onWait} = options;
  for (let n = 0; ; n++) {
    const key = keyOf(blob.digest, n);
    const overtake = new AbortController();
    let watch: NodeJS.Timeout | undefined;
    const follow = (): void => {
      const look = progressOf(store, blob, key);
      let moved = performance.now();
      onWait?.(0);
      watch = setInterval(
        () => {
          const {hasMoved, offset} = look();
          onWait?.(offset);
          if (hasMoved) moved = performance.now();
          else if (performance.now() - moved > timeoutMs) overtake.abort();
        },
        Math.min(LOOK_MS, timeoutMs / 2),
      );
    };
    try {
      const lock = await store.blobs.lock(key, {
        timeoutMs,
        whileAlive: true,
        purpose,
        signal: AbortSignal.any([signal, overtake.signal]),
        onWait: follow,
      });
      return {key, [Symbol.dispose]: () => lock.release()};
    } catch (err) {
      // A holder that is stopped shows no sign of life.
      if (signal.aborted || !(overtake.signal.aborted || is(err, 'unavailable'))) throw err;
    } finally {
      clearInterval(watch);
    }
  }
}

/** @returns tells whether the holder has got on since the last call: has received, or has all bytes and works on them */
function progressOf(store: Store, blob: Descriptor, key: string): () => {readonly hasMoved: boolean; readonly offset: number} {
  let last: string | undefined;
  return () => {
    const state = store.blobs.ingestState(key);
    const offset = state?.offset ?? 0;
    const isWorking = state === undefined ? store.blobs.size(blob.digest) !== undefined : offset === blob.size;
    const now = state === undefined ? '' : `${offset} ${state.updatedAt}`;
    const hasMoved = isWorking || now !== last;
    last = now;
    return {hasMoved, offset};
  };
}

/** Other ingests of a blob that have bytes. */
function* othersOf(store: Store, digest: Digest, key: string): Generator<{readonly key: string; readonly offset: number}> {
  for (let n = 0; ; n++) {
    const other = keyOf(digest, n);
    const state = store.blobs.ingestState(other);
    if (state === undefined && n > 0 && other !== key) return;
    if (state !== undefined && other !== key) yield {key: other, offset: state.offset};
  }
}

/** Bytes of a blob that need not cross the wire again. */
export const bytesHere = (store: Store, digest: Digest): number =>
  Math.max(
    store.blobs.ingestState(downloadKey(digest))?.offset ?? 0,
    ...[...othersOf(store, digest, downloadKey(digest))].map(({offset}) => offset),
  );

/** Gives the ingest `key` what another one of the blob has, where that is more. Its digest will tell whether it is right. */
export function copyProgress(store: Store, digest: Digest, key: string): void {
  const own = store.blobs.ingestState(key)?.offset ?? 0;
  const [best] = [...othersOf(store, digest, key)].sort((a, b) => b.offset - a.offset);
  if (best === undefined || best.offset <= own) return;
  const data = (name: string): string => join(store.layout.ingest(name), 'data');
  try {
    makeDirectories(dirname(data(key)), {sync: false});
    copyFileSync(data(best.key), data(key), constants.COPYFILE_FICLONE);
  } catch {
    // The disk is full, or the other one has finished: what was copied so far is its beginning.
  }
}

/** Removes what others have left of a blob that is here. */
export function discardOthers(store: Store, digest: Digest, key: string): void {
  for (const other of [...othersOf(store, digest, key)]) store.blobs.discardIdleIngest(other.key);
}
