/** Mounts to look at from outside: held by a process in a mount namespace of its own, gone with it. */
import {mkdirSync} from 'node:fs';
import {join} from 'node:path';
import {fromErrno} from '../errdefs.ts';
import {removeBundle} from './bundle.ts';
import {type Chain, startChain} from './chain.ts';
import {type Mount, planMounts} from './mounts.ts';

export interface View {
  /** Where each mount is seen, in the order of the mounts. Paths lead through /proc; links inside must not be followed by the kernel. */
  readonly paths: readonly string[];
  close(): Promise<void>;
}

/** Where a view will be, and the process that will hold it: to start that takes longer than to mount. */
export interface ViewPlace {
  /**
   * Mounts each of `mounts` at a place of its own; once.
   *
   * @returns as `View.paths`
   * @throws failed_precondition one could not be mounted @throws resource_exhausted there are no loop devices for it
   */
  mount(mounts: readonly Mount[]): Promise<readonly string[]>;
  close(): Promise<void>;
}

/** @param directory that does not exist yet; gone after `close` @throws unavailable a program that is needed is not installed */
export async function openPlace(directory: string): Promise<ViewPlace> {
  const what = `view ${directory}`;
  let chain: Chain;
  try {
    mkdirSync(directory, {recursive: true, mode: 0o700});
    mkdirSync(join(directory, 'rootfs'));
    // The chain waits for a release that never comes: what it would turn into does not matter.
    chain = await startChain(directory, ['/bin/true'], ['ignore', 'ignore', 'ignore']);
  } catch (err) {
    removeQuietly(directory);
    throw fromErrno(err, what);
  }
  return {
    mount: async (mounts) => {
      try {
        await chain.mount(planMounts(mounts));
      } catch (err) {
        throw fromErrno(err, what);
      }
      return mounts.map((_, i) => `/proc/${chain.pid}/cwd/${i === mounts.length - 1 ? 'rootfs' : `m/${i}`}`);
    },
    close: async () => {
      chain.kill('SIGKILL');
      await chain.ended;
      try {
        removeBundle(directory);
      } catch (err) {
        throw fromErrno(err, what);
      }
    },
  };
}

/** A place with its mounts. @param directory as in `openPlace` @throws as `openPlace` and `ViewPlace.mount` */
export async function openView(directory: string, mounts: readonly Mount[]): Promise<View> {
  const {mount, close} = await openPlace(directory);
  try {
    return {paths: await mount(mounts), close};
  } catch (err) {
    await close().catch(() => removeQuietly(directory));
    throw err;
  }
}

/** What cannot be removed is in nobody's way, and what was meant to be said stays said. */
function removeQuietly(directory: string): void {
  try {
    removeBundle(directory);
  } catch {
    // A collection takes it, once this process is gone.
  }
}
