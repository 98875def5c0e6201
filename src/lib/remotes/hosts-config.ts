/** What can be said of a registry's hosts, whoever says it. */
import {CAPABILITIES, type Capability} from './types.ts';

export const HOSTS_FILE = 'hosts.toml';

export interface Address {
  readonly scheme: 'http' | 'https';
  /** With the port, unless that is the scheme's own. */
  readonly host: string;
  /** Such as `/v2` or `/us/v2`; empty, or without a slash at its end. */
  readonly path: string;
}

/** One place where a registry's content may be had, as it is configured. */
export interface HostConfig {
  /** Undefined: the registry itself, at the address that it has without configuration. */
  readonly address: Address | undefined;
  readonly capabilities: ReadonlySet<Capability>;
  /** Absolute paths of PEM files with certificates to be trusted besides the system's. */
  readonly ca: readonly string[];
  /** Absolute paths of PEM files; the two are one where a file has both. */
  readonly client: readonly {readonly cert: string; readonly key: string}[];
  readonly skipVerify: boolean | undefined;
  /** Names in lower case. Values are nobody else's business: they may be secrets. */
  readonly headers: Readonly<Record<string, string[]>>;
  readonly dialTimeoutMs: number | undefined;
}

/** What a host has when nothing is said. */
export const PLAIN_CONFIG: HostConfig = {
  address: undefined,
  capabilities: new Set(CAPABILITIES),
  ca: [],
  client: [],
  skipVerify: undefined,
  headers: {},
  dialTimeoutMs: undefined,
};
