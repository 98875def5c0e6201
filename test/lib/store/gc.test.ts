import assert from 'node:assert/strict';
import {existsSync, mkdirSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {formatIdentity, ownIdentity, type ProcessIdentity} from '../../../src/lib/fs/process.ts';
import type {Digest} from '../../../src/lib/oci/descriptor.ts';
import {downloadKey} from '../../../src/lib/store/blob-store.ts';
import {collect, collectAll, type Graph, isLeaseOwnerAlive, LEASE_OWNER, mark} from '../../../src/lib/store/gc.ts';
import {LocalContentStore} from '../../../src/lib/store/local-content-store.ts';
import type {Labels} from '../../../src/lib/store/records.ts';
import {RefCounts, referencesOfLease} from '../../../src/lib/store/refcounts.ts';
import {SnapshotStore} from '../../../src/lib/store/snapshots.ts';
import {Store} from '../../../src/lib/store/store.ts';
import type {StoreTransaction} from '../../../src/lib/store/transaction-types.ts';
import {startScript} from '../../support/children.ts';
import {isShort, newClient, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {MemoryBackend} from '../../support/metadata-memory.ts';
import {containerRecord, contentRecord, digestOf, imageRecord, leaseRecord, makeImage, snapshotRecord} from '../../support/records.ts';

const ROOT = {'containerd.io/gc.root': '2026-01-01T00:00:00Z'};
const NOW = Date.parse('2026-06-01T00:00:00Z');
const PAST = '2026-05-31T23:59:59Z';
const FUTURE = '2026-06-01T00:00:01Z';

const d = (name: string): Digest => digestOf(name);
const ref = (name: string, suffix = ''): Labels => ({[`containerd.io/gc.ref.content${suffix}`]: d(name)});
const content = (name: string, labels: Labels = {}) => contentRecord(d(name), labels);
const image = (name: string, target: string, labels: Labels = {}) => imageRecord(name, d(target), labels);
const snapshot = (key: string, parent?: string, labels: Labels = {}) =>
  snapshotRecord(key, {labels, ...(parent === undefined ? {} : {parent})});

const EMPTY: Graph = {images: [], containers: [], content: [], snapshots: [], leases: []};

/** Result of `mark`, by the names above. */
function kept(graph: Partial<Graph>): string[] {
  const whole = {...EMPTY, ...graph};
  const names = new Map<string, string>([
    ...whole.content.map(({digest}): [string, string] => [`content/${digest}`, `content ${[...NAMES].find((name) => d(name) === digest)}`]),
    ...whole.snapshots.map(({snapshotter, key}): [string, string] => [`snapshot/${snapshotter}/${key}`, `snapshot ${key}`]),
    ...whole.images.map(({name}): [string, string] => [`image/${name}`, `image ${name}`]),
  ]);
  const live = mark(whole, NOW);
  return [...names].flatMap(([node, name]) => (live.has(node as never) ? name : [])).sort();
}

const NAMES = 'abcdefghijklmnopqrstuvwxyz';

describe('mark', () => {
  const ROWS: readonly (readonly [what: string, graph: Partial<Graph>, live: readonly string[]])[] = [
    ['nothing', {content: [content('a')], snapshots: [snapshot('s')]}, []],
    ['an image keeps its target', {images: [image('i', 'a')], content: [content('a'), content('b')]}, ['content a', 'image i']],
    [
      'content keeps what its labels name, recursively',
      {images: [image('i', 'a')], content: [content('a', ref('b')), content('b', ref('c')), content('c'), content('x')]},
      ['content a', 'content b', 'content c', 'image i'],
    ],
    [
      'a label may have any suffix after a dot or a slash',
      {
        images: [image('i', 'a')],
        content: [
          content('a', {...ref('b', '.l.0'), ...ref('c', '/x'), ...ref('e', 'bad'), ...ref('f', '-x')}),
          ...['b', 'c', 'e', 'f'].map((n) => content(n)),
        ],
      },
      ['content a', 'content b', 'content c', 'image i'],
    ],
    [
      'content with gc.root is kept, whatever its value',
      {content: [content('a', {'containerd.io/gc.root': ''}), content('b')]},
      ['content a'],
    ],
    [
      'a snapshot with gc.root is kept, and its parents',
      {snapshots: [snapshot('top', 'mid', ROOT), snapshot('mid', 'low'), snapshot('low'), snapshot('x')]},
      ['snapshot low', 'snapshot mid', 'snapshot top'],
    ],
    [
      'every container is kept, with its snapshot and its parents',
      {containers: [containerRecord('c', {snapshotKey: 'own'})], snapshots: [snapshot('own', 'low'), snapshot('low'), snapshot('x')]},
      ['snapshot low', 'snapshot own'],
    ],
    [
      'a container keeps what its labels name',
      {
        containers: [containerRecord('c', {labels: {...ref('a'), 'containerd.io/gc.ref.image': 'i'}})],
        content: [content('a'), content('b')],
        images: [image('i', 'b', {'containerd.io/gc.expire': PAST})],
      },
      ['content a', 'content b', 'image i'],
    ],
    [
      'content keeps the snapshot of its snapshotter',
      {
        content: [
          content('a', {
            ...ROOT,
            'containerd.io/gc.ref.snapshot.overlayfs': 's',
            'containerd.io/gc.ref.snapshot.overlayfs/x': 't',
            'containerd.io/gc.ref.snapshot.native': 'u',
          }),
        ],
        snapshots: ['s', 't', 'u'].map((k) => snapshot(k)),
      },
      ['content a', 'snapshot s', 'snapshot t'],
    ],
    [
      'a snapshot keeps what its labels name',
      {snapshots: [snapshot('s', undefined, {...ROOT, ...ref('a')})], content: [content('a')]},
      ['content a', 'snapshot s'],
    ],
    [
      'an expired image is not a root',
      {
        images: [
          image('i', 'a', {'containerd.io/gc.expire': PAST}),
          image('j', 'b', {'containerd.io/gc.expire': FUTURE}),
          image('k', 'c', {'containerd.io/gc.expire': 'never'}),
        ],
        content: ['a', 'b', 'c'].map((n) => content(n)),
      },
      ['content b', 'content c', 'image j', 'image k'],
    ],
    [
      'an expired image is kept by references to it',
      {
        images: [image('i', 'a', {'containerd.io/gc.expire': PAST})],
        content: [content('a'), content('b', {...ROOT, 'containerd.io/gc.ref.image.x': 'i'})],
      },
      ['content a', 'content b', 'image i'],
    ],
    [
      'a lease keeps what it names, recursively',
      {
        leases: [leaseRecord('l', {content: [d('a')], snapshots: ['overlayfs/s']})],
        content: [content('a', ref('b')), content('b'), content('x')],
        snapshots: [snapshot('s', 'p', ref('c')), snapshot('p')],
      },
      ['content a', 'content b', 'snapshot p', 'snapshot s'],
    ],
    [
      'a lease keeps what its labels name',
      {leases: [leaseRecord('l', {labels: ref('a')})], content: [content('a'), content('b')]},
      ['content a'],
    ],
    [
      'a flat lease keeps what it names and the parents of that, and follows no label',
      {
        leases: [leaseRecord('l', {content: [d('a')], snapshots: ['overlayfs/s'], labels: {'containerd.io/gc.flat': '', ...ref('e')}})],
        content: [content('a', ref('b')), content('b'), content('c'), content('e')],
        snapshots: [snapshot('s', 'p', ref('c')), snapshot('p')],
      },
      ['content a', 'snapshot p', 'snapshot s'],
    ],
    [
      "labels of a flat lease's content are followed when something else keeps it",
      {
        leases: [leaseRecord('l', {content: [d('a')], labels: {'containerd.io/gc.flat': ''}})],
        content: [content('a', {...ROOT, ...ref('b')}), content('b')],
      },
      ['content a', 'content b'],
    ],
    [
      'an object with a back reference is kept while the target is',
      {
        images: [image('i', 'a')],
        containers: [containerRecord('c')],
        content: [
          content('a'),
          content('b', {'containerd.io/gc.bref.content': d('a')}),
          content('c', {'containerd.io/gc.bref.image': 'i'}),
          content('e', {'containerd.io/gc.bref.container.x': 'c'}),
          content('f', {'containerd.io/gc.bref.content': d('x')}),
          content('g', {'containerd.io/gc.bref.contentbad': d('a')}),
        ],
        snapshots: [
          snapshot('s', undefined, {'containerd.io/gc.bref.snapshot.overlayfs': 't'}),
          snapshot('t', undefined, {'containerd.io/gc.bref.content': d('b')}),
        ],
      },
      ['content a', 'content b', 'content c', 'content e', 'image i', 'snapshot s', 'snapshot t'],
    ],
    ['a forward reference cannot keep a container', {content: [content('a', {'containerd.io/gc.ref.container': 'c'})], containers: []}, []],
    [
      'cycles are kept only from outside',
      {
        images: [image('i', 'a')],
        content: [content('a', ref('b')), content('b', ref('a')), content('c', ref('e')), content('e', ref('c'))],
      },
      ['content a', 'content b', 'image i'],
    ],
    [
      'missing targets are ignored',
      {images: [image('i', 'x')], content: [content('a')], leases: [leaseRecord('l', {content: [d('y')], snapshots: ['overlayfs/z']})]},
      ['image i'],
    ],
  ];
  for (const [what, graph, live] of ROWS)
    it(what, () => {
      assert.deepEqual(kept(graph), live);
    });
});

describe('mark', () => {
  it('takes time linear in the references, back references included', () => {
    const N = 50_000;
    const digests = Array.from({length: N}, (_, i) => `sha256:${i.toString(16).padStart(64, '0')}` as Digest);
    const graph: Graph = {
      ...EMPTY,
      images: [imageRecord('i', digests[0]!)],
      leases: [leaseRecord('l', {content: digests})],
      content: digests.map((digest) => contentRecord(digest, {'containerd.io/gc.bref.image': 'i'})),
    };
    const begun = process.cpuUsage();
    assert.equal(mark(graph, NOW).size, N + 1);
    const {user} = process.cpuUsage(begun);
    assert.ok(user < 8_000_000, `${user} µs, and one that is quadratic takes 25 s`);
  });
});

const openStore = (t: TestContext): Store => new Store({root: join(temporaryDirectory(t), 'root'), lockTimeoutMs: 10_000});

async function collected(store: Store, change: (tx: StoreTransaction) => void): Promise<void> {
  await store.update('a change and its collection', (tx) => {
    change(tx);
    collect(store, tx);
  });
  store.layers.emptyTrash();
}

const OWNER = (identity: ProcessIdentity): Labels => ({[LEASE_OWNER]: formatIdentity(identity)});
const DEAD = {...ownIdentity(), startTime: '1'};
const FOREIGN = {...ownIdentity(), pidNamespace: '1'};

describe('collection', () => {
  it('removes unreferenced records of two namespaces, and blobs that neither namespace sees', async (t) => {
    const store = openStore(t);
    const one = await makeImage(store, 'one', 'image', {seed: 'shared'});
    await makeImage(store, 'two', 'image', {seed: 'shared'});
    const only = await makeImage(store, 'two', 'only');
    await collected(store, (tx) => tx.namespace('two').images.delete('only'));
    assert.deepEqual(store.blobs.list(), one.content.toSorted());
    assert.deepEqual(store.layers.list(), one.layers.toSorted());
    assert.ok(only.content.every((digest) => store.blobs.size(digest) === undefined));
    await collected(store, (tx) => tx.namespace('one').images.delete('image'));
    assert.equal(store.blobs.list().length, 4);
    assert.deepEqual(
      store.view((tx) => [tx.namespace('one').content.list(), tx.namespace('one').snapshotters()]),
      [[], []],
    );
    await collected(store, (tx) => tx.namespace('two').images.delete('image'));
    assert.deepEqual([store.blobs.list(), store.layers.list()], [[], []]);
    assert.deepEqual(checkStore(store.layout.root, {litter: true}), []);
  });

  it('changes nothing when its transaction fails', async (t) => {
    const store = openStore(t);
    await makeImage(store, 'default', 'image');
    await assert.rejects(
      store.update('fails', (tx) => {
        tx.namespace('default').images.delete('image');
        collect(store, tx);
        throw new Error('no');
      }),
    );
    assert.equal(store.blobs.list().length, 4);
    assert.deepEqual(checkStore(store.layout.root, {litter: true}), []);
  });

  it('keeps blobs and layers that only a lease names, and removes them with the lease', async (t) => {
    const store = openStore(t);
    store.ensureCreated();
    const bytes = Buffer.from('of a pull under way');
    const digest = digestOf(bytes);
    store.blobs.writeSmall(digest, bytes);
    const work = store.layers.createWork();
    store.layers.publish(work, 'a-layer', {snapshotter: 'overlayfs', diffID: digest});
    await store.update('lease', (tx) =>
      tx.namespace('default').leases.put(leaseRecord('l', {content: [digest], layers: ['a-layer', 'in the making']})),
    );
    await makeImage(store, 'default', 'image');
    await collected(store, (tx) => tx.namespace('default').images.delete('image'));
    await store.update('everything', (tx) => collectAll(store, tx));
    assert.deepEqual([store.blobs.list(), store.layers.list()], [[digest], ['a-layer']]);
    await collected(store, (tx) => tx.namespace('default').leases.delete('l'));
    assert.deepEqual([store.blobs.list(), store.layers.list()], [[], []]);
  });

  for (const everything of [false, true])
    it(`removes leases that have expired and whose owner is gone, no others (${everything ? 'everything' : 'touched namespaces'})`, async (t) => {
      const store = openStore(t);
      const past = new Date(Date.now() - 1000).toISOString();
      const future = new Date(Date.now() + 60_000).toISOString();
      const {manifest} = await makeImage(store, 'default', 'image');
      await store.update('leases', (tx) => {
        const {leases} = tx.namespace('default');
        leases.put(leaseRecord('expired', {expiresAt: past, content: [manifest]}));
        leases.put(leaseRecord('expired by label', {labels: {'containerd.io/gc.expire': past}}));
        leases.put(leaseRecord('expired, owner dead', {expiresAt: past, labels: OWNER(DEAD)}));
        leases.put(leaseRecord('expired, owner elsewhere', {expiresAt: past, labels: OWNER(FOREIGN)}));
        leases.put(leaseRecord('kept: for ever'));
        leases.put(leaseRecord('kept: not yet', {expiresAt: future}));
        leases.put(leaseRecord('kept: not yet, owner dead', {expiresAt: future, labels: OWNER(DEAD)}));
        leases.put(leaseRecord('kept: owner alive', {expiresAt: past, labels: OWNER(ownIdentity())}));
      });
      if (everything)
        await store.update('everything', (tx) => {
          tx.namespace('default').images.delete('image');
          collectAll(store, tx);
        });
      else await collected(store, (tx) => tx.namespace('default').images.delete('image'));
      const left = store.view((tx) =>
        tx
          .namespace('default')
          .leases.list()
          .map(({id}) => id),
      );
      assert.deepEqual(left, ['kept: for ever', 'kept: not yet', 'kept: not yet, owner dead', 'kept: owner alive']);
      assert.deepEqual(store.blobs.list(), []);
    });

  it('tells whether the owner of a lease is alive, dead or unknown', () => {
    const lives = (labels: Labels) => isLeaseOwnerAlive(leaseRecord('l', {labels}));
    assert.deepEqual(
      [lives(OWNER(ownIdentity())), lives(OWNER(DEAD)), lives(OWNER(FOREIGN)), lives({}), lives({[LEASE_OWNER]: 'x'})],
      [true, false, undefined, undefined, undefined],
    );
  });

  it('sweeps leftovers of dead processes, and nothing of living ones', async (t) => {
    const store = openStore(t);
    await makeImage(store, 'default', 'image');
    const {layout} = store;
    const mine = store.layers.createWork();
    const dead = `${formatIdentity(DEAD)}.x`;
    const old = Date.now() / 1000 - 25 * 3600;
    mkdirSync(join(layout.work, dead));
    mkdirSync(join(layout.lock(`ingest-x.${dead}`)), {recursive: true});
    mkdirSync(layout.lock('stale'));
    writeFileSync(join(layout.lock('stale'), dead), '');
    writeFileSync(join(layout.blobs, 'sha256', `.tmp.${dead}`), '');
    const ingest = (key: string, age: number): void => {
      const path = store.blobs.beginIngest(key, {ref: key, namespace: 'default', total: 0});
      writeFileSync(path, 'x', {mode: 0o600});
      for (const file of [path, join(layout.ingest(key), 'info.json'), layout.ingest(key)]) utimesSync(file, age, age);
    };
    const [young, idle, held, empty] = ['a', 'b', 'c', 'd'].map((letter) => `ref-${letter.repeat(64)}`) as [string, string, string, string];
    ingest(idle, old);
    ingest(young, Date.now() / 1000 - 3600);
    writeFileSync(join(layout.ingest(young), `.tmp.${dead}`), '');
    const wanted = digestOf('leased');
    ingest(downloadKey(wanted), old);
    ingest(held, old);
    mkdirSync(layout.ingest(empty));
    utimesSync(layout.ingest(empty), old, old);
    const strangers = [
      layout.ingest('README'),
      join(layout.work, 'README'),
      join(layout.layers, 'README'),
      join(layout.layers, 'my-backup'),
    ];
    for (const path of strangers) writeFileSync(path, 'x', {mode: 0o600});
    const holder = startScript(
      t,
      `const {acquireLock} = await lib('fs/lock.ts'); await acquireLock(args[0], {timeoutMs: 0}); say('held'); await go();`,
      [layout.lock(`ingest-${held}`)],
    );
    await holder.line();
    await store.update('lease', (tx) => tx.namespace('default').leases.put(leaseRecord('l', {content: [wanted]})));
    await store.update('everything', (tx) => collectAll(store, tx));
    store.layers.emptyTrash();
    for (const path of strangers) {
      assert.ok(existsSync(path), `${path} is nothing of ours`);
      rmSync(path);
    }
    assert.deepEqual(readdirSync(layout.ingests).sort(), [young, held, downloadKey(wanted)]);
    assert.deepEqual(readdirSync(layout.work), [mine.slice(layout.work.length + 1)]);
    assert.deepEqual(readdirSync(layout.locks), [`ingest-${held}`]);
    assert.deepEqual(
      readdirSync(join(layout.blobs, 'sha256')).filter((name) => name.startsWith('.')),
      [],
    );
    holder.process.kill('SIGKILL');
    await holder.done;
    await collected(store, (tx) => tx.namespace('default').images.delete('image'));
    assert.deepEqual(readdirSync(layout.ingests).sort(), [young, downloadKey(wanted)], 'a small collection sweeps as well');
    rmSync(mine, {recursive: true});
    assert.deepEqual(checkStore(layout.root, {litter: true}), []);
  });

  it('marks everything after a lock holder died, and frees what it would have freed', async (t) => {
    const store = openStore(t);
    const gone = await makeImage(store, 'default', 'gone');
    await makeImage(store, 'other', 'image');
    // Kill a removal between its commit and its sweep.
    const code = `
      const {Store} = await lib('store/store.ts');
      const {collect} = await lib('store/gc.ts');
      const store = new Store({root: args[0], lockTimeoutMs: 1000});
      await store.update('killed', (tx) => {
        tx.namespace('default').images.delete('gone');
        tx.afterCommit(() => process.kill(process.pid, 'SIGKILL'));
        collect(store, tx);
      });`;
    assert.equal((await startScript(t, code, [store.layout.root]).done).signal, 'SIGKILL');
    assert.deepEqual(checkStore(store.layout.root), []);
    assert.equal(store.blobs.list().length, 8, 'the bytes of the removed image are still there');
    assert.deepEqual(
      store.view((tx) => tx.namespace('default').content.list()),
      [],
    );
    // Any change finds the dead process's lock; the next collection frees the space.
    await store.update('unrelated', (tx) => tx.namespace('other').leases.put(leaseRecord('l')));
    assert.ok(existsSync(store.layout.unswept));
    await collected(store, (tx) => tx.namespace('other').leases.delete('l'));
    assert.equal(store.blobs.list().length, 4);
    assert.ok(gone.layers.every((layer) => !store.layers.list().includes(layer)));
    assert.deepEqual(checkStore(store.layout.root, {litter: true}), []);
  });

  it('stops at once when another writer has overtaken it', async (t) => {
    for (const everything of [false, true]) {
      const store = openStore(t);
      const {content} = await makeImage(store, 'default', 'image');
      await store.update('late', (tx) => {
        tx.namespace('default').images.delete('image');
        // A process that considered us dead commits records that may need these blobs.
        tx.afterCommit(() => {
          const generation = String(tx.generation + 2).padStart(16, '0');
          writeFileSync(
            join(store.layout.journal, generation),
            JSON.stringify({version: 1, generation: tx.generation + 2, writes: {}, before: {}}),
          );
        });
        if (everything) collectAll(store, tx);
        else collect(store, tx);
      });
      assert.deepEqual(store.blobs.list(), content.toSorted());
    }
  });

  it('refuses when a record cannot be read, and removes nothing', async (t) => {
    const store = openStore(t);
    await makeImage(store, 'one', 'image');
    await makeImage(store, 'two', 'image');
    const {root} = store.layout;
    // With a damaged record and inconsistent counts, everything would have to be marked.
    writeFileSync(join(root, 'namespaces/two/images/image.json'), '{');
    rmSync(join(root, 'refs/complete.json'));
    await assert.rejects(
      collected(store, (tx) => tx.namespace('one').images.delete('image')),
      /two\/images\/image\.json is not valid JSON/,
    );
    assert.equal(store.blobs.list().length, 8);
    assert.equal(store.view((tx) => tx.namespace('one').images.get('image')).name, 'image');
  });

  it('rebuilds inconsistent counts, with the same result', async (t) => {
    for (const damage of ['refs/complete.json', 'namespaces/default/refs/complete.json', 'a count']) {
      const store = openStore(t);
      const {root} = store.layout;
      const kept = await makeImage(store, 'default', 'kept');
      await makeImage(store, 'default', 'gone');
      if (damage === 'a count') {
        const directory = join(root, 'namespaces/default/refs');
        for (const name of readdirSync(directory))
          if (name.startsWith('content')) writeFileSync(join(directory, name), '{"version":1,"n":"x"}');
      } else rmSync(join(root, damage));
      await collected(store, (tx) => tx.namespace('default').images.delete('gone'));
      assert.deepEqual(store.blobs.list(), kept.content.toSorted(), damage);
      assert.match(readFileSync(join(root, 'namespaces/default/refs/complete.json'), 'utf8'), /"version":1/);
      assert.deepEqual(
        checkStore(root, {litter: true}).filter((line) => !line.includes('is not what generation')),
        [],
        damage,
      );
    }
  });

  it('removes with the next removal what a change left uncollected', async (t) => {
    const store = openStore(t);
    store.ensureCreated();
    const bytes = Buffer.from('leased');
    store.blobs.writeSmall(digestOf(bytes), bytes);
    await store.update('leases', (tx) => {
      for (const id of ['l', 'empty']) tx.namespace('one').leases.put(leaseRecord(id, {content: id === 'l' ? [digestOf(bytes)] : []}));
    });
    await makeImage(store, 'two', 'image');
    await store.update('no collection', (tx) => {
      tx.namespace('one').leases.delete('l');
      tx.namespace('two').images.delete('image');
    });
    assert.equal(store.blobs.list().length, 5);
    await collected(store, (tx) => tx.namespace('one').leases.delete('empty'));
    assert.deepEqual([store.blobs.list(), store.layers.list()], [[], []]);
    assert.deepEqual(checkStore(store.layout.root, {litter: true}), []);
  });

  it('marks everything once after a berth with older counting rules', async (t) => {
    const store = openStore(t);
    await makeImage(store, 'other', 'image');
    await store.update('records', (tx) => {
      const {images, leases} = tx.namespace('other');
      images.put({...images.get('image'), labels: {'containerd.io/gc.expire': PAST}});
      leases.put(leaseRecord('empty'));
      tx.namespace('default').leases.put(leaseRecord('empty'));
    });
    const {root} = store.layout;
    rmSync(join(root, 'refs/uncounted.json'));
    for (const directory of ['refs', 'namespaces/other/refs', 'namespaces/default/refs'])
      writeFileSync(join(root, directory, 'complete.json'), '{"version":1}\n');
    assert.deepEqual((await (await newClient(t, {root})).check()).findings, [], 'it is as it should be');
    await collected(store, (tx) => tx.namespace('default').leases.delete('empty'));
    assert.deepEqual([store.blobs.list(), store.layers.list()], [[], []]);
    assert.equal(readFileSync(join(root, 'refs/complete.json'), 'utf8').includes('"rules":2'), true);
  });

  it('by counts leaves exactly what marking keeps, after any change', async (t) => {
    for (let seed = 1; seed <= (isShort() ? 10 : 60); seed++) await randomWalk(t, seed);
  });
});

/** Random changes, each with a collection; afterwards the records must be exactly those that `mark` keeps. */
async function randomWalk(t: TestContext, seed: number): Promise<void> {
  let state = seed * 2654435761;
  const random = (n: number): number => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return Math.floor((state / 2147483648) * n);
  };
  const pick = <T>(from: readonly T[]): T | undefined => from[random(from.length)];
  const store = new Store({root: join(temporaryDirectory(t), 'root'), lockTimeoutMs: 1000}, new MemoryBackend());
  store.ensureCreated();
  const steps: string[] = [];
  for (let step = 0; step < 40; step++) {
    const ns = pick(['one', 'two'])!;
    await store.update('step', (tx) => {
      const space = tx.namespace(ns);
      const n = random(10);
      const action = random(9);
      steps.push(`${ns} ${action} ${n}`);
      if (action <= 2) {
        // An image with nested content, as a pull creates it.
        const names = [n, n + 1, n + 1 + random(3) + 1].map(String);
        for (const [i, name] of names.entries()) {
          store.blobs.writeSmall(d(`blob ${name}`), Buffer.from(`blob ${name}`));
          const next = names[i + 1];
          space.content.put({
            ...contentRecord(d(`blob ${name}`), {
              ...space.content.find(d(`blob ${name}`))?.labels,
              ...(next === undefined ? {} : {[`containerd.io/gc.ref.content.${next}`]: d(`blob ${next}`)}),
            }),
            size: Buffer.byteLength(`blob ${name}`),
          });
        }
        space.images.put(
          imageRecord(`image-${n}`, d(`blob ${n}`), random(3) === 0 ? {'containerd.io/gc.ref.content.x': d(`blob ${random(10)}`)} : {}),
        );
      } else if (action === 3) space.images.delete(`image-${n}`);
      else if (action === 4) space.images.delete(pick(space.images.list())?.name ?? '');
      else if (action === 5) {
        const target = pick(space.content.list());
        if (target !== undefined) space.leases.put(leaseRecord(`lease-${n}`, {content: [target.digest], snapshots: [`overlayfs/s${n}`]}));
      } else if (action === 6) space.leases.delete(pick(space.leases.list())?.id ?? '');
      else if (action === 7) {
        const parent = random(2) === 0 ? undefined : pick(space.snapshots('overlayfs').list())?.key;
        if (space.snapshots('overlayfs').find(`s${n}`) === undefined)
          space.snapshots('overlayfs').put(
            snapshotRecord(`s${n}`, {
              ...(parent === undefined ? {} : {parent}),
              layer: `layer-${n}`,
              labels: random(2) === 0 ? ROOT : {},
            }),
          );
        space.containers.put(containerRecord(`c${n}`, {snapshotKey: `s${n}`}));
      } else space.containers.delete(pick(space.containers.list())?.id ?? '');
      collect(store, tx);
    });
    store.view((tx) => {
      const blobs = new Set<string>();
      for (const {name} of tx.namespaces.list()) {
        const space = tx.namespace(name);
        const graph: Graph = {
          images: space.images.list(),
          containers: space.containers.list(),
          content: space.content.list(),
          snapshots: space.snapshots('overlayfs').list(),
          leases: space.leases.list(),
        };
        const live = mark(graph, Date.now());
        const here = [
          ...graph.content.map(({digest}) => `content/${digest}` as const),
          ...graph.snapshots.map(({key}) => `snapshot/overlayfs/${key}` as const),
        ];
        assert.deepEqual(
          here.filter((node) => !live.has(node)),
          [],
          `seed ${seed}: ${steps.join(', ')}`,
        );
        for (const {content: digests} of graph.leases) for (const digest of digests) blobs.add(digest);
        for (const {digest} of graph.content) {
          blobs.add(digest);
          assert.ok(store.blobs.size(digest) !== undefined, `seed ${seed}: ${digest} is gone`);
        }
        for (const {target} of graph.images)
          assert.ok(
            graph.content.some(({digest}) => digest === target.digest),
            `seed ${seed}: an image lost its target`,
          );
      }
      assert.deepEqual(
        store.blobs.list().filter((digest) => !blobs.has(digest)),
        [],
        `seed ${seed}: ${steps.join(', ')}`,
      );
    });
  }
}

describe('counts of references', () => {
  it('are inconsistent for all readers once one could not be read', async () => {
    const backend = new MemoryBackend();
    await backend.update('a namespace', (writer) => {
      writer.put('namespaces/a/namespace.json', {});
      new RefCounts(writer).beginNamespace('a', true);
    });
    const keeper = referencesOfLease(leaseRecord('l', {content: [d('x')]}));
    for (const kind of ['content', 'blob']) {
      await backend.update('a reference', (writer) => {
        const get = (path: string): unknown => {
          if (path.includes(`/${kind}%2F`)) throw new ErrdefsError('data_loss', path);
          return writer.get(path);
        };
        const refs = new RefCounts({
          generation: writer.generation,
          get,
          put: (path, document) => writer.put(path, document),
          list: (directory) => writer.list(directory),
          directories: (directory) => writer.directories(directory),
          locate: (path) => path,
          lost: () => [],
          changesSince: () => undefined,
        });
        refs.change('a', undefined, keeper);
        assert.equal(refs.isConsistent('a'), false);
      });
      assert.equal(
        backend.view((reader) => new RefCounts(reader).isConsistent('a')),
        false,
        kind,
      );
      await backend.update('count anew', (writer) => new RefCounts(writer).rebuild(new Map([['a', [keeper]]])));
      assert.equal(
        backend.view((reader) => new RefCounts(reader).isConsistent('a')),
        true,
      );
    }
  });
});

describe('removals by users of the library', () => {
  it('frees space at once', async (t) => {
    const store = openStore(t);
    const blobs = new LocalContentStore(store, 'default');
    const snapshots = new SnapshotStore(store, 'default', 'overlayfs');
    const writer = await blobs.writer('ref');
    writer.write(Buffer.from('bytes'));
    const {digest} = await writer.commit();
    await snapshots.prepare('key', undefined, ROOT);
    await blobs.delete(digest);
    await snapshots.remove('key');
    assert.deepEqual([store.blobs.list(), store.layers.list(), readdirSync(store.layout.trash)], [[], [], []]);
  });

  it('is left in the trash while its remover lives', async (t) => {
    const store = openStore(t);
    await store.update('a change', (tx) => tx.namespace('default').images.put(image('a', 'a')));
    const code = `
      const {uniqueName} = await lib('fs/process.ts');
      require('node:fs').mkdirSync(args[0] + '/' + uniqueName(), {recursive: true});
      say('moved');
      await go();`;
    const other = startScript(t, code, [store.layout.trash]);
    assert.equal(await other.line(), 'moved');
    mkdirSync(store.layers.trashName());
    store.layers.emptyTrash();
    assert.equal(readdirSync(store.layout.trash).length, 1, 'his is there, ours is not');
    other.process.kill('SIGKILL');
    await other.done;
    store.layers.emptyTrash();
    assert.deepEqual(readdirSync(store.layout.trash), []);
  });
});
