/** How far something is, on standard error: bars on a terminal, lines in a log, JSON for programs, or nothing. */
import {isatty} from 'node:tty';
import type {ProgressEvent, PullResult} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';
import type {Context} from './context.ts';
import {formatJSON, lines, type Printable} from './output.ts';
import {formatSize} from './values.ts';

export type ProgressMode = 'auto' | 'tty' | 'plain' | 'json' | 'none';

export interface Progress {
  update(event: ProgressEvent): void;
  /** The closing lines; not called when it failed. */
  finish(result: PullResult): void;
  /** Leaves the terminal as it was. To be called on every path; may be called twice. */
  close(): void;
}

/** A log's reader wants to see that a long transfer still moves. */
const HEARTBEAT_MS = 10_000;

interface ProgressOptions {
  readonly progress: ProgressMode;
  /** Standard error is for programs. */
  readonly json: boolean;
  /** Standard error has other lines, too, which bars would be drawn over. */
  readonly debug: boolean;
}

/** @throws invalid_argument bars are asked for where there is no terminal */
export async function openProgress({progress, json, debug}: ProgressOptions, context: Context): Promise<Progress> {
  const isTerminal = isatty(2);
  const auto = isTerminal && !debug && process.env.TERM !== 'dumb' ? 'tty' : json ? 'json' : 'plain';
  switch (progress === 'auto' ? auto : progress) {
    case 'tty':
      if (!isTerminal)
        throw new ErrdefsError('invalid_argument', '--progress tty: standard error is not a terminal', {
          hint: 'use --progress plain or json',
        });
      return (await import('./bars.ts')).openBars(process.stderr);
    case 'plain':
      return new PlainProgress((line) => context.stderr(lines([line])));
    case 'json':
      return new JSONProgress((line) => context.stderr(`${line}\n` as Printable));
    case 'none':
      return {update: () => {}, finish: () => {}, close: () => {}};
  }
}

/** `elapsed: 0.9 s  total: 97.7 MiB (108.5 MiB/s)`, in parts. */
function summaryParts(elapsedMs: number, bytes: number): string[] {
  const rate = elapsedMs === 0 ? 0 : (bytes * 1000) / elapsedMs;
  return [`elapsed: ${(elapsedMs / 1000).toFixed(1)} s`, `  total: ${formatSize(bytes)}`, ` (${formatSize(rate)}/s)`];
}

/** As many of the parts, from the first, as the width has room for. */
function fitParts(parts: readonly string[], width: number): string {
  let text = '';
  for (const part of parts) {
    if (text.length + part.length > width) break;
    text += part;
  }
  return text === '' ? parts[0]!.slice(0, width) : text;
}

/** The last row of a pull, then what is unpacked now. */
export function closingLines({elapsedMs, transferredBytes, unpacked}: PullResult): string[] {
  return [summaryParts(elapsedMs, transferredBytes).join(''), ...unpacked.map(({chainID}) => `unpacked chain id: ${chainID}`)];
}

/** Time over which the rate is measured that tells the remaining time, in milliseconds; and between two of its samples. */
const RATE_WINDOW_MS = 10_000;
const RATE_SAMPLE_MS = 500;

/** States in which the bytes of a row are still on their way. */
const MOVING: readonly ProgressEvent['status'][] = ['waiting', 'downloading', 'checking'];

/** What all rows together have moved, and how long the rest will take. */
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
    // What an earlier attempt has left, or another process brings, is not transferred by this one.
    const isOurs = status === 'downloading' || status === 'checking';
    const first = before?.first ?? (isOurs ? offset : undefined);
    const grown = before === undefined || status === 'exists' ? 0 : Math.max(0, offset - before.event.offset);
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

  /** Bytes that came over the network, or were read. */
  get transferred(): number {
    return this.#sum(({event, first}) => (first === undefined ? 0 : Math.max(0, event.offset - first)));
  }

  /** Milliseconds until the last byte, at the rate of the last seconds; `undefined` while that is not known. */
  get remainingMs(): number | undefined {
    const left = this.#sum(({event: {status, offset, total}}) => (MOVING.includes(status) ? Math.max(0, total - offset) : 0));
    const [{at, moved}] = this.#samples as [{at: number; moved: number}];
    const recent = this.#sum((row) => row.moved) - moved;
    const time = this.#now() - at;
    return left === 0 || recent === 0 || time < RATE_SAMPLE_MS ? undefined : (left * time) / recent;
  }

  /** The row, as much of it as fits. */
  line(width = Number.POSITIVE_INFINITY): string {
    const remaining = this.remainingMs;
    const parts = summaryParts(this.#now() - this.#start, this.transferred);
    return fitParts(remaining === undefined ? parts : [...parts, `  remaining: ${formatRemaining(remaining)}`], width);
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

/** One line for each change of status, and a heartbeat while bytes move, with what all of it has come to. */
export class PlainProgress implements Progress {
  readonly #print: (line: string) => void;
  readonly #rows = new Map<string, ProgressEvent>();
  readonly #totals = new Totals();
  readonly #heartbeat: NodeJS.Timeout;

  constructor(print: (line: string) => void, heartbeatMs = HEARTBEAT_MS) {
    this.#print = print;
    this.#heartbeat = setInterval(() => this.#beat(), heartbeatMs);
    this.#heartbeat.unref();
  }

  update(event: ProgressEvent): void {
    const {ref, status, total} = event;
    if (this.#rows.get(ref)?.status !== status) this.#print(`${ref}: ${status}${total > 0 ? ` ${formatSize(total)}` : ''}`);
    this.#rows.set(ref, event);
    this.#totals.update(event);
  }

  #beat(): void {
    const moving = [...this.#rows.values()].filter(({status}) => ['downloading', 'extracting', 'checking'].includes(status));
    for (const {ref, status, offset, total} of moving) this.#print(`${ref}: ${status} ${formatSize(offset)}/${formatSize(total)}`);
    if (moving.length > 0) this.#print(this.#totals.line());
  }

  finish(result: PullResult): void {
    for (const line of closingLines(result)) this.#print(line);
  }

  close(): void {
    clearInterval(this.#heartbeat);
  }
}

/** Version of the objects; it changes when a field changes its meaning or goes. */
const JSON_VERSION = 1;

/** One object a line: every event, then what came of it. */
class JSONProgress implements Progress {
  readonly #print: (line: Printable) => void;

  constructor(print: (line: Printable) => void) {
    this.#print = print;
  }

  #send(type: string, fields: object): void {
    this.#print(formatJSON({version: JSON_VERSION, type, ...fields}));
  }

  update({ref, status, offset, total}: ProgressEvent): void {
    this.#send('progress', {ref, status, offset, total});
  }

  finish({elapsedMs, transferredBytes, unpacked}: PullResult): void {
    this.#send('done', {elapsedMs, transferredBytes, unpacked});
  }

  close(): void {}
}
