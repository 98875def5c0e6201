/**
 * One request, one answer: the only door to undici. No redirects, no retries, no authentication.
 *
 * HTTP/1.1 with as many connections as there are requests at once: layers are few and large, so that HTTP/2 would only put
 * them behind one another's flow control. Bodies pass through handlers of undici's dispatcher, the socket's own buffers
 * without a stream in between; a paused body stops reading from its socket. NODE_EXTRA_CA_CERTS is the engine's business, on
 * Node as in an executable that Bun compiled.
 */
import type {IncomingHttpHeaders} from 'node:http';
import type {Socket} from 'node:net';
import type {SecureContext} from 'node:tls';
import type {Dispatcher} from 'undici';
import {ErrdefsError} from '../errdefs.ts';
import type {Connection, Sink} from './contract.ts';
import {fromTransport, WireError} from './failure.ts';

export interface Head {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
}

/** A sink's answer to a chunk: it needs no more. The exchange ends well, its connection is given up. */
export const ENOUGH = Symbol('enough');

export type BodySink = (chunk: Buffer) => ReturnType<Sink> | typeof ENOUGH;

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
  readonly connectTimeoutMs: number;
  readonly stallTimeoutMs: number;
  readonly skipVerify: boolean;
}

/** A body that brings fewer bytes than this in the time of a stall is a stall: a trickle must not keep a pull alive for ever. */
export const TRICKLE = 4096;

export class Transport {
  readonly #options: TransportOptions;
  readonly #opening = new Set<Socket>();
  /** One for each way of connecting: connections of one are never used for another. */
  readonly #agents = new Map<Connection | undefined, Promise<Dispatcher>>();
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

  async #openAgent(connection: Connection | undefined): Promise<Dispatcher> {
    const [{default: Agent}, {default: buildConnector}] = await Promise.all([
      import('undici/lib/dispatcher/agent.js'),
      import('undici/lib/core/connect.js'),
    ]);
    const {connectTimeoutMs, stallTimeoutMs, skipVerify} = this.#options;
    const connect = buildConnector({
      timeout: shorter(connectTimeoutMs, connection?.connectTimeoutMs ?? 0),
      rejectUnauthorized: !(connection?.skipVerify ?? skipVerify),
      allowH2: false,
      autoSelectFamily: true,
      ...(connection === undefined ? {} : secureContext(connection)),
    });
    return new Agent({
      allowH2: false,
      headersTimeout: stallTimeoutMs,
      bodyTimeout: stallTimeoutMs,
      // A socket that is still connecting is nobody's yet: undici would leave it to its time-out when it is closed.
      connect: (options, callback) => {
        const socket = connect(options, (...result) => {
          this.#opening.delete(socket);
          callback(...result);
        });
        this.#opening.add(socket);
      },
    });
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
            watch = setInterval(watchForTrickle, stallTimeoutMs);
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

/** Made once: to read the system's certificates for every connection would cost each of them milliseconds. */
function secureContext({ca, client}: Connection): {secureContext?: SecureContext} {
  if (ca.length === 0 && client.length === 0) return {};
  const {createSecureContext, getCACertificates} = process.getBuiltinModule('node:tls');
  return {
    secureContext: createSecureContext({
      ...(ca.length === 0 ? {} : {ca: [...getCACertificates('default'), ...ca]}),
      ...(client.length === 0 ? {} : {cert: client.map(({cert}) => cert), key: client.map(({key}) => key)}),
    }),
  };
}
