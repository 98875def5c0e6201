/**
 * The format on disk: an older format is read, a newer one is refused, and a migration is done once and atomically. `fixtures/store-v1` was
 * written by a berth of format 1 and must not be regenerated.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {chmodSync, cpSync, lstatSync, readdirSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {fileURLToPath} from 'node:url';
import {openClient} from '../../../src/lib/client/index.ts';
import type {ErrdefsError} from '../../../src/lib/errdefs.ts';
import type {Migration} from '../../../src/lib/store/migrations.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {arm, disarm, killedHere} from '../../fakes/failpoints.ts';
import {onEnd, requiresRoot, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {leaseRecord} from '../../support/records.ts';
import {visible} from './change-sequences.ts';

const FIXTURE = fileURLToPath(new URL('../../fixtures/store-v1', import.meta.url));

/** Expiry of the fixture's only lease that expires. */
const EXPIRES_AT = '2026-11-25T13:40:18.269Z';

/**
 * Copies the fixture and restores what a checkout loses: modes, and layer timestamps. The lease gets another day, whenever the test runs.
 */
function fixture(t: TestContext): string {
  const root = join(temporaryDirectory(t), 'root');
  cpSync(FIXTURE, root, {recursive: true, verbatimSymlinks: true});
  const tomorrow = new Date(Date.now() + 86_400_000).toISOString();
  for (const file of ['namespaces/other/leases/kept.json', 'journal/0000000000000007']) {
    const text = readFileSync(join(root, file), 'utf8');
    assert.ok(text.includes(EXPIRES_AT), file);
    writeFileSync(join(root, file), text.replaceAll(EXPIRES_AT, tomorrow));
  }
  const visit = (path: string): void => {
    for (const name of readdirSync(path)) {
      const entry = join(path, name);
      const isTree = path.includes('/layers/') && name === 'fs';
      if (isTree) chmodSync(entry, 0o755);
      else if (!lstatSync(entry).isDirectory()) chmodSync(entry, path.includes('/blobs/') ? 0o444 : 0o600);
      else {
        chmodSync(entry, 0o700);
        visit(entry);
      }
    }
  };
  visit(root);
  chmodSync(root, 0o711);
  chmodSync(join(root, 'version'), 0o644);
  execFileSync('sh', ['-c', 'find "$1"/layers/*/fs -exec touch -h -d @1700000000 {} +', 'sh', root]);
  return root;
}

const MANIFEST = 'sha256:206fe479ebd7c6dcf445f69e0c01e7ef1d97fc8c25b137d5f51670ddbdb821d7';
const LAYER = 'sha256:ab8391a23451c2adcb7849c666007ac589662368df05811ff2fc97feb1fbca9f';
const NOTES = 'sha256:af94040caa54ae89a0460096007629185ce8d17256b0ba0ed7691ef4500449bf';

function client(t: TestContext, root: string) {
  const opened = openClient({root, state: temporaryDirectory(t)});
  onEnd(t, () => opened.close());
  return opened;
}

/** To format 2: images get a date of last use. To 3: namespaces get a creator. */
const TO_2: Migration = (documents) => {
  for (const ns of documents.directories('namespaces'))
    for (const name of documents.list(`namespaces/${ns}/images`)) {
      const path = `namespaces/${ns}/images/${name}`;
      const record = documents.get(path) as {labels: object; updatedAt: string};
      documents.put(path, {...record, labels: {...record.labels, 'used-at': record.updatedAt}});
    }
};
const TO_3: Migration = (documents) => {
  for (const ns of documents.directories('namespaces')) {
    const path = `namespaces/${ns}/namespace.json`;
    const record = documents.get(path) as {labels: object};
    documents.put(path, {...record, labels: {...record.labels, 'made-by': 'format 2'}});
  }
};

const open = (root: string, ...migrations: Migration[]): Store => new Store({root, lockTimeoutMs: 1000, migrations});
const version = (root: string): string => readFileSync(join(root, 'version'), 'utf8');

/** Labels of all migrated images and namespaces. */
const moved = (store: Store): unknown =>
  store.view((tx) =>
    tx.namespaces.list().map(({name, labels}) => [
      name,
      labels['made-by'],
      tx
        .namespace(name)
        .images.list()
        .map((image) => image.labels['used-at'] !== undefined),
    ]),
  );

const BOTH = [
  ['ci', 'format 2', [true, true]],
  ['other', 'format 2', []],
];

describe('a store of format 1', () => {
  it('is read completely', async (t) => {
    if (!requiresRoot(t)) return;
    const root = fixture(t);
    const {namespaces, namespace, check} = client(t, root);
    const [ci, other] = [namespace('ci'), namespace('other')];
    assert.deepEqual(
      (await namespaces.list()).map(({name, labels}) => [name, labels]),
      [
        ['ci', {team: 'infra'}],
        ['other', {}],
      ],
    );
    assert.deepEqual(
      (await ci.images.records()).map(({name, target, labels}) => [name, target.digest, labels]),
      [
        ['docker.io/library/kept:1', MANIFEST, {a: 'b'}],
        ['registry.example/app:latest', MANIFEST, {}],
      ],
    );
    assert.equal((await ci.content.list()).length, 3);
    assert.deepEqual(
      (await other.content.list()).map(({digest}) => digest),
      [NOTES],
    );
    assert.deepEqual(
      (await ci.snapshots('overlayfs').list()).map(({key, kind, parent}) => [key, kind, parent]),
      [
        ['c1', 'active', LAYER],
        [LAYER, 'committed', undefined],
        ['v1', 'view', LAYER],
      ],
    );
    assert.deepEqual(
      (await ci.containers.list()).map(({id, image, snapshotKey}) => [id, image, snapshotKey]),
      [['c1', 'docker.io/library/kept:1', 'c1']],
    );
    assert.deepEqual(
      (await other.leases.list()).map(({id}) => id),
      ['kept'],
    );
    const {findings, checked} = await check({deep: true});
    assert.deepEqual([findings, checked.uncompared, checked.blobs, checked.layers], [[], 0, 4, 2]);
    assert.deepEqual(checkStore(root), []);
  });

  it('can be changed and collected', async (t) => {
    if (!requiresRoot(t)) return;
    const root = fixture(t);
    const {namespace, namespaces, gc, check} = client(t, root);
    await namespace('ci').images.delete('registry.example/app:latest');
    await namespace('ci').containers.delete('c1');
    await namespaces.delete('other', {recursive: true});
    await gc();
    assert.deepEqual((await check({deep: true})).findings, []);
    assert.deepEqual(checkStore(root), []);
    assert.equal(readdirSync(join(root, 'content/blobs/sha256')).length, 3);
  });

  it('is refused without a migration, and so is a newer format, with both numbers', (t) => {
    const root = fixture(t);
    for (const found of [0, 2, 17]) {
      writeFileSync(join(root, 'version'), `${found}\n`);
      assert.throws(
        () => open(root).view((tx) => tx.namespaces.list()),
        ({code, message, hint, details}: ErrdefsError) => {
          assert.deepEqual([code, details], ['failed_precondition', {found, known: 1}]);
          assert.match(message, new RegExp(`${root} has format ${found}, this version of berth knows 1`));
          assert.match(hint!, found === 0 ? /or another --root/ : /or a newer one/);
          return true;
        },
      );
    }
  });
});

describe('migration', () => {
  it('is seen by readers at once, and written only by the first change', (t) => {
    const root = fixture(t);
    const before = visible(root);
    assert.deepEqual(moved(open(root, TO_2, TO_3)), BOTH);
    assert.equal(version(root), '1\n');
    assert.deepEqual(visible(root), before);
  });

  it('is done once, with the first change, over any number of formats', async (t) => {
    const root = fixture(t);
    let runs = 0;
    const counted: Migration = (documents) => {
      runs++;
      TO_2(documents);
    };
    const store = open(root, counted, TO_3);
    await store.update('lease', (tx) => tx.namespace('other').leases.put(leaseRecord('l')));
    assert.deepEqual([version(root), runs], ['3\n', 1]);
    assert.equal(statSync(join(root, 'version')).mode & 0o777, 0o644, 'as in a new store');
    await store.update('lease', (tx) => tx.namespace('other').leases.delete('l'));
    await open(root, counted, TO_3).update('lease', (tx) => tx.namespace('other').leases.put(leaseRecord('m')));
    assert.deepEqual(moved(open(root, counted, TO_3)), BOTH);
    assert.equal(runs, 1);
  });

  it('makes an older berth refuse the store, also one that had it open before', async (t) => {
    const root = fixture(t);
    const old = open(root);
    assert.equal(old.view((tx) => tx.namespaces.list()).length, 2);
    await open(root, TO_2).update('lease', (tx) => tx.namespace('other').leases.put(leaseRecord('l')));
    const refuses = (err: ErrdefsError): boolean => err.code === 'failed_precondition' && err.details?.found === 2;
    await assert.rejects(
      old.update('lease', (tx) => tx.namespace('other').leases.delete('l')),
      refuses,
    );
    assert.throws(() => open(root).view((tx) => tx.namespaces.list()), refuses);
  });

  it('is atomic, wherever it is stopped', async (t) => {
    const origin = fixture(t);
    const change = (root: string): Promise<unknown> =>
      open(root, TO_2, TO_3).update('lease', (tx) => tx.namespace('other').leases.put(leaseRecord('l')));
    const place = join(temporaryDirectory(t), 'root');
    const fresh = (): string => {
      execFileSync('sh', ['-c', 'rm -rf "$2" && cp -a "$1" "$2"', 'sh', origin, place]);
      return place;
    };
    arm({below: fresh(), action: 'EIO', at: 0});
    await change(place);
    const {calls} = disarm();
    const goal = visibleAs(place, TO_2, TO_3);
    const states = {old: 0, new: 0};
    for (let at = 1; at <= calls; at += TORTURE ? 1 : 11) {
      const root = fresh();
      arm({below: root, action: 'EFROZEN', at, lasting: true, torn: at % 2 === 0});
      await change(root).catch(() => {});
      disarm();
      killedHere(root);
      const leases = open(root, TO_2, TO_3).view((tx) => tx.namespace('other').leases.find('l') !== undefined);
      states[leases ? 'new' : 'old']++;
      // A commit has the whole migration; before it there is nothing.
      const pending = readFileSync(
        join(
          root,
          'journal',
          readdirSync(join(root, 'journal'))
            .filter((name) => /^\d{16}$/.test(name))
            .sort()
            .at(-1)!,
        ),
        'utf8',
      );
      assert.equal(pending.includes('"version":3') && pending.includes('made-by'), leases, `stopped at call ${at} of ${calls}`);
      await change(root);
      assert.deepEqual([version(root), visibleAs(root, TO_2, TO_3)], ['3\n', goal], `stopped at call ${at} of ${calls}, and again`);
    }
    assert.ok(states.old > 0 && states.new > 0, JSON.stringify(states));
  });
});

/** Everything visible to a berth of these formats, without times. */
function visibleAs(root: string, ...migrations: Migration[]): unknown {
  return open(root, ...migrations).view((tx) =>
    tx.namespaces.list().map(({name, labels}) => {
      const ns = tx.namespace(name);
      return [name, labels, ns.images.list(), ns.content.list(), ns.leases.list(), ns.containers.list(), ns.snapshots('overlayfs').list()];
    }),
  );
}
