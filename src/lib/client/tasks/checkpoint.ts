/**
 * `containers checkpoint` and `containers restore`: a container's processes are written to disk by criu, and go on later, from there. Its
 * files stay where they are, in its snapshot.
 */

import {mkdirSync, renameSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {berth} from '../../berth-command.ts';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import {removeTree} from '../../fs/durable.ts';
import {dumpContainer, requireCriu} from '../../runtime/checkpoint.ts';
import {idMappings} from '../../runtime/id-mappings.ts';
import {hintToRun, hintToStop} from '../../runtime/next-command.ts';
import {holdersOf, untilEnded} from '../../runtime/run-directory.ts';
import type {Spec} from '../../runtime/spec.ts';
import {type TaskRecord, taskFiles} from '../../runtime/task-record.ts';
import {collect} from '../../store/gc.ts';
import {assertWithinQuota} from '../../store/quota.ts';
import type {ContainerRecord, SnapshotRecord} from '../../store/records.ts';
import {mergeLabels, SnapshotStore} from '../../store/snapshots.ts';
import type {StoreTransaction} from '../../store/transaction-types.ts';
import {withBallast} from '../../store/with-ballast.ts';
import {isRootless} from '../../user-namespace-identity.ts';
import type {Context} from '../context.ts';
import {
  CHECKPOINT_SNAPSHOTTER,
  type CheckpointDescription,
  checkpointKey,
  checkpointLabels,
  descriptionIn,
  findCheckpoint,
  imagesIn,
  isCheckpoint,
  readCheckpoint,
  snapshotLabels,
} from '../kept-checkpoint.ts';
import {notFoundIn} from '../not-found.ts';
import type {CheckpointOptions, CheckpointResult, ProgressEvent, RestoreOptions, RunResult, TasksClient} from '../types/index.ts';
import {tell} from './emit-task-event.ts';
import {type FoundTask, findTask, findTaskIfAny, hintWithoutTask} from './find-task.ts';
import {asRunFailure} from './mark-run-failure.ts';
import {recordedNetwork} from './network-options.ts';
import {listProcesses} from './processes-and-freezer.ts';
import {startContainer} from './start.ts';

/** @throws failed_precondition without root, or without criu */
function requireMeans(id: string, verb: 'checkpointed' | 'restored'): void {
  if (isRootless() || process.getuid?.() !== 0)
    throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} cannot be ${verb} without root`, {
      hint: 'criu needs root of the machine',
    });
  requireCriu();
}

const missing = ({store}: Context, namespace: string, id: string): ErrdefsError =>
  notFoundIn(store, namespace, 'container', id, (ns) => ns.containers.find(id) !== undefined);

/** How a task was started. @throws failed_precondition one of this kind cannot be checkpointed */
function dumpableRecord({task, record}: FoundTask, namespace: string): TaskRecord {
  const what = `container ${JSON.stringify(task.id)}`;
  if (task.status !== 'running')
    throw new ErrdefsError('failed_precondition', `${what} is ${task.status}, not running`, {
      hint: hintToRun(namespace, task.id, task.status),
    });
  if (record === undefined || record.io.kind === 'inherit')
    throw new ErrdefsError('failed_precondition', `${what} runs in the foreground, with streams of its own that nobody could give back`, {
      hint: 'only what was started with --detach can be checkpointed',
    });
  if (record.removeOnExit)
    throw new ErrdefsError('failed_precondition', `${what} is removed when it ends, with its checkpoint`, {hint: 'run it without --rm'});
  return record;
}

/** @throws failed_precondition it has what criu dumps, and cannot restore */
function assertRestorable(container: ContainerRecord): void {
  const {id} = container;
  const linux = (container.spec as Spec | null)?.linux;
  const refuse = (reason: string, hint: string): never => {
    throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} cannot be checkpointed: ${reason}`, {hint});
  };
  if (linux !== undefined && idMappings(linux) !== undefined)
    refuse('it has mapped users, who may not restore what root has dumped', 'run it without --uidmap and --gidmap');
  const {network = 'none'} = recordedNetwork(container) ?? {};
  if (network !== 'none' && network !== 'host')
    refuse(
      `it is in network ${JSON.stringify(network)}, whose namespace criu would not find again`,
      'run it with --net-host, or without a network',
    );
  const joined = linux?.namespaces.find(({path}) => path !== undefined);
  if (joined !== undefined)
    refuse(`its ${joined.type} namespace is that of others, and would be one of its own afterwards`, 'run it without --with-ns');
}

/** Notes why the task ends; without the note it has ended all the same. */
function noteEnd({directory, task: {id}}: FoundTask): void {
  try {
    writeFileSync(taskFiles(directory, id).checkpointed, '', {mode: 0o600});
  } catch {
    // The state directory is full, or gone.
  }
}

type Progress = (status: 'waiting' | 'reading' | 'committing' | 'done') => void;

const progressOf =
  (verb: 'checkpoint' | 'restore', id: string, onEvent: (event: ProgressEvent) => void): Progress =>
  (status) =>
    onEvent({ref: `${verb}-${id}`, status, offset: 0, total: 0});

export async function checkpointContainer(
  context: Context,
  namespace: string,
  id: string,
  tasks: Pick<TasksClient, 'stop'>,
  {leaveRunning = false, tcpEstablished = false, signal, onEvent = () => undefined}: CheckpointOptions,
): Promise<CheckpointResult> {
  const {store} = context;
  const found = await findTask(context, namespace, id);
  const {io} = dumpableRecord(found, namespace);
  requireMeans(id, 'checkpointed');
  const execs = (await listProcesses(found)).flatMap(({execId}) => execId ?? []);
  if (execs.length > 0)
    throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} has processes of exec, which criu cannot write`, {
      hint: `end them first: ${execs.map((one) => berth`-n ${namespace} tasks kill --exec-id ${one} ${id}`).join(' && ')}`,
      details: {execs},
    });
  const {task, runtime, runtimeRoot} = found;
  const container = store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (container === undefined) throw missing(context, namespace, id);
  assertRestorable(container);
  const snapshots = new SnapshotStore(store, namespace, CHECKPOINT_SNAPSHOTTER);
  const key = checkpointKey(id);
  const progress = progressOf('checkpoint', id, onEvent);
  store.ensureCreated();
  const work = store.layers.createWork();
  try {
    const [tree, log] = [join(work, 'tree'), join(work, 'log')];
    try {
      for (const directory of [tree, log, imagesIn(tree)]) mkdirSync(directory, {mode: 0o700});
      const description: CheckpointDescription = {version: 1, io, tcpEstablished};
      writeFileSync(descriptionIn(tree), `${JSON.stringify(description)}\n`, {mode: 0o600});
    } catch (err) {
      throw fromErrno(err, `checkpoint of container ${JSON.stringify(id)}`);
    }
    progress('reading');
    const dumped = await dumpContainer({id, pid: task.pid, runtime, runtimeRoot}, {images: imagesIn(tree), log}, {tcpEstablished});
    let isKept = false;
    try {
      signal?.throwIfAborted();
      progress('committing');
      const createdAt = new Date().toISOString();
      const isOurs = (old: SnapshotRecord): boolean => isCheckpoint(old);
      const put = (tx: StoreTransaction): void => {
        const {containers} = tx.namespace(namespace);
        const now = containers.find(id);
        if (now?.createdAt !== container.createdAt)
          throw new ErrdefsError('aborted', `container ${JSON.stringify(id)} was removed meanwhile`);
        containers.put({...now, labels: {...now.labels, ...checkpointLabels(id, createdAt)}, updatedAt: createdAt});
        assertWithinQuota(store, tx.namespace(namespace));
        collect(store, tx);
      };
      const fill = (path: string): void => renameSync(tree, path);
      await snapshots.prepare(key, undefined, snapshotLabels(createdAt), put, {fill, replaces: isOurs}).catch((err: unknown) => {
        throw fromErrno(err, `checkpoint of container ${JSON.stringify(id)}`);
      });
      isKept = true;
      store.layers.emptyTrash();
      tell(context, namespace, id, 'checkpointed', {checkpoint: key});
      const {size} = snapshots.usage(key);
      if (leaveRunning) await dumped.resume();
      else {
        noteEnd(found);
        await dumped.end();
        // It has been killed: this waits until its end is recorded, and gives its addresses and ports back.
        await tasks.stop(id, {timeoutMs: 0});
      }
      progress('done');
      return {id, createdAt, size, leftRunning: leaveRunning};
    } catch (err) {
      if (!isKept) await dumped.resume();
      throw err;
    }
  } finally {
    store.housekeeping.attempt(`incomplete checkpoint ${work}`, () => removeTree(work));
  }
}

/** Removes the checkpoint of a container. @param only whether to remove this one @returns whether there was one */
async function dropCheckpoint(
  context: Context,
  namespace: string,
  id: string,
  only?: (record: SnapshotRecord) => boolean,
): Promise<boolean> {
  const {store} = context;
  const dropped = await withBallast(store, () =>
    store.update(`removal of the checkpoint of container ${id}`, (tx) => {
      const {containers} = tx.namespace(namespace);
      const container = containers.find(id);
      if (container === undefined) throw missing(context, namespace, id);
      const found = findCheckpoint(tx.namespace(namespace), container);
      if (found === undefined || only?.(found) === false) return false;
      const labels = mergeLabels(container.labels, checkpointLabels(id, undefined));
      containers.put({...container, labels, updatedAt: new Date().toISOString()});
      collect(store, tx);
      return true;
    }),
  );
  store.layers.emptyTrash();
  return dropped;
}

const noCheckpoint = (id: string, hint?: string): ErrdefsError =>
  new ErrdefsError('not_found', `container ${JSON.stringify(id)} has no checkpoint`, hint === undefined ? {} : {hint});

export async function removeCheckpoint(context: Context, namespace: string, id: string): Promise<void> {
  if (!(await dropCheckpoint(context, namespace, id))) throw noCheckpoint(id);
}

/** How a container that has no checkpoint gets to run, or gets one. */
async function hintInstead(context: Context, namespace: string, id: string): Promise<string | undefined> {
  const found = await findTaskIfAny(context, namespace, id);
  const record = context.store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (found === undefined) return record && hintWithoutTask(namespace, record);
  if (found.task.status !== 'running') return hintToRun(namespace, id, found.task.status);
  try {
    dumpableRecord(found, namespace);
    return `make one: ${berth`-n ${namespace} containers checkpoint ${id}`}`;
  } catch {
    return undefined;
  }
}

/** @throws not_found there is none, or no such container */
async function keptCheckpoint(context: Context, namespace: string, id: string): Promise<SnapshotRecord> {
  const checkpoint = context.store.view((tx) => {
    const ns = tx.namespace(namespace);
    const container = ns.containers.find(id);
    if (container === undefined) throw missing(context, namespace, id);
    return findCheckpoint(ns, container);
  });
  if (checkpoint === undefined) throw noCheckpoint(id, await hintInstead(context, namespace, id));
  return checkpoint;
}

export function restoreContainer(
  context: Context,
  namespace: string,
  id: string,
  {keep = false, signal, onEvent = () => undefined}: RestoreOptions,
): Promise<RunResult> {
  const progress = progressOf('restore', id, onEvent);
  return asRunFailure(async () => {
    const checkpoint = await keptCheckpoint(context, namespace, id);
    const found = await findTaskIfAny(context, namespace, id);
    if (found !== undefined && found.task.status !== 'stopped')
      throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} is ${found.task.status}`, {
        hint: hintToStop(namespace, id),
      });
    requireMeans(id, 'restored');
    // The conmon of a task that has just ended still calls its command.
    if (found !== undefined) {
      progress('waiting');
      await untilEnded(holdersOf(found.directory));
    }
    const {tree, description} = readCheckpoint(context, checkpoint);
    const {kind, stdin, logFile, maxLogSize} = description.io;
    progress('reading');
    const result = await startContainer(context, namespace, id, {
      detach: true,
      stdin,
      ...(kind === 'none' ? {nullIO: true} : {}),
      ...(logFile === undefined ? {} : {logFile}),
      ...(maxLogSize === undefined ? {} : {maxLogSize}),
      ...(signal === undefined ? {} : {signal}),
      restore: {images: imagesIn(tree), tcpEstablished: description.tcpEstablished},
    });
    if (!keep) await dropCheckpoint(context, namespace, id, ({layer}) => layer === checkpoint.layer);
    progress('done');
    return result as RunResult;
  });
}
