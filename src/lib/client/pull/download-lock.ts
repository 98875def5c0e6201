/**
 * A lock between processes for the download of one blob. A holder that makes no progress is overtaken: the first waiter starts an
 * ingest of its own, with a copy of the holder's bytes. Ingests share nothing but the digest, so a holder that resumes later does no
 * harm: its blob replaces an equal one.
 */
import {constants, copyFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {hasCode} from '../../errdefs.ts';
import {makeDirectories} from '../../fs/durable.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {downloadKey, ingestKey} from '../../store/blob-store.ts';
import type {Store} from '../../store/store.ts';

export interface DownloadLock extends Disposable {
  /** Key of the ingest. */
  readonly key: string;
}

export interface DownloadLockOptions {
  /** A holder without progress or sign of life for so long is overtaken; in milliseconds. */
  readonly timeoutMs: number;
  readonly purpose: string;
  readonly signal?: AbortSignal;
  /** Called repeatedly while another process holds the lock, with the bytes it has. */
  readonly onWait?: (offset: number) => void;
}

/** Milliseconds between two checks of the holder. */
const LOOK_MS = 250;

/** Key of a blob's n-th concurrent ingest, from 0. Its namespace is empty, so it cannot collide with a user's ingest. */
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
        signal: signal === undefined ? overtake.signal : AbortSignal.any([signal, overtake.signal]),
        onWait: follow,
      });
      return {key, [Symbol.dispose]: () => lock.release()};
    } catch (err) {
      // A stopped holder (SIGSTOP) shows no sign of life.
      if (signal?.aborted || !(overtake.signal.aborted || hasCode(err, 'unavailable'))) throw err;
    } finally {
      clearInterval(watch);
    }
  }
}

/** @returns a function that says whether the holder has made progress since the last call: received bytes, or works on complete ones */
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

/** Other ingests of a blob, as far as they have bytes. */
function* othersOf(store: Store, digest: Digest, key: string): Generator<{readonly key: string; readonly offset: number}> {
  for (let n = 0; ; n++) {
    const other = keyOf(digest, n);
    const state = store.blobs.ingestState(other);
    if (state === undefined && n > 0 && other !== key) return;
    if (state !== undefined && other !== key) yield {key: other, offset: state.offset};
  }
}

/** Bytes of a blob that are present already, complete or not. */
export const bytesHere = (store: Store, digest: Digest): number =>
  Math.max(
    store.blobs.ingestState(downloadKey(digest))?.offset ?? 0,
    ...[...othersOf(store, digest, downloadKey(digest))].map(({offset}) => offset),
  );

/** Copies the bytes of the longest ingest of a blob into the ingest `key`, if it has fewer. The digest is checked at the end. */
export function copyProgress(store: Store, digest: Digest, key: string): void {
  const own = store.blobs.ingestState(key)?.offset ?? 0;
  const [best] = [...othersOf(store, digest, key)].sort((a, b) => b.offset - a.offset);
  if (best === undefined || best.offset <= own) return;
  const data = (name: string): string => join(store.layout.ingest(name), 'data');
  try {
    makeDirectories(dirname(data(key)), {sync: false});
    copyFileSync(data(best.key), data(key), constants.COPYFILE_FICLONE);
  } catch {
    // The disk is full, or the other ingest has finished: what was copied is a valid prefix.
  }
}

/** Removes the other ingests of a blob that is complete. */
export function discardOthers(store: Store, digest: Digest, key: string): void {
  for (const other of [...othersOf(store, digest, key)]) store.blobs.discardIdleIngest(other.key);
}
