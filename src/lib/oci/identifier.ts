/** Rules for the names that users give to their own things: namespaces, containers, execs, and labels. */
import {Buffer} from 'node:buffer';
import {ErrdefsError} from '../errdefs.ts';

const MAX_IDENTIFIER = 76;
const MAX_LABEL_BYTES = 4096;
const SHOWN_KEY = 64;
const IDENTIFIER = /^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$/;
const RESERVED_PREFIXES = ['containerd.io/', 'io.cri-containerd'] as const;

/**
 * Checks a name of a namespace, container or exec: 1 to 76 ASCII letters and digits, in groups joined by one `.`, `_` or
 * `-`. Such a name is a safe path component.
 *
 * @throws invalid_argument
 *
 * Rule and messages after containerd, pkg/identifiers/validate.go.
 */
export function validateIdentifier(text: string): void {
  if (text === '') throw new ErrdefsError('invalid_argument', 'identifier must not be empty');
  const what = `identifier ${JSON.stringify(text)}`;
  if (Buffer.byteLength(text) > MAX_IDENTIFIER)
    throw new ErrdefsError('invalid_argument', `${what} greater than maximum length (${MAX_IDENTIFIER} characters)`);
  if (!IDENTIFIER.test(text)) throw new ErrdefsError('invalid_argument', `${what} must match ${IDENTIFIER.source}`);
}

/**
 * Checks that each label's value is a string, and that it and the key together are at most 4096 bytes in UTF-8. Any character is
 * allowed.
 *
 * @throws invalid_argument naming the key, shortened to 64 characters
 *
 * Rule and message after containerd, pkg/labels/validate.go.
 */
export function validateLabels(labels: Readonly<Record<string, string>>): void {
  for (const [key, value] of Object.entries(labels)) {
    if (typeof value !== 'string')
      throw new ErrdefsError('invalid_argument', `label ${JSON.stringify(key.slice(0, SHOWN_KEY))} is not a string`);
    const bytes = Buffer.byteLength(key) + Buffer.byteLength(value);
    if (bytes > MAX_LABEL_BYTES)
      throw new ErrdefsError(
        'invalid_argument',
        `label key and value length (${bytes} bytes) greater than maximum size (${MAX_LABEL_BYTES} bytes), key: ${key.slice(0, SHOWN_KEY)}`,
      );
  }
}

/**
 * True for keys that containerd gives a meaning to; an image's own labels must not bring them along.
 *
 * After containerd, pkg/labels/validate.go (IsReserved).
 */
export const isReservedLabel = (key: string): boolean => RESERVED_PREFIXES.some((prefix) => key.startsWith(prefix));

/**
 * Reads `key=value` words of a command line. The value is what follows the first `=`; of equal keys the last wins.
 *
 * @param options.empty value of a word without `=`: `true` as ctr's `namespaces label` has it, or the empty string as its `leases create`
 * @throws invalid_argument a word without a key, or a label over the limit of `validateLabels`
 *
 * After containerd, cmd/ctr/commands/commands.go (LabelArgs).
 */
export function parseLabelArgs(words: readonly string[], {empty}: {readonly empty: 'true' | ''}): Readonly<Record<string, string>> {
  const labels = Object.fromEntries(
    words.map((word) => {
      const [, key = word, value = empty] = /^([^=]*)=(.*)$/s.exec(word) ?? [];
      if (key === '') throw new ErrdefsError('invalid_argument', `label ${JSON.stringify(word)}: the key must not be empty`);
      return [key, value] as const;
    }),
  );
  validateLabels(labels);
  return labels;
}
