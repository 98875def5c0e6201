/** An image's layers, extracted one over the other from their blobs: no layer of the store is unpacked for it, and nothing is mounted. */
import {getSnapshotter, seedLayer} from '../../store/snapshotters.ts';
import type {Context} from '../context.ts';
import {leasePlan, releaseLeases} from '../pull/content-leases.ts';
import {warnOfLayers} from '../pull/ensure-unpacked.ts';
import {nameOf, refuseEncrypted} from '../pull/fetch-and-unpack.ts';
import {imagesOf, type Plan, type PlannedLayer} from '../pull/plan.ts';
import {requirePrivileges} from '../pull/pull.ts';
import {hasBlob, lacksContent, visibleIn} from '../pull/visible-content.ts';

export interface PlannedTree {
  /** Of the image. */
  readonly name: string;
  readonly plan: Plan;
}

/**
 * @param directory absolute; after a failure, `discardTree` removes what is in it
 * @returns path of the tree, a new directory in `directory`
 * @throws permission_denied this process cannot give files to other users
 * @throws not_found a blob is missing
 * @throws resource_exhausted the disk is nearly full
 * @throws failed_precondition, data_loss, invalid_argument a layer cannot be unpacked
 */
export async function extractImage(
  context: Context,
  namespace: string,
  {name, plan}: PlannedTree,
  directory: string,
  signal: AbortSignal | undefined,
): Promise<string> {
  requirePrivileges();
  const {store} = context;
  const plain = getSnapshotter('native');
  const layers = imagesOf(plan)[0]?.layers ?? [];
  const lease = await leasePlan(store, namespace, name, plan, undefined);
  try {
    const isVisible = visibleIn(store, namespace);
    for (const {blob} of layers) {
      refuseEncrypted(blob);
      if (!hasBlob(store, isVisible, blob)) throw lacksContent(namespace, name, blob.digest);
    }
    seedLayer(plain, directory, [], false);
    for (const layer of layers) warnOfLayers(context, await extractLayer(context, layer, directory, signal));
    return plain.tree(directory);
  } finally {
    await releaseLeases(store, namespace, `image ${name}`, [lease]);
  }
}

/** @returns warnings */
async function extractLayer(
  {store, workers}: Context,
  {blob, diffID}: PlannedLayer,
  directory: string,
  signal: AbortSignal | undefined,
): Promise<readonly string[]> {
  const what = nameOf(blob);
  const source = {kind: 'blob', path: store.blobs.path(blob.digest)} as const;
  const task = await workers.run({what, size: blob.size, source, unpack: {directory, form: 'plain', diffID}}, () => {});
  const stop = (): void => task.abort(signal?.reason);
  signal?.addEventListener('abort', stop, {once: true});
  if (signal?.aborted === true) stop();
  try {
    return ((await task.result)?.warnings ?? []).map((warning) => `${what}: ${warning}`);
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}
