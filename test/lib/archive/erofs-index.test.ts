import assert from 'node:assert/strict';
import {describe, it, type TestContext} from 'node:test';
import {createApplier} from '../../../src/lib/archive/apply.ts';
import {createErofsIndex, type Reason} from '../../../src/lib/archive/erofs-index.ts';
import {inheritAttributes} from '../../../src/lib/archive/inherit-parent-attributes.ts';
import {MAX_INDEXED_BYTES} from '../../../src/lib/archive/limits.ts';
import {openExtracted} from '../../../src/lib/archive/lower-tree.ts';
import {createTarReader} from '../../../src/lib/archive/tar.ts';
import {requiresProgram, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';
import {char, dir, encode, fifo, file, link, opaque, symlink, type TarEntry, tar, whiteout} from '../../support/tartest.ts';
import {diffTrees} from '../../support/tree.ts';
import {buildIndex, PLAIN_MODE, readIndexed} from './apply-modes.ts';
import {SCENARIOS} from './scenarios.ts';

const X = {xattrs: {'user.a': '1'}};
const LONGEST = 'm'.repeat(255);
const ACL = Buffer.from('0200000001000600ffffffff04000400ffffffff20000400ffffffff', 'hex');
const OPAQUE_D = [dir('d'), file('d/old', 'o')];

/** Layers; the reasons are those of the last one. Without reasons, the indexed tree is compared with the applied one. */
const CASES: readonly (readonly [name: string, reasons: readonly Reason[], ...layers: readonly (readonly TarEntry[])[]])[] = [
  ['names of 255 bytes', [], [file(LONGEST, 'x'), dir(`${LONGEST}`.slice(1)), file(`${LONGEST.slice(1)}/f`, 'x')]],
  ['a name of 256 bytes', ['name'], [file(`${LONGEST}m`, 'x')]],
  ['a file twice', [], [file('f', '1'), file('f', '22', 0o600)]],
  ['a directory twice', [], [dir('d', 0o700), file('d/a', 'x'), dir('d', 0o711, {uid: 3})]],
  ['a directory twice, with extended attributes at first', ['duplicate'], [dir('d', 0o700, X), dir('d', 0o711)]],
  ['a directory twice, with extended attributes then', ['duplicate'], [dir('d', 0o700), dir('d', 0o711, X)]],
  ['a directory, then a file', [], [dir('d'), file('d/a', 'x'), file('d', 'f')]],
  ['a file, then a directory', ['duplicate'], [dir('d'), file('d/old', 'o')], [file('d', 'f'), dir('d'), file('d/b', 'y')]],
  ['a link replaces a file', [], [file('a', 'a'), file('b', 'b'), link('a', 'b')]],
  ['a file replaces a link', [], [file('a', 'a'), link('a', 'b'), file('b', 'new')]],
  ['a file replaces a linked file', [], [file('a', 'a'), link('a', 'b'), file('a', 'new')]],
  ['a link to a link that is replaced', [], [file('a', '1'), link('a', 'b'), file('c', '2'), link('c', 'a')]],
  ['a parent after its child', ['implied-parent'], [file('d/f', 'x'), dir('d', 0o700, {uid: 4})]],
  ['no parent', [], [dir('d', 0o700, {uid: 5})], [file('d/f', 'x')]],
  [
    'no parents, of which the lower layers have some',
    [],
    [dir('d', 0o711), dir('d/e', 0o1777)],
    [file('d/e/new/f', 'x'), file('d/g', 'y')],
  ],
  ['no parent anywhere', [], [file('a')], [file('d/e/f', 'x')]],
  ['no parent of a whiteout', [], [dir('d', 0o700), file('d/f', 'o')], [whiteout('d/f')]],
  ['no parent of an opaque mark', [], [dir('d', 0o700), dir('d/e', 0o750), file('d/e/f', 'o')], [file('d/e/n', 'n'), opaque('d/e')]],
  ['no parent in three layers', [], [dir('d', 0o700)], [file('d/f', 'x')], [file('d/g', 'y')]],
  ['no parent, and a long name', [], [dir('d', 0o700), dir(`d/${LONGEST}`, 0o711)], [file(`d/${LONGEST}/${LONGEST}`, 'x')]],
  ['an implicit parent, then a file', ['type-change'], [file('d/f', 'x'), file('d', 'y')]],
  ['a parent that is a link', ['symlink-parent'], [dir('d'), symlink('d', 'l'), file('l/f', 'x')]],
  ['a parent that is a file', ['type-change'], [file('d', 'x'), file('d/f', 'x')]],
  ['a parent that is a whiteout', ['type-change'], [dir('d')], [whiteout('d'), file('d/f', 'x')]],
  ['..', ['dotdot'], [dir('d'), file('d/../f', 'x')]],
  ['.. in a link', ['dotdot'], [file('f', 'x'), link('../f', 'l')]],
  ['dots and slashes', [], [dir('./'), dir('./a'), file('./a/./b', '1'), file('//a//c', '2')]],
  ['hard links, also by absolute name', [], [dir('d'), file('d/a', '1'), link('/d/a', 'b'), link('./d/a', 'c')]],
  ['a hard link to a symbolic link', [], [symlink('x', 's'), link('s', 'l', {mode: 0o644})]],
  ['a hard link before its target', ['missing-link'], [file('a')], [link('a', 'l'), file('a', 'x')]],
  ['a hard link to a directory', ['missing-link'], [dir('d'), link('d', 'l')]],
  ['a hard link to itself', ['missing-link'], [file('f'), link('f', 'f')]],
  ['a hard link with a slash', ['missing-link'], [file('f'), link('f/', 'l')]],
  ['a hard link through a symbolic link', ['symlink-parent', 'missing-link'], [dir('d'), file('d/f'), symlink('d', 'l'), link('l/f', 'g')]],
  ['a hard link to a hidden file', ['missing-link'], [file('a')], [whiteout('a'), link('a', 'l')]],
  ['a hard link with another mode', ['link-attributes'], [file('f', 'x', 0o600), link('f', 'l', {mode: 0o644})]],
  ['a hard link with another owner', ['link-attributes'], [file('f'), link('f', 'l', {uid: 1})]],
  ['a hard link with another mtime', ['link-attributes'], [file('f'), link('f', 'l', {mtime: 1})]],
  ['a hard link with the same extended attributes, and one with none', [], [file('f', '', 0o644, X), link('f', 'l', X), link('f', 'm')]],
  ['a hard link with other extended attributes', ['link-attributes'], [file('f', '', 0o644, X), link('f', 'l', {xattrs: {'user.a': '2'}})]],
  ['a whiteout', [], [file('a', 'o'), dir('d'), file('d/f', 'x')], [whiteout('a'), dir('d'), whiteout('d/f')]],
  ['a whiteout before a file', ['whiteout'], [file('a', 'o')], [whiteout('a'), file('a', 'n')]],
  ['a whiteout before a directory', ['whiteout'], [dir('a'), file('a/o')], [whiteout('a'), dir('a')]],
  ['a whiteout after a file', ['whiteout'], [file('a', 'o')], [file('a', 'n'), whiteout('a')]],
  ['a whiteout after a directory', ['whiteout'], [dir('a'), file('a/o')], [dir('a'), whiteout('a')]],
  ['a whiteout with content', ['whiteout'], [file('a', 'o')], [file('.wh.a', 'x'), file('b')]],
  ['a whiteout of nothing', ['whiteout'], [file('.wh.')]],
  ['a whiteout in a new directory', [], [file('a')], [dir('new'), whiteout('new/x'), file('new/y')]],
  ['an opaque mark, before and after', [], OPAQUE_D, [dir('d'), file('d/n', 'n'), opaque('d'), file('d/m', 'm'), opaque('d')]],
  ['an opaque mark and extended attributes', [], OPAQUE_D, [dir('d', 0o755, X), opaque('d')]],
  ['an opaque mark and a whiteout', [], OPAQUE_D, [dir('d'), opaque('d'), whiteout('d/old'), file('d/n')]],
  ['an opaque mark with content', ['whiteout'], OPAQUE_D, [dir('d'), file('d/.wh..wh..opq', 'x')]],
  ['an opaque mark for everything', ['whiteout'], OPAQUE_D, [file('.wh..wh..opq')]],
  ['a directory that is named like a whiteout', [], [dir('etc'), file('etc/passwd', 'o')], [file('etc/.wh.passwd/note', 'n')]],
  ['a directory that is named like an opaque mark', [], OPAQUE_D, [dir('d'), file('d/.wh..wh..opq/x', 'n')]],
  ['a link to what is in a directory that is named like a whiteout', ['missing-link'], [file('a')], [link('.wh.a/f', 'l')]],
  ['a symbolic link of another mode', [], [symlink('x', 's', {mode: 0o644})]],
  ['no parent, in a directory with setgid', [], [dir('d', 0o2755, {gid: 7}), file('d/e/f', 'x')]],
  ['no parent, in a directory below with setgid', [], [dir('d', 0o2755, {gid: 7})], [file('d/e/f/g', 'x')]],
  ["AUFS' own files", [], [file('a')], [file('.wh..wh.plnk'), file('.wh..wh.orph'), file('.wh..wh.aufs')]],
  ['nodes', [], [char('null', 1, 3), char('large', 4095, 1_048_575), fifo('pipe', 0o622, {uid: 9})]],
  ['a node 0/0', ['device-zero'], [file('a', 'o')], [char('a', 0, 0)]],
  [
    'extended attributes',
    [],
    [file('a', '', 0o644, {xattrs: {'user.e': '', 'security.capability': 'x'}}), symlink('x', 's', {xattrs: {'security.foo': '1'}})],
  ],
  ['extended attributes trusted.*', ['reserved'], [file('a', '', 0o644, {xattrs: {'trusted.overlay.opaque': 'y'}})]],
  ['extended attributes user.* of a link', ['xattr'], [symlink('x', 's', X)]],
  ['an ACL', ['xattr'], [file('a', '', 0o644, {xattrs: {'system.posix_acl_access': ACL}})]],
  ['times', [], [file('a', '', 0o644, {mtime: 9_000_000_000}), file('b', '', 0o644, {pax: {mtime: '1600000000.012345678'}})]],
  ['a time before 1970', ['time'], [file('a', '', 0o644, {pax: {mtime: '-5'}})]],
  ['a time with other than nine decimals', [], [file('a', '', 0o644, {pax: {mtime: '1600000000.5'}})]],
  ['the root, of usual attributes', [], [dir('./', 0o755, {mtime: 1}), file('./f')]],
  ['the root, private', [], [dir('./', 0o700), file('./f')]],
  [
    'long names in each form',
    [],
    [
      file('g'.repeat(200), 'x', 0o644, {format: 'gnu'}),
      link('g'.repeat(200), 'h'.repeat(200), {format: 'gnu'}),
      symlink('t'.repeat(300), 's', {format: 'gnu'}),
      dir(`${'p'.repeat(120)}/`),
      file(`${'p'.repeat(120)}/f`, 'x'),
      dir('q'.repeat(90)),
      file('foo', 'x', 0o644, {prefix: 'q'.repeat(90)}),
    ],
  ],
  [
    'numbers in each form',
    [],
    [file('a', '1', 0o100644, {uid: 4_294_967_294, gid: 70_000, format: 'gnu'}), file('b', '1', 0o644, {pax: {uid: '3000001'}})],
  ],
  ['old tar', [], [file('a', '1', 0o644, {format: 'v7'})]],
  ['a type of NUL', [], [file('a', '1', 0o644, {typeflag: '\0'})]],
  ['a size without content', [], [dir('a', 0o755, {size: 512}), file('c', '2')]],
  ['a global header', [], [{name: 'g', typeflag: 'g', content: Buffer.from('11 mtime=5\n')}, file('f')]],
  ['an empty name', ['root'], [file('')]],
  ['a link without text', ['name'], [symlink('', 'l')]],
  ['sizes', [], [file('a', 'x'.repeat(100_000)), file('b', 'y'.repeat(4096)), file('c', 'z'.repeat(4097)), file('d')]],
];

function assertIndexable(t: TestContext, layers: readonly Uint8Array[]): void {
  const theirs = readIndexed(temporaryDirectory(t), layers);
  if (theirs === undefined) {
    t.skip('needs a kernel that mounts EROFS from files');
    return;
  }
  assert.notEqual(theirs, 'extracted', 'the layer can be indexed');
  // The snapshotter creates the root.
  assert.deepEqual(
    diffTrees(PLAIN_MODE.run(temporaryDirectory(t), layers), theirs as Exclude<typeof theirs, string>, {ignore: (path) => path === '.'}),
    [],
  );
}

describe('a layer is indexed only if the tree is the same as the applied one', () => {
  for (const [name, reasons, ...layers] of CASES)
    it(`${name}: ${reasons.length === 0 ? 'indexed' : reasons.join(', ')}`, (t) => {
      const tars = layers.map((entries) => tar(...entries));
      assert.deepEqual([...buildIndex(tars.at(-1)!).index.reasons], reasons);
      if (reasons.length > 0 || !requiresRoot(t) || !requiresProgram(t, 'mkfs.erofs', 'fsck.erofs', 'getfattr')) return;
      assertIndexable(t, tars);
    });

  for (const {name, layers} of SCENARIOS)
    it(name, (t) => {
      const tars = layers.map((entries) => tar(...entries));
      if (
        tars.some(
          (archive) =>
            buildIndex(archive).index.reasons.size > 0 || buildIndex(archive).index.encode(archive.length).implicitParents.length > 0,
        ) ||
        !requiresRoot(t) ||
        !requiresProgram(t, 'mkfs.erofs', 'fsck.erofs', 'getfattr')
      )
        return;
      assertIndexable(t, tars);
    });
});

it('counts entries and sizes like the applier', () => {
  const {entries, size} = buildIndex(tar(dir('d'), file('d/f', 'four'), link('d/f', 'l'), whiteout('x'), file('g', 'five!'))).index;
  assert.deepEqual({entries, size}, {entries: 5, size: 9});
});

describe('a layer with implicit parents is extracted', () => {
  const CASES: readonly (readonly [name: string, below: readonly TarEntry[], layer: readonly TarEntry[]])[] = [
    ['where one of them is a link below', [dir('usr'), symlink('usr', 'lib')], [file('lib/f', 'x')]],
    ['where one of them is a file below', [file('d')], [file('d/f', 'x')]],
    ['where one of them has extended attributes below', [dir('d', 0o700, X)], [file('d/f', 'x')]],
    ['where it has only a whiteout for what is not below', [file('a')], [whiteout('d/f')]],
  ];
  for (const [name, below, layer] of CASES)
    it(name, (t) => {
      if (!requiresRoot(t)) return;
      const root = temporaryDirectory(t);
      const applier = createApplier({root, form: 'overlay', lowers: []});
      applier.write(tar(...below));
      applier.end();
      const archive = tar(...layer);
      assert.equal(
        inheritAttributes(buildIndex(archive).index.encode(archive.length).implicitParents, [openExtracted(root, [])]),
        undefined,
      );
    });
});

it('rejects a layer with too many bytes of text', () => {
  const index = createErofsIndex();
  const reader = createTarReader(index);
  const one = Buffer.from(encode(symlink('t'.repeat(4000), 's', {format: 'gnu'})));
  for (let bytes = 0; bytes <= MAX_INDEXED_BYTES; bytes += 4000) {
    assert.deepEqual([...index.reasons], []);
    reader.write(one);
  }
  assert.deepEqual([...index.reasons], ['large']);
});

it('reports the end of entries, for any bytes after them', () => {
  const whole = tar(file('a', 'x'.repeat(700)));
  const end = 512 + 1024;
  for (const [what, archive] of [
    ['an end mark', whole],
    ['a record of zeros', Buffer.concat([whole, Buffer.alloc(8192)])],
    ['nothing', whole.subarray(0, end)],
    ['not even the last padding', whole.subarray(0, 512 + 700)],
  ] as const)
    assert.equal(buildIndex(archive).entriesEnd, end, what);
});
