/**
 * Attaches a container to a network by CNI's plugins, and detaches it.
 *
 * In a run's directory (run-directory.ts) lie, for each attachment:
 *
 *     network.<id>.json        what DEL needs; written before the first ADD, removed after the last DEL
 *     network.<id>.<n>.in      what plugin n reads
 *     network.<id>.<n>.ADD     what it answered: its result outlives a command that is killed meanwhile; likewise .DEL
 *     network.<id>.<n>.DEL.done  it has deleted
 *
 * `<id>` is the plugins' name for the container, and is never used again. A plugin that runs holds a lock on the run's directory, by
 * flock(1), so whoever detaches waits for a plugin whose command was killed; and a plugin that had not begun by then finds that the namespace
 * has gone with that command, and does nothing.
 *
 * Protocol: containernetworking/cni, SPEC.md 1.0.0.
 */
import {randomBytes} from 'node:crypto';
import {readdirSync, writeFileSync} from 'node:fs';
import {isIP} from 'node:net';
import {join} from 'node:path';
import {type Code, ErrdefsError, wrap} from '../../errdefs.ts';
import {readIfPresent, unlinkIfPresent} from '../../fs/durable.ts';
import {findProgram, run as runProgram} from '../../fs/spawn.ts';
import type {IdMappings} from '../id-mappings.ts';
import type {NetworkConfig, PluginConfig} from './cni-config.ts';
import type {NetworkDns} from './network-files.ts';
import {createMappedNetworkNamespace, createNetworkNamespace, createStandIn, type NetworkNamespace} from './network-namespace.ts';
import {addressesOf, endPasta, hasPastaEnded, PASTA_NETWORK} from './pasta.ts';
import {formatPort, type PortMapping} from './ports.ts';

/** Name of the interface in the container. */
const INTERFACE = 'eth0';
/** How long a plugin may take, in milliseconds. */
const PLUGIN_TIMEOUT_MS = 60_000;
/** Where distributions install the plugins. */
export const PLUGIN_DIRECTORIES: readonly string[] = ['/opt/cni/bin', '/usr/lib/cni', '/usr/libexec/cni'];

export interface AttachmentRequest {
  readonly config: NetworkConfig;
  readonly pluginDirectories: readonly string[];
  readonly ports: readonly PortMapping[];
}

interface AttachmentRecord extends AttachmentRequest {
  /** Not CNI's: see pasta.ts. */
  readonly pasta?: true;
  readonly version: 1;
  /** The plugins' name for the container. */
  readonly id: string;
}

/** The part of a plugin's result that is used here. */
interface CniResult {
  readonly ips?: readonly {readonly address: string; readonly gateway?: string}[];
  readonly dns?: NetworkDns;
}

/** A container's place in a network. */
export interface Attachment {
  readonly network: string;
  /** With the length of their prefix: `10.90.0.2/16`. */
  readonly addresses: readonly string[];
  readonly gateway?: string;
  readonly dns: NetworkDns;
  readonly ports: readonly PortMapping[];
}

const RECORD = /^network\.([0-9a-f]+)\.json$/;
const recordFile = (run: string, id: string): string => join(run, `network.${id}.json`);
const pluginFile = (run: string, id: string, index: number, kind: 'ADD' | 'DEL' | 'in'): string =>
  join(run, `network.${id}.${index}.${kind}`);

function parse<T>(text: string | undefined): T | undefined {
  try {
    return text === undefined || text === '' ? undefined : (JSON.parse(text) as T);
  } catch {
    return undefined; // a command was killed while it wrote it
  }
}

/** Attachments of a run that were begun and not removed. One whose record is not whole was not begun. */
function recorded(run: string): readonly AttachmentRecord[] {
  let names: readonly string[];
  try {
    names = readdirSync(run);
  } catch (err) {
    if (['ENOENT', 'ENOTDIR'].includes((err as NodeJS.ErrnoException).code ?? '')) return [];
    throw err;
  }
  return names.filter((name) => RECORD.test(name)).flatMap((name) => parse<AttachmentRecord>(readIfPresent(join(run, name))) ?? []);
}

/** Ports that a run publishes, or is about to. */
export const portsOf = (run: string): readonly PortMapping[] => recorded(run).flatMap(({ports}) => ports);

/** Result of the last plugin that was done. */
function lastResult(run: string, {id, config}: AttachmentRecord): CniResult | undefined {
  for (let index = config.plugins.length - 1; index >= 0; index--) {
    const result = parse<CniResult & {readonly code?: number}>(readIfPresent(pluginFile(run, id, index, 'ADD')));
    // An error has a code.
    if (result !== undefined && result.code === undefined) return result;
  }
  return undefined;
}

const describe = (record: AttachmentRecord, result: CniResult | undefined): Attachment => {
  const {ips = [], dns = {}} = result ?? {};
  const gateway = ips.find((ip) => ip.gateway !== undefined)?.gateway;
  return {
    network: record.config.name,
    addresses: ips.map(({address}) => address),
    ...(gateway === undefined ? {} : {gateway}),
    dns,
    ports: record.ports,
  };
};

/** The network that a run is attached to; ports as `parsePort` reads them. @param pid of the container's first process; 0 if it has ended */
export function readAttachment(
  run: string,
  pid: number,
): {readonly name: string; readonly addresses: readonly string[]; readonly ports: readonly string[]; readonly down?: true} | undefined {
  const record = recorded(run)[0];
  if (record === undefined) return undefined;
  const {network, addresses, ports} = describe(record, lastResult(run, record));
  const own = record.pasta === true && pid !== 0 ? addressesOf(pid) : addresses;
  const down = pid !== 0 && isDown(run, record);
  return {name: network, addresses: own, ports: ports.map(formatPort), ...(down ? {down} : {})};
}

const isDown = (run: string, {id, pasta}: AttachmentRecord): boolean => pasta === true && hasPastaEnded(run, id);

/** Whether a run had a network whose process has ended; that of CNI has none. */
export const hasLostNetwork = (run: string): boolean => recorded(run).some((record) => isDown(run, record));

/** Classes of the errors that the specification has numbers for; those of the plugins' own have none. */
const CLASSES: Readonly<Record<number, Code>> = {
  1: 'not_implemented', // version
  2: 'not_implemented', // field of the configuration
  3: 'not_found', // container
  4: 'invalid_argument', // environment
  5: 'unavailable', // I/O
  6: 'invalid_argument', // content cannot be decoded
  7: 'invalid_argument', // configuration
  11: 'unavailable', // try again later
};

function findPlugin(type: string, directories: readonly string[]): string {
  const found = directories.map((directory) => findProgram(join(directory, type))).find((path) => path !== undefined);
  if (found !== undefined) return found;
  throw new ErrdefsError('unavailable', `the CNI plugin ${JSON.stringify(type)} is not in ${directories.join(', ')}`, {
    hint: 'install the Debian package containernetworking-plugins',
    details: {program: type, package: 'containernetworking-plugins'},
  });
}

// ADD is for a namespace that must still exist when the lock is got. A DEL that was done is not done again: some plugins fail the second time.
// The shell notes that also when the command that started it was killed; but a namespace that went with the command may have been missed.
const SCRIPT = `
if [ "$CNI_COMMAND" = DEL ]
then [ ! -e "$3.done" ] || exit 0
else [ -e "$CNI_NETNS" ] || exit 3
fi
"$1" <"$2" >"$3" || exit
[ -n "$CNI_NETNS" ] && [ ! -e "$CNI_NETNS" ] || : >"$3.done"`;

async function callPlugin(
  run: string,
  record: AttachmentRecord,
  index: number,
  command: 'ADD' | 'DEL',
  namespace: string,
  prevResult: CniResult | undefined,
): Promise<CniResult | undefined> {
  const {id, config, pluginDirectories, ports} = record;
  const plugin = config.plugins[index] as PluginConfig;
  const program = findPlugin(plugin.type, pluginDirectories);
  const input = pluginFile(run, id, index, 'in');
  const output = pluginFile(run, id, index, command);
  const runtimeConfig = plugin.capabilities?.portMappings === true && ports.length > 0 ? {portMappings: ports} : undefined;
  const text = JSON.stringify({
    ...plugin,
    name: config.name,
    cniVersion: config.cniVersion,
    ...(runtimeConfig === undefined ? {} : {runtimeConfig}),
    ...(prevResult === undefined ? {} : {prevResult}),
  });
  writeFileSync(input, text, {mode: 0o600});
  const words = ['-F', '-w', String(PLUGIN_TIMEOUT_MS / 1000), '-E', '4', run, '/bin/sh', '-c', SCRIPT, 'sh', program, input, output];
  const env = {
    CNI_COMMAND: command,
    CNI_CONTAINERID: id,
    CNI_NETNS: namespace,
    CNI_IFNAME: INTERFACE,
    CNI_PATH: pluginDirectories.join(':'),
  };
  // In a session of its own: a terminal's Ctrl-C would end it half-way.
  const {status, stderr} = await runProgram('flock', words, {
    package: 'util-linux',
    env,
    ownSession: true,
    timeoutMs: 2 * PLUGIN_TIMEOUT_MS,
  });
  const answer = parse<CniResult & {readonly code?: number; readonly msg?: string; readonly details?: string}>(readIfPresent(output));
  if (status === 0) return answer;
  const words_ = [answer?.msg, answer?.details].filter((word) => word !== undefined && word !== '').join(': ');
  const reason = words_ !== '' ? words_ : stderr.trim() || `status ${status}`;
  const {code} = answer ?? {};
  throw new ErrdefsError(
    CLASSES[code ?? 0] ?? 'unknown',
    `CNI plugin ${plugin.type}, ${command}${code === undefined ? '' : `, code ${code}`}: ${reason}`,
  );
}

/** Checks what would fail later. @throws unavailable a plugin, or iptables for one that needs it, is not installed */
export function checkPlugins({plugins}: NetworkConfig, directories: readonly string[]): void {
  for (const {type, ipam} of plugins) {
    findPlugin(type, directories);
    const {type: addresses} = (ipam ?? {}) as {readonly type?: unknown};
    if (typeof addresses === 'string' && addresses !== '') findPlugin(addresses, directories);
  }
}

/**
 * Makes a network namespace and attaches it. A failure detaches what was attached.
 *
 * @param run the run's directory
 * @param record called, once it is recorded, with nothing added yet
 * @param mappings of the container's ids: it gets a user namespace, too
 * @returns the namespace, open: to be closed once the container runs in it
 */
export async function attach(
  run: string,
  prepare: (write: (request: AttachmentRequest) => void) => Promise<void>,
  mappings?: IdMappings,
): Promise<{readonly namespace: NetworkNamespace; readonly attachment: Attachment}> {
  const id = randomBytes(16).toString('hex');
  let record: AttachmentRecord | undefined;
  await prepare((request) => {
    record = {version: 1, id, ...request};
    writeFileSync(recordFile(run, id), JSON.stringify(record), {mode: 0o600});
  });
  if (record === undefined) throw new ErrdefsError('internal', 'no network was chosen');
  let namespace: NetworkNamespace | undefined;
  try {
    namespace = await (mappings === undefined ? createNetworkNamespace() : createMappedNetworkNamespace(mappings));
    let result: CniResult | undefined;
    for (let index = 0; index < record.config.plugins.length; index++)
      result = (await callPlugin(run, record, index, 'ADD', namespace.path, result)) ?? result;
    return {namespace, attachment: describe(record, result)};
  } catch (err) {
    await detachRecord(run, record, namespace?.path).catch(() => undefined); // the record remains, and with it what to remove
    namespace?.close();
    throw wrap(`network ${JSON.stringify(record.config.name)}`, err as Error);
  }
}

/** Notes that pasta is about to connect a run. @returns its id */
export function recordPasta(run: string, ports: readonly PortMapping[]): string {
  const id = randomBytes(16).toString('hex');
  const config = {name: PASTA_NETWORK, cniVersion: '1.0.0', plugins: []};
  const record: AttachmentRecord = {version: 1, id, pasta: true, config, pluginDirectories: [], ports};
  writeFileSync(recordFile(run, id), JSON.stringify(record), {mode: 0o600});
  return id;
}

/**
 * These look up the container's addresses in its namespace and, without it, leave their rules for masquerading behind. The real namespace
 * ends with the container, so they get another one with the same interface and addresses.
 */
const NEEDS_NAMESPACE: ReadonlySet<string> = new Set(['bridge', 'ptp']);

const isPrefix = (text: string): boolean => {
  const [ip = '', length = '', ...more] = text.split('/');
  return isIP(ip) !== 0 && /^\d{1,3}$/.test(length) && more.length === 0;
};

async function detachRecord(run: string, record: AttachmentRecord, living?: string): Promise<void> {
  const {id, config} = record;
  if (record.pasta === true) {
    await endPasta(run, id);
    unlinkIfPresent(recordFile(run, id));
    return;
  }
  const result = lastResult(run, record);
  const addresses = describe(record, result).addresses.filter(isPrefix);
  const needed = living === undefined && addresses.length > 0 && config.plugins.some(({type}) => NEEDS_NAMESPACE.has(type));
  const standIn = needed ? await createStandIn(INTERFACE, addresses) : undefined;
  let failure: unknown;
  try {
    for (let index = config.plugins.length - 1; index >= 0; index--) {
      // It was never called.
      if (readIfPresent(pluginFile(run, id, index, 'in')) === undefined) continue;
      const path = living ?? (NEEDS_NAMESPACE.has(config.plugins[index]!.type) ? standIn?.path : undefined) ?? '';
      try {
        await callPlugin(run, record, index, 'DEL', path, result).catch(async (err: unknown) => {
          // The rules may be gone, of a plugin that was killed itself: the address is released without a namespace, too.
          if (path === '') throw err;
          await callPlugin(run, record, index, 'DEL', '', result);
        });
      } catch (err) {
        failure ??= err;
      }
    }
  } finally {
    standIn?.close();
  }
  if (failure !== undefined) {
    // Another process may have done the same, and removed the run's directory.
    if (readIfPresent(recordFile(run, id)) === undefined) return;
    throw failure;
  }
  unlinkIfPresent(recordFile(run, id));
}

/**
 * Detaches a run whose container has ended; succeeds if there is nothing to detach. It may be called at any time after that, by anybody,
 * and again after a failure.
 *
 * @throws errors of the plugins; what they could not remove stays recorded
 */
export async function detach(run: string): Promise<void> {
  for (const record of recorded(run)) {
    try {
      // A plugin may still be about to answer; its answer is needed. It holds the lock until it has ended.
      if (record.pasta !== true)
        await runProgram('flock', ['-w', String(PLUGIN_TIMEOUT_MS / 1000), run, '/bin/true'], {package: 'util-linux'});
      await detachRecord(run, record);
    } catch (err) {
      throw wrap(`network ${JSON.stringify(record.config.name)} of ${JSON.stringify(run)}`, err as Error);
    }
  }
}
