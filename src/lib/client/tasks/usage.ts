/** `tasks metrics` and `tasks stats`: what containers use. */

import {totalmem} from 'node:os';
import {setTimeout as delay} from 'node:timers/promises';
import {berth} from '../../berth-command.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {readMetrics, usageOf} from '../../runtime/metrics.ts';
import {hintToRun} from '../../runtime/next-command.ts';
import type {TaskMetrics, TaskStats} from '../types/index.ts';
import {cgroupOf, type FoundTask, hasOwnCgroup} from './find-task.ts';

/** Time between the two readings that a share of the processor is told from. */
const SAMPLE_MS = 500;

/** @throws failed_precondition nothing is counted: without root a container may have no control group */
function assertCounted(found: FoundTask): void {
  const {id} = found.task;
  if (!hasOwnCgroup(found))
    throw new ErrdefsError(
      'failed_precondition',
      `nothing is counted for task ${JSON.stringify(id)}: it has no control group without root`,
      {
        hint: `its processes: ${berth`tasks ps ${id}`}`,
      },
    );
}

const metricsOf = (found: FoundTask) => readMetrics((controller) => cgroupOf(found, controller) ?? '/none');

export function taskMetrics(found: FoundTask): TaskMetrics {
  const {task} = found;
  if (task.status === 'stopped')
    throw new ErrdefsError('failed_precondition', `task ${JSON.stringify(task.id)} is stopped, not running`, {
      hint: hintToRun(undefined, task.id),
    });
  assertCounted(found);
  const {version, metrics} = metricsOf(found);
  return {id: found.task.id, timestamp: new Date().toISOString(), cgroupVersion: version, metrics};
}

/** @param tasks those that have ended are left out */
export async function taskStats(tasks: readonly FoundTask[], signal?: AbortSignal): Promise<readonly TaskStats[]> {
  const living = tasks.filter(({task}) => task.status !== 'stopped');
  living.forEach(assertCounted);
  const look = () => living.map((found) => ({at: process.hrtime.bigint(), ...usageOf(metricsOf(found), totalmem())}));
  const before = look();
  await delay(SAMPLE_MS, undefined, signal === undefined ? {} : {signal}).catch(() => {
    throw new ErrdefsError('canceled', 'stats', {cause: signal?.reason});
  });
  return look().map(({at, cpuNs, ...now}, n) => {
    const {at: then, cpuNs: used} = before[n]!;
    return {id: living[n]!.task.id, cpu: Math.max(0, cpuNs - used) / Number(at - then), ...now};
  });
}
