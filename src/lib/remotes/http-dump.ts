/** Text of requests and responses for `onDump` and `onTrace`: heads only, without secrets. */
import type {ResponseHead} from './undici-exchange.ts';

/** Query parameters of the distribution specification and of token servers; the values of others, such as signatures, are hidden. */
const PLAIN_PARAMETERS = new Set('account artifactType client_id digest from last mount n ns offline_token scope service tag'.split(' '));

/** A URL without credentials and without values of unknown query parameters. */
export function shownURL(url: URL): string {
  const query = [...url.searchParams].map(([name, value]) =>
    PLAIN_PARAMETERS.has(name) ? `${encodeURIComponent(name)}=${encodeURIComponent(value)}` : `${encodeURIComponent(name)}=***`,
  );
  return `${url.origin}${url.pathname}${query.length === 0 ? '' : `?${query.join('&')}`}`;
}

/** Headers whose values are secrets; of `authorization` the scheme is shown. */
const SECRET = new Set(['authorization', 'proxy-authorization', 'cookie', 'set-cookie', 'x-amz-security-token']);

function shownHeader(name: string, value: string, hidden: ReadonlySet<string>): string {
  const lower = name.toLowerCase();
  if (lower === 'location') {
    const url = URL.parse(value, 'http://relative.invalid');
    return url === null ? '***' : shownURL(url).replace('http://relative.invalid', '');
  }
  if (lower === 'authorization') return `${value.split(' ', 1)[0]} ***`;
  return SECRET.has(lower) || hidden.has(lower) ? '***' : value;
}

const headerLines = (headers: Readonly<Record<string, unknown>>, hidden: ReadonlySet<string>): string[] =>
  Object.entries(headers).flatMap(([name, value]) =>
    value === undefined ? [] : (Array.isArray(value) ? value : [value]).map((one) => `${name}: ${shownHeader(name, String(one), hidden)}`),
  );

/** @param configured names of headers from hosts.toml, whose values are hidden */
export const requestHead = (method: string, url: URL, headers: Readonly<Record<string, unknown>>, configured: readonly string[]): string =>
  [`> ${method} ${shownURL(url)}`, ...headerLines(headers, new Set(configured)).map((line) => `> ${line}`)].join('\n');

export const responseHead = ({status, headers}: ResponseHead): string =>
  [`< ${status}`, ...headerLines(headers, new Set()).map((line) => `< ${line}`)].join('\n');
