/** Rules of retries: how many, when, and the `Retry-After` header. */
import type {IncomingHttpHeaders} from 'node:http';
import {durationMs} from '../duration.ts';

/** Attempts per request, the first included. */
export const MAX_ATTEMPTS = 5;
/** The same, if another host follows. */
export const MAX_ATTEMPTS_WITH_FALLBACK = 2;
/** Consecutive attempts at a blob that may bring no bytes. */
export const MAX_IDLE_ATTEMPTS = 3;
/** The longest acceptable `Retry-After`, and the longest time that one request waits for cool-downs; beyond it the request fails. */
export const MAX_WAIT_MS = 60_000;

/** Statuses worth a retry. */
export const isTemporary = (status: number): boolean => status === 408 || status === 429 || (status >= 500 && status !== 501);

/**
 * Milliseconds of a `Retry-After` header; undefined if malformed. Besides the seconds and dates of RFC 9110, registries send Go
 * durations such as `880µs` or `1m30s`.
 *
 * @param header from undici: UTF-8 bytes as latin1 characters
 */
export function parseRetryAfter(header: string, now: number): number | undefined {
  const text = Buffer.from(header, 'latin1').toString().trim();
  const asked = /^\d+$/.test(text) ? Number(text) * 1000 : durationMs(text);
  // Many digits make Infinity, which JSON does not have.
  if (asked !== undefined) return Math.min(asked, Number.MAX_SAFE_INTEGER);
  // Date.parse is lenient; the header's three date formats all begin with a weekday.
  const date = /^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

/**
 * Milliseconds that a response asks to wait; undefined without a valid `Retry-After`. A date counts from the server's own `Date`: the clocks
 * of both sides may differ.
 */
export function retryAfterOf({'retry-after': header, date}: IncomingHttpHeaders): number | undefined {
  if (header === undefined) return undefined;
  const server = date === undefined ? Number.NaN : Date.parse(date);
  return parseRetryAfter(header, Number.isNaN(server) ? Date.now() : server);
}

/** Pause after the n-th failure (from 1), in milliseconds: doubles each time, with jitter. */
export const backoff = (n: number, baseMs: number): number => baseMs * 2 ** (n - 1) * (0.5 + Math.random());
