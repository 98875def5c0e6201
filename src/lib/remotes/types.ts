/**
 * What the wire gives: a name becomes a descriptor, a descriptor becomes bytes.
 *
 * Everything that can go wrong is an `ErrdefsError` whose `details` have, where they are known, `httpStatus`,
 * `registryCode` (the registry's own word, such as `MANIFEST_UNKNOWN`), `host`, `url` (without query and credentials),
 * `attempt` and `bytesDone`. The classes that every call here may throw:
 *
 * - unavailable: refused, unresolved, broken off or stalled for longer than retries could mend, or the registry's own failure
 * - unauthenticated, permission_denied: the registry wants credentials, or other ones; not_found: so it says
 * - resource_exhausted: too many requests, and the registry asks for more patience than a command has
 * - failed_precondition: the answer is not what was promised (size, digest, encoding, an untrusted certificate, an unsafe redirect)
 * - deadline_exceeded: `connectTimeoutMs` or a timeout signal; canceled: another signal
 * - not_implemented: a schema 1 manifest, an authentication scheme that nobody here speaks
 */
import type {Descriptor} from '../oci/descriptor.ts';
import type {Reference} from '../oci/reference.ts';
import type {Network} from './transport.ts';

export interface RemoteOptions {
  /** Speaks plain HTTP to every registry. Without it only a registry on this machine's loopback may, see `hosts.ts`. */
  readonly plainHTTP?: boolean | undefined;
  /** Accepts any TLS certificate. */
  readonly skipVerify?: boolean | undefined;
  /** For the registries that the references given to this remote name, not for their mirrors; sent only after they ask. */
  readonly credentials?: {readonly username: string; readonly password: string} | undefined;
  /** A refresh (identity) token, exchanged at the registry's token server; taken before `credentials`. */
  readonly refreshToken?: string | undefined;
  /**
   * Bounds each connection, name lookup and TLS included, in milliseconds; 0 is no bound. Default 30 000. A connection that
   * takes longer is not tried again: the kernel has repeated it all along.
   */
  readonly connectTimeoutMs?: number | undefined;
  /**
   * How long nothing, or next to nothing, may arrive before a connection counts as broken, in milliseconds; the first byte included. 0 is
   * no bound. Default 30 000.
   */
  readonly stallTimeoutMs?: number | undefined;
  /** First pause before a repeated request, in milliseconds; it doubles and is jittered. Default 200. */
  readonly backoffMs?: number | undefined;
  readonly userAgent?: string | undefined;
  /** Directories with a `hosts.toml` or certificates for each registry, the first to be looked into first; default none. See `hosts-dir.ts`. */
  readonly hostsDirs?: readonly string[] | undefined;
  /** Is told, a line each, where content is looked for, what was asked and what came of it. No secrets, and of a query only `ns`. */
  readonly onDebug?: ((line: string) => void) | undefined;
  /** Bounds everything that this remote does. */
  readonly signal?: AbortSignal | undefined;
}

export type Credentials = {readonly username: string; readonly password: string} | {readonly refreshToken: string};

/**
 * Looks up credentials for a registry, such as `docker.io`, or for a mirror by its own name: flags now, credential stores
 * later. Called only when that host has asked for some, at most once per remote and host.
 */
export type CredentialSource = (domain: string, signal: AbortSignal | undefined) => Promise<Credentials | undefined>;

/** What a host can be trusted with; to resolve is to decide what a tag stands for. */
export const CAPABILITIES = ['pull', 'resolve', 'push', 'referrers'] as const;
export type Capability = (typeof CAPABILITIES)[number];

/** How a host is spoken to, where that is not how the remote's options have it. */
export interface Connection {
  /** PEM certificates that are trusted besides the system's. */
  readonly ca: readonly string[];
  /** PEM certificates of our own, no two with keys of one type. */
  readonly client: readonly {readonly cert: string; readonly key: string}[];
  readonly skipVerify: boolean | undefined;
  /** Holds where it is shorter than the remote's own; 0 is no bound. */
  readonly connectTimeoutMs: number | undefined;
}

/** One place where a registry's content may be had. */
export interface Host {
  /** The registry as references name it, such as `docker.io`, or a mirror's host; credentials are looked up under this name. */
  readonly domain: string;
  /** Scheme, host and port, such as `https://registry-1.docker.io`. */
  readonly origin: string;
  /** What precedes `/<repository>/manifests/…`, such as `/v2`. */
  readonly path: string;
  /** Default: all. */
  readonly capabilities?: ReadonlySet<Capability> | undefined;
  /** The registry whose content is asked for, where the host's own name does not tell it. */
  readonly ns?: string | undefined;
  /** Sent with every request to this origin. Names in lower case. Values may be secrets. */
  readonly headers?: Readonly<Record<string, string[]>> | undefined;
  /** Also holds for where this host sends us: redirects, token servers. */
  readonly connection?: Connection | undefined;
}

/** Decides where a registry's content is looked for: in this order, mirrors before the registry itself. */
export type HostSource = (domain: string, signal: AbortSignal | undefined) => Promise<readonly [Host, ...Host[]]>;

/** What a remote asks instead of its own flags and rules. */
export interface RemoteSources {
  readonly hosts?: HostSource;
  readonly credentials?: CredentialSource;
  /** How sockets are opened. */
  readonly network?: Network | undefined;
}

export interface ResolveOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface Resolved {
  readonly descriptor: Descriptor;
  /** The manifest or index itself, verified, when HEAD did not tell enough and it had to be fetched. */
  readonly body?: Buffer;
}

export interface BytesOptions {
  /** Most bytes to accept; checked against the descriptor before anything is asked for. */
  readonly limit: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Takes a blob's next bytes. The buffer is its own to keep. While the promise it may return is pending the connection is
 * paused and no further call comes; when it rejects or throws, the stream ends with that same error.
 */
export type Sink = (chunk: Buffer) => void | Promise<void>;

export interface StreamOptions {
  /** Bytes that the caller has already. */
  readonly offset: number;
  readonly signal?: AbortSignal | undefined;
}

/** Fetches what descriptors of one repository point to. Calls may overlap; each running one has a connection to itself. */
export interface Fetcher {
  /**
   * A small object whole: manifest, index or config. Size and digest are verified.
   *
   * @throws failed_precondition larger than `limit` (whether it says so or not), or not what the descriptor promised
   */
  bytes(desc: Descriptor, options: BytesOptions): Promise<Buffer>;

  /**
   * A blob's bytes from `offset` on, each exactly once and in order, and never more than `desc.size` in all. Verifying the
   * digest is the caller's part: it has the bytes before `offset`.
   *
   * A connection that breaks or stalls is taken up again at the next byte by a Range request, as long as every third try
   * makes progress. A blob of a foreign media type is looked for at the descriptor's URLs first, without credentials.
   *
   * Once the promise settles `sink` is not called again and no call of it is pending.
   *
   * @throws failed_precondition more bytes, or another total, than `desc.size`
   * @throws unavailable fewer, and no further ones to be had
   */
  stream(desc: Descriptor, sink: Sink, options: StreamOptions): Promise<void>;
}

/** A session with registries: connections, tokens and what was learnt about each host are kept until it is closed. */
export interface Remote {
  /**
   * The descriptor that a tag, or a digest, stands for now. One HEAD request where the registry tells digest, length and
   * type in its answer; otherwise the body is fetched and hashed here.
   *
   * @throws failed_precondition also a manifest of more bytes than any may have (oci, MAX_MANIFEST_BYTES)
   * @throws not_found no such repository or tag, or the registry does not tell it from a private one
   * @throws not_implemented a schema 1 manifest
   */
  resolve(ref: Reference, options?: ResolveOptions): Promise<Resolved>;

  fetcher(ref: Reference): Fetcher;

  /** Ends every connection; what still runs ends as canceled. */
  close(): Promise<void>;
}
