/**
 * Where credentials of registries are kept: the files of podman and docker, in the order of use.
 *
 * Places after containers/image, pkg/docker/config/config.go, and docker, cli/config/config.go. Unlike there, an `$REGISTRY_AUTH_FILE`
 * without an entry for the registry does not end the search; a file that a flag names does.
 */
import {isAbsolute, join, resolve} from 'node:path';
import {baseDirectory} from '../../base-directories.ts';
import {readIfPresent} from '../../fs/durable.ts';
import {userID} from '../../user-namespace-identity.ts';

export interface AuthFile {
  /** Absolute path. */
  readonly path: string;
  /** Docker's own: Docker Hub has its old name there, and entries are for registries only. */
  readonly isDockers: boolean;
}

type Environment = NodeJS.ProcessEnv;

const absolute = (text: string | undefined): string | undefined => (text !== undefined && isAbsolute(text) ? text : undefined);

/** The file in which docker, and podman besides, look for credentials; undefined without a home directory. */
export function dockerFile(env: Environment): AuthFile | undefined {
  const directory = env.DOCKER_CONFIG ? resolve(env.DOCKER_CONFIG) : absolute(env.HOME) && join(env.HOME!, '.docker');
  return directory ? {path: join(directory, 'config.json'), isDockers: true} : undefined;
}

/** @param given the file that a flag names, which is then the only one */
export function authFiles(given: string | undefined, env: Environment = process.env, uid = userID(env)): readonly AuthFile[] {
  if (given !== undefined) return [{path: resolve(given), isDockers: false}];
  const runtime = absolute(env.XDG_RUNTIME_DIR);
  const config = absolute(env.XDG_CONFIG_HOME) ?? (absolute(env.HOME) && join(env.HOME!, '.config'));
  const candidates = [
    env.REGISTRY_AUTH_FILE ? resolve(env.REGISTRY_AUTH_FILE) : undefined,
    // podman's place for root, and for users without a runtime directory.
    runtime ? join(runtime, 'containers/auth.json') : join(baseDirectory('runtime', env, 0)!, 'containers', String(uid), 'auth.json'),
    config && join(config, 'containers/auth.json'),
  ];
  const docker = dockerFile(env);
  const files = [...candidates.flatMap((path) => (path ? [{path, isDockers: false}] : [])), ...(docker === undefined ? [] : [docker])];
  return files.filter(({path}, i) => files.findIndex((file) => file.path === path) === i);
}

/** The fields that are read. Everything else is kept as it is. */
export interface AuthDocument {
  readonly auths: ReadonlyMap<string, AuthEntry>;
  /** Names of helper programs, by registry. */
  readonly credHelpers: ReadonlyMap<string, string>;
  /** The helper for all other registries. */
  readonly credsStore: string | undefined;
}

export interface AuthEntry {
  readonly auth?: unknown;
  readonly identitytoken?: unknown;
  readonly registrytoken?: unknown;
  readonly username?: unknown;
  readonly password?: unknown;
}

const isTable = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);

/** What is wrong with a file, or with one of its keys; never with what its values are. */
export class AuthFileFault extends Error {
  readonly key: string | undefined;
  constructor(problem: string, key?: string) {
    super(problem);
    this.key = key;
  }
}

/** @throws AuthFileFault the text is not such a file */
export function parseAuthDocument(text: string): AuthDocument {
  let root: unknown;
  try {
    root = text.trim() === '' ? {} : JSON.parse(text);
  } catch {
    // The parser's message quotes the text.
    throw new AuthFileFault('is not JSON');
  }
  if (!isTable(root)) throw new AuthFileFault('is not a JSON object');
  const {auths = {}, credHelpers = {}, credsStore} = root;
  if (!isTable(auths)) throw new AuthFileFault('is not an object', 'auths');
  if (!isTable(credHelpers)) throw new AuthFileFault('is not an object', 'credHelpers');
  if (credsStore !== undefined && typeof credsStore !== 'string') throw new AuthFileFault('is not a string', 'credsStore');
  for (const [registry, helper] of Object.entries(credHelpers))
    if (typeof helper !== 'string') throw new AuthFileFault('is not a string', `credHelpers.${registry}`);
  for (const [registry, entry] of Object.entries(auths))
    if (!isTable(entry) && entry !== null) throw new AuthFileFault('is not an object', `auths.${registry}`);
  return {
    auths: new Map(Object.entries(auths).map(([registry, entry]) => [registry, (entry ?? {}) as AuthEntry])),
    credHelpers: new Map(Object.entries(credHelpers) as [string, string][]),
    credsStore: credsStore || undefined,
  };
}

/** @returns undefined where there is no file @throws AuthFileFault @throws errno it cannot be read */
export function readAuthDocument(path: string): AuthDocument | undefined {
  const text = readIfPresent(path);
  return text === undefined ? undefined : parseAuthDocument(text);
}

/** Docker Hub's key in docker's file. */
export const HUB_KEY = 'https://index.docker.io/v1/';
const HUB_NAMES = new Set(['docker.io', 'index.docker.io', 'registry-1.docker.io']);

/** The registry that a key is for, whatever its scheme and path: old versions of docker kept whole URLs. */
export function registryOfKey(key: string): string {
  const host = key.replace(/^https?:\/\//, '').split('/', 1)[0]!;
  return HUB_NAMES.has(host) ? 'docker.io' : host;
}

const hasScheme = (key: string): boolean => /^https?:\/\//.test(key);

/** Whether a key is for a registry as a whole, not for a repository or a directory of them. */
export const isRegistryKey = (key: string, {isDockers}: AuthFile): boolean => hasScheme(key) || isDockers || !key.includes('/');

/** Keys that name exactly this repository, or a directory above it, the most exact first: `r/a/b`, `r/a`. */
export function repositoryKeys(domain: string, repository: string | undefined): string[] {
  const parts = repository === undefined ? [] : repository.split('/');
  return parts.map((_, i) => [domain, ...parts.slice(0, parts.length - i)].join('/'));
}

/** Keys of `auths` for a target, in the order of use. */
export function keysFor({auths}: AuthDocument, file: AuthFile, domain: string, repository: string | undefined): readonly string[] {
  const exact = [...repositoryKeys(domain, repository), domain].filter((key) => auths.has(key));
  const others = [...auths.keys()].filter((key) => !exact.includes(key) && isRegistryKey(key, file) && registryOfKey(key) === domain);
  return [...exact, ...others];
}
