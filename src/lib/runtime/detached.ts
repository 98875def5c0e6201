/**
 * Starts a container that outlives this process. The launcher (launcher.ts) becomes conmon, which makes the container by the runtime, keeps
 * its output, records its exit status, and then calls a command of the caller. conmon holds the mount namespace, so the mounts end with it.
 */
import {closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync} from 'node:fs';
import {join, relative, resolve} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError, isErrdefs} from '../errdefs.ts';
import {identityOf} from '../fs/process.ts';
import {requireProgram} from '../fs/spawn.ts';
import {requireRoot} from '../user-namespace-identity.ts';
import {type CheckpointFlags, checkpointFlags, criuFailure} from './checkpoint.ts';
import {checkPidFile, configure, type ForegroundRun, ownFailure, SignalForwarder, scopeOf, writePidFile} from './foreground-run.ts';
import {type Launcher, startLauncher} from './launcher.ts';
import {
  containerState,
  deleteContainer,
  findRuntime,
  type Runtime,
  rootlessFlags,
  runRuntime,
  runtimeErrors,
  runtimeFailure,
} from './oci-runtime.ts';
import {
  announceStart,
  bundleIn,
  claimBundle,
  disconnect,
  giveBundle,
  releaseBundle,
  removeBefore,
  removeStaleCgroup,
  runtimeRoot,
} from './run-directory.ts';
import {type TaskIO, taskFiles} from './task-record.ts';

export interface DetachedRun
  extends Pick<
    ForegroundRun,
    | 'id'
    | 'idMapped'
    | 'makeSpec'
    | 'mounts'
    | 'noPivot'
    | 'onExit'
    | 'onLeftover'
    | 'pidFile'
    | 'removeOnExit'
    | 'runtime'
    | 'signal'
    | 'stateDir'
    | 'volatile'
  > {
  readonly io: TaskIO;
  /** What conmon executes once the container has ended, its program as an absolute path. Its environment is PATH and a locale. */
  readonly exitCommand?: readonly string[];
  /** The container is not started, but goes on from a checkpoint, in place of a task that has ended, and with its log. */
  readonly restore?: Restoration;
}

export interface Restoration extends CheckpointFlags {
  /** Directory of criu's images, as an absolute path. */
  readonly images: string;
}

/** Arguments of conmon. Paths are absolute, as it works in the bundle; but of the log from there, because a colon would end its name. */
function conmonArguments(conmon: string, runtime: Runtime, directory: string, run: DetachedRun): string[] {
  const {id, io, stateDir, noPivot = false, exitCommand = [], restore} = run;
  const files = taskFiles(directory, id);
  const log =
    io.kind === 'none'
      ? ['--log-path', 'none']
      : [
          '--log-path',
          `k8s-file:${io.logFile ?? relative(bundleIn(directory), files.log)}`,
          ...(io.maxLogSize === undefined ? [] : ['--log-size-max', String(io.maxLogSize)]),
        ];
  const runtimeArguments = ['--root', runtimeRoot(stateDir), ...rootlessFlags(runtime), '--log', files.runtimeLog, '--log-format', 'json'];
  const [program, ...words] = exitCommand;
  return [
    conmon,
    ...['--api-version', '1', '--sync', '--cid', id, '--cuuid', id, '--name', id],
    ...['--runtime', runtime.path, '--bundle', bundleIn(directory), '--container-pidfile', files.initPid],
    ...['--exit-dir', files.exitDirectory, '--persist-dir', directory, '--full-attach', ...log],
    ...(noPivot ? ['--no-pivot'] : []),
    ...(restore === undefined ? [] : ['--restore', restore.images, ...checkpointFlags(restore).flatMap((flag) => ['--runtime-opt', flag])]),
    ...(io.terminal ? ['--terminal'] : []),
    ...(io.stdin ? ['--stdin', '--leave-stdin-open'] : []),
    ...(program === undefined ? [] : ['--exit-command', program]),
    ...words.flatMap((word) => ['--exit-command-arg', word]),
    ...runtimeArguments.flatMap((word) => ['--runtime-arg', word]),
  ];
}

/** What conmon reports once the runtime has made the container, or has failed to. */
interface Report {
  readonly data?: number;
  readonly pid?: number;
  readonly message?: string;
}

function parseReport(line: string): Report {
  try {
    return JSON.parse(line) as Report;
  } catch {
    return {}; // it was killed
  }
}

/** Between two looks at what conmon waits for. */
const LOOK_MS = 2000;

/** The words of each child of a process; those that have ended have none. */
function childrenOf(pid: number): ReadonlyMap<string, readonly string[]> {
  const words = (child: string): readonly string[] => {
    try {
      return readFileSync(`/proc/${child}/cmdline`, 'utf8').split('\0').slice(0, -1);
    } catch {
      return [];
    }
  };
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').split(' ').slice(0, -1);
    return new Map(children.map((child) => [child, words(child)]));
  } catch {
    return new Map(); // it has ended, or the kernel keeps no such list
  }
}

/**
 * Resolves when conmon waits in vain: it reads the errors of a runtime that failed up to their end, and the first process of a container keeps them
 * open when its runtime was killed between making it and saying so.
 */
async function waitsInVain(conmon: number, signal: AbortSignal): Promise<void> {
  for (let before: readonly string[] = []; ; ) {
    await delay(LOOK_MS, undefined, {signal, ref: false});
    const children = [...childrenOf(conmon)];
    // The runtime, and conmon's copy that becomes it, are on the way to an answer.
    const isOnItsWay = children.some(([, words]) => ['create', 'restore', '--cid'].some((word) => words.includes(word)));
    const left = isOnItsWay ? [] : children.filter(([, words]) => words.length > 0).map(([pid]) => pid);
    if (left.some((pid) => before.includes(pid))) return;
    before = left;
  }
}

async function start(run: DetachedRun, runtime: Runtime, directory: string, launcher: Launcher, signals: SignalForwarder): Promise<number> {
  const {id, io, removeOnExit = false} = run;
  await configure(launcher, directory, run, {io, runtime, removeOnExit}, identityOf(launcher.pid), signals);
  const stopped = (): void => {
    if (signals.stop === undefined) return;
    const cause = 'signal' in signals.stop ? new Error(`interrupted by ${signals.stop.signal}`) : signals.stop.reason;
    throw new ErrdefsError('canceled', 'start', {cause});
  };
  stopped();
  const files = taskFiles(directory, id);
  mkdirSync(files.exitDirectory, {mode: 0o700});
  const failed = (fallback: string): ErrdefsError => new ErrdefsError('unknown', runtimeErrors(files.runtimeLog).at(-1) ?? fallback);
  const answered = new AbortController();
  const unheard = waitsInVain(launcher.pid, answered.signal).then(
    () => 'unheard' as const,
    () => new Promise<never>(() => undefined),
  );
  const line = await Promise.race([launcher.releaseConnected(), unheard, signals.stopped.then(() => '')]).finally(() => answered.abort());
  stopped();
  if (line === 'unheard') throw new ErrdefsError('aborted', `${runtime.name} was killed while it made the container`);
  const {data, pid = data, message} = parseReport(line);
  if (pid === undefined) throw new ErrdefsError('aborted', 'conmon ended before the container was made: it was killed');
  if (pid <= 0) {
    const err = failed(message || `${runtime.name} ended before the container was made`);
    if (run.restore === undefined) throw err;
    throw await criuFailure('unable to restore', join(bundleIn(directory), 'restore.log'), err.message, directory);
  }
  // One that ends at once and is removed then stays until this start has been told; and nobody else is to start it meanwhile.
  const started = announceStart(directory);
  try {
    // From here on the task belongs to conmon: whoever looks finds it created, and can delete it, or start it if we die.
    giveBundle(directory, launcher.pid);
    if (run.restore === undefined) await startCreated(run, runtime, directory, pid);
    else {
      noteStart(run, directory, pid);
      removeBefore(directory);
    }
  } finally {
    started();
  }
  return pid;
}

/** Notes that the container runs. */
function noteStart({id, pidFile}: DetachedRun, directory: string, pid: number): void {
  closeSync(openSync(taskFiles(directory, id).started, 'w', 0o600));
  if (pidFile !== undefined) writePidFile(resolve(pidFile), String(pid));
}

async function startCreated(run: DetachedRun, runtime: Runtime, directory: string, pid: number): Promise<void> {
  const {id, stateDir} = run;
  const files = taskFiles(directory, id);
  const result = await runRuntime(runtime, [
    '--root',
    runtimeRoot(stateDir),
    '--log',
    files.runtimeLog,
    '--log-format',
    'json',
    'start',
    id,
  ]);
  // A command that was killed may have started the container of this ID on its way.
  if (result.status !== 0 && (await containerState(runtime, runtimeRoot(stateDir), id))?.status !== 'running')
    throw runtimeFailure(runtime, 'unable to start the container', {
      ...result,
      stderr: runtimeErrors(files.runtimeLog).at(-1) ?? result.stderr,
    });
  noteStart(run, directory, pid);
}

/**
 * Starts a container and leaves it running under conmon. A failure leaves nothing behind.
 *
 * @returns the host's pid of its first process
 * @throws errors with `details.runExit`, as `runForeground`
 * @throws unavailable conmon or another program is not installed
 * @throws canceled `signal` was aborted, or a signal came, before the container ran
 */
export async function startDetached(run: DetachedRun): Promise<number> {
  const signals = new SignalForwarder(run);
  const tidy = async (step: () => void | Promise<void>): Promise<void> => {
    try {
      await step();
    } catch (err) {
      if (run.onLeftover === undefined) throw err;
      run.onLeftover(err);
    }
  };
  try {
    if (run.signal?.aborted === true) throw new ErrdefsError('canceled', 'start', {cause: run.signal.reason});
    requireRoot('mount and run containers');
    if (run.pidFile !== undefined) checkPidFile(run.pidFile);
    const runtime = findRuntime(run.runtime);
    const conmon = requireProgram('conmon', 'conmon');
    const env = requireProgram('env', 'coreutils');
    const directory = await claimBundle(run.stateDir, run.id, runtime, run.onLeftover, {
      continues: run.restore !== undefined,
    });
    let launcher: Launcher | undefined;
    try {
      // conmon reads its arguments as text of the locale.
      const words = [env, '_OCI_SYNCPIPE=3', 'LC_ALL=C.UTF-8', ...conmonArguments(conmon, runtime, directory, run)];
      launcher = await startLauncher(bundleIn(directory), words, ['ignore', 'ignore', 'ignore'], {scope: await scopeOf(run.id)});
      const pid = await start(run, runtime, directory, launcher, signals);
      launcher.leave();
      return pid;
    } catch (err) {
      launcher?.kill('SIGKILL');
      await launcher?.ended;
      await deleteContainer(runtime, runtimeRoot(run.stateDir), run.id);
      if (existsSync(directory)) await removeStaleCgroup(directory);
      // The task that it was to go on from comes back, even if a container was made of it for a moment.
      if (run.restore !== undefined) rmSync(taskFiles(directory, run.id).initPid, {force: true});
      if (isErrdefs(err)) await tidy(async () => run.onExit?.(true));
      await tidy(async () => {
        await disconnect(directory);
        releaseBundle(directory);
      });
      throw err;
    }
  } catch (err) {
    throw ownFailure(err, `container ${JSON.stringify(run.id)}`);
  } finally {
    signals.dispose();
  }
}
