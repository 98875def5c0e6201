/** Sends a request until its final response: follows redirects, answers challenges, retries. */
import {setTimeout as sleep} from 'node:timers/promises';
import {type ErrdefsError, wrap} from '../errdefs.ts';
import {Authorizer, isUnrelatedAddress, type TokenRequest, type TokenResponse, type TokenScope} from './auth.ts';
import {parseChallenges} from './challenge.ts';
import {decode} from './content-encoding.ts';
import {coolDown, ownCoolDowns, WaitBudget} from './cool-downs.ts';
import {abortError, protocolError, type RequestContext, registryError, WIRE, WireError, wireFailure} from './errors.ts';
import {requestHead, responseHead, shownURL} from './http-dump.ts';
import {backoff, isTemporary, MAX_ATTEMPTS, MAX_ATTEMPTS_WITH_FALLBACK, MAX_WAIT_MS, retryAfterOf} from './retry.ts';
import type {CoolDowns, CredentialSource, Host, TokenStore} from './types.ts';
import {type BodySink, ENOUGH, type Method, type RequestBody, type ResponseHead, type Transport} from './undici-exchange.ts';

export interface Request {
  /** Verb and object, for errors. */
  readonly what: string;
  readonly method: Method;
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  readonly form?: URLSearchParams | undefined;
  /** Sent again from its start after a challenge, a redirect and for a retry. */
  readonly body?: RequestBody | undefined;
  /** Size of a streamed body in bytes. */
  readonly bodyLength?: number | undefined;
  /** See `Exchange`. */
  readonly patience?: number | undefined;
  /** The token scope for challenges; without it the request gets no credentials. */
  readonly scope?: TokenScope | undefined;
  /** The host whose connection settings apply, without a scope. */
  readonly host?: Host | undefined;
  /** A fixed `Authorization` header. */
  readonly authorization?: string | undefined;
  readonly signal: AbortSignal | undefined;
  /** See `Exchange`; called once per attempt. */
  readonly onSend?: (() => void) | undefined;
  /** Returns the sink for the body of a success. Called once per attempt. */
  readonly onBody: (head: ResponseHead, context: RequestContext) => BodySink;
  /** A broken body is requested again from its start. Without it, that is a `WireError`. */
  readonly restartable: boolean;
  /**
   * The caller knows how to go on after a broken connection and a temporary failure status: they are a `WireError` and a response, and
   * nothing is repeated here.
   */
  readonly resumable?: boolean | undefined;
  /** Another host follows, so this one gets few retries: a temporary failure status is final, a broken connection is retried once. */
  readonly hasFallback?: boolean | undefined;
  /**
   * The caller goes on with another request to the same host after a failure: as `hasFallback`, but a cool-down is waited for, because the
   * other request would have to wait, too.
   */
  readonly fallback?: 'same-host' | undefined;
  /** The caller verifies the digest, so HTTPS may redirect to HTTP. */
  readonly digestVerified: boolean;
}

/** A final response. */
export interface HttpResponse extends ResponseHead {
  /** The first bytes of the body of a failure. */
  readonly body: Buffer;
  readonly context: RequestContext;
  /** False after a redirect to another origin. */
  readonly sameOrigin: boolean;
}

const MAX_REDIRECTS = 10;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
/** Redirects that repeat method and body; after the others some clients turn POST into GET. */
const KEEP_METHOD = new Set([307, 308]);
/** Bytes to read of the body of a failure. */
const ERROR_BODY_LIMIT = 8 * 1024;
const TOKEN_LIMIT = 128 * 1024;

/** @returns a sink that keeps the first `limit` bytes */
export function keepFirstBytes(chunks: Buffer[], limit: number): BodySink {
  let room = limit;
  return (chunk) => {
    chunks.push(room < chunk.length ? chunk.subarray(0, room) : chunk);
    room -= Math.min(room, chunk.length);
    return room === 0 ? ENOUGH : undefined;
  };
}

const first = (header: string | string[] | undefined): string | undefined => (Array.isArray(header) ? header[0] : header);

export interface HttpClientOptions {
  readonly backoffMs: number;
  readonly userAgent: string;
  readonly onDebug?: ((line: string) => void) | undefined;
  readonly onDump?: ((text: string) => void) | undefined;
  readonly onTrace?: ((line: string) => void) | undefined;
  /** Credentials may go over plain HTTP. */
  readonly plainHTTP: boolean;
  readonly tokens?: TokenStore | undefined;
  readonly coolDowns?: CoolDowns | undefined;
}

export class HttpClient {
  readonly #transport: Transport;
  readonly #options: HttpClientOptions;
  readonly #authorizer: Authorizer;
  /** Origins that have sent a response. */
  readonly #responded = new Set<string>();
  /** Origins that have accepted a connection; one that refuses later may be restarting. */
  readonly #reached = new Set<string>();
  /** Origins whose TLS rejection was looked up. */
  readonly #rejectionsLookedUp = new Set<string>();
  /** Whether the port of a plain HTTP origin speaks TLS. */
  readonly #tlsPorts = new Map<string, Promise<boolean>>();
  readonly #coolDowns: CoolDowns;

  constructor(transport: Transport, source: CredentialSource, options: HttpClientOptions) {
    this.#transport = transport;
    this.#options = options;
    this.#coolDowns = options.coolDowns ?? ownCoolDowns();
    this.#authorizer = new Authorizer(
      {
        exchange: (request) => this.#askToken(request),
        toError: ({what, host, url}, {status, body, sameOrigin}, credentials) =>
          registryError(
            {
              from: 'token server',
              status,
              body: sameOrigin && !isUnrelatedAddress(url, host) ? body : Buffer.alloc(0),
              credentials,
              insufficientScope: false,
            },
            {what, url, attempt: 1},
            (text) => this.#authorizer.redact(text),
          ),
      },
      {source, plainHTTP: options.plainHTTP, tokens: options.tokens},
    );
  }

  /**
   * Sends a request until its response is final: not worth a retry, or the last attempt.
   *
   * @throws WireError a body that is not restartable broke off, or stalled; with `resumable` every broken connection
   * @throws ErrdefsError every other failure
   * @throws errors of `onBody` and its sink, unchanged
   */
  async send(request: Request): Promise<HttpResponse> {
    const {what, url, signal, restartable, resumable = false, fallback} = request;
    const waits = fallback === 'same-host';
    const hasFallback = waits || (request.hasFallback ?? false);
    const attempts = hasFallback ? MAX_ATTEMPTS_WITH_FALLBACK : MAX_ATTEMPTS;
    const budget = new WaitBudget(this.#coolDowns, hasFallback && !waits ? 0 : MAX_WAIT_MS);
    for (let attempt = 1; ; attempt++) {
      let started = false;
      let pause: number | undefined;
      try {
        const wait = budget.take(url, what);
        if (wait > 0) await this.pause(wait + Math.random() * this.#options.backoffMs, what, signal);
        const response = await this.#attempt(request, attempt, () => {
          started = true;
        });
        // TLS servers answer plain HTTP with 400.
        if (response.status === 400 && response.context.url.protocol === 'http:' && (await this.#speaksTLS(response.context.url)))
          throw wireFailure(new WireError('secure'), response.context);
        if (resumable) return response;
        pause = this.pauseAfter(response, attempt);
        if (pause === undefined || (hasFallback && !(waits && asksToWait(response)))) return response;
      } catch (err) {
        if (signal?.aborted) throw abortError(what, signal.reason);
        if (!(err instanceof WireError)) throw err;
        if (started && !restartable) throw err;
        const at = err.url ?? url;
        if (WIRE[err.kind].temporary) this.#reached.add(at.origin);
        if (resumable && this.#isTemporary(err, at)) throw err;
        const reason = await this.#reasonOf(err, at, request.scope?.host ?? request.host);
        if (reason !== undefined) throw wireFailure(reason, {what, url: at, attempt});
        if (!this.#isTemporary(err, at) || attempt >= attempts) throw wireFailure(err, {what, url, attempt});
        pause = backoff(attempt, this.#options.backoffMs);
      }
      await this.pause(pause, what, signal);
    }
  }

  #isTemporary({kind}: WireError, {origin}: URL): boolean {
    const {temporary, restart = false}: {readonly temporary: boolean; readonly restart?: boolean} = WIRE[kind];
    return temporary || (restart && this.#reached.has(origin));
  }

  /** Finds the reason why an origin that never responded closes the connection or sends garbage. Tried once per origin. */
  async #reasonOf(err: WireError, url: URL, host: Host | undefined): Promise<WireError | undefined> {
    const {origin, protocol} = url;
    if ((err.kind !== 'broken' && err.kind !== 'garbled') || this.#responded.has(origin)) return undefined;
    if (protocol === 'http:') return (await this.#speaksTLS(url)) ? new WireError('secure', err.cause) : undefined;
    if (this.#rejectionsLookedUp.has(origin)) return undefined;
    this.#rejectionsLookedUp.add(origin);
    const tlsRejection = await this.#transport.tlsRejection(url, host?.connection);
    return tlsRejection?.kind === 'client_certificate' ? tlsRejection : undefined;
  }

  #speaksTLS(url: URL): Promise<boolean> {
    let answer = this.#tlsPorts.get(url.origin);
    if (answer === undefined) {
      answer = this.#transport.speaksTLS(url);
      this.#tlsPorts.set(url.origin, answer);
    }
    return answer;
  }

  /** @throws canceled or deadline_exceeded by the signal */
  async pause(ms: number, what: string, signal: AbortSignal | undefined): Promise<void> {
    try {
      await sleep(ms, undefined, signal === undefined ? {} : {signal});
    } catch {
      throw abortError(what, signal?.reason);
    }
  }

  /** The pause in milliseconds before the n-th retry, jittered. */
  backoff(n: number): number {
    return backoff(n, this.#options.backoffMs);
  }

  /** Whether a host asked for credentials and got some. */
  async usedCredentials(scope: TokenScope): Promise<boolean> {
    return (await this.#authorizer.credentialUse(scope)) === 'sent';
  }

  /** The error for a failure response. */
  async toError({status, headers, body, context, sameOrigin}: HttpResponse, scope: TokenScope | undefined): Promise<ErrdefsError> {
    const challenges = parseChallenges(headers['www-authenticate']);
    return registryError(
      {
        from: 'registry',
        status,
        body,
        credentials: !sameOrigin || scope === undefined ? 'withheld' : await this.#authorizer.credentialUse(scope),
        insufficientScope: challenges.some(({params}) => params.get('error') === 'insufficient_scope'),
        retryAfterMs: retryAfterOf(headers),
        rateLimitRemaining: status === 429 ? first(headers['ratelimit-remaining']) : undefined,
      },
      context,
      (text) => this.#authorizer.redact(text),
    );
  }

  /**
   * The pause in milliseconds before a retry; undefined for a final response. A `Retry-After` that is too long to wait for
   * makes the response final. What a 429 or a `Retry-After` asks for is a cool-down of the origin, for all requests to it.
   */
  pauseAfter({status, headers, context}: HttpResponse, attempt: number): number | undefined {
    if (!isTemporary(status)) return undefined;
    const asked = retryAfterOf(headers);
    const own = backoff(attempt, this.#options.backoffMs);
    if (asked !== undefined || status === 429) coolDown(this.#coolDowns, context.url, status, asked ?? own);
    if (attempt >= MAX_ATTEMPTS || (asked ?? 0) > MAX_WAIT_MS) return undefined;
    return asked === undefined ? own : Math.max(asked + Math.random() * this.#options.backoffMs, own);
  }

  /**
   * One attempt, including redirects and at most one challenge; two, if the first was answered with another process's token.
   *
   * A request that is neither GET nor HEAD follows a redirect only if the status keeps method and body (307, 308).
   *
   * Credentials go only to the origin (scheme, host and port) of the request. After a redirect to another origin they are not
   * sent, not even on a redirect back, and challenges are ignored.
   */
  async #attempt(request: Request, attempt: number, onStart: () => void): Promise<HttpResponse> {
    const {what, method, form, bodyLength, patience, scope, signal, onSend, onBody} = request;
    const host = scope?.host ?? request.host;
    const headers = host?.headers !== undefined && host.origin === request.url.origin ? host.headers : {};
    this.#authorizer.rememberHeaderSecrets(headers);
    let url = request.url;
    let sameOrigin = true;
    let challenged = false;
    let authorization = scope === undefined ? request.authorization : this.#authorizer.current(scope);
    for (let redirects = 0; ; ) {
      const context: RequestContext = {what, url, attempt};
      const started = performance.now();
      const chunks: Buffer[] = [];
      let head: ResponseHead | undefined;
      const sent = {
        'user-agent': this.#options.userAgent,
        'accept-encoding': 'identity',
        ...(sameOrigin ? headers : {}),
        ...request.headers,
        ...(form === undefined ? {} : {'content-type': 'application/x-www-form-urlencoded'}),
        ...(sameOrigin && authorization !== undefined ? {authorization} : {}),
      };
      this.#dump(() => requestHead(method, url, sent, Object.keys(headers)));
      this.#options.onTrace?.(`${method} ${shownURL(url)}: sent`);
      const exchange = this.#transport.exchange({
        method,
        url,
        headers: sent,
        connection: host?.connection,
        body: form?.toString() ?? request.body,
        bodyLength,
        patience,
        signal,
        onSend,
        onHead: (got) => {
          head = got;
          this.#responded.add(url.origin);
          this.#reached.add(url.origin);
          this.#debug(method, url, () => `${got.status} after ${Math.round(performance.now() - started)} ms`);
          this.#dump(() => responseHead(got));
          this.#options.onTrace?.(`${method} ${shownURL(url)}: ${got.status} after ${(performance.now() - started).toFixed(1)} ms`);
          if (got.status >= 300) return keepFirstBytes(chunks, ERROR_BODY_LIMIT);
          onStart();
          return decode(got, context, onBody(got, context));
        },
      });
      await exchange.catch((err: unknown) => {
        if (err instanceof WireError) this.#debug(method, url, () => WIRE[err.kind].text);
        throw err;
      });
      const {status, headers: answered} = head!;
      const {location} = answered;
      if (location !== undefined && (method === 'GET' || method === 'HEAD' ? REDIRECTS : KEEP_METHOD).has(status) && form === undefined) {
        if (++redirects > MAX_REDIRECTS) throw protocolError(context, `more than ${MAX_REDIRECTS} redirects`);
        const next = redirectTarget(location, context, request.digestVerified);
        sameOrigin &&= next.origin === url.origin;
        url = next;
        continue;
      }
      // The user may have got other rights since the token was made.
      if ((status === 401 || status === 403) && sameOrigin && scope !== undefined && this.#authorizer.forgetStored(scope, authorization)) {
        authorization = undefined;
        challenged = false;
        continue;
      }
      if (status === 401 && sameOrigin && scope !== undefined && !challenged) {
        challenged = true;
        const challenges = parseChallenges(answered['www-authenticate']);
        const granted = await this.#authorizer.authorize(scope, challenges, authorization, signal).catch((err: unknown) => {
          throw wrap(what, err);
        });
        if (granted !== undefined) {
          authorization = granted;
          continue;
        }
      }
      return {status, headers: answered, body: Buffer.concat(chunks), context, sameOrigin};
    }
  }

  #dump(text: () => string): void {
    this.#options.onDump?.(this.#authorizer.redact(text()));
  }

  #debug(method: string, {origin, pathname, searchParams}: URL, what: () => string): void {
    if (this.#options.onDebug === undefined) return;
    const ns = searchParams.get('ns');
    this.#options.onDebug(`${method} ${origin}${pathname}${ns === null ? '' : `?ns=${ns}`}: ${what()}`);
  }

  async #askToken({what, host, method, url, authorization, form, signal}: TokenRequest): Promise<TokenResponse> {
    let chunks: Buffer[] = [];
    const response = await this.send({
      what,
      host,
      method,
      url,
      form,
      authorization,
      signal,
      headers: {accept: 'application/json'},
      onBody: () => {
        chunks = [];
        return keepFirstBytes(chunks, TOKEN_LIMIT);
      },
      restartable: true,
      digestVerified: false,
    });
    const {status, sameOrigin} = response;
    return {status, sameOrigin, body: status < 300 ? Buffer.concat(chunks) : response.body};
  }
}

const asksToWait = ({status, headers}: ResponseHead): boolean => status === 429 || retryAfterOf(headers) !== undefined;

/** @throws failed_precondition not an HTTP URL, or an unsafe one */
export function redirectTarget(location: string, context: RequestContext, digestVerified: boolean): URL {
  const target = URL.parse(location, context.url.href);
  if (target === null || (target.protocol !== 'https:' && target.protocol !== 'http:'))
    throw protocolError(context, 'redirects to something other than an HTTP URL');
  if (target.protocol === 'http:' && context.url.protocol === 'https:' && !digestVerified)
    throw protocolError(context, `redirects from HTTPS to ${target.origin}`);
  return target;
}
