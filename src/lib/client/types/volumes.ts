/** Volumes. */
import type {Labels} from '../../store/records.ts';
import type {CallOptions, ListOptions} from './common.ts';

/** A named volume of a namespace. */
export interface VolumeInfo {
  readonly name: string;
  readonly labels: Labels;
  /** The directory. */
  readonly path: string;
  /** Identifiers of the containers that have it, running or not; sorted. */
  readonly usedBy: readonly string[];
  /** RFC 3339, UTC. */
  readonly createdAt: string;
}

/** Named volumes of one namespace. They stay until they are removed by name, by `prune`, or with the namespace. */
export interface VolumesClient {
  list(options?: ListOptions): Promise<readonly VolumeInfo[]>;
  get(name: string): Promise<VolumeInfo>;
  /** Makes an empty one. The first container that mounts it fills it with what its image has at that path. @throws already_exists */
  create(name: string, options?: CallOptions & {readonly labels?: Labels}): Promise<VolumeInfo>;
  /** @throws failed_precondition a container has it */
  delete(name: string, options?: CallOptions): Promise<void>;
  /** Removes the volumes that no container has. @returns their names */
  prune(options?: CallOptions & {readonly dryRun?: boolean}): Promise<readonly string[]>;
}
