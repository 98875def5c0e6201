/**
 * Wraps every method of the library: it checks the arguments, refuses after `close()`, and turns every failure into an
 * `ErrdefsError`.
 */
import {CLASSES, type Code, codeOf, ErrdefsError, fromErrno, isErrdefs} from '../errdefs.ts';
import {withLockWaitsUntil} from '../fs/lock.ts';
import {type ArgumentKind, abortSignal, isObject, nounFor} from './argument-kinds.ts';
import type {ContentWriter} from './types/index.ts';

/** Argument kinds of a method; of a method that returns an object with methods, or a promise of one; or of the methods of a member. */
export type Guards<T> = {
  readonly [K in keyof T as T[K] extends string | (() => Promise<void>) ? never : K]: T[K] extends (...args: never[]) => infer R
    ? R extends Promise<infer V>
      ? V extends ContentWriter
        ? {readonly takes: readonly ArgumentKind[]; readonly resolves: Guards<V>}
        : readonly ArgumentKind[]
      : {readonly takes: readonly ArgumentKind[]; readonly gives: Guards<R>}
    : Guards<T[K]>;
};

/** @throws invalid_argument naming the method and the argument */
export function checkArguments(method: string, kinds: readonly ArgumentKind[], args: readonly unknown[]): void {
  for (const [i, kind] of kinds.entries()) {
    const value = args[i];
    if (kind.accepts(value)) continue;
    const inner = kind.explain?.(value) ?? ` must be ${kind.wants}, not ${nounFor(value)}`;
    throw new ErrdefsError('invalid_argument', `${method}: argument ${i + 1}${inner}`);
  }
}

/** Whether the client is closed; shared by everything that came from it. */
export interface ClosedState {
  closed: boolean;
}

type Method = (...args: unknown[]) => unknown;

/**
 * The same object with each method of the table wrapped. Other members stay as they are.
 *
 * @param lasting signal of the call that the object comes from: it ends the waits of its methods for locks
 */
export function guard<T extends object>(target: T, guards: Guards<T>, closedState: ClosedState, path = '', lasting?: AbortSignal): T {
  const guarded = {...target} as Record<string, unknown>;
  for (const [name, entry] of Object.entries(guards) as [
    string,
    readonly ArgumentKind[] | {takes?: readonly ArgumentKind[]; gives?: object; resolves?: object},
  ][]) {
    const value = (target as Record<string, unknown>)[name];
    const method = path + name;
    if (Array.isArray(entry)) guarded[name] = guardMethod(value as Method, method, entry, closedState, lasting);
    else if ('resolves' in entry) {
      const open = guardMethod(value as Method, method, entry.takes!, closedState);
      guarded[name] = async (...args: unknown[]) =>
        guard((await open(...args)) as object, entry.resolves as never, closedState, `${method}().`, signalOf(args));
    } else if ('takes' in entry)
      guarded[name] = (...args: unknown[]) => {
        checkArguments(method, entry.takes!, args);
        return guard((value as Method)(...args) as object, entry.gives as never, closedState, path === '' ? '' : `${method}.`);
      };
    else guarded[name] = guard(value as object, entry as never, closedState, `${method}.`);
  }
  return guarded as T;
}

function guardMethod(
  method: Method,
  name: string,
  kinds: readonly ArgumentKind[],
  closedState: ClosedState,
  lasting?: AbortSignal,
): Method {
  return async (...args) => {
    checkArguments(name, kinds, args);
    if (closedState.closed) throw new ErrdefsError('failed_precondition', `${name}: the client is closed`);
    const signal = signalOf(args);
    if (signal?.aborted) throw abortError(signal.reason, name);
    const failure = (err: unknown): ErrdefsError => (signal?.aborted ? abortError(signal.reason, name, err) : classified(err, name));
    try {
      const call = () => method(...(signal === undefined ? args : args.map((arg, i) => interruptible(arg, kinds[i], signal))));
      const untilWhen = signal ?? lasting;
      const result = await (untilWhen === undefined ? call() : withLockWaitsUntil(untilWhen, call));
      return isBytes(result)
        ? guardBytes(result, failure)
        : isLasting(result)
          ? {...result, ended: guardEnd(result.ended, failure)}
          : result;
    } catch (err) {
      throw failure(err);
    }
  };
}

function signalOf(args: readonly unknown[]): AbortSignal | undefined {
  // Labels may have such a key, and `tasks.kill` has an option of this name.
  const found = args.find((arg): arg is {signal: AbortSignal} => isObject(arg) && abortSignal.accepts(arg.signal));
  return found?.signal;
}

const isBytes = (value: unknown): value is AsyncIterable<unknown> => isObject(value) && Symbol.asyncIterator in value;

/** Whether a result, such as a process with streams, lasts longer than its call. */
const isLasting = (value: unknown): value is {readonly ended: Promise<unknown>} => isObject(value) && value.ended instanceof Promise;

function guardEnd(ended: Promise<unknown>, failure: (err: unknown) => ErrdefsError): Promise<unknown> {
  const guarded = ended.catch((err: unknown) => {
    throw failure(err);
  });
  guarded.catch(() => undefined); // one that nobody waits for does not end the program
  return guarded;
}

async function* guardBytes(source: AsyncIterable<unknown>, failure: (err: unknown) => ErrdefsError): AsyncGenerator<unknown> {
  try {
    yield* source;
  } catch (err) {
    throw failure(err);
  }
}

/** An argument whose streams end with the signal: one that brings nothing more would hold up the call. */
function interruptible(arg: unknown, kind: ArgumentKind | undefined, signal: AbortSignal): unknown {
  if (Array.isArray(arg)) return arg.map((inner) => (isBytes(inner) ? untilAborted(inner, signal) : inner));
  // A stream that a method writes to may be readable, too.
  return isBytes(arg) && kind?.accepts(NOTHING) ? untilAborted(arg, signal) : arg;
}

const NOTHING: AsyncIterable<unknown> = {[Symbol.asyncIterator]: () => ({next: async () => ({done: true, value: undefined})})};

async function* untilAborted(source: AsyncIterable<unknown>, signal: AbortSignal): AsyncGenerator<unknown> {
  signal.throwIfAborted();
  const iterator = source[Symbol.asyncIterator]();
  let stop: (reason: unknown) => void = () => undefined;
  const onAbort = (): void => stop(signal.reason);
  signal.addEventListener('abort', onAbort, {once: true});
  try {
    for (;;) {
      const {done, value} = await new Promise<IteratorResult<unknown>>((resolve, reject) => {
        stop = reject;
        iterator.next().then(resolve, reject);
      });
      if (done) return;
      yield value;
      signal.throwIfAborted();
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    const returning = iterator.return?.();
    // What brings nothing does not answer this either.
    if (signal.aborted) returning?.catch(() => undefined);
    else await returning;
  }
}

/**
 * The error of an aborted call, in the class of the signal's reason: `deadline_exceeded` for a timeout, the reason's own class where
 * it has one, else `canceled`.
 *
 * @param err the call's own failure; returned unchanged when it is of that class already
 */
function abortError(reason: unknown, name: string, err?: unknown): ErrdefsError {
  const found = codeOf(reason);
  const code: Code = found === 'unknown' ? 'canceled' : found;
  if (isErrdefs(err) && err.code === code) return err;
  return new ErrdefsError(code, isErrdefs(reason) ? reason.message : `${name}: ${CLASSES[code].text}`, {
    cause: err ?? reason,
    ...(isErrdefs(err) && err.details !== undefined ? {details: err.details} : {}),
  });
}

/** An error without a class gets that of its errno, else `unknown`, which is a bug; the cause keeps its stack. */
function classified(err: unknown, name: string): ErrdefsError {
  const known = fromErrno(err, name);
  if (isErrdefs(known)) return known;
  return new ErrdefsError(codeOf(err), err instanceof Error ? err.message : String(err), {cause: err});
}
