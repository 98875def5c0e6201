/** Mounts to look at from outside: held by a process in a mount namespace of its own, gone with it. */
import {mkdirSync} from 'node:fs';
import {join} from 'node:path';
import {fromErrno} from '../errdefs.ts';
import {removeBundle} from './bundle.ts';
import {type Launcher, startLauncher} from './launcher.ts';
import {type Mount, planMounts} from './mount-plan.ts';

/** Where a view will be, and the process that will hold it: to start that takes longer than to mount. */
export interface MountHolder {
  /**
   * Mounts each of `mounts` at a place of its own; once.
   *
   * @returns where each mount is seen, in the order of the mounts. Paths lead through /proc; links inside must not be followed by the kernel
   * @throws failed_precondition one could not be mounted @throws resource_exhausted there are no loop devices for it
   */
  mount(mounts: readonly Mount[]): Promise<readonly string[]>;
  close(): Promise<void>;
}

/** @param directory that does not exist yet; gone after `close` @throws unavailable a program that is needed is not installed */
export async function startMountHolder(directory: string): Promise<MountHolder> {
  const what = `view ${directory}`;
  let launcher: Launcher;
  try {
    mkdirSync(directory, {recursive: true, mode: 0o700});
    mkdirSync(join(directory, 'rootfs'));
    // The launcher waits for a release that never comes: what it would turn into does not matter.
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

/** What cannot be removed is in nobody's way, and what was meant to be said stays said. */
function removeQuietly(directory: string): void {
  try {
    removeBundle(directory);
  } catch {
    // A collection takes it, once this process is gone.
  }
}
