/** Control groups of containers: their names, and their removal. See cgroups(7); version 1 has one tree for each controller. */
import {appendFileSync, existsSync, readFileSync, rmdirSync, statSync, writeFileSync} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError} from '../errdefs.ts';
import {readIfPresent, unlinkIfPresent} from '../fs/durable.ts';
import {ownIdentity, type ProcessIdentity} from '../fs/process.ts';
import {ignoreErrno, list} from './ignore-errno.ts';

const CGROUPS = '/sys/fs/cgroup';
/** Time for a killed process to end. */
export const KILL_TIMEOUT_MS = 5000;
export const POLL_MS = 5;

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

/** Lets what is frozen go on: in version 1 it does not end before. */
function thaw(path: string): void {
  const ifThere = ['ENOENT', 'ENOTDIR', 'ENODEV', 'EINVAL'];
  ignoreErrno(ifThere, () => writeFileSync(join(CGROUPS, 'freezer', path, 'freezer.state'), 'THAWED', {flag: 'r+'}));
}

/** Kills what is in a container's cgroup and those below it, and removes them. @throws unavailable one is still in use */
export async function removeCgroups(path: string): Promise<void> {
  thaw(path);
  for (const directory of cgroupsAt(path)) await removeCgroup(directory);
}

/** Notes in a namespace's run directory which cgroups were made for its runs, and are not somebody else's; a path a line. */
const CGROUP_NOTE = 'cgroup';

/** Whether `cgroupPath` made it. */
export const isOwnCgroup = (path: string): boolean => /^(?:\/(?!\.\.?(?:\/|$))[^/]+)*\/[^/]+~\d+\.\d+\.\d+$/.test(path);

const cgroupsAt = (path: string): readonly string[] =>
  ['', ...list(CGROUPS)].map((tree) => join(CGROUPS, tree, path)).filter((directory) => existsSync(directory));

/**
 * To be called before a namespace's run: what does not exist yet of its cgroup and those above belongs to berth. One of `cgroupPath` ends
 * with its run, and is not noted.
 *
 * @param cgroup the container's: absolute, or empty where the runtime chooses
 */
export function noteCgroup(stateDir: string, cgroup: string): void {
  if (!cgroup.startsWith('/') || cgroup.includes('\n')) return;
  const made: string[] = [];
  const lowest = isOwnCgroup(cgroup) ? dirname(cgroup) : cgroup;
  for (let path = lowest; path !== '/' && cgroupsAt(path).length === 0; path = dirname(path)) made.push(`${path}\n`);
  if (made.length > 0) appendFileSync(join(stateDir, CGROUP_NOTE), made.join(''), {mode: 0o600});
}

/** Removes the cgroups that were made for a namespace's runs, and are empty. */
export function removeNotedCgroups(stateDir: string): void {
  const note = join(stateDir, CGROUP_NOTE);
  const noted = new Set((readIfPresent(note) ?? '').split('\n').filter((path) => path.startsWith('/')));
  // Those below first.
  for (const path of [...noted].sort().reverse()) removeEmptyCgroup(path);
  unlinkIfPresent(note);
}

/** Removes a cgroup, unless something is in it. */
export function removeEmptyCgroup(path: string): void {
  for (const directory of cgroupsAt(path)) ignoreErrno(['ENOENT', 'EBUSY', 'ENOTEMPTY'], () => rmdirSync(directory));
}

/** The trees that systemd makes groups for its units in, and removes them from: in version 1 by controller. See systemd.resource-control(5). */
const OF_SYSTEMD: readonly string[] = ['systemd', 'unified', 'cpu', 'cpuacct', 'blkio', 'memory', 'devices', 'pids'];

/**
 * Removes what the runtime has made of a unit's cgroup in the trees that systemd does not know, cpuset and freezer among them, where nobody else
 * would. A unit has one container at a time, so none is about to start there.
 */
export function removeUnitCgroup(path: string): void {
  for (const tree of list(CGROUPS))
    if (existsSync(join(CGROUPS, tree, 'cgroup.procs')) && !tree.split(',').some((controller) => OF_SYSTEMD.includes(controller)))
      ignoreErrno(['ENOENT', 'EBUSY', 'ENOTEMPTY'], () => rmdirSync(join(CGROUPS, tree, path)));
}

/**
 * A container's cgroup: no other run, of whatever store or state directory, has it, so that ending what is in it ends nobody else's.
 *
 * @param parent default: one of the namespace's
 */
export const cgroupPath = (
  namespace: string,
  id: string,
  {pid, startTime, pidNamespace}: ProcessIdentity,
  parent = `/${namespace}`,
): string => `${parent}/${id}~${pid}.${startTime}.${pidNamespace}`;

/** The process that `cgroupPath` named a cgroup of this boot by; it holds the container. @param path of `cgroupPath` */
export function holderOfCgroup(path: string): ProcessIdentity {
  const [pid = '', startTime = '', pidNamespace = ''] = path.slice(path.lastIndexOf('~') + 1).split('.');
  return {...ownIdentity(), pid: Number(pid), startTime, pidNamespace};
}

/** Whether `cgroupPath` made it for a container of this ID. */
export const isCgroupOf = (id: string, path: string): boolean => isOwnCgroup(path) && basename(path).startsWith(`${id}~`);

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

/** Whether there is a process in a cgroup, or in one below it. */
export const isPopulated = (path: string): boolean => cgroupsAt(path).some(hasProcesses);

/** Those of `cgroupPath` in a namespace's own that hold a process: what runs is seen here whatever became of its state directory. */
export function populatedCgroups(namespace: string): ReadonlySet<string> {
  const living = new Set<string>();
  for (const tree of ['', ...list(CGROUPS)])
    for (const name of list(join(CGROUPS, tree, namespace)))
      if (name.includes('~') && hasProcesses(join(CGROUPS, tree, namespace, name))) living.add(`/${namespace}/${name}`);
  return living;
}
