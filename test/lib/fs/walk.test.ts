/** Trees that are deeper than a path is long, and as wide as they like. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {findDifference} from '../../../src/lib/archive/find-tree-difference.ts';
import {copyTree} from '../../../src/lib/fs/copy.ts';
import {removeTree} from '../../../src/lib/fs/durable.ts';
import {walk} from '../../../src/lib/fs/walk.ts';
import {inDeepest, makeDeep} from '../../support/deep-trees.ts';
import {requiresRoot, temporaryDirectory} from '../../support/helpers.ts';

const names = (depth: number, length: number): string[] => Array.from({length: depth}, () => 'd'.repeat(length));

/** Directories deep, bytes of each name. */
const SHAPES = [
  [1, 5],
  [454, 10],
  [30, 255],
  [900, 5],
] as const;

describe('a tree of any depth', () => {
  for (const [depth, length] of SHAPES) {
    const what = `${depth} directories with names of ${length} bytes`;
    it(`is walked as find walks it: ${what}`, (t) => {
      const root = temporaryDirectory(t);
      makeDeep(root, depth, length);
      const found = execFileSync('find', [root, '-printf', '%i\\n'], {encoding: 'utf8', maxBuffer: 1 << 28});
      const inodes: string[] = [];
      const descriptors = readdirSync('/proc/self/fd').length;
      walk(root, ({ino}) => inodes.push(String(ino)));
      assert.deepEqual(inodes.sort(), found.trimEnd().split('\n').sort());
      assert.equal(readdirSync('/proc/self/fd').length, descriptors, 'nothing stays open');
    });

    it(`is copied whole, and removed: ${what}`, (t) => {
      if (!requiresRoot(t)) return;
      const dir = temporaryDirectory(t);
      const [from, to] = [join(dir, 'from'), join(dir, 'to')];
      mkdirSync(from, {mode: 0o2710});
      makeDeep(from, depth, length);
      const attributes = (root: string): string[] =>
        execFileSync('find', [root, '-printf', '%y %m %U %G %s %n %T@ %f\n'], {encoding: 'utf8', maxBuffer: 1 << 28})
          .trimEnd()
          .split('\n')
          .slice(1);
      copyTree(from, to);
      assert.deepEqual(attributes(to), attributes(from));
      let content = '';
      inDeepest(to, names(depth, length), () => {
        content = readFileSync('file', 'utf8');
      });
      assert.equal(content, 'x');
      removeTree(to);
      assert.deepEqual(readdirSync(dir), ['from']);
    });
  }

  it('is compared, and a difference found at its end', async (t) => {
    if (!requiresRoot(t)) return;
    const dir = temporaryDirectory(t);
    const [one, other] = [join(dir, 'one'), join(dir, 'other')];
    mkdirSync(one);
    makeDeep(one, 20, 250);
    copyTree(one, other);
    assert.equal(await findDifference(one, other), undefined);
    inDeepest(other, names(20, 250), () => {
      writeFileSync('file', 'y');
      utimesSync('file', 5, 5);
    });
    inDeepest(one, names(20, 250), () => utimesSync('file', 5, 5));
    assert.match(String(await findDifference(one, other)), /\/file" has different content$/);
    inDeepest(other, names(20, 250).slice(1), () => execFileSync('setfattr', ['-n', 'user.odd', '-v', '1', 'd'.repeat(250)]));
    inDeepest(other, names(20, 250), () => writeFileSync('file', 'x'));
    inDeepest(other, names(20, 250), () => utimesSync('file', 5, 5));
    assert.match(String(await findDifference(one, other)), /has different extended attributes$/);
  });

  it('is left where the visitor says so, and no link is followed', (t) => {
    const root = temporaryDirectory(t);
    mkdirSync(join(root, 'a/b'), {recursive: true});
    mkdirSync(join(root, 'c'));
    execFileSync('ln', ['-s', '/usr', join(root, 'link')]);
    writeFileSync(join(root, 'c/file'), '');
    const seen: string[] = [];
    walk(root, (_, path) => {
      seen.push(String(path).slice(root.length));
      return !String(path).endsWith('/a');
    });
    assert.deepEqual(seen.sort(), ['', '/a', '/c', '/c/file', '/link']);
    assert.throws(() => walk(join(root, 'none'), () => {}), {code: 'ENOENT'});
  });
});
