/** Tasks of one namespace: their list, their signals and their end. */

import {constants} from 'node:os';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError} from '../../errdefs.ts';
import {identityOf, liveness, type ProcessIdentity} from '../../fs/process.ts';
import {hintToStop} from '../../runtime/next-command.ts';
import {containerState, runRuntime, runtimeFailure} from '../../runtime/oci-runtime.ts';
import {signalNeighbours} from '../../runtime/pid-namespace.ts';
import {announceWaiter, disconnect, holdersOf, isClaimed, removeTask, untilEnded, type Waiter} from '../../runtime/run-directory.ts';
import {readTaskEnd} from '../../runtime/task-record.ts';
import {isRootless} from '../../user-namespace-identity.ts';
import type {Context} from '../context.ts';
import {runDirectory} from '../running-containers.ts';
import type {ExecStartOptions, Piped, TaskAttachOptions, TaskExit, TaskStartOptions, TasksClient} from '../types/index.ts';
import {tell, tellExit} from './emit-task-event.ts';
import {exitOf, type FoundTask, findTask, findTaskIfAny, listTasks} from './find-task.ts';
import {parseSignal, STOP_SIGNAL, STOP_TIMEOUT, stopTimeoutOf} from './stop-signal.ts';
import type {MaybePiped} from './with-streams.ts';

/** Time for conmon to record the end of a process that is gone, and for the kernel to end one that was killed. */
const END_TIMEOUT_MS = 10_000;
const FIRST_POLL_MS = 2;
const LONGEST_POLL_MS = 100;

/** An end that was waited for. */
interface SeenEnd {
  readonly exit: TaskExit;
  /** The task went when it ended, or was removed by somebody else. */
  readonly removed: boolean;
}

const hasEnded = ({task}: FoundTask): boolean => task.status === 'stopped';

/** @returns `undefined` for 0 and for a process that has ended */
function identify(pid: number): ProcessIdentity | undefined {
  try {
    return pid === 0 ? undefined : identityOf(pid);
  } catch {
    return undefined;
  }
}

/** Sends a signal through the runtime, which knows whether the process is still the container's. @returns false if the task has ended */
async function signalTask({task, runtime, runtimeRoot}: FoundTask, signal: number, all: boolean): Promise<boolean> {
  // Without a control group the runtime does not know which these are.
  if (all && isRootless()) return signalNeighbours(task.pid, signal);
  const words = ['--root', runtimeRoot, 'kill', ...(all ? ['--all'] : []), task.id, String(signal)];
  const result = await runRuntime(runtime, words);
  if (result.status === 0) return true;
  const state = await containerState(runtime, runtimeRoot, task.id);
  if (state === undefined || state.status === 'stopped') return false;
  throw runtimeFailure(runtime, `unable to signal task ${JSON.stringify(task.id)}`, result);
}

export function tasksClient(context: Context, namespace: string): TasksClient {
  const find = (id: string): Promise<FoundTask> => findTask(context, namespace, id);
  const findToEnd = (id: string): Promise<FoundTask> => findTask(context, namespace, id, {toEnd: true});
  const gone = (id: string): ErrdefsError => new ErrdefsError('not_found', `task ${JSON.stringify(id)} has ended`);

  const label = (id: string, key: string): string | undefined =>
    context.store.view((tx) => tx.namespace(namespace).containers.find(id))?.labels[key];
  const stopSignal = (id: string): string => label(id, STOP_SIGNAL) ?? 'SIGTERM';
  const stopTimeout = (id: string): number => stopTimeoutOf({[STOP_TIMEOUT]: label(id, STOP_TIMEOUT) ?? ''});

  /** The number of the stop signal; of one that is not known SIGTERM's, as in docker. */
  const stopNumber = (id: string): number => {
    try {
      return parseSignal(stopSignal(id));
    } catch (err) {
      context.store.housekeeping.warn(`stop signal of container ${JSON.stringify(id)}`, err);
      return constants.signals.SIGTERM;
    }
  };

  /**
   * Polls until a task has ended and its end is recorded, or nobody is left to record it.
   *
   * @param begin what is to end it: called when the wait is announced, so that a task that is removed when it ends is not removed before
   * @returns `undefined` when the time is over
   */
  const waitForEnd = async (
    found: FoundTask,
    timeoutMs: number,
    signal?: AbortSignal,
    begin?: () => Promise<unknown>,
  ): Promise<SeenEnd | undefined> => {
    const waiter = announceWaiter(found.directory);
    try {
      await begin?.();
      return await pollForEnd(found, waiter, timeoutMs, signal);
    } finally {
      waiter.leave();
    }
  };

  const pollForEnd = async (first: FoundTask, waiter: Waiter, timeoutMs: number, signal?: AbortSignal): Promise<SeenEnd | undefined> => {
    const {id} = first.task;
    const stateDir = runDirectory(context, namespace);
    let found: FoundTask | undefined = first;
    // Until this process has ended nobody needs to be asked.
    const main = identify(first.task.pid);
    let endedMs = 0;
    let poll = FIRST_POLL_MS;
    for (let waited = 0; ; waited += poll, poll = Math.min(poll * 2, LONGEST_POLL_MS)) {
      // Asked before the task is: who lives now may have recorded the end by then.
      const isHeld = isClaimed(stateDir, id);
      if (main === undefined || liveness(main) === 'dead') {
        if (waited > 0) found = await findTaskIfAny(context, namespace, id);
        // Asked after it was found: so what was found is of the same run.
        if (found === undefined || (waited > 0 && !waiter.isSameRun())) {
          // Only files are left, and nobody who would remove them.
          if (found === undefined && !isHeld && waiter.isSameRun()) {
            const end = readTaskEnd(first.directory, id);
            return {exit: {id, exitStatus: end?.exitStatus ?? 255, known: end !== undefined}, removed: false};
          }
          const told = waiter.told();
          if (told !== undefined || endedMs >= END_TIMEOUT_MS)
            return {exit: {id, exitStatus: told ?? 255, known: typeof told === 'number'}, removed: true};
          endedMs += poll;
        } else if (hasEnded(found)) {
          const {task} = found;
          if (task.exitStatus !== undefined || !task.detached || !isHeld || endedMs >= END_TIMEOUT_MS)
            return {exit: exitOf(task), removed: false};
          endedMs += poll;
        }
      }
      if (waited >= timeoutMs) return undefined;
      await delay(poll, undefined, signal === undefined ? {} : {signal}).catch(() => {
        throw new ErrdefsError('canceled', `wait for task ${JSON.stringify(id)}`, {cause: signal?.reason});
      });
    }
  };

  const waitFor = async (found: FoundTask, signal?: AbortSignal): Promise<TaskExit> =>
    (await waitForEnd(found, Number.POSITIVE_INFINITY, signal))!.exit;

  const client: TasksClient = {
    list: async () => (await listTasks(context, namespace)).map(({task}) => task),

    get: async (id) => (await find(id)).task,

    start: (async (id: string, options: MaybePiped<TaskStartOptions> = {}) => {
      const {startTask} = await import('./start.ts');
      return startTask(context, namespace, id, options);
    }) as TasksClient['start'],

    startDetached: async (id, options = {}) => {
      const {startInBackground} = await import('./restart.ts');
      return startInBackground(context, namespace, client, id, options);
    },

    restart: async (id, options = {}) => {
      const {restartInBackground} = await import('./restart.ts');
      return restartInBackground(context, namespace, client, id, options);
    },

    kill: async (id, {signal, all = false, execId} = {}) => {
      if (execId !== undefined && all)
        throw new ErrdefsError('invalid_argument', 'a signal goes to one exec or to all processes', {hint: 'leave out one of both'});
      const number = parseSignal(signal ?? (execId === undefined ? stopSignal(id) : 'SIGTERM'));
      const found = await findToEnd(id);
      if (execId !== undefined) {
        const {signalExec} = await import('./exec.ts');
        await signalExec(found, execId, number);
        return;
      }
      if (hasEnded(found) || !(await signalTask(found, number, all))) throw gone(id);
    },

    stop: async (id, {timeoutMs = stopTimeout(id), signal} = {}) => {
      const found = await findToEnd(id);
      /** Its ports and addresses are free for the next, whether or not conmon's command has run by now. */
      const released = async ({exit, removed}: SeenEnd): Promise<TaskExit> => {
        // Another run may have the directory of one that was removed.
        if (!removed) await disconnect(found.directory);
        return exit;
      };
      if (!hasEnded(found)) {
        const {runtime, runtimeRoot, task} = found;
        if (task.status === 'paused') await runRuntime(runtime, ['--root', runtimeRoot, 'resume', id]);
        if (task.status !== 'created') {
          const ended = await waitForEnd(found, timeoutMs, signal, () => signalTask(found, stopNumber(id), false));
          if (ended !== undefined) return released(ended);
        }
      }
      const kill = hasEnded(found) ? undefined : () => signalTask(found, constants.signals.SIGKILL, true);
      const end = await waitForEnd(found, END_TIMEOUT_MS, signal, kill);
      if (end === undefined) throw new ErrdefsError('deadline_exceeded', `task ${JSON.stringify(id)} has not ended after SIGKILL`);
      return released(end);
    },

    wait: async (id, {signal} = {}) => waitFor(await find(id), signal),

    delete: async (id, {force = false} = {}) => {
      const found = await findToEnd(id);
      if (!hasEnded(found)) {
        if (!force)
          throw new ErrdefsError('failed_precondition', `task ${JSON.stringify(id)} is ${found.task.status}`, {
            hint: hintToStop(namespace, id),
          });
        if (found.task.status === 'paused') await runRuntime(found.runtime, ['--root', found.runtimeRoot, 'resume', id]);
      }
      const kill = hasEnded(found) ? undefined : () => signalTask(found, constants.signals.SIGKILL, true);
      const holders = holdersOf(found.directory);
      const seen = await waitForEnd(found, END_TIMEOUT_MS, undefined, kill);
      if (seen?.removed === true) {
        await untilEnded(holders);
        return seen.exit;
      }
      const end = seen?.exit ?? exitOf(found.task);
      tellExit(context, namespace, {...found, task: {...found.task, ...(end.known ? {exitStatus: end.exitStatus} : {})}});
      await removeTask(runDirectory(context, namespace), id, found.runtime, {kill: !hasEnded(found)});
      tell(context, namespace, id, 'delete', {exit_status: end.exitStatus});
      return end;
    },

    exec: (async (id: string, args: readonly string[], options: MaybePiped<ExecStartOptions> = {}) => {
      const {execTask} = await import('./exec.ts');
      return execTask(context, namespace, id, args, options);
    }) as TasksClient['exec'],

    attach: (async (id: string, options: TaskAttachOptions | Piped<TaskAttachOptions> = {}) => {
      const {attachTask, attachTaskPiped} = await import('./attach.ts');
      return options.stdio === 'pipe'
        ? attachTaskPiped(context, namespace, id, options, waitFor)
        : attachTask(context, namespace, id, options, waitFor);
    }) as TasksClient['attach'],

    logs: async (id, options = {}) => {
      const {taskLogs} = await import('./logs.ts');
      return taskLogs(context, namespace, id, options);
    },

    metrics: async (id) => {
      const {taskMetrics} = await import('./usage.ts');
      return taskMetrics(await find(id));
    },

    stats: async (ids = [], {signal} = {}) => {
      const {taskStats} = await import('./usage.ts');
      return taskStats(ids.length === 0 ? await listTasks(context, namespace) : await Promise.all(ids.map(find)), signal);
    },

    ps: async (id) => {
      const {listProcesses} = await import('./processes-and-freezer.ts');
      return listProcesses(await find(id));
    },

    pause: async (id) => {
      const {freeze} = await import('./processes-and-freezer.ts');
      await freeze(await find(id), 'pause');
      tell(context, namespace, id, 'paused');
    },

    resume: async (id) => {
      const {freeze} = await import('./processes-and-freezer.ts');
      await freeze(await find(id), 'resume');
      tell(context, namespace, id, 'resumed');
    },

    settle: async (id) => {
      const {settleTask} = await import('./settle.ts');
      await settleTask(context, namespace, id);
    },
  };
  return client;
}
