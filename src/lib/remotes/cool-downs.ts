/** Cool-downs of registries: until when an origin asks not to be asked. */
import {ErrdefsError} from '../errdefs.ts';
import {MAX_WAIT_MS} from './retry.ts';
import type {CoolDown, CoolDowns} from './types.ts';

/** The longest cool-down that is believed, in milliseconds: some registries ask for more than a lifetime. */
const LONGEST_MS = 24 * 3600_000;

/** Cool-downs of one remote. */
export function ownCoolDowns(): CoolDowns {
  const known = new Map<string, CoolDown>();
  return {find: (origin) => known.get(origin), put: (origin, coolDown) => void known.set(origin, coolDown)};
}

/**
 * The end of an origin's cool-down. It counts for a minute: then one request asks again, or a wait of hours would lock out somebody who has
 * logged in meanwhile.
 */
function endOf(coolDown: CoolDown | undefined, now: number): number {
  if (coolDown === undefined || Math.abs(now - coolDown.askedAt) > MAX_WAIT_MS) return now;
  return Math.min(coolDown.end, now + LONGEST_MS);
}

/** Begins a cool-down. @param status of the response that asks for it @param ms its length */
export function coolDown(coolDowns: CoolDowns, {origin}: URL, status: number, ms: number): void {
  const now = Date.now();
  const end = now + Math.min(ms, LONGEST_MS);
  if (end > endOf(coolDowns.find(origin), now)) coolDowns.put(origin, {end, askedAt: now, status});
}

/** The time for which one request may wait for cool-downs. */
export class WaitBudget {
  readonly #coolDowns: CoolDowns;
  #left: number;

  /** @param ms 0: another host follows, so there is nothing to wait for */
  constructor(coolDowns: CoolDowns, ms: number) {
    this.#coolDowns = coolDowns;
    this.#left = ms;
  }

  /**
   * The time until the end of an origin's cool-down, in milliseconds; 0 for none.
   *
   * @param what verb and object, for the error
   * @throws resource_exhausted the request may not wait so long; unavailable: neither, and the registry was not well
   */
  take({origin, host}: URL, what: string): number {
    const now = Date.now();
    const known = this.#coolDowns.find(origin);
    const end = endOf(known, now);
    if (known === undefined || end <= now) return 0;
    if (end - now > this.#left) {
      const until = new Date(end).toISOString();
      const details = {host, retryAfterMs: end - now, until};
      if (known.status !== 429) throw new ErrdefsError('unavailable', `${what}: ${host} asks for no requests until ${until}`, {details});
      throw new ErrdefsError('resource_exhausted', `${what}: ${host} allows no more requests until ${until}`, {
        hint: 'try again then; many registries allow more to those who are logged in',
        details,
      });
    }
    this.#left -= end - now;
    return end - now;
  }
}
