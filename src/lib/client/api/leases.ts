/** Leases of one namespace: they protect resources from collection for a time. */
import {ErrdefsError} from '../../errdefs.ts';
import {randomHex} from '../../oci/hash.ts';
import {validateLabels} from '../../oci/identifier.ts';
import {collect, isMountLease} from '../../store/gc.ts';
import type {LeaseRecord} from '../../store/records.ts';
import {withBallast} from '../../store/with-ballast.ts';
import type {Context} from '../context.ts';
import type {LeasesClient} from '../types/index.ts';
import {filtered} from './filter.ts';
import {notFoundIn} from './not-found.ts';

const DEFAULT_LIFETIME_MS = 24 * 3600_000;

export function leasesClient({store}: Context, namespace: string): LeasesClient {
  return {
    create: async ({id = randomHex(8), expiresMs = DEFAULT_LIFETIME_MS, labels = {}} = {}) => {
      if (id === '') throw new ErrdefsError('invalid_argument', 'lease id must not be empty');
      validateLabels(labels);
      return store.update(`creation of lease ${id}`, (tx) => {
        const {leases} = tx.namespace(namespace);
        if (leases.find(id) !== undefined) throw new ErrdefsError('already_exists', `lease ${JSON.stringify(id)}`);
        const now = Date.now();
        const lease: LeaseRecord = {
          id,
          labels,
          ...(expiresMs === 0 ? {} : {expiresAt: new Date(now + expiresMs).toISOString()}),
          content: [],
          layers: [],
          snapshots: [],
          createdAt: new Date(now).toISOString(),
          updatedAt: new Date(now).toISOString(),
        };
        return leases.put(lease);
      });
    },

    list: async ({filters = []} = {}) =>
      filtered(
        store.view((tx) => tx.namespace(namespace).leases.list()),
        filters,
        ({id, labels}) => ({id, labels}),
      ),

    delete: async (id) => {
      await withBallast(store, async () => {
        await store.update(`removal of lease ${id}`, (tx) => {
          const {leases} = tx.namespace(namespace);
          const lease = leases.find(id);
          if (lease !== undefined && isMountLease(lease))
            throw new ErrdefsError('failed_precondition', `lease ${JSON.stringify(id)} keeps what is mounted there`, {
              hint: 'unmount it first: ctr images unmount',
            });
          if (!leases.delete(id)) throw notFoundIn(store, namespace, 'lease', id, (ns) => ns.leases.find(id) !== undefined);
          collect(store, tx);
        });
        store.layers.emptyTrash();
      });
    },
  };
}
