/**
 * Work that a command does after its own: emptying the trash, removing what killed processes left. A failure there never
 * changes the result of the command; it becomes a warning, and a later collection tries again.
 */
import {type ErrdefsError, fromErrno, isErrdefs, wrap} from '../errdefs.ts';

export type OnWarning = (warning: ErrdefsError) => void;

const WHAT = 'cleanup is incomplete; the next "gc" continues it';

export class Housekeeping {
  readonly #onWarning: OnWarning;

  /** @param onWarning is told of each failure, at once */
  constructor(onWarning: OnWarning = () => {}) {
    this.#onWarning = onWarning;
  }

  /**
   * Runs one step. An error of the system, or one with a class, becomes a warning; a bug is thrown.
   *
   * @param what the object that the step is about
   * @returns whether it succeeded
   */
  attempt(what: string, step: () => void): boolean {
    try {
      step();
      return true;
    } catch (err) {
      this.warn(what, err);
      return false;
    }
  }

  /** Tells of the failure of a step. @throws err it is a bug */
  warn(what: string, err: unknown): void {
    const failure = fromErrno(err, what);
    if (!isErrdefs(failure)) throw err;
    this.#onWarning(wrap(WHAT, failure));
  }
}
