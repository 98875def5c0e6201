/** Mounts in a private mount namespace, visible to us through /proc. A process holds the namespace; both end together. */
import {mkdirSync} from 'node:fs';
import {join} from 'node:path';
import {fromErrno} from '../errdefs.ts';
import {type Launcher, startLauncher} from './launcher.ts';
import {type Mount, planMounts} from './mount-plan.ts';
import {removeBundle} from './run-directory.ts';

/** The process that holds the mounts. It starts first, because the start takes longer than the mounts. */
export interface MountHolder {
  /**
   * Mounts each of `mounts` at its own mount point. To be called once.
   *
   * @returns path of each mount, through /proc, in the order of the mounts. The kernel must not follow symbolic links below it
   * @throws failed_precondition a mount failed @throws resource_exhausted too few loop devices
   */
  mount(mounts: readonly Mount[]): Promise<readonly string[]>;
  close(): Promise<void>;
}

/** @param directory must not exist; removed by `close` @throws unavailable a required program is not installed */
export async function startMountHolder(directory: string): Promise<MountHolder> {
  const what = `private mount ${directory}`;
  let launcher: Launcher;
  try {
    mkdirSync(directory, {recursive: true, mode: 0o700});
    mkdirSync(join(directory, 'rootfs'));
    // `release` is never called, so the program does not matter.
    launcher = await startLauncher(directory, ['/bin/true'], ['ignore', 'ignore', 'ignore']);
  } catch (err) {
    removeQuietly(directory);
    throw fromErrno(err, what);
  }
  return {
    mount: async (mounts) => {
      try {
        await launcher.mount(planMounts(mounts));
      } catch (err) {
        throw fromErrno(err, what);
      }
      return mounts.map((_, i) => `/proc/${launcher.pid}/cwd/${i === mounts.length - 1 ? 'rootfs' : `m/${i}`}`);
    },
    close: async () => {
      launcher.kill('SIGKILL');
      await launcher.ended;
      try {
        removeBundle(directory);
      } catch (err) {
        throw fromErrno(err, what);
      }
    },
  };
}

/** Removes the directory; a failure must not hide the original error. */
function removeQuietly(directory: string): void {
  try {
    removeBundle(directory);
  } catch {
    // The next collection removes it, after this process has ended.
  }
}
