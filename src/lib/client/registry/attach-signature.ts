/** Attaches a signature that something else has made, as cosign does: a layer of the manifest under the tag `sha256-<hex>.sig`. */
import {ErrdefsError} from '../../errdefs.ts';
import {type Descriptor, type Digest, digestParts} from '../../oci/descriptor.ts';
import {digestOf} from '../../oci/hash.ts';
import {parseManifest} from '../../oci/manifest.ts';
import {kindOf, OCI_CONFIG, OCI_MANIFEST} from '../../oci/mediatypes.ts';
import type {Reference} from '../../oci/reference.ts';
import type {Remote} from '../../remotes/types.ts';
import {SIGNATURE_ANNOTATION, SIMPLE_SIGNING} from '../signatures/verify-evidence.ts';
import {rewriteTag} from './rewrite-tag.ts';

/** Whether a payload is of a simple signing of this digest. */
function isPayloadOf(payload: Buffer, digest: Digest): boolean {
  try {
    const {critical} = JSON.parse(payload.toString()) as {critical?: {image?: {'docker-manifest-digest'?: unknown}}};
    return critical?.image?.['docker-manifest-digest'] === digest;
  } catch {
    return false;
  }
}

const once = (bytes: Buffer) =>
  async function* (offset: number): AsyncGenerator<Buffer> {
    if (offset < bytes.length) yield bytes.subarray(offset);
  };

/** The config that cosign writes: readers pair the layers with it. */
const configOf = (layers: readonly {readonly digest: string}[]): Buffer =>
  Buffer.from(JSON.stringify({architecture: '', os: '', config: {}, rootfs: {type: 'layers', diff_ids: layers.map(({digest}) => digest)}}));

/**
 * Other signatures of the image stay; one that is there is not added again.
 *
 * @param payload the signed bytes
 * @param signature in base64
 * @returns the manifest with the signatures
 * @throws invalid_argument the payload is not of this image, or the signature not in base64
 * @throws failed_precondition the tag names something else
 */
export async function attachSignature(
  remote: Remote,
  {domain, path}: Reference,
  subject: Digest,
  payload: Buffer,
  signature: string,
  signal: AbortSignal | undefined,
): Promise<Descriptor> {
  if (!isPayloadOf(payload, subject))
    throw new ErrdefsError('invalid_argument', `the payload is not of ${subject}`, {
      hint: 'its critical.image.docker-manifest-digest names what is signed; "cosign generate IMAGE" prints one',
    });
  if (signature === '' || Buffer.from(signature, 'base64').toString('base64') !== signature)
    throw new ErrdefsError('invalid_argument', 'the signature is not in base64');
  const repository = {domain, path};
  const pusher = remote.pusher(repository);
  const layer = {
    mediaType: SIMPLE_SIGNING,
    digest: digestOf(payload),
    size: payload.length,
    annotations: {[SIGNATURE_ANNOTATION]: signature},
  };
  await pusher.blob(layer, once(payload), {signal});
  const [algorithm, hex] = digestParts(subject);
  const tag = `${algorithm}-${hex}.sig`;
  const manifest = await rewriteTag(
    remote,
    repository,
    tag,
    async (before) => {
      if (before !== undefined && kindOf(before.descriptor.mediaType) !== 'manifest')
        throw new ErrdefsError('failed_precondition', `${domain}/${path}:${tag} is no manifest of signatures`);
      if (before !== undefined) parseManifest(before.bytes, before.descriptor);
      const {layers = [], ...rest} = (before === undefined ? {} : JSON.parse(before.bytes.toString())) as {layers?: (typeof layer)[]};
      const isThere = layers.some(({digest, annotations}) => digest === layer.digest && annotations?.[SIGNATURE_ANNOTATION] === signature);
      if (isThere) return undefined;
      const all = [...layers, layer];
      const bytes = configOf(all);
      const config = {mediaType: OCI_CONFIG, digest: digestOf(bytes), size: bytes.length};
      await pusher.blob(config, once(bytes), {signal});
      const document = {...rest, schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: all};
      return {mediaType: OCI_MANIFEST, bytes: Buffer.from(JSON.stringify(document))};
    },
    signal,
  );
  return manifest!;
}
