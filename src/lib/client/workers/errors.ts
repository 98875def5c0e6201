/** Errors that cross from one thread to another. */
import {codeOf, type ErrorJSON, fromJSON, isErrdefs, toJSON} from '../../errdefs.ts';

/** An error of ours, or a bug with the stack that it had where it happened. */
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
