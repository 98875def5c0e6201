/** Durability of the names of blobs that another process may have published. */
import {isErrdefs} from '../errdefs.ts';
import type {Digest} from '../oci/descriptor.ts';
import type {BlobStore} from './blob-store.ts';
import type {StoreView} from './transaction-types.ts';

/**
 * Syncs the names of existing blobs before a record refers to them. A blob that a record names already is durable; one that none names
 * may have been renamed into place by a process that was killed before it synced the directory.
 */
export function syncBlobNames(blobs: BlobStore, digests: readonly Digest[], view: (fn: (tx: StoreView) => boolean) => boolean): void {
  const unsure = digests.filter((digest) => !blobs.isNameSynced(digest));
  if (unsure.length === 0) return;
  try {
    const areNamed =
      !unsure.some((digest) => blobs.isUnsynced(digest)) &&
      view((tx) => {
        const namespaces = tx.namespaces.list().map(({name}) => tx.namespace(name));
        return unsure.every((digest) => namespaces.some(({content}) => content.find(digest) !== undefined));
      });
    if (areNamed) return;
  } catch (err) {
    if (!isErrdefs(err)) throw err; // an unreadable record: sync to be safe
  }
  blobs.syncNames(unsure.filter((digest) => blobs.size(digest) !== undefined));
}
