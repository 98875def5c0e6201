import assert from 'node:assert/strict';
import {existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {uniqueName} from '../../../src/lib/fs/process.ts';
import {treeUsage} from '../../../src/lib/store/disk-usage.ts';
import {SnapshotStore, snapshotChain} from '../../../src/lib/store/snapshots.ts';
import {wholeCopyUps} from '../../../src/lib/store/snapshotters.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {snapshotterSuite} from '../../suites/snapshotter.ts';
import {runScript, startScript} from '../../support/children.ts';
import {findProgram, is, requiresProgram, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {digestOf, makeImage, snapshotRecord} from '../../support/records.ts';

for (const name of ['overlayfs', 'native', 'erofs']) snapshotterSuite(name);

const openStore = (t: TestContext): Store => new Store({root: join(temporaryDirectory(t), 'root'), lockTimeoutMs: 10_000});

describe('snapshots', () => {
  it('with a cycle of parents, or a missing parent, are damage', async (t) => {
    const store = openStore(t);
    await store.update('damage', (tx) => {
      const snapshots = tx.namespace('default').snapshots('overlayfs');
      snapshots.put(snapshotRecord('a', {parent: 'b'}));
      snapshots.put(snapshotRecord('b', {parent: 'a'}));
      snapshots.put(snapshotRecord('self', {parent: 'self'}));
      snapshots.put(snapshotRecord('orphan', {parent: 'gone'}));
    });
    const chain = (key: string) => store.view((tx) => snapshotChain(tx.namespace('default').snapshots('overlayfs'), key));
    for (const [key, text] of [
      ['a', /has a cycle of parents at "a"/],
      ['self', /has a cycle of parents at "self"/],
      ['orphan', /needs "gone"/],
    ] as const)
      assert.throws(
        () => chain(key),
        (err: Error) => is('data_loss')(err) && text.test(err.message),
      );
    assert.throws(() => chain('absent'), is('not_found'));
  });

  it('are mounted so that the upper directory has all that changed, whatever the default of the kernel', (t) => {
    const parameters = temporaryDirectory(t);
    assert.deepEqual(wholeCopyUps(parameters), ['redirect_dir=off', 'metacopy=off']);
    writeFileSync(join(parameters, 'redirect_dir'), 'Y\n');
    writeFileSync(join(parameters, 'metacopy'), 'N\n');
    assert.deepEqual(wholeCopyUps(parameters), ['redirect_dir=off']);
    writeFileSync(join(parameters, 'redirect_dir'), 'N\n');
    assert.deepEqual(wholeCopyUps(parameters), []);
  });

  it('are not created from a parent that was replaced meanwhile', async (t) => {
    const store = openStore(t);
    const {chainIDs} = await makeImage(store, 'default', 'image');
    const snapshots = new SnapshotStore(store, 'default', 'native');
    await snapshots.prepare('work', undefined, {});
    await snapshots.commit('base', 'work', {});
    // Another writer runs between the tree and the record.
    const update = store.update.bind(store);
    store.update = async (purpose, fn) => {
      store.update = update;
      await snapshots.remove('base');
      await snapshots.prepare('work', undefined, {});
      await snapshots.commit('base', 'work', {});
      return update(purpose, fn);
    };
    await assert.rejects(snapshots.prepare('key', 'base', {}), is('aborted'));
    store.update = async (purpose, fn) => {
      store.update = update;
      await snapshots.remove('base');
      return update(purpose, fn);
    };
    await assert.rejects(snapshots.prepare('key', 'base', {}), is('not_found'));
    assert.deepEqual(checkStore(store.layout.root, {litter: true}), []);
    assert.equal(chainIDs.length, 2);
  });

  it('report a parent that was removed while it was copied', async (t) => {
    const store = openStore(t);
    const snapshots = new SnapshotStore(store, 'default', 'native');
    await snapshots.prepare('work', undefined, {});
    await snapshots.commit('base', 'work', {});
    const view = store.view.bind(store);
    store.view = (fn) => {
      const result = view(fn);
      store.view = view;
      store.layers.discard(view((tx) => tx.namespace('default').snapshots('native').get('base').layer!));
      return result;
    };
    await assert.rejects(snapshots.prepare('key', 'base', {}), is('data_loss'));
  });

  it('of a user are synced before they are committed', async (t) => {
    if (!requiresProgram(t, 'strace')) return;
    const dir = temporaryDirectory(t);
    const code = `
      const {Store} = await lib('store/store.ts');
      const {SnapshotStore} = await lib('store/snapshots.ts');
      const snapshots = new SnapshotStore(new Store({root: args[0], lockTimeoutMs: 1000}), 'default', 'overlayfs');
      await snapshots.prepare('work', undefined, {});
      await snapshots.commit('name', 'work', {});`;
    await runScript(t, code, [join(dir, 'root')], {
      through: [findProgram('strace')!, '-f', '-y', '-qq', '-e', 'trace=syncfs,link', '-o', join(dir, 'trace')],
    });
    const calls = readFileSync(join(dir, 'trace'), 'utf8')
      .split('\n')
      .flatMap((line) => /(syncfs)\(.*\/layers|(link)\(.*journal\/(\d+)"/.exec(line)?.slice(1).filter(Boolean).join(' ') ?? []);
    assert.deepEqual(calls, ['link 0000000000000001', 'syncfs', 'link 0000000000000002']);
  });
});

describe('layers', () => {
  const diffID = digestOf('a layer');
  const made = (store: Store, text: string): string => {
    const work = store.layers.createWork();
    mkdirSync(join(work, 'fs'));
    writeFileSync(join(work, 'fs', 'file'), text);
    return work;
  };
  const content = (store: Store): string => readFileSync(join(store.layers.path('id'), 'fs', 'file'), 'utf8');
  const reboot = (store: Store): void => {
    const info = join(store.layers.path('id'), 'layer.json');
    writeFileSync(info, readFileSync(info, 'utf8').replace(/"bootId":"[0-9a-f]+"/, '"bootId":"earlier"'));
  };

  it('that exist and are trusted stay, and a second one is discarded', (t) => {
    const store = openStore(t);
    const [first, second] = [made(store, 'first'), made(store, 'second')];
    store.layers.publish(first, 'id', {snapshotter: 'overlayfs', diffID});
    store.layers.publish(second, 'id', {snapshotter: 'overlayfs', diffID});
    assert.equal(content(store), 'first');
    assert.ok(!existsSync(second));
    assert.deepEqual(store.layers.list(), ['id']);
    assert.equal(store.layers.info('id')?.diffID, diffID);
  });

  it('that a power loss may have torn are replaced', (t) => {
    const store = openStore(t);
    store.layers.publish(made(store, 'torn'), 'id', {snapshotter: 'overlayfs', diffID});
    assert.ok(store.layers.isUsable('id'));
    reboot(store);
    assert.ok(!store.layers.isUsable('id'));
    store.layers.publish(made(store, 'new'), 'id', {snapshotter: 'overlayfs', diffID});
    assert.equal(content(store), 'new');
    for (const torn of ['', '{', 'null', '{"version":2,"bootId":""}']) {
      writeFileSync(join(store.layers.path('id'), 'layer.json'), torn);
      assert.ok(!store.layers.isUsable('id'), torn);
    }
    store.layers.publish(made(store, 'newer'), 'id', {snapshotter: 'overlayfs', diffID});
    assert.equal(content(store), 'newer');
    store.layers.emptyTrash();
    assert.ok(!store.layers.isUsable('absent'));
  });

  it('that another process has replaced meanwhile stay', (t) => {
    const store = openStore(t);
    store.layers.publish(made(store, 'torn'), 'id', {snapshotter: 'overlayfs', diffID});
    reboot(store);
    const mine = made(store, 'mine');
    // Between our finding the layer torn and moving it away, another process replaces it.
    const {trashName} = store.layers;
    store.layers.trashName = () => {
      store.layers.trashName = trashName;
      store.layers.publish(made(store, 'his'), 'id', {snapshotter: 'overlayfs', diffID});
      return trashName.call(store.layers);
    };
    store.layers.publish(mine, 'id', {snapshotter: 'overlayfs', diffID});
    assert.equal(content(store), 'his');
    assert.ok(!existsSync(mine));
  });

  it('that are unpublished are swept when their owner is dead, and no others', (t) => {
    const store = openStore(t);
    const mine = store.layers.createWork();
    const dead = join(store.layout.work, uniqueName().replace(/^\d+\.\d+/, '1.1'));
    const foreign = join(store.layout.work, uniqueName().replace(/\.\d+\.([0-9a-z]+)$/, '.1.$1'));
    for (const directory of [dead, foreign, join(store.layout.work, 'not ours')]) mkdirSync(directory);
    store.layers.sweepWork();
    assert.deepEqual([mine, dead, foreign].map(existsSync), [true, false, true]);
    store.layers.emptyTrash();
    store.layers.emptyTrash();
    store.layers.discard('absent');
  });

  it('that are unpublished are discarded while a thread still writes to them', async (t) => {
    const warnings: Error[] = [];
    const root = join(temporaryDirectory(t), 'root');
    const store = new Store({root, lockTimeoutMs: 10_000, onWarning: (warning) => warnings.push(warning)});
    store.ensureCreated();
    const code = `
      const fs = require('node:fs');
      for (const dir of args) {
        say('begun');
        try {
          for (let i = 0; ; i++) fs.writeFileSync(dir + '/' + i, '');
        } catch (err) {
          say(err.code);
        }
      }`;
    const works = Array.from({length: 50}, () => store.layers.createWork());
    const script = startScript(t, code, works);
    for (const [i, work] of works.entries()) {
      assert.equal(await script.line(), 'begun');
      store.layers.discardWork(work);
      assert.equal(await script.line(), 'ENOENT');
      assert.equal(readdirSync(store.layout.work).length, works.length - i - 1);
    }
    assert.deepEqual(warnings, []);
  });

  it('are measured while a container changes files in them', async (t) => {
    const dir = temporaryDirectory(t);
    writeFileSync(join(dir, 'file'), 'x');
    assert.equal(treeUsage(dir).inodes, 2);
    const code = `
      const fs = require('node:fs');
      const dir = args[0] + '/busy';
      say('up');
      for (;;) {
        fs.mkdirSync(dir);
        for (let i = 0; i < 50; i++) fs.writeFileSync(dir + '/' + i, '');
        fs.rmSync(dir, {recursive: true});
      }`;
    const script = startScript(t, code, [dir]);
    await script.line();
    const until = performance.now() + 300;
    const counts = new Set<number>();
    while (performance.now() < until) counts.add(treeUsage(dir).inodes);
    assert.ok(counts.size > 5 && Math.min(...counts) >= 2, [...counts].join());
    assert.throws(() => treeUsage(join(dir, 'absent')), is('data_loss'));
  });
});
