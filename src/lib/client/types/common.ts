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

/** Options of all lists. */
export interface ListOptions {
  /** Filters in containerd's grammar; a record matches when any filter does. */
  readonly filters?: readonly string[];
}

/** Options for access to registries. */
export interface RegistryOptions {
  readonly plainHTTP?: boolean;
  /** Skips the verification of TLS certificates. */
  readonly skipVerify?: boolean;
  /** Sent only to a registry that asks for them. */
  readonly credentials?: {readonly username: string; readonly password: string};
  /** A registry's refresh (identity) token. */
  readonly refreshToken?: string;
  /** Time limit for making a connection, in milliseconds. Default 30 000. */
  readonly connectTimeoutMs?: number;
  /** A connection is broken when the registry sends (almost) nothing for so many milliseconds; 0 means no limit. Default 30 000. */
  readonly stallTimeoutMs?: number;
  /**
   * Directory with a `hosts.toml` or certificates for each registry, see docs/HOSTS.md; empty means none. Default: `BERTH_HOSTS_DIR`,
   * else containerd's and docker's directories.
   */
  readonly hostsDir?: string;
  /** Receives a line for each request and response, without secrets. */
  readonly onDebug?: (line: string) => void;
}
