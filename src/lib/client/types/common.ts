/** What the types of several nouns share. */

/** One descriptor's way through a pull, or the reference's resolution. Sent at each change of status and, while bytes move, at most every 100 ms. */
export interface ProgressEvent {
  /** The row: the reference itself, or `<kind>-<digest>`, such as `layer-sha256:…`. */
  readonly ref: string;
  readonly status: 'resolving' | 'resolved' | 'waiting' | 'checking' | 'downloading' | 'extracting' | 'committing' | 'exists' | 'done';
  /** Bytes so far and in all; both 0 where there is nothing to count. */
  readonly offset: number;
  readonly total: number;
}

/** Which records a list shows. */
export interface ListOptions {
  /** containerd's filter grammar; a list of filters is an "or". */
  readonly filters?: readonly string[];
}

/** How registries are spoken to. */
export interface RegistryOptions {
  readonly plainHTTP?: boolean;
  /** Skips the verification of TLS certificates. */
  readonly skipVerify?: boolean;
  /** `user:password`; only sent where the registry asks for it. */
  readonly credentials?: {readonly username: string; readonly password: string};
  /** A registry's refresh (identity) token. */
  readonly refreshToken?: string;
  /** Bounds each connection, in milliseconds. Default 30 000. */
  readonly connectTimeoutMs?: number;
  /** How long a registry may send nothing, or next to nothing, before its connection counts as broken, in milliseconds; 0 is no bound. Default 30 000. */
  readonly stallTimeoutMs?: number;
  /**
   * Directory with a `hosts.toml` or certificates for each registry, as docs/HOSTS.md has it; none when empty. Default:
   * `BERTH_HOSTS_DIR`, else containerd's and docker's.
   */
  readonly hostsDir?: string;
  /** Is told, a line each, which hosts were asked for what and what they answered. No secrets. */
  readonly onDebug?: (line: string) => void;
}
