/** `push`: what arrives, byte for byte; what is asked for and in which order; what is refused before anything is sent; what is noted. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import {chmodSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {gzipSync} from 'node:zlib';
import type {Client, NamespaceClient, ProgressEvent} from '../../../src/lib/client/types/index.ts';
import type {Descriptor} from '../../../src/lib/oci/descriptor.ts';
import {DOCKER_FOREIGN_LAYER, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import {digestOf, type FakeOptions, type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {requiresImage} from '../../support/cached-images.ts';
import {is, newClient, requiresProgram, temporaryDirectory} from '../../support/helpers.ts';
import {ARCHITECTURE} from '../../support/layouts.ts';
import {pushImage, sharedRegistry} from '../../support/registry.ts';
import {file, tar} from '../../support/tartest.ts';

type Failure = Error & {hint?: string; details?: {missing?: Descriptor[]}};

interface Made {
  readonly client: Client;
  readonly root: string;
  readonly ns: NamespaceClient;
  /** The registry that the image came from, and to which it goes. */
  readonly registry: FakeRegistry;
  readonly ref: string;
  readonly index: Descriptor;
  readonly manifests: readonly Descriptor[];
  readonly layers: readonly (readonly Descriptor[])[];
}

/** Puts a manifest with blobs of its own into one repository of the registry. */
function publish(registry: FakeRegistry, repository: string, architecture: string, size = 100_000) {
  const trees = [tar(file('a', randomBytes(size))), tar(file('b', architecture))];
  const layers = trees.map((tree) => registry.addBlobTo(repository, gzipSync(tree, {level: 0}), `${OCI_LAYER}+gzip`));
  const config = {architecture, os: 'linux', rootfs: {type: 'layers', diff_ids: trees.map((tree) => digestOf(tree))}};
  const configured = registry.addBlobTo(repository, Buffer.from(JSON.stringify(config)), OCI_CONFIG);
  const document = {schemaVersion: 2, mediaType: OCI_MANIFEST, config: configured, layers};
  const manifest = registry.addManifest(repository, document, OCI_MANIFEST);
  return {layers: [configured, ...layers], manifest: {...manifest, platform: {os: 'linux', architecture}}};
}

/** A store with an index of two platforms, pulled from `base/app` of a registry. */
async function made(
  t: TestContext,
  options: FakeOptions = {},
  pull: {readonly allPlatforms?: boolean} = {allPlatforms: true},
): Promise<Made> {
  const registry = await startFakeRegistry(t, options);
  const other = ARCHITECTURE === 's390x' ? 'riscv64' : 's390x';
  const images = [ARCHITECTURE, other].map((architecture) => publish(registry, 'base/app', architecture));
  const manifests = images.map(({manifest}) => manifest);
  const index = registry.addIndex('base/app', 'v1', manifests);
  const root = temporaryDirectory(t, 'berth-root-');
  const client = await newClient(t, {root});
  const ns = client.namespace('default');
  const ref = `${registry.host}/base/app:v1`;
  await ns.pull(ref, {unpack: false, ...pull});
  registry.clear();
  return {client, root, ns, registry, ref, index, manifests, layers: images.map(({layers}) => layers)};
}

const calls = ({requests}: FakeRegistry, ...methods: string[]): string[] =>
  requests
    .filter(({method}) => methods.length === 0 || methods.includes(method))
    .map(
      ({method, path, status}) =>
        `${method} ${path
          .replace(/^\/v2\//, '')
          .replace(/[?].*/, '')
          .replace(/uploads\/.+/, 'uploads/…')} ${status}`,
    );

const sources = async (ns: NamespaceClient, {host}: FakeRegistry): Promise<Set<string | undefined>> =>
  new Set((await ns.content.list()).map(({labels}) => labels[`containerd.io/distribution.source.${host}`]));

const real = sharedRegistry();

describe('a push', {concurrency: 4}, () => {
  it('mounts what the registry has in another repository, with one request a blob and none of bytes', async (t) => {
    const {ns, registry, ref, index, manifests} = await made(t);
    const events: ProgressEvent[] = [];
    const result = await ns.push(`${registry.host}/team/app:v2`, {from: ref, onEvent: (event) => void events.push(event)});
    assert.deepEqual(result.target, index);
    assert.deepEqual(result.objects, {uploaded: 3, mounted: 6, existing: 0, skipped: 0});
    assert.equal(
      result.transferredBytes,
      [index, ...manifests].reduce((sum, {size}) => sum + size, 0),
    );
    assert.deepEqual(calls(registry, 'POST'), new Array(6).fill('POST team/app/blobs/uploads/ 201'));
    assert.deepEqual(calls(registry, 'HEAD'), ['HEAD team/app/manifests/v2 404']);
    assert.deepEqual(
      calls(registry, 'PUT').sort(),
      [...manifests.map(({digest}) => `PUT team/app/manifests/${digest} 201`), 'PUT team/app/manifests/v2 201'].sort(),
    );
    assert.equal(calls(registry).at(-1), 'PUT team/app/manifests/v2 201', 'the tag is last');
    const last = new Map(events.map((event) => [event.ref, event.status]));
    assert.deepEqual([...last.values()].sort(), [...new Array(3).fill('done'), ...new Array(6).fill('mounted')]);
    assert.deepEqual(await sources(ns, registry), new Set(['base/app,team/app']));
  });

  it('of what the registry has takes one request', async (t) => {
    const {ns, registry, ref, index} = await made(t);
    const result = await ns.push(ref);
    assert.deepEqual([result.target, result.transferredBytes], [index, 0]);
    assert.deepEqual(result.objects, {uploaded: 0, mounted: 0, existing: 9, skipped: 0});
    assert.deepEqual(calls(registry), ['HEAD base/app/manifests/v1 200']);
  });

  it('to another tag of what the registry has puts that tag only', async (t) => {
    const {ns, registry, ref, index} = await made(t);
    await ns.push(`${registry.host}/base/app:v2`, {from: ref});
    assert.deepEqual(calls(registry), [
      'HEAD base/app/manifests/v2 404',
      `HEAD base/app/manifests/${index.digest} 200`,
      'PUT base/app/manifests/v2 201',
    ]);
  });

  it('moves a tag, and does not depend on what the labels say', async (t) => {
    const {ns, registry, ref, index} = await made(t);
    const stranger = await startFakeRegistry(t);
    await ns.push(`${stranger.host}/x/app:v1`, {from: ref});
    assert.ok(stranger.manifestIn('x/app', 'v1'));
    // Another registry at the same place: nothing of what the labels promise is there.
    const {objects} = await ns.push(`${stranger.host}/x/app:v1`, {from: ref});
    assert.equal(objects.existing, 9);
    for (const {digest} of await ns.content.list())
      await ns.content.label(digest, {[`containerd.io/distribution.source.${registry.host}`]: 'base/app,lies/told,team/app'});
    const anew = await ns.push(`${registry.host}/team/app:v1`, {from: ref});
    assert.deepEqual([anew.target, anew.objects.mounted + anew.objects.uploaded], [index, 9]);
  });

  it('pushes one platform alone where that is asked for', async (t) => {
    const {ns, registry, ref, manifests} = await made(t, {}, {});
    const {target, objects} = await ns.push(`${registry.host}/team/app:v1`, {from: ref, platform: `linux/${ARCHITECTURE}`});
    const {mediaType, digest, size} = manifests[0]!;
    assert.deepEqual(target, {mediaType, digest, size});
    assert.equal(objects.mounted + objects.uploaded, 4);
    assert.equal(digestOf(registry.manifestIn('team/app', 'v1')!), digest);
  });

  it('names all that is missing, and how to pull it, before anything is sent', async (t) => {
    const {ns, registry, ref, manifests} = await made(t, {}, {});
    for (const options of [{}, {plainHTTP: true}])
      await assert.rejects(ns.push(`${registry.host}/team/app:v1`, {from: ref, ...options}), (err: Failure) => {
        is('failed_precondition')(err);
        const [, {digest, mediaType, size}] = manifests as [Descriptor, Descriptor];
        assert.match(err.message, new RegExp(`1 part of image "${ref}" is neither here nor at the registry: manifest ${digest} \\(linux/`));
        assert.equal(
          err.hint,
          `push one platform with --platform linux/${ARCHITECTURE}, or pull the rest: berth -n default images pull --no-unpack --all-platforms ${ref}`,
        );
        assert.deepEqual(err.details?.missing, [{mediaType, digest, size}]);
        return true;
      });
    assert.deepEqual(new Set(registry.requests.map(({method}) => method)), new Set(['HEAD']));
  });

  it('does not need what the registry has already', async (t) => {
    const {ns, registry, ref, index, manifests} = await made(t, {}, {});
    const {target} = await ns.push(`${registry.host}/base/app:v2`, {from: ref});
    assert.deepEqual(target, index);
    // Of an index that it has not, the manifest that is missing here.
    registry.addManifest('team/app', registry.manifestIn('base/app', manifests[1]!.digest)!, OCI_MANIFEST);
    await ns.push(`${registry.host}/team/app:v1`, {from: ref});
    assert.equal(digestOf(registry.manifestIn('team/app', 'v1')!), index.digest);
  });

  it('skips foreign layers, and pushes them where that is asked for', async (t) => {
    const {ns, registry} = await made(t);
    const bytes = randomBytes(1000);
    const foreign = {
      ...registry.addBlobTo('base/app', bytes, DOCKER_FOREIGN_LAYER),
      urls: [`${registry.url}/v2/base/app/blobs/${digestOf(bytes)}`],
    };
    const config = registry.addBlobTo('base/app', Buffer.from('{"architecture":"amd64","os":"linux"}'), 'application/x.config');
    registry.addManifest('base/app', {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [foreign]}, OCI_MANIFEST, 'foreign');
    const ref = `${registry.host}/base/app:foreign`;
    await ns.pull(ref, {unpack: false});
    const skipped = await ns.push(`${registry.host}/other/app:v1`, {from: ref});
    assert.deepEqual([skipped.objects.skipped, registry.blobIn('other/app', foreign.digest)], [1, undefined]);
    const all = await ns.push(`${registry.host}/third/app:v1`, {from: ref, allowNonDistributable: true});
    assert.equal(all.objects.skipped, 0);
    assert.ok(registry.blobIn('third/app', foreign.digest));
    // A registry that has the manifest does not have them for that.
    for (const tag of ['v1', 'v2']) {
      await ns.push(`${registry.host}/other/app:${tag}`, {from: ref, allowNonDistributable: true});
      assert.ok(registry.blobIn('other/app', foreign.digest));
    }
  });

  it('of a damaged blob is data loss, and neither the blob nor a manifest appears', async (t) => {
    const {ns, root, ref, layers} = await made(t);
    const target = await startFakeRegistry(t);
    const {digest} = layers[0]![1]!;
    const path = join(root, 'content/blobs', digest.replace(':', '/'));
    const bytes = readFileSync(path);
    bytes[bytes.length >> 1]! ^= 1;
    chmodSync(path, 0o644);
    writeFileSync(path, bytes);
    await assert.rejects(ns.push(`${target.host}/team/app:v1`, {from: ref}), is('data_loss'));
    assert.equal(target.blobIn('team/app', digest), undefined);
    assert.deepEqual(
      calls(target, 'PUT').filter((call) => call.includes('manifests/v1')),
      [],
    );
  });

  it('never puts a manifest before what it refers to, in whatever order answers come', async (t) => {
    const {ns, ref} = await made(t);
    for (let round = 0; round < 5; round++) {
      const target = await startFakeRegistry(t);
      for (const path of [/uploads\/$/, /uploads\/./, /manifests/, /blobs\/sha/])
        for (let i = 0; i < 4; i++) target.fault({path, times: 1, delayMs: ((round + 1) * 7 * (i + 1)) % 40});
      await ns.push(`${target.host}/team/app:v1`, {from: ref});
      // The fake refuses a manifest whose parts are not there.
      assert.deepEqual(
        target.requests.filter(({status}) => status >= 400 && status !== 404),
        [],
      );
    }
  });

  it('is refused without a local image, and with a digest of another one', async (t) => {
    const {ns, ref, registry} = await made(t);
    await assert.rejects(
      ns.push(`${registry.host}/team/app:none`),
      (err: Failure) => is('not_found')(err) && /team\/app:none/.test(err.message),
    );
    const wrong = `${registry.host}/team/app@sha256:${'0'.repeat(64)}`;
    await assert.rejects(ns.push(wrong, {from: ref}), is('invalid_argument'));
    assert.deepEqual(registry.requests, []);
  });

  it('pushes by digest without a tag, and a manifest of the store by its digest', async (t) => {
    const {ns, ref, registry, index, manifests} = await made(t);
    await ns.push(`${registry.host}/team/app@${index.digest}`, {from: ref});
    assert.equal(digestOf(registry.manifestIn('team/app', index.digest)!), index.digest);
    const {target} = await ns.push(`${registry.host}/team/app:one`, {manifest: manifests[1]!.digest});
    assert.equal(target.digest, manifests[1]!.digest);
    assert.equal(digestOf(registry.manifestIn('team/app', 'one')!), manifests[1]!.digest);
    await assert.rejects(ns.push(`${registry.host}/team/app:two`, {manifest: `sha256:${'1'.repeat(64)}`}), is('not_found'));
  });

  it('of an image that another command removes meanwhile ends as aborted, and leaves no tag', async (t) => {
    const {ns, ref} = await made(t);
    const target = await startFakeRegistry(t);
    const {promise: removed, resolve} = Promise.withResolvers<void>();
    target.fault({method: 'HEAD', until: removed});
    const pushing = ns.push(`${target.host}/team/app:v1`, {from: ref, maxConcurrentUploads: 1});
    const ended = assert.rejects(pushing, is('aborted'));
    await ns.images.delete(ref);
    resolve();
    await ended;
    assert.equal(target.manifestIn('team/app', 'v1'), undefined);
  });

  it('of a repository that may only be written to succeeds', async (t) => {
    const {ns, ref, index} = await made(t);
    const target = await startFakeRegistry(t);
    target.fault({method: 'HEAD', status: 403});
    const {objects} = await ns.push(`${target.host}/team/app:v1`, {from: ref});
    assert.equal(objects.uploaded, 9);
    assert.equal(digestOf(target.manifestIn('team/app', 'v1')!), index.digest);
  });

  it('many at once, from two namespaces, all succeed', async (t) => {
    const {client, ns, ref, registry, index} = await made(t);
    const other = client.namespace('other');
    await other.pull(ref, {unpack: false, allPlatforms: true});
    const pushes = Array.from({length: 8}, (_, i) => (i % 2 === 0 ? ns : other).push(`${registry.host}/many/app:v${i % 3}`, {from: ref}));
    for (const {target} of await Promise.all(pushes)) assert.deepEqual(target, index);
    assert.deepEqual(
      registry.requests.filter(({status}) => status >= 400 && status !== 404),
      [],
    );
    for (const one of [ns, other]) assert.deepEqual(await sources(one, registry), new Set(['base/app,many/app']));
  });

  it('notes where the blobs are while the registry takes the tag', async (t) => {
    const {ns, registry, ref} = await made(t);
    let go = (): void => {};
    registry.fault({method: 'PUT', path: /manifests.v2$/, times: 1, until: new Promise<void>((resolve) => (go = resolve))});
    const pushing = ns.push(`${registry.host}/team/app:v2`, {from: ref});
    pushing.catch(() => {}); // awaited below
    for (let i = 0; !(await sources(ns, registry)).has('base/app,team/app'); i++) {
      assert.ok(i < 5000, 'the labels are written before the answer');
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    go();
    await pushing;
  });

  it('goes on with what was removed meanwhile, and leaves no lease', async (t) => {
    const {client, ns, ref, index} = await made(t);
    const target = await startFakeRegistry(t);
    let go = (): void => {};
    target.fault({method: 'PUT', path: /uploads/, times: 1, until: new Promise<void>((resolve) => (go = resolve))});
    const pushing = ns.push(`${target.host}/team/app:v1`, {from: ref, maxConcurrentUploads: 1});
    pushing.catch(() => {}); // awaited below
    for (let i = 0; (await ns.leases.list()).length === 0; i++) {
      assert.ok(i < 5000, 'it takes a lease');
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    await ns.images.delete(ref);
    await client.gc();
    go();
    assert.equal((await pushing).objects.uploaded, 9);
    assert.equal(digestOf(target.manifestIn('team/app', 'v1')!), index.digest);
    assert.deepEqual([await ns.leases.list(), await ns.content.list()], [[], []]);
  });

  it('keeps a label that would become too long as it is', async (t) => {
    const {ns, ref, registry} = await made(t);
    const long = Array.from({length: 42}, (_, i) => `r${i}/${'x'.repeat(90)}`).join(',');
    for (const {digest} of await ns.content.list())
      await ns.content.label(digest, {[`containerd.io/distribution.source.${registry.host}`]: long});
    await ns.push(`${registry.host}/${'y'.repeat(200)}/app:v1`, {from: ref});
    assert.deepEqual(await sources(ns, registry), new Set([long]), 'unchanged');
  });
});

describe('one object', () => {
  it('is pushed by itself: a blob mounted or uploaded, a manifest with the tag that is given', async (t) => {
    const {ns, registry, manifests, layers} = await made(t);
    const repository = `${registry.host}/team/app`;
    for (const {digest} of layers[0]!) {
      const {status, mediaType} = await ns.content.push(repository, digest);
      assert.deepEqual([status, mediaType], ['mounted', 'application/octet-stream']);
      assert.equal((await ns.content.push(repository, digest)).status, 'exists');
    }
    const {digest} = manifests[0]!;
    assert.equal((await ns.content.push(repository, digest)).status, 'uploaded');
    assert.deepEqual([registry.manifestIn('team/app', 'latest'), registry.manifestIn('team/app', digest) !== undefined], [undefined, true]);
    assert.equal((await ns.content.push(`${repository}:v3`, digest)).status, 'uploaded');
    assert.equal((await ns.content.push(`${repository}:v3`, digest)).status, 'exists');
    assert.equal(digestOf(registry.manifestIn('team/app', 'v3')!), digest);
    await assert.rejects(ns.content.push(repository, `sha256:${'2'.repeat(64)}`), is('not_found'));
    for (const named of [digest, layers[0]![0]!.digest])
      await assert.rejects(ns.content.push(`${repository}@${named}`, manifests[1]!.digest), is('invalid_argument'));
    assert.equal((await ns.content.push(`${repository}@${digest}`, digest)).status, 'exists');
    // The registry refuses a manifest whose blobs it has not.
    await assert.rejects(ns.content.push(repository, manifests[1]!.digest), (err: Failure) => /MANIFEST_BLOB_UNKNOWN/.test(err.message));
  });
});

describe('pushed to a real registry', () => {
  it('an image is what skopeo and we read, and its blobs are mounted in a second repository', async (t) => {
    const registry = await real(t);
    const image = requiresImage(t, 'busybox');
    if (registry === undefined || image === undefined || !requiresProgram(t, 'skopeo')) return;
    const target = await pushImage(registry, 'lib/busybox:1', image.layout);
    const client = await newClient(t);
    const ns = client.namespace('default');
    const ref = `${registry.host}/lib/busybox:1`;
    await ns.pull(ref, {unpack: false, allPlatforms: true});
    for (const [repository, mounts] of [
      ['first/copy', true],
      ['second/copy', false],
    ] as const) {
      if (!mounts)
        for (const {digest} of await ns.content.list())
          await ns.content.label(digest, {[`containerd.io/distribution.source.${registry.host}`]: ''});
      registry.clearLog();
      const {objects} = await ns.push(`${registry.host}/${repository}:1`, {from: ref});
      assert.equal(objects.mounted > 0, mounts);
      assert.equal(registry.requests().filter(({method, path}) => method === 'PUT' && path.includes('/uploads/')).length === 0, mounts);
      const raw: Buffer = execFileSync('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${registry.host}/${repository}:1`]);
      assert.equal(digestOf(raw), target.digest);
      const copy = temporaryDirectory(t);
      execFileSync('skopeo', ['copy', '--all', '--src-tls-verify=false', `docker://${registry.host}/${repository}:1`, `dir:${copy}`], {
        stdio: 'ignore',
      });
      assert.deepEqual((await ns.push(`${registry.host}/${repository}:1`, {from: ref})).transferredBytes, 0);
      const again = await client.namespace('again').pull(`${registry.host}/${repository}:1`, {unpack: false, allPlatforms: true});
      assert.equal(again.image.target.digest, target.digest);
    }
  });

  it('in parts that a proxy lets through, it is the same', async (t) => {
    const {ns, ref, index} = await made(t);
    const target = await startFakeRegistry(t, {maxBody: 80_000});
    const {objects} = await ns.push(`${target.host}/team/app:v1`, {from: ref});
    assert.equal(objects.uploaded, 9);
    assert.ok(target.count('PATCH') > 0);
    assert.equal(digestOf(target.manifestIn('team/app', 'v1')!), index.digest);
  });
});
