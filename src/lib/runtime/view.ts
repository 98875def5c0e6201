/** Mounts to look at from outside: held by a process in a mount namespace of its own, gone with it. */
import {mkdirSync} from 'node:fs';
import {join} from 'node:path';
import {fromErrno} from '../errdefs.ts';
import {removeBundle} from './bundle.ts';
import {startChain} from './chain.ts';
import {layMounts, type Mount} from './mounts.ts';

export interface View {
  /** Where each mount is seen, in the order of the mounts. Paths lead through /proc; links inside must not be followed by the kernel. */
  readonly paths: readonly string[];
  close(): Promise<void>;
}

/**
 * Mounts each of `mounts` at a place of its own.
 *
 * @param directory that does not exist yet; gone after `close`
 * @throws failed_precondition one could not be mounted @throws unavailable a program that is needed is not installed
 */
export async function openView(directory: string, mounts: readonly Mount[]): Promise<View> {
  const what = `view ${directory}`;
  try {
    mkdirSync(directory, {recursive: true, mode: 0o700});
    mkdirSync(join(directory, 'rootfs'));
    const loops = layMounts(directory, mounts);
    // The chain waits for a release that never comes: what it would turn into does not matter.
    const chain = await startChain(directory, ['/bin/true'], ['ignore', 'ignore', 'ignore']);
    const end = async (): Promise<void> => {
      chain.kill('SIGKILL');
      await chain.ended;
    };
    try {
      await chain.mount(loops);
    } catch (err) {
      await end();
      throw err;
    }
    const last = mounts.length - 1;
    return {
      paths: mounts.map((_, i) => `/proc/${chain.pid}/cwd/${i === last ? 'rootfs' : `m/${i}`}`),
      close: async () => {
        await end();
        try {
          removeBundle(directory);
        } catch (err) {
          throw fromErrno(err, what);
        }
      },
    };
  } catch (err) {
    removeQuietly(directory);
    throw fromErrno(err, what);
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
