/** Processes of a container: their list, and the freezer. */

import {readFileSync} from 'node:fs';
import {constants} from 'node:os';
import {berth} from '../../berth-command.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {spawnWithChannel} from '../../fs/spawn-with-channel.ts';
import {listExecs} from '../../runtime/exec.ts';
import {hintToRun} from '../../runtime/next-command.ts';
import {runRuntime, runtimeFailure} from '../../runtime/oci-runtime.ts';
import {pidNeighbours} from '../../runtime/pid-namespace.ts';
import {isRootless} from '../../user-namespace-identity.ts';
import type {TaskProcess} from '../types/index.ts';
import {type FoundTask, hasOwnCgroup} from './find-task.ts';

function assertStatus({task}: FoundTask, allowed: readonly string[], wanted: string): void {
  if (!allowed.includes(task.status))
    throw new ErrdefsError(
      'failed_precondition',
      `task ${JSON.stringify(task.id)} is ${task.status}, not ${wanted}`,
      // What runs is not paused for the sake of being let go on.
      task.status === 'running' ? {} : {hint: hintToRun(undefined, task.id, task.status)},
    );
}

function commandOf(pid: number): readonly string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
  } catch {
    return []; // it has ended
  }
}

async function callRuntime({task, runtime, runtimeRoot}: FoundTask, words: readonly string[]): Promise<Buffer> {
  const result = await runRuntime(runtime, ['--root', runtimeRoot, ...words, task.id]);
  if (result.status === 0) return result.stdout;
  throw runtimeFailure(runtime, `unable to ${words[0]} task ${JSON.stringify(task.id)}`, result);
}

export async function listProcesses(found: FoundTask): Promise<readonly TaskProcess[]> {
  assertStatus(found, ['created', 'running', 'paused'], 'running');
  const pids = isRootless()
    ? pidNeighbours(found.task.pid)
    : (JSON.parse((await callRuntime(found, ['ps', '--format', 'json'])).toString()) as readonly number[]);
  const execs = listExecs(found.directory);
  return [...pids]
    .sort((a, b) => a - b)
    .map((pid) => {
      const execId = execs.get(pid);
      return {pid, ...(execId === undefined ? {} : {execId}), command: commandOf(pid)};
    });
}

export async function freeze(found: FoundTask, verb: 'pause' | 'resume'): Promise<void> {
  assertStatus(found, [verb === 'pause' ? 'running' : 'paused'], verb === 'pause' ? 'running' : 'paused');
  assertFreezer(found);
  await callRuntime(found, [verb]);
}

/** A container of a user without root may have no control group, and only that stops processes all at once. */
function assertFreezer(found: FoundTask): void {
  const {id} = found.task;
  if (!hasOwnCgroup(found))
    throw new ErrdefsError('failed_precondition', `task ${JSON.stringify(id)} cannot be paused without root`, {
      hint: `stop it instead: ${berth`tasks stop ${id}`}`,
    });
}

const PAUSED = 'paused\n';
/** Words: runtime, its root, ID. A pause that fails may have frozen the container all the same, when the runtime was killed. */
const PAUSE = `
trap '' PIPE
said=$("$1" --root "$2" pause "$3" 2>&1 3<&-) || {
  status=$?
  "$1" --root "$2" resume "$3" 3<&-
  printf %s "$said" >&3
  exit $status
}
echo paused >&3
read -r word <&3
test "$word" = resumed || exec "$1" --root "$2" resume "$3" 3<&-`;

/**
 * Pauses a task, also beyond the life of this process: a shell does it and waits for our word, and if we are killed, meanwhile or later, it
 * lets the task go on.
 *
 * @returns lets it go on
 */
export async function pauseForNow(found: FoundTask): Promise<() => Promise<void>> {
  assertStatus(found, ['running'], 'running');
  assertFreezer(found);
  const {task, runtime, runtimeRoot} = found;
  const guard = await spawnWithChannel(['/bin/sh', '-c', PAUSE, 'sh', runtime.path, runtimeRoot, task.id], {
    cwd: '/',
    stdio: ['ignore', 'ignore', 'ignore'],
  });
  const said = await guard.receive(PAUSED);
  if (said !== PAUSED) {
    const {status} = await guard.ended;
    throw runtimeFailure(runtime, `unable to pause task ${JSON.stringify(task.id)}`, {
      status: status ?? 128 + constants.signals.SIGKILL,
      stderr: said,
    });
  }
  return async () => {
    try {
      await freeze({...found, task: {...task, status: 'paused'}}, 'resume');
    } finally {
      guard.write('resumed\n');
      await guard.ended;
    }
  };
}
