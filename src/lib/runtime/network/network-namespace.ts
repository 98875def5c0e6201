/**
 * Network namespaces without a name: a process makes one, this process opens it, and the other ends. It lives as long as this descriptor or a
 * process in it, so a killed command leaves none.
 */
import {closeSync, openSync, writeFileSync} from 'node:fs';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import {requireProgram, run as runProgram} from '../../fs/spawn.ts';
import {spawnWithChannel} from '../../fs/spawn-with-channel.ts';
import type {IdMappings} from '../id-mappings.ts';
import type {IdMapping} from '../spec-option-types.ts';

export interface NetworkNamespace {
  /** For other processes, while this one lives. */
  readonly path: string;
  /** The user namespace that it belongs to, likewise, where that was made for it. */
  readonly userPath?: string;
  close(): void;
}

const READY = 'ready\n';

/** Opens the network namespace of a living process. */
export function openNetworkNamespace(pid: number): NetworkNamespace {
  return openNamespaces(pid, ['net']);
}

function openNamespaces(pid: number, types: readonly ['net', 'user'?]): NetworkNamespace {
  const fds = types.map((type) => openSync(`/proc/${pid}/ns/${type}`, 'r'));
  const [path, userPath] = fds.map((fd) => `/proc/${process.pid}/fd/${fd}`);
  return {
    path: path!,
    ...(userPath === undefined ? {} : {userPath}),
    close: () => {
      for (const fd of fds.splice(0)) closeSync(fd);
    },
  };
}

/**
 * Makes a namespace with its loopback up, which belongs to a new user namespace: a container in both is root over its network.
 *
 * @throws unavailable unshare, nsenter or ip is not installed
 * @throws unknown, failed_precondition it could not be made
 */
export async function createMappedNetworkNamespace({users, groups}: IdMappings): Promise<NetworkNamespace> {
  const unshare = requireProgram('unshare', 'util-linux');
  const ip = requireProgram('ip', 'iproute2');
  // The shell has no rights there: it was started before users were mapped.
  const holder = await spawnWithChannel([unshare, '-U', '-n', '/bin/sh', '-c', 'exec >&3 2>&3; echo ready; read -r end <&3'], {
    cwd: '/',
    stdio: ['ignore', 'ignore', 'ignore'],
  });
  try {
    const text = await holder.receive(READY);
    if (!text.endsWith(READY)) throw new ErrdefsError('unknown', `a user namespace could not be made: ${text.trim()}`);
    const write = (file: string, list: readonly IdMapping[]): void =>
      writeFileSync(`/proc/${holder.pid}/${file}`, list.map((one) => `${one.containerID} ${one.hostID} ${one.size}\n`).join(''));
    try {
      write('uid_map', users);
      write('gid_map', groups);
    } catch (err) {
      throw fromErrno(err, 'user namespace of the container');
    }
    const namespace = openNamespaces(holder.pid, ['net', 'user']);
    const up = await runProgram('nsenter', [`--net=${namespace.path}`, ip, 'link', 'set', 'lo', 'up'], {package: 'util-linux'});
    if (up.status === 0) return namespace;
    namespace.close();
    throw new ErrdefsError('unknown', `a network namespace could not be made: ${up.stderr.trim()}`);
  } finally {
    holder.write('end\n');
    await holder.ended;
  }
}

/**
 * Makes a namespace with its loopback up.
 *
 * @param script further commands for sh(1) in it
 * @throws unavailable unshare or ip is not installed
 * @throws unknown a command failed
 */
export async function createNetworkNamespace(script = ''): Promise<NetworkNamespace> {
  const unshare = requireProgram('unshare', 'util-linux');
  requireProgram('ip', 'iproute2');
  const commands = `exec >&3 2>&3; set -e; ip link set lo up; ${script} echo ready; read -r end <&3`;
  const holder = await spawnWithChannel([unshare, '-n', '/bin/sh', '-c', commands], {
    cwd: '/',
    stdio: ['ignore', 'ignore', 'ignore'],
  });
  try {
    const text = await holder.receive(READY);
    if (!text.endsWith(READY)) throw new ErrdefsError('unknown', `a network namespace could not be made: ${text.trim()}`);
    return openNetworkNamespace(holder.pid);
  } finally {
    holder.write('end\n');
    await holder.ended;
  }
}

/** Makes a namespace that holds an interface with these addresses (`IP/LENGTH`), and nothing that leads out of it. */
export const createStandIn = (interfaceName: string, addresses: readonly string[]): Promise<NetworkNamespace> =>
  createNetworkNamespace(
    [
      `ip link add ${interfaceName} type veth peer name standin0;`,
      ...addresses.map((address) => `ip addr add ${address} dev ${interfaceName}${address.includes(':') ? ' nodad' : ''};`),
    ].join(' '),
  );
