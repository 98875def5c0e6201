/** `df`: the disk usage of the store, by namespace and kind. */
import {lstatSync, readdirSync, type Stats} from 'node:fs';
import {join} from 'node:path';
import {fromErrno} from '../../errdefs.ts';
import {Directory, walk} from '../../fs/walk.ts';
import {DIGEST_HEX_LENGTH, type Digest} from '../../oci/descriptor.ts';
import {isOwnLayer} from '../../store/layer-store.ts';
import type {Layout} from '../../store/layout.ts';
import {QUOTA} from '../../store/quota.ts';
import type {SurveyedNamespace} from '../../store/survey-records.ts';
import type {Context} from '../context.ts';
import type {DiskUsage, NamespaceUsage, ShareOfDisk, SpaceUsed} from '../types/index.ts';

const NOTHING: SpaceUsed = {count: 0, size: 0, disk: 0};

const sum = (all: Iterable<SpaceUsed>): SpaceUsed => {
  let [count, size, disk] = [0, 0, 0];
  for (const one of all) {
    count += one.count;
    size += one.size;
    disk += one.disk;
  }
  return {count, size, disk};
};

/** Sizes of everything below the root. */
export interface Measured {
  readonly blobs: ReadonlyMap<Digest, SpaceUsed>;
  readonly layers: ReadonlyMap<string, SpaceUsed>;
  readonly ingests: ReadonlyMap<string, SpaceUsed>;
  /** Trash, and incomplete files and directories. */
  readonly leftovers: SpaceUsed;
  readonly damaged: SpaceUsed;
  /** Records, the journal, locks, caches, and the directories that hold everything else. */
  readonly records: SpaceUsed;
}

/** Measures as du(1) does: each inode once, without following links. Files that vanish meanwhile do not count. */
class DiskUsageWalker {
  readonly #seen = new Set<string>();

  /** Usage of an inode; nothing when it was counted under another name. */
  #own(stat: Stats): SpaceUsed {
    const inode = `${stat.dev}:${stat.ino}`;
    if (stat.nlink > 1 && !stat.isDirectory()) {
      if (this.#seen.has(inode)) return NOTHING;
      this.#seen.add(inode);
    }
    return {count: 1, size: stat.isFile() ? stat.size : 0, disk: stat.blocks * 512};
  }

  /** Each name from the path on; `isWhole` says that the entries of a directory are not needed. */
  all(path: string | Buffer, isWhole: (path: Buffer) => boolean = () => false): SpaceUsed {
    let [count, size, disk] = [0, 0, 0];
    try {
      walk(path, (stat, at) => {
        const used = this.#own(stat);
        [count, size, disk] = [count + used.count, size + used.size, disk + used.disk];
        return !isWhole(at);
      });
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'ENOENT') throw fromErrno(err, String(path));
    }
    return {count, size, disk};
  }

  /** Usage of a path and everything below it, as one object. */
  tree(path: string | Buffer): SpaceUsed {
    const used = this.all(path);
    return {...used, count: Math.min(used.count, 1)};
  }
}

/** Usage of a file, or of a directory with everything in it. */
export const measureOne = (path: string): SpaceUsed => new DiskUsageWalker().tree(path);

/** Measures everything below the root. */
export function measure(layout: Layout): Measured {
  const walker = new DiskUsageWalker();
  const measuredApart = new Map<string, Map<string, SpaceUsed>>();
  /** Usage of each entry of a directory; the directory itself counts as records. */
  const entries = (directory: string): Map<string, SpaceUsed> => {
    const path = new Directory(directory);
    const found = new Map(list(directory).map((name) => [String(name), walker.tree(path.at(name))]));
    measuredApart.set(directory, found);
    return found;
  };
  const blobs = Object.keys(DIGEST_HEX_LENGTH).flatMap((algorithm) =>
    [...entries(join(layout.blobs, algorithm))].map(([hex, used]) => [`${algorithm}:${hex}` as Digest, used] as const),
  );
  const [layers, ingests, trash, work, damaged] = [layout.layers, layout.ingests, layout.trash, layout.work, layout.damaged].map(entries);
  return {
    blobs: new Map(blobs),
    layers: layers!,
    ingests: ingests!,
    leftovers: sum([...trash!.values(), ...work!.values()]),
    damaged: sum(damaged!.values()),
    records: walker.all(layout.root, (path) => measuredApart.has(String(path))),
  };
}

/** Names in a directory; none when it is missing or not a directory. */
function list(path: string): readonly Buffer[] {
  try {
    return lstatSync(path, {throwIfNoEntry: false})?.isDirectory() === true ? readdirSync(path, {encoding: 'buffer'}) : [];
  } catch (err) {
    if (['ENOENT', 'ENOTDIR'].includes((err as NodeJS.ErrnoException).code ?? '')) return [];
    throw fromErrno(err, path);
  }
}

/** Objects that a namespace refers to. */
interface ReferencedObjects {
  readonly content: ReadonlySet<Digest>;
  readonly snapshots: ReadonlySet<string>;
  readonly writable: ReadonlySet<string>;
}

function referencedBy({content, snapshots, leases}: SurveyedNamespace): ReferencedObjects {
  const layers = [...snapshots.flatMap(({layer}) => layer ?? []), ...leases.flatMap((lease) => lease.layers)];
  const writable = new Set([
    ...snapshots.filter(({kind}) => kind !== 'committed').flatMap(({layer}) => layer ?? []),
    ...leases.flatMap((lease) => lease.layers.filter(isOwnLayer)),
  ]);
  return {
    content: new Set([...content.map(({digest}) => digest), ...leases.flatMap((lease) => lease.content)]),
    snapshots: new Set(layers.filter((id) => !writable.has(id))),
    writable,
  };
}

/** @throws data_loss a record cannot be read, so that ownership would be a guess */
export async function diskUsage({store}: Context): Promise<DiskUsage> {
  const {namespaces, unreadable} = store.view((tx) => tx.survey());
  if (unreadable[0] !== undefined) throw unreadable[0].error;
  const measured = measure(store.layout);
  const named = namespaces.map((ns) => ({ns, ...referencedBy(ns)}));

  /** Usage of one kind of shared object: by namespace, in total, and unreferenced. */
  const divide = <K extends string>(there: ReadonlyMap<K, SpaceUsed>, of: (one: (typeof named)[number]) => ReadonlySet<K>) => {
    const owners = new Map<K, number>();
    for (const one of named) for (const key of of(one)) owners.set(key, (owners.get(key) ?? 0) + 1);
    const used = (keys: Iterable<K>): SpaceUsed => sum([...keys].flatMap((key) => there.get(key) ?? []));
    const share = (one: (typeof named)[number]): ShareOfDisk => {
      const keys = [...of(one)];
      const {disk: unique} = used(keys.filter((key) => owners.get(key) === 1));
      const all = used(keys);
      return {...all, unique, shared: all.disk - unique};
    };
    return {share, all: used(owners.keys()), named: owners};
  };
  const content = divide(measured.blobs, (one) => one.content);
  const snapshots = divide(measured.layers, (one) => one.snapshots);
  const writable = divide(measured.layers, (one) => one.writable);
  const unnamed = sum([
    ...[...measured.blobs].filter(([digest]) => !content.named.has(digest)).map(([, used]) => used),
    ...[...measured.layers].filter(([id]) => !snapshots.named.has(id) && !writable.named.has(id)).map(([, used]) => used),
  ]);
  const parts = {
    content: content.all,
    snapshots: snapshots.all,
    writable: writable.all,
    ingests: sum(measured.ingests.values()),
    unnamed,
    leftovers: measured.leftovers,
    damaged: measured.damaged,
    records: measured.records,
  };
  return {
    root: store.layout.root,
    namespaces: named.map((one): NamespaceUsage => {
      const shares = {content: content.share(one), snapshots: snapshots.share(one), writable: writable.share(one)};
      const quota = one.ns.record?.labels?.[QUOTA];
      return {
        name: one.ns.name,
        images: one.ns.images.length,
        containers: one.ns.containers.length,
        ...shares,
        used: shares.content.size + shares.snapshots.disk + shares.writable.disk,
        ...(quota === undefined ? {} : {quota: Number(quota)}),
      };
    }),
    ...parts,
    disk: sum(Object.values(parts)).disk,
  };
}
