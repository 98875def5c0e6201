/** Finds system programs, and runs one to its end. */

import {statSync} from 'node:fs';
import {constants} from 'node:os';
import {isAbsolute, join, resolve as resolvePath} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';

/** Searched after PATH: that of a user's shell leaves out the directories of the administrator's programs. */
const SYSTEM_DIRECTORIES = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/**
 * PATH for every program that we start, and for those that it starts: the absolute entries of this process's own, then the
 * system's directories. An empty or relative entry would run, as root, what somebody left in the current directory.
 */
export const searchPath = (): string =>
  [...new Set([...(process.env.PATH ?? '').split(':').filter((dir) => isAbsolute(dir)), ...SYSTEM_DIRECTORIES])].join(':');

const isExecutable = (file: string): boolean => {
  try {
    const stats = statSync(file, {throwIfNoEntry: false});
    return stats?.isFile() === true && (stats.mode & 0o111) !== 0;
  } catch {
    return false; // not to be seen by us, so not to be executed
  }
};

/** Absolute path of a program in `searchPath`, or `undefined`. A name with a slash is a path. */
export function findProgram(name: string): string | undefined {
  const files = name.includes('/')
    ? [resolvePath(name)]
    : searchPath()
        .split(':')
        .map((dir) => join(dir, name));
  return files.find(isExecutable);
}

export interface RunOptions {
  /** Debian package that brings the program, for the hint when it is missing. */
  readonly package: string;
  /** Bytes for its standard input. */
  readonly input?: Uint8Array;
  /** Variables besides `PATH` and `LC_ALL=C`; nothing else is inherited, so that no `TAR_OPTIONS` or the like changes what it does. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** It is killed after so long, in milliseconds. */
  readonly timeoutMs?: number;
  /** Open descriptors that it gets: the first as standard input, further ones from 3 on. */
  readonly descriptors?: readonly number[];
}

export interface RunResult {
  /** Exit status; 128+n when signal n ended it. */
  readonly status: number;
  readonly stdout: Buffer;
  /** For people only: never to be matched. */
  readonly stderr: string;
}

/** Standard output and error are kept in memory; more than this is a failure. */
const MAX_OUTPUT = 256 * 1024 * 1024;

/** Nothing of ours is inherited but the way to programs. */
const environment = (env: RunOptions['env']): NodeJS.ProcessEnv => ({
  PATH: searchPath(),
  LC_ALL: 'C',
  ...env,
});

/** @throws unavailable it is not installed; the hint names its Debian package */
function requireProgram(program: string, {package: name}: Pick<RunOptions, 'package'>): string {
  const path = findProgram(program);
  if (path !== undefined) return path;
  throw new ErrdefsError('unavailable', `program ${program}`, {
    hint: `install the Debian package ${name}`,
    details: {program, package: name},
  });
}

const statusOf = (status: number | null, signal: NodeJS.Signals | null): number =>
  status ?? 128 + (signal === null ? 0 : constants.signals[signal]);

/**
 * Runs `program` on descriptors that are given to it, without output of its own; others have the thread meanwhile. A status
 * other than 0 is the caller's to judge.
 *
 * @returns exit status; 128+n when signal n ended it
 * @throws unavailable the program is not installed; the hint names its Debian package
 * @throws resource_exhausted no process or memory to be had
 */
export async function runOn(program: string, args: readonly string[], options: Omit<RunOptions, 'input'>): Promise<number> {
  const {spawn} = process.getBuiltinModule('node:child_process');
  const {env, cwd, timeoutMs, descriptors = []} = options;
  const [stdin = 'ignore', ...further] = descriptors;
  const path = requireProgram(program, options);
  return new Promise((resolve, reject) => {
    const child = spawn(path, args, {
      env: environment(env),
      stdio: [stdin, 'ignore', 'ignore', ...further],
      ...(cwd === undefined ? {} : {cwd}),
    });
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    child.once('error', (err) => {
      clearTimeout(timer);
      reject(fromErrno(err, `program ${program}`));
    });
    child.once('exit', (status, signal) => {
      clearTimeout(timer);
      resolve(statusOf(status, signal));
    });
  });
}

/**
 * Runs `program` and waits, for code that must stay synchronous. A status other than 0 is the caller's to judge.
 *
 * @throws unavailable the program is not installed; the hint names its Debian package
 * @throws resource_exhausted no process or memory to be had, or more output than is kept
 */
export function runSync(program: string, args: readonly string[], options: RunOptions): RunResult {
  const {spawnSync} = process.getBuiltinModule('node:child_process');
  const {input, env, cwd, timeoutMs, descriptors = []} = options;
  const [stdin, ...further] = descriptors;
  const done = spawnSync(requireProgram(program, options), args, {
    env: environment(env),
    stdio: [stdin ?? 'pipe', 'pipe', 'pipe', ...further],
    ...(stdin === undefined ? {input: input ?? new Uint8Array(0)} : {}),
    maxBuffer: MAX_OUTPUT,
    ...(timeoutMs === undefined ? {} : {timeout: timeoutMs, killSignal: 'SIGKILL' as const}),
    ...(cwd === undefined ? {} : {cwd}),
  });
  const code = (done.error as NodeJS.ErrnoException | undefined)?.code;
  if (code === 'ENOBUFS') throw new ErrdefsError('resource_exhausted', `output of ${program} is over ${MAX_OUTPUT} B`, {cause: done.error});
  // A program that ends before it has read its input closes the pipe; its status says more than EPIPE does.
  if (done.error !== undefined && (code !== 'EPIPE' || (done.status === null && done.signal === null)))
    throw fromErrno(done.error, `program ${program}`);
  return {
    status: statusOf(done.status, done.signal),
    stdout: done.stdout,
    stderr: done.stderr.toString(),
  };
}
