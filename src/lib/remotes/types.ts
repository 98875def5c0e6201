/**
 * The interface to registries: resolve a reference to a descriptor, fetch a descriptor's bytes, push content.
 *
 * Every failure is an `ErrdefsError`. Where known, its `details` have `httpStatus`, `registryCode` (such as
 * `MANIFEST_UNKNOWN`), `host`, `url` (without query and credentials), `attempt` and `bytesDone`. Every call may throw:
 *
 * - unavailable: connection refused, name unresolved, connection broken or stalled despite retries, or a 5xx status
 * - unauthenticated, permission_denied: the registry wants credentials, or other ones
 * - not_found: so the registry says
 * - resource_exhausted: too many requests, and `Retry-After` is too long to wait
 * - failed_precondition: wrong size, digest or encoding, an untrusted certificate, an unsafe redirect
 * - deadline_exceeded: `connectTimeoutMs` or a timeout signal; canceled: any other signal
 * - not_implemented: a schema 1 manifest, an unsupported authentication scheme
 */
import type {LookupFunction, Socket} from 'node:net';
import type {buildConnector} from 'undici';
import type {ErrdefsError} from '../errdefs.ts';
import type {Descriptor, Digest} from '../oci/descriptor.ts';
import type {Reference} from '../oci/reference.ts';
import type {Resolver} from './address-filter.ts';
import type {Capability} from './explained-host.ts';

export interface RemoteOptions {
  /** Uses plain HTTP for every registry. Default: only for registries on loopback, see `hosts.ts`. */
  readonly plainHTTP?: boolean | undefined;
  /** Accepts any TLS certificate. */
  readonly skipVerify?: boolean | undefined;
  /** For the registries that references name, not for mirrors; sent only after a challenge. */
  readonly credentials?: {readonly username: string; readonly password: string} | undefined;
  /** A refresh (identity) token for the registry's token server; preferred over `credentials`. */
  readonly refreshToken?: string | undefined;
  /**
   * Time limit for establishing each connection, including DNS and TLS, in milliseconds; 0 means none. Default 30 000. There is
   * no retry: the kernel has retried all along.
   */
  readonly connectTimeoutMs?: number | undefined;
  /**
   * Milliseconds with hardly any bytes until a connection counts as stalled, also before the first byte. 0 means no limit.
   * Default 30 000.
   */
  readonly stallTimeoutMs?: number | undefined;
  /** Pause before the first retry, in milliseconds; doubles with each retry, with jitter. Default 200. */
  readonly backoffMs?: number | undefined;
  /** Most bytes of bodies per second, sent and received, over all connections of all remotes with this limit. Default: no limit. */
  readonly limitRate?: number | undefined;
  /** Fetches a foreign layer that its registry does not serve from the URLs of its descriptor, without credentials. Default false. */
  readonly allowForeign?: boolean | undefined;
  readonly userAgent?: string | undefined;
  /** PEM files for hosts without their own: additional trusted CAs, and a client certificate with its key. */
  readonly tls?: {readonly ca?: string | undefined; readonly cert?: string | undefined; readonly key?: string | undefined} | undefined;
  /** Where `HTTPS_PROXY` and its like are looked up. Default: none, so no proxy but those of hosts.toml. */
  readonly env?: Readonly<Record<string, string | undefined>> | undefined;
  /** Directories with a `hosts.toml` or certificates for each registry, in search order; default none. See `hosts-dir.ts`. */
  readonly hostsDirs?: readonly string[] | undefined;
  /** Gets a line for each list of hosts and each request with its result, without secrets. */
  readonly onDebug?: ((line: string) => void) | undefined;
  /** Gets the head of each request and response as lines of text, without secrets and without bodies. */
  readonly onDump?: ((text: string) => void) | undefined;
  /** Gets a line for each step of a connection and a request, with its time in milliseconds. */
  readonly onTrace?: ((line: string) => void) | undefined;
  /** Aborts everything that this remote does. */
  readonly signal?: AbortSignal | undefined;
}

/** A password, a refresh (identity) token for the token server, or a bearer token for the registry itself. */
export type Credentials =
  | {readonly username: string; readonly password: string}
  | {readonly refreshToken: string}
  | {readonly registryToken: string};

/** What credentials are looked up for. */
export interface CredentialTarget {
  /** A registry's name in references, such as `docker.io`, or a mirror's host. */
  readonly domain: string;
  /** Such as `library/redis`; undefined for the registry as a whole. */
  readonly repository: string | undefined;
}

/** Looks up credentials. Called only after a challenge, at most once per remote, host and repository. */
export type CredentialSource = (target: CredentialTarget, signal: AbortSignal | undefined) => Promise<Credentials | undefined>;

/** Keeps tokens for other processes of the user, until they expire. Never throws. */
export interface TokenStore {
  /** @returns the token, and the end of its life in milliseconds since the epoch; undefined after that */
  get(key: string): {readonly token: string; readonly expires: number} | undefined;
  /** @param key says for what and for whose credentials the token is good, without secrets */
  set(key: string, token: string, expires: number): void;
  delete(key: string): void;
}

export {CAPABILITIES, type Capability} from './explained-host.ts';

/** Connection settings of a host that override the remote's options. */
export interface Connection {
  /** PEM certificates of additional trusted CAs. */
  readonly ca: readonly string[];
  /** PEM client certificates, at most one of each key type. */
  readonly client: readonly {readonly cert: string; readonly key: string}[];
  readonly skipVerify: boolean | undefined;
  /** Applies if shorter than the remote's; 0 means none. */
  readonly connectTimeoutMs: number | undefined;
  /** The proxy of hosts.toml, which overrides those of the environment. */
  readonly proxy: URL | undefined;
}

/** A registry or a mirror of it. */
export interface Host {
  /** The registry's name in references, such as `docker.io`, or the mirror's host. The key of credentials. */
  readonly domain: string;
  /** Scheme, host and port, such as `https://registry-1.docker.io`. */
  readonly origin: string;
  /** The path before `/<repository>/manifests/…`, such as `/v2`. */
  readonly path: string;
  /** Default: all. */
  readonly capabilities?: ReadonlySet<Capability> | undefined;
  /** The registry's name for the query `ns`, if the host is a mirror. */
  readonly ns?: string | undefined;
  /** Sent with every request to this origin. Names in lower case. Values may be secrets. */
  readonly headers?: Readonly<Record<string, string[]>> | undefined;
  /** Applies to redirects and token servers as well. */
  readonly connection?: Connection | undefined;
}

/** Lists the hosts of a registry in the order of use, mirrors first. */
export type HostSource = (domain: string, signal: AbortSignal | undefined) => Promise<readonly [Host, ...Host[]]>;

/** Opens sockets, for tests of addresses that must not be connected to. Default: the system's. */
export interface Network {
  readonly resolve?: Resolver;
  /** @param lookup resolves the host of a socket */
  readonly connect?: (options: buildConnector.Options & {readonly lookup: LookupFunction}, callback: buildConnector.Callback) => Socket;
}

/** A registry's wish not to be asked for a while (429, `Retry-After`). Times are milliseconds since 1970. */
export interface CoolDown {
  readonly askedAt: number;
  readonly end: number;
  /** The status of the response that asked for it, such as 429 or 503. */
  readonly status: number;
}

/** Cool-downs by origin. Where several processes share them, one that is told to wait keeps all from asking. Methods never throw. */
export interface CoolDowns {
  find(origin: string): CoolDown | undefined;
  put(origin: string, coolDown: CoolDown): void;
}

/** Replacements for parts of a remote, for tests and embedders. */
export interface RemoteSources {
  /** Default: of this remote alone. */
  readonly coolDowns?: CoolDowns | undefined;
  readonly hosts?: HostSource;
  /** Asked where `credentials` and `refreshToken` of the options do not apply. */
  readonly credentials?: CredentialSource;
  /** Default: tokens are kept within the remote. */
  readonly tokens?: TokenStore | undefined;
  readonly network?: Network | undefined;
}

export interface ResolveOptions {
  /** What the last call returned was not to be had: a mirror that it came from is set aside. Default false. */
  readonly again?: boolean;
  /** Asks only hosts that may be pushed to, for what is about to be changed there: other mirrors may be behind. Default false. */
  readonly forChange?: boolean;
  readonly signal?: AbortSignal | undefined;
}

export interface Resolved {
  readonly descriptor: Descriptor;
  /** The verified manifest or index, if the headers of HEAD were incomplete and it had to be fetched. */
  readonly body?: Buffer;
  /** A mirror has resolved it, which may be wrong or behind the registry. */
  readonly isMirrors?: boolean;
}

export interface BytesOptions {
  /** Most bytes to accept; checked against the descriptor before the request. */
  readonly limit: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Receives the next bytes of a blob, and may keep the buffer. While its promise is pending, the connection is paused and no
 * further call comes. Its error ends the stream, unchanged.
 */
export type Sink = (chunk: Buffer) => void | Promise<void>;

export interface StreamOptions {
  /** Bytes that the caller already has. */
  readonly offset: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Fetches content of one repository. Concurrent calls have a connection each. Content that a descriptor embeds (`data`) is taken from
 * there if its digest and size are right.
 */
export interface Fetcher {
  /**
   * Fetches a manifest, index or config. Size and digest are verified.
   *
   * @throws failed_precondition larger than `limit`, or another size or digest than the descriptor's
   */
  bytes(desc: Descriptor, options: BytesOptions): Promise<Buffer>;

  /**
   * Streams a blob from `offset` on: each byte once, in order, at most `desc.size` in total. The caller verifies the digest.
   *
   * After a broken or stalled connection a Range request continues at the next byte, as long as every third attempt makes
   * progress. At a mirror two attempts that break, or one that stalls, are enough: the next host continues at the next byte. A foreign
   * layer that no host has is fetched from its descriptor's URLs, if `allowForeign` says so.
   *
   * When the promise settles, no call of `sink` is pending or will come.
   *
   * @throws failed_precondition more bytes, or another total, than `desc.size`; a foreign layer without `allowForeign`
   * @throws unavailable the connection broke too often
   */
  stream(desc: Descriptor, sink: Sink, options: StreamOptions): Promise<void>;

  /**
   * The bytes of the last stream of this blob have another digest. Sets the mirrors aside that they came from.
   *
   * @returns whether other hosts are left, from which to fetch the blob again from its first byte
   */
  rejected(desc: Descriptor): boolean;
}

/** Opens a blob's bytes from `offset` on. An error of the stream ends the upload, unchanged, with the blob incomplete at the registry. */
export type OpenBlob = (offset: number) => AsyncIterable<Uint8Array>;

/** How a blob came to be in the repository: it was there, it was mounted from another repository, or it was uploaded. */
export type BlobOutcome = 'exists' | 'mounted' | 'uploaded';

export interface BlobPushOptions {
  /**
   * Repositories of the same registry that are known to have the blob, the likeliest first: it is mounted from them. The target itself
   * among them means that the blob is expected there.
   */
  readonly from?: readonly string[] | undefined;
  /** Called with the number of the blob's bytes that are on their way. It falls when bytes are sent again. */
  readonly onProgress?: ((offset: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ManifestPushOptions {
  /** Default: the manifest gets no tag. */
  readonly tag?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called when a connection takes the request, which it then writes; again for a retry. */
  readonly onSend?: (() => void) | undefined;
}

export interface ManifestPushResult {
  /** The manifest's subject, if the registry lists its referrers by itself (`OCI-Subject`). */
  readonly subject?: Digest;
}

/**
 * Pushes content to one repository: to the registry itself, never to a mirror. Concurrent calls are queued.
 *
 * The caller pushes a manifest after everything that it refers to.
 */
export interface Pusher {
  /**
   * Whether the repository has a blob, manifest or index.
   *
   * @param options.tag asks whether this tag names the manifest
   */
  exists(desc: Descriptor, options?: {readonly tag?: string | undefined; readonly signal?: AbortSignal | undefined}): Promise<boolean>;

  /**
   * Puts a blob into the repository, unless it is there.
   *
   * @param open is called anew where the upload goes on from another byte
   * @throws data_loss the stream has another size than the descriptor
   */
  blob(desc: Descriptor, open: OpenBlob, options?: BlobPushOptions): Promise<BlobOutcome>;

  /** Puts a manifest or index into the repository, byte for byte. A tag that names another one is moved. */
  manifest(desc: Descriptor, bytes: Buffer, options?: ManifestPushOptions): Promise<ManifestPushResult>;
}

export interface RegistryCallOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface ListingOptions extends RegistryCallOptions {
  /** The list ends after so many entries. */
  readonly limit?: number | undefined;
}

/** One repository, besides its content. */
export interface RepositoryApi {
  /** The tags in the registry's order, requested page by page as they are consumed. @throws failed_precondition a link to another host, or a circle of pages */
  tags(options?: ListingOptions): AsyncGenerator<string>;

  /**
   * Manifests whose `subject` is this one.
   *
   * @param options.forChange asks the registry itself, as what it has decides how the list is changed
   * @returns undefined where the registry does not have the referrers API; the tag `sha256-<hex>` may list them then
   */
  referrers(digest: Digest, options?: RegistryCallOptions & {readonly forChange?: boolean}): Promise<readonly Descriptor[] | undefined>;

  /** The size of a blob or manifest, by one or two HEAD requests. The media type of a blob is unknown: `application/octet-stream`. */
  stat(digest: Digest, options?: RegistryCallOptions): Promise<Descriptor>;

  /**
   * Deletes a manifest by its digest, with all its tags, or a tag. Never asks a mirror.
   *
   * @throws not_implemented deletion is disabled, or the registry does not delete tags
   */
  delete(target: string, options?: RegistryCallOptions): Promise<void>;
}

/** What a host answered to a ping. */
export interface PingAnswer {
  readonly host: Host;
  /** Milliseconds until the answer or the failure. */
  readonly ms: number;
  readonly status?: number;
  /** Whether the host wanted credentials and got some. */
  readonly usedCredentials: boolean;
  readonly error?: ErrdefsError;
}

/** Access to registries. Keeps connections, tokens and the state of hosts until it is closed. */
export interface Remote {
  /**
   * Resolves a tag or digest to a descriptor. One HEAD request, if its headers have digest, length and type; otherwise the
   * manifest is fetched and hashed.
   *
   * @throws failed_precondition also a manifest larger than MAX_MANIFEST_BYTES (oci)
   * @throws not_found no such repository or tag; some registries say so for private ones too
   * @throws not_implemented a schema 1 manifest
   */
  resolve(ref: Reference, options?: ResolveOptions): Promise<Resolved>;

  fetcher(ref: Reference): Fetcher;

  /** @param options.maxConcurrentUploads blobs that are uploaded at once; default 3 */
  pusher(ref: Reference, options?: {readonly maxConcurrentUploads?: number | undefined}): Pusher;

  api(ref: Reference): RepositoryApi;

  /** Repositories of a registry, as `RepositoryApi.tags` lists tags. */
  catalog(domain: string, options?: ListingOptions): AsyncGenerator<string>;

  /**
   * Asks each host of a registry for `/v2/`, one after the other, with credentials where it wants some: those of `repository`, if given.
   *
   * @param options.registryOnly asks no mirror
   */
  ping(
    target: CredentialTarget,
    options?: {readonly registryOnly?: boolean; readonly signal?: AbortSignal | undefined},
  ): Promise<readonly PingAnswer[]>;

  /** Closes every connection; running calls fail as canceled. */
  close(): Promise<void>;
}
