/** Mounts on the host, in this process's mount namespace, where they last until unmounted or until the next boot. */
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {readMountInfo} from '../fs/mountinfo.ts';
import {formatIdentity, identityOf} from '../fs/process.ts';
import {requireProgram, run} from '../fs/spawn.ts';
import {spawnWithChannel} from '../fs/spawn-with-channel.ts';
import {loopMounts, type Mounter, makeMountPoints, mountCommand} from './mount-plan.ts';
import {removeBundle} from './run-directory.ts';
import {hasFreeLoopDevice, verifyLoopDevices} from './verify-loop-devices.ts';

/** Waits for our word, then mounts; complaints go to descriptor 3. */
const SCRIPT = (command: string): string => `read -r go <&3 || exit\n{ ${command}\n} 2>&3`;
/** Occurs in no output, so that all of it is read. */
const END = '\0';

/**
 * @param directory has no subdirectories; gets the plan's links and mount points, and keeps the links
 * @param target absolute path for the last mount
 * @param onStart gets the identity of the mounting process before it starts to mount; from then on it continues even if this process
 *   is killed
 */
export function hostMounter(directory: string, target: string, onStart: (identity: string) => void): Mounter {
  return {
    mount: async (plan) => {
      const shell = requireProgram('sh', 'dash');
      requireProgram('mount', 'mount');
      const loops = loopMounts(plan).map(({image, mountPoint}) => ({
        image,
        target: mountPoint === undefined ? target : join(directory, mountPoint),
      }));
      try {
        makeMountPoints(directory, plan);
        // The channel's own session keeps Ctrl-C from leaving half of the mounts.
        const child = await spawnWithChannel([shell, '-c', SCRIPT(mountCommand(plan, target))], {
          cwd: directory,
          stdio: ['ignore', 'ignore', 'ignore'],
        });
        onStart(formatIdentity(identityOf(child.pid)));
        child.write('go\n');
        const text = await child.receive(END);
        const {status} = await child.ended;
        if (status !== 0) {
          if (loops.length > 0 && !(await hasFreeLoopDevice()))
            throw new ErrdefsError('resource_exhausted', `loop devices, of which ${loops.length} are needed`, {
              hint: 'unmount other images, or create more devices /dev/loopN',
            });
          throw new ErrdefsError('failed_precondition', `unable to mount: ${text.trim().split('\n', 1)[0] || 'mount(8) was killed'}`, {
            hint: 'the kernel may say more: dmesg',
          });
        }
        verifyLoopDevices(process.pid, loops);
        await unmountBelow(directory);
      } catch (err) {
        throw fromErrno(err, target);
      }
    },
  };
}

/** Unmounts the topmost mount at a path. @returns the error of umount(8); empty on success */
export async function unmount(target: string): Promise<string> {
  const {status, stderr} = await run('umount', [target], {package: 'mount'});
  return status === 0 ? '' : stderr.trim().split('\n', 1)[0] || `umount ended with status ${status}`;
}

const mountsBelow = (directory: string): readonly string[] =>
  readMountInfo('self').flatMap(({target}) => (target.startsWith(`${directory}/`) ? target : []));

/** Whether the intermediate mounts of a mounter are still there: it was killed before it unmounted them. */
export const hasIntermediateMounts = (directory: string): boolean => mountsBelow(directory).length > 0;

/** Lazily unmounts everything below a directory; current users keep their access. */
export async function unmountBelow(directory: string): Promise<void> {
  const below = mountsBelow(directory);
  if (below.length === 0) return;
  const {status, stderr} = await run('umount', ['-l', ...below.toReversed()], {package: 'mount'});
  if (status !== 0) throw new ErrdefsError('failed_precondition', `unable to unmount below ${directory}: ${stderr.trim()}`);
}

/** Removes a mounter's directory and its leftover mounts, never the content of a mount. */
export async function removeMountDirectory(directory: string): Promise<void> {
  if (!existsSync(directory)) return;
  await unmountBelow(directory);
  removeBundle(directory);
}
