/** Identifies a process, so that others can tell whether it is alive. A pid alone is reused, and differs by pid namespace and boot. */
import {readdirSync, readFileSync, readlinkSync} from 'node:fs';
import {basename} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';

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
/** Whether /proc shows the pid namespace that this process is in: `unshare --pid` without a new /proc leaves another's. */
let procIsOurs = false;

/** This boot's id: 32 hex digits. @throws failed_precondition /proc is not mounted */
export function bootId(): string {
  boot ??= fromProc(() => readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim().replaceAll('-', ''));
  return boot;
}

function fromProc<T>(read: () => T): T {
  try {
    return read();
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'ENOENT') throw err;
    throw new ErrdefsError('failed_precondition', '/proc is not mounted', {cause: err, hint: 'mount -t proc proc /proc'});
  }
}

interface ProcessStat {
  /** The pid as this /proc counts. */
  readonly pid: number;
  readonly state: string;
  readonly session: number;
  readonly startTime: string;
}

/** See proc_pid_stat(5): the name in field 2 may hold anything, so count from its last `)`. */
function readStat(pid: number | 'self'): ProcessStat {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return {pid: Number.parseInt(stat, 10), state: fields[0]!, session: Number(fields[3]), startTime: fields[19]!};
}

/** `undefined` where it cannot be known: the process is gone, or hidden from here, or there is no descriptor left to ask with. */
function processStat(pid: number): ProcessStat | undefined {
  try {
    return readStat(pid);
  } catch {
    return undefined;
  }
}

/** Whether a session has a process beside its leader: those that it has started may outlive it. See setsid(2). */
export const hasFollowers = (session: number): boolean =>
  readdirSync('/proc').some((name) => {
    const stat = /^\d+$/.test(name) && Number(name) !== session ? processStat(Number(name)) : undefined;
    return stat?.session === session && stat.state !== 'Z' && stat.state !== 'X';
  });

/** This process. @throws failed_precondition /proc is not mounted */
export function ownIdentity(): ProcessIdentity {
  if (own !== undefined) return own;
  const stat = fromProc(() => readStat('self'));
  const pidNamespace = fromProc(() => readlinkSync('/proc/self/ns/pid').replaceAll(/\D/g, ''));
  procIsOurs = stat.pid === process.pid;
  own = {pid: process.pid, startTime: stat.startTime, bootId: bootId(), pidNamespace};
  return own;
}

/** A child of this process. @throws what node:fs throws when it has ended and was waited for */
export const identityOf = (pid: number): ProcessIdentity => ({...ownIdentity(), pid, startTime: readStat(pid).startTime});

/** One file name for an identity, and back. */
export const formatIdentity = (id: ProcessIdentity): string => `${id.pid}.${id.startTime}.${id.bootId}.${id.pidNamespace}`;

/** @returns `undefined` when `text` does not begin with an identity */
export function parseIdentity(text: string): ProcessIdentity | undefined {
  const match = /^(\d{1,10})\.(\d{1,20})\.([0-9a-f]{32})\.(\d{1,20})(?:\.|$)/.exec(text);
  return match === null ? undefined : {pid: Number(match[1]), startTime: match[2]!, bootId: match[3]!, pidNamespace: match[4]!};
}

/** A name that no other process and no other call uses, and that begins with this process's identity. Names of one process sort by age. */
export const uniqueName = (): string =>
  `${formatIdentity(ownIdentity())}.${Date.now().toString(36)}${Math.random().toString(36).slice(2, 12)}`;

/**
 * Whether a process still lives; a zombie does not. `unknown` for one that cannot be seen from here: it is of another
 * pid namespace of this boot, or /proc hides it.
 */
export function liveness(id: ProcessIdentity): 'alive' | 'dead' | 'unknown' {
  if (id.bootId !== bootId()) return 'dead';
  if (id.pidNamespace !== ownIdentity().pidNamespace) return 'unknown';
  const stat = procIsOurs ? processStat(id.pid) : undefined;
  if (stat === undefined) return pidExists(id.pid) ? 'unknown' : 'dead';
  return stat.startTime === id.startTime && stat.state !== 'Z' && stat.state !== 'X' ? 'alive' : 'dead';
}

function pidExists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (err) {
    return (err as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

/** Whether a process lives, as far as can be seen, and is not stopped. */
export const isRunning = (id: ProcessIdentity): boolean => liveness(id) === 'alive' && !isStopped(id);

const isStopped = ({pid}: ProcessIdentity): boolean => processStat(pid)?.state.toUpperCase() === 'T';

/** Describes a process for people: `pid 123 (node, stopped)`, without its arguments, which may hold secrets. */
export function describeProcess(id: ProcessIdentity): string {
  if (liveness(id) !== 'alive') return `pid ${id.pid}`;
  const stopped = isStopped(id) ? ', stopped' : '';
  return `pid ${id.pid} (${programOf(id.pid)}${stopped})`;
}

/** Name of a process's program; what it calls itself where that may not be seen (Node's says `MainThread`). */
function programOf(pid: number): string {
  try {
    return basename(readlinkSync(`/proc/${pid}/exe`));
  } catch {
    // Another user's.
  }
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return 'has just ended';
  }
}
