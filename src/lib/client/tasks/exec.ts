/** `tasks exec`: one more process in a container. */

import {randomBytes} from 'node:crypto';
import {ErrdefsError} from '../../errdefs.ts';
import type {PipedStreams, Stdio} from '../../fs/spawn-with-channel.ts';
import {validateIdentifier} from '../../oci/identifier.ts';
import {type ExecRequest, type ExecTarget, execDetached, execForeground, startedExecPid} from '../../runtime/exec.ts';
import {hintToRun} from '../../runtime/next-command.ts';
import type {Spec} from '../../runtime/spec.ts';
import type {Context} from '../context.ts';
import type {ExecProcess, ExecResult, ExecStartOptions} from '../types/index.ts';
import {tell} from './emit-task-event.ts';
import {cgroupOf, type FoundTask, findTask} from './find-task.ts';
import {asRunFailure} from './mark-run-failure.ts';
import {type MaybePiped, refuseWithStreams, withStreams} from './with-streams.ts';

/** Any that every runtime uses: an exec is in the container's cgroup of each. */
const CONTROLLER = 'pids';

interface Target extends ExecTarget {
  readonly cgroupsPath: string;
}

/** @throws failed_precondition the container does not run */
async function findTarget(context: Context, namespace: string, id: string): Promise<Target> {
  const found = await findTask(context, namespace, id);
  const {task, record, directory, runtime, runtimeRoot} = found;
  if (task.status !== 'running')
    throw new ErrdefsError('failed_precondition', `task ${JSON.stringify(id)} is ${task.status}`, {
      hint: hintToRun(namespace, id, task.status),
    });
  // The command that started it may have been killed before it wrote a record.
  const spec = context.store.view((tx) => tx.namespace(namespace).containers.find(id))?.spec as Spec | null | undefined;
  const process = record?.process ?? spec?.process;
  const cgroupsPath = cgroupOf(found, CONTROLLER);
  if (process === undefined || cgroupsPath === undefined)
    throw new ErrdefsError('failed_precondition', `how task ${JSON.stringify(id)} was started is not known`, {
      hint: 'the command that started it was killed: stop it, and start it again',
    });
  return {id, directory, runtime, runtimeRoot, process, cgroupsPath};
}

function requestOf(args: readonly string[], options: Omit<ExecStartOptions, 'detach' | 'pidFile' | 'stdio'>): ExecRequest {
  const {execId = `exec-${randomBytes(6).toString('hex')}`, ...rest} = options;
  if (args.length === 0) throw new ErrdefsError('invalid_argument', 'exec needs a command');
  validateIdentifier(execId);
  return {execId, args, ...rest};
}

/** Tells of an exec once it runs, and of its end where somebody sees that: of one that is left running, nobody does. */
function tellExec(context: Context, namespace: string, id: string, execId: string) {
  let running: number | undefined;
  return {
    onStart: (pid: number): void => {
      running = pid;
      tell(context, namespace, id, 'exec-added', {exec_id: execId});
      tell(context, namespace, id, 'exec-started', {exec_id: execId, pid});
    },
    onEnd: (exitStatus: number): void => {
      if (running !== undefined) tell(context, namespace, id, 'exit', {id: execId, pid: running, exit_status: exitStatus});
    },
  };
}

export function execTask(
  context: Context,
  namespace: string,
  id: string,
  args: readonly string[],
  options: MaybePiped<ExecStartOptions>,
): Promise<ExecResult | ExecProcess> {
  return asRunFailure(async () => {
    const {detach = false, stdio, pidFile, ...rest} = options;
    const {tty = false} = rest;
    const piped = stdio === 'pipe';
    if (piped) refuseWithStreams({detach, tty}, 'leave out detach and tty');
    if (detach && tty)
      throw new ErrdefsError('invalid_argument', 'a process that is left running has no terminal', {hint: 'leave out --tty or --detach'});
    if (!detach && pidFile !== undefined)
      throw new ErrdefsError('invalid_argument', 'a pid file is written of a process that is left running', {hint: 'add --detach'});
    const request = requestOf(args, rest);
    const target = await findTarget(context, namespace, id);
    const {execId} = request;
    const heard = {...request, ...tellExec(context, namespace, id, execId)};
    if (detach) return {id, execId, exitStatus: 0, pid: await execDetached(target, heard, target.cgroupsPath)};
    const run = async (streams?: Stdio | 'pipe', onStreams?: (streams: PipedStreams) => void): Promise<ExecResult> => {
      const {exitStatus} = await execForeground(target, heard, target.cgroupsPath, streams, onStreams);
      return {id, execId, exitStatus};
    };
    if (!piped) return run(stdio === 'inherit' ? undefined : stdio);
    return {id, execId, ...(await withStreams((onStreams) => run(stdio, onStreams)))};
  });
}

/** @throws not_found there is no such exec, or it has ended */
export async function signalExec(found: FoundTask, execId: string, signal: number): Promise<void> {
  const {task, directory} = found;
  const cgroup = cgroupOf(found, CONTROLLER);
  const pid = cgroup === undefined ? undefined : await startedExecPid(directory, execId, cgroup);
  try {
    if (pid !== undefined) {
      process.kill(pid, signal);
      return;
    }
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'ESRCH') throw err;
  }
  throw new ErrdefsError('not_found', `exec ${JSON.stringify(execId)} of task ${JSON.stringify(task.id)}`);
}
