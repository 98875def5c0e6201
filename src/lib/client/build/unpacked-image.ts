/** An image unpacked for the time of a call: leased, so that nothing of it is collected meanwhile. */
import {readPrivileges} from '../../archive/process-privileges.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import {getSnapshotter} from '../../store/snapshotters.ts';
import type {Context} from '../context.ts';
import {leasePlan, releaseLeases} from '../pull/content-leases.ts';
import {ensureUnpacked} from '../pull/ensure-unpacked.ts';
import {startScratchMountHolder} from '../pull/layer-lookup.ts';
import {extractImage, type PlannedTree} from './extract-image.ts';

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

/**
 * Where this process may not mount, the tree is extracted for the time of the call.
 *
 * @param use gets the path of the mounted tree; `undefined` for an image without layers
 */
export const withImageTree = <T>(
  context: Context,
  namespace: string,
  image: PlannedTree,
  options: UnpackedOptions,
  use: (tree: string | undefined) => Promise<T>,
): Promise<T> =>
  readPrivileges().canMount
    ? withMountedTree(context, namespace, image, options, use)
    : withExtractedTree(context, namespace, image, options, use);

async function withExtractedTree<T>(
  context: Context,
  namespace: string,
  image: PlannedTree,
  {signal}: UnpackedOptions,
  use: (tree: string) => Promise<T>,
): Promise<T> {
  const {layers} = context.store;
  const work = layers.createWork();
  try {
    return await use(await extractImage(context, namespace, image, work, signal));
  } finally {
    layers.discardWork(work);
  }
}

const withMountedTree = <T>(
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
