/**
 * The directories in which people say where registries are: containerd's certs.d, and docker's.
 *
 * Lookup after containerd, core/remotes/docker/config/hosts.go (HostDirFromRoot, loadHostDir, loadCertFiles). Unlike there a file
 * that cannot be used is an error, see `hosts-toml.ts`.
 */
import {accessSync, constants, readdirSync, readFileSync, statSync} from 'node:fs';
import {join, resolve} from 'node:path';
import {ErrdefsError, fromErrno, is} from '../errdefs.ts';
import {HOSTS_FILE, type HostConfig, PLAIN_CONFIG} from './hosts-config.ts';
import type {Connection} from './types.ts';

/** Looked into when nobody says otherwise, in this order. */
export const DEFAULT_HOSTS_DIRS = ['/etc/containerd/certs.d', '/etc/docker/certs.d'] as const;

/**
 * @param given one directory, none when empty, or undefined for those that are there by default; what a user may not look
 *   into there is not for him
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
      hint: 'name one with a directory for each registry by --hosts-dir or BERTH_HOSTS_DIR',
    });
  return [dir];
}

/** What is said of a registry. */
export interface RegistryConfig {
  /** The file, or the directory with certificates, that says so. */
  readonly source: string;
  /** In the order in which they are to be asked; at least one, the registry itself last. */
  readonly hosts: readonly HostConfig[];
}

/** A registry's names as directories, the first that is there is the one. A colon has no place in some file systems. */
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
    if (is(error, 'not_found')) return undefined;
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

/** Docker's way: `*.crt` are CAs, `x.cert` with `x.key` beside it is a certificate of our own. */
function certificatesIn(dir: string): HostConfig {
  const names = readdirSync(dir).sort();
  const path = (name: string): string => join(dir, name);
  return {
    ...PLAIN_CONFIG,
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
 * What these directories say of a registry: the first that has a directory for it, or one for all. Undefined: nothing.
 *
 * @throws invalid_argument a `hosts.toml` that cannot be used
 * @throws permission_denied what is there may not be read
 */
export async function readRegistryConfig(dirs: readonly string[], domain: string): Promise<RegistryConfig | undefined> {
  const dir = find(dirs, domain);
  if (dir === undefined) return undefined;
  const file = join(dir, HOSTS_FILE);
  const text = readHostsFile(file);
  // An empty one is as good as none.
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

/** True when a host is to be spoken to by TLS in a way of its own. */
export const hasTLS = ({ca, client, skipVerify}: HostConfig): boolean => ca.length > 0 || client.length > 0 || skipVerify !== undefined;

/**
 * Reads the files that a host's configuration names.
 *
 * @param source what named them
 * @throws invalid_argument a file is not there, or not what it has to be
 */
export function connectionOf(config: HostConfig, source: string): Connection | undefined {
  const {ca, client, skipVerify, dialTimeoutMs} = config;
  if (!hasTLS(config) && dialTimeoutMs === undefined) return undefined;
  const read = (what: string, file: string): string => {
    try {
      return readFileSync(file, 'utf8');
    } catch (err) {
      const error = fromErrno(err, `${what} ${JSON.stringify(file)} of ${source}`);
      throw is(error, 'not_found') ? bad(what, file, 'does not exist', err) : error;
    }
  };
  const bad = (what: string, file: string, problem: string, cause: unknown): ErrdefsError =>
    new ErrdefsError('invalid_argument', `${what} ${JSON.stringify(file)} ${problem}`, {
      cause,
      hint: `it is named by ${source}; paths there are relative to its directory`,
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
      if (!certificate.checkPrivateKey(secret)) throw bad('client key', pair.key, `is not that of ${JSON.stringify(pair.cert)}`, undefined);
      // TLS takes one of each type.
      const isNew = !keyTypes.has(secret.asymmetricKeyType);
      keyTypes.add(secret.asymmetricKeyType);
      return isNew ? [{cert, key}] : [];
    }),
    skipVerify,
    connectTimeoutMs: dialTimeoutMs,
  };
}
