/** Privileges of this process that decide how a layer is applied. */

import {readFileSync} from 'node:fs';
import {type IdSets, inInitialUserNamespace, mappedIds} from '../user-namespace-identity.ts';

export interface ProcessPrivileges {
  /** From /proc: `process.umask()` would change it for all threads for a moment. */
  readonly umask: number;
  readonly inInitialUserNamespace: boolean;
  /** In a user namespace CAP_MKNOD does not permit device nodes. */
  readonly canMknod: boolean;
  /** This process may give files to other users. */
  readonly canChown: boolean;
  /** This process may mount, in a mount namespace of its own. */
  readonly canMount: boolean;
  /** Whom files can be given to; absent where that is everybody. */
  readonly ids: IdSets | undefined;
}

const CAP_CHOWN = 0n;
const CAP_SYS_ADMIN = 21n;
const CAP_MKNOD = 27n;

export function readPrivileges(): ProcessPrivileges {
  const status = readFileSync('/proc/self/status', 'latin1');
  const field = (name: string): string => new RegExp(`^${name}:\\s*(\\S+)`, 'm').exec(status)?.[1] ?? '0';
  const isInitial = inInitialUserNamespace();
  const capable = (capability: bigint): boolean => ((BigInt(`0x${field('CapEff')}`) >> capability) & 1n) === 1n;
  const umask = Number.parseInt(field('Umask'), 8);
  return {
    umask,
    inInitialUserNamespace: isInitial,
    canMknod: isInitial && capable(CAP_MKNOD),
    canChown: capable(CAP_CHOWN),
    canMount: capable(CAP_SYS_ADMIN),
    ids: isInitial ? undefined : mappedIds(),
  };
}
