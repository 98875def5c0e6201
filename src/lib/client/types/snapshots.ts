/** Snapshots, and their mounts. */
import type {Digest} from '../../oci/descriptor.ts';
import type {Labels, SnapshotRecord} from '../../store/records.ts';
import type {CallOptions, ListOptions} from './common.ts';
import type {HostMount} from './host-mounts.ts';

/** Disk space of one snapshot, without its parents. */
export interface SnapshotUsage {
  readonly key: string;
  /** Bytes on disk. */
  readonly size: number;
  readonly inodes: number;
}

/** A mount as containerd describes it: arguments of mount(2). */
export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** Options of `snapshots.diff`. */
export interface SnapshotDiffOptions {
  /** Snapshot to compare with. Default: the parent. */
  readonly against?: string;
  /** Of the layer; decides its compression. Default: OCI's, with gzip. */
  readonly mediaType?: string;
  /** RFC 3339: later mtimes become this. */
  readonly latest?: string;
  readonly signal?: AbortSignal;
}

/** Snapshots of one namespace and one snapshotter. */
export interface SnapshotsClient {
  readonly snapshotter: string;
  list(options?: ListOptions): Promise<readonly SnapshotRecord[]>;
  get(key: string): Promise<SnapshotRecord>;
  usage(key: string): Promise<SnapshotUsage>;
  prepare(key: string, parent?: string, options?: CallOptions & {readonly labels?: Labels}): Promise<readonly Mount[]>;
  view(key: string, parent?: string, options?: CallOptions & {readonly labels?: Labels}): Promise<readonly Mount[]>;
  commit(name: string, key: string, options?: CallOptions & {readonly labels?: Labels}): Promise<SnapshotRecord>;
  /**
   * The layer that makes the tree of `key` from another one, by containerd's rules. The same trees give the same bytes. A container that
   * runs in it is paused until all was read, which is before the first byte is given.
   *
   * @throws not_implemented an unknown media type
   */
  diff(key: string, options?: SnapshotDiffOptions): Promise<AsyncIterable<Uint8Array>>;
  delete(key: string, options?: CallOptions): Promise<void>;
  mounts(key: string): Promise<readonly Mount[]>;
  /**
   * Lines of a script for a POSIX shell that mounts the snapshot at a directory. It leaves no other mounts.
   *
   * @param target any path; a relative one is resolved against the working directory of this process
   */
  mountScript(key: string, target: string): Promise<readonly string[]>;
  /** Mounts an active snapshot or a view on this machine; `images.unmount` unmounts it. */
  mount(key: string, target: string, options?: CallOptions): Promise<HostMount>;
  label(key: string, labels: Labels, options?: CallOptions): Promise<SnapshotRecord>;
  /**
   * Unpacks the image of a manifest or index.
   *
   * @param digest of an image's target
   * @returns chain ID of its top layer; absent for an image without layers
   * @throws not_found no image has this target, or a blob is missing
   */
  unpack(digest: string, options?: {readonly signal?: AbortSignal}): Promise<{readonly image: string; readonly chainID?: Digest}>;
}
