/** A container that writes 1, 2, 3 and so on: what it has written tells whether it ran, or was lost, in between. */
import assert from 'node:assert/strict';
import type {CreateOptions} from '../../../src/lib/client/types/index.ts';
import {type TaskRig, until} from '../../support/tasks.ts';

export const COUNT = ['sh', '-c', 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done'] as const;

export async function logOf({ns}: TaskRig, id: string): Promise<readonly number[]> {
  const parts: Uint8Array[] = [];
  for await (const {data} of await ns.tasks.logs(id)) parts.push(data);
  return Buffer.concat(parts).toString().trim().split(/\r?\n/).map(Number);
}

export const countedTo = (r: TaskRig, id: string, n: number): Promise<void> =>
  until(`${id} has counted to ${n}`, async () => (await logOf(r, id)).includes(n));

/** Every number once, in order. */
export function assertCounted(log: readonly number[], when?: string): void {
  assert.deepEqual(
    log,
    log.map((_, i) => i + 1),
    when,
  );
}

export async function counting(r: TaskRig, id: string, options: CreateOptions = {}): Promise<void> {
  await r.ns.run(r.ref, id, {detach: true, args: COUNT, ...options});
  await countedTo(r, id, 5);
}

export const hasCheckpoint = async ({ns}: TaskRig, id: string): Promise<boolean> =>
  (await ns.snapshots('native').list()).some(({key}) => key === `checkpoints/${id}`);
