/** Methods of the library that need only records: no registry, no runtime. Scenarios after containerd, core/metadata/*_test.go. */
import assert from 'node:assert/strict';
import {readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {Readable} from 'node:stream';
import {buffer} from 'node:stream/consumers';
import {afterEach, beforeEach, describe, it} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import type {Client, Labels, NamespaceClient} from '../../../src/lib/client/types/index.ts';
import {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {is, newClient, type Scope} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {containerRecord, digestOf, imageRecord, leaseRecord, makeImage, snapshotRecord} from '../../support/records.ts';
import {readJSON} from './pulled-store.ts';

const hooks: (() => void | Promise<void>)[] = [];
const scope: Scope = {after: (hook) => void hooks.push(hook)};
let client: Client;
let ns: NamespaceClient;
/** The same store, for records made by hand. */
let store: Store;

beforeEach(async () => {
  client = await newClient(scope);
  ns = client.namespace('default');
  store = new Store({root: client.root, lockTimeoutMs: 10_000});
});

afterEach(async () => {
  const problems = checkStore(client.root, {litter: true});
  for (const hook of hooks.splice(0)) await hook();
  assert.deepEqual(problems, []);
});

const rejection = async (promise: Promise<unknown>): Promise<ErrdefsError> => {
  const err = await promise.then(
    () => assert.fail('nothing went wrong'),
    (e: unknown) => e,
  );
  assert.ok(err instanceof ErrdefsError, String(err));
  return err;
};

const names = (records: readonly {readonly name: string}[]): readonly string[] => records.map(({name}) => name);

const blobCount = (): number => store.blobs.list().length;
const layerCount = (): number => store.layers.list().length;

describe('namespaces', () => {
  it('are created once, listed sorted, and found', async () => {
    assert.deepEqual(await client.namespaces.list(), []);
    const made = await client.namespaces.create('foo', {mylabel: 'bar'});
    assert.deepEqual(made.labels, {mylabel: 'bar'});
    await client.namespaces.create('bar');
    assert.deepEqual(names(await client.namespaces.list()), ['bar', 'foo']);
    assert.deepEqual(await client.namespaces.get('foo'), made);
    assert.match((await rejection(client.namespaces.create('foo'))).message, /^namespace "foo": already exists$/);
    assert.match((await rejection(client.namespaces.get('absent'))).message, /^namespace "absent": not found$/);
  });

  it('may have any identifier as name, also "version" and "namespaces"', async () => {
    for (const name of ['version', 'namespaces', 'a', 'A.b-c_d', 'x'.repeat(76)]) await client.namespaces.create(name);
    for (const name of ['', '..', 'a/b', '-a', 'a..b', 'x'.repeat(77)]) {
      assert.equal((await rejection(client.namespaces.create(name))).code, 'invalid_argument');
      assert.equal((await rejection(client.namespaces.delete(name))).code, 'invalid_argument');
      assert.throws(() => client.namespace(name), is('invalid_argument'));
    }
  });

  it('are filtered by name and label', async () => {
    await client.namespaces.create('one', {parity: 'odd'});
    await client.namespaces.create('two', {parity: 'even', 'a.b': 'c'});
    const filtered = async (...filters: string[]) => names(await client.namespaces.list({filters}));
    assert.deepEqual(await filtered('labels.parity==odd'), ['one']);
    assert.deepEqual(await filtered('labels.parity==odd', 'name==two'), ['one', 'two']);
    assert.deepEqual(await filtered('labels."a.b"==c'), ['two']);
    assert.deepEqual(await filtered('labels.parity!=odd,name~=^t'), ['two']);
    assert.equal((await rejection(client.namespaces.list({filters: ['name==']}))).code, 'invalid_argument');
  });

  it('are labelled; an empty value removes', async () => {
    const {createdAt} = await client.namespaces.create('foo', {a: '1', b: '2'});
    await sleep(2);
    const changed = await client.namespaces.label('foo', {a: '', c: '3'});
    assert.deepEqual(changed.labels, {b: '2', c: '3'});
    assert.ok(changed.createdAt === createdAt && changed.updatedAt > createdAt);
    assert.equal((await rejection(client.namespaces.label('absent', {a: 'b'}))).code, 'not_found');
    assert.equal((await rejection(client.namespaces.label('foo', {a: 'x'.repeat(5000)}))).code, 'invalid_argument');
  });

  it('are deleted only when they are empty; the error lists what remains, in order', async () => {
    await client.namespaces.create('foo');
    await client.namespaces.delete('foo');
    assert.equal((await rejection(client.namespaces.delete('foo'))).code, 'not_found');
    await makeImage(store, 'foo', 'image');
    await store.update('more', (tx) => {
      const foo = tx.namespace('foo');
      foo.containers.put(containerRecord('c', {snapshotKey: 'active'}));
      const parent = foo.snapshots('overlayfs').list()[0]!.key;
      foo.snapshots('overlayfs').put({...snapshotRecord('active', {kind: 'view', parent}), layer: undefined} as never);
      foo.leases.put(leaseRecord('l'));
    });
    const err = await rejection(client.namespaces.delete('foo'));
    assert.equal(err.code, 'failed_precondition');
    assert.match(
      err.message,
      /namespace "foo" must be empty, but it still has images, blobs, containers, snapshots on "overlayfs" snapshotter/,
    );
    assert.deepEqual(err.details?.remaining, ['images', 'blobs', 'containers', 'snapshots on "overlayfs" snapshotter']);
    assert.match(err.hint ?? '', /--recursive/);
    await client.namespaces.delete('foo', {recursive: true});
    assert.deepEqual([await client.namespaces.list(), blobCount(), layerCount()], [[], 0, 0]);
  });

  it('can be deleted when only garbage or leases remain', async () => {
    await makeImage(store, 'foo', 'image');
    await store.update('lease', (tx) => tx.namespace('foo').leases.put(leaseRecord('l')));
    await client.namespace('foo').images.delete('image');
    await client.namespaces.delete('foo');
    assert.deepEqual(await client.namespaces.list(), []);
    assert.deepEqual(readdirSync(join(client.root, 'namespaces').replace(/namespaces$/, '')).includes('namespaces'), false);
  });

  it('do not see each other, and are deleted without loss to others', async () => {
    const [a, b] = [await makeImage(store, 'a', 'image', {seed: 's'}), await makeImage(store, 'b', 'image', {seed: 's'})];
    assert.deepEqual(a.content, b.content);
    assert.equal(blobCount(), 4, 'the bytes are there once');
    await client.namespaces.delete('a', {recursive: true});
    assert.deepEqual(names(await client.namespace('b').images.list()), ['image']);
    assert.equal(blobCount(), 4);
    assert.equal(layerCount(), 2);
    await client.namespace('b').images.delete('image');
    assert.deepEqual([blobCount(), layerCount()], [0, 0]);
  });
});

describe('labels', () => {
  const snapshots = () => ns.snapshots('native');
  /** Every method that takes labels. */
  const WAYS: Readonly<Record<string, (labels: Labels) => Promise<{readonly labels: Labels}>>> = {
    'namespaces.create': (labels) => client.namespaces.create('new', labels),
    'namespaces.label': (labels) => client.namespaces.label('default', labels),
    'images.label': (labels) => ns.images.label('image', labels),
    pull: async (labels) => (await ns.pull('127.0.0.1:1/image', {plainHTTP: true, labels})).image,
    'content.ingest': (labels) => ns.content.ingest('key', Readable.from([Buffer.from('bytes')]), {labels}),
    'content.label': async (labels) => ns.content.label((await ns.content.list())[0]!.digest, labels),
    'snapshots.prepare': async (labels) => {
      await snapshots().prepare('new', undefined, {labels});
      return snapshots().get('new');
    },
    'snapshots.view': async (labels) => {
      await snapshots().view('new', 'committed', {labels});
      return snapshots().get('new');
    },
    'snapshots.commit': (labels) => snapshots().commit('new', 'active', {labels}),
    'snapshots.label': (labels) => snapshots().label('active', labels),
    'leases.create': (labels) => ns.leases.create({id: 'new', labels}),
  };
  const prepare = async (): Promise<void> => {
    await makeImage(store, 'default', 'image');
    await snapshots().prepare('active', undefined);
    await snapshots().prepare('work', undefined);
    await snapshots().commit('committed', 'work');
  };
  const BAD: readonly Labels[] = [{n: 5}, {n: null}, {n: {}}, {n: ['x']}, {n: true}, {n: 'x'.repeat(4096)}] as never;

  for (const [way, call] of Object.entries(WAYS)) {
    it(`that are invalid are refused by ${way}, and nothing changes`, async () => {
      await prepare();
      for (const labels of BAD) {
        const before = store.view(({generation}) => generation);
        assert.equal((await rejection(call(labels))).code, 'invalid_argument', JSON.stringify(labels));
        assert.equal(
          store.view(({generation}) => generation),
          before,
        );
      }
    });
    if (way !== 'pull')
      it(`without a value are not stored by ${way}`, async () => {
        await prepare();
        const {labels} = await call({a: 'x', b: ''});
        assert.deepEqual([labels.a, 'b' in labels], ['x', false]);
      });
  }

  it('that are invalid in a store prevent neither its use nor deletion', async () => {
    await prepare();
    await ns.leases.create({id: 'l'});
    await store.update('container', (tx) => tx.namespace('default').containers.put(containerRecord('c')));
    const spoil = (directory: string): void => {
      for (const file of readdirSync(directory)) {
        const path = join(directory, file);
        const record = JSON.parse(readFileSync(path, 'utf8')) as {labels: object};
        writeFileSync(path, JSON.stringify({...record, labels: {...record.labels, good: 'x', bad: 5}}));
      }
    };
    for (const kind of ['images', 'content', 'leases', 'containers', 'snapshots/native', 'snapshots/overlayfs'])
      spoil(join(client.root, 'namespaces/default', kind));
    const all = [
      await ns.images.list(),
      await ns.content.list(),
      await ns.leases.list(),
      await snapshots().list(),
      await ns.containers.list(),
    ];
    for (const {labels} of all.flat()) assert.deepEqual([labels.good, labels.bad], ['x', undefined]);
    await ns.images.label('image', {bad: ''});
    assert.deepEqual(readJSON(join(client.root, 'namespaces/default/images/image.json')).labels, {good: 'x'});
    assert.deepEqual((await client.check()).findings, []);
    const {settled: _, ...collected} = await client.gc();
    assert.deepEqual(collected, {images: 0, content: 0, snapshots: 0, leases: 0, blobs: 0, layers: 0});
    await client.namespaces.delete('default', {recursive: true});
    assert.deepEqual([await client.namespaces.list(), blobCount(), layerCount()], [[], 0, 0]);
  });
});

describe('images', () => {
  it('are found by exact name, and by the name that docker would resolve', async () => {
    await makeImage(store, 'default', 'docker.io/library/redis:7');
    await makeImage(store, 'default', 'plain');
    for (const text of ['redis:7', 'library/redis:7', 'docker.io/library/redis:7'])
      assert.equal((await ns.images.get(text)).name, 'docker.io/library/redis:7');
    assert.equal((await ns.images.get('plain')).name, 'plain');
    const err = await rejection(client.namespace('foo').images.get('redis:7'));
    assert.equal(err.message, 'image "docker.io/library/redis:7" in namespace "foo": not found');
    assert.match(err.hint ?? '', /it exists in namespace "default": use -n default/);
    assert.deepEqual(err.details?.elsewhere, ['default']);
    assert.match((await rejection(ns.images.get('absent'))).hint ?? '', /images pull/);
    // Deleting or tagging does not need the content.
    for (const change of [ns.images.delete('absent'), ns.images.tag('absent', 'x'), ns.images.label('absent', {a: 'b'})])
      assert.equal((await rejection(change)).hint, undefined);
  });

  it('are filtered: by name, labels, media type, and several filters are an or', async () => {
    const {digest} = await ns.content.ingest('key', Readable.from([Buffer.from('x')]));
    await store.update('images', (tx) => {
      for (let i = 0; i < 6; i++)
        tx.namespace('default').images.put(
          imageRecord(`image-${i}`, digest, {namelabel: `image-${i}`, [i % 2 === 0 ? 'even' : 'odd']: 'true'}),
        );
    });
    const filtered = async (...filters: string[]) => names(await ns.images.records({filters})).map((name) => Number(name.at(-1)));
    assert.deepEqual(await filtered(), [0, 1, 2, 3, 4, 5]);
    assert.deepEqual(await filtered('labels.even', 'labels.odd'), [0, 1, 2, 3, 4, 5]);
    assert.deepEqual(await filtered('labels.even'), [0, 2, 4]);
    assert.deepEqual(await filtered('labels.odd==true'), [1, 3, 5]);
    assert.deepEqual(await filtered('name==image-0'), [0]);
    assert.deepEqual(await filtered('labels.namelabel==image-0,labels.even==true'), [0]);
    assert.deepEqual(await filtered('target.mediatype~=application/vnd.*'), [0, 1, 2, 3, 4, 5]);
    assert.deepEqual(await filtered(`target.digest!=${digest}`), []);
  });

  it('are tagged: another name for the same target', async () => {
    const image = await makeImage(store, 'default', 'docker.io/library/a:1');
    const tagged = await ns.images.tag('a:1', 'b:2');
    assert.equal(tagged.name, 'docker.io/library/b:2');
    assert.equal(tagged.target.digest, image.manifest);
    assert.match((await rejection(ns.images.tag('a:1', 'b:2'))).hint ?? '', /--force/);
    const other = await makeImage(store, 'default', 'docker.io/library/c:3');
    const moved = await ns.images.tag('c:3', 'b:2', {force: true});
    assert.equal(moved.target.digest, other.manifest);
    assert.equal(moved.createdAt, tagged.createdAt);
    await ns.images.delete('a:1');
    assert.equal(blobCount(), 4, 'nothing is left of what the tag was moved from, and its last name');
    await ns.images.tag('c:3', 'a:1');
    await makeImage(store, 'default', 'docker.io/library/e:5');
    await ns.images.tag('c:3', 'e:5', {force: true});
    assert.equal(blobCount(), 4, 'nor of what only the moved tag named');
    assert.equal((await rejection(ns.images.tag('absent', 'd:4'))).code, 'not_found');
    assert.equal((await rejection(ns.images.tag('c:3', 'Not A Name'))).code, 'invalid_argument');
  });

  it('that are missing give no hint to pull when a command only changes them', async () => {
    for (const change of [ns.images.delete('absent:1'), ns.images.label('absent:1', {a: 'b'}), ns.images.tag('absent:1', 'other:1')])
      assert.equal((await rejection(change)).hint, undefined);
    // Commands that need the content give the hint.
    assert.match((await rejection(ns.images.inspect('absent:1'))).hint ?? '', /^pull it: /);
  });

  it('are labelled: labels are merged or replaced', async () => {
    await makeImage(store, 'default', 'image');
    assert.deepEqual((await ns.images.label('image', {a: '1', b: '2'})).labels, {a: '1', b: '2'});
    assert.deepEqual((await ns.images.label('image', {a: ''})).labels, {b: '2'});
    assert.deepEqual((await ns.images.label('image', {c: '3'}, {replaceAll: true})).labels, {c: '3'});
    assert.equal((await rejection(ns.images.label('absent', {a: '1'}))).code, 'not_found');
  });

  it('are deleted once, with everything that only they referenced', async () => {
    const shared = await makeImage(store, 'default', 'one', {seed: 's'});
    await makeImage(store, 'default', 'two', {seed: 's'});
    await makeImage(store, 'default', 'three');
    await ns.images.delete('three');
    assert.deepEqual([blobCount(), layerCount()], [4, 2]);
    await ns.images.delete('one');
    assert.deepEqual([blobCount(), layerCount()], [4, 2], 'the other name keeps it');
    assert.equal((await ns.content.list()).length, shared.content.length);
    await ns.images.delete('two');
    assert.deepEqual([blobCount(), layerCount(), await ns.content.list(), await ns.snapshots('overlayfs').list()], [0, 0, [], []]);
    assert.equal((await rejection(ns.images.delete('two'))).code, 'not_found');
  });

  it('are listed with size and platforms, inspected and checked from local content', async () => {
    const {manifest, content, chainIDs} = await makeImage(store, 'default', 'image');
    const [listed] = await ns.images.list();
    const sizes = (await ns.content.list()).reduce((sum, {size}) => sum + size, 0);
    assert.equal(listed?.size, sizes);
    assert.equal(listed?.platforms.length, 1);
    const tree = await ns.images.inspect('image');
    assert.equal(tree.descriptor.digest, manifest);
    assert.deepEqual(
      tree.children.map(({descriptor, present}) => [descriptor.digest, present]),
      content.slice(1).map((digest) => [digest, true]),
    );
    const [checked] = await ns.images.check({snapshotter: 'overlayfs'});
    assert.deepEqual([checked?.status, checked?.have, checked?.need, checked?.unpacked], ['complete', 4, 4, true]);
    const usage = await ns.images.usage('image', {snapshotter: 'overlayfs'});
    assert.deepEqual(
      usage.map(({key}) => key),
      chainIDs.toReversed(),
    );
    assert.ok(usage.every(({size, inodes}) => size > 0 && inodes === 2));
  });
});

describe('leases', () => {
  it('are created, listed with filters, and deleted once', async () => {
    const lease = await ns.leases.create({id: 'one', labels: {a: 'b'}});
    assert.ok(Math.abs(Date.parse(lease.expiresAt!) - Date.parse(lease.createdAt) - 24 * 3600_000) < 1000);
    assert.equal((await ns.leases.create({id: 'two', expiresMs: 0})).expiresAt, undefined);
    const {id} = await ns.leases.create({expiresMs: 60_000});
    assert.match(id, /^[0-9a-f]{16}$/);
    assert.equal((await rejection(ns.leases.create({id: 'one'}))).message, 'lease "one": already exists');
    assert.equal((await rejection(ns.leases.create({id: ''}))).code, 'invalid_argument');
    const ids = async (...filters: string[]) => (await ns.leases.list({filters})).map((l) => l.id);
    assert.deepEqual(await ids('id==one'), ['one']);
    assert.deepEqual(await ids('id==one', 'id==two'), ['one', 'two']);
    assert.deepEqual(await ids('labels.a'), ['one']);
    assert.deepEqual(await ids('labels.a==x'), []);
    await ns.leases.delete('one');
    assert.match((await rejection(ns.leases.delete('one'))).message, /^lease "one" in namespace "default": not found$/);
  });

  it('protect what they name until they are deleted', async () => {
    const {manifest, layers} = await makeImage(store, 'default', 'image');
    await store.update('lease', (tx) => tx.namespace('default').leases.put(leaseRecord('l', {content: [manifest], layers: [layers[0]!]})));
    await ns.images.delete('image');
    assert.deepEqual([blobCount(), layerCount()], [4, 2], 'the manifest keeps its children, the config its snapshot');
    await ns.leases.delete('l');
    assert.deepEqual([blobCount(), layerCount()], [0, 0]);
  });
});

describe('content', () => {
  async function* chunks(...parts: string[]) {
    for (const part of parts) yield Buffer.from(part);
  }

  it('is ingested, kept without an image, read, labelled and removed', async () => {
    const record = await ns.content.ingest('key', chunks('some ', 'bytes'), {expectedSize: 10, labels: {a: 'b'}});
    assert.equal(record.digest, digestOf('some bytes'));
    assert.ok(record.labels['containerd.io/gc.root'] !== undefined && record.labels.a === 'b');
    assert.equal((await buffer((await ns.content.open(record.digest)) as AsyncIterable<Buffer>)).toString(), 'some bytes');
    await makeImage(store, 'default', 'image');
    await ns.images.delete('image');
    assert.deepEqual(await ns.content.get(record.digest), record, 'no collection takes it');
    assert.deepEqual((await ns.content.label(record.digest, {a: ''})).labels.a, undefined);
    assert.equal((await rejection(ns.content.ingest('other', chunks('some bytes')))).code, 'already_exists');
    await ns.content.delete(record.digest);
    for (const action of [ns.content.delete, ns.content.get, ns.content.open])
      assert.equal(
        (await rejection(action(record.digest))).message,
        `content ${JSON.stringify(record.digest)} in namespace "default": not found`,
      );
    assert.equal((await rejection(ns.content.get('sha256:short'))).code, 'invalid_argument');
  });

  it('with a wrong size or digest leaves nothing, and its key is free', async () => {
    for (const [options, source] of [
      [{expectedSize: 3}, chunks('too long')],
      [{expectedSize: 30}, chunks('too short')],
      [{expectedDigest: digestOf('other')}, chunks('this')],
      [
        {},
        (async function* () {
          yield Buffer.from('half');
          throw new ErrdefsError('unavailable', 'the source');
        })(),
      ],
    ] as const) {
      const err = await rejection(ns.content.ingest('key', source, options));
      assert.ok(['failed_precondition', 'unavailable'].includes(err.code), err.message);
      assert.deepEqual([await ns.content.active(), blobCount()], [[], 0]);
    }
    assert.equal((await rejection(ns.content.ingest('', chunks('x')))).code, 'invalid_argument');
    assert.equal((await rejection(ns.content.ingest('key', chunks('x'), {labels: {a: 'x'.repeat(5000)}}))).code, 'invalid_argument');
  });

  it('that is being ingested is listed in its namespace', async () => {
    let seen: unknown;
    async function* source() {
      yield Buffer.from('some');
      seen = [
        (await ns.content.active()).map(({ref, offset, total}) => [ref, offset, total]),
        await client.namespace('foo').content.active(),
        (await ns.content.active({filters: ['ref~=^(?i)K.y$']})).length,
        await ns.content.active({filters: ['ref==ke']}),
      ];
    }
    await ns.content.ingest('key', source(), {expectedSize: 4});
    assert.deepEqual(seen, [[['key', 4, 4]], [], 1, []]);
  });

  it('of another namespace is named in the hint', async () => {
    const {digest} = await ns.content.ingest('key', chunks('x'));
    assert.match((await rejection(client.namespace('foo').content.get(digest))).hint ?? '', /it exists in namespace "default"/);
  });
});

describe('snapshots', () => {
  it('are prepared from an image, kept without one, committed, listed and removed', async () => {
    const {chainIDs} = await makeImage(store, 'default', 'image');
    const top = chainIDs.at(-1)!;
    const snapshots = ns.snapshots('overlayfs');
    const mounts = await snapshots.prepare('active', top, {labels: {a: 'b'}});
    assert.equal(mounts[0]?.type, 'overlay');
    assert.deepEqual(await snapshots.mounts('active'), mounts);
    assert.equal((await snapshots.view('view', top)).length, 1);
    await ns.images.delete('image');
    assert.equal((await snapshots.list()).length, 4, 'what is made from it keeps it');
    assert.deepEqual(
      (await snapshots.list({filters: ['kind==active']})).map(({key}) => key),
      ['active'],
    );
    assert.deepEqual(
      (await snapshots.list({filters: [`parent==${top}`]})).map(({key}) => key),
      ['active', 'view'],
    );
    const committed = await snapshots.commit('committed', 'active', {labels: {c: 'd'}});
    assert.deepEqual([committed.kind, committed.parent, committed.labels.a, committed.labels.c], ['committed', top, undefined, 'd']);
    assert.equal((await rejection(snapshots.delete(top))).code, 'failed_precondition');
    assert.deepEqual((await snapshots.label('committed', {c: ''})).labels.c, undefined);
    for (const key of ['committed', 'view']) await snapshots.delete(key);
    assert.deepEqual([await snapshots.list(), layerCount()], [[], 0]);
    const err = await rejection(snapshots.get('view'));
    assert.equal(err.message, 'snapshot "view" in namespace "default": not found');
    assert.equal((await rejection(snapshots.prepare('x', 'no parent'))).message, 'snapshot "no parent" in namespace "default": not found');
  });

  it('use the default snapshotter of the namespace, and no unknown one', async () => {
    await client.namespaces.create('foo', {'containerd.io/defaults/snapshotter': 'native'});
    assert.equal(client.namespace('foo').snapshots().snapshotter, 'native');
    assert.equal(client.namespace('foo').snapshots('overlayfs').snapshotter, 'overlayfs');
    assert.throws(() => ns.snapshots('btrfs'), is('not_found'));
  });
});

describe('containers', () => {
  it('are listed with filters, and deleted with the snapshot that they write to', async () => {
    const {chainIDs} = await makeImage(store, 'default', 'image');
    const snapshots = ns.snapshots('overlayfs');
    for (const id of ['one', 'two', 'three']) await snapshots.prepare(id, chainIDs.at(-1));
    await store.update('containers', (tx) => {
      for (const [i, id] of ['one', 'two', 'three'].entries())
        tx.namespace('default').containers.put(
          containerRecord(id, {image: 'image', snapshotKey: id, labels: {n: String(i)}, spec: {ociVersion: '1.2.0'}}),
        );
    });
    const ids = async (...filters: string[]) => (await ns.containers.list({filters})).map(({id}) => id);
    assert.deepEqual(await ids(), ['one', 'three', 'two']);
    assert.deepEqual(await ids('id==one', 'labels.n==2'), ['one', 'three']);
    assert.deepEqual(await ids('runtime.name==io.containerd.runc.v2,image==image,id~=^t'), ['three', 'two']);
    assert.equal((await ns.containers.get('one')).snapshotKey, 'one');
    assert.equal((await rejection(snapshots.delete('one'))).code, 'failed_precondition', 'a container uses it');
    assert.equal((await rejection(snapshots.commit('name', 'one'))).code, 'failed_precondition');
    await ns.containers.delete('one');
    assert.equal((await rejection(snapshots.get('one'))).code, 'not_found');
    await ns.containers.delete('two', {keepSnapshot: true});
    assert.equal((await snapshots.get('two')).kind, 'active');
    const err = await rejection(ns.containers.delete('one'));
    assert.equal(err.message, 'container "one" in namespace "default": not found');
    await ns.images.delete('image');
    assert.equal((await snapshots.list()).length, 4, 'what is left keeps its parents');
    await ns.containers.delete('three');
    await snapshots.delete('two');
    assert.equal(layerCount(), 0);
  });
});
