/** Namespaces. */
import type {Labels, NamespaceRecord} from '../../store/records.ts';
import type {CallOptions, ListOptions} from './common.ts';

/** The namespaces of a store. */
export interface NamespacesClient {
  create(name: string, labels?: Labels, options?: CallOptions): Promise<NamespaceRecord>;
  list(options?: ListOptions): Promise<readonly NamespaceRecord[]>;
  get(name: string): Promise<NamespaceRecord>;
  /** Sets labels; an empty value removes one. */
  label(name: string, labels: Labels, options?: CallOptions): Promise<NamespaceRecord>;
  delete(name: string, options?: CallOptions & {readonly recursive?: boolean}): Promise<void>;
}
