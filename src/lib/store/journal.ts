/**
 * The metadata on disk: one small JSON file a record, changed through a redo journal.
 *
 * A transaction takes the lock, runs, and writes all its changes as one record `journal/<generation>`, linked into place
 * with a call that fails when that generation exists: the link is the commit. Then the changes are applied, each by
 * temporary file and rename. Whoever finds a committed record that is not applied yet reads through it, and the next
 * writer applies it first; so a kill at any instant loses nothing that was committed and shows nothing that was not.
 *
 * Two who both believe that they hold the lock cannot both commit: the second link fails. Applied records stay for a
 * while (`KEEP`, `KEEP_MS`), so that a writer who slept through many generations still collides.
 *
 * A record of the journal also has what was there before. A view during which others commit is taken again with their
 * changes undone: it shows one moment, however long it takes, and waits for nobody.
 *
 * Applying does not sync the record files. The journal is durable, and after a power loss (another boot id) everything
 * since the last checkpoint is applied again. A checkpoint syncs the files that changed since the one before.
 */
import {
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  writeSync,
} from 'node:fs';
import {basename, dirname, join, relative} from 'node:path';
import {ErrdefsError, fromErrno, hasCode, isErrdefs} from '../errdefs.ts';
import {
  createExclusive,
  listIfPresent,
  makeDirectories,
  readIfPresent,
  sweepTemporary,
  syncPath,
  unlinkIfPresent,
  writeAtomic,
} from '../fs/durable.ts';
import {acquireLock, type Lock} from '../fs/lock.ts';
import {bootId} from '../fs/process.ts';
import {Reserve, removalBytes} from './ballast.ts';
import {Housekeeping} from './housekeeping.ts';
import {type Layout, recordPath} from './layout.ts';
import {type Backend, type Fault, Overlay, type Reader, type Writer} from './metadata-backend.ts';
import {assertPlace, isMisfit, listDirectories, listDocuments, readDocument} from './record-files.ts';

/** Generations between two checkpoints, and the number that stays readable behind the newest. */
const KEEP = 64;
/** Age below which no applied record is removed, in milliseconds. */
const KEEP_MS = 10 * 60_000;
/** Bytes of records from which on the journal is checkpointed, and its old records removed before their time. */
const KEEP_BYTES = 2 << 20;
/** Bytes of a record from which on the whole journal is measured: `KEEP` smaller ones are far from `KEEP_BYTES`. */
const LARGE_BYTES = 16 << 10;
/** Other writers that a change gives way to. */
const UPDATE_ATTEMPTS = 5;
/** Views of which others remove, before they end, what undoes their changes. */
const VIEW_ATTEMPTS = 5;
/** Attempts of a removal to have its lock on a full disk on which others take what it gives up. */
const LOCK_ATTEMPTS = 3;

type Documents = Readonly<Record<string, unknown>>;

interface RedoRecord {
  readonly version: 1;
  readonly generation: number;
  /** Path below the root → document, or null where it is removed. */
  readonly writes: Documents;
  /** The same paths → what was there before, or null where nothing was. */
  readonly before: Documents;
}

interface Checkpoint {
  readonly generation: number;
  readonly bootId: string;
}

/** What is committed and not applied, the oldest first. */
interface Pending {
  /** Before the first of them. */
  readonly applied: number;
  readonly records: readonly RedoRecord[];
}

const newest = ({applied, records}: Pending): number => applied + records.length;

const digits = (generation: number): string => String(generation).padStart(16, '0');

const isObject = (value: unknown): value is Documents => typeof value === 'object' && value !== null && !Array.isArray(value);

export class JournalBackend implements Backend {
  readonly #layout: Layout;
  readonly #lockTimeoutMs: number;
  readonly #housekeeping: Housekeeping;
  readonly #reserve: Reserve;
  readonly #checkpointFile: string;
  readonly #appliedFile: string;
  /** Record files that were seen, and that never reached the disk. */
  readonly #torn = new Set<string>();

  /** @param options.lockTimeoutMs how long a change waits for another's, in milliseconds */
  constructor(layout: Layout, options: {readonly lockTimeoutMs: number; readonly housekeeping?: Housekeeping; readonly reserve?: Reserve}) {
    this.#layout = layout;
    this.#reserve = options.reserve ?? new Reserve(layout);
    this.#lockTimeoutMs = options.lockTimeoutMs;
    this.#housekeeping = options.housekeeping ?? new Housekeeping();
    this.#checkpointFile = join(layout.journal, 'checkpoint');
    this.#appliedFile = join(layout.journal, 'applied');
  }

  view<T>(fn: (reader: Reader) => T): T {
    for (let attempt = 1; ; attempt++) {
      const {reader, generation} = this.#snapshot();
      // Old records go first: where this one is still there, none after it has come and gone.
      const isOver = (): boolean =>
        existsSync(this.#file(generation + 1)) || (!existsSync(this.#file(generation)) && this.#appliedNow() > generation);
      try {
        const result = fn(reader);
        if (!isOver()) return result;
      } catch (err) {
        if (!isOver()) throw err;
      }
      // It may have seen half of a change.
      const past = this.#asOf(generation, reader);
      try {
        const result = fn(past.reader);
        if (past.isWhole()) return result;
      } catch (err) {
        if (past.isWhole()) throw err;
      }
      // We slept for so long that records which would undo those changes are gone.
      if (attempt === VIEW_ATTEMPTS)
        throw new ErrdefsError('aborted', `reading: overtaken by other writers ${VIEW_ATTEMPTS} times`, {hint: 'run it again'});
    }
  }

  async update<T>(purpose: string, fn: (writer: Writer) => T): Promise<T> {
    using _lock = await this.#lock(purpose);
    // Another removal may have taken it back meanwhile.
    if (this.#reserve.isRemoving) this.#reserve.giveUp();
    for (let attempt = 1; attempt <= UPDATE_ATTEMPTS; attempt++) {
      const pending = this.#catchUp();
      const generation = newest(pending);
      const overlay = new Overlay(this.#over(this.#disk(generation), pending.records));
      const result = fn(overlay);
      const changed = overlay.writes.size > 0;
      if (changed && !this.#commit(overlay, pending)) continue;
      if (this.#torn.size > 0) this.#replay();
      const passed = (): boolean => existsSync(this.#file(generation + (changed ? 2 : 1)));
      this.#follow(overlay, passed);
      return result;
    }
    throw new ErrdefsError('aborted', `${purpose}: overtaken by other writers ${UPDATE_ATTEMPTS} times`, {hint: 'run it again'});
  }

  async #lock(purpose: string): Promise<Lock> {
    for (let attempt = 1; ; attempt++) {
      try {
        return this.#inherit(await acquireLock(this.#layout.lock('store'), {timeoutMs: this.#lockTimeoutMs, purpose}));
      } catch (err) {
        if (!this.#reserve.isRemoving || !hasCode(err, 'resource_exhausted') || attempt === LOCK_ATTEMPTS) throw err;
        this.#reserve.giveUp();
      }
    }
  }

  /** A holder that died with the lock may have left something half done. */
  #inherit(lock: Lock): Lock {
    if (lock.inherited) {
      noteGarbage(this.#layout);
      this.#sweepTemporary(this.#layout.journal);
    }
    return lock;
  }

  async alone<T>(purpose: string, fn: () => Promise<T>): Promise<T> {
    using _lock = await this.#lock(purpose);
    return await fn();
  }

  pending(): number {
    return this.#after(this.#appliedNow()).length;
  }

  async settle(): Promise<void> {
    const purpose = 'changes that a full disk left pending';
    using _lock = this.#inherit(await acquireLock(this.#layout.lock('store'), {timeoutMs: this.#lockTimeoutMs, purpose}));
    const isMade = this.#reserve.isMade;
    // Before what is pending takes the room: that is read, and removed, as it is.
    if (isMade) this.#reserve.fill();
    if (this.#catchUp().records.length > 0 || isMade) return;
    this.#reserve.make();
    this.#reserve.fill();
  }

  recall(path: string): unknown {
    for (const generation of this.#generations().toSorted((a, b) => b - a)) {
      const writes = this.#read(generation)?.writes;
      if (writes !== undefined && Object.hasOwn(writes, path)) return writes[path] ?? undefined;
    }
    return undefined;
  }

  faults(): readonly Fault[] {
    const checkpoint = this.#readCheckpoint();
    const applied = this.#applied(checkpoint);
    const generations = new Set(this.#generations());
    const faults = new Map<string, string>();
    const look = (path: string, action: () => void): void => {
      try {
        action();
      } catch (err) {
        if (!hasCode(err, 'data_loss') && !hasCode(err, 'permission_denied') && !hasCode(err, 'failed_precondition')) throw err;
        const at = isMisfit(err) ? err.details.misfit : path;
        faults.set(at, (err as Error).message.replace(`${at} `, '').replace(/: [a-z ]+$/, ''));
      }
    };
    for (const [path, parse] of [
      [this.#checkpointFile, parseCheckpoint],
      [this.#appliedFile, parseApplied],
    ] as const) {
      const stat = lstatSync(path, {throwIfNoEntry: false});
      // Of an earlier boot nobody believes it, and a power loss may have torn it: it is written in place, and not synced.
      const isVoid = path === this.#appliedFile && stat?.isFile() === true && checkpoint.bootId !== bootId();
      if (stat !== undefined && !isVoid && parse(readLoosely(path)) === undefined) faults.set(path, 'is malformed');
    }
    for (const generation of generations)
      look(this.#file(generation), () => {
        const file = this.#file(generation);
        const {writes} = this.#read(generation) ?? {writes: {}};
        if (lstatSync(file, {throwIfNoEntry: false})?.isSymbolicLink()) faults.set(file, 'is a symbolic link');
        if (generation > applied) for (const path of Object.keys(writes)) look(path, () => assertPlace(this.#layout.root, path));
      });
    for (let generation = checkpoint.generation + 1; generation < Math.max(...generations); generation++)
      if (!generations.has(generation)) faults.set(this.#file(generation), 'is missing, although later ones exist');
    return [...faults].map(([path, problem]) => ({path, problem}));
  }

  /**
   * A record of the journal that is lost leaves the others as they are: each document in them is whole. What the record files have
   * then, they are, and are brought to the disk; nothing before is needed any more.
   */
  async mend(moveAway: (path: string) => string | undefined): Promise<ReadonlyMap<string, string>> {
    using _lock = await this.#lock('repair of the journal');
    const done = new Map<string, string>();
    const faults = this.faults();
    if (faults.length === 0) return done;
    const {root, journal} = this.#layout;
    const isRecord = (path: string): boolean => dirname(path) === journal && /^\d{16}$/.test(basename(path));
    for (const {path} of faults) if (!isRecord(path)) done.set(path, `moved to ${moveAway(path) ?? 'nowhere: it is gone'}`);
    try {
      const checkpoint = this.#readCheckpoint();
      const applied = this.#applied(checkpoint);
      const generations = this.#generations();
      const lost = new Set(faults.map(({path}) => path));
      const rest = generations.filter((generation) => generation > checkpoint.generation && !lost.has(this.#file(generation)));
      this.#write(merged(rest.toSorted((a, b) => a - b).map((generation) => this.#read(generation)!)), true);
      const last = Math.max(applied, ...generations);
      for (const path of recordFiles(root)) syncIfPresent(path);
      for (const path of [journal, root]) syncIfPresent(path);
      writeAtomic(this.#checkpointFile, `${JSON.stringify({generation: last, bootId: bootId()})}\n`, {sync: true});
      this.#markApplied(last);
      for (const {path} of faults.filter((fault) => isRecord(fault.path))) {
        const place = moveAway(path);
        const what = Number(basename(path)) <= applied ? 'the records hold its changes' : 'changes that only it held may be lost';
        done.set(path, place === undefined ? what : `moved to ${place}; ${what}`);
      }
      noteGarbage(this.#layout);
      return done;
    } catch (err) {
      throw fromErrno(err, 'unable to repair the journal');
    }
  }

  /** The record files, once everything up to `generation` is applied. */
  #disk(generation: number): Reader {
    return {
      generation,
      changesSince: (since) => this.#changes(since, generation),
      get: (path, asStored = false) => (asStored ? readDocument(this.#layout.root, path) : this.#document(path, generation)),
      list: (directory) => listDocuments(this.#layout.root, directory),
      directories: (directory) => listDirectories(this.#layout.root, directory),
      locate: (path) => join(this.#layout.root, path),
      lost: () => this.#lost(),
    };
  }

  /** What the journal has written since its checkpoint, and a power loss would bring back, and whose file is not there. */
  #lost(): readonly string[] {
    const checkpoint = this.#readCheckpoint();
    const writes = merged(this.#after(checkpoint.generation, this.#applied(checkpoint)));
    const isMissing = (path: string): boolean => {
      try {
        return lstatSync(join(this.#layout.root, path), {throwIfNoEntry: false}) === undefined;
      } catch (err) {
        if ((err as NodeJS.ErrnoException).code !== 'ENOTDIR') throw fromErrno(err, path);
        return false; // something else is in the place of its directory
      }
    };
    return Object.keys(writes).filter((path) => writes[path] !== null && isMissing(path));
  }

  /** Paths that the generations after `since` up to `until` changed; `undefined` when the journal does not reach back so far. */
  #changes(since: number, until: number): ReadonlySet<string> | undefined {
    if (since > until) return undefined;
    const changed = new Set<string>();
    for (let generation = since + 1; generation <= until; generation++) {
      const record = this.#read(generation);
      if (record === undefined) return undefined;
      for (const path of Object.keys(record.writes)) changed.add(path);
    }
    return changed;
  }

  #file(generation: number): string {
    return join(this.#layout.journal, digits(generation));
  }

  /** @returns `undefined` when there is no such generation yet, or no more @throws data_loss */
  #read(generation: number): RedoRecord | undefined {
    const file = this.#file(generation);
    let text: string | undefined;
    try {
      text = readIfPresent(file);
    } catch (err) {
      assertPlace(this.#layout.root, relative(this.#layout.root, file));
      throw fromErrno(err, `journal record ${file}`);
    }
    if (text === undefined) return undefined;
    const hint = 'it holds a committed change: restore it, or continue without it: check --repair';
    const record = parseJSON(text, file, hint) as Partial<RedoRecord> | null;
    if (record?.version !== 1 || record.generation !== generation || !isObject(record.writes) || !isObject(record.before))
      throw new ErrdefsError('data_loss', `${file} is not a record of the journal`, {hint});
    return record as RedoRecord;
  }

  /** The last generation whose changes are in the record files, as far as anybody wrote down. */
  #applied(checkpoint: Checkpoint): number {
    // What was applied in another boot may not have reached the disk.
    if (checkpoint.bootId !== bootId()) return checkpoint.generation;
    return Math.max(parseApplied(readLoosely(this.#appliedFile)) ?? 0, checkpoint.generation);
  }

  #markApplied(generation: number): void {
    const number = digits(generation);
    const fd = openSync(this.#appliedFile, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    try {
      writeSync(fd, `${number} ${number}\n`, 0);
    } finally {
      closeSync(fd);
    }
  }

  /** A checkpoint that is lost or damaged costs only time: everything that the journal still has is applied again. */
  #readCheckpoint(): Checkpoint {
    const checkpoint = parseCheckpoint(readLoosely(this.#checkpointFile));
    if (checkpoint !== undefined) return checkpoint;
    const generations = new Set(this.#generations());
    let generation = Math.max(0, ...generations);
    while (generations.has(generation)) generation--;
    return {generation, bootId: ''};
  }

  #generations(): readonly number[] {
    return listIfPresent(this.#layout.journal)
      .filter((name) => /^\d{16}$/.test(name))
      .map(Number);
  }

  #appliedNow(): number {
    return this.#applied(this.#readCheckpoint());
  }

  /** What a reader sees: the record files, and over them what is committed and not applied. */
  #snapshot(): {reader: Reader; generation: number} {
    const applied = this.#appliedNow();
    const records = this.#after(applied);
    const generation = newest({applied, records});
    // As in #apply: somebody may be told of it.
    if (records.length > 0) {
      try {
        syncPath(this.#layout.journal);
      } catch (err) {
        throw fromErrno(err, 'journal');
      }
    }
    return {reader: this.#over(this.#disk(generation), records), generation};
  }

  #over(disk: Reader, records: readonly RedoRecord[]): Reader {
    if (records.length === 0) return disk;
    const overlay = new Overlay(disk);
    for (const [path, document] of Object.entries(merged(records))) overlay.put(path, document ?? undefined);
    return overlay;
  }

  /** The document at `path`, from the journal where its file never reached the disk. */
  #document(path: string, generation: number): unknown {
    try {
      return readDocument(this.#layout.root, path);
    } catch (err) {
      if (!isUnwritten(join(this.#layout.root, path))) throw err;
      const document = this.#recall(path, generation);
      if (document === undefined) throw err;
      this.#torn.add(path);
      return document;
    }
  }

  /** What was last written at `path` up to `generation`; `undefined` when it was removed, or is older than the journal. */
  #recall(path: string, generation: number): unknown {
    for (let g = generation, record = this.#read(g); record !== undefined; record = this.#read(--g))
      if (Object.hasOwn(record.writes, path)) return record.writes[path] ?? undefined;
    return undefined;
  }

  /**
   * `reader` as it was at `generation`, with everything undone that was committed since, and while it is used. `isWhole` tells
   * afterwards whether all of that was still there to be undone.
   */
  #asOf(generation: number, reader: Reader): {readonly reader: Reader; isWhole(): boolean} {
    let seen = generation;
    // A change is committed before any of it is in a record file: whoever looks after reading misses none.
    const undo = (): void => {
      for (let record = this.#read(seen + 1); record !== undefined; record = this.#read(seen + 1)) {
        for (const [path, document] of Object.entries(record.before)) {
          if (!past.writes.has(path)) past.put(path, document ?? undefined);
        }
        seen++;
      }
    };
    const past = new Overlay({
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
    const isWhole = (): boolean => {
      const applied = this.#appliedNow();
      undo();
      return seen >= applied;
    };
    return {reader: past, isWhole};
  }

  /** Runs what is to follow a commit, each whatever becomes of the others. */
  #follow({actions}: Overlay, passed: () => boolean): void {
    for (const action of actions) if (!this.#housekeeping.attempt(this.#layout.root, () => action(passed))) noteGarbage(this.#layout);
  }

  /** Removes what killed writers left half-written in these directories. */
  #sweepTemporary(...directories: readonly string[]): void {
    for (const directory of new Set(directories)) this.#housekeeping.attempt(directory, () => sweepTemporary(directory));
  }

  /** Under the lock: applies what is committed, as far as there is room. @returns what is left */
  #catchUp(): Pending {
    try {
      const checkpoint = this.#readCheckpoint();
      let applied = this.#applied(checkpoint);
      let records = this.#after(applied);
      // A removal needs what it has been given for its own record first.
      while (records.length > 0 && !this.#reserve.isGivenUp && this.#apply(records)) {
        applied += records.length;
        records = this.#after(applied);
      }
      if (checkpoint.bootId !== bootId() && records.length === 0) {
        if (applied > 0) noteGarbage(this.#layout);
        unlessFull(() => this.#checkpoint(checkpoint, applied));
      }
      return {applied, records};
    } catch (err) {
      throw fromErrno(err, 'unable to apply committed changes');
    }
  }

  /** Writes the record files that never reached the disk, and all others since the checkpoint that are not what they should be. */
  #replay(): void {
    const checkpoint = this.#readCheckpoint();
    const applied = this.#applied(checkpoint);
    const torn = [...this.#torn].map((path) => [path, this.#recall(path, applied) ?? null]);
    const since = merged(this.#after(checkpoint.generation, applied));
    if (unlessFull(() => this.#write({...Object.fromEntries(torn), ...since}, true))) this.#torn.clear();
  }

  /** Every record after `generation`, up to `last`. */
  #after(generation: number, last = Number.POSITIVE_INFINITY): readonly RedoRecord[] {
    const records: RedoRecord[] = [];
    for (let next = generation + 1; next <= last; next++) {
      const record = this.#read(next);
      if (record === undefined) break;
      records.push(record);
    }
    return records;
  }

  /** Commits and applies. @returns false when the next generation was committed by another */
  #commit(overlay: Overlay, pending: Pending): boolean {
    const generation = overlay.generation + 1;
    const documents = (get: (path: string) => unknown): Documents =>
      Object.fromEntries([...overlay.writes.keys()].map((path) => [path, get(path) ?? null]));
    const before = documents((path) => unlessDamaged(() => overlay.before(path)));
    const writes = documents((path) => overlay.get(path));
    const record: RedoRecord = {version: 1, generation, writes, before};
    const [writesText, beforeText] = [JSON.stringify(writes), JSON.stringify(before)];
    const text = `{"version":1,"generation":${generation},"writes":${writesText},"before":${beforeText}}\n`;
    let growth = Buffer.byteLength(writesText) - Buffer.byteLength(beforeText);
    for (const path of overlay.writes.keys())
      growth += (Number(writes[path] !== null) - Number(before[path] !== null)) * removalBytes(path);
    let checkpoint: Checkpoint;
    if (growth > 0) this.#reserve.grow(growth);
    let committed = false;
    try {
      const directory = this.#openJournal();
      try {
        if (!createExclusive(this.#file(generation), text)) return false;
        checkpoint = this.#readCheckpoint();
        if (checkpoint.generation >= generation) {
          // We slept for so long that the record we should have collided with is pruned.
          unlinkIfPresent(this.#file(generation));
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
      if (committed !== growth > 0) this.#reserve.shrink(Math.abs(growth));
    }
    try {
      const left = [...pending.records, record];
      if (pending.records.length > 0 ? this.#reserve.isGivenUp || !this.#apply(left) : !this.#apply(left, true)) return true;
      // A faster writer may have committed meanwhile: a late one never leaves older changes over newer ones.
      let applied = generation;
      for (let more = this.#after(applied); more.length > 0; more = this.#after(applied)) {
        if (!this.#apply(more)) return true;
        applied += more.length;
      }
      if (applied - checkpoint.generation >= KEEP || (text.length >= LARGE_BYTES && this.#bytesAfter(checkpoint.generation) > KEEP_BYTES))
        this.#checkpoint(checkpoint, applied);
    } catch (err) {
      // The change is made, and everybody sees it; what is left to do is done by the next writer.
      if (!isErrdefs(fromErrno(err, 'apply'))) throw err;
    }
    return true;
  }

  #bytesAfter(generation: number): number {
    return this.#generations().reduce((sum, g) => sum + (g > generation ? sizeOf(this.#file(g)) : 0), 0);
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
   * Applies records that follow each other, as one: of those that it cannot apply for want of room nobody takes notice, since they
   * are read, and changed, through the journal.
   *
   * @param isOwn they are this transaction's alone, and are on the disk
   * @returns false when there is no room
   */
  #apply(records: readonly RedoRecord[], isOwn = false): boolean {
    const writes = merged(records);
    if (!isOwn) {
      // Whoever linked one may have been killed before he synced the directory: from here on it is counted on, and so on the disk.
      syncPath(this.#layout.journal);
      this.#sweepTemporary(...Object.keys(writes).map((path) => dirname(join(this.#layout.root, path))));
    }
    return unlessFull(() => {
      this.#write(writes, !isOwn);
      this.#markApplied(records.at(-1)!.generation);
    });
  }

  /** Writes documents to their files; first removes those that are to go, which makes room. @param compare leave those that are as they should be */
  #write(writes: Documents, compare: boolean): void {
    const {root} = this.#layout;
    const each = (fn: (file: string, document: unknown) => void): void => {
      for (const [path, document] of Object.entries(writes)) {
        try {
          fn(join(root, path), document);
        } catch (err) {
          assertPlace(root, path);
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
      // Others may read the number of the format, and nothing else.
      writeAtomic(file, text, {sync: false, ...(file === this.#layout.version ? {mode: 0o644} : {})});
    });
  }

  /** Syncs every record file that changed since `previous`, then forgets journal records that nobody needs, and what killed writers left. */
  #checkpoint(previous: Checkpoint, generation: number): void {
    const {root, journal} = this.#layout;
    const writes = merged(this.#after(previous.generation, generation));
    // A disk that was lost and came back under this kernel may have lost some of them.
    this.#write(writes, true);
    const files = new Set(Object.keys(writes).map((path) => join(root, path)));
    // A directory that came or went is an entry of the one above it. Who made the journal's own may have died before he had synced that.
    const directories = new Set([journal, root]);
    for (const file of files) for (let path = dirname(file); path.length >= root.length; path = dirname(path)) directories.add(path);
    for (const path of [...files, ...directories]) syncIfPresent(path);
    this.#sweepTemporary(...[...files, this.#checkpointFile].map((file) => dirname(file)));
    const checkpoint: Checkpoint = {generation, bootId: bootId()};
    writeAtomic(this.#checkpointFile, `${JSON.stringify(checkpoint)}\n`, {sync: true});
    // A late writer whose generation is gone collides with the checkpoint: see #commit.
    const old = this.#generations().filter((g) => g <= generation);
    let bytes = old.reduce((sum, g) => sum + sizeOf(this.#file(g)), 0);
    for (const g of old.toSorted((x, y) => x - y)) {
      const stat = statSync(this.#file(g), {throwIfNoEntry: false});
      const isOld = g <= generation - KEEP && stat !== undefined && Date.now() - stat.mtimeMs > KEEP_MS;
      if (!isOld && bytes <= KEEP_BYTES) break;
      if (this.#housekeeping.attempt(this.#file(g), () => unlinkIfPresent(this.#file(g)))) bytes -= stat?.size ?? 0;
      else break;
    }
  }
}

/**
 * Says that something may be here that no record names: somebody ended after a commit, and perhaps before its
 * `afterCommit`. The next collection then looks at everything. See gc.ts.
 */
export function noteGarbage(layout: Layout): void {
  try {
    writeAtomic(layout.unswept, '', {sync: false});
  } catch (err) {
    // Garbage is in nobody's way, and what is being said or done meanwhile counts for more. `prune` looks at everything anyhow.
    if (!isErrdefs(fromErrno(err, layout.unswept))) throw err;
  }
}

/** A damaged document can be replaced: then nothing was there before. Something else in its place cannot. */
function unlessDamaged(get: () => unknown): unknown {
  try {
    return get();
  } catch (err) {
    if ((hasCode(err, 'data_loss') || hasCode(err, 'permission_denied')) && !isMisfit(err)) return undefined;
    throw err;
  }
}

/** What records that follow each other leave written: of each path the last. */
function merged(records: readonly RedoRecord[]): Documents {
  return records.length === 1 ? records[0]!.writes : Object.assign({}, ...records.map(({writes}) => writes));
}

/** Runs `action`. @returns false when there is no room for it */
function unlessFull(action: () => void): boolean {
  try {
    action();
    return true;
  } catch (err) {
    if (!hasCode(fromErrno(err, 'apply'), 'resource_exhausted')) throw err;
    return false;
  }
}

const sizeOf = (file: string): number => statSync(file, {throwIfNoEntry: false})?.size ?? 0;

function hasText(file: string, text: string): boolean {
  try {
    return readFileSync(file, 'utf8') === text;
  } catch {
    return false;
  }
}

/** Whether a file has what a disk that was lost leaves of one that was not synced: nothing, or zeros. JSON has none. */
function isUnwritten(file: string): boolean {
  try {
    const bytes = statSync(file).isFile() ? readFileSync(file) : undefined;
    return bytes !== undefined && (bytes.length === 0 || bytes.includes(0));
  } catch {
    return false;
  }
}

/** The file's text; `undefined` when there is none, or something else, or the disk does not give it back. */
function readLoosely(path: string): string | undefined {
  try {
    return readIfPresent(path);
  } catch (err) {
    if (hasCode(err, 'resource_exhausted')) throw err;
    return undefined;
  }
}

function parseCheckpoint(text: string | undefined): Checkpoint | undefined {
  const checkpoint = tryParse(text ?? '') as Partial<Checkpoint> | null | undefined;
  return Number.isSafeInteger(checkpoint?.generation) && typeof checkpoint?.bootId === 'string' ? (checkpoint as Checkpoint) : undefined;
}

/** Of `applied`, written twice: two equal numbers are whole. */
function parseApplied(text: string | undefined): number | undefined {
  const applied = /^(\d{16}) \1\n$/.exec(text ?? '')?.[1];
  return applied === undefined ? undefined : Number(applied);
}

function tryParse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function parseJSON(text: string, file: string, hint: string): unknown {
  try {
    return JSON.parse(text);
  } catch (err) {
    throw new ErrdefsError('data_loss', `${file} is not valid JSON`, {cause: err, hint});
  }
}

/** Everything in which records lie, files before their directories. */
function recordFiles(root: string): readonly string[] {
  const found: string[] = [];
  const visit = (path: string): void => {
    for (const entry of readdirSync(path, {withFileTypes: true})) {
      const below = join(path, entry.name);
      if (entry.isDirectory()) visit(below);
      else if (entry.isFile()) found.push(below);
    }
    found.push(path);
  };
  for (const top of [recordPath.namespaces, recordPath.sharedRefs]) if (existsSync(join(root, top))) visit(join(root, top));
  return found;
}

function syncIfPresent(path: string): void {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw fromErrno(err, `sync ${path}`);
  }
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Removes `directory` and those above it, as long as they are empty and below `root`. */
function removeEmptyDirectories(directory: string, root: string): void {
  for (let path = directory; path.length > root.length; path = dirname(path)) {
    try {
      rmdirSync(path);
    } catch {
      return; // it has entries, or is gone
    }
  }
}
