/** prune frees what it reports, removes the oldest first, and leaves other namespaces alone. */
import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {existsSync, mkdirSync, utimesSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {Readable} from 'node:stream';
import {describe, it} from 'node:test';
import type {Pruned} from '../../../src/lib/client/types/index.ts';
import {acquireLock} from '../../../src/lib/fs/lock.ts';
import {formatIdentity, ownIdentity} from '../../../src/lib/fs/process.ts';
import {LayerStore} from '../../../src/lib/store/layer-store.ts';
import {diskUsage} from '../../e2e/fixtures.ts';
import {newClient, requiresOneClock, requiresRoot} from '../../support/helpers.ts';
import {file, tar} from '../../support/tartest.ts';
import {
  CONFIG,
  contents,
  DEAD,
  LAYERS,
  names,
  type PulledStore,
  pulled,
  readJSON,
  saysAll,
  withContainer,
  writeJSON,
} from './pulled-store.ts';

const HOUR = 3600_000;

/** Disk usage of blobs, layers and downloads, without their parent directories. */
const taken = ({path}: PulledStore): number =>
  ['content/blobs/sha256', 'layers', 'content/ingest']
    .flatMap((kind) => {
      try {
        return names(path(kind)).map((name) => diskUsage(path(kind, name)));
      } catch {
        return [];
      }
    })
    .reduce((sum, size) => sum + size, 0);

const imagesOf = (pruned: readonly Pruned[]): readonly string[] => pruned.filter(({kind}) => kind === 'image').map(({key}) => key);

/** Pulls an image with one layer of its own above shared ones, and sets the time of the pull. */
async function pullAnother(rig: PulledStore, name: string, size: number, ageMs: number, namespace = 'default'): Promise<string> {
  const noise = Buffer.concat(Array.from({length: Math.ceil(size / 32)}, (_, i) => createHash('sha256').update(`${name}${i}`).digest()));
  const layers = [...LAYERS, tar(file(name, noise))];
  const diffIDs = layers.map((layer) => rig.registry.addBlob(layer).digest);
  rig.registry.addImage(name, 'latest', layers, {...CONFIG, rootfs: {type: 'layers', diff_ids: diffIDs}});
  const ref = `${rig.registry.host}/${name}:latest`;
  await rig.client.namespace(namespace).pull(ref, {snapshotter: rig.snapshotter});
  const path = rig.record('images', ref).replace('/default/', `/${namespace}/`);
  writeJSON(path, {...readJSON(path), updatedAt: new Date(Date.now() - ageMs).toISOString()});
  return ref;
}

describe('prune', () => {
  it('does nothing without a store', async (t) => {
    assert.deepEqual(await (await newClient(t)).prune(), {pruned: [], freed: 0});
  });

  it('frees what it reports, and with dryRun only reports it', async (t) => {
    if (!requiresRoot(t)) return;
    for (const snapshotter of ['erofs', 'overlayfs']) {
      const rig = await pulled(t, snapshotter);
      await pullAnother(rig, 'more', 100_000, HOUR);
      const before = [contents(rig.client.root), taken(rig)] as const;
      const said = await rig.client.prune({namespace: 'default', dryRun: true});
      assert.deepEqual([contents(rig.client.root), taken(rig)], before);
      const done = await rig.client.prune({namespace: 'default'});
      assert.deepEqual(done, said);
      assert.deepEqual([done.freed, taken(rig)], [before[1], 0]);
      assert.deepEqual(names(rig.path('trash')), []);
      assert.equal(done.pruned.length, 2 + 3 + 7, 'images, snapshots, content');
      assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
    }
  });

  it('keeps images that containers were created from, under any name, and everything of other namespaces', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {client, ref} = rig;
    await withContainer(rig);
    await client.namespace('default').images.tag(ref, 'x.example/same:1');
    const more = await pullAnother(rig, 'more', 1000, HOUR);
    const others = await pullAnother(rig, 'others', 1000, HOUR, 'other');
    const {pruned} = await client.prune({namespace: 'default'});
    assert.deepEqual(imagesOf(pruned), [more]);
    assert.deepEqual(
      (await client.namespace('default').images.records()).map(({name}) => name),
      [ref, 'x.example/same:1'],
    );
    assert.deepEqual(
      (await client.namespace('other').images.records()).map(({name}) => name),
      [others],
    );
    assert.ok(pruned.every(({namespace}) => namespace === 'default'));
    assert.deepEqual(imagesOf((await client.prune()).pruned), [others], 'all namespaces where none is named');
    assert.deepEqual(saysAll(await client.check({deep: true})), []);
  });

  it('keeps younger objects', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const old = await pullAnother(rig, 'old', 1000, 3 * HOUR);
    await pullAnother(rig, 'young', 1000, HOUR);
    assert.deepEqual(imagesOf((await rig.client.prune({olderThanMs: 2 * HOUR})).pruned), [old]);
    assert.deepEqual(imagesOf((await rig.client.prune({olderThanMs: 2 * HOUR})).pruned), []);
  });

  it('removes the oldest first, and no more than needed', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const [b, a, c] = [
      await pullAnother(rig, 'b', 200_000, 2 * HOUR),
      await pullAnother(rig, 'a', 200_000, 3 * HOUR, 'other'),
      await pullAnother(rig, 'c', 200_000, HOUR),
    ];
    const all = taken(rig);
    for (const [keepBytes, goes] of [
      [all, []],
      [all - 1, [a]],
      [all - 450_000, [a, b]],
      [0, [a, b, c, rig.ref]],
    ] as const) {
      const {pruned, freed} = await rig.client.prune({keepBytes, dryRun: true});
      assert.deepEqual([...imagesOf(pruned)].sort(), [...goes].sort(), `down to ${keepBytes}`);
      assert.ok(all - freed <= keepBytes);
    }
    const {pruned, freed} = await rig.client.prune({keepBytes: all - 450_000});
    assert.deepEqual([[...imagesOf(pruned)].sort(), taken(rig)], [[a, b].sort(), all - freed]);
    assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
  });

  it('counts unreferenced data as free', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const before = taken(rig);
    writeFileSync(rig.path('content/blobs/sha256', 'a'.repeat(64)), Buffer.alloc(100_000));
    const {pruned, freed} = await rig.client.prune({keepBytes: before});
    assert.deepEqual([pruned, freed, taken(rig)], [[], 102_400, before]);
  });

  it('removes the objects that back references connect with an image', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {content} = rig.client.namespace('default');
    const before = new Set((await content.list()).map(({digest}) => digest));
    const old = await pullAnother(rig, 'old', 200_000, HOUR);
    const ownLayer = (await content.list()).find(({digest, size}) => !before.has(digest) && size > 100_000)!.digest;
    const ingest = async (text: string, image: string): Promise<string> => {
      const labels = {'containerd.io/gc.root': '', 'containerd.io/gc.bref.image': image};
      return (await content.ingest(text, Readable.from([Buffer.from(text)]), {labels})).digest;
    };
    await content.label(ownLayer, {'containerd.io/gc.bref.image': rig.ref});
    const [goes, stays] = [await ingest('of the old one', old), await ingest('of the other', rig.ref)];
    const all = taken(rig);
    const {pruned, freed} = await rig.client.prune({keepBytes: all - 1});
    assert.deepEqual(imagesOf(pruned), [old]);
    const keys = pruned.map(({key}) => key);
    assert.deepEqual([keys.includes(goes), keys.includes(stays), keys.includes(ownLayer)], [true, false, false]);
    assert.equal(all - taken(rig), freed);
    const left = new Set((await content.list()).map(({digest}) => digest as string));
    assert.deepEqual([left.has(goes), left.has(stays), left.has(ownLayer)], [false, true, true]);
    assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
  });

  it('removes leases that have expired or whose process has ended, and what only they protected', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {leases} = rig.client.namespace('default');
    await leases.create({id: 'stays', expiresMs: 0});
    await leases.create({id: 'expired', expiresMs: 1});
    await leases.create({id: 'dead', labels: {'berth/owner': DEAD}});
    const {pruned} = await rig.client.prune({kinds: ['leases']});
    assert.deepEqual(
      pruned.map(({kind, key}) => `${kind} ${key}`),
      ['lease dead', 'lease expired'],
    );
    assert.equal((await rig.client.namespace('default').images.records()).length, 1, 'images were not asked for');
  });

  it('removes the containers of killed runs, and scratch mounts of killed processes', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {layer} = await withContainer(rig, 'gone', {'berth/rm': DEAD});
    await withContainer(rig, 'alive', {'berth/rm': formatIdentity(ownIdentity())});
    await withContainer(rig, 'kept');
    const view = join(rig.client.state, 'views', `view-${DEAD}.1`);
    mkdirSync(view, {recursive: true});
    const said = await rig.client.prune({dryRun: true, kinds: ['snapshots']});
    assert.ok(existsSync(view));
    const done = await rig.client.prune({kinds: ['snapshots']});
    assert.deepEqual(done, said);
    assert.deepEqual(done.pruned, [{namespace: 'default', kind: 'snapshot', key: 'overlayfs/gone'}]);
    assert.deepEqual([existsSync(view), existsSync(rig.path('layers', layer))], [false, false]);
    const left = (await rig.client.namespace('default').containers.list()).map(({id}) => id);
    assert.deepEqual(left, ['alive', 'kept']);
    assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
  });

  it('keeps younger leftovers of killed runs', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const HOURS: Readonly<Record<string, number>> = {young: 1, old: 3, ancient: 9};
    for (const [id, hours] of Object.entries(HOURS)) {
      await withContainer(rig, id, {'berth/rm': DEAD});
      const path = rig.record('containers', id);
      writeJSON(path, {...readJSON(path), createdAt: new Date(Date.now() - hours * HOUR).toISOString()});
    }
    const {containers, snapshots} = rig.client.namespace('default');
    const left = async (): Promise<unknown> => [
      (await containers.list()).map(({id}) => id),
      (await snapshots('overlayfs').list()).flatMap(({key, kind}) => (kind === 'active' ? key : [])),
    ];
    for (const [olderThan, stay] of [
      [10, ['ancient', 'old', 'young']],
      [2, ['young']],
      [0, []],
    ] as const) {
      await rig.client.prune({kinds: ['snapshots'], olderThanMs: olderThan * HOUR});
      assert.deepEqual(await left(), [stay, stay], `older than ${olderThan} hours`);
    }
  });

  it('removes downloads without a process and without a lease', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const [idle, young, others, held] = ['a', 'b', 'c', 'd'].map((letter) => `ref-${letter.repeat(64)}`) as [
      string,
      string,
      string,
      string,
    ];
    const begin = (key: string, ref: string, namespace: string, ageMs = HOUR): void => {
      mkdirSync(rig.path('content/ingest', key), {recursive: true});
      writeJSON(rig.path('content/ingest', key, 'info.json'), {version: 1, ref, namespace, total: 9, startedAt: new Date().toISOString()});
      writeFileSync(rig.path('content/ingest', key, 'data'), 'x'.repeat(5000));
      const at = (Date.now() - ageMs) / 1000;
      utimesSync(rig.path('content/ingest', key, 'data'), at, at);
    };
    begin(idle, 'layer-1', 'default');
    begin(young, 'layer-2', 'default', 0);
    begin(others, 'layer-3', 'other');
    begin(held, 'layer-4', 'default');
    using _held = await acquireLock(rig.path(`locks/ingest-${held}`), {timeoutMs: 0});
    const options = {namespace: 'default', kinds: ['ingests'], olderThanMs: HOUR / 2} as const;
    const said = await rig.client.prune({...options, dryRun: true});
    const before = taken(rig);
    const {pruned, freed} = await rig.client.prune(options);
    assert.deepEqual(said, {pruned, freed});
    assert.deepEqual(pruned, [{namespace: 'default', kind: 'ingest', key: 'layer-1'}]);
    assert.equal(before - taken(rig), freed);
    assert.deepEqual(names(rig.path('content/ingest')), [young, others, held]);
  });
});

describe('gc', () => {
  it('removes unreferenced objects and leftovers, and syncs layers', async (t) => {
    if (!requiresRoot(t) || !requiresOneClock(t, 'the age of a layer is its file time')) return;
    const rig = await pulled(t, 'overlayfs');
    writeFileSync(rig.path('content/blobs/sha256', 'a'.repeat(64)), 'x');
    mkdirSync(rig.path('layers/overlayfs-own-aaaaaaaaaaaaaaaaaaaaaaaa'));
    mkdirSync(rig.path('trash', `${DEAD}.x`), {recursive: true});
    mkdirSync(rig.path('work', `${DEAD}.x`), {recursive: true});
    const {settled, blobs, layers, images} = await rig.client.gc();
    assert.deepEqual({settled, blobs, layers, images}, {settled: 0, blobs: 1, layers: 1, images: 0}, 'what is new is not synced');
    // One is old, the other was made before the clock was set back.
    for (const [n, age] of [120, -86_400].entries()) utimesSync(`${rig.layer(n)}/layer.json`, 1, Date.now() / 1000 - age);
    assert.equal((await rig.client.gc()).settled, 2);
    assert.equal((await rig.client.gc()).settled, 0);
    for (const n of [0, 1]) {
      const info = readJSON(`${rig.layer(n)}/layer.json`);
      assert.equal(info.durable, true);
      writeJSON(`${rig.layer(n)}/layer.json`, {...info, bootId: 'f'.repeat(32)});
    }
    assert.deepEqual(saysAll(await rig.client.check({deep: true})), [], 'they outlast the boot');
  });
});

describe('content prune references', () => {
  it('frees the blobs of layers that are on the disk for good, and of no others', async (t) => {
    if (!requiresRoot(t)) return;
    for (const isReplaced of [true, false]) {
      const rig = await pulled(t, 'overlayfs');
      const {content} = rig.client.namespace('default');
      const {markDurable} = LayerStore.prototype;
      // As when a layer was removed and made again during the sync.
      if (isReplaced) LayerStore.prototype.markDurable = () => false;
      const before = (await content.list()).length;
      const {layers} = await content.prune({}).finally(() => {
        LayerStore.prototype.markDurable = markDurable;
      });
      assert.equal((await content.list()).length, before - layers.length);
      assert.equal(layers.length, isReplaced ? 0 : LAYERS.length);
    }
  });
});
