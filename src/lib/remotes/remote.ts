/** Implements `Remote`: resolves and fetches from a registry's hosts in turn. */
import {ErrdefsError, isErrdefs} from '../errdefs.ts';
import type {Descriptor, Digest} from '../oci/descriptor.ts';
import {embeddedData} from '../oci/hash.ts';
import {formatReference, type Reference} from '../oci/reference.ts';
import {pingScope} from './auth.ts';
import {sharedRateLimit} from './bandwidth-limit.ts';
import {protocolError, WireError, wireFailure} from './errors.ts';
import {FailedHosts, type HostFailure} from './failed-hosts.ts';
import {Download, fetchBytes, foreignSources, registrySource} from './fetch.ts';
import {registryHosts, urlOf} from './hosts.ts';
import {proxyRules} from './proxy.ts';
import {openPusher} from './push.ts';
import {RegistryApi} from './registry-api.ts';
import {Resolution} from './resolve.ts';
import {HttpClient} from './retrying-client.ts';
import type {
  Capability,
  CredentialSource,
  CredentialTarget,
  Fetcher,
  Host,
  HostSource,
  ListingOptions,
  PingAnswer,
  Pusher,
  Remote,
  RemoteOptions,
  RemoteSources,
  RepositoryApi,
  Resolved,
  ResolveOptions,
} from './types.ts';
import {Transport} from './undici-exchange.ts';

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
    rateLimit: options.limitRate === undefined ? undefined : sharedRateLimit(options.limitRate),
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
    coolDowns: sources.coolDowns,
  });
  const hosts =
    sources.hosts ?? registryHosts({plainHTTP, connectTimeoutMs, hostsDirs, tls, hasProxy: (url) => rules(url) !== undefined, onDebug});
  return new RegistryRemote(transport, client, hosts, named, options);
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

/** What is wanted of a registry's hosts. */
interface Wish {
  readonly ref: Reference;
  /** Verb and object, for errors. */
  readonly what: string;
  readonly signal: AbortSignal | undefined;
  readonly needed: readonly Capability[];
  /** A blob whose bytes may have come wrong from some hosts. */
  readonly digest?: Digest;
  /** Whether a failure ends the search. */
  readonly isFinal?: () => boolean;
}

/** A host that had a part in a blob. */
interface Delivery {
  readonly host: Host;
  readonly isRegistry: boolean;
}

class RegistryRemote implements Remote {
  readonly #transport: Transport;
  readonly #client: HttpClient;
  readonly #hosts: HostSource;
  readonly #named: Set<string>;
  readonly #signal: AbortSignal | undefined;
  readonly #allowForeign: boolean;
  readonly #failed = new FailedHosts();
  /** Hosts that the bytes of a blob came from, and whether its first byte did. */
  readonly #deliveries = new Map<Digest, {readonly from: Set<Delivery>; readonly isWhole: boolean}>();
  /** The mirror that has resolved a reference, by the reference. */
  readonly #resolvedBy = new Map<string, Host>();

  constructor(transport: Transport, client: HttpClient, hosts: HostSource, named: Set<string>, options: RemoteOptions) {
    this.#transport = transport;
    this.#client = client;
    this.#hosts = hosts;
    this.#named = named;
    this.#signal = options.signal;
    this.#allowForeign = options.allowForeign ?? false;
  }

  async resolve(ref: Reference, options: ResolveOptions = {}): Promise<Resolved> {
    const what = `resolve ${formatReference(ref)}`;
    if (ref.digest === undefined && ref.tag === undefined)
      throw new ErrdefsError('invalid_argument', `${what}: a tag or digest is required`);
    const signal = anyOf(this.#signal, options.signal);
    // A digest needs no trusted resolution.
    const needed: Capability[] = ref.digest === undefined ? ['pull', 'resolve'] : ['pull'];
    if (options.forChange) needed.push('push');
    const name = formatReference(ref);
    const before = this.#resolvedBy.get(name);
    if (options.again && before !== undefined)
      this.#failed.add(
        before,
        ref.path,
        protocolError({what, url: new URL(before.origin), attempt: 1}, 'what it resolved to was not to be had'),
      );
    return this.#eachHost({ref, what, signal, needed}, async (host, hasFallback, isRegistry) => {
      const resolved = await new Resolution(this.#client, host, ref, what, signal, hasFallback).run();
      if (isRegistry) {
        this.#resolvedBy.delete(name);
        return resolved;
      }
      this.#resolvedBy.set(name, host);
      return {...resolved, isMirrors: true};
    });
  }

  fetcher(ref: Reference): Fetcher {
    const {domain, path} = ref;
    const named = (desc: Descriptor): string => `fetch ${formatReference({domain, path, digest: desc.digest})}`;
    return {
      bytes: async (desc, options) => {
        const embedded = desc.size > options.limit ? undefined : embeddedData(desc);
        if (embedded !== undefined) return embedded;
        const signal = anyOf(this.#signal, options.signal);
        const what = named(desc);
        return this.#eachHost({ref, what, signal, needed: ['pull']}, (host, hasFallback) =>
          fetchBytes(this.#client, registrySource(host, ref, desc, hasFallback), desc, what, {...options, signal}),
        );
      },
      stream: async (desc, sink, options) => {
        const signal = anyOf(this.#signal, options.signal);
        const what = named(desc);
        const download = new Download(this.#client, desc, what, sink, {...options, signal});
        if (download.done || (await download.embedded())) return;
        const from = new Set<Delivery>();
        this.#deliveries.set(desc.digest, {from, isWhole: options.offset === 0});
        const wish: Wish = {ref, what, signal, needed: ['pull'], digest: desc.digest, isFinal: () => download.sinkFailed};
        try {
          await this.#eachHost(wish, async (host, hasFallback, isRegistry) => {
            const before = download.offset;
            try {
              await download.from(registrySource(host, ref, desc, hasFallback));
            } finally {
              if (download.offset > before) from.add({host, isRegistry});
            }
          });
        } catch (err) {
          if (signal?.aborted || download.sinkFailed || !isRefusal(err)) throw err;
          await this.#fromForeign(desc, download, what, err);
        }
      },
      rejected: (desc) => this.#reject(desc, path, named(desc)),
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
      (domain, what, signal, needed, use) => this.#eachHost({ref: {domain, path: ''}, what, signal, needed}, use),
      (signal) => anyOf(this.#signal, signal),
    );
  }

  /**
   * Fetches a foreign layer, which its registry does not serve, from the URLs of its descriptor.
   *
   * @param err of the registry
   * @throws failed_precondition they may not be followed
   */
  async #fromForeign(desc: Descriptor, download: Download, what: string, err: ErrdefsError): Promise<void> {
    const sources = foreignSources(desc);
    if (sources.length === 0) throw err;
    if (!this.#allowForeign)
      throw new ErrdefsError('failed_precondition', `${what}: a foreign layer, which the registry does not have`, {
        cause: err,
        hint: `fetch it from ${[...new Set(sources.map(({url}) => url.host))].join(', ')} with --allow-foreign`,
        details: {...err.details, urls: sources.map(({url}) => url.origin + url.pathname)},
      });
    let last: unknown = err;
    for (const source of sources) {
      try {
        return await download.from(source);
      } catch (failure) {
        last = failure;
        if (download.sinkFailed || !isErrdefs(failure) || failure.code === 'canceled') break;
      }
    }
    throw last;
  }

  /** Sets the mirrors aside that wrong bytes came from: for good if one delivered all of them, else for this blob. */
  #reject({digest}: Descriptor, repository: string, what: string): boolean {
    const {from = new Set<Delivery>(), isWhole = false} = this.#deliveries.get(digest) ?? {};
    this.#deliveries.delete(digest);
    const mirrors = [...from].filter(({isRegistry}) => !isRegistry);
    for (const {host} of mirrors) {
      this.#failed.addWrong(host, digest);
      if (isWhole && from.size === 1)
        this.#failed.add(host, repository, protocolError({what, url: new URL(host.origin), attempt: 1}, 'the bytes have another digest'));
    }
    return mirrors.length > 0;
  }

  async ping(
    {domain, repository}: CredentialTarget,
    {registryOnly = false, signal: own}: {readonly registryOnly?: boolean; readonly signal?: AbortSignal | undefined} = {},
  ): Promise<readonly PingAnswer[]> {
    const signal = anyOf(this.#signal, own);
    const hosts = await this.#hostsOf({domain}, `ping ${domain}`, signal);
    const answers: PingAnswer[] = [];
    for (const host of registryOnly ? hosts.slice(-1) : hosts) {
      const scope = pingScope(host, repository);
      const began = performance.now();
      const answer: {status?: number; error?: ErrdefsError} = {};
      try {
        const response = await this.#client.send({
          what: `ping ${host.origin}`,
          method: 'GET',
          url: urlOf(host, '/'),
          scope,
          signal,
          onBody: () => () => undefined,
          restartable: true,
          hasFallback: true,
          digestVerified: false,
        });
        answer.status = response.status;
        if (response.status >= 300) answer.error = await this.#client.toError(response, scope);
      } catch (err) {
        if (signal?.aborted || !isErrdefs(err)) throw err;
        answer.error = err;
      }
      const ms = performance.now() - began;
      answers.push({host, ms, usedCredentials: await this.#client.usedCredentials(scope), ...answer});
    }
    return answers;
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

  /**
   * Tries hosts until one succeeds. A mirror that failed before is set aside (`FailedHosts`): each could cost a full timeout. When all others
   * have failed, those are asked that may have recovered.
   *
   * @param use is told whether another host follows, and whether this one is the registry itself
   */
  async #eachHost<T>(wish: Wish, use: (host: Host, hasFallback: boolean, isRegistry: boolean) => Promise<T>): Promise<T> {
    const {ref, what, signal, needed, digest, isFinal = () => false} = wish;
    const all = await this.#hostsOf(ref, what, signal);
    const able = all.filter(({capabilities}) => needed.every((capability) => capabilities?.has(capability) ?? true));
    if (able.length === 0)
      throw new ErrdefsError('failed_precondition', `${what}: no host of ${ref.domain} has the capabilities ${needed.join(' and ')}`, {
        hint: 'grant them in its hosts.toml; --debug shows the path of that file',
      });
    const registry = able.at(-1)!;
    const aside = able.slice(0, -1).flatMap((host) => this.#failed.find(host, ref.path) ?? []);
    const setAside = new Set(aside.map(({host}) => host));
    const awake = able.filter((host) => host === registry || !(setAside.has(host) || this.#failed.isWrong(host, digest)));
    const again = aside.filter((failure) => this.#failed.mayHaveRecovered(failure) && !this.#failed.isWrong(failure.host, digest));
    const failures: HostFailure[] = [];
    const tryHost = async (host: Host, hasFallback: boolean): Promise<{readonly result: T} | undefined> => {
      try {
        return {result: await use(host, hasFallback, host === registry)};
      } catch (err) {
        if (signal?.aborted || isFinal() || !isErrdefs(err)) throw err;
        failures.push({host, err});
        if (host !== registry) this.#failed.add(host, ref.path, err);
        return undefined;
      }
    };
    for (const host of awake) {
      const done = await tryHost(host, host !== registry);
      if (done !== undefined) return done.result;
    }
    const own = failures.pop()!;
    // A registry that answers has the last word.
    if (this.#failed.mayHaveRecovered(own)) {
      for (const {host} of again) {
        const done = await tryHost(host, true);
        if (done !== undefined) return done.result;
      }
    }
    const asked = new Set(failures.map(({host}) => host));
    throw combineFailures([...aside.filter(({host}) => !asked.has(host)), ...failures, own], what);
  }
}

/** Whether a registry has answered that it does not give an object. */
function isRefusal(err: unknown): err is ErrdefsError {
  const status = isErrdefs(err) ? err.details?.httpStatus : undefined;
  return typeof status === 'number' && status >= 400 && status < 500 && status !== 408 && status !== 429;
}

const anyOf = (a: AbortSignal | undefined, b: AbortSignal | undefined): AbortSignal | undefined =>
  a === undefined || b === undefined ? (a ?? b) : AbortSignal.any([a, b]);
