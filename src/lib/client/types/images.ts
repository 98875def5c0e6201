/** Images: how they are pulled, listed, checked and mounted. */
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import type {ImageRecord, Labels} from '../../store/records.ts';
import type {ListOptions, ProgressEvent, RegistryOptions} from './common.ts';
import type {HostMount} from './host-mounts.ts';
import type {SnapshotUsage} from './snapshots.ts';

/** What `pull` fetches, from where, and whom it tells of it. */
export interface PullOptions extends RegistryOptions {
  /** Such as `linux/arm64`; several are allowed. Default: this machine's. */
  readonly platforms?: readonly string[];
  readonly allPlatforms?: boolean;
  /** Default true. */
  readonly unpack?: boolean;
  readonly snapshotter?: string;
  /** Ends with `not_modified` when the reference stands for what is here already, whole and unpacked. */
  readonly ifChanged?: boolean;
  /** Labels of the image record. */
  readonly labels?: Labels;
  readonly maxConcurrentDownloads?: number;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** What a pull came to. */
export interface PullResult {
  readonly image: ImageRecord;
  /** Bytes that came over the network. */
  readonly transferredBytes: number;
  readonly elapsedMs: number;
  /** Chain IDs that are unpacked now, one a platform; empty with `unpack: false`. */
  readonly unpacked: readonly {readonly platform: string; readonly chainID: Digest; readonly snapshotter: string}[];
  /** Such as an image that is for another platform. */
  readonly warnings: readonly string[];
}

/** A row of `images ls`. */
export interface ImageSummary extends ImageRecord {
  /** Bytes of manifest, config and layers of this machine's platform, as compressed; `undefined` when they are not all known. */
  readonly size?: number;
  /** As `os/arch[/variant]`, sorted: those that the image offers and that are present here. */
  readonly platforms: readonly string[];
}

/** Whether an image has all it needs to be run, as `ctr images check` tells it. */
export interface ImageCheck {
  readonly name: string;
  readonly target: Descriptor;
  readonly status: 'complete' | 'incomplete' | 'unavailable' | 'error';
  /** Objects that are here, and that are needed; `need` is absent when the manifest is missing. */
  readonly have: number;
  readonly need?: number;
  readonly haveBytes: number;
  readonly needBytes?: number;
  readonly unpacked: boolean;
  readonly missing: readonly Digest[];
}

/** What a manifest tree holds, for `images inspect`. */
export interface ImageTree {
  readonly descriptor: Descriptor;
  readonly present: boolean;
  /** The document itself, parsed, for index, manifest and config; only with `content: true`. */
  readonly content?: unknown;
  readonly children: readonly ImageTree[];
}

/** How `images.mount` mounts an image. */
export interface ImageMountOptions {
  /** Lets the tree be written to. Default false. */
  readonly rw?: boolean;
  readonly snapshotter?: string;
  /** Such as `linux/arm64`. Default: this machine's. */
  readonly platform?: string;
  readonly signal?: AbortSignal;
}

/** Images of one namespace. */
export interface ImagesClient {
  list(options?: ListOptions): Promise<readonly ImageSummary[]>;
  /** Names and targets only; reads no manifest. */
  records(options?: ListOptions): Promise<readonly ImageRecord[]>;
  get(name: string): Promise<ImageRecord>;
  delete(name: string): Promise<void>;
  tag(source: string, target: string, options?: {readonly force?: boolean}): Promise<ImageRecord>;
  label(name: string, labels: Labels, options?: {readonly replaceAll?: boolean}): Promise<ImageRecord>;
  inspect(name: string, options?: {readonly content?: boolean}): Promise<ImageTree>;
  check(options?: ListOptions & {readonly snapshotter?: string}): Promise<readonly ImageCheck[]>;
  usage(name: string, options?: {readonly snapshotter?: string}): Promise<readonly SnapshotUsage[]>;
  /**
   * Mounts an image's tree on this machine, where it stays until it is unmounted or the machine stops. Its snapshot has the target
   * as key; a lease of that name keeps it meanwhile. A snapshot that an earlier mount has left there is used again.
   */
  mount(name: string, target: string, options?: ImageMountOptions): Promise<HostMount>;
  /** What is mounted of this namespace, its snapshots included. */
  mounts(): Promise<readonly HostMount[]>;
  /** @param options.rm removes an image's snapshot, too; without it that is kept for 24 hours, and longer where it could be written to */
  unmount(target: string, options?: {readonly rm?: boolean}): Promise<HostMount>;
}
