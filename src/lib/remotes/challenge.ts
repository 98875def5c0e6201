/** Parses the `WWW-Authenticate` header. */

export interface Challenge {
  /** Lower case, such as `bearer`. */
  readonly scheme: string;
  /** By lower-case name; the first of equal names wins. */
  readonly params: ReadonlyMap<string, string>;
}

const TOKEN = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y;
const BLANK = /[ \t]*/y;
const SEPARATOR = /[ \t]*(?:,[ \t]*)*/y;
const TOKEN68 = /[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))/y;
const EQUALS = /[ \t]*=[ \t]*/y;
const QUOTED = /"((?:[^"\\]|\\.)*)"/sy;

/**
 * Parses any number of challenges from any number of headers. Parsing of a header stops at the first syntax error; the
 * challenges before it count.
 *
 * Grammar of RFC 9110, 11.6.1: `scheme [token68 | name=value, …]`, where a comma may also begin the next challenge.
 */
export function parseChallenges(header: string | readonly string[] | undefined): Challenge[] {
  return (header === undefined ? [] : typeof header === 'string' ? [header] : header).flatMap(parseOne);
}

function parseOne(text: string): Challenge[] {
  let at = 0;
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (match !== null) at = pattern.lastIndex;
    return match;
  };
  /** The next `name=value`; undefined, without moving on, where there is none. */
  const takeParam = (): readonly [string, string] | undefined => {
    const before = at;
    const name = take(TOKEN);
    if (name !== null && take(EQUALS) !== null) {
      const quoted = take(QUOTED);
      const value = quoted === null ? take(TOKEN)?.[0] : quoted[1]!.replaceAll(/\\(.)/gs, '$1');
      if (value !== undefined) return [name[0].toLowerCase(), value];
    }
    at = before;
    return undefined;
  };

  const challenges: Challenge[] = [];
  for (;;) {
    take(SEPARATOR);
    const scheme = take(TOKEN);
    if (scheme === null) return challenges;
    const params = new Map<string, string>();
    challenges.push({scheme: scheme[0].toLowerCase(), params});
    if (take(BLANK)![0] === '' || take(TOKEN68) !== null) continue;
    take(SEPARATOR);
    for (let param = takeParam(); param !== undefined; param = takeParam()) {
      if (!params.has(param[0])) params.set(...param);
      take(SEPARATOR);
    }
  }
}
