/** Errors as messages between threads. */
import {codeOf, type ErrorJSON, fromJSON, isErrdefs, toJSON} from '../../errdefs.ts';

/** An error with a class, or a bug with its original stack. */
export type ThreadError =
  | {readonly json: ErrorJSON; readonly bug?: undefined}
  | {readonly json?: undefined; readonly bug: {readonly message: string; readonly stack: string}};

export function toThreadError(err: unknown): ThreadError {
  if (isErrdefs(err) || codeOf(err) !== 'unknown') return {json: toJSON(err)};
  const {message = String(err), stack = ''} = err as Partial<Error>;
  return {bug: {message, stack}};
}

export function fromThreadError({json, bug}: ThreadError): Error {
  return json === undefined ? Object.assign(new Error(bug.message), {stack: bug.stack}) : fromJSON(json);
}
