/**
 * The directory of a run: its owner, and the OCI bundle.
 *
 *     <state>/bundles/<id>/          owner.<identity>, runtime.<identity>, and the files of task-record.ts
 *     <state>/bundles/<id>/before/   while a restoration takes the place of a task that has ended: the directory of that
 *     <state>/bundles/<id>/bundle/   fstab, l/, m/ and i/ (see mount-plan.ts), config.json, rootfs/
 *     <state>/runtime/<id>/          the runtime's own
 *
 * The owner is the process that runs the container, `runtime` the program it started for that, with the container's cgroup
 * as the file's content; identities are those of fs/process.ts. Of a detached task both are conmon. Both are dead and the runtime knows of
 * no running container: then nothing is mounted and nothing runs. A detached task is stopped, and stays until it is deleted; every other run
 * is stale, and the next claim of its ID, or `cleanup`, removes it.
 *
 * A container may have got hold of its bundle. So nothing in it is read once the runtime has started, and what a later
 * command ends and removes is found by the files beside it and by the runtime's state.
 */

import {
  closeSync,
  existsSync,
  fstatSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmdirSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError, fromErrno, hasCode} from '../errdefs.ts';
import {formatIdentity, identityOf, liveness, ownIdentity, type ProcessIdentity, parseIdentity} from '../fs/process.ts';
import {run as runProgram} from '../fs/spawn.ts';
import {isOwnCgroup, KILL_TIMEOUT_MS, POLL_MS, removeCgroups, removeUnitCgroup} from './cgroup-removal.ts';
import {ignoreErrno, list} from './ignore-errno.ts';
import {hintToRemoveTask} from './next-command.ts';
import {containerState, deleteContainer, type Runtime} from './oci-runtime.ts';
import {hasBeenCreated, readTaskEnd, readTaskRecord, taskFiles} from './task-record.ts';

/** Time for a process to end by itself. */
const GRACE_MS = 1000;

/** Names of the directories that runs make in a state directory. */
export const RUN_DIRECTORIES = ['bundles', 'runtime'] as const;

/** A run's directory. */
export const runPath = (stateDir: string, id: string): string => join(stateDir, 'bundles', id);
/** The OCI bundle in a run's directory. */
export const bundleIn = (run: string): string => join(run, 'bundle');
export const runtimeRoot = (stateDir: string): string => join(stateDir, 'runtime');

/** The file in a run's directory that identifies its owner or its runtime process. */
function recordedProcess(run: string, role: 'owner' | 'runtime'): {readonly file: string; readonly identity: ProcessIdentity} | undefined {
  for (const name of list(run)) {
    const identity = name.startsWith(`${role}.`) ? parseIdentity(name.slice(role.length + 1)) : undefined;
    if (identity !== undefined) return {file: join(run, name), identity};
  }
  return undefined;
}

/** A process of another pid namespace is not visible here, and counts as alive. */
const mayBeAlive = (run: string, role: 'owner' | 'runtime'): boolean => {
  const found = recordedProcess(run, role);
  return found !== undefined && liveness(found.identity) !== 'dead';
};

/**
 * Whether a run of this ID has begun and may not have ended. Reads files alone, so that it can be asked under a lock; of a
 * container that outlived both its processes it knows nothing.
 */
export const isClaimed = (stateDir: string, id: string): boolean => {
  const run = runPath(stateDir, id);
  return mayBeAlive(run, 'owner') || mayBeAlive(run, 'runtime');
};

/**
 * Notes in a run's directory that this child of ours is its runtime. To be done before the child may start anything.
 *
 * @param cgroup the container's, as its specification has it
 */
export function recordRuntime(run: string, pid: number, cgroup: string): void {
  writeFileSync(join(run, `runtime.${formatIdentity(identityOf(pid))}`), cgroup, {mode: 0o600});
}

/** The container's cgroup; `undefined` when the runtime was not started. */
function cgroupOf(run: string): string | undefined {
  const runtime = recordedProcess(run, 'runtime');
  let path = '';
  // A note that is gone, damaged or unreadable names no cgroup.
  if (runtime !== undefined)
    ignoreErrno(['ENOENT', 'EISDIR', 'EIO', 'EACCES', 'ELOOP'], () => {
      path = readFileSync(runtime.file, 'utf8');
    });
  // In one that the user chose there may be others.
  return isOwnCgroup(path) ? path : undefined;
}

/**
 * Ends and removes what a runtime that was killed while it made the container left in its cgroups: of that it keeps no
 * record. See cgroups(7); version 1 has one tree for each controller.
 */
export async function removeStaleCgroup(run: string): Promise<void> {
  const path = cgroupOf(run);
  if (path === undefined) return;
  await removeCgroups(path);
  removeParentCgroup(run);
}

/** Removes the group above the container's where it is of no use any more. That of the namespace is for the next container. */
export function removeParentCgroup(run: string): void {
  const parent = dirname(cgroupOf(run) ?? '/');
  const namespace = basename(dirname(dirname(run)));
  if (parent !== '/' && parent !== `/${namespace}`) removeUnitCgroup(parent);
}

/**
 * Removes a bundle, or a run's directory with its bundle: files and links, and those one directory below. Never what
 * `rootfs` holds: were something still mounted there, this would fail, not delete it.
 */
export function removeBundle(bundle: string): void {
  for (const entry of readdirSync(bundle, {withFileTypes: true})) {
    const path = join(bundle, entry.name);
    if (!entry.isDirectory()) unlinkSync(path);
    else if (path === bundleIn(bundle)) removeBundle(path);
    else if (path === beforeIn(bundle)) removeBefore(bundle);
    else {
      for (const name of ['l', 'm', 'i', 'exits'].includes(entry.name) ? readdirSync(path) : [])
        if (entry.name === 'm' || entry.name === 'i') rmdirSync(join(path, name));
        else unlinkSync(join(path, name));
      rmdirSync(path);
    }
  }
  rmdirSync(bundle);
}

const beforeIn = (run: string): string => join(run, 'before');

/** Forgets the task whose place a run has taken: its container runs. */
export function removeBefore(run: string): void {
  for (const id of list(beforeIn(run))) removeBundle(join(beforeIn(run), id));
  ignoreErrno(['ENOENT'], () => rmdirSync(beforeIn(run)));
}

/**
 * Puts back the ended task whose place a run was to take that has come to nothing. One whose container was made has taken it.
 *
 * @param run a directory that is no run's any more, or not yet; by several at once, it is done once
 */
function putBack(run: string): void {
  if (hasBeenCreated(run)) return;
  for (const id of list(beforeIn(run))) {
    const task = join(beforeIn(run), id);
    const owner = recordedProcess(task, 'owner');
    // The one that took it may live.
    if (owner !== undefined) {
      const holder = holderOf(task);
      ignoreErrno(['ENOENT'], () =>
        holder === undefined ? unlinkSync(owner.file) : renameSync(owner.file, join(task, `owner.${holder}`)),
      );
    }
    ignoreErrno(['ENOENT', 'ENOTEMPTY', 'EEXIST'], () => renameSync(task, join(dirname(run), id)));
  }
}

let counter = 0;

/** A unique temporary name in `bundles`; it identifies its process, and no ID begins with a dot. */
const temporaryIn = (bundles: string): string => join(bundles, `.${formatIdentity(ownIdentity())}.${++counter}`);

/** Whether what a run's network consists of has not been removed: see network/attachment.ts. */
export const isConnected = (run: string): boolean => list(run).some((name) => /^network\.\w+\.json$/.test(name));

/** Removes the network of a run whose container has ended. What cannot be removed stays recorded, for the next time. */
export async function disconnect(run: string): Promise<void> {
  if (!isConnected(run)) return;
  const {detach} = await import('./network/attachment.ts');
  await detach(run);
}

/** Releases an ID and removes its run's directory. The rename makes that atomic for the next claim, and for those that wait for its end. */
export function releaseBundle(run: string): void {
  const old = temporaryIn(dirname(run));
  // It is gone where somebody has removed the state directory.
  if (!ignoreErrno(['ENOENT'], () => renameSync(run, old))) return;
  tellWaiters(old, basename(run));
  putBack(old);
  removeBundle(old);
}

export interface Run {
  readonly id: string;
  /**
   * `running`: the process that runs it lives. `orphaned`: that process is dead, the container runs on. `stopped`: a detached task that has
   * ended. `stale`: only files are left.
   */
  readonly state: 'running' | 'orphaned' | 'stopped' | 'stale';
  /** The container's cgroup, of a stale run whose runtime was started. */
  readonly cgroup?: string;
}

async function inspect(stateDir: string, id: string, runtime: Runtime): Promise<Run> {
  const run = runPath(stateDir, id);
  if (mayBeAlive(run, 'owner')) return {id, state: 'running'};
  if (mayBeAlive(run, 'runtime')) return {id, state: 'orphaned'};
  const task = readTaskRecord(run);
  // The one that made it: another does not know of it.
  const status = (await containerState(task?.runtime ?? runtime, runtimeRoot(stateDir), id))?.status;
  if (status === 'running' || status === 'paused') return {id, state: 'orphaned'};
  // One that was only created waits for a runtime that is gone.
  if (task !== undefined && task.io.kind !== 'inherit' && !task.removeOnExit && hasBeenCreated(run)) return {id, state: 'stopped'};
  const cgroup = cgroupOf(run);
  return {id, state: 'stale', ...(cgroup === undefined ? {} : {cgroup})};
}

/** As `inspect`; of a restoration that was killed, the task that it found. */
async function find(stateDir: string, id: string, runtime: Runtime): Promise<Run> {
  const run = await inspect(stateDir, id, runtime);
  if (run.state !== 'stale' || !existsSync(beforeIn(runPath(stateDir, id))) || hasBeenCreated(runPath(stateDir, id))) return run;
  try {
    releaseBundle(await claimBundle(stateDir, id, runtime));
  } catch (err) {
    if (!hasCode(err, 'already_exists')) throw err; // it is back, or another one was faster
  }
  return inspect(stateDir, id, runtime);
}

/** Runs below a state directory, living and dead, sorted by ID. @param only the ID of the one to look for */
export async function listRuns(stateDir: string, runtime: Runtime, only?: string): Promise<readonly Run[]> {
  for (const path of abandonedIn(join(stateDir, 'bundles'))) putBack(path);
  if (only !== undefined) {
    const exists = existsSync(runPath(stateDir, only)) || existsSync(join(runtimeRoot(stateDir), only));
    return exists ? [await find(stateDir, only, runtime)] : [];
  }
  // Half-made and half-removed bundles begin with a dot, which no ID does.
  const ids = [...list(join(stateDir, 'bundles')), ...list(runtimeRoot(stateDir))].filter((name) => !name.startsWith('.'));
  return Promise.all([...new Set(ids)].sort().map((id) => find(stateDir, id, runtime)));
}

/** Whether a run was begun by a command that is dead, and what it has released has not made the container yet. */
const isBeingMade = (run: string): boolean => !mayBeAlive(run, 'owner') && mayBeAlive(run, 'runtime') && !hasBeenCreated(run);

/**
 * Waits for the end of what nobody sees to any more: a command that starts a container was killed. Its launcher ends, or makes the container.
 *
 * @param timeoutMs default: time for a container to be made
 */
export async function untilMade(run: string, timeoutMs = START_MS): Promise<void> {
  for (let waited = 0; waited < timeoutMs && isBeingMade(run); waited += POLL_MS) await delay(POLL_MS);
}

/** Whether a run in the background belongs to a living command. Once the container is made it belongs to conmon. */
function isWithItsCommand(run: string): boolean {
  const owner = recordedProcess(run, 'owner')?.identity;
  return owner !== undefined && owner.pid !== recordedProcess(run, 'runtime')?.identity.pid && liveness(owner) !== 'dead';
}

/**
 * Whether a command that started a task was killed before the container ran: nobody else is going to start it. One in the foreground is made
 * and started by the runtime in one go: it is abandoned until it is made.
 */
async function isAbandonedStart(stateDir: string, id: string): Promise<boolean> {
  const run = runPath(stateDir, id);
  const task = readTaskRecord(run);
  if (task === undefined || existsSync(taskFiles(run, id).started) || isStarting(run)) return false;
  const holder = recordedProcess(run, 'runtime')?.identity;
  if (isWithItsCommand(run) || (holder !== undefined && liveness(holder) === 'unknown')) return false;
  if (!hasBeenCreated(run)) return true;
  return task.io.kind !== 'inherit' && (await containerState(task.runtime, runtimeRoot(stateDir), id))?.status === 'created';
}

const OWNER = (): string => `owner.${formatIdentity(ownIdentity())}`;

/** Gets the error for a leftover of a dead run that could not be removed. */
export type OnLeftover = (err: unknown) => void;

const throwIt: OnLeftover = (err) => {
  throw err;
};

function removeLeftover(path: string, onLeftover: OnLeftover): void {
  try {
    ignoreErrno(['ENOENT'], () => removeBundle(path));
  } catch (err) {
    onLeftover(err);
  }
}

/** Half-made and half-removed directories of dead processes. */
const abandonedIn = (bundles: string): readonly string[] =>
  list(bundles).flatMap((name) => {
    const maker = name.startsWith('.') ? parseIdentity(name.slice(1)) : undefined;
    return maker !== undefined && liveness(maker) === 'dead' ? [join(bundles, name)] : [];
  });

/** Removes half-made and half-removed directories of dead processes. @param onLeftover as `claimBundle` */
export function sweepBundles(stateDir: string, onLeftover: OnLeftover = throwIt): void {
  for (const path of abandonedIn(join(stateDir, 'bundles'))) {
    putBack(path);
    removeLeftover(path, onLeftover);
  }
}

/**
 * Takes an ID for a run, with a bundle that holds an empty `rootfs`; clears away what a dead run of that ID left, and a task that a killed
 * command has begun to start.
 *
 * @param onLeftover gets errors of removing dead runs; without it they are thrown
 * @param options.takesStopped a task that has ended is cleared away, too
 * @param options.continues one that has ended is kept in the new run's directory, whose log goes on where that one's was. It comes back with the
 *   release of this run, unless `removeBefore` was called or a container was made
 * @returns the path of the run's directory
 * @throws already_exists a container of that ID runs
 */
export async function claimBundle(
  stateDir: string,
  id: string,
  runtime: Runtime,
  onLeftover: OnLeftover = throwIt,
  {takesStopped = false, continues = false}: {readonly takesStopped?: boolean; readonly continues?: boolean} = {},
): Promise<string> {
  const what = `container ${JSON.stringify(id)}`;
  const bundles = join(stateDir, 'bundles');
  const run = runPath(stateDir, id);
  const claim = async (): Promise<void> => {
    const mine = temporaryIn(bundles);
    mkdirSync(mine, {mode: 0o700});
    try {
      mkdirSync(join(bundleIn(mine), 'rootfs'), {recursive: true, mode: 0o700});
      writeFileSync(join(mine, OWNER()), '', {mode: 0o600});
      // A run's directory is never empty, so renaming onto one fails.
      while (!ignoreErrno(['ENOTEMPTY', 'EEXIST'], () => renameSync(mine, run))) {
        await untilMade(run, GRACE_MS);
        const owner = recordedProcess(run, 'owner');
        const {state} = await inspect(stateDir, id, runtime);
        const isAbandoned = state !== 'stale' && (await isAbandonedStart(stateDir, id));
        if (state !== 'stale' && !isAbandoned && !(state === 'stopped' && (takesStopped || continues)))
          throw new ErrdefsError('already_exists', `${what} is ${state}`, {hint: hintToRemoveTask(undefined, id, state)});
        // Of several that find it stale or abandoned, the one that puts its name in place of the dead owner's has it.
        if (owner !== undefined && !ignoreErrno(['ENOENT'], () => renameSync(owner.file, join(run, OWNER())))) continue;
        if (isAbandoned) await endRuntime(run, 0);
        await removeStaleCgroup(run);
        await disconnect(run);
        const isContinued = continues && state === 'stopped';
        const old = isContinued ? join(beforeIn(mine), id) : temporaryIn(bundles);
        if (isContinued) {
          removeBefore(mine);
          mkdirSync(beforeIn(mine), {mode: 0o700});
        }
        if (!ignoreErrno(['ENOENT'], () => renameSync(run, old))) continue;
        tellWaiters(old, id);
        if (isContinued) {
          ignoreErrno(['ENOENT'], () => linkSync(taskFiles(old, id).log, taskFiles(mine, id).log));
          continue;
        }
        putBack(old);
        removeLeftover(old, onLeftover);
      }
    } catch (err) {
      putBack(mine);
      removeBundle(mine);
      throw err;
    }
  };
  try {
    mkdirSync(bundles, {recursive: true, mode: 0o700});
    mkdirSync(runtimeRoot(stateDir), {recursive: true, mode: 0o700});
    sweepBundles(stateDir, onLeftover);
    await claim();
  } catch (err) {
    throw fromErrno(err, what);
  }
  // The ID is ours now; remove the runtime's old state of it.
  try {
    if (existsSync(join(runtimeRoot(stateDir), id))) {
      const status = (await containerState(runtime, runtimeRoot(stateDir), id))?.status;
      if (status === 'running' || status === 'paused') throw new ErrdefsError('already_exists', `${what} is ${status}`);
      // State that the runtime cannot read it cannot delete either. Nothing runs: its processes were ended with the cgroup.
      if (status === undefined) rmSync(join(runtimeRoot(stateDir), id), {recursive: true, force: true});
      else await deleteContainer(runtime, runtimeRoot(stateDir), id);
    }
  } catch (err) {
    releaseBundle(run);
    throw err;
  }
  return run;
}

/**
 * Waits for a runtime process to end, and with it its mounts, after its container was deleted. Kills it if it does not.
 *
 * @param graceMs time to end by itself
 */
async function endRuntime(run: string, graceMs = GRACE_MS): Promise<void> {
  const runtime = recordedProcess(run, 'runtime');
  if (runtime === undefined) return;
  for (let waited = 0; liveness(runtime.identity) !== 'dead' && waited < graceMs + KILL_TIMEOUT_MS; waited += POLL_MS) {
    // It leads a process group of its own.
    if (waited >= graceMs) ignoreErrno(['ESRCH'], () => process.kill(-runtime.identity.pid, 'SIGKILL'));
    await delay(POLL_MS);
  }
}

/**
 * Removes what a dead run left; succeeds if there is nothing.
 *
 * @param options.kill ends an orphaned container first, with SIGKILL
 * @throws failed_precondition it still runs
 */
export async function cleanup(
  stateDir: string,
  id: string,
  runtime: Runtime,
  {kill = false}: {readonly kill?: boolean} = {},
): Promise<void> {
  if (!existsSync(runPath(stateDir, id)) && !existsSync(join(runtimeRoot(stateDir), id))) return;
  const {state} = await inspect(stateDir, id, runtime);
  if (state === 'running' || (state === 'orphaned' && !kill))
    throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} is ${state}`);
  if (state === 'orphaned') {
    await deleteContainer(readTaskRecord(runPath(stateDir, id))?.runtime ?? runtime, runtimeRoot(stateDir), id);
    await endRuntime(runPath(stateDir, id));
  }
  releaseBundle(await claimBundle(stateDir, id, runtime, throwIt, {takesStopped: true}));
}

/** Gives a run to another process. @param pid a child of this process */
export function giveBundle(run: string, pid: number): void {
  const owner = recordedProcess(run, 'owner');
  if (owner !== undefined) renameSync(owner.file, join(run, `owner.${formatIdentity(identityOf(pid))}`));
}

/** Time for conmon's exit command, which may remove a network. */
const SETTLE_MS = 10_000;

/** The processes that hold a run, as recorded now: conmon, or the command that runs it and its runtime. */
export const holdersOf = (run: string): readonly ProcessIdentity[] =>
  (['runtime', 'owner'] as const).flatMap((role) => recordedProcess(run, role)?.identity ?? []);

/** Waits for processes that clean up and end by themselves. */
export async function untilEnded(holders: readonly ProcessIdentity[]): Promise<void> {
  const live = (): boolean => holders.some((identity) => liveness(identity) !== 'dead');
  for (let waited = 0; live() && waited < SETTLE_MS; waited += POLL_MS) await delay(POLL_MS);
}

/**
 * Removes a task; succeeds if there is none. Waits for the process that holds it: conmon, or the command that runs it.
 *
 * @param options.kill ends it first. Without it, one that was started meanwhile stays
 * @throws failed_precondition it runs
 */
export async function removeTask(
  stateDir: string,
  id: string,
  runtime: Runtime,
  {kill = false}: {readonly kill?: boolean} = {},
): Promise<void> {
  const run = runPath(stateDir, id);
  const holders = holdersOf(run);
  if (kill) {
    await deleteContainer(runtime, runtimeRoot(stateDir), id);
    await endRuntime(run, SETTLE_MS);
  }
  // A command that lives cleans up itself.
  await untilEnded(holders);
  await untilStarted(run);
  await cleanup(stateDir, id, runtime, {kill});
}

/** Time for the command that starts a task to finish that. */
const START_MS = 10_000;

/** Removes a task that has ended, while conmon still waits for the command that does this, in the mount namespace of the task. */
export async function removeEndedTask(stateDir: string, id: string, runtime: Runtime): Promise<void> {
  const run = runPath(stateDir, id);
  await deleteContainer(runtime, runtimeRoot(stateDir), id);
  if (!existsSync(run)) return;
  await removeStaleCgroup(run);
  await disconnect(run);
  const mounted = mountsBelow(bundleIn(run));
  if (mounted.length > 0) await runProgram('umount', ['--lazy', ...mounted], {package: 'mount'});
  releaseBundle(run);
}

/** Mount points of this mount namespace below a directory, the last mounted first. See proc_pid_mountinfo(5). */
function mountsBelow(directory: string): readonly string[] {
  const points = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) =>
      (line.split(' ')[4] ?? '').replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
    );
  return points.filter((point) => point.startsWith(`${directory}/`)).reverse();
}

const STARTER = 'starter';

/**
 * Says in a run's directory that this process is about to start the container, which may end, and be removed, before the runtime has told so.
 *
 * @returns says that it has
 */
export function announceStart(run: string): () => void {
  const file = join(run, `${STARTER}.${formatIdentity(ownIdentity())}`);
  ignoreErrno(['ENOENT'], () => writeFileSync(file, '', {mode: 0o600}));
  return () => void ignoreErrno(['ENOENT', 'ENOTDIR'], () => unlinkSync(file));
}

/** Whether a living command is about to start the container. */
function isStarting(run: string): boolean {
  const starter = list(run).find((name) => name.startsWith(`${STARTER}.`));
  const identity = parseIdentity(starter?.slice(STARTER.length + 1) ?? '');
  return identity !== undefined && liveness(identity) !== 'dead';
}

async function untilStarted(run: string): Promise<void> {
  for (let waited = 0; waited < START_MS && isStarting(run); waited += POLL_MS) await delay(POLL_MS);
}

/**
 * Waits, after the end of a container, for the command that starts it: it has perhaps not been told yet that the container was made.
 *
 * @returns whether the run is conmon's; otherwise it is still that of the command, whose start fails, and which then clears it away
 */
export async function untilGiven(run: string): Promise<boolean> {
  for (let waited = 0; waited < START_MS && (isWithItsCommand(run) || isStarting(run)); waited += POLL_MS) await delay(POLL_MS);
  return !isWithItsCommand(run);
}

const WAITER = 'waiter';
/** What a waiter is told when nobody knows how the run ended. */
const UNKNOWN = '-';

/** Waits for the end of a run, through a note in its directory. Who removes the run writes the end into it, and does not wait for the waiter. */
export interface Waiter {
  /** Whether the run is still the one that is waited for. Another one may have its ID by now, but not this note. */
  isSameRun(): boolean;
  /** How a run that is gone has ended; `null`: nobody knows. `undefined`: not told, which comes soon unless the one that removes it is killed. */
  told(): number | null | undefined;
  leave(): void;
}

export function announceWaiter(run: string): Waiter {
  const file = join(run, `${WAITER}.${formatIdentity(ownIdentity())}.${++counter}`);
  let note: number | undefined;
  ignoreErrno(['ENOENT'], () => {
    note = openSync(file, 'wx+', 0o600);
  });
  return {
    isSameRun: () => existsSync(file),
    told: () => {
      if (note === undefined) return null;
      const buffer = Buffer.alloc(8);
      const text = buffer.toString('latin1', 0, readSync(note, buffer, 0, buffer.length, 0));
      if (text !== '') return text === UNKNOWN ? null : Number(text);
      return fstatSync(note).nlink === 0 ? null : undefined;
    },
    leave: () => {
      if (note !== undefined) closeSync(note);
      ignoreErrno(['ENOENT', 'ENOTDIR'], () => unlinkSync(file));
    },
  };
}

/** @param run its directory, which nobody finds any more */
function tellWaiters(run: string, id: string): void {
  const notes = list(run).filter((name) => name.startsWith(`${WAITER}.`));
  if (notes.length === 0) return;
  let text = UNKNOWN;
  try {
    const end = readTaskEnd(run, id);
    if (end !== undefined) text = String(end.exitStatus);
  } catch {
    // Damaged: whoever asks for the task is told. Nobody knows the end.
  }
  for (const name of notes) ignoreErrno(['ENOENT', 'ENOSPC', 'EDQUOT'], () => writeFileSync(join(run, name), text, {flag: 'r+'}));
}

/** The identity of the process that holds a container and its mounts, as text: conmon, or the runtime of one in the foreground. */
export function holderOf(run: string): string | undefined {
  const holder = recordedProcess(run, 'runtime');
  return holder === undefined ? undefined : formatIdentity(holder.identity);
}
