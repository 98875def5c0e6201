/** Leases. */
import type {Labels, LeaseRecord} from '../../store/records.ts';
import type {ListOptions} from './common.ts';

/** Leases of one namespace. */
export interface LeasesClient {
  /** @param options.expiresMs lifetime in milliseconds; 0 means no end; default 24 hours */
  create(options?: {readonly id?: string; readonly expiresMs?: number; readonly labels?: Labels}): Promise<LeaseRecord>;
  list(options?: ListOptions): Promise<readonly LeaseRecord[]>;
  delete(id: string): Promise<void>;
}
