/**
 * Chooses the proxy of a request from the environment, and asks a proxy for a tunnel.
 *
 * Rules after Go, golang.org/x/net/http/httpproxy, which containerd, podman and skopeo use. Besides, `ALL_PROXY` counts where the
 * variable of the scheme is not set, and a variable that is not a URL of a proxy is an error: Go goes past the proxy without a word.
 */
import {BlockList, isIP, type Socket} from 'node:net';
import {domainToASCII} from 'node:url';
import {ErrdefsError} from '../errdefs.ts';
import {isLoopback} from './address-filter.ts';
import {fromTransport, WireError, type WireKind} from './errors.ts';

export interface Proxy {
  /** May contain credentials. */
  readonly url: URL;
  /** The variable that names it. */
  readonly source: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Where a proxy is, without its credentials. */
export const proxyOrigin = ({protocol, host}: URL): string => `${protocol}//${host}`;

/** What a proxy is asked with, if its URL has credentials. */
export function proxyAuthorization({username, password}: URL): string | undefined {
  if (username === '' && password === '') return undefined;
  return `Basic ${Buffer.from(`${decodeURIComponent(username)}:${decodeURIComponent(password)}`).toString('base64')}`;
}

/** Whether every `%` of a text begins an escape, and these are UTF-8. */
function isPercentEncoded(text: string): boolean {
  try {
    return decodeURIComponent(text) !== undefined;
  } catch {
    return false;
  }
}

/** Parses the address of a proxy; undefined for anything else. Without a scheme it is an HTTP proxy. */
export function parseProxy(text: string): URL | undefined {
  const url = URL.parse(text.includes('://') ? text : `http://${text}`);
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:') || url.hostname === '') return undefined;
  // A password with a bare `%`: `proxyAuthorization` could not decode it.
  return isPercentEncoded(url.username) && isPercentEncoded(url.password) ? url : undefined;
}

/** The first of the variables that is set, as Go looks them up: in capitals first. */
function variable(env: Environment, name: string): readonly [name: string, value: string] | undefined {
  const found = [name, name.toLowerCase()].find((one) => env[one]);
  return found === undefined ? undefined : [found, env[found]!];
}

const DEFAULT_PORTS: Readonly<Record<string, string>> = {'http:': '80', 'https:': '443'};

/** An address in its shortest form; an IPv4 address in IPv6 notation becomes IPv4. Undefined for a name. */
function addressOf(host: string): string | undefined {
  if (isIP(host) === 0) return undefined;
  if (!host.includes(':')) return host;
  const address = new URL(`http://[${host.replace(/%.*$/, '')}]`).hostname.slice(1, -1);
  const [, high, low] = /^::ffff:([0-9a-f]+):([0-9a-f]+)$/.exec(address) ?? [];
  if (high === undefined || low === undefined) return address;
  const [h, l] = [Number.parseInt(high, 16), Number.parseInt(low, 16)];
  return [h >> 8, h & 255, l >> 8, l & 255].join('.');
}

const familyOf = (address: string): 'ipv4' | 'ipv6' => (address.includes(':') ? 'ipv6' : 'ipv4');

/** @returns undefined without a port, and for what is not a host and a port */
function splitHostPort(text: string): readonly [host: string, port: string] | undefined {
  const [, inBrackets, plain, port] = /^(?:\[([^[\]]*)\]|([^:[\]]*)):([^:]*)$/.exec(text) ?? [];
  return port === undefined ? undefined : [inBrackets ?? plain!, port];
}

type Matcher = (host: string, port: string, address: string | undefined) => boolean;

/** One entry of NO_PROXY; undefined for a malformed one, which does not count. */
function matcherOf(entry: string): Matcher | undefined {
  if (entry === '*') return () => true;
  const [base, prefix] = entry.split('/', 2) as [string, string | undefined];
  const network = addressOf(base);
  if (prefix !== undefined && network !== undefined && /^\d+$/.test(prefix) && Number(prefix) <= (network.includes(':') ? 128 : 32)) {
    const list = new BlockList();
    list.addSubnet(network, Number(prefix), familyOf(network));
    return (_host, _port, address) =>
      address !== undefined && familyOf(address) === familyOf(network) && list.check(address, familyOf(address));
  }
  const [name, only] = splitHostPort(entry) ?? [entry, ''];
  const isPort = (port: string): boolean => only === '' || only === port;
  const single = addressOf(name);
  if (single !== undefined) return (_host, port, address) => address === single && isPort(port);
  const bare = name.startsWith('*.') ? name.slice(1) : name;
  if (bare === '') return undefined;
  const isDomainOnly = bare.startsWith('.');
  const ascii = domainToASCII(isDomainOnly ? bare.slice(1) : bare) || bare.replace(/^\./, '');
  return (host, port, address) =>
    address === undefined && isPort(port) && (host.endsWith(`.${ascii}`) || (!isDomainOnly && host === ascii));
}

/**
 * @returns a function that gives the proxy for a URL; undefined for a direct connection. It throws failed_precondition for
 *   HTTP_PROXY in a CGI program, where a request's header could have set it, and invalid_argument for what is not a URL of a proxy
 */
export function proxyRules(env: Environment): (url: URL) => Proxy | undefined {
  const entries = (variable(env, 'NO_PROXY')?.[1] ?? '')
    .split(',')
    .map((entry) => entry.trim().toLowerCase())
    .filter((entry) => entry !== '');
  const exceptions = entries.flatMap((entry) => matcherOf(entry) ?? []);
  return (url) => {
    const isTLS = url.protocol === 'https:';
    const [name, value] = variable(env, isTLS ? 'HTTPS_PROXY' : 'HTTP_PROXY') ?? variable(env, 'ALL_PROXY') ?? [];
    if (name === undefined || value === undefined) return undefined;
    const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
    const address = addressOf(host);
    if (isLoopback(url.hostname) || address?.startsWith('127.')) return undefined;
    const port = url.port || DEFAULT_PORTS[url.protocol]!;
    if (exceptions.some((matches) => matches(host, port, address))) return undefined;
    if (!isTLS && /^http_proxy$/i.test(name) && env.REQUEST_METHOD)
      throw new ErrdefsError('failed_precondition', `${name} is not used in a CGI program (REQUEST_METHOD is set)`, {
        hint: 'a request could have set it; unset REQUEST_METHOD, or name the proxy in hosts.toml',
      });
    const proxy = parseProxy(value);
    if (proxy === undefined)
      throw new ErrdefsError('invalid_argument', `${name} is not the URL of an HTTP proxy`, {
        hint: 'write it like http://proxy.example:3128 or https://proxy.example; in a password % is written %25',
        details: {variable: name},
      });
    return {url: proxy, source: name};
  };
}

/** Bytes of the head of a proxy's response. */
const MAX_HEAD = 16 * 1024;

const kindOf = (status: number): WireKind =>
  status === 407 ? 'proxy_auth' : status >= 400 && status < 500 ? 'proxy_denied' : status >= 500 ? 'proxy_failed' : 'garbled';

/**
 * Asks a proxy for a tunnel, by CONNECT (RFC 9110, 9.3.6). The socket is the tunnel then; after a failure the caller destroys it.
 *
 * @param socket connected to the proxy
 * @param authority host and port
 * @throws WireError the proxy does not make one
 */
export function requestTunnel(socket: Socket, authority: string, proxy: URL, timeoutMs: number): Promise<void> {
  const authorization = proxyAuthorization(proxy);
  return new Promise((resolve, reject) => {
    let head = '';
    const end = (err?: unknown): void => {
      clearTimeout(timer);
      socket.off('readable', onReadable).off('error', end).off('close', onClose).off('end', onClose);
      if (err === undefined) resolve();
      else reject(fromTransport(err));
    };
    const onClose = (): void => end(new WireError('broken'));
    const onReadable = (): void => {
      for (let chunk: Buffer | null = socket.read(); chunk !== null; chunk = socket.read()) {
        head += chunk.toString('latin1');
        const length = head.indexOf('\r\n\r\n');
        if (length < 0) {
          if (head.length > MAX_HEAD) end(new WireError('garbled'));
          continue;
        }
        const status = Number(/^HTTP\/1\.[01] (\d{3})(?: |\r)/.exec(head)?.[1]);
        // The server of a TLS connection speaks second: what follows the head is not its.
        if (status >= 200 && status < 300 && head.length === length + 4) end();
        else end(new WireError(kindOf(status), new Error(`CONNECT was answered ${status}`)));
        return;
      }
    };
    const timer = timeoutMs === 0 ? undefined : setTimeout(() => end(new WireError('connect_timeout')), timeoutMs);
    socket.on('readable', onReadable).on('error', end).on('close', onClose).on('end', onClose);
    socket.write(
      [
        `CONNECT ${authority} HTTP/1.1`,
        `Host: ${authority}`,
        ...(authorization === undefined ? [] : [`Proxy-Authorization: ${authorization}`]),
        '\r\n',
      ].join('\r\n'),
    );
  });
}
