import assert from 'node:assert/strict';
import {chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {recordFile} from '../src/lib/store/layout.ts';
import {Store} from '../src/lib/store/store.ts';
import {temporaryDirectory} from './support/helpers.ts';
import {checkStore} from './support/invariants.ts';
import {containerRecord, leaseRecord, type MadeImage, makeImage} from './support/records.ts';

const NS = 'namespaces/default';

describe('the check of a whole store', () => {
  const edit = (path: string, change: (text: string) => string): void => writeFileSync(path, change(readFileSync(path, 'utf8')));

  const DAMAGES: readonly (readonly [what: string, complaint: RegExp, damage: (root: string, image: MadeImage) => void])[] = [
    ['a blob is missing', /the blob is missing/, (root, i) => rmSync(join(root, 'content/blobs/sha256', i.content[2]!.slice(7)))],
    ['a blob is cut', /has \d+ B, the blob 0/, (root, i) => rewrite(root, i, () => '')],
    ['a bit of a blob is flipped', /is not what its name says/, (root, i) => rewrite(root, i, (text) => `X${text.slice(1)}`)],
    ['a blob may be written', /is open to others/, (root, i) => chmodSync(blob(root, i), 0o644)],
    ['a layer is missing', /has layer .* which is missing/, (root, i) => rmSync(join(root, 'layers', i.layers[0]!), {recursive: true})],
    [
      'content that an image needs is forgotten',
      /points to content .* which is missing/,
      (root, i) => forget(root, `${NS}/content/${recordFile(i.manifest)}`),
    ],
    [
      'a parent is forgotten',
      /has parent .* which is missing/,
      (root, i) => forget(root, `${NS}/snapshots/overlayfs/${recordFile(i.chainIDs[0]!)}`),
    ],
    ['a container has no snapshot', /has snapshot .* which is missing/, (root) => forget(root, `${NS}/snapshots/overlayfs/own.json`)],
    ['a record is cut', /is not what generation/, (root) => writeFileSync(join(root, `${NS}/images/one.json`), '')],
    [
      'a record is there twice',
      /is the record of "one"/,
      (root) => copyFileSync(join(root, `${NS}/images/one.json`), join(root, `${NS}/images/two.json`)),
    ],
    ['a namespace has no record', /has records, but no namespace.json/, (root) => forget(root, `${NS}/namespace.json`)],
    ['a namespace has another name', /is the record of "default"/, (root) => renameSync(join(root, NS), join(root, 'namespaces/other'))],
    ['a foreign file lies among the records', /is no record/, (root) => writeFileSync(join(root, `${NS}/images/README`), '')],
    [
      'an old change lies over a newer one',
      /is not what generation \d+ made it/,
      (root) => edit(join(root, `${NS}/namespace.json`), (s) => s.replace('"yes"', '"no"')),
    ],
    ['the journal has a hole', /does not follow the one before/, (root) => rmSync(join(root, 'journal/0000000000000002'))],
    ['the journal has a torn record', /is no record of the journal/, (root) => writeFileSync(join(root, 'journal/0000000000000002'), '{')],
    [
      'more is applied than there is',
      /is beyond the newest/,
      (root) => writeFileSync(join(root, 'journal/applied'), `${'9'.repeat(16)} ${'9'.repeat(16)}\n`),
    ],
    [
      'the checkpoint is of the future',
      /is beyond the newest/,
      (root) => writeFileSync(join(root, 'journal/checkpoint'), '{"generation":99,"bootId":""}'),
    ],
    ['a count is wrong', /counts 7, and there are 2/, (root, i) => tamper(root, countOf(i), {version: 1, n: 7})],
    ['a count is missing', /is missing, and there are 2/, (root, i) => forget(root, countOf(i))],
    ['others may list a directory', /is open to others: mode 755/, (root) => chmodSync(join(root, 'journal'), 0o755)],
    ['others may read a record', /is open to others: mode 644/, (root) => chmodSync(join(root, `${NS}/namespace.json`), 0o644)],
    ['others may list the root', /^\.: is open to others/, (root) => chmodSync(root, 0o755)],
    ['the version is another one', /version: is "2/, (root) => writeFileSync(join(root, 'version'), '2\n')],
  ];

  const LITTER: readonly (readonly [what: string, complaint: RegExp, litter: (root: string) => void])[] = [
    [
      'a blob that nothing names',
      /is named by nothing/,
      (root) => writeFileSync(join(root, 'content/blobs/sha256', E3B0), '', {mode: 0o444}),
    ],
    ['a layer that nothing names', /is named by nothing/, (root) => mkdirSync(join(root, 'layers/x'), {mode: 0o700})],
    ['trash', /was not given back/, (root) => mkdirSync(join(root, 'trash/x'), {recursive: true, mode: 0o700})],
    [
      'a dead work directory',
      /left by a process that ended/,
      (root) => mkdirSync(join(root, `work/${DEAD}.1`), {recursive: true, mode: 0o700}),
    ],
    ['a dead lock', /left by a process that ended/, (root) => mkdirSync(join(root, `locks/x/${DEAD}.1`), {recursive: true, mode: 0o700})],
    ['a place in a queue', /left by a process that ended/, (root) => mkdirSync(join(root, `locks/x.${DEAD}.1`), {mode: 0o700})],
    ['a temporary file', /left half written/, (root) => writeFileSync(join(root, `${NS}/.tmp.x`), '', {mode: 0o600})],
    [
      'a collection that is owed',
      /says that a collection is owed/,
      (root) => writeFileSync(join(root, 'journal/unswept'), '', {mode: 0o600}),
    ],
  ];

  const E3B0 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';
  const DEAD = `1.1.${'0'.repeat(32)}.1`;
  const blob = (root: string, i: MadeImage): string => join(root, 'content/blobs/sha256', i.content[2]!.slice(7));
  const rewrite = (root: string, i: MadeImage, change: (text: string) => string): void => {
    chmodSync(blob(root, i), 0o600);
    edit(blob(root, i), change);
  };

  async function store(t: {after(fn: () => void): void}) {
    const root = join(temporaryDirectory(t), 'root');
    const opened = new Store({root, lockTimeoutMs: 1000});
    const image = await makeImage(opened, 'default', 'one');
    await opened.update('more', (tx) => {
      const ns = tx.namespace('default');
      ns.snapshots('overlayfs').put({
        snapshotter: 'overlayfs',
        key: 'own',
        kind: 'view',
        parent: image.chainIDs.at(-1)!,
        labels: {},
        createdAt: '2026-01-01T00:00:00Z',
        updatedAt: '2026-01-01T00:00:00Z',
      });
      ns.containers.put(containerRecord('c', {snapshotKey: 'own'}));
      ns.leases.put(leaseRecord('l', {content: [image.manifest], layers: [image.layers[0]!], snapshots: ['overlayfs/own']}));
      tx.namespaces.put({...tx.namespaces.get('default'), labels: {changed: 'yes'}});
    });
    await opened.update('and more', (tx) => tx.namespaces.put({...tx.namespaces.get('default'), labels: {changed: 'yes', again: 'yes'}}));
    return {root, image};
  }

  /** Changes a document, or removes it, and what the journal says of it. */
  function tamper(root: string, path: string, document: unknown): void {
    if (document === null) rmSync(join(root, path));
    else writeFileSync(join(root, path), JSON.stringify(document));
    for (const name of readdirSync(join(root, 'journal')).filter((n) => /^\d{16}$/.test(n)))
      edit(join(root, 'journal', name), (text) => {
        const record = JSON.parse(text) as {writes: Record<string, unknown>};
        if (path in record.writes) record.writes[path] = document;
        return JSON.stringify(record);
      });
  }
  const forget = (root: string, path: string): void => tamper(root, path, null);
  const countOf = (image: MadeImage): string => `${NS}/refs/${recordFile(`content/${image.manifest}`)}`;

  it('finds nothing wrong with a whole one, nor with one that is not there', async (t) => {
    const {root} = await store(t);
    assert.deepEqual(checkStore(root, {litter: true}), []);
    assert.deepEqual(checkStore(join(root, 'absent')), []);
  });

  for (const [what, complaint, damage] of DAMAGES)
    it(`sees that ${what}`, async (t) => {
      const {root, image} = await store(t);
      damage(root, image);
      const problems = checkStore(root);
      assert.ok(
        problems.some((line) => complaint.test(line)),
        problems.join('\n') || 'nothing was found',
      );
    });

  for (const [what, complaint, litter] of LITTER)
    it(`sees ${what}, when it is asked for such things`, async (t) => {
      const {root} = await store(t);
      litter(root);
      assert.deepEqual(checkStore(root), []);
      const problems = checkStore(root, {litter: true});
      assert.ok(problems.length === 1 && complaint.test(problems[0]!), problems.join('\n'));
    });
});
