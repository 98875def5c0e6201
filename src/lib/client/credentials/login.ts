/**
 * `login` and `logout`: credentials in the files and helpers that podman and docker use.
 *
 * A login is checked at the registry before anything is written. Files are changed under a lock beside them, and replaced as a whole: of
 * several logins at once none is lost.
 */
import {chownSync, lstatSync, realpathSync, statSync} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {ErrdefsError, fromErrno, isErrdefs, wrap} from '../../errdefs.ts';
import {makeDirectories, readIfPresent, writeAtomic} from '../../fs/durable.ts';
import {acquireLock} from '../../fs/lock.ts';
import {parseReference} from '../../oci/reference.ts';
import type {Context} from '../context.ts';
import type {LoggedInOptions, LoginOptions, LoginResult, LogoutOptions, LogoutResult} from '../types/index.ts';
import {
  type AuthFile,
  AuthFileFault,
  authFiles,
  dockerFile,
  HUB_KEY,
  isRegistryKey,
  keysFor,
  parseAuthDocument,
  readAuthDocument,
  registryOfKey,
} from './auth-files.ts';
import {editMember} from './edit-json.ts';
import {eraseFromHelper, storeInHelper} from './helper.ts';
import {candidatesFor, findCredentials, helperOf, serversOf} from './lookup.ts';

/** A registry, or a repository or directory of repositories in it. */
interface Place {
  readonly domain: string;
  readonly repository: string | undefined;
}

/**
 * Reads what people log in to: `registry.example`, `registry.example:5000/team`, `https://index.docker.io/v1/`.
 *
 * @throws invalid_argument
 */
export function parseRegistry(text: string): Place {
  const isURL = /^https?:\/\//.test(text);
  const [host = '', ...rest] = text
    .replace(/^https?:\/\//, '')
    .replace(/\/$/, '')
    .split('/');
  const repository = isURL || rest.length === 0 ? undefined : rest.join('/');
  const domain = registryOfKey(host);
  try {
    // Only its rules for hosts and repositories are wanted here.
    const {domain: parsed, tag, digest} = parseReference(`${host}/${repository ?? 'x/x'}`, {normalize: false});
    if (tag !== undefined || digest !== undefined) throw new Error('a tag or digest');
    return {domain: parsed === host ? domain : parsed, repository};
  } catch (err) {
    throw new ErrdefsError('invalid_argument', `registry ${JSON.stringify(text.replace(/^.*@/, '…@'))}`, {
      cause: err,
      hint: 'write HOST[:PORT], such as docker.io or registry.example:5000',
    });
  }
}

const keyOf = ({domain, repository}: Place, {isDockers}: AuthFile): string =>
  repository === undefined ? (isDockers && domain === 'docker.io' ? HUB_KEY : domain) : `${domain}/${repository}`;

/** The keys of a file that are for exactly this place. */
const keysOfPlace = (document: ReturnType<typeof parseAuthDocument>, file: AuthFile, place: Place): readonly string[] =>
  place.repository === undefined
    ? keysFor(document, file, place.domain, undefined)
    : [keyOf(place, file)].filter((key) => document.auths.has(key));

const unusable = (path: string, err: AuthFileFault): ErrdefsError =>
  new ErrdefsError(
    'failed_precondition',
    `credentials in ${JSON.stringify(path)}: ${err.key === undefined ? '' : `${err.key} `}${err.message}`,
    {
      hint: 'mend or remove the file; nothing was changed',
      details: {file: path},
    },
  );

/** @throws failed_precondition a file that is to be changed is not what it should be */
function documentOf(path: string): ReturnType<typeof parseAuthDocument> {
  try {
    return readAuthDocument(path) ?? parseAuthDocument('');
  } catch (err) {
    throw err instanceof AuthFileFault ? unusable(path, err) : fromErrno(err, `credentials in ${JSON.stringify(path)}`);
  }
}

/** @throws failed_precondition the text of a file that is to be changed is not what it should be */
function parsed(text: string, path: string): ReturnType<typeof parseAuthDocument> {
  try {
    return parseAuthDocument(text);
  } catch (err) {
    throw unusable(path, err as AuthFileFault);
  }
}

/** Changes a file under its lock. @param edit gives the new text; undefined leaves it */
async function update(
  {path: given}: AuthFile,
  {timeoutMs, signal}: {readonly timeoutMs: number; readonly signal: AbortSignal | undefined},
  edit: (text: string) => string | undefined,
): Promise<void> {
  const what = `credentials in ${JSON.stringify(given)}`;
  try {
    // A link to a file elsewhere stays one.
    const path = lstatSync(given, {throwIfNoEntry: false})?.isSymbolicLink() ? realpathSync(given) : given;
    makeDirectories(dirname(path), {sync: false, mode: 0o700});
    using _lock = await acquireLock(join(dirname(path), `.${basename(path)}.berth-lock`), {
      timeoutMs,
      purpose: 'a login',
      ...(signal && {signal}),
    });
    const text = edit(readIfPresent(path) ?? '');
    if (text === undefined) return;
    const before = statSync(path, {throwIfNoEntry: false});
    writeAtomic(path, text, {sync: true, mode: 0o600});
    // Of another user's file, which root changes, the owner stays.
    if (before !== undefined && process.geteuid?.() === 0 && before.uid !== 0) chownSync(path, before.uid, before.gid);
  } catch (err) {
    throw isErrdefs(err) ? err : fromErrno(err, what);
  }
}

/** Where a login goes: to where its registry's entry is read from now, else to the file of the environment, else to docker's. */
function fileFor(place: Place, authFile: string | undefined, context: Context): AuthFile {
  const files = authFiles(authFile);
  if (authFile !== undefined) return files[0]!;
  const found = process.env.REGISTRY_AUTH_FILE ? files[0] : candidatesFor(place, files, context.warn).find((one) => isOf(one, place))?.file;
  const file = found ?? dockerFile(process.env);
  if (file !== undefined) return file;
  throw new ErrdefsError('failed_precondition', 'there is no home directory for credentials', {
    hint: 'set HOME, or name a file with --authfile',
  });
}

const isOf = (candidate: ReturnType<typeof candidatesFor>[number], place: Place): boolean =>
  candidate.kind === 'helper' ? place.repository === undefined : isOfPlace(candidate.key, candidate.file, place);

const isOfPlace = (key: string, file: AuthFile, place: Place): boolean =>
  place.repository === undefined ? isRegistryKey(key, file) && registryOfKey(key) === place.domain : key === keyOf(place, file);

/** What is kept. */
interface Login {
  readonly username: string;
  readonly password: string;
}

export async function login(context: Context, registry: string, credentials: Login, options: LoginOptions): Promise<LoginResult> {
  const place = parseRegistry(registry);
  const {username, password} = credentials;
  const {authFile, signal} = options;
  if (username === '' || username.includes(':'))
    throw new ErrdefsError('invalid_argument', `user name ${JSON.stringify(username)}`, {hint: 'a user name is not empty, and has no ":"'});
  const file = fileFor(place, authFile, context);
  // Before the registry is asked: what cannot be written to needs no password.
  const document = documentOf(file.path);
  const isChecked = await check(context, place, credentials, options);
  const helper = place.repository === undefined ? helperOf(document, place.domain) : undefined;
  if (helper !== undefined) await storeInHelper(helper, serversOf(place.domain)[0]!, username, password, signal);
  const entry = helper === undefined ? {auth: Buffer.from(`${username}:${password}`).toString('base64')} : {};
  await update(file, {timeoutMs: context.lockTimeoutMs, signal}, (text) => {
    const current = parsed(text, file.path);
    const [first = keyOf(place, file), ...others] = keysOfPlace(current, file, place);
    return others.reduce((edited, key) => editMember(edited, 'auths', key, undefined), editMember(text, 'auths', first, entry));
  });
  return {
    registry: place.repository === undefined ? place.domain : `${place.domain}/${place.repository}`,
    username,
    file: file.path,
    ...(helper === undefined ? {} : {helper: `docker-credential-${helper}`}),
    verified: isChecked,
  };
}

/** @returns false where the registry asks for no credentials @throws unauthenticated it does not take these */
async function check(context: Context, {domain, repository}: Place, credentials: Login, options: LoginOptions): Promise<boolean> {
  const remote = await context.openRemote({...options, credentials});
  try {
    const [answer] = await remote.ping({domain, repository}, {registryOnly: true, signal: options.signal});
    if (answer?.error !== undefined) throw wrap(`unable to log in to ${domain}`, answer.error);
    return answer?.usedCredentials ?? false;
  } finally {
    await remote.close();
  }
}

/** The user name of a registry's entry. @throws not_found nobody is logged in */
export async function loggedIn(context: Context, registry: string, {authFile, signal}: LoggedInOptions): Promise<string> {
  const place = parseRegistry(registry);
  const found = await findCredentials(candidatesFor(place, authFiles(authFile), context.warn), context.warn, signal);
  if (found === undefined) throw notLoggedIn(registry);
  return 'username' in found.credentials ? found.credentials.username : '<token>';
}

const notLoggedIn = (registry: string): ErrdefsError =>
  new ErrdefsError('not_found', `not logged in to ${registry}`, {hint: 'the files that were looked at are listed in docs/HOSTS.md'});

/** @throws invalid_argument neither a registry nor `all`, or both */
export async function logout(context: Context, registry: string | undefined, options: LogoutOptions): Promise<LogoutResult> {
  const {all = false, authFile, signal} = options;
  if ((registry === undefined) !== all) throw new ErrdefsError('invalid_argument', 'logout: a registry or all of them, and not both');
  const place = registry === undefined ? undefined : parseRegistry(registry);
  const changed: string[] = [];
  const removed = new Set<string>();
  const keysIn = (document: ReturnType<typeof parseAuthDocument>, file: AuthFile): readonly string[] =>
    place === undefined ? [...document.auths.keys()] : keysOfPlace(document, file, place);
  const failures: ErrdefsError[] = [];
  const read = (file: AuthFile): ReturnType<typeof parseAuthDocument> | undefined => {
    try {
      return documentOf(file.path);
    } catch (err) {
      if (!isErrdefs(err)) throw err;
      failures.push(err);
      return undefined;
    }
  };
  // What one file does not give does not keep the credentials in the others.
  for (const file of authFiles(authFile)) {
    const document = read(file);
    if (document === undefined) continue;
    const keys = keysIn(document, file);
    const domains =
      place === undefined
        ? new Set([...keys.filter((key) => isRegistryKey(key, file)), ...document.credHelpers.keys()].map(registryOfKey))
        : place.repository === undefined && helperOf(document, place.domain) !== undefined
          ? new Set([place.domain])
          : new Set<string>();
    for (const domain of domains) {
      const helper = helperOf(document, domain);
      if (helper === undefined) continue;
      const known = await findCredentials([{kind: 'helper', file, helper, servers: serversOf(domain)}], context.warn, signal);
      if (known === undefined) continue;
      for (const server of serversOf(domain)) await eraseFromHelper(helper, server, signal);
      removed.add(domain);
      changed.push(`docker-credential-${helper}`);
    }
    if (keys.length === 0) continue;
    let gone: readonly string[] = [];
    await update(file, {timeoutMs: context.lockTimeoutMs, signal}, (text) => {
      // Another process may have changed the file meanwhile.
      gone = keysIn(parsed(text, file.path), file);
      return gone.length === 0 ? undefined : gone.reduce((edited, key) => editMember(edited, 'auths', key, undefined), text);
    });
    for (const key of keys) removed.add(key);
    if (gone.length > 0) changed.push(file.path);
  }
  const [failure] = failures;
  if (failure !== undefined && removed.size === 0) throw failure;
  for (const err of failures) context.warn(wrap('credentials may be left', err));
  if (registry !== undefined && removed.size === 0) throw notLoggedIn(registry);
  return {registries: [...removed].sort(), from: [...new Set(changed)]};
}
