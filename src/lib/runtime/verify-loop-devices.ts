/**
 * Loop devices. mount(8) attaches an image to one, or reuses the one that already has the image. The kernel detaches it with its last
 * mount, so none can be left behind.
 */
import {Buffer} from 'node:buffer';
import {closeSync, openSync, readSync, statSync} from 'node:fs';
import {ErrdefsError} from '../errdefs.ts';
import {readMountInfo} from '../fs/mountinfo.ts';
import {findProgram, run} from '../fs/spawn.ts';

/** Whether a free loop device exists below /dev. In a container the kernel may have created one that is not visible. */
export async function hasFreeLoopDevice(): Promise<boolean> {
  const losetup = findProgram('losetup');
  if (losetup === undefined) return true; // unknown
  const {stdout} = await run(losetup, ['--find'], {package: 'util-linux'});
  const device = /^\/dev\/\S+/.exec(stdout.toString())?.[0];
  return device !== undefined && statSync(device, {throwIfNoEntry: false}) !== undefined;
}

export interface LoopMount {
  /** The file that the mount must show. */
  readonly image: string;
  /** Absolute path. */
  readonly target: string;
}

/** Bytes at the start of an image; they hold the superblock, which identifies it. */
const HEAD = 4096;

function head(path: string): Buffer {
  const fd = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(HEAD);
    readSync(fd, bytes, 0, HEAD, 0);
    return bytes;
  } finally {
    closeSync(fd);
  }
}

/**
 * Verifies that each mount shows its image. Between mount(8)'s search for a device and the mount, the kernel may have detached that
 * device and another image may have taken it.
 *
 * @param pid a process in the mount namespace of these mounts
 * @throws aborted another image was mounted
 */
export function verifyLoopDevices(pid: number, loops: readonly LoopMount[]): void {
  if (loops.length === 0) return;
  const devices = new Map(readMountInfo(pid).map(({target, source}) => [target, source]));
  for (const {image, target} of loops) {
    const device = devices.get(target);
    if (device === undefined || !head(device).equals(head(image)))
      throw new ErrdefsError('aborted', `loop device of ${image} was taken by another image`, {hint: 'run it again'});
  }
}
