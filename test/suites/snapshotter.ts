/** The contract of snapshots, for any snapshotter. Cases after containerd, core/snapshots/testsuite. */
import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {SnapshotStore} from '../../src/lib/store/snapshots.ts';
import {Store} from '../../src/lib/store/store.ts';
import {is, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {checkStore} from '../support/invariants.ts';
import {withMounted} from '../support/mounted-snapshot.ts';
import {containerRecord} from '../support/records.ts';

/** Every path below a directory, with type and content. */
function tree(root: string): Record<string, string> {
  const found: Record<string, string> = {};
  const visit = (path: string): void => {
    for (const name of readdirSync(join(root, path))) {
      const below = path === '' ? name : `${path}/${name}`;
      const stat = lstatSync(join(root, below));
      const mode = (stat.mode & 0o7777).toString(8);
      if (stat.isDirectory()) {
        found[below] = `directory ${mode}`;
        visit(below);
      } else if (stat.isSymbolicLink()) found[below] = `-> ${readlinkSync(join(root, below))}`;
      else if (stat.isFile()) found[below] = `${readFileSync(join(root, below), 'utf8')} ${mode}`;
      else found[below] = `special ${mode}`;
    }
  };
  visit('');
  return found;
}

export function snapshotterSuite(snapshotter: string): void {
  describe(`snapshotter: ${snapshotter}`, () => {
    function open(t: TestContext, namespace = 'default', root = join(temporaryDirectory(t), 'root')) {
      const store = new Store({root, lockTimeoutMs: 10_000});
      return {store, snapshots: new SnapshotStore(store, namespace, snapshotter), root};
    }

    /** Runs a script in a snapshot's mounted tree. */
    const change = (snapshots: SnapshotStore, key: string, action: (root: string) => void): Promise<void> =>
      withMounted(snapshots.mounts(key), action);
    const see = (snapshots: SnapshotStore, key: string): Promise<Record<string, string>> => withMounted(snapshots.mounts(key), tree);

    it('has kinds, parents and labels as given, and times', async (t) => {
      const {snapshots, root} = open(t);
      const before = new Date().toISOString();
      const active = await snapshots.prepare('active', undefined, {a: 'b'});
      assert.ok(active.createdAt >= before && active.updatedAt === active.createdAt);
      assert.deepEqual({...snapshots.get('active')}, active);
      assert.deepEqual(
        [active.snapshotter, active.key, active.kind, active.parent, active.labels],
        [snapshotter, 'active', 'active', undefined, {a: 'b'}],
      );
      await sleep(2);
      const committed = await snapshots.commit('committed', 'active', {c: 'd'});
      assert.deepEqual([committed.kind, committed.parent, committed.labels], ['committed', undefined, {c: 'd'}], 'labels are replaced');
      assert.ok(committed.createdAt > active.createdAt);
      assert.throws(() => snapshots.get('active'), is('not_found'));
      const view = await snapshots.view('view', 'committed', {});
      assert.deepEqual([view.kind, view.parent], ['view', 'committed']);
      assert.deepEqual(
        snapshots.list().map(({key, kind}) => [key, kind]),
        [
          ['committed', 'committed'],
          ['view', 'view'],
        ],
      );
      assert.deepEqual(checkStore(root, {litter: true}), []);
    });

    it('reports a snapshot that is missing, exists, or is of the wrong kind', async (t) => {
      const {snapshots, root} = open(t);
      await snapshots.prepare('active', undefined, {});
      await snapshots.prepare('base-active', undefined, {});
      await snapshots.commit('base', 'base-active', {});
      await snapshots.view('view', 'base', {});
      const cases: readonly (readonly [code: Parameters<typeof is>[0], action: () => unknown])[] = [
        ['not_found', () => snapshots.get('absent')],
        ['not_found', () => snapshots.mounts('absent')],
        ['not_found', () => snapshots.usage('absent')],
        ['not_found', () => snapshots.remove('absent')],
        ['not_found', () => snapshots.label('absent', {})],
        ['not_found', () => snapshots.commit('name', 'absent', {})],
        ['not_found', () => snapshots.prepare('new', 'absent', {})],
        ['not_found', () => snapshots.view('new', 'absent', {})],
        ['already_exists', () => snapshots.prepare('active', undefined, {})],
        ['already_exists', () => snapshots.prepare('active', 'base', {})],
        ['already_exists', () => snapshots.view('active', 'base', {})],
        ['already_exists', () => snapshots.prepare('base', undefined, {})],
        ['already_exists', () => snapshots.commit('base', 'active', {})],
        ['already_exists', () => snapshots.commit('active', 'active', {})],
        ['invalid_argument', () => snapshots.prepare('new', 'active', {})],
        ['invalid_argument', () => snapshots.view('new', 'view', {})],
        ['invalid_argument', () => snapshots.prepare('', undefined, {})],
        ['invalid_argument', () => snapshots.commit('', 'active', {})],
        ['failed_precondition', () => snapshots.commit('name', 'base', {})],
        ['failed_precondition', () => snapshots.commit('name', 'view', {})],
        ['failed_precondition', () => snapshots.mounts('base')],
        ['failed_precondition', () => snapshots.remove('base')],
      ];
      const before = snapshots.list();
      for (const [code, action] of cases) await assert.rejects(async () => action(), is(code), String(action));
      assert.deepEqual(snapshots.list(), before);
      assert.deepEqual(checkStore(root, {litter: true}), [], 'and what was begun in vain is gone');
      assert.throws(() => new SnapshotStore(open(t).store, 'default', 'absent'), is('not_found'));
    });

    it('is removed after its children, and its key is free again', async (t) => {
      const {snapshots, store, root} = open(t);
      for (const [name, parent] of [
        ['a', undefined],
        ['b', 'a'],
        ['c', 'b'],
      ] as const) {
        await snapshots.prepare('work', parent, {});
        await snapshots.commit(name, 'work', {'containerd.io/gc.root': 'x'});
      }
      await snapshots.view('view', 'c', {});
      for (const key of ['a', 'b', 'c'])
        await assert.rejects(
          snapshots.remove(key),
          (err: Error) => is('failed_precondition')(err) && /cannot remove snapshot "." with child/.test(err.message),
        );
      for (const key of ['view', 'c', 'b', 'a']) await snapshots.remove(key);
      assert.deepEqual([snapshots.list(), store.layers.list()], [[], []]);
      await snapshots.prepare('view', undefined, {});
      await snapshots.commit('a', 'view', {});
      assert.deepEqual(checkStore(root, {litter: true}), []);
    });

    it('is not removed while a container uses it', async (t) => {
      const {snapshots, store} = open(t);
      await snapshots.prepare('own', undefined, {}, (tx) =>
        tx.namespace('default').containers.put(containerRecord('c', {snapshotter, snapshotKey: 'own'})),
      );
      await assert.rejects(
        snapshots.remove('own'),
        (err: Error) => is('failed_precondition')(err) && /used by container "c"/.test(err.message),
      );
      await assert.rejects(snapshots.commit('name', 'own', {}), is('failed_precondition'));
      await store.update('gone', (tx) => tx.namespace('default').containers.delete('c'));
      await snapshots.remove('own');
    });

    it('changes nothing when its transaction fails', async (t) => {
      const {snapshots, store, root} = open(t);
      await assert.rejects(
        snapshots.prepare('key', undefined, {}, () => {
          throw new Error('no');
        }),
        /no/,
      );
      assert.throws(() => snapshots.get('key'), is('not_found'));
      // Its tree exists already; the next collection removes it.
      await snapshots.prepare('other', undefined, {});
      await snapshots.remove('other');
      assert.deepEqual([store.layers.list(), checkStore(root, {litter: true})], [[], []]);
    });

    it('labels: an empty value removes', async (t) => {
      const {snapshots} = open(t);
      await snapshots.prepare('key', undefined, {a: '1', b: '2'});
      assert.deepEqual((await snapshots.label('key', {a: '', c: '3'})).labels, {b: '2', c: '3'});
      assert.deepEqual(snapshots.get('key').labels, {b: '2', c: '3'});
    });

    it('lets namespaces use the same keys, and hides snapshots of other namespaces', async (t) => {
      const {snapshots: one, root} = open(t, 'one');
      const {snapshots: two} = open(t, 'two', root);
      await one.prepare('key', undefined, {whose: 'one'});
      assert.throws(() => two.get('key'), is('not_found'));
      await two.prepare('key', undefined, {whose: 'two'});
      // Without a root label, any removal would collect it.
      await one.commit('name', 'key', {'containerd.io/gc.root': 'yes'});
      assert.equal(two.get('key').labels.whose, 'two');
      await assert.rejects(two.view('view', 'name', {}), is('not_found'));
      await two.remove('key');
      assert.equal(one.get('name').kind, 'committed');
    });

    it('measures what a snapshot itself takes, and nothing for a view', async (t) => {
      if (!requiresRoot(t)) return;
      const {snapshots} = open(t);
      await snapshots.prepare('a', undefined, {});
      const empty = snapshots.usage('a');
      assert.equal(empty.inodes, 1);
      await change(snapshots, 'a', (root) => {
        writeFileSync(join(root, 'file'), Buffer.alloc(100_000, 1));
        linkSync(join(root, 'file'), join(root, 'again'));
        mkdirSync(join(root, 'directory'));
      });
      const used = snapshots.usage('a');
      assert.equal(used.inodes, 3, 'a file with two names is one');
      assert.ok(used.size - empty.size >= 100_000 && used.size - empty.size < 200_000, String(used.size - empty.size));
      await snapshots.commit('base', 'a', {});
      assert.deepEqual(snapshots.usage('base'), used);
      await snapshots.view('view', 'base', {});
      assert.deepEqual(snapshots.usage('view'), {size: 0, inodes: 0});
    });

    it('shows the layers below, and does not write to them', async (t) => {
      if (!requiresRoot(t)) return;
      const {snapshots, root} = open(t);
      await snapshots.prepare('work', undefined, {});
      await change(snapshots, 'work', (r) => {
        writeFileSync(join(r, 'a'), 'first');
        chmodSync(join(r, 'a'), 0o640);
        mkdirSync(join(r, 'd'));
        writeFileSync(join(r, 'd', 'b'), 'first');
        symlinkSync('d/b', join(r, 'link'));
      });
      await snapshots.commit('one', 'work', {});
      await snapshots.prepare('work', 'one', {});
      await change(snapshots, 'work', (r) => {
        writeFileSync(join(r, 'a'), 'second');
        writeFileSync(join(r, 'd', 'c'), 'second');
        renameSync(join(r, 'link'), join(r, 'moved'));
      });
      await snapshots.commit('two', 'work', {});
      const first = {a: 'first 640', d: 'directory 755', 'd/b': 'first 644', link: '-> d/b'};
      const second = {a: 'second 640', d: 'directory 755', 'd/b': 'first 644', 'd/c': 'second 644', moved: '-> d/b'};
      for (const [key, parent, expected] of [
        ['v1', 'one', first],
        ['v2', 'two', second],
      ] as const) {
        await snapshots.view(key, parent, {});
        assert.deepEqual(await see(snapshots, key), expected);
        await withMounted(snapshots.mounts(key), (r) => assert.throws(() => writeFileSync(join(r, 'x'), ''), {code: 'EROFS'}));
      }
      await snapshots.prepare('p1', 'one', {});
      await snapshots.prepare('p2', 'one', {});
      await change(snapshots, 'p1', (r) => writeFileSync(join(r, 'a'), 'of p1'));
      assert.deepEqual(await see(snapshots, 'p2'), first, 'two that are made from one do not see each other');
      assert.deepEqual(await see(snapshots, 'v1'), first);
      assert.deepEqual(checkStore(root, {litter: true}), []);
    });

    it('hides removed files, and shows only their replacements', async (t) => {
      if (!requiresRoot(t)) return;
      const {snapshots} = open(t);
      await snapshots.prepare('work', undefined, {});
      await change(snapshots, 'work', (r) => {
        for (const name of ['gone', 'replaced', 'kept']) {
          mkdirSync(join(r, name));
          writeFileSync(join(r, name, 'old'), '');
        }
        writeFileSync(join(r, 'file'), '');
      });
      await snapshots.commit('one', 'work', {});
      await snapshots.prepare('work', 'one', {});
      await change(snapshots, 'work', (r) => {
        rmSync(join(r, 'gone'), {recursive: true});
        rmSync(join(r, 'file'));
        rmSync(join(r, 'replaced'), {recursive: true});
        mkdirSync(join(r, 'replaced'));
        writeFileSync(join(r, 'replaced', 'new'), '');
        rmSync(join(r, 'kept', 'old'));
      });
      await snapshots.commit('two', 'work', {});
      await snapshots.prepare('above', 'two', {});
      const expected = {kept: 'directory 755', replaced: 'directory 755', 'replaced/new': ' 644'};
      assert.deepEqual(await see(snapshots, 'above'), expected);
      await change(snapshots, 'above', (r) => writeFileSync(join(r, 'file'), 'back'));
      assert.deepEqual(await see(snapshots, 'above'), {...expected, file: 'back 644'});
      await snapshots.view('below', 'one', {});
      assert.ok('gone/old' in (await see(snapshots, 'below')));
    });

    it('has a root that any user of the container may enter, whatever the umask, with its owner kept', async (t) => {
      if (!requiresRoot(t)) return;
      const {snapshots} = open(t);
      const umask = process.umask(0o077);
      try {
        await snapshots.prepare('work', undefined, {});
      } finally {
        process.umask(umask);
      }
      const rootOf = (key: string) =>
        withMounted(snapshots.mounts(key), (r) => {
          const {mode, uid, gid} = lstatSync(r);
          return [(mode & 0o7777).toString(8), uid, gid];
        });
      assert.deepEqual(await rootOf('work'), ['755', 0, 0]);
      await change(snapshots, 'work', (r) => chownSync(r, 123, 456));
      await snapshots.commit('one', 'work', {});
      process.umask(0o077);
      try {
        await snapshots.prepare('above', 'one', {});
      } finally {
        process.umask(umask);
      }
      assert.deepEqual(await rootOf('above'), ['755', 123, 456]);
    });

    it('works on many parents', async (t) => {
      if (!requiresRoot(t)) return;
      const {snapshots} = open(t);
      let parent: string | undefined;
      for (let i = 0; i < 20; i++) {
        await snapshots.prepare('work', parent, {});
        await change(snapshots, 'work', (r) => {
          writeFileSync(join(r, `file-${i}`), '');
          writeFileSync(join(r, 'last'), String(i));
          if (i > 0) rmSync(join(r, `file-${i - 1}`));
        });
        parent = `layer-${i}`;
        await snapshots.commit(parent, 'work', {});
      }
      await snapshots.view('view', parent, {});
      assert.deepEqual(await see(snapshots, 'view'), {'file-19': ' 644', last: '19 644'});
    });

    it('works with a directory name that needs escaping in mount options', async (t) => {
      if (!requiresRoot(t)) return;
      const place = mkdtempSync(join(temporaryDirectory(t), 'a:b,c d\\e-'));
      const {snapshots} = open(t, 'default', join(place, 'root'));
      await snapshots.prepare('work', undefined, {});
      await change(snapshots, 'work', (r) => writeFileSync(join(r, 'file'), 'x'));
      await snapshots.commit('one', 'work', {});
      await snapshots.prepare('work', 'one', {});
      await snapshots.commit('two', 'work', {});
      for (const parent of ['one', 'two']) {
        await snapshots.view(`view of ${parent}`, parent, {});
        assert.deepEqual(await see(snapshots, `view of ${parent}`), {file: 'x 644'});
      }
      await snapshots.prepare('active', 'two', {});
      await change(snapshots, 'active', (r) => writeFileSync(join(r, 'file'), 'y'));
      assert.deepEqual(await see(snapshots, 'active'), {file: 'y 644'});
    });

    it("reports a parent layer that a power loss may have torn, and trusts a user's tree", async (t) => {
      const {snapshots, store} = open(t);
      await snapshots.prepare('work', undefined, {});
      await snapshots.commit('own', 'work', {});
      const layer = snapshots.get('own').layer!;
      const info = join(store.layers.path(layer), 'layer.json');
      const reboot = (): void => writeFileSync(info, readFileSync(info, 'utf8').replace(/[0-9a-f]{32}/, '0'.repeat(32)));
      reboot();
      await snapshots.prepare('above', 'own', {});
      // An image's layer is a cache of its blob, trusted only in the boot that made it.
      writeFileSync(info, JSON.stringify({...JSON.parse(readFileSync(info, 'utf8')), diffID: `sha256:${'0'.repeat(64)}`}));
      for (const action of [
        () => snapshots.prepare('new', 'own', {}),
        () => snapshots.view('new', 'own', {}),
        () => snapshots.mounts('above'),
      ])
        await assert.rejects(
          async () => action(),
          (err: Error & {hint?: string}) => is('data_loss')(err) && /pull the image again/.test(err.hint ?? ''),
        );
      writeFileSync(info, JSON.stringify({...JSON.parse(readFileSync(info, 'utf8')), durable: true}));
      snapshots.mounts('above');
      writeFileSync(info, '');
      assert.equal(store.layers.isUsable(layer), false);
      assert.ok(existsSync(info));
    });
  });
}
