import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {MAX_MANIFEST_BYTES} from '../../../src/lib/oci/manifest.ts';
import {OCI_INDEX, OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import {type HostSource, openRemote, type RemoteOptions} from '../../../src/lib/remotes/index.ts';
import {digestOf, type FakeRegistry, type Fault, startFakeRegistry} from '../../fakes/registry.ts';
import {is, onEnd} from '../../support/helpers.ts';

async function open(t: TestContext, options: RemoteOptions = {}) {
  const registry = await startFakeRegistry(t);
  const image = registry.addImage('team/app', 'v1', [randomBytes(100)]);
  const remote = openRemote({backoffMs: 1, ...options});
  onEnd(t, () => remote.close());
  return {registry, remote, image, ref: {domain: registry.host, path: 'team/app', tag: 'v1'}};
}

const asked = ({requests}: FakeRegistry): string[] => requests.map(({method, status}) => `${method} ${status}`);

describe('resolving', () => {
  it('a tag costs one request, and a connection is kept for the next', async (t) => {
    const {registry, remote, ref, image} = await open(t, {plainHTTP: true});
    for (let i = 0; i < 3; i++) assert.deepEqual(await remote.resolve(ref), {descriptor: image.manifest});
    assert.deepEqual(asked(registry), ['HEAD 200', 'HEAD 200', 'HEAD 200']);
    assert.equal(registry.connections, 1);
    const [{accept = '', userAgent} = {}] = registry.requests;
    for (const type of [OCI_MANIFEST, OCI_INDEX, 'docker.distribution.manifest.v2+json', 'docker.distribution.manifest.list.v2+json'])
      assert.ok(accept.includes(type), type);
    assert.equal(userAgent, 'berth');
  });
  it('names the program as it is told to', async (t) => {
    const {registry, remote, ref} = await open(t, {userAgent: 'berth/1.2'});
    await remote.resolve(ref);
    assert.equal(registry.requests[0]?.userAgent, 'berth/1.2');
  });

  for (const [title, fault] of [
    ['HEAD is not spoken', {method: 'HEAD', status: 405}],
    ['HEAD is forbidden', {method: 'HEAD', status: 403}],
    ['HEAD is not implemented', {method: 'HEAD', status: 501}],
    ['HEAD is not found', {method: 'HEAD', status: 404}],
    ['HEAD tells no digest', {method: 'HEAD', headers: {'docker-content-digest': null}}],
    ['HEAD tells no length', {method: 'HEAD', headers: {'content-length': null}}],
    ['HEAD tells an empty length', {method: 'HEAD', headers: {'content-length': '0'}}],
    ['HEAD tells no type', {method: 'HEAD', headers: {'content-type': null}}],
    ['HEAD tells an encoded length', {method: 'HEAD', headers: {'content-encoding': 'gzip'}}],
  ] as const satisfies readonly (readonly [string, Fault])[])
    it(`fetches the manifest where ${title}, and gives its bytes`, async (t) => {
      const {registry, remote, ref, image} = await open(t);
      registry.fault(fault);
      const {descriptor, body} = await remote.resolve(ref);
      assert.deepEqual(descriptor, image.manifest);
      assert.equal(digestOf(body!), image.manifest.digest);
      assert.deepEqual(
        registry.requests.map(({method}) => method),
        ['HEAD', 'GET'],
      );
    });

  it('hashes the manifest itself where no digest is told', async (t) => {
    const {registry, remote, ref, image} = await open(t);
    registry.fault({headers: {'docker-content-digest': null}});
    assert.deepEqual((await remote.resolve(ref)).descriptor, image.manifest);
  });
  it('keeps the type without its parameters', async (t) => {
    const {registry, remote, ref} = await open(t);
    registry.fault({headers: {'content-type': `${OCI_MANIFEST}; charset=utf-8`}});
    assert.equal((await remote.resolve(ref)).descriptor.mediaType, OCI_MANIFEST);
  });
  it('takes the type from the document where the answer has none', async (t) => {
    const {registry, remote, ref} = await open(t);
    registry.fault({headers: {'content-type': null}});
    for (const [document, expected] of [
      [{mediaType: 'application/x'}, 'application/x'],
      [{schemaVersion: 2, manifests: []}, OCI_INDEX],
      [{schemaVersion: 2, config: {}, layers: []}, OCI_MANIFEST],
    ] as const) {
      registry.addManifest(ref.path, document, '', ref.tag);
      assert.equal((await remote.resolve(ref)).descriptor.mediaType, expected);
    }
  });
  it('a digest of another algorithm than the registry tells in is verified by its own', async (t) => {
    const {registry, remote, ref} = await open(t);
    const document = Buffer.from('{"schemaVersion":2,"config":{},"layers":[]}');
    const desc = registry.addManifest(ref.path, document, OCI_MANIFEST, undefined, 'sha512');
    registry.fault({headers: {'docker-content-digest': digestOf(document)}});
    assert.deepEqual(await remote.resolve({...ref, digest: desc.digest}), {descriptor: desc});
    registry.fault({method: 'HEAD', status: 405});
    const remove = registry.fault({method: 'HEAD', status: 405});
    assert.deepEqual((await remote.resolve({...ref, digest: desc.digest})).descriptor, desc);
    remove();
  });

  it('refuses an answer for another digest', async (t) => {
    const {registry, remote, ref, image} = await open(t);
    registry.fault({headers: {'docker-content-digest': digestOf(Buffer.from('other'))}});
    await assert.rejects(remote.resolve({...ref, digest: image.manifest.digest}), is('failed_precondition'));
  });
  it('refuses a manifest with another digest than the reference or the registry names', async (t) => {
    const {registry, remote, ref, image} = await open(t);
    registry.fault({method: 'HEAD', status: 405});
    registry.fault({method: 'GET', body: (right) => Buffer.from(right.toString().replace('layers', 'Layers'))});
    await assert.rejects(remote.resolve(ref), is('failed_precondition'));
    await assert.rejects(remote.resolve({...ref, digest: image.manifest.digest}), is('failed_precondition'));
  });
  it('refuses another manifest than the one that was asked for, where no digest is told', async (t) => {
    const {registry, remote, ref, image} = await open(t);
    registry.fault({headers: {'docker-content-digest': null}, body: (right) => Buffer.from(right.toString().replace('layers', 'Layers'))});
    await assert.rejects(remote.resolve({...ref, digest: image.manifest.digest}), is('failed_precondition'));
  });
  it('refuses a manifest that is too large, as soon as that is known', async (t) => {
    const {registry, remote, ref} = await open(t);
    const huge = Buffer.alloc(MAX_MANIFEST_BYTES + 1, ' ');
    registry.addManifest(ref.path, huge, OCI_MANIFEST, ref.tag);
    await assert.rejects(remote.resolve(ref), is('failed_precondition'));
    assert.deepEqual(asked(registry), ['HEAD 200']);
    registry.fault({method: 'HEAD', status: 405});
    await assert.rejects(remote.resolve(ref), new RegExp(`${huge.length} B.*failed precondition`));
    registry.clear();
    registry.fault({method: 'GET', chunked: true, trickle: {bytes: 1 << 20, everyMs: 5}, body: () => Buffer.alloc(64 << 20)});
    registry.fault({method: 'HEAD', chunked: true});
    await assert.rejects(remote.resolve(ref), is('failed_precondition'));
    assert.ok(registry.bytesSent() < 16 << 20, 'the rest was not waited for');
  });
  it('refuses an encoding that it did not ask for', async (t) => {
    const {registry, remote, ref} = await open(t);
    registry.fault({headers: {'content-encoding': 'gzip'}});
    await assert.rejects(remote.resolve(ref), is('failed_precondition'));
  });
  for (const mediaType of [
    'application/vnd.docker.distribution.manifest.v1+json',
    'application/vnd.docker.distribution.manifest.v1+prettyjws',
    'application/json',
    'text/plain; charset=utf-8',
  ])
    it(`does not implement schema 1, as ${mediaType}`, async (t) => {
      const {registry, remote, ref} = await open(t);
      registry.addManifest(ref.path, {schemaVersion: 1, fsLayers: []}, mediaType, ref.tag);
      await assert.rejects(remote.resolve(ref), is('not_implemented'));
    });

  it('follows redirects', async (t) => {
    const {registry, remote, ref, image} = await open(t);
    registry.fault({path: /v1$/, redirect: `/v2/team/app/manifests/${image.manifest.digest}`});
    assert.deepEqual((await remote.resolve(ref)).descriptor, image.manifest);
  });
  it('fails after too many redirects, or at one without a valid target', async (t) => {
    const {registry, remote, ref} = await open(t);
    const remove = registry.fault({redirect: ({url}) => `${url}?again`});
    await assert.rejects(remote.resolve(ref), is('failed_precondition'));
    assert.equal(registry.requests.length, 11);
    remove();
    for (const location of ['ftp://x/', 'file:///etc/passwd', 'http://', 'http://a:b:c/']) {
      const one = registry.fault({redirect: location});
      await assert.rejects(remote.resolve(ref), is('failed_precondition'), location);
      one();
    }
    registry.fault({status: 302});
    await assert.rejects(remote.resolve(ref), is('failed_precondition'));
  });
});

describe('what is temporary', () => {
  for (const status of [408, 429, 500, 502, 503, 504])
    it(`is ${status}: tried until it passes`, async (t) => {
      const {registry, remote, ref, image} = await open(t);
      registry.fault({status, times: 4});
      assert.deepEqual((await remote.resolve(ref)).descriptor, image.manifest);
      assert.equal(registry.requests.length, 5);
    });
  for (const [status, code] of [
    [408, 'deadline_exceeded'],
    [429, 'resource_exhausted'],
    [500, 'unavailable'],
    [503, 'unavailable'],
  ] as const)
    it(`is ${status}: five times, then ${code}`, async (t) => {
      const {registry, remote, ref} = await open(t);
      registry.fault({status});
      await assert.rejects(remote.resolve(ref), (err: Error & {details: Record<string, unknown>}) => {
        is(code)(err);
        assert.equal(err.details.httpStatus, status);
        assert.equal(err.details.attempt, 5);
        return true;
      });
      assert.equal(registry.requests.length, 5);
    });
  it('is a connection that breaks before the answer, or in it', async (t) => {
    const {registry, remote, ref, image} = await open(t);
    registry.fault({method: 'HEAD', headers: {'docker-content-digest': null}});
    registry.fault({method: 'GET', resetAt: 0, times: 1});
    registry.fault({method: 'GET', truncateAt: 10, times: 1});
    registry.fault({method: 'GET', stallAt: 10, times: 1});
    const quick = openRemote({backoffMs: 1, stallTimeoutMs: 100});
    onEnd(t, () => quick.close());
    assert.deepEqual((await quick.resolve(ref)).descriptor, image.manifest);
    assert.equal(registry.count('GET'), 4);
    await remote.close();
  });
  it('is not what the client did wrong, and not an unknown address', async (t) => {
    for (const status of [400, 401, 403, 404, 501]) {
      const {registry, remote, ref} = await open(t);
      registry.fault({status});
      await assert.rejects(remote.resolve(ref));
      assert.ok(registry.requests.length <= 2, `${status}: ${asked(registry)}`);
    }
  });

  for (const wait of ['0.15s', '150ms', new Date(0).toUTCString()])
    it(`waits as long as Retry-After says: ${wait}`, async (t) => {
      const {registry, remote, ref} = await open(t);
      registry.fault({status: 429, times: 1, headers: {'retry-after': wait}});
      await remote.resolve(ref);
      const [before, after] = registry.requests;
      const ms = after!.at - before!.at;
      assert.ok(ms >= (wait.endsWith('s') ? 150 : 0) && ms < 30_000, String(ms));
    });
  it('backs off even so where Retry-After says next to nothing', async (t) => {
    const {registry, remote, ref} = await open(t, {backoffMs: 200});
    registry.fault({status: 429, times: 1, headers: {'retry-after': Buffer.from('880µs').toString('latin1')}});
    await remote.resolve(ref);
    assert.ok(registry.requests[1]!.at - registry.requests[0]!.at >= 100);
  });
  it('waits for all requests when one is asked to', async (t) => {
    const {registry, remote, ref, image} = await open(t, {plainHTTP: true});
    registry.fault({status: 429, times: 1, headers: {'retry-after': '300ms'}});
    const start = performance.now();
    const first = remote.resolve(ref);
    while (registry.requests.length === 0) await sleep(5);
    await sleep(50);
    await remote.fetcher(ref).bytes(image.config, {limit: 1000});
    await first;
    assert.ok(registry.requests.slice(1).every(({at}) => at - start >= 300));
  });
  it('fails at once when it would have to wait longer than a command may hang', async (t) => {
    const {registry, remote, ref} = await open(t);
    registry.fault({
      status: 429,
      code: 'TOOMANYREQUESTS',
      message: 'You have reached your pull rate limit.',
      headers: {'retry-after': '3600', 'ratelimit-remaining': '0;w=21600'},
    });
    await assert.rejects(remote.resolve(ref), (err: Error & {hint?: string; details: Record<string, unknown>}) => {
      is('resource_exhausted')(err);
      assert.match(err.hint ?? '', /3600 s/);
      assert.equal(err.details.retryAfterMs, 3_600_000);
      assert.equal(err.details.rateLimitRemaining, '0;w=21600');
      return true;
    });
    assert.equal(registry.requests.length, 1);
  });
  it('ends with the signal, while it waits as while it asks', async (t) => {
    const {registry, remote, ref} = await open(t);
    registry.fault({status: 429, times: 1, headers: {'retry-after': '30'}});
    const start = performance.now();
    await assert.rejects(remote.resolve(ref, {signal: AbortSignal.timeout(50)}), is('deadline_exceeded'));
    registry.clear();
    registry.fault({stallAt: -1});
    const other = openRemote({signal: AbortSignal.timeout(50)});
    onEnd(t, () => other.close());
    await assert.rejects(other.resolve(ref), is('deadline_exceeded'));
    assert.ok(performance.now() - start < 5000);
  });
  it('ends with the signal before anything is asked', async (t) => {
    const {registry, remote, ref} = await open(t, {plainHTTP: true});
    await assert.rejects(remote.resolve(ref, {signal: AbortSignal.abort()}), is('canceled'));
    assert.deepEqual(registry.requests, []);
  });
});

describe('hosts', () => {
  it('are asked in order until one answers, and the registry has the last word', async (t) => {
    const {registry, image} = await open(t);
    const mirror = await startFakeRegistry(t);
    const hosts: HostSource = async (domain) => [
      {domain, origin: mirror.url, path: '/v2'},
      {domain, origin: registry.url, path: '/v2'},
    ];
    const remote = openRemote({backoffMs: 1}, {hosts});
    onEnd(t, () => remote.close());
    const ref = {domain: 'registry.example', path: 'team/app', tag: 'v1'};
    assert.deepEqual((await remote.resolve(ref)).descriptor, image.manifest);
    const [layer] = image.layers;
    const chunks: Buffer[] = [];
    await remote.fetcher(ref).stream(layer!, (chunk) => void chunks.push(chunk), {offset: 0});
    assert.equal(digestOf(Buffer.concat(chunks)), layer!.digest);
    await assert.rejects(remote.resolve({...ref, tag: 'nosuch'}), new RegExp(`${registry.host} answered 404`));
    mirror.addBlob(Buffer.alloc(0));
    assert.ok(mirror.requests.every(({status}) => status === 404));
  });
  it('that are left in the middle of a blob are followed by one that goes on with it', async (t) => {
    const {registry, image} = await open(t);
    const bytes = randomBytes(100_000);
    const mirror = await startFakeRegistry(t);
    const desc = mirror.addBlob(bytes);
    registry.addBlob(bytes);
    mirror.fault({truncateAt: 60_000, times: 1});
    mirror.fault({status: 404});
    const hosts: HostSource = async (domain) => [
      {domain, origin: mirror.url, path: '/v2'},
      {domain, origin: registry.url, path: '/v2'},
    ];
    const remote = openRemote({backoffMs: 1}, {hosts});
    onEnd(t, () => remote.close());
    const chunks: Buffer[] = [];
    await remote.fetcher({domain: 'd.example', path: 'team/app'}).stream(desc, (chunk) => void chunks.push(chunk), {offset: 0});
    assert.ok(Buffer.concat(chunks).equals(bytes));
    assert.equal(registry.requests[0]?.range, 'bytes=60000-');
    assert.ok(image);
  });
});
