/**
 * The network of a user without root: pasta(1), a process in the host's network that speaks for the container through a tap device in the
 * container's own network namespace.
 *
 * A hook of the runtime starts it, between making the namespaces and the container's first program. It watches the container's first process, and
 * ends within a second after that, whoever else was killed.
 *
 * In a run's directory lie, for the attachment `<id>` (attachment.ts):
 *
 *     network.<id>.pid    pasta's, which is in its arguments, too, so that no other process is taken for it
 *     network.<id>.log    what it said; empty when it has begun
 */
import {closeSync, constants, openSync, readFileSync, writeFileSync} from 'node:fs';
import {isIP} from 'node:net';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError} from '../../errdefs.ts';
import {readIfPresent} from '../../fs/durable.ts';
import {requireProgram, searchPath} from '../../fs/spawn.ts';
import type {Hook} from '../spec.ts';
import {parseRoutes} from './default-network.ts';
import type {PortMapping} from './ports.ts';

export const PASTA_NETWORK = 'pasta';

/** Addresses in the container that lead to the host: podman has the same. */
const HOST_NAME_SERVER = '169.254.1.1';
export const PASTA_GATEWAY = '169.254.1.2';
/** What the container's own name stands for: pasta has its addresses from the host only when it begins. */
export const PASTA_OWN_ADDRESS = '127.0.1.1';

const TUN = '/dev/net/tun';
/** Seconds in which pasta begins; it takes a hundredth of one. Without its device it waits for ever. */
const START_TIMEOUT = 10;
/** Milliseconds in which it ends after SIGKILL. */
const END_TIMEOUT_MS = 5000;
const POLL_MS = 5;

const pidFile = (run: string, id: string): string => join(run, `network.${id}.pid`);
const logFile = (run: string, id: string): string => join(run, `network.${id}.log`);

/** @returns its path @throws unavailable pasta or its device is not there @throws permission_denied the device may not be used */
export function findPasta(): string {
  const program = requireProgram('pasta', 'passt');
  try {
    closeSync(openSync(TUN, constants.O_RDWR));
  } catch (err) {
    const code = (err as NodeJS.ErrnoException).code ?? '';
    const denied = code === 'EACCES' || code === 'EPERM';
    throw new ErrdefsError(denied ? 'permission_denied' : 'unavailable', `pasta needs ${TUN}: ${code}`, {
      cause: err,
      hint: denied
        ? `as root: chmod 0666 ${TUN}; or use the machine's network, --net-host, or none`
        : "as root: modprobe tun; or use the machine's network, --net-host, or none",
    });
  }
  return program;
}

/**
 * @throws invalid_argument pasta does not publish these
 * @throws failed_precondition a port is of an address that pasta does not answer on this machine
 */
export function checkPastaPorts(ports: readonly PortMapping[]): void {
  for (const port of ports) {
    const family = isIP(port.hostIP ?? '');
    if (family !== 0 && !servedFamilies().has(family))
      throw new ErrdefsError(
        'failed_precondition',
        `network "${PASTA_NETWORK}" cannot publish port ${port.containerPort} on ${port.hostIP}: this machine has no default route of IPv${family}`,
        {hint: `leave the address out: the port is then published on IPv${[...servedFamilies()].join(' and IPv')}`},
      );
    if (port.protocol === 'sctp')
      throw new ErrdefsError(
        'invalid_argument',
        `network "${PASTA_NETWORK}" publishes ports of tcp and udp, and port ${port.containerPort} is of sctp`,
      );
    const other = ports.find(
      ({protocol, hostPort, containerPort}) =>
        protocol === port.protocol && hostPort !== 0 && hostPort === port.hostPort && containerPort !== port.containerPort,
    );
    // It has one table for all addresses.
    if (other !== undefined)
      throw new ErrdefsError(
        'invalid_argument',
        `network "${PASTA_NETWORK}" cannot publish ports ${port.containerPort} and ${other.containerPort} on port ${port.hostPort} of two addresses`,
      );
  }
}

/**
 * Versions of IP that pasta connects: those of which the machine has a default route. Without any route pasta makes up addresses, and of IPv6 only
 * one that nobody can connect to: a client of `localhost` that tries [::1] first would be accepted, and cut off.
 */
function servedFamilies(): ReadonlySet<number> {
  const four = parseRoutes(readIfPresent('/proc/net/route') ?? '').some(({mask, destination}) => mask === 0 && destination === 0);
  const six = /^0{32} 00 .* (?!lo$)\S+$/m.test(readIfPresent('/proc/net/ipv6_route') ?? '');
  return new Set([...(four || !six ? [4] : []), ...(six ? [6] : [])]);
}

/** `-t` and `-u` of pasta(1). */
function portWords(ports: readonly PortMapping[]): readonly string[] {
  const everywhere = servedFamilies().has(6) ? '' : '0.0.0.0/';
  const words = (flag: string, protocol: PortMapping['protocol']): readonly string[] => {
    const own = ports.filter((port) => port.protocol === protocol);
    if (own.length === 0) return [flag, 'none'];
    return own.flatMap(({hostIP, hostPort, containerPort}) => [
      flag,
      `${hostIP === undefined ? everywhere : `${hostIP}/`}${hostPort}:${containerPort}`,
    ]);
  };
  return [...words('-t', 'tcp'), ...words('-u', 'udp'), '-T', 'none', '-U', 'none'];
}

// The runtime writes the state of the container to the hook's standard input. Its own fields come before what the image or the user could have
// written. pasta keeps the descriptors that it gets until it has begun, and the runtime waits for the end of those that it gives.
const SCRIPT = `
state=$(cat)
rest=\${state#*\\"pid\\":}
rest=\${rest# }
pid=\${rest%%[!0-9]*}
log=$1
shift
"$@" --netns "/proc/$pid/ns/net" >"$log" 2>&1 </dev/null || exit
: >"$log"`;

/** The hook that connects the container of a run. */
export function pastaHook(run: string, id: string, program: string, ports: readonly PortMapping[]): Hook {
  const sh = requireProgram('sh', 'dash');
  const timeout = requireProgram('timeout', 'coreutils');
  const log = logFile(run, id);
  writeFileSync(log, '', {mode: 0o600});
  const words = [
    ...[timeout, '-s', 'KILL', String(START_TIMEOUT), program, '--config-net', '--quiet', '--no-map-gw'],
    ...['--dns-forward', HOST_NAME_SERVER, '--map-guest-addr', PASTA_GATEWAY, '--pid', pidFile(run, id)],
    ...portWords(ports),
  ];
  return {path: sh, args: ['sh', '-c', SCRIPT, 'sh', log, ...words], env: [`PATH=${searchPath()}`], timeout: 2 * START_TIMEOUT};
}

/** Name servers in the container: the host's first one, and then those that can be reached from another namespace. */
export const pastaNameServers = (all: readonly string[], usable: readonly string[]): readonly string[] =>
  all.length === 0 ? [] : [HOST_NAME_SERVER, ...usable];

/** Reads what pasta says while it begins, even after the run's directory has gone. */
export interface PastaLog {
  /** What it said before it failed; `undefined` when it did not fail. */
  read(): string | undefined;
  close(): void;
}

export function openPastaLog(run: string, id: string): PastaLog {
  const fd = openSync(logFile(run, id), 'r');
  return {
    read: () =>
      readFileSync(fd, 'utf8')
        .trim()
        .split('\n')
        .filter((line) => line !== '')
        .join('; ') || undefined,
    close: () => closeSync(fd),
  };
}

/** Whether a process is the pasta of this file. */
function isPasta(pid: number, file: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(file);
  } catch {
    return false;
  }
}

/** Whether pasta had begun, and has ended: the container has no network any more. */
export function hasPastaEnded(run: string, id: string): boolean {
  const file = pidFile(run, id);
  const pid = Number(readIfPresent(file) ?? 0);
  return Number.isSafeInteger(pid) && pid > 0 && !isPasta(pid, file);
}

/** Ends pasta, if it has not ended by itself, so that its ports are free. @throws deadline_exceeded it does not end */
export async function endPasta(run: string, id: string): Promise<void> {
  const file = pidFile(run, id);
  const pid = Number(readIfPresent(file) ?? 0);
  if (!Number.isSafeInteger(pid) || pid <= 0) return;
  for (let waited = 0; isPasta(pid, file); waited += POLL_MS) {
    if (waited >= END_TIMEOUT_MS) throw new ErrdefsError('deadline_exceeded', `pasta, pid ${pid}, does not end`);
    try {
      process.kill(pid, 'SIGKILL');
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'ESRCH') throw err;
    }
    await delay(POLL_MS);
  }
}

/** Addresses of the network namespace of a process, with the length of their prefix; not those of the loopback and of links. See proc_pid_net(5). */
export function addressesOf(pid: number): readonly string[] {
  const file = (name: string): string => readIfPresent(`/proc/${pid}/net/${name}`) ?? '';
  const routes = parseRoutes(file('route')).filter(({mask}) => mask !== 0);
  const local = [...file('fib_trie').matchAll(/\|-- ([\d.]+)\n\s+\/32 host LOCAL/g)].map((match) => match[1]!);
  const four = [...new Set(local)]
    .filter((address) => !address.startsWith('127.'))
    .map((address) => {
      const number = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
      const mask = routes.find((route) => (number & route.mask) >>> 0 === route.destination)?.mask ?? 0xffffffff;
      return `${address}/${mask.toString(2).split('1').length - 1}`;
    });
  const six = file('if_inet6')
    .split('\n')
    .flatMap((line) => {
      const [, hex = '', length = '', scope] = /^([0-9a-f]{32}) [0-9a-f]{2} ([0-9a-f]{2}) ([0-9a-f]{2}) /.exec(line) ?? [];
      if (scope !== '00') return [];
      const address = new URL(`http://[${hex.match(/.{4}/g)!.join(':')}]`).hostname.slice(1, -1);
      return [`${address}/${Number.parseInt(length, 16)}`];
    });
  return [...four, ...six];
}
