/**
 * Reads the registry configuration directories: containerd's certs.d and docker's.
 *
 * Lookup after containerd, core/remotes/docker/config/hosts.go (HostDirFromRoot, loadHostDir, loadCertFiles). Unlike containerd,
 * berth reports an unusable file as an error; see `hosts-toml.ts`.
 */
import {accessSync, constants, readdirSync, readFileSync, statSync} from 'node:fs';
import {join, resolve} from 'node:path';
import {ErrdefsError, fromErrno, hasCode} from '../errdefs.ts';
import {DEFAULT_HOST_CONFIG, HOSTS_FILE, type HostConfig} from './host-config-types.ts';
import type {Connection} from './types.ts';

/** Searched by default, in this order. */
export const DEFAULT_HOSTS_DIRS = ['/etc/containerd/certs.d', '/etc/docker/certs.d'] as const;

/**
 * The directories to search. Unreadable default directories are skipped.
 *
 * @param given one directory; empty for none, undefined for the defaults
 * @throws invalid_argument there is no such directory
 */
export function hostsDirs(given: string | undefined): readonly string[] {
  if (given === '') return [];
  if (given === undefined) {
    return DEFAULT_HOSTS_DIRS.filter((dir) => {
      try {
        accessSync(dir, constants.R_OK | constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
  }
  const dir = resolve(given);
  if (!statSync(dir, {throwIfNoEntry: false})?.isDirectory())
    throw new ErrdefsError('invalid_argument', `hosts directory ${JSON.stringify(dir)} does not exist`, {
      hint: 'set --hosts-dir or BERTH_HOSTS_DIR to a directory with one subdirectory per registry',
    });
  return [dir];
}

export interface RegistryConfig {
  /** The `hosts.toml`, or the directory of certificates. */
  readonly source: string;
  /** In the order of use; at least one, the registry itself last. */
  readonly hosts: readonly HostConfig[];
}

/** Directory names for a registry; the first that exists is used. `_PORT_` is for file systems without colons. */
export function namesOf(domain: string): readonly string[] {
  const [, host, port] = /^(.+):(\d+)$/.exec(domain) ?? [];
  return [...(port === undefined ? [] : [`${host}_${port}_`]), domain, '_default'];
}

function find(dirs: readonly string[], domain: string): string | undefined {
  for (const dir of dirs)
    for (const name of namesOf(domain)) {
      const path = join(dir, name);
      try {
        if (statSync(path, {throwIfNoEntry: false})?.isDirectory()) return path;
      } catch (err) {
        throw fromErrno(err, `hosts directory ${JSON.stringify(path)}`);
      }
    }
  return undefined;
}

function readHostsFile(file: string): string | undefined {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (err) {
    const error = fromErrno(err, `hosts file ${JSON.stringify(file)}`);
    if (hasCode(error, 'not_found')) return undefined;
    throw error;
  }
  try {
    return new TextDecoder('utf-8', {fatal: true}).decode(bytes);
  } catch (err) {
    throw new ErrdefsError('invalid_argument', `hosts file ${JSON.stringify(file)}: not UTF-8`, {
      cause: err,
      hint: 'TOML is written in UTF-8',
      details: {file},
    });
  }
}

/** Docker's layout: `*.crt` are CAs, `x.cert` and `x.key` a client certificate. */
function certificatesIn(dir: string): HostConfig {
  const names = readdirSync(dir).sort();
  const path = (name: string): string => join(dir, name);
  return {
    ...DEFAULT_HOST_CONFIG,
    ca: names.filter((name) => name.endsWith('.crt')).map(path),
    client: names
      .filter((name) => name.endsWith('.cert'))
      .map((name) => {
        const key = name.replace(/cert$/, 'key');
        return {cert: path(name), key: path(names.includes(key) ? key : name)};
      }),
  };
}

/**
 * Reads the configuration of a registry from the first directory that has one, or a `_default`. Undefined: none.
 *
 * @throws invalid_argument an unusable `hosts.toml`
 * @throws permission_denied it is unreadable
 */
export async function readRegistryConfig(dirs: readonly string[], domain: string): Promise<RegistryConfig | undefined> {
  const dir = find(dirs, domain);
  if (dir === undefined) return undefined;
  const file = join(dir, HOSTS_FILE);
  const text = readHostsFile(file);
  // An empty file counts as absent, as in containerd.
  if (text) {
    const {parseHosts} = await import('./hosts-toml.ts');
    return {source: file, hosts: parseHosts(text, dir)};
  }
  try {
    return {source: dir, hosts: [certificatesIn(dir)]};
  } catch (err) {
    throw fromErrno(err, `hosts directory ${JSON.stringify(dir)}`);
  }
}

/** True when the configuration has TLS settings. */
export const hasTLS = ({ca, client, skipVerify}: HostConfig): boolean => ca.length > 0 || client.length > 0 || skipVerify !== undefined;

/**
 * Reads the certificate files of a host's configuration.
 *
 * @param source the configuration file, for errors
 * @throws invalid_argument a file is missing or malformed
 */
export function connectionOf(config: HostConfig, source: string): Connection | undefined {
  const {ca, client, skipVerify, dialTimeoutMs, proxy} = config;
  if (!hasTLS(config) && dialTimeoutMs === undefined && proxy === undefined) return undefined;
  const read = (what: string, file: string): string => {
    try {
      return readFileSync(file, 'utf8');
    } catch (err) {
      const error = fromErrno(err, `${what} ${JSON.stringify(file)} of ${source}`);
      throw hasCode(error, 'not_found') ? bad(what, file, 'does not exist', err) : error;
    }
  };
  const bad = (what: string, file: string, problem: string, cause: unknown): ErrdefsError =>
    new ErrdefsError('invalid_argument', `${what} ${JSON.stringify(file)} ${problem}`, {
      cause,
      hint: source.startsWith('--') ? 'give the path of a file in PEM' : `${source} names it; its paths are relative to its own directory`,
      details: {file, source},
    });
  const {X509Certificate, createPrivateKey} = process.getBuiltinModule('node:crypto');
  const keyTypes = new Set<string | undefined>();
  return {
    ca: ca.map((file) => {
      const pem = read('CA', file);
      try {
        new X509Certificate(pem);
      } catch (err) {
        throw bad('CA', file, 'has no certificate in PEM', err);
      }
      return pem;
    }),
    client: client.flatMap((pair) => {
      const cert = read('client certificate', pair.cert);
      const key = read('client key', pair.key);
      let certificate: InstanceType<typeof X509Certificate>;
      try {
        certificate = new X509Certificate(cert);
      } catch (err) {
        throw bad('client certificate', pair.cert, 'has no certificate in PEM', err);
      }
      let secret: ReturnType<typeof createPrivateKey>;
      try {
        secret = createPrivateKey(key);
      } catch (err) {
        throw bad('client key', pair.key, 'has no key in PEM that can be used without a passphrase', err);
      }
      if (!certificate.checkPrivateKey(secret))
        throw bad('client key', pair.key, `does not belong to ${JSON.stringify(pair.cert)}`, undefined);
      // TLS accepts one certificate of each key type.
      const isNew = !keyTypes.has(secret.asymmetricKeyType);
      keyTypes.add(secret.asymmetricKeyType);
      return isNew ? [{cert, key}] : [];
    }),
    skipVerify,
    connectTimeoutMs: dialTimeoutMs,
    proxy,
  };
}
