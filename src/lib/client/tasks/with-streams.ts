/** Calls that last as long as a process, for callers that read and write its streams meanwhile. */
import {ErrdefsError} from '../../errdefs.ts';
import type {PipedStreams} from '../../fs/spawn-with-channel.ts';
import type {PipedProcess, StandardStreams} from '../types/index.ts';

/** Options of a call that gives the streams of its process, or waits for its end. */
export type MaybePiped<T> = Omit<T, 'stdio'> & {readonly stdio?: StandardStreams | 'pipe'};

/**
 * Resolves once the process is about to run; `ended` is what the call gives.
 *
 * @throws what the call throws before
 */
export function withStreams<R>(call: (onStreams: (streams: PipedStreams) => void) => Promise<R>): Promise<PipedProcess<R>> {
  return new Promise((done, fail) => {
    const ended = call(({stdin, stdout, stderr}) => done({stdin, stdout, stderr, ended}));
    // Also keeps a failure that nobody waits for from ending the program.
    ended.catch(fail);
  });
}

/** @throws invalid_argument the process could not have streams of the caller */
export function refuseWithStreams(options: {readonly detach: boolean; readonly tty: boolean}, hint: string): void {
  const [wrong] = Object.entries(options).find(([, given]) => given) ?? [];
  if (wrong !== undefined) throw new ErrdefsError('invalid_argument', `stdio "pipe" together with ${wrong}`, {hint});
}
