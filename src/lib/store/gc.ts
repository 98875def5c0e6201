/**
 * Collection of what nobody can reach. Marking is pure; sweeping is the only part that touches anything.
 *
 * Roots, edges and labels after containerd, core/metadata/gc.go and docs/garbage-collection.md. There is no daemon that
 * would come later, so deleting commands collect before they return.
 */
import {statSync} from 'node:fs';
import {liveness, parseIdentity} from '../fs/process.ts';
import type {Digest} from '../oci/descriptor.ts';
import {downloadKey} from './blobs.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, Labels, LeaseRecord, SnapshotRecord} from './records.ts';
import type {NamespaceView, Store, StoreTransaction} from './store.ts';

/** One namespace's records, as far as collection looks at them. */
export interface Graph {
  readonly images: readonly ImageRecord[];
  readonly containers: readonly ContainerRecord[];
  readonly content: readonly ContentRecord[];
  readonly snapshots: readonly SnapshotRecord[];
  /** Those that have not expired. */
  readonly leases: readonly LeaseRecord[];
}

/** An object of a namespace, as a key: `content/<digest>`, `image/<name>`, `snapshot/<snapshotter>/<key>`, `container/<id>`. */
export type Node = `content/${string}` | `image/${string}` | `snapshot/${string}` | `container/${string}`;

export const contentNode = (digest: string): Node => `content/${digest}`;
export const imageNode = (name: string): Node => `image/${name}`;
export const snapshotNode = (snapshotter: string, key: string): Node => `snapshot/${snapshotter}/${key}`;
export const containerNode = (id: string): Node => `container/${id}`;

const ROOT = 'containerd.io/gc.root';
const FLAT = 'containerd.io/gc.flat';
const EXPIRE = 'containerd.io/gc.expire';

/** `prefix` itself, or `prefix` followed by `.` or `/`: other suffixes are other labels. */
const hasPrefix = (key: string, prefix: string): boolean => key === prefix || key.startsWith(`${prefix}.`) || key.startsWith(`${prefix}/`);

/** The node that one label names, forwards (`ref`: I keep it) or backwards (`bref`: it keeps me). */
function labelled(key: string, value: string, direction: 'ref' | 'bref'): Node | undefined {
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

function edges(labels: Labels): readonly Node[] {
  return Object.entries(labels).flatMap(([key, value]) => labelled(key, value, 'ref') ?? []);
}

const expired = (time: string | undefined, now: number): boolean => time !== undefined && Date.parse(time) <= now;

/** Label of a lease with the identity of the process that holds it: while that lives, the lease does not expire. */
export const LEASE_OWNER = 'berth/owner';

/** Whether the process that made a lease lives; `undefined` when the lease does not say who made it. */
export function leaseOwnerLives(lease: LeaseRecord): boolean | undefined {
  const owner = parseIdentity(lease.labels[LEASE_OWNER] ?? '');
  return owner === undefined ? undefined : liveness(owner) === 'alive';
}

const leaseExpired = (lease: LeaseRecord, now: number): boolean =>
  expired(lease.expiresAt ?? lease.labels[EXPIRE], now) && leaseOwnerLives(lease) !== true;

/**
 * Everything that something keeps. Pure.
 *
 * @param now milliseconds since the epoch, for images that expire
 */
export function mark(graph: Graph, now: number): ReadonlySet<Node> {
  const refs = new Map<Node, Node[]>();
  const flatRefs = new Map<Node, Node[]>();
  const add = (node: Node, to: readonly Node[], labels: Labels): void => {
    flatRefs.set(node, [...to]);
    refs.set(node, [...to, ...edges(labels)]);
    for (const [key, value] of Object.entries(labels)) {
      const keeper = labelled(key, value, 'bref');
      if (keeper !== undefined) refs.set(keeper, [...(refs.get(keeper) ?? []), node]);
    }
  };
  const roots: Node[] = [];
  for (const image of graph.images) {
    const node = imageNode(image.name);
    add(node, [contentNode(image.target.digest)], image.labels);
    if (!expired(image.labels[EXPIRE], now)) roots.push(node);
  }
  for (const container of graph.containers) {
    const node = containerNode(container.id);
    const snapshot = container.snapshotKey === '' ? [] : [snapshotNode(container.snapshotter, container.snapshotKey)];
    add(node, snapshot, container.labels);
    roots.push(node);
  }
  for (const content of graph.content) {
    const node = contentNode(content.digest);
    add(node, [], content.labels);
    if (content.labels[ROOT] !== undefined) roots.push(node);
  }
  for (const snapshot of graph.snapshots) {
    const node = snapshotNode(snapshot.snapshotter, snapshot.key);
    add(node, snapshot.parent === undefined ? [] : [snapshotNode(snapshot.snapshotter, snapshot.parent)], snapshot.labels);
    if (snapshot.labels[ROOT] !== undefined) roots.push(node);
  }
  const flat: Node[] = [];
  for (const lease of graph.leases) {
    const held: Node[] = [...lease.content.map(contentNode), ...lease.snapshots.map((s): Node => `snapshot/${s}`)];
    if (lease.labels[FLAT] !== undefined) flat.push(...held);
    else roots.push(...held, ...edges(lease.labels));
  }
  const live = reach(roots, refs);
  // A flat lease keeps what it names and what that is made of, and follows no labels.
  for (const node of reach(flat, flatRefs)) live.add(node);
  return live;
}

/** All nodes reachable from `roots`. */
function reach(roots: readonly Node[], refs: ReadonlyMap<Node, readonly Node[]>): Set<Node> {
  const live = new Set<Node>();
  const queue = [...roots];
  for (let node = queue.pop(); node !== undefined; node = queue.pop()) {
    if (live.has(node)) continue;
    live.add(node);
    queue.push(...(refs.get(node) ?? []));
  }
  return live;
}

function graphOf(ns: NamespaceView, now: number): Graph {
  return {
    images: ns.images.list(),
    containers: ns.containers.list(),
    content: ns.content.list(),
    snapshots: ns.snapshotters().flatMap((name) => ns.snapshots(name).list()),
    leases: ns.leases.list().filter((lease) => !leaseExpired(lease, now)),
  };
}

export interface Collected {
  readonly content: number;
  readonly snapshots: number;
  readonly images: number;
  readonly leases: number;
  readonly blobs: number;
  readonly layers: number;
}

/** How long a download that nobody leases and nobody works on is kept, in milliseconds. */
const INGEST_LIFETIME_MS = 24 * 3600_000;

/**
 * Drops the records that nothing keeps, in all namespaces, and, once that is committed, moves to the trash what no record
 * names any more. For use inside the transaction that made garbage; call `store.layers.emptyTrash()` after it.
 */
export function collect(store: Store, tx: StoreTransaction): Collected {
  const now = Date.now();
  const blobs = new Set<Digest>();
  const layers = new Set<string>();
  const dropped = {content: 0, snapshots: 0, images: 0, leases: 0, blobs: 0, layers: 0};
  for (const {name} of tx.namespaces.list()) {
    const ns = tx.namespace(name);
    const graph = graphOf(ns, now);
    const live = mark(graph, now);
    const leases = new Set(graph.leases.map(({id}) => id));
    for (const {id} of ns.leases.list()) if (!leases.has(id)) dropped.leases += Number(ns.leases.delete(id));
    for (const lease of graph.leases) {
      for (const digest of lease.content) blobs.add(digest);
      for (const layer of lease.layers) layers.add(layer);
    }
    for (const image of graph.images) if (!live.has(imageNode(image.name))) dropped.images += Number(ns.images.delete(image.name));
    for (const content of graph.content) {
      if (live.has(contentNode(content.digest))) blobs.add(content.digest);
      else dropped.content += Number(ns.content.delete(content.digest));
    }
    for (const snapshot of graph.snapshots) {
      if (!live.has(snapshotNode(snapshot.snapshotter, snapshot.key)))
        dropped.snapshots += Number(ns.snapshots(snapshot.snapshotter).delete(snapshot.key));
      else if (snapshot.layer !== undefined) layers.add(snapshot.layer);
    }
  }
  tx.afterCommit(() => {
    for (const digest of store.blobs.list()) {
      if (blobs.has(digest)) continue;
      store.blobs.discard(digest, store.layers.trashName());
      dropped.blobs++;
    }
    for (const layer of store.layers.list()) {
      if (layers.has(layer)) continue;
      store.layers.discard(layer);
      dropped.layers++;
    }
    sweepIngests(store, new Set([...blobs].map(downloadKey)), now);
    store.layers.sweepWork();
    store.sweepLocks();
  });
  return dropped;
}

/** Removes downloads that were left for long; a leased one, or one that somebody holds, is kept. */
function sweepIngests(store: Store, leased: ReadonlySet<string>, now: number): void {
  for (const key of store.blobs.ingests()) {
    if (leased.has(key) || store.blobs.isIngestHeld(key)) continue;
    const updated = statSync(store.layout.ingest(key), {throwIfNoEntry: false})?.mtimeMs ?? now;
    const state = store.blobs.ingestState(key);
    if (now - Math.max(updated, state === undefined ? 0 : Date.parse(state.updatedAt)) > INGEST_LIFETIME_MS) store.blobs.discardIngest(key);
  }
}
