/**
 * How trees are kept and mounted. A snapshotter knows directories and mounts; keys, parents and namespaces are records
 * (`snapshots.ts`).
 */
import {chownSync, mkdirSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {runSync} from '../fs/spawn.ts';
import type {Digest} from '../oci/descriptor.ts';

export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

export interface Snapshotter {
  readonly name: string;
  /** How a layer's whiteouts are kept: as overlayfs marks, or by deleting in a tree that holds everything. */
  readonly form: 'overlay' | 'plain';
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
   */
  seed(directory: string, parents: readonly string[]): void;
  /** Path of the tree inside a layer's directory. */
  tree(directory: string): string;
  /**
   * Mounts that show a snapshot's tree.
   *
   * @param own layer directory of the snapshot itself; absent for a view of `parents`
   * @param parents layer directories below, nearest first
   */
  mounts(own: string | undefined, parents: readonly string[], readonly: boolean): readonly Mount[];
}

const hex = (digest: Digest): string => digest.replace(':', '-');
const bind = (source: string, readonly: boolean): readonly Mount[] => [{type: 'bind', source, options: [readonly ? 'ro' : 'rw', 'rbind']}];

/** Directories stacked by the kernel's overlayfs. Layout and mounts after containerd, plugins/snapshots/overlay. */
const overlayfs: Snapshotter = {
  name: 'overlayfs',
  form: 'overlay',
  layerId: (diffID, chainID, dependsOnParents) => (dependsOnParents ? `overlayfs-chain-${hex(chainID)}` : `overlayfs-${hex(diffID)}`),
  tree: (directory) => join(directory, 'fs'),
  seed: (directory, parents) => {
    const tree = join(directory, 'fs');
    mkdirSync(tree, {mode: 0o755});
    mkdirSync(join(directory, 'work'), {mode: 0o711});
    // The upper directory's own attributes are what the container sees of `/`.
    const below = parents[0] === undefined ? undefined : statSync(join(parents[0], 'fs'));
    if (below !== undefined) chownSync(tree, below.uid, below.gid);
  },
  mounts: (own, parents, readonly) => {
    const trees = parents.map((directory) => join(directory, 'fs'));
    if (own !== undefined && trees.length === 0) return bind(join(own, 'fs'), readonly);
    if (own === undefined && trees.length === 1) return bind(trees[0]!, true);
    const lower = `lowerdir=${trees.join(':')}`;
    const options = own === undefined ? [lower] : [`workdir=${join(own, 'work')}`, `upperdir=${join(own, 'fs')}`, lower];
    return [{type: 'overlay', source: 'overlay', options}];
  },
};

/** Whole copies, for filesystems on which overlayfs does not work. */
const native: Snapshotter = {
  name: 'native',
  form: 'plain',
  layerId: (_diffID, chainID) => `native-chain-${hex(chainID)}`,
  tree: (directory) => join(directory, 'fs'),
  seed: (directory, parents) => {
    const tree = join(directory, 'fs');
    if (parents[0] === undefined) mkdirSync(tree, {mode: 0o755});
    else {
      const {status, stderr} = runSync('cp', ['-a', '--reflink=auto', join(parents[0], 'fs'), tree], {package: 'coreutils'});
      if (status !== 0) throw new ErrdefsError('unknown', `copy of ${parents[0]} ended with status ${status}: ${stderr.trim()}`);
    }
  },
  mounts: (own, parents, readonly) => bind(join(own ?? parents[0]!, 'fs'), readonly || own === undefined),
};

const SNAPSHOTTERS: ReadonlyMap<string, Snapshotter> = new Map([overlayfs, native].map((s) => [s.name, s]));

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
export function seedLayer(snapshotter: Snapshotter, directory: string, parents: readonly string[]): void {
  try {
    snapshotter.seed(directory, parents);
  } catch (err) {
    throw fromErrno(err, `layer in ${directory}`);
  }
}
