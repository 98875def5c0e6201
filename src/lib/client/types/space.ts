/** Disk usage, and how to reduce it. */
import type {CallOptions} from './common.ts';

/** Space that some objects use. */
export interface SpaceUsed {
  /** Number of objects; for records and leftovers, number of inodes. */
  readonly count: number;
  /** Sum of the lengths of files, in bytes. */
  readonly size: number;
  /** Bytes of allocated blocks, directories included. */
  readonly disk: number;
}

/** Disk space of a namespace, divided into its own and the shared part. */
export interface ShareOfDisk extends SpaceUsed {
  /** Bytes on disk that only this namespace refers to; deleting it frees them. */
  readonly unique: number;
  /** The other bytes on disk. */
  readonly shared: number;
}

/** Objects and disk space of one namespace. */
export interface NamespaceUsage {
  readonly name: string;
  readonly images: number;
  readonly containers: number;
  readonly content: ShareOfDisk;
  /** Unpacked layers of images, and committed snapshots. */
  readonly snapshots: ShareOfDisk;
  /** Writable layers of containers and prepared snapshots. */
  readonly writable: ShareOfDisk;
  /** What counts for a quota, in bytes: blobs by their size, layers by their bytes on disk. */
  readonly used: number;
  /** The bytes that the namespace's label `berth/quota-bytes` lets it hold; missing without one. */
  readonly quota?: number;
}

/** Disk usage below the root. Each object counts once, so the parts add up to `disk`, which equals the result of du(1). */
export interface DiskUsage {
  readonly root: string;
  readonly namespaces: readonly NamespaceUsage[];
  readonly content: SpaceUsed;
  readonly snapshots: SpaceUsed;
  readonly writable: SpaceUsed;
  /** Downloads in progress, or interrupted. */
  readonly ingests: SpaceUsed;
  /** Blobs and layers without a record. */
  readonly unnamed: SpaceUsed;
  /** Trash, and incomplete files and directories. */
  readonly leftovers: SpaceUsed;
  /** Files that `check --repair` moved away. */
  readonly damaged: SpaceUsed;
  readonly records: SpaceUsed;
  /** Bytes on disk. */
  readonly disk: number;
}

/** Kinds of objects that `prune` removes. */
export type PruneKind = 'images' | 'snapshots' | 'content' | 'ingests' | 'leases';

/** Options of `prune`. */
export interface PruneOptions extends CallOptions {
  /** Default: all. */
  readonly namespace?: string;
  /** Default: all. Every kind but `ingests` removes unreferenced data as well. */
  readonly kinds?: readonly PruneKind[];
  /** Keeps images, leases and ingests that changed within so many milliseconds. */
  readonly olderThanMs?: number;
  /** Removes images, the oldest first, only until the store takes no more than so many bytes on disk. */
  readonly keepBytes?: number;
  /** Removes nothing; the result is the same. */
  readonly dryRun?: boolean;
}

/** One object that `prune` removed. */
export interface Pruned {
  readonly namespace: string;
  readonly kind: 'image' | 'snapshot' | 'content' | 'ingest' | 'lease';
  /** Of a snapshot, `<snapshotter>/<key>`. */
  readonly key: string;
}

/** Result of `prune`. */
export interface PruneResult {
  readonly pruned: readonly Pruned[];
  /** Freed bytes on disk, of blobs, layers and ingests. */
  readonly freed: number;
}

/** Numbers of removed records of each kind, and of removed blobs and layers. */
export interface GcResult {
  readonly images: number;
  readonly content: number;
  readonly snapshots: number;
  readonly leases: number;
  readonly blobs: number;
  readonly layers: number;
  /** Layers that were synced. */
  readonly settled: number;
}
