/** Progress bars on a terminal: a row for each blob or layer, and a last row with the totals. */
import {Chalk, chalkStderr} from 'chalk';
import {MultiBar, type SingleBar} from 'cli-progress';
import type {ProgressEvent} from '../lib/client/types/index.ts';
import {lines, printable} from './printable.ts';
import {closingLines, type Progress, Totals, type Transferred} from './progress-totals.ts';
import {formatSize} from './value-formatters.ts';

/** A terminal that bars are drawn on. */
export type Screen = NodeJS.WritableStream & {readonly columns?: number; readonly rows?: number};

const BAR = 40;
const NARROW_BAR = 10;
const STATUS = 'downloading'.length;
const SIZES = '1023.9 MiB/1023.9 MiB'.length;
const MOVING = new Set<ProgressEvent['status']>(['downloading', 'uploading', 'reading', 'extracting', 'committing', 'checking']);
const ENDED = new Set<ProgressEvent['status']>(['done', 'exists', 'mounted', 'resolved']);
/** Columns that a bar needs, and columns that sizes need; below that a percentage replaces them. */
const WIDE = 60;
const NARROW = 46;

export const openBars = (screen: Screen): Progress => new Bars(screen);

class Bars implements Progress {
  readonly #screen: Screen;
  readonly #multibar: MultiBar;
  readonly #slots: SingleBar[] = [];
  readonly #rows = new Map<string, ProgressEvent>();
  readonly #green: (text: string) => string;
  readonly #totals = new Totals();
  /** The last row after the end. */
  #closing: string | undefined;
  #open = true;

  constructor(screen: Screen) {
    this.#screen = screen;
    this.#green = new Chalk({level: colorLevel()}).green;
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
    this.#totals.update(event);
    this.#fillSlots();
  }

  finish(result: Transferred): void {
    // The last frame is never redrawn, so it may be higher than the screen.
    const [summary, ...more] = closingLines(result);
    this.#closing = summary;
    this.#fillSlots();
    this.close();
    this.#screen.write(lines(more));
  }

  close(): void {
    process.off('exit', this.#restore);
    this.#restore();
  }

  readonly #restore = (): void => {
    if (this.#open && this.#slots.length > 0) this.#multibar.stop();
    this.#open = false;
  };

  /** Rows that fit: a frame that is higher than the screen cannot be redrawn. */
  get #height(): number {
    return this.#closing !== undefined ? Number.POSITIVE_INFINITY : Math.max(1, (this.#screen.rows ?? 24) - 1);
  }

  #fillSlots(): void {
    while (this.#slots.length < Math.min(this.#rows.size + 1, this.#height))
      this.#slots.push(this.#multibar.create(1, 0, {slot: this.#slots.length}));
  }

  /** Rows that are shown, in the order of their first event. If not all fit, moving rows come first, then waiting ones, then done ones. */
  #visible(): readonly ProgressEvent[] {
    const rows = [...this.#rows.values()];
    const room = this.#slots.length - 1;
    if (rows.length <= room) return rows;
    const urgency = ({status}: ProgressEvent): number => (MOVING.has(status) ? 0 : ENDED.has(status) ? 2 : 1);
    const shown = new Set([...rows].sort((a, b) => urgency(a) - urgency(b)).slice(0, Math.max(0, room - 1)));
    return rows.filter((row) => shown.has(row));
  }

  #draw(slot: number, width: number): string {
    if (slot === this.#slots.length - 1) return this.#closing?.slice(0, width) ?? this.#totals.line(width);
    const visible = this.#visible();
    const row = visible[slot];
    if (row === undefined) return `… and ${this.#rows.size - visible.length} more`.slice(0, width);
    const {ref, status, offset, total} = row;
    const share = ENDED.has(status) ? 1 : total === 0 ? 0 : Math.min(1, offset / total);
    const sizes = total > 0 && share < 1 ? ` ${formatSize(offset)}/${formatSize(total)}` : '';
    if (width < WIDE) {
      const figures = width < NARROW ? (sizes === '' ? '' : ` ${Math.floor(share * 100)}%`) : sizes;
      const name = Math.max(8, width - STATUS - 2 - (width < NARROW ? ' 100%'.length : SIZES + 1));
      return `${`${shorten(ref, name)}:`.padEnd(name + 1)} ${status.padEnd(STATUS)}${figures}`.trimEnd().slice(0, width);
    }
    const full = Math.max(...visible.map((other) => other.ref.length + 1));
    const others = STATUS + SIZES + 3;
    const name = Math.max(20, Math.min(full, width - others - NARROW_BAR - 2));
    const bar = Math.max(0, Math.min(BAR, width - others - name) - 2);
    const filled = Math.round(bar * share);
    return (
      `${shorten(ref, name - 1)}: `.padEnd(name + 1) +
      `${status.padEnd(STATUS)} |${this.#green('+'.repeat(filled))}${'-'.repeat(bar - filled)}|${sizes}`
    );
  }
}

/** By the conventions of NO_COLOR, which wins, and CLICOLOR_FORCE; else what the terminal says that it can. */
function colorLevel({NO_COLOR, CLICOLOR_FORCE}: NodeJS.ProcessEnv = process.env): typeof chalkStderr.level {
  if (NO_COLOR) return 0;
  return CLICOLOR_FORCE && CLICOLOR_FORCE !== '0' && chalkStderr.level === 0 ? 1 : chalkStderr.level;
}

/** Shortens a digest at its end and a reference at its beginning. */
function shorten(ref: string, width: number): string {
  const text = printable(ref);
  if (text.length <= width) return text;
  return /-sha\d+:/.test(text) ? `${text.slice(0, width - 1)}…` : `…${text.slice(1 - width)}`;
}
