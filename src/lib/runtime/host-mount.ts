/** Mounts in the mount namespace of this process: everybody there sees them, and they last until they are unmounted or the machine stops. */
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {readMountInfo} from '../fs/mountinfo.ts';
import {formatIdentity, identityOf} from '../fs/process.ts';
import {searchPath} from '../fs/spawn.ts';
import {removeBundle} from './bundle.ts';
import {hasFreeLoopDevice, verifyLoopDevices} from './loop-devices.ts';
import {loopMounts, type Mounter, makeMountPoints, mountCommand} from './mount-plan.ts';
import {capture, requireProgram} from './runc.ts';

const SCRIPT = (command: string): string => `read -r go || exit\n${command}`;

/**
 * @param directory empty but for files; it gets the plan's links and places, and keeps the links
 * @param target of the last mount, an absolute path
 * @param onStart gets the identity of the process that will mount, before it does; it goes on when this process is killed after that
 */
export function hostMounter(directory: string, target: string, onStart: (identity: string) => void): Mounter {
  return {
    mount: async (plan) => {
      const shell = requireProgram('sh', 'dash');
      requireProgram('mount', 'mount (util-linux)');
      const {spawn} = await import('node:child_process');
      const loops = loopMounts(plan).map(({image, mountPoint}) => ({
        image,
        target: mountPoint === undefined ? target : join(directory, mountPoint),
      }));
      try {
        makeMountPoints(directory, plan);
        // In a session of its own: a terminal's interrupt must not leave half of the mounts.
        const child = spawn(shell, ['-c', SCRIPT(mountCommand(plan, target))], {
          cwd: directory,
          env: {PATH: searchPath()},
          stdio: ['pipe', 'ignore', 'pipe'],
          detached: true,
        });
        const ended = new Promise<number | null>((done, fail) => {
          child.once('error', fail);
          child.once('close', done);
        });
        let complaint = '';
        child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint += text));
        child.stdin.on('error', () => undefined); // it has ended, which is told elsewhere
        if (child.pid !== undefined) onStart(formatIdentity(identityOf(child.pid)));
        child.stdin.end('go\n');
        if ((await ended) !== 0) {
          if (loops.length > 0 && !(await hasFreeLoopDevice()))
            throw new ErrdefsError('resource_exhausted', `not enough loop devices: ${loops.length} needed`, {
              hint: 'unmount other images, or create more devices /dev/loopN',
            });
          throw new ErrdefsError('failed_precondition', `unable to mount: ${complaint.trim().split('\n', 1)[0] || 'mount(8) was killed'}`, {
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

/**
 * Unmounts what is mounted at a path on top.
 *
 * @returns what umount(8) complains about; empty when it succeeded
 */
export async function unmount(target: string): Promise<string> {
  const {status, stderr} = await capture(requireProgram('umount', 'mount (util-linux)'), [target]);
  return status === 0 ? '' : stderr.trim().split('\n', 1)[0] || `umount ended with status ${status}`;
}

/** Detaches what is mounted below a directory of ours; who still uses it keeps it. */
async function unmountBelow(directory: string): Promise<void> {
  const below = readMountInfo('self').filter(({target}) => target.startsWith(`${directory}/`));
  if (below.length === 0) return;
  const umount = requireProgram('umount', 'mount (util-linux)');
  const {status, stderr} = await capture(umount, ['-l', ...below.map(({target}) => target).reverse()]);
  if (status !== 0) throw new ErrdefsError('failed_precondition', `unable to unmount below ${directory}: ${stderr.trim()}`);
}

/** Removes a directory that a mounter used, with what it left mounted there. Never what is behind a mount. */
export async function removeMountDirectory(directory: string): Promise<void> {
  if (!existsSync(directory)) return;
  await unmountBelow(directory);
  removeBundle(directory);
}
