/**
 * Authentication: challenges, tokens and credentials.
 *
 * Credentials go only to the origin (scheme, host and port) of their registry, and to the token server that this registry
 * names, under the rules of `checkRealm`; over plain HTTP only to loopback, or where the user asked for it. The `CredentialSource`
 * is asked only after a challenge, so that a broken credential store cannot break an anonymous pull.
 *
 * Token protocol after distribution, docs/spec/auth/token.md and oauth.md, and containerd, core/remotes/docker/authorizer.go
 * and auth/fetch.go.
 */
import {ErrdefsError} from '../errdefs.ts';
import type {Reference} from '../oci/reference.ts';
import {canonicalAddress, isLoopback} from './address-filter.ts';
import type {Challenge} from './challenge.ts';
import type {CredentialSource, Credentials, Host, TokenStore} from './types.ts';

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
  /** Such as `repository:library/redis:pull`; several are separated by spaces. Empty for the registry as a whole. */
  readonly scope: string;
  /** The repository whose credentials count; without it, those of the registry as a whole. */
  readonly repository?: string | undefined;
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

const unsafeRealm = ({origin}: Host, realm: string | undefined, why: string): ErrdefsError => {
  const {host} = new URL(origin);
  return new ErrdefsError('failed_precondition', `registry ${host}: token server ${JSON.stringify(realm ?? '')} ${why}`, {
    details: {host},
  });
};

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
  const refuse = (why: string): ErrdefsError => unsafeRealm(host, realm, why);
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

/** True where nobody on the way can read what is sent: TLS, or this machine. */
const isConfidential = ({protocol, hostname}: URL): boolean => protocol === 'https:' || isLoopback(hostname);

/** What became of the credentials for a host: see `ErrorResponse`. */
export type CredentialUse = 'sent' | 'none' | 'plain_http';

export interface AuthorizerOptions {
  readonly source: CredentialSource;
  /** Credentials may go over plain HTTP to hosts that are not on loopback. */
  readonly plainHTTP: boolean;
  /** Tokens of other processes of the user. */
  readonly tokens?: TokenStore | undefined;
}

export class Authorizer {
  readonly #client: TokenClient;
  readonly #options: AuthorizerOptions;
  /** By origin and repository. */
  readonly #credentials = new Map<string, Promise<Credentials | undefined>>();
  /** By origin and scope. */
  readonly #headers = new Map<string, CachedHeader>();
  readonly #pending = new Map<string, Promise<string | undefined>>();
  readonly #secrets = new Set<string>();
  /** Keys in the token store of headers that came from there, by header. */
  readonly #stored = new Map<string, string>();

  constructor(client: TokenClient, options: AuthorizerOptions) {
    this.#client = client;
    this.#options = options;
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

  /** Whether this registry sent a challenge, and credentials were found for it and sent. */
  async credentialUse(tokenScope: TokenScope): Promise<CredentialUse> {
    if ((await this.#credentials.get(loginKey(tokenScope))?.catch(() => undefined)) !== undefined) return 'sent';
    return this.#maySend(new URL(tokenScope.host.origin)) ? 'none' : 'plain_http';
  }

  /**
   * True for a header that another process got, and that is now forgotten: the registry refused it, and a new one may do better.
   */
  forgetStored(tokenScope: TokenScope, header: string | undefined): boolean {
    const stored = header === undefined ? undefined : this.#stored.get(header);
    if (header === undefined || stored === undefined) return false;
    this.#stored.delete(header);
    this.#options.tokens?.delete(stored);
    if (this.#headers.get(keyOf(tokenScope))?.header === header) this.#headers.delete(keyOf(tokenScope));
    return true;
  }

  #maySend(url: URL): boolean {
    return this.#options.plainHTTP || isConfidential(url);
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

  async #ask(tokenScope: TokenScope, challenges: readonly Challenge[], signal: AbortSignal | undefined): Promise<string | undefined> {
    const {host} = tokenScope;
    const challenge = challenges.find(({scheme}) => scheme === 'bearer') ?? challenges.find(({scheme}) => scheme === 'basic');
    if (challenge === undefined) {
      const [other] = challenges;
      if (other === undefined) return undefined;
      throw new ErrdefsError(
        'not_implemented',
        `registry ${new URL(host.origin).host}: authentication scheme ${JSON.stringify(other.scheme)}`,
      );
    }
    const credentials = await this.#lookUp(tokenScope, signal);
    if (challenge.scheme === 'bearer') return this.#bearer(tokenScope, challenge, credentials, signal);
    // The other kinds of credentials work only at a token server, or as a token; Basic needs a password.
    if (credentials === undefined || !('username' in credentials)) return undefined;
    return this.#remember(tokenScope, basic(credentials.username, credentials.password), Number.POSITIVE_INFINITY);
  }

  #lookUp(tokenScope: TokenScope, signal: AbortSignal | undefined): Promise<Credentials | undefined> {
    const {host, repository} = tokenScope;
    if (!this.#maySend(new URL(host.origin))) return Promise.resolve(undefined);
    const key = loginKey(tokenScope);
    let found = this.#credentials.get(key);
    if (found === undefined) {
      found = this.#options.source({domain: host.domain, repository}, signal).then((credentials) => {
        if (credentials !== undefined) this.#keepSecret(credentials);
        return credentials;
      });
      this.#credentials.set(key, found);
      found.catch(() => this.#credentials.delete(key));
    }
    return found;
  }

  #keepSecret(credentials: Credentials): void {
    if (!('username' in credentials)) {
      this.#secrets.add('refreshToken' in credentials ? credentials.refreshToken : credentials.registryToken);
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
    tokenScope: TokenScope,
    {params}: Challenge,
    credentials: Credentials | undefined,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    // A token that is made elsewhere is used as it is.
    if (credentials !== undefined && 'registryToken' in credentials)
      return this.#remember(tokenScope, `Bearer ${credentials.registryToken}`, Number.POSITIVE_INFINITY);
    const {host, scope} = tokenScope;
    const url = checkRealm(params.get('realm'), host, credentials !== undefined);
    if (credentials !== undefined && !this.#maySend(url))
      throw unsafeRealm(host, params.get('realm'), 'does not use TLS; credentials are not sent there');
    const service = params.get('service');
    const scopes = mergeScopes(scope, params.get('scope'));
    const what = 'token';
    const stored = storeKey(host.origin, url.href, service ?? '', scopes.join(' '), credentials);
    const known = this.#options.tokens?.get(stored);
    if (known !== undefined) {
      this.#secrets.add(known.token);
      const header = `Bearer ${known.token}`;
      this.#stored.set(header, stored);
      return this.#remember(tokenScope, header, known.expires - Date.now());
    }

    const byGet = (): TokenRequest => {
      const query = new URL(url);
      if (service !== undefined) query.searchParams.append('service', service);
      for (const one of scopes) query.searchParams.append('scope', one);
      const authorization =
        credentials !== undefined && 'username' in credentials ? basic(credentials.username, credentials.password) : undefined;
      return {what, host, method: 'GET', url: query, authorization, signal};
    };
    const byForm = (login: Exclude<Credentials, {readonly registryToken: string}>): TokenRequest => {
      const form = new URLSearchParams({client_id: CLIENT_ID});
      if (scopes.length > 0) form.set('scope', scopes.join(' '));
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
    // Without a stated end a token is good for a minute (token.md), so that it is not worth keeping for others.
    if (Number.isFinite(lifetimeMs)) this.#options.tokens?.set(stored, token, Date.now() + lifetimeMs);
    return this.#remember(tokenScope, `Bearer ${token}`, lifetimeMs);
  }
}

/** The scope of a ping: of a repository, or without any rights. */
export const pingScope = (host: Host, path: string | undefined): TokenScope =>
  path === undefined ? {host, scope: ''} : pullScope(host, {path});

/** The scope that pulls from a repository. */
export const pullScope = (host: Host, {path}: Pick<Reference, 'path'>): TokenScope => ({
  host,
  scope: `repository:${path}:pull`,
  repository: path,
});

/** The scope that pushes to a repository. @param from another repository of the registry, to mount a blob from */
export const pushScope = (host: Host, {path}: Pick<Reference, 'path'>, from?: string): TokenScope => ({
  host,
  scope: [`repository:${path}:pull,push`, ...(from === undefined ? [] : [`repository:${from}:pull`])].join(' '),
  repository: path,
});

/** The scope that deletes from a repository. */
export const deleteScope = (host: Host, {path}: Pick<Reference, 'path'>): TokenScope => ({
  host,
  scope: `repository:${path}:delete,pull`,
  repository: path,
});

/** The scope that lists a registry's repositories. */
export const catalogScope = (host: Host): TokenScope => ({host, scope: 'registry:catalog:*'});

const keyOf = ({host, scope}: TokenScope): string => `${host.origin} ${scope}`;
const loginKey = ({host, repository}: TokenScope): string => `${host.origin} ${host.domain} ${repository ?? ''}`;

/** The name of a token in the store: whose it is, and what for. Credentials count as their hash. */
function storeKey(origin: string, realm: string, service: string, scopes: string, credentials: Credentials | undefined): string {
  const {createHash} = process.getBuiltinModule('node:crypto');
  const hash = (parts: unknown): string => createHash('sha256').update(JSON.stringify(parts)).digest('hex');
  return hash([origin, realm, service, scopes, credentials === undefined ? '' : hash(Object.entries(credentials).sort())]);
}

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
