/** Removes a container's record, and the snapshot it wrote to. */
import type {ErrdefsError} from '../errdefs.ts';
import {collect} from '../store/gc.ts';
import type {ContainerRecord, SnapshotRecord} from '../store/records.ts';
import {referencesOfContainer, snapshotNode} from '../store/refcounts.ts';
import type {StoreTransaction} from '../store/transaction-types.ts';
import {withBallast} from '../store/with-ballast.ts';
import type {Context} from './context.ts';

/** Whether a container has volumes that lie in the snapshot of another one; it is garbage with the last of them. */
function isHeld(tx: StoreTransaction, namespace: string, {snapshotter, key}: SnapshotRecord): boolean {
  const node = snapshotNode(snapshotter, key);
  if (tx.refs.isConsistent(namespace) && tx.refs.count(namespace, node) === 0) return false;
  return tx
    .namespace(namespace)
    .containers.list()
    .some((container) => referencesOfContainer(container).nodes.includes(node));
}

/**
 * Removes a container's record and the snapshot it wrote to.
 *
 * @param options.ifMissing makes the error for a missing container; without it, a missing container is success
 * @param options.only whether to remove this record; another container of the same ID stays, with its snapshot
 */
export async function deleteContainer(
  {store}: Context,
  namespace: string,
  id: string,
  options: {
    readonly keepSnapshot: boolean;
    readonly ifMissing?: (id: string) => ErrdefsError;
    readonly only?: (record: ContainerRecord, snapshot: SnapshotRecord | undefined) => boolean;
  },
): Promise<void> {
  await withBallast(store, async () => {
    await store.update(`removal of container ${id}`, (tx) => {
      const ns = tx.namespace(namespace);
      const record: ContainerRecord | undefined = ns.containers.find(id);
      if (record === undefined) {
        if (options.ifMissing !== undefined) throw options.ifMissing(id);
        return;
      }
      const snapshots = record.snapshotKey === '' ? undefined : ns.snapshots(record.snapshotter);
      const snapshot = snapshots?.find(record.snapshotKey);
      if (options.only?.(record, snapshot) === false) return;
      ns.containers.delete(id);
      if (snapshot !== undefined && options.keepSnapshot) {
        // Nothing refers to the snapshot any more: without gc.root the next collection would remove it.
        const now = new Date().toISOString();
        snapshots!.put({...snapshot, labels: {...snapshot.labels, 'containerd.io/gc.root': now}, updatedAt: now});
      } else if (snapshot !== undefined && !isHeld(tx, namespace, snapshot)) {
        snapshots!.delete(snapshot.key);
      }
      collect(store, tx);
    });
    store.layers.emptyTrash();
  });
}
