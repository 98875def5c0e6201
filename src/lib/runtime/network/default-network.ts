/** The network of containers where no configuration of CNI is installed: a bridge with its own subnet, NAT and published ports. */
import {ErrdefsError} from '../../errdefs.ts';
import type {NetworkConfig} from './cni-config.ts';

export const DEFAULT_NETWORK = 'berth';
export const DEFAULT_BRIDGE = 'berth0';
/** Of all state directories alike, because they share the bridge and the host's ports; it ends with the boot, as the bridge does. */
export const MACHINE_DIRECTORY = '/run/berth-networks';
/** Second bytes of 10.x.0.0/16. */
const FIRST = 90;
const LAST = 254;

interface Route {
  readonly device: string;
  readonly destination: number;
  readonly mask: number;
}

/** Routes of the table that the kernel shows in /proc/net/route; numbers there are little-endian. */
export function parseRoutes(table: string): readonly Route[] {
  const number = (hex = ''): number => Buffer.from(hex, 'hex').readUInt32LE();
  return table
    .split('\n')
    .slice(1)
    .map((line) => line.split('\t'))
    .filter((fields) => fields.length > 7)
    .map((fields) => ({device: fields[0]!, destination: number(fields[1]), mask: number(fields[7])}));
}

/**
 * The second byte of the subnet 10.x.0.0/16: that of the bridge, if there is one, else the first that no route touches.
 *
 * @param table content of /proc/net/route
 * @throws resource_exhausted all are routed
 */
export function chooseSubnet(table: string): number {
  const routes = parseRoutes(table);
  const own = routes.find(({device, destination, mask}) => device === DEFAULT_BRIDGE && destination >>> 24 === 10 && mask === 0xffff0000);
  if (own !== undefined) return (own.destination >>> 16) & 0xff;
  const specific = routes.filter(({mask, device}) => mask !== 0 && device !== DEFAULT_BRIDGE);
  for (let second = FIRST; second <= LAST; second++) {
    const subnet = ((10 << 24) | (second << 16)) >>> 0;
    // Two subnets overlap if they agree in the bits that both fix.
    if (specific.every(({destination, mask}) => ((subnet ^ destination) & mask & 0xffff0000) !== 0)) return second;
  }
  throw new ErrdefsError('resource_exhausted', `every subnet from 10.${FIRST}.0.0/16 on has a route already`, {
    hint: 'configure a network in /etc/cni/net.d',
  });
}

export const defaultNetwork = (second: number): NetworkConfig => ({
  name: DEFAULT_NETWORK,
  cniVersion: '1.0.0',
  plugins: [
    {
      type: 'bridge',
      bridge: DEFAULT_BRIDGE,
      isGateway: true,
      ipMasq: true,
      hairpinMode: true,
      ipam: {
        type: 'host-local',
        dataDir: MACHINE_DIRECTORY,
        ranges: [[{subnet: `10.${second}.0.0/16`, gateway: `10.${second}.0.1`}]],
        routes: [{dst: '0.0.0.0/0'}],
      },
    },
    {type: 'portmap', capabilities: {portMappings: true}},
    // Containers are reachable where the host forwards nothing by default.
    {type: 'firewall'},
  ],
});
