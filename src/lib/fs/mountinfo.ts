/** Reads the mounts of this and other mount namespaces. */
import {readdirSync, readFileSync, readlinkSync} from 'node:fs';

/** What mountinfo says of a mount, in so far as it tells it from another one at the same place. */
export interface MountInfo {
  readonly target: string;
  /** `major:minor`. */
  readonly device: string;
  /** Path within its filesystem. */
  readonly root: string;
  readonly type: string;
  readonly source: string;
}

const unescapeField = (text: string): string =>
  text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));

/** Mounts that a process sees, the topmost of each place last. See proc_pid_mountinfo(5). */
export const readMountInfo = (pid: number | 'self'): readonly MountInfo[] =>
  readFileSync(`/proc/${pid}/mountinfo`, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [, , device = '', root = '', target = ''] = line.split(' ', 5);
      const [, type = '', source = ''] = / - (\S+) (\S*)/.exec(line) ?? [];
      return {target: unescapeField(target), device, root: unescapeField(root), type, source: unescapeField(source)};
    });

/** Inode number of a process's mount namespace. */
export const mountNamespace = (pid: number | 'self' = 'self'): string => readlinkSync(`/proc/${pid}/ns/mnt`).replaceAll(/\D/g, '');

/**
 * Mounts of a mount namespace that may be another one.
 *
 * @returns `undefined` when no process that can be seen from here is in it
 */
export function mountsInNamespace(namespace: string): readonly MountInfo[] | undefined {
  if (namespace === mountNamespace()) return readMountInfo('self');
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (mountNamespace(Number(name)) === namespace) return readMountInfo(Number(name));
    } catch {
      // It has ended, or is another user's.
    }
  }
  return undefined;
}

/** Whether a file holds a mount namespace, so that it lives on without a process; see namespaces(7). */
export const isNamespacePinned = (namespace: string): boolean => readMountInfo('self').some(({root}) => root === `mnt:[${namespace}]`);
