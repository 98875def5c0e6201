/** `pull REF…`: resolve, plan, lease, fetch and unpack, and finally write the records that make the image visible. */
import {readPrivileges} from '../../archive/process-privileges.ts';
import {ErrdefsError, hasCode, isErrdefs, wrap} from '../../errdefs.ts';
import {isOnOverlay} from '../../fs/free-space.ts';
import type {Lock} from '../../fs/lock.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {embeddedData} from '../../oci/hash.ts';
import {validateLabels} from '../../oci/identifier.ts';
import {MAX_MANIFEST_BYTES} from '../../oci/manifest.ts';
import {formatPlatform} from '../../oci/platform.ts';
import {formatReference, parseReference, type Reference} from '../../oci/reference.ts';
import type {Fetcher, Remote, Resolved} from '../../remotes/types.ts';
import {downloadKey} from '../../store/blob-store.ts';
import {collect} from '../../store/gc.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import {assertWithinQuota, isBeyondQuota, Quota} from '../../store/quota.ts';
import type {ImageRecord, Labels} from '../../store/records.ts';
import {mergeLabels} from '../../store/snapshots.ts';
import {getSnapshotter, type Snapshotter} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {NamespaceTransaction} from '../../store/transaction-types.ts';
import type {Context} from '../context.ts';
import {type Approval, assertAllowed} from '../signatures/assert-allowed.ts';
import type {FetchOptions, ProgressEvent, PullOptions, PullOutcome, PullResult} from '../types/index.ts';
import {endLease, leasePlan, releaseLeases} from './content-leases.ts';
import {withSource} from './distribution-source.ts';
import {type FetchAndUnpackResult, fetchAndUnpack, refKey} from './fetch-and-unpack.ts';
import {recordSnapshots, snapshotLabel} from './image-snapshots.ts';
import {findLayer} from './layer-lookup.ts';
import {type DocumentSource, imagesOf, makePlan, type Plan, type PlatformChoice, platformChoice} from './plan.ts';
import {Slots} from './slots.ts';

/** Those of `pull`, `pullAll` and `content.fetch`. */
type Options = PullOptions & FetchOptions;

const UNCOMPRESSED = 'containerd.io/uncompressed';

export async function pull(context: Context, namespace: string, text: string, options: Options): Promise<PullResult> {
  validateLabels(options.labels ?? {});
  const ref = parseReference(text);
  const remote = await context.openRemote(options);
  try {
    return await pullFrom(context, namespace, ref, options, {remote});
  } finally {
    await remote.close();
  }
}

/** What several pulls share. */
interface Shared {
  readonly remote: Remote;
  readonly slots?: Slots;
}

/** Pulls that run at once: their requests for documents overlap. Downloads have slots of their own. */
const CONCURRENT_PULLS = 4;

/**
 * Pulls several images over one pool of connections and worker threads, each once, whether others fail or not.
 *
 * @returns an outcome for each reference, in their order
 * @throws invalid_argument a malformed reference, or credentials for several registries; nothing is pulled then
 */
export async function pullAll(
  context: Context,
  namespace: string,
  texts: readonly string[],
  options: PullOptions,
): Promise<readonly PullOutcome[]> {
  validateLabels(options.labels ?? {});
  const refs = texts.map((text) => parseReference(text));
  const domains = [...new Set(refs.map(({domain}) => domain))];
  if (domains.length > 1 && (typeof options.credentials === 'object' || options.refreshToken !== undefined))
    throw new ErrdefsError('invalid_argument', `one password for several registries: ${domains.join(', ')}`, {
      hint: 'pull from one registry at a time, so that none gets the password of another',
    });
  const remote = await context.openRemote(options);
  const shared: Shared = {remote, slots: new Slots(options.maxConcurrentDownloads ?? DOWNLOADS)};
  try {
    const names = refs.map(formatReference);
    const outcomes = new Map<string, PullOutcome>();
    const left = [...new Map(refs.map((ref, i) => [names[i]!, ref]))];
    const lane = async (): Promise<void> => {
      for (let next = left.shift(); next !== undefined; next = left.shift()) {
        const [name, ref] = next;
        try {
          outcomes.set(name, {ref: name, result: await pullFrom(context, namespace, ref, options, shared)});
        } catch (err) {
          // A bug, or the end of the command, is not one reference's failure.
          if (!isErrdefs(err) || options.signal?.aborted) throw err;
          outcomes.set(name, {ref: name, error: err});
        }
      }
    };
    const lanes = await Promise.allSettled(Array.from({length: CONCURRENT_PULLS}, lane));
    for (const ended of lanes) if (ended.status === 'rejected') throw ended.reason;
    return names.map((name) => outcomes.get(name)!);
  } finally {
    await remote.close();
  }
}

async function pullFrom(context: Context, namespace: string, ref: Reference, options: Options, shared: Shared): Promise<PullResult> {
  const name = formatReference(ref);
  try {
    return await new Pull(context, namespace, ref, name, options, shared).run();
  } catch (err) {
    throw hasCode(err, 'not_modified') ? err : wrap(`unable to pull ${name}`, err);
  }
}

/** Default of `maxConcurrentDownloads`. */
const DOWNLOADS = 3;

interface Prepared {
  readonly plan: Plan;
  /** Directories of all layers; `undefined` when anything is missing, and then the plan is leased. */
  readonly layers: ReadonlyMap<Digest, string> | undefined;
}

class Pull {
  readonly #context: Context;
  readonly #store: Store;
  readonly #namespace: string;
  readonly #ref: Reference;
  readonly #name: string;
  readonly #o: Options;
  readonly #shared: Shared;
  readonly #snapshotter: Snapshotter | undefined;
  readonly #emit: (event: ProgressEvent) => void;
  readonly #platforms: PlatformChoice;
  #approval: Approval | undefined;
  #leaseID: string | undefined;
  #transferred = 0;
  #layerWarnings: readonly string[] = [];

  constructor(context: Context, namespace: string, ref: Reference, name: string, options: Options, shared: Shared) {
    this.#context = context;
    this.#store = context.store;
    this.#namespace = namespace;
    this.#ref = ref;
    this.#name = name;
    this.#o = options;
    this.#shared = shared;
    this.#emit = options.onEvent ?? (() => {});
    this.#platforms = platformChoice(options);
    this.#snapshotter = options.unpack === false ? undefined : getSnapshotter(context.snapshotterName(namespace, options.snapshotter));
  }

  async run(): Promise<PullResult> {
    if (this.#snapshotter !== undefined) requirePrivileges();
    const started = performance.now();
    const {remote} = this.#shared;
    const fetcher = remote.fetcher(this.#ref);
    const {plan, layers} = await this.#resolveAndPlan(fetcher);
    let image: ImageRecord;
    try {
      image = (layers && (await this.#commitLocal(plan, layers))) ?? (await this.#fetchMissing(plan, fetcher));
    } catch (err) {
      // After other failures the lease keeps what has come for the next attempt.
      if (isBeyondQuota(err) && this.#leaseID !== undefined) await releaseLeases(this.#store, this.#namespace, this.#name, [this.#leaseID]);
      throw err;
    }
    const warnings = [...(plan.warnings ?? []), ...this.#layerWarnings, ...(await this.#overlayWarning())];
    const elapsedMs = performance.now() - started;
    return {image, transferredBytes: this.#transferred, elapsedMs, unpacked: this.#unpacked(plan), warnings};
  }

  /**
   * Resolves the reference and plans. What a mirror resolves it to may be wrong or gone, and nobody's, and the failure that of any host; then the
   * others are asked to resolve it.
   */
  async #resolveAndPlan(fetcher: Fetcher): Promise<Prepared> {
    const {remote} = this.#shared;
    const resolve = async (again: boolean): Promise<Resolved> => {
      this.#emit({ref: this.#name, status: 'resolving', offset: 0, total: 0});
      const resolved = await remote.resolve(this.#ref, {again, ...this.#signalOption()});
      this.#emit({ref: this.#name, status: 'resolved', offset: 0, total: 0});
      return resolved;
    };
    const first = await resolve(false);
    try {
      return await this.#prepare(first, fetcher);
    } catch (err) {
      if (!first.isMirrors || this.#o.signal?.aborted) throw err;
      const {descriptor} = first;
      const second = await resolve(true).catch(() => first);
      if (second.descriptor.digest === descriptor.digest && second.descriptor.size === descriptor.size) throw err;
      return this.#prepare(second, fetcher);
    }
  }

  /** Checks signatures, plans, looks which layers are here, and leases the plan unless all are. */
  async #prepare({descriptor, body}: Resolved, fetcher: Fetcher): Promise<Prepared> {
    let root = body;
    const approval = await this.#approve(this.#shared.remote, descriptor, async () => {
      root ??= await fetcher.bytes(descriptor, {limit: MAX_MANIFEST_BYTES, ...this.#signalOption()});
      return root;
    });
    const source = this.#documents(descriptor, root, (desc, limit) => fetcher.bytes(desc, {limit, ...this.#signalOption()}));
    const documents = await this.#lockDocuments(descriptor);
    try {
      let plan = await makePlan(descriptor, source, this.#platforms);
      if (this.#snapshotter !== undefined) requireImages(plan);
      if (approval.evidence.length > 0) plan = (await import('./add-signatures-to-plan.ts')).withEvidence(plan, approval.evidence);
      const layers = this.#layersHere(plan);
      if (layers === undefined) await this.#lease(plan);
      return {plan, layers};
    } finally {
      documents?.release();
    }
  }

  /** Verifies signatures as the namespace's policy and the caller demand it, before anything of the image is fetched. */
  async #approve(remote: Remote, target: Descriptor, document: () => Promise<Buffer>): Promise<Approval> {
    const {domain, path} = this.#ref;
    const {verifyKeys, signal} = this.#o;
    this.#approval = await assertAllowed(
      this.#context,
      this.#namespace,
      {name: this.#name, target},
      {
        ...(verifyKeys === undefined ? {} : {keys: verifyKeys}),
        repository: `${domain}/${path}`,
        document,
        more: async function* (digest) {
          const {remoteEvidence} = await import('../signatures/signature-sources.ts');
          yield* remoteEvidence(remote, {domain, path}, digest, signal);
        },
      },
    );
    return this.#approval;
  }

  /** Warnings of `doctor` about a root on which containers of this snapshotter cannot have a writable layer. */
  async #overlayWarning(): Promise<readonly string[]> {
    const {root} = this.#store.layout;
    if (this.#snapshotter === undefined || this.#snapshotter.form === 'plain' || !isOnOverlay(root)) return [];
    const {OVERLAY_HINT} = await import('../../runtime/doctor.ts');
    return [`containers of this image cannot run: ${root} lies on overlayfs; ${OVERLAY_HINT}`];
  }

  /**
   * Locks the image's documents, so that they, too, cross the wire once: pulls of the same image wait until one has stored them or failed.
   *
   * @returns `undefined` when they are present, or when the other pull takes too long
   */
  async #lockDocuments(root: Descriptor): Promise<Lock | undefined> {
    const {blobs} = this.#store;
    if (blobs.size(root.digest) !== undefined) return undefined;
    // There will be layers to unpack: start the threads while the documents arrive.
    this.#context.workers.warm();
    this.#store.ensureCreated();
    return blobs
      .lock(downloadKey(root.digest), {
        timeoutMs: this.#context.lockTimeoutMs,
        purpose: `download of ${root.digest}`,
        onWait: () => this.#emit({ref: refKey(root), status: 'waiting', offset: 0, total: root.size}),
        ...this.#signalOption(),
      })
      .catch((err: unknown) => {
        // The holder makes no progress; writing the same documents twice does no harm.
        if (hasCode(err, 'unavailable')) return undefined;
        throw err;
      });
  }

  async #lease(plan: Plan): Promise<void> {
    this.#context.workers.warm();
    this.#leaseID = await leasePlan(this.#store, this.#namespace, this.#name, plan, this.#snapshotter);
    // Children first: another pull takes the root's presence as proof that all documents are present.
    for (const {descriptor, bytes} of [...plan.documents.values()].reverse()) this.#store.blobs.writeSmall(descriptor.digest, bytes);
  }

  /** Writes the records when everything is present. @returns `undefined` when a collection was faster; the rest is leased then */
  async #commitLocal(plan: Plan, layers: ReadonlyMap<Digest, string>): Promise<ImageRecord | undefined> {
    for (const blob of plan.blobs) this.#emit({ref: refKey(blob), status: 'exists', offset: blob.size, total: blob.size});
    if (this.#o.ifChanged && this.#isCurrent(plan))
      throw new ErrdefsError('not_modified', `image ${JSON.stringify(this.#name)} is current`);
    try {
      return await this.#commit(plan, layers);
    } catch (err) {
      if (!hasCode(err, 'aborted')) throw err;
      await this.#lease(plan);
      return undefined;
    }
  }

  /** Fetches what is missing of the leased plan, and writes the records. */
  async #fetchMissing(plan: Plan, fetcher: Fetcher): Promise<ImageRecord> {
    const {layers} = await this.#fetchAndUnpack(plan, fetcher);
    return this.#commit(plan, layers);
  }

  /** Whether the namespace has all records of the plan under this name already. Blobs and layers are present. */
  #isCurrent(plan: Plan): boolean {
    const digests = [...plan.documents.keys(), ...plan.blobs.map(({digest}) => digest)];
    return this.#store.view((tx) => {
      const ns = tx.namespace(this.#namespace);
      const snapshotter = this.#snapshotter;
      const tops = snapshotter === undefined ? [] : imagesOf(plan).flatMap(({layers}) => layers.at(-1)?.chainID ?? []);
      return (
        ns.images.find(this.#name)?.target.digest === plan.root.digest &&
        digests.every((digest) => ns.content.find(digest) !== undefined) &&
        tops.every((chainID) => ns.snapshots(snapshotter!.name).find(chainID) !== undefined)
      );
    });
  }

  #signalOption(): {signal?: AbortSignal} {
    return this.#o.signal === undefined ? {} : {signal: this.#o.signal};
  }

  /** Takes documents from the store, else from the response to resolving, else from the registry. */
  #documents(root: Descriptor, body: Buffer | undefined, fetch: DocumentSource): DocumentSource {
    return async (desc, limit) => {
      const row = {ref: refKey(desc), offset: desc.size, total: desc.size};
      const here = this.#store.blobs.readSmall(desc.digest);
      if (here !== undefined) {
        this.#emit({...row, status: 'exists'});
        return here;
      }
      this.#emit({...row, status: 'downloading', offset: 0});
      const bytes = desc.digest === root.digest && body !== undefined ? body : await fetch(desc, limit);
      if (embeddedData(desc) === undefined) this.#transferred += bytes.length;
      this.#emit({...row, status: 'done'});
      return bytes;
    };
  }

  /** Directories of all layers; `undefined` when anything is missing. */
  #layersHere(plan: Plan): ReadonlyMap<Digest, string> | undefined {
    const blobs = [...[...plan.documents.values()].map(({descriptor}) => descriptor), ...plan.blobs];
    if (!blobs.every((desc) => this.#store.blobs.has(desc))) return undefined;
    const layers = new Map<Digest, string>();
    for (const layer of this.#snapshotter === undefined ? [] : imagesOf(plan).flatMap((image) => image.layers)) {
      const id = findLayer(this.#store, this.#snapshotter!, layer);
      if (id === undefined) return undefined;
      layers.set(layer.chainID, id);
    }
    return layers;
  }

  async #fetchAndUnpack(plan: Plan, source: Fetcher): Promise<FetchAndUnpackResult> {
    const made = await fetchAndUnpack({
      store: this.#store,
      workers: this.#context.workers,
      namespace: this.#namespace,
      plan,
      quota: Quota.of(this.#store, this.#namespace),
      ...(this.#snapshotter === undefined ? {} : {snapshotter: this.#snapshotter}),
      source,
      ...(this.#shared.slots === undefined ? {} : {slots: this.#shared.slots}),
      erofsBacking: this.#context.erofsBacking,
      maxConcurrentDownloads: this.#o.maxConcurrentDownloads ?? DOWNLOADS,
      scratchDir: runtimeStatePath.views(this.#context.stateDir),
      lockTimeoutMs: this.#context.lockTimeoutMs,
      onEvent: this.#emit,
      ...this.#signalOption(),
    });
    this.#transferred += made.transferredBytes;
    this.#layerWarnings = made.warnings;
    return made;
  }

  /** Makes everything visible in one transaction: content, snapshots, the image last. */
  async #commit(plan: Plan, layers: ReadonlyMap<Digest, string>): Promise<ImageRecord> {
    this.#store.syncBlobNames([...plan.documents.keys(), ...plan.blobs.map(({digest}) => digest)]);
    const image = await this.#store.update(`pull of ${this.#name}`, (tx) => {
      const ns = tx.namespace(this.#namespace);
      this.#approval!.assertStill(tx, plan.root);
      recordContent(this.#store, ns, plan, {snapshotter: this.#snapshotter, source: this.#ref});
      if (this.#snapshotter !== undefined) recordSnapshots(this.#store, ns, this.#snapshotter, imagesOf(plan), layers);
      const before = ns.images.find(this.#name);
      const now = new Date().toISOString();
      const {mediaType, digest, size} = plan.root;
      const image: ImageRecord = {
        name: this.#name,
        target: {mediaType, digest, size},
        labels: mergeLabels(before?.labels ?? {}, this.#o.labels ?? {}),
        createdAt: before?.createdAt ?? now,
        updatedAt: now,
      };
      const made = ns.images.put(image);
      endLease(ns, this.#name, this.#leaseID);
      // Collects what only the old image of a moved tag, or killed attempts, needed.
      collect(this.#store, tx);
      return made;
    });
    this.#store.layers.emptyTrash();
    return image;
  }

  #unpacked(plan: Plan): PullResult['unpacked'] {
    const snapshotter = this.#snapshotter;
    if (snapshotter === undefined) return [];
    return imagesOf(plan).flatMap(({platform, layers}) => {
      const top = layers.at(-1);
      return top === undefined ? [] : {platform: formatPlatform(platform), chainID: top.chainID, snapshotter: snapshotter.name};
    });
  }
}

/** @throws permission_denied without root, layers cannot be unpacked, because their files belong to several users; thrown before any download */
export function requirePrivileges(): void {
  if (process.geteuid?.() === 0 || readPrivileges().canChown) return;
  throw new ErrdefsError('permission_denied', "unpacking needs root, because a layer's files belong to several users", {
    hint: 'fetch the image only, with --no-unpack; or run it as root, or in a user namespace: berth unshare PROGRAM',
  });
}

function requireImages(plan: Plan): void {
  if (plan.manifests.length !== 1) return;
  const {descriptor, manifest, image} = plan.manifests[0]!;
  if (image !== undefined) return;
  const types = [...new Set([manifest.config, ...manifest.layers].map(({mediaType}) => JSON.stringify(mediaType)))];
  throw new ErrdefsError('failed_precondition', `manifest ${descriptor.digest} is not an image: it consists of ${types.join(', ')}`, {
    hint: 'pull it with --no-unpack',
  });
}

/**
 * Writes the content records of a plan, with the gc.ref labels between them.
 *
 * @param origin.source the repository it came from; none for an image made here
 * @throws aborted a blob is missing
 * @throws resource_exhausted the namespace would hold more than its quota
 */
export function recordContent(
  store: Store,
  ns: NamespaceTransaction,
  plan: Plan,
  {snapshotter, source}: {readonly snapshotter: Snapshotter | undefined; readonly source: Reference | undefined},
): void {
  const labels = new Map<Digest, Record<string, string>>();
  const label = (digest: Digest, more: Labels): void => void labels.set(digest, {...labels.get(digest), ...more});
  for (const [digest, document] of plan.documents) label(digest, document.labels);
  for (const {manifest, image} of plan.manifests) {
    for (const {blob, diffID} of image?.layers ?? []) label(blob.digest, {[UNCOMPRESSED]: diffID});
    const top = image?.layers.at(-1);
    if (snapshotter !== undefined && top !== undefined) label(manifest.config.digest, {[snapshotLabel(snapshotter)]: top.chainID});
  }
  const now = new Date().toISOString();
  for (const desc of [...[...plan.documents.values()].map(({descriptor}) => descriptor), ...plan.blobs]) {
    if (!store.blobs.has(desc)) throw new ErrdefsError('aborted', `content ${desc.digest} was removed meanwhile`, {hint: 'pull again'});
    const before = ns.content.find(desc.digest);
    const merged = {...before?.labels, ...labels.get(desc.digest)};
    ns.content.put({
      digest: desc.digest,
      size: desc.size,
      labels: source === undefined ? merged : withSource(merged, source),
      createdAt: before?.createdAt ?? now,
      updatedAt: now,
    });
  }
  assertWithinQuota(store, ns);
}
