/** The media type of a stored document. */
import {ErrdefsError} from '../../errdefs.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {OCI_INDEX, OCI_MANIFEST} from '../../oci/mediatypes.ts';

/** What a manifest or index says of itself, else what its fields are; undefined for anything else. */
export function documentType(bytes: Buffer): string | undefined {
  let document: {mediaType?: unknown; manifests?: unknown; layers?: unknown};
  try {
    document = Object(JSON.parse(bytes.toString()));
  } catch {
    return undefined;
  }
  const {mediaType, manifests, layers} = document;
  if (Array.isArray(manifests)) return typeof mediaType === 'string' ? mediaType : OCI_INDEX;
  if (Array.isArray(layers)) return typeof mediaType === 'string' ? mediaType : OCI_MANIFEST;
  return undefined;
}

/** The error for content whose type is unknown. */
export const typeUnknown = (digest: Digest, flag: string): ErrdefsError =>
  new ErrdefsError('invalid_argument', `content ${digest} is neither a manifest nor an index`, {hint: `name its media type with ${flag}`});
