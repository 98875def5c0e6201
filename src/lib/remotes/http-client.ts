/** A request until its final answer: redirects, challenges, repeats. */
import {setTimeout as sleep} from 'node:timers/promises';
import {type ErrdefsError, wrap} from '../errdefs.ts';
import {Authorizer, isStrangeAddress, type Realm, type TokenReply, type TokenRequest} from './auth.ts';
import {parseChallenges} from './challenge.ts';
import {decode} from './content-encoding.ts';
import {type Attempt, interruption, refusal, refusedBy, WIRE, WireError, wireFailure} from './errors.ts';
import {ATTEMPTS, ATTEMPTS_BEFORE_NEXT, backoff, isTemporary, MAX_WAIT_MS, parseRetryAfter} from './retry.ts';
import {type BodySink, ENOUGH, type Head, type Transport} from './transport.ts';
import type {CredentialSource, Host} from './types.ts';

export interface Request {
  /** Verb and object, for messages. */
  readonly what: string;
  readonly method: 'GET' | 'HEAD' | 'POST';
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  readonly form?: URLSearchParams | undefined;
  /** The registry's realm, whose challenges are answered; without one the request goes without credentials. */
  readonly realm?: Realm | undefined;
  /** Whose ways to connect hold, without a realm. */
  readonly host?: Host | undefined;
  /** Credentials that are decided already. */
  readonly authorization?: string | undefined;
  readonly signal: AbortSignal | undefined;
  /** Takes the body of a success. Called anew for every attempt. */
  readonly onBody: (head: Head, on: Attempt) => BodySink;
  /** A body that broke off is asked for again from its beginning. Otherwise that is thrown as `WireError`. */
  readonly restartable: boolean;
  /** There is another host to ask, so that none is waited for: a temporary failure is final here, and a broken connection tried once more. */
  readonly hasNext?: boolean | undefined;
  /** The answer will be checked against a digest, so that its way need not be trusted: HTTPS may redirect to HTTP. */
  readonly checked: boolean;
}

/** The final answer. */
export interface Reply extends Head {
  /** First bytes of the body of what is no success. */
  readonly body: Buffer;
  readonly on: Attempt;
  /** It came from the origin that was asked, not from where that redirected. */
  readonly home: boolean;
}

const MAX_REDIRECTS = 10;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
/** What is read of a body that is not the one that was asked for. */
const ERROR_BODY_LIMIT = 8 * 1024;
const TOKEN_LIMIT = 128 * 1024;

/** @returns a sink that keeps what comes first */
export function collect(chunks: Buffer[], limit: number): BodySink {
  let room = limit;
  return (chunk) => {
    chunks.push(room < chunk.length ? chunk.subarray(0, room) : chunk);
    room -= Math.min(room, chunk.length);
    return room === 0 ? ENOUGH : undefined;
  };
}

const first = (header: string | string[] | undefined): string | undefined => (Array.isArray(header) ? header[0] : header);

export interface SessionOptions {
  readonly backoffMs: number;
  readonly userAgent: string;
  readonly onDebug?: ((line: string) => void) | undefined;
}

export class Session {
  readonly #transport: Transport;
  readonly #options: SessionOptions;
  readonly #authorizer: Authorizer;
  /** Origins that have answered. */
  readonly #seen = new Set<string>();
  /** Origins that have at least taken a connection: one that is refused or unresolved later may be restarting. */
  readonly #reached = new Set<string>();
  /** Origins whose verdict on a connection has been asked for. */
  readonly #asked = new Set<string>();
  /** Whether an origin of plain HTTP speaks TLS. */
  readonly #secure = new Map<string, Promise<boolean>>();
  /** When an origin that asked for patience may be asked again, in milliseconds of `performance.now()`. */
  readonly #notBefore = new Map<string, number>();

  constructor(transport: Transport, source: CredentialSource, options: SessionOptions) {
    this.#transport = transport;
    this.#options = options;
    this.#authorizer = new Authorizer(
      {
        exchange: (request) => this.#askToken(request),
        refused: ({what, host, url}, {status, body, home}, credentials) =>
          refusedBy(
            {
              from: 'token server',
              status,
              body: home && !isStrangeAddress(url, host) ? body : Buffer.alloc(0),
              credentials,
              insufficientScope: false,
            },
            {what, url, attempt: 1},
            (text) => this.#authorizer.redact(text),
          ),
      },
      source,
    );
  }

  /**
   * Sends a request until its answer is final: any answer but one that a repeat may cure, or that one at the last attempt.
   *
   * @throws WireError a body that is not restartable broke off, or stalled
   * @throws ErrdefsError every other failure
   * @throws whatever `onBody` or its sink threw, as it is
   */
  async send(request: Request): Promise<Reply> {
    const {what, url, signal, restartable, hasNext = false} = request;
    const attempts = hasNext ? ATTEMPTS_BEFORE_NEXT : ATTEMPTS;
    for (let attempt = 1; ; attempt++) {
      let started = false;
      let pause: number | undefined;
      try {
        await this.#patience(url.origin, signal);
        const reply = await this.#follow(request, attempt, () => {
          started = true;
        });
        // Servers of TLS answer so what is none.
        if (reply.status === 400 && reply.on.url.protocol === 'http:' && (await this.#speaksTLS(reply.on.url)))
          throw wireFailure(new WireError('secure'), reply.on);
        pause = hasNext ? undefined : this.#pauseAfter(reply, attempt);
        if (pause === undefined) return reply;
      } catch (err) {
        if (signal?.aborted) throw interruption(what, signal.reason);
        if (!(err instanceof WireError)) throw err;
        if (started && !restartable) throw err;
        const at = err.url ?? url;
        if (WIRE[err.kind].temporary) this.#reached.add(at.origin);
        const reason = await this.#reasonOf(err, at, request.realm?.host ?? request.host);
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

  /** Why an origin that has never answered hangs up, or talks nonsense; undefined when that cannot be found out. Looked for once. */
  async #reasonOf(err: WireError, url: URL, host: Host | undefined): Promise<WireError | undefined> {
    const {origin, protocol} = url;
    if ((err.kind !== 'broken' && err.kind !== 'garbled') || this.#seen.has(origin)) return undefined;
    if (protocol === 'http:') return (await this.#speaksTLS(url)) ? new WireError('secure', err.cause) : undefined;
    if (this.#asked.has(origin)) return undefined;
    this.#asked.add(origin);
    const verdict = await this.#transport.verdict(url, host?.connection);
    return verdict?.kind === 'client_certificate' ? verdict : undefined;
  }

  #speaksTLS(url: URL): Promise<boolean> {
    let answer = this.#secure.get(url.origin);
    if (answer === undefined) {
      answer = this.#transport.speaksTLS(url);
      this.#secure.set(url.origin, answer);
    }
    return answer;
  }

  /** @throws canceled or deadline_exceeded by the signal */
  async pause(ms: number, what: string, signal: AbortSignal | undefined): Promise<void> {
    try {
      await sleep(ms, undefined, signal === undefined ? {} : {signal});
    } catch {
      throw interruption(what, signal?.reason);
    }
  }

  /** The pause after the n-th pause-worthy event, jittered. */
  backoff(n: number): number {
    return backoff(n, this.#options.backoffMs);
  }

  /** The error that an answer without success is. */
  async refused({status, headers, body, on, home}: Reply, realm: Realm | undefined): Promise<ErrdefsError> {
    const retryAfter = first(headers['retry-after']);
    const challenges = parseChallenges(headers['www-authenticate']);
    return refusedBy(
      {
        from: 'registry',
        status,
        body,
        credentials: !home || realm === undefined ? 'withheld' : (await this.#authorizer.hasCredentials(realm.host)) ? 'sent' : 'none',
        insufficientScope: challenges.some(({params}) => params.get('error') === 'insufficient_scope'),
        retryAfterMs: retryAfter === undefined ? undefined : parseRetryAfter(retryAfter, Date.now()),
        rateLimitRemaining: status === 429 ? first(headers['ratelimit-remaining']) : undefined,
      },
      on,
      (text) => this.#authorizer.redact(text),
    );
  }

  /** Waits out what an origin asked for, also when it asked it of another request. */
  async #patience(origin: string, signal: AbortSignal | undefined): Promise<void> {
    const ms = (this.#notBefore.get(origin) ?? 0) - performance.now();
    if (ms > 0) await sleep(ms, undefined, signal === undefined ? {} : {signal});
  }

  /**
   * The pause before an answer's request is repeated; undefined when the answer is final. So is one whose `Retry-After`
   * is longer than a command may hang: to ask earlier would be what it forbids.
   */
  #pauseAfter({status, headers, on}: Reply, attempt: number): number | undefined {
    if (!isTemporary(status) || attempt >= ATTEMPTS) return undefined;
    const header = first(headers['retry-after']);
    const asked = header === undefined ? undefined : parseRetryAfter(header, Date.now());
    if (asked === undefined) return backoff(attempt, this.#options.backoffMs);
    if (asked > MAX_WAIT_MS) return undefined;
    this.#notBefore.set(on.url.origin, performance.now() + asked);
    return Math.max(asked + Math.random() * this.#options.backoffMs, backoff(attempt, this.#options.backoffMs));
  }

  /**
   * One attempt, through redirects and at most one answer to a challenge.
   *
   * Credentials stay with the origin (scheme, host and port) that the request was addressed to: once a redirect leaves it,
   * they are not sent, not even back at home, and no challenge is answered.
   */
  async #follow(request: Request, attempt: number, onStart: () => void): Promise<Reply> {
    const {what, method, form, realm, signal, onBody} = request;
    const host = realm?.host ?? request.host;
    const headers = host?.headers !== undefined && host.origin === request.url.origin ? host.headers : {};
    this.#authorizer.keepHeaders(headers);
    let url = request.url;
    let home = true;
    let challenged = false;
    let authorization = realm === undefined ? request.authorization : this.#authorizer.current(realm);
    for (let redirects = 0; ; ) {
      const on: Attempt = {what, url, attempt};
      const started = performance.now();
      const chunks: Buffer[] = [];
      let head: Head | undefined;
      const exchange = this.#transport.exchange({
        method,
        url,
        headers: {
          'user-agent': this.#options.userAgent,
          'accept-encoding': 'identity',
          ...(home ? headers : {}),
          ...request.headers,
          ...(form === undefined ? {} : {'content-type': 'application/x-www-form-urlencoded'}),
          ...(home && authorization !== undefined ? {authorization} : {}),
        },
        connection: host?.connection,
        body: form?.toString(),
        signal,
        onHead: (got) => {
          head = got;
          this.#seen.add(url.origin);
          this.#reached.add(url.origin);
          this.#debug(method, url, () => `${got.status} after ${Math.round(performance.now() - started)} ms`);
          if (got.status >= 300) return collect(chunks, ERROR_BODY_LIMIT);
          onStart();
          return decode(got, on, onBody(got, on));
        },
      });
      await exchange.catch((err: unknown) => {
        if (err instanceof WireError) this.#debug(method, url, () => WIRE[err.kind].text);
        throw err;
      });
      const {status, headers: answered} = head!;
      const {location} = answered;
      if (REDIRECTS.has(status) && location !== undefined && method !== 'POST') {
        if (++redirects > MAX_REDIRECTS) throw refusal(on, `more than ${MAX_REDIRECTS} redirects`);
        const next = redirectTarget(location, on, request.checked);
        home &&= next.origin === url.origin;
        url = next;
        continue;
      }
      if (status === 401 && home && realm !== undefined && !challenged) {
        challenged = true;
        const challenges = parseChallenges(answered['www-authenticate']);
        const answer = await this.#authorizer.answer(realm, challenges, authorization, signal).catch((err: unknown) => {
          throw wrap(what, err);
        });
        if (answer !== undefined) {
          authorization = answer;
          continue;
        }
      }
      return {status, headers: answered, body: Buffer.concat(chunks), on, home};
    }
  }

  #debug(method: string, {origin, pathname, searchParams}: URL, what: () => string): void {
    if (this.#options.onDebug === undefined) return;
    const ns = searchParams.get('ns');
    this.#options.onDebug(`${method} ${origin}${pathname}${ns === null ? '' : `?ns=${ns}`}: ${what()}`);
  }

  async #askToken({what, host, method, url, authorization, form, signal}: TokenRequest): Promise<TokenReply> {
    let chunks: Buffer[] = [];
    const reply = await this.send({
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
        return collect(chunks, TOKEN_LIMIT);
      },
      restartable: true,
      checked: false,
    });
    const {status, home} = reply;
    return {status, home, body: status < 300 ? Buffer.concat(chunks) : reply.body};
  }
}

/** @throws failed_precondition the target is no place to go */
function redirectTarget(location: string, on: Attempt, checked: boolean): URL {
  const target = URL.parse(location, on.url.href);
  if (target === null || (target.protocol !== 'https:' && target.protocol !== 'http:'))
    throw refusal(on, 'redirects to a URL that is not HTTP');
  if (target.protocol === 'http:' && on.url.protocol === 'https:' && !checked)
    throw refusal(on, `redirects from HTTPS to ${target.origin}`);
  return target;
}
