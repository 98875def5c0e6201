/**
 * Who keeps whom, counted: so that removing one image looks at what that image kept, and not at ten thousand others.
 *
 * A count is a document beside the records, changed in the same transaction as the record that refers. It is derived:
 * `rebuild` makes it anew from the records, and where anything is odd the collection falls back to marking everything.
 *
 * Labels after containerd, docs/garbage-collection.md.
 */
import {is} from '../errdefs.ts';
import type {Digest} from '../oci/descriptor.ts';
import {Overlay, type Reader, type Writer} from './backend.ts';
import {isMisfit} from './documents.ts';
import {recordFile, recordPath} from './layout.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, Labels, LeaseRecord, SnapshotRecord} from './records.ts';

/** An object of a namespace, as a key: `content/<digest>`, `image/<name>`, `snapshot/<snapshotter>/<key>`, `container/<id>`. */
export type Node = `content/${string}` | `image/${string}` | `snapshot/${string}` | `container/${string}`;

export const contentNode = (digest: string): Node => `content/${digest}`;
export const imageNode = (name: string): Node => `image/${name}`;
export const snapshotNode = (snapshotter: string, key: string): Node => `snapshot/${snapshotter}/${key}`;
export const containerNode = (id: string): Node => `container/${id}`;

export const ROOT = 'containerd.io/gc.root';
export const FLAT = 'containerd.io/gc.flat';
export const EXPIRE = 'containerd.io/gc.expire';

/** `prefix` itself, or `prefix` followed by `.` or `/`: other suffixes are other labels. */
const hasPrefix = (key: string, prefix: string): boolean => key === prefix || key.startsWith(`${prefix}.`) || key.startsWith(`${prefix}/`);

/** The node that one label names, forwards (`ref`: I keep it) or backwards (`bref`: it keeps me). */
export function labelled(key: string, value: string, direction: 'ref' | 'bref'): Node | undefined {
  const prefix = `containerd.io/gc.${direction}.`;
  if (!key.startsWith(prefix)) return undefined;
  if (hasPrefix(key, `${prefix}content`)) return contentNode(value);
  if (hasPrefix(key, `${prefix}image`)) return imageNode(value);
  if (direction === 'bref' && hasPrefix(key, `${prefix}container`)) return containerNode(value);
  if (key.startsWith(`${prefix}snapshot.`)) {
    const snapshotter = key.slice(`${prefix}snapshot.`.length).split('/', 1)[0]!;
    return snapshotNode(snapshotter, value);
  }
  return undefined;
}

export function edges(labels: Labels): readonly Node[] {
  return Object.entries(labels).flatMap(([key, value]) => labelled(key, value, 'ref') ?? []);
}

/** What all namespaces share, as a key. */
export type Shared = `blob/${string}` | `layer/${string}`;

export const blobKey = (digest: Digest): Shared => `blob/${digest}`;
export const layerKey = (id: string): Shared => `layer/${id}`;

/** What one record keeps. */
export interface Kept {
  readonly nodes: readonly Node[];
  readonly shared: readonly Shared[];
}

export const keptByImage = ({target, labels}: ImageRecord): Kept => ({nodes: [contentNode(target.digest), ...edges(labels)], shared: []});

export const keptByContainer = ({snapshotter, snapshotKey, labels}: ContainerRecord): Kept => ({
  nodes: [...(snapshotKey === '' ? [] : [snapshotNode(snapshotter, snapshotKey)]), ...edges(labels)],
  shared: [],
});

export const keptByContent = ({digest, labels}: ContentRecord): Kept => ({nodes: edges(labels), shared: [blobKey(digest)]});

export const keptBySnapshot = ({snapshotter, parent, layer, labels}: SnapshotRecord): Kept => ({
  nodes: [...(parent === undefined ? [] : [snapshotNode(snapshotter, parent)]), ...edges(labels)],
  shared: layer === undefined ? [] : [layerKey(layer)],
});

export const keptByLease = ({content, snapshots, layers, labels}: LeaseRecord): Kept => ({
  nodes: [...content.map(contentNode), ...snapshots.map((s): Node => `snapshot/${s}`), ...edges(labels)],
  shared: [...content.map(blobKey), ...layers.map(layerKey)],
});

/** Says that the counts of a namespace, or the shared ones, are complete. Without it they mean nothing. */
const COMPLETE = 'complete.json';

/** In the place of a count that cannot be read: it counts as wrong, and everything is looked at instead. */
const UNREADABLE = Symbol('unreadable');

/** The counts as one transaction sees and changes them. */
export class RefCounts {
  readonly #io: Reader & Partial<Writer>;
  /** Nodes, by namespace, and shared things whose last reference went in this transaction. */
  readonly released = new Map<string, Set<Node>>();
  readonly releasedShared = new Set<Shared>();
  /** False once a count was found missing or impossible. */
  #sound = true;

  constructor(io: Reader & Partial<Writer>) {
    this.#io = io;
  }

  /** Whether the counts of a namespace and the shared ones can be believed. */
  isSound(ns: string): boolean {
    const complete = [recordPath.refs(ns), recordPath.sharedRefs].map((directory) => this.#get(`${directory}/${COMPLETE}`));
    return this.#sound && complete.every((document) => document !== undefined && document !== UNREADABLE);
  }

  count(ns: string, node: Node): number {
    return this.#read(nodePath(ns, node));
  }

  countShared(key: Shared): number {
    return this.#read(sharedPath(key));
  }

  /** A new, empty namespace has complete counts; so have the shared ones when it is the first. */
  begin(ns: string, isFirst: boolean): void {
    this.#io.put!(`${recordPath.refs(ns)}/${COMPLETE}`, {version: 1});
    if (isFirst) this.#io.put!(`${recordPath.sharedRefs}/${COMPLETE}`, {version: 1});
  }

  end(ns: string): void {
    this.#io.put!(`${recordPath.refs(ns)}/${COMPLETE}`, undefined);
  }

  /** A record of `ns` kept `before` and keeps `after`; either may be nothing. */
  change(ns: string, before: Kept | undefined, after: Kept | undefined): void {
    const [oldNodes, newNodes] = [new Set(before?.nodes), new Set(after?.nodes)];
    const [oldShared, newShared] = [new Set(before?.shared), new Set(after?.shared)];
    const released = this.released.get(ns) ?? new Set();
    this.released.set(ns, released);
    for (const node of newNodes.difference(oldNodes)) {
      this.#add(nodePath(ns, node), 1);
      released.delete(node);
    }
    for (const node of oldNodes.difference(newNodes)) if (this.#add(nodePath(ns, node), -1) === 0) released.add(node);
    for (const key of newShared.difference(oldShared)) {
      this.#add(sharedPath(key), 1);
      this.releasedShared.delete(key);
    }
    for (const key of oldShared.difference(newShared)) if (this.#add(sharedPath(key), -1) === 0) this.releasedShared.add(key);
  }

  /**
   * A record or a count was there that could not be read: what is kept is not known, and is not even where it can be read again,
   * until everything is counted anew.
   */
  doubt(): void {
    this.#sound = false;
    for (const ns of this.#io.directories(recordPath.namespaces)) this.end(ns);
    this.#io.put!(`${recordPath.sharedRefs}/${COMPLETE}`, undefined);
  }

  /** Counts everything anew, and writes what is not as it should be. @param namespaces all of them, with what each of their records keeps */
  rebuild(namespaces: ReadonlyMap<string, readonly Kept[]>): void {
    const counts = recount(namespaces);
    for (const directory of [recordPath.sharedRefs, ...[...namespaces.keys()].map(recordPath.refs)])
      for (const name of this.#io.list(directory)) {
        const path = `${directory}/${name}`;
        if (!counts.has(path)) this.#io.put!(path, undefined);
      }
    for (const [path, count] of counts) if (!this.#holds(path, count)) this.#io.put!(path, count);
    this.#sound = true;
  }

  #holds(path: string, count: unknown): boolean {
    try {
      return JSON.stringify(this.#io.get(path)) === JSON.stringify(count);
    } catch (err) {
      if (is(err, 'data_loss')) return false;
      throw err;
    }
  }

  #read(path: string): number {
    const document = this.#get(path);
    if (document === UNREADABLE) return Number.NaN;
    const n = (document as {readonly n?: unknown} | undefined)?.n ?? 0;
    return typeof n === 'number' ? n : Number.NaN;
  }

  /** @throws data_loss something else is in the place of the file, so that it cannot be replaced */
  #get(path: string): unknown {
    try {
      return this.#io.get(path);
    } catch (err) {
      if (!is(err, 'data_loss') || isMisfit(err)) throw err;
      return UNREADABLE;
    }
  }

  #add(path: string, by: number): number {
    const n = this.#read(path) + by;
    if (n >= 0) this.#io.put!(path, n === 0 ? undefined : {version: 1, n});
    else this.doubt(); // also where the count was no number
    return n;
  }
}

const NOTHING: Reader = {
  get: () => undefined,
  list: () => [],
  directories: () => [],
  locate: (path) => path,
  generation: 0,
  changesSince: () => undefined,
};

/** The counts as they should be, by path. @param namespaces all of them, with what each of their records keeps */
export function recount(namespaces: ReadonlyMap<string, readonly Kept[]>): ReadonlyMap<string, unknown> {
  const counted = new Overlay(NOTHING);
  const counts = new RefCounts(counted);
  for (const [ns, kept] of namespaces) {
    counts.begin(ns, false);
    for (const one of kept) counts.change(ns, undefined, one);
  }
  counted.put(`${recordPath.sharedRefs}/${COMPLETE}`, {version: 1});
  return counted.writes;
}

const nodePath = (ns: string, node: Node): string => `${recordPath.refs(ns)}/${recordFile(node)}`;
const sharedPath = (key: Shared): string => `${recordPath.sharedRefs}/${recordFile(key)}`;
