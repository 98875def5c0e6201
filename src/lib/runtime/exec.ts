/**
 * Runs one more process in a container, by `runc exec`. The runtime joins the container from outside, so no mounts are needed here.
 *
 * Files of an exec, in the directory of the run: `exec.<id>` with the identity of the process that runs it, and `exec.<id>:pid`, `:log` and
 * `:process` (no identifier has a colon).
 */

import {existsSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {constants} from 'node:os';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {formatIdentity, identityOf, liveness, ownIdentity, parseIdentity} from '../fs/process.ts';
import type {PipedStreams, ProcessExit, Stdio} from '../fs/spawn-with-channel.ts';
import {startPiped, startProgram} from '../fs/start-in-own-session.ts';
import {isRootless, mappedIds} from '../user-namespace-identity.ts';
import {checkCommand} from './check-executable.ts';
import {
  findTerminal,
  ownFailure,
  restoreTerminal,
  SignalForwarder,
  stoppedExit,
  terminalSettings,
  terminalSize,
  writePidFile,
} from './foreground-run.ts';
import {assertMapped} from './id-mappings.ts';
import type {TerminalSize} from './launcher.ts';
import {hintToRun} from './next-command.ts';
import {containerState, type Runtime, runtimeErrors} from './oci-runtime.ts';
import {RootReader} from './path-in-root.ts';
import {checkWorkingDirectory, mergeEnv, type Spec} from './spec.ts';
import {requestedUser} from './user.ts';

export interface ExecTarget {
  /** Of the container. */
  readonly id: string;
  /** Of its run; see run-directory.ts. */
  readonly directory: string;
  readonly runtime: Runtime;
  readonly runtimeRoot: string;
  /** The container's own process: what is not asked for is as there. */
  readonly process: Spec['process'];
}

export interface ExecRequest {
  readonly execId: string;
  readonly args: readonly string[];
  readonly cwd?: string;
  readonly env?: readonly string[];
  readonly user?: string;
  readonly tty?: boolean;
  /** Kills it. */
  readonly signal?: AbortSignal;
  readonly pidFile?: string;
  /** Called once it runs, with its pid on the host; a while later, or at its end. */
  readonly onStart?: (pid: number) => void;
  /** Called with its exit status if it ran; also when it was aborted. */
  readonly onEnd?: (exitStatus: number) => void;
}

const POLL_MS = 2;
const TELL_POLL_MS = 25;

const filesOf = (directory: string, execId: string) => {
  const claim = join(directory, `exec.${execId}`);
  return {claim, pid: `${claim}:pid`, log: `${claim}:log`, process: `${claim}:process`} as const;
};

const readText = (file: string): string => {
  try {
    return readFileSync(file, 'latin1');
  } catch {
    return '';
  }
};

/** Whether a process lives in a container's cgroup, and so is not one that has got the pid of another. */
const isIn = (pid: number, cgroupsPath: string): boolean =>
  !/^State:\s+[XZ]/m.test(readText(`/proc/${pid}/status`)) &&
  readText(`/proc/${pid}/cgroup`)
    .split('\n')
    .some((line) => line.endsWith(`:${cgroupsPath}`) || line.includes(`:${cgroupsPath}/`));

/** Execs of a run that have been started and not forgotten: their identifiers and pids on the host. */
export function listExecs(directory: string): ReadonlyMap<number, string> {
  const found = new Map<number, string>();
  for (const name of readdirSync(directory)) {
    const id = /^exec\.([^:]+):pid$/.exec(name)?.[1];
    if (id !== undefined) found.set(Number(readText(join(directory, name))), id);
  }
  return found;
}

/** The host's pid of a living exec. @returns `undefined` if there is none */
export function execPid(directory: string, execId: string, cgroupsPath: string): number | undefined {
  const pid = Number(readText(filesOf(directory, execId).pid));
  return pid > 0 && isIn(pid, cgroupsPath) ? pid : undefined;
}

/** The same, once it has started if it has only begun to. */
export async function startedExecPid(directory: string, execId: string, cgroupsPath: string): Promise<number | undefined> {
  const files = filesOf(directory, execId);
  for (;;) {
    const owner = parseIdentity(readText(files.claim));
    if (existsSync(files.pid) || owner === undefined || liveness(owner) === 'dead') return execPid(directory, execId, cgroupsPath);
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
}

function forget(directory: string, execId: string): void {
  const files = filesOf(directory, execId);
  // The claim last: while it is there, nobody else uses the others.
  for (const file of [files.pid, files.log, files.process, files.claim]) rmSync(file, {force: true});
}

/** @throws already_exists an exec of this identifier runs */
function claim(directory: string, execId: string, cgroupsPath: string): void {
  const {claim: file} = filesOf(directory, execId);
  for (;;) {
    try {
      writeFileSync(file, formatIdentity(ownIdentity()), {flag: 'wx', mode: 0o600});
      return;
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw fromErrno(err, `exec ${JSON.stringify(execId)}`);
    }
    const owner = parseIdentity(readText(file));
    if ((owner !== undefined && liveness(owner) !== 'dead') || execPid(directory, execId, cgroupsPath) !== undefined)
      throw new ErrdefsError('already_exists', `exec ${JSON.stringify(execId)}`, {hint: 'without --exec-id one is made up'});
    forget(directory, execId);
  }
}

/**
 * The process to run: what is not asked for is as the container's own, its limits, capabilities and filter of system calls too.
 *
 * @throws the errors of `checkCommand`
 */
function resolveProcess(rootfs: RootReader, main: Spec['process'], request: ExecRequest, size: TerminalSize | undefined): Spec['process'] {
  const {args, cwd = main.cwd, env = [], user, tty = false} = request;
  if (!cwd.startsWith('/')) throw new ErrdefsError('invalid_argument', `working directory ${JSON.stringify(cwd)} is not absolute`);
  checkWorkingDirectory(cwd);
  try {
    rootfs.lookup(cwd, ({path}) => checkWorkingDirectory(path));
  } catch (err) {
    throw fromErrno(err, `working directory ${JSON.stringify(cwd)}`);
  }
  const wrong = env.find((entry) => entry === '' || entry.startsWith('='));
  if (wrong !== undefined) throw new ErrdefsError('invalid_argument', `environment entry ${JSON.stringify(wrong)} has no name`);
  const {terminal: _, consoleSize: _size, ...rest} = main as Spec['process'] & {consoleSize?: unknown};
  const merged = mergeEnv(main.env, env);
  const found: Spec['process'] = {
    ...rest,
    ...(tty ? {terminal: true} : {}),
    // The runtime sets it again when it runs, but the process may have asked by then.
    ...(size === undefined ? {} : {consoleSize: size}),
    args,
    cwd,
    env: tty && !merged.some((entry) => entry.startsWith('TERM=')) ? [...merged, 'TERM=xterm'] : merged,
    ...(user === undefined ? {} : {user: {...requestedUser(rootfs, user)}}),
  };
  checkCommand(rootfs, {process: found}, new Map());
  return found;
}

/** Writes the specification of the process. @returns words of the runtime */
async function prepare(
  target: ExecTarget,
  request: ExecRequest,
  cgroupsPath: string,
  words: readonly string[],
  size?: TerminalSize,
): Promise<[string, ...string[]]> {
  const {id, directory, runtime, runtimeRoot} = target;
  const files = filesOf(directory, request.execId);
  const notRunning = (): ErrdefsError => new ErrdefsError('failed_precondition', 'it is not running', {hint: hintToRun(undefined, id)});
  const before = await containerState(runtime, runtimeRoot, id);
  if (before === undefined || before.pid === 0 || before.status === 'stopped') throw notRunning();
  if (before.status === 'paused') throw new ErrdefsError('failed_precondition', 'it is paused', {hint: hintToRun(undefined, id, 'paused')});
  let process: Spec['process'];
  let rootfs: RootReader | undefined;
  try {
    rootfs = new RootReader(`/proc/${before.pid}/root`);
    // The pid was the container's when the root was opened if it is now: the runtime compares start times.
    if ((await containerState(runtime, runtimeRoot, id))?.pid !== before.pid) throw notRunning();
    process = resolveProcess(rootfs, target.process, request, size);
    assertMapped(process.user, mappedIds(before.pid));
  } catch (err) {
    if (['ENOENT', 'ESRCH'].includes((err as NodeJS.ErrnoException).code ?? '')) throw notRunning();
    throw err;
  } finally {
    rootfs?.close();
  }
  writeFileSync(files.process, JSON.stringify(process), {mode: 0o600});
  const options = ['--root', runtimeRoot, '--log', files.log, '--log-format', 'json'];
  const scope = isRootless() ? (await import('./delegated-cgroup.ts')).scopeForJoining(cgroupsPath) : undefined;
  return [...(scope ?? []), runtime.path, ...options, 'exec', ...words, '--process', files.process, '--pid-file', files.pid, id];
}

/** The runtime's error if the process was not started, else `undefined`. */
async function startError(target: ExecTarget, execId: string, {status, signal}: ProcessExit): Promise<ErrdefsError | undefined> {
  const {id, directory, runtime, runtimeRoot} = target;
  const files = filesOf(directory, execId);
  if (existsSync(files.pid)) return undefined;
  if (!existsSync(files.claim)) return new ErrdefsError('not_found', 'it was removed');
  const said = runtimeErrors(files.log).at(-1) ?? `${runtime.name} ended with ${signal ?? `status ${status}`}`;
  // The container may have ended, or been paused, since it was looked at.
  const state = await containerState(runtime, runtimeRoot, id);
  return new ErrdefsError(state?.status === 'running' ? 'unknown' : 'failed_precondition', said);
}

async function withClaim<T>(target: ExecTarget, {execId, signal}: ExecRequest, cgroupsPath: string, use: () => Promise<T>): Promise<T> {
  try {
    if (signal?.aborted === true) throw new ErrdefsError('canceled', 'exec', {cause: signal.reason});
    claim(target.directory, execId, cgroupsPath);
    return await use();
  } catch (err) {
    throw ownFailure(err, `exec in container ${JSON.stringify(target.id)}`);
  }
}

/** Polls until the process runs, or has not been started. */
async function untilStarted({directory}: ExecTarget, execId: string, pollMs: number, isOver: () => boolean): Promise<void> {
  while (!isOver() && !existsSync(filesOf(directory, execId).pid)) await delay(pollMs, undefined, {ref: false});
}

/** Tells that an exec runs. Seldom looks: nobody waits for it. */
async function tellStart(target: ExecTarget, {execId, onStart}: ExecRequest, ended: Promise<unknown>): Promise<void> {
  if (onStart === undefined) return;
  let over = false;
  void ended.then(() => {
    over = true;
  });
  await Promise.race([untilStarted(target, execId, TELL_POLL_MS, () => over), ended]);
  const pid = Number(readText(filesOf(target.directory, execId).pid));
  if (pid > 0) onStart(pid);
}

/** Kills an exec that runs: what the runtime leaves when it is killed is the process itself. */
function killExec(target: ExecTarget, execId: string, cgroupsPath: string, runtimePid: number): void {
  const pid = execPid(target.directory, execId, cgroupsPath);
  for (const one of [pid, runtimePid]) {
    try {
      if (one !== undefined) process.kill(one, 'SIGKILL');
    } catch {
      // It has ended.
    }
  }
}

/**
 * Runs a process to its end, with this process's streams or those given. Signals are passed on, but not with pipes.
 *
 * @param stdio `pipe`: streams that `onStreams` gets when it is about to run
 * @returns its exit status; 128+n when signal n ended it
 * @throws errors with `details.runExit`: 125, 126 or 127
 * @throws failed_precondition the container does not run, or there is no terminal for `tty`
 */
export async function execForeground(
  target: ExecTarget,
  request: ExecRequest,
  cgroupsPath: string,
  stdio: Stdio | 'pipe' = [0, 1, 2],
  onStreams: (streams: PipedStreams) => void = () => undefined,
): Promise<{readonly exitStatus: number}> {
  const {execId, tty = false, signal, onEnd = () => undefined} = request;
  const piped = stdio === 'pipe';
  const signals = new SignalForwarder({tty, forwardSignals: !piped, ...(signal === undefined ? {} : {signal})});
  try {
    return await withClaim(target, request, cgroupsPath, async () => {
      try {
        const terminal = tty && !piped ? await findTerminal(stdio) : undefined;
        if (tty && terminal === undefined)
          throw new ErrdefsError('failed_precondition', '--tty needs a terminal on a standard stream', {hint: 'leave out --tty'});
        const fd = terminal === undefined ? undefined : (stdio[terminal] as number);
        const [saved, size] = fd === undefined ? [] : await Promise.all([terminalSettings(fd), terminalSize(fd)]);
        const argv = await prepare(target, request, cgroupsPath, [], size);
        if (signals.stop !== undefined) return stoppedExit(signals.stop, 'exec');
        const child = piped ? await startPiped(argv, '/') : await startProgram(argv, {cwd: '/', stdio});
        if ('stdin' in child) onStreams(child);
        let over = false;
        const started = (): Promise<void> => untilStarted(target, execId, POLL_MS, () => over);
        const told = tellStart(target, request, child.ended);
        let ready: Promise<void> | undefined;
        const passOn = (name: NodeJS.Signals): void => {
          ready ??= started();
          void ready.then(() => {
            if (!over) process.kill(child.pid, name);
          });
        };
        signals.deliver(passOn);
        void signals.stopped.then(async () => {
          await started();
          if (!over) killExec(target, execId, cgroupsPath, child.pid);
        });
        const end = await child.ended;
        over = true;
        await told;
        if (end.signal !== null && saved !== undefined) await restoreTerminal(fd!, saved);
        if (signals.stop !== undefined) {
          onEnd(end.status ?? 128 + constants.signals.SIGKILL);
          return stoppedExit(signals.stop, 'exec');
        }
        const failed = await startError(target, execId, end);
        if (failed !== undefined) throw failed;
        if (end.status === null) throw new ErrdefsError('aborted', `the runtime was killed by ${end.signal}: the exit status is unknown`);
        onEnd(end.status);
        return {exitStatus: end.status};
      } finally {
        forget(target.directory, execId);
      }
    });
  } finally {
    signals.dispose();
  }
}

/** Starts a process and leaves it running; its streams are /dev/null, and nobody records its end. @returns its pid on the host */
export async function execDetached(target: ExecTarget, request: ExecRequest, cgroupsPath: string): Promise<number> {
  return withClaim(target, request, cgroupsPath, async () => {
    const {execId} = request;
    const files = filesOf(target.directory, execId);
    try {
      const argv = await prepare(target, request, cgroupsPath, ['--detach']);
      const child = await startProgram(argv, {cwd: '/', stdio: ['ignore', 'ignore', 'ignore']});
      const failed = await startError(target, execId, await child.ended);
      if (failed !== undefined) throw failed;
      const pid = Number(readFileSync(files.pid, 'latin1'));
      request.onStart?.(pid);
      if (request.pidFile !== undefined) writePidFile(request.pidFile, String(pid));
      // From here on it is the process that holds the identifier.
      if (existsSync(`/proc/${pid}`)) writeFileSync(files.claim, identityText(pid), {mode: 0o600});
      rmSync(files.log, {force: true});
      rmSync(files.process, {force: true});
      return pid;
    } catch (err) {
      forget(target.directory, execId);
      throw err;
    }
  });
}

function identityText(pid: number): string {
  try {
    return formatIdentity(identityOf(pid));
  } catch {
    return ''; // it has ended
  }
}
