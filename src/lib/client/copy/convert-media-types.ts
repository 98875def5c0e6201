/** Gives an image the media types of OCI or of docker. Configs and layers keep their bytes and digests; manifests do not. */
import {ErrdefsError} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {digestOf} from '../../oci/hash.ts';
import {documentType, familyOf, isForeignLayer, kindOf, layerType, type MediaTypeFamily} from '../../oci/mediatypes.ts';
import type {Node} from './types.ts';

/** Whether a document or one below it has the media types of the other family. */
export const needsConversion = ({descriptor, children}: Node, family: MediaTypeFamily): boolean =>
  familyOf(descriptor.mediaType) !== family || children.some((child) => needsConversion(child, family));

type Raw = Record<string, unknown> & {mediaType: string; digest: Digest; size: number};

/** @throws failed_precondition docker has no media type for a zstd layer */
export function convert(node: Node, family: MediaTypeFamily): Node {
  const children = node.children.map((child) => convert(child, family));
  const converted = new Map(node.children.map(({descriptor}, i) => [descriptor.digest, children[i]!.descriptor]));
  const convertEntry = (entry: Raw): Raw => {
    const child = converted.get(entry.digest);
    if (child !== undefined) return {...entry, mediaType: child.mediaType, digest: child.digest, size: child.size};
    return {...entry, mediaType: convertType(entry.mediaType, family)};
  };
  const document = JSON.parse(node.bytes.toString()) as Record<string, unknown> & {config?: Raw; layers?: Raw[]; manifests?: Raw[]};
  const kind = kindOf(node.descriptor.mediaType) === 'index' ? 'index' : 'manifest';
  const mediaType = documentType(kind, family);
  const bytes = Buffer.from(
    JSON.stringify({
      ...document,
      mediaType,
      ...(document.config && {config: convertEntry(document.config)}),
      ...(document.layers && {layers: document.layers.map(convertEntry)}),
      ...(document.manifests && {manifests: document.manifests.map(convertEntry)}),
    }),
  );
  return {
    descriptor: {...node.descriptor, mediaType, digest: digestOf(bytes), size: bytes.length},
    bytes,
    children,
    blobs: node.blobs.map((blob): Descriptor => ({...blob, mediaType: convertType(blob.mediaType, family)})),
  };
}

function convertType(mediaType: string, family: MediaTypeFamily): string {
  const kind = kindOf(mediaType);
  if (kind === 'config') return documentType(kind, family);
  if (kind !== 'layer' || familyOf(mediaType) === family) return mediaType;
  const compression = /[+.](gzip|zstd)$/.exec(mediaType)?.[1] ?? 'none';
  if (compression === 'zstd' && family === 'docker')
    throw new ErrdefsError('failed_precondition', 'docker has no media type for a layer with zstd', {
      hint: 'leave the format as it is, or use oci',
    });
  return layerType(family, compression as 'gzip' | 'zstd' | 'none', isForeignLayer(mediaType));
}
