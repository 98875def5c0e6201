/**
 * Brings a plan's blobs and layers onto this machine: each blob crosses the wire once, whoever wants it, and each layer
 * is unpacked once, while its blob downloads. Nothing here becomes visible in a namespace; that is the caller's last step.
 */
import {existsSync} from 'node:fs';
import {reconcile} from '../../archive/apply.ts';
import {type Code, codeOf, ErrdefsError, hasCode, wrap} from '../../errdefs.ts';
import {removeTree} from '../../fs/durable.ts';
import {requireFreeSpace} from '../../fs/free-space.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {kindOf} from '../../oci/mediatypes.ts';
import type {MountHolder} from '../../runtime/private-mount.ts';
import type {Backing} from '../../store/erofs.ts';
import {type Snapshotter, seedLayer} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {ProgressEvent} from '../types/index.ts';
import {completeIndex} from '../workers/layer-index.ts';
import type {LayerJob, WorkerPool} from '../workers/pool.ts';
import type {UnpackResult} from '../workers/unpack-job.ts';
import {bytesHere, copyProgress, discardOthers, lockDownload} from './download-lock.ts';
import {findLayer, openScratchPlace, openTrees} from './layer-lookup.ts';
import type {Plan, PlannedLayer} from './plan.ts';

/** Streams a blob's bytes from `offset` on; see remotes/types.ts. */
export type BlobSource = (
  desc: Descriptor,
  sink: (chunk: Buffer) => void | Promise<void>,
  options: {offset: number; signal?: AbortSignal},
) => Promise<void>;

export interface MaterialiseOptions {
  readonly store: Store;
  readonly workers: WorkerPool;
  readonly namespace: string;
  readonly plan: Plan;
  /** Absent: blobs are only stored. */
  readonly snapshotter?: Snapshotter;
  /** For layers that are indexed. */
  readonly erofsBacking: () => Backing;
  /** Absent: only what is here can be used. */
  readonly source?: BlobSource;
  readonly maxConcurrentDownloads: number;
  /** Where something may be mounted for a moment; below the state that ends with the boot. */
  readonly scratchDir: string;
  /** How long to wait for another process that makes no progress with a blob that is wanted here, in milliseconds. */
  readonly lockTimeoutMs: number;
  readonly onEvent: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

export interface Materialised {
  /** Bytes that came over the network. */
  readonly transferredBytes: number;
  /** Layer directory of each chain ID of the plan's images; empty without a snapshotter. */
  readonly layers: ReadonlyMap<Digest, string>;
  /** What a layer could not be given, such as an extended attribute; each names its blob. */
  readonly warnings: readonly string[];
}

/** The row of a descriptor in progress and in `content active`. */
export const refOf = (desc: Descriptor): string => `${kindOf(desc.mediaType)}-${desc.digest}`;

/** Its name in messages. */
const nameOf = (desc: Descriptor): string => `${kindOf(desc.mediaType)} ${desc.digest}`;

/** Classes of failures that another attempt with the same layer ends with too. */
const FOR_GOOD: ReadonlySet<Code> = new Set<Code>(['invalid_argument', 'failed_precondition', 'data_loss', 'not_implemented']);

/** Milliseconds between two events of moving bytes. */
const PROGRESS_MS = 100;

/** A layer that was unpacked without knowing what lies below, and waits for that. */
interface Floating {
  readonly work: string;
  readonly unpacked: UnpackResult;
}

/** An image's layers while they are put on each other. */
interface Stack {
  /** Bottom first. */
  readonly layers: readonly PlannedLayer[];
  /** Index of the one whose turn it is. */
  next: number;
  /** Layer directories so far, nearest first. */
  readonly below: string[];
}

/** Whether a layer's tree is what it is whatever lies below. */
function isIndependent({applied, impliedParents}: UnpackResult): boolean {
  if (applied === undefined) return impliedParents === undefined;
  const {passed, missingLinks, opaqueRoot} = applied.needsLowers;
  return applied.needsLowers.impliedParents.length === 0 && passed.length === 0 && !missingLinks && !opaqueRoot;
}

export async function materialise(options: MaterialiseOptions): Promise<Materialised> {
  const run = new Materialisation(options);
  try {
    return await run.run();
  } finally {
    run.dispose();
  }
}

class Materialisation {
  readonly #o: MaterialiseOptions;
  readonly #layers = new Map<Digest, string>();
  readonly #floating = new Map<Digest, Floating>();
  readonly #works = new Set<string>();
  /** Downloads that went on from what an earlier attempt left. */
  readonly #resumed = new Set<Digest>();
  readonly #warnings: string[] = [];
  readonly #stacks: readonly Stack[];
  /** Blobs that still come. */
  readonly #missing: Set<Digest>;
  #stacking = Promise.resolve();
  /** For the trees below the layer that waits next. */
  #place: Promise<MountHolder> | undefined;
  /** Places that have served. */
  readonly #closing: Promise<void>[] = [];
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  #transferred = 0;

  constructor(options: MaterialiseOptions) {
    this.#o = options;
    this.#signal = options.signal === undefined ? this.#stop.signal : AbortSignal.any([options.signal, this.#stop.signal]);
    const images = options.snapshotter === undefined ? [] : options.plan.manifests.flatMap(({image}) => image ?? []);
    this.#missing = new Set(options.plan.blobs.map(({digest}) => digest));
    this.#stacks = images.map(({layers}) => ({layers, next: 0, below: []}));
  }

  async run(): Promise<Materialised> {
    const {plan, maxConcurrentDownloads} = this.#o;
    // A layer that occurs twice, in one image or in two, is unpacked once.
    const wanted = new Map<Digest, PlannedLayer>();
    for (const {layers} of this.#stacks)
      for (const layer of layers) if (!wanted.has(layer.blob.digest)) wanted.set(layer.blob.digest, layer);
    this.#requireFreeSpace();
    for (const blob of plan.blobs) this.#emit(blob, 'waiting', 0);
    this.#stackSoon();
    try {
      await forEachLimited(plan.blobs, maxConcurrentDownloads, async (blob) => {
        try {
          await this.#fetch(blob, wanted.get(blob.digest));
          this.#missing.delete(blob.digest);
          this.#stackSoon();
        } catch (err) {
          this.#stop.abort(err);
          throw err;
        }
      });
    } finally {
      try {
        // What it works on is about to be removed, should anything have failed.
        await this.#stacking;
      } finally {
        const place = await this.#place?.catch(() => undefined);
        await Promise.all([...this.#closing, place?.close()]);
      }
    }
    return {transferredBytes: this.#transferred, layers: this.#layers, warnings: this.#warnings};
  }

  /** What has to be downloaded fits on the disk, or nothing of it is. @throws resource_exhausted */
  #requireFreeSpace(): void {
    const {plan, store, source} = this.#o;
    const missing = source === undefined ? [] : plan.blobs.filter(({digest}) => store.blobs.size(digest) === undefined);
    if (missing.length === 0) return;
    const needed = missing.reduce((sum, blob) => sum + Math.max(blob.size - bytesHere(store, blob.digest), 0), 0);
    requireFreeSpace(store.layout.root, needed, 'download');
  }

  /** Removes what was half-made here. Blobs and bytes of blobs stay. */
  dispose(): void {
    for (const work of this.#works) this.#o.store.housekeeping.attempt(`incomplete layer ${work}`, () => removeTree(work));
  }

  #emit(desc: Descriptor, status: ProgressEvent['status'], offset: number): void {
    this.#o.onEvent({ref: refOf(desc), status, offset, total: desc.size});
  }

  #createWork(): string {
    const work = this.#o.store.layers.createWork();
    this.#works.add(work);
    return work;
  }

  #publish(work: string, id: string, layer: PlannedLayer): void {
    this.#o.store.layers.publish(work, id, {snapshotter: this.#o.snapshotter!.name, diffID: layer.diffID});
    this.#works.delete(work);
    this.#layers.set(layer.chainID, id);
  }

  /** Whether nothing is left to do for a blob and its layer. */
  #isDone(blob: Descriptor, layer: PlannedLayer | undefined): boolean {
    const {store, snapshotter} = this.#o;
    if (!store.blobs.has(blob)) return false;
    if (layer === undefined || snapshotter === undefined || snapshotter.form === 'plain') return true;
    return findLayer(store, snapshotter, layer) !== undefined;
  }

  /** Gets one blob, and unpacks it where it can be unpacked before the layers below it are known. */
  async #fetch(blob: Descriptor, layer: PlannedLayer | undefined): Promise<void> {
    if (this.#isDone(blob, layer)) return this.#emit(blob, 'exists', blob.size);
    const {store, lockTimeoutMs} = this.#o;
    using lock = await lockDownload(store, blob, {
      timeoutMs: lockTimeoutMs,
      purpose: `download of ${blob.digest}`,
      signal: this.#signal,
      // Somebody else gets it: his progress is ours.
      onWait: (offset) => this.#emit(blob, 'waiting', offset),
    });
    const {key} = lock;
    if (this.#isDone(blob, layer)) return this.#emit(blob, 'exists', blob.size);
    const begun = store.blobs.ingestState(key)?.offset ?? 0;
    try {
      await this.#obtain(blob, layer, key);
    } catch (err) {
      // Of what an earlier attempt left nobody knew whether it was right; it was not, and is gone.
      const isGone = begun > 0 && store.blobs.ingestState(key)?.offset === 0;
      const wasWrong = isGone && (hasCode(err, 'data_loss') || (this.#resumed.delete(blob.digest) && hasCode(err, 'failed_precondition')));
      if (!wasWrong) throw err;
      await this.#obtain(blob, layer, key);
    }
  }

  /** @param key of the ingest, whose lock is held */
  async #obtain(blob: Descriptor, layer: PlannedLayer | undefined, key: string): Promise<void> {
    const {store, namespace} = this.#o;
    const here = store.blobs.has(blob);
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
      const ingestPath = store.blobs.beginIngest(key, {ref: refOf(blob), namespace, total: blob.size});
      return {kind: 'network', ingestPath, expected: blob, isNew: !existsSync(ingestPath)};
    };
    const source = here ? ({kind: 'blob', path: store.blobs.path(blob.digest)} as const) : begin();
    const unpacked = await this.#runJob(blob, source, unpack && {directory: unpack.work, layer: unpack.layer}).catch((err: unknown) => {
      // Bytes that are whole and right, and that no attempt will unpack: nobody comes back for them.
      if (!here && FOR_GOOD.has(codeOf(err)) && store.blobs.ingestState(key)?.offset === blob.size) store.blobs.discardIngestQuietly(key);
      throw err;
    });
    if (!here) {
      this.#emit(blob, 'committing', blob.size);
      store.blobs.publish(key, blob.digest, {syncName: false});
      discardOthers(store, blob.digest, key);
    }
    if (unpack !== undefined && unpacked !== undefined) {
      if (isIndependent(unpacked)) this.#publish(unpack.work, unpack.snapshotter.layerId(layer!.diffID, layer!.chainID, false), layer!);
      else {
        this.#floating.set(blob.digest, {work: unpack.work, unpacked});
        this.#openPlaceSoon();
      }
    }
    this.#emit(blob, 'done', blob.size);
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
      ...(unpack.lowers === undefined ? {} : {lowers: unpack.lowers}),
    };
    const task = await this.#o.workers.run({what, size: blob.size, source, ...(unpackJob && {unpack: unpackJob})}, progress);
    const onAbort = (): void => task.abort(this.#signal.reason);
    this.#signal.addEventListener('abort', onAbort, {once: true});
    if (this.#signal.aborted) onAbort();
    // A worker that fails ends the transfer; a transfer that fails ends the worker.
    const stopTransfer = new AbortController();
    task.result.catch((err: unknown) => stopTransfer.abort(err));
    try {
      if (source.kind === 'network') {
        const offset = await task.offset;
        received = offset;
        if (offset > 0) this.#resumed.add(blob.digest);
        this.#emit(blob, 'downloading', offset);
        const sink = (chunk: Buffer): void | Promise<void> => {
          received += chunk.length;
          this.#transferred += chunk.length;
          progress();
          return task.write(chunk);
        };
        try {
          if (offset < blob.size) await this.#o.source!(blob, sink, {offset, signal: AbortSignal.any([this.#signal, stopTransfer.signal])});
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

  /** Goes on putting layers on each other, while those above still come; one at a time, whoever asks. */
  #stackSoon(): void {
    this.#stacking = this.#stacking.then(async () => {
      for (const stack of this.#stacks) await this.#stack(stack);
    });
    // It is awaited at the end; until then its failure ends what would be for nothing.
    this.#stacking.catch((err: unknown) => this.#stop.abort(err));
  }

  /** Puts an image's layers on each other, bottom first, as far as they are here: those that took something from below are settled. */
  async #stack(stack: Stack): Promise<void> {
    const {store} = this.#o;
    const snapshotter = this.#o.snapshotter!;
    for (
      let layer = stack.layers[stack.next];
      layer !== undefined && !this.#missing.has(layer.blob.digest);
      layer = stack.layers[stack.next]
    ) {
      const known = findLayer(store, snapshotter, layer);
      if (known !== undefined) this.#layers.set(layer.chainID, known);
      else await this.#settle(layer, stack.below);
      stack.below.unshift(store.layers.path(this.#layers.get(layer.chainID)!));
      stack.next++;
    }
  }

  /** While others come, or are settled: the next one that waits for those below it need not wait for a process as well. */
  #openPlaceSoon(): void {
    const needsMounts = [...this.#floating.values()].some(({unpacked}) => unpacked.applied !== undefined);
    if (!needsMounts || this.#o.snapshotter?.form !== 'erofs') return;
    this.#place ??= openScratchPlace(this.#o.scratchDir, this.#o.store.housekeeping);
    this.#place.catch(() => {}); // whoever takes it hears of it
  }

  #takePlace(): Promise<MountHolder> {
    const place = this.#place ?? openScratchPlace(this.#o.scratchDir, this.#o.store.housekeeping);
    this.#place = undefined;
    return place;
  }

  async #settle(layer: PlannedLayer, below: readonly string[]): Promise<void> {
    if (this.#inherit(layer, below)) return;
    const {trees, close} = await openTrees(this.#o.snapshotter!, below, () => this.#takePlace());
    try {
      if (!this.#reconcile(layer, trees)) await this.#redo(layer, below, trees);
    } finally {
      const closed = close();
      closed.catch(() => {}); // it is awaited at the end
      this.#closing.push(closed);
    }
  }

  /** Completes an indexed layer that waited for the attributes of those below it. @returns false when that is not enough */
  #inherit(layer: PlannedLayer, below: readonly string[]): boolean {
    const floating = this.#floating.get(layer.blob.digest);
    if (floating?.unpacked.impliedParents === undefined) return false;
    const {work, unpacked} = floating;
    if (!completeIndex(work, unpacked.impliedParents!, below)) return false;
    this.#floating.delete(layer.blob.digest);
    this.#publish(work, this.#o.snapshotter!.layerId(layer.diffID, layer.chainID, true), layer);
    return true;
  }

  /** Completes an extracted layer that waited for those below it. @returns false when it has to be done again */
  #reconcile(layer: PlannedLayer, trees: readonly string[]): boolean {
    const floating = this.#floating.get(layer.blob.digest);
    if (floating === undefined) return false;
    this.#floating.delete(layer.blob.digest);
    this.#openPlaceSoon();
    const snapshotter = this.#o.snapshotter!;
    const {work, unpacked} = floating;
    if (unpacked.applied === undefined) return false;
    const warn = (message: string): void => void this.#warnings.push(`${nameOf(layer.blob)}: ${message}`);
    if (reconcile(snapshotter.tree(work), trees, unpacked.applied, warn) === 'redo') return false;
    this.#publish(work, snapshotter.layerId(layer.diffID, layer.chainID, true), layer);
    return true;
  }

  /** Unpacks a layer onto the ones below it. */
  async #redo(layer: PlannedLayer, below: readonly string[], trees: readonly string[]): Promise<void> {
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

/** Runs `action` over all items, at most `limit` at a time, and waits for all that were begun; the first failure is thrown. */
async function forEachLimited<T>(items: readonly T[], limit: number, action: (item: T) => Promise<void>): Promise<void> {
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
