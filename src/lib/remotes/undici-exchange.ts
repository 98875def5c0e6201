/**
 * Sends one HTTP request: no redirects, no retries, no authentication. The only importer of undici.
 *
 * HTTP/1.1, one connection per concurrent request: layers are few and large, so HTTP/2 would only add its flow control. Bodies
 * arrive through handlers of undici's dispatcher as the socket's own buffers, without a stream. Pausing a body stops reading from
 * its socket.
 */
import type {IncomingHttpHeaders} from 'node:http';
import type {Socket} from 'node:net';
import type {Readable} from 'node:stream';
import type {SecureContext, TLSSocket} from 'node:tls';
import type {buildConnector, Dispatcher} from 'undici';
import {ErrdefsError} from '../errdefs.ts';
import {AddressFilter} from './address-filter.ts';
import type {RateLimit} from './bandwidth-limit.ts';
import {fromTransport, WireError} from './errors.ts';
import {proxyAuthorization, proxyOrigin, requestTunnel} from './proxy.ts';
import {systemCertificates} from './system-ca.ts';
import {clientHello, protocolOf} from './tls-probe.ts';
import type {Connection, Network, Sink} from './types.ts';

export interface ResponseHead {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
}

/** Returned by a sink that needs no more bytes: the exchange succeeds, its connection is closed. */
export const ENOUGH = Symbol('enough');

export interface BodySink {
  (chunk: Buffer): ReturnType<Sink> | typeof ENOUGH;
  /** Called after a complete body, before the exchange resolves. */
  end?(): Promise<void>;
}

export type Method = 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

/** Bytes of a request; a function streams them, and is called once per attempt. */
export type RequestBody = string | Buffer | (() => AsyncIterable<Uint8Array>);

export interface Exchange {
  readonly method: Method;
  /** Credentials in the URL are not sent. */
  readonly url: URL;
  readonly headers: Record<string, string | string[]>;
  /** Default: the transport's options. */
  readonly connection?: Connection | undefined;
  readonly body?: RequestBody | undefined;
  /** Size of a streamed body in bytes; without it the body is sent in chunks of HTTP/1.1. */
  readonly bodyLength?: number | undefined;
  /** How long the server may take from the last byte of the body to the head of its response, in stall timeouts. Default 1. */
  readonly patience?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called when a connection takes the request, which it then writes. */
  readonly onSend?: (() => void) | undefined;
  /** Called once, with the head of the response; returns the sink for the body. An error it throws ends the exchange. */
  readonly onHead: (head: ResponseHead) => BodySink;
}

export interface TransportOptions {
  /** 0: no limit. */
  readonly connectTimeoutMs: number;
  /** 0: no limit. */
  readonly stallTimeoutMs: number;
  readonly skipVerify: boolean;
  readonly network?: Network | undefined;
  /** The proxy for a URL, without regard to `Connection.proxy`. Default: none. */
  readonly proxyFor?: ((url: URL) => URL | undefined) | undefined;
  /** Gets a line for each step of a connection. */
  readonly onTrace?: ((line: string) => void) | undefined;
  readonly rateLimit?: RateLimit | undefined;
}

/** The agents of one kind of connection. */
interface Agents {
  readonly direct: Dispatcher;
  /** Its requests are for plain HTTP hosts and carry whole URLs. */
  forward(proxy: URL): Dispatcher;
  destroy(): Promise<void>;
}

type Connector = (target: buildConnector.Options, callback: buildConnector.Callback) => Socket;
type Connect = (target: buildConnector.Options, callback: buildConnector.Callback) => void;

/** A body with fewer bytes than this per stall timeout counts as stalled, so that a trickle cannot keep a transfer alive. */
export const TRICKLE_BYTES = 4096;

/** A streamed body is sent in pieces of at most so many bytes: what the socket has taken is known piece by piece. */
const PIECE_BYTES = 1 << 16;

/** Milliseconds to wait for a server to close or answer an idle connection. */
const VERDICT_MS = 1000;

export class Transport {
  readonly #options: TransportOptions;
  readonly #connecting = new Set<Socket>();
  /** One agent per connection settings, so that connections are not shared between them. */
  readonly #agents = new Map<Connection | undefined, Promise<Agents>>();
  readonly #connectors = new Map<Connection | undefined, Connect>();
  readonly #addresses = new AddressFilter();
  #closed = false;

  constructor(options: TransportOptions) {
    this.#options = options;
  }

  /** Loads undici. `exchange` does so too; calling this early overlaps it with other waits. */
  open(connection?: Connection): Promise<unknown> {
    return this.#agentsFor(connection);
  }

  #agentsFor(connection: Connection | undefined): Promise<Agents> {
    let agent = this.#agents.get(connection);
    if (agent === undefined) {
      agent = this.#openAgent(connection);
      this.#agents.set(connection, agent);
    }
    return agent;
  }

  /** Allows a link-local address. @param host as the user named it */
  allow(host: string): void {
    this.#addresses.allow(host);
  }

  async #openAgent(connection: Connection | undefined): Promise<Agents> {
    const [{default: Agent}, {default: build}] = await Promise.all([
      import('undici/lib/dispatcher/agent.js'),
      import('undici/lib/core/connect.js'),
    ]);
    const {connectTimeoutMs, stallTimeoutMs, skipVerify: all, network} = this.#options;
    const lookup = this.#addresses.lookup(network?.resolve ?? process.getBuiltinModule('node:dns').lookup);
    const timeoutMs = shorter(connectTimeoutMs, connection?.connectTimeoutMs ?? 0);
    const options = {
      timeout: shorter(connectTimeoutMs, connection?.connectTimeoutMs ?? 0),
      allowH2: false,
      autoSelectFamily: true,
      lookup,
    };
    const connectPlain = build(options);
    let connectTLS: typeof connectPlain | undefined;
    let connectProxyTLS: typeof connectPlain | undefined;
    const skipVerify = connection?.skipVerify ?? all;
    // Lazy: the system's CAs take milliseconds to read.
    const tls = (): typeof connectPlain => {
      connectTLS ??= build({...options, rejectUnauthorized: !skipVerify, secureContext: secureContext(connection, skipVerify)});
      return connectTLS;
    };
    /** To a proxy our certificates are not shown. */
    const proxyTLS = (): typeof connectPlain => {
      connectProxyTLS ??= build({
        ...options,
        rejectUnauthorized: !skipVerify,
        secureContext: secureContext(connection && {...connection, client: []}, skipVerify),
      });
      return connectProxyTLS;
    };
    // undici does not destroy a socket that is still connecting; `close` does.
    const start = (connector: Connector, target: buildConnector.Options, callback: buildConnector.Callback): void => {
      const done: buildConnector.Callback = (...result) => {
        this.#connecting.delete(socket);
        callback(...result);
      };
      const socket = connector({...target, lookup} as buildConnector.Options, done);
      this.#connecting.add(socket);
      this.#trace(socket, target);
    };
    const connector = (protocol: string, secure: () => Connector): Connector =>
      (network?.connect as Connector | undefined) ?? (protocol === 'https:' ? secure() : connectPlain);
    /** A failure of a proxy is told from one of the host behind it. */
    const blame = (err: unknown, proxy: URL): Error => {
      const reason = fromTransport(err);
      if (reason instanceof WireError) reason.proxy = proxy;
      return reason as Error;
    };
    const toProxy = (proxy: URL, callback: buildConnector.Callback): void => {
      const {protocol, host, port} = proxy;
      const hostname = proxy.hostname.replace(/^\[(.*)\]$/, '$1');
      start(connector(protocol, proxyTLS), {protocol, host, hostname, port}, (err, socket) =>
        err === null ? callback(null, socket) : callback(blame(err, proxy), null),
      );
    };
    const forwarding = new Map<string, Dispatcher>();
    const connect: Connect = (target, callback) => {
      const proxy = target.protocol === 'https:' ? this.#proxyOf(new URL(`https://${target.host!}`), connection) : undefined;
      if (proxy === undefined) {
        start(connector(target.protocol, tls), target, callback);
        return;
      }
      toProxy(proxy, (err, socket) => {
        if (err !== null) {
          callback(err, null);
          return;
        }
        this.#connecting.add(socket);
        requestTunnel(socket, `${new URL(`https://${target.host!}`).hostname}:${target.port || 443}`, proxy, timeoutMs)
          .finally(() => this.#connecting.delete(socket))
          .then(
            () => start(tls(), {...target, httpSocket: socket}, callback),
            (reason: unknown) => {
              socket.destroy();
              callback(blame(reason, proxy), null);
            },
          );
      });
    };
    this.#connectors.set(connection, connect);
    const open = (connect: Connect): Dispatcher =>
      new Agent({allowH2: false, headersTimeout: stallTimeoutMs, bodyTimeout: stallTimeoutMs, connect});
    const direct = open(connect);
    return {
      direct,
      forward: (proxy) => {
        let agent = forwarding.get(proxy.href);
        if (agent === undefined) {
          agent = open((_target, callback) => toProxy(proxy, callback));
          forwarding.set(proxy.href, agent);
        }
        return agent;
      },
      destroy: async () => {
        await Promise.all([...forwarding.values(), direct].map((agent) => agent.destroy()));
      },
    };
  }

  /** @throws invalid_argument | failed_precondition the environment names no usable proxy */
  #proxyOf(url: URL, connection: Connection | undefined): URL | undefined {
    const proxy = connection?.proxy ?? this.#options.proxyFor?.(url);
    // The user named it.
    if (proxy !== undefined) this.#addresses.allow(proxy.hostname);
    return proxy;
  }

  #trace(socket: Socket, {protocol, host}: buildConnector.Options): void {
    const {onTrace} = this.#options;
    if (onTrace === undefined) return;
    const began = performance.now();
    const tell = (what: string): void => onTrace(`${protocol}//${host}: ${what} after ${(performance.now() - began).toFixed(1)} ms`);
    socket
      .once('lookup', (err: Error | null, address: string) => tell(err ? 'name not resolved' : `name resolved to ${address}`))
      .once('connect', () => tell(`connected to ${socket.remoteAddress ?? 'the tunnel'}:${socket.remotePort ?? ''}`))
      .once('secureConnect', () => tell(`TLS handshake done (${(socket as TLSSocket).getProtocol() ?? 'unknown version'})`))
      .once('close', () => tell('closed'));
  }

  /** Connects, and returns the first bytes or error; undefined after a second without either. @param words sent first, in plain TCP */
  async #first(url: URL, connection: Connection | undefined, words?: Buffer): Promise<unknown> {
    await this.open(connection);
    const {host, port} = url;
    const hostname = url.hostname.replace(/^\[(.*)\]$/, '$1');
    const protocol = words === undefined ? url.protocol : 'http:';
    return new Promise((resolve) => {
      this.#connectors.get(connection)!({protocol, hostname, host, port}, (err, socket) => {
        // With an error undici passes no socket.
        if (err !== null) {
          resolve(fromTransport(err));
          return;
        }
        const end = (first?: unknown): void => {
          socket.destroy();
          resolve(first);
        };
        socket
          .on('data', end)
          .on('error', (reason) => end(fromTransport(reason)))
          .on('close', () => end())
          .setTimeout(VERDICT_MS, () => end());
        if (words !== undefined) socket.write(words);
      });
    });
  }

  /** Whether a port answers a ClientHello with TLS. */
  async speaksTLS(url: URL): Promise<boolean> {
    // A proxy would not let the words through.
    if (this.#proxyOf(url, undefined) !== undefined) return false;
    const first = await this.#first(url, undefined, clientHello());
    return Buffer.isBuffer(first) && protocolOf(first) === 'tls';
  }

  /**
   * Finds the TLS alert with which a server rejects a connection. Since TLS 1.3 the server checks a client certificate after the
   * client's handshake; if a request was sent meanwhile, the client sees only a broken connection.
   */
  async tlsRejection(url: URL, connection: Connection | undefined): Promise<WireError | undefined> {
    const first = await this.#first(url, connection);
    return first instanceof WireError ? first : undefined;
  }

  /**
   * Sends a request and passes the body of its response to the sink that `onHead` returns. Settles when the body has ended, no call of
   * the sink is pending, and the request's own body is closed.
   *
   * A response may come before all of a streamed body is sent; the rest is then not sent.
   *
   * @throws WireError the connection failed
   * @throws errors of `onHead`, of the sink and of the request's body, and the signal's reason, unchanged
   */
  async exchange(exchange: Exchange): Promise<void> {
    if (this.#closed) throw new ErrdefsError('canceled', 'the remote was closed');
    const {method, url, headers, connection, body, bodyLength, patience = 1, signal, onSend, onHead} = exchange;
    if (this.#addresses.isBlocked(url.hostname)) throw Object.assign(new WireError('link_local'), {url});
    const agents = await this.#agentsFor(connection);
    signal?.throwIfAborted();
    const proxy = url.protocol === 'http:' ? this.#proxyOf(url, connection) : undefined;
    const agent = proxy === undefined ? agents.direct : agents.forward(proxy);
    const viaProxy = proxy && {
      origin: proxyOrigin(proxy),
      path: url.origin + url.pathname + url.search,
      headers: {host: url.host, 'proxy-authorization': proxyAuthorization(proxy)},
      servername: proxy.hostname,
    };
    const {stallTimeoutMs, rateLimit} = this.#options;
    await new Promise<void>((resolve, reject) => {
      let controller: Dispatcher.DispatchController | undefined;
      let sink: BodySink | undefined;
      /** The sink's pending call and those queued behind it. */
      let busy: Promise<void> | undefined;
      let failure: {readonly reason: unknown} | undefined;
      let enough = false;
      let watch: NodeJS.Timeout | undefined;

      const settle = (): void => {
        if (busy !== undefined) {
          busy.then(settle);
          return;
        }
        clearInterval(watch);
        signal?.removeEventListener('abort', onAbort);
        const done = (): void => {
          if (failure === undefined || enough) resolve();
          else {
            if (failure.reason instanceof WireError) failure.reason.url = url;
            reject(failure.reason);
          }
        };
        if (upload === undefined) done();
        else upload.close().then(done);
      };
      const fail = (reason: unknown): void => {
        failure ??= {reason};
        // Without a controller the request still waits for a connection; `onRequestStart` aborts it.
        if (controller === undefined) settle();
        else controller.abort(reason instanceof Error ? reason : new Error('aborted', {cause: reason}));
      };
      const onAbort = (): void => fail(signal?.reason);
      const upload =
        typeof body === 'function' && bodyLength !== 0 ? new Upload(body, fail, (bytes) => rateLimit?.pay(bytes, signal)) : undefined;

      const give = (chunk: Buffer): Promise<void> | undefined => {
        if (failure !== undefined) return undefined;
        const pending = sink!(chunk);
        if (pending !== ENOUGH) return both(pending as Promise<void> | undefined, rateLimit?.pay(chunk.length, signal));
        enough = true;
        fail(ENOUGH);
        return undefined;
      };
      const waitFor = (pending: Promise<void>): void => {
        const mine: Promise<void> = pending
          .catch(fail)
          .then(() => {
            if (busy !== mine) return;
            busy = undefined;
            controller?.resume();
          })
          // `resume` parses buffered bytes, and may throw on invalid ones.
          .catch(fail);
        busy = mine;
      };

      let received = 0;
      let before = 0;
      let paused = false;
      const watchForTrickle = (): void => {
        if (!paused && received - before < TRICKLE_BYTES) fail(new WireError('stalled'));
        before = received;
        paused = busy !== undefined;
      };

      let sent = 0;
      const watchSending = (): void => {
        if (upload!.isWaiting && upload!.sent - sent < TRICKLE_BYTES) fail(new WireError('stalled'));
        sent = upload!.sent;
      };
      if (upload !== undefined && stallTimeoutMs > 0) watch = setInterval(watchSending, stallTimeoutMs);

      signal?.addEventListener('abort', onAbort, {once: true});
      agent.dispatch(
        {
          origin: viaProxy?.origin ?? url.origin,
          path: viaProxy?.path ?? url.pathname + url.search,
          ...(viaProxy === undefined ? {} : {servername: viaProxy.servername}),
          method,
          headers: {
            ...headers,
            ...(upload === undefined || bodyLength === undefined ? {} : {'content-length': String(bodyLength)}),
            ...viaProxy?.headers,
          },
          body: (upload?.pieces() as Readable | undefined) ?? (typeof body === 'function' ? null : (body ?? null)),
          headersTimeout: stallTimeoutMs * patience,
          // undici closes the connection after HEAD unless told not to, for servers that send a body even so.
          reset: false,
        },
        {
          onRequestStart(ctrl) {
            controller = ctrl;
            if (failure === undefined) onSend?.();
            else ctrl.abort(new Error('aborted', {cause: failure.reason}));
          },
          onResponseStart(_, status, responseHeaders) {
            // 1xx responses precede the final one.
            if (status < 200 || failure !== undefined) return;
            if (proxy !== undefined && status === 407) {
              fail(Object.assign(new WireError('proxy_auth'), {proxy}));
              return;
            }
            try {
              sink = onHead({status, headers: responseHeaders});
            } catch (err) {
              fail(err);
              return;
            }
            clearInterval(watch);
            if (stallTimeoutMs > 0) watch = setInterval(watchForTrickle, stallTimeoutMs);
          },
          onResponseData(ctrl, chunk) {
            // undici passes an empty chunk when it resumes without data; pausing for it would never end.
            if (chunk.length === 0) return;
            received += chunk.length;
            // Bytes that undici read before the pause, after the server closed the connection.
            if (busy !== undefined) {
              waitFor(busy.then(() => give(chunk)));
              return;
            }
            try {
              const pending = give(chunk);
              if (pending === undefined) return;
              paused = true;
              ctrl.pause();
              waitFor(pending);
            } catch (err) {
              fail(err);
            }
          },
          // undici reuses the connection one turn of the event loop later; an earlier request would open another.
          onResponseEnd() {
            clearInterval(watch);
            const end = sink?.end;
            if (end !== undefined && failure === undefined) {
              waitFor((busy ?? Promise.resolve()).then(() => (failure === undefined ? end() : undefined)));
            }
            setImmediate(() => setImmediate(settle));
          },
          onResponseError(_, err) {
            failure ??= {reason: fromTransport(err)};
            settle();
          },
        },
      );
    });
  }

  /** Closes all connections, including those still connecting. */
  async close(): Promise<void> {
    this.#closed = true;
    const agents = await Promise.all([...this.#agents.values()].map((agent) => agent.catch(() => undefined)));
    for (const socket of this.#connecting) socket.destroy();
    await Promise.all(agents.map((each) => each?.destroy()));
  }
}

/** The streamed body of one request. */
class Upload {
  readonly #source: AsyncIterator<Uint8Array>;
  readonly #fail: (reason: unknown) => void;
  readonly #pay: (bytes: number) => Promise<void> | undefined;
  #reading: Promise<unknown> = Promise.resolve();
  #closed = false;
  /** Bytes that the socket has taken, or is about to. */
  sent = 0;
  /** Whether a piece waits for the socket; otherwise the source is waited for. */
  isWaiting = false;

  /** @param pay pauses for bytes that were sent, where there is a limit of the rate */
  constructor(body: () => AsyncIterable<Uint8Array>, fail: (reason: unknown) => void, pay: (bytes: number) => Promise<void> | undefined) {
    this.#source = body()[Symbol.asyncIterator]();
    this.#fail = fail;
    this.#pay = pay;
  }

  /** undici takes any async iterable, other than its types say. */
  pieces(): unknown {
    return this.#pieces();
  }

  async *#pieces(): AsyncGenerator<Buffer> {
    for (;;) {
      const next = this.#next();
      this.#reading = next;
      const chunk = await next;
      if (chunk === undefined) return;
      for (let at = 0; at < chunk.length && !this.#closed; at += PIECE_BYTES) {
        const piece = chunk.subarray(at, at + PIECE_BYTES);
        this.isWaiting = true;
        yield piece;
        this.isWaiting = false;
        this.sent += piece.length;
        await this.#pay(piece.length);
      }
    }
  }

  /** The next chunk; undefined at the end of the source, and after a failure. */
  async #next(): Promise<Buffer | undefined> {
    if (this.#closed) return undefined;
    try {
      const {done, value} = await this.#source.next();
      return done || this.#closed ? undefined : Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    } catch (err) {
      this.#fail(err);
      // Ending here would end the body as if it were complete.
      throw err;
    }
  }

  /** Ends the source. Call it when undici takes no more pieces. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#reading.catch(() => undefined);
    await this.#source.return?.().catch(() => undefined);
  }
}

const both = (a: Promise<void> | undefined, b: Promise<void> | undefined): Promise<void> | undefined =>
  a === undefined || b === undefined ? (a ?? b) : Promise.all([a, b]).then(() => undefined);

/** The shorter of two limits; 0 is no limit. */
const shorter = (a: number, b: number): number => (a === 0 || b === 0 ? a + b : Math.min(a, b));

/**
 * The system's CAs (the engine's if the system has none), NODE_EXTRA_CA_CERTS and the configured CAs.
 *
 * @throws invalid_argument SSL_CERT_FILE is unreadable
 */
function trustedCertificates(ca: readonly string[]): string[] | undefined {
  const {getCACertificates} = process.getBuiltinModule('node:tls');
  const system = systemCertificates();
  if (system.length > 0) return [...system, ...getCACertificates('extra'), ...ca];
  return ca.length === 0 ? undefined : [...getCACertificates('default'), ...ca];
}

const isCertificate = (pem: string): boolean => {
  try {
    return new (process.getBuiltinModule('node:crypto').X509Certificate)(pem) !== undefined;
  } catch {
    return false;
  }
};

function secureContext(connection: Connection | undefined, skipVerify: boolean): SecureContext {
  const {createSecureContext} = process.getBuiltinModule('node:tls');
  const {ca = [], client = []} = connection ?? {};
  const trusted = skipVerify ? undefined : trustedCertificates(ca);
  const own = client.length === 0 ? {} : {cert: client.map(({cert}) => cert), key: client.map(({key}) => key)};
  const create = (list: readonly string[] | undefined): SecureContext => createSecureContext({...own, ...(list && {ca: [...list]})});
  try {
    return create(trusted);
  } catch (err) {
    // Retry without certificates that the engine cannot parse.
    const understood = trusted?.filter(isCertificate);
    if (understood?.length === trusted?.length) throw err;
    return create(understood);
  }
}
