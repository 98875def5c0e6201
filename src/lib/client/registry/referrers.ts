/**
 * Referrers of a manifest: by the API, or in registries without it by an index under the tag `sha256-<hex>`.
 *
 * After the OCI distribution specification, "Listing Referrers" and "Referrers Tag Schema".
 */
import {hasCode} from '../../errdefs.ts';
import {type Descriptor, type Digest, digestParts} from '../../oci/descriptor.ts';
import {parseIndex} from '../../oci/manifest.ts';
import {parseReference, type Reference} from '../../oci/reference.ts';
import type {Remote} from '../../remotes/types.ts';
import type {Context} from '../context.ts';
import type {RegistryCallOptions} from '../types/index.ts';
import {readDocument, withRemote} from './read.ts';

type Repository = Pick<Reference, 'domain' | 'path'>;

const MAX_TAG_LENGTH = 128;

/** The tag whose index lists the referrers of a manifest. */
const referrersTag = (subject: Digest): string => {
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

const listReferrers = async (
  remote: Remote,
  repository: Repository,
  subject: Digest,
  signal?: AbortSignal,
): Promise<readonly Descriptor[]> =>
  (await remote.api(repository).referrers(subject, {signal})) ?? readTagIndex(remote, repository, subject, signal);

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
