/**
 * The blobs that a namespace sees are those it has a record of. Whether another namespace has the same bytes makes no difference to it.
 */
import {berth} from '../../berth-command.ts';
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {recordFile} from '../../store/layout.ts';
import type {Store} from '../../store/store.ts';
import type {StoreView} from '../../store/transaction-types.ts';

/** Whether a namespace has a record of content. */
export type IsVisible = (digest: Digest) => boolean;

/** Looks each digest up in a transaction of its own. */
export const visibleIn =
  (store: Store, namespace: string): IsVisible =>
  (digest) =>
    store.view((tx) => isVisibleAt(tx, namespace)(digest));

/** Looks each digest up in one transaction. */
export const isVisibleAt = (tx: StoreView, namespace: string): IsVisible => {
  const {content} = tx.namespace(namespace);
  return (digest) => content.find(digest) !== undefined;
};

/** As `isVisibleAt`, for very many digests: lists the records' names once and reads no record. */
export function allVisibleAt(tx: StoreView, namespace: string): IsVisible {
  const files = new Set(tx.namespace(namespace).content.files());
  return (digest) => files.has(recordFile(digest));
}

/** Whether a blob is visible and complete. */
export const hasBlob = ({blobs}: Store, isVisible: IsVisible, {digest, size}: Descriptor): boolean =>
  isVisible(digest) && blobs.size(digest) === size;

/** A document; `undefined` when it is missing or not visible. @throws data_loss as `BlobStore.readSmall` */
export const readVisible = ({blobs}: Store, isVisible: IsVisible, {digest}: Descriptor): Buffer | undefined =>
  isVisible(digest) ? blobs.readSmall(digest) : undefined;

/** As `readVisible`; `undefined`, too, for a blob that is larger than any document, whatever its descriptor calls it. */
export function findDocument(store: Store, isVisible: IsVisible, desc: Descriptor): Buffer | undefined {
  try {
    return readVisible(store, isVisible, desc);
  } catch (err) {
    if (hasCode(err, 'failed_precondition')) return undefined;
    throw err;
  }
}

/** The error for content of an image that its namespace lacks. */
export const lacksContent = (namespace: string, image: string, digest: Digest): ErrdefsError =>
  new ErrdefsError('not_found', `content ${digest} of image ${JSON.stringify(image)}`, {
    hint: `pull it: ${berth`-n ${namespace} images pull ${image}`}`,
  });
