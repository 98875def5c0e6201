/** Finds a task: its record, its state by the runtime, and its end by conmon. */

import {existsSync, statSync} from 'node:fs';
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import {readIfPresent} from '../../fs/durable.ts';
import {identityOf, liveness} from '../../fs/process.ts';
import {validateIdentifier} from '../../oci/identifier.ts';
import {cgroupOfProcess} from '../../runtime/metrics.ts';
import {hintToRemove, hintToRun} from '../../runtime/next-command.ts';
import {containerState, findRuntime, type Runtime} from '../../runtime/oci-runtime.ts';
import {isConnected, listRuns, type Run, removeTask, runPath, runtimeRoot, untilMade} from '../../runtime/run-directory.ts';
import {readTaskEnd, readTaskRecord, type TaskRecord, taskFiles} from '../../runtime/task-record.ts';
import type {ContainerRecord} from '../../store/records.ts';
import {isRootless} from '../../user-namespace-identity.ts';
import type {Context} from '../context.ts';
import {runDirectory} from '../running-containers.ts';
import type {Task, TaskExit, TaskStatus} from '../types/index.ts';

/** A task with what is needed to act on it. */
export interface FoundTask {
  readonly task: Task;
  /** Absent when a command was killed before it wrote it. */
  readonly record: TaskRecord | undefined;
  /** Of the run: see runtime/run-directory.ts. */
  readonly directory: string;
  readonly runtime: Runtime;
  readonly runtimeRoot: string;
}

const STATUSES: Readonly<Record<string, TaskStatus>> = {
  created: 'created',
  running: 'running',
  paused: 'paused',
  pausing: 'paused',
  stopped: 'stopped',
};

const timeOf = (file: string): string | undefined => statSync(file, {throwIfNoEntry: false})?.mtime.toISOString();

/** The pid that the runtime wrote; 0 if that process has ended. Another process may have it by now: the runtime knows. */
function initPid(file: string): number {
  const pid = Number(readIfPresent(file) ?? 0);
  try {
    return Number.isSafeInteger(pid) && pid > 0 && liveness(identityOf(pid)) !== 'dead' ? pid : 0;
  } catch {
    return 0;
  }
}

/** @param state of the run in whose directory it is; `stale` ones are no tasks */
async function inspectTask(stateDir: string, {id, state}: Pick<Run, 'id' | 'state'>): Promise<FoundTask | undefined> {
  if (state === 'stale') return undefined;
  const directory = runPath(stateDir, id);
  const record = readTaskRecord(directory);
  const runtime = record === undefined ? findRuntime() : record.runtime;
  const root = runtimeRoot(stateDir);
  const files = taskFiles(directory, id);
  const found = initPid(files.initPid) === 0 ? undefined : await containerState(runtime, root, id);
  // A run that has claimed the ID and not made the container yet.
  if (found === undefined && !existsSync(files.initPid)) return undefined;
  const status = found === undefined ? 'stopped' : (STATUSES[found.status] ?? 'unknown');
  const detached = record !== undefined && record.io.kind !== 'inherit';
  const end = status === 'stopped' ? readTaskEnd(directory, id) : undefined;
  const network = isConnected(directory)
    ? (await import('../../runtime/network/attachment.ts')).readAttachment(directory, found?.pid ?? 0)
    : undefined;
  const startedAt = timeOf(detached ? files.started : files.initPid);
  const task: Task = {
    id,
    status,
    pid: status === 'stopped' ? 0 : (found?.pid ?? 0),
    detached,
    ...(end === undefined ? {} : {exitStatus: end.exitStatus, exitedAt: end.exitedAt.toISOString()}),
    ...(existsSync(files.oom) ? {oomKilled: true} : {}),
    ...(status === 'stopped' && existsSync(files.checkpointed) ? {checkpointed: true} : {}),
    ...(network === undefined ? {} : {network}),
    ...(record === undefined ? {} : {createdAt: record.createdAt}),
    ...(startedAt === undefined || status === 'created' ? {} : {startedAt}),
  };
  return {task, record, directory, runtime, runtimeRoot: root};
}

/** Tasks of a namespace, sorted by ID. */
export async function listTasks(context: Context, namespace: string): Promise<readonly FoundTask[]> {
  const stateDir = runDirectory(context, namespace);
  const runs = await listRuns(stateDir, findRuntime());
  return (await Promise.all(runs.map((run) => inspectTask(stateDir, run)))).filter((task) => task !== undefined);
}

/** What to do with a container that has no task: one that was not made to its end cannot be started. */
export const hintWithoutTask = (namespace: string, {id, spec}: Pick<ContainerRecord, 'id' | 'spec'>): string =>
  spec === null ? hintToRemove(namespace, [id], false) : hintToRun(namespace, id);

/**
 * @param toEnd it is not to be started for this
 * @throws not_found the container has no task, or there is no such container
 */
export async function findTask(
  context: Context,
  namespace: string,
  id: string,
  {toEnd = false}: {readonly toEnd?: boolean} = {},
): Promise<FoundTask> {
  validateIdentifier(id);
  const stateDir = runDirectory(context, namespace);
  // It would be said to have no task, and have one in a moment.
  await untilMade(runPath(stateDir, id));
  const run = (await listRuns(stateDir, findRuntime(), id))[0];
  const found = run === undefined ? undefined : await inspectTask(stateDir, run);
  if (found !== undefined) return found;
  const record = context.store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (record !== undefined)
    throw new ErrdefsError(
      'not_found',
      `container ${JSON.stringify(id)} has no task`,
      toEnd ? {} : {hint: hintWithoutTask(namespace, record)},
    );
  const {notFoundIn} = await import('../not-found.ts');
  throw notFoundIn(context.store, namespace, 'container', id, (ns) => ns.containers.find(id) !== undefined);
}

/** As `findTask`. @returns `undefined` when there is no such task, or no such container */
export async function findTaskIfAny(context: Context, namespace: string, id: string): Promise<FoundTask | undefined> {
  try {
    return await findTask(context, namespace, id);
  } catch (err) {
    if (hasCode(err, 'not_found')) return undefined;
    throw err;
  }
}

/**
 * A task's cgroup in the tree of a controller: that of its specification, or where that leaves it to the runtime, that of its first process.
 *
 * @returns `undefined` when neither is known
 */
export function cgroupOf({record, task}: Pick<FoundTask, 'record' | 'task'>, controller: string): string | undefined {
  if (record?.cgroupsPath.startsWith('/') === true) return record.cgroupsPath;
  return task.pid === 0 ? undefined : cgroupOfProcess(task.pid, controller);
}

/** Whether a task has a cgroup to itself: without root, only where the user has a part of the machine's. */
export const hasOwnCgroup = ({record}: Pick<FoundTask, 'record'>): boolean => !isRootless() || record?.cgroupsPath.startsWith('/') === true;

/** How a stopped task ended. */
export const exitOf = ({id, exitStatus}: Task): TaskExit => ({id, exitStatus: exitStatus ?? 255, known: exitStatus !== undefined});

/** Removes what is left of a container's run if it has ended. */
export async function forgetStoppedTask(context: Context, namespace: string, id: string): Promise<void> {
  validateIdentifier(id);
  const stateDir = runDirectory(context, namespace);
  const [run] = existsSync(runPath(stateDir, id)) ? await listRuns(stateDir, findRuntime(), id) : [];
  const found = run === undefined ? undefined : await inspectTask(stateDir, run);
  if (run?.state === 'stale' || found?.task.status === 'stopped') await removeTask(stateDir, id, found?.runtime ?? findRuntime());
}
