/** The outside of a command: program name, standard streams, and the library's client. Tests pass their own. */
import {writeSync} from 'node:fs';
import {resolve} from 'node:path';
import type {Client, OpenOptions, ProgramCall} from '../lib/client/types/index.ts';
import type {Printable} from './printable.ts';
import type {UserNamespaceNeed} from './user-namespace-needs.ts';

export interface Context {
  /** Name of the program in messages: `ctr`, `dist` or `berth`. */
  readonly program: string;
  /** @throws BrokenPipe the reader has closed the pipe */
  stdout(data: Printable | Uint8Array): void;
  /** Never throws: there is no other place for the error. */
  stderr(text: Printable | Uint8Array): void;
  open(options: OpenOptions): Promise<Client>;
  /**
   * Starts this command line again as root of a user namespace, unless it needs none.
   *
   * @throws unavailable, failed_precondition there can be none, and the command does not do without
   */
  enterUserNamespace?(need: UserNamespaceNeed, directories: Pick<OpenOptions, 'root' | 'state'>): Promise<void>;
  /** Makes this process another program. */
  become?(call: ProgramCall): void;
}

/** The reader of standard output has closed it, as `head` does. This ends the command and is not an error. */
export class BrokenPipe extends Error {}

/** Exit status after `BrokenPipe`: that of a program that SIGPIPE ended. */
export const BROKEN_PIPE_STATUS = 141;

const PROGRAMS: readonly string[] = ['ctr', 'dist', 'berth'];

const sleeper = new Int32Array(new SharedArrayBuffer(4));

/**
 * Writes synchronously and without the streams of `process`: they cost 3 ms of start-up, and `process.exit` discards what
 * they still hold.
 */
function writeAll(fd: number, data: string | Uint8Array): void {
  let bytes = typeof data === 'string' ? Buffer.from(data) : data;
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(writeSync(fd, bytes));
    } catch (err) {
      const {code} = err as NodeJS.ErrnoException;
      if (code === 'EPIPE') throw new BrokenPipe();
      // Another process has set O_NONBLOCK on the shared file description, and the reader is slow.
      if (code !== 'EAGAIN') throw err;
      Atomics.wait(sleeper, 0, 0, 2);
    }
  }
}

/** How to start this program again: the executable, or Node with the script. */
const ownProgram = (): readonly string[] =>
  process.versions.bun === undefined ? [process.execPath, resolve(process.argv[1]!)] : [process.execPath];

/** @param name name or path by which the program was called */
export function processContext(name: string): Context {
  const base = name.slice(name.lastIndexOf('/') + 1);
  return {
    program: PROGRAMS.includes(base) ? base : 'berth',
    stdout: (data) => writeAll(1, data),
    stderr: (text) => {
      try {
        writeAll(2, text);
      } catch {
        // The reader has gone.
      }
    },
    open: async (options) => (await import('../lib/client/index.ts')).openClient({program: ownProgram(), ...options}),
    become: ({program, argv, env}) => process.execve!(program, argv, env),
    enterUserNamespace: async (need, directories) => {
      const {becomeRoot} = await import('../lib/client/enter-user-namespace.ts');
      await becomeRoot(directories, [...ownProgram(), ...process.argv.slice(2)], {
        env: {BERTH_PROGRAM: name},
        ifLayers: need === 'layers',
        ifPossible: need !== 'always',
      });
    },
  };
}
