/**
 * Authentication: challenges, tokens and credentials.
 *
 * Credentials go only to the origin (scheme, host and port) of their registry, and to the token server that this registry
 * names, under the rules of `checkRealm`. The `CredentialSource` is asked only after a challenge, so that a broken
 * credential store cannot break an anonymous pull.
 *
 * Token protocol after distribution, docs/spec/auth/token.md and oauth.md, and containerd, core/remotes/docker/authorizer.go
 * and auth/fetch.go.
 */
import {ErrdefsError} from '../errdefs.ts';
import type {Reference} from '../oci/reference.ts';
import {canonicalAddress, isLoopback} from './address-filter.ts';
import type {Challenge} from './challenge.ts';
import type {CredentialSource, Credentials, Host} from './types.ts';

/** A token server's response; `body` has its first bytes. */
export interface TokenResponse {
  readonly status: number;
  /** False after a redirect to another origin. */
  readonly sameOrigin: boolean;
  readonly body: Buffer;
}

export interface TokenRequest {
  readonly what: string;
  /** The registry that named the token server. */
  readonly host: Host;
  readonly method: 'GET' | 'POST';
  readonly url: URL;
  readonly authorization?: string | undefined;
  readonly form?: URLSearchParams | undefined;
  readonly signal: AbortSignal | undefined;
}

/** Sends token requests. A failure status is a response, not an exception. */
export interface TokenClient {
  exchange(request: TokenRequest): Promise<TokenResponse>;
  /** The error for a response that has no token. */
  toError(request: TokenRequest, response: TokenResponse, credentials: 'sent' | 'none'): ErrdefsError;
}

/** A token is valid for one host and one scope. */
export interface TokenScope {
  readonly host: Host;
  /** Such as `repository:library/redis:pull`; several are separated by spaces. */
  readonly scope: string;
}

interface CachedHeader {
  readonly header: string;
  /** Milliseconds of `performance.now()`. */
  readonly expires: number;
}

const CLIENT_ID = 'berth';
/** A token is not used in its last seconds: the request might arrive after they end. */
const MARGIN_MS = 5000;
/** Statuses of token servers without the oauth2 form; the older GET follows. */
const NO_FORM = new Set([400, 401, 404, 405]);

const isOwn = (url: URL, registry: URL): boolean =>
  url.hostname === registry.hostname || (isLoopback(url.hostname) && isLoopback(registry.hostname));

/** True for an IP address or loopback name other than the registry's own: a registry could aim us at internal services. */
export const isUnrelatedAddress = (url: URL, {origin}: Host): boolean =>
  !isOwn(url, new URL(origin)) && (canonicalAddress(url.hostname) !== undefined || isLoopback(url.hostname));

/**
 * Parses the realm of a challenge: the URL of the token server. With credentials it must be safe to send them there:
 *
 * - It speaks HTTPS, unless the registry itself does not. Otherwise an attacker who rewrites the challenge reads the password.
 * - It is no IP address and no loopback name, unless it is the registry's own host. Another public host is normal:
 *   auth.docker.io serves registry-1.docker.io.
 *
 * `address-filter.ts` blocks further addresses, with credentials or without. Rules after the advisories of oras-go that the
 * tests name.
 *
 * @throws failed_precondition not a URL of a token server, or credentials may not go there
 */
export function checkRealm(realm: string | undefined, host: Host, withCredentials: boolean): URL {
  const registry = new URL(host.origin);
  const refuse = (why: string): ErrdefsError =>
    new ErrdefsError('failed_precondition', `registry ${registry.host}: token server ${JSON.stringify(realm ?? '')} ${why}`, {
      details: {host: registry.host},
    });
  const url = realm === undefined ? null : URL.parse(realm);
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:')) throw refuse('is not an HTTP URL');
  if (url.username !== '' || url.password !== '') throw refuse('contains credentials');
  if (!withCredentials) return url;
  if (url.protocol === 'http:' && registry.protocol === 'https:') throw refuse('does not use TLS; credentials are not sent there');
  if (isUnrelatedAddress(url, host)) throw refuse('is a private address; credentials are not sent there');
  return url;
}

/** The union of scope lists, sorted. */
export const mergeScopes = (...scopes: readonly (string | undefined)[]): string[] =>
  [...new Set(scopes.flatMap((scope) => scope?.split(' ') ?? []).filter((scope) => scope !== ''))].sort();

const basic = (username: string, password: string): string => `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;

export class Authorizer {
  readonly #client: TokenClient;
  readonly #source: CredentialSource;
  readonly #credentials = new Map<string, Promise<Credentials | undefined>>();
  /** By origin and scope. */
  readonly #headers = new Map<string, CachedHeader>();
  readonly #pending = new Map<string, Promise<string | undefined>>();
  readonly #secrets = new Set<string>();

  constructor(client: TokenClient, source: CredentialSource) {
    this.#client = client;
    this.#source = source;
  }

  /** The cached `Authorization` header, if it has not expired. */
  current(tokenScope: TokenScope): string | undefined {
    const cached = this.#headers.get(keyOf(tokenScope));
    return cached !== undefined && cached.expires > performance.now() ? cached.header : undefined;
  }

  /**
   * Gets an `Authorization` header for a 401, from credentials or a token server. Concurrent requests of one scope share one
   * token request.
   *
   * @param used the header that the registry refused
   * @returns undefined without credentials for the challenge
   * @throws not_implemented none of the schemes is supported
   */
  async authorize(
    tokenScope: TokenScope,
    challenges: readonly Challenge[],
    used: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<string | undefined> {
    const key = keyOf(tokenScope);
    const current = this.current(tokenScope);
    if (current !== undefined && current !== used) return current;
    const running = this.#pending.get(key);
    // The other request may have failed or been canceled; then this one asks for itself.
    const shared = await running?.catch(() => undefined);
    if (shared !== undefined && shared !== used) return shared;
    signal?.throwIfAborted();
    this.#headers.delete(key);
    const asked = this.#ask(tokenScope, challenges, signal);
    this.#pending.set(key, asked);
    try {
      return await asked;
    } finally {
      if (this.#pending.get(key) === asked) this.#pending.delete(key);
    }
  }

  /** True when this registry sent a challenge and has credentials. */
  async hasCredentials({domain}: Host): Promise<boolean> {
    return (await this.#credentials.get(domain)?.catch(() => undefined)) !== undefined;
  }

  /** Configured headers may hold secrets. Short values are skipped: redacting them would garble other text. */
  rememberHeaderSecrets(headers: Readonly<Record<string, readonly string[]>>): void {
    for (const value of Object.values(headers).flat())
      for (const text of [value, value.slice(value.indexOf(' ') + 1)]) if (text.length >= 8) this.#secrets.add(text);
  }

  /** Removes every secret used so far from text that a server sent. */
  redact(text: string): string {
    let shown = text;
    for (const secret of this.#secrets) shown = shown.replaceAll(secret, '***');
    return shown;
  }

  async #ask({host, scope}: TokenScope, challenges: readonly Challenge[], signal: AbortSignal | undefined): Promise<string | undefined> {
    const challenge = challenges.find(({scheme}) => scheme === 'bearer') ?? challenges.find(({scheme}) => scheme === 'basic');
    if (challenge === undefined) {
      const [other] = challenges;
      if (other === undefined) return undefined;
      throw new ErrdefsError(
        'not_implemented',
        `registry ${new URL(host.origin).host}: authentication scheme ${JSON.stringify(other.scheme)}`,
      );
    }
    const credentials = await this.#lookUp(host, signal);
    if (challenge.scheme === 'bearer') return this.#bearer({host, scope}, challenge, credentials, signal);
    // A refresh token works only at a token server; Basic needs a password.
    if (credentials === undefined || !('username' in credentials)) return undefined;
    return this.#remember({host, scope}, basic(credentials.username, credentials.password), Number.POSITIVE_INFINITY);
  }

  #lookUp({domain}: Host, signal: AbortSignal | undefined): Promise<Credentials | undefined> {
    let found = this.#credentials.get(domain);
    if (found === undefined) {
      found = this.#source(domain, signal).then((credentials) => {
        if (credentials !== undefined) this.#keepSecret(credentials);
        return credentials;
      });
      this.#credentials.set(domain, found);
      found.catch(() => this.#credentials.delete(domain));
    }
    return found;
  }

  #keepSecret(credentials: Credentials): void {
    if ('refreshToken' in credentials) {
      this.#secrets.add(credentials.refreshToken);
      return;
    }
    const {username, password} = credentials;
    // The empty string occurs in every text.
    if (password !== '') this.#secrets.add(password);
    this.#secrets.add(basic(username, password).slice('Basic '.length));
  }

  #remember(tokenScope: TokenScope, header: string, lifetimeMs: number): string {
    this.#headers.set(keyOf(tokenScope), {header, expires: performance.now() + lifetimeMs});
    return header;
  }

  async #bearer(
    {host, scope}: TokenScope,
    {params}: Challenge,
    credentials: Credentials | undefined,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const url = checkRealm(params.get('realm'), host, credentials !== undefined);
    const service = params.get('service');
    const scopes = mergeScopes(scope, params.get('scope'));
    const what = 'token';

    const byGet = (): TokenRequest => {
      const query = new URL(url);
      if (service !== undefined) query.searchParams.append('service', service);
      for (const one of scopes) query.searchParams.append('scope', one);
      const authorization =
        credentials !== undefined && 'username' in credentials ? basic(credentials.username, credentials.password) : undefined;
      return {what, host, method: 'GET', url: query, authorization, signal};
    };
    const byForm = (login: Credentials): TokenRequest => {
      const form = new URLSearchParams({client_id: CLIENT_ID, scope: scopes.join(' ')});
      if (service !== undefined) form.set('service', service);
      if ('refreshToken' in login) {
        form.set('grant_type', 'refresh_token');
        form.set('refresh_token', login.refreshToken);
      } else {
        form.set('grant_type', 'password');
        form.set('username', login.username);
        form.set('password', login.password);
      }
      return {what, host, method: 'POST', url, form, signal};
    };

    let request = credentials === undefined ? byGet() : byForm(credentials);
    let response = await this.#client.exchange(request);
    if (credentials !== undefined && 'username' in credentials && NO_FORM.has(response.status)) {
      request = byGet();
      response = await this.#client.exchange(request);
    }
    if (response.status !== 200) throw this.#client.toError(request, response, credentials === undefined ? 'none' : 'sent');
    const {token, lifetimeMs} = parseToken(response.body, `${what}: ${url.host}`);
    this.#secrets.add(token);
    return this.#remember({host, scope}, `Bearer ${token}`, lifetimeMs);
  }
}

/** The scope that pulls from a repository. */
export const pullScope = (host: Host, {path}: Pick<Reference, 'path'>): TokenScope => ({host, scope: `repository:${path}:pull`});

/** The scope that pushes to a repository. @param from another repository of the registry, to mount a blob from */
export const pushScope = (host: Host, {path}: Pick<Reference, 'path'>, from?: string): TokenScope => ({
  host,
  scope: [`repository:${path}:pull,push`, ...(from === undefined ? [] : [`repository:${from}:pull`])].join(' '),
});

/** The scope that deletes from a repository. */
export const deleteScope = (host: Host, {path}: Pick<Reference, 'path'>): TokenScope => ({host, scope: `repository:${path}:delete,pull`});

/** The scope that lists a registry's repositories. */
export const catalogScope = (host: Host): TokenScope => ({host, scope: 'registry:catalog:*'});

const keyOf = ({host, scope}: TokenScope): string => `${host.origin} ${scope}`;

/** @throws failed_precondition no token, or one with characters that no header can carry */
export function parseToken(body: Buffer, what: string): {token: string; lifetimeMs: number} {
  let fields: {token?: unknown; access_token?: unknown; expires_in?: unknown} = {};
  try {
    fields = Object(JSON.parse(body.toString()));
  } catch {
    // Not JSON, so it has no token.
  }
  const token = fields.token || fields.access_token;
  if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token))
    throw new ErrdefsError('failed_precondition', `${what}: no token in the response`);
  const seconds = fields.expires_in;
  const lifetimeMs =
    typeof seconds === 'number' && seconds > 0 ? Math.max(seconds * 1000 - MARGIN_MS, seconds * 500) : Number.POSITIVE_INFINITY;
  return {token, lifetimeMs};
}
