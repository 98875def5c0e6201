/**
 * Copies between registries, archives and directories. The oracles are skopeo, which reads what we write and writes what we read, and the
 * digests themselves. Nothing here opens a store.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {after, describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {gzipSync, zstdCompressSync} from 'node:zlib';
import {parsePlace} from '../../../src/lib/client/copy/place.ts';
import {openClient} from '../../../src/lib/client/index.ts';
import type {Client, CopyOptions} from '../../../src/lib/client/types/index.ts';
import type {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {type Descriptor, digestParts} from '../../../src/lib/oci/descriptor.ts';
import {digestOf} from '../../../src/lib/oci/hash.ts';
import {OCI_INDEX, OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import {arm, disarm, killedHere} from '../../fakes/failpoints.ts';
import {type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {is, onEnd, requiresProgram, SAMPLE, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {ARCHITECTURE, addBlob, addImage, addIndex, addJSON, setTarget} from '../../support/layouts.ts';
import {blobGets, pushImage, type Registry, sharedRegistry, startRegistry} from '../../support/registry.ts';
import {BASE_LAYER, file, tar} from '../../support/tartest.ts';

const registry = sharedRegistry();
const OTHER = ARCHITECTURE === 's390x' ? 'ppc64le' : 's390x';
const sources = temporaryDirectory({after});

/** A client that must not need its directories. */
function newClient(t: TestContext): Client['registry'] {
  const client = openClient({root: '/proc/nowhere', state: '/proc/nowhere'});
  onEnd(t, () => client.close());
  return client.registry;
}

/** Bytes that do not compress, so that layers are as large as they look. */
function noise(size: number, n: number): Buffer {
  const {below} = randomOf(SAMPLE, n);
  return Buffer.from(Array.from({length: size}, () => below(256)));
}

const LAYERS = [BASE_LAYER, tar(file('noise', noise(70_000, 1))), tar(file('text', 'x'.repeat(300_000)))];

/** Images by their name: what the layout that they are copied from has as its root. */
const IMAGES: Readonly<Record<string, (layout: string) => Descriptor>> = {
  oci: (layout) => addImage(layout, {layers: LAYERS}),
  docker: (layout) => addImage(layout, {layers: LAYERS, docker: true}),
  zstd: (layout) => addImage(layout, {layers: LAYERS, compression: 'zstd'}),
  plain: (layout) => addImage(layout, {layers: LAYERS, compression: 'none'}),
  empty: (layout) => addImage(layout, {layers: []}),
  // The same layer twice, and one that is its own gzip elsewhere.
  repeated: (layout) => addImage(layout, {layers: [BASE_LAYER, LAYERS[1]!, BASE_LAYER]}),
  index: (layout) =>
    addIndex(layout, [
      addImage(layout, {layers: [...LAYERS, tar(file('a', 'a'))]}),
      addImage(layout, {layers: [...LAYERS, tar(file('b', 'b'))], platform: {os: 'linux', architecture: OTHER}}),
    ]),
  list: (layout) =>
    addIndex(
      layout,
      [ARCHITECTURE, OTHER].map((architecture) =>
        addImage(layout, {layers: [BASE_LAYER, tar(file(architecture))], docker: true, platform: {os: 'linux', architecture}}),
      ),
      {docker: true},
    ),
  artifact: (layout) => {
    const config = addBlob(layout, 'application/vnd.oci.empty.v1+json', Buffer.from('{}'));
    const layers = [addBlob(layout, 'text/plain', Buffer.from('hello'))];
    return addJSON(layout, OCI_MANIFEST, {schemaVersion: 2, mediaType: OCI_MANIFEST, artifactType: 'a/b', config, layers});
  },
};

const roots = new Map<string, Descriptor>();
for (const [name, make] of Object.entries(IMAGES)) {
  const layout = join(sources, name);
  mkdirSync(layout);
  roots.set(name, setTarget(layout, make(layout)));
}
const isMany = (name: string): boolean => name === 'index' || name === 'list';
const layoutOf = (name: string): string => `oci:${join(sources, name)}:latest`;
const blobOf = (name: string, {digest}: Pick<Descriptor, 'digest'>): Buffer =>
  readFileSync(join(sources, name, 'blobs', ...digestParts(digest)));
const documentOf = <T>(name: string, desc: Pick<Descriptor, 'digest'>): T => JSON.parse(blobOf(name, desc).toString()) as T;

const skopeo = (...args: readonly string[]): Buffer =>
  execFileSync('skopeo', ['--insecure-policy', ...args], {stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 16 << 20});
const skopeoCopy = (from: string, to: string, ...args: readonly string[]): Buffer =>
  skopeo('copy', '--src-tls-verify=false', '--dest-tls-verify=false', ...args, from, to);
const inspected = (place: string, ...args: readonly string[]): Buffer =>
  skopeo('inspect', ...(place.startsWith('docker://') ? ['--tls-verify=false'] : []), ...args, place);

/** A new place of each transport. */
const TRANSPORTS = ['docker', 'oci', 'oci-archive', 'dir'] as const;
type Transport = (typeof TRANSPORTS)[number];
let made = 0;
const newPlace = (transport: Transport | 'docker-archive', dir: string, {host}: Registry): string => {
  const name = `p${made++}`;
  if (transport === 'docker') return `docker://${host}/copies/${name}:v1`;
  return `${transport}:${join(dir, name)}${transport === 'dir' ? '' : transport === 'docker-archive' ? ':example.org/app:v1' : ':v1'}`;
};

describe('a copy', () => {
  for (const name of Object.keys(IMAGES))
    it(`is the same image at each place, and skopeo reads it: ${name}`, async (t) => {
      const running = await registry(t);
      if (running === undefined || !requiresProgram(t, 'skopeo')) return;
      const client = newClient(t);
      const dir = temporaryDirectory(t);
      const root = roots.get(name)!;
      const all = isMany(name);
      // From place to place, so that each transport is a source, too; the last is the first again.
      let from = layoutOf(name);
      for (const [i, transport] of [...TRANSPORTS, ...TRANSPORTS.toReversed()].entries()) {
        const to = newPlace(transport, dir, running);
        const result = await client.copy(from, to, {all, preserveDigests: true});
        assert.deepEqual(
          [result.target.digest, result.target.mediaType, result.source, result.destination],
          [root.digest, root.mediaType, from, to],
        );
        // skopeo reads no docker manifests in layouts.
        const readable = !transport.startsWith('oci') || !root.mediaType.includes('docker');
        if (i < TRANSPORTS.length && readable && (name !== 'artifact' || transport === 'docker'))
          assert.deepEqual(inspected(to, '--raw'), blobOf(name, root), to);
        from = to;
      }
      // All bytes of all platforms are there: skopeo verifies them.
      for (const transport of TORTURE || ['zstd', 'index', 'list'].includes(name) ? TRANSPORTS : []) {
        const to = newPlace(transport, dir, running);
        const {target} = await client.copy(layoutOf(name), to, {all});
        const check = newPlace('dir', dir, running);
        skopeoCopy(to, check, '--preserve-digests', ...(all ? ['--all'] : []));
        assert.equal(digestOf(readFileSync(join(check.slice('dir:'.length), 'manifest.json'))), target.digest);
        if (!root.mediaType.includes('docker') || !transport.startsWith('oci')) assert.equal(target.digest, root.digest);
      }
      assert.deepEqual(
        readdirSync(dir, {recursive: true, encoding: 'utf8'}).filter((path) => /(?:^|\/)\.(?:tmp|index)/.test(path)),
        [],
        'temporary files',
      );
    });

  it('reads what skopeo writes', async (t) => {
    const running = await registry(t);
    if (running === undefined || !requiresProgram(t, 'skopeo')) return;
    const client = newClient(t);
    const dir = temporaryDirectory(t);
    for (const name of TORTURE ? ['oci', 'docker', 'index'] : ['docker', 'index']) {
      const from = `docker://${running.host}/theirs/${name}:v1`;
      await pushImage(running, `theirs/${name}:v1`, join(sources, name));
      for (const transport of TRANSPORTS) {
        if (transport === 'oci-archive' && isMany(name)) continue; // this skopeo cannot write it
        const written = newPlace(transport, dir, running);
        // skopeo converts docker's manifests for a layout.
        const keeps = name !== 'docker' || transport === 'docker' || transport === 'dir';
        skopeoCopy(from, written, ...(isMany(name) ? ['--all'] : []), ...(keeps ? ['--preserve-digests'] : []));
        const to = newPlace('docker', dir, running);
        const {target} = await client.copy(written, to, {all: isMany(name)});
        assert.equal(target.digest, digestOf(inspected(written, '--raw')), `${written} of ${name}`);
        if (keeps) assert.equal(target.digest, roots.get(name)!.digest);
      }
    }
  });

  it("has the media types that are asked for, in a layout OCI's, with layers as in skopeo's", async (t) => {
    const running = await registry(t);
    if (running === undefined || !requiresProgram(t, 'skopeo')) return;
    const client = newClient(t);
    const dir = temporaryDirectory(t);
    type Described = {mediaType: string; config: Descriptor; layers: Descriptor[]};
    const manifestOf = (place: string, ...args: string[]): Described => JSON.parse(inspected(place, '--raw', ...args).toString());
    for (const [name, format] of [
      ['docker', 'oci'],
      ['oci', 'docker'],
      ['plain', 'docker'],
    ] as const) {
      await pushImage(running, `formats/${name}:v1`, join(sources, name));
      const from = `docker://${running.host}/formats/${name}:v1`;
      const ours: string = newPlace('docker', dir, running);
      // To a registry skopeo would compress, and take layers from its cache.
      const theirs: string = newPlace('dir', dir, running);
      await client.copy(from, ours, {format});
      skopeoCopy(from, theirs, '--format', format === 'oci' ? 'oci' : 'v2s2');
      const [{config, ...mine}, {config: __, ...expected}] = [manifestOf(ours), manifestOf(theirs)];
      assert.deepEqual([mine.mediaType, mine.layers], [expected.mediaType, expected.layers], name);
      assert.equal(config.digest, documentOf<Described>(name, roots.get(name)!).config.digest);
      // And back it is the image that it was.
      const back = newPlace('docker', dir, running);
      const {target} = await client.copy(ours, back, {format: format === 'oci' ? 'docker' : 'oci'});
      assert.equal(target.digest, roots.get(name)!.digest);
      await assert.rejects(client.copy(from, ours, {format, preserveDigests: true}), is('failed_precondition'));
    }
    const list = newPlace('oci', dir, running);
    const {target} = await client.copy(layoutOf('list'), list, {all: true});
    assert.equal(target.mediaType, OCI_INDEX);
    skopeoCopy(list, newPlace('dir', dir, running), '--all', '--preserve-digests');
    const {target: again} = await client.copy(list, newPlace('docker', dir, running), {all: true, format: 'docker'});
    assert.equal(again.digest, roots.get('list')!.digest);
    await assert.rejects(client.copy(layoutOf('zstd'), newPlace('docker', dir, running), {format: 'docker'}), is('failed_precondition'));
  });

  it('to docker-archive is loaded by skopeo with the same config and layers, and comes back', async (t) => {
    const running = await registry(t);
    if (running === undefined || !requiresProgram(t, 'skopeo')) return;
    const client = newClient(t);
    const dir = temporaryDirectory(t);
    for (const name of TORTURE ? ['oci', 'docker', 'zstd', 'plain', 'repeated'] : ['docker', 'zstd', 'repeated']) {
      const to = newPlace('docker-archive', dir, running);
      await assert.rejects(client.copy(layoutOf(name), to, {preserveDigests: true}), is('failed_precondition'));
      await client.copy(layoutOf(name), to);
      const {config} = documentOf<{config: Descriptor}>(name, roots.get(name)!);
      assert.deepEqual(inspected(to, '--config', '--raw'), blobOf(name, config), name);
      const {rootfs} = documentOf<{rootfs: {diff_ids: string[]}}>(name, config);
      assert.deepEqual((JSON.parse(inspected(to).toString()) as {Layers: string[]}).Layers, rootfs.diff_ids);
      skopeoCopy(to, newPlace('oci', dir, running));
      // And what skopeo writes.
      const theirs = newPlace('docker-archive', dir, running);
      await pushImage(running, `archived/${name}:v1`, join(sources, name));
      skopeoCopy(`docker://${running.host}/archived/${name}:v1`, theirs);
      const manifests: Buffer[] = [];
      for (const archive of [to, theirs]) {
        const back = newPlace('docker', dir, running);
        await client.copy(archive, back);
        manifests.push(inspected(back, '--raw'));
      }
      assert.deepEqual(manifests[0], manifests[1], name);
      assert.equal((JSON.parse(manifests[0]!.toString()) as {config: Descriptor}).config.digest, config.digest);
    }
    const place = `docker-archive:${join(dir, 'index.tar')}`;
    await assert.rejects(client.copy(layoutOf('index'), place, {all: true}), is('invalid_argument'));
    await assert.rejects(client.copy(layoutOf('artifact'), place), is('failed_precondition'));
    assert.equal(existsSync(join(dir, 'index.tar')), false);
  });

  it('of an index is one platform, unless all are asked for', async (t) => {
    const running = await registry(t);
    if (running === undefined) return;
    const client = newClient(t);
    const dir = temporaryDirectory(t);
    for (const name of ['index', 'list']) {
      const {manifests} = documentOf<{manifests: Descriptor[]}>(name, roots.get(name)!);
      for (const [options, expected] of [
        [{}, manifests.find(({platform}) => platform?.architecture === ARCHITECTURE)],
        [{platform: `linux/${OTHER}`}, manifests.find(({platform}) => platform?.architecture === OTHER)],
      ] as const)
        assert.equal(
          (await client.copy(layoutOf(name), newPlace('oci', dir, running), {...options, preserveDigests: true})).target.digest,
          expected!.digest,
        );
    }
    await assert.rejects(client.copy(layoutOf('index'), newPlace('oci', dir, running), {platform: 'linux/riscv64'}), is('not_found'));
    await assert.rejects(
      client.copy(layoutOf('index'), newPlace('oci', dir, running), {platform: 'linux', all: true}),
      is('invalid_argument'),
    );
  });

  it('reads compressed archives', async (t) => {
    const running = await registry(t);
    if (running === undefined) return;
    const client = newClient(t);
    const dir = temporaryDirectory(t);
    await client.copy(layoutOf('oci'), `oci-archive:${join(dir, 'a.tar')}`);
    await client.copy(layoutOf('oci'), `docker-archive:${join(dir, 'd.tar')}:app:v1`);
    for (const [archive, compress] of [
      ['a.tar', gzipSync],
      ['a.tar', zstdCompressSync],
      ['d.tar', gzipSync],
    ] as const) {
      const packed = join(dir, `packed-${archive}`);
      writeFileSync(packed, compress(readFileSync(join(dir, archive))));
      const transport = archive === 'a.tar' ? 'oci-archive' : 'docker-archive';
      const {target} = await client.copy(`${transport}:${packed}`, newPlace('oci', dir, running));
      if (archive === 'a.tar') assert.equal(target.digest, roots.get('oci')!.digest);
    }
  });
});

describe('what a registry has', () => {
  it('is not sent again: all of it, all but the tag, or single blobs', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const [running, origin] = await Promise.all([startRegistry(t), startRegistry(t)]);
    const client = newClient(t);
    await pushImage(origin, 'app:v1', join(sources, 'oci'));
    const copyTo = (to: string) => client.copy(`${origin.host}/app:v1`, `${running.host}/${to}`);
    const first = await copyTo('a:v1');
    assert.deepEqual(first.blobs, {copied: 4, mounted: 0, exists: 0});
    origin.clearLog();
    running.clearLog();
    const second = await copyTo('a:v1');
    assert.deepEqual([second.blobs, second.transferredBytes], [{copied: 0, mounted: 0, exists: 0}, 0]);
    assert.deepEqual(
      running.requests().map(({method}) => method),
      ['HEAD'],
      'the tag is right: one request',
    );
    running.clearLog();
    assert.equal((await copyTo('a:v2')).transferredBytes, 0);
    assert.deepEqual(
      running.requests().map(({method}) => method),
      ['HEAD', 'HEAD', 'PUT'],
      'only the tag is missing',
    );
    assert.deepEqual([...blobGets(origin)], [], 'no blob is read');
    // Some blobs are there.
    const image = documentOf<{layers: Descriptor[]}>('oci', roots.get('oci')!);
    const {below} = randomOf(SAMPLE, 7);
    const partial = join(temporaryDirectory(t), 'layout');
    mkdirSync(partial);
    const layers = image.layers.filter((_, i) => i === below(3));
    for (const layer of layers) addBlob(partial, layer.mediaType, blobOf('oci', layer));
    const config = addBlob(partial, 'application/vnd.oci.empty.v1+json', Buffer.from('{}'));
    setTarget(partial, addJSON(partial, OCI_MANIFEST, {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers}));
    await pushImage(running, 'b:partial', partial);
    assert.deepEqual((await copyTo('b:v1')).blobs, {copied: 4 - layers.length, mounted: 0, exists: layers.length});
  });

  it('is mounted from another repository of the same registry', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const running = await startRegistry(t);
    const client = newClient(t);
    await pushImage(running, 'app:v1', join(sources, 'index'));
    running.clearLog();
    const {blobs, transferredBytes} = await client.copy(`${running.host}/app:v1`, `${running.host}/team/app:v1`, {all: true});
    assert.deepEqual([blobs.copied, transferredBytes, [...blobGets(running)]], [0, 0, []]);
    assert.equal(blobs.mounted, 7, 'two configs, three layers of both, one of each');
  });
});

describe('artifacts', () => {
  it('that refer to an image, and to these, go along', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const [running, origin] = await Promise.all([startRegistry(t), startRegistry(t)]);
    const client = newClient(t);
    await pushImage(origin, 'app:v1', join(sources, 'index'));
    const ref = `${origin.host}/app`;
    const [child] = documentOf<{manifests: Descriptor[]}>('index', roots.get('index')!).manifests;
    const sbom = await client.attach(`${ref}:v1`, 'application/sbom', []);
    const signature = await client.attach(`${ref}@${sbom.digest}`, 'application/signature', []);
    const ofChild = await client.attach(`${ref}@${child!.digest}`, 'application/signature', []);
    await client.copy(`${ref}:v1`, `${running.host}/app:v1`, {all: true});
    assert.deepEqual(await client.referrers(`${running.host}/app:v1`), []);
    // The image is there already; its referrers are not.
    for (let i = 0; i < 2; i++) await client.copy(`${ref}:v1`, `${running.host}/app:v1`, {all: true, referrers: true});
    assert.deepEqual(await client.referrers(`${running.host}/app:v1`), [sbom]);
    assert.deepEqual(await client.referrers(`${running.host}/app@${sbom.digest}`), [signature]);
    assert.deepEqual(await client.referrers(`${running.host}/app@${child!.digest}`), [ofChild]);
    // What cosign keeps under tags of its own.
    const tags = ['sig', 'att', 'sbom'].map((suffix) => `${child!.digest.replace(':', '-')}.${suffix}`);
    for (const tag of tags) await client.copy(`${ref}@${sbom.digest}`, `${ref}:${tag}`);
    for (let i = 0; i < 2; i++) await client.copy(`${ref}:v1`, `${running.host}/app:v2`, {all: true, referrers: true});
    for (const tag of tags) assert.equal((await client.resolve(`${running.host}/app:${tag}`)).digest, sbom.digest);
    await assert.rejects(client.copy(`${ref}:v1`, `oci:${join(temporaryDirectory(t), 'x')}`, {referrers: true}), is('invalid_argument'));
  });
});

describe('a copy that fails', () => {
  /** Places in files, and what is there before the copy. */
  const TARGETS: readonly (readonly [transport: 'oci' | 'oci-archive' | 'dir' | 'docker-archive', before: 'nothing' | 'another image'])[] =
    [
      ['oci', 'nothing'],
      ['oci', 'another image'],
      ['dir', 'nothing'],
      ['dir', 'another image'],
      ['oci-archive', 'nothing'],
      ['docker-archive', 'nothing'],
    ];
  for (const [transport, before] of TARGETS)
    it(`leaves ${before === 'nothing' ? 'nothing' : 'what was there'}: ${transport}`, async (t) => {
      const fake = await startFakeRegistry(t);
      const {layers} = fake.addImage('app', 'v1', [noise(100_000, 2), noise(200_000, 3)], {
        architecture: ARCHITECTURE,
        os: 'linux',
        rootfs: {type: 'layers', diff_ids: [digestOf(noise(100_000, 2)), digestOf(noise(200_000, 3))]},
      });
      const client = newClient(t);
      const dir = temporaryDirectory(t);
      const place = join(dir, 'place');
      const name = transport === 'dir' ? '' : transport === 'docker-archive' ? ':app:v1' : ':v1';
      if (before !== 'nothing') await client.copy(layoutOf('oci'), `${transport}:${place}${name}`);
      const wrong = (right: Buffer): Buffer => Buffer.concat([right.subarray(1), Buffer.from('x')]);
      const faults: readonly (readonly [() => () => void, Parameters<typeof is>[0], CopyOptions?])[] = [
        [() => fake.fault({path: new RegExp(layers[1]!.digest), body: wrong}), 'failed_precondition'],
        [() => fake.fault({path: new RegExp(layers[1]!.digest), status: 403}), 'permission_denied'],
        [() => fake.fault({path: new RegExp(layers[1]!.digest), stallAt: 1000}), 'canceled'],
      ];
      for (const [fault, code] of faults) {
        const undo = fault();
        const abort = new AbortController();
        const copying = client.copy(`${fake.host}/app:v1`, `${transport}:${place}${name}`, {
          signal: abort.signal,
          source: {stallTimeoutMs: 0},
          onEvent: ({ref}) => {
            if (code === 'canceled' && ref.includes(layers[0]!.digest)) setImmediate(() => abort.abort());
          },
        });
        await assert.rejects(copying, is(code));
        undo();
        // In a layout whole blobs stay, for other copies may count on them; without an index there is no image.
        if (before === 'nothing' && transport === 'oci') assert.equal(existsSync(join(place, 'index.json')), false, code);
        else if (before === 'nothing') assert.deepEqual(readdirSync(dir), [], code);
        else {
          const {target} = await client.copy(`${transport}:${place}${name}`, `oci-archive:${join(dir, 'check.tar')}`);
          assert.equal(target.digest, roots.get('oci')!.digest);
          rmSync(join(dir, 'check.tar'));
          assert.deepEqual(
            readdirSync(dir, {recursive: true, encoding: 'utf8'}).filter((path) => path.includes('.tmp.')),
            [],
          );
        }
      }
      // And then it succeeds.
      const {target} = await client.copy(`${fake.host}/app:v1`, `${transport}:${place}${name}`);
      if (transport !== 'docker-archive') {
        const again = await client.copy(`${transport}:${place}${name}`, `oci:${join(dir, 'again')}`);
        assert.equal(again.target.digest, target.digest);
      }
    });

  for (const [transport, before] of TARGETS)
    it(`or is stopped at any call, leaves a place that the next one makes whole: ${transport}, ${before}`, async (t) => {
      const client = newClient(t);
      const name = transport === 'dir' ? '' : transport === 'docker-archive' ? ':app:v1' : ':v1';
      let calls = Number.POSITIVE_INFINITY;
      for (let at = 1; at <= calls; at++) {
        const dir = temporaryDirectory(t);
        const place = `${transport}:${join(dir, 'place')}${name}`;
        if (before !== 'nothing') await client.copy(layoutOf('zstd'), place);
        arm({below: dir, action: 'ENOSPC', at, lasting: true});
        const failed = await client.copy(layoutOf('oci'), place).then(
          () => false,
          () => true,
        );
        const {failures} = disarm();
        if (failures === 0) calls = at;
        killedHere(dir);
        // What is there is one image or the other, or none.
        const check = await client.copy(place, `oci:${join(dir, `check${at}`)}`).catch(() => undefined);
        if (transport !== 'docker-archive' && (check !== undefined || before !== 'nothing'))
          assert.ok(
            [roots.get('oci')!.digest, ...(failed ? [roots.get('zstd')!.digest] : [])].includes(check!.target.digest),
            `stopped at ${at}`,
          );
        if (transport.includes('archive') && existsSync(join(dir, 'place'))) continue;
        await client.copy(layoutOf('oci'), place);
        const {target} = await client.copy(place, `oci:${join(dir, `whole${at}`)}`);
        if (transport !== 'docker-archive') assert.equal(target.digest, roots.get('oci')!.digest, `stopped at ${at}`);
        const left = readdirSync(dir, {recursive: true, encoding: 'utf8'}).filter((path) => /(?:^|\/)\.tmp/.test(path));
        assert.deepEqual(left, [], `stopped at ${at}`);
      }
    });

  for (const transport of ['docker', 'oci', 'dir'])
    it(`asks the next host for a blob that came wrong from a mirror: ${transport}`, async (t) => {
      const [origin, mirror, target] = await Promise.all([1, 2, 3].map(() => startFakeRegistry(t)));
      const blobs = [noise(1000, 6), noise(200_000, 7)];
      const {layers} = origin!.addImage('app', 'v1', blobs);
      mirror!.addImage('app', 'v1', blobs);
      mirror!.fault({path: new RegExp(layers[1]!.digest), body: (right) => Buffer.concat([right.subarray(1), Buffer.from('x')])});
      const hostsDir = temporaryDirectory(t);
      mkdirSync(join(hostsDir, origin!.host));
      writeFileSync(join(hostsDir, origin!.host, 'hosts.toml'), `[host."${mirror!.url}"]\n`);
      const client = newClient(t);
      const to = transport === 'docker' ? `${target!.host}/new:v1` : `${transport}:${join(temporaryDirectory(t), 'new')}`;
      await client.copy(`${origin!.host}/app:v1`, to, {source: {hostsDir}});
      const asked = ({requests}: FakeRegistry): number => requests.filter(({path}) => path.includes(layers[1]!.digest)).length;
      assert.deepEqual([asked(mirror!), asked(origin!)], [1, 1]);
    });

  it('to a directory that is something else leaves its files, also when it has a file "version"', async (t) => {
    const client = newClient(t);
    const dir = temporaryDirectory(t);
    mkdirSync(join(dir, 'src'));
    for (const name of ['version', 'src/precious']) writeFileSync(join(dir, name), '1.2.3\n');
    await assert.rejects(client.copy(layoutOf('oci'), `dir:${dir}`), is('failed_precondition'));
    assert.deepEqual(readdirSync(dir, {recursive: true}).sort(), ['src', 'src/precious', 'version']);
    // An image that somebody keeps notes beside is replaced; the notes stay.
    rmSync(join(dir, 'version'));
    rmSync(join(dir, 'src'), {recursive: true});
    await client.copy(layoutOf('oci'), `dir:${dir}`);
    const blobs = readdirSync(dir);
    writeFileSync(join(dir, 'notes'), 'x');
    await client.copy(layoutOf('artifact'), `dir:${dir}`);
    const after = readdirSync(dir);
    assert.ok(after.includes('notes'));
    assert.deepEqual(after.filter((name) => blobs.includes(name)).sort(), ['manifest.json', 'version']);
  });

  it('to a registry leaves no tag', async (t) => {
    const running = await registry(t);
    if (running === undefined) return;
    const fake = await startFakeRegistry(t);
    const {layers} = fake.addImage('app', 'v1', [noise(1000, 4), noise(200_000, 5)]);
    const client = newClient(t);
    const to = `${running.host}/failed/app:v1`;
    fake.fault({path: new RegExp(layers[1]!.digest), body: (right) => Buffer.concat([right.subarray(1), Buffer.from('x')])});
    await assert.rejects(client.copy(`${fake.host}/app:v1`, to), is('failed_precondition'));
    await assert.rejects(client.resolve(to), is('not_found'));
    fake.clear();
    // A source that breaks off is gone on with.
    fake.fault({path: new RegExp(layers[1]!.digest), times: 2, truncateAt: 50_000});
    await client.copy(`${fake.host}/app:v1`, to);
    await client.resolve(to);
  });
});

describe('a layout', () => {
  it('keeps other images, and takes several at once', async (t) => {
    const client = newClient(t);
    const layout = join(temporaryDirectory(t), 'layout');
    const names = ['oci', 'docker', 'zstd', 'plain', 'repeated', 'artifact'];
    await Promise.all(names.map((name) => client.copy(layoutOf(name), `oci:${layout}:${name}`, {preserveDigests: true})));
    await client.copy(layoutOf('index'), `oci:${layout}:index`, {all: true});
    for (const name of [...names, 'index']) {
      const {target} = await client.copy(`oci:${layout}:${name}`, `dir:${join(temporaryDirectory(t), 'x')}`, {all: true});
      assert.equal(target.digest, roots.get(name)!.digest);
    }
    await assert.rejects(client.copy(`oci:${layout}`, `oci:${layout}2`), is('invalid_argument'));
    await assert.rejects(client.copy(`oci:${layout}:nope`, `oci:${layout}2`), is('not_found'));
    // A name moves; what else is in the index stays.
    await client.copy(layoutOf('zstd'), `oci:${layout}:oci`);
    const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as {manifests: Descriptor[]};
    assert.equal(index.manifests.length, names.length + 1);
    assert.equal(
      (await client.copy(`oci:${layout}:oci`, `oci:${join(temporaryDirectory(t), 'x')}`)).target.digest,
      roots.get('zstd')!.digest,
    );
  });

  it('and a directory with other files are left alone', async (t) => {
    const client = newClient(t);
    const dir = temporaryDirectory(t);
    writeFileSync(join(dir, 'mine'), 'x');
    for (const transport of ['oci', 'dir'])
      await assert.rejects(client.copy(layoutOf('oci'), `${transport}:${dir}`), is('failed_precondition'));
    for (const transport of ['oci-archive', 'docker-archive'])
      await assert.rejects(client.copy(layoutOf('oci'), `${transport}:${join(dir, 'mine')}`), is('already_exists'));
    assert.deepEqual([readdirSync(dir), readFileSync(join(dir, 'mine'), 'utf8')], [['mine'], 'x']);
    await assert.rejects(client.copy(`oci:${join(dir, 'nope')}`, `oci:${join(dir, 'x')}`), is('not_found'));
    await assert.rejects(client.copy(`oci:${join(dir, 'mine')}`, `oci:${join(dir, 'x')}`), is('invalid_argument'));
  });
});

describe('a place in files', () => {
  const FILES = ['oci', 'dir'] as const;
  const nameIn = (transport: string): string => (transport === 'dir' ? '' : ':v1');

  for (const transport of FILES)
    it(`is made whole where a file of the right size has other bytes: ${transport}`, async (t) => {
      const client = newClient(t);
      const dir = temporaryDirectory(t);
      const place = `${transport}:${join(dir, 'place')}${nameIn(transport)}`;
      await client.copy(layoutOf('index'), place, {all: true});
      for (const path of readdirSync(join(dir, 'place'), {recursive: true, encoding: 'utf8'})) {
        const file = join(dir, 'place', path);
        if (!/[0-9a-f]{64}/.test(path) || !statSync(file).isFile()) continue;
        writeFileSync(file, Buffer.alloc(statSync(file).size, 'x'));
      }
      await client.copy(layoutOf('index'), place, {all: true});
      const {target} = await client.copy(place, `oci:${join(dir, 'check')}`, {all: true});
      assert.equal(target.digest, roots.get('index')!.digest);
    });

  for (const transport of FILES)
    for (const before of ['nothing', 'another image'])
      it(`has a whole image after several copies at once, of which some fail: ${transport}, with ${before} before`, async (t) => {
        const client = newClient(t);
        const fake = await startFakeRegistry(t);
        const dir = temporaryDirectory(t);
        const place = `${transport}:${join(dir, 'place')}${nameIn(transport)}`;
        if (before !== 'nothing') await client.copy(layoutOf('plain'), place);
        const [shared, mine, other] = [noise(1000, 10), noise(60_000, 11), noise(50_000, 12)];
        const good = fake.addImage('good', 'v1', [shared, mine]);
        const bad = fake.addImage('bad', 'v1', [shared, other]);
        const {promise: begun, resolve: onBegun} = Promise.withResolvers<void>();
        const {promise: ended, resolve: onEnded} = Promise.withResolvers<void>();
        // Where they do not wait for each other, one fails when the other has begun, and that goes on when all others have ended.
        fake.fault({path: new RegExp(bad.layers[1]!.digest), status: 403, until: Promise.race([begun, sleep(500)])});
        fake.fault({path: new RegExp(good.layers[1]!.digest), until: Promise.race([ended, sleep(1000)])});
        const fails = client.copy(`${fake.host}/bad:v1`, place);
        const slow = client.copy(`${fake.host}/good:v1`, place, {
          onEvent: ({ref, status}) => {
            if ((status === 'done' || status === 'exists') && ref.includes(good.layers[0]!.digest)) onBegun();
          },
        });
        const last = fails.catch(() => {}).then(() => client.copy(layoutOf('repeated'), place));
        last.catch(() => {}).finally(onEnded);
        const [failing, ...succeeding] = await Promise.allSettled([fails, slow, last]);
        assert.equal(failing!.status, 'rejected');
        const done = succeeding.flatMap((result) => (result.status === 'fulfilled' ? [result.value.target.digest] : []));
        // A new directory gets its name once: the later copy is told.
        assert.ok(done.length === 2 || (transport === 'dir' && before === 'nothing' && done.length === 1));
        const {target} = await client.copy(place, `dir:${join(dir, 'check')}`);
        assert.ok(done.includes(target.digest));
      });

  it('keeps the images, names and fields that others have written to index.json', async (t) => {
    const client = newClient(t);
    const layout = join(temporaryDirectory(t), 'layout');
    await client.copy(layoutOf('oci'), `oci:${layout}:v1`);
    const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as {manifests: Record<string, unknown>[]};
    const full = {'io.containerd.image.name': 'example.org/other:v2', 'org.opencontainers.image.ref.name': 'v2'};
    const exported = {...index.manifests[0], annotations: full, 'x-entry': 1};
    writeFileSync(join(layout, 'index.json'), JSON.stringify({...index, manifests: [...index.manifests, exported], 'x-index': [1]}));
    await client.copy(layoutOf('zstd'), `oci:${layout}:v2`);
    const after = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as typeof index & {'x-index': unknown};
    assert.deepEqual(after['x-index'], [1]);
    assert.deepEqual(after.manifests.slice(0, 2), [
      index.manifests[0],
      // The tag is another image's now; its full name is not.
      {...exported, annotations: {'io.containerd.image.name': 'example.org/other:v2'}},
    ]);
    const {target} = await client.copy(`oci:${layout}:v2`, `dir:${join(temporaryDirectory(t), 'x')}`);
    assert.equal(target.digest, roots.get('zstd')!.digest);
    await client.copy(`oci:${layout}:example.org/other:v2`, `dir:${join(temporaryDirectory(t), 'x')}`);
  });
});

describe('an archive', () => {
  it('of the same image is the same, byte for byte', async (t) => {
    const client = newClient(t);
    const dir = temporaryDirectory(t);
    for (const transport of ['oci-archive', 'docker-archive']) {
      const files = ['1', '2'].map((n) => join(dir, `${transport}${n}`));
      for (const path of files) await client.copy(layoutOf('docker'), `${transport}:${path}:app:v1`, {maxConcurrent: 1});
      assert.deepEqual(readFileSync(files[0]!), readFileSync(files[1]!));
    }
  });
});

describe('the name of a place', () => {
  for (const [text, expected] of [
    ['docker://redis', {transport: 'docker', ref: {domain: 'docker.io', path: 'library/redis', tag: 'latest'}}],
    ['host:5000/a/b:c', {transport: 'docker', ref: {domain: 'host:5000', path: 'a/b', tag: 'c'}}],
    ['oci:/a/b', {transport: 'oci', path: '/a/b'}],
    ['oci:/a/b:', {transport: 'oci', path: '/a/b'}],
    ['oci:/a/b:host:5000/c:d', {transport: 'oci', path: '/a/b', name: 'host:5000/c:d'}],
    ['oci-archive:/a.tar:v1', {transport: 'oci-archive', path: '/a.tar', name: 'v1'}],
    ['docker-archive:/a.tar:redis:7', {transport: 'docker-archive', path: '/a.tar', name: 'redis:7'}],
    ['dir:/a:b', {transport: 'dir', path: '/a:b'}],
  ] as const)
    it(text, () => assert.deepEqual(parsePlace(text), expected));
  it('in an error never shows credentials', () => {
    const [user, secret] = ['someone', 's3cr3t-p4ss'];
    const {below} = randomOf(SAMPLE, 40);
    const pick = (words: readonly string[]): string => words[below(words.length)]!;
    for (let i = 0; i < 500; i++) {
      const scheme = pick(['http://', 'https://', 'docker://', 'HTTP://', 'oci://', 'containers-storage:', 'docker-daemon:', '']);
      const name = pick(['host/x', 'host:5000/x/y:v1', 'host/x?token=1', 'h', 'host/X@sha256:00', 'host/x@y']);
      const text = `${scheme}${pick(['', '/', ' '])}${user}:${secret}@${name}`;
      try {
        parsePlace(text);
      } catch (err) {
        const {message, hint = ''} = err as ErrdefsError;
        assert.equal(`${message} ${hint}`.includes(secret), false, `${text}: ${message}`);
      }
    }
  });
  for (const text of ['', 'oci:', 'dir:', 'oci::x', 'containers-storage:x', 'docker-daemon:x:y', 'http://x/y', 'docker://', 'sif:/x'])
    it(`${JSON.stringify(text)} is refused`, () => assert.throws(() => parsePlace(text), is('invalid_argument')));
});
