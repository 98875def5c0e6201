/**
 * Loop devices, of which mount(8) makes one for an image, or takes the one that has it already, and the kernel unmakes it with
 * its last mount: nothing here keeps one, so none can be left behind.
 */
import {Buffer} from 'node:buffer';
import {closeSync, openSync, readSync, statSync} from 'node:fs';
import {ErrdefsError} from '../errdefs.ts';
import {readMountInfo} from '../fs/mountinfo.ts';
import {findProgram} from '../fs/spawn.ts';
import {capture} from './runc.ts';

/** Whether there is a loop device that nobody uses, with a name below /dev: in a container the kernel may have made one that is not seen. */
export async function hasFreeLoopDevice(): Promise<boolean> {
  const losetup = findProgram('losetup');
  if (losetup === undefined) return true; // nobody can tell
  const {stdout} = await capture(losetup, ['--find']);
  const device = /^\/dev\/\S+/.exec(stdout)?.[0];
  return device !== undefined && statSync(device, {throwIfNoEntry: false}) !== undefined;
}

export interface LoopMount {
  /** The file that is to be seen. */
  readonly image: string;
  /** Where, as an absolute path. */
  readonly target: string;
}

/** An image's first bytes, with a superblock that tells it from others. */
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
 * Looks whether each mount shows its image. A device that mount(8) found with that image may be unmade, and made anew with
 * another one, before it is mounted.
 *
 * @param pid a process that has these mounts
 * @throws aborted one does not
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
