/**
 * Import and export of archives. Oracles: the layout that was imported, an export of what was imported, and that whatever damage an archive
 * has is of the right class and leaves nothing.
 */
import assert from 'node:assert/strict';
import {closeSync, existsSync, lstatSync, mkdirSync, openSync, readdirSync, readFileSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {Writable} from 'node:stream';
import {after, describe, it, type TestContext} from 'node:test';
import {gzipSync, zstdCompressSync} from 'node:zlib';
import {DOCKER_FILE, INDEX_FILE, MAX_LAYOUT_BYTES, OCI_LAYOUT_FILE} from '../../../src/lib/archive/archive-documents.ts';
import {MAX_ARCHIVE_ENTRIES} from '../../../src/lib/archive/outer-tar-reader.ts';
import type {Client, ImportOptions} from '../../../src/lib/client/types/index.ts';
import {type Code, codeOf, ErrdefsError} from '../../../src/lib/errdefs.ts';
import {digestOf} from '../../../src/lib/oci/hash.ts';
import {is, newClient, requiresRoot, SAMPLE, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {ARCHITECTURE, addBlob, addImage, addIndex, addJSON, setTarget} from '../../support/layouts.ts';
import {dir, encode, file, link, symlink, type TarEntry, tar, whiteout} from '../../support/tartest.ts';

/** Large enough to be stored, not kept in memory; incompressible. */
const noise = (bytes: number, seed: number): Buffer => {
  const buffer = Buffer.alloc(bytes);
  let state = seed;
  for (let i = 0; i < bytes; i++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    buffer[i] = state >>> 24;
  }
  return buffer;
};

const LAYERS = [
  tar(dir('etc', 0o750), file('etc/a', noise(40_000, 1)), link('etc/a', 'etc/b'), symlink('a', 'etc/c')),
  tar(file('etc/d', 'has an implicit parent'), whiteout('etc/b'), file('noise', noise(30_000, 2))),
];
const NAME = 'registry.example/app:1';

/** Entries of an OCI layout's tar, from a directory. */
function entriesOf(layout: string): TarEntry[] {
  const names = readdirSync(layout, {recursive: true, withFileTypes: true})
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(layout.length + 1));
  return names.sort().map((name) => file(name, readFileSync(join(layout, name))));
}

function makeLayout(t: TestContext, options: Partial<Parameters<typeof addImage>[1]> = {}): string {
  const layout = temporaryDirectory(t, 'berth-layout-');
  const {mediaType, digest, size} = addImage(layout, {layers: LAYERS, ...options});
  writeFileSync(join(layout, OCI_LAYOUT_FILE), '{"imageLayoutVersion":"1.0.0"}');
  const annotations = {'io.containerd.image.name': NAME, 'org.opencontainers.image.ref.name': '1'};
  writeFileSync(join(layout, INDEX_FILE), JSON.stringify({schemaVersion: 2, manifests: [{mediaType, digest, size, annotations}]}));
  return layout;
}

/** Entries of what `docker save` writes. */
function dockerEntries(names: readonly string[] = ['app:1', 'registry.example/app:2'], layers: readonly Buffer[] = LAYERS): TarEntry[] {
  const config = Buffer.from(
    JSON.stringify({
      architecture: ARCHITECTURE,
      os: 'linux',
      config: {Cmd: ['<sh>']},
      rootfs: {type: 'layers', diff_ids: LAYERS.map((layer) => digestOf(layer))},
    }),
  );
  const name = `${digestOf(config).slice('sha256:'.length)}.json`;
  return [
    ...layers.map((layer, i) => file(`layer${i}/layer.tar`, layer)),
    ...layers.map((_, i) => file(`layer${i}/VERSION`, '1.0')),
    file(name, config),
    file(DOCKER_FILE, JSON.stringify([{Config: name, RepoTags: names, Layers: layers.map((_, i) => `layer${i}/layer.tar`)}])),
    file('repositories', '{}'),
  ];
}

async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** Every way in which the same archive may come. */
const WAYS: Readonly<Record<string, (t: TestContext, bytes: Buffer) => string | AsyncIterable<Uint8Array>>> = {
  'a file': (t, bytes) => written(t, bytes),
  'a gzip file': (t, bytes) => written(t, gzipSync(bytes)),
  'a zstd file': (t, bytes) => written(t, zstdCompressSync(bytes)),
  'a stream': (_, bytes) => inPieces(bytes, 8191),
  'a gzip stream': (_, bytes) => inPieces(gzipSync(bytes), 4099),
};

function written(t: TestContext, bytes: Buffer): string {
  const path = join(temporaryDirectory(t), 'images.tar');
  writeFileSync(path, bytes);
  return path;
}

const SNAPSHOTTER = 'overlayfs';

/** Names in a directory of a store; none when there is no such directory. */
const namesIn = ({root}: Client, path: string): readonly string[] =>
  existsSync(join(root, path)) ? readdirSync(join(root, path)).sort() : [];

/** Records, blobs, layers and leftovers of a store. */
async function contentsOf(client: Client, namespace = 'default'): Promise<unknown> {
  const ns = client.namespace(namespace);
  return {
    images: (await ns.images.records()).map(({name, target}) => [name, target]),
    content: (await ns.content.list()).map(({digest, labels}) => [digest, labels]),
    snapshots: (await ns.snapshots(SNAPSHOTTER).list()).map(({key, parent}) => [key, parent]),
    leases: (await ns.leases.list()).length,
    files: ['content/blobs/sha256', 'content/ingest', 'layers', 'work', 'trash'].map((path) => namesIn(client, path)),
  };
}

const importInto = (client: Client, source: string | AsyncIterable<Uint8Array>, options: ImportOptions = {}, namespace = 'default') =>
  client.namespace(namespace).images.import(source, {snapshotter: SNAPSHOTTER, unpack: process.getuid?.() === 0, ...options});

async function exported(t: TestContext, client: Client, names: readonly string[], namespace = 'default'): Promise<Buffer> {
  const path = join(temporaryDirectory(t), 'out.tar');
  await client.namespace(namespace).images.export(path, names);
  assert.deepEqual(readdirSync(join(path, '..')), ['out.tar'], 'and nothing beside it');
  return readFileSync(path);
}

/** Two stores for all tests: their threads start once. */
const first = await newClient({after});
const second = await newClient({after});
async function emptied(client: Client): Promise<Client> {
  for (const {name} of await client.namespaces.list()) await client.namespaces.delete(name, {recursive: true});
  return client;
}

describe('an archive', () => {
  for (const compression of ['gzip', 'zstd', 'none'] as const)
    it(`gives the same store whichever way it comes, with ${compression} layers, and exports to the same bytes`, async (t) => {
      const entries = entriesOf(makeLayout(t, {compression}));
      const orders = {sorted: entries, ...(compression === 'gzip' ? {reversed: [...entries].reverse()} : {})};
      let expected: unknown;
      let archive: Buffer | undefined;
      for (const [order, list] of Object.entries(orders))
        for (const [way, open] of Object.entries(WAYS).filter(([name]) => compression === 'gzip' || !name.includes('gzip'))) {
          const client = await emptied(first);
          const result = await importInto(client, open(t, tar(...list)));
          assert.deepEqual(
            result.images.map(({name}) => name),
            [NAME],
          );
          const contents = await contentsOf(client);
          expected ??= contents;
          assert.deepEqual(contents, expected, `${order}, ${way}`);
          const bytes = await exported(t, client, [NAME]);
          archive ??= bytes;
          assert.ok(bytes.equals(archive), `${order}, ${way}`);
          assert.deepEqual(checkStore(client.root), []);
        }
      // What was exported is the layout again, with docker's list beside it.
      const again = await emptied(second);
      await importInto(again, inPieces(archive!, 1 << 16));
      assert.ok((await exported(t, again, [NAME])).equals(archive!));
      const layout = temporaryDirectory(t);
      await again.namespace('default').images.export(`${layout}/`, [NAME]);
      const fromDirectory = await emptied(first);
      await importInto(fromDirectory, layout);
      assert.deepEqual(await contentsOf(fromDirectory), expected);
      const {findings} = await fromDirectory.check({deep: true});
      assert.deepEqual(findings, []);
    });

  it('of docker gives the same store whichever way it comes, and has its tags', async (t) => {
    let expected: unknown;
    for (const list of [dockerEntries(), [...dockerEntries()].reverse()])
      for (const [way, open] of Object.entries(WAYS)) {
        const client = await emptied(first);
        const {images} = await importInto(client, open(t, tar(...list)));
        assert.deepEqual(
          images.map(({name}) => name),
          ['docker.io/library/app:1', 'registry.example/app:2'],
        );
        const contents = await contentsOf(client);
        expected ??= contents;
        assert.deepEqual(contents, expected, way);
        assert.deepEqual(checkStore(client.root), []);
      }
  });

  it('of docker may have links for layers, and compressed layers', async (t) => {
    const [lower, upper, ...rest] = dockerEntries();
    const linked = [{...symlink('../shared/layer.tar', 'layer0/layer.tar')}, link('shared/second.tar', 'layer1/layer.tar'), ...rest];
    const shared = [file('shared/layer.tar', lower!.content!), file('shared/second.tar', upper!.content!)];
    const plain = await emptied(second);
    await importInto(plain, written(t, tar(lower!, upper!, ...rest)));
    for (const list of [
      [...linked, ...shared],
      [...shared, ...linked],
    ])
      for (const way of ['a file', 'a stream']) {
        const client = await emptied(first);
        await importInto(client, WAYS[way]!(t, tar(...list)));
        assert.deepEqual(await contentsOf(client), await contentsOf(plain));
      }
    const packed = dockerEntries(
      ['app:1'],
      LAYERS.map((layer) => gzipSync(layer)),
    );
    const digests = new Set<string>();
    for (const open of Object.values(WAYS))
      digests.add((await importInto(await emptied(first), open(t, tar(...packed)), {unpack: false})).images[0]!.target.digest);
    assert.equal(digests.size, 1);
  });
});

/** What may be wrong with an entry. @returns entries in its place; `undefined` where the damage makes no difference to it */
const DAMAGES: Readonly<Record<string, (entry: TarEntry) => readonly (TarEntry | Buffer)[] | undefined>> = {
  missing: () => [],
  empty: (entry) => [{...entry, content: Buffer.alloc(0)}],
  'one bit': (entry) => {
    const content = Buffer.from(entry.content!);
    content[content.length >> 1]! ^= 1;
    return [{...entry, content}];
  },
  shorter: (entry) => [{...entry, content: entry.content!.subarray(0, -1)}],
  longer: (entry) => [{...entry, content: Buffer.concat([entry.content!, Buffer.from(' x')])}],
  twice: (entry) => [entry, entry],
  'twice, the second other': (entry) => [entry, {...entry, content: Buffer.from('other')}],
  'a directory': (entry) => [dir(entry.name)],
  'a device': (entry) => [{...entry, typeflag: '3', content: Buffer.alloc(0)}],
  'a link to itself': (entry) => [symlink(entry.name.split('/').at(-1)!, entry.name)],
  'a link out': (entry) => [symlink('../../../../etc/passwd', entry.name)],
  'an absolute link': (entry) => [symlink('/etc/passwd', entry.name)],
  'a hard link out': (entry) => [link('../etc/passwd', entry.name)],
  'another name': (entry) => [{...entry, name: `../${entry.name}`}],
  'a size below 0': (entry) => [{...entry, pax: {size: '-1'}}],
  'a size of 8 EiB': (entry) => [{...entry, pax: {size: '9223372036854775807'}}],
  'a wrong checksum': (entry) => {
    const bytes = encode(entry);
    bytes[0]! ^= 1;
    return [bytes];
  },
  'an end after its header': (entry) => [encode(entry).subarray(0, 512 + (entry.content!.length >> 1))],
};

/** Classes that say that the archive is at fault. */
const CLASSES: readonly Code[] = ['data_loss', 'invalid_argument', 'failed_precondition', 'not_found', 'not_implemented'];

describe('a damaged archive', () => {
  const kinds: Readonly<Record<string, (t: TestContext) => TarEntry[]>> = {
    oci: (t) => entriesOf(makeLayout(t)),
    docker: () => dockerEntries(['app:1']).filter(({name}) => !/VERSION|repositories/.test(name)),
  };
  for (const [kind, entries] of Object.entries(kinds))
    for (const way of ['a file', 'a stream'])
      it(`of ${kind}, as ${way}, is refused with its class, whichever entry has which damage, and nothing is kept`, async (t) => {
        const client = await emptied(first);
        const list = entries(t);
        // Another namespace has all of it: that must make no difference.
        await importInto(client, written(t, tar(...list)), {}, 'other');
        const before = [await contentsOf(client), await contentsOf(client, 'other')];
        let tried = 0;
        // A third of all, another one for each entry.
        for (const [i, entry] of list.entries())
          for (const [n, [damage, apply]] of Object.entries(DAMAGES).entries()) {
            if (!TORTURE && (i + n) % 3 !== SAMPLE % 3) continue;
            const replaced = apply(entry);
            if (replaced === undefined) continue;
            const isCut = damage === 'an end after its header';
            const bytes = isCut
              ? Buffer.concat([...list.slice(0, i).map(encode), ...(replaced as Buffer[])])
              : tar(...list.slice(0, i), ...replaced, ...list.slice(i + 1));
            const err = await importInto(client, WAYS[way]!(t, bytes)).then(
              () => undefined,
              (reason: unknown) => reason,
            );
            const when = `${damage} of ${entry.name}`;
            assert.ok(err !== undefined, `${when} went unnoticed`);
            assert.ok(CLASSES.includes(codeOf(err)), `${when}: ${(err as Error).stack}`);
            assert.match((err as Error).message, /archive/, when);
            assert.deepEqual([await contentsOf(client), await contentsOf(client, 'other')], before, when);
            tried++;
          }
        assert.ok(tried > 20);
        assert.deepEqual(checkStore(client.root), []);
      });

  it('whose reading fails ends with the class of the failure, and the reason for an end of its own', async (t) => {
    const client = await emptied(first);
    const bytes = tar(...entriesOf(makeLayout(t)));
    const failing = async function* (err: unknown): AsyncGenerator<Buffer> {
      yield bytes.subarray(0, bytes.length >> 1);
      throw err;
    };
    const eio = Object.assign(new Error('EIO'), {code: 'EIO', errno: -5, syscall: 'read'});
    await assert.rejects(importInto(client, failing(eio)), {code: 'data_loss', message: /^the archive/});
    await assert.rejects(importInto(client, failing(new ErrdefsError('unavailable', 'the sender'))), {
      code: 'unavailable',
      message: /the sender/,
    });
    assert.deepEqual(await client.namespace('default').leases.list(), []);
    assert.deepEqual(namesIn(client, 'content/ingest'), []);
  });

  it('of any bytes is refused', async (t) => {
    const client = await emptied(first);
    for (const bytes of [
      Buffer.alloc(0),
      Buffer.from('x'),
      Buffer.alloc(1024),
      noise(5000, 3),
      gzipSync(noise(5000, 4)),
      gzipSync(Buffer.alloc(0)),
    ])
      for (const open of Object.values(WAYS)) {
        const err = await importInto(client, open(t, bytes)).catch((reason: unknown) => reason);
        assert.ok(CLASSES.includes(codeOf(err)), String(err));
      }
  });

  it('with too many entries, or too large a document, is refused', async (t) => {
    const client = await emptied(first);
    const one = encode(dir('d'));
    const many = Buffer.alloc(one.length * (MAX_ARCHIVE_ENTRIES + 1), one);
    await assert.rejects(importInto(client, written(t, many)), is('resource_exhausted'));
    await assert.rejects(importInto(client, inPieces(many, 1 << 20)), is('resource_exhausted'));
    const large = tar(file(OCI_LAYOUT_FILE, '{"imageLayoutVersion":"1.0.0"}'), file(INDEX_FILE, Buffer.alloc(MAX_LAYOUT_BYTES + 1, ' ')));
    for (const open of [WAYS['a file']!, WAYS['a stream']!])
      await assert.rejects(importInto(client, open(t, large)), is('invalid_argument'));
  });

  it('that is a bomb ends where the disk or its bytes do, and keeps nothing', async () => {
    const client = await emptied(first);
    const zeros = Buffer.alloc(128 << 20);
    const bombs = {
      'more than any disk has': [file('x', '', 0o644, {size: 2 ** 40})],
      'a layer of zeros that is cut off': [file(`blobs/sha256/${'0'.repeat(64)}`, '', 0o644, {size: 2 ** 28})],
    };
    for (const [name, entries] of Object.entries(bombs)) {
      const bytes = Buffer.concat([...entries.map((entry) => encode(entry).subarray(0, 512)), zeros]);
      for (const compressed of [gzipSync(bytes), zstdCompressSync(bytes)]) {
        assert.ok(compressed.length < 1 << 20);
        const err = await importInto(client, inPieces(compressed, 64 << 10)).catch((reason: unknown) => reason);
        assert.ok(['resource_exhausted', 'data_loss'].includes(codeOf(err)), `${name}: ${String(err)}`);
      }
    }
    assert.deepEqual([namesIn(client, 'content/ingest'), namesIn(client, 'work')], [[], []]);
  });

  it('of another version, or without a list of images, is refused', async (t) => {
    const client = await emptied(first);
    const [, ...rest] = entriesOf(makeLayout(t)).reverse();
    await assert.rejects(
      importInto(client, written(t, tar(file(OCI_LAYOUT_FILE, '{"imageLayoutVersion":"2.0.0"}'), ...rest))),
      is('not_implemented'),
    );
    await assert.rejects(importInto(client, written(t, tar(file('repositories', '{}'), file('x/layer.tar', LAYERS[0]!)))), {
      code: 'invalid_argument',
      message: /holds no images/,
    });
  });
});

describe('names of imported images', () => {
  const layoutWith = (t: TestContext, annotations: Readonly<Record<string, string>>): Buffer => {
    const layout = makeLayout(t);
    const index = JSON.parse(readFileSync(join(layout, INDEX_FILE), 'utf8')) as {manifests: object[]};
    writeFileSync(join(layout, INDEX_FILE), JSON.stringify({...index, manifests: [{...index.manifests[0], annotations}]}));
    return tar(...entriesOf(layout));
  };
  const names = async (t: TestContext, bytes: Buffer, options: ImportOptions): Promise<readonly string[]> => {
    const {images} = await importInto(await emptied(first), written(t, bytes), {...options, unpack: false});
    return images.map(({name, target}) => name.replace(target.digest, 'DIGEST')).sort();
  };

  it('come from the archive, or from the base name', async (t) => {
    const full = {'io.containerd.image.name': 'registry.example/a/b:1', 'org.opencontainers.image.ref.name': '1'};
    const tag = {'org.opencontainers.image.ref.name': 'latest'};
    const named = {'org.opencontainers.image.ref.name': 'app:2'};
    const rows: readonly (readonly [Readonly<Record<string, string>>, ImportOptions, readonly string[]])[] = [
      [full, {}, ['registry.example/a/b:1']],
      [full, {baseName: 'registry.example/a'}, ['registry.example/a/b:1']],
      [full, {baseName: 'registry.example/a/b', digests: true}, ['registry.example/a/b:1', 'registry.example/a/b@DIGEST']],
      [full, {baseName: 'registry.example/a/b', digests: true, skipDigestForNamed: true}, ['registry.example/a/b:1']],
      [full, {baseName: 'other', digests: true, skipDigestForNamed: true}, ['registry.example/a/b:1']],
      [named, {baseName: 'other', digests: true, skipDigestForNamed: true}, ['docker.io/library/other@DIGEST']],
      [named, {baseName: 'docker.io/library/app'}, ['docker.io/library/app:2']],
      [tag, {baseName: 'registry.example/x'}, ['registry.example/x:latest']],
      [tag, {baseName: 'x'}, ['docker.io/library/x:latest']],
      [{}, {baseName: 'x'}, ['docker.io/library/x@DIGEST']],
      [named, {}, ['docker.io/library/app:2']],
      [full, {indexName: 'whole'}, ['docker.io/library/whole:latest', 'registry.example/a/b:1']],
    ];
    for (const [annotations, options, expected] of rows) {
      const found = await names(t, layoutWith(t, annotations), options);
      const same = expected.map((name) => name.replace('whole:latest@DIGEST', 'whole:latest'));
      assert.deepEqual(found, [...same].sort(), JSON.stringify([annotations, options]));
    }
    const [dated] = await names(t, layoutWith(t, tag), {});
    assert.match(dated!, /^docker\.io\/library\/import-\d{4}-\d\d-\d\d:latest$/);
  });

  it('outside the base name are left out, and none at all is an error that lists them', async (t) => {
    const bytes = layoutWith(t, {'org.opencontainers.image.ref.name': 'registry.example/a/b:1'});
    await assert.rejects(importInto(await emptied(second), written(t, bytes), {baseName: 'registry.example/a/bc'}), {
      code: 'not_found',
      hint: /registry\.example\/a\/b:1/,
    });
    await assert.rejects(importInto(await emptied(second), written(t, bytes), {baseName: 'app:1'}), is('invalid_argument'));
  });
});

describe('platforms of an archive', () => {
  it('that are others than this machine has are imported with a warning, unless platforms are asked for', async (t) => {
    const bytes = tar(...entriesOf(makeLayout(t, {platform: {os: 'linux', architecture: 's390x'}})));
    for (const way of ['a file', 'a stream']) {
      const client = await emptied(first);
      const {images, warnings} = await importInto(client, WAYS[way]!(t, bytes), {unpack: false});
      assert.deepEqual([images.length, warnings.length], [1, 1]);
      assert.match(warnings[0]!, /for linux\/s390x only/);
      await importInto(client, WAYS[way]!(t, bytes), {unpack: false, platforms: ['linux/s390x']}, 'asked');
      await assert.rejects(importInto(client, WAYS[way]!(t, bytes), {platforms: [`linux/${ARCHITECTURE}`]}, 'other'), {
        code: 'not_found',
        hint: /linux\/s390x/,
      });
      assert.deepEqual(await client.namespace('other').content.list(), []);
    }
  });

  it('of an index are chosen as in a pull', async (t) => {
    const layout = temporaryDirectory(t);
    const made = [ARCHITECTURE, 's390x'].map((architecture) => addImage(layout, {layers: LAYERS, platform: {os: 'linux', architecture}}));
    setTarget(layout, addIndex(layout, made));
    for (const [options, expected] of [
      [{}, [true, false]],
      [{platforms: ['linux/s390x']}, [false, true]],
      [{allPlatforms: true}, [true, true]],
    ] as const)
      for (const way of ['a file', 'a stream']) {
        const client = await emptied(first);
        const {images} = await importInto(client, WAYS[way]!(t, tar(...entriesOf(layout))), {...options, baseName: 'x', unpack: false});
        const tree = await client.namespace('default').images.inspect(images[0]!.name);
        assert.deepEqual(
          tree.children.map(({present}) => present),
          expected,
        );
      }
    await assert.rejects(importInto(first, layout, {platforms: ['linux/riscv64']}), {code: 'not_found', hint: /s390x/});
  });
});

describe('an export', () => {
  const platforms = [
    {os: 'linux', architecture: ARCHITECTURE},
    {os: 'linux', architecture: 's390x'},
  ];
  /** An index of two platforms, as `NAME`. */
  const makeIndex = (t: TestContext): string => {
    const layout = temporaryDirectory(t);
    const images = platforms.map((platform, i) => addImage(layout, {layers: [LAYERS[i]!], platform}));
    setTarget(layout, addIndex(layout, images));
    return layout;
  };
  const options = {baseName: 'registry.example/app'};
  const name = 'registry.example/app:latest';

  it('of an index keeps its digest and has the content of this machine; of all platforms it wants all', async (t) => {
    const client = await emptied(first);
    const layout = makeIndex(t);
    const {images} = await importInto(client, layout, options);
    const sparse = await exported(t, client, [name]);
    const again = await importInto(await emptied(second), inPieces(sparse, 1 << 16));
    assert.deepEqual([again.images[0]!.name, again.images[0]!.target], [name, images[0]!.target]);
    const ns = client.namespace('default');
    const out = join(temporaryDirectory(t), 'all.tar');
    await assert.rejects(ns.images.export(out, [name], {allPlatforms: true}), {
      code: 'not_found',
      message: /is incomplete: content for linux\/s390x/,
      hint: /^export some platforms with --platform, or pull it: berth -n default images pull --all-platforms registry\.example\/app:latest/,
    });
    await assert.rejects(ns.images.export(out, [name], {platforms: ['linux/s390x']}), {
      code: 'not_found',
      hint: /^pull it: berth -n default images pull --platform linux\/s390x registry/,
    });
    assert.equal(existsSync(out), false);
    await importInto(client, layout, {...options, allPlatforms: true});
    await ns.images.export(out, [name], {allPlatforms: true});
    const whole = await emptied(second);
    await importInto(whole, out, {allPlatforms: true});
    assert.deepEqual(await contentsOf(whole), await contentsOf(client));
  });

  it('of some platforms writes an index of these, and says its digest', async (t) => {
    const client = await emptied(first);
    const {images} = await importInto(client, makeIndex(t), {...options, allPlatforms: true});
    const out = join(temporaryDirectory(t), 'one.tar');
    const result = await client.namespace('default').images.export(out, [name], {platforms: ['linux/s390x']});
    const [made] = result.images;
    assert.notEqual(made!.target.digest, images[0]!.target.digest);
    assert.match(result.warnings.join(), new RegExp(`linux/s390x only, so its digest is ${made!.target.digest}`));
    const other = await emptied(second);
    const {images: imported} = await importInto(other, out, {allPlatforms: true});
    assert.deepEqual(imported[0]!.target, made!.target);
    const tree = await other.namespace('default').images.inspect(name);
    assert.deepEqual(
      tree.children.map(({descriptor, present}) => [descriptor.platform!.architecture, present]),
      [['s390x', true]],
    );
    const both = await client
      .namespace('default')
      .images.export(out, [name], {platforms: platforms.map((p) => `${p.os}/${p.architecture}`)});
    assert.deepEqual([both.images[0]!.target, both.warnings], [images[0]!.target, []], 'nothing to leave out');
  });

  it('does not depend on the order of names, and has each blob once', async (t) => {
    const client = await emptied(first);
    await importInto(client, written(t, tar(...dockerEntries(['a:1', 'b:1']))));
    const [one, other] = [await exported(t, client, ['a:1', 'b:1']), await exported(t, client, ['b:1', 'a:1', 'b:1'])];
    assert.ok(one.equals(other));
    const again = await importInto(await emptied(second), inPieces(one, 777));
    assert.deepEqual(
      again.images.map(({name: imported}) => imported),
      ['docker.io/library/a:1', 'docker.io/library/b:1'],
    );
  });

  it('of damaged content fails with its class and leaves no file', async (t) => {
    const client = await emptied(first);
    await importInto(client, written(t, tar(...entriesOf(makeLayout(t)))));
    const layer = (await client.namespace('default').images.inspect(NAME)).children.at(-1)!.descriptor;
    const path = join(client.root, 'content/blobs/sha256', layer.digest.slice('sha256:'.length));
    const bytes = readFileSync(path);
    bytes[100]! ^= 1;
    writeFileSync(path, bytes);
    const out = temporaryDirectory(t);
    for (const target of [join(out, 'x.tar'), `${out}/layout/`])
      await assert.rejects(client.namespace('default').images.export(target, [NAME]), is('data_loss'));
    assert.deepEqual(readdirSync(out), ['layout']);
    assert.equal(existsSync(join(out, 'layout', INDEX_FILE)), false);
    assert.deepEqual(
      readdirSync(join(out, 'layout/blobs/sha256')).filter((entry) => entry.startsWith('.tmp')),
      [],
    );
  });

  it('adds to a layout, replaces the same name, and leaves other directories alone', async (t) => {
    const client = await emptied(first);
    await importInto(client, written(t, tar(...dockerEntries(['a:1', 'b:1']))));
    const ns = client.namespace('default');
    const layout = join(temporaryDirectory(t), 'layout');
    for (const names of [['a:1'], ['b:1'], ['a:1']]) await ns.images.export(`${layout}/`, names);
    const {images} = await importInto(await emptied(second), layout);
    assert.deepEqual(images.map(({name: imported}) => imported).sort(), ['docker.io/library/a:1', 'docker.io/library/b:1']);
    // What others have written stays, and a tag names one image.
    type Entry = {annotations?: Record<string, string>};
    const read = (): {manifests: Entry[]} => JSON.parse(readFileSync(join(layout, INDEX_FILE), 'utf8')) as {manifests: Entry[]};
    const before = read();
    const digest = `sha256:${'0'.repeat(64)}`;
    const foreign = {...before.manifests[0], digest, annotations: {'org.opencontainers.image.ref.name': '1', mine: 'x'}, 'x-entry': true};
    writeFileSync(join(layout, INDEX_FILE), JSON.stringify({...before, manifests: [foreign], 'x-index': [1], annotations: {mine: 'y'}}));
    const {warnings} = await ns.images.export(`${layout}/`, ['a:1', 'b:1']);
    assert.equal(warnings.length, 2);
    const {manifests, ...rest} = read();
    const {manifests: _, ...known} = before;
    assert.deepEqual(rest, {...known, 'x-index': [1], annotations: {mine: 'y'}});
    assert.deepEqual(manifests[0], foreign);
    assert.equal(manifests.filter(({annotations}) => annotations?.['org.opencontainers.image.ref.name'] === '1').length, 1);
    const other = temporaryDirectory(t);
    writeFileSync(join(other, 'notes'), 'mine');
    await assert.rejects(ns.images.export(other, ['a:1']), is('failed_precondition'));
    assert.deepEqual(readdirSync(other), ['notes']);
  });

  it('of several at once to one layout adds all of them', async (t) => {
    const client = await emptied(first);
    const tags = ['a:1', 'b:1', 'c:1', 'd:1'];
    await importInto(client, written(t, tar(...dockerEntries(tags))));
    const layout = join(temporaryDirectory(t), 'layout');
    await Promise.all(tags.map((tag) => client.namespace('default').images.export(`${layout}/`, [tag])));
    const {images} = await importInto(await emptied(second), layout);
    assert.deepEqual(
      images.map(({name: imported}) => imported).sort(),
      tags.map((tag) => `docker.io/library/${tag}`),
    );
  });

  it('leaves what is beside its file alone, a link in its place, and writes to a descriptor', async (t) => {
    const client = await emptied(first);
    await importInto(client, written(t, tar(...dockerEntries(['a:1']))));
    const {images} = client.namespace('default');
    const expected = await exported(t, client, ['a:1']);
    const out = temporaryDirectory(t);
    mkdirSync(join(out, '.tmp.mine'));
    writeFileSync(join(out, '.tmp.mine/notes'), 'mine');
    mkdirSync(join(out, 'kept'));
    writeFileSync(join(out, 'kept/x.tar'), 'old');
    symlinkSync('kept/x.tar', join(out, 'x.tar'));
    await images.export(join(out, 'x.tar'), ['a:1']);
    assert.equal(readFileSync(join(out, '.tmp.mine/notes'), 'utf8'), 'mine');
    assert.ok(lstatSync(join(out, 'x.tar')).isSymbolicLink());
    assert.ok(readFileSync(join(out, 'kept/x.tar')).equals(expected));
    // As /dev/stdout is where standard output is a file.
    const fd = openSync(join(out, 'y.tar'), 'w');
    try {
      await images.export(`/proc/self/fd/${fd}`, ['a:1']);
    } finally {
      closeSync(fd);
    }
    assert.ok(readFileSync(join(out, 'y.tar')).equals(expected));
  });

  it('of an image whose content only another namespace has is refused, and so is an import of its digests', async (t) => {
    const client = await emptied(first);
    const bytes = written(t, tar(...entriesOf(makeLayout(t))));
    for (const namespace of ['a', 'b']) await importInto(client, bytes, {}, namespace);
    const layer = (await client.namespace('a').images.inspect(NAME)).children.at(-1)!.descriptor;
    await client.namespace('b').content.delete(layer.digest);
    await assert.rejects(exported(t, client, [NAME], 'b'), is('not_found'));
    const without = entriesOf(makeLayout(t)).filter(({name: entry}) => !entry.endsWith(layer.digest.slice('sha256:'.length)));
    await assert.rejects(importInto(client, written(t, tar(...without)), {}, 'c'), is('not_found'));
    await importInto(client, written(t, tar(...without)), {}, 'a');
  });
});

describe('an export, while its image is removed', () => {
  it('has all of it', async (t) => {
    const client = await emptied(first);
    await importInto(client, written(t, tar(...entriesOf(makeLayout(t)))));
    const {images} = client.namespace('default');
    const expected = await exported(t, client, [NAME]);
    const chunks: Buffer[] = [];
    let removed: Promise<unknown> | undefined;
    const target = new Writable({
      highWaterMark: 1,
      write: (chunk: Buffer, _, done) => {
        chunks.push(chunk);
        removed ??= images.delete(NAME).then(() => client.gc());
        removed.then(() => done(), done);
      },
    });
    await images.export(target, [NAME]);
    assert.ok(Buffer.concat(chunks).equals(expected));
    assert.deepEqual([await images.records(), namesIn(client, 'content/blobs/sha256')], [[], []]);
  });
});

describe('a foreign layer', () => {
  it('that an export left out is imported without, with a word about it', async (t) => {
    const layout = temporaryDirectory(t);
    const image = addImage(layout, {layers: [LAYERS[0]!]});
    const manifest = JSON.parse(readFileSync(join(layout, 'blobs', image.digest.replace(':', '/')), 'utf8')) as {layers: object[]};
    const [layer] = manifest.layers as {digest: string}[];
    const mediaType = 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip';
    setTarget(layout, addJSON(layout, image.mediaType, {...manifest, layers: [{...layer, mediaType, urls: ['https://example.org/x']}]}));
    const client = await emptied(first);
    await importInto(client, written(t, tar(...entriesOf(layout))), {baseName: 'registry.example/app', unpack: false});
    const name = 'registry.example/app:latest';
    const out = join(temporaryDirectory(t), 'out.tar');
    await client.namespace('default').images.export(out, [name], {skipNonDistributable: true});
    const hex = layer!.digest.slice('sha256:'.length);
    for (const open of Object.values(WAYS)) {
      const other = await emptied(second);
      const {warnings} = await importInto(other, open(t, readFileSync(out)), {unpack: false});
      assert.equal(warnings.filter((warning) => warning.includes(hex)).length, 1);
      assert.equal(namesIn(other, 'content/blobs/sha256').includes(hex), false);
      const again = join(temporaryDirectory(t), 'again.tar');
      await other.namespace('default').images.export(again, [name], {skipNonDistributable: true});
      assert.ok(readFileSync(again).equals(readFileSync(out)));
      await assert.rejects(other.namespace('default').images.export(again, [name]), is('not_found'));
    }
    if (!requiresRoot(t)) return;
    const other = await emptied(second);
    await assert.rejects(importInto(other, out), {code: 'not_found', hint: /--no-unpack/});
    // Any other layer may not be missing.
    const plain = makeLayout(t, {compression: 'none'});
    const without = entriesOf(plain).filter(({name: entry}) => !entry.endsWith(digestOf(LAYERS[0]!).slice('sha256:'.length)));
    await assert.rejects(importInto(other, written(t, tar(...without)), {unpack: false}), is('not_found'));
  });
});

describe('a blob of another namespace', () => {
  it('does not stand in for one of the archive, whenever it appears', async (t) => {
    const layout = makeLayout(t, {compression: 'none'});
    const right = LAYERS[0]!;
    const hex = digestOf(right).slice('sha256:'.length);
    const wrong = Buffer.concat([right.subarray(1), Buffer.from('x')]);
    const entries = entriesOf(layout).map((entry) => (entry.name.endsWith(hex) ? file(entry.name, wrong) : entry));
    const statuses = ['waiting', 'exists', 'downloading', 'reading', 'done', undefined];
    for (const [i, status] of statuses.entries()) {
      const client = await emptied(first);
      const publish = (): void => {
        mkdirSync(join(client.root, 'content/blobs/sha256'), {recursive: true});
        writeFileSync(join(client.root, 'content/blobs/sha256', hex), right);
      };
      if (status === undefined) await importInto(client, written(t, tar(...entriesOf(layout))), {unpack: false}, 'other');
      const importing = importInto(client, written(t, tar(...entries)), {
        unpack: false,
        onEvent: (event) => {
          if (event.status === status) publish();
        },
      });
      await assert.rejects(importing, is('failed_precondition'), `case ${i}`);
      assert.deepEqual(await client.namespace('default').content.list(), []);
    }
  });
});

describe('an artifact', () => {
  it('is imported and exported as it is', async (t) => {
    if (!requiresRoot(t)) return;
    const layout = temporaryDirectory(t);
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    const config = addJSON(layout, 'application/vnd.oci.empty.v1+json', {});
    const layers = [addBlob(layout, 'text/plain', Buffer.from('{"small": 1}')), addBlob(layout, 'text/plain', noise(50_000, 5))];
    setTarget(layout, addJSON(layout, mediaType, {schemaVersion: 2, mediaType, artifactType: 'text/x', config, layers}));
    const archives: Buffer[] = [];
    for (const open of Object.values(WAYS)) {
      const client = await emptied(first);
      await importInto(client, open(t, tar(...entriesOf(layout))), {baseName: 'x'});
      archives.push(await exported(t, client, ['x']));
    }
    for (const archive of archives) assert.ok(archive.equals(archives[0]!));
  });
});
