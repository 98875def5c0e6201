/**
 * Who we are, told only to whom it concerns: answers to registries' challenges, tokens, credentials.
 *
 * Credentials go to the origin (scheme, host and port) of the registry that they belong to, and to the token server that
 * this registry names, under the rules of `checkRealm`. Where they come from is the `CredentialSource`'s business; it is
 * asked only after a challenge, so that nothing that is wrong with a credential store can break an anonymous pull.
 *
 * Token protocol after distribution, docs/spec/auth/token.md and oauth.md, and containerd, core/remotes/docker/authorizer.go
 * and auth/fetch.go.
 */
import {ErrdefsError} from '../errdefs.ts';
import {canonicalAddress} from './address-filter.ts';
import type {Challenge} from './challenge.ts';
import {isLoopback} from './hosts.ts';
import type {CredentialSource, Credentials, Host} from './types.ts';

/** What a token server said; `body` has its first bytes. */
export interface TokenReply {
  readonly status: number;
  /** It came from the origin that was asked, not from where that redirected. */
  readonly home: boolean;
  readonly body: Buffer;
}

export interface TokenRequest {
  readonly what: string;
  /** Who named the token server. */
  readonly host: Host;
  readonly method: 'GET' | 'POST';
  readonly url: URL;
  readonly authorization?: string | undefined;
  readonly form?: URLSearchParams | undefined;
  readonly signal: AbortSignal | undefined;
}

/** The wire as this file needs it. An answer that is no success is an answer, too. */
export interface TokenClient {
  exchange(request: TokenRequest): Promise<TokenReply>;
  /** The error that a token server's refusal is. */
  refused(request: TokenRequest, reply: TokenReply, credentials: 'sent' | 'none'): ErrdefsError;
}

/** A request's place among registries and repositories. */
export interface Realm {
  readonly host: Host;
  /** Such as `repository:library/redis:pull`. */
  readonly scope: string;
}

interface Grant {
  readonly header: string;
  /** Milliseconds of `performance.now()`. */
  readonly expires: number;
}

const CLIENT_ID = 'berth';
/** A token is not used in its last seconds: the request has yet to arrive. */
const MARGIN_MS = 5000;
/** Answers to the oauth2 form that mean "not this way", to be followed by the older GET. */
const NO_FORM = new Set([400, 401, 404, 405]);

const isOwn = (url: URL, registry: URL): boolean =>
  url.hostname === registry.hostname || (isLoopback(url.hostname) && isLoopback(registry.hostname));

/** True for a bare address or a name of this machine that is not the registry's own host: a registry could aim us at other people's services. */
export const isStrangeAddress = (url: URL, {origin}: Host): boolean =>
  !isOwn(url, new URL(origin)) && (canonicalAddress(url.hostname) !== undefined || isLoopback(url.hostname));

/**
 * The token server that a challenge names, if credentials may be sent there.
 *
 * - It speaks HTTPS, unless the registry itself does not: else whoever can rewrite a challenge reads the password.
 * - It is no bare address and no name of this machine, unless it is the registry's own host: a registry must not aim us at
 *   other people's services. Another public host is right: auth.docker.io serves registry-1.docker.io.
 * - What is never connected to, with credentials or without, is in `address-filter.ts`.
 *
 * Rules after the advisories of oras-go that are named in the tests.
 *
 * @throws failed_precondition
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
  if (url.protocol === 'http:' && registry.protocol === 'https:') throw refuse('would get the credentials without TLS');
  if (isStrangeAddress(url, host)) throw refuse('is a private address; credentials are not sent there');
  return url;
}

/** Scopes of the request and of the challenge: sorted, each once. */
export const mergeScopes = (...scopes: readonly (string | undefined)[]): string[] =>
  [...new Set(scopes.flatMap((scope) => scope?.split(' ') ?? []).filter((scope) => scope !== ''))].sort();

const basic = (username: string, password: string): string => `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;

export class Authorizer {
  readonly #client: TokenClient;
  readonly #source: CredentialSource;
  readonly #credentials = new Map<string, Promise<Credentials | undefined>>();
  /** By origin and scope. */
  readonly #grants = new Map<string, Grant>();
  readonly #asking = new Map<string, Promise<string | undefined>>();
  readonly #secrets = new Set<string>();

  constructor(client: TokenClient, source: CredentialSource) {
    this.#client = client;
    this.#source = source;
  }

  /** The header to send without asking anybody. */
  current(realm: Realm): string | undefined {
    const grant = this.#grants.get(keyOf(realm));
    return grant !== undefined && grant.expires > performance.now() ? grant.header : undefined;
  }

  /**
   * The header that answers a 401, from credentials or a token server; undefined when there is none to give. Requests of
   * one scope that are refused together ask once together.
   *
   * @param used the header that was refused
   * @throws not_implemented none of the schemes is spoken here
   */
  async answer(
    realm: Realm,
    challenges: readonly Challenge[],
    used: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<string | undefined> {
    const key = keyOf(realm);
    const current = this.current(realm);
    if (current !== undefined && current !== used) return current;
    const running = this.#asking.get(key);
    // Not the other's failure, and not its signal: then this request asks for itself.
    const shared = await running?.catch(() => undefined);
    if (shared !== undefined && shared !== used) return shared;
    signal?.throwIfAborted();
    this.#grants.delete(key);
    const asked = this.#ask(realm, challenges, signal);
    this.#asking.set(key, asked);
    try {
      return await asked;
    } finally {
      if (this.#asking.get(key) === asked) this.#asking.delete(key);
    }
  }

  /** True when this registry has asked, and there were credentials for it. */
  async hasCredentials({domain}: Host): Promise<boolean> {
    return (await this.#credentials.get(domain)?.catch(() => undefined)) !== undefined;
  }

  /** What a configured header says may be a secret; what is too short to be one would only make other texts unreadable. */
  keepHeaders(headers: Readonly<Record<string, readonly string[]>>): void {
    for (const value of Object.values(headers).flat())
      for (const text of [value, value.slice(value.indexOf(' ') + 1)]) if (text.length >= 8) this.#secrets.add(text);
  }

  /** Takes every secret that has been in use out of a text that is not ours. */
  redact(text: string): string {
    let shown = text;
    for (const secret of this.#secrets) shown = shown.replaceAll(secret, '***');
    return shown;
  }

  async #ask({host, scope}: Realm, challenges: readonly Challenge[], signal: AbortSignal | undefined): Promise<string | undefined> {
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
    // A refresh token is a token server's; here only a password helps.
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
    // An empty one is in every text, and no secret.
    if (password !== '') this.#secrets.add(password);
    this.#secrets.add(basic(username, password).slice('Basic '.length));
  }

  #remember(realm: Realm, header: string, lifetimeMs: number): string {
    this.#grants.set(keyOf(realm), {header, expires: performance.now() + lifetimeMs});
    return header;
  }

  async #bearer(
    {host, scope}: Realm,
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
    let reply = await this.#client.exchange(request);
    if (credentials !== undefined && 'username' in credentials && NO_FORM.has(reply.status)) {
      request = byGet();
      reply = await this.#client.exchange(request);
    }
    if (reply.status !== 200) throw this.#client.refused(request, reply, credentials === undefined ? 'none' : 'sent');
    const {token, lifetimeMs} = parseToken(reply.body, `${what}: ${url.host}`);
    this.#secrets.add(token);
    return this.#remember({host, scope}, `Bearer ${token}`, lifetimeMs);
  }
}

const keyOf = ({host, scope}: Realm): string => `${host.origin} ${scope}`;

/** @throws failed_precondition not a token, or not one that fits into a header */
export function parseToken(body: Buffer, what: string): {token: string; lifetimeMs: number} {
  let fields: {token?: unknown; access_token?: unknown; expires_in?: unknown} = {};
  try {
    fields = Object(JSON.parse(body.toString()));
  } catch {
    // Not JSON: then it has no token either.
  }
  const token = fields.token || fields.access_token;
  if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token))
    throw new ErrdefsError('failed_precondition', `${what}: there is no token in the answer`);
  const seconds = fields.expires_in;
  const lifetimeMs =
    typeof seconds === 'number' && seconds > 0 ? Math.max(seconds * 1000 - MARGIN_MS, seconds * 500) : Number.POSITIVE_INFINITY;
  return {token, lifetimeMs};
}
