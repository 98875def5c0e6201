/** What a caller asks of a container's specification; see the `run` command's flags of the same names. */

/** A mount of a container, as in the OCI runtime specification. */
export interface MountSpec {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** A host directory or file in the container. */
export interface Volume {
  readonly source: string;
  readonly destination: string;
  /** Such as `ro`, `rslave`. */
  readonly options?: readonly string[];
}

/** An existing namespace; `type` as in the OCI runtime specification. */
export interface Namespace {
  readonly type: string;
  readonly path: string;
}

/** A limit of setrlimit(2). */
export interface Rlimit {
  /** Such as `RLIMIT_NOFILE`. */
  readonly type: string;
  readonly soft: number;
  readonly hard: number;
}

/** Ids of a container that are others on the host; as in the OCI runtime specification. */
export interface IdMapping {
  /** The first. */
  readonly containerID: number;
  /** The first. */
  readonly hostID: number;
  /** How many; at least 1. */
  readonly size: number;
}

/** Kinds of namespaces that a container shares with the host, or not. */
export type ShareableNamespace = 'pid' | 'ipc' | 'uts' | 'cgroup';

/** Limits of what a container may use. */
export interface ContainerLimits {
  /** Bytes; 0 is no limit. */
  readonly memoryLimit?: number;
  /** Bytes that the container keeps when memory is short. */
  readonly memoryReservation?: number;
  /** Bytes of memory and swap together; -1 is no limit. */
  readonly memorySwap?: number;
  /** 0 is no limit. */
  readonly cpus?: number;
  /** Microseconds of each `cpuPeriod`; -1 is no limit. */
  readonly cpuQuota?: number;
  /** Microseconds. */
  readonly cpuPeriod?: number;
  readonly cpuShares?: number;
  /** Such as `0-2,7`. */
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  readonly pidsLimit?: number;
}

/** The one list of what can be said of a specification; all of it overrides the image's config. */
export interface SpecOptions extends ContainerLimits {
  /** Replaces the image's Entrypoint and Cmd, as ctr does; when empty, those of the image are used. */
  readonly args?: readonly string[];
  /** Replaces Entrypoint, as docker does; `args` follow it. Empty: no Entrypoint. */
  readonly entrypoint?: string;
  readonly tty?: boolean;
  /** `KEY=value` sets, `KEY` alone removes. */
  readonly env?: readonly string[];
  readonly cwd?: string;
  /** A relative source of a bind mount is resolved against the working directory of this process. */
  readonly mounts?: readonly MountSpec[];
  /** Sources are host paths, relative ones to the working directory of this process. */
  readonly volumes?: readonly Volume[];
  readonly netHost?: boolean;
  readonly readOnly?: boolean;
  readonly privileged?: boolean;
  /** With `privileged`: gives it no devices of the host. */
  readonly privilegedWithoutHostDevices?: boolean;
  /** `CAP_…`, or `ALL`. */
  readonly capAdd?: readonly string[];
  readonly capDrop?: readonly string[];
  /** Lets programs gain privileges, as sudo does. */
  readonly allowNewPrivileges?: boolean;
  /** Name of an AppArmor profile that the kernel has loaded, or `unconfined`, the default. */
  readonly apparmorProfile?: string;
  /** Name for an AppArmor profile of berth's own, which is loaded by it when the container starts, unless there is one. */
  readonly apparmorDefaultProfile?: string;
  readonly hostname?: string;
  /** Become annotations too, over those of the same name. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  /** How soon the kernel ends its processes when memory is short: -1000 (never) to 1000. */
  readonly oomScoreAdj?: number;
  /** Path of the control group; empty lets the runtime choose. */
  readonly cgroup?: string;
  /** Existing namespaces to join, each by the path of its file. */
  readonly joinNamespaces?: readonly Namespace[];
  /** Whether a namespace is the host's or the container's own. Default: its own; the cgroup namespace is the host's. */
  readonly namespaces?: Readonly<Partial<Record<ShareableNamespace, 'host' | 'private'>>>;
  /**
   * Users of the container, in a user namespace of its own. What the image and volumes have belongs to the same users inside. Default: those
   * of `gidMappings`, or without either the host's users.
   */
  readonly uidMappings?: readonly IdMapping[];
  /** Groups of the container. Default: `uidMappings`. */
  readonly gidMappings?: readonly IdMapping[];
  readonly rlimits?: readonly Rlimit[];
  /** `private`, `slave`, `shared`, `unbindable`, or the same with a leading `r`. */
  readonly rootfsPropagation?: string;
  /** Bytes of /dev/shm. */
  readonly shmSize?: number;
  readonly sysctls?: Readonly<Record<string, string>>;
}

/** What needs this machine, or the image's files, before it is part of a specification. */
export interface ContainerOptions extends SpecOptions {
  /** By name or number. Overrides the image's USER. */
  readonly user?: string;
  /** Further groups of the user, by name or number. */
  readonly groupAdd?: readonly string[];
  /** Host paths; later files override earlier ones, `env` overrides all. */
  readonly envFiles?: readonly string[];
  /** Devices of the host, or directories with devices: `PATH[:PATH IN THE CONTAINER][:rwm]`. */
  readonly devices?: readonly string[];
  /** Runs tini as the container's first process. */
  readonly init?: boolean;
  /** `unconfined`, or a file with a profile of the runtime specification or of docker. Default: berth's own profile. */
  readonly seccomp?: string;
}
