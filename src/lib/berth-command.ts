/**
 * Command lines of berth in hints. A hint names the program `berth`, which is the same everywhere; the command line prints the name that it
 * was called by in its place (src/cli/report-error.ts), and finds a command by what is before it: `: ` or `"`.
 */

/** A word as sh reads it back. */
export const quoteWord = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

/** A command line for sh: `berth`, a space and the text, in which values are quoted if they must be; a list is a word for each. */
export const berth = (texts: TemplateStringsArray, ...values: readonly (string | readonly string[])[]): string =>
  `berth ${texts.map((text, i) => (i === 0 ? text : `${[values[i - 1]!].flat().map(quoteWord).join(' ')}${text}`)).join('')}`;
