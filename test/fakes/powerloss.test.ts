import assert from 'node:assert/strict';
import {mkdirSync, readdirSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {randomNumbers} from '../fuzz/seeded-random.ts';
import {runScript} from '../support/children.ts';
import {temporaryDirectory} from '../support/helpers.ts';
import {type Change, compareTree, Disk, fingerprint, materialise, readLog, recorderOptions, type Tree} from './powerloss.ts';

const META = {mode: 0o600, uid: 0, gid: 0};
const text = (bytes: string): string => Buffer.from(bytes).toString('base64');

let handles = 0;
const make = (path: string, bytes: string, {sync = false} = {}): readonly Change[] => {
  const handle = ++handles;
  const written: Change[] = [
    {op: 'open', handle, path, made: META},
    {op: 'write', handle, at: 0, data: text(bytes)},
  ];
  return sync ? [...written, {op: 'sync', handle}] : written;
};
const mkdir = (path: string): Change => ({op: 'mkdir', path, made: {...META, mode: 0o700}});
const rename = (from: string, path: string): Change => ({op: 'rename', from, path});
const unlink = (path: string): Change => ({op: 'unlink', path});
const sync = (path: string): readonly Change[] => {
  const handle = ++handles;
  return [
    {op: 'open', handle, path},
    {op: 'sync', handle},
  ];
};

const show = (tree: Tree): string => [...tree].map(([path, {kind, data}]) => (kind === 'file' ? `${path}=${data}` : path)).join(' ');

/** All that the disk may hold after these changes, sorted. */
function outcomes(...changes: (Change | readonly Change[])[]): readonly string[] {
  const disk = new Disk();
  for (const change of changes.flat()) disk.apply(change);
  return [...new Set([...disk.states(randomNumbers(1), 300)].map(({tree}) => show(tree)))].sort();
}

describe('a disk whose power goes', () => {
  it('may have a name without its bytes, with a part of them, or with zeroes', () => {
    const all = outcomes(make('tmp', 'new'), rename('tmp', 'file'));
    for (const one of ['', 'tmp=', 'file=', 'file=new', 'file=n', 'file=\0\0\0'])
      assert.ok(all.includes(one), `${one} of ${all.join(', ')}`);
    assert.ok(!all.some((one) => one.includes('tmp') && one.includes('file')), 'a rename is one change');
  });

  it('has what was synced, under one name or the other, and under the new one when the directory was', () => {
    assert.deepEqual(outcomes(make('tmp', 'new', {sync: true}), rename('tmp', 'file')), ['file=new', 'tmp=new']);
    assert.deepEqual(outcomes(make('tmp', 'new', {sync: true}), rename('tmp', 'file'), sync('')), ['file=new']);
    assert.deepEqual(
      outcomes(make('file', 'old', {sync: true}), sync(''), make('tmp', 'new', {sync: true}), rename('tmp', 'file')).filter(
        (one) => !/file=(old|new)/.test(one),
      ),
      [],
      'never none',
    );
  });

  it('keeps the order of changes in one directory, and no order between two', () => {
    const base = [mkdir('a'), mkdir('b'), {op: 'syncfs'}] as const;
    assert.deepEqual(outcomes(...base, mkdir('a/1'), mkdir('a/2')), ['a a/1 a/2 b', 'a a/1 b', 'a b']);
    assert.deepEqual(outcomes(...base, mkdir('a/1'), mkdir('b/2')), ['a a/1 b', 'a a/1 b b/2', 'a b', 'a b b/2']);
  });

  it('may lose a directory with all that was synced in it, when its own name was not', () => {
    assert.ok(outcomes(mkdir('d'), make('d/file', 'new', {sync: true})).includes(''));
    assert.deepEqual(outcomes(mkdir('d'), make('d/file', 'new', {sync: true}), sync('')), ['d d/file=new']);
  });

  it('may show what was removed, and what was written in place as a mixture', () => {
    assert.deepEqual(outcomes(make('file', 'old', {sync: true}), unlink('file')), ['', 'file=old']);
    const handle = handles + 1;
    const all = outcomes(make('file', 'old', {sync: true}), {op: 'write', handle, at: 0, data: text('new')});
    for (const one of ['file=old', 'file=new', 'file=nld']) assert.ok(all.includes(one), `${one} of ${all.join(', ')}`);
  });
});

describe('a recorder', () => {
  it('has everything that a process, its threads and its programs change, in order', async (t) => {
    const dir = temporaryDirectory(t);
    const below = join(dir, 'below');
    mkdirSync(below);
    const code = `
      const fs = require('node:fs');
      const {Worker} = require('node:worker_threads');
      const {once} = require('node:events');
      const {execFileSync, spawn} = require('node:child_process');
      const at = (name) => args[0] + '/' + name;
      fs.mkdirSync(at('d'));
      const fd = fs.openSync(at('d/file'), 'a+');
      fs.writeSync(fd, 'first ');
      fs.writeSync(fd, Buffer.from('xsecondx'), 1, 6);
      fs.fsyncSync(fd);
      fs.writeFileSync(fd, ' third');
      const inPlace = fs.openSync(at('d/file'), 'r+');
      fs.writeSync(inPlace, 'F', 0);
      fs.ftruncateSync(inPlace, 16);
      fs.writeFileSync(at('whole'), 'as one', {mode: 0o640});
      fs.chmodSync(at('whole'), 0o600);
      fs.linkSync(at('whole'), at('d/link'));
      fs.symlinkSync('whole', at('symlink'));
      fs.renameSync(at('d'), at('e'));
      await once(new Worker(args[1], {argv: [at('thread')]}), 'exit');
      execFileSync('cp', ['-a', at('e'), at('copy')]);
      const out = fs.openSync(at('spawned'), 'w');
      await once(spawn('echo', ['hello'], {stdio: ['ignore', out, 'ignore']}), 'exit');
      fs.mkdirSync(at('gone'));
      fs.writeFileSync(at('gone/file'), '');
      fs.rmSync(at('gone'), {recursive: true});
      fs.unlinkSync(at('whole'));
      fs.writeFileSync(args[0] + '-beside', 'not below');
      say(fs.readFileSync('/proc/sys/kernel/random/boot_id', 'utf8'));`;
    const worker = join(dir, 'worker.mjs');
    writeFileSync(worker, "import {mkdirSync} from 'node:fs'; mkdirSync(process.argv[2]);");
    const log = join(dir, 'log');
    const boot = 'b'.repeat(32);
    const {stdout} = await runScript(t, code, [below, worker], recorderOptions({below, log, boot}));
    assert.equal(stdout, `${boot}\n`);
    const disk = new Disk(META);
    for (const change of readLog(log)) disk.apply(change);
    assert.deepEqual(compareTree(disk.now(), below), []);
    assert.equal(readFileSync(join(below, 'e/file'), 'utf8'), 'First second thi');

    const again = temporaryDirectory(t);
    materialise(disk.now(), again);
    assert.deepEqual(compareTree(disk.now(), again), []);
    assert.equal(statSync(join(again, 'copy/link')).ino === statSync(join(again, 'e/link')).ino, false);
    assert.deepEqual(readdirSync(again), ['copy', 'e', 'spawned', 'symlink', 'thread']);
    assert.equal(fingerprint(disk.now()), fingerprint(disk.now()));
    const before = fingerprint(disk.now());
    disk.apply(unlink('spawned'));
    assert.notEqual(fingerprint(disk.now()), before);
  });
});
