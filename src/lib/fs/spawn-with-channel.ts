/**
 * Starts a program that waits for our words: in a session of its own, with a socket to us as descriptor 3. The session keeps signals of
 * our terminal from it.
 */
import {Buffer} from 'node:buffer';
import {closeSync, readSync, writeSync} from 'node:fs';
import type {Socket} from 'node:net';
import type {Readable, Writable} from 'node:stream';
import {setTimeout as delay} from 'node:timers/promises';
import {fromErrno} from '../errdefs.ts';
import {searchPath} from './spawn.ts';

/** Descriptors of this process for a program's standard streams; `ignore` is /dev/null. */
export type Stdio = readonly [stdin: number | 'ignore', stdout: number | 'ignore', stderr: number | 'ignore'];

/** The standard streams of a program, for its caller. */
export interface PipedStreams {
  /** An error of it is not thrown: the program ended before it had read all. */
  readonly stdin: Writable;
  /** A program whose output is not read waits. */
  readonly stdout: Readable;
  readonly stderr: Readable;
}

export interface ProcessExit {
  /** Exit status; `null` after a signal. */
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface ChannelProcess {
  readonly pid: number;
  readonly ended: Promise<ProcessExit>;
  /** Of a program that was started with pipes. */
  readonly streams: PipedStreams | undefined;
  /** What the program wrote to descriptor 3 since the last call, once that ends with `until` or is closed. One call at a time. */
  receive(until: string): Promise<string>;
  /** Writes to the program's descriptor 3; does nothing after its end. */
  write(text: string): void;
  /** Closes our end, and lets this process end before the program does. */
  leave(): void;
}

interface SpawnOptions {
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  readonly stdio: readonly (number | 'ignore' | 'pipe')[];
  readonly detached: true;
}

/** @returns `undefined` for a program without pipes */
export function pipedStreams({
  stdin,
  stdout,
  stderr,
}: {readonly [K in keyof PipedStreams]: PipedStreams[K] | null}): PipedStreams | undefined {
  if (stdin === null || stdout === null || stderr === null) return undefined;
  stdin.on('error', () => undefined);
  return {stdin, stdout, stderr};
}

async function spawnInNode(argv: readonly [string, ...string[]], options: SpawnOptions): Promise<ChannelProcess> {
  const {spawn} = process.getBuiltinModule('node:child_process');
  const child = spawn(argv[0], argv.slice(1), {...options, stdio: [...options.stdio]});
  const ended = new Promise<ProcessExit>((done) => {
    child.once('exit', (status, signal) => done({status, signal}));
  });
  const socket = child.stdio[3] as Socket;
  let text = '';
  let closed = false;
  let look = (): void => undefined;
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => {
    text += chunk;
    look();
  });
  socket.on('error', () => undefined); // `close` follows
  socket.once('close', () => {
    closed = true;
    look();
  });
  const receive = (until: string): Promise<string> =>
    new Promise((done) => {
      look = () => {
        if (!closed && !text.endsWith(until)) return;
        look = () => undefined;
        done(text);
        text = '';
      };
      look();
    });
  await new Promise((done, fail) => {
    child.once('spawn', done);
    child.once('error', fail);
  });
  const leave = (): void => {
    socket.destroy();
    child.unref();
  };
  return {pid: child.pid!, ended, streams: pipedStreams(child), receive, write: (words) => void socket.write(words), leave};
}

/** The part of Bun's API in use. To load Bun's node:child_process and start a program with a fourth descriptor takes 4 ms, this 0.5. */
interface Bun {
  spawn(argv: readonly string[], options: SpawnOptions & {onExit(child: BunChild): void}): BunChild;
}

interface BunChild {
  readonly pid: number;
  readonly exitCode: number | null;
  readonly signalCode: NodeJS.Signals | null;
  unref(): void;
  /** For a `pipe` beyond the standard streams our end of a socket, which is non-blocking and ours to close. */
  readonly stdio: readonly (number | null)[];
}

function spawnInBun(bun: Bun, argv: readonly string[], options: SpawnOptions): ChannelProcess {
  let onExit: (exit: ProcessExit) => void;
  const ended = new Promise<ProcessExit>((done) => {
    onExit = done;
  });
  const child = bun.spawn(argv, {
    ...options,
    onExit: ({exitCode, signalCode}) => onExit({status: signalCode === null ? exitCode : null, signal: signalCode}),
  });
  const socket = child.stdio[3]!;
  let open = true;
  let text = '';
  const close = (): void => {
    if (open) closeSync(socket);
    open = false;
  };
  const buffer = Buffer.alloc(4096);
  /** Reads what is there. @returns whether more can come */
  const readSome = (): boolean => {
    try {
      const length = open ? readSync(socket, buffer) : 0;
      text += buffer.toString('utf8', 0, length);
      return length > 0;
    } catch (err) {
      return (err as NodeJS.ErrnoException).code === 'EAGAIN'; // else it was reset by the program's end
    }
  };
  const receive = async (until: string): Promise<string> => {
    while (!text.endsWith(until)) {
      const before = text.length;
      if (!readSome()) break;
      if (text.length === before) await delay(1);
    }
    const found = text;
    text = '';
    return found;
  };
  void ended.then(() => {
    for (let before = -1; before !== text.length && readSome(); ) before = text.length;
    close();
  });
  const leave = (): void => {
    close();
    child.unref();
  };
  const write = (text: string): void => {
    try {
      if (open) writeSync(socket, text);
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EPIPE') throw err; // it has ended; `ended` tells
    }
  };
  return {pid: child.pid, ended, streams: undefined, receive, write, leave};
}

/**
 * Starts a program. Its environment is PATH alone.
 *
 * @param argv the program as an absolute path, and its arguments
 * @param options.stdio `pipe`: a pipe for each of the three
 * @throws an `ErrdefsError` of the errno: the program could not be started
 */
export async function spawnWithChannel(
  argv: readonly [string, ...string[]],
  {cwd, stdio}: {readonly cwd: string; readonly stdio: Stdio | 'pipe'},
): Promise<ChannelProcess> {
  const standard = stdio === 'pipe' ? (['pipe', 'pipe', 'pipe'] as const) : stdio;
  const options: SpawnOptions = {cwd, env: {PATH: searchPath()}, stdio: [...standard, 'pipe'], detached: true};
  const {Bun: bun} = globalThis as {readonly Bun?: Bun};
  try {
    return bun === undefined || stdio === 'pipe' ? await spawnInNode(argv, options) : spawnInBun(bun, argv, options);
  } catch (err) {
    throw fromErrno(err, argv[0]);
  }
}
