/** What a container is told besides its command: limits, namespaces, security, volumes. */
import type {Namespace, Rlimit, Volume} from '../../runtime/spec.ts';
import type {Labels} from '../../store/records.ts';

export type {Namespace, Rlimit, Volume};

/** Settings of a container that `run` and `containers create` have in common with `ctr` and `docker`; see their flags of the same names. */
export interface ContainerSettings {
  /** Lets programs gain privileges, as sudo does. */
  readonly allowNewPrivileges?: boolean;
  /** Name of an AppArmor profile that the kernel has loaded. */
  readonly apparmorProfile?: string;
  /** Path of the control group; empty lets the runtime choose. */
  readonly cgroup?: string;
  /** Microseconds of each `cpuPeriod`; -1 is no limit. */
  readonly cpuQuota?: number;
  /** Microseconds. */
  readonly cpuPeriod?: number;
  readonly cpuShares?: number;
  /** Such as `0-2,7`. */
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  /** Paths of devices of the host, or of directories with devices. */
  readonly devices?: readonly string[];
  /** Further groups of the user, by name or number. */
  readonly groupAdd?: readonly string[];
  /** Runs tini as the container's first process. */
  readonly init?: boolean;
  /** Existing namespaces to join, each by the path of its file. */
  readonly joinNamespaces?: readonly Namespace[];
  readonly pidsLimit?: number;
  /** With `privileged`: gives it no devices of the host. */
  readonly privilegedWithoutHostDevices?: boolean;
  readonly rlimits?: readonly Rlimit[];
  /** `private`, `slave`, `shared`, `unbindable`, or the same with a leading `r`. */
  readonly rootfsPropagation?: string;
  /** Program of the runtime, such as `crun`, or its path. */
  readonly runtime?: string;
  /** `unconfined`, or a file with a profile of the runtime specification or of docker. Default: berth's own profile. */
  readonly seccomp?: string;
  /** Bytes of /dev/shm. */
  readonly shmSize?: number;
  readonly snapshotLabels?: Labels;
  /** Signal that asks the container to end; default: the image's, else SIGTERM. */
  readonly stopSignal?: string;
  /** How long `tasks stop` waits before it kills. */
  readonly stopTimeoutMs?: number;
  readonly sysctls?: Labels;
  /** Sources are host paths, relative ones to the working directory of this process. */
  readonly volumes?: readonly Volume[];
}
