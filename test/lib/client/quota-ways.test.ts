/**
 * Every way by which the bytes of a namespace grow, in generated orders: none leads beyond `berth/quota-bytes`, and what is refused is refused
 * for that reason, and leaves nothing behind. What a running container writes is not bounded (docs/decisions/0041-quotas.md).
 */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import type {Client, NamespaceClient} from '../../../src/lib/client/index.ts';
import {hasCode} from '../../../src/lib/errdefs.ts';
import {listIfPresent} from '../../../src/lib/fs/durable.ts';
import {startFakeRegistry} from '../../fakes/registry.ts';
import {type Random, randomOf} from '../../fuzz/seeded-random.ts';
import {is, newClient, requiresProgram, requiresRoot, SAMPLE, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {publishImage} from '../../support/published-images.ts';
import {program} from '../../support/static-programs.ts';
import {dir, file, tar} from '../../support/tartest.ts';

const SEED = Number(process.env.BERTH_TEST_SEED ?? SAMPLE);
const KB = 1000;
const QUOTA = 'berth/quota-bytes';
const SNAPSHOTTERS = ['native', 'overlayfs', 'erofs'] as const;

/** As the quota counts them. */
async function used(client: Client, name: string): Promise<number> {
  const found = (await client.df()).namespaces.find((usage) => usage.name === name);
  return found === undefined ? 0 : found.content.size + found.snapshots.disk + found.writable.disk;
}

async function* bytesOf(data: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < data.length; at += 50_000) yield data.subarray(at, at + 50_000);
}

interface World {
  readonly client: Client;
  readonly ns: NamespaceClient;
  readonly refs: readonly string[];
  /** An archive of an image, and a directory, each of that many bytes. */
  readonly archive: string;
  readonly directory: string;
  /** Names anything anew. */
  next(): string;
}

type Way = (w: World, random: Random) => Promise<unknown>;

const image = async ({ns, refs}: World, random: Random): Promise<string> => {
  const names = (await ns.images.list()).map(({name}) => name);
  return names.length === 0 ? random.pick(refs) : random.pick(names);
};
const container = async ({ns}: World, random: Random): Promise<string> => {
  const ids = (await ns.containers.list()).map(({id}) => id);
  return ids.length === 0 ? 'none' : random.pick(ids);
};
const some = (random: Random): number => random.pick([1, 4000, 40_000, 150_000, 400_000]);

const WAYS: Readonly<Record<string, Way>> = {
  pull: ({ns, refs}, random) => ns.pull(random.pick(refs), {snapshotter: random.pick(SNAPSHOTTERS), unpack: random.chance(0.7)}),
  'content fetch': ({ns, refs}, random) => ns.content.fetch(random.pick(refs)),
  'images import': ({ns, archive, next}, random) =>
    ns.images.import(archive, {snapshotter: 'overlayfs', unpack: random.chance(0.5), baseName: `registry.example/${next()}`} as object),
  'content ingest': ({ns, next}, random) => {
    const data = randomBytes(some(random));
    return ns.content.ingest(next(), bytesOf(data), random.chance(0.5) ? {expectedSize: data.length} : {});
  },
  'images append': async (w, random) =>
    w.ns.images.append(await image(w, random), `registry.example/${w.next()}:1`, [bytesOf(tar(file(w.next(), randomBytes(some(random)))))]),
  'images flatten': async (w, random) => w.ns.images.flatten(await image(w, random), `registry.example/${w.next()}:1`),
  'images convert': async (w, random) =>
    w.ns.images.convert(await image(w, random), `registry.example/${w.next()}:1`, {compression: random.pick(['none', 'zstd'])} as object),
  'snapshots unpack': async (w, random) =>
    w.ns.snapshots(random.pick(SNAPSHOTTERS)).unpack((await w.ns.images.get(await image(w, random))).target.digest),
  'snapshots prepare': async ({ns, next}, random) => {
    const snapshots = ns.snapshots(random.pick(SNAPSHOTTERS));
    const committed = (await snapshots.list()).filter(({kind}) => kind === 'committed').map(({key}) => key);
    return snapshots.prepare(next(), committed.length === 0 ? undefined : random.pick(committed));
  },
  'containers create': async (w, random) =>
    w.ns.containers.create(await image(w, random), w.next(), {
      snapshotter: random.pick(SNAPSHOTTERS),
      args: ['/p'],
      storedVolumes: [
        ...(random.chance(0.4)
          ? [random.chance(0.7) ? {name: random.pick(['one', 'two', 'three']), destination: '/data'} : {destination: '/data'}]
          : []),
        ...(random.chance(0.4) ? [{destination: '/own'}] : []),
      ],
    }),
  'volumes create': ({ns}, random) => ns.volumes.create(random.pick(['one', 'two', 'three', 'four'])),
  'containers cp': async (w, random) =>
    w.ns.containers.copyFiles(
      {path: w.directory},
      {container: await container(w, random), path: random.pick(['/', '/data', '/data/new', '/own'])},
    ),
  'containers cp -': async (w, random) => {
    const entries = Array.from({length: 1 + random.below(30)}, () => file(`${w.next()}/${w.next()}`, randomBytes(some(random) / 10)));
    return w.ns.containers.copyFiles(bytesOf(tar(...entries)), {container: await container(w, random), path: '/'});
  },
  commit: async (w, random) => w.ns.containers.commit(await container(w, random), `registry.example/${w.next()}:1`),
};

const SHRINKING: Readonly<Record<string, Way>> = {
  'images rm': async (w, random) => w.ns.images.delete(await image(w, random)),
  'containers rm': async (w, random) => w.ns.containers.delete(await container(w, random)),
  'volumes prune': ({ns}) => ns.volumes.prune(),
  'snapshots rm': async ({ns}, random) => {
    const snapshots = ns.snapshots(random.pick(SNAPSHOTTERS));
    const active = (await snapshots.list()).filter(({kind}) => kind === 'active').map(({key}) => key);
    if (active.length > 0) await snapshots.delete(random.pick(active));
  },
  'content prune': ({client}) => client.prune(),
};

describe('a namespace with a quota', () => {
  it('holds no more than that, whatever is done in whatever order', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'unshare', 'mount')) return;
    const [lives, steps] = TORTURE ? [40, 60] : [2, 40];
    const counts = {done: 0, refused: 0};
    const refusedWays = new Set<string>();
    for (let life = 0; life < lives; life++) {
      const random = randomOf(SEED, life);
      const registry = await startFakeRegistry(t);
      const client = await newClient(t);
      const names = ['a', 'b', 'c'];
      for (const [i, name] of names.entries())
        publishImage(registry, name, [
          tar(file('p', program('exit'), 0o755), dir('data/'), file('data/seed', randomBytes(60_000 * (i + 1)))),
          tar(file(`top-${name}`, Buffer.alloc(200_000 * (i + 1)))),
        ]);
      const refs = names.map((name) => `${registry.host}/${name}:latest`);
      const work = temporaryDirectory(t);
      const archive = join(work, 'archive.tar');
      await client.namespace('other').pull(refs[2]!, {snapshotter: random.pick(SNAPSHOTTERS)});
      await client.namespace('other').images.export(archive, [refs[2]!]);
      const directory = join(work, 'files');
      mkdirSync(join(directory, 'below'), {recursive: true});
      for (let i = 0; i < 12; i++) writeFileSync(join(directory, 'below', String(i)), randomBytes(i * 3000));
      const quota = random.pick([500, 1000, 2000, 4000]) * KB;
      await client.namespaces.create('small', {[QUOTA]: String(quota)});
      let n = 0;
      const w: World = {client, ns: client.namespace('small'), refs, archive, directory, next: () => `n${++n}`};
      const log: string[] = [];
      let before = 0;
      for (let step = 0; step < steps; step++) {
        const ways = random.chance(0.8) ? WAYS : SHRINKING;
        const name = random.pick(Object.keys(ways));
        const code = await ways[name]!(w, random).then(
          () => undefined,
          (err: unknown) => {
            for (const expected of ['resource_exhausted', 'not_found', 'already_exists', 'failed_precondition'] as const)
              if (hasCode(err, expected)) return expected;
            throw new Error(`seed ${SEED}, life ${life}, after ${log.join(', ')}: ${name}`, {cause: err});
          },
        );
        const now = await used(client, 'small');
        log.push(`${name}${code === undefined ? '' : ` (${code})`}: ${now}`);
        const when = `seed ${SEED}, life ${life}, quota ${quota}: ${log.join(', ')}`;
        assert.ok(now <= quota || now <= before, when);
        if (code !== undefined && code !== 'resource_exhausted' && ways === WAYS) assert.ok(now <= before, when);
        if (code === 'resource_exhausted') {
          counts.refused++;
          refusedWays.add(name);
          // A copy may stop in the middle: what it has written is there. An image that was unpacked for a container stays so.
          if (!name.startsWith('containers c')) assert.ok(now <= before, when);
        } else if (code === undefined) counts.done++;
        before = now;
      }
      assert.deepEqual(checkStore(client.root), []);
      assert.equal((await client.check()).damage, 0);
    }
    t.diagnostic(`${counts.done} done, ${counts.refused} refused: ${[...refusedWays].sort().join(', ')}`);
    assert.ok(counts.refused > 0 && counts.done > 0);
  });

  it('refuses before anything is written where the size is known', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'unshare', 'mount')) return;
    const registry = await startFakeRegistry(t);
    const client = await newClient(t);
    publishImage(registry, 'app', [tar(file('p', program('exit'), 0o755), dir('data/'), file('data/seed', randomBytes(300 * KB)))]);
    const ref = `${registry.host}/app:latest`;
    const ns = client.namespace('small');
    await ns.pull(ref, {snapshotter: 'native'});
    const create = {snapshotter: 'overlayfs', args: ['/p']};
    await ns.containers.create(ref, 'c', create);
    const held = await used(client, 'small');
    await client.namespaces.label('small', {[QUOTA]: String(held + 100 * KB)});
    const refused = is('resource_exhausted');
    const directory = join(temporaryDirectory(t), 'files');
    mkdirSync(directory);
    writeFileSync(join(directory, 'large'), randomBytes(200 * KB));
    const {key} = (await ns.snapshots('native').list()).find(({kind}) => kind === 'committed')!;
    const ways: Readonly<Record<string, () => Promise<unknown>>> = {
      cp: () => ns.containers.copyFiles({path: directory}, {container: 'c', path: '/'}),
      'content ingest': () => ns.content.ingest('k', bytesOf(randomBytes(200 * KB)), {expectedSize: 200 * KB}),
      'snapshots prepare': () => ns.snapshots('native').prepare('copy', key),
      'containers create': () => ns.containers.create(ref, 'd', {...create, snapshotter: 'native'}),
      'a volume of the image’s': () => ns.containers.create(ref, 'd', {...create, storedVolumes: [{name: 'v', destination: '/data'}]}),
      'a volume of its own': () => ns.containers.create(ref, 'd', {...create, storedVolumes: [{destination: '/data'}]}),
    };
    for (const [name, way] of Object.entries(ways)) {
      await assert.rejects(way(), refused, name);
      assert.equal(await used(client, 'small'), held, name);
    }
    assert.deepEqual(await ns.content.active(), []);
    assert.deepEqual(await ns.volumes.list(), []);
    assert.deepEqual(checkStore(client.root), []);
    // What is smaller, has room.
    await ns.volumes.create('v');
    await ns.content.ingest('k', bytesOf(randomBytes(10 * KB)));
  });

  it('is exceeded by no more than 16 MiB by each of two copies that have room only alone', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'unshare', 'mount')) return;
    const MIB = 2 ** 20;
    const registry = await startFakeRegistry(t);
    const client = await newClient(t);
    publishImage(registry, 'app', [tar(file('p', program('exit'), 0o755))]);
    const ref = `${registry.host}/app:latest`;
    const ns = client.namespace('small');
    await ns.pull(ref, {snapshotter: 'overlayfs'});
    for (const id of ['a', 'b']) await ns.containers.create(ref, id, {snapshotter: 'overlayfs', args: ['/p']});
    const quota = (await used(client, 'small')) + 50 * MIB;
    await client.namespaces.label('small', {[QUOTA]: String(quota)});
    const other = tar(file('other', Buffer.alloc(30 * MIB, 'b')));
    let parts = 0;
    async function* beside(): AsyncGenerator<Uint8Array> {
      for await (const part of bytesOf(tar(file('file', Buffer.alloc(40 * MIB, 'a'))))) {
        if (++parts === 2) await ns.containers.copyFiles(bytesOf(other), {container: 'b', path: '/'});
        yield part;
      }
    }
    await assert.rejects(ns.containers.copyFiles(beside(), {container: 'a', path: '/'}), (err: Error) => {
      assert.match(err.message, /others write as well/);
      return is('resource_exhausted')(err);
    });
    // The file that was not whole is gone. Of its bytes no more than 16 MiB had come after the last that had room.
    assert.ok(parts * 50_000 <= (50 - 30 + 16) * MIB, `${parts}`);
    assert.ok((await used(client, 'small')) <= quota);
  });

  it('leaves no directory of what the transaction refuses', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'unshare', 'mount')) return;
    const registry = await startFakeRegistry(t);
    const client = await newClient(t);
    publishImage(registry, 'app', [tar(file('p', program('exit'), 0o755))]);
    const ref = `${registry.host}/app:latest`;
    const ns = client.namespace('small');
    await ns.pull(ref, {snapshotter: 'overlayfs'});
    await client.namespaces.label('small', {[QUOTA]: '1'});
    const entries = (): readonly string[] => ['layers', 'trash', 'work'].flatMap((name) => listIfPresent(join(client.root, name)));
    const before = entries();
    const ways: Readonly<Record<string, () => Promise<unknown>>> = {
      'snapshots prepare': () => ns.snapshots('overlayfs').prepare('s'),
      'containers create': () => ns.containers.create(ref, 'c', {snapshotter: 'overlayfs', args: ['/p']}),
      run: () => ns.run(ref, 'c', {snapshotter: 'overlayfs', args: ['/p']}),
      'volumes create': () => ns.volumes.create('v'),
    };
    for (const [name, way] of Object.entries(ways)) {
      await assert.rejects(way(), is('resource_exhausted'), name);
      assert.deepEqual(entries(), before, name);
    }
    assert.deepEqual((await client.check()).findings, []);
  });
});
