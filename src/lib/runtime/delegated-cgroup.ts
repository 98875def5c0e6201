/**
 * Control groups of a user without root, in version 2: where a part of the tree is the user's, by systemd's delegation or by its owner, containers have
 * theirs below it. See cgroups(7), and systemd's CGROUP_DELEGATION.
 *
 * A process can only be moved between groups whose common ancestor is the user's, so what starts in the session of a login could not leave that:
 * the manager of the user's units puts it into a scope first.
 */
import {accessSync, constants, existsSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {fromErrno} from '../errdefs.ts';
import {findProgram, requireProgram, runSync} from '../fs/spawn.ts';
import {isRootless, userID} from '../user-namespace-identity.ts';
import {ignoreErrno} from './ignore-errno.ts';
import {pathsOf, SUPERVISOR} from './own-cgroup.ts';

const CGROUPS = '/sys/fs/cgroup';

type Words = readonly [program: string, ...args: string[]];

/** A group that may be divided. */
export interface DelegatedGroup {
  /** Below the root of the tree, without a slash at the end. */
  readonly path: string;
  /** Names of the controllers that groups below it can have. */
  readonly controllers: ReadonlySet<string>;
}

/** Whether this machine has version 2 alone: systemd delegates nothing else. */
export const isUnified = (): boolean => existsSync(join(CGROUPS, 'cgroup.controllers'));

const isWritable = (path: string): boolean => {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
};

const wordsOf = (file: string): readonly string[] => readFileSync(file, 'latin1').split(/\s+/).filter(Boolean);

const groupOf = (process: number | 'self'): string => pathsOf(readFileSync(`/proc/${process}/cgroup`, 'utf8')).get('') ?? '/';

/** The group that was delegated to a process: it may itself be in the leaf of it that is for processes. */
function dividedBy(process: number | 'self'): string {
  const path = groupOf(process);
  const group = basename(path) === SUPERVISOR ? dirname(path) : path;
  return group === '/' ? '' : group;
}

const isOurs = (group: string): boolean =>
  ['', 'cgroup.procs', 'cgroup.subtree_control'].every((file) => isWritable(join(CGROUPS, group, file)));

const controllersOf = (group: string): ReadonlySet<string> => new Set(wordsOf(join(CGROUPS, group, 'cgroup.controllers')));

interface Manager {
  /** Its group. */
  readonly group: string;
  /** As the variable XDG_RUNTIME_DIR. */
  readonly runtimeDirectory: string;
  readonly systemdRun: string;
}

/** systemd's manager of this user's units; `undefined` where there is none that could be asked. */
function findManager(): Manager | undefined {
  const uid = userID();
  const group = `/user.slice/user-${uid}.slice/user@${uid}.service`;
  const runtimeDirectory = [process.env.XDG_RUNTIME_DIR, `/run/user/${uid}`].find(
    (path) => path !== undefined && existsSync(join(path, 'systemd/private')),
  );
  const systemdRun = findProgram('systemd-run');
  return existsSync(join(CGROUPS, group)) && runtimeDirectory && systemdRun ? {group, runtimeDirectory, systemdRun} : undefined;
}

/**
 * Whether a group of this user's may be divided. Those of units belong to the user, too, but systemd takes controllers away again from the groups below
 * one that it has not delegated. In a group of no unit nobody but its owner changes anything.
 */
function isDelegated(group: string): boolean {
  const manager = findManager();
  const unit = /^(?:.*\/)?([^/]+\.(?:service|scope))(?:\/|$)/.exec(manager === undefined ? '' : group.slice(manager.group.length))?.[1];
  if (manager === undefined || unit === undefined || !group.startsWith(`${manager.group}/`)) return true;
  const {status, stdout} = runSync('systemctl', ['--user', 'show', '--property=Delegate', '--value', '--', unit], {
    package: 'systemd',
    env: {XDG_RUNTIME_DIR: manager.runtimeDirectory},
  });
  return status === 0 && stdout.toString().trim() === 'yes';
}

/** Whether this process is in a group that can be divided without disturbing anybody. */
const isAlone = (group: string): boolean =>
  isOurs(group) && wordsOf(join(CGROUPS, group, 'cgroup.procs')).every((pid) => pid === String(process.pid)) && isDelegated(group);

/** Words before a command that then runs in a scope of its own, which ends with the last process in it. systemd-run becomes the command. */
function scopeOf(description: string): Words | undefined {
  const manager = findManager();
  if (manager === undefined) return undefined;
  const scope = ['--user', '--scope', '--quiet', '--collect', '--property=Delegate=yes', `--description=${description}`, '--'];
  return [requireProgram('env', 'coreutils'), `XDG_RUNTIME_DIR=${manager.runtimeDirectory}`, manager.systemdRun, ...scope];
}

/**
 * What stands before a command that makes a container.
 *
 * @returns nothing where it needs none: root, a group of this process's own; or where none could be had
 */
export function scopeForContainer(id: string): Words | undefined {
  return !isRootless() || !isUnified() || isAlone(dividedBy('self')) ? undefined : scopeOf(`container ${id}`);
}

/** The same for a command that joins the group of a container. Nothing, too, where it has none. */
export function scopeForJoining(group: string): Words | undefined {
  if (!isRootless() || !isUnified() || !isOurs(dirname(group))) return undefined;
  const own = groupOf('self').split('/');
  const names = group.split('/');
  const fork = names.findIndex((name, n) => name !== own[n]);
  return isWritable(join(CGROUPS, ...names.slice(0, fork), 'cgroup.procs')) ? undefined : scopeOf('exec');
}

/** The group below which a container of this process would have its own; nothing is changed. */
export function expectedGroup(): DelegatedGroup | undefined {
  if (!isUnified()) return undefined;
  const own = dividedBy('self');
  const path = isAlone(own) ? own : (findManager()?.group ?? (isOurs(own) ? own : undefined));
  return path === undefined ? undefined : {path, controllers: controllersOf(path)};
}

/** The group of which a container's is a part. */
export const groupAbove = (cgroup: string): DelegatedGroup => ({path: dirname(cgroup), controllers: controllersOf(dirname(cgroup))});

/** Attempts to empty a group whose processes make new ones meanwhile. */
const ROUNDS = 10;

/**
 * Makes the group of a process ready for groups of containers: the processes in it go into a leaf, because one with limits below it can have none.
 *
 * @returns `undefined` where it is not this user's
 */
export function divideGroupOf(pid: number): DelegatedGroup | undefined {
  if (!isUnified()) return undefined;
  const path = dividedBy(pid);
  if (!isOurs(path)) return undefined;
  const leaf = join(CGROUPS, path, SUPERVISOR);
  try {
    ignoreErrno(['EEXIST'], () => mkdirSync(leaf));
    for (let round = 0; round < ROUNDS; round++) {
      // Those of another process namespace are 0 here.
      const pids = wordsOf(join(CGROUPS, path, 'cgroup.procs')).filter((one) => one !== '0');
      if (pids.length === 0) break;
      for (const one of pids) ignoreErrno(['ESRCH'], () => writeFileSync(join(leaf, 'cgroup.procs'), one));
    }
  } catch (err) {
    throw fromErrno(err, `control group ${path}`);
  }
  return {path, controllers: controllersOf(path)};
}
