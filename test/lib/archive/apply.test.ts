import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import {chmodSync, chownSync, mkdirSync, readdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {gzipSync} from 'node:zlib';
import fc from 'fast-check';
import {createApplier, reconcile} from '../../../src/lib/archive/apply.ts';
import {codeOf, isErrdefs} from '../../../src/lib/errdefs.ts';
import {is, requiresProgram, requiresRoot, SAMPLE, temporaryDirectory} from '../../support/helpers.ts';
import {bytes, char, dir, fifo, file, link, opaque, symlink, type TarEntry, tar, whiteout} from '../../support/tartest.ts';
import {diffTrees, readTree} from '../../support/tree.ts';
import {apply} from './apply-modes.ts';
import {findBun} from './run-in-bun.ts';
import {SCENARIOS, Tree} from './scenarios.ts';

/** Entries of every kind that need no lower layer. */
const EVERYTHING: readonly TarEntry[] = [
  dir('d', 0o2750, {uid: 5, gid: 6, pax: {mtime: '1600000000.123456789'}, xattrs: {'user.d': 'x'}}),
  file('d/file', 'content', 0o4711, {uid: 7}),
  file('d/exact', 'content', 0o600, {pax: {mtime: '1600000001.987654321'}, xattrs: {'user.f': 'y', 'security.foo': 'z'}}),
  link('d/exact', 'd/linked', {mode: 0o600, pax: {mtime: '1600000001.987654321'}}),
  symlink('file', 'd/soft', {uid: 8}),
  symlink('exact', `d/odd\xff\n${bytes('é')}`, {pax: {mtime: '1600000002.000000001'}}),
  char('d/null', 1, 3),
  fifo('d/pipe', 0o622),
  dir('o', 0o711),
  opaque('o'),
  whiteout('o/gone'),
  whiteout('gone'),
  whiteout('gone too'),
  file(`${'n'.repeat(120)}/${'m'.repeat(120)}`, 'x'),
  file('sparse', 'end', 0o644, {pax: {'GNU.sparse.size': '100003', 'GNU.sparse.numblocks': '1', 'GNU.sparse.map': '100000,3'}}),
];

describe('the applier', () => {
  it('reports entries, and sizes as containerd counts them', (t) => {
    const {size, entries} = apply(temporaryDirectory(t), tar(dir('d', 0o755, {size: 100}), file('d/f', 'four'), file('.wh.x', 'five!')), {
      form: 'plain',
    });
    assert.deepEqual({size, entries}, {size: 109, entries: 3});
  });

  it('makes the same tree for any chunk size', (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'getfattr')) return;
    const archive = tar(...EVERYTHING);
    const trees = [archive.length, 1000, 513, 7].map((chunk) => {
      const root = temporaryDirectory(t);
      apply(root, archive, {form: 'overlay', chunk});
      return readTree(root);
    });
    for (const tree of trees.slice(1))
      assert.deepEqual(diffTrees(trees[0]!, tree, {ignore: (path, field) => path === '.' && field === 'mtime'}), []);
  });

  it('makes the same tree in Bun, and with any umask', (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'getfattr')) return;
    const work = temporaryDirectory(t);
    writeFileSync(join(work, 'layer.tar.gz'), gzipSync(tar(...EVERYTHING)));
    const engines = [process.execPath, findBun()].filter((engine) => engine !== undefined);
    const trees = engines.flatMap((engine, i) =>
      ['0', '022', '077'].map((umask) => {
        const root = join(work, `${i}-${umask}`);
        mkdirSync(root, {mode: 0o755});
        const out = execFileSync(
          engine,
          [join(import.meta.dirname, 'apply-program.ts'), root, join(work, 'layer.tar.gz'), 'overlay', umask],
          {
            encoding: 'utf8',
          },
        );
        return {root, out, tree: readTree(root)};
      }),
    );
    const [first, ...others] = trees;
    assert.equal(new Tree(first!.tree).at('d/file').mode, '4711');
    for (const {root, out, tree} of others) {
      assert.equal(out, first!.out, root);
      assert.deepEqual(diffTrees(first!.tree, tree, {ignore: (path, field) => path === '.' && field === 'mtime'}), [], root);
    }
  });

  it('sets all attributes that a user other than root may set', (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'setpriv', 'getfattr')) return;
    const work = temporaryDirectory(t);
    chmodSync(work, 0o755);
    const root = join(work, 'root');
    mkdirSync(root);
    chownSync(root, 1234, 1234);
    const owner = {uid: 1234, gid: 1234};
    writeFileSync(
      join(work, 'layer.tar'),
      tar(
        dir('closed', 0o555, {...owner, mtime: 5}),
        dir('closed/in', 0o000, {...owner, mtime: 6}),
        file('closed/in/f', 'x', 0o400, {...owner, xattrs: {'user.x': '1'}}),
        symlink('in', 'closed/s', owner),
        char('closed/null', 1, 3, owner),
      ),
    );
    const args = ['--reuid=1234', '--regid=1234', '--clear-groups', process.execPath, join(import.meta.dirname, 'apply-program.ts')];
    const {status, stderr, stdout} = spawnSync('setpriv', [...args, root, join(work, 'layer.tar'), 'plain', '0'], {encoding: 'utf8'});
    if (status !== 0 && /EACCES|Permission denied/.test(stderr) && !stderr.includes(root)) {
      t.skip('the sources are not readable by others');
      return;
    }
    assert.equal(status, 0, stderr);
    const tree = new Tree(readTree(root));
    assert.deepEqual(
      ['closed', 'closed/in', 'closed/in/f'].map((path) => [tree.at(path).mode, tree.at(path).uid, tree.at(path).mtime / 1_000_000_000n]),
      [
        ['0555', 1234, 5n],
        ['0000', 1234, 6n],
        ['0400', 1234, 1_700_000_000n],
      ],
    );
    assert.deepEqual((JSON.parse(stdout) as {warnings: string[]}).warnings, [
      'device "closed/null" skipped: not permitted to make device nodes',
    ]);
  });

  it('keeps the mtime of an existing directory that only gains or loses names', (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'getfattr')) return;
    const root = temporaryDirectory(t);
    const exact = {pax: {mtime: '1600000000.123456789'}};
    apply(root, tar(dir('a', 0o755, {mtime: 5}), dir('a/b', 0o755, exact), file('a/b/f'), dir('c', 0o755, {mtime: 7}), file('c/f')), {
      form: 'plain',
    });
    apply(root, tar(file('a/b/g', '', 0o644, {xattrs: {'user.x': '1'}}), whiteout('c/f')), {form: 'plain'});
    const tree = new Tree(readTree(root));
    assert.deepEqual(
      [tree.at('a').mtime, tree.at('a/b').mtime, tree.at('c').mtime],
      [5_000_000_000n, 1_600_000_000_123_456_789n, 7_000_000_000n],
    );
  });

  it('leaves no temporary files in the tree', (t) => {
    if (!requiresRoot(t)) return;
    const root = temporaryDirectory(t);
    apply(root, tar(...EVERYTHING), {form: 'overlay'});
    assert.deepEqual(readdirSync(root).sort(), ['d', 'gone', 'gone too', 'n'.repeat(120), 'o', 'sparse']);
    assert.deepEqual(readdirSync(join(root, 'o')), []);
  });

  it('reports the failed entry in message and details', (t) => {
    const cases: readonly (readonly [Parameters<typeof is>[0], string, readonly TarEntry[]])[] = [
      ['invalid_argument', `d/${'x'.repeat(300)}`, [dir('d'), file(`d/${'x'.repeat(300)}`)]],
      ['invalid_argument', 'ü', [link('none', bytes('ü'))]],
      ['failed_precondition', 'f/g', [file('f'), file('f/g')]],
    ];
    for (const [code, entry, entries] of cases)
      assert.throws(
        () => apply(temporaryDirectory(t), tar(...entries), {form: 'plain'}),
        (err) => is(code)(err) && isErrdefs(err) && err.details?.entry === entry && err.message.includes(entry.slice(0, 5)),
        entry,
      );
  });

  it('fails with resource_exhausted on a full disk, also in helper programs', (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'mount')) return;
    const cases: Readonly<Record<string, {readonly options: string; readonly entries: readonly TarEntry[]}>> = {
      'while writing': {options: 'size=64k', entries: [file('f', Buffer.alloc(200_000))]},
      'while creating files': {options: 'nr_inodes=4', entries: Array.from({length: 10}, (_, i) => file(`${i}`))},
      'while a helper program creates nodes': {
        options: 'nr_inodes=3',
        entries: [dir('d'), ...Array.from({length: 5}, (_, i) => whiteout(`d/${i}`))],
      },
      'while a helper program sets times': {options: 'nr_inodes=3', entries: [file('a', '', 0o644, {pax: {mtime: '5.123456789'}})]},
    };
    for (const [when, {options, entries}] of Object.entries(cases)) {
      const work = temporaryDirectory(t);
      const root = join(work, 'root');
      mkdirSync(root);
      execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', root]);
      try {
        assert.throws(() => apply(root, tar(...entries), {form: 'overlay'}), is('resource_exhausted'), when);
      } finally {
        execFileSync('umount', [root]);
      }
    }
  });

  it('rejects an absent root, and one that is not empty in overlay form', (t) => {
    const root = temporaryDirectory(t);
    assert.throws(() => createApplier({root: join(root, 'none'), form: 'plain'}), is('not_found'));
    mkdirSync(join(root, 'd'));
    assert.throws(() => createApplier({root, form: 'overlay'}), is('failed_precondition'));
  });

  it('warns of everything that it leaves out', (t) => {
    if (!requiresRoot(t)) return;
    const warnings: string[] = [];
    const entries = [
      file('f', '', 0o644, {xattrs: {'trusted.x': '1', 'system.posix_acl_access': 'x'}}),
      symlink('f', 's', {xattrs: {'user.x': '1'}}),
      char('z', 0, 0),
    ];
    apply(temporaryDirectory(t), tar(...entries), {form: 'overlay', warn: (message) => warnings.push(message)});
    assert.deepEqual(warnings, [
      'extended attribute trusted.x of "f" skipped: not permitted',
      'extended attribute system.posix_acl_access of "f" skipped: not permitted',
      'extended attribute user.x of "s" skipped: not permitted',
      'device "z" is 0/0, which overlayfs takes for a whiteout',
    ]);
  });

  it('warns of attributes that the file system does not support, and continues', (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'mount')) return;
    const root = join(temporaryDirectory(t), 'root');
    mkdirSync(root);
    // ramfs has no extended attributes.
    execFileSync('mount', ['-t', 'ramfs', 'ramfs', root]);
    try {
      const warnings: string[] = [];
      apply(root, tar(file('f', 'x', 0o644, {xattrs: {'user.x': '1'}}), dir('d', 0o755, {xattrs: {'user.x': '1'}})), {
        form: 'plain',
        warn: (message) => warnings.push(message),
      });
      assert.equal(warnings.length, 2);
      assert.deepEqual(readdirSync(root).sort(), ['d', 'f']);
    } finally {
      execFileSync('umount', [root]);
    }
  });

  it('accepts no calls after its end or a failure', (t) => {
    const applier = createApplier({root: temporaryDirectory(t), form: 'plain'});
    applier.write(tar(file('f')));
    applier.end();
    assert.throws(() => applier.write(Buffer.alloc(512)), /has ended/);
    assert.throws(() => applier.end(), /has ended/);
    applier.abort();
    const failed = createApplier({root: temporaryDirectory(t), form: 'plain'});
    assert.throws(() => failed.write(Buffer.alloc(512, 1)), is('data_loss'));
    assert.throws(() => failed.write(tar(file('f'))), /has ended/);
  });

  it('rejects a damaged layer with an error class, or makes a tree inside the root', (t) => {
    if (!requiresRoot(t)) return;
    const work = temporaryDirectory(t);
    mkdirSync(join(work, 'outside'));
    writeFileSync(join(work, 'outside', 'canary'), 'canary');
    const archives = [...SCENARIOS.flatMap(({layers}) => layers.map((entries) => tar(...entries))), tar(...EVERYTHING)];
    let runs = 0;
    fc.assert(
      fc.property(
        fc.nat(archives.length - 1),
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), {minLength: 1, maxLength: 6}),
        fc.constantFrom('plain', 'overlay'),
        (which, damage, form) => {
          const archive = Buffer.from(archives[which]!);
          for (const [at, byte] of damage) {
            const i = at % archive.length;
            archive[i] = byte;
            // Most damage is in a header: repair its checksum.
            const header = archive.subarray(i - (i % 512), i - (i % 512) + 512);
            header.write('        ', 148, 'latin1');
            header.write(
              `${header
                .reduce((sum, b) => sum + b, 0)
                .toString(8)
                .padStart(6, '0')}\0 `,
              148,
              'latin1',
            );
          }
          const root = join(work, `${runs++}`);
          mkdirSync(root);
          try {
            apply(root, archive, {form: form as 'plain' | 'overlay'});
          } catch (err) {
            assert.ok(
              ['data_loss', 'invalid_argument', 'failed_precondition', 'resource_exhausted'].includes(codeOf(err)),
              String((err as Error).stack),
            );
          }
        },
      ),
      {seed: SAMPLE, numRuns: 200},
    );
    assert.deepEqual(readdirSync(join(work, 'outside')), ['canary']);
  });
});

describe('the lower dependencies of a layer', () => {
  const needs = (t: Parameters<typeof temporaryDirectory>[0], ...entries: TarEntry[]): ReturnType<typeof apply>['lowerDependencies'] =>
    apply(temporaryDirectory(t), tar(...entries), {form: 'overlay'}).lowerDependencies;
  const NOTHING = {implicitParents: [], whiteoutParents: [], assumedAbsent: [], missingLinks: false, opaqueRoot: false};

  it('are empty if it carries all parents and link targets', (t) => {
    assert.deepEqual(needs(t, dir('a'), dir('a/b'), file('a/b/f'), link('a/b/f', 'l'), symlink('/a', 's'), file('s/g')), NOTHING);
  });

  it('have each implicit parent, parents first', (t) => {
    assert.deepEqual(needs(t, file('a/b\xff/f'), dir('c'), file('c/d/f'), file('late/f'), dir('late')), {
      ...NOTHING,
      implicitParents: ['c/d', 'a', 'a/b\xff'],
      assumedAbsent: ['late'],
    });
  });

  it('omit a parent that it hides first', (t) => {
    if (!requiresRoot(t)) return;
    assert.deepEqual(needs(t, whiteout('a'), file('a/f'), dir('o'), opaque('o'), file('o/p/f')), NOTHING);
  });

  it('have a parent that it hides later', (t) => {
    if (!requiresRoot(t)) return;
    assert.deepEqual(needs(t, dir('o'), file('o/p/f'), opaque('o')), {...NOTHING, assumedAbsent: ['o/p']});
  });

  it('tell which parents hold only whiteouts', (t) => {
    if (!requiresRoot(t)) return;
    assert.deepEqual(needs(t, whiteout('a/x'), opaque('b/c'), whiteout('d/x'), file('d/f')), {
      ...NOTHING,
      implicitParents: ['d', 'b', 'b/c', 'a'],
      whiteoutParents: ['b', 'b/c', 'a'],
    });
  });

  it('have missing link targets, an opaque root, and components before ".."', (t) => {
    if (!requiresRoot(t)) return;
    assert.equal(needs(t, link('none', 'l')).missingLinks, true);
    assert.equal(needs(t, file('.wh..wh..opq')).opaqueRoot, true);
    assert.deepEqual(needs(t, dir('x'), symlink('up/down/../../x', 's'), file('s/f')).assumedAbsent, ['up/down', 'up']);
  });

  const outcomes: readonly (readonly [string, 'kept' | 'fixed' | 'redo', readonly TarEntry[], readonly TarEntry[]])[] = [
    ['no lower layer has the parent', 'kept', [dir('x')], [file('a/f')]],
    ['a lower layer has the parent with other attributes', 'fixed', [dir('a', 0o700)], [file('a/f')]],
    ['a lower layer has the parent with the same attributes', 'kept', [dir('a', 0o755, {mtime: 5})], [file('a/f', '', 0o644, {mtime: 5})]],
    [
      'a lower layer has the parent with other extended attributes',
      'fixed',
      [dir('a', 0o755, {mtime: 5, xattrs: {'user.x': '1'}})],
      [file('a/f', '', 0o644, {mtime: 5})],
    ],
    ['the parent is a link in a lower layer', 'redo', [dir('b'), symlink('b', 'a')], [file('a/f')]],
    ['the parent is a file in a lower layer', 'redo', [file('a')], [file('a/f')]],
    ['a parent that the layer carries later is a link in a lower layer', 'redo', [dir('b'), symlink('b', 'a')], [file('a/f'), dir('a')]],
    ['a parent that the layer replaces later is a file in a lower layer', 'redo', [file('a')], [file('a/f'), file('a')]],
    ['a parent that the layer carries later is a directory in a lower layer', 'kept', [dir('a', 0o700)], [file('a/f'), dir('a')]],
    ['a lower parent has the setgid bit', 'fixed', [dir('a', 0o2755, {gid: 7})], [file('a/b/f')]],
    ['a whiteout lies in a directory that no lower layer has', 'redo', [dir('x')], [whiteout('a/f')]],
    ['a link target is in a lower layer', 'redo', [file('a')], [link('a', 'l')]],
    [
      'a component before ".." is a link in a lower layer',
      'redo',
      [dir('x'), symlink('x', 'up')],
      [dir('y'), symlink('up/../y', 's'), file('s/f')],
    ],
    ['a component before ".." is a directory in a lower layer', 'kept', [dir('up')], [dir('y'), symlink('up/../y', 's'), file('s/f')]],
    ['the layer hides everything', 'redo', [dir('x')], [file('.wh..wh..opq')]],
    ['a directory of the layer replaces a link', 'kept', [dir('b', 0o700), symlink('b', 'a')], [dir('a'), file('a/c/f')]],
  ];
  for (const [when, outcome, lower, layer] of outcomes)
    it(`comes to "${outcome}" when ${when}`, (t) => {
      if (!requiresRoot(t)) return;
      const [below, root] = [temporaryDirectory(t), temporaryDirectory(t)];
      apply(below, tar(...lower), {form: 'overlay', lowers: []});
      assert.equal(reconcile(root, [below], apply(root, tar(...layer), {form: 'overlay'})), outcome);
    });

  it('are reconciled for the lowest layer too', (t) => {
    if (!requiresRoot(t)) return;
    const outcome = (...entries: TarEntry[]): string => {
      const root = temporaryDirectory(t);
      return reconcile(root, [], apply(root, tar(...entries), {form: 'overlay'}));
    };
    assert.equal(outcome(file('a/f'), file('.wh..wh..opq')), 'kept');
    assert.equal(outcome(whiteout('a/f')), 'redo');
    assert.equal(outcome(link('none', 'l')), 'redo');
  });

  it('are reported by usedLowers', (t) => {
    if (!requiresRoot(t)) return;
    const below = temporaryDirectory(t);
    apply(below, tar(dir('a')), {form: 'overlay', lowers: []});
    const used = (...entries: TarEntry[]): boolean =>
      apply(temporaryDirectory(t), tar(...entries), {form: 'overlay', lowers: [below]}).usedLowers;
    assert.equal(used(dir('a'), file('a/f'), link('a/f', 'l')), false);
    assert.equal(used(file('a/f')), true);
    assert.equal(used(file('absent/f')), true);
    assert.equal(used(whiteout('absent')), true);
  });
});
