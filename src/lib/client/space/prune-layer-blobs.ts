/**
 * `content prune references`: manifests of unpacked images give up the blobs of their layers, so that a collection frees them. The layers
 * are synced before: there is no blob any more to unpack them from after a power loss.
 */
import type {Digest} from '../../oci/descriptor.ts';
import {collectIfTouched} from '../../store/gc.ts';
import type {ContentRecord, Labels} from '../../store/records.ts';
import type {NamespaceView} from '../../store/transaction-types.ts';
import {withBallast} from '../../store/with-ballast.ts';
import type {Context} from '../context.ts';
import {isUnpacked} from '../pull/image-snapshots.ts';
import type {ContentPruneOptions, ContentPruneResult} from '../types/index.ts';
import {syncLayers} from './gc.ts';

/** Labels by which a manifest refers to its config and its layers, and a config to snapshots; see `gcLabels`. */
const CONFIG_REFERENCE = 'containerd.io/gc.ref.content.config';
const LAYER_REFERENCE = 'containerd.io/gc.ref.content.l.';
const SNAPSHOT_REFERENCE = 'containerd.io/gc.ref.snapshot.';

const isLayerReference = ([key]: readonly [string, string]): boolean => key.startsWith(LAYER_REFERENCE);

export async function pruneReferences(
  context: Context,
  namespace: string,
  {dryRun = false}: ContentPruneOptions,
): Promise<ContentPruneResult> {
  const {store} = context;
  if (!store.exists()) return {layers: []};
  const found = store.view((tx) => unpackedManifests(context, namespace, tx.namespace(namespace)));
  if (dryRun || found.length === 0) return {layers: store.view((tx) => layersOf(tx.namespace(namespace), found))};
  await syncLayers(context, 0);
  let layers: readonly ContentRecord[] = [];
  await withBallast(store, async () => {
    layers = await store.update('removal of references to layers', (tx) => {
      const ns = tx.namespace(namespace);
      // The sync takes long: a snapshot may be gone since, or its layer another one that is not synced, and then its image needs the blobs.
      const synced = new Set(found.map(({digest}) => digest));
      const released = unpackedManifests(context, namespace, ns, {durable: true}).filter(({digest}) => synced.has(digest));
      const given = layersOf(ns, released);
      for (const manifest of released) {
        const labels: Labels = Object.fromEntries(Object.entries(manifest.labels).filter((label) => !isLayerReference(label)));
        ns.content.put({...manifest, labels, updatedAt: new Date().toISOString()});
      }
      collectIfTouched(store, tx);
      return given;
    });
    store.layers.emptyTrash();
  });
  return {layers};
}

/** Content that manifests refer to as layers. */
function layersOf({content}: NamespaceView, manifests: readonly ContentRecord[]): readonly ContentRecord[] {
  const digests = manifests.flatMap(({labels}) =>
    Object.entries(labels)
      .filter(isLayerReference)
      .map(([, digest]) => digest as Digest),
  );
  return [...new Set(digests)].sort().flatMap((digest) => content.find(digest) ?? []);
}

/** Manifests that refer to layers, and whose config refers to a snapshot of all of them. */
function unpackedManifests(
  context: Context,
  namespace: string,
  ns: NamespaceView,
  {durable = false}: {readonly durable?: boolean} = {},
): readonly ContentRecord[] {
  return ns.content.list().filter(({labels}) => {
    const config = labels[CONFIG_REFERENCE];
    if (config === undefined || !Object.entries(labels).some(isLayerReference)) return false;
    return Object.entries(ns.content.find(config)?.labels ?? {}).some(
      ([key, chainID]) =>
        key.startsWith(SNAPSHOT_REFERENCE) &&
        isUnpacked(context, namespace, key.slice(SNAPSHOT_REFERENCE.length), chainID as Digest, {durable}),
    );
  });
}
