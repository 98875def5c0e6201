/** Plans a pull: reads an image's documents from any source, and lists the blobs and layers that it needs. */
import {ErrdefsError} from '../../errdefs.ts';
import type {Descriptor, Digest, Platform} from '../../oci/descriptor.ts';
import {
  chainIDs,
  gcLabels,
  type ImageConfig,
  MAX_CONFIG_BYTES,
  MAX_MANIFEST_BYTES,
  type Manifest,
  pairLayers,
  parseImageConfig,
  parseIndex,
  parseManifest,
} from '../../oci/manifest.ts';
import {kindOf} from '../../oci/mediatypes.ts';
import {formatPlatform, hostPlatform, matcher, normalizePlatform, type PlatformMatcher, parsePlatform} from '../../oci/platform.ts';
import {MAX_DEPTH} from '../../oci/walk.ts';
import type {Labels} from '../../store/records.ts';

/** Reads a small object, whole and verified. @param limit largest size that is accepted, in bytes */
export type DocumentSource = (desc: Descriptor, limit: number) => Promise<Buffer>;

/** A selected manifest. */
export interface PlannedManifest {
  readonly descriptor: Descriptor;
  readonly manifest: Manifest;
  /** Absent for an artifact, which has layers but no root filesystem. */
  readonly image?: PlannedImage;
}

export interface PlannedImage {
  readonly platform: Platform;
  readonly config: ImageConfig;
  /** Bottom first; one for each layer of the manifest. */
  readonly layers: readonly PlannedLayer[];
}

export interface PlannedLayer {
  readonly blob: Descriptor;
  readonly diffID: Digest;
  readonly chainID: Digest;
}

export interface Plan {
  readonly root: Descriptor;
  /** Indexes, manifests and image configs, whole. */
  readonly documents: ReadonlyMap<Digest, {readonly descriptor: Descriptor; readonly bytes: Buffer; readonly labels: Labels}>;
  readonly manifests: readonly PlannedManifest[];
  /** Layers, and configs of artifacts; each once. */
  readonly blobs: readonly Descriptor[];
  /** Warnings about the selected platform. */
  readonly warnings?: readonly string[];
}

/** Images of a plan: its manifests with a root filesystem. */
export const imagesOf = (plan: Plan): readonly PlannedImage[] => plan.manifests.flatMap(({image}) => image ?? []);

/** Which platforms to take from an index. */
export interface PlatformChoice {
  /** One for each wanted platform. */
  readonly matchers: readonly PlatformMatcher[];
  /** Takes every platform instead. */
  readonly all: boolean;
  /** Reads manifests and configs of the other platforms, too. */
  readonly allMetadata: boolean;
  /** Takes no layers. */
  readonly metadataOnly: boolean;
  /** For messages. */
  readonly wanted: string;
}

/** The caller's choice of platforms; this machine's by default. @throws invalid_argument */
export function platformChoice({
  platforms = [],
  allPlatforms = false,
  allMetadata = false,
  metadataOnly = false,
}: {
  readonly platforms?: readonly string[];
  readonly allPlatforms?: boolean;
  readonly allMetadata?: boolean;
  readonly metadataOnly?: boolean;
}): PlatformChoice {
  const wanted = platforms.length === 0 ? [hostPlatform()] : platforms.map(parsePlatform);
  return {
    matchers: wanted.map((platform) => matcher([platform])),
    all: allPlatforms,
    allMetadata: allMetadata || metadataOnly,
    metadataOnly,
    wanted: wanted.map(formatPlatform).join(', '),
  };
}

/** Limits for the documents of one image, which are all in memory before any is stored. */
export const MAX_DOCUMENTS = 10_000;
export const MAX_DOCUMENTS_BYTES = 64 * 1024 * 1024;

/**
 * Reads the documents below `root` and selects manifests of an index by platform. A manifest without an index is taken whatever its
 * platform, with a warning. A manifest that is read for its metadata alone has no gc labels for its layers, and is not among `manifests`.
 *
 * @throws not_found no platform matches; the hint lists those on offer
 * @throws invalid_argument a document is malformed, too large, or nested too deep
 * @throws resource_exhausted the documents are too many, or too large together
 */
export async function makePlan(root: Descriptor, source: DocumentSource, platforms: PlatformChoice): Promise<Plan> {
  const documents = new Map<Digest, {descriptor: Descriptor; bytes: Buffer; labels: Labels}>();
  const manifests: PlannedManifest[] = [];
  const blobs = new Map<Digest, Descriptor>();
  const warnings: string[] = [];
  let size = 0;

  const read = (desc: Descriptor, limit: number): Promise<Buffer> => {
    size += desc.size;
    if (size > MAX_DOCUMENTS_BYTES || documents.size >= MAX_DOCUMENTS)
      throw new ErrdefsError(
        'resource_exhausted',
        `index ${root.digest} refers to more than ${MAX_DOCUMENTS} manifests, or ${MAX_DOCUMENTS_BYTES} B of them`,
        {hint: 'pull fewer platforms at a time'},
      );
    return source(desc, limit);
  };

  const visit = async (desc: Descriptor, depth: number, withLayers: boolean): Promise<void> => {
    if (documents.has(desc.digest)) return;
    if (depth > MAX_DEPTH)
      throw new ErrdefsError('invalid_argument', `index ${root.digest} is nested more than ${MAX_DEPTH} deep`, {
        hint: 'pull one of the indexes in it, by its digest',
      });
    const kind = kindOf(desc.mediaType);
    if (kind !== 'index' && kind !== 'manifest')
      throw new ErrdefsError('not_implemented', `media type ${JSON.stringify(desc.mediaType)} of ${desc.digest}`);
    const bytes = await read(desc, MAX_MANIFEST_BYTES);
    if (kind === 'index') {
      const {manifests: offered} = parseIndex(bytes, desc);
      documents.set(desc.digest, {descriptor: desc, bytes, labels: gcLabels(desc, offered)});
      const chosen = withLayers && !platforms.metadataOnly ? choose(offered, platforms) : [];
      // Of a manifest that occurs twice, the first visit decides.
      for (const child of chosen) await visit(child, depth + 1, true);
      if (platforms.allMetadata) for (const child of offered) await visit(child, depth + 1, false);
      return;
    }
    const manifest = parseManifest(bytes, desc);
    if (!withLayers) {
      await visitMetadata(desc, bytes, manifest);
      return;
    }
    documents.set(desc.digest, {descriptor: desc, bytes, labels: gcLabels(desc, [manifest.config, ...manifest.layers])});
    for (const layer of manifest.layers) blobs.set(layer.digest, layer);
    if (kindOf(manifest.config.mediaType) !== 'config') {
      blobs.set(manifest.config.digest, manifest.config);
      manifests.push({descriptor: desc, manifest});
      return;
    }
    const configBytes = await read(manifest.config, MAX_CONFIG_BYTES);
    documents.set(manifest.config.digest, {descriptor: manifest.config, bytes: configBytes, labels: {}});
    // BuildKit's attestations have an image config, but their layers are not layers of a root filesystem.
    if (manifest.layers.some((layer) => kindOf(layer.mediaType) !== 'layer')) {
      manifests.push({descriptor: desc, manifest});
      return;
    }
    const image = planImage(desc, manifest, parseImageConfig(configBytes, manifest.config));
    // Without an index there is no choice: ctr takes the manifest as it is, podman with a warning.
    const {os, architecture} = image.platform;
    const isNamed = os !== '' && architecture !== '';
    if (depth === 1 && isNamed && !platforms.all && !platforms.matchers.some((m) => m.match(image.platform)))
      warnings.push(`the image is for ${formatPlatform(image.platform)} only, not for ${platforms.wanted}`);
    manifests.push({descriptor: desc, manifest, image});
  };

  const visitMetadata = async (desc: Descriptor, bytes: Buffer, {config}: Manifest): Promise<void> => {
    const isImage = kindOf(config.mediaType) === 'config';
    documents.set(desc.digest, {descriptor: desc, bytes, labels: gcLabels(desc, isImage ? [config] : [])});
    if (!isImage || documents.has(config.digest)) return;
    documents.set(config.digest, {descriptor: config, bytes: await read(config, MAX_CONFIG_BYTES), labels: {}});
  };

  await visit(root, 1, !platforms.metadataOnly);
  return {root, documents, manifests, blobs: [...blobs.values()], warnings};
}

function planImage(desc: Descriptor, manifest: Manifest, config: ImageConfig): PlannedImage {
  const chain = chainIDs(config.rootfs.diffIDs);
  return {
    platform: desc.platform ?? normalizePlatform(config),
    config,
    layers: pairLayers(manifest, config).map(({layer, diffID}, i) => ({blob: layer, diffID, chainID: chain[i]!})),
  };
}

/** Selects the best match for each wanted platform. Attestations (`unknown/unknown`) match no platform. */
export function choose(offered: readonly Descriptor[], platforms: PlatformChoice): readonly Descriptor[] {
  if (platforms.all) return offered;
  const chosen = new Set<Descriptor>();
  for (const matcher of platforms.matchers) {
    const matching = offered.filter(({platform}) => platform !== undefined && matcher.match(platform));
    // Manifests without a platform: their configs may name one; the first is as good as any.
    const best = matching.sort((a, b) => matcher.less(a.platform!, b.platform!))[0] ?? offered.find(({platform}) => platform === undefined);
    if (best === undefined)
      throw noMatch(
        platforms,
        offered.flatMap(({platform}) => platform ?? []),
      );
    chosen.add(best);
  }
  return [...chosen];
}

function noMatch({wanted}: PlatformChoice, offered: readonly Platform[]): ErrdefsError {
  const names = [...new Set(offered.filter(({os}) => os !== 'unknown').map(formatPlatform))].sort();
  return new ErrdefsError('not_found', `platform ${wanted} in index`, {
    hint: names.length === 0 ? 'it offers no platform' : `it offers ${names.join(', ')}; choose with --platform`,
    details: {wanted, offered: names},
  });
}
