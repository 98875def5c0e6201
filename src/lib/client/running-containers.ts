/** The running containers of a namespace, and the leftovers of dead runs. */
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {hasCode, isErrdefs} from '../errdefs.ts';
import {listIfPresent, removeIfEmpty} from '../fs/durable.ts';
import {liveness, parseIdentity} from '../fs/process.ts';
import {cgroupPath, isCgroupOf, isPopulated, populatedCgroups, removeNotedCgroups} from '../runtime/cgroup-removal.ts';
import {findRuntime} from '../runtime/oci-runtime.ts';
import {cleanup, disconnect, isClaimed, listRuns, RUN_DIRECTORIES, type Run, runPath, sweepBundles} from '../runtime/run-directory.ts';
import {runtimeStatePath} from '../store/layout.ts';
import type {ContainerRecord} from '../store/records.ts';
import type {Store} from '../store/store.ts';
import type {Context, Running} from './context.ts';

/** Label of a container that is removed when it ends; its value is the identity of the `run --rm` process. */
export const TRANSIENT = 'berth/rm';

/** Whether the `run --rm` process of a container was killed, so that the container may be removed. */
export function isAbandoned({labels: {[TRANSIENT]: owner}}: ContainerRecord): boolean {
  if (owner === undefined) return false;
  const identity = parseIdentity(owner);
  return identity === undefined || liveness(identity) === 'dead';
}

/** Directory of a namespace's bundles and of the runtime's state. */
export const runDirectory = (context: Context, namespace: string): string => join(runtimeStatePath.runs(context.stateDir), namespace);

/** Whether the state directory has a run of a container; it may have been removed under a living one. */
export const hasRun = (context: Context, namespace: string, id: string): boolean =>
  existsSync(runPath(runDirectory(context, namespace), id));

/** Runs of a namespace, living and dead. */
export async function listNamespaceRuns(context: Context, namespace: string): Promise<readonly Run[]> {
  let runtime: ReturnType<typeof findRuntime>;
  try {
    runtime = findRuntime();
  } catch (err) {
    if (isErrdefs(err) && err.code === 'unavailable') return []; // without a runtime nothing can run
    throw err;
  }
  return listRuns(runDirectory(context, namespace), runtime);
}

/** A container's cgroup according to its record; `undefined` when it has not run. */
export function cgroupOf(namespace: string, {id, labels, spec}: ContainerRecord): string | undefined {
  const owner = parseIdentity(labels[TRANSIENT] ?? '');
  if (owner !== undefined) return cgroupPath(namespace, id, owner);
  const path = (spec as {linux?: {cgroupsPath?: unknown}} | null)?.linux?.cgroupsPath;
  return typeof path === 'string' ? path : undefined;
}

/** IDs of containers with a living process. They are found by cgroup, too, because the state directory may have been removed. */
export async function runningContainers(context: Context, namespace: string): Promise<readonly string[]> {
  const runs = await listNamespaceRuns(context, namespace);
  const ids = new Set(runs.filter(({state}) => state === 'running' || state === 'orphaned').map(({id}) => id));
  const living = new Set(populatedCgroups(namespace));
  // A cgroup that a dead runtime left is not a container.
  for (const {cgroup = ''} of runs) living.delete(cgroup);
  const dead = new Set(runs.map(({cgroup = ''}) => cgroup));
  for (const record of readableContainers(context.store, namespace)) {
    const cgroup = cgroupOf(namespace, record) ?? '';
    // One below that of a unit of systemd is not in the namespace's.
    const isElsewhere = isCgroupOf(record.id, cgroup) && !cgroup.startsWith(`/${namespace}/`) && !dead.has(cgroup);
    if (living.has(cgroup) || (isElsewhere && isPopulated(cgroup))) ids.add(record.id);
  }
  return [...ids].sort();
}

/** Containers whose records can be read. Whoever needs another one gets the error from reading that. */
function readableContainers(store: Store, namespace: string): readonly ContainerRecord[] {
  const attempt = <T>(read: () => readonly T[]): readonly T[] => {
    try {
      return read();
    } catch (err) {
      if (!hasCode(err, 'data_loss') && !hasCode(err, 'permission_denied') && !hasCode(err, 'failed_precondition')) throw err;
      return [];
    }
  };
  return store.view((tx) => {
    const {containers} = tx.namespace(namespace);
    return attempt(() => containers.files()).flatMap((file) => attempt(() => [containers.findByFile(file) ?? []].flat()));
  });
}

/**
 * Removes the leftovers of dead runs: bundles, cgroups with remaining processes, and the runtime's state.
 *
 * @param only a namespace that is about to be removed: its empty directories are removed as well; default: all namespaces
 */
export async function sweepRuns(context: Context, only?: string): Promise<void> {
  const {housekeeping} = context.store;
  for (const namespace of only === undefined ? listIfPresent(runtimeStatePath.runs(context.stateDir)) : [only]) {
    const directory = runDirectory(context, namespace);
    for (const {id, state} of await listNamespaceRuns(context, namespace)) {
      // Asked again: it may have been started anew since the list was made.
      if (state === 'stopped' && !isClaimed(directory, id))
        await disconnect(runPath(directory, id)).catch((err: unknown) => housekeeping.warn(`container ${JSON.stringify(id)}`, err));
      if (state !== 'stale' && !(state === 'stopped' && only !== undefined)) continue;
      try {
        await cleanup(directory, id, findRuntime());
      } catch (err) {
        // Another process removed it first, or has taken the ID.
        if (!hasCode(err, 'already_exists') && !hasCode(err, 'failed_precondition'))
          housekeeping.warn(`container ${JSON.stringify(id)}`, err);
      }
    }
    sweepBundles(directory, (err) => housekeeping.warn(`directory ${directory}`, err));
    if (only === undefined) continue;
    housekeeping.attempt(`cgroups of namespace ${namespace}`, () => removeNotedCgroups(directory));
    for (const path of [...RUN_DIRECTORIES.map((name) => join(directory, name)), directory])
      housekeeping.attempt(`directory ${directory}`, () => removeIfEmpty(path));
  }
}

export const running = async (context: Context, namespace: string): Promise<Running> => ({
  ids: await runningContainers(context, namespace),
  hasBegun: (id) => isClaimed(runDirectory(context, namespace), id),
});
