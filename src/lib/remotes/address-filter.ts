/**
 * Blocks connections to link-local addresses and cloud metadata services. A registry must not reach them through us, by redirect,
 * token server, foreign layer URL or DNS: the response could be a secret, and the request a command.
 */
import type {LookupAddress, LookupAllOptions} from 'node:dns';
import type {LookupFunction} from 'node:net';
import {WireError} from './errors.ts';

/** The 16-bit groups of an IPv6 address, as `URL` writes it. */
function groupsOf(address: string): number[] {
  const [head = [], tail] = address
    .split('::')
    .map((part) => (part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16))));
  return tail === undefined ? head : [...head, ...new Array<number>(8 - head.length - tail.length).fill(0), ...tail];
}

/** Prefixes of an embedded IPv4 address: mapped, translated, compatible and NAT64; RFC 4291, 2765 and 6052. */
const IPV4_IN_IPV6 = ['0,0,0,0,0,65535', '0,0,0,0,65535,0', '0,0,0,0,0,0', '100,65435,0,0,0,0'];
const SIX_TO_FOUR = 0x2002;

const dotted = (high: number, low: number): string => [high >> 8, high & 255, low >> 8, low & 255].join('.');

/**
 * The canonical form of an IP address; an IPv4 address embedded in IPv6 becomes IPv4. Undefined for a name.
 *
 * @param host an address as resolvers and sockets write it (`fe80::1%eth0`), or the host name of a URL
 */
export function canonicalAddress(host: string): string | undefined {
  const bare = host.replace(/^\[|\]$/g, '').replace(/%.*$/, '');
  const hostname = URL.parse(`http://${bare.includes(':') ? `[${bare}]` : bare}`)?.hostname ?? '';
  if (/^\d+\.\d+\.\d+\.\d+$/.test(hostname)) return hostname;
  if (!hostname.startsWith('[')) return undefined;
  const address = hostname.slice(1, -1);
  const groups = groupsOf(address);
  if (groups[0] === SIX_TO_FOUR) return dotted(groups[1]!, groups[2]!);
  return IPV4_IN_IPV6.includes(groups.slice(0, 6).join()) && groups[6] !== 0 ? dotted(groups[6]!, groups[7]!) : address;
}

/** Metadata services outside the link-local ranges: AWS, Google Cloud and Alibaba Cloud. */
const METADATA = new Set(['fd00:ec2::254', 'fd20:ce::254', '100.100.100.200']);

/** True for 169.254/16, fe80::/10 and the metadata services, in any notation; false for names. */
export function isLinkLocal(host: string): boolean {
  const address = canonicalAddress(host);
  return address !== undefined && (/^(?:169\.254\.|fe[89ab][0-9a-f]:)/.test(address) || METADATA.has(address));
}

/** True for localhost, 127/8 and [::1]. @param hostname as `URL` writes it, so that an address is in its canonical form */
export const isLoopback = (hostname: string): boolean =>
  hostname === 'localhost' || hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(hostname);

/** Resolves a name to all of its addresses, as `dns.lookup` does. */
export type Resolver = (
  hostname: string,
  options: LookupAllOptions,
  callback: (err: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void,
) => void;

/** Allows no link-local address, unless the user named that very address. Every connection asks it. */
export class AddressFilter {
  readonly #named = new Set<string>();

  /** @param host from a reference or hosts.toml; a name allows nothing, whatever it resolves to */
  allow(host: string): void {
    const address = canonicalAddress(host);
    if (address !== undefined) this.#named.add(address);
  }

  isBlocked(host: string): boolean {
    return isLinkLocal(host) && !this.#named.has(canonicalAddress(host)!);
  }

  /** A `lookup` for sockets that drops blocked addresses: the socket connects to the address that was checked, so DNS cannot change it later. */
  lookup(resolve: Resolver): LookupFunction {
    return (hostname, options, callback) =>
      resolve(hostname, {...options, all: true} as LookupAllOptions, (err, addresses) => {
        if (err !== null) {
          callback(err, []);
          return;
        }
        const usable = addresses.filter(({address}) => !this.isBlocked(address));
        if (usable.length === 0) callback(new WireError('link_local'), []);
        else if (options.all) callback(null, usable);
        else callback(null, usable[0]!.address, usable[0]!.family);
      });
  }
}
