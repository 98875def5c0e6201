/** Sets of records over the documents of a metadata backend: lookup, listing, and changes that keep reference counts. */
import {ErrdefsError, hasCode} from '../errdefs.ts';
import type {ChangedKind, RecordChanges} from './changed-records.ts';
import {RECORD_KINDS, recordFile, recordPath} from './layout.ts';
import type {Reader, Writer} from './metadata-contract.ts';
import {parseContainer, parseContent, parseImage, parseLease, parseNamespace, parseSnapshot, RECORD_VERSION} from './parse-records.ts';
import {misplacedRecord, REPAIR_HINT} from './read-record-files.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, Labels, LeaseRecord, NamespaceRecord, SnapshotRecord} from './records.ts';
import {
  type RefCounts,
  type References,
  referencesOfContainer,
  referencesOfContent,
  referencesOfImage,
  referencesOfLease,
  referencesOfSnapshot,
} from './refcounts.ts';
import type {WritableRecordSet} from './transaction-types.ts';

/** One kind of record. */
export interface RecordType<T> {
  /** Noun for messages. */
  readonly noun: ChangedKind;
  readonly key: (record: T) => string;
  readonly parse: (value: unknown, what: string) => T;
  readonly references: (record: T) => References;
}

export const IMAGE: RecordType<ImageRecord> = {noun: 'image', key: (r) => r.name, parse: parseImage, references: referencesOfImage};
export const CONTAINER: RecordType<ContainerRecord> = {
  noun: 'container',
  key: (r) => r.id,
  parse: parseContainer,
  references: referencesOfContainer,
};
export const CONTENT: RecordType<ContentRecord> = {
  noun: 'content',
  key: (r) => r.digest,
  parse: parseContent,
  references: referencesOfContent,
};
export const LEASE: RecordType<LeaseRecord> = {noun: 'lease', key: (r) => r.id, parse: parseLease, references: referencesOfLease};
export const SNAPSHOT: RecordType<SnapshotRecord> = {
  noun: 'snapshot',
  key: (r) => r.key,
  parse: parseSnapshot,
  references: referencesOfSnapshot,
};

/** Called around a change of a record. */
export interface RecordHooks {
  beforePut(): void;
  changed(before: References | undefined, after: References | undefined): void;
  /** Called with each record put, and for a removal without one. */
  noted(kind: ChangedKind, key: string, existed: boolean, record: {readonly labels: Labels} | undefined): void;
  /** The old record is unreadable, so its references are unknown. */
  invalidate(): void;
}

/** Removes empty labels and checks the others, which come from callers without type checks. */
function withoutEmptyLabels<T extends {readonly labels: Labels}>(record: T, what: string): T {
  const labels = Object.entries(record.labels);
  const [bad] = labels.find(([, value]) => typeof value !== 'string') ?? [];
  if (bad !== undefined) throw new ErrdefsError('invalid_argument', `${what}: label ${JSON.stringify(bad)} is not a string`);
  return labels.every(([, value]) => value !== '')
    ? record
    : {...record, labels: Object.fromEntries(labels.filter(([, value]) => value !== ''))};
}

/** The records of one kind in one namespace, over a reader or writer of the metadata. */
export class Records<T extends {readonly labels: Labels}> implements WritableRecordSet<T> {
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
    return this.findByFile(recordFile(key));
  }

  findByFile(file: string): T | undefined {
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
      const record = this.findByFile(file);
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
    this.#hooks.noted(this.#kind.noun, this.#kind.key(record), this.#isPresent(path), record);
    this.#hooks.changed(this.#referencesAt(path), this.#kind.references(record));
    this.#io.put!(path, {version: RECORD_VERSION, ...record});
    return record;
  }

  delete(key: string): boolean {
    const path = this.#path(key);
    const present = this.#isPresent(path);
    if (present) {
      this.#hooks.noted(this.#kind.noun, key, true, undefined);
      this.#hooks.changed(this.#referencesAt(path), undefined);
      this.#io.put!(path, undefined);
    }
    return present;
  }

  /** A damaged record exists, and can be replaced or removed. */
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

/** A namespace's record lies in the namespace's directory, which so holds the whole namespace and reserves no name. */
export class Namespaces implements WritableRecordSet<NamespaceRecord> {
  readonly #io: Reader & Partial<Writer>;
  readonly #refs: RefCounts;
  readonly #changes: RecordChanges;

  constructor(io: Reader & Partial<Writer>, refs: RefCounts, changes: RecordChanges) {
    this.#io = io;
    this.#refs = refs;
    this.#changes = changes;
  }

  #note(name: string, existed: boolean, record?: NamespaceRecord): void {
    const change = {namespace: name, kind: 'namespace', snapshotter: '', key: name} as const;
    this.#changes.note(record === undefined ? change : {...change, record}, existed);
  }

  findByFile(file: string): NamespaceRecord | undefined {
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
      // A caller would take the namespace for empty and collect its content.
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
    const existed = this.find(record.name) !== undefined;
    if (!existed) this.#refs.beginNamespace(record.name, this.isEmpty());
    this.#note(record.name, existed, record);
    this.#io.put!(recordPath.namespace(record.name), {version: RECORD_VERSION, ...record});
    return record;
  }

  delete(name: string): boolean {
    if (this.find(name) === undefined) return false;
    this.#refs.endNamespace(name);
    this.#note(name, true);
    this.#io.put!(recordPath.namespace(name), undefined);
    return true;
  }
}
