/**
 * Parses `hosts.toml`: a registry's mirrors, and how to connect to each.
 *
 * Format after containerd, docs/hosts.md and core/remotes/docker/config/hosts.go, but stricter. containerd logs an unusable file
 * and ignores it, and so the mirror in it; here it is an error. So is an unknown field: with a misspelt `capabilities`, a mirror
 * that is trusted only for blobs would resolve tags.
 */
import {isAbsolute, join} from 'node:path';
import {parse, TomlError} from 'smol-toml';
import {durationMs} from '../duration.ts';
import {ErrdefsError} from '../errdefs.ts';
import {type Address, HOSTS_FILE, type HostConfig} from './host-config-types.ts';
import {parseProxy} from './proxy.ts';
import {CAPABILITIES, type Capability} from './types.ts';

const OF_A_MIRROR = CAPABILITIES.filter((capability) => capability !== 'push');

/** No valid document nests deeper. */
const MAX_DEPTH = 16;

/** Characters. A real file has a few hundred. */
export const MAX_HOSTS_FILE = 256 * 1024;

const FIELDS = ['capabilities', 'ca', 'client', 'skip_verify', 'header', 'override_path', 'dial_timeout', 'proxy'] as const;
export const ROOT_FIELDS = ['server', 'host', ...FIELDS] as const;

/** Headers with which a request could not be framed, or would ask for something else. */
const RESERVED = new Set(
  `accept accept-encoding connection content-length content-type expect host keep-alive proxy-connection range te trailer
  transfer-encoding upgrade`.split(/\s+/),
);

type Path = readonly string[];

/** True for a table, not for a date or a list. The parser creates tables without a prototype. */
const isTable = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === null;

/** A key as TOML writes it, without the credentials of a URL. */
const keyName = (path: Path): string =>
  path.map((key) => (/^[\w-]+$/.test(key) ? key : JSON.stringify(key.replace(/^([a-z]+:\/\/)?[^/]*@/i, '$1***@')))).join('.');

class HostsFile {
  readonly #file: string;
  readonly #dir: string;
  readonly #text: string;

  constructor(text: string, dir: string) {
    this.#text = text;
    this.#dir = dir;
    this.#file = join(dir, HOSTS_FILE);
  }

  parse(): HostConfig[] {
    const {length} = this.#text;
    if (length > MAX_HOSTS_FILE) throw this.#fault(`${length} characters, more than ${MAX_HOSTS_FILE}`, {});
    let root: Record<string, unknown>;
    try {
      // The keys of a table have the order of the text; whole numbers, which JavaScript puts first, are refused below.
      root = parse(this.#text, {maxDepth: MAX_DEPTH});
    } catch (err) {
      if (!(err instanceof TomlError)) throw err;
      const {line, column} = err;
      // The rest of the message quotes lines of the file, which may hold secrets.
      const [reason] = err.message.replace('Invalid TOML document: ', '').split('\n', 1);
      throw this.#fault(`line ${line}, column ${column}: ${reason}`, {
        hint: 'in TOML a string is quoted and a list is in brackets',
        details: {line, column},
      });
    }
    this.#checkFields(root, [], ROOT_FIELDS);
    const {server = '', host = Object.create(null)} = root;
    if (typeof server !== 'string') throw this.#wrong(['server'], 'is not a string', 'write it like server = "https://registry.example"');
    if (!isTable(host)) throw this.#wrong(['host'], 'is not a table', 'write it like [host."https://mirror.example"]');
    return [
      ...Object.entries(host).map(([url, table]) => {
        const path = ['host', url];
        if (!isTable(table)) throw this.#wrong(path, 'is not a table', 'write it like [host."https://mirror.example"]');
        // Whole numbers would not keep their place among the hosts, and are none.
        if (/^\d+$/.test(url)) throw this.#wrong(path, 'is not the address of a host', 'write it like [host."https://mirror.example"]');
        this.#checkFields(table, path, FIELDS);
        return this.#host(url, path, table, path);
      }),
      this.#host(server === '' ? undefined : server, ['server'], root, []),
    ];
  }

  #fault(problem: string, {hint, details}: {readonly hint?: string; readonly details?: Readonly<Record<string, unknown>>}): ErrdefsError {
    return new ErrdefsError('invalid_argument', `hosts file ${JSON.stringify(this.#file)}: ${problem}`, {
      ...(hint === undefined ? {} : {hint}),
      details: {file: this.#file, ...details},
    });
  }

  #wrong(path: Path, problem: string, hint: string): ErrdefsError {
    const key = keyName(path);
    return this.#fault(`${key} ${problem}`, {hint, details: {key}});
  }

  #checkFields(table: Record<string, unknown>, path: Path, known: readonly string[]): void {
    const stranger = Object.keys(table).find((key) => !known.includes(key));
    if (stranger === undefined) return;
    throw this.#wrong([...path, stranger], 'is an unknown field', `the fields are ${known.join(', ')}`);
  }

  /** @param url undefined for the registry itself */
  #host(url: string | undefined, urlPath: Path, table: Record<string, unknown>, path: Path): HostConfig {
    const overridePath = this.#flag(table, path, 'override_path') ?? false;
    return {
      address: url === undefined ? undefined : this.#address(url, urlPath, overridePath),
      // A mirror is pushed to only where its file says so.
      capabilities: this.#capabilities(table.capabilities, [...path, 'capabilities'], path.length === 0 ? CAPABILITIES : OF_A_MIRROR),
      ca: this.#texts(table.ca, [...path, 'ca'], 'write it like ca = "ca.pem" or ca = ["a.pem", "b.pem"]').map(this.#resolve),
      client: this.#client(table.client, [...path, 'client']),
      skipVerify: this.#flag(table, path, 'skip_verify'),
      headers: this.#headers(table.header, [...path, 'header']),
      dialTimeoutMs: this.#duration(table.dial_timeout, [...path, 'dial_timeout']),
      proxy: this.#proxy(table.proxy, [...path, 'proxy']),
    };
  }

  #address(text: string, path: Path, overridePath: boolean): Address {
    const example = 'write it like https://mirror.example or http://10.0.0.1:5000/path';
    const url = URL.parse(text.includes('://') ? text : `https://${text}`);
    if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:'))
      throw this.#wrong(path, 'is not the address of a host', example);
    if (url.username !== '' || url.password !== '')
      throw this.#wrong(path, 'carries credentials', 'give them with --user, or as a header of this host');
    if (url.search !== '' || url.hash !== '') throw this.#wrong(path, 'is an address with more than a path', example);
    const given = url.pathname.replaceAll(/\/{2,}/g, '/').replace(/\/$/, '');
    return {
      scheme: url.protocol === 'https:' ? 'https' : 'http',
      host: url.host,
      path: overridePath || given.endsWith('/v2') ? given : `${given}/v2`,
    };
  }

  #capabilities(value: unknown, path: Path, unsaid: readonly Capability[]): ReadonlySet<Capability> {
    const hint = `write it like capabilities = ["pull", "resolve"]; there are ${CAPABILITIES.join(', ')}`;
    if (typeof value === 'string') throw this.#wrong(path, 'is not a list of strings', hint);
    const words = this.#texts(value, path, hint).map((word) => word.toLowerCase());
    const unknown = words.find((word) => !(CAPABILITIES as readonly string[]).includes(word));
    if (unknown !== undefined) throw this.#wrong(path, `has the unknown capability ${JSON.stringify(unknown)}`, hint);
    return new Set(words.length === 0 ? unsaid : (words as Capability[]));
  }

  #client(value: unknown, path: Path): HostConfig['client'] {
    const hint = 'write it like client = "both.pem" or client = [["client.cert", "client.key"]]';
    const files = Array.isArray(value) ? value : value === undefined ? [] : [value];
    return files.map((entry: unknown) => {
      const [cert, key = '', ...more] = Array.isArray(entry) ? entry : [entry];
      if (typeof cert !== 'string' || typeof key !== 'string' || cert === '' || more.length > 0)
        throw this.#wrong(path, 'is neither a path, nor a list of paths or of pairs of them', hint);
      return {cert: this.#resolve(cert), key: this.#resolve(key === '' ? cert : key)};
    });
  }

  #headers(value: unknown, path: Path): HostConfig['headers'] {
    if (value === undefined) return {};
    if (!isTable(value)) throw this.#wrong(path, 'is not a table', 'write it like header = {x-name = "value"}');
    const headers: Record<string, string[]> = Object.create(null);
    for (const [name, content] of Object.entries(value)) {
      const at = [...path, name];
      const lower = name.toLowerCase();
      if (!/^[!#$%&'*+.^_`|~\w-]+$/.test(name)) throw this.#wrong(at, 'is not the name of a header', 'write it like x-name = "value"');
      if (RESERVED.has(lower)) throw this.#wrong(at, 'is a header that berth sets itself', 'leave it out');
      const texts = this.#texts(content, at, 'write it like x-name = "value" or x-name = ["one", "two"]');
      if (!texts.every((text) => /^[\t\x20-\x7e\x80-\xff]*$/.test(text)))
        throw this.#wrong(at, 'has characters that a header cannot carry', 'write one line of Latin-1');
      headers[lower] = [...(headers[lower] ?? []), ...texts];
    }
    return headers;
  }

  #proxy(value: unknown, path: Path): URL | undefined {
    if (value === undefined) return undefined;
    const url = typeof value === 'string' && value.includes('://') ? parseProxy(value) : undefined;
    const isAlone = url !== undefined && ['', '/'].includes(url.pathname) && url.search === '' && url.hash === '';
    if (!isAlone)
      throw this.#wrong(path, 'is not the URL of an HTTP proxy', 'write it like proxy = "http://proxy.example:3128"; SOCKS is not spoken');
    return url;
  }

  #duration(value: unknown, path: Path): number | undefined {
    if (value === undefined) return undefined;
    const ms = typeof value === 'string' ? durationMs(value) : undefined;
    if (ms === undefined) throw this.#wrong(path, 'is not a duration', 'write it like dial_timeout = "3s"');
    return ms;
  }

  #flag(table: Record<string, unknown>, path: Path, name: string): boolean | undefined {
    const value = table[name];
    if (value !== undefined && typeof value !== 'boolean')
      throw this.#wrong([...path, name], 'is neither true nor false', `write it like ${name} = true`);
    return value;
  }

  /** One text or a list of them. */
  #texts(value: unknown, path: Path, hint: string): string[] {
    const texts = Array.isArray(value) ? value : value === undefined ? [] : [value];
    if (!texts.every((text) => typeof text === 'string')) throw this.#wrong(path, 'is neither a string nor a list of strings', hint);
    return texts;
  }

  readonly #resolve = (file: string): string => (isAbsolute(file) ? file : join(this.#dir, file));
}

/**
 * The hosts of a file in its order, and as the last one its `server`: the registry itself unless it names another.
 *
 * @param dir absolute path of the file's directory: what its relative paths are relative to
 * @throws invalid_argument not TOML, or not what a field may be; names the file, and the key or line and column, with the remedy as its hint
 */
export const parseHosts = (text: string, dir: string): HostConfig[] => new HostsFile(text, dir).parse();
