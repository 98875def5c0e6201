/** When a request is repeated, and how long after. */
import {durationMs} from '../duration.ts';

/** Requests made for one, the first included. */
export const ATTEMPTS = 5;
/** The same, where there is another host to ask. */
export const ATTEMPTS_BEFORE_NEXT = 2;
/** Openings of a blob in a row that may bring nothing. */
export const IDLE_OPENINGS = 3;
/** The longest wait that a registry may ask for; asked for more, the request fails at once and says so. */
export const MAX_WAIT_MS = 60_000;

/** Statuses that another try may cure. */
export const isTemporary = (status: number): boolean => status === 408 || status === 429 || (status >= 500 && status !== 501);

/**
 * The wait that a `Retry-After` header asks for, in milliseconds; undefined when it cannot be read.
 *
 * Besides the seconds and dates of RFC 9110 registries write Go's durations, as in `880µs` or `1m30s`.
 *
 * @param header as undici gives it, that is, its UTF-8 bytes as latin1 characters
 */
export function parseRetryAfter(header: string, now: number): number | undefined {
  const text = Buffer.from(header, 'latin1').toString().trim();
  const asked = /^\d+$/.test(text) ? Number(text) * 1000 : durationMs(text);
  // Digits without end are no number that JSON has.
  if (asked !== undefined) return Math.min(asked, Number.MAX_SAFE_INTEGER);
  // Date.parse takes much that is no date; the header's three forms all begin with a day of the week.
  const date = /^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

/** Pause after the n-th failure (from 1), in milliseconds: doubling, and spread so that many clients do not return at once. */
export const backoff = (n: number, baseMs: number): number => baseMs * 2 ** (n - 1) * (0.5 + Math.random());
