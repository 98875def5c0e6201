/** Totals of a transfer and its summary line, for every kind of progress display. */
import type {ProgressEvent, PullResult, PushResult} from '../lib/client/types/index.ts';
import {formatSize} from './value-formatters.ts';

/** What the closing lines tell of a pull or a push. */
export type Transferred = Pick<PullResult | PushResult, 'elapsedMs' | 'transferredBytes'> & Partial<Pick<PullResult, 'unpacked'>>;

export interface Progress {
  update(event: ProgressEvent): void;
  /** Shows the closing lines. Not called after a failure. */
  finish(result: Transferred): void;
  /** Restores the terminal. Must always be called; may be called twice. */
  close(): void;
}

/** Parts of `elapsed: 0.9 s  total: 97.7 MiB (108.5 MiB/s)`. */
function summaryParts(elapsedMs: number, bytes: number): string[] {
  const rate = elapsedMs === 0 ? 0 : (bytes * 1000) / elapsedMs;
  return [`elapsed: ${(elapsedMs / 1000).toFixed(1)} s`, `  total: ${formatSize(bytes)}`, ` (${formatSize(rate)}/s)`];
}

/** Joins the first parts that fit into the width. */
function joinFitting(parts: readonly string[], width: number): string {
  let text = '';
  for (const part of parts) {
    if (text.length + part.length > width) break;
    text += part;
  }
  return text === '' ? parts[0]!.slice(0, width) : text;
}

/** The summary, then a line for each unpacked image. */
export function closingLines({elapsedMs, transferredBytes, unpacked = []}: Transferred): string[] {
  return [summaryParts(elapsedMs, transferredBytes).join(''), ...unpacked.map(({chainID}) => `unpacked chain id: ${chainID}`)];
}

/** Period over which the current rate is measured, and between two of its samples, in milliseconds. */
const RATE_WINDOW_MS = 10_000;
const RATE_SAMPLE_MS = 500;

/** States in which bytes of a row are still outstanding. */
const MOVING: readonly ProgressEvent['status'][] = ['waiting', 'downloading', 'uploading', 'reading', 'checking'];

/** Sums over all rows: bytes transferred, and the time that the rest will take. */
export class Totals {
  readonly #now: () => number;
  readonly #start: number;
  readonly #rows = new Map<string, {readonly event: ProgressEvent; readonly first: number | undefined; readonly moved: number}>();
  readonly #samples: {readonly at: number; readonly moved: number}[];

  /** @param now a clock, in milliseconds */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#start = now();
    this.#samples = [{at: this.#start, moved: 0}];
  }

  update(event: ProgressEvent): void {
    const {ref, status, offset} = event;
    const before = this.#rows.get(ref);
    // Bytes of an earlier attempt or of another process are not counted.
    const isOurs = ['downloading', 'uploading', 'reading', 'checking'].includes(status);
    const first = before?.first ?? (isOurs ? offset : undefined);
    const grown = before === undefined || status === 'exists' || status === 'mounted' ? 0 : Math.max(0, offset - before.event.offset);
    this.#rows.set(ref, {event, first, moved: (before?.moved ?? 0) + (before?.first === undefined && isOurs ? 0 : grown)});
    const at = this.#now();
    if (at - this.#samples.at(-1)!.at < RATE_SAMPLE_MS) return;
    this.#samples.push({at, moved: this.#sum(({moved}) => moved)});
    while (this.#samples.length > 2 && at - this.#samples[1]!.at > RATE_WINDOW_MS) this.#samples.shift();
  }

  #sum(of: (row: {readonly event: ProgressEvent; readonly first: number | undefined; readonly moved: number}) => number): number {
    let sum = 0;
    for (const row of this.#rows.values()) sum += of(row);
    return sum;
  }

  /** Bytes that were downloaded, uploaded or read. */
  get transferred(): number {
    return this.#sum(({event, first}) => (first === undefined ? 0 : Math.max(0, event.offset - first)));
  }

  /** Milliseconds until the last byte, at the current rate; `undefined` while that is unknown. */
  get remainingMs(): number | undefined {
    const left = this.#sum(({event: {status, offset, total}}) => (MOVING.includes(status) ? Math.max(0, total - offset) : 0));
    const [{at, moved}] = this.#samples as [{at: number; moved: number}];
    const recent = this.#sum((row) => row.moved) - moved;
    const time = this.#now() - at;
    return left === 0 || recent === 0 || time < RATE_SAMPLE_MS ? undefined : (left * time) / recent;
  }

  /** The summary, cut to the width. */
  line(width = Number.POSITIVE_INFINITY): string {
    const remaining = this.remainingMs;
    const parts = summaryParts(this.#now() - this.#start, this.transferred);
    return joinFitting(remaining === undefined ? parts : [...parts, `  remaining: ${formatRemaining(remaining)}`], width);
  }
}

/** `8 s`, `3m20s`, `2h05m`. */
function formatRemaining(ms: number): string {
  const seconds = Math.ceil(ms / 1000);
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  const two = (n: number): string => String(n).padStart(2, '0');
  if (seconds < 60) return `${seconds} s`;
  return hours === 0 ? `${minutes}m${two(seconds % 60)}s` : `${hours}h${two(minutes % 60)}m`;
}
