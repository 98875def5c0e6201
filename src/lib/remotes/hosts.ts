/** Lists the hosts of a registry: the mirrors of its `hosts.toml`, then the registry itself. */
import {ErrdefsError} from '../errdefs.ts';
import {isLoopback} from './address-filter.ts';
import {DEFAULT_HOST_CONFIG, type HostConfig} from './host-config-types.ts';
import {connectionOf, hasTLS, readRegistryConfig} from './hosts-dir.ts';
import {speaksTLS} from './tls-probe.ts';
import type {Connection, Host, HostSource, RemoteOptions} from './types.ts';

/** Docker Hub's name is not its address. */
const ADDRESSES: Readonly<Record<string, string>> = {'docker.io': 'registry-1.docker.io'};

/** A loopback port that has not answered a probe by then counts as TLS. */
const PROBE_TIMEOUT_MS = 10_000;

export interface HostsOptions {
  readonly plainHTTP: boolean;
  readonly connectTimeoutMs: number;
  readonly hostsDirs?: readonly string[] | undefined;
  /** For hosts whose configuration has none. */
  readonly tls?: RemoteOptions['tls'];
  /** Whether the environment has a proxy for a URL, which then cannot be probed. */
  readonly hasProxy?: ((url: URL) => boolean) | undefined;
  readonly onDebug?: ((line: string) => void) | undefined;
  /** Replaces the question whether a port speaks TLS. */
  readonly probe?: ((host: string) => Promise<'https' | 'http'>) | undefined;
}

/**
 * Without configuration a registry speaks HTTPS.
 *
 * A registry on loopback may speak plain HTTP, as in containerd: never on port 443 or without a port, always on port 80, on
 * other ports if they do not speak TLS. containerd learns that from a failed HTTPS request, which costs 3 to 13 ms for TLS and
 * its certificates. `tls-probe.ts` learns it from one ClientHello in under a millisecond. Trying plain HTTP first would be as
 * fast, but would send the request unprotected where the port tunnels to a TLS registry elsewhere. Each host is probed once.
 *
 * Other hosts speak plain HTTP only with `plainHTTP` or a configured `http:` address: a failure of HTTPS is never a reason
 * (CVE-2019-10214). A configured `http:` address that also has TLS settings speaks the protocol of its port, except on port 80,
 * as in containerd.
 *
 * Rules after containerd, core/remotes/docker/config/hosts.go and registry.go (MatchLocalhost).
 */
export function registryHosts(options: HostsOptions): HostSource {
  const {plainHTTP, connectTimeoutMs, hostsDirs = [], tls = {}, hasProxy = () => false, onDebug} = options;
  const known = new Map<string, Promise<readonly [Host, ...Host[]]>>();

  const probe =
    options.probe ??
    (async (host: string): Promise<'https' | 'http'> => {
      const url = new URL(`http://${host}`);
      if (hasProxy(url)) return 'https';
      const {hostname, port} = url;
      const timeoutMs = connectTimeoutMs === 0 ? PROBE_TIMEOUT_MS : Math.min(PROBE_TIMEOUT_MS, connectTimeoutMs);
      return (await speaksTLS(hostname.replace(/^\[(.*)\]$/, '$1'), Number(port), timeoutMs)) ? 'https' : 'http';
    });

  const schemeOf = async (domain: string): Promise<'https' | 'http'> => {
    const {hostname} = new URL(`https://${domain}`);
    const port = /:(\d+)$/.exec(domain)?.[1];
    if (plainHTTP) return 'http';
    if (!isLoopback(hostname) || port === undefined || port === '443') return 'https';
    return port === '80' ? 'http' : probe(domain);
  };

  const configured = async (domain: string, config: HostConfig, source: string, isMirror: boolean): Promise<Host> => {
    const {address, capabilities, headers} = config;
    const isAmbiguous = address?.scheme === 'http' && hasTLS(config) && /:\d+$/.test(address.host);
    const asked = address === undefined ? schemeOf(domain) : isAmbiguous ? probe(address.host) : address.scheme;
    // A failed probe is not reported here: the request itself will fail.
    const scheme = await Promise.resolve(asked).catch(() => 'https');
    const {origin, host} = new URL(`${scheme}://${addressOf(address?.host ?? domain)}`);
    const ns = host === new URL(`${scheme}://${addressOf(domain)}`).host ? undefined : domain;
    return {
      domain: isMirror && ns !== undefined ? host : domain,
      origin,
      path: address?.path ?? '/v2',
      capabilities,
      ns,
      headers,
      connection: connect(config, source),
    };
  };

  let flagged: Connection | undefined;
  /** The settings of a host, completed by the user's. One object for all hosts without any, so that they share connections. */
  const connect = (config: HostConfig | undefined, source = ''): Connection | undefined => {
    const own = config && connectionOf(config, source);
    flagged ??= connectionOf(tlsConfig(tls), '--tlscacert, --tlscert, --tlskey');
    if (flagged === undefined || own === undefined) return own ?? flagged;
    return {...own, ca: [...own.ca, ...flagged.ca], client: own.client.length > 0 ? own.client : flagged.client};
  };

  const find = async (domain: string): Promise<readonly [Host, ...Host[]]> => {
    const found = await readRegistryConfig(hostsDirs, domain);
    if (found === undefined) {
      const connection = connect(undefined);
      const {origin} = new URL(`${await schemeOf(domain)}://${addressOf(domain)}`);
      return [{domain, origin, path: '/v2', ...(connection === undefined ? {} : {connection})}];
    }
    const {source, hosts} = found;
    const list = await Promise.all(hosts.map((config, i) => configured(domain, config, source, i < hosts.length - 1)));
    onDebug?.(`${domain}: ${source}: ${list.map(shown).join(', ')}`);
    return list as [Host, ...Host[]];
  };

  return (domain) => {
    let hosts = known.get(domain);
    if (hosts === undefined) {
      hosts = find(domain);
      known.set(domain, hosts);
      // A registry may come up later.
      hosts.catch(() => known.delete(domain));
    }
    return hosts;
  };
}

/** @throws invalid_argument a certificate without its key, or the other way round */
function tlsConfig({ca, cert, key}: NonNullable<RemoteOptions['tls']>): HostConfig {
  if ((cert === undefined) !== (key === undefined))
    throw new ErrdefsError('invalid_argument', 'a client certificate needs its key, and a key its certificate', {
      hint: 'give both --tlscert and --tlskey',
    });
  return {
    ...DEFAULT_HOST_CONFIG,
    ca: ca === undefined ? [] : [ca],
    client: cert === undefined || key === undefined ? [] : [{cert, key}],
  };
}

const addressOf = (domain: string): string => ADDRESSES[domain] ?? domain;

const shown = ({origin, path, capabilities}: Host): string => `${origin}${path} (${[...capabilities!].join(' ')})`;

/** @param path below the host's own, such as `/library/redis/manifests/7` */
export function urlOf({origin, path: root, ns}: Host, path: string): URL {
  const url = new URL(`${origin}${root}${path}`);
  if (ns !== undefined) url.searchParams.set('ns', ns);
  return url;
}
