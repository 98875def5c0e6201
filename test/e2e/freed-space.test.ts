/** Removing frees disk space at once, and removes nothing that others need. */
import assert from 'node:assert/strict';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {type CommandLine, commandLine} from '../cli/harness.ts';
import {imagesForTests} from '../support/cached-images.ts';
import {requiresProgram, requiresRoot, type Skippable} from '../support/helpers.ts';
import {pushImage} from '../support/registry.ts';
import {assertNoRuns, assertWhole, diskUsage, names, publishedImages, sizeOf} from './fixtures.ts';

const published = publishedImages();
const IMAGE = imagesForTests().includes('redis') ? 'redis' : 'busybox';

/** Tolerance in bytes for the journal, caches of lists, and grown directories. */
const RECORDS = 256 << 10;

const requiresRuntime = (t: Skippable): boolean => requiresRoot(t) && requiresProgram(t, 'runc', 'unshare', 'mount');

/** A store that was used, and is empty again. */
async function usedStore(t: Parameters<typeof commandLine>[0]): Promise<{ctr: CommandLine; root: string; empty: number}> {
  const ctr = commandLine(t, 'executable');
  await ctr.ok(['namespaces', 'create', 'default']);
  await ctr.ok(['content', 'ingest', 'something'], {input: 'something'});
  const [{digest}] = JSON.parse(await ctr.ok(['content', 'ls', '--json']));
  await ctr.ok(['content', 'rm', digest]);
  return {ctr, root: ctr.env.BERTH_ROOT!, empty: diskUsage(ctr.env.BERTH_ROOT!)};
}

/** Asserts that nothing of any image is left. */
async function assertEmpty(ctr: CommandLine, empty: number): Promise<void> {
  const root = ctr.env.BERTH_ROOT!;
  const left = diskUsage(root) - empty;
  assert.ok(left <= RECORDS, `${left} B are left`);
  for (const place of ['content/blobs/sha256', 'content/ingest', 'layers', 'work', 'trash'])
    assert.deepEqual(names(join(root, place)), [], place);
  for (const namespace of names(join(root, 'namespaces'))) {
    for (const list of ['images', 'content', 'snapshots', 'leases', 'containers'])
      assert.equal(await ctr.ok(['-n', namespace, list, 'ls', '-q']), '', `${list} of ${namespace}`);
  }
}

describe('images rm', () => {
  it('of the last reference frees all its space; of an earlier one, only what no other namespace needs', async (t) => {
    if (!requiresRuntime(t)) return;
    const image = await published(t, IMAGE);
    if (image === undefined) return;
    const {ctr, root, empty} = await usedStore(t);
    const {ref} = image;
    await ctr.ok(['pull', ref]);
    await ctr.ok(['-n', 'other', 'pull', ref]);
    await ctr.ok(['images', 'tag', ref, 'second:name']);
    const full = diskUsage(root);
    assert.ok(full - empty > RECORDS * 4);

    await ctr.ok(['images', 'rm', ref]);
    await assertWhole(ctr);
    await ctr.ok(['images', 'rm', 'second:name']);
    for (const list of ['images', 'content', 'snapshots', 'leases']) assert.equal(await ctr.ok([list, 'ls', '-q']), '', list);
    await assertWhole(ctr, 'other');
    assert.equal(await ctr.ok(['-n', 'other', 'run', '--rm', ref, 'r1', 'sh', '-c', 'echo runs']), 'runs\n');
    assert.ok(full - diskUsage(root) <= RECORDS, 'the other namespace has all of it');

    await ctr.ok(['-n', 'other', 'images', 'rm', ref]);
    await assertEmpty(ctr, empty);
  });

  it('keeps the layers of a container, and containers rm frees them', async (t) => {
    if (!requiresRuntime(t)) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const {ctr, root, empty} = await usedStore(t);
    await ctr.ok(['pull', image.ref]);
    await ctr.ok(['run', image.ref, 'c1', 'sh', '-c', 'head -c 3000000 /dev/urandom >/written']);
    assert.ok(diskUsage(root) - empty > 3_000_000);
    const layers = names(join(root, 'layers'));
    await ctr.ok(['images', 'rm', image.ref]);
    assert.deepEqual(names(join(root, 'layers')), layers);
    assert.equal(await ctr.ok(['containers', 'rm', 'c1']), 'c1\n');
    await assertEmpty(ctr, empty);
    assertNoRuns(ctr.env.BERTH_STATE!);
  });

  it('keeps another image with the same layers complete', async (t) => {
    if (!requiresRuntime(t)) return;
    const [gzip, zstd] = [await published(t, 'busybox'), await published(t, 'busybox-zstd')];
    if (gzip === undefined || zstd === undefined) return;
    const {ctr, empty} = await usedStore(t);
    await ctr.ok(['pull', gzip.ref]);
    await ctr.ok(['pull', zstd.ref]);
    await ctr.ok(['images', 'rm', gzip.ref]);
    await assertWhole(ctr);
    assert.equal(await ctr.ok(['run', '--rm', zstd.ref, 'r1', 'echo', 'runs']), 'runs\n');
    await ctr.ok(['images', 'rm', zstd.ref]);
    await assertEmpty(ctr, empty);
  });
});

describe('a tag that moves', () => {
  it('frees what only the previous image needed', async (t) => {
    if (!requiresRoot(t)) return;
    const [small, moved] = [await published(t, 'busybox-plain'), await published(t, 'awkward')];
    if (small === undefined || moved === undefined) return;
    const {ctr, root, empty} = await usedStore(t);
    const ref = `${small.registry.host}/library/moving:latest`;
    await pushImage(small.registry, 'library/moving:latest', moved.image.layout);
    await ctr.ok(['pull', ref]);
    const {digest} = (JSON.parse(await ctr.ok(['images', 'ls', '--json'])) as {target: {digest: string}}[])[0]!.target;
    await pushImage(small.registry, 'library/moving:latest', small.image.layout);
    await ctr.ok(['pull', ref]);
    assert.equal(sizeOf(join(root, 'content/blobs', ...digest.split(':'))), 0);
    await assertWhole(ctr);
    await ctr.ok(['images', 'rm', ref]);
    await assertEmpty(ctr, empty);
  });
});

describe('namespaces rm --recursive', () => {
  it('removes its content, frees the space, and keeps other namespaces complete', async (t) => {
    if (!requiresRuntime(t)) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const {ctr, root, empty} = await usedStore(t);
    const {ref} = image;
    for (const ns of ['full', 'other']) await ctr.ok(['-n', ns, 'pull', ref]);
    await ctr.ok(['-n', 'full', 'images', 'tag', ref, 'second:name']);
    await ctr.ok(['-n', 'full', 'run', ref, 'c1', 'sh', '-c', 'echo kept >/kept']);
    await ctr.ok(['-n', 'full', 'leases', 'create', '--id', 'l1']);
    await ctr.ok(['-n', 'full', 'content', 'ingest', 'something'], {input: 'something'});
    const refused = await ctr(['namespaces', 'rm', 'full']);
    assert.equal(refused.status, 9);
    assert.match(refused.stderr, /it still has images, blobs, containers, snapshots on "erofs" snapshotter: failed precondition\n/);

    assert.equal(await ctr.ok(['namespaces', 'rm', '--recursive', 'full']), 'full\n');
    assert.equal(await ctr.ok(['namespaces', 'ls', '-q']), 'default\nother\n');
    assert.deepEqual(names(join(root, 'namespaces')), ['default', 'other']);
    await assertWhole(ctr, 'other');
    assert.equal(await ctr.ok(['-n', 'other', 'run', '--rm', ref, 'r1', 'echo', 'runs']), 'runs\n');
    await ctr.ok(['namespaces', 'rm', '--recursive', 'other']);
    await assertEmpty(ctr, empty);
  });
});
