import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {mkdirSync, readdirSync, symlinkSync, truncateSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {type MountPoints, RootReader} from '../../../src/lib/runtime/path-in-root.ts';
import {is, onEnd, requiresProgram, temporaryDirectory} from '../../support/helpers.ts';

interface Tree {
  readonly rootfs: RootReader;
  /** The tree. */
  readonly dir: string;
  /** Beside the tree: what must never be read. */
  readonly outside: string;
}

function newTree(t: TestContext): Tree {
  const base = temporaryDirectory(t);
  const [dir, outside] = [join(base, 'root'), join(base, 'outside')];
  for (const path of [outside, join(dir, 'etc'), join(dir, 'usr/bin')]) mkdirSync(path, {recursive: true});
  writeFileSync(join(outside, 'passwd'), 'canary');
  writeFileSync(join(dir, 'etc/passwd'), 'inside');
  const rootfs = new RootReader(dir);
  onEnd(t, () => rootfs.close());
  return {rootfs, dir, outside};
}

const read = (rootfs: RootReader, path: string, mounts?: MountPoints): string =>
  rootfs.lookup(path, (found) => found.read(0, 100).toString(), mounts);

describe('a tree read from outside', () => {
  for (const [name, target] of [
    ['relative', 'passwd'],
    ['absolute', '/etc/passwd'],
    ['with more .. than there are directories', '../../../../etc/passwd'],
    ['through the root', '/../../etc/./passwd'],
  ] as const)
    it(`resolves a link inside: ${name}`, (t) => {
      const {rootfs, dir} = newTree(t);
      symlinkSync(target, join(dir, 'etc/link'));
      assert.equal(read(rootfs, '/etc/link'), 'inside');
    });

  it('never follows a link out of it', (t) => {
    const {rootfs, dir, outside} = newTree(t);
    symlinkSync(join(outside, 'passwd'), join(dir, 'etc/absolute'));
    symlinkSync('../../outside/passwd', join(dir, 'etc/relative'));
    symlinkSync(outside, join(dir, 'directory'));
    symlinkSync('/proc/self/root/etc/passwd', join(dir, 'etc/magic'));
    for (const path of ['/etc/absolute', '/etc/relative', '/directory/passwd', '/../outside/passwd', '/etc/magic'])
      assert.throws(() => read(rootfs, path), {code: 'ENOENT'}, path);
  });

  it('ends a circle of links', (t) => {
    const {rootfs, dir} = newTree(t);
    symlinkSync('b', join(dir, 'a'));
    symlinkSync('a', join(dir, 'b'));
    assert.throws(() => read(rootfs, '/a'), {code: 'ELOOP'});
  });

  it('bounds the depth of a path', (t) => {
    const {rootfs} = newTree(t);
    assert.throws(() => rootfs.mountTarget('/x'.repeat(300)), {code: 'ENAMETOOLONG'});
  });

  it('takes a file for no directory', (t) => {
    const {rootfs} = newTree(t);
    assert.throws(() => read(rootfs, '/etc/passwd/x'), {code: 'ENOTDIR'});
  });

  it('keeps names that are not UTF-8', (t) => {
    const {rootfs, dir} = newTree(t);
    writeFileSync(Buffer.concat([Buffer.from(`${dir}/etc/`), Buffer.from([0xff, 0xfe])]), 'bytes');
    symlinkSync(Buffer.from([0xff, 0xfe]), join(dir, 'etc/link'));
    assert.equal(read(rootfs, '/etc/link'), 'bytes');
  });

  it('tells where a path leads as far as the tree goes', (t) => {
    const {rootfs, dir} = newTree(t);
    symlinkSync('usr/bin', join(dir, 'bin'));
    assert.equal(rootfs.mountTarget('/bin/new/../deep'), '/usr/bin/deep');
    assert.equal(rootfs.mountTarget('/nowhere/at/all'), '/nowhere/at/all');
    assert.equal(rootfs.mountTarget('/'), '/');
  });

  it('sees what will be mounted, and says where it cannot', (t) => {
    const {rootfs, outside} = newTree(t);
    const mounts = new Map([
      ['/proc', undefined],
      ['/data', outside],
      ['/made/by/runtime', outside],
    ]);
    assert.equal(read(rootfs, '/data/passwd', mounts), 'canary');
    assert.equal(read(rootfs, '/etc/../data/passwd', mounts), 'canary');
    for (const path of ['/proc/1/status', '/proc', '/made/by']) assert.throws(() => read(rootfs, path, mounts), {code: 'EXDEV'}, path);
    assert.throws(() => read(rootfs, '/data/nothing', mounts), {code: 'ENOENT'});
  });

  it('leaves no descriptor open', (t) => {
    const {rootfs} = newTree(t);
    const open = (): number => readdirSync('/proc/self/fd').length;
    const before = open();
    read(rootfs, '/usr/../etc/passwd');
    rootfs.mountTarget('/usr/bin/x/y');
    assert.throws(() => read(rootfs, '/etc/nothing'));
    assert.equal(open(), before);
  });
});

describe('a file of the image', () => {
  it('is read whole, up to the limit', (t) => {
    const {rootfs} = newTree(t);
    assert.equal(rootfs.readFile('/etc/passwd', 6), 'inside');
    assert.throws(() => rootfs.readFile('/etc/passwd', 5), is('failed_precondition'));
  });

  it('may be absent', (t) => {
    assert.equal(newTree(t).rootfs.readFile('/etc/group', 10), undefined);
  });

  it('is not believed to be as large as it says', (t) => {
    const {rootfs, dir} = newTree(t);
    truncateSync(join(dir, 'etc/passwd'), 2 ** 40);
    assert.throws(() => rootfs.readFile('/etc/passwd', 1024), is('failed_precondition'));
  });

  it('is nothing but a regular file', (t) => {
    if (!requiresProgram(t, 'mkfifo')) return;
    const {rootfs, dir} = newTree(t);
    execFileSync('mkfifo', [join(dir, 'etc/fifo')]);
    for (const path of ['/etc/fifo', '/etc']) assert.throws(() => rootfs.readFile(path, 10), is('failed_precondition'), path);
  });
});
