/**
 * The store: records of each namespace, reached only through a handle that is bound to it, and the blobs and layers that all
 * namespaces share.
 */
import {type Dirent, existsSync, mkdirSync, readdirSync, symlinkSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {fromErrno} from '../errdefs.ts';
import {sweepTemporary} from '../fs/durable.ts';
import {sweepLocks} from '../fs/lock.ts';
import type {Digest} from '../oci/descriptor.ts';
import {Ballast} from './ballast.ts';
import {BlobStore} from './blob-store.ts';
import type {RecordChange} from './changed-records.ts';
import {Housekeeping, type OnWarning} from './cleanup-warnings.ts';
import {syncBlobNames} from './fsync-blob-names.ts';
import {JournalBackend} from './journal.ts';
import {LayerStore} from './layer-store.ts';
import {createLayout, type Layout, recordPath} from './layout.ts';
import {markNeedsFullGc} from './mark-needs-full-gc.ts';
import {type Backend, type Damage, type Reader, WriteSet} from './metadata-contract.ts';
import {Formats, MIGRATIONS, type Migration} from './migrations.ts';
import {quarantine} from './quarantine.ts';
import type {SharedKey} from './refcounts.ts';
import {StateDirectory} from './store-directory.ts';
import {Transaction} from './transaction.ts';
import type {StoreTransaction, StoreView} from './transaction-types.ts';

export interface StoreOptions {
  readonly root: string;
  /** How long a transaction waits for the lock, in milliseconds. */
  readonly lockTimeoutMs: number;
  /** Migrations from format 1 to the current one; default: this berth's. */
  readonly migrations?: readonly Migration[];
  /** Receives warnings of failed cleanup; see cleanup-warnings.ts. */
  readonly onWarning?: OnWarning;
  /** Gets the changes of each transaction that was committed, and is waited for. Must not throw. */
  readonly onCommit?: (changes: readonly RecordChange[]) => Promise<void>;
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
  readonly #onCommit: StoreOptions['onCommit'];

  /** Touches nothing until the first call. A missing state directory reads as empty and is created by the first change. */
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
    this.#onCommit = options.onCommit;
  }

  /** A consistent read without a lock. @throws failed_precondition the state directory has an unknown format */
  view<T>(fn: (tx: StoreView) => T): T {
    return this.#view((reader) => fn(new Transaction(reader)));
  }

  #view<T>(fn: (reader: Reader) => T): T {
    this.#directory.check();
    return this.#backend.view(this.#directory.isOld ? (reader) => fn(this.#formats.view(reader)) : fn);
  }

  /**
   * Runs `fn` under the lock and commits all its changes durably at once, or none. `fn` is synchronous and may run again when another
   * writer was faster.
   *
   * @param purpose in a few words without secrets; shown to processes that wait for the lock
   */
  async update<T>(purpose: string, fn: (tx: StoreTransaction) => T): Promise<T> {
    this.ensureCreated();
    let changes: readonly RecordChange[] = [];
    const result = await this.#backend.update(purpose, (writer) => {
      this.#formats.migrate(writer);
      const tx = new Transaction(writer);
      const result = fn(tx);
      this.#noteGarbage(tx);
      changes = tx.changes.list();
      return result;
    });
    this.#directory.noteMigrated();
    if (changes.length > 0) await this.#onCommit?.(changes);
    return result;
  }

  /** Notes garbage that the transaction leaves, for the next collection. */
  #noteGarbage(tx: Transaction): void {
    tx.refs.deferCollection(Date.now());
    const exists = (key: SharedKey): boolean => {
      const name = key.slice(key.indexOf('/') + 1);
      return key.startsWith('blob/') ? this.blobs.size(name as Digest) !== undefined : existsSync(this.layers.path(name));
    };
    if (tx.refs.uncollected.some(exists)) tx.afterCommit(() => this.markNeedsFullGc());
  }

  /**
   * The document last written at `path` (of a survey) according to the journal; `undefined` when it was removed or the journal does not
   * know.
   */
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

  journalDamage(): readonly Damage[] {
    return this.#directory.check() === 'usable' ? this.#backend.findDamage() : [];
  }

  /** Repairs the journal. @returns the action for each damaged path */
  repairJournal(): Promise<ReadonlyMap<string, string>> {
    this.#directory.check();
    return this.#backend.repair((path) => quarantine(this.layout, path));
  }

  /** Runs `fn` on the current state and discards its changes. */
  dryRun<T>(fn: (tx: StoreTransaction) => T): T {
    return this.#view((reader) => fn(new Transaction(new WriteSet(reader))));
  }

  /** See `syncBlobNames` of fsync-blob-names.ts. */
  syncBlobNames(digests: readonly Digest[]): void {
    syncBlobNames(this.blobs, digests, (fn) => this.view(fn));
  }

  /**
   * Creates a private store in `directory` that shares this one's blobs and borrows some of its layers. Others do not see what is unpacked
   * in it.
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

  /** Whether the state directory exists. @throws failed_precondition | data_loss as `view` */
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

  markNeedsFullGc(): void {
    markNeedsFullGc(this.layout);
  }

  /** Removes temporary files of killed processes beside records, in the journal and in the cache. */
  sweepTemporaryFiles(): void {
    const {root, journal, cache} = this.layout;
    const directories = [recordPath.namespaces, recordPath.sharedRefs].flatMap((top) => directoriesBelow(join(root, top)));
    for (const directory of [...directories, journal, ...directoriesBelow(cache)])
      this.housekeeping.attempt(directory, () => sweepTemporary(directory));
  }

  sweepLocks(): void {
    sweepLocks(this.layout.locks);
  }
}

/** A directory and all below it; empty when it is missing. */
function directoriesBelow(top: string): readonly string[] {
  let entries: readonly Dirent[];
  try {
    entries = readdirSync(top, {withFileTypes: true});
  } catch {
    return []; // reported by whoever needs it
  }
  return [top, ...entries.flatMap((entry) => (entry.isDirectory() ? directoriesBelow(join(top, entry.name)) : []))];
}
