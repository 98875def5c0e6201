/** Which repositories of a registry have a blob, as several copies to it find out. */
import type {Digest} from '../../oci/descriptor.ts';
import type {BlobOutcome, Repository} from './types.ts';

/**
 * What one copy has put into a registry another one mounts from there. Copies that want to put one blob into the same registry at the
 * same time take turns, so that it is sent once.
 */
export class BlobLocations {
  readonly #paths = new Map<string, Set<string>>();
  readonly #putting = new Map<string, Promise<unknown>>();

  /**
   * @param put gets the repositories that are known to have the blob
   * @throws the signal's reason, aborted while another copy has its turn
   */
  async put(
    {domain, path}: Repository,
    digest: Digest,
    put: (from: readonly string[]) => Promise<BlobOutcome>,
    signal: AbortSignal,
  ): Promise<BlobOutcome> {
    const key = `${domain}@${digest}`;
    for (let other = this.#putting.get(key); other !== undefined; other = this.#putting.get(key)) await settled(other, signal);
    const putting = put([...(this.#paths.get(key) ?? [])]);
    this.#putting.set(key, putting);
    try {
      const outcome = await putting;
      const paths = this.#paths.get(key) ?? new Set();
      this.#paths.set(key, paths.add(path));
      return outcome;
    } finally {
      this.#putting.delete(key);
    }
  }
}

/** Waits until a promise is settled, whichever way. */
async function settled(promise: Promise<unknown>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const {promise: aborted, reject} = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener('abort', onAbort, {once: true});
  try {
    await Promise.race([promise.catch(() => undefined), aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
