/** `tasks attach`: the streams of a task that runs under conmon. */

import {berth} from '../../berth-command.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {type AttachTarget, attachForeground, resizeTerminal} from '../../runtime/attach.ts';
import {connectStreams, type TaskStreams} from '../../runtime/attach-relay.ts';
import {DETACH_KEYS, parseDetachKeys} from '../../runtime/detach-keys.ts';
import {hintToRun} from '../../runtime/next-command.ts';
import {bundleIn} from '../../runtime/run-directory.ts';
import type {Context} from '../context.ts';
import type {AttachedTask, TaskAttachOptions, TaskAttachResult, TaskExit} from '../types/index.ts';
import {type FoundTask, findTask} from './find-task.ts';
import {asRunFailure} from './mark-run-failure.ts';

/** Waits for the end of a task that was found. */
type Wait = (found: FoundTask, signal: AbortSignal) => Promise<TaskExit>;

function targetOf({task, record, directory, runtime, runtimeRoot}: FoundTask, namespace: string): AttachTarget {
  const refuse = (why: string, hint: string): never => {
    throw new ErrdefsError('failed_precondition', `task ${JSON.stringify(task.id)} ${why}`, {hint});
  };
  const {id, status} = task;
  if (status === 'stopped') refuse('is stopped', `read what it wrote: ${berth`-n ${namespace} tasks logs ${id}`}`);
  if (status === 'paused') refuse('is paused', hintToRun(namespace, id, status));
  if (record === undefined || record.io.kind === 'inherit')
    return refuse(
      'has the streams of the command that runs it',
      `start a shell beside it: ${berth`-n ${namespace} tasks exec -t ${id} sh`}`,
    );
  const {terminal, stdin} = record.io;
  return {id, bundle: bundleIn(directory), runtime, runtimeRoot, terminal, stdin};
}

/** The end of a task whose output has ended; not one whose conmon was killed, of which more output is lost. */
async function endOf(context: Context, namespace: string, id: string, ended: Promise<TaskExit>): Promise<TaskExit> {
  const now = await findTask(context, namespace, id).catch(() => undefined);
  if (now === undefined || now.task.status === 'stopped') return ended;
  throw new ErrdefsError('unavailable', `the streams of task ${JSON.stringify(id)} are gone`, {
    hint: 'conmon, which had them, was killed; the task runs on',
  });
}

export function attachTask(
  context: Context,
  namespace: string,
  id: string,
  options: TaskAttachOptions,
  wait: Wait,
): Promise<TaskAttachResult> {
  return asRunFailure(async () => {
    const {stdin = true, detachKeys = DETACH_KEYS, sigProxy = true, signal} = options;
    const request = {stdin, sigProxy, detachKeys: parseDetachKeys(detachKeys), ...(signal === undefined ? {} : {signal})};
    const found = await findTask(context, namespace, id);
    const target = targetOf(found, namespace);
    const left = new AbortController();
    const exit = wait(found, left.signal);
    exit.catch(() => undefined);
    try {
      const end = await attachForeground(target, request);
      if (!end.ended) return {id, exitStatus: end.exitStatus, detached: true};
      const {exitStatus} = await endOf(context, namespace, id, exit);
      return {id, exitStatus, detached: false};
    } finally {
      left.abort();
    }
  });
}

export function attachTaskPiped(
  context: Context,
  namespace: string,
  id: string,
  {signal}: {readonly signal?: AbortSignal},
  wait: Wait,
): Promise<AttachedTask> {
  return asRunFailure(async () => {
    const found = await findTask(context, namespace, id);
    const target = targetOf(found, namespace);
    const left = new AbortController();
    const exit = wait(found, left.signal);
    exit.catch(() => undefined);
    let streams: TaskStreams;
    try {
      streams = await connectStreams(target.bundle);
    } catch (err) {
      left.abort();
      throw err;
    }
    let detached = false;
    const detach = (): void => {
      detached = true;
      streams.leave();
    };
    signal?.addEventListener('abort', detach, {once: true});
    if (signal?.aborted === true) detach();
    const ended = asRunFailure(async (): Promise<TaskAttachResult> => {
      try {
        await streams.ended;
        if (signal?.aborted === true) throw new ErrdefsError('canceled', `attach to task ${JSON.stringify(id)}`, {cause: signal.reason});
        if (detached) return {id, exitStatus: 0, detached: true};
        const {exitStatus} = await endOf(context, namespace, id, exit);
        return {id, exitStatus, detached: false};
      } finally {
        signal?.removeEventListener('abort', detach);
        left.abort();
      }
    });
    ended.catch(() => undefined);
    const {stdin, stdout, stderr} = streams;
    return {id, terminal: target.terminal, stdin, stdout, stderr, resize: (size) => resizeTerminal(target.bundle, size), detach, ended};
  });
}
