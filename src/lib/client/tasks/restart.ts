/** `start` and `restart` of containers that stay in the background, with the streams that they had before. */

import {ErrdefsError, hasCode} from '../../errdefs.ts';
import {hintToRun} from '../../runtime/next-command.ts';
import {readTaskRecord, type TaskIO} from '../../runtime/task-record.ts';
import type {Context} from '../context.ts';
import type {RestartOptions, RunResult, TaskStartOptions, TasksClient} from '../types/index.ts';
import {type FoundTask, findTaskIfAny} from './find-task.ts';
import {assertMayStart} from './start.ts';

type Tasks = Pick<TasksClient, 'start' | 'stop' | 'delete'>;

/** A container that was in the foreground gets a log now. */
function sameStreams(io: TaskIO | undefined): Pick<TaskStartOptions, 'stdin' | 'nullIO' | 'maxLogSize' | 'logFile'> {
  if (io === undefined || io.kind === 'inherit') return {};
  const {kind, stdin, logFile, maxLogSize} = io;
  return {
    stdin,
    ...(kind === 'none' ? {nullIO: true} : {}),
    ...(logFile === undefined ? {} : {logFile}),
    ...(maxLogSize === undefined ? {} : {maxLogSize}),
  };
}

/** Starts it anew in place of a task that has ended, or that a killed command has left created. */
async function startAnew(
  tasks: Tasks,
  id: string,
  before: FoundTask | undefined,
  {signal, isCreated = false}: {readonly signal: AbortSignal | undefined; readonly isCreated?: boolean},
): Promise<RunResult> {
  const io = before === undefined ? undefined : readTaskRecord(before.directory)?.io;
  if (before !== undefined && !isCreated) await tasks.delete(id);
  return tasks.start(id, {detach: true, ...sameStreams(io), ...(signal === undefined ? {} : {signal})});
}

/**
 * @throws failed_precondition it is paused
 * @throws already_exists it is just being started
 */
export async function startInBackground(
  context: Context,
  namespace: string,
  tasks: Tasks,
  id: string,
  {signal}: {readonly signal?: AbortSignal},
): Promise<RunResult> {
  const found = await findTaskIfAny(context, namespace, id);
  const isCreated = found?.task.status === 'created';
  if (found === undefined || found.task.status === 'stopped' || isCreated) {
    await assertMayStart(context, namespace, id);
    try {
      return await startAnew(tasks, id, found, {signal, isCreated});
    } catch (err) {
      // What a killed command had begun, or another one that lives, may have got that far by now.
      const now = hasCode(err, 'already_exists') ? await findTaskIfAny(context, namespace, id) : undefined;
      if (now?.task.status === 'running') return {id, exitStatus: 0, pid: now.task.pid};
      throw err;
    }
  }
  const {status, pid} = found.task;
  if (status === 'running') return {id, exitStatus: 0, pid};
  throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} is ${status}`, {
    hint: status === 'paused' ? hintToRun(namespace, id, status) : 'try again',
  });
}

/** @throws failed_precondition it is removed when it ends */
export async function restartInBackground(
  context: Context,
  namespace: string,
  tasks: Tasks,
  id: string,
  {signal, timeoutMs}: RestartOptions,
): Promise<RunResult> {
  const found = await findTaskIfAny(context, namespace, id);
  if (found?.record?.removeOnExit)
    throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} is removed when it ends`, {
      hint: 'it was made by "run --rm": run it again',
    });
  await assertMayStart(context, namespace, id);
  if (found !== undefined && found.task.status !== 'stopped')
    await tasks.stop(id, {...(timeoutMs === undefined ? {} : {timeoutMs}), ...(signal === undefined ? {} : {signal})});
  return startAnew(tasks, id, found, {signal});
}
