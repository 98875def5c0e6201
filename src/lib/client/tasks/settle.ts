/** Finishes what the end of a detached task leaves to be done. Done twice, or by two at once, it is done once. */
import {isErrdefs} from '../../errdefs.ts';
import {disconnect, removeEndedTask} from '../../runtime/bundle.ts';
import type {Context} from '../context.ts';
import {deleteContainer} from '../delete-container.ts';
import {runDirectory} from '../running.ts';
import {findTask} from './find-task.ts';
import {tellExit} from './tell.ts';

export async function settleTask(context: Context, namespace: string, id: string): Promise<void> {
  const found = await findTask(context, namespace, id).catch((err: unknown) => {
    if (isErrdefs(err) && err.code === 'not_found') return undefined;
    throw err;
  });
  if (found === undefined || found.task.status !== 'stopped') return;
  tellExit(context, namespace, found);
  await disconnect(found.directory);
  if (found.record?.removeOnExit !== true) return;
  const layer = context.store.view((tx) => {
    const ns = tx.namespace(namespace);
    const record = ns.containers.find(id);
    return record === undefined ? undefined : ns.snapshots(record.snapshotter).find(record.snapshotKey)?.layer;
  });
  await deleteContainer(context, namespace, id, {keepSnapshot: false, only: (_, snapshot) => snapshot?.layer === layer});
  await removeEndedTask(runDirectory(context, namespace), id, found.runtime);
}
