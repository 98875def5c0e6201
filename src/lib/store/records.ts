/** Types of the store's records, one small JSON file each. Only `parse-records.ts` parses them. */
import type {Descriptor, Digest} from '../oci/descriptor.ts';

/** `containerd.io/gc.*` labels direct garbage collection as in containerd. */
export type Labels = Readonly<Record<string, string>>;

interface Timestamps {
  /** RFC 3339, UTC. */
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** A namespace and its labels. */
export interface NamespaceRecord extends Timestamps {
  readonly name: string;
  readonly labels: Labels;
}

/** A name for a descriptor. */
export interface ImageRecord extends Timestamps {
  /** Normalized reference. */
  readonly name: string;
  readonly target: Descriptor;
  readonly labels: Labels;
}

/** Makes a shared blob visible in a namespace. */
export interface ContentRecord extends Timestamps {
  readonly digest: Digest;
  /** Size in bytes. */
  readonly size: number;
  readonly labels: Labels;
}

/** Metadata of an ingest. */
export interface IngestInfo {
  readonly ref: string;
  readonly namespace: string;
  /** Expected size in bytes; 0 when unknown. */
  readonly total: number;
  /** RFC 3339, UTC. */
  readonly startedAt: string;
}

/** `active`: writable; `view`: read-only; `committed`: immutable, can be a parent. */
export type SnapshotKind = 'active' | 'view' | 'committed';

/** A file tree on top of its parent. */
export interface SnapshotRecord extends Timestamps {
  readonly snapshotter: string;
  /** Key of an active snapshot or view, or name of a committed one; for a layer of an image, its chain ID. */
  readonly key: string;
  readonly kind: SnapshotKind;
  /** Name of a committed snapshot of the same snapshotter and namespace. */
  readonly parent?: string;
  /** Directory under `layers/` with the snapshot's tree. Several records, of any namespace, may share one. A view of a parent has none. */
  readonly layer?: string;
  readonly labels: Labels;
}

/** Protects content, layers and snapshots from collection until it expires. */
export interface LeaseRecord extends Timestamps {
  readonly id: string;
  readonly labels: Labels;
  /** RFC 3339, UTC; absent when the lease does not expire. */
  readonly expiresAt?: string;
  readonly content: readonly Digest[];
  /** Directories under `layers/`, which may not exist yet. */
  readonly layers: readonly string[];
  /** `<snapshotter>/<key>`. */
  readonly snapshots: readonly string[];
}

/** A container's image, snapshot and specification; it exists whether or not a task runs. */
export interface ContainerRecord extends Timestamps {
  readonly id: string;
  /** Name of the image; empty for none. */
  readonly image: string;
  readonly labels: Labels;
  readonly runtime: {readonly name: string};
  readonly snapshotter: string;
  readonly snapshotKey: string;
  /** OCI runtime specification; null until it is made. */
  readonly spec: unknown;
}
