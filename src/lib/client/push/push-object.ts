/** `content push-object`: one object of the store into a registry, without what it refers to. */
import {parseDigest} from '../../oci/descriptor.ts';
import {MAX_MANIFEST_BYTES} from '../../oci/manifest.ts';
import {parseReference} from '../../oci/reference.ts';
import type {Context} from '../context.ts';
import {notFoundIn} from '../not-found.ts';
import {sourcesOf} from '../pull/distribution-source.ts';
import {putObject} from '../registry/push-object.ts';
import type {PushObjectOptions, PushObjectResult} from '../types/index.ts';
import {blobBytes} from './blob-bytes.ts';

export async function pushObject(
  context: Context,
  namespace: string,
  text: string,
  object: string,
  options: PushObjectOptions,
): Promise<PushObjectResult> {
  const {store} = context;
  const digest = parseDigest(object);
  const ref = parseReference(text);
  const record = store.view((tx) => tx.namespace(namespace).content.find(digest));
  if (record === undefined || !store.blobs.has(record))
    throw notFoundIn(store, namespace, 'content', digest, (ns) => ns.content.find(digest) !== undefined);
  const {size, labels} = record;
  return putObject(
    context,
    text,
    ref,
    {
      digest,
      size,
      // Larger than any document: no need to read it.
      document: size > MAX_MANIFEST_BYTES ? undefined : store.blobs.readSmall(digest),
      repositories: sourcesOf(labels, ref.domain),
      open: (offset) => blobBytes(store, digest, offset),
    },
    options,
  );
}
