/** The snapshot records of images: written, and believed only while their layers are present. */

import {existsSync} from 'node:fs';
import {berth} from '../../berth-command.ts';
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {isOwnLayer} from '../../store/layer-store.ts';
import {assertWithinQuota} from '../../store/quota.ts';
import {REPAIR_HINT} from '../../store/read-record-files.ts';
import type {SnapshotRecord} from '../../store/records.ts';
import {snapshotChain} from '../../store/snapshots.ts';
import type {Snapshotter} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {NamespaceTransaction, RecordSet, StoreView} from '../../store/transaction-types.ts';
import type {Context} from '../context.ts';
import type {PlannedImage} from './plan.ts';

/** Label by which a config refers to the snapshot of its image. */
export const snapshotLabel = (snapshotter: Snapshotter): string => `containerd.io/gc.ref.snapshot.${snapshotter.name}`;

/**
 * Writes the snapshot records of images whose layers are present: one for each chain ID, on its parent.
 *
 * @throws aborted a layer was removed meanwhile
 * @throws failed_precondition a snapshot of the user's own has the name of a chain ID
 * @throws resource_exhausted the namespace would hold more than its quota
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
            hint: `remove it: ${berth`-n ${ns.name} snapshots rm --snapshotter ${snapshotter.name} ${chainID}`}`,
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
  assertWithinQuota(store, ns);
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
