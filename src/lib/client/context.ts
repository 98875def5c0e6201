/** The context that all use cases share. */
import type {ErrdefsError} from '../errdefs.ts';
import type {Remote, RemoteOptions} from '../remotes/types.ts';
import type {Backing} from '../store/indexed-layer.ts';
import type {Store} from '../store/store.ts';
import type {RegistryOptions} from './types/index.ts';
import type {WorkerPool} from './workers/pool.ts';

/** Running containers of a namespace. */
export interface Running {
  /** IDs of containers with a living process. */
  readonly ids: readonly string[];
  /** Whether a run has claimed the ID by now, which it does before it writes a record. For use under the store's lock. */
  hasBegun(id: string): boolean;
}

export interface Context {
  readonly store: Store;
  /** Directory of state that ends with the boot, such as bundles. The getter throws permission_denied when it may be another user's. */
  readonly stateDir: string;
  /** Program and first arguments of berth's command, where the caller has named them. */
  readonly program?: readonly string[] | undefined;
  /** Longest wait for a lock, in milliseconds. */
  readonly lockTimeoutMs: number;
  readonly workers: WorkerPool;
  /** Tells the caller of something that does not change the result. */
  warn(warning: ErrdefsError): void;
  /** What a remote is opened with. @throws invalid_argument there is no such directory of hosts */
  remoteOptions(options: RegistryOptions): Promise<RemoteOptions>;
  openRemote(options: RegistryOptions & {readonly signal?: AbortSignal}): Promise<Remote>;
  running(namespace: string): Promise<Running>;
  /** The snapshotter to use: the caller's, else the namespace's label, else the machine's default. */
  snapshotterName(namespace: string, asked: string | undefined): string;
  /** What the kernel reads newly indexed layers from: files or loop devices. */
  erofsBacking(): Backing;
}
