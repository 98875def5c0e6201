/** Reads the list of `sync`: YAML in the format of `skopeo sync --src yaml`. */
import {parseDocument} from 'yaml';
import {ErrdefsError} from '../../errdefs.ts';
import {isDigest} from '../../oci/descriptor.ts';
import {parseReference, type Reference} from '../../oci/reference.ts';
import {compile} from '../../store/regexp.ts';
import {parseConstraint, parseVersion} from './semver.ts';

/** Images of one repository: named ones, or those of its tags that pass. */
export interface WantedImages {
  /** Without tag and digest. */
  readonly repository: Reference;
  readonly references?: readonly Reference[];
  /** Absent with `references`. All tags: always true. */
  readonly wants?: (tag: string) => boolean;
}

/** One registry of the list. */
export interface SyncRegistry {
  readonly host: string;
  readonly images: readonly WantedImages[];
  readonly credentials?: {readonly username: string; readonly password: string};
  readonly tlsVerify?: boolean;
  /** Directory with `*.crt`, and `*.cert` and `*.key`, for this registry. */
  readonly certDir?: string;
}

const KEYS = ['images', 'images-by-tag-regex', 'images-by-semver', 'credentials', 'tls-verify', 'cert-dir'];
/** A list of this many images is a mistake. */
const MAX_BYTES = 16 * 1024 * 1024;

/** @throws invalid_argument naming the line, or the registry and key */
export function parseSyncFile(text: string): readonly SyncRegistry[] {
  if (text.length > MAX_BYTES) throw new ErrdefsError('invalid_argument', `the list has ${text.length} characters, more than ${MAX_BYTES}`);
  // An alias may expand to any size.
  const document = parseDocument(text, {schema: 'core', uniqueKeys: true, logLevel: 'silent'});
  const [problem] = document.errors;
  if (problem !== undefined)
    throw new ErrdefsError('invalid_argument', `the list is not YAML: ${problem.message.split('\n', 1)[0]}`, {cause: problem});
  let value: unknown;
  try {
    value = document.toJS({maxAliasCount: 100});
  } catch (err) {
    throw new ErrdefsError('invalid_argument', 'the list has too many aliases', {cause: err});
  }
  return Object.entries(object(value, 'the list')).map(([host, entry]) => parseRegistry(host, entry));
}

const invalid = (where: string, what: string, hint?: string): ErrdefsError =>
  new ErrdefsError('invalid_argument', `${where} ${what}`, hint === undefined ? {} : {hint});

function object(value: unknown, where: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(where, 'must be a mapping');
  return value as Readonly<Record<string, unknown>>;
}

function text(value: unknown, where: string): string {
  // YAML reads a tag such as 1.0 without quotes as a number, and not every number is written as it was.
  if (typeof value !== 'string') throw invalid(where, 'must be a string', 'put it in quotes: YAML takes 1.10 for the number 1.1');
  return value;
}

function parseRegistry(host: string, value: unknown): SyncRegistry {
  const entry = object(value, host);
  const unknown = Object.keys(entry).find((key) => !KEYS.includes(key));
  if (unknown !== undefined) throw invalid(`${host}:`, `${JSON.stringify(unknown)} is not known`, `known are ${KEYS.join(', ')}`);
  const each = (key: string, read: (repository: Reference, value: unknown, where: string) => WantedImages): readonly WantedImages[] =>
    Object.entries(object(entry[key] ?? {}, `${host}: ${key}`)).map(([path, inner]) => {
      const where = `${host}: ${key}: ${path}`;
      const {domain, path: repository, tag, digest} = parseReference(`${host}/${path}`);
      // Docker's rule takes a name without dot and port for a repository of Docker Hub, which would get the credentials.
      const [name] = host.split('/', 1);
      if (domain !== name && name !== 'index.docker.io')
        throw invalid(`${host}:`, 'is no registry', `write its host, with a dot or a port, such as ${host}:5000`);
      if (path.includes('@') || digest !== undefined || (tag !== undefined && tag !== 'latest') || path.endsWith(':latest'))
        throw invalid(where, 'must be a repository, without a tag or digest');
      return read({domain, path: repository}, inner, where);
    });
  const {credentials, 'tls-verify': tlsVerify, 'cert-dir': certDir} = entry;
  if (tlsVerify !== undefined && tlsVerify !== null && typeof tlsVerify !== 'boolean')
    throw invalid(`${host}: tls-verify`, 'must be true or false');
  return {
    host,
    images: [
      ...each('images', (repository, list, where) => {
        const tags = list ?? [];
        if (!Array.isArray(tags)) throw invalid(where, 'must be a list of tags and digests');
        if (tags.length === 0) return {repository, wants: () => true};
        return {
          repository,
          references: tags.map((tag, i) => {
            const name = text(tag, `${where}[${i}]`);
            return parseReference(`${repository.domain}/${repository.path}${isDigest(name) ? '@' : ':'}${name}`);
          }),
        };
      }),
      ...each('images-by-tag-regex', (repository, pattern, where) => ({repository, wants: compile(text(pattern, where))})),
      ...each('images-by-semver', (repository, constraint, where) => {
        const test = parseConstraint(text(constraint, where));
        return {
          repository,
          wants: (tag) => {
            const version = parseVersion(tag);
            return version !== undefined && test(version);
          },
        };
      }),
    ],
    ...parseCredentials(credentials, host),
    ...(typeof tlsVerify === 'boolean' ? {tlsVerify} : {}),
    ...(certDir === undefined || certDir === null ? {} : {certDir: text(certDir, `${host}: cert-dir`)}),
  };
}

function parseCredentials(value: unknown, host: string): Pick<SyncRegistry, 'credentials'> {
  if (value === undefined || value === null) return {};
  const {username, password} = object(value, `${host}: credentials`);
  if (username === undefined && password === undefined) return {};
  return {
    credentials: {username: text(username, `${host}: credentials: username`), password: text(password, `${host}: credentials: password`)},
  };
}
