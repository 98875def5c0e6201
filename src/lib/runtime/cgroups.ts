/** Control groups of containers: their names, and their removal. See cgroups(7); version 1 has one tree for each controller. */
import {existsSync, readFileSync, rmdirSync, statSync, unlinkSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError} from '../errdefs.ts';
import type {ProcessIdentity} from '../fs/process.ts';
import {ignoreErrno, list} from './ignore-errno.ts';

const CGROUPS = '/sys/fs/cgroup';
/** Time for a killed process to end. */
const KILL_TIMEOUT_MS = 5000;
const POLL_MS = 5;

/** Removes a cgroup and those below it, once what is in it has ended. */
async function removeCgroup(directory: string): Promise<void> {
  for (const entry of list(directory))
    if (statSync(join(directory, entry), {throwIfNoEntry: false})?.isDirectory() === true) await removeCgroup(join(directory, entry));
  for (let waited = 0; !ignoreErrno(['EBUSY'], () => ignoreErrno(['ENOENT'], () => rmdirSync(directory))); waited += POLL_MS) {
    if (waited >= KILL_TIMEOUT_MS) throw new ErrdefsError('unavailable', `cgroup ${directory} is still in use`);
    for (const pid of readFileSync(join(directory, 'cgroup.procs'), 'latin1').split('\n'))
      if (pid !== '') ignoreErrno(['ESRCH'], () => process.kill(Number(pid), 'SIGKILL'));
    await delay(POLL_MS);
  }
}

/** Kills what is in a container's cgroup and those below it, and removes them. @throws unavailable one is still in use */
export async function removeCgroups(path: string): Promise<void> {
  for (const directory of cgroupsAt(path)) await removeCgroup(directory);
}

/** Notes in a namespace's run directory that its cgroup was made for a run, and is not somebody else's. */
const CGROUP_NOTE = 'cgroup';

const cgroupsAt = (path: string): readonly string[] =>
  ['', ...list(CGROUPS)].map((tree) => join(CGROUPS, tree, path)).filter((directory) => existsSync(directory));

/** To be called before a namespace's run: its cgroup belongs to berth if it does not exist yet. @param cgroup the container's */
export function noteCgroup(stateDir: string, cgroup: string): void {
  if (cgroupsAt(dirname(cgroup)).length === 0) writeFileSync(join(stateDir, CGROUP_NOTE), '', {mode: 0o600});
}

/** Removes the cgroup of a namespace that is about to be removed, if it was made for a run and is empty. */
export function removeNamespaceCgroup(stateDir: string, namespace: string): void {
  const note = join(stateDir, CGROUP_NOTE);
  if (!existsSync(note)) return;
  removeEmptyCgroup(`/${namespace}`);
  unlinkSync(note);
}

/** Removes a cgroup, unless something is in it. */
export function removeEmptyCgroup(path: string): void {
  for (const directory of cgroupsAt(path)) ignoreErrno(['ENOENT', 'EBUSY', 'ENOTEMPTY'], () => rmdirSync(directory));
}

/** A container's cgroup: no other run, of whatever store or state directory, has it, so that ending what is in it ends nobody else's. */
export const cgroupPath = (namespace: string, id: string, {pid, startTime, pidNamespace}: ProcessIdentity): string =>
  `/${namespace}/${id}~${pid}.${startTime}.${pidNamespace}`;

function hasProcesses(cgroup: string): boolean {
  let procs = '';
  ignoreErrno(['ENOENT', 'ENOTDIR', 'ENODEV', 'EOPNOTSUPP', 'ENOTSUP'], () => {
    procs = readFileSync(join(cgroup, 'cgroup.procs'), 'latin1');
  });
  if (procs !== '') return true;
  return list(cgroup).some((name) => {
    const below = join(cgroup, name);
    return statSync(below, {throwIfNoEntry: false})?.isDirectory() === true && hasProcesses(below);
  });
}

/** Those of `cgroupPath` that hold a process: what runs is seen here whatever became of its state directory. */
export function populatedCgroups(namespace: string): ReadonlySet<string> {
  const living = new Set<string>();
  for (const tree of ['', ...list(CGROUPS)])
    for (const name of list(join(CGROUPS, tree, namespace)))
      if (name.includes('~') && hasProcesses(join(CGROUPS, tree, namespace, name))) living.add(`/${namespace}/${name}`);
  return living;
}
