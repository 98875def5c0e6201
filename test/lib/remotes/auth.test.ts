import assert from 'node:assert/strict';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {checkRealm, mergeScopes, parseToken} from '../../../src/lib/remotes/auth.ts';
import {
  type Credentials,
  type CredentialTarget,
  openRemote,
  type Remote,
  type RemoteOptions,
  type RemoteSources,
} from '../../../src/lib/remotes/index.ts';
import {type FakeOptions, type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {streamed} from '../../suites/resolver.ts';
import {is, onEnd} from '../../support/helpers.ts';

const login = {username: 'mé', password: 'geheim:wort'};
const basicLogin = `Basic ${Buffer.from('mé:geheim:wort').toString('base64')}`;

async function open(t: TestContext, fake: FakeOptions, options: RemoteOptions = {}, sources: RemoteSources = {}) {
  const registry = await startFakeRegistry(t, fake);
  const image = registry.addImage('team/app', 'v1', [Buffer.alloc(1000, 1), Buffer.alloc(1000, 2)]);
  const remote: Remote = openRemote({backoffMs: 1, ...options}, sources);
  onEnd(t, () => remote.close());
  const ref = {domain: registry.host, path: 'team/app', tag: 'v1'};
  return {registry, remote, ref, image, fetcher: remote.fetcher(ref)};
}

const tokenRequests = ({requests}: FakeRegistry) => requests.filter(({path}) => path.startsWith('/token'));

describe('tokens', () => {
  it('are asked for once for a repository, after the registry has asked', async (t) => {
    const {registry, remote, ref, image, fetcher} = await open(t, {auth: {kind: 'token'}});
    await remote.resolve(ref);
    await Promise.all([...image.layers, image.config].map((desc) => streamed(fetcher, desc)));
    const [token, ...others] = tokenRequests(registry);
    assert.deepEqual(others, []);
    assert.equal(token?.method, 'GET');
    assert.equal(token.authorization, undefined);
    assert.equal(token.path, '/token?service=fake&scope=repository%3Ateam%2Fapp%3Apull');
    assert.deepEqual(
      registry.requests.map(({status}) => status),
      [401, 200, 200, 200, 200, 200],
    );
  });
  it('are asked for once by requests that are toError together', async (t) => {
    const {registry, image, fetcher} = await open(t, {auth: {kind: 'token'}});
    registry.fault({path: /^\/token/, delayMs: 50});
    await Promise.all([...image.layers, image.config].map((desc) => streamed(fetcher, desc)));
    assert.equal(tokenRequests(registry).length, 1);
  });
  it('are for one repository', async (t) => {
    const {registry, remote, ref} = await open(t, {auth: {kind: 'token'}});
    registry.addImage('other', 'v1', []);
    await remote.resolve(ref);
    await remote.resolve({...ref, path: 'other'});
    assert.deepEqual(
      tokenRequests(registry).map(({path}) => new URLSearchParams(path.split('?')[1]).get('scope')),
      ['repository:team/app:pull', 'repository:other:pull'],
    );
  });
  it('are renewed before they expire, without a protocolError', async (t) => {
    const {registry, remote, ref} = await open(t, {auth: {kind: 'token', expiresIn: 2}});
    await remote.resolve(ref);
    await sleep(1100);
    registry.clear();
    await remote.resolve(ref);
    assert.deepEqual(
      registry.requests.map(({path, status}) => [path.split('?')[0], status]),
      [
        ['/v2/team/app/manifests/v1', 401],
        ['/token', 200],
        ['/v2/team/app/manifests/v1', 200],
      ],
    );
    assert.deepEqual(registry.authorizations.length, 1, 'the old one was not sent again');
  });
  it('are renewed once when the registry has forgotten them', async (t) => {
    const {registry, remote, ref, image, fetcher} = await open(t, {auth: {kind: 'token'}});
    await remote.resolve(ref);
    registry.revokeTokens();
    registry.clear();
    await Promise.all(image.layers.map((desc) => streamed(fetcher, desc)));
    assert.equal(tokenRequests(registry).length, 1);
  });
  it('that another request has renewed meanwhile are taken', async (t) => {
    const {registry, remote, ref, image, fetcher} = await open(t, {auth: {kind: 'token'}});
    await remote.resolve(ref);
    registry.revokeTokens();
    registry.clear();
    registry.fault({path: new RegExp(image.layers[0]!.digest), status: 401, delayMs: 150, times: 1});
    await Promise.all(image.layers.map((desc) => streamed(fetcher, desc)));
    assert.equal(tokenRequests(registry).length, 1);
  });
  it('that the registry does not take are no endless matter', async (t) => {
    const {registry, remote, ref} = await open(t, {auth: {kind: 'token'}});
    registry.fault({path: /^\/v2/, status: 401, headers: {'www-authenticate': `Bearer realm="${registry.url}/token"`}});
    await assert.rejects(remote.resolve(ref), is('unauthenticated'));
    assert.equal(registry.count('HEAD'), 2);
    assert.equal(tokenRequests(registry).length, 1);
  });

  it('for a login are asked for in the form of oauth2', async (t) => {
    const {registry, remote, ref} = await open(t, {auth: {kind: 'token', login}}, {credentials: login});
    await remote.resolve(ref);
    const [token] = tokenRequests(registry);
    assert.equal(token?.method, 'POST');
    assert.deepEqual(Object.fromEntries(new URLSearchParams(token.body)), {
      client_id: 'berth',
      grant_type: 'password',
      username: login.username,
      password: login.password,
      scope: 'repository:team/app:pull',
      service: 'fake',
    });
    assert.equal(token.authorization, undefined);
  });
  for (const postStatus of [400, 401, 404, 405] as const)
    it(`for a login are asked for by GET where the form is answered ${postStatus}`, async (t) => {
      const {registry, remote, ref} = await open(t, {auth: {kind: 'token', login, postStatus}}, {credentials: login});
      await remote.resolve(ref);
      assert.deepEqual(
        tokenRequests(registry).map(({method, authorization}) => [method, authorization]),
        [
          ['POST', undefined],
          ['GET', basicLogin],
        ],
      );
    });
  it('for a refresh token are asked for with it, and with nothing else', async (t) => {
    const auth = {kind: 'token', login, refreshToken: 'r3fr3sh'} as const;
    const {registry, remote, ref} = await open(t, {auth}, {refreshToken: 'r3fr3sh', credentials: login});
    await remote.resolve(ref);
    const [token, ...others] = tokenRequests(registry);
    assert.deepEqual(others, []);
    const form = new URLSearchParams(token?.body);
    assert.equal(form.get('grant_type'), 'refresh_token');
    assert.equal(form.get('refresh_token'), 'r3fr3sh');
    assert.equal(form.get('password'), null);
  });
  for (const postStatus of [400, 401, 404, 405] as const)
    it(`for a refresh token are not asked for without it where the form is answered ${postStatus}`, async (t) => {
      // Everybody may have a token: nobody in particular, that is.
      const {registry, remote, ref} = await open(t, {auth: {kind: 'token', postStatus}}, {refreshToken: 'r3fr3sh'});
      await assert.rejects(remote.resolve(ref), is('unauthenticated'));
      assert.deepEqual(
        tokenRequests(registry).map(({method}) => method),
        ['POST'],
      );
    });
  it('are repeated for when their server is unwell', async (t) => {
    const {registry, remote, ref} = await open(t, {auth: {kind: 'token'}});
    registry.fault({path: /^\/token/, status: 503, times: 2});
    await remote.resolve(ref);
    assert.equal(tokenRequests(registry).length, 3);
  });
  it('that are not to be had fail the request that needed them, by its name', async (t) => {
    for (const [fault, expected] of [
      [{status: 404, code: 'NAME_UNKNOWN'}, /: resolve \S+\/team\/app:v1: token: \S+ answered 404 NAME_UNKNOWN: unauthenticated$/],
      [
        {body: () => Buffer.from('{}'), headers: {'content-length': '2'}},
        /: resolve \S+\/team\/app:v1: token: \S+: no token in the response: /,
      ],
    ] as const) {
      const {registry, remote, ref} = await open(t, {auth: {kind: 'token'}});
      registry.fault({path: /^\/token/, ...fault});
      await assert.rejects(remote.resolve(ref), expected);
    }
  });
  it('that a challenge asks more for have both scopes', () => {
    assert.deepEqual(mergeScopes('repository:b:pull', 'repository:a:pull,push repository:b:pull', undefined, ''), [
      'repository:a:pull,push',
      'repository:b:pull',
    ]);
  });

  for (const [title, body, expected] of [
    ['token', {token: 'abc', access_token: 'def'}, {token: 'abc', lifetimeMs: Number.POSITIVE_INFINITY}],
    ['access_token', {access_token: 'def', expires_in: 300}, {token: 'def', lifetimeMs: 295_000}],
    ['a short life', {token: 'abc', expires_in: 2}, {token: 'abc', lifetimeMs: 1000}],
    ['a life in words', {token: 'abc', expires_in: '300'}, {token: 'abc', lifetimeMs: Number.POSITIVE_INFINITY}],
  ] as const)
    it(`are read from ${title}`, () => assert.deepEqual(parseToken(Buffer.from(JSON.stringify(body)), 'token'), expected));
  for (const body of [
    '',
    'null',
    '[]',
    '7',
    '{}',
    '{"token":""}',
    '{"token":7}',
    '{"token":"a b"}',
    '{"token":"a\\r\\nX: y"}',
    '{"token":"é"}',
    '{"__proto__":{"token":"a"}}',
  ])
    it(`are not read from ${body}`, () => assert.throws(() => parseToken(Buffer.from(body), 'token'), is('failed_precondition')));
});

describe('a password', () => {
  it('is sent after a challenge, byte for byte', async (t) => {
    const {registry, remote, ref} = await open(t, {auth: {kind: 'basic', login}}, {credentials: login});
    await remote.resolve(ref);
    await remote.resolve(ref);
    assert.deepEqual(
      registry.requests.map(({authorization}) => authorization),
      [undefined, basicLogin, basicLogin],
    );
  });
  it('is not sent without a challenge', async (t) => {
    const {registry, remote, ref} = await open(t, {}, {credentials: login});
    await remote.resolve(ref);
    assert.deepEqual(registry.authorizations, []);
  });
  it('that is wrong makes it unauthenticated, after one try', async (t) => {
    const wrong = {username: 'me', password: 'wr0ng-secret'};
    for (const auth of [{kind: 'basic', login} as const, {kind: 'token', login} as const]) {
      const {registry, remote, ref} = await open(t, {auth}, {credentials: wrong});
      await assert.rejects(remote.resolve(ref), (err: Error & {hint?: string}) => {
        is('unauthenticated')(err);
        assert.match(err.hint ?? '', /does not accept these credentials/);
        assert.doesNotMatch(JSON.stringify([err, err.message]), /wr0ng-secret/);
        return true;
      });
      assert.ok(registry.requests.length <= 3);
    }
  });
  it('is asked for by a hint when there is none', async (t) => {
    for (const auth of [{kind: 'basic', login} as const, {kind: 'token', login} as const]) {
      const {remote, ref} = await open(t, {auth});
      await assert.rejects(remote.resolve(ref), (err: Error & {hint?: string}) => {
        is('unauthenticated')(err);
        assert.match(err.hint ?? '', /--user/);
        return true;
      });
    }
  });
  it('is looked up after the first protocolError, once for a repository, under the name that references have', async (t) => {
    const asked: string[] = [];
    const credentials = async ({domain, repository}: CredentialTarget): Promise<Credentials> => {
      asked.push(`${domain}/${repository}`);
      return login;
    };
    const {registry, remote, ref} = await open(t, {auth: {kind: 'basic', login}}, {}, {credentials});
    await Promise.all([remote.resolve(ref), remote.resolve({...ref, path: 'team/app'})]);
    await assert.rejects(remote.resolve({...ref, path: 'nosuch'}), is('not_found'));
    const once = [`${registry.host}/team/app`, `${registry.host}/nosuch`];
    assert.deepEqual(asked, once);
    const open2 = await open(t, {}, {}, {credentials});
    await open2.remote.resolve(open2.ref);
    assert.deepEqual(asked, once, 'and not where nobody asks');
  });
  it('of a repository deletes there, too', async (t) => {
    const credentials = async ({repository}: CredentialTarget): Promise<Credentials | undefined> =>
      repository === 'team/app' ? login : undefined;
    const {remote, ref} = await open(t, {auth: {kind: 'basic', login}}, {}, {credentials});
    await assert.rejects(remote.api({...ref, path: 'team/app'}).delete(`sha256:${'0'.repeat(64)}`), (err) => {
      assert.notEqual((err as {code?: string}).code, 'unauthenticated');
      return true;
    });
  });
  it('that is not enough is permission denied', async (t) => {
    const {registry, remote, ref} = await open(t, {auth: {kind: 'token', login}}, {credentials: login});
    registry.fault({
      path: /^\/v2/,
      status: 401,
      headers: {'www-authenticate': `Bearer realm="${registry.url}/token",error="insufficient_scope"`},
    });
    await assert.rejects(remote.resolve(ref), is('permission_denied'));
  });
  it('cannot answer a scheme that is not spoken here', async (t) => {
    const {registry, remote, ref} = await open(t, {}, {credentials: login});
    registry.fault({status: 401, headers: {'www-authenticate': 'Digest realm="x", nonce="y"'}});
    await assert.rejects(remote.resolve(ref), is('not_implemented'));
  });
});

describe('the address of a token server', () => {
  const host = (origin: string) => ({domain: 'd', origin, path: '/v2'}) as const;
  for (const [registry, realm, anonymous, withCredentials] of [
    ['https://registry-1.docker.io', 'https://auth.docker.io/token', true, true],
    ['https://r.example', 'https://r.example:8443/token', true, true],
    ['https://r.example', 'http://r.example/token', true, false],
    ['https://r.example', 'http://auth.example/token', true, false],
    ['http://r.example', 'http://auth.example/token', true, true],
    ['http://localhost:5000', 'http://127.0.0.1:5001/token', true, true],
    ['https://r.example', 'https://10.1.2.3/token', true, false],
    ['https://r.example', 'https://[2001:db8::1]/token', true, false],
    ['https://r.example', 'https://127.0.0.1/token', true, false],
    ['https://r.example', 'https://localhost/token', true, false],
    ['http://r.example', 'http://localhost:8080/token', true, false],
    ['https://10.1.2.3', 'https://10.1.2.3:5001/token', true, true],
    ['https://r.example', 'https://169.254.169.254/token', true, false],
    ['http://r.example', 'http://169.254.169.254/latest/meta-data', true, false],
    ['http://r.example', 'http://[fe80::1]/token', true, false],
    ['http://169.254.7.7:5000', 'http://169.254.7.7:5000/token', true, true],
    ['https://r.example', 'https://user:pw@auth.example/token', false, false],
    ['https://r.example', 'file:///etc/passwd', false, false],
    ['https://r.example', '/token', false, false],
    ['https://r.example', '', false, false],
    ['https://r.example', undefined, false, false],
  ] as const)
    for (const [credentials, accepted] of [
      [false, anonymous],
      [true, withCredentials],
    ] as const)
      it(`${realm} is ${accepted ? 'asked' : 'toError'} for ${registry}, ${credentials ? 'with credentials' : 'anonymously'}`, () => {
        const check = (): URL => checkRealm(realm, host(registry), credentials);
        if (accepted) assert.equal(check().href, realm);
        else assert.throws(check, is('failed_precondition'));
      });
});
