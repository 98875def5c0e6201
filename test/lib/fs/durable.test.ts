import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {
  createExclusive,
  isTemporary,
  listIfPresent,
  makeDirectories,
  readIfPresent,
  removeTree,
  renameInto,
  sweepTemporary,
  unlinkIfPresent,
  writeAtomic,
} from '../../../src/lib/fs/durable.ts';
import {formatIdentity, ownIdentity} from '../../../src/lib/fs/process.ts';
import {runScript, startScript} from '../../support/children.ts';
import {findProgram, requiresProgram, temporaryDirectory} from '../../support/helpers.ts';

const mode = (path: string): number => statSync(path).mode & 0o7777;

describe('durable files', () => {
  it('are read, listed and removed; absent ones are no error', (t) => {
    const dir = temporaryDirectory(t);
    assert.equal(readIfPresent(join(dir, 'a')), undefined);
    assert.deepEqual(listIfPresent(join(dir, 'd')), []);
    unlinkIfPresent(join(dir, 'a'));
    for (const name of ['b', 'a']) writeFileSync(join(dir, name), name);
    assert.equal(readIfPresent(join(dir, 'a')), 'a');
    assert.deepEqual(listIfPresent(dir), ['a', 'b']);
    unlinkIfPresent(join(dir, 'a'));
    assert.deepEqual(listIfPresent(dir), ['b']);
    // Every other failure is one.
    for (const action of [readIfPresent, listIfPresent, unlinkIfPresent])
      assert.throws(() => action(join(dir, 'b', 'c')), {code: 'ENOTDIR'});
  });

  it('are removed with everything below; an error has the code of its cause', (t) => {
    const dir = temporaryDirectory(t);
    const make = () => mkdirSync(join(dir, 'a', 'b', 'c'), {recursive: true});
    make();
    writeFileSync(join(dir, 'a', 'file'), '');
    removeTree(join(dir, 'a', 'file'));
    for (const path of [join(dir, 'a'), join(dir, 'a'), join(dir, 'none')]) removeTree(path);
    assert.deepEqual(readdirSync(dir), []);
    if (!requiresProgram(t, 'strace')) return;
    make();
    const code = `
      import {removeTree} from ${JSON.stringify(new URL('../../../src/lib/fs/durable.ts', import.meta.url).href)};
      try { removeTree(process.argv[1]); } catch (err) { console.log(err.details?.errno ?? err.code ?? err.errno); }`;
    for (const when of ['1+', '1']) {
      const inject = ['-P', join(dir, 'a/b'), '-e', 'trace=openat', '-e', `inject=openat:error=EMFILE:when=${when}`];
      const argv = [...inject, process.execPath, '--input-type=module', '-e', code, join(dir, 'a')];
      const {stdout} = spawnSync('strace', ['-qq', '-o', join(dir, 'log'), ...argv], {encoding: 'utf8'});
      assert.equal(stdout.trim(), when === '1+' ? 'EMFILE' : '', 'and what failed for a moment is tried again');
    }
    assert.deepEqual(readdirSync(dir), ['log']);
  });

  it('are replaced whole, with directories made where they are missing, for their owner alone', (t) => {
    const dir = temporaryDirectory(t);
    for (const sync of [true, false]) {
      const path = join(dir, String(sync), 'a', 'file');
      writeAtomic(path, 'one', {sync});
      writeAtomic(path, Buffer.from('two'), {sync});
      assert.equal(readIfPresent(path), 'two');
      assert.equal(mode(path), 0o600);
      assert.equal(mode(join(dir, String(sync))), 0o700);
      assert.deepEqual(readdirSync(join(dir, String(sync), 'a')), ['file']);
    }
    writeAtomic(join(dir, 'readable'), '', {sync: false, mode: 0o444});
    assert.equal(mode(join(dir, 'readable')), 0o444);
  });

  it('keep the old content when the rename fails', (t) => {
    const dir = temporaryDirectory(t);
    mkdirSync(join(dir, 'taken', 'by'), {recursive: true});
    assert.throws(() => writeAtomic(join(dir, 'taken'), 'x', {sync: false}), {code: 'EISDIR'});
    assert.deepEqual(readdirSync(dir), ['taken']);
  });

  it('that must be new are created by one process only', (t) => {
    const path = join(temporaryDirectory(t), 'd', 'file');
    assert.equal(createExclusive(path, 'first'), true);
    assert.equal(createExclusive(path, 'second'), false);
    assert.equal(readIfPresent(path), 'first');
    assert.deepEqual(readdirSync(join(path, '..')), ['file']);
  });

  it('report which directories were created', (t) => {
    const dir = temporaryDirectory(t);
    assert.equal(makeDirectories(join(dir, 'a', 'b'), {sync: true, mode: 0o711}), true);
    assert.equal(makeDirectories(join(dir, 'a', 'b'), {sync: true}), false);
    assert.equal(mode(join(dir, 'a', 'b')), 0o711);
    writeFileSync(join(dir, 'x'), 'x');
    renameInto(join(dir, 'x'), join(dir, 'y', 'z', 'x'), {sync: true});
    assert.equal(readIfPresent(join(dir, 'y', 'z', 'x')), 'x');
  });

  it('are whole at every moment, and new or old, while their writer is killed', async (t) => {
    const path = join(temporaryDirectory(t), 'file');
    const size = 200_000;
    const whole = (): boolean => {
      const text = readIfPresent(path);
      return text === undefined || (text.length === size && new Set(text).size === 1);
    };
    const code = `
      const {writeAtomic} = await lib('fs/durable.ts');
      say('up');
      for (let i = 0; ; i++) writeAtomic(args[0], String(i % 10).repeat(${size}), {sync: false});`;
    for (let round = 0; round < 5; round++) {
      const writer = startScript(t, code, [path]);
      await writer.line();
      const until = performance.now() + 40;
      while (performance.now() < until) {
        assert.ok(whole());
        await new Promise(setImmediate);
      }
      writer.process.kill('SIGKILL');
      await writer.done;
      assert.ok(whole());
    }
    assert.ok(existsSync(path));
    sweepTemporary(join(path, '..'));
    assert.deepEqual(readdirSync(join(path, '..')), ['file'], 'what killed writers left can be swept');
  });

  it('of living writers are not swept while half-written', (t) => {
    const dir = temporaryDirectory(t);
    const alive = `.tmp.${formatIdentity(ownIdentity())}.x`;
    const dead = `.tmp.${formatIdentity({...ownIdentity(), startTime: '1'})}.x`;
    for (const name of [alive, dead, '.tmp.torn', 'file']) writeFileSync(join(dir, name), '');
    assert.deepEqual([alive, dead, '.tmp.torn', 'file', '.tmp'].map(isTemporary), [true, true, true, false, false]);
    sweepTemporary(dir);
    assert.deepEqual(readdirSync(dir), [alive, 'file']);
  });

  it('are synced, with every created directory, before their writer continues', async (t) => {
    if (!requiresProgram(t, 'strace')) return;
    const dir = temporaryDirectory(t);
    const trace = join(dir, 'trace');
    const code = `
      const {writeAtomic, createExclusive, renameInto} = await lib('fs/durable.ts');
      const fs = require('node:fs');
      const [dir] = args;
      const step = (name, action) => { fs.existsSync('/step/' + name); action(); };
      step('write', () => writeAtomic(dir + '/a/b/file', 'x', {sync: true}));
      step('again', () => writeAtomic(dir + '/a/b/file', 'y', {sync: true}));
      step('create', () => createExclusive(dir + '/c/file', 'x'));
      step('rename', () => renameInto(dir + '/a/b/file', dir + '/d/file', {sync: true}));
      step('lazy', () => writeAtomic(dir + '/lazy', 'x', {sync: false}));
      step('end', () => {});`;
    await runScript(t, code, [join(dir, 'root')], {
      through: [findProgram('strace')!, '-f', '-y', '-qq', '-e', 'trace=fsync,rename,link,access,faccessat2', '-o', trace],
    });
    const steps = new Map<string, string[]>();
    let step = '';
    for (const line of readFileSync(trace, 'utf8').split('\n')) {
      step = /"\/step\/(\w+)"/.exec(line)?.[1] ?? step;
      const call = /(fsync|rename|link)\((.*)\) += 0$/.exec(line);
      if (call === null || !line.includes(dir)) continue;
      const path = call[2]!
        .replaceAll(/^\d+<|>$|"/g, '')
        .replaceAll(/\.tmp\.[\w.]+/g, 'TMP')
        .replaceAll(`${dir}/root/`, '')
        .replaceAll(`${dir}/root`, 'ROOT')
        .replaceAll(dir, 'ABOVE');
      steps.set(step, [...(steps.get(step) ?? []), `${call[1]} ${path}`]);
    }
    assert.deepEqual(steps.get('write'), [
      // Each new directory is synced into the one above.
      'fsync ABOVE',
      'fsync ROOT',
      'fsync a',
      'fsync a/b/TMP',
      'rename a/b/TMP, a/b/file',
      'fsync a/b',
    ]);
    assert.deepEqual(steps.get('again'), ['fsync a/b/TMP', 'rename a/b/TMP, a/b/file', 'fsync a/b']);
    assert.deepEqual(steps.get('create'), ['fsync ROOT', 'fsync c/TMP', 'link c/TMP, c/file']);
    assert.deepEqual(steps.get('rename'), ['fsync ROOT', 'rename a/b/file, d/file', 'fsync d']);
    assert.deepEqual(steps.get('lazy'), ['rename TMP, lazy']);
  });

  it('fail with the cause where writing is not permitted', (t) => {
    const dir = temporaryDirectory(t);
    // A filesystem that answers ENOENT for a directory whose parent is there.
    assert.throws(() => writeAtomic('/proc/nothing/at/all', '', {sync: true}), {code: 'ENOENT'});
    if (process.getuid?.() === 0) return;
    chmodSync(dir, 0o500);
    assert.throws(() => writeAtomic(join(dir, 'file'), '', {sync: true}), {code: 'EACCES'});
  });
});
