/** What pulling and running share: keeping a plan's parts while they are worked on, and making its snapshots visible. */
import {ErrdefsError, is} from '../../errdefs.ts';
import {formatIdentity, ownIdentity} from '../../fs/process.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {randomHex} from '../../oci/hash.ts';
import {collect, LEASE_OWNER, leaseOwnerLives} from '../../store/gc.ts';
import {statePath} from '../../store/layout.ts';
import {snapshotChain} from '../../store/snapshots.ts';
import type {Snapshotter} from '../../store/snapshotters.ts';
import type {NamespaceTransaction, Store} from '../../store/store.ts';
import type {Context} from '../context.ts';
import {layerCandidates} from './layer-lookup.ts';
import type {Plan, PlannedImage} from './plan.ts';
import {lacksContent, visibleIn} from './visible-content.ts';

/** Lifetime of a lease whose process is gone: for so long another attempt finds what it downloaded. In milliseconds, as containerd's. */
const LEASE_MS = 24 * 3600_000;

/** Label of a lease with the image that it is for. */
const LEASE_IMAGE = 'berth/image';

/** The plan's manifests that have a root filesystem. */
export const imagesOf = (plan: Plan): readonly PlannedImage[] => plan.manifests.flatMap(({image}) => image ?? []);

/**
 * Lease, then look: from here on no collection takes what of the plan is here or about to come.
 *
 * @param image the image's name
 * @returns the lease's id, for `endLease`
 */
export async function leasePlan(
  store: Store,
  namespace: string,
  image: string,
  plan: Plan,
  snapshotter: Snapshotter | undefined,
): Promise<string> {
  const id = `pull-${randomHex(8)}`;
  const now = Date.now();
  const layers =
    snapshotter === undefined ? [] : imagesOf(plan).flatMap((i) => i.layers.flatMap((layer) => layerCandidates(snapshotter, layer)));
  await store.update(`lease for ${image}`, (tx) =>
    tx.namespace(namespace).leases.put({
      id,
      labels: {[LEASE_OWNER]: formatIdentity(ownIdentity()), [LEASE_IMAGE]: image},
      expiresAt: new Date(now + LEASE_MS).toISOString(),
      content: [...plan.documents.keys(), ...plan.blobs.map(({digest}) => digest)],
      layers,
      snapshots: [],
      createdAt: new Date(now).toISOString(),
      updatedAt: new Date(now).toISOString(),
    }),
  );
  return id;
}

/**
 * In the transaction that makes the work visible: drops its lease, and those that killed attempts at the same image left.
 *
 * @param id as `leasePlan` gave it; `undefined` when none was needed
 * @throws aborted somebody has removed the lease meanwhile, and with it perhaps what it kept
 */
export function endLease(ns: NamespaceTransaction, image: string, id: string | undefined): void {
  if (id !== undefined && !ns.leases.delete(id))
    throw new ErrdefsError('aborted', `namespace ${JSON.stringify(ns.name)} was emptied meanwhile`, {hint: 'run it again'});
  for (const lease of ns.leases.list())
    if (lease.labels[LEASE_IMAGE] === image && leaseOwnerLives(lease) === false) ns.leases.delete(lease.id);
}

/** Writes the snapshots of images whose layers are here: one a chain ID, each on the one below. */
export function recordSnapshots(
  store: Store,
  ns: NamespaceTransaction,
  snapshotter: Snapshotter,
  images: readonly PlannedImage[],
  layers: ReadonlyMap<Digest, string>,
): void {
  const records = ns.snapshots(snapshotter.name);
  const now = new Date().toISOString();
  for (const image of images) {
    let parent: Digest | undefined;
    for (const {chainID} of image.layers) {
      const layer = layers.get(chainID);
      if (layer === undefined || !store.layers.isUsable(layer))
        throw new ErrdefsError('aborted', `layer ${chainID} was removed meanwhile`, {hint: 'pull again'});
      const before = records.find(chainID);
      if (before?.layer !== layer)
        records.put({
          snapshotter: snapshotter.name,
          key: chainID,
          kind: 'committed',
          ...(parent === undefined ? {} : {parent}),
          layer,
          labels: before?.labels ?? {},
          createdAt: before?.createdAt ?? now,
          updatedAt: now,
        });
      parent = chainID;
    }
  }
}

/** Whether a namespace has the snapshot of a chain ID, and every layer of it is here and can be believed. */
export function isUnpacked({store}: Context, namespace: string, snapshotter: string, chainID: Digest): boolean {
  return store.view((tx) => {
    const records = tx.namespace(namespace).snapshots(snapshotter);
    if (records.find(chainID) === undefined) return false;
    try {
      return snapshotChain(records, chainID).every(({layer}) => layer !== undefined && store.layers.isUsable(layer));
    } catch (err) {
      if (!is(err, 'data_loss')) throw err;
      return false; // one below is missing: unpacking makes it anew
    }
  });
}

/**
 * Unpacks an image from the blobs that are here, as far as that is not done.
 *
 * @param name the image's
 * @returns its top layer's chain ID; `undefined` for an image without layers
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
  if (lacking !== undefined) throw lacksContent(name, lacking.digest);
  const lease = await leasePlan(store, namespace, name, plan, snapshotter);
  const {materialise} = await import('./fetch-and-unpack.ts');
  try {
    const {layers} = await materialise({
      store,
      workers,
      namespace,
      plan,
      snapshotter,
      erofsBacking: context.erofsBacking,
      maxConcurrentDownloads: 3,
      scratchDir: statePath.views(context.stateDir),
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
  } catch (err) {
    // Nothing was downloaded that another attempt should find. Where this fails too, the lease expires by itself.
    await store
      .update(`end of the unpacking of ${name}`, (tx) => {
        if (tx.namespace(namespace).leases.delete(lease)) collect(store, tx);
      })
      .then(() => store.layers.emptyTrash())
      .catch(() => {});
    throw err;
  }
  return top;
}

/** Label by which a config keeps the snapshot of its image. */
export const snapshotLabel = (snapshotter: Snapshotter): string => `containerd.io/gc.ref.snapshot.${snapshotter.name}`;
