/** Where a registry's content is looked for: at the hosts that a `hosts.toml` names, and at last at the registry itself. */
import type {Reference} from '../oci/reference.ts';
import type {Realm} from './auth.ts';
import type {HostConfig} from './hosts-config.ts';
import {connectionOf, hasTLS, readRegistryConfig} from './hosts-dir.ts';
import {speaksTLS} from './tls-probe.ts';
import type {Host, HostSource} from './types.ts';

/** Docker Hub's name is not its address. */
const ADDRESSES: Readonly<Record<string, string>> = {'docker.io': 'registry-1.docker.io'};

/** The most that a probe of this machine's own port may take before the port counts as TLS. */
const PROBE_TIMEOUT_MS = 10_000;

/** True for this machine's own names: localhost, 127/8, [::1]. @param hostname as a URL has it, so that an address is in its one form */
export const isLoopback = (hostname: string): boolean =>
  hostname === 'localhost' || hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(hostname);

export interface HostsOptions {
  readonly plainHTTP: boolean;
  readonly connectTimeoutMs: number;
  readonly hostsDirs?: readonly string[] | undefined;
  readonly onDebug?: ((line: string) => void) | undefined;
}

/**
 * The rule without configuration: a registry speaks HTTPS.
 *
 * A registry on loopback may speak plain HTTP, as containerd has it: never on port 443 or without a port, always on port 80,
 * and on others when it does not speak TLS. containerd learns that from a failed HTTPS request; here one TLS hello on a bare
 * connection asks first (`tls-probe.ts`), which gives the same verdict in under a millisecond where the failed request costs the
 * set-up of TLS and its certificates (3 to 13 ms). Plain HTTP first would be as fast, but would send the request unprotected
 * to a port that is a tunnel to a TLS registry elsewhere. The answer is kept for the life of the source, so that a host is
 * probed once. A port that says nothing for a second is asked in HTTP as well.
 *
 * Nothing but `plainHTTP`, or a configured address that begins with `http:`, makes any other host speak plain HTTP: a failure of
 * HTTPS is never a reason (CVE-2019-10214). A host that is configured with such an address and with something about TLS speaks
 * what its port speaks, except on port 80, as containerd has it.
 *
 * Rules after containerd, core/remotes/docker/config/hosts.go and registry.go (MatchLocalhost).
 */
export function registryHosts(options: HostsOptions): HostSource {
  const {plainHTTP, connectTimeoutMs, hostsDirs = [], onDebug} = options;
  const known = new Map<string, Promise<readonly [Host, ...Host[]]>>();

  const probe = async (host: string): Promise<'https' | 'http'> => {
    const {hostname, port} = new URL(`http://${host}`);
    const timeoutMs = connectTimeoutMs === 0 ? PROBE_TIMEOUT_MS : Math.min(PROBE_TIMEOUT_MS, connectTimeoutMs);
    return (await speaksTLS(hostname.replace(/^\[(.*)\]$/, '$1'), Number(port), timeoutMs)) ? 'https' : 'http';
  };

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
    // Where nobody answers the request will say so, when its turn comes.
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
      connection: connectionOf(config, source),
    };
  };

  const find = async (domain: string): Promise<readonly [Host, ...Host[]]> => {
    const found = await readRegistryConfig(hostsDirs, domain);
    if (found === undefined) return [{domain, origin: new URL(`${await schemeOf(domain)}://${addressOf(domain)}`).origin, path: '/v2'}];
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
      // A registry that was not there may come.
      hosts.catch(() => known.delete(domain));
    }
    return hosts;
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

/** What a pull from a repository asks for. */
export const realmOf = (host: Host, {path}: Reference): Realm => ({host, scope: `repository:${path}:pull`});
