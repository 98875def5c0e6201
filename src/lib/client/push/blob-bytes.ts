/** Bytes of a stored blob, for an upload. */
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import type {Digest} from '../../oci/descriptor.ts';
import type {Store} from '../../store/store.ts';

/**
 * Streams a blob from `offset` on. All of its bytes are hashed, also those before the offset.
 *
 * @throws data_loss after the last byte: the digest does not match
 * @throws aborted at the first read: the blob was removed meanwhile
 */
export async function* blobBytes(store: Store, digest: Digest, offset: number): AsyncGenerator<Uint8Array> {
  let at = 0;
  try {
    for await (const chunk of store.blobs.read(digest)) {
      const skip = Math.max(0, offset - at);
      at += chunk.length;
      if (skip < chunk.length) yield skip === 0 ? chunk : chunk.subarray(skip);
    }
  } catch (err) {
    if (hasCode(err, 'not_found')) throw new ErrdefsError('aborted', `content ${digest} was removed meanwhile`, {cause: err});
    throw err;
  }
}
