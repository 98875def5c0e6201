/**
 * Layers and their expected trees, for all apply modes and for comparison with umoci and containerd.
 *
 * Sources: containerd's pkg/archive/tar_test.go (TestBreakouts and others), its FSSuite (github.com/containerd/continuity, fs/fstest), and
 * ours.
 */
import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import type {Code} from '../../../src/lib/errdefs.ts';
import {block, bytes, char, dir, fifo, file, link, MTIME, opaque, symlink, type TarEntry, whiteout} from '../../support/tartest.ts';
import type {Field, TreeEntry} from '../../support/tree.ts';

/** A finished tree. Paths and links resolve below its root. */
export class Tree {
  readonly entries: readonly TreeEntry[];
  readonly #byPath: ReadonlyMap<string, TreeEntry>;

  constructor(entries: readonly TreeEntry[]) {
    this.entries = entries;
    this.#byPath = new Map(entries.map((entry) => [entry.path, entry]));
  }

  /** Finds an entry without following links. */
  at(path: string): TreeEntry {
    const entry = this.#byPath.get(path);
    assert.ok(entry, `${path} is there`);
    return entry;
  }

  /** Finds an entry by following links. */
  follow(path: string): TreeEntry {
    let at: string[] = [];
    const todo = path.split('/').reverse();
    for (let steps = 0; todo.length > 0; steps++) {
      assert.ok(steps < 100, `${path} leads somewhere`);
      const name = todo.pop()!;
      if (name === '' || name === '.') continue;
      if (name === '..') at = at.slice(0, -1);
      else {
        const target = this.#byPath.get([...at, name].join('/'))?.target;
        if (target === undefined) at.push(name);
        else {
          if (target.startsWith('/')) at = [];
          todo.push(...target.split('/').reverse());
        }
      }
    }
    return this.at(at.join('/'));
  }

  absent(path: string): void {
    assert.equal(this.#byPath.has(path), false, `${path} is gone`);
  }

  names(path: string): string[] {
    return this.entries
      .map((entry) => entry.path)
      .filter((name) => name.startsWith(`${path}/`) && !name.slice(path.length + 1).includes('/'));
  }

  sameFile(one: string, other: string): void {
    const [a, b] = [this.follow(one), this.follow(other)];
    assert.ok(a.path === b.path || a.links?.includes(b.path), `${one} and ${other} are one file`);
  }
}

export interface Scenario {
  readonly name: string;
  /** Bottom first. */
  readonly layers: readonly (readonly (TarEntry | Buffer)[])[];
  /** Error class of the last layer. */
  readonly error?: Code;
  readonly check?: (tree: Tree) => void;
  /** Why umoci's tree differs, or the fields that differ by path. */
  readonly umoci?: string | {readonly [path: string]: readonly Field[]};
  /** Why the tree of containerd's native snapshotter differs, mtimes of directories aside. */
  readonly containerd?: string;
}

const ETC = [dir('etc', 0o770), file('/etc/passwd', 'inside')];
const UNBROKEN = file('/localetc/unbroken', 'unbroken');

const content = (tree: Tree, path: string, text: string): void => {
  assert.equal(tree.follow(path).content, digest(text), `content of ${path}`);
};

const digest = (text: string): string => createHash('sha256').update(text).digest('hex');

const unbroken = (tree: Tree): void => content(tree, 'etc/unbroken', 'unbroken');
const same =
  (one: string, other: string) =>
  (tree: Tree): void =>
    tree.sameFile(one, other);

const BASE = [
  dir('etc'),
  file('etc/hosts', '127.0.0.1 localhost', 0o644),
  link('etc/hosts', 'etc/hosts.allow'),
  dir('usr'),
  dir('usr/local'),
  dir('usr/local/lib'),
  file('usr/local/lib/libnothing.so', '\0\0', 0o755),
  symlink('libnothing.so', 'usr/local/lib/libnothing.so.2'),
  dir('home'),
  dir('home/derek', 0o700),
];

const CONTAINERD_TESTS: readonly Scenario[] = [
  ...(
    [
      ['../other', 'home/derek/other'],
      ['../../etc', 'home/derek/etc'],
      ['up/../../other', 'home/derek/updown'],
      ['../../../breakout', 'home/derek/breakout'],
      ['../../breakout', 'breakout'],
      ['etc/../../upandout', 'breakout'],
      ['derek/../../../downandout', 'home/breakout'],
      ['/etc', 'localetc'],
    ] as const
  ).map(
    ([target, name]): Scenario => ({
      name: `RelativeSymlinks ${target}`,
      layers: [[...BASE, symlink(target, name)]],
      check: (tree) => assert.equal(tree.at(name).target, target),
    }),
  ),
  {
    name: 'Symlinks: relative becomes absolute',
    layers: [
      [dir('bin'), file('bin/superbinary', '\0\0', 0o755), symlink('../bin/superbinary', 'bin/other1')],
      [
        dir('bin'),
        symlink('/bin/superbinary', 'bin/other1'),
        symlink('../bin/superbinary', 'bin/other2'),
        symlink('superbinary', 'bin/other3'),
      ],
    ],
    check: (tree) => {
      assert.equal(tree.at('bin/other1').target, '/bin/superbinary');
      for (const name of ['bin/other1', 'bin/other2', 'bin/other3']) tree.sameFile(name, 'bin/superbinary');
    },
  },
  {
    name: 'Symlinks: a chain through another directory',
    layers: [
      [
        dir('bin'),
        dir('sbin'),
        file('sbin/superbinary', '\0\0', 0o755),
        symlink('/sbin/superbinary', 'bin/superbinary'),
        symlink('../bin/superbinary', 'bin/other1'),
      ],
      [dir('bin'), symlink('/bin/superbinary', 'bin/other1'), symlink('superbinary', 'bin/other2')],
    ],
    check: (tree) => {
      for (const name of ['bin/other1', 'bin/other2']) tree.sameFile(name, 'sbin/superbinary');
    },
  },
  {
    name: 'Symlinks: replaced by a directory',
    layers: [
      [dir('bin'), file('bin/actualbinary', '\0\0', 0o755), symlink('actualbinary', 'bin/myapp')],
      [dir('bin'), dir('bin/myapp'), file('bin/myapp/data', 'd')],
    ],
    check: (tree) => {
      assert.equal(tree.at('bin/myapp').type, 'directory');
      assert.equal(tree.at('bin/actualbinary').size, 2);
    },
  },
  {
    name: 'WithXattrsUser',
    layers: [[file('file', '', 0o755, {xattrs: {'user.key': 'value'}})]],
    check: (tree) => assert.deepEqual(tree.at('file').xattrs, {'user.key': `0x${Buffer.from('value').toString('hex')}`}),
  },
  {
    name: 'WithXattrSelinux',
    layers: [[file('file', '', 0o755, {xattrs: {'security.selinux': 'unconfined_u:object_r:default_t:s0\0'}})]],
    check: (tree) =>
      assert.deepEqual(tree.at('file').xattrs, {
        'security.selinux': `0x${Buffer.from('unconfined_u:object_r:default_t:s0\0').toString('hex')}`,
      }),
    umoci: 'umoci leaves security.selinux out',
  },
  {name: 'SymlinkAbsolute', layers: [[dir('etc'), symlink('/etc', 'localetc'), UNBROKEN]], check: unbroken},
  {
    name: 'SymlinkUpAndOut',
    layers: [[dir('etc'), dir('dummy'), symlink('/dummy/../etc', 'localetc'), UNBROKEN]],
    check: unbroken,
  },
  {
    name: 'SymlinkMultipleAbsolute',
    layers: [
      [dir('etc'), dir('dummy'), symlink('/etc', '/dummy/etc'), symlink('/dummy/etc', 'localetc'), file('/dummy/etc/unbroken', 'unbroken')],
    ],
    check: unbroken,
  },
  {
    name: 'SymlinkMultipleRelative',
    layers: [
      [
        dir('etc'),
        dir('dummy'),
        symlink('/etc', '/dummy/etc'),
        symlink('./dummy/etc', 'localetc'),
        file('/dummy/etc/unbroken', 'unbroken'),
      ],
    ],
    check: unbroken,
  },
  {
    name: 'SymlinkEmptyFile',
    layers: [[dir('etc'), file('etc/emptied', 'notempty'), symlink('/etc', 'localetc'), file('/localetc/emptied', '')]],
    check: (tree) => assert.equal(tree.at('etc/emptied').size, 0),
  },
  ...(
    [
      ['HardlinkRelative', [dir('breakouts'), symlink('../../etc', 'breakouts/d1'), link('/breakouts/d1/passwd', 'breakouts/mypasswd')]],
      [
        'HardlinkDownAndOut',
        [
          dir('breakouts'),
          dir('downandout'),
          symlink('../downandout/../../etc', 'breakouts/d1'),
          link('/breakouts/d1/passwd', 'breakouts/mypasswd'),
        ],
      ],
      ['HardlinkAbsolute', [symlink('/etc', 'localetc'), link('/localetc/passwd', 'localpasswd')]],
      ['HardlinkRelativeLong', [symlink('../../../../../../../etc', 'localetc'), link('/localetc/passwd', 'localpasswd')]],
      ['HardlinkRelativeUpAndOut', [symlink('upandout/../../../etc', 'localetc'), link('/localetc/passwd', 'localpasswd')]],
      ['HardlinkDirectRelative', [link('../../../../../etc/passwd', 'localpasswd')]],
      ['HardlinkDirectAbsolute', [link('/etc/passwd', 'localpasswd')]],
      ['SymlinkParentDirectory', [symlink('/etc/', '..'), link('/etc/passwd', 'localpasswd')]],
      ['SymlinkEmptyFilename', [symlink('/etc/', ''), link('/etc/passwd', 'localpasswd')]],
      ['SymlinkParentRelative', [symlink('/etc/', 'localetc/sub/..'), link('/etc/passwd', '/localetc/localpasswd')]],
      ['SymlinkSlashEnded', [dir('localetc/', 0o770), link('/etc/passwd', '/localetc/localpasswd')]],
    ] as const
  ).map(
    ([name, more]): Scenario => ({
      name,
      layers: [[...ETC, ...more]],
      check: same(more.at(-1)!.name.replace(/^\//, ''), 'etc/passwd'),
      ...(/ParentDirectory|EmptyFilename/.test(name) ? {umoci: 'umoci refuses another type for the root'} : {}),
    }),
  ),
  ...(['/etc', '../../etc'] as const).map(
    (target): Scenario => ({
      name: `SymlinkOverrideDirectory ${target}`,
      layers: [
        [...ETC, dir('localetc')],
        [symlink(target, 'localetc'), link('/etc/passwd', '/localetc/localpasswd')],
      ],
      check: same('localetc/localpasswd', 'etc/passwd'),
    }),
  ),
  {
    name: 'DirectoryOverrideSymlink',
    layers: [
      [...ETC, symlink('/etc', 'localetc')],
      [dir('/localetc/'), link('/etc/passwd', '/localetc/localpasswd')],
    ],
    check: (tree) => {
      assert.equal(tree.at('localetc').type, 'directory');
      tree.sameFile('localetc/localpasswd', 'etc/passwd');
    },
  },
  {
    name: 'DirectoryOverrideSymlinkAndHardlink',
    layers: [
      [...ETC, symlink('etc', 'localetc'), link('/etc/passwd', '/localetc/localpasswd')],
      [dir('/localetc/'), file('/localetc/localpasswd', 'different')],
    ],
    check: (tree) => {
      content(tree, 'etc/passwd', 'inside');
      content(tree, 'localetc/localpasswd', 'different');
      assert.equal(tree.at('localetc/localpasswd').links, undefined);
    },
  },
  ...['.wh...', 'etc/.wh...', '.wh..', 'etc/.wh..', '.wh.', 'etc/.wh.'].map(
    (name): Scenario => ({
      name: `Whiteout of an invalid name: ${name}`,
      layers: [ETC, [file(name)]],
      error: 'invalid_argument',
    }),
  ),
  {
    name: 'WhiteoutSymlink',
    layers: [[...ETC, symlink('/etc', 'localetc')], [whiteout('localetc')]],
    check: (tree) => {
      content(tree, 'etc/passwd', 'inside');
      tree.absent('localetc');
    },
  },
  {
    name: 'WhiteoutSymlinkPath',
    layers: [[...ETC, file('etc/whitedout', 'ahhhh'), symlink('/etc', 'localetc')], [whiteout('localetc/whitedout')]],
    check: (tree) => {
      content(tree, 'etc/passwd', 'inside');
      tree.absent('etc/whitedout');
      assert.equal(tree.at('localetc').target, '/etc');
    },
  },
  {
    name: 'WhiteoutDirectoryName',
    layers: [ETC, [file('.wh.etc/somefile', 'non-empty')]],
    check: (tree) => {
      content(tree, 'etc/passwd', 'inside');
      content(tree, '.wh.etc/somefile', 'non-empty');
    },
    umoci: {'.wh.etc': ['mtime']},
  },
  {
    name: 'WhiteoutDeadSymlinkParent',
    layers: [[...ETC, symlink('/dne', 'localetc')], [whiteout('localetc/etc')]],
    check: (tree) => {
      content(tree, 'etc/passwd', 'inside');
      tree.absent('dne');
    },
    containerd: 'containerd creates the directory of a needless whiteout',
  },
  {
    name: 'WhiteoutRelativePath',
    layers: [[...ETC, symlink('/dne', 'localetc')], [file('dne/../.wh.etc')]],
    check: (tree) => tree.absent('etc'),
  },
  {
    name: 'SymlinkOverridePath',
    layers: [
      [
        dir('foo'),
        dir('foo/tmp'),
        file('foo/tmp/breakout', 'one'),
        symlink('/', 'foo'),
        file('foo/tmp/breakout', 'two'),
        dir('foo'),
        dir('foo/tmp'),
        file('foo/tmp/breakout', 'three'),
      ],
    ],
    check: (tree) => {
      content(tree, 'foo/tmp/breakout', 'three');
      content(tree, 'tmp/breakout', 'two');
    },
    umoci: {tmp: ['mtime']},
  },
  {
    name: 'HardlinkSymlinkBeforeCreateTarget',
    layers: [
      [
        dir('etc', 0o770),
        symlink('/etc/passwd', 'localpasswd'),
        link('localpasswd', 'localpasswd-dup', {mode: 0o777}),
        file('/etc/passwd', 'after'),
      ],
    ],
    check: same('localpasswd-dup', 'etc/passwd'),
  },
  ...(['../../../../../etc/passwd', '/etc/passwd'] as const).map(
    (target): Scenario => ({
      name: `HardlinkSymlink ${target}`,
      layers: [[...ETC, symlink(target, 'passwdlink'), link('/passwdlink', 'localpasswd', {mode: 0o777})]],
      check: (tree) => {
        assert.equal(tree.at('localpasswd').target, target);
        assert.deepEqual(tree.at('localpasswd').links, ['localpasswd', 'passwdlink']);
      },
    }),
  ),
  {
    name: 'HardlinkSymlinkChmod',
    layers: [[file('perm400', '...', 0o400), symlink('perm400', 'outside'), link('outside', 'sketchylink', {mode: 0o666})]],
    check: (tree) => assert.equal(tree.at('perm400').mode, '0400'),
  },
  {
    name: 'DirectoryCreation',
    layers: [
      [dir('/etc/')],
      [dir('/etc/subdir'), dir('/etc/subdir2/'), dir('/etc/subdir2/more'), dir('/other/noparent-1/1'), dir('/other/noparent-2/2/')],
    ],
    check: (tree) => {
      for (const name of ['etc/subdir', 'etc/subdir2/more', 'other/noparent-1/1', 'other/noparent-2/2'])
        assert.equal(tree.at(name).type, 'directory');
      assert.equal(tree.at('other/noparent-1').mode, '0755');
    },
    umoci: {other: ['mtime', 'mode'], 'other/noparent-1': ['mtime', 'mode'], 'other/noparent-2': ['mtime', 'mode']},
  },
  {
    name: 'PrefixHeaderReadable',
    layers: [[file('foo', 'x', 0o644, {prefix: 'a'.repeat(97)})]],
    check: (tree) => content(tree, `${'a'.repeat(97)}/foo`, 'x'),
    umoci: {['a'.repeat(97)]: ['mtime', 'mode']},
  },
];

/** Layers as containerd writes them for the difference of two trees. */
const CONTAINERD_FS_SUITE: readonly Scenario[] = [
  {
    name: 'FSSuite Basic',
    layers: [
      BASE,
      [
        dir('etc'),
        file('etc/hosts', '127.0.0.1 localhost.localdomain'),
        dir('root', 0o700),
        file('root/.bashrc', 'PATH'),
        dir('usr'),
        dir('usr/local'),
        dir('usr/local/lib'),
        file('usr/local/lib/libnothing.so', '\0\0', 0o755),
        whiteout('home'),
      ],
      [dir('home'), dir('home/derek', 0o711), file('home/derek/new', 'n'), dir('usr'), whiteout('usr/local')],
    ],
    check: (tree) => {
      tree.absent('usr/local');
      assert.deepEqual(tree.names('home'), ['home/derek']);
      assert.equal(tree.at('home/derek').mode, '0711');
      assert.equal(tree.at('etc/hosts').links, undefined);
    },
  },
  {
    name: 'FSSuite Deletion: removed and made again',
    layers: [
      [
        dir('test'),
        dir('test/a'),
        file('test/a/b', '1'),
        file('test/c', '2'),
        dir('lib'),
        file('lib/hidden', '1'),
        file('lib/not-hidden', '2'),
      ],
      [dir('test'), opaque('test'), dir('test/a'), file('test/a/new', '3'), dir('lib'), whiteout('lib/hidden')],
      [dir('lib'), file('lib/hidden', 'again')],
    ],
    check: (tree) => {
      assert.deepEqual(tree.names('test'), ['test/a']);
      assert.deepEqual(tree.names('test/a'), ['test/a/new']);
      content(tree, 'lib/hidden', 'again');
    },
  },
  {
    name: 'FSSuite Update',
    layers: [
      [dir('d'), file('d/one', '1'), file('d/two', '2', 0o600)],
      [dir('d'), file('d/one', 'longer'), file('d/two', '2', 0o777)],
    ],
    check: (tree) => {
      content(tree, 'd/one', 'longer');
      assert.equal(tree.at('d/two').mode, '0777');
    },
  },
  {
    name: 'FSSuite DirectoryPermission',
    layers: [
      [dir('d1', 0o700), dir('d2', 0o751), dir('d3', 0o777)],
      [
        dir('d1', 0o700),
        file('d1/f', 'irrelevant'),
        dir('d1/d'),
        dir('d2', 0o751),
        file('d2/f', 'irrelevant'),
        dir('d3', 0o777),
        dir('d3/d'),
      ],
    ],
    check: (tree) =>
      assert.deepEqual(
        ['d1', 'd2', 'd3'].map((name) => tree.at(name).mode),
        ['0700', '0751', '0777'],
      ),
  },
  {
    name: 'FSSuite ParentDirectoryPermission',
    layers: [
      [dir('d1', 0o700, {uid: 1, gid: 2}), dir('d2', 0o751), dir('d3', 0o2777)],
      [file('d1/f', 'irrelevant'), file('d2/f', 'irrelevant'), dir('d3/d')],
    ],
    check: (tree) => {
      assert.deepEqual(
        ['d1', 'd2', 'd3'].map((name) => tree.at(name).mode),
        ['0700', '0751', '2777'],
      );
      assert.deepEqual([tree.at('d1').uid, tree.at('d1').gid], [1, 2]);
    },
  },
  {
    name: 'FSSuite HardlinkUnmodified',
    layers: [
      [file('c1', 'readme'), link('c1', 'c2')],
      [file('a', 'readme'), link('a', 'c1'), link('a', 'c2')],
    ],
    check: (tree) => assert.deepEqual(tree.at('a').links, ['a', 'c1', 'c2']),
  },
  {
    name: 'FSSuite HardlinkBeforeModified',
    layers: [
      [file('c1', 'b'), link('c1', 'c2')],
      [file('a', 'modified'), link('a', 'c1')],
    ],
    check: (tree) => {
      assert.deepEqual(tree.at('a').links, ['a', 'c1']);
      content(tree, 'c2', 'b');
    },
  },
];

const LONG = 'n'.repeat(120);
const LONGEST = 'm'.repeat(255);
const CAPABILITY = Buffer.from('0100000200200000000000000000000000000000', 'hex');

const BERTH_SCENARIOS: readonly Scenario[] = [
  {
    name: 'a whiteout before a directory of the same name hides its lower content',
    layers: [
      [dir('d'), file('d/old', 'o')],
      [whiteout('d'), dir('d', 0o700), file('d/new', 'n')],
    ],
    check: (tree) => {
      assert.deepEqual(tree.names('d'), ['d/new']);
      assert.equal(tree.at('d').mode, '0700');
    },
  },
  {
    name: 'a whiteout after a directory of the same name hides its lower content, and spares the rest',
    layers: [
      [dir('d'), file('d/old', 'o'), dir('d/sub'), file('d/sub/old', 'o')],
      [dir('d'), dir('d/sub'), file('d/sub/new', 'n'), whiteout('d')],
    ],
    check: (tree) => assert.deepEqual([tree.names('d'), tree.names('d/sub')], [['d/sub'], ['d/sub/new']]),
    umoci: {d: ['mtime'], 'd/sub': ['mtime']},
    containerd: 'containerd lets a whiteout remove entries of its own layer',
  },
  {
    name: 'a whiteout spares a file of its own layer, before and after it',
    layers: [
      [file('a', 'old'), file('b', 'old')],
      [file('a', 'new'), whiteout('a'), whiteout('b'), file('b', 'new')],
    ],
    check: (tree) => {
      content(tree, 'a', 'new');
      content(tree, 'b', 'new');
    },
    containerd: 'containerd lets a whiteout remove entries of its own layer',
  },
  {
    name: 'a whiteout of a directory, and then a file in it',
    layers: [
      [dir('d', 0o700), file('d/old', 'o')],
      [whiteout('d'), file('d/new', 'n')],
    ],
    check: (tree) => {
      assert.deepEqual(tree.names('d'), ['d/new']);
      assert.equal(tree.at('d').mode, '0755');
    },
    umoci: {d: ['mtime', 'mode']},
  },
  {
    name: 'an opaque mark after the entries of its directory',
    layers: [
      [dir('d'), file('d/old', 'o'), dir('d/sub'), file('d/sub/old', 'o')],
      [dir('d', 0o711), file('d/new', 'n'), dir('d/sub'), file('d/sub/new', 'n'), opaque('d')],
    ],
    check: (tree) => assert.deepEqual([tree.names('d'), tree.names('d/sub')], [['d/new', 'd/sub'], ['d/sub/new']]),
    umoci: {'d/sub': ['mtime']},
  },
  {
    name: 'an opaque mark in a directory that the layer does not carry',
    layers: [
      [dir('d', 0o710, {uid: 3}), file('d/old', 'o')],
      [opaque('d'), file('d/new', 'n')],
    ],
    check: (tree) => {
      assert.deepEqual(tree.names('d'), ['d/new']);
      assert.deepEqual([tree.at('d').mode, tree.at('d').uid], ['0710', 3]);
    },
  },
  {
    name: 'an opaque mark for the root',
    layers: [
      [dir('d'), file('d/old', 'o'), file('f', 'x'), dir('kept'), file('kept/old', 'o')],
      [dir('kept'), file('kept/new', 'n'), file('.wh..wh..opq')],
    ],
    check: (tree) =>
      assert.deepEqual(
        tree.entries.map(({path}) => path),
        ['.', 'kept', 'kept/new'],
      ),
    umoci: {kept: ['mtime']},
  },
  {
    name: 'whiteouts and opaque marks of absent names',
    layers: [
      [dir('d')],
      [whiteout('none'), whiteout('d/none'), whiteout('none/none'), opaque('nowhere'), dir('new'), whiteout('new/none')],
    ],
    check: (tree) =>
      assert.deepEqual(
        tree.entries.map(({path}) => path),
        ['.', 'd', 'new'],
      ),
    containerd: 'containerd creates the directories of needless whiteouts',
  },
  {
    name: 'whiteouts over three layers',
    layers: [
      [dir('d'), file('d/a', '1'), file('d/b', '1'), dir('e'), file('e/x', '1')],
      [dir('d'), whiteout('d/a'), whiteout('e')],
      [dir('d'), file('d/a', '3'), whiteout('d/b'), dir('e'), file('e/y', '3')],
    ],
    check: (tree) => {
      assert.deepEqual(tree.names('d'), ['d/a']);
      assert.deepEqual(tree.names('e'), ['e/y']);
      content(tree, 'd/a', '3');
    },
  },
  {
    name: 'many whiteouts with unusual names',
    layers: [
      [dir('d'), ...['a\nb', 'c\xff', bytes('é'), LONG, ' ', 'x'.repeat(251)].map((name) => file(`d/${name}`, 'x')), file('d/kept', 'k')],
      [dir('d'), ...['a\nb', 'c\xff', bytes('é'), LONG, ' ', 'x'.repeat(251)].map((name) => whiteout(`d/${name}`))],
    ],
    check: (tree) => assert.deepEqual(tree.names('d'), ['d/kept']),
  },
  {
    name: 'a whiteout with content and a whiteout that is a directory',
    layers: [
      [file('a', 'a'), dir('d'), file('d/f', 'f')],
      [file('.wh.a', 'content'), dir('.wh.d')],
    ],
    check: (tree) =>
      assert.deepEqual(
        tree.entries.map(({path}) => path),
        ['.'],
      ),
  },
  {
    name: 'implicit parents keep the attributes of a lower layer',
    layers: [
      [
        dir('a', 0o750, {uid: 11, gid: 12, mtime: 1_111_111_111, xattrs: {'user.a': 'x', 'security.foo': Buffer.from([1, 0, 2])}}),
        dir('a/b', 0o1777, {uid: 13, pax: {mtime: '1222222222.123456789'}}),
        file('a/b/old', 'o'),
      ],
      [file('a/b/new', 'n')],
    ],
    check: (tree) => {
      assert.deepEqual(tree.names('a/b'), ['a/b/new', 'a/b/old']);
      assert.deepEqual(Object.keys(tree.at('a').xattrs), ['security.foo', 'user.a']);
      assert.deepEqual([tree.at('a').mtime, tree.at('a/b').mtime], [1_111_111_111_000_000_000n, 1_222_222_222_123_456_789n]);
    },
  },
  {
    name: 'implicit parents have the attributes of the topmost lower layer',
    layers: [
      [dir('a', 0o700), dir('a/b', 0o700), file('a/b/1', '1')],
      [dir('a', 0o711), dir('a/b', 0o711), file('a/b/2', '2')],
      [file('a/b/3', '3')],
    ],
    check: (tree) => {
      assert.deepEqual(tree.names('a/b'), ['a/b/1', 'a/b/2', 'a/b/3']);
      assert.equal(tree.at('a/b').mode, '0711');
    },
  },
  {
    name: 'implicit parents below an opaque directory are new',
    layers: [[dir('a'), dir('a/b', 0o700), file('a/b/1', '1')], [dir('a'), opaque('a'), file('a/x', 'x')], [file('a/b/3', '3')]],
    check: (tree) => {
      assert.deepEqual(tree.names('a'), ['a/b', 'a/x']);
      assert.deepEqual(tree.names('a/b'), ['a/b/3']);
      assert.equal(tree.at('a/b').mode, '0755');
    },
    umoci: {a: ['mtime'], 'a/b': ['mtime', 'mode']},
  },
  {
    name: 'implicit parents below a whiteout are new',
    layers: [[dir('a'), dir('a/b', 0o700), file('a/b/1', '1')], [dir('a'), whiteout('a/b')], [file('a/b/3', '3')]],
    check: (tree) => {
      assert.deepEqual(tree.names('a/b'), ['a/b/3']);
      assert.equal(tree.at('a/b').mode, '0755');
    },
    umoci: {a: ['mtime'], 'a/b': ['mtime', 'mode']},
  },
  {
    name: 'entries through a link of a lower layer',
    layers: [
      [dir('usr'), dir('usr/lib', 0o751), file('usr/lib/old', 'o'), symlink('usr/lib', 'lib'), symlink('/lib', 'also')],
      [dir('usr'), file('lib/new', 'n'), file('also/newer', 'n'), whiteout('lib/old'), link('lib/new', 'lib/linked')],
    ],
    check: (tree) => {
      assert.deepEqual(tree.names('usr/lib'), ['usr/lib/linked', 'usr/lib/new', 'usr/lib/newer']);
      assert.equal(tree.at('lib').target, 'usr/lib');
      assert.equal(tree.at('usr/lib').mode, '0751');
    },
  },
  {
    name: 'entries through a link of this layer with ".." over a link of a lower one',
    layers: [
      [dir('x'), dir('x/y'), symlink('x/y', 'up'), dir('x/t'), file('x/t/old', 'o')],
      [symlink('up/../t', 'here'), file('here/new', 'n')],
    ],
    check: (tree) => assert.deepEqual(tree.names('x/t'), ['x/t/new', 'x/t/old']),
  },
  {
    name: 'a directory replaces a link of a lower layer',
    layers: [
      [dir('usr'), file('usr/f', 'f'), symlink('usr', 'lib')],
      [dir('lib'), file('lib/g', 'g')],
    ],
    check: (tree) => assert.deepEqual([tree.names('lib'), tree.names('usr')], [['lib/g'], ['usr/f']]),
  },
  {name: 'a parent that is a file', layers: [[file('f', 'x')], [file('f/g', 'y')]], error: 'failed_precondition'},
  {name: 'a parent that is a file of this layer', layers: [[file('f', 'x'), file('f/g', 'y')]], error: 'failed_precondition'},
  {name: 'a cycle of links', layers: [[symlink('b', 'a'), symlink('a', 'b'), file('a/x', 'x')]], error: 'failed_precondition'},
  {
    name: 'hard links to files of lower layers',
    layers: [
      [
        dir('d', 0o711),
        file('d/f', 'content', 0o4755, {
          uid: 5,
          gid: 6,
          pax: {mtime: '1600000000.25'},
          xattrs: {'user.k': 'v', 'security.capability': CAPABILITY},
        }),
        symlink('nowhere', 'd/s', {uid: 7}),
        fifo('d/p', 0o622),
      ],
      [
        link('d/f', 'hard', {mode: 0o4755, uid: 5, gid: 6, pax: {mtime: '1600000000.25'}}),
        link('/d/s', 'soft', {mode: 0o777, uid: 7}),
        link('d/p', 'pipe', {mode: 0o622}),
      ],
    ],
    check: (tree) => {
      content(tree, 'hard', 'content');
      assert.deepEqual(tree.at('hard').links, ['d/f', 'hard']);
      assert.deepEqual(tree.at('soft').links, ['d/s', 'soft']);
      assert.deepEqual(tree.at('pipe').links, ['d/p', 'pipe']);
      assert.deepEqual(Object.keys(tree.at('hard').xattrs), ['security.capability', 'user.k']);
      assert.deepEqual([tree.at('hard').mode, tree.at('hard').uid, tree.at('hard').mtime], ['4755', 5, 1_600_000_000_250_000_000n]);
    },
    containerd: 'containerd sets the owner again, which takes the capability away',
  },
  {
    name: 'a hard link through a symbolic link, both in a lower layer',
    layers: [[dir('usr'), file('usr/f', 'f'), symlink('usr', 'u')], [link('u/f', 'u/g')]],
    check: (tree) => assert.deepEqual(tree.at('usr/g').links, ['usr/f', 'usr/g']),
  },
  {name: 'a hard link to an absent file', layers: [[link('none', 'l')]], error: 'invalid_argument'},
  {name: 'a hard link to a hidden file', layers: [[file('f', 'f')], [whiteout('f'), link('f', 'l')]], error: 'invalid_argument'},
  {name: 'a hard link to itself', layers: [[file('f', 'f'), link('f', 'f')]], error: 'invalid_argument'},
  {name: 'a hard link to a directory', layers: [[dir('d'), link('d', 'l')]], error: 'invalid_argument'},
  {name: 'a hard link to a directory of a lower layer', layers: [[dir('d')], [link('d/', 'l')]], error: 'invalid_argument'},
  {
    name: 'a hard link to a file in the directory that it replaces',
    layers: [[dir('d'), file('d/f', 'f'), link('d/f', 'd')]],
    error: 'invalid_argument',
  },
  {name: 'a symbolic link without target', layers: [[symlink('', 'l')]], error: 'invalid_argument'},
  {
    name: 'the header of a hard link sets the attributes of the inode',
    layers: [[file('f', 'f', 0o600, {uid: 1}), link('f', 'l', {mode: 0o4711, uid: 2, gid: 3, mtime: 1_234_567_890})]],
    check: (tree) => {
      const {mode, uid, gid, mtime} = tree.at('f');
      assert.deepEqual([mode, uid, gid, mtime], ['4711', 2, 3, 1_234_567_890_000_000_000n]);
    },
    umoci: 'umoci ignores it',
  },
  {
    name: 'repeated names',
    layers: [
      [
        file('f', 'first', 0o755),
        file('f', '2', 0o600),
        dir('d', 0o700),
        file('d/kept', 'k'),
        dir('d', 0o711, {uid: 4}),
        dir('x'),
        file('x/gone', 'g'),
        file('x', 'now a file'),
        symlink('f', 's'),
        file('s', 'not through the link'),
        file('h1', 'h'),
        link('h1', 'h2'),
        file('h1', 'alone'),
      ],
    ],
    check: (tree) => {
      content(tree, 'f', '2');
      content(tree, 's', 'not through the link');
      content(tree, 'h2', 'h');
      assert.deepEqual([tree.at('d').mode, tree.at('d').uid, tree.names('d')], ['0711', 4, ['d/kept']]);
      assert.equal(tree.at('x').type, 'file');
    },
  },
  {
    name: 'a directory after a file of the same name is new',
    layers: [
      [dir('d'), file('d/old', 'o')],
      [dir('d'), file('d', 'between'), dir('d'), file('d/new', 'n')],
    ],
    check: (tree) => assert.deepEqual(tree.names('d'), ['d/new']),
  },
  {
    name: 'each type replaces each other type',
    layers: [
      [
        dir('d1'),
        file('d1/f', 'f'),
        dir('d2'),
        file('d2/f', 'f'),
        file('f1', 'f'),
        file('f2', 'f'),
        symlink('f1', 's1'),
        symlink('d1', 's2'),
        fifo('p'),
      ],
      [file('d1', 'd'), symlink('f1', 'd2'), dir('f1'), file('f1/x', 'x'), symlink('d2', 'f2'), dir('s1'), file('s2', 's'), dir('p')],
    ],
    check: (tree) => {
      assert.deepEqual(
        ['d1', 'd2', 'f1', 'f2', 's1', 's2', 'p'].map((name) => tree.at(name).type),
        ['file', 'symlink', 'directory', 'symlink', 'directory', 'file', 'directory'],
      );
      assert.deepEqual(tree.names('f1'), ['f1/x']);
    },
  },
  {
    name: 'device nodes and FIFOs',
    layers: [
      [
        dir('dev', 0o755, {mtime: 1_500_000_000}),
        char('dev/null', 1, 3, {mtime: 1_400_000_000}),
        link('dev/null', 'dev/zilch', {mode: 0o666, mtime: 1_400_000_000}),
        block('dev/loop', 7, 200, {mode: 0o660, uid: 0, gid: 6}),
        char('dev/large', 300, 70_000),
        fifo('dev/pipe', 0o622, {uid: 9}),
        char('dev/replaced', 1, 5),
        file('dev/replaced', 'now a file'),
        char('dev/other', 1, 7),
        link('dev/other', 'dev/kept', {mode: 0o666}),
        file('dev/other', 'now a file'),
        dir('dev/gone'),
        char('dev/gone/null', 1, 3),
        file('dev/gone', 'now a file'),
      ],
    ],
    check: (tree) => {
      assert.deepEqual([tree.at('dev/null').device, tree.at('dev/null').links], ['1:3', ['dev/null', 'dev/zilch']]);
      assert.deepEqual([tree.at('dev/loop').device, tree.at('dev/loop').type, tree.at('dev/loop').mode], ['7:200', 'block', '0660']);
      assert.equal(tree.at('dev/large').device, '300:70000');
      assert.deepEqual([tree.at('dev/pipe').type, tree.at('dev/pipe').mode, tree.at('dev/pipe').uid], ['fifo', '0622', 9]);
      assert.deepEqual([tree.at('dev/replaced').type, tree.at('dev/other').type, tree.at('dev/kept').device], ['file', 'file', '1:7']);
      assert.equal(tree.at('dev/gone').type, 'file');
      assert.equal(tree.at('dev').mtime, 1_500_000_000_000_000_000n);
    },
  },
  {
    name: 'setuid, setgid and sticky bits survive a change of owner, and setgid is not inherited',
    layers: [
      [
        file('suid', 'x', 0o4755, {uid: 1000, gid: 1000}),
        file('both', 'x', 0o6711, {gid: 5}),
        dir('d', 0o2775, {gid: 8}),
        file('d/f', 'x', 0o644),
        dir('d/sub'),
        symlink('f', 'd/s'),
        dir('tmp', 0o1777),
        dir('all', 0o7777, {uid: 3, gid: 3}),
        file('none', 'x', 0o000),
      ],
      [file('d/added', 'x'), dir('d/more'), symlink('x', 'd/l')],
    ],
    check: (tree) => {
      assert.deepEqual(
        ['suid', 'both', 'd', 'd/sub', 'd/more', 'tmp', 'all', 'none'].map((name) => tree.at(name).mode),
        ['4755', '6711', '2775', '0755', '0755', '1777', '7777', '0000'],
      );
      assert.deepEqual(
        ['d/f', 'd/sub', 'd/s', 'd/added', 'd/more', 'd/l'].map((name) => tree.at(name).gid),
        [0, 0, 0, 0, 0, 0],
      );
    },
  },
  {
    name: 'times to the nanosecond',
    layers: [
      [
        dir('d', 0o755, {pax: {mtime: '1600000000.987654321'}}),
        file('d/f', 'content', 0o4755, {uid: 7, pax: {mtime: '1600000001.123456789'}}),
        link('d/f', 'd/g', {mode: 0o4755, uid: 7, pax: {mtime: '1600000001.123456789'}}),
        symlink('f', 'd/s', {pax: {mtime: '1600000002.000000001'}}),
        link('d/s', 'd/t', {mode: 0o777, pax: {mtime: '1600000002.000000001'}}),
        fifo('d/p', 0o600, {pax: {mtime: '1600000003.1'}}),
        file('tenth', '', 0o644, {pax: {mtime: '1600000004.5'}}),
        file('truncated', '', 0o644, {pax: {mtime: '1600000005.1234567899'}}),
      ],
    ],
    check: (tree) => {
      assert.deepEqual(
        ['d', 'd/f', 'd/s', 'd/p', 'tenth', 'truncated'].map((name) => tree.at(name).mtime),
        [
          1_600_000_000_987_654_321n,
          1_600_000_001_123_456_789n,
          1_600_000_002_000_000_001n,
          1_600_000_003_100_000_000n,
          1_600_000_004_500_000_000n,
          1_600_000_005_123_456_789n,
        ],
      );
      assert.deepEqual(
        [tree.at('d/f').links, tree.at('d/t').links],
        [
          ['d/f', 'd/g'],
          ['d/s', 'd/t'],
        ],
      );
      assert.equal(tree.at('d/f').mode, '4755');
    },
  },
  {
    name: 'times out of range become 1970',
    layers: [
      [
        file('old', '', 0o644, {mtime: -5}),
        file('far', '', 0o644, {pax: {mtime: '9300000000'}}),
        file('late', '', 0o644, {mtime: 9_000_000_000}),
      ],
    ],
    check: (tree) =>
      assert.deepEqual(
        ['old', 'far', 'late'].map((name) => tree.at(name).mtime),
        [0n, 0n, 9_000_000_000_000_000_000n],
      ),
    umoci: {old: ['mtime'], far: ['mtime']},
  },
  {
    name: 'extended attributes',
    layers: [
      [
        file('cap', 'binary', 0o755, {uid: 1, xattrs: {'security.capability': CAPABILITY}}),
        link('cap', 'cap2', {mode: 0o755, uid: 1, xattrs: {'security.capability': CAPABILITY}}),
        file('bin', '', 0o400, {xattrs: {'user.binary': Buffer.from([0, 10, 0x3d, 0xff]), 'user.empty': '', [`user.${bytes('é')}`]: 'x'}}),
        dir('d', 0o2750, {gid: 4, xattrs: {'user.dir': 'v'}}),
        file('d/f', 'f'),
        symlink('x', 'sym', {xattrs: {'security.foo': 'z'}}),
      ],
    ],
    check: (tree) => {
      assert.deepEqual(tree.at('cap').xattrs, {'security.capability': `0x${CAPABILITY.toString('hex')}`});
      assert.deepEqual(
        [tree.at('cap').links, tree.at('cap').mode, tree.at('cap').uid, tree.at('cap').size],
        [['cap', 'cap2'], '0755', 1, 6],
      );
      assert.deepEqual(tree.at('bin').xattrs['user.binary'], '0x000a3dff');
      assert.deepEqual([tree.at('d').mode, tree.at('d').gid, tree.at('d').xattrs], ['2750', 4, {'user.dir': '0x76'}]);
      assert.deepEqual(tree.at('sym').xattrs, {'security.foo': '0x7a'});
    },
    umoci: 'umoci leaves empty ones out',
  },
  {
    name: 'a repeated directory has only the extended attributes of its last entry',
    layers: [
      [
        dir('a', 0o755, {xattrs: {'user.old': '1', 'user.both': '1'}}),
        dir('a/b\n\xff', 0o2755, {gid: 5, xattrs: {'user.old': '1'}}),
        file('a/b\n\xff/f', 'f'),
        dir('a/c', 0o755, {xattrs: {'user.old': '1'}}),
        dir('d', 0o711, {uid: 4, xattrs: {'user.old': '1'}}),
      ],
      [
        dir('a', 0o750, {uid: 3, xattrs: {'user.both': '2', 'user.new': '1'}}),
        dir('a/b\n\xff', 0o711, {mtime: 5}),
        dir('d', 0o711, {uid: 4}),
        file('a/b\n\xff/g', 'g', 0o644, {xattrs: {'user.x': '1'}}),
      ],
    ],
    check: (tree) => {
      assert.deepEqual([tree.at('a').xattrs, tree.at('a').mode, tree.at('a').uid], [{'user.both': '0x32', 'user.new': '0x31'}, '0750', 3]);
      assert.deepEqual([tree.at('a/b\n\xff').xattrs, tree.at('a/b\n\xff').mode, tree.at('a/b\n\xff').gid], [{}, '0711', 0]);
      assert.deepEqual(tree.names('a/b\n\xff'), ['a/b\n\xff/f', 'a/b\n\xff/g']);
      assert.deepEqual(tree.at('a/c').xattrs, {'user.old': '0x31'});
      assert.deepEqual([tree.at('d').xattrs, tree.at('d').mode, tree.at('d').uid], [{}, '0711', 4]);
    },
    containerd: "containerd's native snapshotter keeps the others, its overlayfs snapshotter does not",
  },
  {
    name: 'extended attributes that are forbidden or unsupported are left out',
    layers: [
      [file('f', '', 0o644, {xattrs: {'trusted.overlay.opaque': 'y', 'user.ok': '1'}}), symlink('f', 's', {xattrs: {'user.no': '1'}})],
    ],
    check: (tree) => {
      assert.deepEqual(tree.at('f').xattrs, {'user.ok': '0x31'});
      assert.deepEqual(tree.at('s').xattrs, {});
    },
    umoci: 'umoci sets trusted.*, and fails at user.* on links',
  },
  {
    name: 'names with any bytes',
    layers: [
      [
        ...[
          'new\nline',
          'tab\t',
          'invalid\xff\xfe',
          bytes('é'),
          '-dash',
          '--delete',
          ' ',
          '*',
          'back\\slash',
          "'",
          '"',
          '%41',
          '..two',
          '...',
          '.wh',
          LONG,
          LONGEST,
        ].map((name) => file(name, name)),
        dir(`${LONG}d`),
        file(`${LONG}d/${LONGEST}`, 'x', 0o644, {xattrs: {'user.x': '1'}}),
        link(`${LONG}d/${LONGEST}`, `${LONG}d/${LONG}`),
        symlink(`${LONG}/${LONG}`, `${LONG}d/s\xff`, {pax: {mtime: '1600000000.123456789'}}),
        file('gnu\xff', 'g', 0o644, {format: 'gnu'}),
        file(`${LONG}gnu`, 'g', 0o644, {format: 'gnu'}),
        link(`${LONG}gnu`, `${LONG}gnu2`, {format: 'gnu'}),
        dir('odd\xff\n', 0o750, {xattrs: {'user.x': '1'}, pax: {mtime: '1600000000.123456789'}}),
        char('odd\xff\n/dev\xfe', 1, 3),
        file('odd\xff\n/file\xfe', 'f', 0o640, {uid: 6, pax: {mtime: '1600000000.123456789'}}),
      ],
      [file('odd\xff\n/added', 'a'), link('invalid\xff\xfe', 'linked\xff'), whiteout('new\nline')],
    ],
    check: (tree) => {
      content(tree, LONGEST, LONGEST);
      assert.equal(tree.at(`${LONG}d/s\xff`).target, `${LONG}/${LONG}`);
      assert.deepEqual(tree.at(`${LONG}gnu`).links, [`${LONG}gnu`, `${LONG}gnu2`]);
      assert.equal(tree.at('odd\xff\n').mode, '0750');
      assert.deepEqual(tree.at('linked\xff').links, ['invalid\xff\xfe', 'linked\xff']);
      tree.absent('new\nline');
    },
  },
  {
    name: 'names with dots and slashes',
    layers: [
      [
        dir('./a'),
        file('./a/./b', '1'),
        file('//a//c', '2'),
        file('a/x/../d', '3'),
        file('../../e', '4'),
        dir('f/'),
        file('/g', '5'),
        file('a/../../h', '6'),
      ],
    ],
    check: (tree) =>
      assert.deepEqual(
        tree.entries.map(({path}) => path),
        ['.', 'a', 'a/b', 'a/c', 'a/d', 'e', 'f', 'g', 'h'],
      ),
  },
  {
    name: 'the root is left as it is',
    layers: [[dir('./', 0o700, {uid: 5, xattrs: {'user.x': '1'}}), symlink('/etc', '/.'), file('f', 'x')]],
    check: (tree) => assert.deepEqual([tree.at('.').mode, tree.at('.').uid], ['0755', 0]),
    umoci: 'umoci changes the root, and refuses another type for it',
  },
  {
    name: 'numbers in base 256, ids beyond octal',
    layers: [
      [
        file('f', 'x', 0o644, {uid: 3_000_000, gid: 4_294_967_294, format: 'gnu'}),
        file('g', 'y', 0o644, {pax: {uid: '3000001', gid: '7'}}),
        dir('d', 0o755, {uid: 3_000_000, gid: 4_000_000, mtime: 9_000_000_000, xattrs: {'user.x': '1'}}),
      ],
    ],
    check: (tree) => {
      assert.deepEqual([tree.at('f').uid, tree.at('f').gid, tree.at('g').uid, tree.at('g').gid], [3_000_000, 4_294_967_294, 3_000_001, 7]);
      assert.deepEqual([tree.at('d').uid, tree.at('d').gid, tree.at('d').mtime], [3_000_000, 4_000_000, 9_000_000_000_000_000_000n]);
    },
  },
  {
    name: 'PAX path, linkpath, size',
    layers: [
      [
        file('short', 'abc', 0o644, {pax: {path: 'real\xff'}}),
        symlink('short', 's', {pax: {linkpath: 'real'}}),
        file('sized', 'abcdef', 0o644, {size: 0, pax: {size: '6'}}),
        file('empty', 'x', 0o644, {pax: {path: ''}}),
      ],
    ],
    check: (tree) => {
      content(tree, 'real\xff', 'abc');
      content(tree, 'sized', 'abcdef');
      content(tree, 'empty', 'x');
      assert.equal(tree.at('s').target, 'real');
    },
  },
  {
    name: 'old tar',
    layers: [
      [
        {...dir('d/'), typeflag: '\0', format: 'v7'},
        {...file('d/f', 'old'), typeflag: '\0', format: 'v7'},
        {...link('d/f', 'd/g'), format: 'v7'},
        {...symlink('f', 'd/s'), format: 'v7'},
      ],
    ],
    check: (tree) => {
      assert.deepEqual([tree.at('d').type, tree.at('d/f').links], ['directory', ['d/f', 'd/g']]);
      content(tree, 'd/s', 'old');
    },
    umoci: {d: ['mode']},
  },
  {
    name: 'global headers are ignored',
    layers: [[{name: 'pax_global_header', typeflag: 'g', content: Buffer.from('20 path=elsewhere\n'.replace('20', '18'))}, file('f', 'x')]],
    check: (tree) =>
      assert.deepEqual(
        tree.entries.map(({path}) => path),
        ['.', 'f'],
      ),
    umoci: 'umoci refuses them',
  },
  {
    name: 'a whiteout spares entries of its own layer, also in the lowest layer',
    layers: [[dir('d'), file('d/f', 'x'), whiteout('d'), dir('e'), file('e/f', 'x'), opaque('e')]],
    check: (tree) => assert.deepEqual([tree.names('d'), tree.names('e')], [['d/f'], ['e/f']]),
    containerd: 'containerd lets a whiteout remove entries of its own layer',
  },
  {
    name: 'a layer that only hides everything',
    layers: [[dir('d'), file('d/f', 'x')], [file('.wh..wh..opq')], [dir('d')]],
    check: (tree) => assert.deepEqual(tree.names('d'), []),
  },
  {
    name: 'an implicit parent of a whiteout, and then of a file',
    layers: [[file('f')], [file('d/e/.wh.x', '', 0, {mtime: 5}), dir('d/e')]],
    check: (tree) => assert.equal(tree.at('d').mtime, BigInt(MTIME) * 1_000_000_000n),
    umoci: {d: ['mtime']},
  },
  {
    name: 'a directory with a whiteout name hides nothing',
    layers: [
      [dir('etc'), file('etc/passwd', 'inside'), dir('d'), file('d/f', 'x')],
      [file('etc/.wh.passwd/note', 'n'), file('d/.wh..wh..opq/x', 'x')],
    ],
    check: (tree) => {
      content(tree, 'etc/passwd', 'inside');
      content(tree, 'etc/.wh.passwd/note', 'n');
      assert.deepEqual(tree.names('d'), ['d/.wh..wh..opq', 'd/f']);
    },
    umoci: {etc: ['mtime'], 'etc/.wh.passwd': ['mtime'], d: ['mtime'], 'd/.wh..wh..opq': ['mtime']},
  },
  {
    name: 'an implicit parent inherits the group of a setgid directory, but not the bit',
    layers: [[dir('d', 0o2750, {gid: 7}), file('d/e/f/g', 'x')], [file('d/h/i/j', 'x')]],
    check: (tree) =>
      assert.deepEqual(
        ['d/e', 'd/e/f', 'd/h', 'd/h/i', 'd/h/i/j'].map((name) => [tree.at(name).mode, tree.at(name).gid]),
        [
          ['0755', 7],
          ['0755', 0],
          ['0755', 7],
          ['0755', 0],
          ['0644', 0],
        ],
      ),
    umoci: 'umoci inherits the bit as well',
  },
  {
    name: 'whiteouts in a directory that no lower layer has',
    layers: [[file('f', 'x')], [dir('new', 0o700), whiteout('new/none'), file('new/g', 'y')]],
    check: (tree) => assert.deepEqual(tree.names('new'), ['new/g']),
  },
  {
    name: 'lower content below an opaque mark stays hidden',
    layers: [
      [dir('a'), dir('a/b', 0o700), file('a/b/f', 'f'), dir('a/c', 0o700)],
      [whiteout('a/b/none'), opaque('a'), file('a/b/new', 'n'), file('a/c/new', 'n')],
    ],
    check: (tree) => {
      assert.deepEqual([tree.names('a'), tree.names('a/b')], [['a/b', 'a/c'], ['a/b/new']]);
      assert.deepEqual([tree.at('a/b').mode, tree.at('a/c').mode], ['0755', '0755']);
    },
    umoci: {a: ['mtime'], 'a/b': ['mtime', 'mode'], 'a/c': ['mtime', 'mode']},
  },
  {
    name: 'lower content below a whiteout stays hidden',
    layers: [
      [dir('a'), dir('a/b', 0o700), file('a/b/f', 'f')],
      [file('a/x', 'x'), whiteout('a/b/none'), whiteout('a'), file('a/b/new', 'n')],
    ],
    check: (tree) => {
      assert.deepEqual([tree.names('a'), tree.names('a/b')], [['a/b', 'a/x'], ['a/b/new']]);
      assert.equal(tree.at('a/b').mode, '0755');
    },
    umoci: {a: ['mtime'], 'a/b': ['mtime', 'mode']},
    containerd: 'containerd lets a whiteout remove entries of its own layer',
  },
  {
    name: 'a file between two layers hides the lower directory',
    layers: [[dir('a'), dir('a/b', 0o700), file('a/b/x', 'x')], [file('a', 'now a file')], [dir('a')], [file('a/b/new', 'n')]],
    check: (tree) => {
      assert.deepEqual(tree.names('a/b'), ['a/b/new']);
      assert.equal(tree.at('a/b').mode, '0755');
    },
    umoci: {a: ['mtime'], 'a/b': ['mtime', 'mode']},
  },
  {
    name: 'a link that is replaced through itself',
    layers: [[symlink('.', 'l'), file('l/l', 'now a file'), file('l/x', 'x')]],
    error: 'failed_precondition',
  },
  {
    name: 'a chain of 200 links',
    layers: [[dir('d'), symlink('d', 'l0'), ...Array.from({length: 199}, (_, i) => symlink(`l${i}`, `l${i + 1}`)), file('l199/f', 'x')]],
    check: (tree) => assert.deepEqual(tree.names('d'), ['d/f']),
  },
  {
    name: 'a chain of 300 links',
    layers: [[dir('d'), symlink('d', 'l0'), ...Array.from({length: 299}, (_, i) => symlink(`l${i}`, `l${i + 1}`)), file('l299/f', 'x')]],
    error: 'failed_precondition',
  },
  {
    name: 'sparse files',
    layers: [
      [
        file('s', 'abc', 0o640, {
          pax: {'GNU.sparse.size': '1000', 'GNU.sparse.numblocks': '3', 'GNU.sparse.map': '5,1,7,0,10,2', 'GNU.sparse.name': 'real'},
        }),
      ],
    ],
    check: (tree) => content(tree, 'real', `${'\0'.repeat(5)}a${'\0'.repeat(4)}bc${'\0'.repeat(988)}`),
  },
  {
    name: 'setting a file aside by hard link and replacing it',
    layers: [[file('f', 'old')], [link('f', 'f.old'), file('f', 'new')]],
    check: (tree) => {
      content(tree, 'f.old', 'old');
      content(tree, 'f', 'new');
    },
  },
];

export const SCENARIOS: readonly Scenario[] = [...CONTAINERD_TESTS, ...CONTAINERD_FS_SUITE, ...BERTH_SCENARIOS];
