/**
 * Collection of what nobody can reach. Marking is pure; sweeping is the only part that touches anything.
 *
 * Roots, edges and labels after containerd, core/metadata/gc.go and docs/garbage-collection.md. There is no daemon that
 * would come later, so deleting commands collect before they return.
 */
import {existsSync} from 'node:fs';
import {sweepTemporary, unlinkIfPresent} from '../fs/durable.ts';
import {liveness, parseIdentity} from '../fs/process.ts';
import type {Digest} from '../oci/descriptor.ts';
import {downloadKey} from './blobs.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, Labels, LeaseRecord, SnapshotRecord} from './records.ts';
import {containerNode, contentNode, EXPIRE, edges, FLAT, imageNode, labelled, type Node, ROOT, snapshotNode} from './refs.ts';
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

const expired = (time: string | undefined, now: number): boolean => time !== undefined && Date.parse(time) <= now;

/** Label of a lease with the identity of the process that holds it: while that lives, the lease does not expire. */
export const LEASE_OWNER = 'berth/owner';

/** Whether the process that made a lease lives; `undefined` when the lease does not say who made it, or it cannot be seen from here. */
export function leaseOwnerLives(lease: LeaseRecord): boolean | undefined {
  const owner = parseIdentity(lease.labels[LEASE_OWNER] ?? '');
  const life = owner === undefined ? 'unknown' : liveness(owner);
  return life === 'unknown' ? undefined : life === 'alive';
}

export const leaseExpired = (lease: LeaseRecord, now: number): boolean =>
  expired(lease.expiresAt ?? lease.labels[EXPIRE], now) && leaseOwnerLives(lease) !== true;

/**
 * Everything that something keeps. Pure.
 *
 * @param now milliseconds since the epoch, for images that expire
 */
export function mark(graph: Graph, now: number): ReadonlySet<Node> {
  const refs = new Map<Node, Node[]>();
  const flatRefs = new Map<Node, Node[]>();
  const keep = (node: Node, ...to: readonly Node[]): void => void refs.set(node, [...(refs.get(node) ?? []), ...to]);
  const add = (node: Node, to: readonly Node[], labels: Labels): void => {
    flatRefs.set(node, [...to]);
    keep(node, ...to, ...edges(labels));
    for (const [key, value] of Object.entries(labels)) {
      const keeper = labelled(key, value, 'bref');
      if (keeper !== undefined) keep(keeper, node);
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

/**
 * Drops what the changes of this transaction have left without a keeper, and, once that is committed, moves to the trash
 * what no record names any more. For use inside the transaction that made garbage; call `store.layers.emptyTrash()` after it.
 *
 * It takes time in proportion to what goes. Where the counts cannot be believed it marks everything, and counts anew.
 */
export function collect(store: Store, tx: StoreTransaction): void {
  const now = Date.now();
  if (existsSync(store.layout.unswept) || !dropReleased(tx, now)) {
    collectAll(store, tx);
    tx.rebuildRefs();
    return;
  }
  const {releasedShared} = tx.refs;
  tx.afterCommit((passed) => {
    for (const key of releasedShared) {
      if (passed()) return;
      const name = key.slice(key.indexOf('/') + 1);
      if (!(key.startsWith('blob/') ? discardBlob(store, name as Digest) : discardLayer(store, name))) store.noteGarbage();
    }
    sweepLeftovers(store, now);
  });
}

/** Drops what the changes so far have left without a keeper. @returns false when counting is not enough: everything has to be marked */
export function dropReleased(tx: StoreTransaction, now: number): boolean {
  for (const [name, released] of tx.refs.released) {
    if (tx.namespaces.find(name) === undefined) continue;
    const ns = tx.namespace(name);
    for (const lease of ns.leases.list()) if (leaseExpired(lease, now)) ns.leases.delete(lease.id);
    // Deleting releases more; a set hands out what is added to it meanwhile.
    for (const node of released) {
      if (!tx.refs.isSound(name)) return false;
      const [kind, snapshotter = '', ...rest] = node.split('/');
      const collection = kind === 'content' ? ns.content : kind === 'snapshot' ? ns.snapshots(snapshotter) : undefined;
      const key = kind === 'content' ? node.slice('content/'.length) : rest.join('/');
      const record = collection?.find(key);
      if (record === undefined || record.labels[ROOT] !== undefined) continue;
      // Somebody else may keep it in a way that is not counted.
      if (Object.keys(record.labels).some((label) => label.startsWith('containerd.io/gc.bref.'))) return false;
      collection?.delete(key);
    }
    if (!tx.refs.isSound(name)) return false;
  }
  return true;
}

/**
 * Drops the records that nothing keeps, in all namespaces, and, once that is committed, moves to the trash everything on
 * this machine that no record names.
 */
export function collectAll(store: Store, tx: StoreTransaction): Collected {
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
  tx.afterCommit((passed) => {
    let isAllGone = true;
    for (const digest of store.blobs.list()) {
      if (blobs.has(digest)) continue;
      if (passed()) return;
      if (discardBlob(store, digest)) dropped.blobs++;
      else isAllGone = false;
    }
    for (const layer of store.layers.list()) {
      if (layers.has(layer)) continue;
      if (passed()) return;
      if (discardLayer(store, layer)) dropped.layers++;
      else isAllGone = false;
    }
    store.blobs.sweep();
    store.housekeeping.attempt(store.layout.root, () => sweepTemporary(store.layout.root));
    sweepLeftovers(store, now);
    if (isAllGone) store.housekeeping.attempt(store.layout.unswept, () => unlinkIfPresent(store.layout.unswept));
  });
  return dropped;
}

const discardBlob = (store: Store, digest: Digest): boolean =>
  store.housekeeping.attempt(`content ${digest}`, () => store.blobs.discard(digest, store.layers.trashName()));

const discardLayer = (store: Store, id: string): boolean => store.housekeeping.attempt(`layer ${id}`, () => store.layers.discard(id));

/** Counts anew who keeps whom where the counts cannot be believed; for use after `collectAll`, which does not need them. */
export function recountDoubtful(tx: StoreTransaction): void {
  if (!tx.namespaces.list().every(({name}) => tx.refs.isSound(name))) tx.rebuildRefs();
}

/** Removes what killed processes left. */
function sweepLeftovers(store: Store, now: number): void {
  const {housekeeping, layout} = store;
  housekeeping.attempt(layout.ingests, () => sweepIngests(store, now));
  housekeeping.attempt(layout.work, () => store.layers.sweepWork());
  housekeeping.attempt(layout.locks, () => store.sweepLocks());
}

/** Keys of the downloads whose content somebody leases, there or not. */
export function leasedDownloads(store: Store): ReadonlySet<string> {
  const leased = store.view((tx) =>
    tx.namespaces.list().flatMap(({name}) =>
      tx
        .namespace(name)
        .leases.list()
        .flatMap(({content}) => content),
    ),
  );
  return new Set(leased.map(downloadKey));
}

/** Removes downloads that were left for long; one that somebody leases, or holds, is kept. */
function sweepIngests(store: Store, now: number): void {
  const old = store.blobs.staleIngests(now);
  if (old.length === 0) return;
  const kept = leasedDownloads(store);
  for (const key of old) if (!kept.has(key)) store.housekeeping.attempt(`ingest ${key}`, () => void store.blobs.discardIdleIngest(key));
}
