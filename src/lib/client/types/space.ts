/** Disk usage, and how it is reduced. */

export interface SpaceUsed {
  /** Objects; of records and leftovers, inodes. */
  readonly count: number;
  /** Bytes in files, as long as they are. */
  readonly size: number;
  /** Bytes on disk, by blocks, with directories. */
  readonly disk: number;
}

/** Disk space of a namespace, apart from what it shares with others. */
export interface ShareOfDisk extends SpaceUsed {
  /** Bytes on disk of what no other namespace names; they are given back when this one goes. */
  readonly unique: number;
  /** The other bytes on disk. */
  readonly shared: number;
}

/** What one namespace has, and its disk space. */
export interface NamespaceUsage {
  readonly name: string;
  readonly images: number;
  readonly containers: number;
  readonly content: ShareOfDisk;
  /** Unpacked layers of images, and committed snapshots. */
  readonly snapshots: ShareOfDisk;
  /** What containers and prepared snapshots hold themselves. */
  readonly writable: ShareOfDisk;
}

/** Everything below the root, each thing once: the parts add up to `disk`, which is what du(1) says. */
export interface DiskUsage {
  readonly root: string;
  readonly namespaces: readonly NamespaceUsage[];
  readonly content: SpaceUsed;
  readonly snapshots: SpaceUsed;
  readonly writable: SpaceUsed;
  /** Downloads that are under way, or broken off. */
  readonly ingests: SpaceUsed;
  /** Blobs and layers that no record names. */
  readonly unnamed: SpaceUsed;
  /** What waits to be deleted, or was left half-made. */
  readonly leftovers: SpaceUsed;
  /** What `check --repair` took out of the way. */
  readonly damaged: SpaceUsed;
  readonly records: SpaceUsed;
  /** Bytes on disk. */
  readonly disk: number;
}

/** What `prune` removes. */
export type PruneKind = 'images' | 'snapshots' | 'content' | 'ingests' | 'leases';

/** What `prune` spares. */
export interface PruneOptions {
  /** Default: all. */
  readonly namespace?: string;
  /** Default: all. What nothing keeps goes with any of them but `ingests`. */
  readonly kinds?: readonly PruneKind[];
  /** Images, leases and ingests that have changed since stay, in milliseconds. */
  readonly olderThanMs?: number;
  /** Images go, the oldest first, until the store takes no more than so many bytes on disk. */
  readonly keepBytes?: number;
  /** Only tells what would go. */
  readonly dryRun?: boolean;
}

/** One object that `prune` removed. */
export interface Pruned {
  readonly namespace: string;
  readonly kind: 'image' | 'snapshot' | 'content' | 'ingest' | 'lease';
  /** Of a snapshot, `<snapshotter>/<key>`. */
  readonly key: string;
}

/** What `prune` removed, or would remove. */
export interface PruneResult {
  readonly pruned: readonly Pruned[];
  /** Bytes on disk of blobs, layers and ingests that are given back. */
  readonly freed: number;
}

/** How many were dropped: records of each kind, and what no record names any more. */
export interface GcResult {
  readonly images: number;
  readonly content: number;
  readonly snapshots: number;
  readonly leases: number;
  readonly blobs: number;
  readonly layers: number;
  /** Layers that were brought to the disk. */
  readonly settled: number;
}
