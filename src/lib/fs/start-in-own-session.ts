/**
 * Starts a program with our streams, or with streams of its own, and lets it run. Its environment is PATH alone. In a session of its own, so
 * that signals of our terminal reach it only through us.
 */
import {fromErrno} from '../errdefs.ts';
import {searchPath} from './spawn.ts';
import {type PipedStreams, type ProcessExit, pipedStreams, type Stdio} from './spawn-with-channel.ts';

export interface StartedProgram {
  readonly pid: number;
  readonly ended: Promise<ProcessExit>;
}

export interface PipedProgram extends StartedProgram, PipedStreams {}

interface SpawnOptions {
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  readonly detached: true;
}

/** The part of Bun's API in use; its node:child_process takes 4 ms to load. */
interface Bun {
  spawn(
    argv: readonly string[],
    options: SpawnOptions & {
      readonly stdio: readonly (number | 'ignore')[];
      onExit(child: unknown, status: number | null, signal: number | null): void;
    },
  ): {readonly pid: number; readonly signalCode: NodeJS.Signals | null};
}

const optionsOf = (cwd: string): SpawnOptions => ({cwd, env: {PATH: searchPath()}, detached: true});

async function spawn(argv: readonly [string, ...string[]], cwd: string, stdio: readonly (number | 'ignore' | 'pipe')[]) {
  const child = process.getBuiltinModule('node:child_process').spawn(argv[0], argv.slice(1), {...optionsOf(cwd), stdio: [...stdio]});
  const ended = new Promise<ProcessExit>((done) => {
    child.once('exit', (status, signal) => done({status, signal}));
  });
  await new Promise((done, fail) => {
    child.once('spawn', done);
    child.once('error', fail);
  });
  return {child, ended, pid: child.pid!};
}

/**
 * @param argv the program as an absolute path, and its arguments
 * @throws an `ErrdefsError` of the errno: the program could not be started
 */
export async function startProgram(argv: readonly [string, ...string[]], {cwd, stdio}: {readonly cwd: string; readonly stdio: Stdio}) {
  const {Bun: bun} = globalThis as {readonly Bun?: Bun};
  try {
    if (bun === undefined) {
      const {pid, ended} = await spawn(argv, cwd, stdio);
      return {pid, ended} satisfies StartedProgram;
    }
    let onExit: (exit: ProcessExit) => void;
    const ended = new Promise<ProcessExit>((done) => {
      onExit = done;
    });
    const child = bun.spawn(argv, {
      ...optionsOf(cwd),
      stdio,
      onExit: (one, status) => {
        const {signalCode: signal} = one as {signalCode: NodeJS.Signals | null};
        onExit({status: signal === null ? status : null, signal});
      },
    });
    return {pid: child.pid, ended} satisfies StartedProgram;
  } catch (err) {
    throw fromErrno(err, argv[0]);
  }
}

/**
 * As `startProgram`, with a pipe for each standard stream.
 *
 * @param descriptors of this process, passed on from 3 on
 */
export async function startPiped(
  argv: readonly [string, ...string[]],
  cwd: string,
  descriptors: readonly number[] = [],
): Promise<PipedProgram> {
  try {
    const {child, pid, ended} = await spawn(argv, cwd, ['pipe', 'pipe', 'pipe', ...descriptors]);
    return {pid, ended, ...pipedStreams(child)!};
  } catch (err) {
    throw fromErrno(err, argv[0]);
  }
}
