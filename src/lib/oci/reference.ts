/**
 * Names of images in registries: what people type, and the one full name it stands for.
 *
 * Grammar and lengths after github.com/distribution/reference, reference.go and regexp.go; short names as docker users
 * expect them after its normalize.go; names without normalisation after containerd, pkg/reference/reference.go.
 */
import {ErrdefsError} from '../errdefs.ts';
import {type Digest, isDigest} from './descriptor.ts';

/** A repository in a registry, and at most one tag and one digest in it. Every part is as it was written, never in another case. */
export interface Reference {
  /** Host, with its port if one was given, such as `docker.io`, `localhost:5000` or `[::1]:5000`. */
  readonly domain: string;
  /** Repository in that registry, such as `library/redis`; at most 255 characters. */
  readonly path: string;
  readonly tag?: string;
  /** Decides what is fetched, also where there is a tag. */
  readonly digest?: Digest;
}

const DEFAULT_DOMAIN = 'docker.io';
const LEGACY_DOMAIN = 'index.docker.io';
const OFFICIAL = 'library/';
const DEFAULT_TAG = 'latest';
const MAX_LENGTH = 255;

const HOST_LABEL = '[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?';
const DOMAIN = new RegExp(`^(?:${HOST_LABEL}(?:\\.${HOST_LABEL})*|\\[[A-Fa-f0-9:]+\\])(?::[0-9]+)?$`);
const COMPONENT = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const IDENTIFIER = /^[a-f0-9]{64}$/;

/** The text as a message may show it: short, and without what could be a password or a token. */
function shown(text: string): string {
  const plain = text.replace(/[?#].*$/s, '?…');
  const at = plain.lastIndexOf('@');
  const mayBeSecret = at >= 0 && plain.lastIndexOf(':', at) >= 0 && !/^[A-Za-z0-9+._-]+:[0-9A-Fa-f]{32,}$/.test(plain.slice(at + 1));
  const safe = mayBeSecret ? `…${plain.slice(at)}` : plain;
  return JSON.stringify(safe.length > 512 ? `${safe.slice(0, 512)}…` : safe);
}

function invalid(text: string, reason: string, hint?: string): ErrdefsError {
  return new ErrdefsError('invalid_argument', `reference ${shown(text)}: ${reason}`, hint === undefined ? {} : {hint});
}

/** Docker's rule for whether a name begins with a host. */
function splitDocker(name: string): readonly [domain: string, rest: string] {
  const slash = name.indexOf('/');
  const first = name.slice(0, Math.max(slash, 0));
  const isHost = first === 'localhost' || /[.:A-Z]/.test(first);
  const domain = !isHost || first === LEGACY_DOMAIN ? DEFAULT_DOMAIN : first;
  const rest = isHost ? name.slice(slash + 1) : name;
  return [domain, domain === DEFAULT_DOMAIN && !rest.includes('/') ? OFFICIAL + rest : rest];
}

function checkPath(text: string, domain: string, path: string): void {
  if (/[A-Z]/.test(path)) {
    const lower = JSON.stringify(formatReference({domain, path: path.toLowerCase()}));
    throw invalid(text, 'the repository name must be lower case', `names are never changed here; did you mean ${lower}?`);
  }
  if (path.length > MAX_LENGTH) throw invalid(text, `the repository name must not be more than ${MAX_LENGTH} characters`);
  const wrong = path.split('/').find((component) => !COMPONENT.test(component));
  if (wrong === '') throw invalid(text, 'a component of the repository name is empty');
  if (wrong !== undefined) {
    throw invalid(
      text,
      'a component of the repository name must be lower-case letters and digits, between them a ".", one or two "_", or any "-"',
    );
  }
}

/**
 * Reads a reference.
 *
 * @param options.normalize docker's short names (default): without a host docker.io, there without a directory `library/`,
 *   `index.docker.io` is docker.io, and without tag and digest the tag is `latest`. False: containerd's rule, where the
 *   first component is the host and nothing is added.
 * @throws invalid_argument the message says which rule is broken; it never shows credentials or a query string
 */
export function parseReference(text: string, {normalize = true}: {readonly normalize?: boolean} = {}): Reference {
  if (text === '') throw invalid(text, 'must not be empty');
  if (/[\s\p{Cc}]/u.test(text)) throw invalid(text, 'must not contain whitespace or control characters');
  if (text.includes('://')) throw invalid(text, 'must not have a scheme', 'write HOST/REPOSITORY[:TAG][@DIGEST]');
  if (/[?#]/.test(text)) throw invalid(text, 'must not have a query string or fragment');
  if (IDENTIFIER.test(text) || isDigest(text))
    throw invalid(text, 'a digest alone does not name a repository', 'write REPOSITORY@sha256:HEX');

  const at = text.indexOf('@');
  if (at >= 0 && text.includes('/', at))
    throw invalid(text, 'what follows "@" is not a digest', 'give credentials apart from the reference');
  const name = at < 0 ? text : text.slice(0, at);
  const slash = name.indexOf('/');
  if (slash === 0 || (slash < 0 && !normalize))
    throw invalid(text, 'hostname required', 'write HOST/REPOSITORY, such as docker.io/library/redis:7');

  const [domain, rest] = normalize ? splitDocker(name) : [name.slice(0, slash), name.slice(slash + 1)];
  if (domain.length > MAX_LENGTH || !DOMAIN.test(domain) || !URL.canParse(`http://${domain}`))
    throw invalid(text, 'the part before the first "/" is not a host with an optional port');

  const colon = rest.indexOf(':');
  const path = colon < 0 ? rest : rest.slice(0, colon);
  checkPath(text, domain, path);
  const tag = colon >= 0 ? rest.slice(colon + 1) : normalize && at < 0 ? DEFAULT_TAG : undefined;
  if (tag !== undefined && !TAG.test(tag))
    throw invalid(text, 'the tag must be 1 to 128 letters, digits, "_", "." and "-", and begin with none of "." and "-"');
  const digest = at < 0 ? undefined : text.slice(at + 1);
  if (digest !== undefined && !isDigest(digest))
    throw invalid(text, 'the digest must be sha256, sha384 or sha512, ":" and its full length in lower-case hex digits');
  return {domain, path, ...(tag === undefined ? {} : {tag}), ...(digest === undefined ? {} : {digest})};
}

const suffix = ({tag, digest}: Reference): string => (tag === undefined ? '' : `:${tag}`) + (digest === undefined ? '' : `@${digest}`);

/** The full name, `domain/path[:tag][@digest]`: what image records are called. Reads back to the same reference. */
export const formatReference = (ref: Reference): string => `${ref.domain}/${ref.path}${suffix(ref)}`;

/**
 * The short name that docker shows, without `docker.io/` and `library/`: the shortest that still reads back, normalised,
 * to the same repository.
 *
 * After distribution/reference, normalize.go (familiarizeName).
 */
export function familiarName(ref: Reference): string {
  const names = [...(ref.path.startsWith(OFFICIAL) ? [ref.path.slice(OFFICIAL.length)] : []), ref.path];
  const short = names.find((name) => {
    const [domain, path] = splitDocker(name);
    const text = name + suffix(ref);
    return domain === ref.domain && path === ref.path && !IDENTIFIER.test(text) && !isDigest(text);
  });
  return (short ?? `${ref.domain}/${ref.path}`) + suffix(ref);
}
