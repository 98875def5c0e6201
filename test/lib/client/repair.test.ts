/** `check --repair` restores everything that can be restored, and loses nothing that a user made. */
import assert from 'node:assert/strict';
import {copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync} from 'node:fs';
import {basename, join} from 'node:path';
import {Readable} from 'node:stream';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import type {Digest} from '../../../src/lib/oci/descriptor.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {is, newClient, requiresRoot} from '../../support/helpers.ts';
import {
  contents,
  flip,
  forgetJournal,
  fromAnotherBoot,
  names,
  type PulledStore,
  pulled,
  readJSON,
  records,
  saysAll,
  withContainer,
  writeJSON,
} from './pulled-store.ts';

const TEXTS = ['', '{', '{"version":1,', 'null', '[]', '"x"', '0', '{}', '{"version":1}', '{"version":"1"}', '\0\0\0\0'];

/** Image, content, snapshots, a container, a lease, ingested content. */
async function furnished(rig: PulledStore): Promise<{layer: string; ingested: string}> {
  const {layer} = await withContainer(rig);
  const ns = rig.client.namespace('default');
  await ns.leases.create({id: 'mine', expiresMs: 0});
  const {digest} = await ns.content.ingest('key', Readable.from([Buffer.from('what a user brought')]));
  return {layer, ingested: digest};
}

describe('repair of records', () => {
  it('restores each record that the journal has, after any damage', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {client} = rig;
    await furnished(rig);
    const before = records(client.root);
    assert.ok(before.size > 10);
    let n = 0;
    for (const path of before.keys()) writeFileSync(join(client.root, path), TEXTS[n++ % TEXTS.length]!);
    const found = await client.check();
    const bad = found.findings.filter(({object}) => object.startsWith('record '));
    assert.deepEqual(
      bad.map(({object, severity}) => `${severity} ${object}`).sort(),
      [...before.keys()].map((path) => `damage record ${path}`).sort(),
    );
    assert.ok(
      bad.every(({problem}) => /is not valid JSON|has no valid|is not an object/.test(problem)),
      JSON.stringify(bad),
    );

    const {findings, damage} = await client.check({repair: true});
    assert.equal(damage, 0, JSON.stringify(findings, null, 1));
    assert.deepEqual(records(client.root), before);
    assert.deepEqual((await client.check({deep: true})).findings, []);
    for (const {action = '', object} of findings.filter(({object}) => object.startsWith('record '))) {
      const [, target] = /^moved to (\S+); restored from the journal$/.exec(action)!;
      assert.ok(TEXTS.includes(readFileSync(target!, 'utf8')), `${object} is where it was said to be`);
    }
  });

  it('restores each missing record', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {client} = rig;
    await furnished(rig);
    const before = records(client.root);
    for (const path of before.keys()) rmSync(join(client.root, path));
    const {damage, findings} = await client.check({repair: true});
    assert.equal(damage, 0, JSON.stringify(findings, null, 1));
    assert.deepEqual(records(client.root), before);
    assert.deepEqual((await client.check({deep: true})).findings, []);
  });

  it('leaves records of a newer berth alone', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const path = rig.record('images', rig.ref);
    writeJSON(path, {...readJSON(path), version: 2});
    const before = contents(rig.client.root);
    for (const repair of [false, true]) {
      const {findings, damage} = await rig.client.check({repair});
      assert.deepEqual(
        [findings.map(({severity, problem, repaired}) => [severity, problem, repaired]), damage],
        [[['suspect', 'has version 2, this version of berth knows 1', false]], 0],
      );
    }
    assert.equal(contents(rig.client.root), before);
  });

  it('keeps unknown fields', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const path = rig.record('images', rig.ref);
    writeJSON(path, {...readJSON(path), later: {a: 1}});
    assert.deepEqual((await rig.client.check({repair: true})).findings, []);
    assert.deepEqual(readJSON(path).later, {a: 1});
  });

  it('distinguishes a copy from a record', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    copyFileSync(rig.record('images', rig.ref), rig.record('images', 'other'));
    const {findings, damage} = await rig.client.check({repair: true});
    assert.deepEqual(
      [findings.map(({object, problem}) => `${object}: ${problem}`), damage],
      [[`record namespaces/default/images/other.json: is the record of "${rig.ref}"`], 0],
    );
    assert.deepEqual(
      (await rig.client.namespace('default').images.records()).map(({name}) => name),
      [rig.ref],
    );
  });

  /** Records that the journal does not have: each kind, and what must exist afterwards. */
  const LOST: Readonly<
    Record<
      string,
      {file(rig: PulledStore, made: {layer: string; ingested: string}): string; stays: 'image' | 'content' | 'container' | 'own'}
    >
  > = {
    'an image': {file: ({record, ref}) => record('images', ref), stays: 'content'},
    'a container': {file: ({record}) => record('containers', 'c1'), stays: 'own'},
    'the snapshot of a container': {
      file: ({path, snapshotter}) => path('namespaces/default/snapshots', snapshotter, 'c1.json'),
      stays: 'own',
    },
    'ingested content': {file: ({record}, {ingested}) => record('content', ingested), stays: 'content'},
    'a lease': {file: ({record}) => record('leases', 'mine'), stays: 'image'},
    'a namespace': {file: ({path}) => path('namespaces/default/namespace.json'), stays: 'image'},
  };
  for (const [what, {file, stays}] of Object.entries(LOST))
    it(`loses nothing but the record when the journal does not have ${what}`, async (t) => {
      if (!requiresRoot(t)) return;
      const rig = await pulled(t, 'overlayfs');
      const {client} = rig;
      const made = await furnished(rig);
      forgetJournal(client.root);
      const blobs = names(rig.path('content/blobs/sha256'));
      const layers = names(rig.path('layers'));
      writeFileSync(file(rig, made), '{"version":1,"labels":{"mine":"x"');
      const {damage, findings} = await client.check({repair: true});
      assert.equal(damage, 0, JSON.stringify(findings, null, 1));
      await client.gc();
      assert.deepEqual([names(rig.path('content/blobs/sha256')), names(rig.path('layers'))], [blobs, layers], 'bytes and trees are kept');
      assert.equal(readFileSync(rig.path('layers', made.layer, 'fs/mine'), 'utf8'), 'what a user made');
      assert.deepEqual(saysAll(await client.check({deep: true})), []);
      if (what === 'a namespace') {
        // Its labels may have demanded signatures.
        const [namespace] = await client.namespaces.list();
        assert.deepEqual(namespace?.labels, {'berth/require-signature': 'true'});
        await assert.rejects(client.namespace('default').images.tag(rig.ref, 'example/other:v1'), is('failed_precondition'));
        await client.namespaces.label('default', {'berth/require-signature': ''});
        await client.namespace('default').images.tag(rig.ref, rig.ref, {force: true});
      }
      const [moved] = findings.map(({action = ''}) => /moved to (\S+?);? ?/.exec(action)?.[1]);
      assert.ok(moved !== undefined);
      const leases = (await client.namespace('default').leases.list()).filter(({labels}) => labels['berth/recovered'] !== undefined);
      assert.equal(leases.length, ['image'].includes(stays) ? 0 : 1, 'a lease keeps what only that record kept');

      for (const {id} of leases) await client.namespace('default').leases.delete(id);
      await client.gc();
      const left = (await client.namespace('default').images.records()).length > 0;
      assert.equal(left, what !== 'an image');
      assert.deepEqual(saysAll(await client.check({deep: true})), []);
    });
});

describe('repair of content', () => {
  const fault = (rig: PulledStore, status: number): (() => void) =>
    rig.registry.fault({method: 'GET', status, code: status === 404 ? 'BLOB_UNKNOWN' : 'DENIED'});

  it('fetches damaged blobs, and nothing else', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {digest, size} = rig.image.layers[1]!;
    truncateSync(rig.blob(digest), 0);
    rig.registry.clear();
    await rig.client.check({repair: true});
    const gets = rig.registry.requests.filter(({method}) => method === 'GET');
    assert.deepEqual(
      gets.map(({path, range, bytesSent}) => [path, range, bytesSent]),
      [[`/v2/app/blobs/${digest}`, undefined, size]],
    );
  });

  it('does not resume an earlier download', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {digest} = rig.image.layers[1]!;
    rmSync(rig.blob(digest));
    const ingest = rig.path('content/ingest', digest.replace(':', '-'));
    mkdirSync(ingest, {recursive: true});
    writeFileSync(join(ingest, 'data'), 'wrong');
    const {damage} = await rig.client.check({repair: true});
    assert.deepEqual([damage, saysAll(await rig.client.check({deep: true}))], [0, []]);
  });

  it('waits for a download that makes progress, and overtakes one that does not', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {digest, size} = rig.image.layers[1]!;
    rmSync(rig.blob(digest));
    const client = await newClient(t, {root: rig.client.root, state: rig.client.state, lockTimeoutMs: 1000});
    // A download of this process, which is alive: it has begun, and its registry is silent.
    const {blobs} = new Store({root: rig.client.root, lockTimeoutMs: 500});
    const key = digest.replace(':', '-');
    using _held = await blobs.lock(key, {timeoutMs: 500, purpose: 'a download'});
    const ingest = blobs.beginIngest(key, {ref: 'layer', namespace: 'default', total: size});
    let got = 0;
    const trickle = setInterval(() => writeFileSync(ingest, Buffer.alloc(++got)), 100);
    const repair = client.check({repair: true});
    await delay(2500);
    assert.equal(rig.registry.count('GET', new RegExp(`blobs/${digest}`)), 1, 'it waits');
    clearInterval(trickle);
    const {damage, findings} = await repair;
    assert.equal(damage, 0, JSON.stringify(findings, null, 1));
    assert.equal(readFileSync(ingest).length, got, 'the bytes of the other one are left alone');
    assert.deepEqual(saysAll(await client.check({deep: true})), []);
  });

  it('moves wrong bytes away when the right ones cannot be fetched, and fetches them later', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {digest} = rig.image.layers[1]!;
    flip(rig.blob(digest), 600);
    const wrong = readFileSync(rig.blob(digest));
    const undo = fault(rig, 403);
    const {findings, damage} = await rig.client.check({deep: true, repair: true});
    assert.deepEqual([damage, findings.map(({repaired}) => repaired)], [1, [false]]);
    const [, target] = /permission denied; moved to (\S+)$/.exec(findings[0]!.action!)!;
    assert.deepEqual(readFileSync(target!), wrong);
    assert.deepEqual(saysAll(await rig.client.check()), [`damage: content ${digest}: is missing`]);
    undo();
    await rig.client.namespace('default').pull(rig.ref, {snapshotter: 'overlayfs'});
    assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
  });

  for (const [what, status, stays] of [
    ['keeps an image that the registry does not give now', 403, true],
    ['moves an image away that is nowhere any more', 404, false],
  ] as const)
    it(what, async (t) => {
      if (!requiresRoot(t)) return;
      const rig = await pulled(t, 'overlayfs');
      forgetJournal(rig.client.root);
      const {digest} = rig.image.manifest;
      rmSync(rig.blob(digest));
      rmSync(rig.record('content', digest));
      fault(rig, status);
      const {damage, findings} = await rig.client.check({repair: true});
      assert.equal(damage, stays ? 1 : 0, JSON.stringify(findings, null, 1));
      assert.equal((await rig.client.namespace('default').images.records()).length, stays ? 1 : 0);
      if (stays) return;
      const moved = findings.find(({object}) => object.startsWith('image'))!.action!;
      assert.equal(readJSON(/^moved to (\S+)$/.exec(moved)![1]!).name, rig.ref);
    });

  it('moves away the record of ingested content that is missing', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {ingested} = await furnished(rig);
    rmSync(rig.blob(ingested as Digest));
    const {damage, findings} = await rig.client.check({repair: true});
    assert.equal(damage, 0, JSON.stringify(findings, null, 1));
    await assert.rejects(rig.client.namespace('default').content.get(ingested), is('not_found'));
    assert.deepEqual(saysAll(await rig.client.check()), []);
  });

  it('sends credentials to a registry that asks for them, and prints none', async (t) => {
    if (!requiresRoot(t)) return;
    const login = {username: 'me', password: 'hunter2secret'};
    const rig = await pulled(t, 'overlayfs', {auth: {kind: 'basic', login}, credentials: login});
    const {digest} = rig.image.layers[0]!;
    rmSync(rig.blob(digest));
    const refused = await rig.client.check({repair: true});
    assert.match(refused.findings[0]!.action!, /unauthenticated$/);
    const {damage, findings} = await rig.client.check({repair: true, credentials: login});
    assert.equal(damage, 0);
    assert.ok(!JSON.stringify([refused, findings]).includes(login.password));
  });

  it('repairs a manifest before the objects that only it names', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    forgetJournal(rig.client.root);
    for (const {digest} of [rig.image.manifest, rig.image.config, ...rig.image.layers]) {
      rmSync(rig.blob(digest));
      rmSync(rig.record('content', digest));
    }
    rmSync(rig.path('layers'), {recursive: true});
    const {damage, findings} = await rig.client.check({repair: true});
    assert.equal(damage, 0, JSON.stringify(findings, null, 1));
    assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
    await rig.client.gc();
    const [image] = await rig.client.namespace('default').images.check({snapshotter: 'overlayfs'});
    assert.deepEqual([image?.status, image?.unpacked], ['complete', true], 'all of it is kept as it was');
  });
});

describe('repair of layers', () => {
  const infoOf = (rig: PulledStore, n: number) => readJSON(join(rig.layer(n), 'layer.json'));

  it('rebuilds layers of an earlier boot, and syncs them', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    for (const n of [0, 1]) fromAnotherBoot(rig.layer(n));
    truncateSync(join(rig.layer(0), 'fs/etc/a'), 0);
    const {findings} = await rig.client.check({repair: true});
    assert.deepEqual(
      findings.map(({severity, action, repaired}) => [severity, action, repaired]),
      Array(2).fill(['suspect', 'rebuilt from its blob', true]),
    );
    assert.deepEqual(
      [0, 1].map((n) => infoOf(rig, n).durable),
      [true, true],
    );
    writeJSON(join(rig.layer(0), 'layer.json'), {...infoOf(rig, 0), bootId: 'e'.repeat(32)});
    assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
  });

  it('reindexes a tar whose image is gone, and reports an extracted tree', async (t) => {
    if (!requiresRoot(t)) return;
    for (const [snapshotter, action] of [
      ['erofs', 'indexed again'],
      ['overlayfs', 'no image in the store contains it, so it cannot be rebuilt'],
    ] as const) {
      const rig = await pulled(t, snapshotter);
      await withContainer(rig);
      await rig.client.namespace('default').images.delete(rig.ref);
      const lower = rig.layer(0);
      fromAnotherBoot(lower);
      const {findings} = await rig.client.check({repair: true});
      assert.deepEqual(
        findings.map(({object, ...f}) => [object, f.action, f.repaired]),
        [[`layer ${basename(lower)}`, action, snapshotter === 'erofs']],
      );
      assert.ok(existsSync(lower));
    }
  });

  it("rewrites the layer.json of a user's own tree, and never removes the tree", async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {layer} = await withContainer(rig);
    for (const text of ['', '{"version":1', 'null']) {
      writeFileSync(rig.path('layers', layer, 'layer.json'), text);
      const {findings, damage} = await rig.client.check({repair: true});
      assert.deepEqual(
        [findings.map(({severity, action}) => [severity, action]), damage],
        [[['damage', 'its layer.json is rewritten']], 0],
      );
      assert.equal(readFileSync(rig.path('layers', layer, 'fs/mine'), 'utf8'), 'what a user made');
    }
    assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
  });

  it('moves away a snapshot whose tree is gone, with its container', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const {layer} = await withContainer(rig);
    rmSync(rig.path('layers', layer), {recursive: true});
    const {findings, damage} = await rig.client.check({repair: true});
    assert.equal(damage, 0, JSON.stringify(findings, null, 1));
    assert.deepEqual(await rig.client.namespace('default').containers.list(), []);
    const moved = findings.flatMap(({action = ''}) => /moved to (\S+)/.exec(action)?.[1] ?? []);
    assert.deepEqual(
      moved.map((path) => readJSON(path).key ?? readJSON(path).id),
      ['c1', 'c1'],
    );
    assert.deepEqual(saysAll(await rig.client.check({deep: true})), []);
  });

  it('keeps a snapshot whose tree is gone while it has children', async (t) => {
    if (!requiresRoot(t)) return;
    const rig = await pulled(t, 'overlayfs');
    const snapshots = rig.client.namespace('default').snapshots('overlayfs');
    await snapshots.prepare('base-work');
    const {layer} = await snapshots.commit('base', 'base-work');
    await snapshots.prepare('work', 'base');
    rmSync(rig.path('layers', layer!), {recursive: true});
    const {damage} = await rig.client.check({repair: true});
    assert.equal(damage, 1);
    assert.deepEqual(
      (await snapshots.list()).map(({key}) => key).filter((key) => !key.startsWith('sha256:')),
      ['base', 'work'],
    );
  });
});
