/**
 * Hints that a container's state asks for: the command that brings it to the state that was wanted. One place, so that every refusal says the
 * same of the same state, and what it says works there.
 */
import {berth} from '../berth-command.ts';

/** `undefined`: the namespace of the command line, which adds it. */
type Namespace = string | undefined;

const command = (namespace: Namespace, ...words: readonly string[]): string =>
  berth`${[...(namespace === undefined ? [] : ['-n', namespace]), ...words]}`;

/** To have it run. @param status of its task; absent: it has none */
export const hintToRun = (namespace: Namespace, id: string, status?: string): string =>
  status === 'paused'
    ? `let it go on: ${command(namespace, 'tasks', 'resume', id)}`
    : `start it: ${command(namespace, 'containers', 'start', id)}`;

/** To have its task ended: one that runs, is paused, or waits for its start. */
export const hintToStop = (namespace: Namespace, ...ids: readonly string[]): string =>
  `stop ${ids.length > 1 ? 'them' : 'it'} first: ${command(namespace, 'tasks', 'stop', ...ids)}`;

/** To have its task gone. @param state of its run */
export const hintToRemoveTask = (namespace: Namespace, id: string, state: 'running' | 'orphaned' | 'stopped'): string => {
  if (state === 'running') return hintToStop(namespace, id);
  const force = state === 'orphaned' ? ['--force'] : [];
  return `${force.length > 0 ? 'end it' : 'remove its task'} first: ${command(namespace, 'tasks', 'rm', ...force, id)}`;
};

/** To have containers gone. @param isRunning whether one of them runs */
export const hintToRemove = (namespace: Namespace, ids: readonly string[], isRunning: boolean): string =>
  `remove ${ids.length > 1 ? 'them' : 'it'} first: ${command(namespace, 'containers', 'rm', ...(isRunning ? ['--force'] : []), ...ids)}`;
