/** Runs a container in the foreground: mounts, starts it, forwards signals, waits, cleans up. */
import {accessSync, constants, existsSync, lstatSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {constants as os} from 'node:os';
import {basename, dirname, join, resolve} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError, fromErrno, isErrdefs, wrap} from '../errdefs.ts';
import {writeAtomic} from '../fs/durable.ts';
import {ownIdentity, type ProcessIdentity} from '../fs/process.ts';
import {run as runProgram} from '../fs/spawn.ts';
import type {PipedStreams, Stdio} from '../fs/spawn-with-channel.ts';
import {isRootless, requireRoot} from '../user-namespace-identity.ts';
import {cgroupPath, noteCgroup} from './cgroup-removal.ts';
import {RUN_FAILED} from './check-executable.ts';
import type {IdMappings} from './id-mappings.ts';
import {idmappedMounts} from './idmapped-mounts.ts';
import {type Launcher, startLauncher, type Terminal, type TerminalSize} from './launcher.ts';
import {type Mount, type MountPlan, planMounts} from './mount-plan.ts';
import {deleteContainer, findRuntime, type Runtime, rootlessFlags, runRuntime, runtimeErrors} from './oci-runtime.ts';
import {RootReader} from './path-in-root.ts';
import {asPermitted} from './rootless-spec.ts';
import {
  bundleIn,
  claimBundle,
  disconnect,
  recordRuntime,
  releaseBundle,
  removeParentCgroup,
  removeStaleCgroup,
  runtimeRoot,
} from './run-directory.ts';
import type {Spec} from './spec.ts';
import {type TaskRecord, writeTaskRecord} from './task-record.ts';

export interface ForegroundRun {
  /** Of containerd's identifiers; one container of this ID runs in `stateDir` at a time. */
  readonly id: string;
  /** Directory of this machine that ends with the boot. Bundles and the runtime's state lie below it; see run-directory.ts. */
  readonly stateDir: string;
  /**
   * Of the snapshot; or what makes it, called once the ID is taken and before anything is mounted, with the process that holds the run.
   * What that throws ends the run.
   */
  readonly mounts: readonly Mount[] | ((owner: ProcessIdentity) => Promise<readonly Mount[]>);
  /** Called after the container and its mounts are gone, while the ID is still taken. */
  readonly onExit?: (failed: boolean) => Promise<void>;
  /** Called before `onExit` of a container that has run. */
  readonly onEnd?: (exit: ContainerExit) => void;
  /** Gets errors of the clean-up; they do not change the result of the run. */
  readonly onLeftover?: (err: unknown) => void;
  /** Of a container whose specification maps ids. */
  readonly idMapped?: IdMappedRun;
  /** The snapshot is removed after the run, so its writes need not reach the disk. */
  readonly volatile?: boolean;
  /** For the task's record. */
  readonly removeOnExit?: boolean;
  /** Called after the mounts and before the start. Its error ends the run. */
  readonly makeSpec: (rootfs: RootReader) => Spec | Promise<Spec>;
  /** The container has a terminal of its own, connected to the one that is among `stdio`; as `process.terminal` of the specification. */
  readonly tty?: boolean;
  /** Default: the process's own standard streams. `pipe`: those that `onStreams` gets. */
  readonly stdio?: Stdio | 'pipe';
  /** Called when the container is about to run: what can be found wrong before has been. */
  readonly onStreams?: (streams: PipedStreams) => void;
  /** Gets the host's pid of the container's first process, once it runs; written whole or not at all. */
  readonly pidFile?: string;
  /** Called once the container runs, with the host's pid of its first process; a while later, or at its end. */
  readonly onStart?: (pid: number) => void;
  /** The runtime leaves the old root by MS_MOVE and chroot instead of pivot_root(2), which a ramdisk refuses. */
  readonly noPivot?: boolean;
  /** Program or path; default as `findRuntime`. */
  readonly runtime?: string;
  /** Forwards this process's signals to the container. Default true. */
  readonly forwardSignals?: boolean;
  /** Kills the container. */
  readonly signal?: AbortSignal;
}

export interface IdMappedRun {
  readonly mappings: IdMappings;
  /** Where the tree is mounted, privately: an existing directory that the container's root can reach. */
  readonly target: string;
  /** What lies in these belongs to the container's ids, and is idmapped: layers and volumes. */
  readonly directories: readonly string[];
}

export interface ContainerExit {
  /** The container's own; 128+n when signal n ended it. */
  readonly exitStatus: number;
}

/**
 * What reaches the container. Not those of faults, nor SIGCHLD and SIGURG, which are the process's own business, nor
 * SIGPIPE, nor the terminal's stop signals. SIGWINCH makes the runtime take over the terminal's size.
 */
const FORWARDED: readonly NodeJS.Signals[] = [
  'SIGHUP',
  'SIGINT',
  'SIGQUIT',
  'SIGUSR1',
  'SIGUSR2',
  'SIGALRM',
  'SIGTERM',
  'SIGCONT',
  'SIGTSTP',
  'SIGIO',
  'SIGPWR',
  'SIGWINCH',
];

/** Signals that cancel the run if they arrive before the container runs. */
const ENDING: readonly string[] = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM'];

const POLL_MS = 2;
const TELL_POLL_MS = 25;
/** How long a canceled run waits for the runtime to start the container before it kills the runtime. */
const START_TIMEOUT_MS = 10_000;
const STDIO: Stdio = [0, 1, 2];

/** The same error, with the exit status that `run` has for a failure before the container ran. */
export function ownFailure(err: unknown, what: string): unknown {
  const known = isErrdefs(err) ? wrap(what, err) : fromErrno(err, what);
  if (!isErrdefs(known)) return known;
  const {code, message, cause, hint, details} = known;
  return new ErrdefsError(code, message, {cause, ...(hint === undefined ? {} : {hint}), details: {runExit: RUN_FAILED, ...details}});
}

/** Written whole or not at all, by a rename: what the name led to before keeps its content. */
export function writePidFile(file: string, pid: string): void {
  try {
    writeAtomic(file, pid, {sync: false, mode: 0o644});
  } catch (err) {
    throw fromErrno(err, `pid file ${JSON.stringify(file)}`);
  }
}

/** Whether a pid file could take this name. A link is replaced, not followed; a device, a FIFO or a directory is left alone. */
export function checkPidFile(file: string): void {
  const what = `pid file ${JSON.stringify(file)}`;
  try {
    accessSync(dirname(resolve(file)), constants.W_OK);
  } catch (err) {
    throw fromErrno(err, `directory of ${what}`);
  }
  const there = lstatSync(file, {throwIfNoEntry: false});
  if (there !== undefined && !there.isFile() && !there.isSymbolicLink())
    throw new ErrdefsError('failed_precondition', `${what} is not a regular file`, {hint: 'name another file'});
}

/** Index of the first standard stream that is a terminal. */
export async function findTerminal(stdio: Stdio): Promise<number | undefined> {
  const {isatty} = await import('node:tty');
  const index = stdio.findIndex((fd) => fd !== 'ignore' && isatty(fd));
  return index < 0 ? undefined : index;
}

/** A runtime that was killed leaves the terminal as it used it. */
export async function restoreTerminal(fd: number, settings: string): Promise<void> {
  await runProgram('stty', [settings], {package: 'coreutils', descriptors: [fd]}).catch(() => undefined); // nothing else depends on it
}

/** In the format of stty -g. */
export async function terminalSettings(fd: number): Promise<string | undefined> {
  const {status, stdout} = await runProgram('stty', ['-g'], {package: 'coreutils', descriptors: [fd]});
  return status === 0 ? stdout.toString().trim() : undefined;
}

/** @returns `undefined` if it is unknown */
export async function terminalSize(fd: number): Promise<TerminalSize | undefined> {
  const {status, stdout} = await runProgram('stty', ['size'], {package: 'coreutils', descriptors: [fd]});
  const [height, width] = stdout.toString().trim().split(' ').map(Number) as [number, number];
  return status === 0 && height > 0 && width > 0 ? {height, width} : undefined;
}

/** Checks that need nothing to exist yet. */
async function checkRun({tty = false, stdio = STDIO, pidFile, signal}: ForegroundRun): Promise<void> {
  if (signal?.aborted === true) throw new ErrdefsError('canceled', 'run', {cause: signal.reason});
  requireRoot('mount and run containers');
  if (tty && (stdio === 'pipe' || (await findTerminal(stdio)) === undefined))
    throw new ErrdefsError('failed_precondition', '--tty needs a terminal on a standard stream', {hint: 'leave out --tty'});
  if (pidFile !== undefined) checkPidFile(pidFile);
}

/** Reason for a premature end: a signal before the container ran, or the caller's abort. */
type StopReason = {readonly signal: NodeJS.Signals} | {readonly reason: unknown};

interface Subscribers {
  readonly all: Set<() => void>;
  readonly listener: () => void;
}

/** Subscribers by signal. One listener serves all runs of a process: Node warns about more than ten. */
const subscribers = new Map<NodeJS.Signals, Subscribers>();

/** Calls `receive` for each arrival of a signal. @returns unsubscribes */
function subscribe(signal: NodeJS.Signals, receive: () => void): () => void {
  let found = subscribers.get(signal);
  if (found === undefined) {
    const all = new Set<() => void>();
    found = {all, listener: () => [...all].forEach((one) => void one())};
    subscribers.set(signal, found);
    process.on(signal, found.listener);
  }
  const {all, listener} = found;
  all.add(receive);
  return () => {
    all.delete(receive);
    if (all.size > 0) return;
    process.off(signal, listener);
    subscribers.delete(signal);
  };
}

/** Forwards signals and abort of one run; holds them back until the container runs. */
export class SignalForwarder {
  /** The first reason to end the run. */
  stop: StopReason | undefined;
  readonly stopped: Promise<StopReason>;
  #onExit: (stop: StopReason) => void = () => undefined;
  #deliver: ((signal: NodeJS.Signals) => void) | undefined;
  readonly #held: NodeJS.Signals[] = [];
  readonly #subscriptions: (() => void)[] = [];
  readonly #abort: AbortSignal | undefined;
  readonly #onAbort = (): void => this.#end({reason: this.#abort?.reason});

  constructor({tty = false, forwardSignals = true, signal: abort}: Pick<ForegroundRun, 'forwardSignals' | 'signal' | 'tty'>) {
    this.stopped = new Promise((done) => {
      this.#onExit = done;
    });
    this.#abort = abort;
    abort?.addEventListener('abort', this.#onAbort);
    for (const signal of forwardSignals ? FORWARDED : []) {
      if (signal === 'SIGWINCH' && !tty) continue;
      this.#subscriptions.push(subscribe(signal, () => this.#receive(signal)));
    }
  }

  #end(stop: StopReason): void {
    this.stop ??= stop;
    this.#onExit(stop);
  }

  #receive(signal: NodeJS.Signals): void {
    if (this.#deliver !== undefined) this.#deliver(signal);
    else if (ENDING.includes(signal)) this.#end({signal});
    else this.#held.push(signal);
  }

  /** Delivers held signals, and from now on all others, to `to`. */
  deliver(to: (signal: NodeJS.Signals) => void): void {
    this.#deliver = to;
    for (const signal of this.#held.splice(0)) to(signal);
  }

  dispose(): void {
    this.#abort?.removeEventListener('abort', this.#onAbort);
    for (const unsubscribe of this.#subscriptions) unsubscribe();
  }
}

/** The result of a stopped run. */
export function stoppedExit(stop: StopReason, what = 'run'): ContainerExit {
  if ('signal' in stop) return {exitStatus: 128 + os.signals[stop.signal]};
  throw new ErrdefsError('canceled', what, {cause: stop.reason});
}

/** See `scopeForContainer`. */
export const scopeOf = async (id: string): Promise<readonly string[] | undefined> =>
  isRootless() ? (await import('./delegated-cgroup.ts')).scopeForContainer(id) : undefined;

/** Mounts the tree, and writes the specification. */
export async function configure(
  launcher: Launcher,
  directory: string,
  {mounts: known, volatile = false, makeSpec, idMapped}: Pick<ForegroundRun, 'idMapped' | 'makeSpec' | 'mounts' | 'volatile'>,
  task: Pick<TaskRecord, 'io' | 'removeOnExit' | 'runtime'>,
  owner: ProcessIdentity,
  signals: SignalForwarder,
): Promise<Terminal | undefined> {
  const bundle = bundleIn(directory);
  const mounts = typeof known === 'function' ? await known(owner) : known;
  // The kernel does not mount a volatile upper directory a second time.
  const plan = planMounts(mounts, {volatile: volatile && idMapped === undefined});
  let terminal: Terminal | undefined;
  await Promise.race([launcher.mount(plan).then((found) => (terminal = found)), signals.stopped]);
  if (signals.stop !== undefined) return undefined;
  const rootfs = new RootReader(`/proc/${launcher.pid}/cwd/rootfs`);
  const config = join(bundle, 'config.json');
  let cgroup: string;
  let main: Spec['process'];
  let mapped: MountPlan | undefined;
  try {
    const group = isRootless() ? (await import('./delegated-cgroup.ts')).divideGroupOf(launcher.pid) : undefined;
    const place = group && {group, path: cgroupPath('', basename(directory), owner, group.path)};
    const permitted = asPermitted(await makeSpec(rootfs), idMapped?.mappings, place);
    const spec = idMapped === undefined ? permitted : {...permitted, root: {...permitted.root, path: idMapped.target}};
    if (idMapped !== undefined) mapped = idmappedMounts(planMounts(mounts, {volatile}), spec, idMapped);
    // The runtime sets the size again when it runs, but the container may have asked by then.
    const sized = terminal === undefined ? spec : {...spec, process: {...spec.process, consoleSize: terminal.size}};
    writeFileSync(config, JSON.stringify(sized), {mode: 0o600});
    cgroup = spec.linux.cgroupsPath;
    main = spec.process;
  } finally {
    rootfs.close();
  }
  if (mapped !== undefined) await launcher.remount(mapped, idMapped!.target);
  noteCgroup(dirname(dirname(directory)), cgroup);
  // A file's time, as those of start and end are: the three are of one clock.
  const createdAt = statSync(config).mtime.toISOString();
  writeTaskRecord(directory, {version: 1, createdAt, ...task, cgroupsPath: cgroup, process: main});
  recordRuntime(directory, launcher.pid, cgroup);
  return terminal;
}

/** Starts the container, forwards signals, and waits for its end. */
async function supervise(
  launcher: Launcher,
  directory: string,
  run: ForegroundRun,
  runtime: Runtime,
  signals: SignalForwarder,
): Promise<void> {
  const initPid = join(directory, 'init.pid');
  let over = false;
  /** The runtime takes signals for the container from here on; before, they would end the runtime itself. */
  const started = async (): Promise<void> => {
    while (!over && !existsSync(initPid)) await delay(POLL_MS);
  };
  const kill = async (): Promise<void> => {
    await Promise.race([started(), delay(START_TIMEOUT_MS, undefined, {ref: false})]);
    await runRuntime(runtime, ['--root', runtimeRoot(run.stateDir), 'kill', run.id, 'KILL']);
    // It would wait for the reader of what the container wrote. The container itself is looked after when it has ended.
    launcher.kill('SIGKILL');
  };
  const tellPid = async (file: string): Promise<void> => {
    await started();
    try {
      if (existsSync(initPid)) writePidFile(file, readFileSync(initPid, 'latin1'));
    } catch (err) {
      await kill();
      throw err;
    }
  };

  /** Seldom looks: nobody waits for it, and a start is worth more than its news. */
  const tellStart = async (onStart: (pid: number) => void): Promise<void> => {
    const end = launcher.ended;
    while (!over && !existsSync(initPid)) await Promise.race([delay(TELL_POLL_MS, undefined, {ref: false}), end]);
    if (existsSync(initPid)) onStart(Number(readFileSync(initPid, 'latin1')));
  };

  let ready: Promise<void> | undefined;
  signals.deliver((signal) => {
    ready ??= started();
    void ready.then(() => launcher.kill(signal));
  });
  void signals.stopped.then(kill).catch(() => launcher.kill('SIGKILL'));
  if (launcher.streams !== undefined) run.onStreams?.(launcher.streams);
  launcher.release();
  const written = run.pidFile === undefined ? undefined : tellPid(resolve(run.pidFile));
  const ended = launcher.ended.finally(() => {
    over = true;
  });
  const told = run.onStart === undefined ? undefined : tellStart(run.onStart);
  await Promise.all([ended, written, told]);
}

async function runInBundle(run: ForegroundRun, runtime: Runtime, directory: string, signals: SignalForwarder): Promise<ContainerExit> {
  const stdio = run.stdio ?? STDIO;
  const tty = run.tty === true && stdio !== 'pipe' ? await findTerminal(stdio) : undefined;
  const options = ['--root', runtimeRoot(run.stateDir), ...rootlessFlags(runtime), '--log', '../log.json', '--log-format', 'json'];
  const launcher = await startLauncher(
    bundleIn(directory),
    [runtime.path, ...options, 'run', ...(run.noPivot === true ? ['--no-pivot'] : []), '--pid-file', '../init.pid', run.id],
    stdio,
    {terminal: tty, scope: await scopeOf(run.id)},
  );
  let terminal: Terminal | undefined;
  try {
    const io = {kind: 'inherit', terminal: run.tty ?? false, stdin: true} as const;
    terminal = await configure(launcher, directory, run, {io, runtime, removeOnExit: run.removeOnExit ?? false}, ownIdentity(), signals);
    if (signals.stop === undefined) await supervise(launcher, directory, run, runtime, signals);
  } finally {
    launcher.kill('SIGKILL');
    const {signal} = await launcher.ended;
    if (signal !== null && terminal !== undefined && tty !== undefined) await restoreTerminal(stdio[tty] as number, terminal.settings);
  }
  if (signals.stop !== undefined) return stoppedExit(signals.stop);
  const {status, signal} = await launcher.ended;
  if (status === null) throw new ErrdefsError('aborted', `the runtime was killed by ${signal}: the status of the container is unknown`);
  // Where somebody has removed the directory, the container most likely ran: what it wrote must not be taken for nothing.
  if (existsSync(directory) && !existsSync(join(directory, 'init.pid'))) {
    const messages = runtimeErrors(join(directory, 'log.json'));
    throw new ErrdefsError('unknown', messages.at(-1) ?? `${runtime.name} ended with status ${status} before the container ran`);
  }
  return {exitStatus: status};
}

/**
 * Runs a container to its end. Whatever happens, nothing is mounted, running or left in `stateDir` afterwards; what
 * survives a SIGKILL of this process is told by `listRuns`.
 *
 * Signals that come before the container runs end the run, with status 128+n; later ones are the container's.
 *
 * @throws errors with `details.runExit`: 125, 126 or 127, the status that a command line gives for them
 * @throws permission_denied not root
 * @throws unavailable a program that is needed is not installed
 * @throws already_exists a container of this ID runs
 * @throws failed_precondition no terminal, or the mounts fail
 * @throws aborted the runtime was killed; the container's status is not known
 * @throws canceled `signal` was aborted
 * @throws unknown the runtime refused; its own words
 */
export async function runForeground(run: ForegroundRun): Promise<ContainerExit> {
  const signals = new SignalForwarder(run);
  const {onLeftover} = run;
  const tidy = async (step: () => void | Promise<void>): Promise<void> => {
    try {
      await step();
    } catch (err) {
      if (onLeftover === undefined) throw err;
      onLeftover(err);
    }
  };
  try {
    await checkRun(run);
    const runtime = findRuntime(run.runtime);
    const directory = await claimBundle(run.stateDir, run.id, runtime, onLeftover);
    try {
      const ending = await runInBundle(run, runtime, directory, signals).catch(async (err: unknown) => {
        await deleteContainer(runtime, runtimeRoot(run.stateDir), run.id);
        await removeStaleCgroup(directory);
        if (isErrdefs(err)) await tidy(async () => run.onExit?.(true));
        throw err;
      });
      run.onEnd?.(ending);
      await tidy(async () => run.onExit?.(false));
      return ending;
    } finally {
      await tidy(async () => {
        await disconnect(directory);
        // The runtime has removed the container's.
        removeParentCgroup(directory);
        releaseBundle(directory);
      });
    }
  } catch (err) {
    throw ownFailure(err, `container ${JSON.stringify(run.id)}`);
  } finally {
    signals.dispose();
  }
}
