import assert from 'node:assert/strict';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {ErrdefsError} from '../../../src/lib/errdefs.ts';
import type {Digest} from '../../../src/lib/oci/descriptor.ts';
import {createLayout, recordFile} from '../../../src/lib/store/layout.ts';
import {
  parseContainer,
  parseContent,
  parseImage,
  parseIngest,
  parseLease,
  parseNamespace,
  parseSnapshot,
} from '../../../src/lib/store/parse-records.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {withBallast} from '../../../src/lib/store/with-ballast.ts';
import {startScript} from '../../support/children.ts';
import {is, onEnd, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {containerRecord, contentRecord, digestOf, imageRecord, leaseRecord, makeImage, snapshotRecord} from '../../support/records.ts';

const openStore = (root: string): Store => new Store({root, lockTimeoutMs: 10_000});
const somewhere = (t: TestContext): string => join(temporaryDirectory(t), 'root');
const mode = (path: string): number => statSync(path).mode & 0o7777;

const thrown = (action: () => unknown): ErrdefsError => {
  try {
    action();
  } catch (err) {
    assert.ok(err instanceof ErrdefsError, String(err));
    return err;
  }
  assert.fail('nothing was thrown');
};

describe('store', () => {
  it('reads as empty when it is missing, and creates nothing by reading', (t) => {
    const root = somewhere(t);
    const store = openStore(root);
    assert.deepEqual(
      store.view((tx) => [tx.namespaces.list(), tx.namespace('default').images.list(), tx.namespace('default').snapshotters()]),
      [[], [], []],
    );
    assert.equal(
      store.view((tx) => tx.namespace('default').images.find('x')),
      undefined,
    );
    assert.throws(() => store.view((tx) => tx.namespace('default').images.get('x')), is('not_found'));
    assert.ok(!existsSync(root));
  });

  it('is created by its first change, for its owner only', async (t) => {
    const root = somewhere(t);
    const umask = process.umask(0);
    onEnd(t, () => void process.umask(umask));
    for (const [n, mask] of [0o000, 0o022, 0o077].entries()) {
      process.umask(mask);
      const place = join(root, String(n));
      const store = openStore(place);
      await makeImage(store, 'default', 'image');
      process.umask(umask);
      assert.equal(mode(place), 0o711, 'others may pass through, and list nothing');
      assert.equal(readFileSync(join(place, 'version'), 'utf8'), '1\n');
      assert.deepEqual(checkStore(place), []);
      assert.equal(mode(join(place, 'namespaces/default/images/image.json')), 0o600);
      assert.equal(mode(join(place, 'content/blobs/sha256')), 0o700);
    }
  });

  it('keeps the mode of an empty directory that existed before', async (t) => {
    const root = somewhere(t);
    mkdirSync(root);
    chmodSync(root, 0o750);
    mkdirSync(join(root, 'lost+found'));
    await openStore(root).update('first', (tx) => tx.namespace('default').leases.put(leaseRecord('l')));
    assert.equal(mode(root), 0o750);
  });

  it('refuses a foreign directory, and changes nothing in it', async (t) => {
    const root = temporaryDirectory(t);
    writeFileSync(join(root, 'thesis.tex'), '');
    const store = openStore(root);
    for (const action of [() => store.view(() => {}), () => store.ensureCreated()]) {
      const err = thrown(action);
      assert.equal(err.code, 'failed_precondition');
      assert.match(err.message, /thesis\.tex/);
      assert.match(err.hint ?? '', /--root/);
    }
    await assert.rejects(
      store.update('x', () => {}),
      is('failed_precondition'),
    );
    assert.deepEqual(readdirSync(root), ['thesis.tex']);
    assert.equal(thrown(() => openStore(join(root, 'thesis.tex')).view(() => {})).code, 'failed_precondition');
  });

  it('refuses an unknown format, naming both numbers', async (t) => {
    const root = somewhere(t);
    mkdirSync(root);
    for (const text of ['2\n', '99']) {
      writeFileSync(join(root, 'version'), text);
      const err = thrown(() => openStore(root).view(() => {}));
      assert.equal(err.code, 'failed_precondition');
      assert.match(err.message, new RegExp(`has format ${Number(text)}, this version of berth knows 1`));
      await assert.rejects(
        openStore(root).update('x', () => {}),
        is('failed_precondition'),
      );
    }
    for (const text of ['', 'one', '1.5', '-1', '\0\0']) {
      writeFileSync(join(root, 'version'), text);
      const err = thrown(() => openStore(root).view(() => {}));
      assert.equal(err.code, 'data_loss', JSON.stringify(text));
      assert.match(err.message, /"version"/);
    }
    assert.deepEqual(readdirSync(root), ['version']);
  });

  it('is created by many processes at once, and none takes it for a foreign directory', async (t) => {
    const root = somewhere(t);
    const code = `
      const {Store} = await lib('store/store.ts');
      await import(${JSON.stringify(import.meta.resolve('proper-lockfile'))});
      say('up');
      await go();
      await new Store({root: args[0], lockTimeoutMs: 20000}).update('first', (tx) => tx.namespaces.put(
        {name: 'n' + args[1], labels: {}, createdAt: '2026-01-01T00:00:00Z', updatedAt: '2026-01-01T00:00:00Z'}));`;
    const scripts = Array.from({length: 6}, (_, i) => startScript(t, code, [root, String(i)]));
    for (const script of scripts) await script.line();
    for (const script of scripts) script.go();
    for (const script of scripts) assert.deepEqual(await script.done, {status: 0, signal: null, stdout: '', stderr: ''});
    assert.deepEqual(
      openStore(root).view((tx) => tx.namespaces.list().map(({name}) => name)),
      ['n0', 'n1', 'n2', 'n3', 'n4', 'n5'],
    );
    assert.deepEqual(checkStore(root, {litter: true}), []);
  });

  it('distinguishes an incomplete state directory from a foreign one', (t) => {
    const root = somewhere(t);
    mkdirSync(root);
    const store = openStore(root);
    // Leftovers of a killed first change.
    writeFileSync(join(root, '.tmp.1.1.x'), '1\n');
    store.view(() => {});
    store.ensureCreated();
    assert.equal(readFileSync(join(root, 'version'), 'utf8'), '1\n');
  });

  it('creates a namespace with its first record, of any kind', async (t) => {
    const store = openStore(somewhere(t));
    const digest = digestOf('x');
    await store.update('all kinds', (tx) => {
      const ns = tx.namespace('new');
      ns.images.put(imageRecord('i', digest));
      ns.containers.put(containerRecord('c'));
      ns.content.put(contentRecord(digest));
      ns.leases.put(leaseRecord('l'));
      ns.snapshots('overlayfs').put(snapshotRecord('s'));
      assert.equal(ns.images.isEmpty(), false, 'a transaction sees its own changes');
    });
    store.view((tx) => {
      assert.deepEqual(
        tx.namespaces.list().map(({name, labels}) => [name, labels]),
        [['new', {}]],
      );
      const ns = tx.namespace('new');
      assert.deepEqual(ns.images.list(), [imageRecord('i', digest)]);
      assert.deepEqual(ns.containers.get('c'), containerRecord('c'));
      assert.deepEqual(ns.content.find(digest), contentRecord(digest));
      assert.deepEqual(ns.leases.list(), [leaseRecord('l')]);
      assert.deepEqual(ns.snapshotters(), ['overlayfs']);
      assert.deepEqual(ns.snapshots('overlayfs').list(), [snapshotRecord('s')]);
      const other = tx.namespace('other');
      assert.ok([other.images, other.containers, other.content, other.leases, other.snapshots('overlayfs')].every((c) => c.isEmpty()));
    });
    const deleted = await store.update('delete', (tx) => {
      const ns = tx.namespace('new');
      return [ns.images.delete('i'), ns.images.delete('i'), ns.snapshots('overlayfs').delete('s'), tx.namespaces.delete('other')];
    });
    assert.deepEqual(deleted, [true, false, true, false]);
    assert.deepEqual(
      store.view((tx) => tx.namespace('new').snapshotters()),
      [],
    );
  });

  it('keeps all keys distinct, however odd or long', async (t) => {
    const store = openStore(somewhere(t));
    const keys = [
      'a',
      'A',
      'a/b',
      'a%2Fb',
      '.',
      '..',
      '.tmp.x',
      '~',
      'ä',
      'a\u0308',
      '\ud800',
      '\udfff',
      ' ',
      '\n',
      '\0',
      'x'.repeat(300),
      `${'x'.repeat(299)}y`,
      'docker.io/library/redis:7@sha256:abc',
      '*',
      'a.json',
      '__proto__',
      'constructor',
    ];
    await store.update('keys', (tx) => {
      for (const [i, key] of keys.entries()) tx.namespace('default').leases.put(leaseRecord(key, {labels: {i: String(i)}}));
    });
    store.view((tx) => {
      const {leases} = tx.namespace('default');
      for (const [i, key] of keys.entries()) assert.equal(leases.get(key).labels.i, String(i), JSON.stringify(key));
      assert.deepEqual(
        leases.list().map(({id}) => id),
        keys.toSorted(),
      );
    });
    assert.equal(new Set(keys.map(recordFile)).size, keys.length);
    for (const key of keys) assert.match(recordFile(key), /^[^./][^/\0]{0,250}\.json$/);
    assert.deepEqual(checkStore(store.layout.root), []);
  });

  it("reports a record under another record's file name as damaged", async (t) => {
    const store = openStore(somewhere(t));
    await makeImage(store, 'default', 'one');
    const file = (name: string): string => join(store.layout.root, 'namespaces/default/images', `${name}.json`);
    copyFileSync(file('one'), file('two'));
    const err = thrown(() => store.view((tx) => tx.namespace('default').images.find('two')));
    assert.equal(err.code, 'data_loss');
    assert.match(err.message, /images\/two\.json is the record of "one"/);
    assert.equal(store.view((tx) => tx.namespace('default').images.get('one')).name, 'one');
    renameSync(join(store.layout.root, 'namespaces/default'), join(store.layout.root, 'namespaces/moved'));
    assert.equal(thrown(() => store.view((tx) => tx.namespaces.list())).code, 'data_loss');
  });

  it('works from any working directory once it is opened', async (t) => {
    const dir = temporaryDirectory(t);
    const before = process.cwd();
    onEnd(t, () => process.chdir(before));
    process.chdir(dir);
    const store = openStore('relative');
    process.chdir('/');
    await store.update('x', (tx) => tx.namespace('default').leases.put(leaseRecord('l')));
    assert.ok(existsSync(join(dir, 'relative', 'version')));
    assert.equal(createLayout('/a/../b').root, '/b');
  });
});

describe('records', () => {
  const digest = digestOf('x') as Digest;
  const RECORDS = {
    namespace: [parseNamespace, {name: 'n', labels: {a: 'b'}, createdAt: '2026-01-01T00:00:00Z', updatedAt: '2026-01-01T00:00:00Z'}],
    image: [parseImage, {...imageRecord('i', digest), target: {...imageRecord('i', digest).target, annotations: {a: 'b'}}}],
    content: [parseContent, contentRecord(digest)],
    snapshot: [parseSnapshot, snapshotRecord('s', {parent: 'p'})],
    lease: [
      parseLease,
      leaseRecord('l', {expiresAt: '2026-01-01T00:00:00Z', content: [digest], layers: ['x'], snapshots: ['overlayfs/s']}),
    ],
    container: [parseContainer, containerRecord('c', {spec: {ociVersion: '1.2.0'}})],
    ingest: [parseIngest, {ref: 'r', namespace: 'n', total: 0, startedAt: '2026-01-01T00:00:00Z'}],
  } as const;

  for (const [kind, [parse, record]] of Object.entries(RECORDS)) {
    const read = (value: unknown): unknown => parse(value, 'the file');
    const whole = {version: 1, ...record};

    it(`of a ${kind} are read as written, and unknown fields are ignored`, () => {
      assert.deepEqual(read(whole), record);
      assert.deepEqual(read({...whole, unknown: 'field'}), record);
    });

    it(`of a ${kind} are damaged when a field is missing or has the wrong type, and the error names file and field`, () => {
      for (const field of Object.keys(whole)) {
        const without = Object.fromEntries(Object.entries(whole).filter(([key]) => key !== field));
        const optional = ['parent', 'expiresAt'].includes(field);
        const wrong: unknown[] = [7.5, [7], ...(['spec', 'labels'].includes(field) ? [] : [{x: 7}])];
        for (const damaged of [...(optional ? [] : [without]), ...wrong.map((value) => ({...whole, [field]: value}))]) {
          const err = thrown(() => read(damaged));
          assert.equal(err.code, 'data_loss', `${field}: ${err.message}`);
          assert.ok(err.message.startsWith('the file') && err.message.includes(`"${field}"`), err.message);
        }
      }
      for (const damaged of [null, 7, 'text', [], undefined]) assert.equal(thrown(() => read(damaged)).code, 'data_loss');
    });

    it(`of a ${kind} from a newer berth are refused, with both numbers`, () => {
      const err = thrown(() => read({...whole, version: 2}));
      assert.equal(err.code, 'failed_precondition');
      assert.match(err.message, /version 2, this version of berth knows 1/);
    });
  }

  it('of a snapshot have a layer, save views', () => {
    const {layer: _, ...without} = snapshotRecord('s');
    assert.throws(() => parseSnapshot({version: 1, ...without}, 'the file'), is('data_loss'));
    assert.deepEqual(parseSnapshot({version: 1, ...without, kind: 'view'}, 'the file'), {...without, kind: 'view'});
  });

  it('of a container may have no specification yet', () => {
    assert.equal(parseContainer({version: 1, ...containerRecord('c')}, 'the file').spec, null);
  });

  it('have valid digests, sizes and dates', () => {
    const bad = (over: object): void =>
      assert.throws(() => parseContent({version: 1, ...contentRecord(digest), ...over}, 'the file'), is('data_loss'));
    for (const value of ['sha256:ABC', 'md5:d41d8cd98f00b204e9800998ecf8427e', `${digest}0`, '../../etc/passwd']) bad({digest: value});
    for (const value of [-1, 0.5, 2 ** 53, '1', Number.NaN]) bad({size: value});
    for (const value of ['', 'yesterday']) bad({createdAt: value});
    for (const value of [['a'], null, 'a']) bad({labels: value});
  });

  it('are read without labels that are not strings, which an earlier berth accepted', () => {
    const {labels} = parseContent({version: 1, ...contentRecord(digest), labels: {a: 1, b: 'x', c: null, d: {}}}, 'the file');
    assert.deepEqual(labels, {b: 'x'});
  });

  it('creates a state directory again whose files were removed while it is open', async (t) => {
    for (const when of ['before a change', 'in a change', 'before a removal'] as const) {
      const store = openStore(somewhere(t));
      const {root, version} = store.layout;
      const put = (id: string, meanwhile = (): void => {}) =>
        store.update('put', (tx) => {
          tx.namespace('a').leases.put(leaseRecord(id));
          meanwhile();
        });
      const remove = (): void => rmSync(root, {recursive: true});
      await put('one');
      if (when !== 'in a change') remove();
      assert.equal(store.exists(), when === 'in a change');
      if (when === 'before a removal') {
        await withBallast(store, async () => {});
        assert.ok(!existsSync(root), 'a removal makes nothing');
        continue;
      }
      await put('two', when === 'in a change' ? remove : undefined);
      assert.ok(existsSync(version), when);
      const again = openStore(root);
      assert.ok(again.view((tx) => tx.namespace('a').leases.find('two')) !== undefined, when);
      await again.update('more', (tx) => tx.namespace('a').leases.put(leaseRecord('three')));
    }
  });
});
