/**
 * The blobs that a namespace sees: those of which it has a record. That the bytes are here for another namespace is nothing to
 * it, and that they go with that one neither.
 */
import {ErrdefsError} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {recordFile} from '../../store/layout.ts';
import type {Store, StoreView} from '../../store/store.ts';

/** Whether a namespace has a record of content. */
export type IsVisible = (digest: Digest) => boolean;

/** Asks for each digest, as of that moment. */
export const visibleIn =
  (store: Store, namespace: string): IsVisible =>
  (digest) =>
    store.view((tx) => isVisibleAt(tx, namespace)(digest));

/** Asks for each digest, as of a moment. */
export const isVisibleAt = (tx: StoreView, namespace: string): IsVisible => {
  const {content} = tx.namespace(namespace);
  return (digest) => content.find(digest) !== undefined;
};

/** As of a moment, for those who ask for very many: reads which records there are, and none of them. */
export function allVisibleAt(tx: StoreView, namespace: string): IsVisible {
  const files = new Set(tx.namespace(namespace).content.files());
  return (digest) => files.has(recordFile(digest));
}

/** Whether all of a blob is here for those who see it. */
export const hasBlob = ({blobs}: Store, isVisible: IsVisible, {digest, size}: Descriptor): boolean =>
  isVisible(digest) && blobs.size(digest) === size;

/** A document, or `undefined` when it is not here for those who see it. @throws data_loss as `BlobStore.readSmall` */
export const readVisible = ({blobs}: Store, isVisible: IsVisible, {digest}: Descriptor): Buffer | undefined =>
  isVisible(digest) ? blobs.readSmall(digest) : undefined;

/** The error for content of an image that its namespace does not see. */
export const lacksContent = (image: string, digest: Digest): ErrdefsError =>
  new ErrdefsError('not_found', `content ${digest} of image ${JSON.stringify(image)}`, {hint: `pull it: ctr images pull ${image}`});
