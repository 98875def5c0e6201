/**
 * Go's regular expressions (RE2): matching takes time linear in the text, whatever the pattern. The JavaScript engine's have another syntax
 * and can take exponential time.
 *
 * Import this file only when there is a pattern: re2js takes 4 ms to load.
 */
import {RE2JS, RE2JSException} from 're2js';
import {ErrdefsError} from '../errdefs.ts';

/** Limit in characters; it bounds the time of compiling. Patterns in real filters have at most about a hundred. */
const MAX_PATTERN = 16 * 1024;

/**
 * Returns a function that tests whether the expression matches anywhere in a text.
 *
 * @throws invalid_argument the pattern is not valid RE2, with Go's message, or too long
 */
export function compile(pattern: string): (text: string) => boolean {
  if (pattern.length > MAX_PATTERN) throw new ErrdefsError('invalid_argument', 'error parsing regexp: expression too large');
  try {
    const compiled = RE2JS.compile(pattern);
    return (text) => compiled.test(text);
  } catch (err) {
    throw err instanceof RE2JSException ? new ErrdefsError('invalid_argument', err.message) : err;
  }
}
