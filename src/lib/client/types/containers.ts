/** Containers, and options for running one. */
import type {ContainerRecord, ImageRecord, Labels} from '../../store/records.ts';
import type {LayerCompression} from './build.ts';
import type {CallOptions, ContainerChange, ListOptions, ProgressEvent, RegistryOptions} from './common.ts';
import type {ContainerLimits, ContainerSettings} from './container-settings.ts';
import type {NetworkOptions} from './networks.ts';
import type {RunResult, TaskStartOptions} from './tasks.ts';

/** When `run` pulls its image first. */
export type PullPolicy = 'always' | 'missing' | 'never' | 'newer';

/** Options of `run`; they override the image's config. */
export interface RunOptions extends ContainerSettings, NetworkOptions, TaskStartOptions {
  readonly rm?: boolean;
  readonly platform?: string;
  readonly snapshotter?: string;
  /**
   * When to pull the image first: `missing` where the namespace lacks it, `newer` where the registry has another one under its name (else,
   * or where the registry cannot be reached, the local one is used, with a warning), `always`. Default `never`.
   */
  readonly pull?: PullPolicy;
  /** Access to the registry for `pull`. */
  readonly registry?: RegistryOptions;
  /** Progress of the pull. */
  readonly onEvent?: (event: ProgressEvent) => void;
}

/** What a container is, without how it is started. */
export type CreateOptions = Omit<RunOptions, Exclude<keyof TaskStartOptions, 'signal'> | 'rm'>;

/** Options of `containers.commit`. */
export interface CommitOptions extends LayerCompression {
  readonly author?: string;
  /** Comment in the history. */
  readonly message?: string;
  /** Instructions of a Dockerfile: CMD, ENTRYPOINT, ENV, LABEL, EXPOSE, USER, WORKDIR. */
  readonly changes?: readonly string[];
  /** RFC 3339, for config and history; later mtimes in the layer become this. Default: now, and the mtimes as they are. */
  readonly created?: string;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** A file or directory, in a container or on this machine. */
export interface CopyPlace {
  /** ID; absent for this machine. */
  readonly container?: string;
  /**
   * In a container relative to its root, on this machine to the working directory of this process. A directory with `/.` at its end stands
   * for what is in it.
   */
  readonly path: string;
}

/** Options of `containers.copyFiles`. */
export interface CopyFilesOptions {
  /**
   * Keeps owners, set-ID bits and device nodes. Default: files in a container belong to root, those on this machine to the caller, and
   * nothing is set-ID.
   */
  readonly archive?: boolean;
  /** Copies what a symbolic link at the end of the source leads to. */
  readonly followLink?: boolean;
  readonly signal?: AbortSignal;
}

/** Options of `containers.readFiles`. */
export type ReadFilesOptions = Omit<CopyFilesOptions, 'archive'>;

/** Result of `containers.copyFiles`. */
export interface CopiedFiles {
  /** Other than directories. */
  readonly files: number;
  /** Of their contents. */
  readonly bytes: number;
}

/** Options of `containers.checkpoint`. */
export interface CheckpointOptions {
  /** Lets the container go on. */
  readonly leaveRunning?: boolean;
  /** Keeps TCP connections. Without it, a container that has some is refused. */
  readonly tcpEstablished?: boolean;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** Result of `containers.checkpoint`. */
export interface CheckpointResult {
  /** Of the container. */
  readonly id: string;
  /** RFC 3339, UTC. */
  readonly createdAt: string;
  /** Bytes on disk. */
  readonly size: number;
  readonly leftRunning: boolean;
}

/** Options of `containers.restore`. */
export interface RestoreOptions {
  /** Keeps the checkpoint. Default: it is removed once the container runs. */
  readonly keep?: boolean;
  /** `waiting` for conmon of the task before, `reading` while criu restores, `done` when it runs. */
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** Options of `containers.systemdUnit`. */
export interface SystemdUnitOptions {
  /** Default: `on-failure`. */
  readonly restart?: 'no' | 'on-failure' | 'always';
}

/** A unit of systemd. */
export interface SystemdUnit {
  /** A name for its file. */
  readonly name: string;
  readonly text: string;
}

/** Containers of one namespace. */
export interface ContainersClient {
  list(options?: ListOptions): Promise<readonly ContainerRecord[]>;
  get(id: string): Promise<ContainerRecord>;
  /**
   * Makes a container without starting it: `tasks.start` does that.
   *
   * @throws already_exists there is a container of this ID
   */
  create(ref: string, id: string, options?: CreateOptions): Promise<ContainerRecord>;
  /** Sets labels; an empty value removes one. */
  label(id: string, labels: Labels, options?: CallOptions): Promise<ContainerRecord>;
  /**
   * Changes limits: those of its task at once, and those that its next one starts with. What is not given stays.
   *
   * @throws invalid_argument limits that contradict one another, or none
   */
  update(id: string, limits: ContainerLimits, options?: CallOptions): Promise<ContainerRecord>;
  /**
   * Removes it, with the snapshot that it wrote to.
   *
   * @param options.force ends its task first
   * @throws failed_precondition it runs
   */
  delete(id: string, options?: CallOptions & {readonly keepSnapshot?: boolean; readonly force?: boolean}): Promise<void>;
  /**
   * Copies files into a container, out of it, or between two, running or not, by docker's rules for `docker cp`. A running container is
   * seen as its first process sees it, volumes included. Nothing outside of its root is read or written, whatever it does meanwhile.
   * Extended attributes are left out. Each file appears whole; after a failure some may be there.
   *
   * @param source a place, or a tar that is extracted into the target, a directory
   * @throws not_found @throws failed_precondition a directory would replace another file, or another file a directory
   * @throws aborted the container was started or removed meanwhile
   */
  copyFiles(source: CopyPlace | AsyncIterable<Uint8Array>, target: CopyPlace, options?: CopyFilesOptions): Promise<CopiedFiles>;
  /** A file or directory of a container as a tar, with its owners. Otherwise as `copyFiles`. */
  readFiles(id: string, path: string, options?: ReadFilesOptions): Promise<AsyncIterable<Uint8Array>>;
  /** A unit that runs the container: restarts it, starts it at boot, and keeps its output. Nothing is installed. */
  systemdUnit(id: string, options?: SystemdUnitOptions): Promise<SystemdUnit>;
  /** What a container changed in its filesystem, by name; what is in mounts is left out, and what a start makes to mount on. A running container is paused meanwhile. */
  changes(id: string, options?: {readonly signal?: AbortSignal}): Promise<readonly ContainerChange[]>;
  /**
   * Makes an image of what a container changed, on top of the image that it was made from. A running container is paused meanwhile.
   *
   * @throws failed_precondition the image's name has been given to another one, or the container was made from none
   */
  commit(id: string, ref: string, options?: CommitOptions): Promise<ImageRecord>;
  /**
   * Writes the processes of a detached container to disk by criu, and ends them. The checkpoint stays with the container until it is
   * restored, replaced or removed, or the container is. Its files are not part of it: they stay in its snapshot.
   *
   * @throws failed_precondition criu is missing, or cannot dump it, in its own words; it goes on then
   * @throws resource_exhausted the disk is full; it goes on then
   */
  checkpoint(id: string, options?: CheckpointOptions): Promise<CheckpointResult>;
  /**
   * Lets a container go on from its checkpoint, detached, with the streams and the log that it had. A failure leaves the task that has ended
   * as it was: its exit status, its times and its log.
   *
   * @throws not_found it has no checkpoint
   * @throws failed_precondition it runs, or criu cannot restore it; the checkpoint stays
   */
  restore(id: string, options?: RestoreOptions): Promise<RunResult>;
  /** @throws not_found the container has no checkpoint */
  removeCheckpoint(id: string, options?: CallOptions): Promise<void>;
}
