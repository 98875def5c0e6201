/**
 * Where a registry's content is looked for.
 *
 * Now the registry itself; mirrors and certs.d/hosts.toml go before it, in this list.
 */
import type {Reference} from '../oci/reference.ts';
import type {Realm} from './auth.ts';
import type {Host, HostSource} from './contract.ts';
import {speaksTLS} from './probe.ts';

/** Docker Hub's name is not its address. */
const ADDRESSES: Readonly<Record<string, string>> = {'docker.io': 'registry-1.docker.io'};

/** The most that a probe of this machine's own port may take before the port counts as TLS. */
const PROBE_TIMEOUT_MS = 1000;

/** True for this machine's own names: localhost, 127/8, [::1]. @param hostname as a URL has it, so that an address is in its one form */
export const isLoopback = (hostname: string): boolean =>
  hostname === 'localhost' || hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(hostname);

/** True for addresses that only the machine's own surroundings answer, such as a cloud's metadata service. */
export const isLinkLocal = (hostname: string): boolean =>
  /^169\.254\.\d+\.\d+$/.test(hostname) || /^\[fe[89ab][0-9a-f]:/.test(hostname) || hostname === '[fd00:ec2::254]';

/**
 * The rule without configuration: a registry speaks HTTPS.
 *
 * A registry on loopback may speak plain HTTP, as containerd has it: never on port 443 or without a port, always on port 80,
 * and on others when it does not speak TLS. containerd learns that from a failed HTTPS request; here one TLS hello on a bare
 * connection asks first (`probe.ts`), which gives the same verdict in under a millisecond where the failed request costs the
 * set-up of TLS and its certificates (3 to 13 ms). Plain HTTP first would be as fast, but would send the request unprotected
 * to a port that is a tunnel to a TLS registry elsewhere. The answer is kept for the life of the source, so that a host is
 * probed once.
 *
 * Nothing but `plainHTTP` makes any other host speak plain HTTP: a failure of HTTPS is never a reason (CVE-2019-10214).
 *
 * Rules after containerd, core/remotes/docker/config/hosts.go and registry.go (MatchLocalhost).
 */
export function defaultHosts({plainHTTP, connectTimeoutMs}: {plainHTTP: boolean; connectTimeoutMs: number}): HostSource {
  const schemes = new Map<string, Promise<string>>();

  const schemeOf = async (domain: string): Promise<string> => {
    const {hostname} = new URL(`https://${domain}`);
    const port = /:(\d+)$/.exec(domain)?.[1];
    if (plainHTTP) return 'http';
    if (!isLoopback(hostname) || port === undefined || port === '443') return 'https';
    if (port === '80') return 'http';
    const timeoutMs = connectTimeoutMs === 0 ? PROBE_TIMEOUT_MS : Math.min(PROBE_TIMEOUT_MS, connectTimeoutMs);
    return (await speaksTLS(hostname.replace(/^\[(.*)\]$/, '$1'), Number(port), timeoutMs)) ? 'https' : 'http';
  };

  return async (domain) => {
    let scheme = schemes.get(domain);
    if (scheme === undefined) {
      scheme = schemeOf(domain);
      schemes.set(domain, scheme);
      // A registry that was not there may come.
      scheme.catch(() => schemes.delete(domain));
    }
    const host: Host = {domain, origin: new URL(`${await scheme}://${ADDRESSES[domain] ?? domain}`).origin, path: '/v2'};
    return [host];
  };
}

/** What a pull from a repository asks for. */
export const realmOf = (host: Host, {path}: Reference): Realm => ({host, scope: `repository:${path}:pull`});
