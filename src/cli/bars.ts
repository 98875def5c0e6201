/** Progress bars on a terminal, a row for each thing that is on its way. */
import {Chalk, chalkStderr} from 'chalk';
import {MultiBar, type SingleBar} from 'cli-progress';
import type {ProgressEvent, PullResult} from '../lib/client/types.ts';
import {lines, printable} from './output.ts';
import {closingLines, type Progress} from './progress.ts';
import {formatSize} from './values.ts';

/** What the bars need of a terminal. */
export type Screen = NodeJS.WritableStream & {readonly columns?: number; readonly rows?: number};

const BAR = 40;
const NARROW_BAR = 10;
const STATUS = 'downloading'.length;
const SIZES = '1023.9 MiB/1023.9 MiB'.length;

export const openBars = (screen: Screen): Progress => new Bars(screen);

class Bars implements Progress {
  readonly #screen: Screen;
  readonly #multibar: MultiBar;
  readonly #slots: SingleBar[] = [];
  readonly #rows = new Map<string, ProgressEvent>();
  readonly #green: (text: string) => string;
  #finished = false;
  #open = true;

  constructor(screen: Screen) {
    this.#screen = screen;
    this.#green = new Chalk({level: process.env.NO_COLOR ? 0 : chalkStderr.level}).green;
    this.#multibar = new MultiBar({
      stream: screen,
      fps: 10,
      hideCursor: true,
      linewrap: false,
      format: (_options, {maxWidth}: {maxWidth?: number}, {slot}: {slot: number}) => this.#draw(slot, maxWidth ?? 80),
    });
    process.once('exit', this.#restore);
  }

  update(event: ProgressEvent): void {
    this.#rows.set(event.ref, event);
    this.#fillSlots();
  }

  finish(result: PullResult): void {
    // The last frame is never redrawn, so it may be higher than the screen.
    this.#finished = true;
    this.#fillSlots();
    this.close();
    this.#screen.write(lines(closingLines(result)));
  }

  close(): void {
    process.off('exit', this.#restore);
    this.#restore();
  }

  readonly #restore = (): void => {
    if (this.#open && this.#slots.length > 0) this.#multibar.stop();
    this.#open = false;
  };

  /** Rows that fit: a frame higher than the screen could not be drawn over. */
  get #height(): number {
    return this.#finished ? Number.POSITIVE_INFINITY : Math.max(1, (this.#screen.rows ?? 24) - 1);
  }

  #fillSlots(): void {
    while (this.#slots.length < Math.min(this.#rows.size, this.#height))
      this.#slots.push(this.#multibar.create(1, 0, {slot: this.#slots.length}));
  }

  /** What is shown: everything, or what moves before what waits and what is done, in the order in which it appeared. */
  #visible(): readonly ProgressEvent[] {
    const rows = [...this.#rows.values()];
    if (rows.length <= this.#slots.length) return rows;
    const urgency = ({status}: ProgressEvent): number =>
      ['downloading', 'extracting', 'committing', 'checking'].includes(status) ? 0 : status === 'done' || status === 'exists' ? 2 : 1;
    const shown = new Set([...rows].sort((a, b) => urgency(a) - urgency(b)).slice(0, this.#slots.length - 1));
    return rows.filter((row) => shown.has(row));
  }

  #draw(slot: number, width: number): string {
    const visible = this.#visible();
    const row = visible[slot];
    if (row === undefined) return `… and ${this.#rows.size - visible.length} more`;
    const full = Math.max(...visible.map(({ref}) => ref.length + 1));
    const others = STATUS + SIZES + 3;
    const name = Math.max(20, Math.min(full, width - others - NARROW_BAR - 2));
    const bar = Math.max(0, Math.min(BAR, width - others - name) - 2);
    const {ref, status, offset, total} = row;
    const share = status === 'done' || status === 'exists' || status === 'resolved' ? 1 : total === 0 ? 0 : Math.min(1, offset / total);
    const filled = Math.round(bar * share);
    const sizes = total > 0 && share < 1 ? ` ${formatSize(offset)}/${formatSize(total)}` : '';
    return (
      `${shorten(ref, name - 1)}: `.padEnd(name + 1) +
      `${status.padEnd(STATUS)} |${this.#green('+'.repeat(filled))}${'-'.repeat(bar - filled)}|${sizes}`
    );
  }
}

/** Of a digest the beginning says enough, of a reference the end. */
function shorten(ref: string, width: number): string {
  const text = printable(ref);
  if (text.length <= width) return text;
  return /-sha\d+:/.test(text) ? `${text.slice(0, width - 1)}…` : `…${text.slice(1 - width)}`;
}
