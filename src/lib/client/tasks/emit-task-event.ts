/** Tells the log of events what happens to tasks; topics and fields are containerd's. */
import {closeSync, existsSync, openSync} from 'node:fs';
import {join} from 'node:path';
import type {Context} from '../context.ts';
import {emit} from '../event-log.ts';
import type {FoundTask} from './find-task.ts';

type TaskTopic = 'create' | 'start' | 'exec-added' | 'exec-started' | 'exit' | 'oom' | 'delete' | 'paused' | 'resumed' | 'checkpointed';

export function tell(
  context: Context,
  namespace: string,
  id: string,
  topic: TaskTopic,
  more: Readonly<Record<string, unknown>> = {},
): void {
  // A task that ends after its state directory was removed does not make it again.
  const stateDir = (): string | undefined => (existsSync(context.stateDir) ? context.stateDir : undefined);
  emit(stateDir, [{namespace, topic: `/tasks/${topic}`, event: {container_id: id, ...more}}]);
}

/** Tells that a task has been made and started, which is one step here. */
export function tellStart(context: Context, namespace: string, id: string, pid: number): void {
  for (const topic of ['create', 'start'] as const) tell(context, namespace, id, topic, {pid});
}

/** Tells the end of a detached task, by whoever sees it first. */
export function tellExit(context: Context, namespace: string, {task, directory}: FoundTask): void {
  const {id, detached, exitStatus, exitedAt, oomKilled} = task;
  if (!detached) return;
  try {
    // Two that come at once: one makes the file.
    closeSync(openSync(join(directory, 'told'), 'wx', 0o600));
  } catch {
    return;
  }
  if (oomKilled) tell(context, namespace, id, 'oom');
  tell(context, namespace, id, 'exit', {id, exit_status: exitStatus ?? 255, ...(exitedAt === undefined ? {} : {exited_at: exitedAt})});
}
