/**
 * An image that is made from others in this namespace: leases them, keeps what is new, and names the result once it is whole.
 *
 * Order of steps: lease the sources, then look; derive each manifest; lease the result; publish its blobs; one transaction writes the
 * records and the name, ends the leases and collects. Killed anywhere, only ingests and leases remain, which the next collections remove.
 */
import {ErrdefsError} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {digestOf} from '../../oci/hash.ts';
import {documentType, kindOf, type MediaTypeFamily} from '../../oci/mediatypes.ts';
import {formatPlatform} from '../../oci/platform.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import {collect} from '../../store/gc.ts';
import type {ImageRecord} from '../../store/records.ts';
import {findImage} from '../api/find-image.ts';
import type {Context} from '../context.ts';
import {endLease, leasePlan, releaseLeases} from '../pull/content-leases.ts';
import {type DocumentSource, makePlan, type Plan, type PlannedManifest, platformChoice} from '../pull/plan.ts';
import {recordContent} from '../pull/pull.ts';
import {hasBlob, lacksContent, readVisible, visibleIn} from '../pull/visible-content.ts';
import {assertAllowed} from '../signatures/assert-allowed.ts';
import type {BuildOptions, ProgressEvent} from '../types/index.ts';
import {type JSONObject, type RawDescriptor, replaceDescriptor, rootFamily, type SourceManifest} from './documents.ts';
import {NewBlob} from './new-blob.ts';

/** Derives a manifest. @returns `undefined` when nothing changes */
export type Derive = (source: SourceManifest, build: ImageBuild) => Promise<RawDescriptor | undefined>;

export class ImageBuild {
  readonly context: Context;
  readonly namespace: string;
  readonly signal: AbortSignal | undefined;
  /** Name of the new image. */
  readonly name: string;
  readonly #emit: (event: ProgressEvent) => void;
  readonly #documents = new Map<Digest, {readonly descriptor: Descriptor; readonly bytes: Buffer}>();
  readonly #blobs: NewBlob[] = [];
  readonly #leases: string[] = [];

  constructor(context: Context, namespace: string, name: string, {onEvent = () => {}, signal}: BuildOptions) {
    this.context = context;
    this.namespace = namespace;
    this.name = name;
    this.signal = signal;
    this.#emit = onEvent;
  }

  emit(event: ProgressEvent): void {
    this.#emit(event);
  }

  /** Plans an image of the namespace, leases its content, and checks that all of it is present. @throws not_found */
  async source(text: string, options: Pick<BuildOptions, 'platforms' | 'allPlatforms'>): Promise<{image: ImageRecord; plan: Plan}> {
    const image = findImage(this.context, this.namespace, text);
    return {image, plan: await this.sourceOf(image, options)};
  }

  /** As `source`, of an image or of a manifest of one. */
  async sourceOf(image: Pick<ImageRecord, 'name' | 'target'>, options: Pick<BuildOptions, 'platforms' | 'allPlatforms'>): Promise<Plan> {
    const {context, namespace} = this;
    const {store} = context;
    const isVisible = visibleIn(store, namespace);
    const documents: DocumentSource = async (desc) => {
      const bytes = readVisible(store, isVisible, desc);
      if (bytes === undefined) throw lacksContent(namespace, image.name, desc.digest);
      return bytes;
    };
    const plan = await makePlan(image.target, documents, platformChoice(options));
    this.#leases.push(await leasePlan(store, namespace, this.name, plan, undefined));
    for (const desc of [...[...plan.documents.values()].map(({descriptor}) => descriptor), ...plan.blobs])
      if (!hasBlob(store, isVisible, desc)) throw lacksContent(namespace, image.name, desc.digest);
    return plan;
  }

  /** Begins a blob, which is discarded unless the image is committed. @param ref names it in `content active` */
  async newBlob(ref: string): Promise<NewBlob> {
    const blob = await NewBlob.open(this.context, this.namespace, ref);
    this.#blobs.push(blob);
    return blob;
  }

  /** Adds a document. @returns its descriptor */
  addDocument(mediaType: string, value: unknown): RawDescriptor {
    return this.addBytes(mediaType, Buffer.from(JSON.stringify(value)));
  }

  addBytes(mediaType: string, bytes: Buffer): RawDescriptor {
    const descriptor = {mediaType, digest: digestOf(bytes), size: bytes.length};
    this.#documents.set(descriptor.digest, {descriptor, bytes});
    return descriptor;
  }

  /** Names the image. @param root what `addDocument` returned, or a descriptor of content of the namespace */
  async commit(root: RawDescriptor, labels: ImageRecord['labels']): Promise<ImageRecord> {
    const {context, namespace, name} = this;
    const {store} = context;
    const {mediaType, digest, size} = root;
    const target: Descriptor = {mediaType, digest, size};
    const isVisible = visibleIn(store, namespace);
    const documents: DocumentSource = async (desc) => {
      const bytes = this.#documents.get(desc.digest)?.bytes ?? readVisible(store, isVisible, desc);
      if (bytes === undefined) throw lacksContent(namespace, name, desc.digest);
      return bytes;
    };
    // Reads what was written as a pull would, so that nothing is named that could not be pulled.
    const plan = await makePlan(target, documents, platformChoice({allPlatforms: true}));
    this.#leases.push(await leasePlan(store, namespace, name, plan, undefined));
    this.signal?.throwIfAborted();
    const approval = await assertAllowed(context, namespace, {name, target});
    for (const blob of this.#blobs) blob.publish();
    for (const {descriptor, bytes} of plan.documents.values()) store.blobs.writeSmall(descriptor.digest, bytes);
    store.syncBlobNames([...plan.documents.keys(), ...plan.blobs.map((blob) => blob.digest)]);
    const image = await store.update(`image ${name}`, (tx) => {
      const ns = tx.namespace(namespace);
      approval.assertStill(tx, target);
      recordContent(store, ns, plan, {snapshotter: undefined, source: undefined});
      const before = ns.images.find(name);
      const now = new Date().toISOString();
      const record: ImageRecord = {name, target, labels, createdAt: before?.createdAt ?? now, updatedAt: now};
      const made = ns.images.put(record);
      for (const lease of this.#leases) endLease(ns, name, lease);
      collect(store, tx);
      return made;
    });
    this.#leases.length = 0;
    store.layers.emptyTrash();
    return image;
  }

  /** Discards what was not committed. */
  async close(): Promise<void> {
    for (const blob of this.#blobs) blob[Symbol.dispose]();
    if (this.#leases.length === 0) return;
    await releaseLeases(this.context.store, this.namespace, `image ${this.name}`, this.#leases);
  }
}

export interface DeriveImageOptions extends BuildOptions {
  /** Media types of the root; default: the source's. */
  readonly format?: MediaTypeFamily;
}

/**
 * Makes an image from another one, manifest by manifest. An index stays an index, with the manifests that were chosen; attestations are left
 * out, because they are about the source's manifests.
 */
export async function deriveImage(
  context: Context,
  namespace: string,
  source: string,
  target: string,
  options: DeriveImageOptions,
  derive: Derive,
): Promise<ImageRecord> {
  const build = new ImageBuild(context, namespace, formatReference(parseReference(target)), options);
  try {
    const {image, plan} = await build.source(source, options);
    const made = new Map<Digest, RawDescriptor>();
    for (const planned of plan.manifests) {
      if (planned.image === undefined && planned.descriptor.digest !== plan.root.digest) continue;
      const {descriptor} = planned;
      made.set(descriptor.digest, (await derive(sourceManifest(plan, planned), build)) ?? (descriptor as RawDescriptor));
    }
    if (made.size === 0) throw notAnImage(image.name);
    return await build.commit(deriveRoot(build, plan, plan.root, made, options.format)!, image.labels);
  } finally {
    await build.close();
  }
}

const notAnImage = (name: string): ErrdefsError => new ErrdefsError('failed_precondition', `${name} is not an image with layers`);

/** @throws failed_precondition the manifest is not an image's */
export function sourceManifest(plan: Plan, {descriptor, image}: PlannedManifest): SourceManifest {
  if (image === undefined) throw notAnImage(`manifest ${descriptor.digest}`);
  const parsed = (digest: Digest): JSONObject => JSON.parse(plan.documents.get(digest)!.bytes.toString()) as JSONObject;
  const manifest = parsed(descriptor.digest) as SourceManifest['manifest'];
  return {
    descriptor,
    image,
    family: rootFamily(descriptor.mediaType, undefined),
    manifest: {...manifest, layers: manifest.layers ?? []},
    config: parsed(manifest.config.digest),
  };
}

/** The descriptor of a new index, of a derived manifest, or `undefined` for what the new image does not have. */
function deriveRoot(
  build: ImageBuild,
  plan: Plan,
  desc: Descriptor,
  made: ReadonlyMap<Digest, RawDescriptor>,
  format: MediaTypeFamily | undefined,
): RawDescriptor | undefined {
  if (kindOf(desc.mediaType) !== 'index') return made.get(desc.digest);
  const document = plan.documents.get(desc.digest);
  if (document === undefined) return undefined;
  const index = JSON.parse(document.bytes.toString()) as JSONObject & {readonly manifests: readonly RawDescriptor[]};
  const family = rootFamily(desc.mediaType, format);
  const manifests = index.manifests.flatMap((child) => {
    const to = deriveRoot(build, plan, child as Descriptor, made, format);
    if (to === undefined) return [];
    const platform = child.platform ?? (family === 'docker' ? platformOf(plan, child.digest) : undefined);
    return [{...replaceDescriptor(child, to), ...(platform === undefined ? {} : {platform})}];
  });
  if (manifests.length === 0) return undefined;
  const mediaType = documentType('index', family);
  const {schemaVersion: _, mediaType: __, manifests: ___, ...rest} = index;
  if (family === 'docker') for (const key of ['annotations', 'artifactType', 'subject']) delete rest[key];
  const unchanged = mediaType === desc.mediaType && JSON.stringify(manifests) === JSON.stringify(index.manifests);
  if (unchanged) return build.addBytes(mediaType, document.bytes);
  return build.addDocument(mediaType, {schemaVersion: 2, mediaType, manifests, ...rest});
}

/** The platform of a manifest by its config, which docker's lists always name. */
function platformOf(plan: Plan, digest: Digest): JSONObject | undefined {
  const image = plan.manifests.find(({descriptor}) => descriptor.digest === digest)?.image;
  return image === undefined ? undefined : ({...image.platform} as JSONObject);
}

/** Name of a platform, to find the same one in another image. */
export const platformsOf = (image: SourceManifest['image']): readonly string[] =>
  image.platform.os === '' ? [] : [formatPlatform(image.platform)];
