/** What `pull` and `run` share: leases of plans, snapshot records of images, and unpacking from blobs that are present. */
import {existsSync} from 'node:fs';
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import {formatIdentity, ownIdentity} from '../../fs/process.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {randomHex} from '../../oci/hash.ts';
import {collect, isLeaseOwnerAlive, LEASE_OWNER} from '../../store/gc.ts';
import {isOwnLayer} from '../../store/layer-store.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import {REPAIR_HINT} from '../../store/record-files.ts';
import type {SnapshotRecord} from '../../store/records.ts';
import {snapshotChain} from '../../store/snapshots.ts';
import type {Snapshotter} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {NamespaceTransaction, RecordSet, StoreView} from '../../store/transaction-types.ts';
import type {Context} from '../context.ts';
import {layerCandidates} from './layer-lookup.ts';
import type {Plan, PlannedImage} from './plan.ts';
import {lacksContent, visibleIn} from './visible-content.ts';

/** Lifetime of a pull's lease, in milliseconds, as containerd's: so long an attempt after a kill finds what was downloaded. */
const LEASE_MS = 24 * 3600_000;

/** Label of a lease; its value is the name of the image. */
const LEASE_IMAGE = 'berth/image';

/** Images of a plan: its manifests with a root filesystem. */
export const imagesOf = (plan: Plan): readonly PlannedImage[] => plan.manifests.flatMap(({image}) => image ?? []);

/**
 * Leases everything in a plan, present or not, before anything is looked up: from here on no collection removes it.
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
  const layers =
    snapshotter === undefined ? [] : imagesOf(plan).flatMap((i) => i.layers.flatMap((layer) => layerCandidates(snapshotter, layer)));
  return leaseContent(store, namespace, image, [...plan.documents.keys(), ...plan.blobs.map(({digest}) => digest)], layers);
}

/** Leases content, present or not, and layers, for as long as this process lives. @param image what they are needed for @returns the lease's id */
export async function leaseContent(
  store: Store,
  namespace: string,
  image: string,
  content: readonly Digest[],
  layers: readonly string[] = [],
): Promise<string> {
  const id = `pull-${randomHex(8)}`;
  const now = Date.now();
  await store.update(`lease for ${image}`, (tx) =>
    tx.namespace(namespace).leases.put({
      id,
      labels: {[LEASE_OWNER]: formatIdentity(ownIdentity()), [LEASE_IMAGE]: image},
      expiresAt: new Date(now + LEASE_MS).toISOString(),
      content,
      layers,
      snapshots: [],
      createdAt: new Date(now).toISOString(),
      updatedAt: new Date(now).toISOString(),
    }),
  );
  return id;
}

/**
 * Removes a pull's lease, and those of killed attempts at the same image, in the transaction that makes the result visible.
 *
 * @param id from `leasePlan`; `undefined` when no lease was needed
 * @throws aborted the lease was removed meanwhile, and what it protected may be gone
 */
export function endLease(ns: NamespaceTransaction, image: string, id: string | undefined): void {
  if (id !== undefined && !ns.leases.delete(id))
    throw new ErrdefsError('aborted', `namespace ${JSON.stringify(ns.name)} was emptied meanwhile`, {hint: 'run it again'});
  deleteDeadLeases(ns, image);
}

/** Removes leases that killed attempts at the same have left. @returns whether there were any */
function deleteDeadLeases(ns: NamespaceTransaction, image: string): boolean {
  const dead = ns.leases.list().filter((lease) => lease.labels[LEASE_IMAGE] === image && isLeaseOwnerAlive(lease) === false);
  for (const {id} of dead) ns.leases.delete(id);
  return dead.length > 0;
}

/**
 * Removes leases, and those of killed attempts at the same, and collects what only they kept. If that fails, the leases expire.
 *
 * @param purpose as for `leaseContent`
 */
export async function releaseLeases(store: Store, namespace: string, purpose: string, ids: readonly string[]): Promise<void> {
  await store
    .update(`end of ${purpose}`, (tx) => {
      const ns = tx.namespace(namespace);
      const released = ids.map((id) => ns.leases.delete(id));
      if ([...released, deleteDeadLeases(ns, purpose)].includes(true)) collect(store, tx);
    })
    .then(() => store.layers.emptyTrash())
    .catch(() => {});
}

/**
 * Writes the snapshot records of images whose layers are present: one for each chain ID, on its parent.
 *
 * @throws aborted a layer was removed meanwhile
 * @throws failed_precondition a snapshot of the user's own has the name of a chain ID
 */
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
      const defect = layer === undefined ? undefined : store.layers.defect(layer);
      if (layer === undefined || (defect !== undefined && !existsSync(store.layers.path(layer))))
        throw new ErrdefsError('aborted', `layer ${chainID} was removed meanwhile`, {hint: 'run it again'});
      if (defect !== undefined) throw new ErrdefsError('data_loss', `layer ${chainID} ${defect.problem}`, {hint: REPAIR_HINT});
      const before = records.find(chainID);
      if (before !== undefined && (before.kind !== 'committed' || before.layer === undefined || isOwnLayer(before.layer)))
        throw new ErrdefsError(
          'failed_precondition',
          `snapshot ${JSON.stringify(chainID)} has the name of a layer, and is not unpacked from it`,
          {
            hint: `remove it: ctr -n ${ns.name} snapshots rm --snapshotter ${snapshotter.name} ${chainID}`,
          },
        );
      if (before?.layer !== layer || before.parent !== parent)
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

/**
 * Whether a namespace has the snapshot of a chain ID, unpacked from its layers, and every layer of it is present and trusted.
 *
 * @param options.durable trusted after a power loss, too
 */
export function isUnpacked(
  {store}: Context,
  namespace: string,
  snapshotter: string,
  chainID: Digest,
  options: {readonly durable?: boolean} = {},
): boolean {
  return store.view((tx) => isUnpackedIn(store, tx.namespace(namespace).snapshots(snapshotter), chainID, options));
}

function isUnpackedIn(
  store: Store,
  records: RecordSet<SnapshotRecord>,
  chainID: Digest,
  {durable = false}: {readonly durable?: boolean} = {},
): boolean {
  // Under the name of a chain ID, users may have committed snapshots of their own: these show anything.
  const isThere = (layer: string): boolean =>
    !isOwnLayer(layer) && store.layers.isUsable(layer) && (!durable || store.layers.info(layer)?.durable === true);
  if (records.find(chainID) === undefined) return false;
  try {
    return snapshotChain(records, chainID).every(({kind, layer}) => kind === 'committed' && layer !== undefined && isThere(layer));
  } catch (err) {
    if (!hasCode(err, 'data_loss')) throw err;
    return false; // a parent is missing: unpacking creates it again
  }
}

/**
 * For the transaction that makes a container of an image: its snapshot is still what `ensureUnpacked` found or made.
 *
 * @throws aborted it was replaced meanwhile
 */
export function assertUnpacked({store}: Context, tx: StoreView, namespace: string, snapshotter: string, chainID: Digest | undefined): void {
  if (chainID !== undefined && !isUnpackedIn(store, tx.namespace(namespace).snapshots(snapshotter), chainID))
    throw new ErrdefsError('aborted', `snapshot ${JSON.stringify(chainID)} was replaced meanwhile`, {hint: 'run it again'});
}

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
  if (lacking !== undefined) throw lacksContent(name, lacking.digest);
  const lease = await leasePlan(store, namespace, name, plan, snapshotter);
  const {fetchAndUnpack} = await import('./fetch-and-unpack.ts');
  try {
    const {layers, warnings} = await fetchAndUnpack({
      store,
      workers,
      namespace,
      plan,
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
    // Nothing was downloaded, so another attempt needs no lease. If this fails, too, the lease expires.
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

/** Tells the caller what layers lack that were unpacked on the way to something else. @param warnings of `fetchAndUnpack` */
export function warnOfLayers({warn}: Context, warnings: readonly string[]): void {
  for (const warning of warnings) warn(new ErrdefsError('failed_precondition', warning));
}

/** Label by which a config refers to the snapshot of its image. */
export const snapshotLabel = (snapshotter: Snapshotter): string => `containerd.io/gc.ref.snapshot.${snapshotter.name}`;
