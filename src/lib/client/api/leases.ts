/** Leases of one namespace: they protect resources from collection for a time. */
import {berth} from '../../berth-command.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {parseDigest} from '../../oci/descriptor.ts';
import {randomHex} from '../../oci/hash.ts';
import {validateLabels} from '../../oci/identifier.ts';
import {collect, isMountLease} from '../../store/gc.ts';
import type {LeaseRecord} from '../../store/records.ts';
import {getSnapshotter} from '../../store/snapshotters.ts';
import type {RecordSet} from '../../store/transaction-types.ts';
import {withBallast} from '../../store/with-ballast.ts';
import type {Context} from '../context.ts';
import {notFoundIn} from '../not-found.ts';
import type {LeaseResource, LeasesClient} from '../types/index.ts';
import {filtered} from './filter.ts';

const DEFAULT_LIFETIME_MS = 24 * 3600_000;

const CONTENT = 'content';
const SNAPSHOTS = 'snapshots/';

/** Types after containerd, core/metadata/leases.go (parseLeaseResource). */
function parseResource({id, type}: LeaseResource): {readonly field: 'content' | 'snapshots'; readonly key: string} {
  if (type === CONTENT) return {field: 'content', key: parseDigest(id)};
  if (!type.startsWith(SNAPSHOTS)) throw new ErrdefsError('not_implemented', `resource type ${JSON.stringify(type)}`);
  if (id === '') throw new ErrdefsError('invalid_argument', 'key of a snapshot must not be empty');
  return {field: 'snapshots', key: `${getSnapshotter(type.slice(SNAPSHOTS.length)).name}/${id}`};
}

const keepsMount = (id: string): ErrdefsError =>
  new ErrdefsError('failed_precondition', `lease ${JSON.stringify(id)} keeps what is mounted there`, {
    hint: `unmount it first: ${berth`images unmount ${id}`}`,
  });

export function leasesClient({store}: Context, namespace: string): LeasesClient {
  const missing = (id: string): ErrdefsError => notFoundIn(store, namespace, 'lease', id, (ns) => ns.leases.find(id) !== undefined);
  const get = (leases: RecordSet<LeaseRecord>, id: string): LeaseRecord => {
    const lease = leases.find(id);
    if (lease === undefined) throw missing(id);
    return lease;
  };
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

    addResource: async (id, resource) => {
      const {field, key} = parseResource(resource);
      await store.update(`resource of lease ${id}`, (tx) => {
        const {leases} = tx.namespace(namespace);
        const lease = get(leases, id);
        const kept: readonly string[] = lease[field];
        if (kept.includes(key)) return;
        leases.put({...lease, [field]: [...kept, key].sort(), updatedAt: new Date().toISOString()});
      });
    },

    resources: async (id) =>
      store.view((tx) => {
        const {content, snapshots} = get(tx.namespace(namespace).leases, id);
        return [
          ...[...content].sort().map((digest) => ({id: digest as string, type: CONTENT})),
          ...[...snapshots].sort().map((key) => {
            const slash = key.indexOf('/');
            return {id: key.slice(slash + 1), type: SNAPSHOTS + key.slice(0, slash)};
          }),
        ];
      }),

    deleteResource: async (id, resource) => {
      const {field, key} = parseResource(resource);
      await withBallast(store, async () => {
        await store.update(`resource of lease ${id}`, (tx) => {
          const {leases} = tx.namespace(namespace);
          const lease = get(leases, id);
          if (isMountLease(lease)) throw keepsMount(id);
          leases.put({...lease, [field]: lease[field].filter((other) => other !== key), updatedAt: new Date().toISOString()});
          collect(store, tx);
        });
        store.layers.emptyTrash();
      });
    },

    delete: async (id) => {
      await withBallast(store, async () => {
        await store.update(`removal of lease ${id}`, (tx) => {
          const {leases} = tx.namespace(namespace);
          const lease = leases.find(id);
          if (lease !== undefined && isMountLease(lease)) throw keepsMount(id);
          if (!leases.delete(id)) throw missing(id);
          collect(store, tx);
        });
        store.layers.emptyTrash();
      });
    },
  };
}
