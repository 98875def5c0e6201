/**
 * Referrers of a manifest: by the API, or in registries without it by an index under the tag `sha256-<hex>`.
 *
 * After the OCI distribution specification, "Listing Referrers" and "Referrers Tag Schema".
 */
import {setTimeout as sleep} from 'node:timers/promises';
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import {type Descriptor, type Digest, digestParts} from '../../oci/descriptor.ts';
import {digestOf} from '../../oci/hash.ts';
import {MAX_CHILDREN, parseIndex} from '../../oci/manifest.ts';
import {OCI_INDEX} from '../../oci/mediatypes.ts';
import {parseReference, type Reference} from '../../oci/reference.ts';
import type {Remote} from '../../remotes/types.ts';
import type {Context} from '../context.ts';
import type {RegistryCallOptions} from '../types/index.ts';
import {readDocument, withRemote} from './read.ts';

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
  return (await readTagIndex(remote, repository, subject, signal)).manifests;
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

interface TagIndex {
  readonly manifests: readonly Descriptor[];
  /** Absent where the tag does not exist. */
  readonly digest?: Digest;
}

async function readTagIndex(
  remote: Remote,
  {domain, path}: Repository,
  subject: Digest,
  signal?: AbortSignal,
  options: {readonly forChange?: boolean} = {},
): Promise<TagIndex> {
  try {
    const {descriptor, bytes} = await readDocument(remote, {domain, path, tag: referrersTag(subject)}, signal, options);
    return {manifests: parseIndex(bytes, descriptor).manifests, digest: descriptor.digest};
  } catch (err) {
    if (hasCode(err, 'not_found')) return {manifests: []};
    throw err;
  }
}

/** Attempts at an index that others change at the same time. */
const MAX_ATTEMPTS = 10;
/** Shortest wait before the index is read again, in milliseconds. */
const SETTLE_MS = 50;

/** Changes of this process, one after the other for each index. */
const queues = new Map<string, Promise<unknown>>();

/**
 * Adds a manifest to the index of its subject's referrers, or removes it, where the registry has no referrers API.
 *
 * Registries have no conditional PUT, so that the change of another writer may overwrite ours. The index is therefore read again after
 * a time several times as long as our own reading and writing took, and changed again if it does not have our change.
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
  const key = `${repository.domain}/${repository.path}@${subject}`;
  const before = queues.get(key) ?? Promise.resolve();
  const mine = before.then(() => writeTagIndex(remote, repository, subject, change, signal));
  const settled = mine.catch(() => undefined);
  queues.set(key, settled);
  try {
    await mine;
  } finally {
    if (queues.get(key) === settled) queues.delete(key);
  }
}

async function writeTagIndex(
  remote: Remote,
  repository: Repository,
  subject: Digest,
  change: {readonly add: Descriptor} | {readonly remove: Digest},
  signal: AbortSignal | undefined,
): Promise<void> {
  const isDone = ({manifests}: TagIndex): boolean =>
    'add' in change ? manifests.some(({digest}) => digest === change.add.digest) : manifests.every(({digest}) => digest !== change.remove);
  const tag = referrersTag(subject);
  for (let attempt = 1; ; attempt++) {
    const started = performance.now();
    // Written back from a mirror that is behind, it would lack what others have added since.
    const index = await readTagIndex(remote, repository, subject, signal, {forChange: true});
    if (isDone(index)) return;
    if (attempt > MAX_ATTEMPTS)
      throw new ErrdefsError('aborted', `${repository.domain}/${repository.path}:${tag} was overwritten ${MAX_ATTEMPTS} times`, {
        hint: 'others change the referrers of the same manifest: try again',
      });
    const manifests = 'add' in change ? [...index.manifests, change.add] : index.manifests.filter(({digest}) => digest !== change.remove);
    if (manifests.length > MAX_CHILDREN) throw new ErrdefsError('resource_exhausted', `${subject} has more than ${MAX_CHILDREN} referrers`);
    const bytes = Buffer.from(JSON.stringify({schemaVersion: 2, mediaType: OCI_INDEX, manifests}));
    await remote.pusher(repository).manifest({mediaType: OCI_INDEX, digest: digestOf(bytes), size: bytes.length}, bytes, {tag, signal});
    const settleMs = Math.max(SETTLE_MS, 4 * (performance.now() - started));
    await sleep(settleMs * (0.5 + Math.random()), undefined, signal === undefined ? {} : {signal});
  }
}
