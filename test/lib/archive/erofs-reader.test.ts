import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {createErofsIndex} from '../../../src/lib/archive/erofs-index.ts';
import {openErofs} from '../../../src/lib/archive/erofs-reader.ts';
import {createTarReader} from '../../../src/lib/archive/tar.ts';
import {requiresProgram, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';
import {char, dir, file, opaque, symlink, tar, whiteout} from '../../support/tartest.ts';
import {readTree} from '../../support/tree.ts';

const MANY = Array.from({length: 3000}, (_, i) => file(`many/${i.toString(36)}-${'x'.repeat(i % 40)}`, ''));
const XATTRS = {'user.a': 'a'.repeat(700), 'security.b': '', 'user.c': 'c'};
const LAYER = tar(
  dir('d', 0o2750, {uid: 70_000, gid: 3, mtime: 1_234_567_890}),
  dir('d/e', 0o700, {xattrs: XATTRS}),
  file('d/e/f', 'f'),
  ...['s1', 's2', 's3', 's4'].map((name) => dir(name, 0o755, {xattrs: {'user.shared': 's'.repeat(100)}})),
  dir('many'),
  ...MANY,
  dir('hidden'),
  opaque('hidden'),
  whiteout('gone'),
  symlink('d', 'link'),
  char('null', 1, 3),
  file(`d/${'n'.repeat(255)}`, 'x'),
);

function ours(archive: Uint8Array): Buffer {
  const index = createErofsIndex();
  const reader = createTarReader(index);
  reader.write(archive);
  reader.end();
  return Buffer.concat([...index.encode(archive.length).bytes]);
}

describe('the reader of an index', () => {
  for (const writer of ['ours', 'mkfs.erofs'] as const)
    it(`finds what the kernel shows, written by ${writer}`, (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'getfattr', ...(writer === 'ours' ? [] : [writer]))) return;
      const directory = temporaryDirectory(t);
      const [archive, index, at] = [join(directory, 'tar'), join(directory, 'index'), join(directory, 'at')];
      writeFileSync(archive, LAYER);
      mkdirSync(at);
      if (writer === 'ours') writeFileSync(index, ours(LAYER));
      else execFileSync('mkfs.erofs', ['--quiet', '--tar=i', '--aufs', '-Enosbcrc', index, archive]);
      if (spawnSync('mount', ['-t', 'erofs', '-o', `ro,device=${archive}`, index, at]).status !== 0) {
        t.skip('needs a kernel that mounts EROFS from files');
        return;
      }
      const tree = openErofs(index);
      try {
        const entries = readTree(at);
        assert.ok(entries.length > 3000);
        for (const {path, type, mode, uid, gid, xattrs, mtime, device} of entries) {
          const names = path === '.' ? [] : path.split('/');
          const found = tree.lookup(names);
          if (type !== 'directory') {
            assert.deepEqual(found, {kind: device === '0:0' ? 'whiteout' : 'other'}, path);
            continue;
          }
          assert.equal(found?.kind, 'directory', path);
          if (found?.kind !== 'directory') continue;
          const {attributes} = found;
          const ns = BigInt(attributes.mtimeSec) * 1_000_000_000n + BigInt(attributes.mtimeNs);
          assert.deepEqual([attributes.mode, attributes.uid, attributes.gid, ns], [Number.parseInt(mode, 8), uid, gid, mtime], path);
          assert.deepEqual(Object.fromEntries([...found.xattrs].map(([key, value]) => [key, `0x${value.toString('hex')}`])), xattrs, path);
          assert.equal(tree.lookup([...names, 'absent']), undefined);
        }
      } finally {
        tree.close();
        execFileSync('umount', [at]);
      }
    });
});
