/** Where a planned layer lies, or will lie. */
import type {Snapshotter} from '../store/snapshotters.ts';
import type {Store} from '../store/store.ts';
import type {PlannedLayer} from './plan.ts';

/** Layer directories that a planned layer may end up in: by its own content, and by its chain. */
export function layerCandidates(snapshotter: Snapshotter, {diffID, chainID}: PlannedLayer): readonly string[] {
  return [...new Set([snapshotter.layerId(diffID, chainID, false), snapshotter.layerId(diffID, chainID, true)])];
}

/** The directory of a layer that is unpacked and can be believed, or `undefined`. */
export const findLayer = (store: Store, snapshotter: Snapshotter, layer: PlannedLayer): string | undefined =>
  layerCandidates(snapshotter, layer).find((id) => store.layers.isUsable(id));
