/** The records that the store keeps, one small JSON file each. `schema.ts` is the only place that reads them from bytes. */
import type {Descriptor, Digest} from '../oci/descriptor.ts';

/** Names and values; `containerd.io/gc.*` direct collection as in containerd. */
export type Labels = Readonly<Record<string, string>>;

interface Timestamps {
  /** RFC 3339, UTC. */
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** A namespace. */
export interface NamespaceRecord extends Timestamps {
  readonly name: string;
  readonly labels: Labels;
}

/** What a name stands for in a namespace. */
export interface ImageRecord extends Timestamps {
  /** The full reference, as the user gave it after normalisation. */
  readonly name: string;
  readonly target: Descriptor;
  readonly labels: Labels;
}

/** That a namespace sees a blob; the blob itself is shared. */
export interface ContentRecord extends Timestamps {
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
  readonly labels: Labels;
}

/** What an ingest says of itself, beside its bytes. */
export interface IngestInfo {
  readonly ref: string;
  readonly namespace: string;
  /** Bytes promised; 0 when unknown. */
  readonly total: number;
  /** RFC 3339, UTC. */
  readonly startedAt: string;
}

/** `active`: written to; `view`: read only; `committed`: fixed, may be a parent. */
export type SnapshotKind = 'active' | 'view' | 'committed';

/** A snapshot: a file tree on top of its parent. */
export interface SnapshotRecord extends Timestamps {
  readonly snapshotter: string;
  /** Key of an active snapshot or view, name of a committed one: for a layer of an image, its chain ID. */
  readonly key: string;
  readonly kind: SnapshotKind;
  /** Name of a committed snapshot of the same snapshotter and namespace. */
  readonly parent?: string;
  /** Directory under `layers/` with this snapshot's own tree; a view has none. Several records, of any namespace, may name one. */
  readonly layer?: string;
  readonly labels: Labels;
}

/** Protects content, layers and snapshots from collection until it expires. */
export interface LeaseRecord extends Timestamps {
  readonly id: string;
  readonly labels: Labels;
  /** RFC 3339, UTC; absent: never. */
  readonly expiresAt?: string;
  readonly content: readonly Digest[];
  /** Directories under `layers/`, there or in the making. */
  readonly layers: readonly string[];
  /** `<snapshotter>/<key>`. */
  readonly snapshots: readonly string[];
}

/** A container: what it was made from and how it is run. It exists whether it runs or not. */
export interface ContainerRecord extends Timestamps {
  readonly id: string;
  /** Name of the image; empty when there was none. */
  readonly image: string;
  readonly labels: Labels;
  readonly runtime: {readonly name: string};
  readonly snapshotter: string;
  readonly snapshotKey: string;
  /** OCI runtime specification; null while it is not made yet. */
  readonly spec: unknown;
}
