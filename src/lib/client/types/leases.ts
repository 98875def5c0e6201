/** Leases. */
import type {Labels, LeaseRecord} from '../../store/records.ts';
import type {CallOptions, ListOptions} from './common.ts';

/** Something that a lease keeps from being collected. */
export interface LeaseResource {
  /** A digest, or the key of a snapshot. */
  readonly id: string;
  /** `content`, or `snapshots/` and the name of a snapshotter. */
  readonly type: string;
}

/** Leases of one namespace. */
export interface LeasesClient {
  /** @param options.expiresMs lifetime in milliseconds; 0 means no end; default 24 hours */
  create(options?: CallOptions & {readonly id?: string; readonly expiresMs?: number; readonly labels?: Labels}): Promise<LeaseRecord>;
  list(options?: ListOptions): Promise<readonly LeaseRecord[]>;
  delete(id: string, options?: CallOptions): Promise<void>;
  /**
   * Has a lease keep a resource, which need not be there yet: lease it first, then look for it.
   *
   * @throws not_found no such lease
   * @throws not_implemented a lease keeps no resources of this type
   */
  addResource(id: string, resource: LeaseResource, options?: CallOptions): Promise<void>;
  /** Resources of a lease, sorted by type and ID. */
  resources(id: string): Promise<readonly LeaseResource[]>;
  /** Ends that, and collects what nothing else keeps. Success, too, where the lease did not have it. */
  deleteResource(id: string, resource: LeaseResource, options?: CallOptions): Promise<void>;
}
