/** Looks up directories in lower layers, each an index or a directory in overlay form. */
import {attributesOf, type Entry, isWhiteout, lstat, mergeEntries} from './overlay-view.ts';
import {type Attributes, readXattrs} from './special-files.ts';

export type LowerEntry =
  | {readonly kind: 'directory'; readonly attributes: Attributes; readonly xattrs: ReadonlyMap<string, Buffer>}
  | {readonly kind: 'whiteout' | 'other'};

export interface LowerTree {
  /**
   * Finds a path without following symbolic links.
   *
   * @param names binary strings, from the root
   * @throws data_loss the tree is damaged
   */
  lookup(names: readonly string[]): LowerEntry | undefined;
  close(): void;
}

/**
 * @param path absolute
 * @param expected paths that will be looked up: their attributes are read in one batch
 */
export function openExtracted(path: string, expected: readonly (readonly string[])[]): LowerTree {
  const root = Buffer.from(path).toString('latin1');
  const pathOf = (names: readonly string[]): string => [root, ...names].join('/');
  const directories = new Set<string>();
  for (const names of expected)
    for (let length = 1; length <= names.length; length++) {
      const at = pathOf(names.slice(0, length));
      if (lstat(at)?.isDirectory() !== true) break;
      directories.add(at);
    }
  const paths = [...directories];
  const all = new Map(readXattrs(paths).map((xattrs, i) => [paths[i]!, xattrs]));
  return {
    lookup(names) {
      const at = pathOf(names);
      const stat = lstat(at);
      if (stat === undefined) return undefined;
      if (stat.isDirectory()) return {kind: 'directory', attributes: attributesOf(stat), xattrs: all.get(at) ?? readXattrs([at])[0]!};
      return {kind: isWhiteout(stat) ? 'whiteout' : 'other'};
    },
    close() {},
  };
}

type LowerDirectory = Extract<LowerEntry, {readonly kind: 'directory'}>;
type DirectoryInTree = LowerDirectory & {readonly tree: LowerTree};

function* entriesAt(trees: readonly LowerTree[], names: readonly string[]): Generator<Entry<DirectoryInTree, 'other'> | undefined> {
  for (const tree of trees) {
    const entry = tree.lookup(names);
    if (entry?.kind === 'directory') yield {directory: {...entry, tree}};
    else yield entry?.kind === 'other' ? {other: entry.kind} : entry?.kind;
  }
}

/**
 * Finds a path as overlayfs would show it.
 *
 * @param lowers topmost first
 * @param path binary string, below the root
 * @returns `undefined` for an absent path
 */
export function findMerged(lowers: readonly LowerTree[], path: string): LowerDirectory | 'other' | undefined {
  const names = path.split('/');
  let trees = lowers;
  for (let length = 1; ; length++) {
    const found = mergeEntries(entriesAt(trees, names.slice(0, length)), (dirs) => dirs.map(({xattrs}) => xattrs));
    const isLast = length === names.length;
    if (found === undefined || 'other' in found) return isLast ? found?.other : undefined;
    if (isLast) return found.directories[0];
    trees = found.directories.map(({tree}) => tree);
  }
}
