/** Containers of one namespace: their records, and the snapshots they write to. */

import {berth} from '../../berth-command.ts';
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import {validateLabels} from '../../oci/identifier.ts';
import {hintToStop} from '../../runtime/next-command.ts';
import {mergeLabels} from '../../store/snapshots.ts';
import {changeContainer} from '../change-container.ts';
import type {Context} from '../context.ts';
import {deleteContainer} from '../delete-container.ts';
import {notFoundIn} from '../not-found.ts';
import type {ContainersClient} from '../types/index.ts';
import {filtered} from './filter.ts';

export function containersClient(
  context: Context,
  namespace: string,
): Omit<
  ContainersClient,
  'changes' | 'checkpoint' | 'commit' | 'copyFiles' | 'create' | 'readFiles' | 'removeCheckpoint' | 'restore' | 'systemdUnit'
> {
  const {store} = context;
  const missing = (id: string): ErrdefsError => notFoundIn(store, namespace, 'container', id, (ns) => ns.containers.find(id) !== undefined);

  /** @returns false if there was none */
  const endTask = async (id: string): Promise<boolean> => {
    const {tasksClient} = await import('../tasks/tasks.ts');
    try {
      await tasksClient(context, namespace).delete(id, {force: true});
      return true;
    } catch (err) {
      if (hasCode(err, 'not_found')) return false;
      throw err;
    }
  };

  return {
    list: async ({filters = []} = {}) =>
      filtered(
        store.view((tx) => tx.namespace(namespace).containers.list()),
        filters,
        ({id, image, labels, runtime}) => ({id, image, labels, runtime: {name: runtime.name}}),
      ),

    label: async (id, labels) => {
      validateLabels(labels);
      return changeContainer(context, namespace, id, 'labels', (record) => ({labels: mergeLabels(record.labels, labels)}), missing);
    },

    get: async (id) => {
      const record = store.view((tx) => tx.namespace(namespace).containers.find(id));
      if (record === undefined) throw missing(id);
      return record;
    },

    update: async (id, limits) => {
      const {updateLimits} = await import('../tasks/update-limits.ts');
      return updateLimits(context, namespace, id, limits);
    },

    delete: async (id, {keepSnapshot = false, force = false} = {}) => {
      const hasEnded = force && (await endTask(id));
      const {forgetStoppedTask} = await import('../tasks/find-task.ts');
      await forgetStoppedTask(context, namespace, id);
      const {ids, hasBegun} = await context.running(namespace);
      const {cgroupOf, hasRun} = await import('../running-containers.ts');
      const {holderOfCgroup, isCgroupOf, removeCgroups, removeEmptyCgroup} = await import('../../runtime/cgroup-removal.ts');
      const record = store.view((tx) => tx.namespace(namespace).containers.find(id));
      const cgroup = record === undefined || hasRun(context, namespace, id) ? undefined : cgroupOf(namespace, record);
      const refuse = (): never => {
        throw new ErrdefsError('failed_precondition', `cannot delete a non stopped container: ${id} is running`, {
          hint:
            cgroup === undefined
              ? hintToStop(namespace, id)
              : isCgroupOf(id, cgroup)
                ? `its state directory was removed, but its processes are in cgroup ${cgroup}, and can be ended with it: ${berth`-n ${namespace} containers rm --force ${id}`}`
                : `its state directory was removed: end its processes, which are in cgroup ${cgroup}`,
        });
      };
      // No runtime knows of it any more.
      const endsHere = force && ids.includes(id) && cgroup !== undefined && isCgroupOf(id, cgroup);
      if (endsHere) {
        const {untilEnded} = await import('../../runtime/run-directory.ts');
        await removeCgroups(cgroup);
        await untilEnded([holderOfCgroup(cgroup)]);
      } else if (ids.includes(id)) refuse();
      const only = (): boolean => !hasBegun(id) || refuse();
      // One that is removed when it ends may be gone by now.
      await deleteContainer(context, namespace, id, {keepSnapshot, only, ...(hasEnded ? {} : {ifMissing: missing})});
      // Nobody else knows of it any more.
      if (cgroup?.startsWith(`/${namespace}/${id}~`)) store.housekeeping.attempt(`cgroup ${cgroup}`, () => removeEmptyCgroup(cgroup));
    },
  };
}
