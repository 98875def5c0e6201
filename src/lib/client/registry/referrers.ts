/**
 * Referrers of a manifest: by the API, or in registries without it by an index under the tag `sha256-<hex>`.
 *
 * After the OCI distribution specification, "Listing Referrers" and "Referrers Tag Schema".
 */
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import {type Descriptor, type Digest, digestParts} from '../../oci/descriptor.ts';
import {MAX_CHILDREN, parseIndex} from '../../oci/manifest.ts';
import {OCI_INDEX} from '../../oci/mediatypes.ts';
import {parseReference, type Reference} from '../../oci/reference.ts';
import type {Remote} from '../../remotes/types.ts';
import type {Context} from '../context.ts';
import type {RegistryCallOptions} from '../types/index.ts';
import {readDocument, withRemote} from './read.ts';
import {rewriteTag} from './rewrite-tag.ts';

type Repository = Pick<Reference, 'domain' | 'path'>;

const MAX_TAG_LENGTH = 128;

/** The tag whose index lists the referrers of a manifest. */
export const referrersTag = (subject: Digest): string => {
  const [algorithm, hex] = digestParts(subject);
  return `${algorithm.slice(0, 32)}-${hex}`.slice(0, MAX_TAG_LENGTH);
};

export async function referrers(
  context: Context,
  text: string,
  options: RegistryCallOptions & {readonly artifactType?: string},
): Promise<readonly Descriptor[]> {
  const ref = parseReference(text);
  const {artifactType} = options;
  return withRemote(context, options, async (remote) => {
    const {descriptor} = await remote.resolve(ref);
    const found = await listReferrers(remote, ref, descriptor.digest);
    // A registry may ignore a filter that is sent to it.
    return artifactType === undefined ? found : found.filter((referrer) => referrer.artifactType === artifactType);
  });
}

/** By the API; where that lists none, by the tag: a mirror may have the API, and know nothing of the tag of its registry. */
export async function listReferrers(
  remote: Remote,
  repository: Repository,
  subject: Digest,
  signal?: AbortSignal,
): Promise<readonly Descriptor[]> {
  const listed = await remote.api(repository).referrers(subject, {signal});
  if (listed !== undefined && listed.length > 0) return listed;
  return readTagIndex(remote, repository, subject, signal);
}

/** Pushes a manifest that has a subject, and lists it among the subject's referrers where the registry does not do that itself. */
export async function pushReferrer(
  remote: Remote,
  repository: Repository,
  subject: Digest,
  {descriptor, bytes}: {readonly descriptor: Descriptor; readonly bytes: Buffer},
  signal?: AbortSignal,
): Promise<void> {
  const {subject: listed} = await remote.pusher(repository).manifest(descriptor, bytes, {signal});
  if (listed === undefined && (await remote.api(repository).referrers(subject, {signal, forChange: true})) === undefined)
    await updateReferrersTag(remote, repository, subject, {add: descriptor}, signal);
}

async function readTagIndex(
  remote: Remote,
  {domain, path}: Repository,
  subject: Digest,
  signal?: AbortSignal,
): Promise<readonly Descriptor[]> {
  try {
    const {descriptor, bytes} = await readDocument(remote, {domain, path, tag: referrersTag(subject)}, signal);
    return parseIndex(bytes, descriptor).manifests;
  } catch (err) {
    if (hasCode(err, 'not_found')) return [];
    throw err;
  }
}

/**
 * Adds a manifest to the index of its subject's referrers, or removes it, where the registry has no referrers API.
 *
 * @throws aborted others kept overwriting it
 */
export async function updateReferrersTag(
  remote: Remote,
  repository: Repository,
  subject: Digest,
  change: {readonly add: Descriptor} | {readonly remove: Digest},
  signal?: AbortSignal,
): Promise<void> {
  const isDone = (manifests: readonly Descriptor[]): boolean =>
    'add' in change ? manifests.some(({digest}) => digest === change.add.digest) : manifests.every(({digest}) => digest !== change.remove);
  await rewriteTag(
    remote,
    repository,
    referrersTag(subject),
    async (before) => {
      const listed = before === undefined ? [] : parseIndex(before.bytes, before.descriptor).manifests;
      if (isDone(listed)) return undefined;
      const manifests = 'add' in change ? [...listed, change.add] : listed.filter(({digest}) => digest !== change.remove);
      if (manifests.length > MAX_CHILDREN)
        throw new ErrdefsError('resource_exhausted', `${subject} has more than ${MAX_CHILDREN} referrers`);
      return {mediaType: OCI_INDEX, bytes: Buffer.from(JSON.stringify({schemaVersion: 2, mediaType: OCI_INDEX, manifests}))};
    },
    signal,
  );
}
