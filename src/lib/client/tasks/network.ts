/** Connects a task to a network, and gives it its files of names. */

import {readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError} from '../../errdefs.ts';
import {listIfPresent, readIfPresent} from '../../fs/durable.ts';
import type {Lock} from '../../fs/lock.ts';
import {type IdMappings, idMappings} from '../../runtime/id-mappings.ts';
import {attach, checkPlugins, PLUGIN_DIRECTORIES, recordPasta} from '../../runtime/network/attachment.ts';
import {loadNetworks, type NetworkConfig, publishesPorts} from '../../runtime/network/cni-config.ts';
import {chooseSubnet, DEFAULT_NETWORK, defaultNetwork} from '../../runtime/network/default-network.ts';
import {hostsText, type NetworkDns, nameServers, resolvConfText} from '../../runtime/network/network-files.ts';
import {type NetworkNamespace, openNetworkNamespace} from '../../runtime/network/network-namespace.ts';
import {
  checkPastaPorts,
  findPasta,
  openPastaLog,
  PASTA_GATEWAY,
  PASTA_NETWORK,
  PASTA_OWN_ADDRESS,
  type PastaLog,
  pastaHook,
  pastaNameServers,
} from '../../runtime/network/pasta.ts';
import {lockPorts, type NamedRun, type PublishedPort, portsBelow, publishedPorts} from '../../runtime/network/port-claims.ts';
import {choosePorts, type PortMapping, parsePort, type RequestedPort} from '../../runtime/network/ports.ts';
import {hintToRun} from '../../runtime/next-command.ts';
import {runPath} from '../../runtime/run-directory.ts';
import type {Hook, Spec} from '../../runtime/spec.ts';
import type {MountSpec} from '../../runtime/spec-option-types.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import {isRootless} from '../../user-namespace-identity.ts';
import type {Context} from '../context.ts';
import {runDirectory, sweepRuns} from '../running-containers.ts';
import type {NetworkOptions} from '../types/index.ts';
import {findTask} from './find-task.ts';

const CONFIG_DIRECTORY = '/etc/cni/net.d';
/** A host name has at most 64 characters. */
const HOST_NAME_LENGTH = 63;

/** The variables that the tools of CNI have for their directories. */
const configDirectory = (): string => process.env.NETCONFPATH || CONFIG_DIRECTORY;
const pluginDirectories = (): readonly string[] =>
  process.env.CNI_PATH?.split(':').filter((path) => path.startsWith('/')) ?? PLUGIN_DIRECTORIES;

function findNetwork({store}: Context, name: string): NetworkConfig {
  const directory = configDirectory();
  const known = loadNetworks(directory, (err) => store.housekeeping.warn('networks', err));
  const found = known.find((network) => network.name === name);
  if (found !== undefined) return found;
  const [first] = known;
  if (name === 'default' && first !== undefined) return first;
  if (['default', 'bridge', DEFAULT_NETWORK].includes(name)) return defaultNetwork(chooseSubnet(readFileSync('/proc/net/route', 'latin1')));
  if (name === PASTA_NETWORK)
    throw new ErrdefsError('failed_precondition', `network "${PASTA_NETWORK}" is that of users without root`, {
      hint: 'use --network default',
    });
  const names = [...new Set([...known.map((network) => network.name), DEFAULT_NETWORK, 'host', 'none', 'container:ID'])];
  throw new ErrdefsError('not_found', `network ${JSON.stringify(name)} is not in ${directory}`, {hint: `there are: ${names.join(', ')}`});
}

function runsOf(stateDir: string): readonly NamedRun[] {
  const runs = runtimeStatePath.runs(stateDir);
  return listIfPresent(runs).flatMap((namespace) =>
    listIfPresent(join(runs, namespace, 'bundles'))
      .filter((id) => !id.startsWith('.'))
      .map((id) => ({run: runPath(join(runs, namespace), id), container: `container ${JSON.stringify(id)} of namespace ${namespace}`})),
  );
}

export interface Connection {
  readonly spec: Spec;
  /** What a failed start failed of, if that was the network. */
  explain(err: unknown): ErrdefsError | undefined;
  /** To be called once the container runs, or will not. */
  close(): void;
}

interface Place {
  readonly namespace?: NetworkNamespace;
  /** Connects the container when it has a network namespace. */
  readonly pasta?: {readonly hook: Hook; readonly log: PastaLog};
  readonly addresses: readonly string[];
  readonly gateway?: string;
  readonly dns: NetworkDns;
}

/** Names of the one network that a user without root has: ours, and docker's for it. */
const WITHOUT_ROOT: readonly string[] = ['default', 'bridge', PASTA_NETWORK];

/** Publishes ports under a lock. @param write records them */
async function withPorts<T>(
  context: Context,
  requested: readonly RequestedPort[],
  others: () => readonly PublishedPort[],
  lock: () => Promise<Lock>,
  write: (ports: readonly PortMapping[]) => T,
): Promise<T> {
  if (requested.length === 0) return write([]);
  // A container that has ended may still have ports, and what has the notes of them; it loses both here.
  if (others().some((port) => requested.some(({hostPort}) => hostPort === port.hostPort))) await sweepRuns(context);
  using _lock = await lock();
  return write(await choosePorts(requested, others()));
}

async function connectByPasta(context: Context, name: string, run: string, ports: readonly string[]): Promise<Place> {
  if (!WITHOUT_ROOT.includes(name))
    throw new ErrdefsError('failed_precondition', `network ${JSON.stringify(name)} needs root of the machine`, {
      hint: `without root there are: ${PASTA_NETWORK}, host, none, container:ID`,
    });
  const program = findPasta();
  const requested = ports.flatMap(parsePort);
  checkPastaPorts(requested);
  const {stateDir} = context;
  const {id, chosen} = await withPorts(
    context,
    requested,
    () => portsBelow(stateDir, runsOf, run),
    () => lockPorts(stateDir),
    (chosen) => ({id: recordPasta(run, chosen), chosen}),
  );
  const hook = pastaHook(run, id, program, chosen);
  const {all, usable} = nameServers(hostResolvConf());
  return {
    pasta: {hook, log: openPastaLog(run, id)},
    addresses: [PASTA_OWN_ADDRESS],
    gateway: PASTA_GATEWAY,
    dns: {nameservers: pastaNameServers(all, usable)},
  };
}

async function attachTo(
  context: Context,
  name: string,
  run: string,
  ports: readonly string[],
  mappings: IdMappings | undefined,
): Promise<Place> {
  const config = findNetwork(context, name);
  const directories = pluginDirectories();
  checkPlugins(config, directories);
  if (ports.length > 0 && !publishesPorts(config))
    throw new ErrdefsError('failed_precondition', `network ${JSON.stringify(config.name)} publishes no ports`, {
      hint: 'add the plugin portmap with the capability portMappings to its configuration',
    });
  const others = () => publishedPorts(context.stateDir, runsOf, run);
  const attached = await attach(
    run,
    (write) =>
      withPorts(context, ports.flatMap(parsePort), others, lockPorts, (chosen) =>
        write({config, pluginDirectories: directories, ports: chosen}),
      ),
    mappings,
  );
  const {addresses, gateway, dns} = attached.attachment;
  return {
    namespace: attached.namespace,
    addresses: addresses.map((address) => address.split('/')[0]!),
    ...(gateway === undefined ? {} : {gateway}),
    dns,
  };
}

/** Opens the network of a running container. The second look tells whether the pid was still its own when it was opened. */
async function joinContainer(context: Context, namespace: string, id: string): Promise<{place: Place; run: string}> {
  const running = async (): Promise<number> => {
    const {task} = await findTask(context, namespace, id);
    if (task.status !== 'running' && task.status !== 'paused')
      throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)}, whose network is to be shared, is ${task.status}`, {
        hint: hintToRun(namespace, id, task.status),
      });
    return task.pid;
  };
  const pid = await running();
  const opened = openNetworkNamespace(pid);
  try {
    if ((await running()) !== pid) throw new ErrdefsError('aborted', `container ${JSON.stringify(id)} was started anew`);
    return {place: {namespace: opened, addresses: [], dns: {}}, run: runPath(runDirectory(context, namespace), id)};
  } catch (err) {
    opened.close();
    throw err;
  }
}

/** Files of the host with its name servers: systemd's own first says which servers are behind its stub. */
const hostResolvConf = (): string[] =>
  ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf'].map((file) => readIfPresent(file)).filter((text) => text !== undefined);

/** The runtime joins the network, and the user namespace that it belongs to, which has its mappings already. */
function joinedTo(opened: NetworkNamespace | undefined, linux: Spec['linux']): Spec['linux'] {
  if (opened === undefined) return linux;
  const {path, userPath} = opened;
  const {uidMappings: _, gidMappings: __, ...others} = linux;
  const namespaces = linux.namespaces.map((one) => {
    if (one.type === 'network') return {...one, path};
    return one.type === 'user' && userPath !== undefined ? {...one, path: userPath} : one;
  });
  return {...(userPath === undefined ? linux : others), namespaces};
}

/**
 * Connects the container of a run whose tree is mounted. What it adds is recorded in the run's directory, and removed with that.
 *
 * @throws not_found there is no such network or container
 * @throws unavailable the plugins, or another program, are not installed
 * @throws already_exists a port is taken
 */
export async function connect(context: Context, namespace: string, id: string, options: NetworkOptions, spec: Spec): Promise<Connection> {
  const {network = 'none', ports = []} = options;
  const mappings = idMappings(spec.linux);
  const run = runPath(runDirectory(context, namespace), id);
  const joined = network.startsWith('container:') ? await joinContainer(context, namespace, network.slice('container:'.length)) : undefined;
  if (network !== 'none' && network !== 'host' && !spec.linux.namespaces.some((one) => one.type === 'network' && !('path' in one)))
    throw new ErrdefsError('invalid_argument', 'the container has no network namespace of its own to connect', {
      hint: 'leave out --network, --cni and --publish, or --net-host and --with-ns',
    });
  const connectTo = isRootless() ? connectByPasta : attachTo;
  const place: Place =
    joined?.place ??
    (network === 'none' || network === 'host' ? {addresses: [], dns: {}} : await connectTo(context, network, run, ports, mappings));
  const {namespace: opened, pasta} = place;
  const connected = opened !== undefined || pasta !== undefined;
  const close = (): void => {
    opened?.close();
    pasta?.log.close();
  };
  try {
    const hostname = spec.hostname ?? (!connected || joined !== undefined ? undefined : id.slice(0, HOST_NAME_LENGTH));
    const files: Record<string, string> = {};
    const shared = network === 'host';
    const named = (name: string): string | undefined => (joined === undefined ? undefined : readIfPresent(join(joined.run, name)));
    const wants = (lists: readonly (readonly string[] | undefined)[]): boolean =>
      lists.some((list) => list !== undefined && list.length > 0);
    if (connected || wants([options.dns, options.dnsSearch, options.dnsOptions]))
      files['resolv.conf'] = named('resolv.conf') ?? resolvConfText(options, place.dns, hostResolvConf(), shared);
    if (connected || wants([options.addHosts]))
      files.hosts = hostsText(
        options,
        {addresses: place.addresses, ...(hostname === undefined ? {} : {hostname})},
        shared ? '127.0.0.1' : place.gateway,
        named('hosts') ?? (shared ? readIfPresent('/etc/hosts') : undefined),
      );
    if (connected && hostname !== undefined) files.hostname = `${hostname}\n`;
    const given = new Set(spec.mounts.filter(({source}) => !source.startsWith('/etc/')).map(({destination}) => destination));
    const mounts = Object.entries(files)
      .filter(([name]) => !given.has(`/etc/${name}`))
      .map(([name, text]): MountSpec => {
        // Beside the bundle: what the container gets hold of is not read again, and links in its tree lead nowhere else.
        const source = join(run, name);
        writeFileSync(source, text, {mode: 0o644});
        return {destination: `/etc/${name}`, type: 'bind', source, options: ['rbind', 'ro', 'nosuid', 'nodev', 'noexec']};
      });
    const own = new Set(mounts.map(({destination}) => destination));
    return {
      spec: {
        ...spec,
        ...(hostname === undefined ? {} : {hostname}),
        ...(pasta === undefined ? {} : {hooks: {...spec.hooks, createRuntime: [pasta.hook, ...(spec.hooks?.createRuntime ?? [])]}}),
        mounts: [...spec.mounts.filter(({destination}) => !own.has(destination)), ...mounts],
        linux: joinedTo(opened, spec.linux),
      },
      explain: (err) => {
        const said = pasta?.log.read();
        if (said === undefined) return undefined;
        return new ErrdefsError('failed_precondition', `network "${PASTA_NETWORK}": ${said}`, {cause: err});
      },
      close,
    };
  } catch (err) {
    close();
    throw err;
  }
}
