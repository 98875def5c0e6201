/** Types that several clients share. */

/** Progress of one descriptor, or of resolving the reference. Sent at each change of status, and at most every 100 ms during a transfer. */
export interface ProgressEvent {
  /** The reference itself, or `<kind>-<digest>`, such as `layer-sha256:…`. */
  readonly ref: string;
  readonly status:
    | 'resolving'
    | 'resolved'
    | 'waiting'
    | 'checking'
    | 'reading'
    | 'downloading'
    | 'uploading'
    | 'extracting'
    | 'committing'
    | 'exists'
    | 'mounted'
    | 'done';
  /** Bytes so far, and in total; both 0 when there is nothing to count. */
  readonly offset: number;
  readonly total: number;
}

/** Options of every call that changes the store, and of others that may take long. */
export interface CallOptions {
  /** Ends the call, and what it waits for: requests, locks that others hold. */
  readonly signal?: AbortSignal;
}

/** Options of all lists. */
export interface ListOptions {
  /** Filters in containerd's grammar; a record matches when any filter does. */
  readonly filters?: readonly string[];
}

/** Credentials of a registry: a password, a refresh (identity) token, or a bearer token that is sent as it is. */
export type RegistryCredentials =
  | {readonly username: string; readonly password: string}
  | {readonly refreshToken: string}
  | {readonly registryToken: string};

/**
 * Finds credentials. Called after a registry has asked for them.
 *
 * @param registry such as `docker.io`, or the host of a mirror
 * @param target.repository such as `library/redis`
 * @returns undefined for none: files and helpers are then looked at
 */
export type CredentialsCallback = (
  registry: string,
  target: {readonly domain: string; readonly repository: string | undefined; readonly signal?: AbortSignal},
) => Promise<RegistryCredentials | undefined>;

/** Options for access to registries. */
export interface RegistryOptions {
  readonly plainHTTP?: boolean;
  /** Skips the verification of TLS certificates. */
  readonly skipVerify?: boolean;
  /**
   * Sent only to a registry that asks for them: a user name and password for the registry that a reference names, or a function that is
   * called for it and for its mirrors. Default: what the files and helpers of podman and docker have, see docs/HOSTS.md.
   */
  readonly credentials?: {readonly username: string; readonly password: string} | CredentialsCallback;
  /** A registry's refresh (identity) token. */
  readonly refreshToken?: string;
  /** The only file with credentials to read. Default: `REGISTRY_AUTH_FILE`, then podman's and docker's files. */
  readonly authFile?: string;
  /** PEM file with CAs that are trusted besides the system's. */
  readonly tlsCACert?: string;
  /** PEM files with a client certificate and its key, for hosts without one in hosts.toml. */
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  /** Time limit for making a connection, in milliseconds. Default 30 000. */
  readonly connectTimeoutMs?: number;
  /** A connection is broken when the registry sends (almost) nothing for so many milliseconds; 0 means no limit. Default 30 000. */
  readonly stallTimeoutMs?: number;
  /** Most bytes per second, over all connections of this process that have the same limit. Default: no limit. */
  readonly limitRate?: number;
  /**
   * Directory with a `hosts.toml` or certificates for each registry, see docs/HOSTS.md; empty means none. Default: `BERTH_HOSTS_DIR`,
   * else containerd's and docker's directories.
   */
  readonly hostsDir?: string;
  /** Receives a line for each request and response, without secrets. */
  readonly onDebug?: (line: string) => void;
  /** Receives the head of each request and response as lines of text, without secrets. */
  readonly onDump?: (text: string) => void;
  /** Receives a line for each step of a connection and of a request, with its time. */
  readonly onTrace?: (line: string) => void;
}

/** A program for execve(2), or for `spawn(program, argv.slice(1), {env, argv0: argv[0]})`. */
export interface ProgramCall {
  /** Absolute path. */
  readonly program: string;
  /** From the name of the program on. */
  readonly argv: readonly string[];
  /** All variables. */
  readonly env: Readonly<Record<string, string>>;
}

/** What a container, or the top layer of an image, changed at a path: `added`, `deleted`, or `modified`, as a directory is in which something is changed. */
export interface ContainerChange {
  readonly kind: 'added' | 'modified' | 'deleted';
  /** Absolute, in the container. */
  readonly path: string;
}
