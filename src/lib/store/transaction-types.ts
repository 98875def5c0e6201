/** Interfaces of views and transactions: sets of records by namespace and kind. */
import type {AfterCommit} from './metadata-contract.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, LeaseRecord, NamespaceRecord, SnapshotRecord} from './records.ts';
import type {RefCounts} from './refcounts.ts';
import type {RecordSurvey} from './survey-records.ts';

export interface RecordSet<T> {
  /** The record, or `undefined`. @throws data_loss its file is damaged */
  find(key: string): T | undefined;
  /** @throws not_found */
  get(key: string): T;
  /** The record in a file of the set's directory, for callers that know which files changed. */
  findByFile(file: string): T | undefined;
  /** Sorted by key. */
  list(): readonly T[];
  /** File names, for callers that need no contents. */
  files(): readonly string[];
  isEmpty(): boolean;
}

export interface WritableRecordSet<T> extends RecordSet<T> {
  /** @returns the record as stored: without empty labels, as in containerd @throws invalid_argument a label is not a string */
  put(record: T): T;
  /** @returns whether the record existed */
  delete(key: string): boolean;
}

interface NamespaceOf<Images, Containers, Content, Leases, Snapshots> {
  readonly name: string;
  readonly images: Images;
  readonly containers: Containers;
  readonly content: Content;
  readonly leases: Leases;
  /** Snapshotters with records in this namespace, sorted. */
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
  /** Newest transaction that this view sees; see `Reader`. */
  readonly generation: number;
  changesSince(generation: number): ReadonlySet<string> | undefined;
  readonly namespaces: RecordSet<NamespaceRecord>;
  namespace(name: string): NamespaceView;
  /** All readable records; see `surveyRecords`. */
  survey(asStored?: boolean): RecordSurvey;
}

export interface StoreTransaction extends Pick<StoreView, 'generation' | 'changesSince' | 'survey'> {
  readonly namespaces: WritableRecordSet<NamespaceRecord>;
  /** A namespace is created by the first record in it. */
  namespace(name: string): NamespaceTransaction;
  /** See `Writer.afterCommit`. */
  afterCommit(action: AfterCommit): void;
  /** Reference counts with this transaction's changes. */
  readonly refs: RefCounts;
  rebuildRefs(): void;
  /** Replaces an unreadable or missing record, by its path in a survey; `undefined` removes it. The counts must be rebuilt afterwards. */
  replace(path: string, document: unknown): void;
}
