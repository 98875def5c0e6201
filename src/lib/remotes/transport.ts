/**
 * One request, one answer: the only door to undici. No redirects, no retries, no authentication.
 *
 * HTTP/1.1 with as many connections as there are requests at once: layers are few and large, so that HTTP/2 would only put
 * them behind one another's flow control. Bodies pass through handlers of undici's dispatcher, the socket's own buffers
 * without a stream in between; a paused body stops reading from its socket.
 */
import type {IncomingHttpHeaders} from 'node:http';
import type {LookupFunction, Socket} from 'node:net';
import type {SecureContext} from 'node:tls';
import type {buildConnector, Dispatcher} from 'undici';
import {ErrdefsError} from '../errdefs.ts';
import {AddressRule, type Resolver} from './address-filter.ts';
import {fromTransport, WireError} from './errors.ts';
import {systemAuthorities} from './system-ca.ts';
import {clientHello, heard} from './tls-probe.ts';
import type {Connection, Sink} from './types.ts';

export interface Head {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
}

/** A sink's answer to a chunk: it needs no more. The exchange ends well, its connection is given up. */
export const ENOUGH = Symbol('enough');

export interface BodySink {
  (chunk: Buffer): ReturnType<Sink> | typeof ENOUGH;
  /** Called when the body has ended well, before the exchange settles. */
  end?(): Promise<void>;
}

export interface Exchange {
  readonly method: 'GET' | 'HEAD' | 'POST';
  /** Credentials in it are not sent. */
  readonly url: URL;
  readonly headers: Record<string, string | string[]>;
  /** Default: as the transport's options have it. */
  readonly connection?: Connection | undefined;
  readonly body?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called once, when the answer begins; says who takes its body. What it throws ends the exchange. */
  readonly onHead: (head: Head) => BodySink;
}

export interface TransportOptions {
  /** 0 is no bound. */
  readonly connectTimeoutMs: number;
  /** 0 is no bound. */
  readonly stallTimeoutMs: number;
  readonly skipVerify: boolean;
  readonly network?: Network | undefined;
}

/** How sockets are opened, for tests of addresses that must not be connected to. Default: the system's. */
export interface Network {
  readonly resolve?: Resolver;
  /** @param lookup what a socket resolves its host by */
  readonly connect?: (options: buildConnector.Options & {readonly lookup: LookupFunction}, callback: buildConnector.Callback) => Socket;
}

/** A body that brings fewer bytes than this in the time of a stall is a stall: a trickle must not keep a pull alive for ever. */
export const TRICKLE = 4096;

/** How long a server may take to turn down a connection that asks nothing, in milliseconds. */
const VERDICT_MS = 1000;

export class Transport {
  readonly #options: TransportOptions;
  readonly #opening = new Set<Socket>();
  /** One for each way of connecting: connections of one are never used for another. */
  readonly #agents = new Map<Connection | undefined, Promise<Dispatcher>>();
  readonly #connectors = new Map<Connection | undefined, (target: buildConnector.Options, callback: buildConnector.Callback) => void>();
  readonly #addresses = new AddressRule();
  #closed = false;

  constructor(options: TransportOptions) {
    this.#options = options;
  }

  /** Loads undici; `exchange` does it by itself, but whoever waits for something else may have it done meanwhile. */
  open(connection?: Connection): Promise<Dispatcher> {
    let agent = this.#agents.get(connection);
    if (agent === undefined) {
      agent = this.#openAgent(connection);
      this.#agents.set(connection, agent);
    }
    return agent;
  }

  /** Lets connections to an address be made though it is link-local. @param host as the user has named it */
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
    // Only now: the system's authorities take milliseconds to read.
    const tls = (): typeof connectPlain => {
      connectTLS ??= build({...options, rejectUnauthorized: !skipVerify, secureContext: secureContext(connection, skipVerify)});
      return connectTLS;
    };
    // A socket that is still connecting is nobody's yet: undici would leave it to its time-out when it is closed.
    const connect = (target: buildConnector.Options, callback: buildConnector.Callback): void => {
      const done: buildConnector.Callback = (...result) => {
        this.#opening.delete(socket);
        callback(...result);
      };
      const socket = (network?.connect ?? (target.protocol === 'https:' ? tls() : connectPlain))({...target, lookup}, done);
      this.#opening.add(socket);
    };
    this.#connectors.set(connection, connect);
    return new Agent({allowH2: false, headersTimeout: stallTimeoutMs, bodyTimeout: stallTimeoutMs, connect});
  }

  /** What comes first on a connection of which nobody asks anything: bytes, an error, or undefined when there is neither in a second. */
  async #first(url: URL, connection: Connection | undefined, words?: Buffer): Promise<unknown> {
    await this.open(connection);
    const {host, port} = url;
    const hostname = url.hostname.replace(/^\[(.*)\]$/, '$1');
    const protocol = words === undefined ? url.protocol : 'http:';
    return new Promise((resolve) => {
      this.#connectors.get(connection)!({protocol, hostname, host, port}, (err, socket) => {
        // undici gives no socket at all with an error.
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

  /** Whether a port that was asked in plain HTTP speaks TLS for certain. */
  async speaksTLS(url: URL): Promise<boolean> {
    const first = await this.#first(url, undefined, clientHello());
    return Buffer.isBuffer(first) && heard(first) === 'tls';
  }

  /**
   * Why a server of TLS ends a connection. Since TLS 1.3 it turns down a client's certificate after the client's handshake, and where a
   * request has crossed that, only a broken connection is seen.
   */
  async verdict(url: URL, connection: Connection | undefined): Promise<WireError | undefined> {
    const first = await this.#first(url, connection);
    return first instanceof WireError ? first : undefined;
  }

  /**
   * Sends a request and hands its answer's body to the sink that `onHead` chose. Settles when the body has ended and no call
   * of the sink is pending.
   *
   * @throws WireError the connection failed
   * @throws whatever `onHead` or the sink threw, or the signal's reason, as it is
   */
  async exchange(exchange: Exchange): Promise<void> {
    if (this.#closed) throw new ErrdefsError('canceled', 'the remote was closed');
    const {method, url, headers, connection, body, signal, onHead} = exchange;
    if (this.#addresses.isRefused(url.hostname)) throw Object.assign(new WireError('link_local'), {url});
    const agent = await this.open(connection);
    signal?.throwIfAborted();
    const {stallTimeoutMs} = this.#options;
    await new Promise<void>((resolve, reject) => {
      let controller: Dispatcher.DispatchController | undefined;
      let sink: BodySink | undefined;
      /** The sink's pending call, and what queues behind it. */
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
        // Without a controller the request waits for its connection; `onRequestStart` will end it.
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
          // Resuming parses what is there already, and a broken parser is a broken connection.
          .catch(fail);
        busy = mine;
      };

      let received = 0;
      let before = 0;
      let paused = false;
      const watchForTrickle = (): void => {
        if (!paused && received - before < TRICKLE) fail(new WireError('stalled'));
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
            // 1xx announce an answer, they are none.
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
            // undici makes one of nothing when it resumes with nothing there; to pause for it would be for ever.
            if (chunk.length === 0) return;
            received += chunk.length;
            // What undici had read before it was paused, when the server has closed the connection meanwhile.
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
          // undici takes its connection back one turn of the event loop later; a request before that would open another.
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

  /** Ends all connections, those included that are still being made. */
  async close(): Promise<void> {
    this.#closed = true;
    const agents = await Promise.all([...this.#agents.values()].map((agent) => agent.catch(() => undefined)));
    for (const socket of this.#opening) socket.destroy();
    await Promise.all(agents.map((agent) => agent?.destroy()));
  }
}

/** The shorter of two bounds; 0 is none. */
const shorter = (a: number, b: number): number => (a === 0 || b === 0 ? a + b : Math.min(a, b));

/**
 * The system's authorities, or the engine's own where the system has none, with those of NODE_EXTRA_CA_CERTS and of the configuration.
 *
 * @throws invalid_argument SSL_CERT_FILE names what cannot be read
 */
function authorities(ca: readonly string[]): string[] | undefined {
  const {getCACertificates} = process.getBuiltinModule('node:tls');
  const system = systemAuthorities();
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

/** Made once for each way of connecting. */
function secureContext(connection: Connection | undefined, skipVerify: boolean): SecureContext {
  const {createSecureContext} = process.getBuiltinModule('node:tls');
  const {ca = [], client = []} = connection ?? {};
  const trusted = skipVerify ? undefined : authorities(ca);
  const own = client.length === 0 ? {} : {cert: client.map(({cert}) => cert), key: client.map(({key}) => key)};
  const create = (list: readonly string[] | undefined): SecureContext => createSecureContext({...own, ...(list && {ca: [...list]})});
  try {
    return create(trusted);
  } catch (err) {
    // One of the system's that the engine does not understand must not cost the others.
    const understood = trusted?.filter(isCertificate);
    if (understood?.length === trusted?.length) throw err;
    return create(understood);
  }
}
