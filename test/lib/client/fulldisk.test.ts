/**
 * A full disk, whatever the command was doing while it filled: removals still work, and free space.
 *
 * Each case has its own small filesystem with an image and a container, filled to a level. Then a change runs, which may fail for lack of
 * space. Before each removal the test takes all space that is left.
 */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {existsSync, mkdirSync, readdirSync, rmSync, statfsSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {after, describe, it, type TestContext} from 'node:test';
import {volumeKey, volumeReference} from '../../../src/lib/client/api/volumes.ts';
import {openClient} from '../../../src/lib/client/index.ts';
import type {Client} from '../../../src/lib/client/types/index.ts';
import {hasCode} from '../../../src/lib/errdefs.ts';
import {SnapshotStore} from '../../../src/lib/store/snapshots.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {maintainBallast} from '../../../src/lib/store/with-ballast.ts';
import {fileScope} from '../../e2e/fixtures.ts';
import {digestOf, type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {makeSmallDisk, requiresSmallDisk} from '../../support/small-disk.ts';
import {program} from '../../support/static-programs.ts';
import {dir, file, tar} from '../../support/tartest.ts';
import {CONFIG} from './pulled-store.ts';

const SNAPSHOTTER = 'overlayfs';
/** Free bytes of a level at which nothing fails. */
const PLENTY = 3 << 20;

interface Shape {
  readonly layers: number;
  /** Of a block. */
  readonly bytes: number;
  readonly inodes: number;
}

const imageOf = (name: string, count: number): {layers: Buffer[]; config: object} => {
  const more = [file('p', program('exit'), 0o755), dir('data/'), file('data/seed', 's'.repeat(3000))];
  const layers = Array.from({length: count}, (_, i) =>
    tar(...(i === 0 ? more : []), file(`${name}-${i}`, `${name} ${i} ${'x'.repeat(200)}`)),
  );
  return {layers, config: {...CONFIG, rootfs: {type: 'layers', diff_ids: layers.map((layer) => digestOf(layer))}}};
};

/** In memory, where a sync costs nothing; this test does not depend on what is on the disk. */
const before = process.env.TMPDIR;
process.env.TMPDIR = ['/dev/shm', tmpdir()].find((dir) => existsSync(dir))!;
after(() => {
  if (before === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = before;
});

const scope = fileScope();
let registry: Promise<FakeRegistry> | undefined;

/** Names of an image of so many layers, and of another one of as many. */
async function images(layers: number): Promise<{readonly ref: string; readonly other: string}> {
  registry ??= startFakeRegistry(scope);
  const served = await registry;
  const [ref, other] = ['app', 'other'].map((name) => {
    const image = imageOf(`${name}${layers}`, layers);
    served.addImage(name, String(layers), image.layers, image.config);
    return `${served.host}/${name}:${layers}`;
  });
  return {ref: ref!, other: other!};
}

/** A container that was never run, with a file that it wrote, a volume of its own, and one that it has by its name. */
async function makeContainer(client: Client, image: string, id: string): Promise<void> {
  const store = new Store({root: client.root, lockTimeoutMs: 10_000});
  const snapshots = new SnapshotStore(store, 'default', SNAPSHOTTER);
  const committed = snapshots.list().filter(({kind}) => kind === 'committed');
  const top = committed.find(({key}) => !committed.some(({parent}) => parent === key))!;
  const now = new Date().toISOString();
  const record = {
    ...{
      id,
      image,
      labels: {[volumeReference('held')]: volumeKey('held')},
      runtime: {name: 'io.containerd.runc.v2'},
      snapshotter: SNAPSHOTTER,
      snapshotKey: id,
    },
    ...{spec: null, createdAt: now, updatedAt: now},
  };
  const {layer} = await snapshots.prepare(id, top.key, {}, (tx) => tx.namespace('default').containers.put(record));
  writeFileSync(join(client.root, 'layers', layer!, 'fs', 'written'), 'x'.repeat(5000));
  const own = join(store.layers.ownVolumes(layer!), '0');
  mkdirSync(own, {recursive: true});
  writeFileSync(join(own, 'written'), 'x'.repeat(5000));
}

async function makeVolume(client: Client, name: string): Promise<void> {
  const {path} = await client.namespace('default').volumes.create(name);
  writeFileSync(join(path, 'written'), 'x'.repeat(5000));
}

/** A disk with a store that has an image and a container made of it. @returns mounts a copy */
async function makeOrigin(t: TestContext, {layers, bytes, inodes}: Shape): Promise<(at: string) => () => void> {
  const features = '^resize_inode';
  return makeSmallDisk(temporaryDirectory(t), {size: 60 << 20, blockSize: bytes, inodes, features}, async (disk) => {
    const {ref} = await images(layers);
    const client = openClient({root: join(disk, 'root'), state: temporaryDirectory(t)});
    await client.namespace('default').pull(ref, {snapshotter: SNAPSHOTTER});
    for (const name of ['held', 'v']) await makeVolume(client, name);
    await makeContainer(client, ref, 'c1');
    await client.close();
  });
}

/** Fills a disk except for so many bytes. */
function fill(disk: string, what: 'bytes' | 'inodes', left: number): void {
  const to = join(disk, 'filler');
  mkdirSync(to, {recursive: true});
  const name = join(to, String(readdirSync(to).length));
  const {bavail, bsize, ffree} = statfsSync(disk);
  const size = bavail * bsize - left;
  if (what === 'bytes' && size > 0) {
    // The directory and its extents take part of the last bytes.
    spawnSync('fallocate', ['--length', String(size), name]);
    if (left > 0) return;
  }
  try {
    if (what === 'inodes') for (let i = ffree; i > left; i--) writeFileSync(`${name}.${i}`, '');
    else for (let i = 0; ; i++) writeFileSync(`${name}.${i}`, Buffer.alloc(bsize, 1));
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'ENOSPC') throw err;
  }
}

type Change = (client: Client, ref: string, other: string) => Promise<unknown>;

const CHANGES: Readonly<Record<string, Change>> = {
  'pull into another namespace': (client, ref) => client.namespace('b').pull(ref, {snapshotter: SNAPSHOTTER}),
  'pull of another image': (client, _, other) => client.namespace('default').pull(other, {snapshotter: SNAPSHOTTER}),
  tag: (client, ref) => client.namespace('default').images.tag(ref, 'example.com/tagged:1'),
  container: (client, ref) => makeContainer(client, ref, 'c2'),
  volume: (client) => client.namespace('default').volumes.create('w'),
  'container that fills volumes': (client, ref) =>
    client.namespace('default').containers.create(ref, 'c3', {
      snapshotter: SNAPSHOTTER,
      args: ['/p'],
      storedVolumes: [{name: 'filled', destination: '/data'}, {name: 'v', destination: '/v'}, {destination: '/data/own'}],
    }),
  lease: (client) => client.namespace('c').leases.create({id: 'l'}),
  labels: (client, ref) => client.namespace('default').images.label(ref, {note: 'x'.repeat(3000)}),
};

const REMOVALS: Readonly<Record<string, (client: Client, ref: string) => Promise<unknown>>> = {
  'containers rm': (client) => client.namespace('default').containers.delete('c1'),
  'images rm': (client, ref) => client.namespace('default').images.delete(ref),
  'volumes rm': (client) => client.namespace('default').volumes.delete('v'),
  'volumes prune': (client) => client.namespace('default').volumes.prune(),
  'namespaces rm': (client) => client.namespaces.delete('default', {recursive: true}),
  prune: (client) => client.prune(),
  gc: (client) => client.gc(),
  'check --deep --repair': (client) => client.check({deep: true, repair: true}),
};

/** Removals that free something even as the first one: the image is in use. */
const FREEING: readonly string[] = ['containers rm', 'volumes rm', 'volumes prune', 'namespaces rm'];

interface Case {
  readonly what: 'bytes' | 'inodes';
  readonly level: number;
  readonly change: string;
  /** Removals begin with this one. */
  readonly first: number;
  /** Runs after another removal was killed with the ballast released. */
  readonly afterKill: boolean;
}

async function sweep(t: TestContext, shape: Shape, cases: readonly Case[]): Promise<void> {
  const mount = await makeOrigin(t, shape);
  const disk = temporaryDirectory(t);
  const {ref, other} = await images(shape.layers);
  for (const {what, level, change, first, afterKill} of cases) {
    const when = `${shape.layers} layers, blocks of ${shape.bytes}, ${level} ${what} left, ${change}${afterKill ? ', a kill' : ''}`;
    const unmount = mount(disk);
    const client = openClient({root: join(disk, 'root'), state: temporaryDirectory(t)});
    try {
      fill(disk, what, level);
      const refused = await CHANGES[change]!(client, ref, other).then(
        () => false,
        (err: unknown) => {
          assert.ok(hasCode(err, 'resource_exhausted'), `${when}: ${(err as Error).stack}`);
          return true;
        },
      );
      if (what === 'bytes' && level >= PLENTY) assert.ok(!refused, `${when}: there was room`);
      if (afterKill) {
        fill(disk, what, 0);
        new Store({root: client.root, lockTimeoutMs: 10_000}).ballast.beginRemoval();
      }
      const names = Object.keys(REMOVALS);
      const order = [...names.slice(first), ...names.slice(0, first)];
      for (const name of order) {
        fill(disk, what, 0);
        const before = statfsSync(disk);
        await REMOVALS[name]!(client, ref).catch((err: unknown) => {
          // An earlier removal has removed it; or the new container has the volume.
          const isHeld = name === 'volumes rm' && hasCode(err, 'failed_precondition') && change === 'container that fills volumes';
          assert.ok(
            hasCode(err, 'not_found') || isHeld,
            `${when}: ${name}, after ${order.slice(0, order.indexOf(name))}: ${(err as Error).stack}`,
          );
        });
        const after = statfsSync(disk);
        const isFree = change !== 'container that fills volumes' || !name.startsWith('volumes');
        if (name === order[0] && FREEING.includes(name) && isFree)
          assert.ok(what === 'bytes' ? after.bavail > before.bavail : after.ffree > before.ffree, `${when}: ${name} gave back nothing`);
      }
      rmSync(join(disk, 'filler'), {recursive: true});
      for (const {name} of await client.namespaces.list()) await client.namespaces.delete(name, {recursive: true});
      const {findings} = await client.check({deep: true});
      assert.deepEqual(findings, [], when);
      for (const place of ['layers', 'content/blobs/sha256', 'trash', 'locks'])
        assert.deepEqual(readdirSync(join(disk, 'root', place)), [], when);
    } finally {
      await client.close();
      unmount();
    }
  }
}

/** Of levels from nothing to plenty those that fall to this run, with a change and an order of removals each. */
function cases(what: Case['what'], levels: readonly number[], share: number): readonly Case[] {
  const changes = Object.keys(CHANGES);
  const all = levels.flatMap((level, i) =>
    changes.map((change, j): Case => ({what, level, change, first: (i + j) % Object.keys(REMOVALS).length, afterKill: false})),
  );
  return all.filter((_, i) => i % (TORTURE ? 5 : share) === 0).map((one, i) => ({...one, afterKill: i % 2 === 1}));
}

describe('a disk that fills up', () => {
  for (const bytes of [1024, 4096])
    for (const layers of [1, 24, 60]) {
      it(`leaves removals the space that they need: ${layers} layers, blocks of ${bytes}`, async (t) => {
        if (!(await requiresSmallDisk(t))) return;
        const step = layers === 1 ? 16 << 10 : 64 << 10;
        const levels = [...Array.from({length: 24}, (_, i) => i * step), PLENTY];
        await sweep(t, {layers, bytes, inodes: 3000}, cases('bytes', levels, 61));
      });

      it(`leaves removals their inodes: ${layers} layers, blocks of ${bytes}`, async (t) => {
        if (!(await requiresSmallDisk(t))) return;
        const levels = Array.from({length: 24}, (_, i) => i * (layers === 1 ? 4 : 20));
        await sweep(t, {layers, bytes, inodes: 3000}, cases('inodes', levels, 61));
      });
    }

  it('delays applying a change for lack of space, reports it, and applies it once there is space', async (t) => {
    if (!(await requiresSmallDisk(t))) return;
    const disk = temporaryDirectory(t);
    const shape = {size: 20 << 20, blockSize: 4096, inodes: 500};
    const unmount = (await makeSmallDisk(temporaryDirectory(t), shape))(disk);
    const client = openClient({root: join(disk, 'root'), state: temporaryDirectory(t)});
    try {
      const store = new Store({root: client.root, lockTimeoutMs: 10_000});
      const create = (id: string) => client.namespace(id).leases.create({id});
      await create('first');
      await maintainBallast(store);
      mkdirSync(join(disk, 'filler'));
      for (let left = 0; store.pending() === 0; left++) {
        assert.ok(left < 40, 'no level at which a change is committed and not applied');
        rmSync(join(disk, 'filler'), {recursive: true});
        fill(disk, 'bytes', left * 4096);
        await create(`l${left}`).catch((err: unknown) => assert.ok(hasCode(err, 'resource_exhausted')));
      }
      const waiting = store.view((tx) => tx.namespaces.list().map(({name}) => name)).at(-1)!;
      const says = async () => (await client.check()).findings.map(({severity, object, problem}) => `${severity}: ${object} ${problem}`);
      assert.deepEqual(await says(), ['suspect: entry journal has 1 committed change that the full disk does not let it apply']);
      assert.ok(!existsSync(join(client.root, 'namespaces', waiting, 'leases', `${waiting}.json`)));
      await client.namespace('first').leases.delete('first');
      assert.deepEqual((await client.namespace(waiting).leases.list()).length, 1, 'it is read all the while');
      await client.namespace(waiting).leases.delete(waiting);
      assert.deepEqual(await client.namespace(waiting).leases.list(), [], 'and changed');
      rmSync(join(disk, 'filler'), {recursive: true});
      assert.deepEqual(await says(), []);
      assert.equal(store.pending(), 0);
      assert.deepEqual(await client.namespaces.list().then((all) => all.map(({name}) => name)), ['first', waiting]);
    } finally {
      await client.close();
      unmount();
    }
  });
});
