/** An image in a registry, as source and as target of a copy. The remote is the caller's, who closes it. */
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import type {Reference} from '../../oci/reference.ts';
import type {Remote} from '../../remotes/types.ts';
import {readDocument} from '../registry/read.ts';
import {listReferrers, pushReferrer} from '../registry/referrers.ts';
import {streamBlob} from '../registry/stream-blob.ts';
import type {BlobLocations} from './blob-locations.ts';
import type {BlobOutcome, ImageSource, ImageTarget} from './types.ts';

export function registrySource(name: string, remote: Remote, ref: Reference, signal: AbortSignal): ImageSource {
  const fetcher = remote.fetcher(ref);
  return {
    name,
    repository: {domain: ref.domain, path: ref.path},
    root: () => readDocument(remote, ref, signal),
    document: (desc, limit) => fetcher.bytes(desc, {limit, signal}),
    blob: (desc, offset) => streamBlob(fetcher, desc, offset, {signal, passesOn: true}),
    rejected: (desc) => fetcher.rejected(desc),
    referrers: (subject) => listReferrers(remote, ref, subject, signal),
    tagged: (tag) =>
      readDocument(remote, {domain: ref.domain, path: ref.path, tag}, signal).catch((err: unknown) => {
        if (hasCode(err, 'not_found')) return undefined;
        throw err;
      }),
    close: async () => {},
  };
}

/** @throws invalid_argument when the reference has a digest that the copied image does not have */
export function registryTarget(
  name: string,
  remote: Remote,
  ref: Reference,
  {
    blobLocations,
    signal,
    maxConcurrent,
  }: {readonly blobLocations: BlobLocations; readonly signal: AbortSignal; readonly maxConcurrent: number},
): ImageTarget {
  const pusher = remote.pusher(ref, {maxConcurrentUploads: maxConcurrent});
  const {domain, tag, digest} = ref;
  return {
    name,
    keepsForeignLayers: true,
    takesAgain: true,
    // A registry takes a manifest only with all below it.
    isCurrent: async (root) => (digest === undefined || digest === root.digest) && pusher.exists(root, {tag, signal}),
    hasManifest: (desc) => pusher.exists(desc, {signal}),
    blob: async (desc, open, {from, onProgress}) => {
      const source = from !== undefined && from.domain === domain ? [from.path] : [];
      const put = async (known: readonly string[]): Promise<BlobOutcome> => {
        const outcome = await pusher.blob(desc, open, {from: [...new Set([...source, ...known])], onProgress, signal});
        return outcome === 'uploaded' ? 'copied' : outcome;
      };
      return blobLocations.put(ref, desc.digest, put, signal);
    },
    manifest: async ({descriptor, bytes}) => void (await pusher.manifest(descriptor, bytes, {signal})),
    commit: async ({descriptor, bytes}) => {
      if (digest !== undefined && digest !== descriptor.digest)
        throw new ErrdefsError('invalid_argument', `the destination names ${digest}, the image is ${descriptor.digest}`, {
          hint: 'leave the digest out of the destination',
        });
      await pusher.manifest(descriptor, bytes, {tag, signal});
      return descriptor;
    },
    addTagged: async (other, {descriptor, bytes}) => {
      if (await pusher.exists(descriptor, {tag: other, signal})) return;
      const there = await remote.resolve({domain: ref.domain, path: ref.path, tag: other}, {signal}).catch((err: unknown) => {
        if (hasCode(err, 'not_found')) return undefined;
        throw err;
      });
      if (there !== undefined)
        throw new ErrdefsError(
          'already_exists',
          `the destination has other signatures, under the tag ${other}: ${there.descriptor.digest}`,
          {
            hint: 'copy without --referrers, or remove that tag first',
          },
        );
      await pusher.manifest(descriptor, bytes, {tag: other, signal});
    },
    addReferrer: (subject, document) => pushReferrer(remote, ref, subject, document, signal),
    close: async () => {},
  };
}
