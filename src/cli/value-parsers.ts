/** Parsers of values that people write: durations, sizes, numbers, labels. */
import type {Labels} from '../lib/client/types/index.ts';
import {durationMs} from '../lib/duration.ts';
import {ErrdefsError} from '../lib/errdefs.ts';

/**
 * Milliseconds of a duration such as `10s`, `1m30s`, `1.5h`, `7d` or `500ms`; `0` needs no unit.
 *
 * @throws invalid_argument
 */
export function parseDuration(text: string): number {
  const ms = durationMs(text, {days: true});
  if (ms === undefined)
    throw new ErrdefsError('invalid_argument', `${JSON.stringify(text)} is not a duration (try ${/^\d+$/.test(text) ? text : '10'}s)`);
  return ms;
}

/**
 * A time as in RFC 3339, or a duration before now.
 *
 * @throws invalid_argument
 */
export function parseSince(text: string): Date {
  const ms = durationMs(text, {days: true});
  const date = ms === undefined ? new Date(/^\d{4}-\d\d-\d\d/.test(text) ? text : Number.NaN) : new Date(Date.now() - ms);
  if (Number.isNaN(date.getTime()))
    throw new ErrdefsError('invalid_argument', `${JSON.stringify(text)} is no time (try 10m, or 2026-01-31T12:00:00Z)`);
  return date;
}

const SIZE_SUFFIXES = ['', 'k', 'm', 'g', 't'];

/**
 * Bytes of a size such as `65536`, `512M` or `1.5GiB`; the units are powers of 1024.
 *
 * @throws invalid_argument
 */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?$/.exec(text.toLowerCase());
  if (match === null) throw new ErrdefsError('invalid_argument', `${JSON.stringify(text)} is not a size (try 512M)`);
  return Math.round(Number(match[1]) * 1024 ** SIZE_SUFFIXES.indexOf(match[2]!));
}

/** @throws invalid_argument not a decimal number above 0 */
export function parseDecimal(text: string): number {
  if (!/^\d+(\.\d+)?$/.test(text) || Number(text) === 0)
    throw new ErrdefsError('invalid_argument', `${JSON.stringify(text)} is not a number above 0`);
  return Number(text);
}

/** @throws invalid_argument not a whole number above 0 */
export function parseCount(text: string): number {
  if (!/^\d{1,15}$/.test(text) || Number(text) === 0)
    throw new ErrdefsError('invalid_argument', `${JSON.stringify(text)} is not a whole number above 0`);
  return Number(text);
}

/** `k=v` words to labels; a word without `=` has the value `true`, as in ctr. */
export const parseLabels = (words: readonly string[]): Labels =>
  Object.fromEntries(
    words.map((word) => {
      const equals = word.indexOf('=');
      const key = equals === -1 ? word : word.slice(0, equals);
      if (key === '') throw new ErrdefsError('invalid_argument', `label ${JSON.stringify(word)} has no key`);
      return [key, equals === -1 ? 'true' : word.slice(equals + 1)];
    }),
  );

const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/;

/**
 * A time in RFC 3339, from that or from seconds since 1970.
 *
 * @throws invalid_argument
 */
export function parseTime(text: string): string {
  if (RFC_3339.test(text) && !Number.isNaN(Date.parse(text))) return text;
  // The last second of the year 9999.
  if (/^\d{1,12}$/.test(text) && Number(text) <= 253_402_300_799) return new Date(Number(text) * 1000).toISOString().replace('.000Z', 'Z');
  throw new ErrdefsError('invalid_argument', `${JSON.stringify(text)} is not a time (try 2024-01-31T12:00:00Z, or seconds since 1970)`);
}

/** Words given one by one, or all at once as a JSON list; a single empty word is none. @throws invalid_argument */
export function parseWords(words: readonly string[]): readonly string[] {
  const [first = ''] = words;
  if (words.length !== 1 || !first.startsWith('[')) return words.length === 1 && first === '' ? [] : words;
  let value: unknown;
  try {
    value = JSON.parse(first);
  } catch {
    value = undefined;
  }
  if (!Array.isArray(value) || !value.every((word) => typeof word === 'string'))
    throw new ErrdefsError('invalid_argument', `${JSON.stringify(first)} is not a JSON list of strings`);
  return value as readonly string[];
}

/** @throws failed_precondition what a registry calls `what` is not JSON */
export function parseJSON(bytes: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString());
  } catch (err) {
    throw new ErrdefsError('failed_precondition', `${what} is not JSON`, {cause: err});
  }
}
