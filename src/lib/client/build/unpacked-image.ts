/** An image unpacked for the time of a call: leased, so that nothing of it is collected meanwhile. */
import type {Digest} from '../../oci/descriptor.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import {getSnapshotter} from '../../store/snapshotters.ts';
import type {Context} from '../context.ts';
import {leasePlan, releaseLeases} from '../pull/content-leases.ts';
import {ensureUnpacked} from '../pull/ensure-unpacked.ts';
import {startScratchMountHolder} from '../pull/layer-lookup.ts';
import type {Plan} from '../pull/plan.ts';

export interface PlannedTree {
  /** Of the image. */
  readonly name: string;
  readonly plan: Plan;
}

export interface UnpackedOptions {
  /** Default: the namespace's. */
  readonly snapshotter?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** @param use gets the snapshotter, and the key of the image's snapshot there; `undefined` for an image without layers */
export async function withUnpacked<T>(
  context: Context,
  namespace: string,
  {name, plan}: PlannedTree,
  {snapshotter: asked, signal}: UnpackedOptions,
  use: (snapshotter: string, top: Digest | undefined) => Promise<T>,
): Promise<T> {
  const {store} = context;
  const snapshotter = getSnapshotter(context.snapshotterName(namespace, asked));
  const lease = await leasePlan(store, namespace, name, plan, snapshotter);
  try {
    return await use(snapshotter.name, await ensureUnpacked(context, namespace, name, plan, snapshotter, signal));
  } finally {
    await releaseLeases(store, namespace, `image ${name}`, [lease]);
  }
}

/** @param use gets the path of the mounted tree; `undefined` for an image without layers */
export const withImageTree = <T>(
  context: Context,
  namespace: string,
  image: PlannedTree,
  options: UnpackedOptions,
  use: (tree: string | undefined) => Promise<T>,
): Promise<T> =>
  withUnpacked(context, namespace, image, options, async (snapshotter, top) => {
    if (top === undefined) return use(undefined);
    const {store, stateDir} = context;
    const holder = await startScratchMountHolder(runtimeStatePath.views(stateDir), store.housekeeping);
    try {
      const trees = await holder.mount(new SnapshotStore(store, namespace, snapshotter).treeMounts(top));
      return await use(trees.at(-1)!);
    } finally {
      await holder.close();
    }
  });
