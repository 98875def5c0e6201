/** `content push-object`: one object of the store into a registry, without what it refers to. */
import {ErrdefsError, wrap} from '../../errdefs.ts';
import {type Descriptor, parseDigest} from '../../oci/descriptor.ts';
import {MAX_MANIFEST_BYTES, mediaTypeOfDocument} from '../../oci/manifest.ts';
import {kindOf} from '../../oci/mediatypes.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import type {Context} from '../context.ts';
import {notFoundIn} from '../not-found.ts';
import {sourcesOf} from '../pull/distribution-source.ts';
import {refKey} from '../pull/fetch-and-unpack.ts';
import type {PushObjectOptions, PushObjectResult} from '../types/index.ts';
import {blobBytes} from './blob-bytes.ts';
import {isDocument} from './descriptor-tree.ts';

const ANY_TYPE = 'application/octet-stream';

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
  if (ref.digest !== undefined && ref.digest !== digest)
    throw new ErrdefsError('invalid_argument', `the object is ${digest}, not what the reference ${JSON.stringify(text)} says`);
  const record = store.view((tx) => tx.namespace(namespace).content.find(digest));
  if (record === undefined || !store.blobs.has(record))
    throw notFoundIn(store, namespace, 'content', digest, (ns) => ns.content.find(digest) !== undefined);
  const {size} = record;
  // Larger than any document: no need to read it.
  const document = size > MAX_MANIFEST_BYTES ? undefined : store.blobs.readSmall(digest);
  const mediaType = options.mediaType ?? (document && mediaTypeOfDocument(document)) ?? ANY_TYPE;
  const desc: Descriptor = {mediaType, digest, size};
  const isManifest = isDocument(kindOf(mediaType));
  // Without a tag of the user's own a manifest gets none, as in ctr.
  const tag = ref.tag !== undefined && text.endsWith(`:${ref.tag}`) ? ref.tag : undefined;
  const {onEvent, signal} = options;
  const report = (status: 'uploading' | 'done' | 'exists', offset: number): void =>
    onEvent?.({ref: refKey(desc), status, offset, total: size});
  const remote = await context.openRemote(options);
  try {
    const pusher = remote.pusher(ref);
    if (isManifest) {
      if (document === undefined)
        throw new ErrdefsError('invalid_argument', `content ${digest} has ${size} B, more than a manifest may have`);
      if (await pusher.exists(desc, {tag, signal})) {
        report('exists', size);
        return {...desc, status: 'exists'};
      }
      await pusher.manifest(desc, document, {tag, signal});
      report('done', size);
      return {...desc, status: 'uploaded'};
    }
    const status = await pusher.blob(desc, (offset) => blobBytes(store, digest, offset), {
      // Asks first: nothing notes where objects were pushed by themselves.
      from: [ref.path, ...sourcesOf(record.labels, ref.domain)],
      onProgress: (offset) => report('uploading', offset),
      signal,
    });
    report(status === 'uploaded' ? 'done' : 'exists', size);
    return {...desc, status};
  } catch (err) {
    throw wrap(`unable to push ${digest} to ${formatReference({domain: ref.domain, path: ref.path})}`, err);
  } finally {
    await remote.close();
  }
}
