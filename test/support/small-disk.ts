/** A small filesystem to be filled: ext4 in a file, on a loop device. Without root of the machine, who alone has those, it is tmpfs. */
import {execFileSync} from 'node:child_process';
import {mkdirSync, rmSync} from 'node:fs';
import {join} from 'node:path';
import {hasFreeLoopDevice} from '../../src/lib/runtime/verify-loop-devices.ts';
import {inInitialUserNamespace} from '../../src/lib/user-namespace-identity.ts';
import {findProgram, requiresProgram, requiresRoot, type Skippable} from './helpers.ts';

export interface SmallDisk {
  /** In bytes. */
  readonly size: number;
  /** Bytes of a block; those of tmpfs are pages. */
  readonly blockSize: number;
  readonly inodes: number;
  /** Of mkfs.ext4(8), other than its own. */
  readonly features?: string;
}

export async function requiresSmallDisk(t: Skippable): Promise<boolean> {
  if (!requiresRoot(t) || !requiresProgram(t, 'mkfs.ext4', 'mount', 'losetup')) return false;
  if (!inInitialUserNamespace() || (await hasFreeLoopDevice())) return true;
  t.skip('needs loop devices');
  return false;
}

/**
 * Makes a disk with what `prepare` writes into a directory.
 *
 * @param dir empty; its owner removes it
 * @returns mounts a copy of it; what that returns unmounts it, and the copy is gone
 */
export async function makeSmallDisk(
  dir: string,
  {size, blockSize, inodes, features}: SmallDisk,
  prepare: (disk: string) => Promise<void> = async () => {},
): Promise<(at: string) => () => void> {
  const origin = join(dir, 'origin');
  if (!inInitialUserNamespace()) {
    mkdirSync(origin);
    await prepare(origin);
    return (at) => {
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size},nr_inodes=${inodes},mode=0700`, 'none', at]);
      execFileSync('cp', ['-a', `${origin}/.`, at]);
      return () => execFileSync('umount', [at]);
    };
  }
  const disk = join(dir, 'disk');
  execFileSync('truncate', ['-s', String(size), origin]);
  const own = features === undefined ? [] : ['-O', features];
  execFileSync(findProgram('mkfs.ext4')!, ['-q', '-b', String(blockSize), '-N', String(inodes), '-m', '0', ...own, origin]);
  mkdirSync(disk);
  execFileSync('mount', ['-o', 'loop', origin, disk]);
  try {
    rmSync(join(disk, 'lost+found'), {recursive: true});
    await prepare(disk);
    // A copy of the mount in another mount namespace would keep the file busy.
    execFileSync('sync', ['--file-system', disk]);
  } finally {
    execFileSync('umount', [disk]);
  }
  let copies = 0;
  return (at) => {
    // A new file each time, for the same reason.
    const copy = join(dir, String(copies++));
    execFileSync('cp', ['--sparse=always', origin, copy]);
    execFileSync('mount', ['-o', 'loop', copy, at]);
    return () => {
      execFileSync('umount', [at]);
      rmSync(copy);
    };
  };
}
