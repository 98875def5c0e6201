/** The records that a transaction created, updated and deleted, for whoever tells others of it. */
import type {Labels} from './records.ts';

export type ChangedKind = 'namespace' | 'image' | 'container' | 'content' | 'lease' | 'snapshot';

export interface RecordChange {
  readonly namespace: string;
  readonly kind: ChangedKind;
  /** Of a snapshot; else empty. */
  readonly snapshotter: string;
  readonly key: string;
  readonly action: 'create' | 'update' | 'delete';
  /** As it is now; absent after its removal. */
  readonly record?: {readonly labels: Labels};
}

/** Collects changes: of several changes of one record, what they come to. */
export class RecordChanges {
  readonly #changes = new Map<string, RecordChange>();

  /** @param existed whether the record existed before this change */
  note(change: Omit<RecordChange, 'action'>, existed: boolean): void {
    const {namespace, kind, snapshotter, key, record} = change;
    const id = JSON.stringify([namespace, kind, snapshotter, key]);
    const earlier = this.#changes.get(id);
    const isNew = earlier === undefined ? !existed : earlier.action === 'create';
    this.#changes.delete(id);
    if (record !== undefined) this.#changes.set(id, {...change, action: isNew ? 'create' : 'update'});
    else if (!isNew) this.#changes.set(id, {...change, action: 'delete'});
  }

  /** In the order of each record's last change. */
  list(): readonly RecordChange[] {
    return [...this.#changes.values()];
  }
}
