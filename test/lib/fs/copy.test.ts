import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {copyTree} from '../../../src/lib/fs/copy.ts';
import {is, requiresProgram, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';

describe('a copy of a tree', () => {
  for (const [what, options] of Object.entries({bytes: 'size=16k', inodes: 'size=1m,nr_inodes=4'}))
    it(`says that the disk is full when its ${what} run out`, (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'mount')) return;
      const base = temporaryDirectory(t);
      const [from, disk] = [join(base, 'from'), join(base, 'disk')];
      for (const path of [from, disk]) mkdirSync(path);
      for (let i = 0; i < 8; i++) writeFileSync(join(from, String(i)), what === 'bytes' ? 'x'.repeat(4096) : '');
      execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', disk]);
      try {
        assert.throws(() => copyTree(from, join(disk, 'to')), is('resource_exhausted'));
      } finally {
        execFileSync('umount', [disk]);
      }
    });
});
