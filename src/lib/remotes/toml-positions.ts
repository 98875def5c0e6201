/** TOML whose faults can be pointed at, those of its syntax and those of its values. */
import {parse, TomlError} from 'smol-toml';

export type {TomlTable} from 'smol-toml';

/** Where something stands in a text, from 1. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** What is no TOML. */
export class SyntaxFault extends Error {
  readonly position: Position;
  constructor(message: string, position: Position) {
    super(message);
    this.position = position;
  }
}

/** Deeper than any document here means anything. */
const MAX_DEPTH = 16;

/**
 * A document's tables, their keys in the order of the text save those that are whole numbers, which come first: JavaScript has
 * it so.
 *
 * @throws SyntaxFault without the lines around it, which its own message would quote: they may hold secrets
 */
export function parseTOML(text: string): ReturnType<typeof parse> {
  try {
    return parse(text, {maxDepth: MAX_DEPTH});
  } catch (err) {
    if (!(err instanceof TomlError)) throw err;
    const [first] = err.message.split('\n', 1);
    throw new SyntaxFault(first!.replace('Invalid TOML document: ', ''), {line: err.line, column: err.column});
  }
}

/** A table's own value, not a date nor a list. The parser gives tables no prototype. */
export const isTable = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === null;

/** Strings of four kinds, comments, words, and every other character by itself. */
const TOKEN = /"""(?:\\[\s\S]|[^\\])*?"{3,5}|'''[\s\S]*?'{3,5}|"(?:\\.|[^"\\])*"|'[^']*'|#[^\n]*|[\w-]+|[\s\S]/g;

/** A key as it was meant. One with an escape that JSON does not know stays as it is written: then it is not found. */
function unquote(token: string): string {
  if (token.startsWith("'")) return token.slice(1, -1);
  if (!token.startsWith('"')) return token;
  try {
    return JSON.parse(token) as string;
  } catch {
    return token;
  }
}

/**
 * Where a key, or as much of its path as stands together in one place, is written in a document that has been parsed.
 *
 * @param path such as `['host', 'https://mirror.example', 'ca']`
 */
export function positionOf(text: string, path: readonly string[]): Position {
  let best = {depth: 0, index: 0};
  const found = (key: readonly string[], index: number): void => {
    if (key.length > best.depth && key.length <= path.length && key.every((part, i) => part === path[i])) best = {depth: key.length, index};
  };
  let table: readonly string[] = [];
  let key: string[] = [];
  let at = 0;
  let state: 'start' | 'header' | 'key' | 'value' = 'start';
  let depth = 0;
  for (const {0: token, index} of text.matchAll(TOKEN)) {
    if (state === 'value') {
      if (token === '[' || token === '{') depth++;
      else if (token === ']' || token === '}') depth--;
      else if (token === '\n' && depth === 0) state = 'start';
    } else if (state === 'start') {
      if (/^[\s\uFEFF#]/.test(token)) continue;
      state = token === '[' ? 'header' : 'key';
      key = token === '[' ? [] : [unquote(token)];
      at = index;
    } else if (token === ']' && state === 'header') {
      table = key;
      found(table, at);
      // The second bracket of a table in a list, a comment, and the end of the line.
      state = 'value';
      depth = text[index + 1] === ']' ? 1 : 0;
    } else if (token === '=') {
      found([...table, ...key], at);
      state = 'value';
      depth = 0;
    } else if (!/^[\s.[]/.test(token)) key.push(unquote(token));
  }
  const before = text.slice(0, best.index);
  return {line: before.split('\n').length, column: best.index - before.lastIndexOf('\n')};
}
