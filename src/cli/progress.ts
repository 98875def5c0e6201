/** How far something is, on standard error: bars on a terminal, lines in a log, JSON for programs, or nothing. */
import {isatty} from 'node:tty';
import type {ProgressEvent, PullResult} from '../lib/client/types.ts';
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

/** @param otherLines standard error has lines of others, too, which bars would be drawn over */
export async function openProgress(mode: ProgressMode, context: Context, otherLines = false): Promise<Progress> {
  switch (mode === 'auto' ? (!otherLines && isatty(2) && process.env.TERM !== 'dumb' ? 'tty' : 'plain') : mode) {
    case 'tty':
      return (await import('./bars.ts')).openBars(process.stderr);
    case 'plain':
      return new PlainProgress((line) => context.stderr(lines([line])));
    case 'json':
      return new JSONProgress((line) => context.stderr(`${line}\n` as Printable));
    case 'none':
      return {update: () => {}, finish: () => {}, close: () => {}};
  }
}

/** `elapsed: 0.9 s  total: 97.7 MiB (108.5 MiB/s)`, then what is unpacked now. */
export function closingLines({elapsedMs, transferredBytes, unpacked}: PullResult): string[] {
  const rate = elapsedMs === 0 ? 0 : (transferredBytes * 1000) / elapsedMs;
  return [
    `elapsed: ${(elapsedMs / 1000).toFixed(1)} s  total: ${formatSize(transferredBytes)} (${formatSize(rate)}/s)`,
    ...unpacked.map(({chainID}) => `unpacked chain id: ${chainID}`),
  ];
}

/** One line for each change of status, and a heartbeat while bytes move. */
export class PlainProgress implements Progress {
  readonly #print: (line: string) => void;
  readonly #rows = new Map<string, ProgressEvent>();
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
  }

  #beat(): void {
    for (const {ref, status, offset, total} of this.#rows.values())
      if (status === 'downloading' || status === 'extracting' || status === 'checking')
        this.#print(`${ref}: ${status} ${formatSize(offset)}/${formatSize(total)}`);
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
