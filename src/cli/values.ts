/** Values as people write them, to the library's units and back. */

import type {Labels} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';

const DURATION_MS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
const DURATION_PART = /(\d+\.?\d*|\.\d+)(ns|[uµμ]s|ms|[smhd])/g;

/**
 * Milliseconds of a duration such as `10s`, `1m30s`, `1.5h`, `7d` or `500ms`; `0` needs no unit.
 *
 * @throws invalid_argument
 *
 * Syntax of Go's time.ParseDuration, which ctr's flags take, without signs; days are ours.
 */
export function parseDuration(text: string): number {
  if (text === '0') return 0;
  const parts = [...text.matchAll(DURATION_PART)];
  if (parts.length === 0 || parts.map(([whole]) => whole).join('') !== text)
    throw new ErrdefsError('invalid_argument', `${JSON.stringify(text)} is not a duration (try ${/^\d+$/.test(text) ? text : '10'}s)`);
  return parts.reduce((sum, [, amount, unit]) => sum + Number(amount) * DURATION_MS[unit!]!, 0);
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

/** `k=v,…` sorted by key; `-` for none. */
export function formatLabels(labels: Labels): string {
  const keys = Object.keys(labels).sort();
  return keys.length === 0 ? '-' : keys.map((key) => `${key}=${labels[key]}`).join(',');
}

const SIZE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** @param bytes such as 76 231 475, which gives `72.7 MiB` */
export function formatSize(bytes: number): string {
  let unit = 0;
  let value = bytes;
  // What would be rounded to "1024.0" already belongs to the next unit.
  while (value >= 1023.95 && unit < SIZE_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${value.toFixed(1)} ${SIZE_UNITS[unit]}`;
}

/** @param ms an age in milliseconds, which gives `2 hours`; words as docker's and containerd's listings have them */
export function formatAge(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  const hours = Math.round(minutes / 60);
  if (seconds < 1) return 'Less than a second';
  if (seconds === 1) return '1 second';
  if (seconds < 60) return `${seconds} seconds`;
  if (minutes === 1) return 'About a minute';
  if (minutes < 60) return `${minutes} minutes`;
  if (hours === 1) return 'About an hour';
  if (hours < 48) return `${hours} hours`;
  if (hours < 24 * 7 * 2) return `${Math.floor(hours / 24)} days`;
  if (hours < 24 * 30 * 2) return `${Math.floor(hours / 24 / 7)} weeks`;
  if (hours < 24 * 365 * 2) return `${Math.floor(hours / 24 / 30)} months`;
  return `${Math.floor(hours / 24 / 365)} years`;
}

/** The object without its undefined members, for options that may be absent but not undefined. */
export const defined = <T extends object>(object: T): {[K in keyof T]?: Exclude<T[K], undefined>} =>
  Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as never;
