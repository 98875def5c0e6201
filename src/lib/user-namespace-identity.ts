/** What this process is in its user namespace: whose it is, and which ids it has. See user_namespaces(7). */
import {readFileSync} from 'node:fs';
import {ErrdefsError} from './errdefs.ts';

/** Set for what runs in a user namespace that berth made: the user's id outside. */
export const OUTSIDE_UID = 'BERTH_OUTSIDE_UID';

const lines = (file: string): readonly (readonly number[])[] => {
  try {
    return readFileSync(file, 'latin1')
      .trim()
      .split('\n')
      .map((line) => line.trim().split(/\s+/).map(Number));
  } catch {
    return [[0, 0, WHOLE]]; // a kernel without user namespaces, or no /proc
  }
};

const WHOLE = 4294967295;

let initial: boolean | undefined;

/** Whether this process is in the machine's own user namespace. A container of another engine may have one of its own. */
export function inInitialUserNamespace(): boolean {
  if (initial !== undefined) return initial;
  const [first = [], ...more] = lines('/proc/self/uid_map');
  initial = more.length === 0 && first[0] === 0 && first[1] === 0 && first[2] === WHOLE;
  return initial;
}

/** Whether this process may not mount and run as root of the machine: it is another user, or that user's root in a user namespace. */
export const isRootless = (): boolean => process.geteuid?.() !== 0 || !inInitialUserNamespace();

const CAP_SYS_ADMIN = 21n;

/** Whether this process has the capability that mounts and their namespaces need; see proc_pid_status(5). Without /proc it is believed to. */
export function mayMount(): boolean {
  try {
    const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))![1];
    return ((BigInt(`0x${mask}`) >> CAP_SYS_ADMIN) & 1n) === 1n;
  } catch {
    return true;
  }
}

/** @param action for the message @throws permission_denied this process is not root, neither of the machine nor of a user namespace */
export function requireRoot(action: string): void {
  if (process.geteuid?.() !== 0)
    throw new ErrdefsError('permission_denied', `only root may ${action}`, {
      hint: 'run it as root, or in a user namespace: berth unshare PROGRAM',
    });
}

/** The user whose files berth uses, as the machine counts: in a user namespace of ours the one who made it. */
export function userID(env: NodeJS.ProcessEnv = process.env): number {
  const uid = process.getuid?.() ?? 0;
  const outside = env[OUTSIDE_UID];
  return uid === 0 && outside !== undefined && /^\d{1,10}$/.test(outside) && !inInitialUserNamespace() ? Number(outside) : uid;
}

/** Ids that files may belong to. */
export interface IdSets {
  hasUser(uid: number): boolean;
  hasGroup(gid: number): boolean;
  /** There is one user: no subordinate ids were mapped. */
  readonly single: boolean;
}

/** Lines of a map of a process: first id inside, first id outside, count. @param file `uid_map` or `gid_map` */
export const idRanges = (process: number | 'self', file: string): readonly (readonly number[])[] => lines(`/proc/${process}/${file}`);

/** The ids of a process's user namespace. */
export function mappedIds(process: number | 'self' = 'self'): IdSets {
  const users = idRanges(process, 'uid_map');
  const groups = idRanges(process, 'gid_map');
  const has = (ranges: typeof users, id: number): boolean => ranges.some(([first = 0, , count = 0]) => id >= first && id < first + count);
  return {
    hasUser: (uid) => has(users, uid),
    hasGroup: (gid) => has(groups, gid),
    single: users.length === 1 && users[0]?.[2] === 1,
  };
}
