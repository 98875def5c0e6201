/**
 * Sends one HTTP request: no redirects, no retries, no authentication. The only importer of undici.
 *
 * HTTP/1.1, one connection per concurrent request: layers are few and large, so HTTP/2 would only add its flow control. Bodies
 * arrive through handlers of undici's dispatcher as the socket's own buffers, without a stream. Pausing a body stops reading from
 * its socket.
 */
import type {IncomingHttpHeaders} from 'node:http';
import type {Socket} from 'node:net';
import type {SecureContext} from 'node:tls';
import type {buildConnector, Dispatcher} from 'undici';
import {ErrdefsError} from '../errdefs.ts';
import {AddressFilter} from './address-filter.ts';
import {fromTransport, WireError} from './errors.ts';
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

export interface Exchange {
  readonly method: 'GET' | 'HEAD' | 'POST';
  /** Credentials in the URL are not sent. */
  readonly url: URL;
  readonly headers: Record<string, string | string[]>;
  /** Default: the transport's options. */
  readonly connection?: Connection | undefined;
  readonly body?: string | undefined;
  readonly signal?: AbortSignal | undefined;
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
}

/** A body with fewer bytes than this per stall timeout counts as stalled, so that a trickle cannot keep a pull alive. */
export const TRICKLE_BYTES = 4096;

/** Milliseconds to wait for a server to close or answer an idle connection. */
const VERDICT_MS = 1000;

export class Transport {
  readonly #options: TransportOptions;
  readonly #connecting = new Set<Socket>();
  /** One agent per connection settings, so that connections are not shared between them. */
  readonly #agents = new Map<Connection | undefined, Promise<Dispatcher>>();
  readonly #connectors = new Map<Connection | undefined, (target: buildConnector.Options, callback: buildConnector.Callback) => void>();
  readonly #addresses = new AddressFilter();
  #closed = false;

  constructor(options: TransportOptions) {
    this.#options = options;
  }

  /** Loads undici. `exchange` does so too; calling this early overlaps it with other waits. */
  open(connection?: Connection): Promise<Dispatcher> {
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

  async #openAgent(connection: Connection | undefined): Promise<Dispatcher> {
    const [{default: Agent}, {default: build}] = await Promise.all([
      import('undici/lib/dispatcher/agent.js'),
      import('undici/lib/core/connect.js'),
    ]);
    const {connectTimeoutMs, stallTimeoutMs, skipVerify: all, network} = this.#options;
    const lookup = this.#addresses.lookup(network?.resolve ?? process.getBuiltinModule('node:dns').lookup);
    const options = {
      timeout: shorter(connectTimeoutMs, connection?.connectTimeoutMs ?? 0),
      allowH2: false,
      autoSelectFamily: true,
      lookup,
    };
    const connectPlain = build(options);
    let connectTLS: typeof connectPlain | undefined;
    const skipVerify = connection?.skipVerify ?? all;
    // Lazy: the system's CAs take milliseconds to read.
    const tls = (): typeof connectPlain => {
      connectTLS ??= build({...options, rejectUnauthorized: !skipVerify, secureContext: secureContext(connection, skipVerify)});
      return connectTLS;
    };
    // undici does not destroy a socket that is still connecting; `close` does.
    const connect = (target: buildConnector.Options, callback: buildConnector.Callback): void => {
      const done: buildConnector.Callback = (...result) => {
        this.#connecting.delete(socket);
        callback(...result);
      };
      const socket = (network?.connect ?? (target.protocol === 'https:' ? tls() : connectPlain))({...target, lookup}, done);
      this.#connecting.add(socket);
    };
    this.#connectors.set(connection, connect);
    return new Agent({allowH2: false, headersTimeout: stallTimeoutMs, bodyTimeout: stallTimeoutMs, connect});
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
   * Sends a request and passes the body of its response to the sink that `onHead` returns. Settles when the body has ended and no
   * call of the sink is pending.
   *
   * @throws WireError the connection failed
   * @throws errors of `onHead` and the sink, and the signal's reason, unchanged
   */
  async exchange(exchange: Exchange): Promise<void> {
    if (this.#closed) throw new ErrdefsError('canceled', 'the remote was closed');
    const {method, url, headers, connection, body, signal, onHead} = exchange;
    if (this.#addresses.isBlocked(url.hostname)) throw Object.assign(new WireError('link_local'), {url});
    const agent = await this.open(connection);
    signal?.throwIfAborted();
    const {stallTimeoutMs} = this.#options;
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
        if (failure === undefined || enough) resolve();
        else {
          if (failure.reason instanceof WireError) failure.reason.url = url;
          reject(failure.reason);
        }
      };
      const fail = (reason: unknown): void => {
        failure ??= {reason};
        // Without a controller the request still waits for a connection; `onRequestStart` aborts it.
        if (controller === undefined) settle();
        else controller.abort(reason instanceof Error ? reason : new Error('aborted', {cause: reason}));
      };
      const onAbort = (): void => fail(signal?.reason);

      const give = (chunk: Buffer): Promise<void> | undefined => {
        if (failure !== undefined) return undefined;
        const pending = sink!(chunk);
        if (pending !== ENOUGH) return pending as Promise<void> | undefined;
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

      signal?.addEventListener('abort', onAbort, {once: true});
      agent.dispatch(
        // undici closes the connection after HEAD unless told not to, for servers that send a body even so.
        {origin: url.origin, path: url.pathname + url.search, method, headers, body: body ?? null, reset: false},
        {
          onRequestStart(ctrl) {
            controller = ctrl;
            if (failure !== undefined) ctrl.abort(new Error('aborted', {cause: failure.reason}));
          },
          onResponseStart(_, status, responseHeaders) {
            // 1xx responses precede the final one.
            if (status < 200 || failure !== undefined) return;
            try {
              sink = onHead({status, headers: responseHeaders});
            } catch (err) {
              fail(err);
              return;
            }
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
    await Promise.all(agents.map((agent) => agent?.destroy()));
  }
}

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
