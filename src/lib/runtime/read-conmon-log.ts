/**
 * Reads the log that conmon keeps of a container's output. A line is `TIME STREAM F|P TEXT`: of a full line, or of a part of one that the
 * next entries of the stream go on with.
 *
 * With a size limit conmon begins the log anew: it renames a new file over the old one. A reader that has the old file open reads it to its end
 * first. It misses what was written between two looks if the log was begun anew twice meanwhile: no name is left of that file.
 */
import {Buffer} from 'node:buffer';
import {closeSync, fstatSync, openSync, readSync, statSync} from 'node:fs';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError, fromErrno} from '../errdefs.ts';

export interface LogEntry {
  /** RFC 3339 with nanoseconds, as conmon wrote it. */
  readonly time: string;
  readonly stream: 'stdout' | 'stderr';
  /** As the container wrote it; with its newline if it is the end of a line. */
  readonly data: Buffer;
}

export interface LogRequest {
  readonly follow?: boolean;
  /** Milliseconds since 1970. */
  readonly since?: number;
  readonly until?: number;
  /** The last lines only; parts of a line count as one. */
  readonly tail?: number;
  readonly signal?: AbortSignal;
  /** Whether more can come; asked only when following. */
  readonly isLive: () => boolean;
}

const CHUNK = 64 << 10;
const POLL_MS = 50;
const NEWLINE = 10;
const SPACE = 32;

interface Entry extends LogEntry {
  readonly full: boolean;
}

/** @returns `undefined` for a line that is not conmon's, such as the last of a conmon that was killed */
function parseEntry(line: Buffer): Entry | undefined {
  const first = line.indexOf(SPACE);
  const second = line.indexOf(SPACE, first + 1);
  const third = line.indexOf(SPACE, second + 1);
  if (first < 0 || second < 0 || third < 0) return undefined;
  const stream = line.toString('latin1', first + 1, second);
  const kind = line.toString('latin1', second + 1, third);
  if ((stream !== 'stdout' && stream !== 'stderr') || (kind !== 'F' && kind !== 'P')) return undefined;
  const full = kind === 'F';
  // The newline after a part is the log's, that after a full line the container's.
  const data = Buffer.from(full ? line.subarray(third + 1) : line.subarray(third + 1, -1));
  return {time: line.toString('latin1', 0, first), stream, data, full};
}

/** Lines of an open file from where it was read last, each with its newline; what has no newline yet is kept for the next call. */
class LineReader {
  readonly #fd: number;
  #position = 0;
  #rest: Buffer = Buffer.alloc(0);

  constructor(fd: number) {
    this.#fd = fd;
  }

  *lines(): Generator<Buffer> {
    for (;;) {
      const chunk = Buffer.allocUnsafe(CHUNK);
      const length = readSync(this.#fd, chunk, 0, CHUNK, this.#position);
      if (length === 0) return;
      this.#position += length;
      const text = this.#rest.length === 0 ? chunk.subarray(0, length) : Buffer.concat([this.#rest, chunk.subarray(0, length)]);
      let start = 0;
      for (let end = text.indexOf(NEWLINE); end >= 0; end = text.indexOf(NEWLINE, start)) {
        yield text.subarray(start, end + 1);
        start = end + 1;
      }
      this.#rest = Buffer.from(text.subarray(start));
    }
  }
}

/** Number of the line that each entry belongs to: a line begins with its first part. */
class LineCounter {
  lines = 0;
  readonly #open = new Map<string, number>();

  next({stream, full}: Entry): number {
    let number = this.#open.get(stream);
    if (number === undefined) {
      number = this.lines;
      this.lines += 1;
      this.#open.set(stream, number);
    }
    if (full) this.#open.delete(stream);
    return number;
  }
}

function openLog(file: string): number | undefined {
  try {
    return openSync(file, 'r');
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw fromErrno(err, 'log');
  }
}

/** Whether the log has been begun anew since this file was opened. */
function isReplaced(fd: number, file: string): boolean {
  const [opened, now] = [fstatSync(fd), statSync(file, {throwIfNoEntry: false})];
  return now !== undefined && (now.ino !== opened.ino || now.dev !== opened.dev);
}

/**
 * Entries of a log, oldest first.
 *
 * @throws canceled `signal` was aborted
 */
export async function* readLog(file: string, {follow = false, since, until, tail, signal, isLive}: LogRequest): AsyncGenerator<LogEntry> {
  let fd = openLog(file);
  let counter = new LineCounter();
  let skipped = 0;
  /** Of the times asked for; and whether any later one can be. */
  const within = ({time}: LogEntry): boolean => {
    const at = Date.parse(time);
    return (since === undefined || at >= since) && (until === undefined || at < until);
  };
  const isOver = ({time}: LogEntry): boolean => until !== undefined && Date.parse(time) >= until;
  function* entriesOf(reader: LineReader): Generator<Entry> {
    for (const line of reader.lines()) {
      const entry = parseEntry(line);
      if (entry !== undefined) yield entry;
    }
  }
  try {
    if (fd !== undefined && tail !== undefined) {
      for (const entry of entriesOf(new LineReader(fd))) if (within(entry)) counter.next(entry);
      skipped = counter.lines - tail;
      counter = new LineCounter();
    }
    let reader = fd === undefined ? undefined : new LineReader(fd);
    for (let last = false; ; ) {
      if (signal?.aborted === true) throw new ErrdefsError('canceled', 'logs', {cause: signal.reason});
      // Asked before the log is read to its end, so that nothing comes after the last look.
      const live = follow && isLive();
      const replaced = fd !== undefined && isReplaced(fd, file);
      for (const entry of reader === undefined ? [] : entriesOf(reader)) {
        if (isOver(entry)) return;
        if (!within(entry) || counter.next(entry) < skipped) continue;
        yield {time: entry.time, stream: entry.stream, data: entry.data};
      }
      if (fd === undefined || replaced) {
        const next = openLog(file);
        if (next !== undefined) {
          if (fd !== undefined) closeSync(fd);
          fd = next;
          reader = new LineReader(fd);
          continue;
        }
      }
      if (last || !follow || (until !== undefined && Date.now() >= until)) return;
      if (!live) {
        last = true;
        continue;
      }
      await delay(POLL_MS, undefined, signal === undefined ? {} : {signal}).catch(() => undefined);
    }
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
