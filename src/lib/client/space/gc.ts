/** `gc`: a full collection in all namespaces, with the housekeeping that deleting commands leave out. */
import {sweepTemporary} from '../../fs/durable.ts';
import {removeBundle} from '../../runtime/run-directory.ts';
import {collectAll} from '../../store/gc.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import {withBallast} from '../../store/with-ballast.ts';
import type {Context} from '../context.ts';
import {abandonedScratchMounts} from '../pull/layer-lookup.ts';
import {sweepRuns} from '../running-containers.ts';
import type {GcResult} from '../types/index.ts';

/** Age at which the kernel has most likely written a layer back, in milliseconds: a sync then costs little. */
const WRITTEN_BACK_MS = 60_000;

const NO_RESULT: GcResult = {images: 0, content: 0, snapshots: 0, leases: 0, blobs: 0, layers: 0, settled: 0};

/** Collects in all namespaces, recounts references, removes leftovers of killed processes, and syncs layers. */
export async function collectGarbage(context: Context): Promise<GcResult> {
  const {store} = context;
  if (!store.exists()) return NO_RESULT;
  return withBallast(store, () => collectEverything(context));
}

async function collectEverything(context: Context): Promise<GcResult> {
  const {store} = context;
  sweepState(context);
  await sweepRuns(context);
  store.sweepTemporaryFiles();
  const {sweepMounts} = await import('../api/host-mounts.ts');
  await sweepMounts(context);
  const collected = await store.update('collection', (tx) => {
    const counts = collectAll(store, tx);
    tx.rebuildRefs();
    return counts;
  });
  store.layers.emptyTrash();
  // The collection is done, whatever becomes of the sync: the layers stay trusted in this boot, and the next collection syncs them.
  const settled = await syncLayers(context, WRITTEN_BACK_MS).catch((err: unknown) => {
    store.housekeeping.warn('sync of layers', err);
    return 0;
  });
  return {...collected, settled};
}

/** Removes leftovers of killed processes from the state directory, unless another collection does so already. */
export function sweepState({store: {housekeeping}, stateDir}: Context): void {
  for (const directory of [stateDir, runtimeStatePath.tokens(stateDir)])
    housekeeping.attempt(`directory ${directory}`, () => sweepTemporary(directory));
  housekeeping.attempt(`directory ${stateDir}`, () => {
    for (const path of abandonedScratchMounts(runtimeStatePath.views(stateDir)))
      housekeeping.attempt(`view ${path}`, () => {
        try {
          removeBundle(path);
        } catch (err) {
          if ((err as NodeJS.ErrnoException).code !== 'ENOENT') throw err;
        }
      });
  });
}

/**
 * Syncs layers that are trusted in this boot only. From then on they are trusted after a reboot, too, and need not be unpacked again.
 *
 * @param minAgeMs younger layers are left alone; in milliseconds
 * @returns number of layers synced
 */
export async function syncLayers({store}: Context, minAgeMs: number): Promise<number> {
  const made = store.layers.unsynced(minAgeMs);
  if (made.size === 0) return 0;
  store.layers.sync();
  const settled = await store.update('sync of layers', () => [...made].filter(([id, stamp]) => store.layers.markDurable(id, stamp)));
  store.layers.sync();
  return settled.length;
}
