/** Arguments and results of the library; `--json` prints the same shapes. */
import type {CallOptions, ProgramCall} from './common.ts';
import type {ContainersClient, RunOptions} from './containers.ts';
import type {ContentClient} from './content.ts';
import type {BerthEvent, EventsOptions} from './events.ts';
import type {CheckOptions, CheckResult, DoctorCheck} from './fsck.ts';
import type {ImagesClient, PullOptions, PullOutcome, PullResult} from './images.ts';
import type {Info} from './info.ts';
import type {LeasesClient} from './leases.ts';
import type {NamespacesClient} from './namespaces.ts';
import type {PushOptions, PushResult} from './push.ts';
import type {RegistryClient} from './registry.ts';
import type {SnapshotsClient} from './snapshots.ts';
import type {DiskUsage, GcResult, PruneOptions, PruneResult} from './space.ts';
import type {Piped, PipedTask, RunResult, TasksClient} from './tasks.ts';
import type {VolumesClient} from './volumes.ts';

export type {Descriptor, Digest, Platform} from '../../oci/descriptor.ts';
export type {
  ContainerRecord,
  ContentRecord,
  ImageRecord,
  Labels,
  LeaseRecord,
  NamespaceRecord,
  SnapshotKind,
  SnapshotRecord,
} from '../../store/records.ts';
export type * from './build.ts';
export type * from './common.ts';
export type * from './container-settings.ts';
export type * from './containers.ts';
export type * from './content.ts';
export type * from './events.ts';
export type * from './fsck.ts';
export type * from './host-mounts.ts';
export type * from './images.ts';
export type * from './info.ts';
export type * from './leases.ts';
export type * from './namespaces.ts';
export type * from './networks.ts';
export type * from './push.ts';
export type * from './registry.ts';
export type * from './snapshots.ts';
export type * from './space.ts';
export type * from './tasks.ts';
export type * from './volumes.ts';

/** Options of `openClient`. */
export interface OpenOptions {
  /** Persistent state. Default: `BERTH_ROOT`, else `/var/lib/berth`, else for other users `$XDG_DATA_HOME/berth`. */
  readonly root?: string;
  /**
   * State that ends with the boot. Default: `BERTH_STATE`, else `/run/berth`, else for other users `$XDG_RUNTIME_DIR/berth`, else
   * `/tmp/berth-UID/berth`. A directory of another user, or one that others may write to, is refused when it is needed.
   */
  readonly state?: string;
  /** Longest wait for a lock, in milliseconds. Default 10 000. */
  readonly lockTimeoutMs?: number;
  /**
   * Program and first arguments of berth's command, which detached containers call when they end. Default: the package's own, where it is
   * beside the library; without one, the next call that looks does what is left to do.
   */
  readonly program?: readonly string[];
  /**
   * Called with an `ErrdefsError` for each problem that does not change the result of a call: an entry of the trash that cannot be
   * deleted (`details` has the path), or attributes that a layer could not be given when `run` unpacked it. `pull` has the latter in
   * its result.
   */
  readonly onWarning?: (warning: Error) => void;
}

/** An open state directory. Namespaces hold the rest: `client.namespace(name)`. */
export interface Client {
  readonly root: string;
  readonly state: string;
  readonly namespaces: NamespacesClient;
  namespace(name: string): NamespaceClient;
  readonly registry: RegistryClient;
  doctor(): Promise<readonly DoctorCheck[]>;
  /** Checks the store, with all namespaces. @throws failed_precondition | data_loss the state directory as a whole cannot be read */
  check(options?: CheckOptions): Promise<CheckResult>;
  /** @throws data_loss a record cannot be read */
  df(): Promise<DiskUsage>;
  /** @throws data_loss a record cannot be read */
  info(): Promise<Info>;
  /**
   * How to start a program as root of this user's user namespace, for execve(2) or spawn. It has mounts of its own. A Node program that
   * is not root unpacks and runs images if it is itself started so.
   *
   * @param args the program, of PATH or as a path, and its arguments
   * @throws not_found there is no such program
   * @throws failed_precondition this is root of the machine; or a setting of the machine, which the hint names, forbids it
   * @throws unavailable a program that makes user namespaces is not installed
   */
  unshare(args: readonly string[]): Promise<ProgramCall>;
  /** The specification of the OCI runtime that a container has without an image and without options. */
  defaultSpec(options?: {readonly platform?: string}): Promise<Readonly<Record<string, unknown>>>;
  /** Removes unused images, idle ingests, leases of dead processes, and everything that becomes unreferenced. */
  prune(options?: PruneOptions): Promise<PruneResult>;
  /** What commands have changed since the boot, as far as the log of events reaches back: all namespaces, in order. */
  events(options?: EventsOptions): Promise<AsyncIterable<BerthEvent>>;
  /** Removes unreferenced data in all namespaces. */
  gc(options?: CallOptions): Promise<GcResult>;
  /** Ends background work (worker threads, connections). All other methods fail afterwards. */
  close(): Promise<void>;
}

/** Access to one namespace; others are neither seen nor changed. */
export interface NamespaceClient {
  readonly name: string;
  pull(ref: string, options?: PullOptions): Promise<PullResult>;
  /**
   * Pulls several images over one pool of connections and threads. One that fails does not stop the others.
   *
   * @returns an outcome for each reference, in their order
   * @throws invalid_argument a malformed reference, or credentials for several registries; nothing is pulled then
   */
  pullAll(refs: readonly string[], options?: PullOptions): Promise<readonly PullOutcome[]>;
  /**
   * Pushes an image: blobs first, manifests after what they refer to, the tag last. Nothing is sent when a part is neither here nor at the
   * registry.
   *
   * @throws not_found no such image
   * @throws failed_precondition parts are missing; `details.missing` has their descriptors
   * @throws data_loss a blob is damaged here; the registry does not get it
   */
  push(ref: string, options?: PushOptions): Promise<PushResult>;
  /** Runs a container until it ends, or with `detach` leaves it running. */
  run(ref: string, id: string, options: Piped<RunOptions>): Promise<PipedTask>;
  run(ref: string, id: string, options?: RunOptions): Promise<RunResult>;
  readonly images: ImagesClient;
  readonly content: ContentClient;
  snapshots(snapshotter?: string): SnapshotsClient;
  readonly leases: LeasesClient;
  readonly volumes: VolumesClient;
  readonly containers: ContainersClient;
  readonly tasks: TasksClient;
}
