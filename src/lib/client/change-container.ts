/** Changes the record of a container that exists. */
import type {ErrdefsError} from '../errdefs.ts';
import type {ContainerRecord} from '../store/records.ts';
import type {Context} from './context.ts';

/**
 * @param what names the change in the journal
 * @param missing makes the error for a container that is gone; by default that of the store
 */
export const changeContainer = (
  {store}: Context,
  namespace: string,
  id: string,
  what: string,
  change: (record: ContainerRecord) => Partial<Pick<ContainerRecord, 'labels' | 'spec'>>,
  missing?: (id: string) => ErrdefsError,
): Promise<ContainerRecord> =>
  store.update(`${what} of container ${id}`, (tx) => {
    const {containers} = tx.namespace(namespace);
    if (missing !== undefined && containers.find(id) === undefined) throw missing(id);
    const record = containers.get(id);
    const changed = {...record, ...change(record), updatedAt: new Date().toISOString()};
    containers.put(changed);
    return changed;
  });
