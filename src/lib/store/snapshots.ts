/**
 * Snapshots of one namespace and snapshotter: keys, parents and kinds in records, trees under `layers/`.
 *
 * Semantics after containerd, core/snapshots/snapshotter.go.
 */

import {basename} from 'node:path';
import {berth} from '../berth-command.ts';
import {ErrdefsError} from '../errdefs.ts';
import {removeTree} from '../fs/durable.ts';
import type {TreeUsage} from './disk-usage.ts';
import {collect, collectIfTouched, isMountLease} from './gc.ts';
import {ownLayerName} from './layer-store.ts';
import {Quota} from './quota.ts';
import type {Labels, SnapshotKind, SnapshotRecord} from './records.ts';
import {referencesOfContainer, snapshotNode} from './refcounts.ts';
import {getSnapshotter, type Mount, type Snapshotter, seedLayer} from './snapshotters.ts';
import type {Store} from './store.ts';
import type {RecordSet, StoreTransaction, StoreView} from './transaction-types.ts';

const snapshotMissing = (key: string): ErrdefsError => new ErrdefsError('not_found', `snapshot ${JSON.stringify(key)}`);

/** A snapshot and its ancestors, nearest first. @throws not_found the snapshot is missing @throws data_loss an ancestor is missing */
export function snapshotChain(snapshots: RecordSet<SnapshotRecord>, key: string): readonly SnapshotRecord[] {
  const chain: SnapshotRecord[] = [];
  const seen = new Set<string>();
  for (let next: string | undefined = key; next !== undefined; ) {
    const record: SnapshotRecord | undefined = snapshots.find(next);
    if (record === undefined) {
      if (chain.length === 0) throw snapshotMissing(key);
      throw new ErrdefsError('data_loss', `snapshot ${JSON.stringify(key)} needs ${JSON.stringify(next)}, which is missing`);
    }
    if (seen.has(next))
      throw new ErrdefsError('data_loss', `snapshot ${JSON.stringify(key)} has a cycle of parents at ${JSON.stringify(next)}`);
    seen.add(next);
    chain.push(record);
    next = record.parent;
  }
  return chain;
}

/** How a snapshot is made; see `SnapshotStore.prepare`. */
interface Creation {
  readonly transient: boolean;
  readonly fill?: (tree: string) => void;
  readonly replaces?: (record: SnapshotRecord) => boolean;
}

export class SnapshotStore {
  readonly #store: Store;
  readonly #namespace: string;
  readonly #snapshotter: Snapshotter;

  /** @throws not_found unknown snapshotter */
  constructor(store: Store, namespace: string, snapshotter: string) {
    this.#store = store;
    this.#namespace = namespace;
    this.#snapshotter = getSnapshotter(snapshotter);
  }

  #records(tx: StoreView): RecordSet<SnapshotRecord> {
    return tx.namespace(this.#namespace).snapshots(this.#snapshotter.name);
  }

  get(key: string): SnapshotRecord {
    return this.#store.view((tx) => {
      const record = this.#records(tx).find(key);
      if (record === undefined) throw snapshotMissing(key);
      return record;
    });
  }

  list(): readonly SnapshotRecord[] {
    return this.#store.view((tx) => this.#records(tx).list());
  }

  /** Layer directories of `parent` and its ancestors, nearest first. */
  #parentDirectories(tx: StoreView, parent: string | undefined): readonly string[] {
    if (parent === undefined) return [];
    const chain = snapshotChain(this.#records(tx), parent);
    if (chain[0]!.kind !== 'committed')
      throw new ErrdefsError('invalid_argument', `parent ${JSON.stringify(parent)} is not a committed snapshot`);
    return chain.map((record) => this.#store.layers.path(record.layer!));
  }

  /** As `#parentDirectories`, if all layers are usable. @throws data_loss a power loss may have torn one */
  #usableParents(tx: StoreView, parent: string | undefined): readonly string[] {
    const directories = this.#parentDirectories(tx, parent);
    const torn = directories.map((directory) => basename(directory)).find((layer) => !this.#store.layers.isUsable(layer));
    if (torn !== undefined)
      throw new ErrdefsError('data_loss', `snapshot ${JSON.stringify(parent)}: layer ${torn} was not yet on disk when the power failed`, {
        hint: 'pull the image again: it is unpacked from local content',
        details: {snapshot: parent, layer: torn},
      });
    return directories;
  }

  /**
   * Creates a writable snapshot of `parent`, or an empty one. Its tree is synced before its record, which could not recreate it.
   *
   * @param within further changes for the same transaction
   * @param options.transient the snapshot is of no use after a reboot and need not be synced
   * @param options.fill makes the tree at a path that does not exist, instead of an empty one
   * @param options.replaces whether the new snapshot may take the place of one with the same key; asked under the lock, too
   * @throws already_exists the key is taken
   * @throws not_found the parent is missing
   * @throws invalid_argument the parent is not committed
   * @throws data_loss a power loss may have torn the parent's tree
   * @throws aborted the parent was replaced meanwhile
   * @throws resource_exhausted the namespace would hold more than its quota
   */
  prepare(
    key: string,
    parent: string | undefined,
    labels: Labels,
    within?: (tx: StoreTransaction) => void,
    {transient = false, ...how}: Partial<Creation> = {},
  ): Promise<SnapshotRecord> {
    return this.#create('active', key, parent, labels, within, {transient, ...how});
  }

  /** Creates a read-only snapshot of `parent`, or an empty one; errors as `prepare`. */
  view(key: string, parent: string | undefined, labels: Labels, within?: (tx: StoreTransaction) => void): Promise<SnapshotRecord> {
    return this.#create('view', key, parent, labels, within, {transient: false});
  }

  async #create(
    kind: SnapshotKind,
    key: string,
    parent: string | undefined,
    labels: Labels,
    within: ((tx: StoreTransaction) => void) | undefined,
    {transient, fill, replaces}: Creation,
  ): Promise<SnapshotRecord> {
    if (key === '') throw new ErrdefsError('invalid_argument', 'snapshot key must not be empty');
    const validate = (tx: StoreView): readonly string[] => {
      const taken = this.#records(tx).find(key);
      if (taken !== undefined && replaces?.(taken) !== true) throw new ErrdefsError('already_exists', `snapshot ${JSON.stringify(key)}`);
      return this.#usableParents(tx, parent);
    };
    const parents = this.#store.view(validate);
    // A view of a parent shows the parent and needs no tree.
    const layer = kind === 'view' && parent !== undefined ? undefined : ownLayerName(this.#snapshotter.name);
    let work: string | undefined;
    if (layer !== undefined) {
      this.#store.ensureCreated();
      work = this.#store.layers.createWork();
    }
    const hadWork = work !== undefined;
    let isRefused = false;
    const quota = layer === undefined ? undefined : Quota.of(this.#store, this.#namespace);
    try {
      if (quota !== undefined && fill === undefined && this.#snapshotter.form === 'plain' && parents[0] !== undefined)
        quota.assertRoomFor(this.#snapshotter.usage(parents[0]).size);
      if (work !== undefined && fill !== undefined) fill(this.#snapshotter.tree(work));
      else if (work !== undefined) this.#seed(work, parents, kind === 'active', validate);
      const isCopy = fill !== undefined || (parents.length > 0 && this.#snapshotter.form === 'plain');
      if (work !== undefined && isCopy && !transient) this.#store.layers.sync();
      return await this.#store.update(`snapshot ${key}`, (tx) => {
        if (validate(tx).some((directory, i) => directory !== parents[i]))
          throw new ErrdefsError('aborted', `parent ${JSON.stringify(parent)} was replaced meanwhile`, {hint: 'run it again'});
        if (layer !== undefined && work !== undefined) {
          this.#store.layers.publish(work, layer, {snapshotter: this.#snapshotter.name}, {sync: !transient});
          work = undefined;
        }
        const now = new Date().toISOString();
        const record: SnapshotRecord = {
          snapshotter: this.#snapshotter.name,
          key,
          kind,
          ...(parent === undefined ? {} : {parent}),
          ...(layer === undefined ? {} : {layer}),
          labels,
          createdAt: now,
          updatedAt: now,
        };
        const ns = tx.namespace(this.#namespace);
        try {
          const made = ns.snapshots(this.#snapshotter.name).put(record);
          within?.(tx);
          quota?.assertWithin(ns);
          return made;
        } catch (err) {
          // Nobody knows its name, so the next collection need not look for it.
          isRefused = layer === undefined || this.#store.housekeeping.attempt(`layer ${layer}`, () => this.#store.layers.discard(layer));
          throw err;
        }
      });
    } catch (err) {
      if (isRefused) this.#store.layers.emptyTrash();
      else if (hadWork && work === undefined) this.#store.markNeedsFullGc();
      throw err;
    } finally {
      const left = work;
      if (left !== undefined) this.#store.housekeeping.attempt(`incomplete snapshot ${left}`, () => removeTree(left));
    }
  }

  /** Seeds a tree. If it fails because a parent was removed meanwhile, `validate` throws the proper error. */
  #seed(work: string, parents: readonly string[], writable: boolean, validate: (tx: StoreView) => unknown): void {
    try {
      seedLayer(this.#snapshotter, work, parents, writable);
    } catch (err) {
      this.#store.view(validate);
      throw err;
    }
  }

  /**
   * Commits an active snapshot as `name` and replaces its labels. Its tree is synced before: nothing could recreate it.
   *
   * @throws failed_precondition the snapshot is not active, is mounted, or is used by a container
   * @throws already_exists `name` is taken
   * @throws not_found
   */
  async commit(name: string, key: string, labels: Labels): Promise<SnapshotRecord> {
    if (name === '') throw new ErrdefsError('invalid_argument', 'snapshot name must not be empty');
    const validate = (tx: StoreView): SnapshotRecord => {
      const records = this.#records(tx);
      const active = records.find(key);
      if (active === undefined) throw snapshotMissing(key);
      if (active.kind !== 'active') throw new ErrdefsError('failed_precondition', `snapshot ${JSON.stringify(key)} is not active`);
      if (records.find(name) !== undefined) throw new ErrdefsError('already_exists', `snapshot ${JSON.stringify(name)}`);
      this.#refuseContainers(tx, key);
      this.#refuseMounts(tx, key);
      return active;
    };
    this.#store.view(validate);
    this.#store.layers.sync();
    return this.#store.update(`commit of snapshot ${key}`, (tx) => {
      const records = tx.namespace(this.#namespace).snapshots(this.#snapshotter.name);
      const active = validate(tx);
      const now = new Date().toISOString();
      const committed: SnapshotRecord = {...active, key: name, kind: 'committed', labels, createdAt: now, updatedAt: now};
      records.delete(key);
      return records.put(committed);
    });
  }

  /**
   * Removes a snapshot, and its tree when no other record refers to it.
   *
   * @throws failed_precondition the snapshot has a child, is mounted, or is used by a container
   * @throws not_found
   */
  async remove(key: string): Promise<void> {
    await this.#store.update(`removal of snapshot ${key}`, (tx) => {
      const records = tx.namespace(this.#namespace).snapshots(this.#snapshotter.name);
      if (records.find(key) === undefined) throw snapshotMissing(key);
      const {refs} = tx;
      if (!refs.isConsistent(this.#namespace) || refs.count(this.#namespace, snapshotNode(this.#snapshotter.name, key)) !== 0)
        this.#refuseIfUsed(tx, key);
      records.delete(key);
      collect(this.#store, tx);
    });
    this.#store.layers.emptyTrash();
  }

  #refuseIfUsed(tx: StoreTransaction, key: string): void {
    const child = this.#records(tx)
      .list()
      .find((record) => record.parent === key);
    if (child !== undefined)
      throw new ErrdefsError('failed_precondition', `cannot remove snapshot ${JSON.stringify(key)} with child`, {
        hint: `remove ${JSON.stringify(child.key)} first`,
      });
    this.#refuseContainers(tx, key);
    this.#refuseMounts(tx, key);
  }

  #refuseMounts(tx: StoreView, key: string): void {
    const lease = tx
      .namespace(this.#namespace)
      .leases.list()
      .find((one) => isMountLease(one) && one.snapshots.includes(`${this.#snapshotter.name}/${key}`));
    if (lease !== undefined)
      throw new ErrdefsError('failed_precondition', `snapshot ${JSON.stringify(key)} is mounted at ${JSON.stringify(lease.id)}`, {
        hint: `unmount it first: ${berth`-n ${this.#namespace} images unmount ${lease.id}`}`,
      });
  }

  #refuseContainers(tx: StoreView, key: string): void {
    const user = tx
      .namespace(this.#namespace)
      .containers.list()
      .find((container) => referencesOfContainer(container).nodes.includes(snapshotNode(this.#snapshotter.name, key)));
    if (user !== undefined)
      throw new ErrdefsError('failed_precondition', `snapshot ${JSON.stringify(key)} is used by container ${JSON.stringify(user.id)}`, {
        hint: 'remove the container first',
        details: {container: user.id},
      });
  }

  /** Sets labels; an empty value removes a label. */
  async label(key: string, labels: Labels): Promise<SnapshotRecord> {
    const labelled = await this.#store.update(`labels of snapshot ${key}`, (tx) => {
      const records = tx.namespace(this.#namespace).snapshots(this.#snapshotter.name);
      const record = records.find(key);
      if (record === undefined) throw snapshotMissing(key);
      const changed = {...record, labels: mergeLabels(record.labels, labels), updatedAt: new Date().toISOString()};
      records.put(changed);
      collectIfTouched(this.#store, tx);
      return changed;
    });
    this.#store.layers.emptyTrash();
    return labelled;
  }

  /**
   * Mounts of the snapshot's tree.
   *
   * @throws failed_precondition the snapshot is committed: prepare or view one of it
   * @throws not_found
   * @throws data_loss a power loss may have torn a layer
   */
  mounts(key: string): readonly Mount[] {
    return this.#store.view((tx) => {
      const record = this.#records(tx).find(key);
      if (record === undefined) throw snapshotMissing(key);
      if (record.kind === 'committed')
        throw new ErrdefsError('failed_precondition', `snapshot ${JSON.stringify(key)} is not active or view`);
      const own = record.layer === undefined ? undefined : this.#store.layers.path(record.layer);
      return this.#snapshotter.mounts(own, this.#usableParents(tx, record.parent), record.kind === 'view');
    });
  }

  /**
   * Read-only mounts of any snapshot's tree; an active one is shown as it is, and not written to. None for an empty one.
   *
   * @throws not_found @throws data_loss a power loss may have torn a layer
   */
  treeMounts(key: string): readonly Mount[] {
    return this.#store.view((tx) => {
      const record = this.#records(tx).find(key);
      if (record === undefined) throw snapshotMissing(key);
      const own = record.layer === undefined ? [] : [this.#store.layers.path(record.layer)];
      const directories = [...own, ...this.#usableParents(tx, record.parent)];
      return directories.length === 0 ? [] : this.#snapshotter.mounts(undefined, directories, true);
    });
  }

  /** The directory in which an active snapshot collects what is changed; `undefined` where its tree holds everything. */
  ownTree(key: string): string | undefined {
    const {kind, layer} = this.get(key);
    if (kind !== 'active' || layer === undefined || this.#snapshotter.form === 'plain') return undefined;
    return this.#snapshotter.tree(this.#store.layers.path(layer));
  }

  /** Disk usage of the snapshot without its parents; zero for a view. */
  usage(key: string): TreeUsage {
    const {kind, layer} = this.get(key);
    return kind === 'view' || layer === undefined ? {size: 0, inodes: 0} : this.#snapshotter.usage(this.#store.layers.path(layer));
  }
}

/** Merges `changes` into `labels`; an empty value removes a label. */
export function mergeLabels(labels: Labels, changes: Labels): Labels {
  return Object.fromEntries(Object.entries({...labels, ...changes}).filter(([, value]) => value !== ''));
}
