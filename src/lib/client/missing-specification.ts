/** The error about a container without specification: one of `run --rm` keeps none, another one was not made to its end. */
import {ErrdefsError} from '../errdefs.ts';
import {hintToRemove} from '../runtime/next-command.ts';
import type {ContainerRecord} from '../store/records.ts';
import type {Context} from './context.ts';
import {TRANSIENT} from './running-containers.ts';

export async function missingSpecification(context: Context, namespace: string, {id, labels}: ContainerRecord): Promise<ErrdefsError> {
  const isRunning = (await context.running(namespace)).ids.includes(id);
  const hint =
    isRunning && labels[TRANSIENT] !== undefined
      ? 'one of "run --rm" keeps none: run it without --rm'
      : hintToRemove(namespace, [id], isRunning);
  return new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} has no specification`, {hint});
}
