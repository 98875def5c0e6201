/** Starts a container's task: in the foreground, or under conmon. */
import {accessSync, constants, existsSync, statSync} from 'node:fs';
import {dirname, isAbsolute} from 'node:path';
import {fileURLToPath} from 'node:url';
import {ErrdefsError, fromErrno, isErrdefs} from '../../errdefs.ts';
import type {ProcessIdentity} from '../../fs/process.ts';
import type {PipedStreams} from '../../fs/spawn-with-channel.ts';
import {cgroupPath, isCgroupOf} from '../../runtime/cgroup-removal.ts';
import type {Restoration} from '../../runtime/detached.ts';
import type {IdMappings} from '../../runtime/id-mappings.ts';
import type {Mount} from '../../runtime/mount-plan.ts';
import type {RootReader} from '../../runtime/path-in-root.ts';
import type {Spec} from '../../runtime/spec.ts';
import {isRootless} from '../../user-namespace-identity.ts';
import type {Context} from '../context.ts';
import {runDirectory} from '../running-containers.ts';
import type {NetworkOptions, PipedTask, RunResult, TaskStartOptions} from '../types/index.ts';
import {tell, tellStart} from './emit-task-event.ts';
import {mappedTree} from './mapped-tree.ts';
import type {Connection} from './network.ts';
import {type MaybePiped, refuseWithStreams, withStreams} from './with-streams.ts';

/** The state directory is often in memory. */
const MAX_LOG_BYTES = 64 << 20;

export interface Launch {
  readonly id: string;
  /** Called once the ID is taken. @param owner the process that holds the task: this one, or conmon */
  begin(owner: ProcessIdentity): Promise<readonly Mount[]>;
  /** Its cgroup is replaced by one of this task, where it is one of berth's. */
  makeSpec(rootfs: RootReader): Spec | Promise<Spec>;
  /** Called with the final specification before the start. */
  readonly keepSpec?: (spec: Spec) => Promise<void>;
  /** Called once the container and its mounts are gone; of a detached task only if it could not be started. */
  readonly onExit?: (failed: boolean) => Promise<void>;
  readonly tty: boolean;
  /** Of its users and groups; absent: they are the host's. */
  readonly mappings: IdMappings | undefined;
  /** The container and its snapshot go when it ends. */
  readonly rm: boolean;
  /** Absent: none, or the host's. */
  readonly network?: NetworkOptions;
  readonly runtime?: string;
  /** Of a task that goes on from a checkpoint: it is detached. */
  readonly restore?: Restoration;
  readonly signal?: AbortSignal;
}

/** Program and first arguments of berth's command; `undefined` where it is not beside the library, as in a bundle. */
export function berthCommand(context: Context): readonly string[] | undefined {
  const beside = ['../../bin/berth', '../../../../bin/berth'].map((path) => fileURLToPath(new URL(path, import.meta.url)));
  const program = context.program ?? beside.filter((path) => existsSync(path)).slice(0, 1);
  return program.length === 0 ? undefined : program;
}

/** Command that conmon calls. */
function exitCommand(context: Context, namespace: string, id: string): readonly string[] | undefined {
  const program = berthCommand(context);
  return program && [...program, '__settle', context.store.layout.root, context.stateDir, namespace, id];
}

/** @throws invalid_argument, not_found or failed_precondition conmon could not write it; it would say so only to its own log */
function checkLogFile(file: string, nullIO: boolean): void {
  const what = `log ${JSON.stringify(file)}`;
  if (nullIO) throw new ErrdefsError('invalid_argument', `${what} of a task whose output is not kept`, {hint: 'leave out --null-io'});
  if (!isAbsolute(file))
    throw new ErrdefsError('invalid_argument', `${what} is not an absolute path`, {hint: 'such as file:///var/log/r1.log'});
  // It would end conmon's name of the file.
  if (file.includes(':')) throw new ErrdefsError('invalid_argument', `${what} has a colon, which conmon does not take`);
  const parent = dirname(file);
  try {
    if (!statSync(parent).isDirectory())
      throw new ErrdefsError('failed_precondition', `${what}: ${JSON.stringify(parent)} is not a directory`, {hint: 'name another file'});
    accessSync(parent, constants.W_OK);
    if (statSync(file, {throwIfNoEntry: false})?.isFile() === false)
      throw new ErrdefsError('failed_precondition', `${what} is not a regular file`, {hint: 'name another file'});
  } catch (err) {
    throw isErrdefs(err) ? err : fromErrno(err, `directory of ${what}`);
  }
}

export async function launch(
  context: Context,
  namespace: string,
  run: Launch,
  options: MaybePiped<TaskStartOptions>,
): Promise<RunResult | PipedTask> {
  if (options.stdio !== 'pipe') return launchToEnd(context, namespace, run, options);
  refuseWithStreams({detach: options.detach ?? false, tty: run.tty}, 'leave it running, with stdin or a terminal, and attach to it');
  const streams = await withStreams((onStreams) => launchToEnd(context, namespace, run, options, onStreams));
  return {id: run.id, ...streams};
}

/** Ends with the task, or when it is left running. */
async function launchToEnd(
  context: Context,
  namespace: string,
  run: Launch,
  options: MaybePiped<TaskStartOptions>,
  onStreams?: (streams: PipedStreams) => void,
): Promise<RunResult> {
  const {store} = context;
  const {id, rm, tty} = run;
  const {detach = false, stdin = tty, noPivot = false, nullIO = false, logFile, maxLogSize, stdio, pidFile, splitCgroup = false} = options;
  if (nullIO && tty)
    throw new ErrdefsError('invalid_argument', 'no output is kept of a container with a terminal', {hint: 'leave out --null-io or --tty'});
  if (!detach && (nullIO || logFile !== undefined || maxLogSize !== undefined))
    throw new ErrdefsError('invalid_argument', 'only a detached task has a log', {hint: 'add --detach'});
  if (logFile !== undefined) checkLogFile(logFile, nullIO);
  // Before anything is started, for that is to come along. Without root there is no group at all: what runs stays in ours.
  const parent = splitCgroup && !isRootless() ? (await import('../../runtime/own-cgroup.ts')).splitOwnCgroup() : undefined;
  let overlaid = false;
  let holder: ProcessIdentity;
  let connection: Connection | undefined;
  const common = {
    id,
    stateDir: runDirectory(context, namespace),
    mounts: async (owner: ProcessIdentity) => {
      holder = owner;
      const mounts = await run.begin(owner);
      overlaid = mounts.some(({type}) => type === 'overlay');
      return mounts;
    },
    makeSpec: async (rootfs: RootReader) => {
      const spec = await run.makeSpec(rootfs);
      const own = parent !== undefined || isCgroupOf(id, spec.linux.cgroupsPath);
      const placed = own ? {...spec, linux: {...spec.linux, cgroupsPath: cgroupPath(namespace, id, holder, parent)}} : spec;
      await run.keepSpec?.(placed);
      // Whatever the root is, it is mounted in the bundle.
      if (placed.process.apparmorProfile !== undefined) await (await import('../../runtime/apparmor.ts')).loadProfile(placed);
      const mounted = {...placed, root: {...placed.root, path: 'rootfs'}};
      if (run.network === undefined) return mounted;
      const {connect} = await import('./network.ts');
      connection = await connect(context, namespace, id, run.network, mounted);
      return connection.spec;
    },
    onExit: async (failed: boolean) => run.onExit?.(failed),
    onLeftover: (err: unknown) => store.housekeeping.warn(`container ${JSON.stringify(id)}`, err),
    volatile: rm,
    ...(run.mappings === undefined ? {} : {idMapped: mappedTree(context, run.mappings)}),
    noPivot,
    removeOnExit: rm,
    ...(pidFile === undefined ? {} : {pidFile}),
    ...(run.runtime === undefined ? {} : {runtime: run.runtime}),
    ...(run.signal === undefined ? {} : {signal: run.signal}),
  };
  const start = async (): Promise<RunResult> => {
    if (!detach) {
      const {runForeground} = await import('../../runtime/foreground-run.ts');
      const {exitStatus} = await runForeground({
        ...common,
        tty,
        onStart: (pid) => tellStart(context, namespace, id, pid),
        onEnd: (exit) => tell(context, namespace, id, 'exit', {id, exit_status: exit.exitStatus}),
        ...(stdio === undefined || stdio === 'inherit' ? {} : {stdio}),
        ...(onStreams === undefined ? {} : {onStreams, forwardSignals: false}),
      });
      return {id, exitStatus};
    }
    const {startDetached} = await import('../../runtime/detached.ts');
    const command = exitCommand(context, namespace, id);
    const pid = await startDetached({
      ...common,
      io: {
        kind: nullIO ? 'none' : 'log',
        terminal: tty,
        stdin: stdin || tty,
        ...(logFile === undefined
          ? {maxLogSize: maxLogSize ?? MAX_LOG_BYTES}
          : {logFile, ...(maxLogSize === undefined ? {} : {maxLogSize})}),
      },
      ...(command === undefined ? {} : {exitCommand: command}),
      ...(run.restore === undefined ? {} : {restore: run.restore}),
    });
    tellStart(context, namespace, id, pid);
    return {id, exitStatus: 0, pid};
  };
  return start()
    .catch(async (err: unknown) => {
      const explained = connection?.explain(err);
      if (explained !== undefined) {
        const {ownFailure} = await import('../../runtime/foreground-run.ts');
        throw ownFailure(explained, `container ${JSON.stringify(id)}`);
      }
      throw overlaid ? await explainMounts(err, store.layout.root) : err;
    })
    .finally(() => connection?.close());
}

/** The same error; or the one that `doctor` finds with mounts in `root`, when that may be the cause. */
async function explainMounts(err: unknown, root: string): Promise<unknown> {
  if (!isErrdefs(err) || err.code !== 'failed_precondition') return err;
  const {checkMounts} = await import('../../runtime/doctor.ts');
  const {status, detail, hint} = await checkMounts(root);
  if (status === 'ok' || hint === undefined) return err;
  return new ErrdefsError('failed_precondition', detail, {cause: err, hint, ...(err.details === undefined ? {} : {details: err.details})});
}
