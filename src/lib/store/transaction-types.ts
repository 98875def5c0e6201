/** What a view and a transaction of the store offer: sets of records by namespace and kind. */
import type {AfterCommit} from './metadata-backend.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, LeaseRecord, NamespaceRecord, SnapshotRecord} from './records.ts';
import type {RefCounts} from './refcounts.ts';
import type {RecordSurvey} from './survey-records.ts';

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
