/** Leases that keep content and layers while a command needs them, and die with its process. */
import {ErrdefsError} from '../../errdefs.ts';
import {formatIdentity, ownIdentity} from '../../fs/process.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {randomHex} from '../../oci/hash.ts';
import {collect, isLeaseOwnerAlive, LEASE_OWNER} from '../../store/gc.ts';
import type {LeaseRecord} from '../../store/records.ts';
import type {Snapshotter} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {NamespaceTransaction} from '../../store/transaction-types.ts';
import {layerCandidates} from './layer-lookup.ts';
import {imagesOf, type Plan} from './plan.ts';

/** Lifetime of a pull's lease, in milliseconds, as containerd's: so long an attempt after a kill finds what was downloaded. */
const LEASE_MS = 24 * 3600_000;

/** Label of a lease; its value is the name of the image. */
const LEASE_IMAGE = 'berth/image';

/**
 * Leases everything in a plan, present or not, before anything is looked up: from here on no collection removes it.
 *
 * @param image the image's name
 * @returns the lease's id, for `endLease`
 */
export async function leasePlan(
  store: Store,
  namespace: string,
  image: string,
  plan: Plan,
  snapshotter: Snapshotter | undefined,
): Promise<string> {
  const layers =
    snapshotter === undefined ? [] : imagesOf(plan).flatMap((i) => i.layers.flatMap((layer) => layerCandidates(snapshotter, layer)));
  return leaseContent(store, namespace, image, [...plan.documents.keys(), ...plan.blobs.map(({digest}) => digest)], layers);
}

/** Leases content, present or not, and layers, for as long as this process lives. @param image what they are needed for @returns the lease's id */
export async function leaseContent(
  store: Store,
  namespace: string,
  image: string,
  content: readonly Digest[],
  layers: readonly string[] = [],
): Promise<string> {
  const id = `pull-${randomHex(8)}`;
  const now = Date.now();
  await store.update(`lease for ${image}`, (tx) =>
    tx.namespace(namespace).leases.put({
      id,
      labels: {[LEASE_OWNER]: formatIdentity(ownIdentity()), [LEASE_IMAGE]: image},
      expiresAt: new Date(now + LEASE_MS).toISOString(),
      content,
      layers,
      snapshots: [],
      createdAt: new Date(now).toISOString(),
      updatedAt: new Date(now).toISOString(),
    }),
  );
  return id;
}

/**
 * Removes a pull's lease, and those of killed attempts at the same image, in the transaction that makes the result visible.
 *
 * @param id from `leasePlan`; `undefined` when no lease was needed
 * @throws aborted the lease was removed meanwhile, and what it protected may be gone
 */
export function endLease(ns: NamespaceTransaction, image: string, id: string | undefined): void {
  if (id !== undefined && !ns.leases.delete(id))
    throw new ErrdefsError('aborted', `namespace ${JSON.stringify(ns.name)} was emptied meanwhile`, {hint: 'run it again'});
  deleteDeadLeases(ns, image);
}

/** Leases of this process that it could not remove. */
const unreleased = new Set<string>();

/** Removes leases that attempts at the same have left, killed ones and those that could not remove theirs. @returns whether there were any */
function deleteDeadLeases(ns: NamespaceTransaction, image: string): boolean {
  const isDead = (lease: LeaseRecord): boolean => unreleased.has(lease.id) || isLeaseOwnerAlive(lease) === false;
  const dead = ns.leases.list().filter((lease) => lease.labels[LEASE_IMAGE] === image && isDead(lease));
  for (const {id} of dead) ns.leases.delete(id);
  return dead.length > 0;
}

/**
 * Removes leases, and those of killed attempts at the same, and collects what only they kept. If that fails, the next attempt at the same
 * does it, or they expire.
 *
 * @param purpose as for `leaseContent`
 */
export async function releaseLeases(store: Store, namespace: string, purpose: string, ids: readonly string[]): Promise<void> {
  await store
    .update(`end of ${purpose}`, (tx) => {
      const ns = tx.namespace(namespace);
      const released = ids.map((id) => ns.leases.delete(id));
      if ([...released, deleteDeadLeases(ns, purpose)].includes(true)) collect(store, tx);
    })
    .then(() => store.layers.emptyTrash())
    .catch(() => {
      for (const id of ids) unreleased.add(id);
    });
}
