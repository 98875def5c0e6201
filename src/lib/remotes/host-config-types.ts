/** The configuration of a registry's hosts, independent of its file format. */
import {CAPABILITIES, type Capability} from './types.ts';

export const HOSTS_FILE = 'hosts.toml';

export interface Address {
  readonly scheme: 'http' | 'https';
  /** With the port, unless it is the scheme's default. */
  readonly host: string;
  /** Such as `/v2` or `/us/v2`; without a trailing slash. */
  readonly path: string;
}

/** The configuration of one host (the registry or a mirror). */
export interface HostConfig {
  /** Undefined: the registry's default address. */
  readonly address: Address | undefined;
  readonly capabilities: ReadonlySet<Capability>;
  /** Absolute paths of PEM files with additional trusted CAs. */
  readonly ca: readonly string[];
  /** Absolute paths of PEM files; one file may hold both. */
  readonly client: readonly {readonly cert: string; readonly key: string}[];
  readonly skipVerify: boolean | undefined;
  /** Names in lower case. Values may be secrets. */
  readonly headers: Readonly<Record<string, string[]>>;
  readonly dialTimeoutMs: number | undefined;
  /** May contain credentials. */
  readonly proxy: URL | undefined;
}

export const DEFAULT_HOST_CONFIG: HostConfig = {
  address: undefined,
  capabilities: new Set(CAPABILITIES),
  ca: [],
  client: [],
  skipVerify: undefined,
  headers: {},
  dialTimeoutMs: undefined,
  proxy: undefined,
};
