/**
 * Garbage collection. Marking is pure; only sweeping changes files.
 *
 * Roots, references and labels after containerd, core/metadata/gc.go and docs/garbage-collection.md. There is no daemon that could collect
 * later, so commands that delete collect before they return.
 */
import {existsSync} from 'node:fs';
import {sweepTemporary, unlinkIfPresent} from '../fs/durable.ts';
import {bootId, liveness, parseIdentity} from '../fs/process.ts';
import type {Digest} from '../oci/descriptor.ts';
import {downloadKey} from './blob-store.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, LeaseRecord, SnapshotRecord} from './records.ts';
import {
  contentNode,
  imageNode,
  isRootAt,
  type Node,
  nodeParts,
  type References,
  reachableFrom,
  referencesOfContainer,
  referencesOfContent,
  referencesOfImage,
  referencesOfLease,
  referencesOfSnapshot,
  snapshotNode,
} from './refcounts.ts';
import type {Store} from './store.ts';
import type {NamespaceTransaction, NamespaceView, StoreTransaction} from './transaction-types.ts';

/** The records of one namespace that a collection reads. */
export interface Graph {
  readonly images: readonly ImageRecord[];
  readonly containers: readonly ContainerRecord[];
  readonly content: readonly ContentRecord[];
  readonly snapshots: readonly SnapshotRecord[];
  /** Unexpired leases. */
  readonly leases: readonly LeaseRecord[];
}

/** Label of a lease: identity of its owner process. The lease does not expire while that process lives. */
export const LEASE_OWNER = 'berth/owner';

/** Whether a lease's owner process is alive; `undefined` when the lease names none, or the process is in another pid namespace. */
export function isLeaseOwnerAlive(lease: LeaseRecord): boolean | undefined {
  const owner = parseIdentity(lease.labels[LEASE_OWNER] ?? '');
  const life = owner === undefined ? 'unknown' : liveness(owner);
  return life === 'unknown' ? undefined : life === 'alive';
}

/** Label of a lease that protects a mounted snapshot: the boot ID. The mount ends with the boot at the latest. */
export const LEASE_MOUNT = 'berth/mount';

/** Value of `LEASE_MOUNT` once the mount is gone and its snapshot is kept for a while. */
export const MOUNT_ENDED = 'ended';

/** Whether a lease belongs to a mount of an earlier boot, which is gone. */
export const isFormerMountLease = ({labels: {[LEASE_MOUNT]: boot}}: LeaseRecord): boolean =>
  boot !== undefined && boot !== MOUNT_ENDED && boot !== bootId();

/** Whether a lease belongs to a mount that may still exist. */
export const isMountLease = ({labels}: LeaseRecord): boolean => labels[LEASE_MOUNT] === bootId();

/** Whether a lease's owner process or mount is known to be gone. */
export const isLeaseAbandoned = (lease: LeaseRecord): boolean =>
  isLeaseOwnerAlive(lease) === false || (lease.labels[LEASE_MOUNT] !== undefined && !isMountLease(lease));

export const isLeaseExpired = (lease: LeaseRecord, now: number): boolean =>
  !isRootAt(referencesOfLease(lease), now) && isLeaseOwnerAlive(lease) !== true && !isMountLease(lease);

/** References of all objects of a graph, leases excluded. */
const referencesIn = ({images, containers, content, snapshots}: Graph): readonly References[] => [
  ...images.map(referencesOfImage),
  ...containers.map(referencesOfContainer),
  ...content.map(referencesOfContent),
  ...snapshots.map(referencesOfSnapshot),
];

/**
 * All objects that are reachable from a root or a lease. Pure, and linear in the number of references.
 *
 * @param now milliseconds since the epoch, for images that expire
 */
export function mark(graph: Graph, now: number): ReadonlySet<Node> {
  const records = new Map<Node, References>();
  const backReferenced = new Map<Node, Node[]>();
  const roots: Node[] = [];
  for (const record of referencesIn(graph)) {
    const node = record.node!;
    records.set(node, record);
    if (isRootAt(record, now)) roots.push(node);
    for (const referrer of record.referrers) {
      const others = backReferenced.get(referrer);
      if (others === undefined) backReferenced.set(referrer, [node]);
      else others.push(node);
    }
  }
  const flat: Node[] = [];
  for (const {nodes, isFlat} of graph.leases.map(referencesOfLease)) for (const node of nodes) (isFlat ? flat : roots).push(node);
  const live = reachableFrom(roots, function* (node) {
    yield* records.get(node)?.nodes ?? [];
    yield* backReferenced.get(node) ?? [];
  });
  // A flat lease protects its objects and what their fields refer to, but follows no labels.
  for (const node of reachableFrom(flat, (next) => records.get(next)?.fieldNodes ?? [])) live.add(node);
  return live;
}

function graphOf(ns: NamespaceView): Graph {
  return {
    images: ns.images.list(),
    containers: ns.containers.list(),
    content: ns.content.list(),
    snapshots: ns.snapshotters().flatMap((name) => ns.snapshots(name).list()),
    leases: ns.leases.list(),
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
 * Collects inside the transaction that created garbage: deletes unreachable records, and after the commit moves unreferenced blobs and
 * layers to the trash. The caller runs `store.layers.emptyTrash()` afterwards.
 *
 * Takes time linear in what the transaction touched. A namespace with something expired, back references or flat leases is marked
 * completely. When the counts are inconsistent, all namespaces are marked and counted again.
 */
export function collect(store: Store, tx: StoreTransaction): void {
  const now = Date.now();
  if (existsSync(store.layout.unswept) || !deleteUnreachable(tx, now)) {
    collectAll(store, tx);
    tx.rebuildRefs();
    return;
  }
  const {releasedShared} = tx.refs;
  tx.refs.willCollectShared();
  tx.afterCommit((isOvertaken) => {
    for (const key of releasedShared) {
      if (isOvertaken()) return;
      const name = key.slice(key.indexOf('/') + 1);
      if (!(key.startsWith('blob/') ? discardBlob(store, name as Digest) : discardLayer(store, name))) store.markNeedsFullGc();
    }
    sweepLeftovers(store, now);
  });
}

/** `collect`, if the transaction removed a reference; for changes that rarely do. */
export function collectIfTouched(store: Store, tx: StoreTransaction): void {
  if (tx.refs.touched.length > 0) collect(store, tx);
}

/** Deletes unreachable records by reference counts. @returns false when the counts are inconsistent and everything must be marked */
export function deleteUnreachable(tx: StoreTransaction, now: number): boolean {
  const {refs} = tx;
  if (!refs.isSharedConsistent()) return false;
  const due = new Set(refs.due(now));
  for (const name of new Set([...refs.touched, ...due])) {
    if (tx.namespaces.find(name) === undefined) continue;
    if (!refs.isConsistent(name)) return false;
    if (due.has(name) || refs.isIndirect(name)) {
      deleteUnmarked(tx, name, now);
    } else {
      const unreachable = refs.unreachable(name, now);
      if (!refs.isConsistent(name)) return false;
      const ns = tx.namespace(name);
      for (const node of unreachable) deleteNode(ns, node);
      refs.clearTouched(name);
    }
    if (!refs.isConsistent(name)) return false;
  }
  return true;
}

function deleteNode(ns: NamespaceTransaction, node: Node): void {
  const {kind, snapshotter, key} = nodeParts(node);
  if (kind === 'image') ns.images.delete(key);
  else if (kind === 'content') ns.content.delete(key);
  else ns.snapshots(snapshotter).delete(key);
}

/** Marks a whole namespace and deletes the unreachable records. @returns the remaining graph, and the number of deleted records */
function deleteUnmarked(
  tx: StoreTransaction,
  name: string,
  now: number,
): {readonly left: Graph; readonly dropped: Pick<Collected, 'images' | 'content' | 'snapshots' | 'leases'>} {
  const ns = tx.namespace(name);
  const all = graphOf(ns);
  const leases = all.leases.filter((lease) => !isLeaseExpired(lease, now));
  const live = mark({...all, leases}, now);
  const left: Graph = {
    leases,
    containers: all.containers,
    images: all.images.filter((image) => live.has(imageNode(image.name))),
    content: all.content.filter(({digest}) => live.has(contentNode(digest))),
    snapshots: all.snapshots.filter(({snapshotter, key}) => live.has(snapshotNode(snapshotter, key))),
  };
  const stays = new Set<unknown>(Object.values(left).flat());
  const drop = <T>(records: readonly T[], remove: (record: T) => boolean): number =>
    records.filter((record) => !stays.has(record) && remove(record)).length;
  const dropped = {
    leases: drop(all.leases, ({id}) => ns.leases.delete(id)),
    images: drop(all.images, (image) => ns.images.delete(image.name)),
    content: drop(all.content, ({digest}) => ns.content.delete(digest)),
    snapshots: drop(all.snapshots, ({snapshotter, key}) => ns.snapshots(snapshotter).delete(key)),
  };
  tx.refs.noteMarked(name, [...referencesIn(left), ...leases.map(referencesOfLease)]);
  return {left, dropped};
}

/** Deletes the unreachable records of all namespaces, and after the commit moves all unreferenced blobs and layers to the trash. */
export function collectAll(store: Store, tx: StoreTransaction): Collected {
  const now = Date.now();
  const blobs = new Set<Digest>();
  const layers = new Set<string>();
  const dropped = {content: 0, snapshots: 0, images: 0, leases: 0, blobs: 0, layers: 0};
  for (const {name} of tx.namespaces.list()) {
    const {left, dropped: gone} = deleteUnmarked(tx, name, now);
    for (const kind of ['images', 'content', 'snapshots', 'leases'] as const) dropped[kind] += gone[kind];
    for (const {digest} of left.content) blobs.add(digest);
    for (const {layer} of left.snapshots) if (layer !== undefined) layers.add(layer);
    for (const lease of left.leases) {
      for (const digest of lease.content) blobs.add(digest);
      for (const layer of lease.layers) layers.add(layer);
    }
  }
  tx.refs.willCollectShared();
  tx.afterCommit((isOvertaken) => {
    let allDiscarded = true;
    for (const digest of store.blobs.list()) {
      if (blobs.has(digest)) continue;
      if (isOvertaken()) return;
      if (discardBlob(store, digest)) dropped.blobs++;
      else allDiscarded = false;
    }
    for (const layer of store.layers.list()) {
      if (layers.has(layer)) continue;
      if (isOvertaken()) return;
      if (discardLayer(store, layer)) dropped.layers++;
      else allDiscarded = false;
    }
    store.blobs.sweep();
    store.housekeeping.attempt(store.layout.root, () => sweepTemporary(store.layout.root));
    sweepLeftovers(store, now);
    if (allDiscarded) store.housekeeping.attempt(store.layout.unswept, () => unlinkIfPresent(store.layout.unswept));
  });
  return dropped;
}

const discardBlob = (store: Store, digest: Digest): boolean =>
  store.housekeeping.attempt(`content ${digest}`, () => store.blobs.discard(digest, store.layers.trashName()));

const discardLayer = (store: Store, id: string): boolean => store.housekeeping.attempt(`layer ${id}`, () => store.layers.discard(id));

/** Rebuilds inconsistent reference counts; for use after `collectAll`, which does not need them. */
export function recountIfInconsistent(tx: StoreTransaction): void {
  if (!tx.namespaces.list().every(({name}) => tx.refs.isConsistent(name))) tx.rebuildRefs();
}

function sweepLeftovers(store: Store, now: number): void {
  const {housekeeping, layout} = store;
  housekeeping.attempt(layout.ingests, () => sweepIngests(store, now));
  housekeeping.attempt(layout.work, () => store.layers.sweepWork());
  housekeeping.attempt(layout.locks, () => store.sweepLocks());
}

/** Ingest keys of all leased digests, whether or not the ingest exists. */
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

/** Removes stale ingests, except leased ones. */
function sweepIngests(store: Store, now: number): void {
  const old = store.blobs.staleIngests(now);
  if (old.length === 0) return;
  const leased = leasedDownloads(store);
  for (const key of old) if (!leased.has(key)) store.housekeeping.attempt(`ingest ${key}`, () => void store.blobs.discardIdleIngest(key));
}
