/**
 * Ports that containers publish. The host's network is one, whatever state directory or store a container is of, so all are asked:
 *
 *     /run/berth-networks/states/<network namespace>.<hash>   link to a state directory whose containers publish ports
 *     /run/berth-networks/ports.lock                          held while a port is chosen and recorded
 */
import {createHash} from 'node:crypto';
import {existsSync, mkdirSync, readlinkSync, symlinkSync} from 'node:fs';
import {join} from 'node:path';
import {listIfPresent, unlinkIfPresent} from '../../fs/durable.ts';
import {acquireLock, type Lock} from '../../fs/lock.ts';
import {portsOf} from './attachment.ts';
import {MACHINE_DIRECTORY} from './default-network.ts';
import type {PortMapping} from './ports.ts';

const LOCK_TIMEOUT_MS = 30_000;

export interface PublishedPort extends PortMapping {
  /** The container, for messages. */
  readonly container: string;
}

/** To be held while ports are chosen and recorded. @param directory its place, where the host's cannot be written to @throws unavailable another process holds it for 30 s */
export function lockPorts(directory = MACHINE_DIRECTORY): Promise<Lock> {
  mkdirSync(directory, {recursive: true, mode: 0o755});
  return acquireLock(join(directory, 'ports.lock'), {timeoutMs: LOCK_TIMEOUT_MS, purpose: 'publishing ports'});
}

type RunsOf = (stateDir: string) => readonly NamedRun[];

/** Ports of the containers of one state directory. @param except the caller's run */
export const portsBelow = (stateDir: string, runsOf: RunsOf, except: string): readonly PublishedPort[] =>
  runsOf(stateDir)
    .filter(({run}) => run !== except)
    .flatMap(({run, container}) => portsOf(run).map((port) => ({...port, container})));

/**
 * Ports of the containers of all state directories that publish in this network namespace. This one is among them from now on.
 *
 * @param stateDir of the caller
 * @param runsOf the runs of a state directory
 * @param except the caller's run
 */
export function publishedPorts(stateDir: string, runsOf: RunsOf, except: string): readonly PublishedPort[] {
  const states = join(MACHINE_DIRECTORY, 'states');
  const namespace = readlinkSync('/proc/self/ns/net').replaceAll(/\D/g, '');
  mkdirSync(states, {recursive: true, mode: 0o700});
  const own = `${namespace}.${createHash('sha256').update(stateDir).digest('hex')}`;
  try {
    symlinkSync(stateDir, join(states, own));
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw err;
  }
  return listIfPresent(states).flatMap((name) => {
    const link = join(states, name);
    if (!existsSync(link)) unlinkIfPresent(link);
    else if (name.startsWith(`${namespace}.`)) {
      const directory = readlinkSync(link);
      const where = name === own ? '' : ` (state directory ${directory})`;
      return portsBelow(directory, runsOf, except).map((port) => ({...port, container: `${port.container}${where}`}));
    }
    return [];
  });
}

export interface NamedRun {
  /** Its directory. */
  readonly run: string;
  /** For messages. */
  readonly container: string;
}
