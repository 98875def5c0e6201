/** Images in a real registry, looked at without a store: what skopeo says of them, by a user who can write nowhere. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {once} from 'node:events';
import {chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {createServer, request as httpRequest, type IncomingMessage} from 'node:http';
import type {AddressInfo} from 'node:net';
import {join} from 'node:path';
import {after, before, describe, it, type TestContext} from 'node:test';
import {openClient} from '../../../src/lib/client/index.ts';
import type {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {type Descriptor, type Digest, digestParts} from '../../../src/lib/oci/descriptor.ts';
import {digestOf} from '../../../src/lib/oci/hash.ts';
import {OCI_INDEX, OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import {startFakeRegistry} from '../../fakes/registry.ts';
import {findProgram, is, onEnd, requiresProgram, type Scope, temporaryDirectory} from '../../support/helpers.ts';
import {ARCHITECTURE, addImage, addIndex, addJSON, setTarget} from '../../support/layouts.ts';
import {pushImage, type Registry, sharedRegistry, startRegistry} from '../../support/registry.ts';
import {BASE_LAYER, file, tar} from '../../support/tartest.ts';

const registry = sharedRegistry();
const OTHER = ARCHITECTURE === 's390x' ? 'ppc64le' : 's390x';

interface Pushed {
  readonly ref: string;
  readonly layout: string;
  readonly root: Descriptor;
}

const layouts = temporaryDirectory({after});

/** Images of each form, in the registry. */
const pushed = new Map<string, Pushed>();

async function publish(running: Registry, name: string, layout: string, make: (layout: string) => Descriptor): Promise<Pushed> {
  const root = setTarget(layout, make(layout));
  await pushImage(running, `${name}:v1`, layout);
  return {ref: `${running.host}/${name}:v1`, layout, root};
}

const CONFIG = {Env: ['PATH=/bin', 'A=b'], Labels: {vendor: 'x', é: 'ü'}, Cmd: ['/b']};
const image = (layout: string, docker: boolean, architecture: string): Descriptor =>
  addImage(layout, {
    layers: [BASE_LAYER, tar(file('arch', architecture))],
    docker,
    compression: docker ? 'gzip' : 'zstd',
    platform: {os: 'linux', architecture},
    config: CONFIG,
  });
const both = (layout: string, docker: boolean): readonly Descriptor[] => [OTHER, ARCHITECTURE].map((one) => image(layout, docker, one));

const FORMS: Readonly<Record<string, (layout: string) => Descriptor>> = {
  'oci/image': (layout) => image(layout, false, ARCHITECTURE),
  'docker/image': (layout) => image(layout, true, ARCHITECTURE),
  'oci/index': (layout) => addIndex(layout, both(layout, false)),
  'docker/list': (layout) => addIndex(layout, both(layout, true), {docker: true}),
};

const blob = ({layout}: Pushed, digest: Digest): Buffer => readFileSync(join(layout, 'blobs', ...digestParts(digest)));

const skopeo = (...args: readonly string[]): Buffer =>
  execFileSync('skopeo', ['inspect', '--tls-verify=false', ...args], {stdio: ['ignore', 'pipe', 'pipe']});

/** A client whose directories cannot be made. It must not matter. */
function clientWithoutStore(scope: Scope): {client: ReturnType<typeof openClient>; sealed: string} {
  const sealed = temporaryDirectory(scope);
  chmodSync(sealed, 0o500);
  const client = openClient({root: join(sealed, 'root'), state: join(sealed, 'state')});
  onEnd(scope, async () => {
    await client.close();
    assert.deepEqual(readdirSync(sealed), [], 'a store was made');
    chmodSync(sealed, 0o700);
  });
  return {client, sealed};
}

async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of source) all.push(item);
  return all;
}

describe('an image in a registry', () => {
  let running: Registry | undefined;
  before(async () => {
    if (findProgram('docker-registry') === undefined) return;
    running = await registry({skip: () => {}});
    for (const [name, make] of Object.entries(FORMS)) pushed.set(name, await publish(running!, name, join(layouts, name), make));
  });

  for (const name of Object.keys(FORMS))
    it(`is shown as by skopeo: ${name}`, async (t) => {
      if (!requiresProgram(t, 'docker-registry', 'skopeo')) return;
      const {ref, root} = pushed.get(name)!;
      const {registry: remote} = clientWithoutStore(t).client;
      assert.deepEqual(await remote.resolve(ref), {mediaType: root.mediaType, digest: root.digest, size: root.size});
      const object = await remote.fetchObject(ref);
      assert.deepEqual(Buffer.from(object.bytes), skopeo('--raw', `docker://${ref}`));
      assert.equal(object.descriptor.digest, root.digest);
      for (const architecture of name.endsWith('image') ? [ARCHITECTURE] : [ARCHITECTURE, OTHER]) {
        const platform = ['--override-os', 'linux', '--override-arch', architecture];
        const {RepoTags: _, ...expected} = JSON.parse(skopeo('--no-tags', ...platform, `docker://${ref}`).toString());
        assert.deepEqual(JSON.parse(JSON.stringify(await remote.inspect(ref, {platform: `linux/${architecture}`}))), expected);
        const config = await remote.config(ref, {platform: `linux/${architecture}`});
        assert.deepEqual(Buffer.from(config.bytes), skopeo('--config', '--raw', ...platform, `docker://${ref}`));
      }
      await assert.rejects(
        name.endsWith('image') ? remote.resolve(`${ref}nope`) : remote.inspect(ref, {platform: 'linux/riscv64'}),
        is('not_found'),
      );
    });

  it('is fetched byte for byte, also by its digest', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const {client} = clientWithoutStore(t);
    for (const place of pushed.values())
      for (const name of readdirSync(join(place.layout, 'blobs/sha256'))) {
        const digest = `sha256:${name}` as Digest;
        const chunks = await collect(await client.registry.fetchBlob(place.ref, digest));
        assert.deepEqual(Buffer.concat(chunks), blob(place, digest));
      }
    const nowhere = digestOf('nowhere');
    await assert.rejects(collect(await client.registry.fetchBlob(pushed.get('oci/image')!.ref, nowhere)), is('not_found'));
    await assert.rejects(client.registry.fetchBlob(pushed.get('oci/image')!.ref, 'sha256:x'), is('invalid_argument'));
  });

  it('is found by the lists of tags and repositories', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const {client} = clientWithoutStore(t);
    const {host} = running!;
    assert.deepEqual(await collect(await client.registry.catalog(host)), Object.keys(FORMS).sort());
    assert.deepEqual(await collect(await client.registry.catalog(host, {limit: 2})), Object.keys(FORMS).sort().slice(0, 2));
    const many = Array.from({length: 9}, (_, i) => `t${String(i).padStart(2, '0')}`);
    for (const tag of many) await pushImage(running!, `many:${tag}`, pushed.get('docker/image')!.layout);
    assert.deepEqual((await collect(await client.registry.tags(`${host}/many`))).sort(), many);
    assert.equal((await collect(await client.registry.tags(`${host}/many`, {limit: 7}))).length, 7);
    await assert.rejects(collect(await client.registry.tags(`${host}/nowhere`)), is('not_found'));
    for (const wrong of ['', 'a/b', `${host}/x`, 'http://x']) await assert.rejects(client.registry.catalog(wrong), is('invalid_argument'));
  });

  it('has the artifacts that the tag of its digest lists', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const {client} = clientWithoutStore(t);
    const {ref, root, layout} = pushed.get('oci/image')!;
    assert.deepEqual(await client.registry.referrers(ref), []);
    const config = addJSON(layout, 'application/vnd.oci.empty.v1+json', {});
    const artifacts = ['application/a', 'application/b', 'application/a'].map((artifactType, i) => ({
      ...addJSON(layout, OCI_MANIFEST, {
        schemaVersion: 2,
        mediaType: OCI_MANIFEST,
        artifactType,
        config,
        layers: [config],
        subject: root,
        annotations: {n: String(i)},
      }),
      artifactType,
    }));
    setTarget(layout, addJSON(layout, OCI_INDEX, {schemaVersion: 2, mediaType: OCI_INDEX, manifests: artifacts}));
    await pushImage(running!, `oci/image:${root.digest.replace(':', '-')}`, layout);
    assert.deepEqual(await client.registry.referrers(ref), artifacts);
    assert.deepEqual(
      await client.registry.referrers(ref, {artifactType: 'application/a'}),
      artifacts.filter(({artifactType}) => artifactType === 'application/a'),
    );
  });
});

describe('an object that is pushed without a store', () => {
  it('is a file or a stream, a blob or a manifest with the tag that is given, and leaves no temporary file', async (t) => {
    const running = await registry(t);
    if (running === undefined) return;
    const {client} = clientWithoutStore(t);
    const layout = temporaryDirectory(t);
    const root = image(layout, false, ARCHITECTURE);
    const bytesOf = (digest: Digest): Buffer => readFileSync(join(layout, 'blobs', ...digestParts(digest)));
    const {config, layers} = JSON.parse(bytesOf(root.digest).toString()) as {config: Descriptor; layers: readonly Descriptor[]};
    const repository = `${running.host}/objects/app`;
    async function* stream(bytes: Buffer): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < bytes.length; at += 100) yield bytes.subarray(at, at + 100);
    }
    const held = temporaryDirectory(t);
    const {TMPDIR} = process.env;
    process.env.TMPDIR = held;
    onEnd(t, () => {
      if (TMPDIR === undefined) delete process.env.TMPDIR;
      else process.env.TMPDIR = TMPDIR;
    });
    for (const [i, {digest, size}] of [config, ...layers].entries()) {
      const source = i % 2 === 0 ? join(layout, 'blobs', ...digestParts(digest)) : stream(bytesOf(digest));
      const result = await client.registry.pushObject(repository, source);
      assert.deepEqual([result.digest, result.size, result.status], [digest, size, 'uploaded']);
    }
    const manifest = () => stream(bytesOf(root.digest));
    await assert.rejects(client.registry.pushObject(`${repository}@${config.digest}`, manifest()), is('invalid_argument'));
    await assert.rejects(client.registry.pushObject(`${running.host}/objects/other:v1`, manifest()), is('not_found'));
    const result = await client.registry.pushObject(`${repository}:v1`, manifest());
    assert.deepEqual([result.digest, result.mediaType, result.status], [root.digest, OCI_MANIFEST, 'uploaded']);
    assert.equal((await client.registry.pushObject(`${repository}:v1`, manifest())).status, 'exists');
    assert.equal((await client.registry.inspect(`${repository}:v1`)).Digest, root.digest);
    await assert.rejects(client.registry.pushObject(repository, join(layout, 'nope')), is('not_found'));
    await assert.rejects(client.registry.pushObject(repository, layout), is('invalid_argument'));
    async function* failing(): AsyncGenerator<Uint8Array> {
      yield Buffer.from('x');
      throw new Error('the source failed');
    }
    await assert.rejects(client.registry.pushObject(repository, failing()), /the source failed/);
    assert.deepEqual(readdirSync(held), []);
  });
});

describe('bytes that a registry changes', () => {
  it('are an error after the last of them, of every length', async (t) => {
    const fake = await startFakeRegistry(t);
    const bytes = Buffer.alloc(300_000, 'layer');
    const {digest} = fake.addBlob(bytes);
    const {client} = clientWithoutStore(t);
    fake.fault({path: /blobs/, method: 'GET', body: (right) => Buffer.concat([right.subarray(1), Buffer.from('x')])});
    const received: Uint8Array[] = [];
    await assert.rejects(async () => {
      for await (const chunk of await client.registry.fetchBlob(`${fake.host}/app`, digest)) received.push(chunk);
    }, is('failed_precondition'));
    assert.equal(Buffer.concat(received).length, bytes.length);
    fake.clear();
    // A connection that breaks is not such an error.
    fake.fault({path: /blobs/, method: 'GET', times: 3, truncateAt: 100_000});
    assert.deepEqual(Buffer.concat(await collect(await client.registry.fetchBlob(`${fake.host}/app`, digest))), bytes);
  });

  it('cost no connection when the caller stops early', async (t) => {
    const fake = await startFakeRegistry(t);
    const {digest} = fake.addBlob(Buffer.alloc(8 << 20, 'x'));
    const {client} = clientWithoutStore(t);
    for await (const chunk of await client.registry.fetchBlob(`${fake.host}/app`, digest)) {
      assert.ok(chunk.length > 0);
      break;
    }
    const abort = new AbortController();
    await assert.rejects(async () => {
      for await (const _ of await client.registry.fetchBlob(`${fake.host}/app`, digest, {signal: abort.signal})) abort.abort();
    }, is('canceled'));
  });
});

/**
 * A proxy before a registry.
 *
 * @param after called with each request when it is answered, before the client gets the response
 */
async function proxy(t: TestContext, {host}: Registry, after: (request: IncomingMessage) => Promise<void>): Promise<string> {
  const [hostname, port] = host.split(':');
  const server = createServer((request, response) => {
    const {method, url: path, headers} = request;
    const forwarded = httpRequest({hostname, port, method, path, headers}, (answer) => {
      void after(request).then(() => {
        response.writeHead(answer.statusCode!, answer.headers);
        answer.pipe(response);
      });
    });
    request.pipe(forwarded);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onEnd(t, () => {
    server.close();
    server.closeAllConnections();
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** An image in a repository of its own, in a registry without the referrers API. */
async function publishOne(t: TestContext, running: Registry, name: string): Promise<Pushed> {
  return publish(running, name, temporaryDirectory(t), FORMS['oci/image']!);
}

describe('an attached artifact', () => {
  it('has the files, refers to the image, and is listed', async (t) => {
    const running = await registry(t);
    if (running === undefined) return;
    const {client} = clientWithoutStore(t);
    const {ref, root} = await publishOne(t, running, 'attach/files');
    const dir = temporaryDirectory(t);
    const contents = [Buffer.from('{"sbom": 1}'), Buffer.alloc(3 << 20, 'x'), Buffer.alloc(0)];
    const files = contents.map((bytes, i) => {
      writeFileSync(join(dir, `file ${i}`), bytes);
      return {path: join(dir, `file ${i}`), ...(i === 0 ? {mediaType: 'application/spdx+json'} : {})};
    });
    const seen: string[] = [];
    const made = await client.registry.attach(ref, 'application/vnd.example.sbom', files, {
      annotations: {by: 'test'},
      onEvent: ({ref: key, status}) => seen.push(`${key} ${status}`),
    });
    const repository = ref.replace(/:v1$/, '');
    const {bytes} = await client.registry.fetchObject(`${repository}@${made.digest}`);
    const {config, layers, ...manifest} = JSON.parse(Buffer.from(bytes).toString());
    assert.deepEqual(manifest, {
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      artifactType: 'application/vnd.example.sbom',
      subject: root,
      annotations: {by: 'test'},
    });
    assert.equal(config.digest, digestOf('{}'));
    assert.deepEqual(
      layers,
      contents.map((content, i) => ({
        mediaType: i === 0 ? 'application/spdx+json' : 'application/octet-stream',
        digest: digestOf(content),
        size: content.length,
        annotations: {'org.opencontainers.image.title': `file ${i}`},
      })),
    );
    for (const [i, {digest}] of [config, ...layers].entries())
      assert.deepEqual(
        Buffer.concat(await collect(await client.registry.fetchBlob(repository, digest))),
        i === 0 ? Buffer.from('{}') : contents[i - 1],
      );
    assert.deepEqual(await client.registry.referrers(ref), [made]);
    for (const content of contents) assert.ok(seen.includes(`layer-${digestOf(content)} done`));
    // The same again is the same artifact, and is listed once.
    assert.deepEqual(await client.registry.attach(ref, made.artifactType!, files, {annotations: {by: 'test'}}), made);
    assert.deepEqual(await client.registry.referrers(ref), [made]);
    // An artifact of an artifact.
    const signature = await client.registry.attach(`${repository}@${made.digest}`, 'application/vnd.example.signature', []);
    assert.deepEqual(await client.registry.referrers(`${repository}@${made.digest}`), [signature]);
    for (const wrong of [join(dir, 'missing'), dir])
      await assert.rejects(client.registry.attach(ref, 'a/b', [{path: wrong}]), is(wrong === dir ? 'invalid_argument' : 'not_found'));
    await assert.rejects(client.registry.attach(ref, 'not a type', []), is('invalid_argument'));
  });

  it('is listed whoever attaches another one at the same time', async (t) => {
    const running = await registry(t);
    if (running === undefined) return;
    const {client} = clientWithoutStore(t);
    const {ref} = await publishOne(t, running, 'attach/many');
    const made = await Promise.all(Array.from({length: 6}, (_, i) => client.registry.attach(ref, `application/a${i}`, [])));
    const digests = (list: readonly Descriptor[]): readonly string[] => list.map(({digest}) => digest).sort();
    assert.deepEqual(digests(await client.registry.referrers(ref)), digests(made));
  });

  it('is listed again when another writer, who had read the list before, overwrites it', async (t) => {
    const running = await registry(t);
    if (running === undefined) return;
    const {client} = clientWithoutStore(t);
    const {ref, root, layout} = await publishOne(t, running, 'attach/lost');
    const tag = root.digest.replace(':', '-');
    const others = {...root, artifactType: 'application/others'};
    let overwritten = 0;
    const host = await proxy(t, running, async ({method, url}) => {
      if (method !== 'PUT' || !url?.endsWith(`/manifests/${tag}`) || overwritten === 2) return;
      overwritten++;
      setTarget(layout, addJSON(layout, OCI_INDEX, {schemaVersion: 2, mediaType: OCI_INDEX, manifests: [others]}));
      await pushImage(running, `attach/lost:${tag}`, layout);
    });
    const made = await client.registry.attach(ref.replace(running.host, host), 'application/ours', []);
    assert.equal(overwritten, 2);
    assert.deepEqual(await client.registry.referrers(ref), [others, made]);
  });
});

describe('behind a mirror that is not up to date', () => {
  it('an artifact joins those that the registry lists; the image of the registry is meant', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const [running, mirror] = await Promise.all([startRegistry(t), startRegistry(t)]);
    const {client} = clientWithoutStore(t);
    const {ref, layout, root} = await publishOne(t, running, 'app');
    const mirrored = ref.replace(running.host, mirror.host);
    const hostsDir = temporaryDirectory(t);
    mkdirSync(join(hostsDir, running.host));
    const url = `http://${mirror.host}`;
    writeFileSync(join(hostsDir, running.host, 'hosts.toml'), `[host."${url}"]\ncapabilities = ["pull", "resolve"]\n`);
    // The mirror has an older list.
    await pushImage(mirror, 'app:v1', layout);
    await client.registry.attach(mirrored, 'application/old', []);
    const known = await client.registry.attach(ref, 'application/known', []);
    const made = await client.registry.attach(ref, 'application/new', [], {hostsDir});
    assert.deepEqual(await client.registry.referrers(ref), [known, made]);
    // And then another image by this tag.
    const other = await publish(mirror, 'app', temporaryDirectory(t), FORMS['docker/image']!);
    assert.equal((await client.registry.resolve(ref, {hostsDir})).digest, other.root.digest);
    const last = await client.registry.attach(ref, 'application/last', [], {hostsDir});
    assert.deepEqual(await client.registry.referrers(ref), [known, made, last]);
    assert.equal(await client.registry.delete(ref, {hostsDir, manifest: true}), ref.replace(':v1', `@${root.digest}`));
  });
});

describe('behind a mirror that has the referrers API, which its registry has not', () => {
  it('artifacts are listed where the registry lists them', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const running = await startRegistry(t);
    const {client} = clientWithoutStore(t);
    const {ref, root} = await publishOne(t, running, 'app');
    const mirror = await startFakeRegistry(t);
    mirror.fault({
      method: 'GET',
      path: /\/referrers\//,
      status: 200,
      headers: {'content-type': OCI_INDEX, 'content-length': null},
      body: () => Buffer.from(JSON.stringify({schemaVersion: 2, mediaType: OCI_INDEX, manifests: []})),
    });
    const hostsDir = temporaryDirectory(t);
    mkdirSync(join(hostsDir, running.host));
    writeFileSync(join(hostsDir, running.host, 'hosts.toml'), `[host."${mirror.url}"]\ncapabilities = ["pull", "resolve", "referrers"]\n`);
    const made = await client.registry.attach(ref, 'application/x', [], {hostsDir});
    assert.ok(mirror.count('GET', /referrers/) === 0, 'the registry decides where they are listed');
    for (const options of [{}, {hostsDir}]) assert.deepEqual(await client.registry.referrers(ref, options), [made]);
    assert.ok(mirror.count('GET', /referrers/) > 0);
    await client.registry.delete(ref.replace(/:v1$/, `@${made.digest}`), {hostsDir});
    assert.deepEqual(await client.registry.referrers(ref), []);
    assert.ok(root);
  });
});

describe('deletion in a registry', () => {
  it('takes a manifest with all its tags, and an artifact off the list of its subject', async (t) => {
    const running = await registry(t);
    if (running === undefined) return;
    const {client} = clientWithoutStore(t);
    const {ref, root, layout} = await publishOne(t, running, 'delete/this');
    const repository = ref.replace(/:v1$/, '');
    await pushImage(running, 'delete/this:v2', layout);
    const artifacts: Descriptor[] = [];
    for (const artifactType of ['application/a', 'application/b']) artifacts.push(await client.registry.attach(ref, artifactType, []));
    assert.equal(await client.registry.delete(`${repository}@${artifacts[0]!.digest}`), `${repository}@${artifacts[0]!.digest}`);
    assert.deepEqual(await client.registry.referrers(ref), artifacts.slice(1));
    assert.equal(await client.registry.delete(ref, {manifest: true}), `${repository}@${root.digest}`);
    for (const gone of [ref, `${repository}:v2`, `${repository}@${root.digest}`])
      await assert.rejects(client.registry.resolve(gone), is('not_found'));
    await assert.rejects(client.registry.delete(ref), is('not_found'));
  });

  it('of a tag leaves the manifest, or is refused with the command that deletes it', async (t) => {
    const running = await registry(t);
    if (running === undefined) return;
    const {client} = clientWithoutStore(t);
    const {ref, root, layout} = await publishOne(t, running, 'delete/tag');
    const repository = ref.replace(/:v1$/, '');
    await pushImage(running, 'delete/tag:v2', layout);
    await assert.rejects(client.registry.delete(`${repository}:v2`), (err) => {
      is('not_implemented')(err);
      assert.ok((err as ErrdefsError).hint?.endsWith(`registry rm --manifest ${repository}@${root.digest}`), String(err));
      return true;
    });
    assert.equal((await client.registry.resolve(`${repository}:v2`)).digest, root.digest);
  });

  it('that is disabled is refused, and says what to enable', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const running = await startRegistry(t, {deletes: false});
    const {client} = clientWithoutStore(t);
    const {ref} = await publishOne(t, running, 'kept');
    for (const options of [{}, {manifest: true}])
      await assert.rejects(client.registry.delete(ref, options), (err) => {
        is('not_implemented')(err);
        assert.match((err as ErrdefsError).hint ?? '', options.manifest ? /delete\.enabled/ : /registry rm/);
        return true;
      });
    await client.registry.resolve(ref);
  });
});
