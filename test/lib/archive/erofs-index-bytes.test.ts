/** A tar has exactly one index, byte by byte, as a deep check requires. Compares link counts with those of mkfs.erofs. */
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {requiresProgram, requiresRoot, SAMPLE, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {char, dir, file, link, opaque, symlink, tar, whiteout} from '../../support/tartest.ts';
import {diffTrees, readTree} from '../../support/tree.ts';
import {apply, buildIndex} from './apply-modes.ts';
import {findBun, runInBun} from './run-in-bun.ts';

const SEED = SAMPLE;
const COUNT = TORTURE ? 1000 : 60;
/** Not a divisor of the header size. */
const CHUNK = 509;

function inNode(chunk: number): unknown {
  const args = [join(import.meta.dirname, 'print-index-digests.ts'), String(SEED), String(COUNT), String(chunk)];
  return JSON.parse(execFileSync(process.execPath, args, {encoding: 'utf8', maxBuffer: 1 << 26}));
}

const encoded = (archive: Uint8Array): Buffer => Buffer.concat([...buildIndex(archive).index.encode(archive.length).bytes]);

/** Entries of every kind that an index represents. */
const EVERYTHING = tar(
  dir('d', 0o2750, {uid: 70_000, gid: 6, pax: {mtime: '1600000000.123456789'}, xattrs: {'user.a': '1', 'security.b': ''}}),
  file('d/f', 'content', 0o4711),
  link('d/f', 'd/g', {mode: 0o4711}),
  symlink('f', 'd/s'),
  symlink('t'.repeat(600), 'd/long'),
  char('d/null', 1, 3),
  dir('o'),
  opaque('o'),
  whiteout('gone'),
  file('implied/f', 'x'),
  ...Array.from({length: 40}, (_, i) => file(`many-${'m'.repeat(i)}`, 'y'.repeat(i * 100))),
);

describe('the index of a tar', () => {
  it(`is the same in each process, for any chunk size, and in both engines: images ${SEED}/0 to ${SEED}/${COUNT - 1}`, () => {
    const once = inNode(CHUNK);
    assert.deepEqual(inNode(1 << 20), once, 'in one chunk');
    if (findBun() !== undefined)
      assert.deepEqual(runInBun('print-index-digests.ts', String(SEED), String(COUNT), String(CHUNK)), once, 'in Bun');
  });

  it('has not changed: with other bytes for the same tar, every deep check has to compare trees', () => {
    assert.equal(
      createHash('sha256').update(encoded(EVERYTHING)).digest('hex'),
      '4cb8a3aa7a494fc9e49d6cd9a1d938cf5e02fd6fea933805f5fe725fcd262b9a',
    );
  });
});

describe('the memory of an index', () => {
  /** Files of a layer, and how many of them each directory has. */
  const LAYERS: readonly (readonly [files: number, perDirectory: number])[] = TORTURE
    ? [
        [990_000, 990_000],
        [990_000, 1000],
        [499_000, 1],
      ]
    : [
        [100_000, 100_000],
        [50_000, 1],
      ];
  /** Most bytes an entry. */
  const BYTES = 300;
  const ENGINES: readonly (readonly [name: string, engine: string | undefined])[] = [
    ['Node', process.execPath],
    ['Bun', findBun()],
  ];
  /** Memory of the engine itself. */
  const FIXED_BYTES = 40e6;
  for (const [name, engine] of ENGINES)
    it(`grows by at most ${BYTES} B an entry, files or directories, ${name}`, (t) => {
      if (engine === undefined) return t.skip(`needs ${name}`);
      for (const layer of LAYERS) {
        const args = [join(import.meta.dirname, 'measure-index-memory.ts'), ...layer.map(String)];
        const text = execFileSync(engine, args, {encoding: 'utf8', env: {...process.env, ...launcherSettings()}});
        const found = JSON.parse(text) as {entries: number; reasons: string[]; peak: number};
        assert.deepEqual(found.reasons, []);
        t.diagnostic(`${found.entries} entries, ${layer[1]} a directory: ${found.peak} B`);
        assert.ok(found.peak < FIXED_BYTES + BYTES * found.entries, `${found.peak} B for ${found.entries} entries`);
      }
    });
});

/** The settings of Bun's engine with which the launcher starts the executable for a pull. */
function launcherSettings(): NodeJS.ProcessEnv {
  const launcher = readFileSync(join(import.meta.dirname, '../../../bin/ctr'), 'utf8');
  const settings = Object.fromEntries(
    Array.from(launcher.matchAll(/(BUN_JSC_(?!useJIT)\w+)=(\S+)/g), ([, name, value]) => [name!, value!]),
  );
  assert.ok('BUN_JSC_heapGrowthMaxIncrease' in settings, 'bin/ctr bounds the growth of the heap');
  return settings;
}

/** Mounts an index. @returns false if the kernel rejects it */
function withMount(archive: string, index: string, at: string, look: (at: string) => void): boolean {
  mkdirSync(at);
  if (spawnSync('mount', ['-t', 'erofs', '-o', `ro,device=${archive}`, index, at]).status !== 0) return false;
  try {
    look(at);
  } finally {
    execFileSync('umount', [at]);
  }
  return true;
}

/** Names below a directory, with their link counts. */
const nlinks = (root: string): readonly string[] =>
  readdirSync(root, {recursive: true, encoding: 'utf8'})
    .map((name) => `${name} ${lstatSync(join(root, name)).nlink}`)
    .sort();

function gnuTar(t: TestContext, script: string, ...flags: readonly string[]): Buffer {
  const work = temporaryDirectory(t);
  const tree = join(work, 'tree');
  mkdirSync(tree);
  execFileSync('sh', ['-ec', script], {cwd: tree});
  execFileSync('tar', ['-C', tree, '--sort=name', ...flags, '-cf', join(work, 'layer.tar'), '.']);
  return readFileSync(join(work, 'layer.tar'));
}

describe('hard links', () => {
  it('have the inodes and link counts that mkfs.erofs, GNU tar and the applier give them', (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'mkfs.erofs', 'tar', 'getfattr')) return;
    const layer = gnuTar(
      t,
      `mkdir -p a/b c; echo one >a/one; ln a/one a/b/uno; ln a/one c/ein; echo two >two; ln two zwei
       ln -s one a/soft; ln a/soft c/soft; mkfifo pipe; ln pipe c/pipe; mknod null c 1 3; ln null c/null; echo single >c/single`,
    );
    const work = temporaryDirectory(t);
    const [archive, ours, theirs] = ['tar', 'ours', 'theirs'].map((name) => join(work, name)) as [string, string, string];
    writeFileSync(archive, layer);
    writeFileSync(ours, encoded(layer));
    execFileSync('mkfs.erofs', ['--quiet', '--tar=i', '--aufs', '-Enosbcrc', theirs, archive]);
    const found: {readonly tree: ReturnType<typeof readTree>; readonly nlinks: readonly string[]}[] = [];
    const look = (at: string): void => void found.push({tree: readTree(at), nlinks: nlinks(at)});
    if (![ours, theirs].every((index) => withMount(archive, index, `${index}-at`, look))) return t.skip('needs a kernel that mounts EROFS');
    const [applied, extracted] = ['applied', 'extracted'].map((name) => join(work, name)) as [string, string];
    for (const root of [applied, extracted]) mkdirSync(root);
    apply(applied, layer, {form: 'plain'});
    execFileSync('tar', ['-xpf', archive, '-C', extracted]);
    for (const root of [applied, extracted]) look(root);
    for (const {tree, nlinks} of found.slice(1)) {
      assert.deepEqual(diffTrees(found[0]!.tree, tree, {ignore: (path) => path === '.'}), []);
      assert.deepEqual(nlinks, found[0]!.nlinks);
    }
    assert.ok(found[0]!.nlinks.includes('a/b/uno 3'));
  });

  it('to a lower layer cause extraction, and become one inode', (t) => {
    if (!requiresRoot(t)) return;
    const [below, above] = [tar(dir('d'), file('d/f', 'x')), tar(link('d/f', 'g'))];
    assert.deepEqual([...buildIndex(above).index.reasons], ['missing-link']);
    const root = temporaryDirectory(t);
    for (const layer of [below, above]) apply(root, layer, {form: 'plain'});
    assert.deepEqual(nlinks(root), ['d 2', 'd/f 2', 'g 2']);
  });
});

describe('a sparse file', () => {
  for (const flags of [
    ['--format=gnu'],
    ['--format=posix', '--sparse-version=0.0'],
    ['--format=posix', '--sparse-version=0.1'],
    ['--format=posix', '--sparse-version=1.0'],
  ])
    it(`causes extraction, and has the bytes and holes of GNU tar: ${flags.join(' ')}`, (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'tar', 'getfattr')) return;
      const script = `truncate -s 8M hole; printf begin >both; truncate -s 4M both; printf end >>both
        truncate -s 1M comb; for i in 1 3 5 7; do printf $i | dd of=comb bs=1 seek=$((i * 131072)) conv=notrunc status=none; done`;
      const layer = gnuTar(t, script, '--sparse', ...flags);
      assert.ok([...buildIndex(layer).index.reasons].includes('sparse'));
      const [applied, extracted] = [temporaryDirectory(t), temporaryDirectory(t)];
      apply(applied, layer, {form: 'overlay'});
      execFileSync('tar', ['-xpf', '-', '-C', extracted], {input: layer});
      assert.deepEqual(diffTrees(readTree(applied), readTree(extracted), {ignore: (path) => path === '.'}), []);
      for (const name of ['hole', 'both', 'comb']) {
        const [mine, theirs] = [applied, extracted].map((root) => lstatSync(join(root, name)).blocks) as [number, number];
        assert.ok(mine <= theirs, `${name} takes ${mine} blocks, and ${theirs} by GNU tar`);
      }
    });
});
