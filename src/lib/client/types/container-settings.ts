/** What a container is told besides its command. */
import type {
  ContainerLimits,
  ContainerOptions,
  IdMapping,
  MountSpec,
  Namespace,
  Rlimit,
  ShareableNamespace,
  Volume,
} from '../../runtime/spec-option-types.ts';
import type {Labels} from '../../store/records.ts';

export type {ContainerLimits, IdMapping, MountSpec, Namespace, Rlimit, ShareableNamespace, Volume};

/** A volume that the store keeps. */
export interface StoredVolume {
  /** Of the namespace's volumes; it is made if there is none. Absent: the container's own, which ends with it. */
  readonly name?: string;
  /** Absolute path in the container. */
  readonly destination: string;
  /** Such as `ro`. */
  readonly options?: readonly string[];
  /** A new volume stays empty. By default it gets what the image has at its path. */
  readonly noCopy?: boolean;
}

/** Settings of a container that `run` and `containers create` have in common with `ctr` and `docker`; see their flags of the same names. */
export interface ContainerSettings extends ContainerOptions {
  /**
   * The image's name is the path of a directory, which is the container's root as it is: there is no image and no snapshot. What the
   * container changes there stays.
   */
  readonly rootfs?: boolean;
  /**
   * A file with a specification, as ctr's `--config`; the image's name is empty, and no option that would shape a specification may be
   * given. A relative `root.path` counts from the file's directory, as in a bundle.
   */
  readonly config?: string;
  readonly storedVolumes?: readonly StoredVolume[];
  /** Containers whose volumes and mounted paths of the host it gets, except where it has something itself. */
  readonly volumesFrom?: readonly {readonly container: string; readonly readOnly?: boolean}[];
  /** What the image's VOLUMEs become: volumes of the container (the default), file systems in memory, or nothing. */
  readonly imageVolumes?: 'own' | 'tmpfs' | 'ignore';
  /** Program of the runtime, such as `crun`, or its path. */
  readonly runtime?: string;
  readonly snapshotLabels?: Labels;
  /** Signal that asks the container to end; default: the image's, else SIGTERM. */
  readonly stopSignal?: string;
  /** How long `tasks stop` waits before it kills. */
  readonly stopTimeoutMs?: number;
}
