/** Directories of planned layers, and scratch mounts of their trees. */
import {join} from 'node:path';
import {fromErrno} from '../../errdefs.ts';
import {listIfPresent} from '../../fs/durable.ts';
import {liveness, parseIdentity, uniqueName} from '../../fs/process.ts';
import type {MountHolder} from '../../runtime/private-mount.ts';
import type {Housekeeping} from '../../store/cleanup-warnings.ts';
import type {Snapshotter} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {PlannedLayer} from './plan.ts';

/** IDs that a planned layer may get: by its diff ID, or by its chain ID. */
export function layerCandidates(snapshotter: Snapshotter, {diffID, chainID}: PlannedLayer): readonly string[] {
  return [...new Set([snapshotter.layerId(diffID, chainID, false), snapshotter.layerId(diffID, chainID, true)])];
}

/** ID of a layer that is unpacked and trusted, or `undefined`. */
export const findLayer = (store: Store, snapshotter: Snapshotter, layer: PlannedLayer): string | undefined =>
  layerCandidates(snapshotter, layer).find((id) => store.layers.isUsable(id));

/**
 * Starts a process that holds scratch mounts.
 *
 * @param scratchDir parent directory of mount points, below the state directory
 * @param housekeeping receives a warning when `close` leaves something
 */
export async function startScratchMountHolder(scratchDir: string, housekeeping: Housekeeping): Promise<MountHolder> {
  const {startMountHolder} = await import('../../runtime/private-mount.ts');
  const directory = join(scratchDir, `view-${uniqueName()}`);
  const {mount, close} = await startMountHolder(directory);
  return {mount, close: () => close().catch((err: unknown) => housekeeping.warn(`view ${directory}`, err))};
}

/** Mount points that dead processes left, found by the process identity in their names. @param scratchDir parent directory of mount points */
export function abandonedScratchMounts(scratchDir: string): readonly string[] {
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
 * Opens trees of layers for reading; mounts indexed layers.
 *
 * @param layers directories
 * @param startMountHolder called only for indexed layers
 */
export async function openTrees(
  snapshotter: Snapshotter,
  layers: readonly string[],
  startMountHolder: () => Promise<MountHolder>,
): Promise<{readonly trees: readonly string[]; close(): Promise<void>}> {
  if (snapshotter.form !== 'erofs' || layers.length === 0)
    return {trees: layers.map((directory) => snapshotter.tree(directory)), close: () => Promise.resolve()};
  const mounts = layers.map((directory) => snapshotter.layerMount(directory));
  const {mount, close} = await startMountHolder();
  try {
    return {trees: await mount(mounts), close};
  } catch (err) {
    // A collection removes the leftovers once this process is gone.
    await close().catch(() => undefined);
    throw err;
  }
}
