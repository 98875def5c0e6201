/**
 * Snapshotters: how layer trees are stored and mounted. A snapshotter knows directories and mounts; keys, parents and namespaces are in
 * records (`snapshots.ts`).
 */
import {chmodSync, chownSync, existsSync, mkdirSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {copyTree} from '../fs/copy.ts';
import {readIfPresent} from '../fs/durable.ts';
import type {Digest} from '../oci/descriptor.ts';
import {inInitialUserNamespace, isRootless, mappedIds} from '../user-namespace-identity.ts';
import {type TreeUsage, treeUsage} from './disk-usage.ts';
import {EROFS_IMAGE, EROFS_INDEX, EROFS_TAR, indexedUsage} from './indexed-layer.ts';

export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/**
 * How a layer is stored. `overlay`: a tree with overlayfs whiteouts. `plain`: a tree merged with all layers below. `erofs`: the layer's own
 * tar with an index for the kernel, or a tree as for `overlay` where the index could not represent the layer.
 */
export type LayerFormat = 'overlay' | 'plain' | 'erofs';

export interface Snapshotter {
  readonly name: string;
  readonly form: LayerFormat;
  /**
   * ID of an image's layer: by diff ID if the layer's tree is independent of the layers below, else by chain ID.
   *
   * @param dependsOnParents the tree contains something from the layers below
   */
  layerId(diffID: Digest, chainID: Digest, dependsOnParents: boolean): string;
  /**
   * Creates the initial tree in the empty `directory`, for a layer or a container to be written to.
   *
   * @param parents layer directories below, nearest first
   * @param writable for a container's writes
   */
  seed(directory: string, parents: readonly string[], writable: boolean): void;
  /** Tree inside a layer's directory. */
  tree(directory: string): string;
  /** Mount of one layer as it is stored, with its whiteouts. */
  layerMount(directory: string): Mount;
  /** Disk usage of a layer. */
  usage(directory: string): TreeUsage;
  /**
   * Mounts of a snapshot's tree: the last one shows it, those before it are its layers; see runtime/mount-plan.ts.
   *
   * @param own layer directory of the snapshot; undefined for a view of `parents`
   * @param parents layer directories below, nearest first
   */
  mounts(own: string | undefined, parents: readonly string[], readonly: boolean): readonly Mount[];
}

/**
 * Empty directory beside a layer that has whiteouts or opaque directories. overlayfs interprets those only in a stack of at least two
 * directories: a single such layer is stacked on this one.
 */
const EMPTY = 'empty';

/** Marks an unpublished layer as having whiteouts or opaque directories. */
export function noteWhiteouts(directory: string): void {
  const path = join(directory, EMPTY);
  try {
    mkdirSync(path, {recursive: true, mode: 0o700});
  } catch (err) {
    throw fromErrno(err, path);
  }
}

/** The `EMPTY` directory as a list; empty for a layer without whiteouts. */
const emptyLower = (directory: string): readonly string[] => {
  const path = join(directory, EMPTY);
  return existsSync(path) ? [path] : [];
};

/**
 * Name of a layer. One unpacked where this user is the only one has lost its owners, so it has a name of its own: nobody who
 * has more users takes it for whole.
 */
function layerName(snapshotter: string, digest: Digest, chain: boolean): string {
  const single = !inInitialUserNamespace() && mappedIds().single;
  return `${snapshotter}${single ? '-one' : ''}${chain ? '-chain' : ''}-${digest.replace(':', '-')}`;
}
const bind = (source: string, readonly: boolean): Mount => ({type: 'bind', source, options: [readonly ? 'ro' : 'rw', 'rbind']});

/** Creates the tree that a container sees as `/`: accessible to all its users, whatever the umask. */
function makeTree(directory: string): string {
  const tree = join(directory, 'fs');
  mkdirSync(tree);
  chmodSync(tree, 0o755);
  return tree;
}

const PARAMETERS = '/sys/module/overlay/parameters';

/**
 * Options that keep in the upper directory all that a container changed. By default some kernels note there only that a directory was
 * renamed, or that attributes were changed, and neither a diff nor a layer could be made of that. Nothing to say where the default is off.
 *
 * @param parameters directory of the kernel's defaults; a kernel that has not loaded overlayfs yet has none
 */
export const wholeCopyUps = (parameters = PARAMETERS): readonly string[] =>
  ['redirect_dir', 'metacopy'].flatMap((name) => (readIfPresent(join(parameters, name))?.trim() === 'N' ? [] : `${name}=off`));

/** Mount of stacked directories. Layout and options after containerd, plugins/snapshots/overlay. */
const overlay = (own: string | undefined, lowers: readonly string[]): Mount => {
  const lower = `lowerdir=${lowers.map((path) => path.replaceAll(/[\\:]/g, '\\$&')).join(':')}`;
  const upper = own === undefined ? [] : [`workdir=${join(own, 'work')}`, `upperdir=${join(own, 'fs')}`];
  // In a user namespace overlayfs has its marks in attributes that this user may write, and with those it copies up whole files only.
  const marks = isRootless() ? ['userxattr'] : own === undefined ? [] : wholeCopyUps();
  return {type: 'overlay', source: 'overlay', options: [...upper, lower, ...marks]};
};

const overlayfs: Snapshotter = {
  name: 'overlayfs',
  form: 'overlay',
  layerId: (diffID, chainID, dependsOnParents) => layerName('overlayfs', dependsOnParents ? chainID : diffID, dependsOnParents),
  tree: (directory) => join(directory, 'fs'),
  layerMount: (directory) => bind(join(directory, 'fs'), true),
  usage: (directory) => treeUsage(join(directory, 'fs')),
  seed: (directory, parents, writable) => {
    const tree = makeTree(directory);
    if (writable) mkdirSync(join(directory, 'work'), {mode: 0o711});
    // The container sees the upper directory's attributes on `/`.
    const below = parents[0] === undefined ? undefined : statSync(join(parents[0], 'fs'));
    if (below !== undefined) chownSync(tree, below.uid, below.gid);
  },
  mounts: (own, parents, readonly) => {
    const trees = parents.map((directory) => join(directory, 'fs'));
    if (own !== undefined && trees.length === 0) return [bind(join(own, 'fs'), readonly)];
    if (own === undefined && trees.length === 1) trees.push(...emptyLower(parents[0]!));
    if (own === undefined && trees.length === 1) return [bind(trees[0]!, true)];
    return [overlay(own, trees)];
  },
};

/** Mount of an indexed layer; `undefined` for an extracted one. */
function indexedMount(directory: string): Mount | undefined {
  const [image, index, tar] = [EROFS_IMAGE, EROFS_INDEX, EROFS_TAR].map((name) => join(directory, name)) as [string, string, string];
  if (existsSync(index)) return {type: 'erofs', source: index, options: ['ro', `device=${tar}`]};
  // mount(8) creates the loop device, and the kernel removes it with its last mount.
  if (existsSync(image)) return {type: 'erofs', source: image, options: ['ro', 'loop']};
  return undefined;
}

/**
 * Indexed layers: the kernel reads the tar through an EROFS index, and a container's writes go to a directory as with overlayfs. A layer
 * that had to be extracted (see archive/erofs-index.ts) is a tree among them.
 */
const erofs: Snapshotter = {
  name: 'erofs',
  form: 'erofs',
  layerId: (diffID, chainID, dependsOnParents) => layerName('erofs', dependsOnParents ? chainID : diffID, dependsOnParents),
  tree: overlayfs.tree,
  layerMount: (directory) => indexedMount(directory) ?? overlayfs.layerMount(directory),
  seed: overlayfs.seed,
  usage: (directory) => indexedUsage(directory) ?? treeUsage(join(directory, 'fs')),
  mounts: (own, parents, readonly) => {
    const layers: Mount[] = [];
    const lowers = parents.map((directory) => {
      const mount = indexedMount(directory);
      return mount === undefined ? join(directory, 'fs') : `{{ mount ${layers.push(mount) - 1} }}`;
    });
    if (layers.length === 0) return overlayfs.mounts(own, parents, readonly);
    if (own === undefined && parents.length === 1) lowers.push(...emptyLower(parents[0]!));
    if (own === undefined && lowers.length === 1) return layers;
    return [...layers, overlay(own, lowers)];
  },
};

/** Full copies, for filesystems without overlayfs. */
const native: Snapshotter = {
  name: 'native',
  form: 'plain',
  layerId: (_diffID, chainID) => layerName('native', chainID, true),
  tree: (directory) => join(directory, 'fs'),
  layerMount: (directory) => bind(join(directory, 'fs'), true),
  usage: (directory) => treeUsage(join(directory, 'fs')),
  seed: (directory, parents) => {
    if (parents[0] === undefined) makeTree(directory);
    else copyTree(join(parents[0], 'fs'), join(directory, 'fs'));
  },
  mounts: (own, parents, readonly) => [bind(join(own ?? parents[0]!, 'fs'), readonly || own === undefined)],
};

const SNAPSHOTTERS: ReadonlyMap<string, Snapshotter> = new Map([erofs, overlayfs, native].map((s) => [s.name, s]));

/** Names of all snapshotters, sorted. */
export const snapshotterNames = (): readonly string[] => [...SNAPSHOTTERS.keys()].sort();

/** @throws not_found */
export function getSnapshotter(name: string): Snapshotter {
  const snapshotter = SNAPSHOTTERS.get(name);
  if (snapshotter === undefined)
    throw new ErrdefsError('not_found', `snapshotter ${JSON.stringify(name)}`, {hint: `there are ${snapshotterNames().join(', ')}`});
  return snapshotter;
}

/** `seed`, with errno errors as `ErrdefsError`. */
export function seedLayer(snapshotter: Snapshotter, directory: string, parents: readonly string[], writable: boolean): void {
  try {
    snapshotter.seed(directory, parents, writable);
  } catch (err) {
    throw fromErrno(err, `layer in ${directory}`);
  }
}
