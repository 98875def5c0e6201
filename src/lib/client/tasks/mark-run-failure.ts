/** Marks failures of a container that did not run: commands give them an exit status of their own. */
import {ErrdefsError, isErrdefs} from '../../errdefs.ts';
import {RUN_FAILED} from '../../runtime/check-executable.ts';

export async function asRunFailure<T>(start: () => Promise<T>): Promise<T> {
  try {
    return await start();
  } catch (err) {
    if (!isErrdefs(err) || err.details?.runExit !== undefined) throw err;
    throw new ErrdefsError(err.code, err.message, {
      cause: err,
      ...(err.hint === undefined ? {} : {hint: err.hint}),
      details: {...err.details, runExit: RUN_FAILED},
    });
  }
}
