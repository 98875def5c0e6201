/** Where a planned layer lies, or will lie, and what is in it. */
import {join} from 'node:path';
import {fromErrno} from '../../errdefs.ts';
import {listIfPresent} from '../../fs/durable.ts';
import {liveness, parseIdentity, uniqueName} from '../../fs/process.ts';
import type {MountHolder} from '../../runtime/private-mount.ts';
import type {Housekeeping} from '../../store/housekeeping.ts';
import type {Snapshotter} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {PlannedLayer} from './plan.ts';

/** Layer directories that a planned layer may end up in: by its own content, and by its chain. */
export function layerCandidates(snapshotter: Snapshotter, {diffID, chainID}: PlannedLayer): readonly string[] {
  return [...new Set([snapshotter.layerId(diffID, chainID, false), snapshotter.layerId(diffID, chainID, true)])];
}

/** The directory of a layer that is unpacked and can be believed, or `undefined`. */
export const findLayer = (store: Store, snapshotter: Snapshotter, layer: PlannedLayer): string | undefined =>
  layerCandidates(snapshotter, layer).find((id) => store.layers.isUsable(id));

/**
 * Starts the process that holds a view.
 *
 * @param scratchDir where something may be mounted; below the state that ends with the boot
 * @param housekeeping is told what is left after `close`
 */
export async function openScratchPlace(scratchDir: string, housekeeping: Housekeeping): Promise<MountHolder> {
  const {startMountHolder} = await import('../../runtime/private-mount.ts');
  const directory = join(scratchDir, `view-${uniqueName()}`);
  const {mount, close} = await startMountHolder(directory);
  return {mount, close: () => close().catch((err: unknown) => housekeeping.warn(`view ${directory}`, err))};
}

/** Places of processes that are gone, found by the identities in their names. @param scratchDir as `openScratchPlace` */
export function abandonedViews(scratchDir: string): readonly string[] {
  let names: readonly string[];
  try {
    names = listIfPresent(scratchDir);
  } catch (err) {
    throw fromErrno(err, `directory ${scratchDir}`);
  }
  return names
    .filter((name) => {
      const owner = name.startsWith('view-') ? parseIdentity(name.slice('view-'.length)) : undefined;
      return owner !== undefined && liveness(owner) === 'dead';
    })
    .map((name) => join(scratchDir, name));
}

/**
 * The trees of layers, to be looked at; those that are indexed have to be mounted for it.
 *
 * @param layers directories
 * @param startMountHolder where; asked for when it is needed
 */
export async function openTrees(
  snapshotter: Snapshotter,
  layers: readonly string[],
  startMountHolder: () => Promise<MountHolder>,
): Promise<{readonly trees: readonly string[]; close(): Promise<void>}> {
  if (snapshotter.form !== 'erofs' || layers.length === 0)
    return {trees: layers.map((directory) => snapshotter.tree(directory)), close: () => Promise.resolve()};
  const mounts = layers.flatMap((directory) => snapshotter.mounts(undefined, [directory], true));
  const {mount, close} = await startMountHolder();
  try {
    return {trees: await mount(mounts), close};
  } catch (err) {
    // What it leaves a collection takes, once this process is gone.
    await close().catch(() => undefined);
    throw err;
  }
}
