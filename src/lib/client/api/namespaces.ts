/** Namespaces: create, list, label and delete. */

import {berth} from '../../berth-command.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {validateIdentifier, validateLabels} from '../../oci/identifier.ts';
import {hintToStop} from '../../runtime/next-command.ts';
import {collectAll, isMountLease, recountIfInconsistent} from '../../store/gc.ts';
import type {NamespaceRecord} from '../../store/records.ts';
import {mergeLabels} from '../../store/snapshots.ts';
import type {NamespaceTransaction, StoreTransaction} from '../../store/transaction-types.ts';
import {withBallast} from '../../store/with-ballast.ts';
import type {Context, Running} from '../context.ts';
import {validatePolicyLabels} from '../signatures/policy.ts';
import type {NamespacesClient} from '../types/index.ts';
import {filtered} from './filter.ts';

/** Kinds of objects that prevent the deletion of a namespace, named and ordered as in containerd's message. */
function remaining(ns: NamespaceTransaction): readonly string[] {
  return [
    ...(ns.images.isEmpty() ? [] : ['images']),
    ...(ns.content.isEmpty() ? [] : ['blobs']),
    ...(ns.containers.isEmpty() ? [] : ['containers']),
    ...ns.snapshotters().map((name) => `snapshots on ${JSON.stringify(name)} snapshotter`),
  ];
}

function empty(ns: NamespaceTransaction): void {
  for (const {id} of ns.containers.list()) ns.containers.delete(id);
  for (const {name} of ns.images.list()) ns.images.delete(name);
  for (const snapshotter of ns.snapshotters()) for (const {key} of ns.snapshots(snapshotter).list()) ns.snapshots(snapshotter).delete(key);
  for (const {digest} of ns.content.list()) ns.content.delete(digest);
}

const NOTHING_RUNS: Running = {ids: [], hasBegun: () => false};

function refuseRunning(name: string, running: readonly string[]): void {
  if (running.length > 0)
    throw new ErrdefsError('failed_precondition', `namespace ${JSON.stringify(name)} has running containers: ${running.join(', ')}`, {
      hint: hintToStop(name, ...running),
      details: {namespace: name, running},
    });
}

export function namespacesClient(context: Context): NamespacesClient {
  const {store, running} = context;
  /** What runs, once tasks that have ended are out of the way: conmon lives a moment longer than they do. */
  const runningAfterAll = async (name: string): Promise<Running> => {
    const first = await running(name);
    if (first.ids.length === 0) return first;
    const {forgetStoppedTask} = await import('../tasks/find-task.ts');
    for (const id of first.ids) await forgetStoppedTask(context, name, id);
    return running(name);
  };
  return {
    create: async (name, labels = {}) => {
      validateIdentifier(name);
      validateLabels(labels);
      await validatePolicyLabels(labels);
      return store.update(`creation of namespace ${name}`, (tx) => {
        if (tx.namespaces.find(name) !== undefined) throw new ErrdefsError('already_exists', `namespace ${JSON.stringify(name)}`);
        const now = new Date().toISOString();
        const record: NamespaceRecord = {name, labels, createdAt: now, updatedAt: now};
        return tx.namespaces.put(record);
      });
    },

    list: async ({filters = []} = {}) =>
      filtered(
        store.view((tx) => tx.namespaces.list()),
        filters,
        ({name, labels}) => ({name, labels}),
      ),

    get: async (name) => {
      validateIdentifier(name);
      return store.view((tx) => tx.namespaces.get(name));
    },

    label: async (name, labels) => {
      validateIdentifier(name);
      validateLabels(labels);
      await validatePolicyLabels(labels);
      return store.update(`labels of namespace ${name}`, (tx) => {
        const record = tx.namespaces.get(name);
        const changed = {...record, labels: mergeLabels(record.labels, labels), updatedAt: new Date().toISOString()};
        return tx.namespaces.put(changed);
      });
    },

    delete: async (name, {recursive = false} = {}) => {
      validateIdentifier(name);
      const {ids, hasBegun} = recursive ? await runningAfterAll(name) : NOTHING_RUNS;
      refuseRunning(name, ids);
      const remove = (tx: StoreTransaction): void => {
        tx.namespaces.get(name);
        const ns = tx.namespace(name);
        if (recursive) {
          refuseRunning(
            name,
            ns.containers
              .list()
              .map(({id}) => id)
              .filter(hasBegun),
          );
          const mounted = ns.leases.list().filter(isMountLease);
          if (mounted.length > 0)
            throw new ErrdefsError(
              'failed_precondition',
              `namespace ${JSON.stringify(name)} has snapshots mounted at ${mounted.map(({id}) => JSON.stringify(id)).join(', ')}`,
              {hint: `unmount them first: ${berth`-n ${name} images unmount ${mounted[0]!.id}`}`},
            );
          empty(ns);
        }
        // Garbage does not count. Leases do not block; they are deleted with their namespace.
        collectAll(store, tx);
        const kinds = remaining(ns);
        if (kinds.length > 0)
          throw new ErrdefsError(
            'failed_precondition',
            `namespace ${JSON.stringify(name)} must be empty, but it still has ${kinds.join(', ')}`,
            {hint: 'remove them first, or all at once with --recursive', details: {namespace: name, remaining: kinds}},
          );
        for (const {id} of ns.leases.list()) ns.leases.delete(id);
        tx.namespaces.delete(name);
        collectAll(store, tx);
        recountIfInconsistent(tx);
      };
      await withBallast(store, async () => {
        await store.update(`removal of namespace ${name}`, remove);
        if (recursive) await (await import('../running-containers.ts')).sweepRuns(context, name);
        store.layers.emptyTrash();
      });
    },
  };
}
