/** Connects this process's standard streams, or those of a caller, to a task under conmon. */
import {closeSync, constants, openSync, write, writeSync} from 'node:fs';
import {constants as os} from 'node:os';
import {join} from 'node:path';
import type {Readable} from 'node:stream';
import {setTimeout as delay} from 'node:timers/promises';
import {fromErrno} from '../errdefs.ts';
import {connectStreams, type TaskStreams} from './attach-relay.ts';
import {DetachKeys} from './detach-keys.ts';
import {findTerminal, restoreTerminal, SignalForwarder, stoppedExit, terminalSettings, terminalSize} from './foreground-run.ts';
import type {TerminalSize} from './launcher.ts';
import {type Runtime, runRuntime} from './oci-runtime.ts';

export interface AttachTarget {
  readonly id: string;
  readonly bundle: string;
  readonly runtime: Runtime;
  readonly runtimeRoot: string;
  /** Of the container. */
  readonly terminal: boolean;
  /** What it reads is open. */
  readonly stdin: boolean;
}

export interface AttachRequest {
  /** Passes on what is typed. */
  readonly stdin: boolean;
  /** Bytes that detach, typed at a terminal; none: nothing does. */
  readonly detachKeys: Uint8Array;
  /** Signals go to the container. Not from a terminal that the container has taken over: there, Ctrl-C is a byte. */
  readonly sigProxy: boolean;
  readonly signal?: AbortSignal;
}

/** `ended`: the task's output has. Else the caller has left it, by keys or a signal, with the exit status of that. */
export type AttachEnd = {readonly ended: true} | {readonly ended: false; readonly exitStatus: number};

/** conmon takes no more. */
const LARGEST = 1000;
/** What conmon reads at once. Before 2.2 it takes the first of several lines that it reads for each of them, so a line fills its buffer. */
const RESIZE_BYTES = 199;
const RETRY_MS = 2;

/** Sets the size of a container's terminal; does nothing once the task has ended. */
export function resizeTerminal(bundle: string, {height, width}: TerminalSize): void {
  const within = (n: number): number => Math.min(Math.max(Math.trunc(n), 0), LARGEST);
  try {
    // The FIFO behind `ctl`, which would put several lines into it without that room.
    const fd = openSync(join(bundle, 'winsz'), constants.O_WRONLY | constants.O_NONBLOCK);
    try {
      writeSync(fd, `${within(height)} ${within(width)}`.padEnd(RESIZE_BYTES - 1).concat('\n'));
    } finally {
      closeSync(fd);
    }
  } catch (err) {
    if (!['ENOENT', 'ENXIO', 'EPIPE', 'EAGAIN'].includes((err as NodeJS.ErrnoException).code ?? '')) throw fromErrno(err, 'terminal');
  }
}

/** @returns false once the reader has gone */
async function writeAll(fd: number, bytes: Uint8Array): Promise<boolean> {
  for (let rest = bytes; rest.length > 0; ) {
    try {
      rest = rest.subarray(await new Promise<number>((done, fail) => write(fd, rest, (err, n) => (err === null ? done(n) : fail(err)))));
    } catch (err) {
      const {code} = err as NodeJS.ErrnoException;
      if (code === 'EPIPE' || code === 'EIO') return false;
      if (code !== 'EAGAIN') throw fromErrno(err, fd === 1 ? 'standard output' : 'standard error');
      await delay(RETRY_MS);
    }
  }
  return true;
}

async function copyTo(fd: number, stream: Readable): Promise<boolean> {
  for await (const chunk of stream) if (!(await writeAll(fd, chunk as Uint8Array))) return false;
  return true;
}

/** Passes on what is typed until it ends. @returns stops it */
function copyInput(streams: TaskStreams, keys: DetachKeys, raw: boolean, onDetach: () => void): () => void {
  const {stdin} = process;
  // Bun sets the mode that it believes in when it begins to read.
  if (raw) stdin.setRawMode(true);
  const onData = (chunk: Buffer): void => {
    const {pass, detach} = keys.feed(chunk);
    if (pass.length > 0 && !streams.stdin.write(pass)) {
      stdin.pause();
      streams.stdin.once('drain', () => stdin.resume());
    }
    if (detach) onDetach();
  };
  const onError = (): void => undefined; // a terminal that has gone: SIGHUP tells
  stdin.on('data', onData);
  stdin.on('error', onError);
  return () => {
    stdin.off('data', onData);
    if (raw) stdin.setRawMode(false);
    stdin.pause();
  };
}

/**
 * Connects this process's standard streams to a task until its output ends, or the caller leaves it.
 *
 * @throws unavailable conmon, which has the streams, was killed
 * @throws canceled `signal` was aborted
 */
export async function attachForeground(target: AttachTarget, request: AttachRequest): Promise<AttachEnd> {
  const {bundle, id, runtime, runtimeRoot} = target;
  const {sigProxy, signal} = request;
  const stdin = request.stdin && target.stdin;
  const screen = target.terminal ? await findTerminal([0, 1, 2]) : undefined;
  const raw = stdin && screen === 0;
  const settings = raw ? await terminalSettings(0) : undefined;
  const signals = new SignalForwarder({tty: target.terminal, ...(signal === undefined ? {} : {signal})});
  try {
    const streams = await connectStreams(bundle, settings);
    let stopInput: () => void = () => undefined;
    try {
      const left = new Promise<AttachEnd>((done) => {
        const leave = (exitStatus: number): void => done({ended: false, exitStatus});
        if (stdin) stopInput = copyInput(streams, new DetachKeys(raw ? request.detachKeys : new Uint8Array()), raw, () => leave(0));
        let sent: Promise<unknown> = Promise.resolve();
        const pass = (name: NodeJS.Signals): void => {
          sent = sent.then(() => runRuntime(runtime, ['--root', runtimeRoot, 'kill', id, name])).catch(() => undefined);
        };
        let sized: Promise<unknown> = Promise.resolve();
        const resize = (grow = 0): void => {
          sized = sized
            .then(() => terminalSize(screen!))
            .then((size) => size && resizeTerminal(bundle, {height: size.height + grow, width: size.width + grow}))
            .catch(() => undefined);
        };
        if (screen !== undefined) {
          // A program that is told of a change draws its screen again.
          resize(1);
          resize();
        }
        signals.deliver((name) => {
          if (name === 'SIGWINCH') {
            if (screen !== undefined) resize();
          } else if (sigProxy && !raw) pass(name);
          else if (['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM'].includes(name)) leave(128 + os.signals[name]);
        });
      });
      const copies = [copyTo(1, streams.stdout), copyTo(2, streams.stderr)];
      const output = Promise.all(copies).then((): AttachEnd => ({ended: true}));
      // The other stream may have nothing more to say.
      const broken = new Promise<AttachEnd>((done) => {
        for (const copy of copies)
          void copy.then(
            (whole) => whole || done({ended: false, exitStatus: 128 + os.signals.SIGPIPE}),
            () => undefined,
          );
      });
      const end = await Promise.race([broken, output, left, signals.stopped]);
      return 'ended' in end ? end : {ended: false, ...stoppedExit(end)};
    } finally {
      stopInput();
      streams.leave();
      const {signal: killed} = await streams.ended;
      if (killed !== null && settings !== undefined) await restoreTerminal(0, settings);
    }
  } finally {
    signals.dispose();
  }
}
