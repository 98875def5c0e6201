/** Views and transactions of the store. */

import {RecordChanges} from './changed-records.ts';
import {type RecordKind, recordPath} from './layout.ts';
import type {AfterCommit, Reader, Writer} from './metadata-contract.ts';
import {CONTAINER, CONTENT, IMAGE, LEASE, Namespaces, type RecordHooks, Records, type RecordType, SNAPSHOT} from './record-sets.ts';
import type {Labels, NamespaceRecord} from './records.ts';
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
} from './refcounts.ts';
import {type RecordSurvey, surveyRecords} from './survey-records.ts';
import type {NamespaceTransaction, NamespaceView, RecordSet, StoreTransaction, WritableRecordSet} from './transaction-types.ts';

/** The records of all namespaces over a reader or writer of the metadata. */
export class Transaction implements StoreTransaction {
  readonly #io: Reader & Partial<Writer>;
  readonly namespaces: WritableRecordSet<NamespaceRecord>;
  readonly refs: RefCounts;
  readonly changes = new RecordChanges();

  constructor(io: Reader & Partial<Writer>) {
    this.#io = io;
    this.refs = new RefCounts(io, (name, node) => this.#referencesOf(name, node));
    this.namespaces = new Namespaces(io, this.refs, this.changes);
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
    const hooksOf = (snapshotter: string): RecordHooks => ({
      beforePut: appear,
      noted: (kind, key, existed, record) => {
        const change = {namespace: name, kind, snapshotter, key};
        this.changes.note(record === undefined ? change : {...change, record}, existed);
      },
      changed: (before, after) => this.refs.change(name, before, after),
      invalidate: () => this.refs.invalidate(),
    });
    const hooks = hooksOf('');
    const records = <T extends {readonly labels: Labels}>(kind: RecordType<T>, directory: RecordKind) =>
      new Records(kind, recordPath.directory(name, directory), io, hooks);
    const snapshots = (snapshotter: string) => new Records(SNAPSHOT, recordPath.snapshots(name, snapshotter), io, hooksOf(snapshotter));
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

/** References of all records of a namespace. */
function allReferences(ns: NamespaceView): readonly References[] {
  return [
    ...ns.images.list().map(referencesOfImage),
    ...ns.containers.list().map(referencesOfContainer),
    ...ns.content.list().map(referencesOfContent),
    ...ns.leases.list().map(referencesOfLease),
    ...ns.snapshotters().flatMap((snapshotter) => ns.snapshots(snapshotter).list().map(referencesOfSnapshot)),
  ];
}
