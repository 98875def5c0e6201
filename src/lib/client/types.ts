/** What the library takes and gives. One shape each, shared with `--json`. */
import type {Descriptor, Digest, Platform} from '../oci/descriptor.ts';
import type {
  ContainerRecord,
  ContentRecord,
  ImageRecord,
  Labels,
  LeaseRecord,
  NamespaceRecord,
  SnapshotKind,
  SnapshotRecord,
} from '../store/records.ts';

export type {
  ContainerRecord,
  ContentRecord,
  Descriptor,
  Digest,
  ImageRecord,
  Labels,
  LeaseRecord,
  NamespaceRecord,
  Platform,
  SnapshotKind,
  SnapshotRecord,
};

export interface OpenOptions {
  /** Persistent state. Default: `BERTH_ROOT`, else `/var/lib/berth`, else for other users `$XDG_DATA_HOME/berth`. */
  readonly root?: string;
  /**
   * State that ends with the boot. Default: `BERTH_STATE`, else `/run/berth`, else for other users `$XDG_RUNTIME_DIR/berth`, else
   * `/tmp/berth-UID/berth`. What belongs to another user, or is writable by others, is refused when it is needed.
   */
  readonly state?: string;
  /** How long to wait for a lock that somebody holds, in milliseconds. Default 10 000. */
  readonly lockTimeoutMs?: number;
  /**
   * Is told of what goes wrong beside a call and does not change its result: an entry of the trash that cannot be deleted, say. An
   * `ErrdefsError`, whose `details` name the path.
   */
  readonly onWarning?: (warning: Error) => void;
}

/** One descriptor's way through a pull, or the reference's resolution. Sent at each change of status and, while bytes move, at most every 100 ms. */
export interface ProgressEvent {
  /** The row: the reference itself, or `<kind>-<digest>`, such as `layer-sha256:…`. */
  readonly ref: string;
  readonly status: 'resolving' | 'resolved' | 'waiting' | 'checking' | 'downloading' | 'extracting' | 'committing' | 'exists' | 'done';
  /** Bytes so far and in all; both 0 where there is nothing to count. */
  readonly offset: number;
  readonly total: number;
}

export interface ListOptions {
  /** containerd's filter grammar; a list of filters is an "or". */
  readonly filters?: readonly string[];
}

export interface RegistryOptions {
  readonly plainHTTP?: boolean;
  /** Skips the verification of TLS certificates. */
  readonly skipVerify?: boolean;
  /** `user:password`; only sent where the registry asks for it. */
  readonly credentials?: {readonly username: string; readonly password: string};
  /** A registry's refresh (identity) token. */
  readonly refreshToken?: string;
  /** Bounds each connection, in milliseconds. Default 30 000. */
  readonly connectTimeoutMs?: number;
  /** How long a registry may send nothing, or next to nothing, before its connection counts as broken, in milliseconds; 0 is no bound. Default 30 000. */
  readonly stallTimeoutMs?: number;
  /**
   * Directory with a `hosts.toml` or certificates for each registry, as docs/HOSTS.md has it; none when empty. Default:
   * `BERTH_HOSTS_DIR`, else containerd's and docker's.
   */
  readonly hostsDir?: string;
  /** Is told, a line each, which hosts were asked for what and what they answered. No secrets. */
  readonly onDebug?: (line: string) => void;
}

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

export interface SnapshotUsage {
  readonly key: string;
  /** Bytes on disk. */
  readonly size: number;
  readonly inodes: number;
}

/** What a manifest tree holds, for `images inspect`. */
export interface ImageTree {
  readonly descriptor: Descriptor;
  readonly present: boolean;
  /** The document itself, parsed, for index, manifest and config; only with `content: true`. */
  readonly content?: unknown;
  readonly children: readonly ImageTree[];
}

export interface IngestStatus {
  /** The key given to `content ingest`, or `<kind>-<digest>` for a download. */
  readonly ref: string;
  /** Bytes so far. */
  readonly offset: number;
  /** Bytes promised; 0 when unknown. */
  readonly total: number;
  readonly startedAt: string;
  readonly updatedAt: string;
}

export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

export interface ImageMountOptions {
  /** Lets the tree be written to. Default false. */
  readonly rw?: boolean;
  readonly snapshotter?: string;
  /** Such as `linux/arm64`. Default: this machine's. */
  readonly platform?: string;
  readonly signal?: AbortSignal;
}

/** A snapshot that is, or was, mounted on this machine. */
export interface HostMount {
  /** Absolute, without symbolic links. */
  readonly target: string;
  readonly namespace: string;
  readonly snapshotter: string;
  /** Of the snapshot; for an image the target itself. */
  readonly key: string;
  /** Absent where a snapshot was mounted that somebody had made. */
  readonly image?: string;
  readonly readOnly: boolean;
  /**
   * `stale`: it is not mounted any more, and nobody has said so. `unknown`: it is of a mount namespace that cannot be seen from here.
   */
  readonly state: 'mounting' | 'mounted' | 'stale' | 'unknown' | 'unmounted';
  readonly createdAt: string;
}

export interface MountSpec {
  readonly type: string;
  readonly source: string;
  readonly destination: string;
  readonly options: readonly string[];
}

export interface RunOptions {
  /** Replaces the image's whole argv, Entrypoint included, as ctr does; empty: the image's own. */
  readonly args?: readonly string[];
  /** docker's way: replaces Entrypoint; `args` then follow it. */
  readonly entrypoint?: string;
  readonly rm?: boolean;
  readonly tty?: boolean;
  /** `KEY=value` sets, `KEY` alone removes. */
  readonly env?: readonly string[];
  readonly envFiles?: readonly string[];
  readonly cwd?: string;
  readonly user?: string;
  /** A relative source of a bind mount is one in the current directory of this process. */
  readonly mounts?: readonly MountSpec[];
  readonly netHost?: boolean;
  readonly readOnly?: boolean;
  readonly privileged?: boolean;
  readonly capAdd?: readonly string[];
  readonly capDrop?: readonly string[];
  readonly hostname?: string;
  readonly labels?: Labels;
  readonly annotations?: Labels;
  /** Bytes. */
  readonly memoryLimit?: number;
  readonly cpus?: number;
  readonly pidFile?: string;
  readonly platform?: string;
  readonly snapshotter?: string;
  /** Standard streams of the container; the caller's own by default. */
  readonly stdio?: 'inherit' | readonly [stdin: number | 'ignore', stdout: number | 'ignore', stderr: number | 'ignore'];
  readonly signal?: AbortSignal;
}

export interface RunResult {
  readonly id: string;
  /** The container's own; 128+n when it was ended by signal n. */
  readonly exitStatus: number;
}

export interface DoctorCheck {
  readonly name: string;
  readonly status: 'ok' | 'warning' | 'error';
  readonly detail: string;
  /** What to do about it. */
  readonly hint?: string;
}

/** What `check` found wrong with one thing. */
export interface Finding {
  /**
   * `damage`: something that is counted on is missing or wrong. `suspect`: it may be, and whoever needs it next makes it
   * anew. `garbage`: nobody needs it.
   */
  readonly severity: 'damage' | 'suspect' | 'garbage';
  /** Such as `content sha256:…`. */
  readonly object: string;
  /** Whose it is; absent where namespaces share it. */
  readonly namespace?: string;
  /** What is wrong with it, in a few words. */
  readonly problem: string;
  /** Where it is seen, absolute. */
  readonly path: string;
  /** What was done about it, or why nothing could be; absent without `repair`. */
  readonly action?: string;
  /** It is in order now. */
  readonly repaired: boolean;
}

export interface CheckOptions extends RegistryOptions {
  /** Reads every byte as well: blobs are hashed, layers compared with what they were unpacked from. */
  readonly deep?: boolean;
  /** Fetches, rebuilds or takes away what is found wrong, and nothing else. */
  readonly repair?: boolean;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

export interface CheckResult {
  /** The worst first. */
  readonly findings: readonly Finding[];
  /** How much there was to look at; with `deep` also how many bytes were read, and how many layers nothing here could be compared with: their image is gone. */
  readonly checked: {
    readonly namespaces: number;
    readonly records: number;
    readonly blobs: number;
    readonly layers: number;
    readonly bytes: number;
    readonly uncompared: number;
  };
  /** Findings of damage that remain. */
  readonly damage: number;
}

export interface SpaceUsed {
  /** Objects; of records and leftovers, inodes. */
  readonly count: number;
  /** Bytes in files, as long as they are. */
  readonly size: number;
  /** Bytes on disk, by blocks, with directories. */
  readonly disk: number;
}

export interface ShareOfDisk extends SpaceUsed {
  /** Bytes on disk of what no other namespace names; they are given back when this one goes. */
  readonly unique: number;
  /** The other bytes on disk. */
  readonly shared: number;
}

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

export type PruneKind = 'images' | 'snapshots' | 'content' | 'ingests' | 'leases';

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

export interface Pruned {
  readonly namespace: string;
  readonly kind: 'image' | 'snapshot' | 'content' | 'ingest' | 'lease';
  /** Of a snapshot, `<snapshotter>/<key>`. */
  readonly key: string;
}

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

export interface Client {
  readonly root: string;
  readonly state: string;
  readonly namespaces: {
    create(name: string, labels?: Labels): Promise<NamespaceRecord>;
    list(options?: ListOptions): Promise<readonly NamespaceRecord[]>;
    get(name: string): Promise<NamespaceRecord>;
    /** An empty value removes its label. */
    label(name: string, labels: Labels): Promise<NamespaceRecord>;
    delete(name: string, options?: {readonly recursive?: boolean}): Promise<void>;
  };
  namespace(name: string): NamespaceClient;
  doctor(): Promise<readonly DoctorCheck[]>;
  /** Looks at everything of all namespaces. @throws failed_precondition | data_loss the state directory as a whole cannot be read */
  check(options?: CheckOptions): Promise<CheckResult>;
  /** @throws data_loss a record cannot be read */
  df(): Promise<DiskUsage>;
  /** Removes images that no container uses, ingests and leases that nobody works with, and what nothing keeps then. */
  prune(options?: PruneOptions): Promise<PruneResult>;
  /** Collects what nothing keeps, in all namespaces. */
  gc(): Promise<GcResult>;
  /** Ends background work (worker threads, connections). The client is not used after it. */
  close(): Promise<void>;
}

export interface NamespaceClient {
  readonly name: string;
  pull(ref: string, options?: PullOptions): Promise<PullResult>;
  /** Runs a container in the foreground until it ends. */
  run(ref: string, id: string, options?: RunOptions): Promise<RunResult>;
  readonly images: {
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
  };
  readonly content: {
    list(options?: ListOptions): Promise<readonly ContentRecord[]>;
    get(digest: string): Promise<ContentRecord>;
    /** Its bytes, hashed as they go. @throws data_loss after the last of them: they are not what the digest says */
    open(digest: string): Promise<AsyncIterable<Uint8Array>>;
    ingest(
      key: string,
      source: AsyncIterable<Uint8Array>,
      options?: {readonly expectedSize?: number; readonly expectedDigest?: string; readonly labels?: Labels},
    ): Promise<ContentRecord>;
    /** Filters see the field `ref`. */
    active(options?: ListOptions): Promise<readonly IngestStatus[]>;
    delete(digest: string): Promise<void>;
    label(digest: string, labels: Labels): Promise<ContentRecord>;
  };
  snapshots(snapshotter?: string): {
    readonly snapshotter: string;
    list(options?: ListOptions): Promise<readonly SnapshotRecord[]>;
    get(key: string): Promise<SnapshotRecord>;
    usage(key: string): Promise<SnapshotUsage>;
    prepare(key: string, parent?: string, options?: {readonly labels?: Labels}): Promise<readonly Mount[]>;
    view(key: string, parent?: string, options?: {readonly labels?: Labels}): Promise<readonly Mount[]>;
    commit(name: string, key: string, options?: {readonly labels?: Labels}): Promise<SnapshotRecord>;
    delete(key: string): Promise<void>;
    mounts(key: string): Promise<readonly Mount[]>;
    /**
     * Lines of a script for a POSIX shell that mounts the snapshot at a directory; what it leaves is that one mount.
     *
     * @param target may be called anything; a relative path is taken from the working directory of this process
     */
    mountScript(key: string, target: string): Promise<readonly string[]>;
    /** Mounts an active snapshot or a view on this machine; `images.unmount` unmounts it. */
    mount(key: string, target: string): Promise<HostMount>;
    label(key: string, labels: Labels): Promise<SnapshotRecord>;
  };
  readonly leases: {
    /** @param options.expiresMs lifetime in milliseconds; 0 is for ever; default 24 hours */
    create(options?: {readonly id?: string; readonly expiresMs?: number; readonly labels?: Labels}): Promise<LeaseRecord>;
    list(options?: ListOptions): Promise<readonly LeaseRecord[]>;
    delete(id: string): Promise<void>;
  };
  readonly containers: {
    list(options?: ListOptions): Promise<readonly ContainerRecord[]>;
    get(id: string): Promise<ContainerRecord>;
    delete(id: string, options?: {readonly keepSnapshot?: boolean}): Promise<void>;
  };
}
