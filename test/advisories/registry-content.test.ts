/** Published attacks that confuse a registry client about content, named after the advisories. */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {describe, it, type TestContext} from 'node:test';
import {isErrdefs} from '../../src/lib/errdefs.ts';
import type {Digest} from '../../src/lib/oci/descriptor.ts';
import {MAX_MANIFEST_BYTES, parseIndex, parseManifest} from '../../src/lib/oci/manifest.ts';
import {kindOf, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';
import {openRemote, type Resolved} from '../../src/lib/remotes/index.ts';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {streamed} from '../suites/resolver.ts';
import {is, onEnd} from '../support/helpers.ts';

async function open(t: TestContext) {
  const registry = await startFakeRegistry(t);
  const image = registry.addImage('team/app', 'v1', [randomBytes(1000)]);
  const remote = openRemote({backoffMs: 1});
  onEnd(t, () => remote.close());
  const ref = {domain: registry.host, path: 'team/app', tag: 'v1'};
  const fetcher = remote.fetcher(ref);
  /** Resolves, fetches and parses a document, like a pull. */
  const read = async (): Promise<unknown> => {
    const {descriptor, body}: Resolved = await remote.resolve(ref);
    const bytes = body ?? (await fetcher.bytes(descriptor, {limit: MAX_MANIFEST_BYTES}));
    return kindOf(descriptor.mediaType) === 'index' ? parseIndex(bytes, descriptor) : parseManifest(bytes, descriptor);
  };
  return {registry, image, remote, ref, fetcher, read};
}

describe('an ambiguous document is rejected', () => {
  const entry = {mediaType: OCI_MANIFEST, digest: digestOf(Buffer.from('x')), size: 1};
  const both = {schemaVersion: 2, config: {...entry, mediaType: OCI_CONFIG}, layers: [], manifests: [entry]};
  for (const mediaType of [OCI_INDEX, OCI_MANIFEST, 'application/json', ''])
    it(`CVE-2021-41190: both an index and a manifest, as ${mediaType || 'nothing'}`, async (t) => {
      const {registry, ref, read} = await open(t);
      registry.addManifest(ref.path, both, mediaType, ref.tag);
      await assert.rejects(read(), isErrdefs);
    });
  it('CVE-2021-41190: the media type of a document differs from the Content-Type', async (t) => {
    const {registry, ref, read} = await open(t);
    registry.addManifest(ref.path, {schemaVersion: 2, mediaType: OCI_INDEX, manifests: []}, OCI_MANIFEST, ref.tag);
    await assert.rejects(read(), isErrdefs);
  });
  it("CVE-2021-41190: the Content-Type differs from the index's descriptor", async (t) => {
    const {registry, image, fetcher} = await open(t);
    registry.fault({headers: {'content-type': OCI_INDEX}});
    await assert.rejects(fetcher.bytes(image.manifest, {limit: MAX_MANIFEST_BYTES}), is('failed_precondition'));
  });
});

describe('a digest is validated before use', () => {
  for (const digest of [
    'sha256:../../../../etc/passwd',
    'sha256:abc',
    `sha256:${'A'.repeat(64)}`,
    `md5:${'0'.repeat(32)}`,
    `sha256:${'0'.repeat(64)}/../x`,
    `../../sha256:${'0'.repeat(64)}`,
    '',
  ]) {
    it(`CVE-2024-3727: Docker-Content-Digest ${JSON.stringify(digest)}`, async (t) => {
      const {registry, image, remote, ref} = await open(t);
      registry.fault({headers: {'docker-content-digest': digest}});
      const {descriptor} = await remote.resolve(ref);
      assert.equal(descriptor.digest, image.manifest.digest, 'the body is hashed instead');
      assert.ok(registry.requests.every(({path}) => path === '/v2/team/app/manifests/v1'));
    });
    it(`CVE-2024-3727: a layer ${JSON.stringify(digest)} in a manifest`, async (t) => {
      const {registry, image, ref, read} = await open(t);
      const document = {schemaVersion: 2, config: image.config, layers: [{mediaType: OCI_LAYER, digest, size: 1}]};
      registry.addManifest(ref.path, document, OCI_MANIFEST, ref.tag);
      await assert.rejects(read(), is('invalid_argument'));
    });
  }
  it('CVE-2024-3727: a Location with another digest does not change the expected digest', async (t) => {
    const {registry, image, ref, remote} = await open(t);
    const other = registry.addManifest(ref.path, {schemaVersion: 2, config: image.config, layers: []}, OCI_MANIFEST);
    registry.fault({path: new RegExp(image.manifest.digest), redirect: `/v2/team/app/manifests/${other.digest}`});
    await assert.rejects(remote.resolve({...ref, digest: image.manifest.digest}), is('failed_precondition'));
  });
});

describe('a malformed response is an error with a class', () => {
  const deep = (open: string, close: string): string => open.repeat(50_000) + close.repeat(50_000);
  for (const [title, text] of [
    ['nothing', ''],
    ['null', 'null'],
    ['a list', '[]'],
    ['a number', '7'],
    ['a string', '"manifest"'],
    ['half of a document', '{"schemaVersion":2,"layers":['],
    ['not UTF-8', Buffer.from([0x7b, 0xff, 0x7d])],
    ['nulls', '{"schemaVersion":null,"mediaType":null,"config":null,"layers":[null],"manifests":[null]}'],
    ['other types', '{"schemaVersion":"2","mediaType":7,"config":[],"layers":{},"manifests":"x"}'],
    ['deep lists', deep('[', ']')],
    ['deep objects', `${'{"a":'.repeat(50_000)}1${'}'.repeat(50_000)}`],
    ['a prototype', '{"__proto__":{"mediaType":"x","layers":[]},"constructor":{"prototype":{"manifests":[]}}}'],
    ['keys twice', `{"schemaVersion":2,"layers":[],"layers":[],"config":{}}`],
  ] as const)
    for (const mediaType of [OCI_MANIFEST, OCI_INDEX, 'application/json'])
      it(`CVE-2021-21285: ${title} as ${mediaType}`, async (t) => {
        const {registry, ref, read} = await open(t);
        registry.addManifest(ref.path, Buffer.from(text), mediaType, ref.tag);
        await assert.rejects(read(), isErrdefs);
      });
});

describe('a declared size allocates no memory', () => {
  it('CVE-2023-25153: an endless manifest', async (t) => {
    const {registry, read} = await open(t);
    registry.fault({method: 'HEAD', status: 405});
    registry.fault({method: 'GET', chunked: true, body: () => Buffer.alloc(256 << 20, ' '), trickle: {bytes: 1 << 20, everyMs: 2}});
    await assert.rejects(read(), is('failed_precondition'));
    assert.ok(registry.bytesSent() < 32 << 20);
  });
  it('CVE-2023-25153: a large manifest with a small declared size', async (t) => {
    const {registry, image, fetcher} = await open(t);
    registry.fault({method: 'GET', chunked: true, body: () => Buffer.alloc(256 << 20, ' '), trickle: {bytes: 1 << 20, everyMs: 2}});
    await assert.rejects(fetcher.bytes(image.manifest, {limit: MAX_MANIFEST_BYTES}), is('failed_precondition'));
    assert.ok(registry.bytesSent() < 32 << 20);
  });
  it('GHSA-f36w: a descriptor with a size of a terabyte', async (t) => {
    const {registry, image, fetcher} = await open(t);
    const desc = {...image.config, size: 2 ** 40};
    await assert.rejects(fetcher.bytes(desc, {limit: MAX_MANIFEST_BYTES}), is('failed_precondition'));
    assert.deepEqual(registry.requests, []);
    registry.fault({chunked: true});
    const before = process.memoryUsage().rss;
    await assert.rejects(fetcher.bytes(desc, {limit: 2 ** 41}), is('failed_precondition'));
    await assert.rejects(streamed(fetcher, desc), isErrdefs);
    assert.ok(process.memoryUsage().rss - before < 64 << 20);
  });
});

describe('unverifiable content is rejected', () => {
  for (const status of [429, 503])
    it(`GHSA-2v5f: ${status} to the request that verifies`, async (t) => {
      const {registry, image, remote, ref, fetcher} = await open(t);
      registry.fault({method: 'HEAD', headers: {'docker-content-digest': null}});
      registry.fault({method: 'GET', status});
      await assert.rejects(remote.resolve(ref), isErrdefs);
      await assert.rejects(fetcher.bytes(image.config, {limit: 1000}), isErrdefs);
      await assert.rejects(streamed(fetcher, image.layers[0]!), isErrdefs);
    });
  it('kitops#290: a truncated file is rejected', async (t) => {
    const {registry, image, fetcher} = await open(t);
    registry.fault({chunked: true, ignoreRange: true, body: (right) => right.subarray(0, 10)});
    await assert.rejects(streamed(fetcher, image.layers[0]!), is('unavailable'));
    await assert.rejects(fetcher.bytes(image.config, {limit: 1000}), is('failed_precondition'));
  });
  it('a redirect of a tag from HTTPS to plain HTTP is not followed, because nothing would verify it', async (t) => {
    const {selfSigned} = await import('../fakes/certificate.ts');
    const secure = await startFakeRegistry(t, {tls: selfSigned('127.0.0.1')});
    const {registry, image} = await open(t);
    const remote = openRemote({skipVerify: true});
    onEnd(t, () => remote.close());
    secure.fault({redirect: ({url}) => `${registry.url}${url}`});
    const ref = {domain: secure.host, path: 'team/app'};
    await assert.rejects(remote.resolve({...ref, tag: 'v1'}), is('failed_precondition'));
    assert.deepEqual(registry.requests, []);
    const digest: Digest = image.manifest.digest;
    assert.deepEqual((await remote.resolve({...ref, digest})).descriptor, image.manifest, 'a digest is verified, wherever it comes from');
  });
});
