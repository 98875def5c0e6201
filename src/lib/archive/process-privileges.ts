/** What this process may do, as far as it decides how a layer is applied. */

import {readFileSync} from 'node:fs';

export interface ProcessPrivileges {
  /** Read, not asked for: asking by a call sets it for all threads for a moment. */
  readonly umask: number;
  /** True outside of user namespaces. */
  readonly inInitialUserNamespace: boolean;
  /** True when device nodes can be made: in a user namespace the capability alone does not reach them. */
  readonly canMknod: boolean;
  /** True when a file can be given to another user. */
  readonly canChown: boolean;
}

const CAP_CHOWN = 0n;
const CAP_MKNOD = 27n;

export function readPrivileges(): ProcessPrivileges {
  const status = readFileSync('/proc/self/status', 'latin1');
  const field = (name: string): string => new RegExp(`^${name}:\\s*(\\S+)`, 'm').exec(status)?.[1] ?? '0';
  const inInitialUserNamespace = /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'latin1'));
  const capable = (capability: bigint): boolean => ((BigInt(`0x${field('CapEff')}`) >> capability) & 1n) === 1n;
  const umask = Number.parseInt(field('Umask'), 8);
  return {umask, inInitialUserNamespace, canMknod: inInitialUserNamespace && capable(CAP_MKNOD), canChown: capable(CAP_CHOWN)};
}
