/** Finds a registry's credentials in files and helpers. */
import {ErrdefsError, fromErrno, isErrdefs} from '../../errdefs.ts';
import type {Credentials, CredentialTarget} from '../../remotes/types.ts';
import {
  type AuthDocument,
  type AuthEntry,
  type AuthFile,
  AuthFileFault,
  authFiles,
  HUB_KEY,
  keysFor,
  readAuthDocument,
  registryOfKey,
} from './auth-files.ts';
import {askHelper} from './helper.ts';

/** A place that may have credentials, in the order of use. */
export type Candidate =
  | {readonly kind: 'entry'; readonly file: AuthFile; readonly key: string; readonly entry: AuthEntry}
  | {readonly kind: 'helper'; readonly file: AuthFile; readonly helper: string; readonly servers: readonly string[]};

/** Names under which a helper may know a registry. */
export const serversOf = (domain: string): readonly string[] => (domain === 'docker.io' ? [HUB_KEY, domain] : [domain]);

/** The helper that a file names for a registry. */
export function helperOf({credHelpers, credsStore}: AuthDocument, domain: string): string | undefined {
  const key =
    [...credHelpers.keys()].find((registry) => registry === domain) ?? [...credHelpers.keys()].find((one) => registryOfKey(one) === domain);
  return (key === undefined ? undefined : credHelpers.get(key)) ?? credsStore;
}

function candidatesIn(document: AuthDocument, file: AuthFile, {domain, repository}: CredentialTarget): Candidate[] {
  const entries = keysFor(document, file, domain, repository).map(
    (key): Candidate => ({kind: 'entry', file, key, entry: document.auths.get(key)!}),
  );
  const helper = helperOf(document, domain);
  if (helper === undefined) return entries;
  // An entry for a repository is more exact than a helper, which knows registries only.
  const isExact = (candidate: Candidate): boolean => candidate.kind === 'entry' && candidate.key.startsWith(`${domain}/`);
  return [
    ...entries.filter(isExact),
    {kind: 'helper', file, helper, servers: serversOf(domain)},
    ...entries.filter((candidate) => !isExact(candidate)),
  ];
}

/** A problem that does not stop the caller: with the file or entry that has it, never with a secret. */
function warning(path: string, err: unknown): ErrdefsError {
  const hint = 'mend or remove it; registries are asked without these credentials meanwhile';
  if (err instanceof AuthFileFault) {
    const key = err.key === undefined ? '' : `${err.key} `;
    return new ErrdefsError('invalid_argument', `credentials in ${JSON.stringify(path)}: ${key}${err.message}`, {
      hint,
      details: {file: path, ...(err.key === undefined ? {} : {key: err.key})},
    });
  }
  const error = fromErrno(err, `credentials in ${JSON.stringify(path)}`);
  return isErrdefs(error)
    ? new ErrdefsError(error.code, error.message, {cause: err, hint, details: {file: path}})
    : new ErrdefsError('unknown', `credentials in ${JSON.stringify(path)}`, {cause: err, hint, details: {file: path}});
}

/**
 * The places for a target, in the order of use. A file is read with the first look-up.
 *
 * @param warn gets what is wrong with files
 */
export function candidatesFor(
  target: CredentialTarget,
  files: readonly AuthFile[],
  warn: (warning: ErrdefsError) => void,
  read: (path: string) => AuthDocument | undefined = readAuthDocument,
): Candidate[] {
  return files.flatMap((file) => {
    let document: AuthDocument | undefined;
    try {
      document = read(file.path);
    } catch (err) {
      warn(warning(file.path, err));
      return [];
    }
    return document === undefined ? [] : candidatesIn(document, file, target);
  });
}

/**
 * The credentials of an entry; undefined where it has none, as docker leaves it for what a helper keeps.
 *
 * @throws AuthFileFault a field is not what it may be
 */
export function credentialsOf({auth, identitytoken, registrytoken, username, password}: AuthEntry, key: string): Credentials | undefined {
  const at = (field: string): string => `auths.${key}.${field}`;
  if (typeof identitytoken === 'string' && identitytoken !== '') return {refreshToken: identitytoken};
  if (typeof registrytoken === 'string' && registrytoken !== '') return {registryToken: registrytoken};
  if (auth === undefined || auth === '') {
    return typeof username === 'string' && username !== '' && typeof password === 'string' ? {username, password} : undefined;
  }
  if (typeof auth !== 'string') throw new AuthFileFault('is not a string', at('auth'));
  if (!/^[A-Za-z0-9+/]+=*\s*$/.test(auth)) throw new AuthFileFault('is not base64', at('auth'));
  // Some programs end it with NUL.
  const text = Buffer.from(auth, 'base64').toString().replace(/\0+$/, '');
  const colon = text.indexOf(':');
  if (colon < 1) throw new AuthFileFault('is not a user name, a colon and a password in base64', at('auth'));
  return {username: text.slice(0, colon), password: text.slice(colon + 1)};
}

export interface Found {
  readonly credentials: Credentials;
  readonly candidate: Candidate;
}

/** The first credentials that a candidate has. A helper that fails, and an entry that is wrong, are passed over with a warning. */
export async function findCredentials(
  candidates: readonly Candidate[],
  warn: (warning: ErrdefsError) => void,
  signal: AbortSignal | undefined,
  ask: typeof askHelper = askHelper,
): Promise<Found | undefined> {
  for (const candidate of candidates) {
    try {
      if (candidate.kind === 'entry') {
        const credentials = credentialsOf(candidate.entry, candidate.key);
        if (credentials !== undefined) return {credentials, candidate};
        continue;
      }
      for (const server of candidate.servers) {
        const credentials = await ask(candidate.helper, server, signal);
        if (credentials !== undefined) return {credentials, candidate};
      }
    } catch (err) {
      signal?.throwIfAborted();
      warn(candidate.kind === 'entry' ? warning(candidate.file.path, err) : withHint(err, candidate.file.path));
    }
  }
  return undefined;
}

function withHint(err: unknown, path: string): ErrdefsError {
  if (!isErrdefs(err)) throw err;
  return new ErrdefsError(err.code, err.message, {
    cause: err.cause,
    hint: `${path} names it; the registry is asked without these credentials meanwhile`,
    details: {...err.details, file: path},
  });
}

/** Looks up credentials for one remote: each file is read once, each helper asked once for a registry, each problem told once. */
export class CredentialLookup {
  readonly #files: readonly AuthFile[];
  readonly #warn: (warning: ErrdefsError) => void;
  readonly #documents = new Map<string, AuthDocument | undefined>();
  readonly #answers = new Map<string, Promise<Credentials | undefined>>();
  readonly #told = new Set<string>();

  /** @param authFile see `authFiles` */
  constructor(authFile: string | undefined, warn: (warning: ErrdefsError) => void) {
    this.#files = authFiles(authFile);
    this.#warn = (warning) => {
      if (this.#told.has(warning.message)) return;
      this.#told.add(warning.message);
      warn(warning);
    };
  }

  async find(target: CredentialTarget, signal: AbortSignal | undefined): Promise<Credentials | undefined> {
    const candidates = candidatesFor(target, this.#files, this.#warn, (path) => {
      if (!this.#documents.has(path)) this.#documents.set(path, readAuthDocument(path));
      return this.#documents.get(path);
    });
    return (await findCredentials(candidates, this.#warn, signal, (helper, server) => this.#ask(helper, server, signal)))?.credentials;
  }

  #ask(helper: string, server: string, signal: AbortSignal | undefined): Promise<Credentials | undefined> {
    const key = `${helper} ${server}`;
    let answer = this.#answers.get(key);
    if (answer === undefined) {
      answer = askHelper(helper, server, signal);
      this.#answers.set(key, answer);
      answer.catch(() => {
        if (signal?.aborted) this.#answers.delete(key);
      });
    }
    return answer;
  }
}
