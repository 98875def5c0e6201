/** Applies layers in each mode, and reads the resulting tree. */
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join, relative} from 'node:path';
import {createApplier, reconcile, type TreeForm} from '../../../src/lib/archive/apply.ts';
import {createErofsIndex, type ErofsIndex, type ImplicitParent} from '../../../src/lib/archive/erofs-index.ts';
import {createTarReader} from '../../../src/lib/archive/tar.ts';
import {completeIndex, writeLayerIndex} from '../../../src/lib/client/workers/layer-index.ts';
import {type Backing, EROFS_IMAGE, EROFS_INDEX, EROFS_TAR} from '../../../src/lib/store/indexed-layer.ts';
import {findProgram} from '../../support/helpers.ts';
import {file, tar} from '../../support/tartest.ts';
import {readTree, type TreeEntry} from '../../support/tree.ts';

export interface ApplyOptions {
  readonly form: TreeForm;
  readonly lowers?: readonly string[];
  readonly warn?: (message: string) => void;
  /** Bytes of a write. */
  readonly chunk?: number;
}

export function apply(
  root: string,
  tar: Uint8Array,
  {chunk = 65_536, ...options}: ApplyOptions,
): ReturnType<ReturnType<typeof createApplier>['end']> {
  const applier = createApplier({root, ...options});
  for (let at = 0; at < tar.length; at += chunk) applier.write(tar.subarray(at, at + chunk));
  return applier.end();
}

/** Reads the overlayfs merge of trees, topmost first. */
export function readMerged(work: string, trees: readonly string[]): TreeEntry[] {
  const [at, empty] = [join(work, 'merged'), join(work, 'empty')];
  for (const dir of [at, empty]) mkdirSync(dir, {recursive: true});
  // Relative paths, because an option may have 256 bytes.
  const below = [...trees, empty].map((tree) => relative(work, tree)).join(':');
  execFileSync('mount', ['-t', 'overlay', 'overlay', '-o', `ro,lowerdir=${below}`, at], {cwd: work});
  try {
    return readTree(at);
  } finally {
    execFileSync('umount', [at]);
  }
}

export interface ApplyMode {
  readonly name: string;
  /** Applies layers, bottom first, in an empty directory. */
  run(work: string, layers: readonly Uint8Array[]): TreeEntry[];
}

function makeTree(work: string, name: string): string {
  const tree = join(work, name);
  mkdirSync(tree, {recursive: true, mode: 0o755});
  return tree;
}

export const PLAIN_MODE: ApplyMode = {
  name: 'plain',
  run(work, layers) {
    const root = makeTree(work, 'root');
    for (const layer of layers) apply(root, layer, {form: 'plain'});
    return readTree(root);
  },
};

export const OVERLAY_MODE: ApplyMode = {
  name: 'overlay, one after the other',
  run(work, layers) {
    const trees: string[] = [];
    layers.forEach((layer, i) => {
      const tree = makeTree(work, `layer${i}`);
      apply(tree, layer, {form: 'overlay', lowers: trees});
      trees.unshift(tree);
    });
    return readMerged(work, trees);
  },
};

export const RECONCILED_MODE: ApplyMode = {
  name: 'overlay, each by itself and then reconciled',
  run(work, layers) {
    const done = layers.map((layer, i) => {
      const tree = makeTree(work, `layer${i}`);
      return {tree, layer, result: apply(tree, layer, {form: 'overlay'})};
    });
    const trees: string[] = [];
    done.forEach(({tree, layer, result}, i) => {
      let at = tree;
      if (reconcile(tree, trees, result) === 'redo') {
        at = makeTree(work, `again${i}`);
        apply(at, layer, {form: 'overlay', lowers: trees});
      }
      trees.unshift(at);
    });
    return readMerged(work, trees);
  },
};

export const APPLY_MODES: readonly ApplyMode[] = [PLAIN_MODE, OVERLAY_MODE, RECONCILED_MODE];

/** Builds the index of a layer, and finds the end of its entries. */
export function buildIndex(archive: Uint8Array): {readonly index: ErofsIndex; readonly entriesEnd: number} {
  const index = createErofsIndex();
  const reader = createTarReader(index);
  reader.write(archive);
  reader.end();
  return {index, entriesEnd: reader.entriesEnd};
}

/** @returns mount(8)'s message if the kernel rejects it */
function mountErofs(options: string, source: string, at: string): string | undefined {
  mkdirSync(at, {recursive: true});
  const {status, stderr} = spawnSync('mount', ['-t', 'erofs', '-o', options, source, at], {encoding: 'utf8'});
  return status === 0 ? undefined : stderr;
}

const mountIndexed = (directory: string, backing: Backing, at: string): string | undefined =>
  backing === 'files'
    ? mountErofs(`ro,device=${join(directory, EROFS_TAR)}`, join(directory, EROFS_INDEX), at)
    : mountErofs('ro,loop', join(directory, EROFS_IMAGE), at);

function writeIndexed(directory: string, layer: Uint8Array, backing: Backing): readonly ImplicitParent[] {
  mkdirSync(directory, {recursive: true});
  writeFileSync(join(directory, EROFS_TAR), layer);
  return writeLayerIndex(directory, backing, buildIndex(layer).index, layer.length);
}

const mountable = new Map<Backing, boolean>();

/** Tells whether this kernel mounts an index of mkfs.erofs with that backing. If so, it must mount ours as well. */
function isMountable(work: string, backing: Backing): boolean {
  const known = mountable.get(backing);
  if (known !== undefined) return known;
  const [image, archive, at] = ['trial', 'trial.tar', 'trial-mount'].map((name) => join(work, name)) as [string, string, string];
  writeFileSync(archive, tar(file('f', 'x')));
  execFileSync('mkfs.erofs', ['--quiet', `--tar=${backing === 'files' ? 'i' : 'f'}`, '-Enosbcrc', image, archive]);
  const mounts = mountErofs(backing === 'files' ? `ro,device=${archive}` : 'ro,loop', image, at) === undefined;
  if (mounts) execFileSync('umount', [at]);
  mountable.set(backing, mounts);
  return mounts;
}

/**
 * Reads the overlayfs merge of indexed layers, none of them extracted. Each index must pass fsck.erofs and mount.
 *
 * @returns `extracted` if a layer cannot be indexed; `undefined` if this kernel mounts no index
 */
export function readIndexed(
  work: string,
  layers: readonly Uint8Array[],
  backing: Backing = 'files',
): ReturnType<typeof readMerged> | 'extracted' | undefined {
  if (!isMountable(work, backing)) return undefined;
  const mounts: string[] = [];
  const below: string[] = [];
  try {
    for (const [i, layer] of layers.entries()) {
      const [directory, at] = [join(work, String(i)), join(work, `${i}-mount`)];
      if (!completeIndex(directory, writeIndexed(directory, layer, backing), below)) return 'extracted';
      if (backing === 'files' && findProgram('fsck.erofs') !== undefined) {
        const args = [`--device=${join(directory, EROFS_TAR)}`, join(directory, EROFS_INDEX)];
        const {status, stderr} = spawnSync('fsck.erofs', args, {encoding: 'utf8'});
        assert.equal(status, 0, stderr);
      }
      const refusal = mountIndexed(directory, backing, at);
      assert.equal(refusal, undefined, 'the kernel mounts it');
      mounts.unshift(at);
      below.unshift(directory);
    }
    return readMerged(work, mounts);
  } finally {
    for (const at of mounts) spawnSync('umount', [at]);
  }
}
