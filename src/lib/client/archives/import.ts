/**
 * `images import`: images of an archive get names in a namespace. What can be read from any offset, a tar on disk or a directory, is read
 * as a registry is: plan, lease, and then each blob once. What can be read only once is taken in first (streamed-archive.ts).
 */

import {type ArchiveFiles, archiveKind, ofArchive, openDirectoryFiles, openTarFiles} from '../../archive/archive-reader.ts';
import {type ArchivedImages, readArchivedImages} from '../../archive/archived-images.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {type Descriptor, type Digest, digestParts} from '../../oci/descriptor.ts';
import {createHash} from '../../oci/hash.ts';
import {validateLabels} from '../../oci/identifier.ts';
import {isForeignLayer} from '../../oci/mediatypes.ts';
import {formatPlatform} from '../../oci/platform.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import {downloadKey} from '../../store/blob-store.ts';
import {collect} from '../../store/gc.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import {Quota} from '../../store/quota.ts';
import type {ImageRecord} from '../../store/records.ts';
import {mergeLabels} from '../../store/snapshots.ts';
import {getSnapshotter, type Snapshotter} from '../../store/snapshotters.ts';
import type {Context} from '../context.ts';
import {endLease, leasePlan, releaseLeases} from '../pull/content-leases.ts';
import {fetchAndUnpack, type PreparedLayer} from '../pull/fetch-and-unpack.ts';
import {recordSnapshots} from '../pull/image-snapshots.ts';
import {imagesOf, makePlan, type Plan, type PlatformChoice, platformChoice} from '../pull/plan.ts';
import {recordContent, requirePrivileges} from '../pull/pull.ts';
import {isVisibleAt, readVisible, visibleIn} from '../pull/visible-content.ts';
import {type Approval, assertAllowed} from '../signatures/assert-allowed.ts';
import type {ImportOptions, ImportResult, ProgressEvent} from '../types/index.ts';
import {assertPath} from './assert-path.ts';
import {createNaming} from './image-names.ts';
import {StreamedArchive} from './streamed-archive.ts';

/** Imports an archive: a path, or its bytes. */
export async function importImages(
  context: Context,
  namespace: string,
  source: string | AsyncIterable<Uint8Array>,
  options: ImportOptions,
): Promise<ImportResult> {
  validateLabels(options.labels ?? {});
  const naming = createNaming(options);
  const snapshotter = options.unpack === false ? undefined : getSnapshotter(context.snapshotterName(namespace, options.snapshotter));
  if (snapshotter !== undefined) requirePrivileges();
  const started = performance.now();
  const archive = await openArchive(context, namespace, source, snapshotter, options);
  try {
    const result = await new Import(context, namespace, archive, snapshotter, options).run(naming);
    const taken = archive instanceof StreamedArchive ? archive.storedBytes : 0;
    return {...result, transferredBytes: result.transferredBytes + taken, elapsedMs: performance.now() - started};
  } catch (err) {
    throw ofArchive(archive.what, err);
  } finally {
    archive.close();
  }
}

async function openArchive(
  context: Context,
  namespace: string,
  source: string | AsyncIterable<Uint8Array>,
  snapshotter: Snapshotter | undefined,
  {onEvent = () => {}, signal}: ImportOptions,
): Promise<ArchiveFiles> {
  if (typeof source === 'string') assertPath(source);
  const what = typeof source === 'string' ? `archive ${JSON.stringify(source)}` : 'the archive';
  const kind = typeof source === 'string' ? archiveKind(source, what) : 'stream';
  if (kind === 'directory') return openDirectoryFiles(source as string, what);
  if (snapshotter !== undefined) context.workers.warm();
  if (kind === 'tar') return openTarFiles(source as string, what);
  const {createReadStream} = await import('node:fs');
  return StreamedArchive.receive({
    context,
    namespace,
    source: typeof source === 'string' ? createReadStream(source, {highWaterMark: 1 << 20}) : source,
    what,
    ...(snapshotter === undefined ? {} : {snapshotter}),
    onEvent,
    ...(signal === undefined ? {} : {signal}),
  });
}

/** An image that gets a name. */
interface Target {
  readonly descriptor: Descriptor;
  readonly plan: Plan;
}

class Import {
  readonly #context: Context;
  readonly #namespace: string;
  readonly #archive: ArchiveFiles;
  readonly #snapshotter: Snapshotter | undefined;
  readonly #o: ImportOptions;
  readonly #emit: (event: ProgressEvent) => void;
  readonly #platforms: PlatformChoice;

  constructor(context: Context, namespace: string, archive: ArchiveFiles, snapshotter: Snapshotter | undefined, options: ImportOptions) {
    this.#context = context;
    this.#namespace = namespace;
    this.#archive = archive;
    this.#snapshotter = snapshotter;
    this.#o = options;
    this.#platforms = platformChoice(options);
    const {onEvent = () => {}} = options;
    // The bytes come from the archive, not over the network.
    this.#emit = (event) => onEvent(event.status === 'downloading' ? {...event, status: 'reading'} : event);
  }

  async run(naming: ReturnType<typeof createNaming>): Promise<Omit<ImportResult, 'elapsedMs'>> {
    const {store} = this.#context;
    const images = await readArchivedImages(this.#archive, this.#o.signal);
    const targets = await this.#targets(images, naming);
    const [first] = targets.keys();
    const whole = mergePlans([...new Set([...targets.values()].map((target) => target.plan))]);
    const plan = this.#withoutAbsent(images, whole);
    const approvals: (readonly [Approval, Descriptor])[] = [];
    for (const [name, {descriptor}] of targets)
      approvals.push([await assertAllowed(this.#context, this.#namespace, {name, target: descriptor}), descriptor]);
    this.#o.signal?.throwIfAborted();
    const begun = new Set(plan.blobs.map(({digest}) => downloadKey(digest)).filter((key) => store.blobs.ingestState(key) !== undefined));
    const lease = await leasePlan(store, this.#namespace, first!, plan, this.#snapshotter);
    try {
      // Children first: a pull takes the root's presence as proof that all documents are present.
      for (const {descriptor, bytes} of [...plan.documents.values()].reverse()) store.blobs.writeSmall(descriptor.digest, bytes);
      const visible = this.#visibleBlobs(plan);
      const read = new Set<Digest>();
      const {layers, warnings, transferredBytes} = await this.#storeAndUnpack(images, plan, read);
      await this.#verifyUnread(images, plan, visible.union(read));
      const records = await this.#commit(targets, approvals, plan, layers, lease, first!);
      return {
        images: records,
        transferredBytes,
        unpacked: this.#unpacked(plan),
        warnings: [...(plan.warnings ?? []), ...warnings],
      };
    } catch (err) {
      await this.#giveUp(plan, lease, begun);
      throw err;
    }
  }

  /** Names, and what they stand for. @throws not_found no image is left */
  async #targets(images: ArchivedImages, naming: ReturnType<typeof createNaming>): Promise<ReadonlyMap<string, Target>> {
    const {indexName, platforms = []} = this.#o;
    const plans = new Map<Digest, Plan>();
    const planOf = async (descriptor: Descriptor): Promise<Plan> => {
      const known = plans.get(descriptor.digest);
      const plan = known ?? (await makePlan(descriptor, (desc, limit) => this.#document(images, desc, limit), this.#platforms));
      plans.set(descriptor.digest, plan);
      return plan;
    };
    const targets = new Map<string, Target>();
    const others = new Set<string>();
    const dropped: string[] = [];
    for (const image of images.images) {
      const names = naming(image);
      if (names.length === 0) dropped.push(image.name ?? image.refName ?? image.descriptor.digest);
      if (names.length === 0) continue;
      const {mediaType, digest, size} = image.descriptor;
      const plan = await planOf({mediaType, digest, size});
      // A single manifest is taken whatever its platform, unless platforms were asked for, or the name has another one.
      const isOther = (plan.warnings ?? []).length > 0;
      for (const name of names) {
        if (isOther && platforms.length > 0) {
          for (const {image: found} of plan.manifests) if (found !== undefined) others.add(formatPlatform(found.platform));
        } else if (!isOther || !targets.has(name)) targets.set(name, {descriptor: plan.root, plan});
      }
    }
    if (indexName !== undefined) {
      const plan = await planOf(images.index.descriptor);
      targets.set(formatReference(parseReference(indexName)), {descriptor: plan.root, plan});
    }
    if (targets.size > 0) return targets;
    if (others.size > 0)
      throw new ErrdefsError('not_found', `platform ${this.#platforms.wanted}`, {hint: `the archive has ${[...others].sort().join(', ')}`});
    throw new ErrdefsError('not_found', dropped.length === 0 ? 'image' : 'image of that base name', {
      hint: dropped.length === 0 ? 'its list of images is empty' : `it has ${dropped.join(', ')}; see --base-name`,
    });
  }

  /** A document of the archive; one that the archive leaves out, from the namespace. */
  async #document(images: ArchivedImages, desc: Descriptor, limit: number): Promise<Buffer> {
    const {store} = this.#context;
    const isKnown = desc.digest === images.index.descriptor.digest || images.has(desc.digest);
    const bytes = isKnown ? undefined : readVisible(store, visibleIn(store, this.#namespace), desc);
    return bytes ?? images.document(desc, limit);
  }

  /**
   * The plan without layers that the archive may leave out: those that come from elsewhere by their URLs. Everything else comes from the
   * archive, or was visible in the namespace before: a digest alone is no right to see another namespace's content.
   *
   * @throws not_found naming everything that is missing
   */
  #withoutAbsent(images: ArchivedImages, plan: Plan): Plan {
    const visible = this.#visibleBlobs(plan);
    const missing = plan.blobs.filter(({digest}) => !images.has(digest) && !visible.has(digest));
    if (missing.length === 0) return plan;
    const isElsewhere = missing.every(({mediaType, urls = []}) => isForeignLayer(mediaType) && urls.length > 0);
    if (isElsewhere && this.#snapshotter === undefined) {
      const absent = new Set(missing.map(({digest}) => digest));
      const warnings = [...absent].map(
        (digest) => `the archive leaves out the foreign layer ${digest}: pull the image with --allow-foreign`,
      );
      return {...plan, blobs: plan.blobs.filter(({digest}) => !absent.has(digest)), warnings: [...(plan.warnings ?? []), ...warnings]};
    }
    throw new ErrdefsError('not_found', `content ${missing.map(({digest}) => digest).join(', ')}`, {
      hint: isElsewhere
        ? 'the archive leaves out foreign layers: import it with --no-unpack'
        : 'the archive is incomplete: export it again, with all that it names',
      details: {missing: missing.map(({digest}) => digest)},
    });
  }

  /** Blobs that the namespace sees. */
  #visibleBlobs({blobs}: Plan): ReadonlySet<Digest> {
    return this.#context.store.view((tx) => {
      const isVisible = isVisibleAt(tx, this.#namespace);
      return new Set(blobs.map(({digest}) => digest).filter(isVisible));
    });
  }

  /**
   * Hashes the archive's blobs that were not read, because another namespace has them, or has published or begun them meanwhile: a digest
   * alone is no right to them.
   */
  async #verifyUnread(images: ArchivedImages, plan: Plan, known: ReadonlySet<Digest>): Promise<void> {
    // What was stored on its way in has been hashed.
    const hashed = this.#archive instanceof StreamedArchive ? this.#archive.storedDigests : new Set<Digest>();
    for (const blob of plan.blobs) {
      if (hashed.has(blob.digest) || known.has(blob.digest)) continue;
      const [algorithm] = digestParts(blob.digest);
      const hash = createHash(algorithm);
      for await (const chunk of images.blob(blob)) {
        this.#o.signal?.throwIfAborted();
        hash.update(chunk);
      }
      const actual = `${algorithm}:${hash.digest('hex')}`;
      if (actual !== blob.digest) throw new ErrdefsError('failed_precondition', `blob ${blob.digest} is ${actual} in the archive`);
    }
  }

  /** @param read gets the digests of blobs that were read from their first byte on, and so verified */
  async #storeAndUnpack(images: ArchivedImages, plan: Plan, read: Set<Digest>): ReturnType<typeof fetchAndUnpack> {
    const {store, workers, lockTimeoutMs, erofsBacking, stateDir} = this.#context;
    const {signal} = this.#o;
    let prepared: ReadonlyMap<Digest, PreparedLayer> | undefined;
    if (this.#archive instanceof StreamedArchive) {
      this.#archive.publish(new Set(plan.blobs.map(({digest}) => digest)));
      prepared = this.#archive.prepared;
    }
    return fetchAndUnpack({
      store,
      workers,
      namespace: this.#namespace,
      plan,
      quota: Quota.of(store, this.#namespace),
      ...(this.#snapshotter === undefined ? {} : {snapshotter: this.#snapshotter}),
      ...(prepared === undefined ? {} : {prepared}),
      source: {
        stream: async (desc, sink, {offset, signal: stop}) => {
          for await (const chunk of images.blob(desc, offset)) {
            stop?.throwIfAborted();
            await sink(chunk);
          }
          if ((offset ?? 0) === 0) read.add(desc.digest);
        },
        rejected: () => false,
      },
      erofsBacking,
      maxConcurrentDownloads: 3,
      scratchDir: runtimeStatePath.views(stateDir),
      lockTimeoutMs,
      onEvent: this.#emit,
      ...(signal === undefined ? {} : {signal}),
    });
  }

  /** Makes everything visible in one transaction: content, snapshots, the images last. */
  async #commit(
    targets: ReadonlyMap<string, Target>,
    approvals: readonly (readonly [Approval, Descriptor])[],
    plan: Plan,
    layers: ReadonlyMap<Digest, string>,
    lease: string,
    first: string,
  ): Promise<readonly ImageRecord[]> {
    const {store} = this.#context;
    store.syncBlobNames([...plan.documents.keys(), ...plan.blobs.map(({digest}) => digest)]);
    const records = await store.update(`import of ${first}`, (tx) => {
      const ns = tx.namespace(this.#namespace);
      for (const [approval, target] of approvals) approval.assertStill(tx, target);
      recordContent(store, ns, plan, {snapshotter: this.#snapshotter, source: undefined});
      if (this.#snapshotter !== undefined) recordSnapshots(store, ns, this.#snapshotter, imagesOf(plan), layers);
      const now = new Date().toISOString();
      const made = [...targets].map(
        ([
          name,
          {
            descriptor: {mediaType, digest, size},
          },
        ]) => {
          const before = ns.images.find(name);
          return ns.images.put({
            name,
            target: {mediaType, digest, size},
            labels: mergeLabels(before?.labels ?? {}, this.#o.labels ?? {}),
            createdAt: before?.createdAt ?? now,
            updatedAt: now,
          });
        },
      );
      endLease(ns, first, lease);
      collect(store, tx);
      return made;
    });
    store.layers.emptyTrash();
    return records;
  }

  /** Keeps nothing of an archive that could not be imported: unlike a download, it can be read again. */
  async #giveUp(plan: Plan, lease: string, begun: ReadonlySet<string>): Promise<void> {
    const {store} = this.#context;
    for (const {digest} of plan.blobs) {
      const key = downloadKey(digest);
      if (!begun.has(key)) store.housekeeping.attempt(`ingest ${key}`, () => void store.blobs.discardIdleIngest(key));
    }
    await releaseLeases(store, this.#namespace, 'a failed import', [lease]);
  }

  #unpacked(plan: Plan): ImportResult['unpacked'] {
    const snapshotter = this.#snapshotter;
    if (snapshotter === undefined) return [];
    return imagesOf(plan).flatMap(({platform, layers}) => {
      const top = layers.at(-1);
      return top === undefined ? [] : {platform: formatPlatform(platform), chainID: top.chainID, snapshotter: snapshotter.name};
    });
  }
}

/** One plan for several images; what they share is in it once. */
function mergePlans(plans: readonly Plan[]): Plan {
  const [first] = plans;
  if (plans.length === 1) return first!;
  const byDigest = <T>(items: readonly T[], digest: (item: T) => Digest): readonly T[] => [
    ...new Map(items.map((item) => [digest(item), item])).values(),
  ];
  return {
    root: first!.root,
    documents: new Map(plans.flatMap(({documents}) => [...documents])),
    manifests: byDigest(
      plans.flatMap(({manifests}) => manifests),
      ({descriptor}) => descriptor.digest,
    ),
    blobs: byDigest(
      plans.flatMap(({blobs}) => blobs),
      ({digest}) => digest,
    ),
    warnings: [...new Set(plans.flatMap(({warnings = []}) => warnings))],
  };
}
