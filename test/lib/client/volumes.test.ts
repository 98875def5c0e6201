/** Volumes: what stops at any step leaves a volume whole or not there at all; several containers that make one have one; users hold theirs. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {type Client, openClient} from '../../../src/lib/client/index.ts';
import {plannedVolumes} from '../../../src/lib/client/run/container-volumes.ts';
import {hasCode} from '../../../src/lib/errdefs.ts';
import type {Spec} from '../../../src/lib/runtime/spec.ts';
import {arm, disarm, killedHere} from '../../fakes/failpoints.ts';
import {startFakeRegistry} from '../../fakes/registry.ts';
import {is, newClient, onEnd, requiresProgram, requiresRoot, type Scope, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {publishImage} from '../../support/published-images.ts';
import {program} from '../../support/static-programs.ts';
import {dir, file, tar} from '../../support/tartest.ts';

const FILES = ['a', 'b', 'c'];
const SNAPSHOTTER = 'overlayfs';

async function pulled(t: Scope): Promise<{readonly client: Client; readonly ref: string}> {
  const registry = await startFakeRegistry(t);
  const files = FILES.map((name) => file(`data/${name}`, name.repeat(5000)));
  publishImage(registry, 'app', [tar(file('p', program('exit'), 0o755), dir('data/', 0o751), ...files)], {
    exec: {Cmd: ['/p'], Volumes: {'/data': {}}},
  });
  const client = await newClient(t);
  const ref = `${registry.host}/app:latest`;
  await client.namespace('default').pull(ref, {snapshotter: SNAPSHOTTER});
  return {client, ref};
}

const CREATE = {snapshotter: SNAPSHOTTER, storedVolumes: [{name: 'v', destination: '/data'}, {destination: '/own'}]};

/** What is not as the image has it. */
const wrong = (path: string): readonly string[] => {
  const there = readdirSync(path).sort();
  return [
    ...FILES.filter((name) => !there.includes(name)),
    ...there.filter((name) => readFileSync(join(path, name), 'utf8') !== name.repeat(5000)),
  ];
};

const volumes = async (client: Client) => client.namespace('default').volumes.list();

describe('volumes', () => {
  it('of an image are a hundred at most', () => {
    const volumes = (count: number) => Object.fromEntries(Array.from({length: count}, (_, i) => [`/${i}`, {}]));
    assert.equal(plannedVolumes({Volumes: volumes(100)}, {}, false).length, 100);
    assert.throws(() => plannedVolumes({Volumes: volumes(101)}, {}, false), is('invalid_argument'));
    assert.deepEqual(plannedVolumes({Volumes: volumes(101)}, {imageVolumes: 'ignore'}, false), []);
  });

  const cases: Readonly<
    Record<string, {prepare?: (client: Client) => Promise<unknown>; act: (client: Client, ref: string) => Promise<unknown>}>
  > = {
    'a container that makes a volume': {act: (client, ref) => client.namespace('default').containers.create(ref, 'c', CREATE)},
    'a container that fills one': {
      prepare: (client) => client.namespace('default').volumes.create('v'),
      act: (client, ref) => client.namespace('default').containers.create(ref, 'c', CREATE),
    },
    'the removal of one': {
      prepare: async (client) => {
        await client.namespace('default').volumes.create('v');
        const [volume] = await volumes(client);
        for (const name of FILES) writeFileSync(join(volume!.path, name), name.repeat(5000));
      },
      act: (client) => client.namespace('default').volumes.delete('v'),
    },
  };
  for (const [what, {prepare, act}] of Object.entries(cases))
    it(`${what} may stop at any step`, async (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'mount')) return;
      const {client: origin, ref} = await pulled(t);
      await prepare?.(origin);
      await origin.close();
      const directory = temporaryDirectory(t);
      let count = 0;
      const fresh = (): {root: string; state: string; below: string} => {
        const below = join(directory, String(++count));
        mkdirSync(below);
        execFileSync('cp', ['-a', origin.root, join(below, 'root')]);
        return {root: join(below, 'root'), state: join(below, 'state'), below};
      };
      const stopped = async (at: number): Promise<{calls: number; place: ReturnType<typeof fresh>}> => {
        const place = fresh();
        const client = openClient(place);
        arm({below: place.below, action: 'EIO', at, lasting: true});
        await act(client, ref).catch(() => undefined);
        const {calls} = disarm();
        await client.close();
        return {calls, place};
      };
      const {calls} = await stopped(0);
      for (let at = 1; at <= calls; at += TORTURE ? 1 : Math.ceil(calls / 8)) {
        const {place} = await stopped(at);
        killedHere(place.root);
        killedHere(place.state);
        const client = openClient(place);
        const ns = client.namespace('default');
        const which = `stopped at ${at} of ${calls}`;
        assert.equal((await client.check()).damage, 0, which);
        for (const {path} of await volumes(client)) if (readdirSync(path).length > 0) assert.deepEqual(wrong(path), [], which);
        await ns.containers.delete('c').catch((err: unknown) => assert.ok(hasCode(err, 'not_found'), String(err)));
        await ns.containers.create(ref, 'c', CREATE);
        const [volume] = await volumes(client);
        assert.deepEqual(wrong(volume!.path), [], which);
        await ns.containers.delete('c');
        await ns.volumes.delete('v');
        await client.gc();
        assert.deepEqual((await client.check()).findings, [], which);
        assert.equal(readdirSync(join(place.root, 'layers')).length, 1, `${which}: the image's own layer is left`);
        await client.close();
      }
    });

  it('are made once, whoever comes first, and stay while a container has them', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'mount')) return;
    const {client, ref} = await pulled(t);
    const ns = client.namespace('default');
    await ns.volumes.create('w', {labels: {a: 'b'}});
    await assert.rejects(ns.volumes.create('w'), is('already_exists'));
    await assert.rejects(ns.volumes.create('x', {labels: {'berth/volume': 'used'}}), is('invalid_argument'));
    const both = {...CREATE, storedVolumes: [...CREATE.storedVolumes, {name: 'w', destination: '/w'}]};
    await Promise.all(['c1', 'c2', 'c3'].map((id) => ns.containers.create(ref, id, both)));
    const [v, w] = await ns.volumes.list();
    assert.deepEqual(
      [v!.usedBy, w!.usedBy],
      [
        ['c1', 'c2', 'c3'],
        ['c1', 'c2', 'c3'],
      ],
    );
    assert.deepEqual(w!.labels, {a: 'b'});
    for (const {id, spec} of await ns.containers.list()) {
      const {mounts} = spec as {mounts: {source: string; destination: string}[]};
      const at = (destination: string): string => mounts.find((mount) => mount.destination === destination)!.source;
      assert.deepEqual([at('/data'), at('/w')], [v!.path, w!.path], id);
      assert.deepEqual(wrong(v!.path), []);
      assert.deepEqual(readdirSync(at('/own')), []);
    }
    await assert.rejects(ns.volumes.delete('v'), is('failed_precondition'));
    for (const id of ['c1', 'c2']) await ns.containers.delete(id);
    await client.prune();
    assert.deepEqual(await ns.volumes.prune(), []);
    await ns.containers.delete('c3');
    await client.prune({kinds: ['snapshots', 'content', 'leases', 'ingests']});
    await client.gc();
    assert.deepEqual(
      (await ns.volumes.list()).map(({name}) => name),
      ['v', 'w'],
      'only who is asked to removes them',
    );
    // Not a volume, though it has the key of one.
    await ns.snapshots('native').prepare('volumes/odd');
    assert.equal((await ns.volumes.list()).length, 2);
    await assert.rejects(
      ns.containers.create(ref, 'c4', {...CREATE, storedVolumes: [{name: 'odd', destination: '/o'}]}),
      is('failed_precondition'),
    );
    assert.deepEqual(await ns.containers.list(), []);
    const odd = [
      [{name: '../x', destination: '/o'}],
      [{name: 'x', destination: 'o'}],
      [{name: 'x', destination: '/a/..'}],
      [{name: 'x', destination: '/o'}, {destination: '/o/'}],
      [{name: 'x', destination: '/o', options: ['odd']}],
    ];
    for (const storedVolumes of odd)
      await assert.rejects(ns.containers.create(ref, 'c5', {storedVolumes}), is('invalid_argument'), JSON.stringify(storedVolumes));
    await assert.rejects(client.namespaces.delete('default'), is('failed_precondition'));
    await client.namespaces.delete('default', {recursive: true});
    assert.deepEqual(readdirSync(join(client.root, 'layers')), []);
    onEnd(t, () => client.close());
  });

  it('of other containers are there until the last container that has them is removed', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'mount')) return;
    const {client, ref} = await pulled(t);
    const ns = client.namespace('default');
    const host = temporaryDirectory(t);
    const mountsOf = async (id: string) =>
      new Map(((await ns.containers.get(id)).spec as Spec).mounts.map((mount) => [mount.destination, mount] as const));
    const create = (id: string, options: object) => ns.containers.create(ref, id, {snapshotter: SNAPSHOTTER, ...options});
    await create('a', {storedVolumes: CREATE.storedVolumes, volumes: [{source: host, destination: '/host'}], netHost: true});
    const a = await mountsOf('a');
    const own = a.get('/own')!.source;
    writeFileSync(join(own, 'written'), 'by a');
    // Of a container that has them of another one; what it has itself comes first.
    await create('b', {volumesFrom: [{container: 'a', readOnly: true}], volumes: [{source: '/tmp', destination: '/host'}]});
    await create('c', {volumesFrom: [{container: 'b'}], imageVolumes: 'ignore'});
    const [b, c] = [await mountsOf('b'), await mountsOf('c')];
    for (const destination of ['/data', '/own']) {
      assert.equal(b.get(destination)?.source, a.get(destination)!.source, destination);
      assert.ok(b.get(destination)!.options.includes('ro'), destination);
      assert.deepEqual(c.get(destination), b.get(destination), destination);
    }
    assert.equal(b.get('/host')?.source, '/tmp');
    assert.ok(a.has('/etc/hosts') && !b.has('/etc/hosts'), 'the files of its network are its own');
    assert.deepEqual((await ns.volumes.get('v')).usedBy, ['a', 'b', 'c']);

    await ns.containers.delete('a');
    await ns.containers.delete('b');
    await client.gc();
    await client.prune({kinds: ['snapshots', 'content', 'leases', 'ingests']});
    assert.equal(readFileSync(join(own, 'written'), 'utf8'), 'by a');
    assert.equal((await client.check()).damage, 0);
    assert.deepEqual(checkStore(client.root), []);
    await assert.rejects(create('d', {volumesFrom: [{container: 'a'}]}), is('not_found'));
    await ns.containers.delete('c');
    assert.ok(!existsSync(own));
    await ns.volumes.delete('v');
    assert.deepEqual(checkStore(client.root, {litter: true}), []);
    assert.equal(readdirSync(join(client.root, 'layers')).length, 1);
  });
});
