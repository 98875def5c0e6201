/** What every use case works with. */
import type {Remote} from '../remotes/contract.ts';
import type {Store} from '../store/store.ts';
import type {RegistryOptions} from './types.ts';
import type {WorkerPool} from './workers.ts';

export interface Context {
  readonly store: Store;
  /** State that ends with the boot: bundles, the runtime's own. */
  readonly stateDir: string;
  /** How long to wait for a lock, in milliseconds. */
  readonly lockTimeoutMs: number;
  readonly workers: WorkerPool;
  openRemote(options: RegistryOptions & {readonly signal?: AbortSignal}): Promise<Remote>;
  /** Ids of a namespace's containers that have a living process. */
  runningContainers(namespace: string): Promise<readonly string[]>;
  /** The snapshotter to use: the caller's, else the namespace's label, else the machine's default. */
  snapshotterName(namespace: string, asked: string | undefined): string;
}
