/** What an export writes: which documents and blobs of which images, after their presence was checked. */

import {blobFile, type DockerImage, describeImage, dockerTag} from '../../archive/archive-documents.ts';
import {berth} from '../../berth-command.ts';
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {digestOf} from '../../oci/hash.ts';
import {isForeignLayer, kindOf} from '../../oci/mediatypes.ts';
import {formatPlatform} from '../../oci/platform.ts';
import {walk} from '../../oci/walk.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {Store} from '../../store/store.ts';
import {makePlan, type Plan, type PlannedManifest, platformChoice} from '../pull/plan.ts';
import {findDocument, hasBlob, type IsVisible, lacksContent, readVisible} from '../pull/visible-content.ts';
import type {ExportOptions} from '../types/index.ts';

/** Where content is looked for. */
export interface ContentView {
  readonly store: Store;
  readonly namespace: string;
  readonly isVisible: IsVisible;
}

export interface ExportPlan {
  /** Images for `index.json`, sorted by name. */
  readonly images: readonly Descriptor[];
  /** Images for docker's `manifest.json`. */
  readonly dockerImages: readonly DockerImage[];
  /** Documents that the store does not have: indexes with fewer platforms. */
  readonly made: ReadonlyMap<Digest, Buffer>;
  /** Everything that is written, each once; sorted by digest. */
  readonly contents: readonly Descriptor[];
  readonly warnings: readonly string[];
}

/**
 * Plans an export.
 *
 * An index is written as it is, so that its digest stays, with the manifests that `platforms` chooses by default: this machine's. With
 * `platforms` it is written anew, with those only; with `allPlatforms` nothing may be missing.
 *
 * @throws not_found content is missing; the hint is the pull that would fetch it
 */
export async function planExport(here: ContentView, images: readonly ImageRecord[], options: ExportOptions): Promise<ExportPlan> {
  const byName = [...new Map(images.map((image) => [image.name, image])).values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  const contents = new Map<Digest, Descriptor>();
  const made = new Map<Digest, Buffer>();
  const warnings: string[] = [];
  const entries: Descriptor[] = [];
  const docker = new Map<Digest, {readonly config: Digest; readonly layers: readonly Digest[]; readonly tags: string[]}>();
  for (const image of byName) {
    const {root, plan} = await planImage(here, image, options, warnings);
    if (root.bytes !== undefined) made.set(root.descriptor.digest, root.bytes);
    const documents = [...plan.documents.values()].map(({descriptor}) => descriptor);
    // An index that is written anew takes the place of those that it was made of.
    const kept = root.bytes === undefined ? documents : documents.filter(({mediaType}) => kindOf(mediaType) !== 'index');
    const blobs = plan.blobs.filter(({mediaType}) => options.skipNonDistributable !== true || !isForeignLayer(mediaType));
    for (const desc of [root.descriptor, ...kept, ...blobs]) contents.set(desc.digest, desc);
    entries.push(describeImage(root.descriptor, image.name));
    const best = options.skipManifestJSON === true ? undefined : dockerManifest(plan);
    if (best === undefined) continue;
    const {digest} = best.descriptor;
    const entry = docker.get(digest) ?? {
      config: best.manifest.config.digest,
      layers: best.manifest.layers.map((layer) => layer.digest),
      tags: [],
    };
    const tag = dockerTag(image.name);
    if (tag !== undefined) entry.tags.push(tag);
    docker.set(digest, entry);
  }
  return {
    images: entries,
    dockerImages: [...docker.values()].map(({config, layers, tags}) => ({
      config: blobFile(config),
      repoTags: tags,
      layers: layers.map(blobFile),
    })),
    made,
    contents: [...contents.values()].sort((a, b) => (a.digest < b.digest ? -1 : 1)),
    warnings,
  };
}

/** Docker's archive has one platform of each image. */
function dockerManifest({manifests}: Plan): PlannedManifest | undefined {
  const images = manifests.filter(({image}) => image !== undefined);
  if (images.length < 2) return images[0];
  const {matchers} = platformChoice({});
  const ours = images.filter(({image}) => matchers[0]!.match(image!.platform));
  return ours.sort((a, b) => matchers[0]!.less(a.image!.platform, b.image!.platform))[0] ?? images[0];
}

interface PlannedRoot {
  readonly root: {readonly descriptor: Descriptor; readonly bytes?: Buffer};
  readonly plan: Plan;
}

async function planImage(here: ContentView, image: ImageRecord, options: ExportOptions, warnings: string[]): Promise<PlannedRoot> {
  const {platforms = [], allPlatforms = false} = options;
  const source = async (desc: Descriptor): Promise<Buffer> => {
    const bytes = readVisible(here.store, here.isVisible, desc);
    if (bytes === undefined) throw lacksContent(here.namespace, image.name, desc.digest);
    return bytes;
  };
  let plan: Plan;
  try {
    plan = await makePlan(image.target, source, platformChoice({platforms, allPlatforms}));
  } catch (err) {
    throw hasCode(err, 'not_found') ? (incomplete(here, image, options) ?? err) : err;
  }
  const all = [...[...plan.documents.values()].map(({descriptor}) => descriptor), ...plan.blobs];
  const absent = all.filter((desc) => !hasBlob(here.store, here.isVisible, desc) && !isLeftOut(desc, options));
  if (absent.length > 0) throw incomplete(here, image, options) ?? lacksContent(here.namespace, image.name, absent[0]!.digest);
  const {mediaType, digest, size} = image.target;
  const target = {mediaType, digest, size};
  if (platforms.length === 0) {
    warnings.push(...(plan.warnings ?? []).map((warning) => `${image.name}: ${warning}`));
    return {root: {descriptor: target}, plan};
  }
  if (kindOf(mediaType) !== 'index') {
    const [other] = plan.warnings ?? [];
    if (other !== undefined)
      throw new ErrdefsError('not_found', `platform ${platforms.join(', ')} of image ${JSON.stringify(image.name)}`, {hint: other});
    return {root: {descriptor: target}, plan};
  }
  const bytes = selectManifests(plan);
  if (bytes === undefined) return {root: {descriptor: target}, plan};
  const descriptor = {mediaType, digest: digestOf(bytes), size: bytes.length};
  warnings.push(
    `${image.name}: the index is written with ${plan.manifests.map(({descriptor: {platform}}) => formatPlatform(platform ?? {os: '', architecture: ''})).join(', ')} only, so its digest is ${descriptor.digest} and no longer ${digest}`,
  );
  return {root: {descriptor, bytes}, plan};
}

const isLeftOut = ({mediaType}: Descriptor, {skipNonDistributable = false}: ExportOptions): boolean =>
  skipNonDistributable && isForeignLayer(mediaType);

/** The root index with the planned manifests only; `undefined` when it has no others. */
function selectManifests({root, documents, manifests}: Plan): Buffer | undefined {
  const index = JSON.parse(documents.get(root.digest)!.bytes.toString()) as {manifests: Record<string, unknown>[]};
  // A manifest of an index within the index is taken from there.
  const offered = new Map<unknown, Record<string, unknown>>();
  for (const {descriptor, bytes} of [...documents.values()].reverse())
    if (kindOf(descriptor.mediaType) === 'index')
      for (const entry of (JSON.parse(bytes.toString()) as typeof index).manifests) offered.set(entry.digest, entry);
  const chosen = manifests.map(({descriptor}) => offered.get(descriptor.digest)!);
  const isWhole =
    chosen.length === index.manifests.length && index.manifests.every(({digest}) => chosen.some((entry) => entry.digest === digest));
  return isWhole ? undefined : Buffer.from(JSON.stringify({...index, manifests: chosen}));
}

/** The error for an image of which something is missing, naming all that is; `undefined` when nothing is. */
function incomplete({store, namespace, isVisible}: ContentView, image: ImageRecord, options: ExportOptions): ErrdefsError | undefined {
  const {platforms = [], allPlatforms = false} = options;
  const wanted = platformChoice({platforms}).matchers;
  const missing = new Map<Digest, string>();
  /** The platform of the manifest that a descriptor lies below. */
  const platformOf = new Map<Digest, string>();
  const isWanted = (desc: Descriptor): boolean =>
    allPlatforms || desc.platform === undefined || wanted.some((matcher) => matcher.match(desc.platform!));
  const skipped = new Set<Digest>();
  const documents = (desc: Descriptor): Buffer | undefined => (skipped.has(desc.digest) ? undefined : findDocument(store, isVisible, desc));
  for (const {descriptor, children, kind} of walk(image.target, (desc, of) =>
    of === 'index' || of === 'manifest' ? documents(desc) : undefined,
  )) {
    for (const child of children) {
      if (kind === 'index' && !isWanted(child)) skipped.add(child.digest);
      const platform = child.platform === undefined ? platformOf.get(descriptor.digest) : formatPlatform(child.platform);
      if (platform !== undefined) platformOf.set(child.digest, platform);
    }
    if (skipped.has(descriptor.digest) || hasBlob(store, isVisible, descriptor) || isLeftOut(descriptor, options)) continue;
    missing.set(descriptor.digest, platformOf.get(descriptor.digest) ?? '');
  }
  if (missing.size === 0) return undefined;
  const names = [...new Set(missing.values())].filter((name) => name !== '').sort();
  const flags = allPlatforms ? ['--all-platforms'] : platforms.flatMap((platform) => ['--platform', platform]);
  const lacks = names.length === 0 ? [...missing.keys()].join(', ') : `content for ${names.join(', ')}`;
  return new ErrdefsError('not_found', `image ${JSON.stringify(image.name)} is incomplete: ${lacks}`, {
    hint: `${allPlatforms ? 'export some platforms with --platform, or pull it' : 'pull it'}: ${berth`-n ${namespace} images pull ${[...flags, image.name]}`}`,
    details: {image: image.name, missing: [...missing.keys()], platforms: names},
  });
}
