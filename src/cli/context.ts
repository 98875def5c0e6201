/** What a command has of the world outside the library. Tests give their own. */
import {writeSync} from 'node:fs';
import type {Client, OpenOptions} from '../lib/client/types/index.ts';
import type {Printable} from './output.ts';

export interface Context {
  /** The name that the program was called by: `ctr`, `dist` or `berth`. */
  readonly program: string;
  /** Text, or the bytes of a blob. @throws BrokenPipe the reader has gone */
  stdout(data: Printable | Uint8Array): void;
  /** Never throws: there is no further place to complain. */
  stderr(text: Printable): void;
  open(options: OpenOptions): Promise<Client>;
}

/** Whoever read our standard output has closed it, as `head` does: not an error, only the end. */
export class BrokenPipe extends Error {}

/** Status of a command whose reader went away: that of a program ended by SIGPIPE. */
export const BROKEN_PIPE_STATUS = 141;

const PROGRAMS: readonly string[] = ['ctr', 'dist', 'berth'];

const sleeper = new Int32Array(new SharedArrayBuffer(4));

/**
 * Writes all of it, synchronously, past the streams of `process`: those cost 3 ms of start-up, and what is still in them
 * is lost at `process.exit`.
 */
function writeAll(fd: number, data: string | Uint8Array): void {
  let bytes = typeof data === 'string' ? Buffer.from(data) : data;
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(writeSync(fd, bytes));
    } catch (err) {
      const {code} = err as NodeJS.ErrnoException;
      if (code === 'EPIPE') throw new BrokenPipe();
      // Another process made the shared description non-blocking, and the reader is slow.
      if (code !== 'EAGAIN') throw err;
      Atomics.wait(sleeper, 0, 0, 2);
    }
  }
}

/** @param name how the program was called, as a path or a bare name */
export function processContext(name: string): Context {
  const base = name.slice(name.lastIndexOf('/') + 1);
  return {
    program: PROGRAMS.includes(base) ? base : 'berth',
    stdout: (data) => writeAll(1, data),
    stderr: (text) => {
      try {
        writeAll(2, text);
      } catch {
        // Nobody listens.
      }
    },
    open: async (options) => (await import('../lib/client/index.ts')).openClient(options),
  };
}
