/** Blobs and layers are shared: between namespaces, between concurrent processes, and by a killed process with its successor. */
import assert from 'node:assert/strict';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {commandLine} from '../cli/harness.ts';
import {imagesForTests} from '../support/cached-images.ts';
import {requiresRoot} from '../support/helpers.ts';
import {blobGets} from '../support/registry.ts';
import {
  assertWhole,
  blobsOf,
  diskUsage,
  eventually,
  fingerprint,
  names,
  publishedImages,
  sizeOf,
  slowWire,
  start,
  sum,
} from './fixtures.ts';

const published = publishedImages();
const IMAGE = imagesForTests().includes('redis') ? 'redis' : 'busybox';

/** Bytes on disk of a record and its share of a directory: a block or two on usual filesystems. */
const RECORD = 8192;

describe('two namespaces', () => {
  it('share an image: the second pull downloads nothing, writes no blob and no layer, and adds only records', async (t) => {
    if (!requiresRoot(t)) return;
    const image = await published(t, IMAGE);
    if (image === undefined) return;
    const ctr = commandLine(t, 'executable');
    const root = ctr.env.BERTH_ROOT!;
    await ctr.ok(['pull', image.ref]);

    const shared = (): string[] => ['content', 'layers'].map((name) => fingerprint(join(root, name)));
    const [before, used] = [shared(), diskUsage(root)];
    const files = new Set(fingerprint(root).split('\n'));
    image.registry.clearLog();
    const {transferredBytes} = JSON.parse(await ctr.ok(['-n', 'second', 'pull', '--json', image.ref]));
    assert.equal(transferredBytes, 0);
    assert.deepEqual([...blobGets(image.registry)], []);
    assert.deepEqual(shared(), before);

    const written = fingerprint(root)
      .split('\n')
      .filter((line) => !files.has(line))
      .map((line) => line.split('/', 1)[0]!.split(' ', 1)[0]!);
    assert.deepEqual(
      [...new Set(written)].filter((name) => ['content', 'layers', 'work', 'trash'].includes(name)),
      [],
    );
    const records = blobsOf(image.image).length * 2 + 8;
    const added = diskUsage(root) - used;
    assert.ok(added <= records * RECORD, `${added} B for about ${records} records`);

    await assertWhole(ctr, 'second');
  });

  it('share layers: an image with other names and compression adds its own blobs and no layer', async (t) => {
    if (!requiresRoot(t)) return;
    const [gzip, zstd] = [await published(t, 'busybox'), await published(t, 'busybox-zstd')];
    if (gzip === undefined || zstd === undefined) return;
    const ctr = commandLine(t, 'executable');
    await ctr.ok(['pull', gzip.ref]);
    // The directory itself is tried with a rename: a layer is made where one can be moved into place.
    const layers = (): readonly string[] =>
      fingerprint(join(ctr.env.BERTH_ROOT!, 'layers'))
        .split('\n')
        .filter((line) => !line.startsWith(' '));
    const before = layers();
    await ctr.ok(['pull', zstd.ref]);
    assert.deepEqual(layers(), before);
  });
});

describe('two processes', () => {
  for (const [what, namespaces] of [
    ['in one namespace', ['default', 'default']],
    ['in two namespaces', ['left', 'right']],
  ] as const)
    it(`that pull one image at the same time, ${what}, download each blob once`, async (t) => {
      if (!requiresRoot(t)) return;
      const image = await published(t, IMAGE);
      if (image === undefined) return;
      const {registry, name} = image;
      const blobs = blobsOf(image.image);
      const largest = Math.max(...blobs.map(({size}) => size));
      const wire = await slowWire(t, registry, largest / 1.5);
      const ctr = commandLine(t, 'executable');
      registry.clearLog();
      const pulls = namespaces.map((ns) => start(ctr, ['-n', ns, 'pull', '--json', '--progress', 'none', `${wire.host}/${name}`]));
      const results = await Promise.all(pulls.map(({ended}) => ended));
      for (const {status, stderr} of results) assert.equal(status, 0, stderr);
      const gets = blobGets(registry);
      for (const {digest, size} of blobs.slice(1)) assert.deepEqual(gets.get(digest), [1, size], digest);
      const transferred = results.reduce((total, {stdout}) => total + JSON.parse(stdout).transferredBytes, 0);
      assert.equal(transferred, sum(blobs));
      for (const ns of new Set(namespaces)) await assertWhole(ctr, ns);
      assert.deepEqual(names(join(ctr.env.BERTH_ROOT!, 'content/ingest')), []);
      assert.deepEqual(names(join(ctr.env.BERTH_ROOT!, 'work')), []);
    });

  it('share a download: the second continues when the first is killed', async (t) => {
    if (!requiresRoot(t)) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const {registry, name} = image;
    const layer = blobsOf(image.image).at(-1)!;
    const wire = await slowWire(t, registry, layer.size / 3);
    const ctr = commandLine(t, 'executable');
    const data = join(ctr.env.BERTH_ROOT!, 'content/ingest', layer.digest.replace(':', '-'), 'data');
    const first = start(ctr, ['pull', `${wire.host}/${name}`]);
    await eventually('some bytes of the layer', () => sizeOf(data) > layer.size / 4);
    const second = start(ctr, ['-n', 'second', 'pull', '--json', '--progress', 'none', `${wire.host}/${name}`]);
    await eventually('a second that waits', () => names(join(ctr.env.BERTH_ROOT!, 'namespaces')).includes('second'));
    const before = sizeOf(data);
    first.child.kill('SIGKILL');
    await first.ended;
    const {status, stdout, stderr} = await second.ended;
    assert.equal(status, 0, stderr);
    assert.ok(JSON.parse(stdout).transferredBytes <= sum(blobsOf(image.image)) - before, 'what the first had is not fetched again');
  });
});

describe('a pull that was killed', () => {
  it('is resumed by the next, from its last byte', async (t) => {
    if (!requiresRoot(t)) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const {registry, name} = image;
    const layer = blobsOf(image.image).at(-1)!;
    const wire = await slowWire(t, registry, layer.size / 2);
    const ctr = commandLine(t, 'executable');
    const ref = `${wire.host}/${name}`;
    const ingest = join(ctr.env.BERTH_ROOT!, 'content/ingest', layer.digest.replace(':', '-'));
    registry.clearLog();
    const first = start(ctr, ['pull', ref]);
    await eventually('some bytes of the layer', () => sizeOf(join(ingest, 'data')) > layer.size / 3);
    first.child.kill('SIGKILL');
    await first.ended;

    const here = sizeOf(join(ingest, 'data'));
    const active = JSON.parse(await ctr.ok(['content', 'active', '--json'])) as {ref: string; offset: number; total: number}[];
    assert.deepEqual(
      active.map(({ref: key, offset, total}) => ({key, offset, total})),
      [{key: `layer-${layer.digest}`, offset: here, total: layer.size}],
    );
    await eventually('the end of the first request', () => blobGets(registry).has(layer.digest));
    registry.clearLog();
    wire.rate = 1 << 30;
    await ctr.ok(['pull', ref]);
    assert.deepEqual(blobGets(registry).get(layer.digest), [1, layer.size - here]);
    assert.deepEqual(JSON.parse(await ctr.ok(['content', 'active', '--json'])), []);
    await assertWhole(ctr, 'default');
  });
});
