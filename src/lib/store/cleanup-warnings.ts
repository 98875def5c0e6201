/**
 * Work after a command's own: emptying the trash, removing leftovers of killed processes. A failure never changes the command's result; it
 * becomes a warning, and a later collection tries again.
 */
import {type ErrdefsError, fromErrno, isErrdefs, wrap} from '../errdefs.ts';

export type OnWarning = (warning: ErrdefsError) => void;

const WHAT = 'cleanup is incomplete; the next "gc" continues it';

export class Housekeeping {
  readonly #onWarning: OnWarning;

  /** @param onWarning called at once for each failure */
  constructor(onWarning: OnWarning = () => {}) {
    this.#onWarning = onWarning;
  }

  /**
   * Runs one step. A system error, or an error with a class, becomes a warning; a bug is thrown.
   *
   * @param what the object of the step
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

  /** Reports a failed step as a warning. @throws err it is a bug */
  warn(what: string, err: unknown): void {
    const failure = fromErrno(err, what);
    if (!isErrdefs(failure)) throw err;
    this.#onWarning(wrap(WHAT, failure));
  }
}
