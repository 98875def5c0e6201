/** Who a process is, so that others can tell whether it still lives: a pid alone is reused, and means nothing in another pid namespace or boot. */
import {readFileSync, readlinkSync} from 'node:fs';

export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks from boot to the process's start. */
  readonly startTime: string;
  /** /proc/sys/kernel/random/boot_id without its dashes: 32 hex digits. */
  readonly bootId: string;
  /** Inode number of the pid namespace. */
  readonly pidNamespace: string;
}

let boot: string | undefined;
let own: ProcessIdentity | undefined;

/** This boot's id: 32 hex digits. */
export function bootId(): string {
  boot ??= readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim().replaceAll('-', '');
  return boot;
}

/** State letter and start time of a process; `undefined` when there is none. See proc_pid_stat(5): the name in field 2 may hold anything, so count from its last `)`. */
function processStat(pid: number | 'self'): {state: string; startTime: string} | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return {state: fields[0]!, startTime: fields[19]!};
}

/** This process. */
export function ownIdentity(): ProcessIdentity {
  own ??= {
    pid: process.pid,
    startTime: processStat('self')?.startTime ?? '0',
    bootId: bootId(),
    pidNamespace: /\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? '0',
  };
  return own;
}

/** One file name for an identity, and back. */
export const formatIdentity = (id: ProcessIdentity): string => `${id.pid}.${id.startTime}.${id.bootId}.${id.pidNamespace}`;

/** @returns `undefined` when `text` does not begin with an identity */
export function parseIdentity(text: string): ProcessIdentity | undefined {
  const match = /^(\d{1,10})\.(\d{1,20})\.([0-9a-f]{32})\.(\d{1,20})(?:\.|$)/.exec(text);
  return match === null ? undefined : {pid: Number(match[1]), startTime: match[2]!, bootId: match[3]!, pidNamespace: match[4]!};
}

/**
 * Whether a process still lives; a zombie does not. `unknown` for one of another pid namespace of this boot, which
 * cannot be seen from here.
 */
export function liveness(id: ProcessIdentity): 'alive' | 'dead' | 'unknown' {
  if (id.bootId !== bootId()) return 'dead';
  if (id.pidNamespace !== ownIdentity().pidNamespace) return 'unknown';
  const stat = processStat(id.pid);
  return stat !== undefined && stat.startTime === id.startTime && stat.state !== 'Z' && stat.state !== 'X' ? 'alive' : 'dead';
}

/** A few words about a process for a person: `pid 123 (node, stopped)`. Never its arguments: they may hold secrets. */
export function describeProcess(id: ProcessIdentity): string {
  if (liveness(id) !== 'alive') return `pid ${id.pid}`;
  let name = '';
  try {
    name = readFileSync(`/proc/${id.pid}/comm`, 'utf8').trim();
  } catch {
    // It ended this moment; the pid is all there is to say.
  }
  const stopped = processStat(id.pid)?.state.toUpperCase() === 'T' ? ', stopped' : '';
  return `pid ${id.pid} (${name}${stopped})`;
}
