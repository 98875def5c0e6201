/** Progress as lines: text for logs, JSON for programs. */
import type {ProgressEvent} from '../lib/client/types/index.ts';
import {formatJSON, type Printable} from './printable.ts';
import {closingLines, type Progress, Totals, type Transferred} from './progress-totals.ts';
import {formatSize} from './value-formatters.ts';

/** Period of the lines that show that a long transfer still moves. */
const HEARTBEAT_MS = 10_000;

/** A line for each change of status, and every 10 s a line for each moving row and the totals. */
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
    const moving = [...this.#rows.values()].filter(({status}) =>
      ['downloading', 'uploading', 'reading', 'extracting', 'checking'].includes(status),
    );
    for (const {ref, status, offset, total} of moving) this.#print(`${ref}: ${status} ${formatSize(offset)}/${formatSize(total)}`);
    if (moving.length > 0) this.#print(this.#totals.line());
  }

  finish(result: Transferred): void {
    for (const line of closingLines(result)) this.#print(line);
  }

  close(): void {
    clearInterval(this.#heartbeat);
  }
}

/** Version of the objects; it changes when a field is removed or changes its meaning. */
const JSON_VERSION = 1;

/** A line of JSON for each event, and one for the result. */
export class JSONProgress implements Progress {
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

  finish({elapsedMs, transferredBytes, unpacked}: Transferred): void {
    this.#send('done', {elapsedMs, transferredBytes, ...(unpacked && {unpacked})});
  }

  close(): void {}
}
