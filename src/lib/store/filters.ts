/**
 * containerd's filters: which objects a listing shows.
 *
 *     selectors := selector ("," selector)*                     all must hold
 *     selector  := fieldpath [("==" | "!=" | "~=") value]       without operator: the field is there
 *     fieldpath := field ("." field)*
 *     field     := [A-Za-z0-9_]+ | quoted                       quoted is "…", with Go's escapes
 *     value     := [^\s,]+ | quoted                             after ~= also /…/ and |…|
 *
 * Grammar, and the texts of errors with the place that they point to, after containerd, pkg/filters. One difference: an
 * expression after `~=` that is no regular expression is an error here, where containerd logs it and matches nothing.
 */
import {Buffer} from 'node:buffer';
import {ErrdefsError, wrap} from '../errdefs.ts';

/** Returns the value of an object's field, such as `['labels', 'team']`; undefined when the object has no such field. */
export type Adaptor = (path: readonly string[]) => string | undefined;
export type Filter = (adaptor: Adaptor) => boolean;

type Kind = 'end' | 'field' | 'value' | 'quoted' | 'operator' | 'separator' | 'illegal' | 'other';

interface Token {
  readonly kind: Kind;
  /** Index of its first character. */
  readonly at: number;
  readonly text: string;
}

// Functions, because compiling these patterns loads Unicode tables, and few listings have a filter.
const isSpace = (char: string): boolean => /^\p{White_Space}$/u.test(char);
const isField = (char: string): boolean => /^[A-Za-z0-9_]$/.test(char);
const isValue = (char: string): boolean => /^(?!\ufffd)[\p{L}\p{M}\p{N}\p{P}\p{S}]$/u.test(char);
const isOperator = (char: string): boolean => /^[=!~]$/.test(char);
const isSeparator = (char: string): boolean => /^[,.]$/.test(char);
const isQuote = (char: string): boolean => /^["/|]$/.test(char);

class Scanner {
  readonly #chars: readonly string[];
  #at = 0;
  /** Whether the last token was an operator, so that a value follows. */
  #value = false;
  error = '';

  constructor(text: string) {
    this.#chars = [...text];
  }

  get at(): number {
    return this.#at;
  }

  peek(): string | undefined {
    return this.#chars[this.#at];
  }

  /** Consumes one character; undefined at the end and for a character that is invalid in text. */
  #next(): string | undefined {
    const char = this.#chars[this.#at];
    if (char === undefined) return undefined;
    this.#at++;
    if (char !== '\0' && char !== '\ufffd' && char.isWellFormed()) return char;
    this.#fail(char === '\0' ? 'unexpected null' : 'rune error');
    return undefined;
  }

  #fail(reason: string): void {
    this.error ||= reason;
  }

  #run(isOne: (char: string) => boolean): void {
    while (isOne(this.peek() ?? '') && this.peek() !== ',') this.#at++;
  }

  scan(): Token {
    this.#run(isSpace);
    const at = this.#at;
    const kind = this.#kind(at);
    return {kind, at, text: this.#chars.slice(at, this.#at).join('')};
  }

  #kind(from: number): Kind {
    const char = this.#next();
    if (char === undefined) return this.#at === from ? 'end' : 'illegal';
    if (isQuote(char)) return this.#quoted(char) ? 'quoted' : 'illegal';
    if (isSeparator(char)) {
      this.#value = false;
      return 'separator';
    }
    if (isOperator(char)) {
      this.#run(isOperator);
      this.#value = true;
      return 'operator';
    }
    if (this.#value) {
      this.#run(isValue);
      return 'value';
    }
    if (!isField(char)) return 'other';
    this.#run(isField);
    return 'field';
  }

  #quoted(quote: string): boolean {
    let legal = true;
    let char = this.#next();
    while (char !== quote) {
      if (char === undefined || char === '\n') {
        this.#fail('quoted literal not terminated');
        return false;
      }
      if (char === '\\') {
        let ok: boolean;
        [char, ok] = this.#escape(quote);
        legal &&= ok;
      } else {
        char = this.#next();
      }
    }
    return legal;
  }

  /** Reads an escape after its backslash. @returns the first character after it, and whether the escape is legal */
  #escape(quote: string): readonly [after: string | undefined, legal: boolean] {
    const char = this.#next();
    if (char !== undefined && ('abfnrtv\\'.includes(char) || char === quote)) return [this.#next(), true];
    if (/^[0-7]$/.test(char ?? '')) return this.#digits(char, /^[0-7]$/, 3);
    const length = new Map([
      ['x', 2],
      ['u', 4],
      ['U', 8],
    ]).get(char ?? '');
    if (length !== undefined) return this.#digits(this.#next(), /^[0-9A-Fa-f]$/, length);
    this.#fail('illegal escape sequence');
    return [char, false];
  }

  #digits(first: string | undefined, one: RegExp, count: number): readonly [after: string | undefined, legal: boolean] {
    let char = first;
    for (let i = 0; i < count; i++) {
      if (!one.test(char ?? '')) {
        this.#fail('illegal numeric escape sequence');
        return [char, false];
      }
      char = this.#next();
    }
    return [char, true];
  }
}

const SIMPLE: Readonly<Record<string, string>> = {a: '\x07', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v'};

/** Value of a quoted literal; undefined when an escape is not a character or byte. Escaped bytes are decoded as UTF-8. */
function unquote(literal: string): string | undefined {
  const bytes: Buffer[] = [];
  for (const [piece] of literal.slice(1, -1).matchAll(/\\(?:x..|u.{4}|U.{8}|[0-7]{3}|.)|[^\\]+/gs)) {
    const code = piece[1] ?? '';
    if (piece[0] !== '\\') bytes.push(Buffer.from(piece));
    else if (SIMPLE[code] !== undefined) bytes.push(Buffer.from(SIMPLE[code]));
    else if (/[xuU0-7]/.test(code)) {
      const isByte = code !== 'u' && code !== 'U';
      const value = /[0-7]/.test(code) ? Number.parseInt(piece.slice(1), 8) : Number.parseInt(piece.slice(2), 16);
      if (value > (isByte ? 0xff : 0x10ffff)) return undefined;
      bytes.push(isByte ? Buffer.of(value) : Buffer.from(String.fromCodePoint(value)));
    } else bytes.push(Buffer.from(code));
  }
  return Buffer.concat(bytes).toString();
}

type Compile = typeof import('./regexp.ts').compile;

class Parser {
  readonly #text: string;
  readonly #scanner: Scanner;
  readonly #compile: Compile | undefined;

  /** @param compile required for texts with `~=` */
  constructor(text: string, compile: Compile | undefined) {
    this.#text = text;
    this.#scanner = new Scanner(text);
    this.#compile = compile;
  }

  #error(at: number, reason: string): ErrdefsError {
    const chars = [...this.#text];
    const part = (from: number, to?: number): string => chars.slice(from, to).join('');
    const place = at < chars.length ? `${part(0, at)} >|${chars[at]}|< ${part(at + 1)}` : this.#text;
    return new ErrdefsError('invalid_argument', `filters: parse error: [${place}]: ${reason}`);
  }

  selectors(): Filter {
    const all = [this.#selector()];
    for (;;) {
      const char = this.#scanner.peek();
      if (char === undefined) return (adaptor) => all.every((selector) => selector(adaptor));
      if (char !== ',') throw this.#error(this.#scanner.at, `unexpected input: ${char}`);
      this.#scanner.scan();
      all.push(this.#selector());
    }
  }

  #selector(): Filter {
    const path = [this.#field()];
    while (this.#scanner.peek() === '.') {
      this.#scanner.scan();
      path.push(this.#field());
    }
    const char = this.#scanner.peek();
    if (char === undefined || char === ',') return (adaptor) => adaptor(path) !== undefined;
    switch (this.#operator()) {
      case '==': {
        const value = this.#value(false);
        return (adaptor) => adaptor(path) === value;
      }
      case '!=': {
        const value = this.#value(false);
        return (adaptor) => (adaptor(path) ?? '') !== value;
      }
      case '~=': {
        const matches = this.#expression();
        return (adaptor) => matches(adaptor(path) ?? '');
      }
    }
  }

  #field(): string {
    const token = this.#scanner.scan();
    if (token.kind === 'field') return token.text;
    if (token.kind === 'quoted') return this.#unquote(token, false);
    throw this.#error(token.at, token.kind === 'illegal' ? this.#scanner.error : 'expected field or quoted');
  }

  #operator(): '==' | '!=' | '~=' {
    const {kind, at, text} = this.#scanner.scan();
    if (text === '==' || text === '!=' || text === '~=') return text;
    if (kind === 'operator') throw this.#error(at, `unsupported operator ${JSON.stringify(text)}`);
    throw this.#error(at, kind === 'illegal' ? this.#scanner.error : 'expected an operator ("=="|"!="|"~=")');
  }

  #value(allowAlternatives: boolean): string {
    const token = this.#scanner.scan();
    if (token.kind === 'value') return token.text;
    if (token.kind === 'quoted') return this.#unquote(token, allowAlternatives);
    throw this.#error(token.at, token.kind === 'illegal' ? this.#scanner.error : 'expected value or quoted');
  }

  #expression(): (text: string) => boolean {
    const pattern = this.#value(true);
    try {
      return this.#compile!(pattern);
    } catch (err) {
      throw wrap('filters', err);
    }
  }

  #unquote({at, text}: Token, allowAlternatives: boolean): string {
    if (!allowAlternatives && !text.startsWith('"')) throw this.#error(at, 'invalid quote encountered');
    const value = unquote(text);
    if (value === undefined) throw this.#error(at, 'unquoting failed: quote syntax error');
    return value;
  }
}

/**
 * Parses the filters of a listing. An object is shown when at least one filter matches it. Without filters, or with an empty one, every
 * object is shown.
 *
 * Matching takes time linear in the length of the fields, also for regular expressions.
 *
 * @throws invalid_argument with containerd's message, which points at the error
 */
export async function parseFilters(texts: readonly string[]): Promise<Filter> {
  if (texts.length === 0) return () => true;
  const compile = texts.some((text) => text.includes('~=')) ? (await import('./regexp.ts')).compile : undefined;
  const filters = texts.map((text): Filter => (text === '' ? () => true : new Parser(text, compile).selectors()));
  return (adaptor) => filters.some((filter) => filter(adaptor));
}
