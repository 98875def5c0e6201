/**
 * Changes one member of a JSON document and leaves the rest as it is, byte for byte: numbers, order and blanks are the user's.
 */

interface Member {
  readonly key: string;
  /** Offsets: of the key, and of the value's begin and end. */
  readonly at: number;
  readonly from: number;
  readonly to: number;
}

const BLANK = /[ \t\r\n]*/y;
const TEXT = /"(?:[^"\\]|\\.)*"/sy;
const LITERAL = /[^ \t\r\n,\]}]+/y;

const skip = (pattern: RegExp, text: string, at: number): number => {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : at;
};

/** The end of the value at `at`. The text is known to be JSON. */
function endOfValue(text: string, at: number): number {
  if (text[at] === '"') return skip(TEXT, text, at);
  if (text[at] !== '{' && text[at] !== '[') return skip(LITERAL, text, at);
  let depth = 0;
  for (let i = at; ; ) {
    if (text[i] === '"') i = skip(TEXT, text, i);
    else {
      if (text[i] === '{' || text[i] === '[') depth++;
      if (text[i] === '}' || text[i] === ']') depth--;
      i++;
      if (depth === 0) return i;
    }
  }
}

/** Members of the object at `at`. */
function membersOf(text: string, at: number): Member[] {
  const members: Member[] = [];
  for (let i = skip(BLANK, text, at + 1); text[i] !== '}'; i = skip(BLANK, text, text[i] === ',' ? i + 1 : i)) {
    const end = skip(TEXT, text, i);
    const from = skip(BLANK, text, skip(BLANK, text, end) + 1);
    const to = endOfValue(text, from);
    members.push({key: JSON.parse(text.slice(i, end)), at: i, from, to});
    i = skip(BLANK, text, to);
  }
  return members;
}

/** The object's text with a member set, added at its end, or taken away. @param at offset of the object */
function change(text: string, at: number, key: string, value: string | undefined, indent: string): string {
  const members = membersOf(text, at);
  const same = members.filter((member) => member.key === key);
  if (value !== undefined && same.length > 0) {
    // Of equal keys the last one counts.
    const {from, to} = same.at(-1)!;
    return text.slice(0, from) + value + text.slice(to);
  }
  if (value !== undefined) {
    const last = members.at(-1);
    const first = members[0];
    // As the members before it, or on a line of its own.
    const gap = first === undefined ? `\n${indent}` : text.slice(skip(BLANK, text, at + 1) === first.at ? at + 1 : first.at, first.at);
    const member = `${JSON.stringify(key)}: ${value}`;
    if (last === undefined) return `${text.slice(0, at)}{${gap}${member}\n${indent.slice(1)}}${text.slice(endOfValue(text, at))}`;
    return `${text.slice(0, last.to)},${gap}${member}${text.slice(last.to)}`;
  }
  let result = text;
  for (const {at: begin, to} of same.reverse()) {
    const after = skip(BLANK, result, to);
    if (result[after] === ',') {
      result = result.slice(0, begin) + result.slice(skip(BLANK, result, after + 1));
      continue;
    }
    // The last one takes the comma before it along.
    const before = result.slice(0, begin).replace(/,?[ \t\r\n]*$/, '');
    const closing = result.slice(to);
    result = before + (before.endsWith('{') ? closing.replace(/^[ \t\r\n]+/, '') : closing);
  }
  return result;
}

/**
 * Sets or removes `table.key` of a document.
 *
 * @param text a JSON object whose member `table`, if there is one, is an object; empty for a new document
 * @param value undefined removes it
 */
export function editMember(text: string, table: string, key: string, value: object | undefined): string {
  const document = text.trim() === '' ? '{}\n' : text;
  const root = document.indexOf('{');
  const member = membersOf(document, root).findLast((one) => one.key === table);
  const shown = value === undefined ? undefined : JSON.stringify(value);
  if (member === undefined)
    return shown === undefined ? document : change(document, root, table, `{\n\t\t${JSON.stringify(key)}: ${shown}\n\t}`, '\t');
  return change(document, member.from, key, shown, '\t\t');
}
