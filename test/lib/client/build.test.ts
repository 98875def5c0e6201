/** Images made from images: what changes and what stays, and that other tools read the result. */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {Readable} from 'node:stream';
import {after, describe, it, type TestContext} from 'node:test';
import type {ImageRecord, NamespaceClient} from '../../../src/lib/client/types/index.ts';
import {codeOf} from '../../../src/lib/errdefs.ts';
import type {Descriptor} from '../../../src/lib/oci/descriptor.ts';
import {layerType, type MediaTypeFamily, OCI_INDEX} from '../../../src/lib/oci/mediatypes.ts';
import {digestOf, type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {is, newClient, requiresProgram, requiresRoot, temporaryDirectory, temporaryInMemory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {ARCHITECTURE} from '../../support/layouts.ts';
import {assertValidLayout} from '../../support/oci-schemas.ts';
import {
  COMPRESSIONS,
  compress,
  inflate,
  type PublishedImage,
  publishImage,
  readBlob,
  readDocument,
  writeLayout,
  writeSkopeoDirectory,
} from '../../support/published-images.ts';
import {dir, file, link, opaque, tar, whiteout} from '../../support/tartest.ts';
import {diffTrees, readTree} from '../../support/tree.ts';

temporaryInMemory({after});

const LAYERS = [
  tar(dir('etc', 0o750), file('etc/a', 'hello'.repeat(2000)), file('gone', 'x'), dir('old'), file('old/f')),
  tar(whiteout('gone'), link('etc/a', 'b'), dir('old'), opaque('old'), file('new', 'n'.repeat(3000), 0o4755)),
];

interface Document {
  readonly mediaType: string;
  readonly config: Descriptor;
  readonly layers: readonly (Descriptor & {readonly annotations?: Readonly<Record<string, string>>})[];
  readonly manifests: readonly Descriptor[];
  readonly annotations?: Readonly<Record<string, string>>;
}

interface Config {
  readonly created: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly rootfs: {readonly diff_ids: readonly string[]};
  readonly history?: readonly Readonly<Record<string, unknown>>[];
}

interface World {
  readonly registry: FakeRegistry;
  readonly namespace: NamespaceClient;
  readonly root: string;
  /** Adds and pulls an image. @returns its name */
  pull(name: string, layers: readonly Buffer[], options?: PublishedImage): Promise<string>;
}

async function world(t: TestContext): Promise<World> {
  const registry = await startFakeRegistry(t);
  const client = await newClient(t);
  const namespace = client.namespace('default');
  return {
    registry,
    namespace,
    root: client.root,
    pull: async (name, layers, options) => {
      publishImage(registry, name, layers, options);
      const {image} = await namespace.pull(`${registry.host}/${name}`, {unpack: false});
      return image.name;
    },
  };
}

async function read(namespace: NamespaceClient, image: Pick<ImageRecord, 'target'>): Promise<{manifest: Document; config: Config}> {
  const manifest = (await readDocument(namespace, image.target.digest)) as Document;
  return {manifest, config: await readDocument(namespace, manifest.config.digest)};
}

/** Checks that each layer is what manifest and config say. @returns the tars */
async function tarsOf(namespace: NamespaceClient, {manifest, config}: {manifest: Document; config: Config}): Promise<Buffer[]> {
  const tars: Buffer[] = [];
  for (const [i, layer] of manifest.layers.entries()) {
    const blob = await readBlob(namespace, layer.digest);
    const {compression, bytes} = inflate(blob);
    assert.equal(blob.length, layer.size);
    assert.equal(layer.mediaType, layerType(manifest.mediaType.includes('docker') ? 'docker' : 'oci', compression));
    assert.equal(digestOf(bytes), config.rootfs.diff_ids[i]);
    tars.push(bytes);
  }
  assert.equal(tars.length, config.rootfs.diff_ids.length);
  const told = config.history?.filter(({empty_layer: isEmpty}) => isEmpty !== true).length;
  assert.ok(told === undefined || told === tars.length, `${told} layers in the history of ${tars.length}`);
  return tars;
}

/** Nothing is under way, nothing is left that nobody names, and all documents are what the specification wants. */
async function assertTidy(t: TestContext, {namespace, root}: World): Promise<void> {
  for (const {name} of await namespace.images.records()) {
    const layout = temporaryDirectory(t);
    await writeLayout(namespace, name, layout);
    assert.ok(assertValidLayout(layout) > 2);
  }
  assert.deepEqual(await namespace.content.active(), []);
  assert.deepEqual(await namespace.leases.list(), []);
  assert.deepEqual(checkStore(root), []);
}

/** skopeo copies the image, which has it check digests and inflate layers. */
async function assertSkopeoReads(t: TestContext, namespace: NamespaceClient, name: string): Promise<void> {
  const work = temporaryDirectory(t);
  await writeSkopeoDirectory(namespace, name, join(work, 'image'));
  const to = `docker-archive:${join(work, 'copy.tar')}`;
  const {status, stderr} = spawnSync('skopeo', ['--insecure-policy', '--tmpdir', work, 'copy', `dir:${join(work, 'image')}`, to], {
    encoding: 'utf8',
  });
  assert.equal(status, 0, stderr);
}

describe('images convert', () => {
  for (const family of ['oci', 'docker'] as const)
    for (const compression of COMPRESSIONS.filter((one) => family === 'oci' || one !== 'zstd'))
      it(`changes media types and compression, never contents, from ${family} with ${compression}`, async (t) => {
        if (!requiresProgram(t, 'skopeo')) return;
        const w = await world(t);
        const {namespace} = w;
        const source = await w.pull('app', LAYERS, {family, compression});
        const before = await read(namespace, await namespace.images.get(source));
        for (const format of ['oci', 'docker'] as const satisfies readonly MediaTypeFamily[])
          for (const wanted of [undefined, ...COMPRESSIONS]) {
            const call = (target: string): Promise<ImageRecord> =>
              namespace.images.convert(source, target, {format, ...(wanted === undefined ? {} : {compression: wanted})});
            const target = `local/${format}:${wanted ?? 'same'}`;
            if (format === 'docker' && wanted === 'zstd') {
              await assert.rejects(call(target), is('invalid_argument'));
              continue;
            }
            const image = await call(target);
            const after = await read(namespace, image);
            assert.match(after.manifest.mediaType, format === 'docker' ? /docker/ : /oci/);
            assert.equal(after.manifest.config.digest, before.manifest.config.digest);
            assert.deepEqual(await tarsOf(namespace, after), LAYERS);
            // What has the form already is shared, docker's lack of zstd aside.
            const expected = wanted ?? (format === 'docker' && compression === 'zstd' ? 'gzip' : compression);
            for (const [i, {digest}] of after.manifest.layers.entries())
              assert.equal(digest === before.manifest.layers[i]!.digest, expected === compression, `${target} layer ${i}`);
            if (wanted === 'zstd')
              assert.equal((await call('local/again:1')).target.digest, image.target.digest, 'the same input, the same digest');
            if (wanted === undefined && format === family)
              assert.equal(image.target.digest, (await namespace.images.get(source)).target.digest);
            if (compression === 'gzip' && format !== family) await assertSkopeoReads(t, namespace, image.name);
          }
        await assertTidy(t, w);
      });

  it('takes levels', async (t) => {
    const w = await world(t);
    const source = await w.pull('app', LAYERS, {compression: 'none'});
    const sizes = [];
    for (const [compression, level] of [
      ['gzip', 1],
      ['gzip', 9],
      ['zstd', 1],
      ['zstd', 22],
    ] as const) {
      const {manifest, config} = await read(w.namespace, await w.namespace.images.convert(source, 'x', {compression, level}));
      await tarsOf(w.namespace, {manifest, config});
      sizes.push(manifest.layers[0]!.size);
    }
    assert.ok(sizes[0]! > sizes[1]!, `${sizes}`);
    for (const wrong of [
      {level: 3},
      {compression: 'none', level: 1},
      {compression: 'gzip', level: 10},
      {compression: 'zstd', level: 23},
    ] as const)
      await assert.rejects(w.namespace.images.convert(source, 'y', wrong), is('invalid_argument'));
    await assertTidy(t, w);
  });

  it('refuses a layer whose content is not what the config says, and names nothing', async (t) => {
    const w = await world(t);
    const source = await w.pull('app', LAYERS, {
      config: {rootfs: {type: 'layers', diff_ids: [digestOf(LAYERS[0]!), digestOf(LAYERS[0]!)]}},
    });
    for (const make of [
      () => w.namespace.images.convert(source, 'x', {compression: 'none'}),
      () => w.namespace.images.flatten(source, 'x'),
    ])
      await assert.rejects(make(), {code: 'failed_precondition', message: /unpacks to sha256:.*the image's config says/});
    assert.deepEqual(
      (await w.namespace.images.records()).map(({name}) => name),
      [source],
    );
    await assertTidy(t, w);
  });

  it('of a foreign layer keeps its type and its URLs as long as its bytes are the same, and no longer', async (t) => {
    const w = await world(t);
    for (const family of ['oci', 'docker'] as const)
      for (const compression of COMPRESSIONS.filter((one) => one !== 'zstd' || family === 'oci')) {
        const source = await w.pull(`${family}-${compression}`, LAYERS, {family, compression, foreign: true});
        const before = (await read(w.namespace, await w.namespace.images.get(source))).manifest;
        for (const options of [
          {format: 'oci'},
          {format: 'docker'},
          {compression: 'gzip'},
          {compression: 'gzip', level: 9},
          {compression: 'none'},
        ] as const) {
          const {manifest} = await read(w.namespace, await w.namespace.images.convert(source, 'made', options));
          for (const [i, {digest, mediaType, urls}] of manifest.layers.entries()) {
            const isSame = digest === before.layers[i]!.digest;
            assert.deepEqual(
              [urls !== undefined, /foreign|nondistributable/.test(mediaType)],
              [isSame, isSame],
              `${family} ${compression} ${JSON.stringify(options)}`,
            );
          }
        }
      }
  });

  it('keeps annotations, labels and unknown fields, but not what described the compressed bytes', async (t) => {
    const w = await world(t);
    const layer = w.registry.addBlob(compress('gzip', LAYERS[0]!), layerType('oci', 'gzip'));
    const config = w.registry.addBlob(
      Buffer.from(JSON.stringify({os: 'linux', architecture: ARCHITECTURE, rootfs: {type: 'layers', diff_ids: [digestOf(LAYERS[0]!)]}})),
      'application/vnd.oci.image.config.v1+json',
    );
    const annotations = {'containerd.io/snapshot/stargz/toc.digest': 'sha256:00', kept: 'yes'};
    const document = {
      schemaVersion: 2,
      config,
      layers: [{...layer, annotations, data: 'AA=='}],
      annotations: {of: 'the manifest'},
      'org.example.unknown': [1],
    };
    w.registry.addManifest('app', document, 'application/vnd.oci.image.manifest.v1+json', 'latest');
    const {image: source} = await w.namespace.pull(`${w.registry.host}/app`, {unpack: false, labels: {mine: 'x'}});
    const image = await w.namespace.images.convert(source.name, 'x', {compression: 'zstd'});
    const made = (await readDocument(w.namespace, image.target.digest)) as Record<string, unknown> & Document;
    assert.deepEqual(image.labels, {mine: 'x'});
    assert.deepEqual(
      [made.annotations, made['org.example.unknown'], made.layers[0]!.annotations],
      [{of: 'the manifest'}, [1], {kept: 'yes'}],
    );
    assert.ok(!('data' in made.layers[0]!));
  });
});

describe('an index', () => {
  it('stays one, with the chosen manifests and without attestations', async (t) => {
    const w = await world(t);
    const {registry, namespace} = w;
    const [here, other] = [ARCHITECTURE, 's390x'].map((architecture) =>
      publishImage(registry, `for-${architecture}`, LAYERS, {architecture}),
    );
    const attestation = {...publishImage(registry, 'about', [Buffer.from('{}')]), platform: {os: 'unknown', architecture: 'unknown'}};
    for (const child of [here!, other!, attestation])
      registry.addManifest(
        'multi',
        Buffer.from(await bytesOf(registry, child)),
        child.mediaType,
        `c${child.size}-${child.digest.slice(7, 15)}`,
      );
    registry.addIndex('multi', 'latest', [here!, other!, attestation]);
    const {image} = await namespace.pull(`${registry.host}/multi`, {allPlatforms: true, unpack: false});
    const platforms = async (name: string): Promise<readonly (string | undefined)[]> => {
      const {mediaType, manifests} = (await readDocument(namespace, (await namespace.images.get(name)).target.digest)) as Document;
      assert.equal(mediaType, OCI_INDEX);
      return manifests.map(({platform}) => platform?.architecture);
    };
    await namespace.images.mutate(image.name, 'one', {env: ['A=b']});
    assert.deepEqual(await platforms('one'), [ARCHITECTURE]);
    await namespace.images.mutate(image.name, 'other', {env: ['A=b'], platforms: ['linux/s390x']});
    assert.deepEqual(await platforms('other'), ['s390x']);
    await namespace.images.flatten(image.name, 'all', {platforms: [`linux/${ARCHITECTURE}`, 'linux/s390x']});
    assert.deepEqual(await platforms('all'), [ARCHITECTURE, 's390x']);
    await assertTidy(t, w);
  });
});

/** A manifest's bytes, as the registry has them. */
async function bytesOf(registry: FakeRegistry, {digest}: Descriptor): Promise<Buffer> {
  for (const name of [`for-${ARCHITECTURE}`, 'for-s390x', 'about']) {
    const response = await fetch(`http://${registry.host}/v2/${name}/manifests/${digest}`);
    const body = Buffer.from(await response.arrayBuffer());
    if (response.ok) return body;
  }
  return assert.fail(`no manifest ${digest}`);
}

describe('images flatten', () => {
  it('makes one layer with the tree that umoci unpacks from the source', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'umoci', 'getfattr')) return;
    const w = await world(t);
    const source = await w.pull('app', LAYERS);
    for (const compression of COMPRESSIONS) {
      const image = await w.namespace.images.flatten(source, `flat:${compression}`, {compression});
      const after = await read(w.namespace, image);
      assert.equal((await tarsOf(w.namespace, after)).length, 1);
      assert.deepEqual(after.config.config, (await read(w.namespace, await w.namespace.images.get(source))).config.config);
      assert.equal((await w.namespace.images.flatten(source, 'again', {compression})).target.digest, image.target.digest);
      if (compression === 'zstd') continue; // umoci does not read it
      const trees = [];
      for (const name of [source, image.name]) {
        const work = temporaryDirectory(t);
        await writeLayout(w.namespace, name, join(work, 'layout'));
        const {status, stderr} = spawnSync('umoci', ['raw', 'unpack', '--image', `${work}/layout:latest`, join(work, 'tree')], {
          encoding: 'utf8',
        });
        assert.equal(status, 0, stderr);
        trees.push(readTree(join(work, 'tree')));
      }
      const lines = diffTrees(trees[0]!, trees[1]!, {ignore: (path, field) => path === '.' && field === 'mtime'});
      assert.deepEqual(lines, []);
    }
    await assertTidy(t, w);
  });
});

describe('images append', () => {
  it('adds layers of any compression, as they are or as asked for', async (t) => {
    if (!requiresProgram(t, 'skopeo')) return;
    const w = await world(t);
    const work = temporaryDirectory(t);
    for (const family of ['oci', 'docker'] as const) {
      const source = await w.pull(family, LAYERS, {family});
      for (const compression of COMPRESSIONS) {
        const path = join(work, compression);
        const added = tar(file(`added-${compression}`, 'x'.repeat(5000)));
        const bytes = compress(compression, added);
        writeFileSync(path, bytes);
        const image = await w.namespace.images.append(source, 'made', [path, path]);
        const after = await read(w.namespace, image);
        assert.deepEqual(await tarsOf(w.namespace, after), [...LAYERS, added, added]);
        const isKept = compression === 'gzip' || (compression === 'zstd' && family === 'oci');
        assert.equal(after.manifest.layers.at(-1)!.digest === digestOf(bytes), isKept);
        assert.equal(after.config.history!.length, 4);
        const plain = await read(w.namespace, await w.namespace.images.append(source, 'made', [path], {compression: 'none'}));
        assert.deepEqual(await readBlob(w.namespace, plain.manifest.layers.at(-1)!.digest), added);
        const streamed = await w.namespace.images.append(source, 'streamed', [
          Readable.from([bytes.subarray(0, 3), bytes.subarray(3)]),
          path,
        ]);
        assert.deepEqual(streamed.target, (await w.namespace.images.append(source, 'made', [path, path])).target);
        if (compression === 'zstd') await assertSkopeoReads(t, w.namespace, image.name);
      }
    }
    await assertTidy(t, w);
  });

  it('refuses what is no tar, and leaves everything as it was', async (t) => {
    const w = await world(t);
    const source = await w.pull('app', LAYERS);
    const path = join(temporaryDirectory(t), 'layer');
    const gzip = compress('gzip', LAYERS[0]!);
    for (const [bytes, code] of [
      [Buffer.alloc(0), 'invalid_argument'],
      [Buffer.from('no tar at all'), 'data_loss'],
      [LAYERS[0]!.subarray(0, 700), 'data_loss'],
      [gzip.subarray(0, gzip.length - 9), 'data_loss'],
      [Buffer.concat([gzip, Buffer.from('rest')]), 'data_loss'],
    ] as const) {
      writeFileSync(path, bytes);
      await assert.rejects(w.namespace.images.append(source, 'x', [path]), is(code));
      await assert.rejects(w.namespace.images.append(source, 'x', [Readable.from([bytes])]), is(code));
    }
    await assert.rejects(w.namespace.images.append(source, 'x', ['/nowhere']), {code: 'not_found', message: /^layer "\/nowhere": /});
    await assert.rejects(w.namespace.images.append(source, 'x', []), is('invalid_argument'));
    assert.deepEqual(
      (await w.namespace.images.records()).map(({name}) => name),
      [source],
    );
    await assertTidy(t, w);
  });
});

describe('images mutate', () => {
  const CASES: readonly (readonly [options: object, expected: object])[] = [
    [{env: ['A=1', 'PATH=/x', 'A=2']}, {Env: ['PATH=/x', 'A=2']}],
    [{env: ['PATH', 'NONE']}, {Env: []}],
    [{labels: ['b=', 'a']}, {Labels: {b: ''}}],
    [{entrypoint: ['/app', '-v']}, {Entrypoint: ['/app', '-v'], Cmd: undefined}],
    [
      {entrypoint: ['/app'], cmd: ['x']},
      {Entrypoint: ['/app'], Cmd: ['x']},
    ],
    [{cmd: []}, {Cmd: undefined}],
    [
      {user: '1:2', workdir: '/w'},
      {User: '1:2', WorkingDir: '/w'},
    ],
    [
      {user: '', workdir: ''},
      {User: undefined, WorkingDir: undefined},
    ],
    [{expose: ['80', '53/udp', '8000-8010/tcp']}, {ExposedPorts: {'80/tcp': {}, '53/udp': {}, '8000-8010/tcp': {}}}],
  ];

  it('changes what is asked for and nothing else', async (t) => {
    const w = await world(t);
    const source = await w.pull('app', LAYERS);
    const before = await read(w.namespace, await w.namespace.images.get(source));
    for (const [options, expected] of CASES) {
      const after = await read(w.namespace, await w.namespace.images.mutate(source, 'x', {...options, comment: 'why'}));
      const {config, history, ...rest} = after.config;
      const {config: was, history: had, ...others} = before.config;
      assert.deepEqual(config, JSON.parse(JSON.stringify({...was, ...expected})), JSON.stringify(options));
      assert.deepEqual(rest, others);
      assert.deepEqual(history, [
        ...had!,
        {created: before.config.created, created_by: 'berth images mutate', comment: 'why', empty_layer: true},
      ]);
      assert.deepEqual(after.manifest.layers, before.manifest.layers);
    }
    await assertTidy(t, w);
  });

  it('sets times and annotations, which docker has not', async (t) => {
    const w = await world(t);
    const source = await w.pull('app', LAYERS, {annotations: {a: '1', b: '2'}});
    const created = '2020-02-03T04:05:06Z';
    const after = await read(w.namespace, await w.namespace.images.mutate(source, 'x', {created, annotations: ['c=3', 'a']}));
    assert.deepEqual([after.config.created, after.config.history!.at(-1)!.created], [created, created]);
    assert.deepEqual(after.manifest.annotations, {b: '2', c: '3'});
    const docker = await w.pull('docker', LAYERS, {family: 'docker'});
    await assert.rejects(w.namespace.images.mutate(docker, 'y', {annotations: ['a=1']}), is('failed_precondition'));
    for (const wrong of [{expose: ['99x']}, {expose: ['0']}, {env: ['=x']}, {labels: ['']}, {created: 'yesterday'}])
      await assert.rejects(w.namespace.images.mutate(source, 'y', wrong), is('invalid_argument'));
  });
});

describe('images rebase', () => {
  const NEW = [tar(file('new-base', '1')), tar(file('new-base-2', '2')), tar(file('new-base-3', '3'))];
  const TOP = tar(file('app', 'x'));

  it('puts the upper layers on the new base, whatever compresses the layers', async (t) => {
    if (!requiresProgram(t, 'skopeo')) return;
    const w = await world(t);
    const oldBase = await w.pull('old', LAYERS, {compression: 'none', family: 'docker'});
    for (const family of ['oci', 'docker'] as const)
      for (const compression of COMPRESSIONS) {
        const newBase = await w.pull('base', NEW, {compression});
        const source = await w.pull('app', [...LAYERS, TOP], {family, exec: {Cmd: ['/app']}});
        const image = await w.namespace.images.rebase(source, 'x', {oldBase, newBase});
        const after = await read(w.namespace, image);
        assert.deepEqual(await tarsOf(w.namespace, after), [...NEW, TOP]);
        assert.deepEqual(after.config.config.Cmd, ['/app']);
        assert.deepEqual(
          after.config.history!.map(({created_by: by}) => by),
          ['layer 0', 'layer 1', 'layer 2', 'layer 2'],
        );
        assert.equal(after.manifest.annotations?.['org.opencontainers.image.base.name'], family === 'oci' ? newBase : undefined);
        assert.equal((await w.namespace.images.rebase(source, 'y', {oldBase, newBase})).target.digest, image.target.digest);
        // And back again, to what it was.
        const back = await read(w.namespace, await w.namespace.images.rebase('x', 'z', {oldBase: newBase, newBase: oldBase}));
        assert.deepEqual(await tarsOf(w.namespace, back), [...LAYERS, TOP]);
        if (compression === 'zstd') await assertSkopeoReads(t, w.namespace, image.name);
      }
    await assertTidy(t, w);
  });

  it('finds both bases by the annotations, and says what to pull where the old one is gone', async (t) => {
    const w = await world(t);
    for (const isIndex of [false, true]) {
      const publish = (layers: readonly Buffer[]): Descriptor => {
        const one = publishImage(w.registry, 'base', layers);
        return isIndex
          ? w.registry.addManifest('base', {schemaVersion: 2, mediaType: OCI_INDEX, manifests: [one]}, OCI_INDEX, 'latest')
          : one;
      };
      const pull = async (ref: string): Promise<string> =>
        (await w.namespace.pull(`${w.registry.host}/${ref}`, {unpack: false})).image.name;
      const {digest} = publish(LAYERS);
      const newBase = await pull('base');
      const annotations = {'org.opencontainers.image.base.name': newBase, 'org.opencontainers.image.base.digest': digest};
      const source = await w.pull('app', [...LAYERS, TOP], {annotations});
      publish(NEW);
      await pull('base');
      const missing = `${w.registry.host}/base:latest@${digest}`;
      await assert.rejects(w.namespace.images.rebase(source, 'x'), {code: 'not_found', hint: new RegExp(`pull ${missing}$`)});
      const oldBase = await pull(`base:latest@${digest}`);
      const image = await w.namespace.images.rebase(source, 'x');
      assert.deepEqual(await tarsOf(w.namespace, await read(w.namespace, image)), [...NEW, TOP]);
      assert.deepEqual((await w.namespace.images.rebase(source, 'y', {oldBase, newBase})).target, image.target);
      const without = await w.pull('bare', [...LAYERS, TOP]);
      await assert.rejects(w.namespace.images.rebase(without, 'x'), is('failed_precondition'));
      for (const {name} of await w.namespace.images.records()) await w.namespace.images.delete(name);
    }
    await assertTidy(t, w);
  });

  it('refuses an image that does not begin with the old base', async (t) => {
    const w = await world(t);
    const newBase = await w.pull('base', NEW);
    for (const [layers, of] of [
      [[LAYERS[1]!, LAYERS[0]!], LAYERS],
      [[LAYERS[0]!], LAYERS],
      [[TOP], LAYERS],
    ] as const) {
      const [source, oldBase] = [await w.pull('app', layers), await w.pull('old', of)];
      await assert.rejects(w.namespace.images.rebase(source, 'x', {oldBase, newBase}), {
        code: 'failed_precondition',
        message: /is not based on/,
      });
    }
    await assertTidy(t, w);
  });
});

describe('an image that is made from another', () => {
  it('needs all of the content, and says what is missing and how to get it', async (t) => {
    const w = await world(t);
    const source = await w.pull('app', LAYERS);
    const {manifest} = await read(w.namespace, await w.namespace.images.get(source));
    await w.namespace.content.delete(manifest.layers[0]!.digest);
    for (const make of [
      () => w.namespace.images.convert(source, 'x', {compression: 'none'}),
      () => w.namespace.images.flatten(source, 'x'),
      () => w.namespace.images.mutate(source, 'x', {user: 'me'}),
    ])
      await assert.rejects(make(), (err: Error & {hint?: string}) => is('not_found')(err) && /pull it/.test(err.hint ?? ''));
    assert.deepEqual(await w.namespace.leases.list(), []);
  });

  it('may take the name of its source, and what only the source had is collected', async (t) => {
    const w = await world(t);
    const source = await w.pull('app', LAYERS);
    await w.namespace.images.flatten(source, source);
    assert.equal((await w.namespace.images.records()).length, 1);
    assert.equal((await w.namespace.content.list()).length, 3);
    await assertTidy(t, w);
  });

  it('is made many times at once, and while its source is removed, with one result or a clear refusal', async (t) => {
    const w = await world(t);
    const source = await w.pull('app', LAYERS);
    const clients = await Promise.all(Array.from({length: 6}, () => newClient(t, {root: w.root})));
    const make = ({namespace}: (typeof clients)[number], target: string): Promise<ImageRecord> =>
      namespace('default').images.flatten(source, target, {compression: 'none'});
    const made = await Promise.all(clients.map((client, i) => make(client, i % 2 === 0 ? 'same' : `own:${i}`)));
    assert.equal(new Set(made.map(({target}) => target.digest)).size, 1);
    const [removed, ...others] = await Promise.allSettled([
      w.namespace.images.delete(source),
      ...clients.map((client) => make(client, 'late')),
    ]);
    assert.equal(removed.status, 'fulfilled');
    for (const one of others)
      if (one.status === 'rejected') assert.ok(['not_found', 'aborted'].includes(codeOf(one.reason)), String(one.reason));
    await assertTidy(t, w);
  });

  it('is no artifact', async (t) => {
    const w = await world(t);
    const config = w.registry.addBlob(Buffer.from('{}'), 'application/vnd.example');
    const document = {schemaVersion: 2, config, layers: [config]};
    w.registry.addManifest('artifact', document, 'application/vnd.oci.image.manifest.v1+json', 'latest');
    const {image} = await w.namespace.pull(`${w.registry.host}/artifact`, {unpack: false});
    await assert.rejects(w.namespace.images.mutate(image.name, 'x', {user: 'me'}), is('failed_precondition'));
  });
});
