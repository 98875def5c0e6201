/** Texts of a container's /etc/hosts and /etc/resolv.conf. */
import {isIP} from 'node:net';
import {ErrdefsError} from '../../errdefs.ts';

export interface NameOptions {
  /** Addresses of name servers. */
  readonly dns?: readonly string[];
  readonly dnsSearch?: readonly string[];
  /** As in resolv.conf(5). */
  readonly dnsOptions?: readonly string[];
  /** `NAME:IP`; the address `host-gateway` is that of the host. */
  readonly addHosts?: readonly string[];
}

/** DNS of a result of CNI. */
export interface NetworkDns {
  readonly nameservers?: readonly string[];
  readonly domain?: string;
  readonly search?: readonly string[];
  readonly options?: readonly string[];
}

interface ExtraHost {
  readonly name: string;
  readonly address: string;
}

/** A word of such a file: nothing that ends it, or the line. */
const isWord = (text: string): boolean => /^[^\s#;\0]+$/.test(text) && !/\p{Cc}/u.test(text);

/** Of the kernel: HOST_NAME_MAX. */
const MAX_HOST_NAME_BYTES = 64;

/**
 * The kernel takes any bytes. What is no name in /etc/hosts is refused here, as programs inside would not understand it.
 *
 * @throws invalid_argument
 */
export function checkHostName(name: string): void {
  if (Buffer.byteLength(name) > MAX_HOST_NAME_BYTES)
    throw new ErrdefsError('invalid_argument', `hostname ${JSON.stringify(name)} is longer than ${MAX_HOST_NAME_BYTES} bytes`);
  if (!/^[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?$/.test(name))
    throw new ErrdefsError('invalid_argument', `hostname ${JSON.stringify(name)} is not one`, {
      hint: 'it has letters, digits and "-", "_" and "." between them',
    });
}

/** @throws invalid_argument an option would not be read as it is meant */
export function checkNames({dns = [], dnsSearch = [], dnsOptions = [], addHosts = []}: NameOptions): void {
  for (const server of dns)
    if (isIP(server) === 0) throw new ErrdefsError('invalid_argument', `name server ${JSON.stringify(server)} is not an IP address`);
  for (const word of [...dnsSearch, ...dnsOptions])
    if (!isWord(word)) throw new ErrdefsError('invalid_argument', `${JSON.stringify(word)} is no word of a resolv.conf`);
  for (const host of addHosts) parseHost(host);
}

function parseHost(text: string): ExtraHost {
  // An address of IPv6 has colons, a name has none.
  const [, name = '', address = ''] = /^([^:=]+)[:=](.+)$/.exec(text) ?? [];
  const bare = address.replace(/^\[(.*)\]$/, '$1');
  if (!isWord(name) || (bare !== 'host-gateway' && isIP(bare) === 0))
    throw new ErrdefsError('invalid_argument', `host ${JSON.stringify(text)} is not NAME:IP`);
  return {name, address: bare};
}

/**
 * @param names of the container, with its addresses
 * @param gateway address of the host, as the container sees it
 * @param base the host's own text, for a container that shares its network
 * @throws failed_precondition an entry needs `gateway`, and the network has none
 */
export function hostsText(
  {addHosts = []}: NameOptions,
  names: {readonly addresses: readonly string[]; readonly hostname?: string},
  gateway?: string,
  base = '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n',
): string {
  const extra = addHosts.map(parseHost).map(({name, address}) => {
    if (address !== 'host-gateway') return `${address}\t${name}`;
    if (gateway === undefined)
      throw new ErrdefsError('failed_precondition', `${name}:host-gateway: the network has no gateway`, {hint: 'give the address instead'});
    return `${gateway}\t${name}`;
  });
  const own = names.hostname === undefined ? [] : names.addresses.map((address) => `${address}\t${names.hostname}`);
  const lines = [...own, ...extra];
  return `${base}${base === '' || base.endsWith('\n') ? '' : '\n'}${lines.map((line) => `${line}\n`).join('')}`;
}

const isLoopback = (address: string): boolean => /^127\./.test(address) || address === '::1' || /^::ffff:127\./i.test(address);

interface ResolvConf {
  readonly servers: readonly string[];
  readonly search: readonly string[];
  readonly options: readonly string[];
}

function parseResolvConf(text: string): ResolvConf {
  const servers: string[] = [];
  let search: readonly string[] = [];
  const options: string[] = [];
  for (const line of text.split('\n')) {
    const [keyword, ...words] = line
      .replace(/[#;].*$/, '')
      .trim()
      .split(/\s+/);
    if (keyword === 'nameserver' && words[0] !== undefined) servers.push(words[0]);
    // The last one counts.
    else if (keyword === 'search' || keyword === 'domain') search = words;
    else if (keyword === 'options') options.push(...words);
  }
  return {servers, search, options};
}

/** Name servers of the host's files: all, and those that a network of its own can reach. @param host as of `resolvConfText` */
export function nameServers(host: readonly string[]): {readonly all: readonly string[]; readonly usable: readonly string[]} {
  const files = host.map(parseResolvConf);
  const usable = files.map(({servers}) => servers.filter((server) => !isLoopback(server))).find((servers) => servers.length > 0) ?? [];
  return {all: files[0]?.servers ?? [], usable};
}

/**
 * Each of name servers, search and options is the caller's, else the network's, else the host's. Name servers on the host's own loopback
 * are left out of the host's: the container has another loopback. None is invented.
 *
 * @param host texts of the host's files, the preferred one first
 * @param shared the container has the host's loopback
 */
export function resolvConfText(
  {dns = [], dnsSearch = [], dnsOptions = []}: NameOptions,
  network: NetworkDns,
  host: readonly string[],
  shared = false,
): string {
  const files = host.map(parseResolvConf);
  const usable = ({servers}: ResolvConf): readonly string[] => servers.filter((server) => shared || !isLoopback(server));
  const chosen = files.find((file) => usable(file).length > 0) ?? files[0];
  const first = (...lists: readonly (readonly string[] | undefined)[]): readonly string[] =>
    lists.find((list) => list !== undefined && list.length > 0) ?? [];
  const servers = first(dns, network.nameservers, chosen === undefined ? [] : usable(chosen));
  const search = first(dnsSearch, network.search, network.domain === undefined ? [] : [network.domain], chosen?.search);
  const options = first(dnsOptions, network.options, chosen?.options);
  return [
    ...servers.map((server) => `nameserver ${server}\n`),
    ...(search.length === 0 || search[0] === '.' ? [] : [`search ${search.join(' ')}\n`]),
    ...(options.length === 0 ? [] : [`options ${options.join(' ')}\n`]),
  ].join('');
}
