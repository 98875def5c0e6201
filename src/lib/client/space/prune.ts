/** `prune`: frees space. One transaction, or the rehearsal of one, decides what is removed. */
import type {Digest} from '../../oci/descriptor.ts';
import {collectAll, deleteUnreachable, isLeaseAbandoned, isLeaseExpired, leasedDownloads, recountIfInconsistent} from '../../store/gc.ts';
import type {ImageRecord} from '../../store/records.ts';
import {blobKey, layerKey, type SharedKey} from '../../store/refcounts.ts';
import type {NamespaceTransaction, StoreTransaction} from '../../store/transaction-types.ts';
import {withBallast} from '../../store/with-ballast.ts';
import type {Context} from '../context.ts';
import {isAbandoned, runningContainers, sweepRuns} from '../running-containers.ts';
import type {Pruned, PruneKind, PruneOptions, PruneResult} from '../types/index.ts';
import {measure, measureOne} from './df.ts';
import {sweepState} from './gc.ts';

const KINDS: readonly PruneKind[] = ['images', 'snapshots', 'content', 'ingests', 'leases'];

export async function prune(context: Context, options: PruneOptions): Promise<PruneResult> {
  if (!context.store.exists()) return {pruned: [], freed: 0};
  const pruning = (): Promise<PruneResult> => new Prune(context, options).run();
  return options.dryRun === true ? pruning() : withBallast(context.store, pruning);
}

/** Records that a transaction dropped, and objects that nothing refers to afterwards. */
interface Outcome {
  readonly pruned: readonly Pruned[];
  readonly released: readonly SharedKey[];
}

class Prune {
  readonly #context: Context;
  readonly #o: PruneOptions;
  readonly #kinds: readonly PruneKind[];
  readonly #now = Date.now();
  /** Bytes on disk, as measured outside the lock. */
  readonly #sizes = new Map<SharedKey, number>();
  /** Bytes on disk of the whole store. */
  #total = 0;
  /** Namespace and id of containers that have a living process. */
  #running: ReadonlySet<string> = new Set();

  constructor(context: Context, options: PruneOptions) {
    this.#context = context;
    this.#o = options;
    this.#kinds = options.kinds === undefined || options.kinds.length === 0 ? KINDS : options.kinds;
  }

  async run(): Promise<PruneResult> {
    const {store} = this.#context;
    const {dryRun = false, keepBytes} = this.#o;
    if (!dryRun) {
      await sweepRuns(this.#context);
      const {sweepMounts} = await import('../api/host-mounts.ts');
      await sweepMounts(this.#context);
    }
    if (keepBytes !== undefined) this.#measureAll();
    let outcome: Outcome = {pruned: [], released: []};
    if (this.#kinds.includes('snapshots')) this.#running = await this.#runningContainers();
    if (this.#kinds.some((kind) => kind !== 'ingests')) {
      // The rehearsal says what to measure: measuring under the lock would take too long.
      outcome = store.dryRun((tx) => this.#sweep(tx));
      for (const key of outcome.released) this.#size(key);
      if (!dryRun) outcome = await store.update('prune', (tx) => this.#sweep(tx));
    }
    const freed = outcome.released.reduce((sum, key) => sum + this.#size(key), 0);
    const ingests = this.#kinds.includes('ingests') ? this.#ingests(dryRun) : {pruned: [], freed: 0};
    if (!dryRun) {
      sweepState(this.#context);
      store.layers.emptyTrash();
    }
    return {pruned: [...outcome.pruned, ...ingests.pruned], freed: freed + ingests.freed};
  }

  #isOld(date: string): boolean {
    return this.#o.olderThanMs === undefined || this.#now - Date.parse(date) > this.#o.olderThanMs;
  }

  #measureAll(): void {
    const {blobs, layers, ingests} = measure(this.#context.store.layout);
    for (const [digest, {disk}] of blobs) this.#sizes.set(blobKey(digest), disk);
    for (const [id, {disk}] of layers) this.#sizes.set(layerKey(id), disk);
    for (const {disk} of [...blobs.values(), ...layers.values(), ...ingests.values()]) this.#total += disk;
  }

  #size(key: SharedKey): number {
    const known = this.#sizes.get(key);
    if (known !== undefined) return known;
    const {blobs, layers} = this.#context.store;
    const name = key.slice(key.indexOf('/') + 1);
    const {disk} = measureOne(key.startsWith('blob/') ? blobs.path(name as Digest) : layers.path(name));
    this.#sizes.set(key, disk);
    return disk;
  }

  #sweep(tx: StoreTransaction): Outcome {
    const {store} = this.#context;
    const {namespace} = this.#o;
    const before = recordsOf(tx);
    const all = tx.namespaces.list().map(({name}) => tx.namespace(name));
    const namespaces = all.filter(({name}) => name === (namespace ?? name));
    if (this.#kinds.includes('leases')) for (const ns of namespaces) this.#dropLeases(ns);
    if (this.#kinds.includes('snapshots')) for (const ns of namespaces) this.#dropAbandoned(ns);
    if (this.#kinds.includes('images')) this.#dropImages(tx, namespaces);
    collectAll(store, tx);
    recountIfInconsistent(tx);
    const after = new Set(recordsOf(tx).map(prunedKey));
    return {pruned: before.filter((record) => !after.has(prunedKey(record))), released: this.#unreferenced(tx)};
  }

  async #runningContainers(): Promise<ReadonlySet<string>> {
    const abandoned = this.#context.store.view((tx) =>
      tx.namespaces.list().filter(({name}) => tx.namespace(name).containers.list().some(isAbandoned)),
    );
    const running = new Set<string>();
    for (const {name} of abandoned) for (const id of await runningContainers(this.#context, name)) running.add(`${name}/${id}`);
    return running;
  }

  /** Containers of killed `run --rm` commands, with their snapshots. */
  #dropAbandoned({name, containers}: NamespaceTransaction): void {
    for (const container of containers.list())
      if (isAbandoned(container) && this.#isOld(container.createdAt) && !this.#running.has(`${name}/${container.id}`))
        containers.delete(container.id);
  }

  /** Leases that have expired, and those of dead processes. */
  #dropLeases({leases}: NamespaceTransaction): void {
    for (const lease of leases.list())
      if (this.#isOld(lease.createdAt) && (isLeaseExpired(lease, this.#now) || isLeaseAbandoned(lease))) leases.delete(lease.id);
  }

  #dropImages(tx: StoreTransaction, namespaces: readonly NamespaceTransaction[]): void {
    const {keepBytes} = this.#o;
    const candidates = namespaces
      .flatMap((ns) => this.#unused(ns).map((image) => ({ns, image})))
      .sort((a, b) => (a.image.updatedAt < b.image.updatedAt ? -1 : 1));
    if (keepBytes === undefined) {
      for (const {ns, image} of candidates) ns.images.delete(image.name);
      return;
    }
    const {store} = this.#context;
    // Garbage goes first; from then on the share of each image counts.
    const {releasedShared} = tx.refs;
    let counted = new Set<SharedKey>();
    let left = 0;
    const countAll = (): void => {
      collectAll(store, tx);
      tx.rebuildRefs();
      counted = new Set(releasedShared);
      left = this.#total - this.#unreferenced(tx).reduce((sum, key) => sum + this.#size(key), 0);
    };
    countAll();
    for (const {ns, image} of candidates) {
      if (left <= keepBytes) return;
      ns.images.delete(image.name);
      if (!deleteUnreachable(tx, this.#now)) countAll();
      for (const key of releasedShared) {
        if (counted.has(key)) continue;
        counted.add(key);
        left -= this.#size(key);
      }
    }
  }

  /** Images that no container was created from, under any name. */
  #unused(ns: NamespaceTransaction): readonly ImageRecord[] {
    const images = ns.images.list();
    const names = new Set(ns.containers.list().map(({image}) => image));
    const used = new Set(images.filter(({name}) => names.has(name)).map(({target}) => target.digest));
    return images.filter(({target, updatedAt}) => !used.has(target.digest) && this.#isOld(updatedAt));
  }

  /** Blobs and layers that no record refers to. */
  #unreferenced(tx: StoreTransaction): readonly SharedKey[] {
    const {blobs, layers} = this.#context.store;
    const named = referencedShared(tx);
    const there: readonly SharedKey[] = [...blobs.list().map(blobKey), ...layers.list().map(layerKey)];
    return there.filter((key) => !named.has(key));
  }

  /** Downloads that no process works on or will resume. */
  #ingests(dryRun: boolean): PruneResult {
    const {store} = this.#context;
    const {namespace} = this.#o;
    const kept = leasedDownloads(store);
    const pruned: Pruned[] = [];
    let freed = 0;
    for (const key of store.blobs.ingests()) {
      const state = store.blobs.ingestState(key);
      // An ingest without an owner belongs to nobody.
      const isInScope = namespace === undefined || state?.namespace === namespace;
      if (!isInScope || kept.has(key) || store.blobs.isIngestHeld(key) || (state !== undefined && !this.#isOld(state.updatedAt))) continue;
      const {disk} = measureOne(store.layout.ingest(key));
      if (!dryRun && !this.#discardIngest(key)) continue;
      pruned.push({namespace: state?.namespace ?? '', kind: 'ingest', key: state?.ref ?? key});
      freed += disk;
    }
    return {pruned, freed};
  }

  /** @returns whether it was removed */
  #discardIngest(key: string): boolean {
    const {blobs, housekeeping} = this.#context.store;
    let gone = false;
    housekeeping.attempt(`ingest ${key}`, () => {
      gone = blobs.discardIdleIngest(key);
    });
    return gone;
  }
}

const prunedKey = ({namespace, kind, key}: Pruned): string => `${namespace}/${kind}/${key}`;

/** All records that a collection may remove. */
function recordsOf(tx: StoreTransaction): readonly Pruned[] {
  return tx.namespaces.list().flatMap(({name: namespace}): Pruned[] => {
    const ns = tx.namespace(namespace);
    return [
      ...ns.images.list().map(({name: key}) => ({namespace, kind: 'image' as const, key})),
      ...ns.snapshotters().flatMap((snapshotter) =>
        ns
          .snapshots(snapshotter)
          .list()
          .map(({key}) => ({namespace, kind: 'snapshot' as const, key: `${snapshotter}/${key}`})),
      ),
      ...ns.content.list().map(({digest: key}) => ({namespace, kind: 'content' as const, key})),
      ...ns.leases.list().map(({id: key}) => ({namespace, kind: 'lease' as const, key})),
    ];
  });
}

/** Blobs and layers that a record refers to. */
function referencedShared(tx: StoreTransaction): ReadonlySet<SharedKey> {
  const named = new Set<SharedKey>();
  for (const {name} of tx.namespaces.list()) {
    const ns = tx.namespace(name);
    for (const {digest} of ns.content.list()) named.add(blobKey(digest));
    for (const lease of ns.leases.list()) {
      for (const digest of lease.content) named.add(blobKey(digest));
      for (const id of lease.layers) named.add(layerKey(id));
    }
    for (const snapshotter of ns.snapshotters())
      for (const {layer} of ns.snapshots(snapshotter).list()) if (layer !== undefined) named.add(layerKey(layer));
  }
  return named;
}
