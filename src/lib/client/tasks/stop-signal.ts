/** Labels of a container that say how it wants to be stopped. */
import {constants} from 'node:os';
import {ErrdefsError} from '../../errdefs.ts';

/** The signal; containerd's label for that of the image. */
export const STOP_SIGNAL = 'io.containerd.image.config.stop-signal';
/** Milliseconds until it is killed. */
export const STOP_TIMEOUT = 'berth/stop-timeout';

const STOP_TIMEOUT_MS = 10_000;

/** Milliseconds that a container with these labels has to end. */
export function stopTimeoutOf({[STOP_TIMEOUT]: text = ''}: Readonly<Record<string, string>>): number {
  return /^\d+$/.test(text) ? Number(text) : STOP_TIMEOUT_MS;
}

/**
 * A signal by name, with or without SIG, or by number.
 *
 * @throws invalid_argument there is no such signal
 */
export function parseSignal(text: string): number {
  const name = text.toUpperCase();
  const {signals} = constants;
  const found = (signals as Readonly<Record<string, number>>)[name.startsWith('SIG') ? name : `SIG${name}`];
  if (found !== undefined) return found;
  const realTime = /^(?:SIG)?RTMIN(?:\+(\d+))?$/.exec(name);
  const number = realTime === null ? (/^\d+$/.test(text) ? Number(text) : 0) : 34 + Number(realTime[1] ?? 0);
  if (number >= 1 && number <= 64) return number;
  throw new ErrdefsError('invalid_argument', `signal ${JSON.stringify(text)} is not known`, {
    hint: 'name one, such as SIGTERM or KILL, or its number',
  });
}
