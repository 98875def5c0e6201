/**
 * Sequences of changes that tests stop, or let fail, at every call. A sequence can be repeated after any earlier run, and then ends in the
 * same state.
 */
import {readdirSync, readFileSync, utimesSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {Readable} from 'node:stream';
import {openClient} from '../../../src/lib/client/index.ts';
import type {Client} from '../../../src/lib/client/types/index.ts';
import {type Code, hasCode} from '../../../src/lib/errdefs.ts';
import {LocalContentStore} from '../../../src/lib/store/local-content-store.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {digestOf, leaseRecord, makeImage} from '../../support/records.ts';

export interface Sequence {
  /** Prepares the store; the bystander's namespace `other` always exists. */
  readonly before?: (store: Store, client: Client) => Promise<void>;
  readonly run: (store: Store, client: Client) => Promise<unknown>;
}

/** Runs a step that an earlier run may have completed. */
async function unless(code: Code, step: Promise<unknown>): Promise<void> {
  try {
    await step;
  } catch (err) {
    if (!hasCode(err, code)) throw err;
  }
}

const lease = async (store: Store, id: string): Promise<void> => {
  await store.update('lease', (tx) => tx.namespace('default').leases.put(leaseRecord(id)));
};

/** Simulates a power loss: another boot ID, and no trust in unsynced layers. */
function loseThePower({layout}: Store): void {
  const file = join(layout.journal, 'checkpoint');
  writeFileSync(file, readFileSync(file, 'utf8').replace(/"bootId":"[0-9a-f]+"/, `"bootId":"${'0'.repeat(32)}"`));
}

export const SEQUENCES: Readonly<Record<string, Sequence>> = {
  'the first change': {
    run: (store) => lease(store, 'first'),
  },
  images: {
    run: async (store, client) => {
      const {images} = client.namespace('default');
      await makeImage(store, 'default', 'docker.io/library/one:1', {seed: 'images'});
      await unless('already_exists', images.tag('one:1', 'two:2'));
      await images.label('two:2', {a: 'b'});
      await unless('not_found', images.delete('one:1'));
    },
  },
  'removal of images': {
    before: async (store) => {
      for (const name of ['kept:1', 'gone:1', 'gone:2']) await makeImage(store, 'default', `docker.io/library/${name}`, {seed: name});
    },
    run: async (_store, client) => {
      const {images} = client.namespace('default');
      for (const name of ['gone:1', 'gone:2']) await unless('not_found', images.delete(name));
    },
  },
  namespaces: {
    before: async (store) => {
      await makeImage(store, 'full', 'image', {seed: 'shared with the bystander'});
      await makeImage(store, 'full', 'own', {seed: 'own'});
    },
    run: async (_store, client) => {
      await unless('already_exists', client.namespaces.create('empty', {a: 'b'}));
      await unless('not_found', client.namespaces.label('empty', {c: 'd'}));
      await unless('not_found', client.namespaces.delete('empty'));
      await unless('not_found', client.namespaces.delete('full', {recursive: true}));
      await unless('already_exists', client.namespaces.create('new'));
    },
  },
  snapshots: {
    before: async (store) => void (await makeImage(store, 'default', 'image', {seed: 'snapshots'})),
    run: async (store, client) => {
      const top = store.view((tx) =>
        tx
          .namespace('default')
          .snapshots('overlayfs')
          .list()
          .find(({layer, parent}) => layer?.startsWith('overlayfs-sha256') && parent !== undefined),
      )!.key;
      const snapshots = client.namespace('default').snapshots('overlayfs');
      const has = async (key: string): Promise<boolean> => (await snapshots.list()).some((snapshot) => snapshot.key === key);
      if (!(await has('committed'))) {
        await unless('already_exists', snapshots.prepare('work', top));
        await snapshots.commit('committed', 'work', {labels: {a: 'b'}});
      }
      await unless('already_exists', snapshots.view('view', 'committed'));
      await unless('already_exists', snapshots.prepare('another', 'committed'));
      await unless('not_found', snapshots.delete('view'));
    },
  },
  'removal of snapshots': {
    before: async (_store, client) => {
      const snapshots = client.namespace('default').snapshots('overlayfs');
      for (const [name, parent] of [
        ['a', undefined],
        ['b', 'a'],
        ['c', 'b'],
      ] as const) {
        await snapshots.prepare('work', parent);
        await snapshots.commit(name, 'work');
      }
    },
    run: async (_store, client) => {
      const snapshots = client.namespace('default').snapshots('overlayfs');
      for (const key of ['c', 'b']) await unless('not_found', snapshots.delete(key));
    },
  },
  content: {
    run: async (store, client) => {
      const {content} = client.namespace('default');
      const digest = digestOf('some bytes');
      const of = (...parts: string[]) => Readable.from(parts.map((part) => Buffer.from(part)));
      await unless('already_exists', content.ingest('key', of('some ', 'bytes')));
      await content.label(digest, {a: 'b'});
      // Another namespace needs no bytes of its own; appending copies them.
      const second = new LocalContentStore(store, 'second');
      await unless(
        'already_exists',
        second.writer('ref', {digest}).then((writer) => writer.commit({}, {labels: {'containerd.io/gc.root': 'x'}})),
      );
      await unless('already_exists', content.ingest('other', of('other')));
      await unless('not_found', content.delete(digestOf('other')));
    },
  },
  'a transaction of many records': {
    run: async (store) => {
      await store.update('many', (tx) => {
        for (let i = 0; i < 12; i++) tx.namespace(`ns-${i % 3}`).leases.put(leaseRecord(`lease ${i}`));
      });
      await store.update('fewer', (tx) => {
        for (let i = 0; i < 12; i += 2) tx.namespace(`ns-${i % 3}`).leases.delete(`lease ${i}`);
      });
    },
  },
  'a checkpoint': {
    before: async (store) => {
      for (let i = 0; store.view((tx) => tx.generation) % 64 !== 62; i++) await lease(store, `early ${i % 5}`);
      const past = Date.now() / 1000 - 3600;
      for (const name of readdirSync(store.layout.journal))
        if (/^\d{16}$/.test(name)) utimesSync(join(store.layout.journal, name), past, past);
    },
    run: async (store) => {
      for (const id of ['x', 'y', 'z']) await lease(store, id);
    },
  },
  'recovery after a power loss': {
    before: async (store) => {
      for (const id of ['a', 'b', 'c']) await lease(store, id);
      await store.update('removal', (tx) => tx.namespace('default').leases.delete('b'));
      loseThePower(store);
      writeFileSync(join(store.layout.root, 'namespaces/default/leases/a.json'), '');
      writeFileSync(join(store.layout.root, 'namespaces/default/leases/b.json'), '', {mode: 0o600});
    },
    run: (store) => lease(store, 'd'),
  },
  'a full collection': {
    before: async (store) => {
      await makeImage(store, 'default', 'docker.io/library/gone:1', {seed: 'gone'});
      // As after a kill between the commit and the sweep: no record names these.
      await store.update('killed', (tx) => {
        const ns = tx.namespace('default');
        ns.images.delete('docker.io/library/gone:1');
        for (const {digest} of ns.content.list()) ns.content.delete(digest);
        for (const {key} of ns.snapshots('overlayfs').list()) ns.snapshots('overlayfs').delete(key);
      });
      store.markNeedsFullGc();
      await makeImage(store, 'default', 'docker.io/library/next:1', {seed: 'next'});
    },
    run: async (_store, client) => unless('not_found', client.namespace('default').images.delete('next:1')),
  },
};

/** Creates the store for a sequence. */
export async function begin(root: string, name: string): Promise<void> {
  const {before} = SEQUENCES[name]!;
  if (name === 'the first change') return;
  const store = new Store({root, lockTimeoutMs: 1000});
  const client = openClient({root, state: join(root, '..', 'state'), lockTimeoutMs: 1000});
  await makeImage(store, 'other', 'docker.io/library/bystander:1', {seed: 'shared with the bystander'});
  await before?.(store, client);
  await client.close();
}

export async function run(root: string, name: string): Promise<void> {
  const client = openClient({root, state: join(root, '..', 'state'), lockTimeoutMs: 1000});
  await SEQUENCES[name]!.run(new Store({root, lockTimeoutMs: 1000}), client);
  await client.close();
}

/** Everything that a user sees of a store, except times and random names. */
export function visible(root: string): unknown {
  const store = new Store({root, lockTimeoutMs: 1000});
  return store.view((tx) =>
    tx.namespaces.list().map(({name, labels}) => {
      const ns = tx.namespace(name);
      const plain = (of: Readonly<Record<string, string>>): unknown =>
        Object.entries(of).map(([key, value]) => (key === 'containerd.io/gc.root' ? key : [key, value]));
      return {
        name,
        labels,
        images: ns.images.list().map((image) => [image.name, image.target.digest, plain(image.labels)]),
        content: ns.content.list().map(({digest, labels: own}) => [digest, plain(own)]),
        leases: ns.leases.list().map(({id}) => id),
        containers: ns.containers.list().map(({id}) => id),
        snapshots: ns.snapshotters().flatMap((snapshotter) =>
          ns
            .snapshots(snapshotter)
            .list()
            .map(({key, kind, parent, labels: own}) => [key, kind, parent, plain(own)]),
        ),
      };
    }),
  );
}
