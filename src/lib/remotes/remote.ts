/** A session with registries. */
import {ErrdefsError} from '../errdefs.ts';
import type {Descriptor} from '../oci/descriptor.ts';
import {formatReference, type Reference} from '../oci/reference.ts';
import type {
  CredentialSource,
  Fetcher,
  Host,
  HostSource,
  Remote,
  RemoteOptions,
  RemoteSources,
  Resolved,
  ResolveOptions,
} from './contract.ts';
import {WireError, wireFailure} from './failure.ts';
import {Download, fetchBytes, foreignPlaces, placeOf} from './fetch.ts';
import {defaultHosts} from './hosts.ts';
import {Resolution} from './resolve.ts';
import {Session} from './session.ts';
import {Transport} from './transport.ts';

/**
 * Opens a session with registries. Costs nothing until the first request, when the HTTP client is loaded.
 *
 * @param sources what to ask for hosts and credentials instead of the rule of `hosts.ts` and the options given here
 */
export function openRemote(options: RemoteOptions = {}, sources: RemoteSources = {}): Remote {
  const connectTimeoutMs = options.connectTimeoutMs ?? 30_000;
  const stallTimeoutMs = options.stallTimeoutMs ?? 30_000;
  const transport = new Transport({connectTimeoutMs, stallTimeoutMs, skipVerify: options.skipVerify ?? false});
  const session = new Session(transport, sources.credentials ?? staticCredentials(options), {
    backoffMs: options.backoffMs ?? 200,
    userAgent: options.userAgent ?? 'berth',
  });
  const hosts = sources.hosts ?? defaultHosts({plainHTTP: options.plainHTTP ?? false, connectTimeoutMs});
  return new RegistryRemote(transport, session, hosts, options.signal);
}

function staticCredentials({credentials, refreshToken}: RemoteOptions): CredentialSource {
  const given = refreshToken === undefined ? credentials : {refreshToken};
  return async () => given;
}

class RegistryRemote implements Remote {
  readonly #transport: Transport;
  readonly #session: Session;
  readonly #hosts: HostSource;
  readonly #signal: AbortSignal | undefined;

  constructor(transport: Transport, session: Session, hosts: HostSource, signal: AbortSignal | undefined) {
    this.#transport = transport;
    this.#session = session;
    this.#hosts = hosts;
    this.#signal = signal;
  }

  async resolve(ref: Reference, options: ResolveOptions = {}): Promise<Resolved> {
    const what = `resolve ${formatReference(ref)}`;
    if (ref.digest === undefined && ref.tag === undefined)
      throw new ErrdefsError('invalid_argument', `${what}: a tag or digest is required`);
    const signal = anyOf(this.#signal, options.signal);
    return this.#eachHost(ref, what, signal, (host) => new Resolution(this.#session, host, ref, what, signal).run());
  }

  fetcher(ref: Reference): Fetcher {
    const {domain, path} = ref;
    const named = (desc: Descriptor): string => `fetch ${formatReference({domain, path, digest: desc.digest})}`;
    return {
      bytes: (desc, options) => {
        const signal = anyOf(this.#signal, options.signal);
        const what = named(desc);
        return this.#eachHost(ref, what, signal, (host) =>
          fetchBytes(this.#session, placeOf(host, ref, desc), desc, what, {...options, signal}),
        );
      },
      stream: async (desc, sink, options) => {
        const signal = anyOf(this.#signal, options.signal);
        const what = named(desc);
        const download = new Download(this.#session, desc, what, sink, {...options, signal});
        if (download.done) return;
        for (const place of foreignPlaces(desc)) if (await download.tryFrom(place)) return;
        await this.#eachHost(
          ref,
          what,
          signal,
          (host) => download.from(placeOf(host, ref, desc)),
          () => download.sinkFailed,
        );
      },
    };
  }

  async close(): Promise<void> {
    await this.#transport.close();
  }

  /** The first host that can; the last one's failure, which is the registry's own, if none can. */
  async #eachHost<T>(
    {domain}: Reference,
    what: string,
    signal: AbortSignal | undefined,
    use: (host: Host) => Promise<T>,
    isFinal: () => boolean = () => false,
  ): Promise<T> {
    const [hosts] = await Promise.all([this.#hosts(domain, signal), this.#transport.open()]).catch((err: unknown) => {
      throw err instanceof WireError ? wireFailure(err, {what, url: new URL(`https://${domain}`), attempt: 1}) : err;
    });
    const last = hosts.at(-1)!;
    for (const host of hosts.slice(0, -1)) {
      try {
        return await use(host);
      } catch (err) {
        if (signal?.aborted || isFinal()) throw err;
      }
    }
    return use(last);
  }
}

const anyOf = (a: AbortSignal | undefined, b: AbortSignal | undefined): AbortSignal | undefined =>
  a === undefined || b === undefined ? (a ?? b) : AbortSignal.any([a, b]);
