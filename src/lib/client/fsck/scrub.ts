/** Reads every byte: blobs are hashed, and layers compared with what they were unpacked from. */
import {createReadStream} from 'node:fs';
import {basename, join} from 'node:path';
import {findDifference} from '../../archive/compare-trees.ts';
import {fromErrno, hasCode, isErrdefs} from '../../errdefs.ts';
import {removeTree} from '../../fs/durable.ts';
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

/** Told of bytes that were read. */
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

/** Indexes a layer's tar once more, in `directory`, which is made. @returns as `indexTar` */
async function indexAnew(tar: IndexedTar, directory: string): Promise<boolean> {
  linkOrCopyTar(tar, directory);
  return indexTar(directory, tar.backing);
}

/** As `findTar`; `lost` where an image does not say where its tar is. */
function locateTar(directory: string): IndexedTar | 'lost' | undefined {
  try {
    return findTar(directory);
  } catch (err) {
    if (hasCode(err, 'data_loss')) return 'lost';
    throw err;
  }
}

/**
 * The digest that a blob's file has; `undefined` when it is gone.
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

export interface Unpacked {
  /** The name under `layers/` that it should have. */
  readonly id: string;
  /** The layer, whole, in a place of its own. */
  readonly directory: string;
  /** As those of `FetchAndUnpackResult`. */
  readonly warnings: readonly string[];
}

/**
 * Unpacks a layer once more, beside what is there.
 *
 * @param work empty directory, for what is needed on the way; the caller removes it
 * @param doubted layers that must not be built on: they are unpacked once more as well
 * @throws not_found its blob is not here @throws failed_precondition its blob is not what it should be
 */
export async function unpackAgain(
  context: Context,
  {manifest, planned, layer, snapshotter, namespace}: LayerOrigin,
  work: string,
  doubted: (id: string) => boolean,
  signal?: AbortSignal,
): Promise<Unpacked> {
  const {store} = context;
  const layers = planned.layers.slice(0, planned.layers.indexOf(layer) + 1);
  const own = layerCandidates(snapshotter, layer);
  const borrowed = layers.flatMap((below) => layerCandidates(snapshotter, below)).filter((id) => !own.includes(id) && !doubted(id));
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
 * Indexes once more the tar of an indexed layer that is made from that alone; the tar must be what the layer's name says.
 *
 * @param work as `unpackAgain`
 * @returns `undefined` where that cannot be: the layer is no such one, or its tar is damaged
 */
export async function indexAgain(
  {store}: Context,
  id: string,
  snapshotterName: string,
  work: string,
  signal?: AbortSignal,
): Promise<Unpacked | undefined> {
  const tar = locateTar(store.layers.path(id));
  if (tar === undefined || tar === 'lost') return undefined;
  const snapshotter = getSnapshotter(snapshotterName);
  const diffID = await hashTar(tar, () => {}, signal);
  if (!isAlone(snapshotter, id, diffID)) return undefined;
  const scratch = store.createScratch(work, []);
  const directory = scratch.layers.createWork();
  if (!(await indexAnew(tar, directory))) return undefined;
  scratch.layers.publish(directory, id, {snapshotter: snapshotter.name, diffID});
  return {id, directory: scratch.layers.path(id), warnings: []};
}

/** What was found out about a layer. */
export interface Verdict {
  /** False when nothing here tells what it should be. */
  readonly compared: boolean;
  /** What is wrong with it, in a few words. */
  readonly problem?: string;
}

/**
 * Compares an unpacked layer with what it was unpacked from.
 *
 * @param origin where it came from, as far as that is known
 * @param doubted as `unpackAgain`
 * @throws not_found what it could be compared with is not here
 */
export async function judgeLayer(
  context: Context,
  id: string,
  origin: LayerOrigin | undefined,
  doubted: (id: string) => boolean,
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
    if (tar !== undefined && isAlone(snapshotter, id, diffID!)) {
      reference = join(work, 'index');
      if (!(await indexAnew(tar, reference))) return wrong('is indexed, although its tar has to be extracted');
    } else if (origin === undefined) {
      return {compared: false};
    } else {
      const made = await unpackAgain(context, origin, work, doubted, signal);
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
    // What the disk does not give back, here or below, is damage, and the rest can still be looked at.
    return wrong(cannotBeRead(failure));
  } finally {
    store.housekeeping.attempt(`incomplete layer ${work}`, () => removeTree(work));
  }
}

/** Whether a layer's tar is all that it was made from, as its name says: nothing of it comes from the layers below. */
export const isAlone = (snapshotter: Snapshotter, id: string, diffID: Digest): boolean =>
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
