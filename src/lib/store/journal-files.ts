/**
 * Files of the journal: one record for each generation, the checkpoint, and `applied`, the newest generation that is in the record files.
 * `journal.ts` commits and applies records, `journal-repair.ts` finds and repairs damage.
 */
import {closeSync, constants, openSync, statSync, writeSync} from 'node:fs';
import {join, relative} from 'node:path';
import {ErrdefsError, fromErrno, hasCode} from '../errdefs.ts';
import {listIfPresent, readIfPresent, writeAtomic} from '../fs/durable.ts';
import {bootId} from '../fs/process.ts';
import type {Layout} from './layout.ts';
import {assertReplaceable} from './read-record-files.ts';

export type Documents = Readonly<Record<string, unknown>>;

export interface RedoRecord {
  readonly version: 1;
  readonly generation: number;
  /** Path below the root → document, or null for a removal. */
  readonly writes: Documents;
  /** The same paths → previous document, or null for none. */
  readonly before: Documents;
}

export interface Checkpoint {
  readonly generation: number;
  readonly bootId: string;
}

/** Committed records that are not applied, oldest first. */
export interface Pending {
  /** Generation before the first of them. */
  readonly applied: number;
  readonly records: readonly RedoRecord[];
}

export const newestGeneration = ({applied, records}: Pending): number => applied + records.length;

const recordName = (generation: number): string => String(generation).padStart(16, '0');

const isObject = (value: unknown): value is Documents => typeof value === 'object' && value !== null && !Array.isArray(value);

export class JournalFiles {
  readonly checkpointFile: string;
  readonly appliedFile: string;
  readonly #layout: Layout;

  constructor(layout: Layout) {
    this.#layout = layout;
    this.checkpointFile = join(layout.journal, 'checkpoint');
    this.appliedFile = join(layout.journal, 'applied');
  }

  file(generation: number): string {
    return join(this.#layout.journal, recordName(generation));
  }

  /** @returns `undefined` when the generation does not exist yet, or no longer @throws data_loss */
  read(generation: number): RedoRecord | undefined {
    const file = this.file(generation);
    let text: string | undefined;
    try {
      text = readIfPresent(file);
    } catch (err) {
      assertReplaceable(this.#layout.root, relative(this.#layout.root, file));
      throw fromErrno(err, `journal record ${file}`);
    }
    if (text === undefined) return undefined;
    const hint = 'it holds a committed change: restore it, or continue without it: check --repair';
    const record = parseJSON(text, file, hint) as Partial<RedoRecord> | null;
    if (record?.version !== 1 || record.generation !== generation || !isObject(record.writes) || !isObject(record.before))
      throw new ErrdefsError('data_loss', `${file} is not a record of the journal`, {hint});
    return record as RedoRecord;
  }

  /** The newest generation known to be applied. */
  applied(checkpoint: Checkpoint): number {
    // Files applied in an earlier boot may not have reached the disk.
    if (checkpoint.bootId !== bootId()) return checkpoint.generation;
    return Math.max(parseApplied(readOrUndefined(this.appliedFile)) ?? 0, checkpoint.generation);
  }

  markApplied(generation: number): void {
    const number = recordName(generation);
    const fd = openSync(this.appliedFile, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    try {
      writeSync(fd, `${number} ${number}\n`, 0);
    } finally {
      closeSync(fd);
    }
  }

  /** A lost or damaged checkpoint costs only time: the whole journal is applied again. */
  readCheckpoint(): Checkpoint {
    const checkpoint = parseCheckpoint(readOrUndefined(this.checkpointFile));
    if (checkpoint !== undefined) return checkpoint;
    const generations = new Set(this.generations());
    let generation = Math.max(0, ...generations);
    while (generations.has(generation)) generation--;
    return {generation, bootId: ''};
  }

  generations(): readonly number[] {
    return listIfPresent(this.#layout.journal)
      .filter((name) => /^\d{16}$/.test(name))
      .map(Number);
  }

  appliedNow(): number {
    return this.applied(this.readCheckpoint());
  }

  writeCheckpoint(generation: number): void {
    const checkpoint: Checkpoint = {generation, bootId: bootId()};
    writeAtomic(this.checkpointFile, `${JSON.stringify(checkpoint)}\n`, {sync: true});
  }

  /** The records after `generation`, up to `last`. */
  recordsAfter(generation: number, last = Number.POSITIVE_INFINITY): readonly RedoRecord[] {
    const records: RedoRecord[] = [];
    for (let next = generation + 1; next <= last; next++) {
      const record = this.read(next);
      if (record === undefined) break;
      records.push(record);
    }
    return records;
  }

  /** Paths changed in the generations after `since` up to `until`; `undefined` when the journal does not reach back so far. */
  changedPaths(since: number, until: number): ReadonlySet<string> | undefined {
    if (since > until) return undefined;
    const changed = new Set<string>();
    for (let generation = since + 1; generation <= until; generation++) {
      const record = this.read(generation);
      if (record === undefined) return undefined;
      for (const path of Object.keys(record.writes)) changed.add(path);
    }
    return changed;
  }

  /** The document last written at `path` up to `generation`; `undefined` when it was removed or the journal does not reach back so far. */
  writtenAt(path: string, generation: number): unknown {
    for (let g = generation, record = this.read(g); record !== undefined; record = this.read(--g))
      if (Object.hasOwn(record.writes, path)) return record.writes[path] ?? undefined;
    return undefined;
  }

  /** The document last written at `path`, as far back as the journal reaches; `undefined` when it was removed. */
  lastWritten(path: string): unknown {
    for (const generation of this.generations().toSorted((a, b) => b - a)) {
      const writes = this.read(generation)?.writes;
      if (writes !== undefined && Object.hasOwn(writes, path)) return writes[path] ?? undefined;
    }
    return undefined;
  }

  /** Size of a record in bytes; 0 when it is gone. */
  sizeOf(generation: number): number {
    return statSync(this.file(generation), {throwIfNoEntry: false})?.size ?? 0;
  }

  bytesAfter(generation: number): number {
    return this.generations().reduce((sum, g) => sum + (g > generation ? this.sizeOf(g) : 0), 0);
  }
}

/** Merges consecutive records: the last document of each path. */
export function merged(records: readonly RedoRecord[]): Documents {
  return records.length === 1 ? records[0]!.writes : Object.assign({}, ...records.map(({writes}) => writes));
}

/** The file's text; `undefined` when it is missing or unreadable. */
export function readOrUndefined(path: string): string | undefined {
  try {
    return readIfPresent(path);
  } catch (err) {
    if (hasCode(err, 'resource_exhausted')) throw err;
    return undefined;
  }
}

export function parseCheckpoint(text: string | undefined): Checkpoint | undefined {
  const checkpoint = tryParse(text ?? '') as Partial<Checkpoint> | null | undefined;
  return Number.isSafeInteger(checkpoint?.generation) && typeof checkpoint?.bootId === 'string' ? (checkpoint as Checkpoint) : undefined;
}

/** Parses `applied`, which holds the number twice: equal numbers are not torn. */
export function parseApplied(text: string | undefined): number | undefined {
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
