/** `start` and `restart` of containers that stay in the background, with the streams that they had before. */
import {ErrdefsError} from '../../errdefs.ts';
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

/** Starts it anew in place of a task that has ended. */
async function startAnew(tasks: Tasks, id: string, ended: FoundTask | undefined, signal: AbortSignal | undefined): Promise<RunResult> {
  const io = ended === undefined ? undefined : readTaskRecord(ended.directory)?.io;
  if (ended !== undefined) await tasks.delete(id);
  return tasks.start(id, {detach: true, ...sameStreams(io), ...(signal === undefined ? {} : {signal})});
}

/** @throws failed_precondition it is paused, or is just being made */
export async function startInBackground(
  context: Context,
  namespace: string,
  tasks: Tasks,
  id: string,
  {signal}: {readonly signal?: AbortSignal},
): Promise<RunResult> {
  const found = await findTaskIfAny(context, namespace, id);
  if (found === undefined || found.task.status === 'stopped') {
    await assertMayStart(context, namespace, id);
    return startAnew(tasks, id, found, signal);
  }
  const {status, pid} = found.task;
  if (status === 'running') return {id, exitStatus: 0, pid};
  throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} is ${status}`, {
    hint: status === 'paused' ? `let it go on: ctr -n ${namespace} tasks resume ${id}` : 'try again',
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
  return startAnew(tasks, id, found, signal);
}
