/** `check --deep`: hashes blobs, and compares layers with their tars or blobs. */
import {createReadStream} from 'node:fs';
import {basename, join} from 'node:path';
import {findDifference} from '../../archive/find-tree-difference.ts';
import {fromErrno, hasCode, isErrdefs} from '../../errdefs.ts';
import {type Digest, digestParts} from '../../oci/descriptor.ts';
import {createHash, type Hash} from '../../oci/hash.ts';
import {hashFor} from '../../store/blob-store.ts';
import {EROFS_IMAGE, findTar, type IndexedTar, indexFile, isSameIndex, linkOrCopyTar} from '../../store/indexed-layer.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import {getSnapshotter, type Snapshotter} from '../../store/snapshotters.ts';
import type {Context} from '../context.ts';
import {fetchAndUnpack} from '../pull/fetch-and-unpack.ts';
import {layerCandidates, openTrees, startScratchMountHolder} from '../pull/layer-lookup.ts';
import {indexTar} from '../workers/layer-index.ts';
import {cannotBeRead} from './inspect-store.ts';
import type {LayerOrigin} from './provenance.ts';

/** Receives the number of bytes of each read. */
export type OnBytes = (count: number) => void;

async function hashFile(path: string, hash: Hash, onBytes: OnBytes, signal: AbortSignal | undefined, start = 0): Promise<string> {
  for await (const chunk of createReadStream(path, {highWaterMark: 1 << 20, signal, start})) {
    hash.update(chunk as Buffer);
    onBytes((chunk as Buffer).length);
  }
  return hash.digest('hex');
}

const hashTar = async ({path, start}: IndexedTar, onBytes: OnBytes, signal: AbortSignal | undefined): Promise<Digest> =>
  `sha256:${await hashFile(path, createHash('sha256'), onBytes, signal, start)}` as Digest;

/** Indexes a layer's tar again, in `directory`, which it creates. @returns as `indexTar` */
async function reindexTar(tar: IndexedTar, directory: string): Promise<boolean> {
  linkOrCopyTar(tar, directory);
  return indexTar(directory, tar.backing);
}

/** As `findTar`; `lost` when an EROFS image does not show where its tar lies. */
function locateTar(directory: string): IndexedTar | 'lost' | undefined {
  try {
    return findTar(directory);
  } catch (err) {
    if (hasCode(err, 'data_loss')) return 'lost';
    throw err;
  }
}

/**
 * The digest of the bytes in a blob's file; `undefined` when the file is missing.
 *
 * @throws data_loss | permission_denied it cannot be read
 */
export async function actualDigest({store}: Context, digest: Digest, onBytes: OnBytes, signal?: AbortSignal): Promise<Digest | undefined> {
  try {
    const hex = await hashFile(store.blobs.path(digest), hashFor(digest), onBytes, signal);
    return `${digestParts(digest)[0]}:${hex}` as Digest;
  } catch (err) {
    signal?.throwIfAborted();
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw fromErrno(err, `content ${digest}`);
  }
}

export interface RebuiltLayer {
  /** Correct ID of the layer. */
  readonly id: string;
  /** Directory of the complete layer, outside `layers/`. */
  readonly directory: string;
  /** As those of `FetchAndUnpackResult`. */
  readonly warnings: readonly string[];
}

/**
 * Unpacks a layer again, beside the existing one.
 *
 * @param work empty directory for a scratch store; the caller removes it
 * @param untrusted whether a lower layer must not be used; it is then unpacked again, too
 * @throws not_found its blob is missing @throws failed_precondition its blob is wrong
 */
export async function rebuildLayer(
  context: Context,
  {manifest, planned, layer, snapshotter, namespace}: LayerOrigin,
  work: string,
  untrusted: (id: string) => boolean,
  signal?: AbortSignal,
): Promise<RebuiltLayer> {
  const {store} = context;
  const layers = planned.layers.slice(0, planned.layers.indexOf(layer) + 1);
  const own = layerCandidates(snapshotter, layer);
  const borrowed = layers.flatMap((below) => layerCandidates(snapshotter, below)).filter((id) => !own.includes(id) && !untrusted(id));
  const scratch = store.createScratch(
    work,
    [...new Set(borrowed)].filter((id) => store.layers.isUsable(id)),
  );
  const made = await fetchAndUnpack({
    store: scratch,
    workers: context.workers,
    namespace,
    plan: {
      root: manifest.descriptor,
      documents: new Map(),
      manifests: [{...manifest, image: {...planned, layers}}],
      blobs: [layer.blob],
    },
    // What is recorded is made again, and is no growth.
    quota: undefined,
    snapshotter,
    erofsBacking: context.erofsBacking,
    maxConcurrentDownloads: 1,
    scratchDir: runtimeStatePath.views(context.stateDir),
    lockTimeoutMs: context.lockTimeoutMs,
    onEvent: () => {},
    ...(signal === undefined ? {} : {signal}),
  });
  const id = made.layers.get(layer.chainID)!;
  return {id, directory: scratch.layers.path(id), warnings: made.warnings};
}

/**
 * Indexes the tar of a self-contained indexed layer again.
 *
 * @param work as `rebuildLayer`
 * @returns `undefined` when the layer is not indexed, not self-contained, or its tar is damaged
 */
export async function reindexLayer(
  {store}: Context,
  id: string,
  snapshotterName: string,
  work: string,
  signal?: AbortSignal,
): Promise<RebuiltLayer | undefined> {
  const tar = locateTar(store.layers.path(id));
  if (tar === undefined || tar === 'lost') return undefined;
  const snapshotter = getSnapshotter(snapshotterName);
  const diffID = await hashTar(tar, () => {}, signal);
  if (!isSelfContained(snapshotter, id, diffID)) return undefined;
  const scratch = store.createScratch(work, []);
  const directory = scratch.layers.createWork();
  if (!(await reindexTar(tar, directory))) return undefined;
  scratch.layers.publish(directory, id, {snapshotter: snapshotter.name, diffID});
  return {id, directory: scratch.layers.path(id), warnings: []};
}

/** Result of comparing a layer. */
export interface Verdict {
  /** False when neither a tar nor a blob is present to compare it with. */
  readonly compared: boolean;
  /** What is wrong with it, in a few words. */
  readonly problem?: string;
}

/**
 * Compares an unpacked layer with its tar or its blob.
 *
 * @param origin of the layer, if it is known
 * @param untrusted as `rebuildLayer`
 */
export async function verifyLayer(
  context: Context,
  id: string,
  origin: LayerOrigin | undefined,
  untrusted: (id: string) => boolean,
  onBytes: OnBytes,
  signal?: AbortSignal,
): Promise<Verdict> {
  const wrong = (problem: string): Verdict => ({compared: true, problem});
  const {store} = context;
  const info = store.layers.info(id);
  if (info === undefined) return wrong('has no layer.json that can be read');
  const {diffID, snapshotter: name} = info;
  const snapshotter = getSnapshotter(name);
  const directory = store.layers.path(id);
  if (origin !== undefined && origin.layer.diffID !== diffID) return wrong(`was unpacked from ${diffID} instead of ${origin.layer.diffID}`);
  const work = store.layers.createWork();
  try {
    const tar = locateTar(directory);
    if (tar === 'lost') return wrong(`has no index in ${EROFS_IMAGE}`);
    if (tar !== undefined) {
      const digest = await hashTar(tar, onBytes, signal);
      if (digest !== diffID) return wrong(`has ${digest} in ${basename(tar.path)} instead of ${diffID}`);
    }
    let reference: string;
    if (tar !== undefined && isSelfContained(snapshotter, id, diffID!)) {
      reference = join(work, 'index');
      if (!(await reindexTar(tar, reference))) return wrong('is indexed, although its tar has to be extracted');
    } else if (origin === undefined) {
      return {compared: false};
    } else {
      const made = await rebuildLayer(context, origin, work, untrusted, signal);
      if (made.id !== id) return wrong(`should be ${made.id}, by what it inherits from lower layers`);
      reference = made.directory;
    }
    const [made, here] = [reference, directory].map(indexFile);
    if (made !== undefined && here !== undefined && isSameIndex(made, here)) return {compared: true};
    const difference = await compare(context, snapshotter, reference, directory, signal);
    return difference === undefined ? {compared: true} : wrong(difference);
  } catch (err) {
    signal?.throwIfAborted();
    const failure = fromErrno(err, 'cannot be compared');
    if (hasCode(failure, 'not_found')) return {compared: false};
    // A read error of this layer or of a lower one is damage; other layers can still be compared.
    return wrong(cannotBeRead(failure));
  } finally {
    store.layers.discardWork(work);
  }
}

/** Whether a layer's ID says that it takes nothing from lower layers. */
export const isSelfContained = (snapshotter: Snapshotter, id: string, diffID: Digest): boolean =>
  snapshotter.layerId(diffID, diffID, true) !== id && snapshotter.layerId(diffID, diffID, false) === id;

/** The first difference between the trees of two layers, in a few words. */
async function compare(
  context: Context,
  snapshotter: Snapshotter,
  reference: string,
  directory: string,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  let opened: Awaited<ReturnType<typeof openTrees>>;
  try {
    opened = await openTrees(snapshotter, [reference, directory], () =>
      startScratchMountHolder(runtimeStatePath.views(context.stateDir), context.store.housekeeping),
    );
  } catch (err) {
    if (!isErrdefs(err) || !hasCode(err, 'failed_precondition')) throw err;
    return 'cannot be mounted';
  }
  try {
    return await findDifference(opened.trees[0]!, opened.trees[1]!, signal);
  } finally {
    await opened.close();
  }
}
