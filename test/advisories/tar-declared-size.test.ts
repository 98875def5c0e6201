/** CVE-2023-25153 (containerd), GHSA-f36w (oras-go): declared sizes without content. */
import assert from 'node:assert/strict';
import {it} from 'node:test';
import {createApplier} from '../../src/lib/archive/apply.ts';
import {createTarReader} from '../../src/lib/archive/tar.ts';
import {is, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {dir, encode, file, tar} from '../support/tartest.ts';

const NOTHING = {entry() {}, data() {}, entryEnd() {}};

it('an extended header is rejected by its size, before its content arrives', () => {
  for (const typeflag of ['x', 'g', 'L', 'K']) {
    const header = encode({name: 'h', typeflag, size: 2 ** 40, format: 'gnu'});
    assert.throws(() => createTarReader(NOTHING).write(header), is('invalid_argument'));
  }
});

it('a file with a declared tebibyte takes no memory or disk before its content arrives', (t) => {
  if (!requiresRoot(t)) return;
  const before = process.memoryUsage.rss();
  const applier = createApplier({root: temporaryDirectory(t), form: 'plain'});
  applier.write(encode(file('f', '', 0o644, {size: 2 ** 40})));
  assert.ok(process.memoryUsage.rss() - before < 32 << 20);
  assert.throws(() => applier.end(), is('data_loss'));
});

it('too many entries or bytes are rejected by their headers', (t) => {
  const archive = tar(dir('d'), file('a', 'four'), file('b', 'five!'));
  const apply = (limits: {entries?: number; bytes?: number}): void => {
    const applier = createApplier({root: temporaryDirectory(t), form: 'plain', limits});
    applier.write(archive);
    applier.end();
  };
  assert.throws(() => apply({entries: 2}), is('resource_exhausted'));
  assert.throws(() => apply({bytes: 8}), is('resource_exhausted'));
  assert.doesNotThrow(() => apply({entries: 3, bytes: 9}));
});

it('a sparse file counts with its holes, but takes no disk for them', (t) => {
  const bomb = tar(file('f', 'x', 0o644, {pax: {'GNU.sparse.size': `${2 ** 42}`, 'GNU.sparse.numblocks': '1', 'GNU.sparse.map': '0,1'}}));
  const applier = createApplier({root: temporaryDirectory(t), form: 'plain', limits: {bytes: 2 ** 30}});
  assert.throws(() => applier.write(bomb), is('resource_exhausted'));
});
