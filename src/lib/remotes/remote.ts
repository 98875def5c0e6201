/** A session with registries. */
import {type Code, ErrdefsError, isErrdefs} from '../errdefs.ts';
import type {Descriptor} from '../oci/descriptor.ts';
import {formatReference, type Reference} from '../oci/reference.ts';
import {WireError, wireFailure} from './errors.ts';
import {Download, fetchBytes, foreignPlaces, placeOf} from './fetch.ts';
import {registryHosts} from './hosts.ts';
import {Session} from './http-client.ts';
import {Resolution} from './resolve.ts';
import {Transport} from './transport.ts';
import type {
  Capability,
  CredentialSource,
  Fetcher,
  Host,
  HostSource,
  Remote,
  RemoteOptions,
  RemoteSources,
  Resolved,
  ResolveOptions,
} from './types.ts';

/**
 * Opens a session with registries. Costs nothing until the first request, when the HTTP client is loaded.
 *
 * @param sources what to ask for hosts and credentials instead of the rule of `hosts.ts` and the options given here
 */
export function openRemote(options: RemoteOptions = {}, sources: RemoteSources = {}): Remote {
  const connectTimeoutMs = options.connectTimeoutMs ?? 30_000;
  const stallTimeoutMs = options.stallTimeoutMs ?? 30_000;
  const {network} = sources;
  const transport = new Transport({connectTimeoutMs, stallTimeoutMs, skipVerify: options.skipVerify ?? false, network});
  const {hostsDirs, onDebug} = options;
  const named = new Set<string>();
  const session = new Session(transport, sources.credentials ?? staticCredentials(options, named), {
    backoffMs: options.backoffMs ?? 200,
    userAgent: options.userAgent ?? 'berth',
    onDebug,
  });
  const hosts = sources.hosts ?? registryHosts({plainHTTP: options.plainHTTP ?? false, connectTimeoutMs, hostsDirs, onDebug});
  return new RegistryRemote(transport, session, hosts, named, options.signal);
}

/** @param named the registries that references have named; a mirror is told nobody's password but its own */
function staticCredentials({credentials, refreshToken}: RemoteOptions, named: ReadonlySet<string>): CredentialSource {
  const given = refreshToken === undefined ? credentials : {refreshToken};
  return async (domain) => (named.has(domain) ? given : undefined);
}

interface HostFailure {
  readonly host: Host;
  readonly err: ErrdefsError;
}

/**
 * What is said when no host could: what the registry itself answered, else what a mirror did, else that there was no answer.
 * What the others failed of is in its hint.
 */
function bestOf(failures: readonly HostFailure[], what: string): ErrdefsError {
  const isAnswer = ({err}: HostFailure): boolean => err.details?.httpStatus !== undefined;
  const last = failures.at(-1)!;
  const best = isAnswer(last) ? last : (failures.find(isAnswer) ?? last);
  if (failures.length === 1) return best.err;
  const {code, message, hint, details} = best.err;
  const others = failures
    .filter((failure) => failure !== best)
    .map(({host, err}) => ({host: host.origin, message: err.message.replace(`${what}: `, '')}));
  const said = `also asked: ${others.map((other) => other.message).join('; ')}`;
  return new ErrdefsError(code, message, {
    cause: best.err.cause,
    hint: hint === undefined ? said : `${hint}; ${said}`,
    details: {...details, otherHosts: others},
  });
}

class RegistryRemote implements Remote {
  readonly #transport: Transport;
  readonly #session: Session;
  readonly #hosts: HostSource;
  readonly #named: Set<string>;
  readonly #signal: AbortSignal | undefined;
  /** Origins of mirrors that gave no answer. */
  readonly #silent = new Set<string>();

  constructor(transport: Transport, session: Session, hosts: HostSource, named: Set<string>, signal: AbortSignal | undefined) {
    this.#transport = transport;
    this.#session = session;
    this.#hosts = hosts;
    this.#named = named;
    this.#signal = signal;
  }

  async resolve(ref: Reference, options: ResolveOptions = {}): Promise<Resolved> {
    const what = `resolve ${formatReference(ref)}`;
    if (ref.digest === undefined && ref.tag === undefined)
      throw new ErrdefsError('invalid_argument', `${what}: a tag or digest is required`);
    const signal = anyOf(this.#signal, options.signal);
    // What a digest stands for is no host's to decide.
    const needed: Capability[] = ref.digest === undefined ? ['pull', 'resolve'] : ['pull'];
    return this.#eachHost(ref, what, signal, needed, (host, hasNext) =>
      new Resolution(this.#session, host, ref, what, signal, hasNext).run(),
    );
  }

  fetcher(ref: Reference): Fetcher {
    const {domain, path} = ref;
    const named = (desc: Descriptor): string => `fetch ${formatReference({domain, path, digest: desc.digest})}`;
    return {
      bytes: (desc, options) => {
        const signal = anyOf(this.#signal, options.signal);
        const what = named(desc);
        return this.#eachHost(ref, what, signal, ['pull'], (host, hasNext) =>
          fetchBytes(this.#session, placeOf(host, ref, desc, hasNext), desc, what, {...options, signal}),
        );
      },
      stream: async (desc, sink, options) => {
        const signal = anyOf(this.#signal, options.signal);
        const what = named(desc);
        const download = new Download(this.#session, desc, what, sink, {...options, signal});
        if (download.done) return;
        const foreign = foreignPlaces(desc);
        // Which addresses may be asked is for the configuration to say.
        if (foreign.length > 0) await this.#hostsOf(ref, what, signal);
        for (const place of foreign) if (await download.tryFrom(place)) return;
        await this.#eachHost(
          ref,
          what,
          signal,
          ['pull'],
          (host, hasNext) => download.from(placeOf(host, ref, desc, hasNext)),
          () => download.sinkFailed,
        );
      },
    };
  }

  async close(): Promise<void> {
    await this.#transport.close();
  }

  async #hostsOf({domain}: Pick<Reference, 'domain'>, what: string, signal: AbortSignal | undefined): Promise<readonly Host[]> {
    this.#named.add(domain);
    const [hosts] = await Promise.all([this.#hosts(domain, signal), this.#transport.open()]).catch((err: unknown) => {
      throw err instanceof WireError ? wireFailure(err, {what, url: new URL(`https://${domain}`), attempt: 1}) : err;
    });
    for (const {origin} of hosts) this.#transport.allow(new URL(origin).hostname);
    return hosts;
  }

  /** The first host that can. One that did not answer before is passed over while there are others: it may cost its whole time-out each time. */
  async #eachHost<T>(
    {domain}: Reference,
    what: string,
    signal: AbortSignal | undefined,
    needed: readonly Capability[],
    use: (host: Host, hasNext: boolean) => Promise<T>,
    isFinal: () => boolean = () => false,
  ): Promise<T> {
    const all = await this.#hostsOf({domain}, what, signal);
    const able = all.filter(({capabilities}) => needed.every((capability) => capabilities?.has(capability) ?? true));
    if (able.length === 0)
      throw new ErrdefsError('failed_precondition', `${what}: no host of ${domain} may ${needed.join(' and ')}`, {
        hint: 'its hosts.toml gives none of them these capabilities; --debug names the file',
      });
    const awake = able.filter(({origin}) => !this.#silent.has(origin));
    const hosts = awake.length === 0 ? able : awake;
    const failures: HostFailure[] = [];
    for (const [i, host] of hosts.entries()) {
      const hasNext = i < hosts.length - 1;
      try {
        return await use(host, hasNext);
      } catch (err) {
        if (signal?.aborted || isFinal() || !isErrdefs(err)) throw err;
        failures.push({host, err});
        if (hasNext && err.details?.httpStatus === undefined && NO_ANSWER.has(err.code)) this.#silent.add(host.origin);
      }
    }
    throw bestOf(failures, what);
  }
}

/** Classes of failures in which a host may not have been there at all. */
const NO_ANSWER: ReadonlySet<Code> = new Set<Code>(['unavailable', 'deadline_exceeded']);

const anyOf = (a: AbortSignal | undefined, b: AbortSignal | undefined): AbortSignal | undefined =>
  a === undefined || b === undefined ? (a ?? b) : AbortSignal.any([a, b]);
