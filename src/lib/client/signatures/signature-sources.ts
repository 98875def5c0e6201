/** Where signatures of an image come from: its registry, or what a pull has kept in the store. */
import {isErrdefs} from '../../errdefs.ts';
import {type Descriptor, type Digest, digestParts, isDigest} from '../../oci/descriptor.ts';
import {MAX_MANIFEST_BYTES, mediaTypeOfDocument, parseIndex, parseManifest} from '../../oci/manifest.ts';
import {kindOf, OCI_MANIFEST} from '../../oci/mediatypes.ts';
import type {Reference} from '../../oci/reference.ts';
import type {Remote} from '../../remotes/types.ts';
import type {Labels} from '../../store/records.ts';
import type {Store} from '../../store/store.ts';
import {type Evidence, isSignature} from './verify-evidence.ts';

/** Largest signature that is read, in bytes, and most manifests with signatures, and signatures in each. */
export const MAX_SIGNATURE_BYTES = 1 << 20;
const MAX_MANIFESTS = 64;
const MAX_SIGNATURES = 64;

/** Label of an image's content by which it keeps a manifest with signatures, and of that for its layers; a part of a digest follows. */
const SIGNATURE_LABEL = 'containerd.io/gc.ref.content.signature.';

/** The label by which content keeps other content that belongs to its signatures. */
export const signatureLabel = (digest: Digest): Readonly<Record<string, string>> => ({
  [`${SIGNATURE_LABEL}${digestParts(digest)[1].slice(0, 12)}`]: digest,
});

/** Digests that content's labels keep as belonging to its signatures. */
export const signaturesOf = (labels: Labels): readonly Digest[] =>
  Object.entries(labels).flatMap(([key, value]) => (key.startsWith(SIGNATURE_LABEL) && isDigest(value) ? [value] : []));

const signaturesIn = (bytes: Buffer, descriptor: Descriptor): readonly Descriptor[] =>
  parseManifest(bytes, descriptor)
    .layers.filter((layer) => isSignature(layer) && layer.size <= MAX_SIGNATURE_BYTES)
    .slice(0, MAX_SIGNATURES);

type Repository = Pick<Reference, 'domain' | 'path'>;

/**
 * Signatures in the image's repository: under the tag `sha256-<hex>.sig`, then those that refer to it. What is broken, or cannot be had,
 * does not hide the others.
 *
 * @throws as the remote, after all that could be had; a repository without signatures gives none
 */
export async function* remoteEvidence(
  remote: Remote,
  {domain, path}: Repository,
  digest: Digest,
  signal: AbortSignal | undefined,
): AsyncGenerator<Evidence> {
  const fetcher = remote.fetcher({domain, path});
  const failures: unknown[] = [];
  /** The result; or `undefined` after a failure, which is thrown at the end. */
  const attempt = async <T>(action: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await action();
    } catch (err) {
      if (!isErrdefs(err) || signal?.aborted) throw err;
      failures.push(err);
      return undefined;
    }
  };
  const load = async (descriptor: Descriptor, body?: Buffer): Promise<Evidence> => {
    const bytes = body ?? (await fetcher.bytes(descriptor, {limit: MAX_MANIFEST_BYTES, signal}));
    const layers = [];
    for (const layer of signaturesIn(bytes, descriptor)) {
      const payload = await attempt(() => fetcher.bytes(layer, {limit: MAX_SIGNATURE_BYTES, signal}));
      if (payload !== undefined) layers.push({descriptor: layer, bytes: payload});
    }
    const {mediaType, size} = descriptor;
    return {descriptor: {mediaType, digest: descriptor.digest, size}, bytes, layers};
  };
  const [algorithm, hex] = digestParts(digest);
  const tagged = (tag: string) =>
    remote.resolve({domain, path, tag}, {signal}).catch((err: unknown) => {
      if (isErrdefs(err) && err.code === 'not_found') return undefined;
      throw err;
    });
  const simple = await attempt(async () => {
    const found = await tagged(`${algorithm}-${hex}.sig`);
    return found && load(found.descriptor, found.body);
  });
  if (simple !== undefined) yield simple;
  const bundles = await attempt(async () => {
    const listed = await remote.api({domain, path}).referrers(digest, {signal});
    // A mirror may have the API, and know nothing of the tag of its registry.
    const fallback = listed === undefined || listed.length === 0 ? await tagged(`${algorithm}-${hex}`) : undefined;
    const index =
      fallback === undefined || kindOf(fallback.descriptor.mediaType) !== 'index'
        ? []
        : parseIndex(fallback.body ?? (await fetcher.bytes(fallback.descriptor, {limit: MAX_MANIFEST_BYTES, signal})), fallback.descriptor)
            .manifests;
    const manifests = [...(listed ?? []), ...index].filter(({mediaType}) => kindOf(mediaType) === 'manifest');
    // cosign lists its bundles under the fallback tag with the type of their empty config.
    return [isBundle, (type: string | undefined) => type === OCI_EMPTY].flatMap((isIt) =>
      manifests.filter(({artifactType}) => isIt(artifactType)),
    );
  });
  for (const descriptor of (bundles ?? []).slice(0, MAX_MANIFESTS)) {
    const bundle = await attempt(() => load(descriptor));
    if (bundle !== undefined) yield bundle;
  }
  if (failures.length > 0) throw failures[0];
}

const OCI_EMPTY = 'application/vnd.oci.empty.v1+json';

const isBundle = (artifactType: string | undefined): boolean => artifactType !== undefined && isSignature({mediaType: artifactType});

/** Signatures that a namespace keeps for an image. What is damaged, or removed, gives none. */
export function* localEvidence(store: Store, namespace: string, digest: Digest): Generator<Evidence> {
  const {blobs} = store;
  const referred = (of: Digest): readonly Digest[] =>
    store.view((tx) => {
      const {content} = tx.namespace(namespace);
      return signaturesOf(content.find(of)?.labels ?? {}).filter((signature) => content.find(signature) !== undefined);
    });
  for (const manifest of referred(digest).slice(0, MAX_MANIFESTS)) {
    const visible = referred(manifest);
    try {
      const bytes = blobs.readSmall(manifest);
      if (bytes === undefined) continue;
      const descriptor = {mediaType: mediaTypeOfDocument(bytes) ?? OCI_MANIFEST, digest: manifest, size: bytes.length};
      const layers = signaturesIn(bytes, descriptor).flatMap((layer) => {
        const payload = visible.includes(layer.digest) ? blobs.readSmall(layer.digest) : undefined;
        return payload === undefined ? [] : [{descriptor: layer, bytes: payload}];
      });
      yield {descriptor, bytes, layers};
    } catch (err) {
      if (!isErrdefs(err)) throw err;
    }
  }
}
