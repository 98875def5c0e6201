/**
 * How trees are kept and mounted. A snapshotter knows directories and mounts; keys, parents and namespaces are records
 * (`snapshots.ts`).
 */
import {chmodSync, chownSync, existsSync, mkdirSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {copyTree} from '../fs/copy.ts';
import type {Digest} from '../oci/descriptor.ts';
import {type TreeUsage, treeUsage} from './disk-usage.ts';
import {EROFS_IMAGE, EROFS_INDEX, EROFS_TAR, indexedUsage} from './indexed-layer.ts';

export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/**
 * How a layer is kept: `overlay`, a tree with whiteouts as overlayfs marks; `plain`, a tree with everything from below in
 * it; `erofs`, the layer's own tar with an index for the kernel, or a tree as of `overlay` where that would not be the same.
 */
export type LayerFormat = 'overlay' | 'plain' | 'erofs';

export interface Snapshotter {
  readonly name: string;
  readonly form: LayerFormat;
  /**
   * Name under `layers/` of an image's layer: by its own content where its tree does not depend on what is below, else by
   * the chain.
   *
   * @param dependsOnParents the layer took something from the layers below it
   */
  layerId(diffID: Digest, chainID: Digest, dependsOnParents: boolean): string;
  /**
   * Makes in `directory` (empty) the tree that a layer is applied to, or that a container writes to.
   *
   * @param parents layer directories below, nearest first
   * @param writable a container will write to it
   */
  seed(directory: string, parents: readonly string[], writable: boolean): void;
  /** Path of the tree inside a layer's directory. */
  tree(directory: string): string;
  /** Shows a layer by itself as it is kept, with its whiteouts. */
  layerMount(directory: string): Mount;
  /** What a layer's directory takes of the disk. */
  usage(directory: string): TreeUsage;
  /**
   * Mounts that show a snapshot's tree, the last one itself and those before it what it is made of; see runtime/mount-plan.ts.
   *
   * @param own layer directory of the snapshot itself; absent for a view of `parents`
   * @param parents layer directories below, nearest first
   */
  mounts(own: string | undefined, parents: readonly string[], readonly: boolean): readonly Mount[];
}

/**
 * Empty directory beside the tree or index of a layer that has whiteouts or opaque marks. overlayfs interprets those only where it
 * stacks at least two directories: shown alone, such a layer is stacked on this one.
 */
const EMPTY = 'empty';

/** Notes of a layer in the making that it has whiteouts or opaque marks. */
export function noteWhiteouts(directory: string): void {
  const path = join(directory, EMPTY);
  try {
    mkdirSync(path, {recursive: true, mode: 0o700});
  } catch (err) {
    throw fromErrno(err, path);
  }
}

/** What a layer is stacked on where nothing is below it. */
const emptyLower = (directory: string): readonly string[] => {
  const path = join(directory, EMPTY);
  return existsSync(path) ? [path] : [];
};

const hex = (digest: Digest): string => digest.replace(':', '-');
const bind = (source: string, readonly: boolean): Mount => ({type: 'bind', source, options: [readonly ? 'ro' : 'rw', 'rbind']});

/** The directory that a container sees as `/`: open to all its users, whatever the umask here is. */
function makeTree(directory: string): string {
  const tree = join(directory, 'fs');
  mkdirSync(tree);
  chmodSync(tree, 0o755);
  return tree;
}

/** Directories stacked by the kernel's overlayfs. Layout and mounts after containerd, plugins/snapshots/overlay. */
const overlay = (own: string | undefined, lowers: readonly string[]): Mount => {
  const lower = `lowerdir=${lowers.map((path) => path.replaceAll(/[\\:]/g, '\\$&')).join(':')}`;
  const options = own === undefined ? [lower] : [`workdir=${join(own, 'work')}`, `upperdir=${join(own, 'fs')}`, lower];
  return {type: 'overlay', source: 'overlay', options};
};

const overlayfs: Snapshotter = {
  name: 'overlayfs',
  form: 'overlay',
  layerId: (diffID, chainID, dependsOnParents) => (dependsOnParents ? `overlayfs-chain-${hex(chainID)}` : `overlayfs-${hex(diffID)}`),
  tree: (directory) => join(directory, 'fs'),
  layerMount: (directory) => bind(join(directory, 'fs'), true),
  usage: (directory) => treeUsage(join(directory, 'fs')),
  seed: (directory, parents, writable) => {
    const tree = makeTree(directory);
    if (writable) mkdirSync(join(directory, 'work'), {mode: 0o711});
    // The upper directory's own attributes are what the container sees of `/`.
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

/** How an indexed layer is mounted; `undefined` for one that was extracted. */
function indexedMount(directory: string): Mount | undefined {
  const [image, index, tar] = [EROFS_IMAGE, EROFS_INDEX, EROFS_TAR].map((name) => join(directory, name)) as [string, string, string];
  if (existsSync(index)) return {type: 'erofs', source: index, options: ['ro', `device=${tar}`]};
  // mount(8) makes the loop device, and the kernel takes it away when the last mount of it goes.
  if (existsSync(image)) return {type: 'erofs', source: image, options: ['ro', 'loop']};
  return undefined;
}

/**
 * Layers that nobody extracted: the kernel reads the tar through an EROFS index. What a container writes goes to a
 * directory, as with overlayfs. A layer that was extracted after all (see archive/erofs-index.ts) stands among them as a tree.
 */
const erofs: Snapshotter = {
  name: 'erofs',
  form: 'erofs',
  layerId: (diffID, chainID, dependsOnParents) => (dependsOnParents ? `erofs-chain-${hex(chainID)}` : `erofs-${hex(diffID)}`),
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

/** Whole copies, for filesystems on which overlayfs does not work. */
const native: Snapshotter = {
  name: 'native',
  form: 'plain',
  layerId: (_diffID, chainID) => `native-chain-${hex(chainID)}`,
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

/** `seed` with the operating system's errors made ours. */
export function seedLayer(snapshotter: Snapshotter, directory: string, parents: readonly string[], writable: boolean): void {
  try {
    snapshotter.seed(directory, parents, writable);
  } catch (err) {
    throw fromErrno(err, `layer in ${directory}`);
  }
}
