/** The processes of a container that has no control group: those in the process namespace of its first one. See pid_namespaces(7). */
import {readdirSync, readlinkSync} from 'node:fs';
import {ignoreErrno} from './ignore-errno.ts';

function namespaceOf(pid: number | 'self'): string | undefined {
  let name: string | undefined;
  ignoreErrno(['ENOENT', 'ESRCH', 'EACCES', 'EPERM'], () => {
    name = readlinkSync(`/proc/${pid}/ns/pid`);
  });
  return name;
}

/** @returns it and the others of its namespace, sorted; itself alone in a namespace that is not a container's; nothing once it has ended */
export function pidNeighbours(pid: number): readonly number[] {
  const namespace = namespaceOf(pid);
  if (namespace === undefined) return [];
  if (namespace === namespaceOf('self')) return [pid];
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((other) => namespaceOf(other) === namespace)
    .sort((a, b) => a - b);
}

/** Sends all of them a signal. @returns false if there is none */
export function signalNeighbours(pid: number, signal: number): boolean {
  let found = false;
  for (const one of pidNeighbours(pid))
    ignoreErrno(['ESRCH'], () => {
      process.kill(one, signal);
      found = true;
    });
  return found;
}
