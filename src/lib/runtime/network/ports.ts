/** Published ports: their notation, and who has them. */
import type {Server} from 'node:net';
import {isIP, isIPv4} from 'node:net';
import {ErrdefsError} from '../../errdefs.ts';

/** As in `runtimeConfig.portMappings` of CNI. */
export interface PortMapping {
  /** Address of the host; absent for all. */
  readonly hostIP?: string;
  readonly hostPort: number;
  readonly containerPort: number;
  readonly protocol: 'tcp' | 'udp' | 'sctp';
}

/** `hostPort` 0: the system chooses. */
export type RequestedPort = PortMapping;

const MOST_PORTS = 1024;

/**
 * Parses `[[IP:][HOST]:]CONTAINER[/PROTOCOL]`, where HOST and CONTAINER are ports or ranges of equal length; HOST 0 is none. An IPv6 address stands in brackets.
 *
 * @throws invalid_argument it is something else
 */
export function parsePort(text: string): readonly RequestedPort[] {
  const fail = (reason: string): never => {
    throw new ErrdefsError('invalid_argument', `port ${JSON.stringify(text)} ${reason}`, {
      hint: 'write [[IP:]HOST:]CONTAINER[/tcp|/udp|/sctp]',
    });
  };
  const found = /^(?:(?:(?:\[([^\]]*)\]|([^:[\]]*)):)?([^:/]*):)?([^:/]+)(?:\/(.*))?$/.exec(text);
  if (found === null) return fail('is not understood');
  const [, six, four, host = '', container = '', protocol = 'tcp'] = found;
  const hostIP = six ?? four ?? '';
  if (hostIP !== '' && (isIP(hostIP) === 0 || (six === undefined) !== isIPv4(hostIP))) return fail('has an invalid address');
  if (protocol !== 'tcp' && protocol !== 'udp' && protocol !== 'sctp') return fail('has an unknown protocol');
  const range = (words: string): readonly [number, number] => {
    const [first = '', last = first, ...more] = words.split('-');
    const valid = (port: string): boolean => /^\d{1,5}$/.test(port) && Number(port) >= 1 && Number(port) <= 65535;
    if (more.length > 0 || !valid(first) || !valid(last) || Number(last) < Number(first))
      return fail('has a port that is none of 1 to 65535');
    return [Number(first), Number(last) - Number(first) + 1];
  };
  const [firstInside, count] = range(container);
  if (count > MOST_PORTS) return fail(`has more than ${MOST_PORTS} ports`);
  const [firstOutside, outside] = host === '' || host === '0' ? [0, count] : range(host);
  if (outside !== count) return fail('has ranges of different lengths');
  return Array.from({length: count}, (_, index) => ({
    ...(hostIP === '' ? {} : {hostIP}),
    hostPort: firstOutside === 0 ? 0 : firstOutside + index,
    containerPort: firstInside + index,
    protocol,
  }));
}

/** As `parsePort` reads it. */
export const formatPort = ({hostIP, hostPort, containerPort, protocol}: PortMapping): string =>
  `${hostIP === undefined ? '' : `${isIPv4(hostIP) ? hostIP : `[${hostIP}]`}:`}${hostPort}:${containerPort}/${protocol}`;

const isWildcard = (ip: string | undefined): boolean => ip === undefined || ip === '0.0.0.0' || ip === '::';

/** Whether both would receive the same packets. */
export const overlap = (a: PortMapping, b: PortMapping): boolean =>
  a.protocol === b.protocol && a.hostPort === b.hostPort && (a.hostIP === b.hostIP || isWildcard(a.hostIP) || isWildcard(b.hostIP));

const describe = ({hostIP, hostPort, protocol}: PortMapping): string =>
  `port ${hostIP === undefined ? '' : `${hostIP}:`}${hostPort}/${protocol}`;

export const taken = (port: PortMapping, by: string): ErrdefsError =>
  new ErrdefsError('already_exists', `${describe(port)} is taken by ${by}`, {
    hint: 'publish another port of the host, or none to have one chosen',
  });

/** Holds a port of the host for a moment. @returns the port; releases it */
async function bind({hostIP = '0.0.0.0', hostPort, protocol}: PortMapping): Promise<{readonly port: number; release(): Promise<void>}> {
  if (protocol === 'udp') {
    const {createSocket} = await import('node:dgram');
    const socket = createSocket(isIPv4(hostIP) ? 'udp4' : 'udp6');
    await new Promise<void>((done, fail) => {
      socket.once('error', fail);
      socket.bind({address: hostIP, port: hostPort, exclusive: true}, done);
    });
    return {port: socket.address().port, release: () => new Promise((done) => socket.close(() => done()))};
  }
  const {createServer} = await import('node:net');
  const server: Server = createServer();
  await new Promise<void>((done, fail) => {
    server.once('error', fail);
    server.listen({host: hostIP, port: hostPort, exclusive: true}, done);
  });
  return {port: (server.address() as {port: number}).port, release: () => new Promise((done) => server.close(() => done()))};
}

/**
 * Chooses ports of the host where the request leaves that open, and makes sure that no program of the host and no other container has them.
 * To be called under a lock, and with what others have recorded.
 *
 * @param others ports of other containers, each with the container's name
 * @throws already_exists a port is taken
 * @throws invalid_argument one port is asked for twice, or the host does not have the address
 * @throws permission_denied this process may not listen on such a port
 */
export async function choosePorts(
  requested: readonly RequestedPort[],
  others: readonly (PortMapping & {readonly container: string})[],
): Promise<readonly PortMapping[]> {
  const chosen: PortMapping[] = [];
  const held: (() => Promise<void>)[] = [];
  try {
    for (const request of requested) {
      const twice = chosen.find((port) => overlap(port, request));
      if (twice !== undefined) throw new ErrdefsError('invalid_argument', `${describe(request)} is published twice`);
      const other = others.find((port) => overlap(port, request));
      if (other !== undefined) throw taken(request, other.container);
      // A server that listens on SCTP alone is not noticed: neither engine opens such sockets.
      if (request.protocol === 'sctp' && request.hostPort !== 0) {
        chosen.push(request);
        continue;
      }
      for (;;) {
        const {port, release} = await bind(request).catch((err: NodeJS.ErrnoException) => {
          if (err.code === 'EADDRINUSE') throw taken(request, 'a program of the host');
          if (err.code === 'EACCES')
            throw new ErrdefsError('permission_denied', `${describe(request)} is for root of the machine`, {
              cause: err,
              hint: `publish another port; or as root: sysctl net.ipv4.ip_unprivileged_port_start=${request.hostPort}`,
            });
          const reason = err.code === 'EADDRNOTAVAIL' ? 'is of an address that this host does not have' : 'cannot be published';
          throw new ErrdefsError('invalid_argument', `${describe(request)} ${reason}`, {
            cause: err,
            ...(err.code === 'EADDRNOTAVAIL' ? {hint: 'its addresses: ip address'} : {}),
          });
        });
        held.push(release);
        const result = {...request, hostPort: port};
        // One that the system chose may be another container's: those have no socket on the host. It stays held, so another one comes next.
        if ([...others, ...chosen].some((one) => overlap(one, result))) continue;
        chosen.push(result);
        break;
      }
    }
    return chosen;
  } finally {
    for (const release of held) await release();
  }
}
