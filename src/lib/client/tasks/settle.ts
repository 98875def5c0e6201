/** Finishes what the end of a detached task leaves to be done. Done twice, or by two at once, it is done once. */
import {validateIdentifier} from '../../oci/identifier.ts';
import {disconnect, holderOf, removeEndedTask, runPath, untilGiven} from '../../runtime/run-directory.ts';
import type {Context} from '../context.ts';
import {deleteContainer} from '../delete-container.ts';
import {runDirectory, TRANSIENT} from '../running-containers.ts';
import {tell, tellExit} from './emit-task-event.ts';
import {findTaskIfAny} from './find-task.ts';

export async function settleTask(context: Context, namespace: string, id: string): Promise<void> {
  validateIdentifier(id);
  if (!(await untilGiven(runPath(runDirectory(context, namespace), id)))) return;
  const found = await findTaskIfAny(context, namespace, id);
  if (found === undefined || found.task.status !== 'stopped') return;
  tellExit(context, namespace, found);
  await disconnect(found.directory);
  if (found.record?.removeOnExit !== true) return;
  // Another container may have the ID by now. The run may still be in the name of a command that was killed.
  const holder = holderOf(found.directory);
  await deleteContainer(context, namespace, id, {keepSnapshot: false, only: ({labels}) => labels[TRANSIENT] === holder});
  await removeEndedTask(runDirectory(context, namespace), id, found.runtime);
  tell(context, namespace, id, 'delete', {exit_status: found.task.exitStatus ?? 255});
}
