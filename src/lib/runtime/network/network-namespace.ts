/**
 * Network namespaces without a name: a process makes one, this process opens it, and the other ends. It lives as long as this descriptor or a
 * process in it, so a killed command leaves none.
 */
import {closeSync, openSync} from 'node:fs';
import {ErrdefsError} from '../../errdefs.ts';
import {requireProgram} from '../../fs/spawn.ts';
import {spawnWithChannel} from '../../fs/spawn-with-channel.ts';

export interface NetworkNamespace {
  /** For other processes, while this one lives. */
  readonly path: string;
  close(): void;
}

const READY = 'ready\n';

/** Opens the network namespace of a living process. */
export function openNetworkNamespace(pid: number): NetworkNamespace {
  const fd = openSync(`/proc/${pid}/ns/net`, 'r');
  let open = true;
  return {
    path: `/proc/${process.pid}/fd/${fd}`,
    close: () => {
      if (open) closeSync(fd);
      open = false;
    },
  };
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
