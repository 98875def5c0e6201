/**
 * Calls credential helpers: programs named `docker-credential-NAME` that keep credentials elsewhere.
 *
 * Protocol of docker-credential-helpers, client/client.go and credentials/: the verb as argument, the server or a JSON object on standard
 * input, JSON or a message on standard output.
 */
import {ErrdefsError, isErrdefs} from '../../errdefs.ts';
import {run, searchPath} from '../../fs/spawn.ts';
import type {Credentials} from '../../remotes/types.ts';

/** Milliseconds for a helper. One that waits for a person must not hold up a pull. */
const HELPER_TIMEOUT_MS = 5000;

/** What helpers answer for a registry that they do not know; the protocol has no other sign of it. */
const UNKNOWN = 'credentials not found in native keychain';

/** The user name by which a helper says that its secret is an identity token. */
const TOKEN_USER = '<token>';

const failure = (program: string, verb: string, why: string, options: {readonly cause?: unknown} = {}): ErrdefsError =>
  new ErrdefsError('unavailable', `credential helper ${program} ${verb}: ${why}`, {...options, details: {program}});

async function call(helper: string, verb: 'get' | 'store' | 'erase', input: string, signal?: AbortSignal): Promise<string | undefined> {
  const program = `docker-credential-${helper}`;
  if (helper === '' || helper.includes('/')) throw failure(program, verb, 'its name has a "/"');
  let done: Awaited<ReturnType<typeof run>>;
  try {
    done = await run(program, [verb], {
      package: program,
      input: Buffer.from(input),
      // It is the user's program, and finds its store by the user's variables.
      env: {...(process.env as Record<string, string>), PATH: searchPath()},
      timeoutMs: HELPER_TIMEOUT_MS,
      ownSession: true,
      ...(signal === undefined ? {} : {signal}),
    });
  } catch (err) {
    signal?.throwIfAborted();
    if (!isErrdefs(err)) throw err;
    const why =
      err.code === 'unavailable'
        ? 'it is not installed'
        : err.code === 'deadline_exceeded'
          ? `no answer in ${HELPER_TIMEOUT_MS / 1000} s`
          : err.message;
    throw failure(program, verb, why, {cause: err});
  }
  const answer = done.stdout.toString();
  if (done.status === 0) return answer;
  if (answer.trim() === UNKNOWN) return undefined;
  // What it prints may be a secret.
  throw failure(program, verb, `it ended with status ${done.status}`);
}

/**
 * The credentials that a helper has for a server; undefined for none.
 *
 * @param server as the helper knows it, such as `registry.example` or `https://index.docker.io/v1/`
 * @throws unavailable there is no such helper, it failed, or it took too long
 */
export async function askHelper(helper: string, server: string, signal?: AbortSignal): Promise<Credentials | undefined> {
  const answer = await call(helper, 'get', server, signal);
  if (answer === undefined) return undefined;
  let fields: {Username?: unknown; Secret?: unknown} = {};
  try {
    fields = Object(JSON.parse(answer));
  } catch {
    // Not JSON, so it has neither.
  }
  const {Username: username, Secret: secret} = fields;
  if (typeof username !== 'string' || typeof secret !== 'string')
    throw failure(`docker-credential-${helper}`, 'get', 'its answer has no user name and secret');
  if (username === '' && secret === '') return undefined;
  return username === TOKEN_USER ? {refreshToken: secret} : {username, password: secret};
}

export async function storeInHelper(
  helper: string,
  server: string,
  username: string,
  password: string,
  signal?: AbortSignal,
): Promise<void> {
  await call(helper, 'store', JSON.stringify({ServerURL: server, Username: username, Secret: password}), signal);
}

export async function eraseFromHelper(helper: string, server: string, signal?: AbortSignal): Promise<void> {
  await call(helper, 'erase', server, signal);
}
