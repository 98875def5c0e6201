import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {mkdirSync, statfsSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {FreeSpaceGuard} from '../../../src/lib/fs/free-space.ts';
import {is, requiresProgram, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';

describe('room', () => {
  it('keeps its reserve of inodes from an archive that has nothing but names', (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'mount')) return;
    const disk = join(temporaryDirectory(t), 'disk');
    mkdirSync(disk);
    for (const inodes of [5000, 20_000]) {
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=1g,nr_inodes=${inodes}`, 'tmpfs', disk]);
      try {
        const guard = new FreeSpaceGuard(disk, 'a layer');
        assert.throws(() => {
          // Each name takes one header of a tar, and one inode.
          for (let i = 0; ; i++) {
            guard.check(i * 512);
            writeFileSync(join(disk, String(i)), '');
          }
        }, is('resource_exhausted'));
        // Between two looks at the least 64 KiB go by.
        assert.ok(statfsSync(disk).ffree > inodes / 50 - 128, `${statfsSync(disk).ffree} of ${inodes} inodes left`);
      } finally {
        execFileSync('umount', [disk]);
      }
    }
  });
});
