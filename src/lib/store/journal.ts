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
 * Applying does not sync the record files. The journal is durable, and after a power loss (another boot id) everything
 * since the last checkpoint is applied again. A checkpoint syncs the files that changed since the one before.
 */
import {closeSync, existsSync, fsyncSync, openSync, rmdirSync, statSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {createExclusive, isTemporary, listIfPresent, readIfPresent, sweepTemporary, unlinkIfPresent, writeAtomic} from '../fs/durable.ts';
import {acquireLock} from '../fs/lock.ts';
import {bootId} from '../fs/process.ts';
import {type Backend, Overlay, type Reader, type Writer} from './backend.ts';
import type {Layout} from './layout.ts';

/** Generations between two checkpoints, and the number that stays readable behind the newest. */
const KEEP = 64;
/** Age below which no applied record is removed, in milliseconds. */
const KEEP_MS = 10 * 60_000;
/** A view that sees this many commits go by takes what it has: every record in it was true at some moment of the view. */
const VIEW_ATTEMPTS = 5;

interface RedoRecord {
  readonly version: 1;
  readonly generation: number;
  /** Path below the root → document, or null where it is removed. */
  readonly writes: Readonly<Record<string, unknown>>;
}

interface Checkpoint {
  readonly generation: number;
  readonly bootId: string;
}

const recordName = (generation: number): string => String(generation).padStart(16, '0');

export class JournalBackend implements Backend {
  readonly #layout: Layout;
  readonly #lockTimeoutMs: number;
  readonly #checkpointFile: string;
  readonly #appliedFile: string;

  /** @param options.lockTimeoutMs how long a change waits for another's, in milliseconds */
  constructor(layout: Layout, options: {readonly lockTimeoutMs: number}) {
    this.#layout = layout;
    this.#lockTimeoutMs = options.lockTimeoutMs;
    this.#checkpointFile = join(layout.journal, 'checkpoint');
    this.#appliedFile = join(layout.journal, 'applied');
  }

  view<T>(fn: (reader: Reader) => T): T {
    for (let attempt = 1; ; attempt++) {
      const {reader, generation} = this.#snapshot();
      const result = fn(reader);
      if (attempt >= VIEW_ATTEMPTS || !this.#exists(generation + 1)) return result;
    }
  }

  async update<T>(purpose: string, fn: (writer: Writer) => T): Promise<T> {
    using _lock = await acquireLock(this.#layout.lock('store'), {timeoutMs: this.#lockTimeoutMs, purpose});
    for (let attempt = 1; attempt <= VIEW_ATTEMPTS; attempt++) {
      const generation = this.#catchUp();
      const overlay = new Overlay(this.#disk);
      const result = fn(overlay);
      if (overlay.writes.size > 0) {
        const writes = Object.fromEntries([...overlay.writes].map(([path, document]) => [path, document ?? null]));
        const record: RedoRecord = {version: 1, generation: generation + 1, writes};
        if (!this.#commit(record)) continue;
        this.#apply(record);
        this.#markApplied(record.generation);
        if (record.generation % KEEP === 0) this.#checkpoint(record.generation);
      }
      for (const action of overlay.actions) action();
      return result;
    }
    throw new ErrdefsError('aborted', `${purpose}: other writers were faster ${VIEW_ATTEMPTS} times`, {hint: 'run it again'});
  }

  readonly #disk: Reader = {
    get: (path) => {
      let text: string | undefined;
      try {
        text = readIfPresent(join(this.#layout.root, path));
      } catch (err) {
        throw fromErrno(err, `record ${path}`);
      }
      return text === undefined ? undefined : parseJSON(text, join(this.#layout.root, path));
    },
    list: (directory) => {
      try {
        return listIfPresent(join(this.#layout.root, directory)).filter((name) => !isTemporary(name));
      } catch (err) {
        throw fromErrno(err, `directory ${directory}`);
      }
    },
  };

  #file(generation: number): string {
    return join(this.#layout.journal, recordName(generation));
  }

  #exists(generation: number): boolean {
    return existsSync(this.#file(generation));
  }

  #read(generation: number): RedoRecord | undefined {
    const file = this.#file(generation);
    const text = readIfPresent(file);
    if (text === undefined) return undefined;
    const record = parseJSON(text, file) as Partial<RedoRecord> | null;
    if (record?.version !== 1 || record.generation !== generation || typeof record.writes !== 'object')
      throw new ErrdefsError('data_loss', `${file} is not a record of the journal`);
    return record as RedoRecord;
  }

  /** The last generation whose changes are in the record files, as far as anybody wrote down. */
  #applied(): number {
    const checkpoint = this.#readCheckpoint();
    // What was applied in another boot may not have reached the disk.
    if (checkpoint.bootId !== bootId()) return checkpoint.generation;
    const applied = Number(readIfPresent(this.#appliedFile));
    return Number.isSafeInteger(applied) ? Math.max(applied, checkpoint.generation) : checkpoint.generation;
  }

  #readCheckpoint(): Checkpoint {
    const text = readIfPresent(this.#checkpointFile);
    if (text === undefined) return {generation: 0, bootId: ''};
    const {generation, bootId: boot} = parseJSON(text, this.#checkpointFile) as Checkpoint;
    return {generation, bootId: boot};
  }

  #markApplied(generation: number): void {
    writeAtomic(this.#appliedFile, String(generation), {sync: false});
  }

  /** What a reader sees: the record files, and over them what is committed and not applied. */
  #snapshot(): {reader: Reader; generation: number} {
    let generation = this.#applied();
    let overlay: Overlay | undefined;
    for (let record = this.#read(generation + 1); record !== undefined; record = this.#read(generation + 1)) {
      overlay ??= new Overlay(this.#disk);
      for (const [path, document] of Object.entries(record.writes)) overlay.put(path, document ?? undefined);
      generation++;
    }
    return {reader: overlay ?? this.#disk, generation};
  }

  /** Under the lock: applies what is committed. @returns the newest generation */
  #catchUp(): number {
    const afterBoot = this.#readCheckpoint().bootId !== bootId();
    let generation = this.#applied();
    const from = generation;
    for (let record = this.#read(generation + 1); record !== undefined; record = this.#read(generation + 1)) {
      this.#apply(record);
      generation++;
    }
    if (afterBoot) {
      this.#checkpoint(generation);
      sweepTemporary(this.#layout.journal);
    }
    if (generation > from) this.#markApplied(generation);
    return generation;
  }

  /** @returns false when that generation was committed by another */
  #commit(record: RedoRecord): boolean {
    try {
      return createExclusive(this.#file(record.generation), `${JSON.stringify(record)}\n`);
    } catch (err) {
      throw fromErrno(err, 'unable to commit a change');
    }
  }

  #apply(record: RedoRecord): void {
    try {
      for (const [path, document] of Object.entries(record.writes)) {
        const file = join(this.#layout.root, path);
        if (document === null) {
          unlinkIfPresent(file);
          removeEmptyDirectories(dirname(file), this.#layout.root);
        } else {
          writeAtomic(file, `${JSON.stringify(document)}\n`, {sync: false});
        }
      }
    } catch (err) {
      throw fromErrno(err, 'a change is committed, but not yet applied; the next command applies it');
    }
  }

  /** Syncs every record file that changed since the last checkpoint, then forgets journal records that nobody needs. */
  #checkpoint(generation: number): void {
    const previous = this.#readCheckpoint().generation;
    const touched = new Set<string>();
    for (let g = previous + 1; g <= generation; g++) {
      for (const path of Object.keys(this.#read(g)?.writes ?? {})) touched.add(join(this.#layout.root, path));
    }
    for (const path of [...touched, ...new Set([...touched].map(dirname))]) syncIfPresent(path);
    const checkpoint: Checkpoint = {generation, bootId: bootId()};
    writeAtomic(this.#checkpointFile, `${JSON.stringify(checkpoint)}\n`, {sync: true});
    for (const name of listIfPresent(this.#layout.journal)) {
      if (!/^\d{16}$/.test(name) || Number(name) > generation - KEEP) continue;
      const file = join(this.#layout.journal, name);
      if (Date.now() - statSync(file).mtimeMs > KEEP_MS) unlinkIfPresent(file);
    }
  }
}

function parseJSON(text: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (err) {
    throw new ErrdefsError('data_loss', `${file} is not valid JSON`, {
      cause: err,
      hint: 'restore the file, or remove it and make the object again',
    });
  }
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
