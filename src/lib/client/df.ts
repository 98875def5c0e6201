/** `df`: what the store takes of the disk, and whose it is. */
import {lstatSync, readdirSync, type Stats} from 'node:fs';
import {join} from 'node:path';
import {fromErrno} from '../errdefs.ts';
import {DIGEST_HEX_LENGTH, type Digest} from '../oci/descriptor.ts';
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

/** Sizes as du(1) tells them: each inode once, no link followed. What vanishes meanwhile counts for nothing. */
class Ruler {
  readonly #seen = new Set<string>();

  /** The path itself, and the names in it if it is a directory. Names in layers are any bytes. */
  own(path: Buffer): {readonly used: SpaceUsed; readonly names: readonly Buffer[]} {
    const stat = lstat(path);
    if (stat === undefined) return {used: NOTHING, names: []};
    const inode = `${stat.dev}:${stat.ino}`;
    if (stat.nlink > 1 && !stat.isDirectory()) {
      if (this.#seen.has(inode)) return {used: NOTHING, names: []};
      this.#seen.add(inode);
    }
    const used = {count: 1, size: stat.isFile() ? stat.size : 0, disk: stat.blocks * 512};
    return {used, names: stat.isDirectory() ? list(path) : []};
  }

  /** The path with all below it, as one object. */
  tree(path: Buffer): SpaceUsed {
    const {used, names} = this.own(path);
    return names.length === 0 ? used : {...sum([used, ...names.map((name) => this.tree(inside(path, name)))]), count: 1};
  }
}

const inside = (path: Buffer, name: Buffer): Buffer => Buffer.concat([path, Buffer.from('/'), name]);

/** A file, or a directory with all in it. */
export const measureOne = (path: string): SpaceUsed => new Ruler().tree(Buffer.from(path));

/** Measures everything below the root. */
export function measure(layout: Layout): Measured {
  const ruler = new Ruler();
  const told = new Map<string, Map<string, SpaceUsed>>();
  /** Each entry of a directory; the directory itself is nobody's. */
  const entries = (directory: string): Map<string, SpaceUsed> => {
    const path = Buffer.from(directory);
    const isReal = lstat(path)?.isDirectory() ?? false;
    const found = new Map((isReal ? list(path) : []).map((name) => [String(name), ruler.tree(inside(path, name))]));
    told.set(directory, found);
    return found;
  };
  const blobs = Object.keys(DIGEST_HEX_LENGTH).flatMap((algorithm) =>
    [...entries(join(layout.blobs, algorithm))].map(([hex, used]) => [`${algorithm}:${hex}` as Digest, used] as const),
  );
  const [layers, ingests, trash, work, damaged] = [layout.layers, layout.ingests, layout.trash, layout.work, layout.damaged].map(entries);
  const rest = (path: Buffer): SpaceUsed => {
    const {used, names} = ruler.own(path);
    return told.has(String(path)) ? used : sum([used, ...names.map((name) => rest(inside(path, name)))]);
  };
  return {
    blobs: new Map(blobs),
    layers: layers!,
    ingests: ingests!,
    leftovers: sum([...trash!.values(), ...work!.values()]),
    damaged: sum(damaged!.values()),
    records: rest(Buffer.from(layout.root)),
  };
}

function lstat(path: Buffer): Stats | undefined {
  try {
    return lstatSync(path, {throwIfNoEntry: false});
  } catch (err) {
    throw fromErrno(err, String(path));
  }
}

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
