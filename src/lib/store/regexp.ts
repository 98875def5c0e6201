/**
 * Regular expressions in RE2's syntax, which containerd's filters are written in, matched in time linear in the text.
 *
 * The engine's own expressions do neither: they take other syntax, and `(a+)+$` keeps them busy for hours. Time here is at
 * most (size of the program) × (characters of the text), and the program's size is bounded.
 *
 * Syntax and messages after Go, regexp/syntax; method after Russ Cox, "Regular Expression Matching: the Virtual Machine Approach".
 */
import {ErrdefsError} from '../errdefs.ts';

/** The same bounds as Go's: on one repetition, and on how deep groups nest. */
const MAX_REPEAT = 1000;
const MAX_DEPTH = 1000;
const MAX_INSTRUCTIONS = 20_000;

type CharTest = (char: number) => boolean;

type Node =
  | {readonly kind: 'char'; readonly test: CharTest}
  | {readonly kind: 'assert'; readonly test: (before: number, after: number) => boolean}
  | {readonly kind: 'cat' | 'or'; readonly nodes: readonly Node[]}
  | {readonly kind: 'repeat'; readonly node: Node; readonly min: number; readonly max: number};

/** A step of the program: on to `next` on a character that passes, on a condition that holds, or in any case; without any, the match. */
interface Instruction {
  readonly char?: CharTest;
  readonly assert?: (before: number, after: number) => boolean;
  readonly next: number[];
}

interface Flags {
  readonly i: boolean;
  readonly m: boolean;
  readonly s: boolean;
}

/** What stands before the first and after the last character. */
const END = -1;
const NEWLINE = 10;

const between =
  (...ranges: readonly (readonly [string, string])[]): CharTest =>
  (c) =>
    ranges.some(([from, to]) => c >= from.codePointAt(0)! && c <= to.codePointAt(0)!);
const digit = between(['0', '9']);
const wordChar = between(['0', '9'], ['A', 'Z'], ['a', 'z'], ['_', '_']);
const PERL: Readonly<Record<string, CharTest>> = {d: digit, w: wordChar, s: between(['\t', '\n'], ['\f', '\r'], [' ', ' '])};
const POSIX: Readonly<Record<string, CharTest>> = {
  alnum: between(['0', '9'], ['A', 'Z'], ['a', 'z']),
  alpha: between(['A', 'Z'], ['a', 'z']),
  ascii: between(['\0', '\x7f']),
  blank: between(['\t', '\t'], [' ', ' ']),
  cntrl: between(['\0', '\x1f'], ['\x7f', '\x7f']),
  digit,
  graph: between(['!', '~']),
  lower: between(['a', 'z']),
  print: between([' ', '~']),
  punct: between(['!', '/'], [':', '@'], ['[', '`'], ['{', '~']),
  space: between(['\t', '\r'], [' ', ' ']),
  upper: between(['A', 'Z']),
  word: wordChar,
  xdigit: between(['0', '9'], ['A', 'F'], ['a', 'f']),
};
const CONTROL: Readonly<Record<string, number>> = {a: 7, f: 12, t: 9, n: NEWLINE, r: 13, v: 11};

const not =
  (test: CharTest): CharTest =>
  (c) =>
    !test(c);

/** The test under `(?i)`: passes where a character's other case does. */
function folded(test: CharTest): CharTest {
  return (c) => {
    if (test(c)) return true;
    const char = String.fromCodePoint(c);
    return test(char.toLowerCase().codePointAt(0)!) || test(char.toUpperCase().codePointAt(0)!);
  };
}

class Parser {
  readonly #chars: readonly string[];
  #at = 0;
  #depth = 0;
  #flags: Flags = {i: false, m: false, s: false};

  constructor(pattern: string) {
    this.#chars = [...pattern];
  }

  parse(): Node {
    const node = this.#alternatives();
    const isWhole = this.#at === this.#chars.length;
    this.#at = this.#chars.length;
    if (!isWhole) throw this.#error('unexpected )', 0);
    return node;
  }

  /** With the piece of the pattern from `from` to where reading stands, as Go shows it. */
  #error(reason: string, from: number): ErrdefsError {
    const piece = this.#chars.slice(from, this.#at).join('');
    return new ErrdefsError('invalid_argument', `error parsing regexp: ${reason}: \`${piece}\``);
  }

  #peek(text: string): boolean {
    return this.#ahead(text.length) === text;
  }

  #ahead(length: number): string {
    return this.#chars.slice(this.#at, this.#at + length).join('');
  }

  #take(text: string): boolean {
    const found = this.#peek(text);
    if (found) this.#at += text.length;
    return found;
  }

  /** What lies before the next `end`, which is passed over too; undefined, and everything is, where there is none. */
  #until(end: string): string | undefined {
    const from = this.#at;
    while (this.#at < this.#chars.length && !this.#peek(end)) this.#at++;
    const text = this.#chars.slice(from, this.#at).join('');
    return this.#take(end) ? text : undefined;
  }

  #alternatives(): Node {
    const nodes = [this.#sequence()];
    while (this.#take('|')) nodes.push(this.#sequence());
    return {kind: 'or', nodes};
  }

  #sequence(): Node {
    const nodes: Node[] = [];
    let repeatedFrom: number | undefined;
    while (this.#at < this.#chars.length && !this.#peek('|') && !this.#peek(')')) {
      const from = this.#at;
      const bounds = this.#repetition();
      if (bounds === undefined) {
        nodes.push(...this.#atoms());
        repeatedFrom = undefined;
        continue;
      }
      if (repeatedFrom !== undefined) throw this.#error('invalid nested repetition operator', repeatedFrom);
      const node = nodes.pop();
      if (node === undefined) throw this.#error('missing argument to repetition operator', from);
      nodes.push({kind: 'repeat', node, ...bounds});
      repeatedFrom = from;
    }
    return {kind: 'cat', nodes};
  }

  /** A repetition operator, if one stands here. Whether it is lazy does not change whether there is a match. */
  #repetition(): {readonly min: number; readonly max: number} | undefined {
    const from = this.#at;
    let min = 0;
    let max = Number.POSITIVE_INFINITY;
    if (this.#take('+')) min = 1;
    else if (this.#take('?')) max = 1;
    else if (!this.#take('*')) {
      const counted = /^\{(\d+)(,?)(\d*)\}/.exec(this.#ahead(16));
      if (counted === null || (counted[2] === '' && counted[3] !== '')) return undefined;
      this.#at += counted[0].length;
      min = Number(counted[1]);
      if (counted[2] === '') max = min;
      else if (counted[3] !== '') max = Number(counted[3]);
      if (min > MAX_REPEAT || (max > MAX_REPEAT && max !== Number.POSITIVE_INFINITY) || min > max)
        throw this.#error('invalid repeat count', from);
    }
    this.#take('?');
    return {min, max};
  }

  /** One item; none for a change of flags, and several for a `\Q…\E`. */
  #atoms(): readonly Node[] {
    const from = this.#at;
    const {m, s} = this.#flags;
    const c = this.#chars[this.#at++]!;
    switch (c) {
      case '(':
        return this.#group(from);
      case '[':
        return [{kind: 'char', test: this.#bracket(from)}];
      case '.':
        return [{kind: 'char', test: s ? () => true : (char) => char !== NEWLINE}];
      case '^':
        return [{kind: 'assert', test: (before) => before === END || (m && before === NEWLINE)}];
      case '$':
        return [{kind: 'assert', test: (_, after) => after === END || (m && after === NEWLINE)}];
      case '\\':
        return this.#escape(from);
      default:
        return [this.#literal(c.codePointAt(0)!)];
    }
  }

  #literal(wanted: number): Node {
    const test: CharTest = (c) => c === wanted;
    return {kind: 'char', test: this.#flags.i ? folded(test) : test};
  }

  #group(from: number): readonly Node[] {
    const outer = this.#flags;
    if (this.#take('?')) {
      if (this.#take('P<') || this.#take('<')) {
        if (!/^\w+$/.test(this.#until('>') ?? '')) throw this.#error('invalid named capture', from);
      } else {
        const flags = /^([imsU]*)(?:-([imsU]+))?([:)])/.exec(this.#ahead(12));
        if (flags === null) throw this.#error('invalid or unsupported Perl syntax', from);
        this.#at += flags[0].length;
        const set = (flag: keyof Flags): boolean => (outer[flag] || flags[1]!.includes(flag)) && !flags[2]?.includes(flag);
        this.#flags = {i: set('i'), m: set('m'), s: set('s')};
        if (flags[3] === ')') return [];
      }
    }
    if (++this.#depth > MAX_DEPTH) throw this.#error('expression nests too deeply', from);
    const node = this.#alternatives();
    if (!this.#take(')')) throw this.#error('missing closing )', from);
    this.#depth--;
    this.#flags = outer;
    return [node];
  }

  #escape(from: number): readonly Node[] {
    const isBoundary = (before: number, after: number): boolean => wordChar(before) !== wordChar(after);
    if (this.#take('A')) return [{kind: 'assert', test: (before) => before === END}];
    if (this.#take('z')) return [{kind: 'assert', test: (_, after) => after === END}];
    if (this.#take('b')) return [{kind: 'assert', test: isBoundary}];
    if (this.#take('B')) return [{kind: 'assert', test: (before, after) => !isBoundary(before, after)}];
    if (this.#take('Q')) {
      const start = this.#at;
      const quoted = this.#until('\\E') ?? this.#chars.slice(start).join('');
      return [...quoted].map((c) => this.#literal(c.codePointAt(0)!));
    }
    const test = this.#escapedClass(from);
    return [test === undefined ? this.#literal(this.#escapedChar(from)) : {kind: 'char', test: this.#flags.i ? folded(test) : test}];
  }

  /** A class such as `\d` or `\p{Greek}`, the backslash read already. */
  #escapedClass(from: number): CharTest | undefined {
    const letter = this.#chars[this.#at] ?? '';
    const perl = PERL[letter.toLowerCase()];
    if (perl !== undefined) {
      this.#at++;
      return letter === letter.toLowerCase() ? perl : not(perl);
    }
    if (letter !== 'p' && letter !== 'P') return undefined;
    this.#at++;
    const name = this.#take('{') ? this.#until('}') : this.#chars[this.#at++];
    const [, negated, plain] = /^(\^?)(\w+)$/.exec(name ?? '') ?? [];
    for (const property of [`\\p{${plain}}`, `\\p{Script=${plain}}`]) {
      try {
        const one = new RegExp(`^${property}$`, 'u');
        const test: CharTest = (c) => one.test(String.fromCodePoint(c));
        return (letter === 'P') === (negated === '^') ? test : not(test);
      } catch {
        // not a property of this sort
      }
    }
    throw this.#error('invalid character class range', from);
  }

  /** A single character, the backslash read already. */
  #escapedChar(from: number): number {
    const c = this.#chars[this.#at++];
    if (c === undefined) throw this.#error('trailing backslash at end of expression', from);
    const control = CONTROL[c];
    if (control !== undefined) return control;
    const number = c === 'x' ? /^(?:\{([0-9A-Fa-f]{1,6})\}|([0-9A-Fa-f]{2}))/.exec(this.#ahead(8)) : null;
    const hex = number?.[1] ?? number?.[2];
    if (number !== null && hex !== undefined && Number.parseInt(hex, 16) <= 0x10ffff) {
      this.#at += number[0].length;
      return Number.parseInt(hex, 16);
    }
    const octal = c === '0' ? /^[0-7]{0,2}/.exec(this.#ahead(2)) : /[1-7]/.test(c) ? /^[0-7]{1,2}/.exec(this.#ahead(2)) : null;
    if (octal !== null) {
      this.#at += octal[0].length;
      return Number.parseInt(c + octal[0], 8);
    }
    if (/^[^A-Za-z0-9]$/.test(c) && c < '\x80') return c.codePointAt(0)!;
    throw this.#error('invalid escape sequence', from);
  }

  /** A bracketed class, the opening bracket read already. */
  #bracket(from: number): CharTest {
    const negated = this.#take('^');
    const tests: CharTest[] = [];
    do {
      if (this.#at >= this.#chars.length) throw this.#error('missing closing ]', from);
      tests.push(this.#bracketItem(from));
    } while (!this.#take(']'));
    const any: CharTest = (c) => tests.some((test) => test(c));
    const test = this.#flags.i ? folded(any) : any;
    return negated ? not(test) : test;
  }

  #bracketItem(from: number): CharTest {
    const start = this.#at;
    if (this.#take('[:')) {
      const [, negated, name] = /^(\^?)([a-z]+)$/.exec(this.#until(':]') ?? '') ?? [];
      const test = name !== undefined && Object.hasOwn(POSIX, name) ? POSIX[name] : undefined;
      if (test === undefined) throw this.#error('invalid character class range', start);
      return negated === '^' ? not(test) : test;
    }
    const one = (): number | CharTest => {
      if (this.#at >= this.#chars.length) throw this.#error('missing closing ]', from);
      if (this.#take('\\')) return this.#escapedClass(start) ?? this.#escapedChar(start);
      return this.#chars[this.#at++]!.codePointAt(0)!;
    };
    const low = one();
    if (typeof low !== 'number') return low;
    if (!this.#peek('-') || this.#peek('-]')) return (c) => c === low;
    this.#at++;
    const high = one();
    if (typeof high !== 'number' || high < low) throw this.#error('invalid character class range', start);
    return (c) => c >= low && c <= high;
  }
}

/** @returns index of the first instruction; the match is instruction 0 */
function assemble(root: Node, program: Instruction[]): number {
  let steps = 0;
  const add = (instruction: Instruction): number => program.push(instruction) - 1;
  const emit = (node: Node, next: number): number => {
    if (++steps > MAX_INSTRUCTIONS) throw new ErrdefsError('invalid_argument', 'error parsing regexp: expression too large');
    switch (node.kind) {
      case 'char':
        return add({char: node.test, next: [next]});
      case 'assert':
        return add({assert: node.test, next: [next]});
      case 'cat':
        return node.nodes.reduceRight((after, inner) => emit(inner, after), next);
      case 'or':
        return node.nodes.length === 1 ? emit(node.nodes[0]!, next) : add({next: node.nodes.map((inner) => emit(inner, next))});
      case 'repeat': {
        let entry = next;
        if (node.max === Number.POSITIVE_INFINITY) {
          const loop: Instruction = {next: [next]};
          entry = add(loop);
          loop.next.push(emit(node.node, entry));
        } else {
          for (let i = node.min; i < node.max; i++) entry = add({next: [emit(node.node, entry), next]});
        }
        for (let i = 0; i < node.min; i++) entry = emit(node.node, entry);
        return entry;
      }
    }
  };
  add({next: []});
  return emit(root, 0);
}

/**
 * A test whether a regular expression matches anywhere in a text.
 *
 * @throws invalid_argument not RE2's syntax, or too large
 */
export function compile(pattern: string): (text: string) => boolean {
  const program: Instruction[] = [];
  const start = assemble(new Parser(pattern).parse(), program);
  return (text) => {
    const visited = new Int32Array(program.length).fill(-1);
    let entered: readonly number[] = [];
    let before = END;
    for (let at = 0; ; ) {
      const char = text.codePointAt(at) ?? END;
      const passed: number[] = [];
      for (const pending = [...entered, start]; pending.length > 0; ) {
        const index = pending.pop()!;
        if (index === 0) return true;
        if (visited[index] === at) continue;
        visited[index] = at;
        const {char: test, assert, next} = program[index]!;
        if (test !== undefined) {
          if (char !== END && test(char)) passed.push(next[0]!);
        } else if (assert === undefined || assert(before, char)) {
          for (const target of next) pending.push(target);
        }
      }
      if (char === END) return false;
      entered = passed;
      before = char;
      at += char > 0xffff ? 2 : 1;
    }
  };
}
