/**
 * What is on this machine, and who may see it. Records belong to a namespace and are reached only through a handle that
 * is bound to one; blobs and layers are shared underneath.
 */
import {chmodSync, type Dirent, existsSync, mkdirSync, readdirSync, symlinkSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {ErrdefsError, fromErrno, hasCode, isErrdefs} from '../errdefs.ts';
import {isTemporary, makeDirectories, readIfPresent, sweepTemporary, writeAtomic} from '../fs/durable.ts';
import {sweepLocks} from '../fs/lock.ts';
import type {Digest} from '../oci/descriptor.ts';
import {Ballast} from './ballast.ts';
import {BlobStore} from './blob-store.ts';
import {Housekeeping, type OnWarning} from './housekeeping.ts';
import {JournalBackend, markNeedsFullGc} from './journal.ts';
import {LayerStore} from './layer-store.ts';
import {createLayout, type Layout, RECORD_KINDS, type RecordKind, recordFile, recordPath} from './layout.ts';
import {type AfterCommit, type Backend, type Damage, type Reader, type Writer, WriteSet} from './metadata-backend.ts';
import {Formats, MIGRATIONS, type Migration} from './migrations.ts';
import {quarantine} from './quarantine.ts';
import {assertDirectory, misplacedRecord, REPAIR_HINT} from './record-files.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, Labels, LeaseRecord, NamespaceRecord, SnapshotRecord} from './records.ts';
import {
  type Node,
  nodeParts,
  RefCounts,
  type References,
  referencesOfContainer,
  referencesOfContent,
  referencesOfImage,
  referencesOfLease,
  referencesOfSnapshot,
  type SharedKey,
} from './refcounts.ts';
import {parseContainer, parseContent, parseImage, parseLease, parseNamespace, parseSnapshot, RECORD_VERSION} from './schema.ts';
import {type RecordSurvey, surveyRecords} from './survey-records.ts';

export interface StoreOptions {
  readonly root: string;
  /** How long a change waits for another's, in milliseconds. */
  readonly lockTimeoutMs: number;
  /** From the first format to today's; those of this berth unless given. */
  readonly migrations?: readonly Migration[];
  /** Is told what clean-up could not remove; see housekeeping.ts. */
  readonly onWarning?: OnWarning;
}

/** One kind of record, read. */
export interface RecordSet<T> {
  /** The record, or `undefined`. @throws data_loss its file is damaged */
  find(key: string): T | undefined;
  /** @throws not_found */
  get(key: string): T;
  /** The record in a file of the collection's directory, or `undefined`: for those who know which files changed. */
  at(file: string): T | undefined;
  /** All of them, sorted by key. */
  list(): readonly T[];
  /** Names of their files: for those who only ask which there are. */
  files(): readonly string[];
  isEmpty(): boolean;
}

/** One kind of record, to be changed. */
export interface WritableRecordSet<T> extends RecordSet<T> {
  /** @returns the record as it is references: without labels that are empty, as in containerd @throws invalid_argument a label is no string */
  put(record: T): T;
  /** @returns whether it was there */
  delete(key: string): boolean;
}

/** One namespace's records. `C` is `RecordSet` in a view and `WritableRecordSet` in an update. */
interface NamespaceOf<Images, Containers, Content, Leases, Snapshots> {
  readonly name: string;
  readonly images: Images;
  readonly containers: Containers;
  readonly content: Content;
  readonly leases: Leases;
  /** Names of snapshotters that have records here, sorted. */
  snapshotters(): readonly string[];
  snapshots(snapshotter: string): Snapshots;
}

export type NamespaceView = NamespaceOf<
  RecordSet<ImageRecord>,
  RecordSet<ContainerRecord>,
  RecordSet<ContentRecord>,
  RecordSet<LeaseRecord>,
  RecordSet<SnapshotRecord>
>;

export type NamespaceTransaction = NamespaceOf<
  WritableRecordSet<ImageRecord>,
  WritableRecordSet<ContainerRecord>,
  WritableRecordSet<ContentRecord>,
  WritableRecordSet<LeaseRecord>,
  WritableRecordSet<SnapshotRecord>
>;

export interface StoreView {
  /** See `Reader`. */
  readonly generation: number;
  changesSince(generation: number): ReadonlySet<string> | undefined;
  readonly namespaces: RecordSet<NamespaceRecord>;
  namespace(name: string): NamespaceView;
  /** All records, as far as they can be read. See `surveyRecords`. */
  survey(asStored?: boolean): RecordSurvey;
}

export interface StoreTransaction extends Pick<StoreView, 'generation' | 'changesSince' | 'survey'> {
  readonly namespaces: WritableRecordSet<NamespaceRecord>;
  /** A namespace appears when something is first written in it. */
  namespace(name: string): NamespaceTransaction;
  /** See `Writer.afterCommit`. */
  afterCommit(action: AfterCommit): void;
  /** Who keeps whom, with this transaction's changes. */
  readonly refs: RefCounts;
  /** Counts anew who keeps whom. */
  rebuildRefs(): void;
  /** Puts a document in the place of a record (by a path of a survey) that cannot be read, or that is missing; `undefined` puts none there. Counts are to be rebuilt. */
  replace(path: string, document: unknown): void;
}

interface RecordType<T> {
  /** What one is called in messages. */
  readonly noun: string;
  readonly key: (record: T) => string;
  readonly parse: (value: unknown, what: string) => T;
  readonly references: (record: T) => References;
}

const IMAGE: RecordType<ImageRecord> = {noun: 'image', key: (r) => r.name, parse: parseImage, references: referencesOfImage};
const CONTAINER: RecordType<ContainerRecord> = {
  noun: 'container',
  key: (r) => r.id,
  parse: parseContainer,
  references: referencesOfContainer,
};
const CONTENT: RecordType<ContentRecord> = {noun: 'content', key: (r) => r.digest, parse: parseContent, references: referencesOfContent};
const LEASE: RecordType<LeaseRecord> = {noun: 'lease', key: (r) => r.id, parse: parseLease, references: referencesOfLease};
const SNAPSHOT: RecordType<SnapshotRecord> = {noun: 'snapshot', key: (r) => r.key, parse: parseSnapshot, references: referencesOfSnapshot};

/** What happens around a change of a record. */
interface RecordHooks {
  beforePut(): void;
  changed(before: References | undefined, after: References | undefined): void;
  /** What a record references cannot be read any more. */
  invalidate(): void;
}

/** A record without its empty labels. What it is made of comes from callers whom no compiler has checked. */
function withoutEmptyLabels<T extends {readonly labels: Labels}>(record: T, what: string): T {
  const labels = Object.entries(record.labels);
  const [bad] = labels.find(([, value]) => typeof value !== 'string') ?? [];
  if (bad !== undefined) throw new ErrdefsError('invalid_argument', `${what}: label ${JSON.stringify(bad)} is not a string`);
  return labels.every(([, value]) => value !== '')
    ? record
    : {...record, labels: Object.fromEntries(labels.filter(([, value]) => value !== ''))};
}

class Records<T extends {readonly labels: Labels}> implements WritableRecordSet<T> {
  readonly #kind: RecordType<T>;
  readonly #directory: string;
  readonly #io: Reader & Partial<Writer>;
  readonly #hooks: RecordHooks;

  constructor(kind: RecordType<T>, directory: string, io: Reader & Partial<Writer>, hooks: RecordHooks) {
    this.#kind = kind;
    this.#directory = directory;
    this.#io = io;
    this.#hooks = hooks;
  }

  #path(key: string): string {
    return `${this.#directory}/${recordFile(key)}`;
  }

  find(key: string): T | undefined {
    return this.at(recordFile(key));
  }

  at(file: string): T | undefined {
    const path = `${this.#directory}/${file}`;
    const document = this.#io.get(path);
    if (document === undefined) return undefined;
    const record = this.#kind.parse(document, this.#io.locate(path));
    const key = this.#kind.key(record);
    if (recordFile(key) !== file) throw misplacedRecord(this.#io.locate(path), key);
    return record;
  }

  get(key: string): T {
    const record = this.find(key);
    if (record === undefined) throw new ErrdefsError('not_found', `${this.#kind.noun} ${JSON.stringify(key)}`);
    return record;
  }

  list(): readonly T[] {
    const records = this.#io.list(this.#directory).flatMap((file) => {
      const record = this.at(file);
      return record === undefined ? [] : [{key: this.#kind.key(record), record}];
    });
    return records.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0)).map(({record}) => record);
  }

  files(): readonly string[] {
    return this.#io.list(this.#directory);
  }

  isEmpty(): boolean {
    return !this.#io.list(this.#directory).some((name) => this.#io.get(`${this.#directory}/${name}`) !== undefined);
  }

  put(given: T): T {
    const record = withoutEmptyLabels(given, `${this.#kind.noun} ${JSON.stringify(this.#kind.key(given))}`);
    this.#hooks.beforePut();
    const path = this.#path(this.#kind.key(record));
    this.#hooks.changed(this.#referencesAt(path), this.#kind.references(record));
    this.#io.put!(path, {version: RECORD_VERSION, ...record});
    return record;
  }

  delete(key: string): boolean {
    const path = this.#path(key);
    const present = this.#isPresent(path);
    if (present) {
      this.#hooks.changed(this.#referencesAt(path), undefined);
      this.#io.put!(path, undefined);
    }
    return present;
  }

  /** A damaged record is there, and can be replaced or removed. */
  #isPresent(path: string): boolean {
    try {
      return this.#io.get(path) !== undefined;
    } catch (err) {
      if (!hasCode(err, 'data_loss')) throw err;
      return true;
    }
  }

  #referencesAt(path: string): References | undefined {
    try {
      const document = this.#io.get(path);
      return document === undefined ? undefined : this.#kind.references(this.#kind.parse(document, this.#io.locate(path)));
    } catch (err) {
      if (!hasCode(err, 'data_loss')) throw err;
      this.#hooks.invalidate();
      return undefined;
    }
  }
}

/** The records of all namespaces over a backend's reader or writer. */
class Transaction implements StoreTransaction {
  readonly #io: Reader & Partial<Writer>;
  readonly namespaces: WritableRecordSet<NamespaceRecord>;
  readonly refs: RefCounts;

  constructor(io: Reader & Partial<Writer>) {
    this.#io = io;
    this.refs = new RefCounts(io, (name, node) => this.#referencesOf(name, node));
    this.namespaces = new Namespaces(io, this.refs);
  }

  get generation(): number {
    return this.#io.generation;
  }

  changesSince(generation: number): ReadonlySet<string> | undefined {
    return this.#io.changesSince(generation);
  }

  namespace(name: string): NamespaceTransaction {
    const io = this.#io;
    const appear = (): void => {
      if (this.namespaces.find(name) !== undefined) return;
      const now = new Date().toISOString();
      this.namespaces.put({name, labels: {}, createdAt: now, updatedAt: now});
    };
    const hooks: RecordHooks = {
      beforePut: appear,
      changed: (before, after) => this.refs.change(name, before, after),
      invalidate: () => this.refs.invalidate(),
    };
    const records = <T extends {readonly labels: Labels}>(kind: RecordType<T>, directory: RecordKind) =>
      new Records(kind, recordPath.directory(name, directory), io, hooks);
    const snapshots = (snapshotter: string) => new Records(SNAPSHOT, recordPath.snapshots(name, snapshotter), io, hooks);
    return {
      name,
      images: records(IMAGE, 'images'),
      containers: records(CONTAINER, 'containers'),
      content: records(CONTENT, 'content'),
      leases: records(LEASE, 'leases'),
      snapshotters: () => io.directories(recordPath.snapshotters(name)).filter((snapshotter) => !snapshots(snapshotter).isEmpty()),
      snapshots,
    };
  }

  #referencesOf(name: string, node: Node): References | undefined {
    const ns = this.namespace(name);
    const {kind, snapshotter, key} = nodeParts(node);
    const of = <T>(records: RecordSet<T>, references: (record: T) => References): References | undefined => {
      const record = records.find(key);
      return record === undefined ? undefined : references(record);
    };
    switch (kind) {
      case 'image':
        return of(ns.images, referencesOfImage);
      case 'content':
        return of(ns.content, referencesOfContent);
      case 'container':
        return of(ns.containers, referencesOfContainer);
      case 'snapshot':
        return of(ns.snapshots(snapshotter), referencesOfSnapshot);
    }
  }

  survey(asStored?: boolean): RecordSurvey {
    return surveyRecords(this.#io, asStored);
  }

  replace(path: string, document: unknown): void {
    this.refs.invalidate();
    this.#io.put!(path, document);
  }

  afterCommit(action: AfterCommit): void {
    this.#io.afterCommit!(action);
  }

  rebuildRefs(): void {
    this.refs.rebuild(new Map(this.namespaces.list().map(({name}) => [name, allReferences(this.namespace(name))])));
  }
}

/** What each record of a namespace keeps. */
function allReferences(ns: NamespaceView): readonly References[] {
  return [
    ...ns.images.list().map(referencesOfImage),
    ...ns.containers.list().map(referencesOfContainer),
    ...ns.content.list().map(referencesOfContent),
    ...ns.leases.list().map(referencesOfLease),
    ...ns.snapshotters().flatMap((snapshotter) => ns.snapshots(snapshotter).list().map(referencesOfSnapshot)),
  ];
}

/** Namespace records lie inside their namespace's directory, so that the directory is the whole of it and no name is reserved. */
class Namespaces implements WritableRecordSet<NamespaceRecord> {
  readonly #io: Reader & Partial<Writer>;
  readonly #refs: RefCounts;

  constructor(io: Reader & Partial<Writer>, refs: RefCounts) {
    this.#io = io;
    this.#refs = refs;
  }

  at(file: string): NamespaceRecord | undefined {
    return this.find(file);
  }

  find(name: string): NamespaceRecord | undefined {
    const path = recordPath.namespace(name);
    const document = this.#io.get(path);
    if (document === undefined) return undefined;
    const file = this.#io.locate(path);
    const record = parseNamespace(document, file);
    if (record.name !== name) throw misplacedRecord(file, record.name);
    return record;
  }

  get(name: string): NamespaceRecord {
    const record = this.find(name);
    if (record === undefined) throw new ErrdefsError('not_found', `namespace ${JSON.stringify(name)}`);
    return record;
  }

  list(): readonly NamespaceRecord[] {
    return this.#io.directories(recordPath.namespaces).flatMap((name) => {
      const record = this.find(name);
      // Whoever lists takes the others for nobody's: what is in it would be collected.
      if (record === undefined && this.#hasRecords(name))
        throw new ErrdefsError('data_loss', `namespace ${JSON.stringify(name)} has no ${this.#io.locate(recordPath.namespace(name))}`, {
          hint: REPAIR_HINT,
        });
      return record ?? [];
    });
  }

  #hasRecords(name: string): boolean {
    const snapshots = recordPath.snapshotters(name);
    const directories = [
      ...RECORD_KINDS.map((kind) => recordPath.directory(name, kind)),
      ...this.#io.directories(snapshots).map((snapshotter) => recordPath.snapshots(name, snapshotter)),
    ];
    return directories.some((directory) => this.#io.list(directory).some((file) => this.#io.get(`${directory}/${file}`) !== undefined));
  }

  isEmpty(): boolean {
    return this.#io.directories(recordPath.namespaces).every((name) => this.find(name) === undefined);
  }

  files(): readonly string[] {
    return this.#io.directories(recordPath.namespaces).filter((name) => this.find(name) !== undefined);
  }

  put(given: NamespaceRecord): NamespaceRecord {
    const record = withoutEmptyLabels(given, `namespace ${JSON.stringify(given.name)}`);
    if (this.find(record.name) === undefined) this.#refs.beginNamespace(record.name, this.isEmpty());
    this.#io.put!(recordPath.namespace(record.name), {version: RECORD_VERSION, ...record});
    return record;
  }

  delete(name: string): boolean {
    if (this.find(name) === undefined) return false;
    this.#refs.endNamespace(name);
    this.#io.put!(recordPath.namespace(name), undefined);
    return true;
  }
}

export class Store {
  readonly layout: Layout;
  readonly blobs: BlobStore;
  readonly layers: LayerStore;
  readonly housekeeping: Housekeeping;
  readonly ballast: Ballast;
  readonly #backend: Backend;
  readonly #formats: Formats;
  /** Of the state directory, once it is known to be one of ours. */
  #format: number | undefined;

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
  }

  /** Reads as of one moment, without waiting for anybody. @throws failed_precondition the state directory is of another version */
  view<T>(fn: (tx: StoreView) => T): T {
    return this.#view((reader) => fn(new Transaction(reader)));
  }

  #view<T>(fn: (reader: Reader) => T): T {
    this.#check();
    const isOld = this.#format !== undefined && this.#format < this.#formats.known;
    return this.#backend.view(isOld ? (reader) => fn(this.#formats.view(reader)) : fn);
  }

  /**
   * Runs `fn` alone, and makes all its changes visible at once, durably, or none of them. `fn` is synchronous, and may
   * run again when another writer was faster.
   *
   * @param purpose what for, in a few words without secrets; shown to those who wait
   */
  async update<T>(purpose: string, fn: (tx: StoreTransaction) => T): Promise<T> {
    this.prepare();
    const result = await this.#backend.update(purpose, (writer) => {
      this.#formats.migrate(writer);
      const tx = new Transaction(writer);
      const result = fn(tx);
      this.#leaveGarbage(tx);
      return result;
    });
    // Where somebody has removed the directory meanwhile, the change has made it anew.
    if (existsSync(this.layout.version)) this.#format = this.#formats.known;
    else this.#writeVersion();
    return result;
  }

  #writeVersion(): void {
    try {
      writeAtomic(this.layout.version, `${this.#formats.known}\n`, {sync: true, mode: 0o644});
    } catch (err) {
      throw fromErrno(err, `state directory ${this.layout.root}`);
    }
    this.#format = this.#formats.known;
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
    this.#check();
    return this.#backend.lastWritten(path);
  }

  /** See `Backend.withLock`. */
  async withLock<T>(purpose: string, fn: () => Promise<T>): Promise<T> {
    this.prepare();
    return this.#backend.withLock(purpose, fn);
  }

  /** See `Backend.pending`. */
  pending(): number {
    return this.#check() === 'usable' ? this.#backend.pending() : 0;
  }

  /** See `Backend.applyPending`. */
  async applyPending(): Promise<void> {
    if (this.#check() === 'usable') await this.#backend.applyPending();
  }

  /** What is wrong with the journal itself. */
  journalDamage(): readonly Damage[] {
    return this.#check() === 'usable' ? this.#backend.findDamage() : [];
  }

  /** Takes the journal's faults out of the way. @returns what was done about each, by path */
  repairJournal(): Promise<ReadonlyMap<string, string>> {
    this.#check();
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
    return this.#check() === 'usable';
  }

  /** Makes the state directory where it is missing. */
  prepare(): void {
    if (this.#check() === 'usable') return;
    const {root} = this.layout;
    try {
      // Others may go through it, to what a container shows them, and list nothing.
      if (makeDirectories(root, {sync: true, mode: 0o711})) chmodSync(root, 0o711);
      this.#writeVersion();
    } catch (err) {
      throw fromErrno(err, `state directory ${root}`);
    }
  }

  #versionDamaged(what: string): ErrdefsError {
    const {root, version} = this.layout;
    return new ErrdefsError('data_loss', `state directory ${root}: file "version" ${what}`, {
      hint: REPAIR_HINT,
      details: {misfit: version},
    });
  }

  /** Whether a directory without a `version` is a state directory all the same: nobody else has such a file. */
  #isOurs(): boolean {
    const {journal} = this.layout;
    return /^(\d{16}) \1\n$/.test(readQuietly(join(journal, 'applied')) ?? '');
  }

  /** Writes the number of the format anew. @returns false where that is not known: several would fit */
  restoreVersion(): boolean {
    const {root, version} = this.layout;
    const written = this.#backend.lastWritten('version');
    const format = typeof written === 'number' ? written : this.#formats.known === 1 ? 1 : undefined;
    if (format === undefined || !this.#isOurs()) return false;
    try {
      quarantine(this.layout, version);
      writeAtomic(version, `${format}\n`, {sync: true, mode: 0o644});
      return true;
    } catch (err) {
      throw fromErrno(err, `state directory ${root}`);
    }
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

  #check(): 'missing' | 'usable' {
    const {root, version} = this.layout;
    // Somebody may have removed the directory since.
    if (this.#format !== undefined && existsSync(version)) return 'usable';
    this.#format = undefined;
    let text: string | undefined;
    try {
      text = readIfPresent(version);
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EISDIR' && !hasCode(err, 'data_loss')) throw fromErrno(err, `state directory ${root}`);
      text = '';
    }
    if (text === undefined) {
      const foreign = foreignName(root);
      if (foreign === undefined) return 'missing';
      if (existsSync(version)) return this.#check(); // another process has made it this moment
      if (this.#isOurs()) throw this.#versionDamaged('is missing');
      throw new ErrdefsError(
        'failed_precondition',
        `directory ${root} has files, such as ${JSON.stringify(foreign)}, but no "version": not a state directory`,
        {hint: 'choose an empty or a new directory with --root'},
      );
    }
    if (!/^\d+\s*$/.test(text)) throw this.#versionDamaged('is damaged');
    this.#formats.check(root, Number(text));
    // What seems to be empty because a disk is not mounted must not be collected.
    for (const directory of this.layout.requiredDirectories) assertDirectory(directory);
    this.#format = Number(text);
    return 'usable';
  }
}

function readQuietly(path: string): string | undefined {
  try {
    return readIfPresent(path);
  } catch {
    return undefined;
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

/** A name in a directory that is not ours: one that has any and no `version` is not ours to write in. */
function foreignName(root: string): string | undefined {
  try {
    return readdirSync(root).find((name) => name !== 'lost+found' && !isTemporary(name));
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw fromErrno(err, `state directory ${root}`);
  }
}
