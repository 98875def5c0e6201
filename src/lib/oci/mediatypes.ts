/** Media types of OCI images and docker's schema 2, and their kinds. */

/** Index of manifests (OCI). */
export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json';
/** Manifest of an image (OCI). */
export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
/** Config of an image (OCI). */
export const OCI_CONFIG = 'application/vnd.oci.image.config.v1+json';
/** Layer, uncompressed (OCI). */
export const OCI_LAYER = 'application/vnd.oci.image.layer.v1.tar';
/** Index of manifests (docker). */
export const DOCKER_LIST = 'application/vnd.docker.distribution.manifest.list.v2+json';
/** Manifest of an image (docker). */
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json';
/** Manifest of an image (docker's schema 1), which is not supported. */
export const DOCKER_SCHEMA_1 = 'application/vnd.docker.distribution.manifest.v1+json';
/** Config of an image (docker). */
export const DOCKER_CONFIG = 'application/vnd.docker.container.image.v1+json';
/** Layer, uncompressed (docker). */
export const DOCKER_LAYER = 'application/vnd.docker.image.rootfs.diff.tar';
/** Layer that is fetched from the URLs of its descriptor (docker). */
export const DOCKER_FOREIGN_LAYER = 'application/vnd.docker.image.rootfs.foreign.diff.tar';
/** Layer that is fetched from the URLs of its descriptor (OCI). */
export const OCI_FOREIGN_LAYER = 'application/vnd.oci.image.layer.nondistributable.v1.tar';

/** What a document or a blob is, whoever's media type it has. */
export type Kind = 'index' | 'manifest' | 'config' | 'layer' | 'unknown';

const LAYERS = [OCI_LAYER, OCI_FOREIGN_LAYER, DOCKER_LAYER, DOCKER_FOREIGN_LAYER] as const;

/** What a media type stands for; a layer's compression suffix (`+gzip`, `.gzip`, `+zstd`) does not matter here, its bytes tell. */
export function kindOf(mediaType: string): Kind {
  if (mediaType === OCI_INDEX || mediaType === DOCKER_LIST) return 'index';
  if (mediaType === OCI_MANIFEST || mediaType === DOCKER_MANIFEST) return 'manifest';
  if (mediaType === OCI_CONFIG || mediaType === DOCKER_CONFIG) return 'config';
  if (LAYERS.some((l) => mediaType === l || mediaType.startsWith(`${l}+`) || mediaType.startsWith(`${l}.`))) return 'layer';
  return 'unknown';
}

/** Layers that registries need not have: fetched through the descriptor's URLs. */
export const isForeignLayer = (mediaType: string): boolean =>
  mediaType.startsWith(OCI_FOREIGN_LAYER) || mediaType.startsWith(DOCKER_FOREIGN_LAYER);

/** Whose media types a document has: OCI's, or docker's schema 2. */
export type MediaTypeFamily = 'oci' | 'docker';

/** The family of a media type. */
export const familyOf = (mediaType: string): MediaTypeFamily => (mediaType.startsWith('application/vnd.docker.') ? 'docker' : 'oci');

const DOCUMENT_TYPES: Readonly<Record<'index' | 'manifest' | 'config', Readonly<Record<MediaTypeFamily, string>>>> = {
  index: {oci: OCI_INDEX, docker: DOCKER_LIST},
  manifest: {oci: OCI_MANIFEST, docker: DOCKER_MANIFEST},
  config: {oci: OCI_CONFIG, docker: DOCKER_CONFIG},
};

/** The media type of an index, manifest or config in a family. */
export const documentType = (kind: 'index' | 'manifest' | 'config', family: MediaTypeFamily): string => DOCUMENT_TYPES[kind][family];

/** The media type of a layer; docker's schema 2 has none for zstd. @param foreign fetched from the URLs of its descriptor */
export function layerType(family: MediaTypeFamily, compression: 'gzip' | 'zstd' | 'none', foreign = false): string {
  if (family === 'oci') return `${foreign ? OCI_FOREIGN_LAYER : OCI_LAYER}${compression === 'none' ? '' : `+${compression}`}`;
  return `${foreign ? DOCKER_FOREIGN_LAYER : DOCKER_LAYER}${compression === 'none' ? '' : `.${compression}`}`;
}
