/** `update`: other limits for a container, and for its task if it has one. */
import {ErrdefsError} from '../../errdefs.ts';
import {containerState, runRuntime, runtimeFailure} from '../../runtime/oci-runtime.ts';
import {assertLimitable} from '../../runtime/rootless-spec.ts';
import {type Limits, limitsOf, type Spec} from '../../runtime/spec.ts';
import type {ContainerLimits} from '../../runtime/spec-option-types.ts';
import type {ContainerRecord} from '../../store/records.ts';
import {isRootless} from '../../user-namespace-identity.ts';
import {changeContainer} from '../change-container.ts';
import type {Context} from '../context.ts';
import {missingSpecification} from '../missing-specification.ts';
import {notFoundIn} from '../not-found.ts';
import {findTaskIfAny} from './find-task.ts';

/** Those that the container has, as options of its creation. */
function asOptions({memory = {}, cpu = {}, pids}: Limits): ContainerLimits {
  const {limit: memoryLimit, reservation: memoryReservation, swap: memorySwap} = memory;
  const {shares: cpuShares, quota: cpuQuota, period: cpuPeriod, cpus: cpusetCpus, mems: cpusetMems} = cpu;
  const options = {memoryLimit, memoryReservation, memorySwap, cpuShares, cpuQuota, cpuPeriod, cpusetCpus, cpusetMems};
  return {...Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)), ...(pids && {pidsLimit: pids.limit})};
}

/** @throws invalid_argument limits that contradict one another, or none */
function changed(before: Limits, changes: ContainerLimits): Limits {
  if (Object.keys(changes).length === 0) throw new ErrdefsError('invalid_argument', 'no limit is given');
  const {cpuQuota, cpuPeriod, ...others} = asOptions(before);
  const kept = changes.cpus === undefined ? {...others, ...(cpuQuota && {cpuQuota}), ...(cpuPeriod && {cpuPeriod})} : others;
  return limitsOf({...kept, ...changes});
}

/**
 * Without root.
 *
 * @param cgroup of a task; empty where it has none. Absent: of one that is started later
 * @throws failed_precondition nothing would limit it
 */
async function assertPermitted(limits: Limits, cgroup: string | undefined): Promise<void> {
  const {expectedGroup, groupAbove} = await import('../../runtime/delegated-cgroup.ts');
  const group = cgroup === undefined ? expectedGroup() : cgroup === '' ? undefined : groupAbove(cgroup);
  assertLimitable(limits, group);
}

export async function updateLimits(context: Context, namespace: string, id: string, changes: ContainerLimits): Promise<ContainerRecord> {
  const {store} = context;
  const missing = (): ErrdefsError => notFoundIn(store, namespace, 'container', id, (ns) => ns.containers.find(id) !== undefined);
  const record = store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (record === undefined) throw missing();
  const withLimits = (spec: Spec): Spec => {
    const {memory: _memory, cpu: _cpu, pids: _pids, ...resources} = spec.linux.resources;
    return {...spec, linux: {...spec.linux, resources: {...resources, ...changed(spec.linux.resources, changes)}}};
  };
  if (record.spec === null) throw await missingSpecification(context, namespace, record);
  const {resources} = withLimits(record.spec as Spec).linux;
  const found = await findTaskIfAny(context, namespace, id);
  const lives = found !== undefined && found.task.status !== 'stopped';
  if (isRootless()) await assertPermitted(resources, lives ? (found.record?.cgroupsPath ?? '') : undefined);
  if (lives) {
    const {memory, cpu, pids} = resources;
    const input = Buffer.from(JSON.stringify({memory, cpu, pids}));
    const words = ['--root', found.runtimeRoot, 'update', '--resources', '-', id];
    const result = await runRuntime(found.runtime, words, {input});
    const state = result.status === 0 ? undefined : await containerState(found.runtime, found.runtimeRoot, id);
    // One that has just ended needs no limits.
    if (state !== undefined && state.status !== 'stopped')
      throw runtimeFailure(found.runtime, `unable to change the limits of task ${JSON.stringify(id)}`, result);
  }
  return changeContainer(context, namespace, id, 'limits', ({spec}) => ({spec: withLimits(spec as Spec)}), missing);
}
