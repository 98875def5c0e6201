/** Unpacks an image whose blobs are present. */
import {ErrdefsError} from '../../errdefs.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {collect} from '../../store/gc.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import {Quota} from '../../store/quota.ts';
import type {Snapshotter} from '../../store/snapshotters.ts';
import type {Context} from '../context.ts';
import {endLease, leasePlan, releaseLeases} from './content-leases.ts';
import {isUnpacked, recordSnapshots, snapshotLabel} from './image-snapshots.ts';
import {imagesOf, type Plan} from './plan.ts';
import {lacksContent, visibleIn} from './visible-content.ts';

/**
 * Unpacks what is not unpacked yet of an image whose blobs are present.
 *
 * @param name name of the image
 * @returns chain ID of its top layer; `undefined` for an image without layers
 * @throws not_found a blob is missing
 */
export async function ensureUnpacked(
  context: Context,
  namespace: string,
  name: string,
  plan: Plan,
  snapshotter: Snapshotter,
  signal?: AbortSignal,
): Promise<Digest | undefined> {
  const images = imagesOf(plan);
  const top = images[0]?.layers.at(-1)?.chainID;
  if (top === undefined || isUnpacked(context, namespace, snapshotter.name, top)) return top;
  const {store, workers, lockTimeoutMs} = context;
  const isVisible = visibleIn(store, namespace);
  const lacking = plan.blobs.find((blob) => !isVisible(blob.digest));
  if (lacking !== undefined) throw lacksContent(namespace, name, lacking.digest);
  const lease = await leasePlan(store, namespace, name, plan, snapshotter);
  const {fetchAndUnpack} = await import('./fetch-and-unpack.ts');
  try {
    const {layers, warnings} = await fetchAndUnpack({
      store,
      workers,
      namespace,
      plan,
      quota: Quota.of(store, namespace),
      snapshotter,
      erofsBacking: context.erofsBacking,
      maxConcurrentDownloads: 3,
      scratchDir: runtimeStatePath.views(context.stateDir),
      lockTimeoutMs,
      onEvent: () => {},
      ...(signal === undefined ? {} : {signal}),
    });
    await store.update(`unpacking of ${name}`, (tx) => {
      const ns = tx.namespace(namespace);
      endLease(ns, name, lease);
      recordSnapshots(store, ns, snapshotter, images, layers);
      for (const {manifest, image} of plan.manifests) {
        const config = ns.content.find(manifest.config.digest);
        const chainID = image?.layers.at(-1)?.chainID;
        if (config !== undefined && chainID !== undefined)
          ns.content.put({...config, labels: {...config.labels, [snapshotLabel(snapshotter)]: chainID}});
      }
      collect(store, tx);
    });
    store.layers.emptyTrash();
    warnOfLayers(context, warnings);
  } catch (err) {
    // Nothing was downloaded, so another attempt needs no lease.
    await releaseLeases(store, namespace, name, [lease]);
    throw err;
  }
  return top;
}

/** Tells the caller what layers lack that were unpacked on the way to something else. @param warnings of `fetchAndUnpack` */
export function warnOfLayers({warn}: Context, warnings: readonly string[]): void {
  for (const warning of warnings) warn(new ErrdefsError('failed_precondition', warning));
}
