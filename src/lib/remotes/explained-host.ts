/** How a host would be asked, for the library's declarations: they name no outside package. */
/** The capabilities of a host; `resolve` is to map a tag to a digest. */
export const CAPABILITIES = ['pull', 'resolve', 'push', 'referrers'] as const;
export type Capability = (typeof CAPABILITIES)[number];

/** How a host would be asked. Paths are absolute; no member is a secret. */
export interface HostPlan {
  /** Such as `https://registry-1.docker.io/v2`. */
  readonly url: string;
  /** The name under which its credentials are kept. */
  readonly domain: string;
  /** Whether the port is asked first which of HTTPS and HTTP it speaks; `url` then has HTTPS. */
  readonly isProbed: boolean;
  readonly isMirror: boolean;
  readonly capabilities: readonly Capability[];
  /** The file or directory with its configuration. */
  readonly source?: string;
  /** CAs that are trusted besides the system's. */
  readonly ca: readonly string[];
  readonly client: readonly {readonly cert: string; readonly key: string}[];
  readonly skipVerify: boolean;
  /** Names of additional headers. */
  readonly headers: readonly string[];
  /** Without credentials. */
  readonly proxy?: {readonly url: string; readonly source: string};
}
