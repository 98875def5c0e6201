/** What every use case works with. */
import type {Remote} from '../remotes/types.ts';
import type {Backing} from '../store/erofs.ts';
import type {Store} from '../store/store.ts';
import type {RegistryOptions} from './types/index.ts';
import type {WorkerPool} from './workers/pool.ts';

/** What runs of a namespace. */
export interface Running {
  /** Ids of containers that have a living process. */
  readonly ids: readonly string[];
  /** Whether one has begun to run by now: it has its ID before it has a record. For use under the store's lock. */
  hasBegun(id: string): boolean;
}

export interface Context {
  readonly store: Store;
  /** State that ends with the boot: bundles, the runtime's own. Asking throws permission_denied where it may be another user's. */
  readonly stateDir: string;
  /** How long to wait for a lock, in milliseconds. */
  readonly lockTimeoutMs: number;
  readonly workers: WorkerPool;
  openRemote(options: RegistryOptions & {readonly signal?: AbortSignal}): Promise<Remote>;
  running(namespace: string): Promise<Running>;
  /** The snapshotter to use: the caller's, else the namespace's label, else the machine's default. */
  snapshotterName(namespace: string, asked: string | undefined): string;
  /** What the kernel is to read layers from that are indexed now. */
  erofsBacking(): Backing;
}
