/** Finishes what the end of a detached task leaves to be done. Done twice, or by two at once, it is done once. */
import {disconnect, ownerOf, removeEndedTask} from '../../runtime/run-directory.ts';
import type {Context} from '../context.ts';
import {deleteContainer} from '../delete-container.ts';
import {runDirectory, TRANSIENT} from '../running-containers.ts';
import {tell, tellExit} from './emit-task-event.ts';
import {findTaskIfAny} from './find-task.ts';

export async function settleTask(context: Context, namespace: string, id: string): Promise<void> {
  const found = await findTaskIfAny(context, namespace, id);
  if (found === undefined || found.task.status !== 'stopped') return;
  tellExit(context, namespace, found);
  await disconnect(found.directory);
  if (found.record?.removeOnExit !== true) return;
  // Another container may have the ID by now.
  const owner = ownerOf(found.directory);
  await deleteContainer(context, namespace, id, {keepSnapshot: false, only: ({labels}) => labels[TRANSIENT] === owner});
  await removeEndedTask(runDirectory(context, namespace), id, found.runtime);
  tell(context, namespace, id, 'delete', {exit_status: found.task.exitStatus ?? 255});
}
