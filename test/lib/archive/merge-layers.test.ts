/** A merged tar makes the same tree as its layers on top of each other, whose oracle is extraction. */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {LayerMerge} from '../../../src/lib/archive/merge-layers.ts';
import {createTarReader, type TarHeader} from '../../../src/lib/archive/tar.ts';
import {codeOf} from '../../../src/lib/errdefs.ts';
import {generateImage} from '../../fuzz/generate-image.ts';
import {is, requiresProgram, requiresRoot, SAMPLE, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {char, dir, file, link, opaque, symlink, type TarEntry, tar, whiteout} from '../../support/tartest.ts';
import {diffTrees, type TreeEntry} from '../../support/tree.ts';
import {PLAIN_MODE} from './apply-modes.ts';

const COUNT = TORTURE ? 5000 : 120;

function merge(layers: readonly Uint8Array[], chunk = 65_536): Buffer {
  const merged = new LayerMerge();
  const feed = (reader: {write(bytes: Uint8Array): void; end(): void}, layer: Uint8Array): void => {
    for (let at = 0; at < layer.length; at += chunk) reader.write(layer.subarray(at, at + chunk));
    reader.end();
  };
  for (const layer of layers) feed(merged.addLayer(), layer);
  const out = [...merged.directories()];
  layers.forEach((layer, i) => {
    if (merged.needsLayer(i))
      feed(
        merged.copyLayer(i, (bytes) => out.push(Buffer.from(bytes))),
        layer,
      );
  });
  return Buffer.concat([...out, ...merged.rest()]);
}

type Outcome = {readonly tree: readonly TreeEntry[]} | {readonly code: string; readonly message: string};

function outcomeOf(run: () => readonly TreeEntry[]): Outcome {
  try {
    return {tree: run()};
  } catch (err) {
    return {code: codeOf(err), message: String(err)};
  }
}

/**
 * Of the same class, or trees without a difference. The root belongs to no layer, and a directory that is named like a whiteout has no entry: its
 * time is that of what lies in it, and without that it is gone.
 */
function difference(layers: Outcome, flat: Outcome): readonly string[] {
  if ('code' in layers || 'code' in flat) {
    const [a, b] = [layers, flat].map((one) => ('code' in one ? `${one.code} ${one.message}` : 'a tree'));
    return 'code' in layers && 'code' in flat && layers.code === flat.code ? [] : [`${a} ≠ ${b}`];
  }
  return diffTrees(layers.tree, flat.tree, {
    ignore: (path, field) =>
      (field === 'mtime' && path === '.') || (['mtime', 'presence'].includes(field) && /(?:^|\/)\.wh\.[^/]*$/.test(path)),
  });
}

function headers(archive: Uint8Array): TarHeader[] {
  const all: TarHeader[] = [];
  const reader = createTarReader({entry: (header) => all.push(header), data: () => {}, entryEnd: () => {}});
  reader.write(archive);
  reader.end();
  return all;
}

/** A file with a hole before its last byte, as GNU tar's format 1.0 has it. */
const sparse = (name: string): TarEntry => {
  const map = Buffer.from('2\n0\n1\n1048575\n1\n');
  return file(name, Buffer.concat([map, Buffer.alloc(512 - map.length), Buffer.from('ab')]), 0o644, {
    pax: {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': name, 'GNU.sparse.realsize': '1048576'},
  });
};

describe('merged layers', () => {
  it('make the tree that the layers make, for generated layers', {timeout: 1_800_000}, (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'getfattr')) return;
    let trees = 0;
    for (let n = 0; n < COUNT; n++) {
      const image = generateImage(20 + SAMPLE, n);
      const layers = outcomeOf(() => PLAIN_MODE.run(temporaryDirectory(t), image.tars));
      const flat = outcomeOf(() => PLAIN_MODE.run(temporaryDirectory(t), [merge(image.tars, 1 + (n % 1500))]));
      assert.deepEqual(difference(layers, flat), [], `image ${image.name}: ${[...image.features].join(', ')}`);
      if (!('tree' in layers)) continue;
      trees++;
      assert.deepEqual(merge(image.tars), merge(image.tars, 777), 'the bytes do not depend on how the layers arrive');
    }
    assert.ok(trees > COUNT / 2, `only ${trees} of ${COUNT} images have a tree`);
  });

  const CASES: Readonly<Record<string, readonly (readonly TarEntry[])[]>> = {
    'a whiteout spares what its own layer has': [
      [dir('a'), file('a/x'), dir('a/d'), file('a/d/e')],
      [file('a/y'), file('a/d/f'), whiteout('a')],
    ],
    'an opaque mark that comes last': [
      [dir('a'), file('a/x')],
      [dir('a'), file('a/y'), opaque('a')],
    ],
    'a link sets mode, owner and time of its file': [
      [file('f', 'x', 0o600)],
      [link('f', 'l', {mode: 0o4711, uid: 5, gid: 6, mtime: 1000})],
    ],
    'a link to a symbolic link': [[symlink('t', 's')], [link('s', 'l', {uid: 5, mtime: 1000, mode: 0o777})]],
    'a directory that nothing carries, in one with setgid': [[dir('g', 0o2755, {gid: 7})], [file('g/n/m/f')]],
    'parents that are links, absolute and upwards': [
      [dir('a'), dir('a/b'), symlink('/a/b', 'a/abs'), symlink('../a/b', 'a/up')],
      [file('a/abs/x'), file('a/up/y'), dir('a/abs/d'), whiteout('a/up/none')],
    ],
    'a file, a link and a directory in the place of one another': [
      [dir('a'), file('a/x'), file('b'), symlink('a', 'c')],
      [file('a'), dir('b'), file('b/y'), dir('c'), file('c/z')],
    ],
    'attributes of a directory that only the last layer names': [[dir('d', 0o700, {xattrs: {'user.a': '1'}})], [dir('d', 0o711, {uid: 9})]],
  };
  for (const [name, layers] of Object.entries(CASES))
    it(`make the tree that the layers make: ${name}`, (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'getfattr')) return;
      const tars = layers.map((entries) => tar(...entries));
      const whole = outcomeOf(() => PLAIN_MODE.run(temporaryDirectory(t), tars));
      assert.ok('tree' in whole, 'message' in whole ? whole.message : '');
      assert.deepEqual(
        difference(
          whole,
          outcomeOf(() => PLAIN_MODE.run(temporaryDirectory(t), [merge(tars)])),
        ),
        [],
      );
    });

  it('have no whiteouts, and have each directory before its entries and each file before its links', () => {
    const merged = merge([
      tar(dir('a'), file('a/x', 'x'), file('a/gone', 'y'), file('z', 'z'), dir('old'), file('old/f', 'f')),
      tar(link('z', 'a/link'), whiteout('a/gone'), dir('old'), opaque('old'), file('old/new', 'n'), symlink('a', 's'), char('c', 1, 3)),
    ]);
    assert.deepEqual(
      headers(merged).map(({name, type, linkname}) => [name, type, linkname]),
      [
        ['a/', 'directory', ''],
        ['old/', 'directory', ''],
        ['a/x', 'file', ''],
        ['a/link', 'file', ''],
        ['old/new', 'file', ''],
        ['c', 'char', ''],
        ['s', 'symlink', 'a'],
        ['z', 'link', 'a/link'],
      ],
    );
  });

  it('keep what ustar has no room for: long and odd names, times, owners, attributes, holes', (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'getfattr')) return;
    const long = `${'d'.repeat(200)}/${'f'.repeat(250)}`;
    const layer = tar(
      dir('d'.repeat(200)),
      file(long, 'x', 0o4755, {uid: 3_000_000, gid: 4_000_000, xattrs: {'user.bytes': Buffer.from([0, 255, 10, 61])}}),
      file('\u00ff\u00fe \n', 'not UTF-8'),
      file('old', '', 0o644, {pax: {mtime: '0.000000001'}}),
      link(long, 'l'.repeat(150), {mode: 0o4755, uid: 3_000_000, gid: 4_000_000, xattrs: {'user.bytes': Buffer.from([0, 255, 10, 61])}}),
      symlink('t'.repeat(300), 's'),
      sparse('hole'),
    );
    const flat = merge([layer]);
    assert.ok(flat.length < 100_000, 'the hole takes no space');
    const run = (archive: Buffer): Outcome => outcomeOf(() => PLAIN_MODE.run(temporaryDirectory(t), [archive]));
    const once = run(layer);
    assert.ok('tree' in once, 'message' in once ? once.message : '');
    assert.deepEqual(difference(once, run(flat)), []);
    assert.deepEqual(difference(once, run(merge([flat]))), []);
  });

  it('are read by GNU tar, which has the same names, sizes and owners', (t) => {
    if (!requiresProgram(t, 'tar')) return;
    const archive = join(temporaryDirectory(t), 'flat.tar');
    const long = `${'d'.repeat(90)}/${'e'.repeat(90)}`;
    writeFileSync(
      archive,
      merge([tar(dir('d'.repeat(90)), file(long, 'hello', 0o600, {uid: 3_000_000}), symlink('x'.repeat(120), 's'), sparse('hole'))]),
    );
    const {status, stdout, stderr} = spawnSync('tar', ['--numeric-owner', '-tvf', archive], {
      encoding: 'utf8',
      env: {TZ: 'UTC', PATH: process.env.PATH},
    });
    assert.equal(status, 0, stderr);
    const lines = stdout.split('\n');
    assert.match(lines[1]!, new RegExp(`^-rw------- 3000000/0 +5 .* ${long}$`));
    assert.match(lines[2]!, /^-rw-r--r-- 0\/0 +1048576 .* hole$/);
    assert.match(lines[3]!, new RegExp(` s -> ${'x'.repeat(120)}$`));
  });

  it('refuse a path that no single entry could have', () => {
    const name = (n: number): string => Array.from({length: n}, (_, i) => `n${i}`).join('/');
    const layer = tar(dir(name(200)), symlink(name(200), 's'), file(`s/${name(100)}`, 'deep'));
    assert.throws(() => merge([layer]), is('invalid_argument'));
  });

  it('refuse a hard link to a missing file, and names below a file', () => {
    assert.throws(() => merge([tar(link('none', 'a'))]), is('invalid_argument'));
    assert.throws(
      () => merge([tar(file('a')), tar(link('a', 'b')), tar(whiteout('a'), whiteout('b'), link('b', 'c'))]),
      is('invalid_argument'),
    );
    assert.throws(() => merge([tar(file('a'), file('a/b'))]), is('failed_precondition'));
  });
});
