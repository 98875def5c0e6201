/** Mounts in a private mount namespace, for tests that look at them from outside. */
import type {Mount} from '../../src/lib/runtime/mount-plan.ts';
import {type MountHolder, startMountHolder} from '../../src/lib/runtime/private-mount.ts';

/** A holder with its mounts. @param directory as in `startMountHolder` @throws as `startMountHolder` and `MountHolder.mount` */
export async function openPrivateMount(
  directory: string,
  mounts: readonly Mount[],
): Promise<{readonly paths: readonly string[]; readonly close: MountHolder['close']}> {
  const {mount, close} = await startMountHolder(directory);
  try {
    return {paths: await mount(mounts), close};
  } catch (err) {
    await close();
    throw err;
  }
}
