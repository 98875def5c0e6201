/** Limits the rate of transfers. */
import {setTimeout as sleep} from 'node:timers/promises';

/** Pauses shorter than this are saved up: a timer is not more exact. */
const SHORTEST_MS = 2;

/**
 * A rate that all connections share. What has been transferred is paid for by a pause afterwards, in the order of the calls: time without
 * transfers is not saved up, so there are no bursts.
 */
export class RateLimit {
  readonly #bytesPerMs: number;
  /** When everything so far is paid for, in milliseconds of `performance.now()`. */
  #paidAt = 0;

  /** @param rate bytes per second */
  constructor(rate: number) {
    this.#bytesPerMs = rate / 1000;
  }

  /** Counts bytes that were transferred. @returns the pause that they cost; undefined for none */
  pay(bytes: number, signal?: AbortSignal): Promise<void> | undefined {
    const now = performance.now();
    this.#paidAt = Math.max(this.#paidAt, now) + bytes / this.#bytesPerMs;
    const ms = this.#paidAt - now;
    if (ms < SHORTEST_MS) return undefined;
    return sleep(ms, undefined, signal === undefined ? {} : {signal});
  }
}

const shared = new Map<number, RateLimit>();

/** The limit of this rate that all remotes of the process share. @param rate bytes per second */
export function sharedRateLimit(rate: number): RateLimit {
  let limit = shared.get(rate);
  if (limit === undefined) {
    limit = new RateLimit(rate);
    shared.set(rate, limit);
  }
  return limit;
}
