/** Options of a container's network: checked when it is made, and kept with it for every start. */
import {isIP} from 'node:net';
import {ErrdefsError} from '../../errdefs.ts';
import {checkNames, type NameOptions} from '../../runtime/network/network-files.ts';
import {parsePort} from '../../runtime/network/ports.ts';
import type {ContainerRecord, Labels} from '../../store/records.ts';
import {isRootless} from '../../user-namespace-identity.ts';
import type {CreateOptions, NetworkOptions} from '../types/index.ts';

/** Label of a container that keeps its `NetworkOptions` for every start. */
const NETWORK = 'berth/network';

/**
 * The options of a container's network, checked as far as that goes before the start.
 *
 * @returns `undefined` when it is left alone
 * @throws invalid_argument they are wrong, or do not go together
 */
export function networkOptions({
  network,
  ports = [],
  dns,
  dnsSearch,
  dnsOptions,
  addHosts,
  netHost = false,
}: CreateOptions): NetworkOptions | undefined {
  const names: NameOptions = {
    ...(dns === undefined ? {} : {dns}),
    ...(dnsSearch === undefined ? {} : {dnsSearch}),
    ...(dnsOptions === undefined ? {} : {dnsOptions}),
    ...(addHosts === undefined ? {} : {addHosts}),
  };
  checkNames(names);
  const loopback = ports
    .flatMap(parsePort)
    .find(({hostIP = ''}) => isIP(hostIP) === 6 && new URL(`http://[${hostIP}]`).hostname === '[::1]');
  // portmap would make its rules, and nobody would be answered: the kernel routes nothing from ::1 to another interface.
  if (loopback !== undefined && !isRootless())
    throw new ErrdefsError('invalid_argument', `port ${loopback.containerPort} cannot be published on [::1]`, {
      hint: "publish it on 127.0.0.1, or on another of the machine's addresses",
    });
  if (netHost && network !== undefined && network !== 'host')
    throw new ErrdefsError('invalid_argument', `the host's network and network ${JSON.stringify(network)} exclude each other`);
  const chosen = network ?? (netHost ? 'host' : ports.length > 0 ? 'default' : 'none');
  if (ports.length > 0 && (chosen === 'host' || chosen === 'none' || chosen.startsWith('container:')))
    throw new ErrdefsError('invalid_argument', `ports cannot be published with network ${JSON.stringify(chosen)}`, {
      hint: 'leave out --network, or name another network',
    });
  if ((chosen === 'none' || chosen === 'host') && Object.values(names).every((list) => list.length === 0)) return undefined;
  return {network: chosen, ...(ports.length === 0 ? {} : {ports}), ...names};
}

export const networkLabel = (options: NetworkOptions | undefined): Labels =>
  options === undefined ? {} : {[NETWORK]: JSON.stringify(options)};

/** @throws data_loss the label is not what berth wrote */
export function recordedNetwork({id, labels: {[NETWORK]: text}}: ContainerRecord): NetworkOptions | undefined {
  if (text === undefined) return undefined;
  try {
    const options = JSON.parse(text) as NetworkOptions;
    options.ports?.forEach(parsePort);
    checkNames(options);
    return options;
  } catch (err) {
    throw new ErrdefsError('data_loss', `label ${NETWORK} of container ${JSON.stringify(id)} cannot be read`, {cause: err});
  }
}
