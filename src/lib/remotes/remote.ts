/** Implements `Remote`: resolves and fetches from a registry's hosts in turn. */
import {type Code, ErrdefsError, isErrdefs} from '../errdefs.ts';
import type {Descriptor} from '../oci/descriptor.ts';
import {formatReference, type Reference} from '../oci/reference.ts';
import {WireError, wireFailure} from './errors.ts';
import {Download, fetchBytes, foreignSources, registrySource} from './fetch.ts';
import {registryHosts} from './hosts.ts';
import {HttpClient} from './http-client.ts';
import {proxyRules} from './proxy.ts';
import {openPusher} from './push.ts';
import {RegistryApi} from './registry-api.ts';
import {Resolution} from './resolve.ts';
import {Transport} from './transport.ts';
import type {
  Capability,
  CredentialSource,
  Fetcher,
  Host,
  HostSource,
  ListingOptions,
  Pusher,
  Remote,
  RemoteOptions,
  RemoteSources,
  RepositoryApi,
  Resolved,
  ResolveOptions,
} from './types.ts';

/**
 * Opens a `Remote`. The HTTP client is loaded with the first request.
 *
 * @param sources replace the lookup of hosts in `hosts.ts` and the credentials of `options`
 */
export function openRemote(options: RemoteOptions = {}, sources: RemoteSources = {}): Remote {
  const connectTimeoutMs = options.connectTimeoutMs ?? 30_000;
  const stallTimeoutMs = options.stallTimeoutMs ?? 30_000;
  const {network} = sources;
  const {hostsDirs, onDebug, onDump, onTrace, tls, plainHTTP = false} = options;
  const rules = proxyRules(options.env ?? {});
  const transport = new Transport({
    connectTimeoutMs,
    stallTimeoutMs,
    skipVerify: options.skipVerify ?? false,
    network,
    proxyFor: (url) => rules(url)?.url,
    onTrace,
  });
  const named = new Set<string>();
  const client = new HttpClient(transport, credentialSource(options, named, sources.credentials), {
    backoffMs: options.backoffMs ?? 200,
    userAgent: options.userAgent ?? 'berth',
    onDebug,
    onDump,
    onTrace,
    plainHTTP,
    tokens: sources.tokens,
  });
  const hosts =
    sources.hosts ?? registryHosts({plainHTTP, connectTimeoutMs, hostsDirs, tls, hasProxy: (url) => rules(url) !== undefined, onDebug});
  return new RegistryRemote(transport, client, hosts, named, options.signal);
}

/**
 * @param named registries that references have named; mirrors do not get their password
 * @param source asked where no credentials are given
 */
function credentialSource(
  {credentials, refreshToken}: RemoteOptions,
  named: ReadonlySet<string>,
  source: CredentialSource = async () => undefined,
): CredentialSource {
  const given = refreshToken === undefined ? credentials : {refreshToken};
  return async (target, signal) => (given !== undefined && named.has(target.domain) ? given : source(target, signal));
}

interface HostFailure {
  readonly host: Host;
  readonly err: ErrdefsError;
}

/**
 * The error when all hosts failed: the registry's own response, else a mirror's, else a failed connection. The hint lists the
 * others.
 */
function combineFailures(failures: readonly HostFailure[], what: string): ErrdefsError {
  const isAnswer = ({err}: HostFailure): boolean => err.details?.httpStatus !== undefined;
  const last = failures.at(-1)!;
  const best = isAnswer(last) ? last : (failures.find(isAnswer) ?? last);
  if (failures.length === 1) return best.err;
  const {code, message, hint, details} = best.err;
  const others = failures
    .filter((failure) => failure !== best)
    .map(({host, err}) => ({host: host.origin, message: err.message.replace(`${what}: `, '')}));
  const alsoTried = `also tried: ${others.map((other) => other.message).join('; ')}`;
  return new ErrdefsError(code, message, {
    cause: best.err.cause,
    hint: hint === undefined ? alsoTried : `${hint}; ${alsoTried}`,
    details: {...details, otherHosts: others},
  });
}

class RegistryRemote implements Remote {
  readonly #transport: Transport;
  readonly #client: HttpClient;
  readonly #hosts: HostSource;
  readonly #named: Set<string>;
  readonly #signal: AbortSignal | undefined;
  /** Origins of mirrors that did not respond. */
  readonly #unresponsive = new Set<string>();

  constructor(transport: Transport, client: HttpClient, hosts: HostSource, named: Set<string>, signal: AbortSignal | undefined) {
    this.#transport = transport;
    this.#client = client;
    this.#hosts = hosts;
    this.#named = named;
    this.#signal = signal;
  }

  async resolve(ref: Reference, options: ResolveOptions = {}): Promise<Resolved> {
    const what = `resolve ${formatReference(ref)}`;
    if (ref.digest === undefined && ref.tag === undefined)
      throw new ErrdefsError('invalid_argument', `${what}: a tag or digest is required`);
    const signal = anyOf(this.#signal, options.signal);
    // A digest needs no trusted resolution.
    const needed: Capability[] = ref.digest === undefined ? ['pull', 'resolve'] : ['pull'];
    return this.#eachHost(ref, what, signal, needed, (host, hasFallback) =>
      new Resolution(this.#client, host, ref, what, signal, hasFallback).run(),
    );
  }

  fetcher(ref: Reference): Fetcher {
    const {domain, path} = ref;
    const named = (desc: Descriptor): string => `fetch ${formatReference({domain, path, digest: desc.digest})}`;
    return {
      bytes: (desc, options) => {
        const signal = anyOf(this.#signal, options.signal);
        const what = named(desc);
        return this.#eachHost(ref, what, signal, ['pull'], (host, hasFallback) =>
          fetchBytes(this.#client, registrySource(host, ref, desc, hasFallback), desc, what, {...options, signal}),
        );
      },
      stream: async (desc, sink, options) => {
        const signal = anyOf(this.#signal, options.signal);
        const what = named(desc);
        const download = new Download(this.#client, desc, what, sink, {...options, signal});
        if (download.done) return;
        const foreign = foreignSources(desc);
        // Reads the hosts' configuration, which may allow link-local addresses.
        if (foreign.length > 0) await this.#hostsOf(ref, what, signal);
        for (const source of foreign) if (await download.tryFrom(source)) return;
        await this.#eachHost(
          ref,
          what,
          signal,
          ['pull'],
          (host, hasFallback) => download.from(registrySource(host, ref, desc, hasFallback)),
          () => download.sinkFailed,
        );
      },
    };
  }

  pusher(ref: Reference, options: {readonly maxConcurrentUploads?: number | undefined} = {}): Pusher {
    return openPusher(this.#client, (what, signal) => this.#pushHost(ref, what, signal), ref, {...options, signal: this.#signal});
  }

  async #pushHost(ref: Reference, what: string, signal: AbortSignal | undefined): Promise<Host> {
    const hosts = await this.#hostsOf(ref, what, signal);
    const host = hosts.find(({capabilities}) => capabilities?.has('push') ?? true);
    if (host !== undefined) return host;
    throw new ErrdefsError('failed_precondition', `${what}: no host of ${ref.domain} has the capability push`, {
      hint: 'grant it in its hosts.toml; --debug shows the path of that file',
    });
  }

  api(ref: Reference): RepositoryApi {
    return this.#api().repository(ref);
  }

  catalog(domain: string, options: ListingOptions = {}): AsyncGenerator<string> {
    return this.#api().catalog(domain, options);
  }

  #api(): RegistryApi {
    return new RegistryApi(
      this.#client,
      (domain, what, signal, needed, use) => this.#eachHost({domain}, what, signal, needed, use),
      (signal) => anyOf(this.#signal, signal),
    );
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

  /** Tries hosts until one succeeds. Skips hosts that did not respond before while others are left: each could cost a full timeout. */
  async #eachHost<T>(
    {domain}: Pick<Reference, 'domain'>,
    what: string,
    signal: AbortSignal | undefined,
    needed: readonly Capability[],
    use: (host: Host, hasFallback: boolean) => Promise<T>,
    isFinal: () => boolean = () => false,
  ): Promise<T> {
    const all = await this.#hostsOf({domain}, what, signal);
    const able = all.filter(({capabilities}) => needed.every((capability) => capabilities?.has(capability) ?? true));
    if (able.length === 0)
      throw new ErrdefsError('failed_precondition', `${what}: no host of ${domain} has the capabilities ${needed.join(' and ')}`, {
        hint: 'grant them in its hosts.toml; --debug shows the path of that file',
      });
    const awake = able.filter(({origin}) => !this.#unresponsive.has(origin));
    const hosts = awake.length === 0 ? able : awake;
    const failures: HostFailure[] = [];
    for (const [i, host] of hosts.entries()) {
      const hasFallback = i < hosts.length - 1;
      try {
        return await use(host, hasFallback);
      } catch (err) {
        if (signal?.aborted || isFinal() || !isErrdefs(err)) throw err;
        failures.push({host, err});
        if (hasFallback && err.details?.httpStatus === undefined && NO_ANSWER.has(err.code)) this.#unresponsive.add(host.origin);
      }
    }
    throw combineFailures(failures, what);
  }
}

/** Classes of failures that mean that the host did not respond. */
const NO_ANSWER: ReadonlySet<Code> = new Set<Code>(['unavailable', 'deadline_exceeded']);

const anyOf = (a: AbortSignal | undefined, b: AbortSignal | undefined): AbortSignal | undefined =>
  a === undefined || b === undefined ? (a ?? b) : AbortSignal.any([a, b]);
