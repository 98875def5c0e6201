/** Reads a snapshot's tree as a container sees it: mounted by the runtime's code in a temporary mount namespace. */
import {mkdtempSync, realpathSync, rmdirSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {Mount} from '../../src/lib/runtime/mount-plan.ts';
import {openPrivateMount} from './private-mount.ts';

/**
 * Mounts a snapshot, calls `look`, and unmounts. Needs root.
 *
 * @param mounts as `snapshots mounts` gives them
 * @param look receives the path, which is valid until it returns
 */
export async function withMounted<T>(mounts: readonly Mount[], look: (root: string) => T | Promise<T>): Promise<T> {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), 'berth-mounted-')));
  try {
    const {paths, close} = await openPrivateMount(join(dir, 'view'), mounts);
    try {
      return await look(paths.at(-1)!);
    } finally {
      await close();
    }
  } finally {
    rmdirSync(dir);
  }
}
