/** Finds system programs, and runs one until it ends. */
import {realpathSync, statSync} from 'node:fs';
import {constants} from 'node:os';
import {basename, isAbsolute, join, resolve as resolvePath} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';

/** Searched after PATH: a user's shell often lacks the sbin directories. */
const SYSTEM_DIRECTORIES = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/**
 * The PATH of every program that we start: the absolute entries of our own, then the system's directories. An empty or relative
 * entry could run a program from the current directory as root.
 */
export const searchPath = (): string =>
  [...new Set([...(process.env.PATH ?? '').split(':').filter((dir) => isAbsolute(dir)), ...SYSTEM_DIRECTORIES])].join(':');

const isExecutable = (file: string): boolean => {
  try {
    const stats = statSync(file, {throwIfNoEntry: false});
    return stats?.isFile() === true && (stats.mode & 0o111) !== 0;
  } catch {
    return false; // an unreadable directory
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
  /** Debian package of the program, for the hint when it is missing. */
  readonly package: string;
  /** Standard input; default empty. */
  readonly input?: Uint8Array;
  /** Variables besides `PATH` and `LC_ALL=C`. Nothing is inherited, so that no `TAR_OPTIONS` or the like takes effect. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Milliseconds until it is killed, and the call fails. */
  readonly timeoutMs?: number;
  /** In a session of its own: what it has started is killed with it. */
  readonly ownSession?: boolean;
  /** Kills it; the call fails with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Open descriptors to pass on: the first as standard input, instead of `input`; further ones from 3 on. */
  readonly descriptors?: readonly number[];
}

export interface RunResult {
  /** Exit status; 128+n when signal n ended it. */
  readonly status: number;
  readonly stdout: Buffer;
  /** For people; never match its words. */
  readonly stderr: string;
}

/** Most bytes of standard output and error together; both are kept in memory. */
const MAX_OUTPUT = 256 * 1024 * 1024;

const environment = (env: RunOptions['env']): NodeJS.ProcessEnv => ({
  PATH: searchPath(),
  LC_ALL: 'C',
  ...env,
});

/** Programs of which busybox's lack options that keep extended attributes and exact times. */
const NOT_OF_BUSYBOX = new Set(['cp', 'tar']);

const isOfBusybox = (path: string): boolean => basename(realpathSync(path)).startsWith('busybox');

/**
 * Absolute path of a program.
 *
 * @param name its package, in Debian and in Alpine
 * @throws unavailable it is not installed, or only a part of busybox; the hint names the package
 */
export function requireProgram(program: string, name: string): string {
  const path = findProgram(program);
  const isPart = path !== undefined && NOT_OF_BUSYBOX.has(program) && isOfBusybox(path);
  if (path !== undefined && !isPart) return path;
  throw new ErrdefsError('unavailable', isPart ? `${program} of busybox lacks what is needed` : `${program} is not installed`, {
    hint: isPart ? `install the package ${name}` : `install the Debian package ${name}`,
    details: {program, package: name},
  });
}

const statusOf = (status: number | null, signal: NodeJS.Signals | null): number =>
  status ?? 128 + (signal === null ? 0 : constants.signals[signal]);

const tooMuchOutput = (program: string, cause?: unknown): ErrdefsError =>
  new ErrdefsError('resource_exhausted', `output of ${program} is over ${MAX_OUTPUT} B`, {cause});

/**
 * Runs a program without blocking. The caller judges the exit status.
 *
 * @throws unavailable it is not installed; the hint names its Debian package
 * @throws resource_exhausted no process or memory, or too much output
 * @throws deadline_exceeded `timeoutMs` has passed
 */
export async function run(program: string, args: readonly string[], options: RunOptions): Promise<RunResult> {
  const path = requireProgram(program, options.package);
  const {spawn} = process.getBuiltinModule('node:child_process');
  const {input, env, cwd, timeoutMs, ownSession = false, signal, descriptors = []} = options;
  signal?.throwIfAborted();
  const [stdin = input === undefined ? ('ignore' as const) : ('pipe' as const), ...further] = descriptors;
  return new Promise((resolve, reject) => {
    const child = spawn(path, args, {
      env: environment(env),
      stdio: [stdin, 'pipe', 'pipe', ...further],
      ...(cwd === undefined ? {} : {cwd}),
      detached: ownSession,
    });
    let late = false;
    const kill = (): boolean => {
      if (!ownSession || child.pid === undefined) return child.kill('SIGKILL');
      try {
        return process.kill(-child.pid, 'SIGKILL');
      } catch {
        return false; // it has ended
      }
    };
    const stop = (): void => {
      late = kill();
      // A process of another session may hold the other ends.
      if (ownSession) for (const stream of [child.stdout, child.stderr]) stream?.destroy();
    };
    const onAbort = (): void => stop();
    signal?.addEventListener('abort', onAbort, {once: true});
    const timer = timeoutMs === undefined ? undefined : setTimeout(stop, timeoutMs);
    const output: Record<'stdout' | 'stderr', Buffer[]> = {stdout: [], stderr: []};
    let size = 0;
    for (const stream of ['stdout', 'stderr'] as const)
      child[stream]?.on('data', (chunk: Buffer) => {
        size += chunk.length;
        if (size > MAX_OUTPUT) child.kill('SIGKILL');
        else output[stream].push(chunk);
      });
    child.stdin?.on('error', () => undefined); // it ended before it read all of its input
    child.stdin?.end(input);
    child.once('error', (err) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      reject(fromErrno(err, `program ${program}`));
    });
    child.once('close', (status, endedBy) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      if (signal?.aborted) reject(signal.reason);
      else if (late) reject(new ErrdefsError('deadline_exceeded', `program ${program}`));
      else if (size > MAX_OUTPUT) reject(tooMuchOutput(program));
      else
        resolve({status: statusOf(status, endedBy), stdout: Buffer.concat(output.stdout), stderr: Buffer.concat(output.stderr).toString()});
    });
  });
}

/**
 * Runs a program, and gives its standard output as it comes. Ends the program when the caller stops reading.
 *
 * @throws internal after the last byte: it ended with another status than 0
 */
export async function* streamOutput(
  program: string,
  args: readonly string[],
  {package: debian, input, cwd, env, signal}: Pick<RunOptions, 'package' | 'input' | 'cwd' | 'env' | 'signal'>,
): AsyncGenerator<Buffer> {
  const {spawn} = process.getBuiltinModule('node:child_process');
  const path = requireProgram(program, debian);
  signal?.throwIfAborted();
  const child = spawn(path, args, {env: environment(env), stdio: 'pipe', ...(cwd === undefined ? {} : {cwd})});
  const ended = new Promise<number>((resolve, reject) => {
    child.once('error', (err) => reject(fromErrno(err, `program ${program}`)));
    child.once('close', (status, endedBy) => resolve(statusOf(status, endedBy)));
  });
  ended.catch(() => {}); // awaited below
  const onAbort = (): void => void child.kill('SIGKILL');
  signal?.addEventListener('abort', onAbort, {once: true});
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (stderr.length < 1000) stderr += text;
  });
  child.stdin.on('error', () => undefined); // it ended before it read all of its input
  child.stdin.end(input);
  let isDone = false;
  try {
    for await (const chunk of child.stdout) yield chunk as Buffer;
    isDone = true;
  } finally {
    if (!isDone) child.kill('SIGKILL');
    signal?.removeEventListener('abort', onAbort);
  }
  const status = await ended;
  signal?.throwIfAborted();
  if (status !== 0)
    throw new ErrdefsError('internal', `${program} ended with status ${status}: ${stderr.trim()}`, {details: {program, status}});
}

/**
 * Runs a program and blocks until it ends, for code that must stay synchronous. Otherwise as `run`.
 *
 * @throws the same errors as `run`
 */
export function runSync(program: string, args: readonly string[], options: RunOptions): RunResult {
  const {spawnSync} = process.getBuiltinModule('node:child_process');
  const {input, env, cwd, timeoutMs, descriptors = []} = options;
  const [stdin, ...further] = descriptors;
  const done = spawnSync(requireProgram(program, options.package), args, {
    env: environment(env),
    stdio: [stdin ?? 'pipe', 'pipe', 'pipe', ...further],
    ...(stdin === undefined ? {input: input ?? new Uint8Array(0)} : {}),
    maxBuffer: MAX_OUTPUT,
    ...(timeoutMs === undefined ? {} : {timeout: timeoutMs, killSignal: 'SIGKILL' as const}),
    ...(cwd === undefined ? {} : {cwd}),
  });
  const code = (done.error as NodeJS.ErrnoException | undefined)?.code;
  if (code === 'ENOBUFS') throw tooMuchOutput(program, done.error);
  // EPIPE: the program ended before it read all of its input. Its status says more.
  if (done.error !== undefined && (code !== 'EPIPE' || (done.status === null && done.signal === null)))
    throw fromErrno(done.error, `program ${program}`);
  return {
    status: statusOf(done.status, done.signal),
    stdout: done.stdout,
    stderr: done.stderr.toString(),
  };
}

/**
 * Runs a command of the user's in a shell, with this process's terminal and environment, until it ends.
 *
 * @param command for `/bin/sh`; the arguments are added to it
 * @returns exit status; 128+n when signal n ended it
 */
export async function runInShell(command: string, args: readonly string[]): Promise<number> {
  const {spawn} = process.getBuiltinModule('node:child_process');
  // Standard output may be redirected, and then standard error is what a person sees.
  const screen = process.getBuiltinModule('node:tty').isatty(1) ? 1 : 2;
  return new Promise((resolve, reject) => {
    const child = spawn('/bin/sh', ['-c', `${command} "$@"`, 'sh', ...args], {stdio: [0, screen, 2]});
    child.once('error', (err) => reject(fromErrno(err, 'program /bin/sh')));
    child.once('close', (status, signal) => resolve(statusOf(status, signal)));
  });
}
