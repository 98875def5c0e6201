/**
 * Files of an archive of images: an OCI layout, or what `docker save` writes. Only documents are parsed here; where the files lie is
 * not known.
 *
 * After the OCI image specification, image-layout.md, and containerd, core/images/archive (importer.go, exporter.go): docker's images
 * get the manifest that containerd gives them, so that their digests are equal.
 */
import {ErrdefsError} from '../errdefs.ts';
import {type Descriptor, DIGEST_HEX_LENGTH, type Digest, digestParts, isDigest, type Platform} from '../oci/descriptor.ts';
import {digestOf} from '../oci/hash.ts';
import {type ImageConfig, parseIndex} from '../oci/manifest.ts';
import {DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, OCI_INDEX} from '../oci/mediatypes.ts';
import {normalizePlatform} from '../oci/platform.ts';
import {familiarName, formatReference, parseReference} from '../oci/reference.ts';

export const OCI_LAYOUT_FILE = 'oci-layout';
export const INDEX_FILE = 'index.json';
/** Lock of all writers of a layout's index, beside it. */
export const INDEX_LOCK = '.index.lock';
export const DOCKER_FILE = 'manifest.json';

/** Content of `oci-layout`. */
export const OCI_LAYOUT = Buffer.from('{"imageLayoutVersion":"1.0.0"}');

/** Most bytes of `manifest.json`, `index.json` and `oci-layout`. */
export const MAX_LAYOUT_BYTES = 20 << 20;

/** Annotations by which the images of an archive are named: containerd's with the full name, and the specification's. */
export const IMAGE_NAME = 'io.containerd.image.name';
export const REF_NAME = 'org.opencontainers.image.ref.name';

/** Name of a blob in an OCI layout. */
export const blobFile = (digest: Digest): string => `blobs/${digestParts(digest).join('/')}`;

/** The digest that a name in an OCI layout promises. */
export function digestOfFile(name: string): Digest | undefined {
  const match = /^blobs\/([a-z0-9]+)\/([0-9a-f]+)$/.exec(name);
  const digest = match === null ? undefined : `${match[1]}:${match[2]}`;
  return isDigest(digest) ? digest : undefined;
}

/** Directories of an OCI layout with SHA-256 blobs. */
export const blobDirectories = (digests: readonly Digest[]): readonly string[] => [
  'blobs/',
  ...Object.keys(DIGEST_HEX_LENGTH)
    .filter((algorithm) => digests.some((digest) => digestParts(digest)[0] === algorithm))
    .sort()
    .map((algorithm) => `blobs/${algorithm}/`),
];

/**
 * The name of a file as archives refer to it: without `./` and without empty components.
 *
 * @returns `undefined` for a name that leads out of the archive
 */
export function cleanName(name: string): string | undefined {
  const parts: string[] = [];
  for (const part of name.split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') parts.push(part);
    else if (parts.pop() === undefined) return undefined;
  }
  return parts.join('/');
}

/** An image of an archive. */
export interface NamedDescriptor {
  /** The manifest or index; its `annotations` are those of the archive. */
  readonly descriptor: Descriptor;
  /** Full name, of a docker archive normalised; `undefined` where the archive has none. */
  readonly name?: string;
  /** Tag, or digest with `@` before it, without a repository; also any other text that the writer took for a name. */
  readonly refName?: string;
}

function parseJSON(bytes: Uint8Array, file: string): unknown {
  if (bytes.length > MAX_LAYOUT_BYTES)
    throw new ErrdefsError('invalid_argument', `${file} of the archive has ${bytes.length} B, at most ${MAX_LAYOUT_BYTES} are read`);
  try {
    return JSON.parse(new TextDecoder('utf-8', {fatal: true}).decode(bytes));
  } catch (cause) {
    throw new ErrdefsError('invalid_argument', `${file} of the archive is not JSON`, {cause});
  }
}

/** @throws invalid_argument not an OCI layout @throws not_implemented a version that is not 1.0.0 */
export function checkOCILayout(bytes: Uint8Array): void {
  const value = parseJSON(bytes, OCI_LAYOUT_FILE) as {imageLayoutVersion?: unknown} | null;
  const version = value?.imageLayoutVersion;
  if (version === '1.0.0') return;
  throw typeof version === 'string'
    ? new ErrdefsError('not_implemented', `version ${JSON.stringify(version)} of an OCI layout`)
    : new ErrdefsError('invalid_argument', `${OCI_LAYOUT_FILE} of the archive has no imageLayoutVersion`);
}

/** Images of an OCI layout's `index.json`. @throws invalid_argument */
export function parseLayoutIndex(bytes: Uint8Array): readonly NamedDescriptor[] {
  const index = {mediaType: OCI_INDEX, digest: digestOf(bytes), size: bytes.length};
  return parseIndex(bytes, index).manifests.map((descriptor) => {
    const {[IMAGE_NAME]: name, [REF_NAME]: refName} = descriptor.annotations ?? {};
    return {descriptor, ...(name ? {name} : {}), ...(refName ? {refName} : {})};
  });
}

/** One image of `manifest.json`: names of files in the archive, and tags. */
export interface DockerImage {
  readonly config: string;
  readonly repoTags: readonly string[];
  /** Bottom first. */
  readonly layers: readonly string[];
}

const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';
const texts = (value: unknown): readonly string[] | undefined => {
  const list = value ?? [];
  return Array.isArray(list) && list.every(isText) ? list : undefined;
};

/** Images of `docker save`'s `manifest.json`. @throws invalid_argument */
export function parseDockerManifest(bytes: Uint8Array): readonly DockerImage[] {
  const value = parseJSON(bytes, DOCKER_FILE);
  if (!Array.isArray(value)) throw new ErrdefsError('invalid_argument', `${DOCKER_FILE} of the archive must be a list of images`);
  return value.map((item: unknown, i) => {
    const {Config: config, RepoTags, Layers} = (typeof item === 'object' && item !== null ? item : {}) as Record<string, unknown>;
    const repoTags = texts(RepoTags);
    const layers = texts(Layers);
    if (!isText(config) || repoTags === undefined || layers === undefined)
      throw new ErrdefsError('invalid_argument', `${DOCKER_FILE} of the archive: image ${i} must have Config, RepoTags and Layers`);
    return {config, repoTags, layers};
  });
}

/** The keys of a descriptor in the order in which Go writes them. */
const inOrder = ({mediaType, digest, size, urls, annotations, platform, artifactType}: Descriptor): object => ({
  mediaType,
  digest,
  size,
  ...(urls === undefined ? {} : {urls}),
  ...(annotations === undefined ? {} : {annotations: sorted(annotations)}),
  ...(platform === undefined ? {} : {platform: platformInOrder(platform)}),
  ...(artifactType === undefined ? {} : {artifactType}),
});

const platformInOrder = ({architecture, os, variant, ...more}: Platform): object => ({
  architecture,
  os,
  ...(more['os.version'] === undefined ? {} : {'os.version': more['os.version']}),
  ...(more['os.features'] === undefined ? {} : {'os.features': more['os.features']}),
  ...(variant === undefined ? {} : {variant}),
});

const sorted = (annotations: Readonly<Record<string, string>>): object =>
  Object.fromEntries(Object.entries(annotations).sort(([a], [b]) => (a < b ? -1 : 1)));

/** JSON as Go's encoding/json writes it, which escapes what HTML would read. */
const goJSON = (value: unknown): Buffer =>
  Buffer.from(
    JSON.stringify(value).replaceAll(/[<>&\u2028\u2029]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`),
  );

/** The manifest that containerd gives a docker image: docker's schema 2, layers as they lie in the archive. */
export function makeDockerManifest(
  config: Pick<Descriptor, 'digest' | 'size'>,
  layers: readonly (Pick<Descriptor, 'digest' | 'size'> & {readonly isCompressed: boolean})[],
): Buffer {
  return goJSON({
    schemaVersion: 2,
    mediaType: DOCKER_MANIFEST,
    config: {mediaType: DOCKER_CONFIG, digest: config.digest, size: config.size},
    layers: layers.map(({digest, size, isCompressed}) => ({
      mediaType: isCompressed ? `${DOCKER_LAYER}.gzip` : DOCKER_LAYER,
      digest,
      size,
    })),
  });
}

/** Images of a docker archive as an OCI index has them: one entry a tag. */
export function nameDockerImage(descriptor: Descriptor, config: ImageConfig, repoTags: readonly string[]): readonly NamedDescriptor[] {
  const platform = normalizePlatform(config);
  const described = platform.os === '' ? descriptor : {...descriptor, platform};
  if (repoTags.length === 0) return [{descriptor: described}];
  return repoTags.map((tag) => {
    const reference = parseReference(tag);
    const name = formatReference(reference);
    const refName = reference.tag ?? `@${reference.digest}`;
    return {descriptor: {...described, annotations: {[IMAGE_NAME]: name, [REF_NAME]: refName}}, name, refName};
  });
}

/** `index.json` of images with their names. */
export const formatLayoutIndex = (images: readonly Descriptor[]): Buffer =>
  goJSON({schemaVersion: 2, mediaType: OCI_INDEX, manifests: images.map(inOrder)});

/** The index that containerd makes of a docker archive's images, for `--index-name`. */
export const formatArchiveIndex = (images: readonly Descriptor[]): Buffer => goJSON({schemaVersion: 2, manifests: images.map(inOrder)});

/** The descriptor of an image for `index.json`. @param name full name */
export function describeImage({mediaType, digest, size}: Descriptor, name: string): Descriptor {
  const reference = parseReference(name);
  return {mediaType, digest, size, annotations: {[IMAGE_NAME]: name, [REF_NAME]: reference.tag ?? `@${reference.digest}`}};
}

/** `manifest.json`, which `docker load` reads. */
export const formatDockerManifest = (images: readonly DockerImage[]): Buffer =>
  goJSON(images.map(({config, repoTags, layers}) => ({Config: config, RepoTags: repoTags.length === 0 ? null : repoTags, Layers: layers})));

/** The name by which docker knows an image; `undefined` for one that is named by digest only. @param name full name */
export function dockerTag(name: string): string | undefined {
  const {digest: _, ...tagged} = parseReference(name);
  return tagged.tag === undefined ? undefined : familiarName(tagged);
}
