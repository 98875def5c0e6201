/** Published attacks that make a registry client send its credentials elsewhere, named after the advisories. */
import assert from 'node:assert/strict';
import {describe, it, type TestContext} from 'node:test';
import {DOCKER_FOREIGN_LAYER, OCI_LAYER} from '../../src/lib/oci/mediatypes.ts';
import {openRemote} from '../../src/lib/remotes/index.ts';
import {selfSigned} from '../fakes/certificate.ts';
import {fakeNetwork} from '../fakes/fake-addresses.ts';
import {type FakeOptions, type FakeRegistry, startFakeRegistry} from '../fakes/registry.ts';
import {streamed} from '../suites/resolver.ts';
import {is, onEnd} from '../support/helpers.ts';

const login = {username: 'victim', password: 'canary-password'};

/** A registry with a user, a client with that user's credentials, and a host that must not receive them. */
async function open(t: TestContext, auth: FakeOptions['auth'] = {kind: 'basic', login}, fake: FakeOptions = {}) {
  const registry = await startFakeRegistry(t, {auth, ...fake});
  const attacker = await startFakeRegistry(t);
  const image = registry.addImage('team/app', 'v1', [Buffer.alloc(1000, 1)]);
  const remote = openRemote({credentials: login, backoffMs: 1, skipVerify: true, allowForeign: true});
  onEnd(t, () => remote.close());
  const ref = {domain: registry.host, path: 'team/app', tag: 'v1'};
  return {registry, attacker, image, remote, ref, fetcher: remote.fetcher(ref)};
}

/** Asserts that no header, form or URL has the password, in any encoding. */
function learntNothing(attacker: FakeRegistry): void {
  const secrets = ['canary-password', Buffer.from('victim:canary-password').toString('base64')];
  for (const {authorization, body, path} of attacker.requests) {
    assert.equal(authorization, undefined);
    for (const secret of secrets) assert.ok(!(body + path).includes(secret));
  }
}

describe('credentials stay with their registry', () => {
  for (const challenge of ['Basic realm="x"', 'Bearer realm="ATTACKER/token",service="x"'])
    it(`CVE-2020-15157: the URL of a foreign layer asks with ${challenge.split(' ')[0]}`, async (t) => {
      const {attacker, remote, ref, registry} = await open(t);
      await remote.resolve(ref);
      attacker.fault({status: 401, headers: {'www-authenticate': challenge.replace('ATTACKER', attacker.url)}});
      const desc = {
        ...registry.addBlob(Buffer.alloc(100, 5), DOCKER_FOREIGN_LAYER),
        urls: [`${attacker.url}/v2/x/blobs/y`, `${registry.url}/v2/team/app/blobs/z`],
      };
      // The registry does not give it, so the URLs are asked.
      registry.fault({path: new RegExp(desc.digest), status: 404});
      await assert.rejects(streamed(remote.fetcher(ref), desc), is('unauthenticated'));
      assert.equal(attacker.requests.length, 1);
      learntNothing(attacker);
      const toRegistry = registry.requests.find(({path}) => path.endsWith('/z'));
      assert.equal(toRegistry?.authorization, undefined, 'not even a URL at the registry gets them');
    });
  it('CVE-2020-15157: URLs of an ordinary layer are not used', async (t) => {
    const {attacker, image, fetcher} = await open(t);
    const [layer] = image.layers;
    await streamed(fetcher, {...layer!, mediaType: OCI_LAYER, urls: [`${attacker.url}/v2/x/blobs/y`]});
    assert.deepEqual(attacker.requests, []);
  });

  for (const kind of ['basic', 'token'] as const)
    it(`opa#6580, c/image#641: a redirect to a blob store, with ${kind} authentication`, async (t) => {
      const {registry, attacker, image, remote, ref, fetcher} = await open(t, {kind, login});
      await remote.resolve(ref);
      const [layer] = image.layers;
      attacker.addBlob(Buffer.alloc(1000, 1));
      registry.fault({path: /blobs/, redirect: ({url}) => `${attacker.url}${url}?X-Amz-Signature=1`});
      assert.equal((await streamed(fetcher, layer!)).length, 1000);
      assert.ok(registry.requests.at(-1)?.authorization !== undefined, 'the registry gets them');
      assert.equal(attacker.requests.length, 1);
      learntNothing(attacker);
    });
  it('GHSA-vh4v: a redirect to the same host on another port', async (t) => {
    const {registry, attacker, image, remote, ref, fetcher} = await open(t);
    await remote.resolve(ref);
    assert.equal(new URL(attacker.url).hostname, new URL(registry.url).hostname);
    attacker.addBlob(Buffer.alloc(1000, 1));
    registry.fault({path: /blobs/, redirect: ({url}) => `${attacker.url}${url}`});
    await streamed(fetcher, image.layers[0]!);
    assert.equal(attacker.requests.length, 1);
    learntNothing(attacker);
  });
  it('GHSA-vh4v: a redirect to the same host in another scheme', async (t) => {
    const {registry, attacker, image, remote, ref, fetcher} = await open(t, {kind: 'basic', login}, {tls: selfSigned('127.0.0.1')});
    await remote.resolve(ref);
    assert.ok(registry.url.startsWith('https:') && attacker.url.startsWith('http:'));
    attacker.addBlob(Buffer.alloc(1000, 1));
    registry.fault({path: /blobs/, redirect: ({url}) => `${attacker.url}${url}`});
    await streamed(fetcher, image.layers[0]!);
    assert.equal(attacker.requests.length, 1);
    learntNothing(attacker);
  });
  it('GHSA-vh4v: a redirect to another host and back', async (t) => {
    const {registry, attacker, image, remote, ref, fetcher} = await open(t);
    await remote.resolve(ref);
    registry.clear();
    registry.fault({path: /blobs/, redirect: ({url}) => `${attacker.url}${url}`, times: 1});
    attacker.fault({redirect: `${registry.url}/v2/team/app/blobs/${image.layers[0]!.digest}`});
    await assert.rejects(streamed(fetcher, image.layers[0]!), is('unauthenticated'));
    assert.deepEqual(
      registry.requests.map(({authorization}) => authorization !== undefined),
      [true, false],
    );
  });
  for (const challenge of ['Basic realm="x"', 'Bearer realm="ATTACKER/token",service="x"'])
    it(`CVE-2020-15157-like: the target of a redirect asks with ${challenge.split(' ')[0]}`, async (t) => {
      const {registry, attacker, image, remote, ref, fetcher} = await open(t);
      await remote.resolve(ref);
      registry.fault({path: /blobs/, redirect: ({url}) => `${attacker.url}${url}`});
      attacker.fault({status: 401, headers: {'www-authenticate': challenge.replace('ATTACKER', attacker.url)}});
      await assert.rejects(streamed(fetcher, image.layers[0]!), is('unauthenticated'));
      assert.equal(attacker.requests.length, 1);
      learntNothing(attacker);
    });

  it('CVE-2019-10214: HTTPS fails, and plain HTTP would work', async (t) => {
    const {registry, ref, remote} = await open(t);
    // The same port by a name that must not use plain HTTP.
    const domain = registry.host.replace('127.0.0.1', '0.0.0.0');
    await assert.rejects(remote.resolve({...ref, domain}), is('failed_precondition'));
    assert.deepEqual(registry.requests, []);
  });
  it('CVE-2019-10214: the certificate is invalid, and plain HTTP would work', async (t) => {
    const registry = await startFakeRegistry(t, {tls: selfSigned('127.0.0.1'), auth: {kind: 'basic', login}});
    const remote = openRemote({credentials: login});
    onEnd(t, () => remote.close());
    await assert.rejects(remote.resolve({domain: registry.host, path: 'team/app', tag: 'v1'}), is('failed_precondition'));
    assert.deepEqual(registry.requests, []);
  });

  it('CVE-2026-48978: the token server of an HTTPS registry has plain HTTP', async (t) => {
    const {registry, attacker, remote, ref} = await open(t, undefined, {tls: selfSigned('127.0.0.1')});
    registry.fault({status: 401, headers: {'www-authenticate': `Bearer realm="${attacker.url}/token",service="x"`}});
    await assert.rejects(remote.resolve(ref), (err: Error) => {
      is('failed_precondition')(err);
      assert.match(err.message, /does not use TLS/);
      return true;
    });
    assert.deepEqual(attacker.requests, []);
  });
  for (const realm of [
    'https://169.254.169.254/latest/meta-data/',
    'https://[fe80::1]/',
    'https://10.0.0.1/token',
    'https://0x7f000001.example@10.0.0.1/',
  ])
    it(`GHSA-28r5: the token server is ${realm}`, async (t) => {
      const {registry, remote, ref} = await open(t);
      registry.fault({status: 401, headers: {'www-authenticate': `Bearer realm="${realm}",service="x"`}});
      const start = performance.now();
      await assert.rejects(remote.resolve(ref), is('failed_precondition'));
      assert.ok(performance.now() - start < 30_000, 'nobody was asked');
    });
  it('GHSA-28r5: the token server is a metadata service, without credentials', async (t) => {
    const {registry, attacker, ref} = await open(t);
    const network = fakeNetwork(attacker.host);
    const anonymous = openRemote({}, {network});
    onEnd(t, () => anonymous.close());
    registry.fault({status: 401, headers: {'www-authenticate': 'Bearer realm="http://169.254.169.254/token",service="x"'}});
    await assert.rejects(anonymous.resolve(ref), is('failed_precondition'));
    assert.deepEqual([network.reached, attacker.requests], [[], []]);
  });
  it('GHSA-28r5: a token server at another public name is accepted', async (t) => {
    const token = await startFakeRegistry(t, {auth: {kind: 'token', login}, address: '127.0.0.2'});
    const {registry, remote, ref} = await open(t);
    registry.fault({times: 1, status: 401, headers: {'www-authenticate': `Bearer realm="${token.url}/token",service="x"`}});
    registry.fault({status: 403, code: 'DENIED'});
    await assert.rejects(remote.resolve(ref), is('permission_denied'));
    assert.match(token.requests[0]?.body ?? '', /username=victim/);
    assert.match(registry.requests[1]?.authorization ?? '', /^Bearer token-/);
  });
  it('CVE-2026-50151-like: the token server redirects the password elsewhere', async (t) => {
    for (const postStatus of [undefined, 404] as const) {
      const {registry, attacker, remote, ref} = await open(t, {kind: 'token', login, ...(postStatus === undefined ? {} : {postStatus})});
      if (postStatus === undefined) registry.fault({path: /^\/token/, redirect: `${attacker.url}/token`, status: 308});
      else registry.fault({path: /^\/token/, method: 'GET', redirect: `${attacker.url}/token`, status: 308});
      await assert.rejects(remote.resolve(ref));
      learntNothing(attacker);
    }
  });
});
