/** Credentials: where they are found, what becomes of broken ones, where they are never sent, and tokens that processes share. */
import assert from 'node:assert/strict';
import {chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import fc from 'fast-check';
import {type AuthFile, authFiles, keysFor, parseAuthDocument} from '../../../src/lib/client/credentials/auth-files.ts';
import {CredentialLookup, candidatesFor, findCredentials} from '../../../src/lib/client/credentials/lookup.ts';
import {remoteSources} from '../../../src/lib/client/credentials/remote-credentials.ts';
import {tokenStore} from '../../../src/lib/client/credentials/token-store.ts';
import type {RegistryOptions} from '../../../src/lib/client/types/index.ts';
import type {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {OCI_LAYER} from '../../../src/lib/oci/mediatypes.ts';
import {openRemote, type RemoteOptions} from '../../../src/lib/remotes/index.ts';
import type {Credentials} from '../../../src/lib/remotes/types.ts';
import {selfSigned} from '../../fakes/certificate.ts';
import {fakeNetwork} from '../../fakes/fake-addresses.ts';
import {type FakeOptions, type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {streamed} from '../../suites/resolver.ts';
import {is, onEnd, TORTURE, temporaryDirectory} from '../../support/helpers.ts';

const base64 = (text: string): string => Buffer.from(text).toString('base64');
const auth = (user: string, password = 'pw'): {auth: string} => ({auth: base64(`${user}:${password}`)});

/** Writes a file for credentials. @returns its path */
function authFile(t: TestContext, document: object | string, name = 'auth.json'): string {
  const path = join(temporaryDirectory(t), name);
  mkdirSync(dirname(path), {recursive: true});
  writeFileSync(path, typeof document === 'string' ? document : JSON.stringify(document));
  return path;
}

/** Puts a helper on PATH, a shell script. @returns a directory for its notes */
function helper(t: TestContext, name: string, script: string): string {
  const dir = temporaryDirectory(t);
  const path = join(dir, `docker-credential-${name}`);
  writeFileSync(path, `#!/bin/sh\ncd ${dir}\n${script}\n`);
  chmodSync(path, 0o755);
  const before = process.env.PATH;
  process.env.PATH = `${dir}:${before}`;
  onEnd(t, () => {
    process.env.PATH = before;
  });
  return dir;
}

interface Answer {
  readonly found: Credentials | undefined;
  readonly warnings: readonly ErrdefsError[];
}

/** What a file gives for a reference without its tag. */
async function look(path: string, name: string): Promise<Answer> {
  const warnings: ErrdefsError[] = [];
  const [domain, ...rest] = name.split('/');
  const lookup = new CredentialLookup(path, (warning) => warnings.push(warning));
  const found = await lookup.find({domain: domain!, repository: rest.length === 0 ? undefined : rest.join('/')}, undefined);
  return {found, warnings};
}

const userOf = (found: Credentials | undefined): string | undefined =>
  found !== undefined && 'username' in found ? found.username : undefined;

describe('files with credentials', () => {
  for (const [env, expected] of [
    [{HOME: '/h'}, ['/run/containers/7/auth.json', '/h/.config/containers/auth.json', '/h/.docker/config.json']],
    [{}, ['/run/containers/7/auth.json']],
    [
      {HOME: '/h', XDG_RUNTIME_DIR: '/x', XDG_CONFIG_HOME: '/c', DOCKER_CONFIG: '/d', REGISTRY_AUTH_FILE: '/r.json'},
      ['/r.json', '/x/containers/auth.json', '/c/containers/auth.json', '/d/config.json'],
    ],
    [{HOME: 'relative', XDG_RUNTIME_DIR: 'relative', REGISTRY_AUTH_FILE: ''}, ['/run/containers/7/auth.json']],
    [{REGISTRY_AUTH_FILE: '/d/config.json', DOCKER_CONFIG: '/d'}, ['/d/config.json', '/run/containers/7/auth.json']],
  ] as const)
    it(`are looked for in order: ${JSON.stringify(env)}`, () =>
      assert.deepEqual(
        authFiles(undefined, env, 7).map(({path}) => path),
        expected,
      ));
  it('are only one where a flag names it', () =>
    assert.deepEqual(authFiles('/a.json', {HOME: '/h', REGISTRY_AUTH_FILE: '/r.json'}, 7), [{path: '/a.json', isDockers: false}]));

  for (const [auths, name, expected] of [
    [{'r.example': auth('host')}, 'r.example/a/b', 'host'],
    [{'r.example': auth('host'), 'r.example/a': auth('dir'), 'r.example/a/b': auth('repo')}, 'r.example/a/b', 'repo'],
    [{'r.example': auth('host'), 'r.example/a': auth('dir')}, 'r.example/a/b', 'dir'],
    [{'r.example': auth('host'), 'r.example/a': auth('dir')}, 'r.example/ab/b', 'host'],
    [{'r.example/a': auth('dir')}, 'r.example', undefined],
    [{'r.example:5000': auth('port')}, 'r.example', undefined],
    [{'r.example': auth('host')}, 'r.example:5000', undefined],
    [{'https://r.example': auth('url')}, 'r.example/a', 'url'],
    [{'https://r.example/v1/': auth('url')}, 'r.example/a', 'url'],
    [{'https://r.example': auth('url'), 'r.example': auth('host')}, 'r.example/a', 'host'],
    [{'https://index.docker.io/v1/': auth('hub')}, 'docker.io/library/redis', 'hub'],
    [{'index.docker.io': auth('hub')}, 'docker.io/library/redis', 'hub'],
    [{'docker.io': auth('name'), 'https://index.docker.io/v1/': auth('hub')}, 'docker.io/library/redis', 'name'],
    [{'docker.io/library': auth('official')}, 'docker.io/library/redis', 'official'],
    [{'r.example': {}, 'https://r.example': auth('url')}, 'r.example/a', 'url'],
    [{'r.example': {username: 'me', password: 'pw'}}, 'r.example/a', 'me'],
    [{'r.example': null}, 'r.example/a', undefined],
  ] as const)
    it(`${JSON.stringify(Object.keys(auths))}: ${name} is ${expected}`, async (t) => {
      const {found, warnings} = await look(authFile(t, {auths}), name);
      assert.deepEqual([userOf(found), warnings], [expected, []]);
    });

  it('give the longest entry that the repository begins with, by components', () => {
    const part = fc.constantFrom('a', 'b', 'ab');
    const path = fc.array(part, {minLength: 1, maxLength: 4});
    const file: AuthFile = {path: '/x', isDockers: false};
    fc.assert(
      fc.property(path, fc.array(fc.array(part, {maxLength: 4}), {maxLength: 6}), (repository, entries) => {
        const document = parseAuthDocument(
          JSON.stringify({auths: Object.fromEntries(entries.map((e) => [['r.example', ...e].join('/'), {}]))}),
        );
        const [first] = keysFor(document, file, 'r.example', repository.join('/'));
        const fits = entries.filter((e) => e.length <= repository.length && e.every((one, i) => one === repository[i]));
        const longest = fits.sort((a, b) => b.length - a.length)[0];
        assert.equal(first, longest && ['r.example', ...longest].join('/'));
      }),
      {seed: 1, numRuns: TORTURE ? 20_000 : 500},
    );
  });

  it('have tokens and passwords with any characters', async (t) => {
    const path = authFile(t, {
      auths: {
        'a.example': {identitytoken: 'identity', ...auth('<token>', '')},
        'b.example': {registrytoken: 'bearer'},
        'c.example': auth('mé', 'pä:ss:"\\'),
        'd.example': {auth: base64('me:pw\0\0')},
      },
    });
    assert.deepEqual((await look(path, 'a.example')).found, {refreshToken: 'identity'});
    assert.deepEqual((await look(path, 'b.example')).found, {registryToken: 'bearer'});
    assert.deepEqual((await look(path, 'c.example')).found, {username: 'mé', password: 'pä:ss:"\\'});
    assert.deepEqual((await look(path, 'd.example')).found, {username: 'me', password: 'pw'});
  });

  for (const [text, problem] of [
    ['{"auths": {"r.example": {"auth": "c2VjcmV0', 'is not JSON'],
    ['[]', 'is not a JSON object'],
    ['{"auths": []}', 'auths is not an object'],
    ['{"auths": {"r.example": "c2VjcmV0"}}', 'auths.r.example is not an object'],
    ['{"auths": {"r.example": {"auth": 7}}}', 'auths.r.example.auth is not a string'],
    ['{"auths": {"r.example": {"auth": "%%c2VjcmV0"}}}', 'auths.r.example.auth is not base64'],
    [`{"auths": {"r.example": {"auth": "${base64('secret')}"}}}`, 'auths.r.example.auth is not a user name, a colon'],
    ['{"credHelpers": {"r.example": 7}}', 'credHelpers.r.example is not a string'],
    ['{"credsStore": 7}', 'credsStore is not a string'],
  ] as const)
    it(`that are wrong are a warning, without their text: ${problem}`, async (t) => {
      const path = authFile(t, text);
      const {found, warnings} = await look(path, 'r.example/a');
      assert.equal(found, undefined);
      assert.equal(warnings.length, 1);
      assert.ok(warnings[0]!.message.startsWith(`credentials in ${JSON.stringify(path)}: ${problem}`), warnings[0]!.message);
      assert.doesNotMatch(JSON.stringify([warnings[0], warnings[0]!.message, warnings[0]!.hint]), /c2VjcmV0|secret/);
    });
  it('that are missing are no warning, and one that cannot be read does not hide the next', async (t) => {
    const directory = temporaryDirectory(t);
    const good = authFile(t, {auths: {'r.example': auth('me')}});
    const warnings: ErrdefsError[] = [];
    const files = [join(directory, 'nosuch.json'), directory, good].map((path) => ({path, isDockers: false}));
    const candidates = candidatesFor({domain: 'r.example', repository: 'a'}, files, (warning) => warnings.push(warning));
    assert.equal(userOf((await findCredentials(candidates, assert.fail, undefined))?.credentials), 'me');
    assert.equal(warnings.length, 1);
  });
});

describe('a credential helper', () => {
  const ANSWER = `echo '{"ServerURL":"x","Username":"me","Secret":"from-helper"}'`;
  it('is asked for its registry, by the names that docker and podman use', async (t) => {
    const notes = helper(
      t,
      'test',
      `cat >> asked; echo >> asked; [ "$(tail -n1 asked)" = docker.io ] || { echo 'credentials not found in native keychain'; exit 1; }; ${ANSWER}`,
    );
    const path = authFile(t, {credHelpers: {'docker.io': 'test'}});
    const {found, warnings} = await look(path, 'docker.io/library/redis');
    assert.deepEqual([found, warnings], [{username: 'me', password: 'from-helper'}, []]);
    assert.equal(readFileSync(join(notes, 'asked'), 'utf8'), 'https://index.docker.io/v1/\ndocker.io\n');
    assert.equal((await look(path, 'r.example/a')).found, undefined);
  });
  it('gives an identity token by its own name for it', async (t) => {
    helper(t, 'test', `cat >/dev/null; echo '{"Username":"<token>","Secret":"identity"}'`);
    assert.deepEqual((await look(authFile(t, {credsStore: 'test'}), 'r.example')).found, {refreshToken: 'identity'});
  });
  it("has the user's environment", async (t) => {
    helper(t, 'test', `cat >/dev/null; printf '{"Username":"me","Secret":"%s"}' "$HELPER_VARIABLE"`);
    process.env.HELPER_VARIABLE = 'value';
    onEnd(t, () => delete process.env.HELPER_VARIABLE);
    assert.deepEqual((await look(authFile(t, {credsStore: 'test'}), 'r.example')).found, {username: 'me', password: 'value'});
  });
  it('of the registry comes before the general one, and entries of repositories before both', async (t) => {
    helper(t, 'general', `cat >/dev/null; echo '{"Username":"general","Secret":"x"}'`);
    helper(t, 'special', `cat >/dev/null; echo '{"Username":"special","Secret":"x"}'`);
    const path = authFile(t, {
      auths: {'r.example': auth('plain'), 'r.example/a': auth('exact')},
      credHelpers: {'r.example': 'special'},
      credsStore: 'general',
    });
    assert.equal(userOf((await look(path, 'r.example/a')).found), 'exact');
    assert.equal(userOf((await look(path, 'r.example/b')).found), 'special');
    assert.equal(userOf((await look(path, 'other.example')).found), 'general');
  });
  for (const [name, script, problem] of [
    ['missing', undefined, 'it is not installed'],
    ['failing', 'echo c2VjcmV0; echo c2VjcmV0 >&2; exit 3', 'it ended with status 3'],
    ['talking', 'cat >/dev/null; echo c2VjcmV0', 'its answer has no user name and secret'],
    ['../evil', undefined, 'its name has a "/"'],
  ] as const)
    it(`that is ${name} is a warning, and what else the file has counts`, async (t) => {
      if (script !== undefined) helper(t, name, script);
      const {found, warnings} = await look(authFile(t, {credsStore: name, auths: {'r.example': auth('plain')}}), 'r.example');
      assert.equal(userOf(found), 'plain');
      assert.equal(warnings.length, 1);
      assert.match(warnings[0]!.message, new RegExp(`^credential helper docker-credential-${name} get: ${problem}: unavailable$`));
      assert.doesNotMatch(JSON.stringify([warnings[0], warnings[0]!.message, warnings[0]!.hint]), /c2VjcmV0/);
    });
  it('that hangs is ended with everything it started, and the call goes on', async (t) => {
    const notes = helper(t, 'hanging', 'sleep 300 & echo $! > pid; wait');
    const {found, warnings} = await look(authFile(t, {credsStore: 'hanging', auths: {'r.example': auth('plain')}}), 'r.example');
    assert.equal(userOf(found), 'plain');
    assert.match(warnings[0]!.message, /no answer in 5 s/);
    const pid = readFileSync(join(notes, 'pid'), 'utf8').trim();
    const isGone = (): boolean => !existsSync(`/proc/${pid}`) || / Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
    for (let tries = 0; tries < 600 && !isGone(); tries++) await new Promise((resolve) => setTimeout(resolve, 100));
    assert.ok(isGone());
  });
});

/** A remote with the user's credentials, as the library opens one. */
function remoteWith(t: TestContext, options: RegistryOptions, more: RemoteOptions = {}, state?: string) {
  const warnings: ErrdefsError[] = [];
  const sources = remoteSources(options, {
    warn: (warning) => warnings.push(warning),
    stateDir: state === undefined ? undefined : () => state,
  });
  const {credentials} = options;
  const remote = openRemote(
    {...options, backoffMs: 1, credentials: typeof credentials === 'function' ? undefined : credentials, ...more},
    sources,
  );
  onEnd(t, () => remote.close());
  return {remote, warnings};
}

const LOGIN = {username: 'me', password: 'canary-password'};

async function registryWith(
  t: TestContext,
  options: FakeOptions,
): Promise<{registry: FakeRegistry; ref: {domain: string; path: string; tag: string}}> {
  const registry = await startFakeRegistry(t, options);
  registry.addImage('team/app', 'v1', [Buffer.alloc(1000, 1)]);
  return {registry, ref: {domain: registry.host, path: 'team/app', tag: 'v1'}};
}

describe('credentials of a call', () => {
  it('are looked for in order: given ones, the callback, files', async (t) => {
    const {registry, ref} = await registryWith(t, {auth: {kind: 'basic', login: LOGIN}});
    const wrong = {username: 'wrong', password: 'wrong'};
    const good = authFile(t, {auths: {[registry.host]: auth(LOGIN.username, LOGIN.password)}});
    const bad = authFile(t, {auths: {[registry.host]: auth('wrong')}});
    for (const [options, isGood] of [
      [{credentials: LOGIN, authFile: bad}, true],
      [{credentials: wrong, authFile: good}, false],
      [{credentials: async () => LOGIN, authFile: bad}, true],
      [{credentials: async () => undefined, authFile: good}, true],
      [{authFile: good}, true],
      [{authFile: bad}, false],
    ] as const satisfies readonly (readonly [RegistryOptions, boolean])[]) {
      const {remote, warnings} = remoteWith(t, options);
      if (isGood) await remote.resolve(ref);
      else await assert.rejects(remote.resolve(ref), is('unauthenticated'));
      assert.deepEqual(warnings, []);
    }
  });
  it('are asked of a callback for the registry and the repository, after a challenge', async (t) => {
    const {registry, ref} = await registryWith(t, {auth: {kind: 'token', login: LOGIN}});
    const asked: unknown[] = [];
    const {remote} = remoteWith(t, {
      credentials: async (name, {domain, repository}) => {
        asked.push([name, domain, repository]);
        return LOGIN;
      },
    });
    await remote.resolve(ref);
    assert.deepEqual(asked, [[registry.host, registry.host, 'team/app']]);
    const open = await registryWith(t, {});
    await remote.resolve(open.ref);
    assert.equal(asked.length, 1);
  });
  it('fail the call where the callback fails, or returns something else', async (t) => {
    const {ref} = await registryWith(t, {auth: {kind: 'basic', login: LOGIN}});
    const failing = remoteWith(t, {credentials: async () => assert.fail('mine')});
    await assert.rejects(failing.remote.resolve(ref), /mine/);
    const odd = remoteWith(t, {credentials: (async () => ({token: 'x'})) as never});
    await assert.rejects(odd.remote.resolve(ref), is('invalid_argument'));
  });
  it('that are broken leave an anonymous pull as it is, with one warning', async (t) => {
    for (const options of [{}, {auth: {kind: 'token'}}] as const) {
      const {registry, ref} = await registryWith(t, options);
      const {remote, warnings} = remoteWith(t, {authFile: authFile(t, '{')});
      await remote.resolve(ref);
      await streamed(remote.fetcher(ref), registry.addBlob(Buffer.from('x')));
      assert.equal(warnings.length, 'auth' in options ? 1 : 0, 'and a file is not even read where nobody asks');
    }
  });
  it('of a bearer token are sent as they are', async (t) => {
    const {registry, ref} = await registryWith(t, {});
    registry.fault({status: 401, times: 1, headers: {'www-authenticate': 'Bearer realm="https://auth.invalid/token"'}});
    const {remote} = remoteWith(t, {authFile: authFile(t, {auths: {[registry.host]: {registrytoken: 'made-elsewhere'}}})});
    await remote.resolve(ref);
    assert.deepEqual(registry.authorizations, ['Bearer made-elsewhere']);
  });
});

describe('a token', () => {
  const tokenRequests = ({requests}: FakeRegistry): number => requests.filter(({path}) => path.startsWith('/token')).length;
  /** A process each. */
  const resolved = async (t: TestContext, ref: {domain: string; path: string; tag: string}, state: string, options: RegistryOptions) => {
    const {remote} = remoteWith(t, options, {}, state);
    await remote.resolve(ref);
    await remote.close();
  };

  it('is shared by the processes of a user until it expires, for its credentials and scope only', async (t) => {
    const {registry, ref} = await registryWith(t, {auth: {kind: 'token', expiresIn: 300}});
    registry.addImage('other', 'v1', []);
    const state = temporaryDirectory(t);
    const isAsked = async (to: typeof ref, where: string, options: RegistryOptions): Promise<boolean> => {
      registry.clear();
      await resolved(t, to, where, options);
      return tokenRequests(registry) > 0;
    };
    const other = temporaryDirectory(t);
    for (const [to, where, options] of [
      [ref, state, {}],
      [ref, state, {credentials: LOGIN}],
      [{...ref, path: 'other'}, state, {}],
      [ref, other, {}],
    ] as const) {
      assert.ok(await isAsked(to, where, options));
      assert.ok(!(await isAsked(to, where, options)));
    }
    const files = readdirSync(join(state, 'tokens'));
    assert.equal(files.length, 3);
    assert.equal(statSync(join(state, 'tokens')).mode & 0o777, 0o700);
    for (const name of files) {
      assert.equal(statSync(join(state, 'tokens', name)).mode & 0o777, 0o600);
      assert.doesNotMatch(name + readFileSync(join(state, 'tokens', name), 'utf8'), /canary|127\.0\.0\.1/);
    }
  });
  for (const status of [401, 403] as const)
    it(`that the registry refuses with ${status} is asked for anew`, async (t) => {
      const {registry, ref} = await registryWith(t, {auth: {kind: 'token', expiresIn: 300}});
      const state = temporaryDirectory(t);
      await resolved(t, ref, state, {});
      if (status === 401) registry.revokeTokens();
      else {
        // The first request is anonymous; the second one has the token.
        const challenge = `Bearer realm="${registry.url}/token",service="fake"`;
        registry.fault({path: /^\/v2/, status: 401, times: 1, headers: {'www-authenticate': challenge}});
        registry.fault({path: /^\/v2/, status, code: 'DENIED', times: 1});
      }
      const {remote} = remoteWith(t, {}, {}, state);
      await remote.resolve(ref);
      assert.equal(tokenRequests(registry), 2);
    });
  it('that is not kept, or is kept wrongly, changes nothing', async (t) => {
    const {registry, ref} = await registryWith(t, {auth: {kind: 'token', expiresIn: 300}});
    const blocked = join(temporaryDirectory(t), 'file');
    writeFileSync(blocked, '');
    const open = temporaryDirectory(t);
    mkdirSync(join(open, 'tokens'));
    chmodSync(join(open, 'tokens'), 0o777);
    for (const [n, state] of [blocked, open, '/proc/nosuch'].entries()) {
      await resolved(t, ref, state, {});
      await resolved(t, ref, state, {});
      assert.equal(tokenRequests(registry), 2 * (n + 1));
    }
    assert.deepEqual(readdirSync(join(open, 'tokens')), [], 'nothing in a directory of everybody');
    registry.clear();
    const state = temporaryDirectory(t);
    await resolved(t, ref, state, {});
    const [name] = readdirSync(join(state, 'tokens'));
    const path = join(state, 'tokens', name!);
    const good = JSON.parse(readFileSync(path, 'utf8')) as {token: string; expires: number};
    for (const [n, text] of [
      '',
      '{',
      'null',
      '[]',
      '{"token":7,"expires":1}',
      JSON.stringify({...good, token: 'a\r\nb: c'}),
      JSON.stringify({...good, expires: Date.now() - 1}),
      JSON.stringify({...good, expires: Number.MAX_VALUE}),
      JSON.stringify({...good, token: 'not-a-token-of-this-registry'}),
    ].entries()) {
      writeFileSync(path, text);
      await resolved(t, ref, state, {});
      assert.equal(tokenRequests(registry), n + 2, text);
    }
  });
  it('that has expired is removed by the next process that keeps one', async (t) => {
    const state = temporaryDirectory(t);
    const now = Date.now();
    tokenStore(() => state).set('old', 'token', now - 1);
    writeFileSync(join(state, 'tokens', 'broken.json'), '{');
    tokenStore(() => state).set('new', 'token', now + 60_000);
    assert.deepEqual(readdirSync(join(state, 'tokens')), ['new.json']);
  });
});

/** Every kind of credentials, each with a secret that is looked for in what others received. */
const KINDS: Readonly<Record<string, (t: TestContext, host: string) => RegistryOptions>> = {
  given: () => ({credentials: LOGIN}),
  'a refresh token': () => ({refreshToken: 'canary-password'}),
  'of a callback': () => ({credentials: async () => LOGIN}),
  'of a file': (t, host) => ({authFile: authFile(t, {auths: {[host]: auth(LOGIN.username, LOGIN.password)}})}),
  'an identity token': (t, host) => ({authFile: authFile(t, {auths: {[host]: {identitytoken: 'canary-password'}}})}),
  'a registry token': (t, host) => ({authFile: authFile(t, {auths: {[host]: {registrytoken: 'canary-password'}}})}),
  'of a helper': (t, host) => {
    helper(t, 'canary', `cat >/dev/null; echo '{"Username":"me","Secret":"canary-password"}'`);
    return {authFile: authFile(t, {credHelpers: {[host]: 'canary'}})};
  },
};

/** Ways to lead them astray. Each makes the registry do so, and acts as a user. */
const ASTRAY: Readonly<
  Record<
    string,
    (world: {registry: FakeRegistry; attacker: FakeRegistry; remote: ReturnType<typeof openRemote>; ref: Ref}) => Promise<void>
  >
> = {
  'by a redirect to another port': async ({registry, attacker, remote, ref}) => {
    const layer = registry.addBlob(Buffer.alloc(10, 3));
    attacker.addBlob(Buffer.alloc(10, 3));
    registry.fault({path: /blobs/, redirect: ({url}) => `${attacker.url}${url}`});
    await streamed(remote.fetcher(ref), layer);
  },
  'by a redirect whose target asks for them': async ({registry, attacker, remote, ref}) => {
    registry.fault({path: /blobs/, redirect: ({url}) => `${attacker.url}${url}`});
    attacker.fault({status: 401, headers: {'www-authenticate': `Bearer realm="${attacker.url}/token"`}});
    await streamed(remote.fetcher(ref), registry.addBlob(Buffer.alloc(10, 3)));
  },
  'by the URL of a foreign layer': async ({registry, attacker, remote, ref}) => {
    attacker.fault({status: 401, headers: {'www-authenticate': 'Basic realm="x"'}});
    const layer = registry.addBlob(Buffer.alloc(10, 3), 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip');
    await streamed(remote.fetcher(ref), {...layer, urls: [`${attacker.url}/x`]});
  },
  'by the URLs of an ordinary layer': async ({registry, attacker, remote, ref}) => {
    await streamed(remote.fetcher(ref), {...registry.addBlob(Buffer.alloc(10, 3), OCI_LAYER), urls: [`${attacker.url}/x`]});
  },
  'by a realm without TLS': async ({registry, attacker, remote, ref}) => {
    registry.fault({status: 401, headers: {'www-authenticate': `Bearer realm="${attacker.url}/token"`}});
    await remote.resolve(ref);
  },
  'by a realm on an unrelated address': async ({registry, attacker, remote, ref}) => {
    registry.fault({status: 401, headers: {'www-authenticate': `Bearer realm="https://10.0.0.1:${attacker.host.split(':')[1]}/token"`}});
    await remote.resolve(ref);
  },
  'by a realm of a metadata service': async ({registry, remote, ref}) => {
    registry.fault({status: 401, headers: {'www-authenticate': 'Bearer realm="https://169.254.169.254/token"'}});
    await remote.resolve(ref);
  },
  'by a token server that redirects': async ({registry, attacker, remote, ref}) => {
    registry.fault({path: /^\/v2/, status: 401, headers: {'www-authenticate': `Bearer realm="${registry.url}/token"`}});
    registry.fault({path: /^\/token/, redirect: `${attacker.url}/token`, status: 307});
    await remote.resolve(ref);
  },
};
type Ref = {readonly domain: string; readonly path: string; readonly tag: string};

describe('credentials never reach another server', () => {
  for (const [kind, options] of Object.entries(KINDS))
    for (const [way, lead] of Object.entries(ASTRAY))
      it(`${kind}, ${way}`, async (t) => {
        const registry = await startFakeRegistry(t, {tls: selfSigned('127.0.0.1'), auth: {kind: 'basic', login: LOGIN}});
        registry.addImage('team/app', 'v1', []);
        const attacker = await startFakeRegistry(t);
        const ref = {domain: registry.host, path: 'team/app', tag: 'v1'};
        const {remote} = remoteWith(t, options(t, registry.host), {skipVerify: true});
        // The credentials are known before, where the registry takes them.
        await remote.resolve(ref).catch(() => undefined);
        await lead({registry, attacker, remote, ref}).catch(() => undefined);
        const seen = JSON.stringify(attacker.requests);
        for (const secret of ['canary', base64(`${LOGIN.username}:${LOGIN.password}`), 'Bearer', 'Basic'])
          assert.ok(!seen.includes(secret), `${secret} in ${seen}`);
      });

  for (const [kind, options] of Object.entries(KINDS))
    for (const allowed of [false, true])
      it(`${kind}, over plain HTTP ${allowed ? 'unless --plain-http asks for it' : 'of hosts.toml'}`, async (t) => {
        const registry = await startFakeRegistry(t, {auth: {kind: 'basic', login: LOGIN}});
        registry.addImage('team/app', 'v1', []);
        const network = fakeNetwork(registry.host, {'registry.example': [['192.0.2.1']]});
        const domain = 'registry.example';
        const hosts = temporaryDirectory(t);
        mkdirSync(join(hosts, domain));
        writeFileSync(join(hosts, domain, 'hosts.toml'), `server = "http://${domain}"\n`);
        const {credentials: given, ...rest} = options(t, domain);
        const {warn: _, ...sources} = {
          ...remoteSources({...rest, ...(given && {credentials: given})}, {warn: assert.fail, stateDir: undefined}),
          warn: 0,
        };
        const remote = openRemote(
          {
            ...rest,
            credentials: typeof given === 'function' ? undefined : given,
            backoffMs: 1,
            hostsDirs: [hosts],
            plainHTTP: allowed,
          },
          {...sources, network},
        );
        onEnd(t, () => remote.close());
        const done = remote.resolve({domain, path: 'team/app', tag: 'v1'});
        const isPassword = !/token/.test(kind);
        if (allowed && isPassword) await done;
        else
          await assert.rejects(done, (err: Error & {hint?: string}) => {
            is('unauthenticated')(err);
            if (!allowed) assert.match(err.hint ?? '', /not sent over plain HTTP/);
            return true;
          });
        assert.equal(registry.authorizations.length, allowed && isPassword ? 1 : 0);
      });
});
