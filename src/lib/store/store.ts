/**
 * The store: records of each namespace, reached only through a handle that is bound to it, and the blobs and layers that all
 * namespaces share.
 */
import {type Dirent, existsSync, mkdirSync, readdirSync, symlinkSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {fromErrno, isErrdefs} from '../errdefs.ts';
import {sweepTemporary} from '../fs/durable.ts';
import {sweepLocks} from '../fs/lock.ts';
import type {Digest} from '../oci/descriptor.ts';
import {Ballast} from './ballast.ts';
import {BlobStore} from './blob-store.ts';
import {Housekeeping, type OnWarning} from './housekeeping.ts';
import {JournalBackend, markNeedsFullGc} from './journal.ts';
import {LayerStore} from './layer-store.ts';
import {createLayout, type Layout, recordPath} from './layout.ts';
import {type Backend, type Damage, type Reader, WriteSet} from './metadata-backend.ts';
import {Formats, MIGRATIONS, type Migration} from './migrations.ts';
import {quarantine} from './quarantine.ts';
import type {SharedKey} from './refcounts.ts';
import {StateDirectory} from './state-directory.ts';
import {Transaction} from './transaction.ts';
import type {StoreTransaction, StoreView} from './transaction-types.ts';

export interface StoreOptions {
  readonly root: string;
  /** How long a change waits for another's, in milliseconds. */
  readonly lockTimeoutMs: number;
  /** From the first format to today's; those of this berth unless given. */
  readonly migrations?: readonly Migration[];
  /** Is told what clean-up could not remove; see housekeeping.ts. */
  readonly onWarning?: OnWarning;
}

export class Store {
  readonly layout: Layout;
  readonly blobs: BlobStore;
  readonly layers: LayerStore;
  readonly housekeeping: Housekeeping;
  readonly ballast: Ballast;
  readonly #backend: Backend;
  readonly #formats: Formats;
  readonly #directory: StateDirectory;

  /** Opens a state directory; touches nothing until the first call. A missing one reads as empty and is made by the first change. */
  constructor(options: StoreOptions, backend?: Backend) {
    this.layout = createLayout(options.root);
    this.housekeeping = new Housekeeping(options.onWarning);
    this.blobs = new BlobStore(this.layout, this.housekeeping);
    this.layers = new LayerStore(this.layout, this.housekeeping);
    this.ballast = new Ballast(this.layout);
    const {lockTimeoutMs} = options;
    this.#backend = backend ?? new JournalBackend(this.layout, {lockTimeoutMs, housekeeping: this.housekeeping, ballast: this.ballast});
    this.#formats = new Formats(options.migrations ?? MIGRATIONS);
    this.#directory = new StateDirectory(this.layout, this.#formats);
  }

  /** Reads as of one moment, without waiting for anybody. @throws failed_precondition the state directory is of another version */
  view<T>(fn: (tx: StoreView) => T): T {
    return this.#view((reader) => fn(new Transaction(reader)));
  }

  #view<T>(fn: (reader: Reader) => T): T {
    this.#directory.check();
    return this.#backend.view(this.#directory.isOld ? (reader) => fn(this.#formats.view(reader)) : fn);
  }

  /**
   * Runs `fn` alone, and makes all its changes visible at once, durably, or none of them. `fn` is synchronous, and may
   * run again when another writer was faster.
   *
   * @param purpose what for, in a few words without secrets; shown to those who wait
   */
  async update<T>(purpose: string, fn: (tx: StoreTransaction) => T): Promise<T> {
    this.ensureCreated();
    const result = await this.#backend.update(purpose, (writer) => {
      this.#formats.migrate(writer);
      const tx = new Transaction(writer);
      const result = fn(tx);
      this.#leaveGarbage(tx);
      return result;
    });
    this.#directory.noteMigrated();
    return result;
  }

  /** What a transaction leaves that nothing keeps is noted for the next collection. */
  #leaveGarbage(tx: Transaction): void {
    tx.refs.deferCollection(Date.now());
    const isHere = (key: SharedKey): boolean => {
      const name = key.slice(key.indexOf('/') + 1);
      return key.startsWith('blob/') ? this.blobs.size(name as Digest) !== undefined : existsSync(this.layers.path(name));
    };
    if (tx.refs.uncollected.some(isHere)) tx.afterCommit(() => this.markNeedsFullGc());
  }

  /** The record that was last written at `path` (of a survey), as far as the journal still has it; `undefined` when it was removed. */
  lastWritten(path: string): unknown {
    this.#directory.check();
    return this.#backend.lastWritten(path);
  }

  /** See `Backend.withLock`. */
  async withLock<T>(purpose: string, fn: () => Promise<T>): Promise<T> {
    this.ensureCreated();
    return this.#backend.withLock(purpose, fn);
  }

  /** See `Backend.pending`. */
  pending(): number {
    return this.#directory.check() === 'usable' ? this.#backend.pending() : 0;
  }

  /** See `Backend.applyPending`. */
  async applyPending(): Promise<void> {
    if (this.#directory.check() === 'usable') await this.#backend.applyPending();
  }

  /** What is wrong with the journal itself. */
  journalDamage(): readonly Damage[] {
    return this.#directory.check() === 'usable' ? this.#backend.findDamage() : [];
  }

  /** Takes the journal's faults out of the way. @returns what was done about each, by path */
  repairJournal(): Promise<ReadonlyMap<string, string>> {
    this.#directory.check();
    return this.#backend.repair((path) => quarantine(this.layout, path));
  }

  /** Runs `fn` as `update` would, on what is there now, and forgets its changes: to tell what they would be. */
  dryRun<T>(fn: (tx: StoreTransaction) => T): T {
    return this.#view((reader) => fn(new Transaction(new WriteSet(reader))));
  }

  /**
   * For who is about to name blobs in a record that others have made: their names are on the disk on return. What a record
   * names already is known to be there; what none names somebody may have renamed into place a moment ago, and died.
   */
  syncBlobNames(digests: readonly Digest[]): void {
    const unsure = digests.filter((digest) => !this.blobs.isNameSynced(digest));
    if (unsure.length === 0) return;
    try {
      const areNamed =
        !unsure.some((digest) => this.blobs.isUnsynced(digest)) &&
        this.view((tx) => {
          const namespaces = tx.namespaces.list().map(({name}) => tx.namespace(name));
          return unsure.every((digest) => namespaces.some(({content}) => content.find(digest) !== undefined));
        });
      if (areNamed) return;
    } catch (err) {
      if (!isErrdefs(err)) throw err; // where a record cannot be read nobody knows
    }
    this.blobs.syncNames(unsure.filter((digest) => this.blobs.size(digest) !== undefined));
  }

  /**
   * A store for work in `directory`, with this one's blobs, and with layers of its own besides those that it borrows: what
   * is unpacked in it is seen by nobody else.
   */
  createScratch(directory: string, borrowed: readonly string[]): Store {
    const store = new Store({root: directory, lockTimeoutMs: Number.POSITIVE_INFINITY});
    try {
      symlinkSync(dirname(this.layout.blobs), dirname(store.layout.blobs));
      mkdirSync(store.layout.layers, {mode: 0o700});
      for (const id of borrowed) symlinkSync(this.layers.path(id), store.layers.path(id));
    } catch (err) {
      throw fromErrno(err, `state directory ${directory}`);
    }
    return store;
  }

  /** Whether anything was ever written. @throws failed_precondition | data_loss as `view` */
  exists(): boolean {
    return this.#directory.check() === 'usable';
  }

  /** Creates the state directory if it is missing. */
  ensureCreated(): void {
    this.#directory.ensureCreated();
  }

  /** Writes a damaged `version` again. @returns false when the format is unknown */
  restoreVersion(): boolean {
    return this.#directory.restoreVersion(this.#backend.lastWritten('version'));
  }

  /** See `markNeedsFullGc` of journal.ts. */
  markNeedsFullGc(): void {
    markNeedsFullGc(this.layout);
  }

  /** Removes what killed writers left half-written beside records, in the journal and in the cache. */
  sweepHalfWritten(): void {
    const {root, journal, cache} = this.layout;
    const directories = [recordPath.namespaces, recordPath.sharedRefs].flatMap((top) => directoriesBelow(join(root, top)));
    for (const directory of [...directories, journal, ...directoriesBelow(cache)])
      this.housekeeping.attempt(directory, () => sweepTemporary(directory));
  }

  /** Removes locks of processes that were killed. */
  sweepLocks(): void {
    sweepLocks(this.layout.locks);
  }
}

/** A directory and all below it; none where there is none. */
function directoriesBelow(top: string): readonly string[] {
  let entries: readonly Dirent[];
  try {
    entries = readdirSync(top, {withFileTypes: true});
  } catch {
    return []; // what is wrong with it, those say who need it
  }
  return [top, ...entries.flatMap((entry) => (entry.isDirectory() ? directoriesBelow(join(top, entry.name)) : []))];
}
