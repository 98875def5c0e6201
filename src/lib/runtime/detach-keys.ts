/** The keys that end an attach and leave the container running, and where they are in what is typed. */
import {Buffer} from 'node:buffer';
import {ErrdefsError} from '../errdefs.ts';

/** As docker's. */
export const DETACH_KEYS = 'ctrl-p,ctrl-q';

/**
 * Bytes of a list of keys such as `ctrl-p,ctrl-q`: each a character, or `ctrl-` with a letter or one of `@[\]^_`.
 *
 * @returns none for an empty list: nothing detaches
 * @throws invalid_argument
 */
export function parseDetachKeys(text: string): Uint8Array {
  if (text === '') return new Uint8Array();
  return Uint8Array.from(text.split(','), (key) => {
    const control = /^ctrl-([a-zA-Z@[\\\]^_])$/.exec(key)?.[1];
    if (control !== undefined) return control.toUpperCase().charCodeAt(0) & 0x1f;
    if (/^[\x20-\x7e]$/.test(key)) return key.charCodeAt(0);
    throw new ErrdefsError('invalid_argument', `detach key ${JSON.stringify(key)} is neither a character nor ctrl-KEY`, {
      hint: `keys are separated by commas, such as ${DETACH_KEYS}; an empty list turns them off`,
    });
  });
}

/** Finds a sequence of keys in typed bytes, however they are cut. What could be its beginning is held back until the next byte decides. */
export class DetachKeys {
  readonly #keys: Uint8Array;
  /** For n keys that match: how many at their end are a beginning again (Knuth, Morris, Pratt). */
  readonly #again: readonly number[];
  #matched = 0;

  constructor(keys: Uint8Array) {
    this.#keys = keys;
    const again = [0, 0];
    for (let n = 1, matched = 0; n < keys.length; n += 1) {
      while (matched > 0 && keys[n] !== keys[matched]) matched = again[matched]!;
      if (keys[n] === keys[matched]) matched += 1;
      again.push(matched);
    }
    this.#again = again;
  }

  /** @returns the bytes to pass on, and whether the sequence followed them; what comes after it is dropped */
  feed(typed: Uint8Array): {readonly pass: Buffer; readonly detach: boolean} {
    const keys = this.#keys;
    if (keys.length === 0) return {pass: Buffer.from(typed), detach: false};
    const pass: number[] = [];
    for (const byte of typed) {
      while (this.#matched > 0 && keys[this.#matched] !== byte) {
        const held = this.#again[this.#matched]!;
        pass.push(...keys.subarray(0, this.#matched - held));
        this.#matched = held;
      }
      if (keys[this.#matched] === byte) this.#matched += 1;
      else pass.push(byte);
      if (this.#matched === keys.length) return {pass: Buffer.from(pass), detach: true};
    }
    return {pass: Buffer.from(pass), detach: false};
  }
}
