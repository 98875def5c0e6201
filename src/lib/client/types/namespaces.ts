/** Namespaces. */
import type {Labels, NamespaceRecord} from '../../store/records.ts';
import type {ListOptions} from './common.ts';

/** The namespaces of a store. */
export interface NamespacesClient {
  create(name: string, labels?: Labels): Promise<NamespaceRecord>;
  list(options?: ListOptions): Promise<readonly NamespaceRecord[]>;
  get(name: string): Promise<NamespaceRecord>;
  /** Sets labels; an empty value removes one. */
  label(name: string, labels: Labels): Promise<NamespaceRecord>;
  delete(name: string, options?: {readonly recursive?: boolean}): Promise<void>;
}
