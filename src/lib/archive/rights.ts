/** What this process may do, as far as it decides how a layer is applied. */

import {readFileSync} from 'node:fs';

export interface ProcessRights {
  /** Read, not asked for: asking by a call sets it for all threads for a moment. */
  readonly umask: number;
  /** True outside of user namespaces. */
  readonly initial: boolean;
  /** True when device nodes can be made: in a user namespace the capability alone does not reach them. */
  readonly mknod: boolean;
}

const CAP_MKNOD = 27n;

export function readRights(): ProcessRights {
  const status = readFileSync('/proc/self/status', 'latin1');
  const field = (name: string): string => new RegExp(`^${name}:\\s*(\\S+)`, 'm').exec(status)?.[1] ?? '0';
  const initial = /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'latin1'));
  const capable = ((BigInt(`0x${field('CapEff')}`) >> CAP_MKNOD) & 1n) === 1n;
  return {umask: Number.parseInt(field('Umask'), 8), initial, mknod: initial && capable};
}
