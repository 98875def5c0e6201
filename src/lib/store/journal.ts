/**
 * Metadata on disk: one small JSON file per record, changed through a redo journal.
 *
 * A transaction takes the lock, runs, and writes all its changes as one record `journal/<generation>`, which link(2) gives its name and
 * which fails if that generation exists: the link is the commit. Then the changes are applied, each by temporary file and rename. A reader
 * reads committed but unapplied records through the journal, and the next writer applies them first. So a kill at any instant loses no
 * committed change and shows no uncommitted one.
 *
 * Two writers that both believe to hold the lock cannot both commit: the second link fails. Applied records are kept for a while (`KEEP`,
 * `KEEP_MS`), so that a writer that slept through many generations still collides.
 *
 * A journal record also holds the documents before the change. A view that is overtaken by commits runs again with their changes undone: it
 * is consistent, however long it takes, and takes no lock.
 *
 * Applying does not sync the record files. The journal is durable, and after a power loss (another boot ID) everything since the last
 * checkpoint is applied again. A checkpoint syncs the files that changed since the previous one.
 */
import {closeSync, existsSync, fsyncSync, lstatSync, openSync, readFileSync, rmdirSync, statSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {ErrdefsError, fromErrno, hasCode, isErrdefs} from '../errdefs.ts';
import {createExclusive, makeDirectories, sweepTemporary, syncPath, unlinkIfPresent, writeAtomic} from '../fs/durable.ts';
import {acquireLock, type Lock} from '../fs/lock.ts';
import {bootId} from '../fs/process.ts';
import {Ballast, removalBytes} from './ballast.ts';
import {Housekeeping} from './cleanup-warnings.ts';
import {type Checkpoint, type Documents, JournalFiles, merged, newestGeneration, type Pending, type RedoRecord} from './journal-files.ts';
import {findJournalDamage, repairJournal} from './journal-repair.ts';
import type {Layout} from './layout.ts';
import {markNeedsFullGc} from './mark-needs-full-gc.ts';
import {type Backend, type Damage, type Reader, type Writer, WriteSet} from './metadata-contract.ts';
import {assertReplaceable, isWrongType, listDirectories, listDocuments, readDocument, syncIfPresent} from './read-record-files.ts';

/** Generations between two checkpoints, and generations that are kept before the newest. */
const KEEP = 64;
/** Minimum age of a record that is removed, in milliseconds. */
const KEEP_MS = 10 * 60_000;
/** Size of the journal in bytes that triggers a checkpoint and early removal of old records. */
const KEEP_BYTES = 2 << 20;
/** Size of a record in bytes that triggers measuring the journal: `KEEP` smaller ones are far from `KEEP_BYTES`. */
const LARGE_BYTES = 16 << 10;
/** Attempts of a transaction that other writers overtake. */
const UPDATE_ATTEMPTS = 5;
/** Attempts of a view whose undo records are removed before it ends. */
const VIEW_ATTEMPTS = 5;
/** Attempts of a removal to get the lock on a full disk where other processes take the released space. */
const LOCK_ATTEMPTS = 3;

export class JournalBackend implements Backend {
  readonly #layout: Layout;
  readonly #lockTimeoutMs: number;
  readonly #housekeeping: Housekeeping;
  readonly #ballast: Ballast;
  readonly #files: JournalFiles;
  /** Paths of record files found empty because they never reached the disk. */
  readonly #lostFiles = new Set<string>();

  /** @param options.lockTimeoutMs how long a transaction waits for the lock, in milliseconds */
  constructor(layout: Layout, options: {readonly lockTimeoutMs: number; readonly housekeeping?: Housekeeping; readonly ballast?: Ballast}) {
    this.#layout = layout;
    this.#ballast = options.ballast ?? new Ballast(layout);
    this.#lockTimeoutMs = options.lockTimeoutMs;
    this.#housekeeping = options.housekeeping ?? new Housekeeping();
    this.#files = new JournalFiles(layout);
  }

  view<T>(fn: (reader: Reader) => T): T {
    for (let attempt = 1; ; attempt++) {
      const {reader, generation} = this.#openReader();
      // Old records are removed first: if this one exists, none after it was removed.
      const hasNewerCommit = (): boolean =>
        existsSync(this.#files.file(generation + 1)) ||
        (!existsSync(this.#files.file(generation)) && this.#files.appliedNow() > generation);
      try {
        const result = fn(reader);
        if (!hasNewerCommit()) return result;
      } catch (err) {
        if (!hasNewerCommit()) throw err;
      }
      // It may have seen half of a transaction.
      const past = this.#asOf(generation, reader);
      try {
        const result = fn(past.reader);
        if (past.isComplete()) return result;
      } catch (err) {
        if (past.isComplete()) throw err;
      }
      // We slept so long that the records needed for undoing are gone.
      if (attempt === VIEW_ATTEMPTS)
        throw new ErrdefsError('aborted', `reading: overtaken by other writers ${VIEW_ATTEMPTS} times`, {hint: 'run it again'});
    }
  }

  async update<T>(purpose: string, fn: (writer: Writer) => T): Promise<T> {
    using _lock = await this.#lock(purpose);
    // Another removal may have refilled it meanwhile.
    if (this.#ballast.isRemoving) this.#ballast.release();
    for (let attempt = 1; attempt <= UPDATE_ATTEMPTS; attempt++) {
      const pending = this.#catchUp();
      const generation = newestGeneration(pending);
      const writeSet = new WriteSet(this.#withPending(this.#disk(generation), pending.records));
      const result = fn(writeSet);
      const changed = writeSet.writes.size > 0;
      if (changed && !this.#commit(writeSet, pending)) continue;
      if (this.#lostFiles.size > 0) this.#rewriteLost();
      const isOvertaken = (): boolean => existsSync(this.#files.file(generation + (changed ? 2 : 1)));
      this.#runAfterCommit(writeSet, isOvertaken);
      return result;
    }
    throw new ErrdefsError('aborted', `${purpose}: overtaken by other writers ${UPDATE_ATTEMPTS} times`, {hint: 'run it again'});
  }

  async #lock(purpose: string): Promise<Lock> {
    for (let attempt = 1; ; attempt++) {
      try {
        return this.#takeOver(await acquireLock(this.#layout.lock('store'), {timeoutMs: this.#lockTimeoutMs, purpose}));
      } catch (err) {
        if (!this.#ballast.isRemoving || !hasCode(err, 'resource_exhausted') || attempt === LOCK_ATTEMPTS) throw err;
        this.#ballast.release();
      }
    }
  }

  /** The previous holder died: it may have left garbage and temporary files. */
  #takeOver(lock: Lock): Lock {
    if (lock.inherited) {
      markNeedsFullGc(this.#layout);
      this.#sweepTemporary(this.#layout.journal);
    }
    return lock;
  }

  async withLock<T>(purpose: string, fn: () => Promise<T>): Promise<T> {
    using _lock = await this.#lock(purpose);
    return await fn();
  }

  pending(): number {
    return this.#files.recordsAfter(this.#files.appliedNow()).length;
  }

  async applyPending(): Promise<void> {
    const purpose = 'changes that a full disk left pending';
    using _lock = this.#takeOver(await acquireLock(this.#layout.lock('store'), {timeoutMs: this.#lockTimeoutMs, purpose}));
    const isCreated = this.#ballast.isCreated;
    // First, since pending records take space too and can wait: readers and removals use them through the journal.
    if (isCreated) this.#ballast.refill();
    if (this.#catchUp().records.length > 0 || isCreated) return;
    this.#ballast.create();
    this.#ballast.refill();
  }

  lastWritten(path: string): unknown {
    return this.#files.lastWritten(path);
  }

  findDamage(): readonly Damage[] {
    return findJournalDamage(this.#layout, this.#files);
  }

  async repair(moveAway: (path: string) => string | undefined): Promise<ReadonlyMap<string, string>> {
    using _lock = await this.#lock('repair of the journal');
    return repairJournal(this.#layout, this.#files, (writes) => this.#write(writes, true), moveAway);
  }

  /** Reads record files to which everything up to `generation` is applied. */
  #disk(generation: number): Reader {
    return {
      generation,
      changesSince: (since) => this.#files.changedPaths(since, generation),
      get: (path, asStored = false) => (asStored ? readDocument(this.#layout.root, path) : this.#document(path, generation)),
      list: (directory) => listDocuments(this.#layout.root, directory),
      directories: (directory) => listDirectories(this.#layout.root, directory),
      locate: (path) => join(this.#layout.root, path),
      lost: () => this.#lost(),
    };
  }

  /** Paths that the journal has written since its checkpoint and whose files are missing; a power loss would restore them. */
  #lost(): readonly string[] {
    const checkpoint = this.#files.readCheckpoint();
    const writes = merged(this.#files.recordsAfter(checkpoint.generation, this.#files.applied(checkpoint)));
    const isMissing = (path: string): boolean => {
      try {
        return lstatSync(join(this.#layout.root, path), {throwIfNoEntry: false}) === undefined;
      } catch (err) {
        if ((err as NodeJS.ErrnoException).code !== 'ENOTDIR') throw fromErrno(err, path);
        return false; // the path leads through something that is not a directory
      }
    };
    return Object.keys(writes).filter((path) => writes[path] !== null && isMissing(path));
  }

  /** Reader of the record files, with the committed but unapplied records over them. */
  #openReader(): {reader: Reader; generation: number} {
    const applied = this.#files.appliedNow();
    const records = this.#files.recordsAfter(applied);
    const generation = newestGeneration({applied, records});
    // Sync another writer's commit before acting on it, as in #apply.
    if (records.length > 0) {
      try {
        syncPath(this.#layout.journal);
      } catch (err) {
        throw fromErrno(err, 'journal');
      }
    }
    return {reader: this.#withPending(this.#disk(generation), records), generation};
  }

  #withPending(disk: Reader, records: readonly RedoRecord[]): Reader {
    if (records.length === 0) return disk;
    const writeSet = new WriteSet(disk);
    for (const [path, document] of Object.entries(merged(records))) writeSet.put(path, document ?? undefined);
    return writeSet;
  }

  /** The document at `path`; from the journal if its file never reached the disk. */
  #document(path: string, generation: number): unknown {
    try {
      return readDocument(this.#layout.root, path);
    } catch (err) {
      if (!isUnwritten(join(this.#layout.root, path))) throw err;
      const document = this.#files.writtenAt(path, generation);
      if (document === undefined) throw err;
      this.#lostFiles.add(path);
      return document;
    }
  }

  /**
   * `reader` as of `generation`: undoes later commits, also those during its use. `isComplete` tells afterwards whether all of them could be
   * undone.
   */
  #asOf(generation: number, reader: Reader): {readonly reader: Reader; isComplete(): boolean} {
    let seen = generation;
    // A commit precedes its changes in record files, so looking after each read misses none.
    const undo = (): void => {
      for (let record = this.#files.read(seen + 1); record !== undefined; record = this.#files.read(seen + 1)) {
        for (const [path, document] of Object.entries(record.before)) {
          if (!past.writes.has(path)) past.put(path, document ?? undefined);
        }
        seen++;
      }
    };
    const past = new WriteSet({
      generation,
      changesSince: (since) => reader.changesSince(since),
      get: (path, asStored) => {
        const document = reader.get(path, asStored);
        undo();
        return past.writes.has(path) ? past.writes.get(path) : document;
      },
      list: (directory) => {
        const names = reader.list(directory);
        undo();
        return names;
      },
      directories: (directory) => {
        const names = reader.directories(directory);
        undo();
        return names;
      },
      locate: (path) => reader.locate(path),
      lost: () => reader.lost(),
    });
    const isComplete = (): boolean => {
      const applied = this.#files.appliedNow();
      undo();
      return seen >= applied;
    };
    return {reader: past, isComplete};
  }

  /** Runs the actions after a commit; a failure of one does not stop the others. */
  #runAfterCommit({actions}: WriteSet, isOvertaken: () => boolean): void {
    for (const action of actions)
      if (!this.#housekeeping.attempt(this.#layout.root, () => action(isOvertaken))) markNeedsFullGc(this.#layout);
  }

  /** Removes temporary files of killed processes. */
  #sweepTemporary(...directories: readonly string[]): void {
    for (const directory of new Set(directories)) this.#housekeeping.attempt(directory, () => sweepTemporary(directory));
  }

  /** Applies committed records as far as there is space. The caller holds the lock. @returns the remaining ones */
  #catchUp(): Pending {
    try {
      const checkpoint = this.#files.readCheckpoint();
      let applied = this.#files.applied(checkpoint);
      let records = this.#files.recordsAfter(applied);
      // A removal needs the released space for its own record first.
      while (records.length > 0 && !this.#ballast.isReleased && this.#apply(records)) {
        applied += records.length;
        records = this.#files.recordsAfter(applied);
      }
      if (checkpoint.bootId !== bootId() && records.length === 0) {
        if (applied > 0) markNeedsFullGc(this.#layout);
        unlessFull(() => this.#checkpoint(checkpoint, applied));
      }
      return {applied, records};
    } catch (err) {
      throw fromErrno(err, 'unable to apply committed changes');
    }
  }

  /** Rewrites the record files that never reached the disk, and all others since the checkpoint that differ from the journal. */
  #rewriteLost(): void {
    const checkpoint = this.#files.readCheckpoint();
    const applied = this.#files.applied(checkpoint);
    const torn = [...this.#lostFiles].map((path) => [path, this.#files.writtenAt(path, applied) ?? null]);
    const since = merged(this.#files.recordsAfter(checkpoint.generation, applied));
    if (unlessFull(() => this.#write({...Object.fromEntries(torn), ...since}, true))) this.#lostFiles.clear();
  }

  /** Commits and applies. @returns false when another writer committed the next generation */
  #commit(writeSet: WriteSet, pending: Pending): boolean {
    const generation = writeSet.generation + 1;
    const documents = (get: (path: string) => unknown): Documents =>
      Object.fromEntries([...writeSet.writes.keys()].map((path) => [path, get(path) ?? null]));
    const before = documents((path) => unlessDamaged(() => writeSet.before(path)));
    const writes = documents((path) => writeSet.get(path));
    const record: RedoRecord = {version: 1, generation, writes, before};
    const [writesText, beforeText] = [JSON.stringify(writes), JSON.stringify(before)];
    const text = `{"version":1,"generation":${generation},"writes":${writesText},"before":${beforeText}}\n`;
    let growth = Buffer.byteLength(writesText) - Buffer.byteLength(beforeText);
    for (const path of writeSet.writes.keys())
      growth += (Number(writes[path] !== null) - Number(before[path] !== null)) * removalBytes(path);
    let checkpoint: Checkpoint;
    if (growth > 0) this.#ballast.grow(growth);
    let committed = false;
    try {
      const directory = this.#openJournal();
      try {
        if (!createExclusive(this.#files.file(generation), text)) return false;
        checkpoint = this.#files.readCheckpoint();
        if (checkpoint.generation >= generation) {
          // We slept so long that the record to collide with is pruned.
          unlinkIfPresent(this.#files.file(generation));
          return false;
        }
        committed = true;
        fsyncSync(directory);
      } finally {
        closeSync(directory);
      }
    } catch (err) {
      throw fromErrno(err, 'unable to commit a change');
    } finally {
      if (committed !== growth > 0) this.#ballast.shrink(Math.abs(growth));
    }
    try {
      const left = [...pending.records, record];
      if (pending.records.length > 0 ? this.#ballast.isReleased || !this.#apply(left) : !this.#apply(left, true)) return true;
      // A faster writer may have committed meanwhile: apply its newer changes over ours.
      let applied = generation;
      for (let more = this.#files.recordsAfter(applied); more.length > 0; more = this.#files.recordsAfter(applied)) {
        if (!this.#apply(more)) return true;
        applied += more.length;
      }
      if (
        applied - checkpoint.generation >= KEEP ||
        (text.length >= LARGE_BYTES && this.#files.bytesAfter(checkpoint.generation) > KEEP_BYTES)
      )
        this.#checkpoint(checkpoint, applied);
    } catch (err) {
      // The change is committed and visible; the next writer applies it.
      if (!isErrdefs(fromErrno(err, 'apply'))) throw err;
    }
    return true;
  }

  #openJournal(): number {
    try {
      return openSync(this.#layout.journal, 'r');
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'ENOENT') throw err;
      makeDirectories(this.#layout.journal, {sync: true});
      return openSync(this.#layout.journal, 'r');
    }
  }

  /**
   * Applies consecutive records as one. Records that find no space stay readable and changeable through the journal.
   *
   * @param isOwn they are this transaction's only, and already synced
   * @returns false when there is no space
   */
  #apply(records: readonly RedoRecord[], isOwn = false): boolean {
    const writes = merged(records);
    if (!isOwn) {
      // Its writer may have been killed before it synced the directory. We rely on the commit from here on, so sync it.
      syncPath(this.#layout.journal);
      this.#sweepTemporary(...Object.keys(writes).map((path) => dirname(join(this.#layout.root, path))));
    }
    return unlessFull(() => {
      this.#write(writes, !isOwn);
      this.#files.markApplied(records.at(-1)!.generation);
    });
  }

  /** Writes documents to their files. Removals come first, since they free space. @param compare skip files that are already right */
  #write(writes: Documents, compare: boolean): void {
    const {root} = this.#layout;
    const each = (fn: (file: string, document: unknown) => void): void => {
      for (const [path, document] of Object.entries(writes)) {
        try {
          fn(join(root, path), document);
        } catch (err) {
          assertReplaceable(root, path);
          throw err;
        }
      }
    };
    each((file, document) => {
      if (document !== null) return;
      unlinkIfPresent(file);
      removeEmptyDirectories(dirname(file), root);
    });
    each((file, document) => {
      if (document === null) return;
      const text = `${JSON.stringify(document)}\n`;
      if (compare && hasText(file, text)) return;
      // Other users may read the format's number, and nothing else.
      writeAtomic(file, text, {sync: false, ...(file === this.#layout.version ? {mode: 0o644} : {})});
    });
  }

  /** Syncs every record file that changed since `previous`, then removes old journal records and temporary files. */
  #checkpoint(previous: Checkpoint, generation: number): void {
    const {root, journal} = this.#layout;
    const writes = merged(this.#files.recordsAfter(previous.generation, generation));
    // A disk that was lost and came back under this kernel may have dropped some of them.
    this.#write(writes, true);
    const files = new Set(Object.keys(writes).map((path) => join(root, path)));
    // A new or removed directory is an entry of its parent. The journal directory's creator may have died before syncing the parent.
    const directories = new Set([journal, root]);
    for (const file of files) for (let path = dirname(file); path.length >= root.length; path = dirname(path)) directories.add(path);
    for (const path of [...files, ...directories]) syncIfPresent(path);
    this.#sweepTemporary(...[...files, this.#files.checkpointFile].map((file) => dirname(file)));
    this.#files.writeCheckpoint(generation);
    // A late writer whose generation is gone collides with the checkpoint; see #commit.
    const old = this.#files.generations().filter((g) => g <= generation);
    let bytes = old.reduce((sum, g) => sum + this.#files.sizeOf(g), 0);
    for (const g of old.toSorted((x, y) => x - y)) {
      const stat = statSync(this.#files.file(g), {throwIfNoEntry: false});
      const isOld = g <= generation - KEEP && stat !== undefined && Date.now() - stat.mtimeMs > KEEP_MS;
      if (!isOld && bytes <= KEEP_BYTES) break;
      if (this.#housekeeping.attempt(this.#files.file(g), () => unlinkIfPresent(this.#files.file(g)))) bytes -= stat?.size ?? 0;
      else break;
    }
  }
}

/** A damaged document counts as missing, since it can be replaced. A wrong file type cannot. */
function unlessDamaged(get: () => unknown): unknown {
  try {
    return get();
  } catch (err) {
    if ((hasCode(err, 'data_loss') || hasCode(err, 'permission_denied')) && !isWrongType(err)) return undefined;
    throw err;
  }
}

/** Runs `action`. @returns false when the disk is full */
function unlessFull(action: () => void): boolean {
  try {
    action();
    return true;
  } catch (err) {
    if (!hasCode(fromErrno(err, 'apply'), 'resource_exhausted')) throw err;
    return false;
  }
}

function hasText(file: string, text: string): boolean {
  try {
    return readFileSync(file, 'utf8') === text;
  } catch {
    return false;
  }
}

/** Whether a file is what a lost disk leaves of an unsynced one: empty, or with zero bytes, which JSON never has. */
function isUnwritten(file: string): boolean {
  try {
    const bytes = statSync(file).isFile() ? readFileSync(file) : undefined;
    return bytes !== undefined && (bytes.length === 0 || bytes.includes(0));
  } catch {
    return false;
  }
}

/** Removes `directory` and its parents below `root` while they are empty. */
function removeEmptyDirectories(directory: string, root: string): void {
  for (let path = directory; path.length > root.length; path = dirname(path)) {
    try {
      rmdirSync(path);
    } catch {
      return; // not empty, or gone
    }
  }
}
