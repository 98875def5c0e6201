/**
 * Fetches the blobs of a plan and unpacks its layers. Each blob is downloaded once for all processes, and each layer is unpacked once,
 * during the download. Nothing becomes visible in a namespace here; the caller writes the records at the end.
 */
import {existsSync} from 'node:fs';
import {reconcile} from '../../archive/apply.ts';
import {type Code, codeOf, ErrdefsError, hasCode, wrap} from '../../errdefs.ts';
import {requireFreeSpace} from '../../fs/free-space.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {embeddedData} from '../../oci/hash.ts';
import {kindOf} from '../../oci/mediatypes.ts';
import type {Fetcher} from '../../remotes/types.ts';
import type {MountHolder} from '../../runtime/private-mount.ts';
import type {Backing} from '../../store/indexed-layer.ts';
import type {Quota} from '../../store/quota.ts';
import {type Snapshotter, seedLayer} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {ProgressEvent} from '../types/index.ts';
import {completeIndex} from '../workers/layer-index.ts';
import type {LayerJob, WorkerPool} from '../workers/pool.ts';
import type {UnpackResult} from '../workers/unpack-job.ts';
import {bytesHere, copyProgress, discardOthers, lockDownload} from './download-lock.ts';
import {findLayer, openTrees, startScratchMountHolder} from './layer-lookup.ts';
import type {Plan, PlannedLayer} from './plan.ts';
import type {Slots} from './slots.ts';

export interface FetchAndUnpackOptions {
  readonly store: Store;
  readonly workers: WorkerPool;
  readonly namespace: string;
  readonly plan: Plan;
  /** Of the namespace, if it has one. */
  readonly quota: Quota | undefined;
  /** Absent: blobs are only stored. */
  readonly snapshotter?: Snapshotter;
  /** Called only for layers that are indexed. */
  readonly erofsBacking: () => Backing;
  /** Absent: only local blobs can be used. */
  readonly source?: Pick<Fetcher, 'stream' | 'rejected'>;
  /** Layers that were unpacked before their image was known. Their directories are published or removed here. */
  readonly prepared?: ReadonlyMap<Digest, PreparedLayer>;
  readonly maxConcurrentDownloads: number;
  /** Slots for downloads that several pulls share. Default: `maxConcurrentDownloads` of its own. */
  readonly slots?: Slots;
  /** Parent directory of scratch mounts, below the state directory. */
  readonly scratchDir: string;
  /** Longest wait for a process that downloads a blob without progress, in milliseconds. */
  readonly lockTimeoutMs: number;
  readonly onEvent: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** A blob that was unpacked without knowledge of its image, and without its lower layers. */
export interface PreparedLayer {
  readonly work: string;
  readonly unpacked: UnpackResult;
}

export interface FetchAndUnpackResult {
  /** Bytes that came over the network. */
  readonly transferredBytes: number;
  /** Layer directory of each chain ID of the plan's images; empty without a snapshotter. */
  readonly layers: ReadonlyMap<Digest, string>;
  /** Attributes that a layer could not be given, such as extended attributes; each warning names its blob. */
  readonly warnings: readonly string[];
}

/** Key of a descriptor in progress events and in `content active`; containerd's `MakeRefKey`. */
export const refKey = (desc: Descriptor): string => `${kindOf(desc.mediaType)}-${desc.digest}`;

/** Name of a descriptor in messages. */
export const nameOf = (desc: Descriptor): string => `${kindOf(desc.mediaType)} ${desc.digest}`;

/** Annotation of eStargz layers: their size unpacked. */
const UNPACKED_SIZE = 'io.containers.estargz.uncompressed-size';

/**
 * The fewest bytes that a layer takes when it is unpacked. No compression makes a tar larger than it was, but for a few bytes of framing;
 * how much smaller, its manifest does not say.
 */
function leastUnpackedSize({size, annotations}: Descriptor): number {
  const stated = Number(annotations?.[UNPACKED_SIZE]);
  return Number.isSafeInteger(stated) && stated > size ? stated : Math.floor(size * 0.99);
}

/** @throws not_implemented a layer that is to be unpacked is encrypted */
export function refuseEncrypted({mediaType, digest}: Descriptor): void {
  if (mediaType.endsWith('+encrypted'))
    throw new ErrdefsError('not_implemented', `layer ${digest} is encrypted (${mediaType})`, {
      hint: 'decrypt it first, with skopeo copy --decryption-key; "berth content fetch REF" stores it as it is',
    });
}

/** Error classes that another attempt with the same layer would repeat. */
const PERMANENT_ERRORS: ReadonlySet<Code> = new Set<Code>(['invalid_argument', 'failed_precondition', 'data_loss', 'not_implemented']);

/** Milliseconds between two progress events of one blob. */
const PROGRESS_MS = 100;

/** The layers of an image, and how many of them are complete. */
interface LayerChain {
  /** Bottom first. */
  readonly layers: readonly PlannedLayer[];
  /** Index of the lowest layer that is not complete. */
  next: number;
  /** Directories of the complete layers, topmost first. */
  readonly below: string[];
}

/** Whether a layer's tree does not depend on the lower layers. */
function isIndependent({applied, implicitParents}: UnpackResult): boolean {
  if (applied === undefined) return implicitParents === undefined;
  const {assumedAbsent, missingLinks, opaqueRoot} = applied.lowerDependencies;
  return applied.lowerDependencies.implicitParents.length === 0 && assumedAbsent.length === 0 && !missingLinks && !opaqueRoot;
}

export async function fetchAndUnpack(options: FetchAndUnpackOptions): Promise<FetchAndUnpackResult> {
  const run = new FetchAndUnpack(options);
  try {
    return await run.run();
  } finally {
    run.dispose();
  }
}

class FetchAndUnpack {
  readonly #o: FetchAndUnpackOptions;
  readonly #quota: Quota | undefined;
  readonly #layers = new Map<Digest, string>();
  /** Layers that need their lower layers to be completed. */
  readonly #pendingLayers = new Map<Digest, PreparedLayer>();
  readonly #workDirectories = new Set<string>();
  /** Downloads that resumed an earlier attempt. */
  readonly #resumed = new Set<Digest>();
  /** Downloads whose last byte has come. */
  readonly #delivered = new Set<Digest>();
  readonly #warnings: string[] = [];
  readonly #chains: readonly LayerChain[];
  /** Blobs that are not complete yet. */
  readonly #missing: Set<Digest>;
  #advancing = Promise.resolve();
  /** Will mount the lower layers of the next pending layer. */
  #mountHolder: Promise<MountHolder> | undefined;
  /** Mount holders that are about to end. */
  readonly #closingHolders: Promise<void>[] = [];
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  #transferred = 0;

  constructor(options: FetchAndUnpackOptions) {
    this.#o = options;
    this.#quota = options.quota;
    this.#signal = options.signal === undefined ? this.#stop.signal : AbortSignal.any([options.signal, this.#stop.signal]);
    const images = options.snapshotter === undefined ? [] : options.plan.manifests.flatMap(({image}) => image ?? []);
    this.#missing = new Set(options.plan.blobs.map(({digest}) => digest));
    this.#chains = images.map(({layers}) => ({layers, next: 0, below: []}));
  }

  async run(): Promise<FetchAndUnpackResult> {
    const {plan, maxConcurrentDownloads, slots} = this.#o;
    // A layer that occurs twice, in one image or in several, is unpacked once.
    const wanted = new Map<Digest, PlannedLayer>();
    for (const {layers} of this.#chains)
      for (const layer of layers) if (!wanted.has(layer.blob.digest)) wanted.set(layer.blob.digest, layer);
    for (const {blob} of wanted.values()) refuseEncrypted(blob);
    this.#takeFromQuota(wanted);
    this.#requireFreeSpace(wanted);
    for (const blob of plan.blobs) this.#emit(blob, 'waiting', 0);
    this.#advanceChains();
    try {
      await forEachConcurrently(plan.blobs, maxConcurrentDownloads, async (blob) => {
        try {
          const fetch = (): Promise<void> => this.#fetch(blob, wanted.get(blob.digest));
          await (slots === undefined ? fetch() : slots.run(fetch, this.#signal));
          this.#missing.delete(blob.digest);
          this.#advanceChains();
        } catch (err) {
          this.#stop.abort(err);
          throw err;
        }
      });
    } finally {
      try {
        // After a failure `dispose` removes the directories that this still writes to.
        await this.#advancing;
      } finally {
        const holder = await this.#mountHolder?.catch(() => undefined);
        await Promise.all([...this.#closingHolders, holder?.close()]);
      }
    }
    return {transferredBytes: this.#transferred, layers: this.#layers, warnings: this.#warnings};
  }

  /** @throws resource_exhausted the namespace would hold more than its quota; thrown before any download */
  #takeFromQuota(wanted: ReadonlyMap<Digest, PlannedLayer>): void {
    const {plan, store, snapshotter} = this.#o;
    if (this.#quota === undefined) return;
    const here = snapshotter === undefined ? [] : [...wanted.values()].flatMap((layer) => findLayer(store, snapshotter, layer) ?? []);
    this.#quota.takeContent([...[...plan.documents.values()].map(({descriptor}) => descriptor), ...plan.blobs], here);
  }

  /**
   * Checks that the missing blobs and layers fit on the disk.
   *
   * @throws resource_exhausted with what each needs; thrown before any download
   */
  #requireFreeSpace(wanted: ReadonlyMap<Digest, PlannedLayer>): void {
    const {plan, store, source, snapshotter} = this.#o;
    if (source === undefined) return;
    const missing = plan.blobs.filter(({digest}) => store.blobs.size(digest) === undefined);
    const download = missing.reduce((sum, blob) => sum + Math.max(blob.size - bytesHere(store, blob.digest), 0), 0);
    const unpacked =
      snapshotter === undefined ? [] : [...wanted.values()].filter((layer) => findLayer(store, snapshotter, layer) === undefined);
    const unpack = unpacked.reduce((sum, {blob}) => sum + leastUnpackedSize(blob), 0);
    if (download + unpack === 0) return;
    const what = unpack === 0 ? 'download' : `download (${download} B) and unpacked layers (at least ${unpack} B)`;
    requireFreeSpace(store.layout.root, download + unpack, what);
  }

  /** Removes incomplete layers. Blobs and ingests stay. */
  dispose(): void {
    for (const work of this.#workDirectories) this.#o.store.layers.discardWork(work);
  }

  #emit(desc: Descriptor, status: ProgressEvent['status'], offset: number): void {
    this.#o.onEvent({ref: refKey(desc), status, offset, total: desc.size});
  }

  #createWork(): string {
    const work = this.#o.store.layers.createWork();
    this.#workDirectories.add(work);
    return work;
  }

  #publish(work: string, id: string, layer: PlannedLayer): void {
    this.#o.store.layers.publish(work, id, {snapshotter: this.#o.snapshotter!.name, diffID: layer.diffID});
    this.#workDirectories.delete(work);
    this.#layers.set(layer.chainID, id);
    this.#quota?.takeLayer(id);
  }

  /** Whether nothing is left to do for a blob and its layer. */
  #isDone(blob: Descriptor, layer: PlannedLayer | undefined): boolean {
    const {store, snapshotter} = this.#o;
    if (!store.blobs.has(blob)) return false;
    if (layer === undefined || snapshotter === undefined || snapshotter.form === 'plain') return true;
    return findLayer(store, snapshotter, layer) !== undefined;
  }

  /** Fetches one blob, and unpacks it unless its form needs the lower layers first. */
  async #fetch(blob: Descriptor, layer: PlannedLayer | undefined): Promise<void> {
    if (this.#isDone(blob, layer)) return this.#emit(blob, 'exists', blob.size);
    const {store, lockTimeoutMs} = this.#o;
    using lock = await lockDownload(store, blob, {
      timeoutMs: lockTimeoutMs,
      purpose: `download of ${blob.digest}`,
      signal: this.#signal,
      // Another process downloads it: show that progress.
      onWait: (offset) => this.#emit(blob, 'waiting', offset),
    });
    const {key} = lock;
    if (this.#isDone(blob, layer)) return this.#emit(blob, 'exists', blob.size);
    for (;;) {
      const begun = store.blobs.ingestState(key)?.offset ?? 0;
      this.#delivered.delete(blob.digest);
      try {
        return await this.#fetchLocked(blob, layer, key);
      } catch (err) {
        if (!this.#mayFetchAgain(blob, err, begun > 0, store.blobs.ingestState(key)?.offset === 0)) throw err;
      }
    }
  }

  /**
   * Whether a blob that arrived with another digest is worth another download: from other hosts than those that it came from, or when the
   * beginning was an earlier attempt's.
   *
   * @param begun whether there were bytes of an earlier attempt
   * @param isGone whether the bytes that came were discarded, as those are that have another digest
   */
  #mayFetchAgain(blob: Descriptor, err: unknown, begun: boolean, isGone: boolean): boolean {
    if (!isGone || this.#signal.aborted) return false;
    if (begun && hasCode(err, 'data_loss')) return true;
    if (!hasCode(err, 'failed_precondition')) return false;
    if (this.#resumed.delete(blob.digest) && begun) return true;
    return this.#delivered.has(blob.digest) && this.#o.source!.rejected(blob);
  }

  /** @param key of the ingest; the caller holds its lock */
  async #fetchLocked(blob: Descriptor, layer: PlannedLayer | undefined, key: string): Promise<void> {
    const {store, namespace} = this.#o;
    const here = store.blobs.has(blob);
    const prepared = here ? this.#takePrepared(layer) : undefined;
    if (prepared !== undefined) {
      this.#warnings.push(...prepared.unpacked.warnings.map((message) => `${nameOf(blob)}: ${message}`));
      this.#keep(layer!, prepared);
      return this.#emit(blob, 'done', blob.size);
    }
    if (!here && this.#o.source === undefined)
      throw new ErrdefsError('not_found', `content ${blob.digest}`, {hint: 'pull the image again', details: {digest: blob.digest}});
    const {snapshotter} = this.#o;
    const unpack =
      layer !== undefined && snapshotter !== undefined && snapshotter.form !== 'plain'
        ? {layer, work: this.#createWork(), snapshotter}
        : undefined;
    if (unpack !== undefined) seedLayer(unpack.snapshotter, unpack.work, [], false);
    const begin = (): Extract<LayerJob['source'], {readonly kind: 'network'}> => {
      copyProgress(store, blob.digest, key);
      const ingestPath = store.blobs.beginIngest(key, {ref: refKey(blob), namespace, total: blob.size});
      return {kind: 'network', ingestPath, expected: blob, isNew: !existsSync(ingestPath)};
    };
    const source = here ? ({kind: 'blob', path: store.blobs.path(blob.digest)} as const) : begin();
    const unpacked = await this.#runJob(blob, source, unpack && {directory: unpack.work, layer: unpack.layer}).catch((err: unknown) => {
      // The bytes are complete and valid, but can never be unpacked: discard the ingest.
      if (!here && PERMANENT_ERRORS.has(codeOf(err)) && store.blobs.ingestState(key)?.offset === blob.size)
        store.blobs.discardIngestQuietly(key);
      throw err;
    });
    if (!here) {
      this.#emit(blob, 'committing', blob.size);
      store.blobs.publish(key, blob.digest, {syncName: false});
      discardOthers(store, blob.digest, key);
    }
    if (unpack !== undefined && unpacked !== undefined) this.#keep(unpack.layer, {work: unpack.work, unpacked});
    this.#emit(blob, 'done', blob.size);
  }

  /** The layer if it is unpacked already, and is the one that the image's config names. */
  #takePrepared(layer: PlannedLayer | undefined): PreparedLayer | undefined {
    const prepared = layer && this.#o.prepared?.get(layer.blob.digest);
    if (prepared === undefined || prepared.unpacked.diffID !== layer?.diffID) return undefined;
    this.#workDirectories.add(prepared.work);
    return prepared;
  }

  /** Publishes an unpacked layer, or sets it aside until its lower layers are complete. */
  #keep(layer: PlannedLayer, prepared: PreparedLayer): void {
    if (isIndependent(prepared.unpacked)) {
      this.#publish(prepared.work, this.#o.snapshotter!.layerId(layer.diffID, layer.chainID, false), layer);
      return;
    }
    this.#pendingLayers.set(layer.blob.digest, prepared);
    this.#startMountHolderEarly();
  }

  async #runJob(
    blob: Descriptor,
    source: LayerJob['source'],
    unpack: {readonly directory: string; readonly layer: PlannedLayer; readonly lowers?: readonly string[]} | undefined,
  ): Promise<UnpackResult | undefined> {
    const what = nameOf(blob);
    let received = 0;
    let lastEvent = 0;
    const progress = (): void => {
      const now = performance.now();
      if (now - lastEvent < PROGRESS_MS) return;
      lastEvent = now;
      this.#emit(
        blob,
        source.kind === 'network' && received < blob.size ? 'downloading' : 'extracting',
        source.kind === 'network' ? received : blob.size,
      );
    };
    const unpackJob = unpack && {
      directory: unpack.directory,
      form: this.#o.snapshotter!.form,
      ...(this.#o.snapshotter!.form === 'erofs' ? {backing: this.#o.erofsBacking()} : {}),
      diffID: unpack.layer.diffID,
      ...(this.#quota === undefined ? {} : {room: this.#quota.room}),
      ...(unpack.lowers === undefined ? {} : {lowers: unpack.lowers}),
    };
    const task = await this.#o.workers.run({what, size: blob.size, source, ...(unpackJob && {unpack: unpackJob})}, progress);
    const onAbort = (): void => task.abort(this.#signal.reason);
    this.#signal.addEventListener('abort', onAbort, {once: true});
    if (this.#signal.aborted) onAbort();
    // A failed worker ends the transfer, and a failed transfer ends the worker.
    const stopTransfer = new AbortController();
    task.result.catch((err: unknown) => stopTransfer.abort(err));
    try {
      if (source.kind === 'network') {
        const offset = await task.offset;
        received = offset;
        if (offset > 0) this.#resumed.add(blob.digest);
        this.#emit(blob, 'downloading', offset);
        const isEmbedded = embeddedData(blob) !== undefined;
        const sink = (chunk: Buffer): void | Promise<void> => {
          received += chunk.length;
          if (!isEmbedded) this.#transferred += chunk.length;
          progress();
          return task.write(chunk);
        };
        try {
          const signal = AbortSignal.any([this.#signal, stopTransfer.signal]);
          if (offset < blob.size) await this.#o.source!.stream(blob, sink, {offset, signal});
          this.#delivered.add(blob.digest);
        } catch (err) {
          task.abort(err);
          throw stopTransfer.signal.aborted ? stopTransfer.signal.reason : err;
        }
        if (unpack !== undefined) this.#emit(blob, 'extracting', blob.size);
        task.end();
      }
      const unpacked = await task.result;
      this.#warnings.push(...(unpacked?.warnings ?? []).map((message) => `${what}: ${message}`));
      return unpacked;
    } catch (err) {
      throw this.#signal.aborted && !this.#stop.signal.aborted ? wrap(what, this.#signal.reason) : err;
    } finally {
      this.#signal.removeEventListener('abort', onAbort);
    }
  }

  /** Completes layers whose lower layers are complete, while upper layers still download. Calls run one after the other. */
  #advanceChains(): void {
    this.#advancing = this.#advancing.then(async () => {
      for (const chain of this.#chains) await this.#advance(chain);
    });
    // `run` awaits it at the end; a failure ends the downloads before that.
    this.#advancing.catch((err: unknown) => this.#stop.abort(err));
  }

  /** Completes the layers of an image, bottom first, up to the first blob that is still missing. */
  async #advance(chain: LayerChain): Promise<void> {
    const {store} = this.#o;
    const snapshotter = this.#o.snapshotter!;
    for (
      let layer = chain.layers[chain.next];
      layer !== undefined && !this.#missing.has(layer.blob.digest);
      layer = chain.layers[chain.next]
    ) {
      const known = findLayer(store, snapshotter, layer);
      if (known !== undefined) this.#layers.set(layer.chainID, known);
      else await this.#complete(layer, chain.below);
      chain.below.unshift(store.layers.path(this.#layers.get(layer.chainID)!));
      chain.next++;
    }
  }

  /** Starts the mount holder for the next pending layer ahead of time: starting a process takes long. */
  #startMountHolderEarly(): void {
    const needsMounts = [...this.#pendingLayers.values()].some(({unpacked}) => unpacked.applied !== undefined);
    if (!needsMounts || this.#o.snapshotter?.form !== 'erofs') return;
    this.#mountHolder ??= startScratchMountHolder(this.#o.scratchDir, this.#o.store.housekeeping);
    this.#mountHolder.catch(() => {}); // `#takeMountHolder` passes the error on
  }

  #takeMountHolder(): Promise<MountHolder> {
    const holder = this.#mountHolder ?? startScratchMountHolder(this.#o.scratchDir, this.#o.store.housekeeping);
    this.#mountHolder = undefined;
    return holder;
  }

  async #complete(layer: PlannedLayer, below: readonly string[]): Promise<void> {
    if (this.#completeIndex(layer, below)) return;
    const {trees, close} = await openTrees(this.#o.snapshotter!, below, () => this.#takeMountHolder());
    try {
      if (!this.#reconcile(layer, trees)) await this.#unpackOnLowers(layer, below, trees);
    } finally {
      const closed = close();
      closed.catch(() => {}); // `run` awaits it at the end
      this.#closingHolders.push(closed);
    }
  }

  /** Completes a pending indexed layer with attributes of the lower layers. @returns false when the layer has to be extracted */
  #completeIndex(layer: PlannedLayer, below: readonly string[]): boolean {
    const pending = this.#pendingLayers.get(layer.blob.digest);
    if (pending?.unpacked.implicitParents === undefined) return false;
    const {work, unpacked} = pending;
    if (!completeIndex(work, unpacked.implicitParents!, below)) return false;
    this.#pendingLayers.delete(layer.blob.digest);
    this.#publish(work, this.#o.snapshotter!.layerId(layer.diffID, layer.chainID, true), layer);
    return true;
  }

  /** Completes a pending extracted layer with its lower layers. @returns false when it has to be unpacked again */
  #reconcile(layer: PlannedLayer, trees: readonly string[]): boolean {
    const pending = this.#pendingLayers.get(layer.blob.digest);
    if (pending === undefined) return false;
    this.#pendingLayers.delete(layer.blob.digest);
    this.#startMountHolderEarly();
    const snapshotter = this.#o.snapshotter!;
    const {work, unpacked} = pending;
    if (unpacked.applied === undefined) return false;
    const warn = (message: string): void => void this.#warnings.push(`${nameOf(layer.blob)}: ${message}`);
    if (reconcile(snapshotter.tree(work), trees, unpacked.applied, warn) === 'redo') return false;
    this.#publish(work, snapshotter.layerId(layer.diffID, layer.chainID, true), layer);
    return true;
  }

  /** Unpacks a layer from its blob, on its lower layers. */
  async #unpackOnLowers(layer: PlannedLayer, below: readonly string[], trees: readonly string[]): Promise<void> {
    const {store, lockTimeoutMs} = this.#o;
    const snapshotter = this.#o.snapshotter!;
    using _lock = await lockDownload(store, layer.blob, {
      timeoutMs: lockTimeoutMs,
      purpose: `unpacking of ${layer.blob.digest}`,
      signal: this.#signal,
    });
    const known = findLayer(store, snapshotter, layer);
    if (known !== undefined) {
      this.#layers.set(layer.chainID, known);
      return;
    }
    this.#emit(layer.blob, 'extracting', layer.blob.size);
    const work = this.#createWork();
    seedLayer(snapshotter, work, below, false);
    const source = {kind: 'blob', path: store.blobs.path(layer.blob.digest)} as const;
    await this.#runJob(layer.blob, source, {directory: work, layer, ...(snapshotter.form === 'plain' ? {} : {lowers: trees})});
    this.#publish(work, snapshotter.layerId(layer.diffID, layer.chainID, true), layer);
    this.#emit(layer.blob, 'done', layer.blob.size);
  }
}

/** Runs `action` for all items, at most `limit` at a time. After a failure it starts no more, waits for the others, and throws the first. */
async function forEachConcurrently<T>(items: readonly T[], limit: number, action: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  let failure: {readonly err: unknown} | undefined;
  const lane = async (): Promise<void> => {
    while (next < items.length && failure === undefined) {
      const item = items[next++]!;
      try {
        await action(item);
      } catch (err) {
        failure ??= {err};
      }
    }
  };
  await Promise.all(Array.from({length: Math.min(limit, items.length)}, lane));
  if (failure !== undefined) throw failure.err;
}
