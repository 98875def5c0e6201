/** Containers, and how one is run. */
import type {ContainerRecord, Labels} from '../../store/records.ts';
import type {ListOptions} from './common.ts';

/** A mount of a container, as the OCI runtime specification has it. */
export interface MountSpec {
  readonly type: string;
  readonly source: string;
  readonly destination: string;
  readonly options: readonly string[];
}

/** What `run` changes of what the image asks for, and how the container is started. */
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

/** How a container ended. */
export interface RunResult {
  readonly id: string;
  /** The container's own; 128+n when it was ended by signal n. */
  readonly exitStatus: number;
}

/** Containers of one namespace. */
export interface ContainersClient {
  list(options?: ListOptions): Promise<readonly ContainerRecord[]>;
  get(id: string): Promise<ContainerRecord>;
  delete(id: string, options?: {readonly keepSnapshot?: boolean}): Promise<void>;
}
