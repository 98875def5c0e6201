/** `df`: what the store takes of the disk, and whose it is. */
import {lstatSync, readdirSync, type Stats} from 'node:fs';
import {join} from 'node:path';
import {fromErrno} from '../errdefs.ts';
import type {Digest} from '../oci/descriptor.ts';
import type {Layout} from '../store/layout.ts';
import type {SurveyedNamespace} from '../store/survey.ts';
import type {Context} from './context.ts';
import {isOwnLayer} from './findings.ts';
import type {DiskUsage, NamespaceUsage, ShareOfDisk, SpaceUsed} from './types.ts';

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

/** Sizes of what lies below the root. */
export interface Measured {
  readonly blobs: ReadonlyMap<Digest, SpaceUsed>;
  readonly layers: ReadonlyMap<string, SpaceUsed>;
  readonly ingests: ReadonlyMap<string, SpaceUsed>;
  /** What waits to be deleted or was left half-made. */
  readonly leftovers: SpaceUsed;
  readonly damaged: SpaceUsed;
  /** Records, the journal, locks, caches, and the directories that all the rest lies in. */
  readonly records: SpaceUsed;
}

/** Sizes as du(1) tells them: each inode once. What vanishes meanwhile counts for nothing. */
function ruler(): {use(path: string | Buffer): SpaceUsed; tree(path: Buffer): SpaceUsed} {
  const seen = new Set<string>();
  const use = (path: string | Buffer): SpaceUsed => {
    const stat = lstat(path);
    if (stat === undefined) return NOTHING;
    if (stat.nlink > 1 && !stat.isDirectory()) {
      const inode = `${stat.dev}:${stat.ino}`;
      if (seen.has(inode)) return NOTHING;
      seen.add(inode);
    }
    return {count: 1, size: stat.isFile() ? stat.size : 0, disk: stat.blocks * 512};
  };
  /** A directory with all in it. Names in layers are any bytes. */
  const tree = (path: Buffer): SpaceUsed => {
    const own = use(path);
    const below = own.count === 0 ? [] : list(path);
    return below.length === 0 ? own : {...sum([own, ...below.map((name) => tree(Buffer.concat([path, SLASH, name])))]), count: 1};
  };
  return {use, tree};
}

/** A file, or a directory with all in it. */
export const measureOne = (path: string): SpaceUsed => ruler().tree(Buffer.from(path));

/** Measures everything below the root. */
export function measure(layout: Layout): Measured {
  const {use, tree} = ruler();
  /** Each entry of a directory; the directory itself belongs to nobody. */
  const entries = <K extends string>(directory: string, key: (name: string) => K): Map<K, SpaceUsed> =>
    new Map(names(directory).map((name) => [key(name), tree(Buffer.from(join(directory, name)))]));

  const algorithms = names(layout.blobs);
  const blobs = new Map(
    algorithms.flatMap((algorithm) => [...entries(join(layout.blobs, algorithm), (hex) => `${algorithm}:${hex}` as Digest)]),
  );
  const layers = entries(layout.layers, (id) => id);
  const ingests = entries(layout.ingests, (key) => key);
  const [trash, work, damaged] = [layout.trash, layout.work, layout.damaged].map((path) => sum(entries(path, String).values()));
  /** Directories whose entries are told of. */
  const told = new Set([layout.ingests, layout.layers, layout.trash, layout.work, layout.damaged]);
  for (const algorithm of algorithms) told.add(join(layout.blobs, algorithm));
  const rest = (path: string): SpaceUsed => sum([use(path), ...(told.has(path) ? [] : names(path).map((name) => rest(join(path, name))))]);
  return {blobs, layers, ingests, leftovers: sum([trash!, work!]), damaged: damaged!, records: rest(layout.root)};
}

function lstat(path: string | Buffer): Stats | undefined {
  try {
    return lstatSync(path, {throwIfNoEntry: false});
  } catch (err) {
    throw fromErrno(err, String(path));
  }
}

const SLASH = Buffer.from('/');

const names = (path: string): readonly string[] => list(Buffer.from(path)).map(String);

function list(path: Buffer): readonly Buffer[] {
  try {
    return readdirSync(path, {encoding: 'buffer'});
  } catch (err) {
    if (['ENOENT', 'ENOTDIR'].includes((err as NodeJS.ErrnoException).code ?? '')) return [];
    throw fromErrno(err, String(path));
  }
}

/** What a namespace names. */
interface Named {
  readonly content: ReadonlySet<Digest>;
  readonly snapshots: ReadonlySet<string>;
  readonly writable: ReadonlySet<string>;
}

function namedBy({content, snapshots, leases}: SurveyedNamespace): Named {
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

/** @throws data_loss a record cannot be read: whose the rest is would be a guess */
export async function diskUsage({store}: Context): Promise<DiskUsage> {
  const {namespaces, unreadable} = store.view((tx) => tx.survey());
  if (unreadable[0] !== undefined) throw unreadable[0].error;
  const measured = measure(store.layout);
  const named = namespaces.map((ns) => ({ns, ...namedBy(ns)}));

  /** One kind of what is shared: by namespace, in all, and what nobody names. */
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
    namespaces: named.map(
      (one): NamespaceUsage => ({
        name: one.ns.name,
        images: one.ns.images.length,
        containers: one.ns.containers.length,
        content: content.share(one),
        snapshots: snapshots.share(one),
        writable: writable.share(one),
      }),
    ),
    ...parts,
    disk: sum(Object.values(parts)).disk,
  };
}
