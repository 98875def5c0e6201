/** The control group of this process, when what it starts is to stay in it: that of a unit of systemd. See cgroups(7), systemd.resource-control(5). */
import {existsSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';

const MOUNTS = ['/sys/fs/cgroup', '/sys/fs/cgroup/unified'];

/** Where the process itself goes; also what `DelegateSubgroup=` of such a unit would say. */
export const SUPERVISOR = 'supervisor';

/** Paths of a process by the words of its hierarchy, from /proc/PID/cgroup: `name=systemd`, empty for version 2. */
export function pathsOf(text: string): ReadonlyMap<string, string> {
  return new Map(
    text
      .trimEnd()
      .split('\n')
      .map((line) => {
        const [, controllers = '', ...path] = line.split(':');
        return [controllers, path.join(':')];
      }),
  );
}

/**
 * The control group below which containers can have theirs, and be seen and ended with this process. In version 2 a group with others below it has no
 * processes: this one moves into `supervisor`.
 *
 * @returns path in every hierarchy
 * @throws failed_precondition this process is in no group of its own
 * @throws permission_denied the group was not delegated
 */
export function splitOwnCgroup(): string {
  const paths = pathsOf(readFileSync('/proc/self/cgroup', 'utf8'));
  const unified = paths.get('');
  const parentOf = (path: string): string => (basename(path) === SUPERVISOR ? dirname(path) : path);
  // A hybrid machine has both.
  const found = [paths.get('name=systemd'), unified].find((path) => path !== undefined && parentOf(path) !== '/');
  if (found === undefined)
    throw new ErrdefsError('failed_precondition', 'this process is in no control group of its own', {
      hint: 'start it from a unit of systemd with Delegate=yes: berth containers systemd prints one',
    });
  const mount = MOUNTS.find((path) => existsSync(join(path, 'cgroup.controllers')));
  if (mount !== undefined && unified !== undefined && parentOf(unified) !== '/') {
    const directory = join(mount, parentOf(unified), SUPERVISOR);
    try {
      mkdirSync(directory, {recursive: true});
      writeFileSync(join(directory, 'cgroup.procs'), String(process.pid));
    } catch (err) {
      throw fromErrno(err, `control group ${directory}`);
    }
  }
  return parentOf(found);
}
