/**
 * Makes all text that is printed. Names, labels, documents and messages come from users, images and registries; characters
 * that a terminal would obey or hide are escaped.
 */

declare const PRINTABLE: unique symbol;

/** Text without control characters other than berth's own line ends, without bidirectional marks and invisible characters. */
export type Printable = string & {readonly [PRINTABLE]: true};

const NOT_ASCII = /[^\x20-\x7e]/;

/**
 * Control and format characters, line separators, lone surrogates and invisible code points: Unicode's Cc, Cf, Zl, Zp, Cs
 * and Default_Ignorable_Code_Point. Written out, because `\p{…}` makes the engine load its Unicode tables.
 */
const UNSAFE_RANGES = [
  String.raw`\0-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f`,
  String.raw`\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb`,
  String.raw`\u{110bd}\u{110cd}\u{13430}-\u{1343f}\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}`,
];
const UNSAFE = new RegExp(`[${UNSAFE_RANGES.join('')}]`, 'gu');

function escapeText(character: string): string {
  const code = character.codePointAt(0)!;
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, '0')}`;
  return code < 0x10000 ? escapeUnit(code) : `\\u{${code.toString(16)}}`;
}

const escapeUnit = (unit: number): string => `\\u${unit.toString(16).padStart(4, '0')}`;

/** Escapes text for one line; line ends are escaped too. */
export const printable = (text: string): Printable => (NOT_ASCII.test(text) ? text.replace(UNSAFE, escapeText) : text) as Printable;

/** Escapes each text and ends it with a line end. */
export const lines = (texts: readonly string[]): Printable => texts.map((text) => `${printable(text)}\n`).join('') as Printable;

/** JSON without a final line end. Every escape in it is valid JSON for the same character. */
export function formatJSON(value: unknown, indent = 0): Printable {
  const text = JSON.stringify(value, null, indent);
  if (!/[^\n\x20-\x7e]/.test(text)) return text as Printable;
  // JSON.stringify has escaped the line ends in values; the others are its indentation.
  return text.replace(UNSAFE, (character) =>
    character === '\n' ? character : Array.from({length: character.length}, (_, i) => escapeUnit(character.charCodeAt(i))).join(''),
  ) as Printable;
}

/** Marks text that is berth's own, such as the help. It may contain control sequences. */
export const ownText = (text: string): Printable => text as Printable;
