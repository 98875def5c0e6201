/** Splits the words of a command line into flags and positionals, in every form that people and Go programs write. */
import type {FlagInput} from '@oclif/core/parser';
import {ErrdefsError} from '../lib/errdefs.ts';
import {nearest} from './did-you-mean.ts';

/** One flag of a command line. */
export interface GivenFlag {
  /** The long name, without dashes. */
  readonly name: string;
  /** The text of its value; of a boolean flag whether it is on. */
  readonly value: string | boolean;
}

export interface ReadFlag {
  /** Number of words: 2 if the value is a word of its own. */
  readonly length: 1 | 2;
  /** Several if short flags share a word. */
  readonly given: readonly GivenFlag[];
}

/** Hints for unknown flags that other tools have, by the name with dashes. */
export type FlagHints = Readonly<Record<string, string>>;

const quoteOdd = (word: string): string => (/^[\w-]+$/.test(word) ? word : JSON.stringify(word));

const invalid = (message: string, hint?: string, flag?: string): ErrdefsError =>
  new ErrdefsError('invalid_argument', message, {
    ...(hint === undefined ? {} : {hint}),
    ...(flag === undefined ? {} : {details: {flag}}),
  });

/** With the flag in its details, where `hints` does not have it. */
const unknownFlag = (word: string, flags: FlagInput, hints: FlagHints): ErrdefsError =>
  Object.hasOwn(hints, word)
    ? invalid(`unknown flag ${quoteOdd(word)}`, hints[word])
    : invalid(`unknown flag ${quoteOdd(word)}`, nearestFlag(word, flags), word);

function nearestFlag(word: string, flags: FlagInput): string | undefined {
  const visible = Object.keys(flags).filter((name) => !flags[name]!.hidden);
  const found = nearest(word.replace(/^-+/, ''), visible);
  return found === undefined ? undefined : `did you mean --${found}?`;
}

/** Whether a word is one of these flags, in any form. */
function isFlag(word: string, flags: FlagInput): boolean {
  try {
    readFlag([word, ''], 0, flags);
    return true;
  } catch {
    return false;
  }
}

/** The name of the flag that has this name or alias; the word itself if there is none. */
const nameOf = (word: string, flags: FlagInput): string =>
  Object.hasOwn(flags, word) ? word : (Object.keys(flags).find((name) => flags[name]!.aliases?.includes(word)) ?? word);

/**
 * Reads the flag at `argv[i]`: `--name`, `--name=value`, `--name value`; the same with one dash, as in Go; `-x`, `-xvalue`,
 * `-x=value`, `-x value`; and several short flags in one word, of which the last may have a value. A boolean flag takes
 * `=true` and `=false`. A value that looks like a flag must be attached with `=`.
 *
 * @throws invalid_argument naming the flag
 */
export function readFlag(argv: readonly string[], i: number, flags: FlagInput, hints: FlagHints = {}): ReadFlag {
  const word = argv[i]!;
  const equals = word.indexOf('=');
  const bare = equals === -1 ? word : word.slice(0, equals);
  const attached = equals === -1 ? undefined : word.slice(equals + 1);
  const name = nameOf(bare.replace(/^--?/, ''), flags);

  const option = (flagName: string, form: string, value: string | undefined): Pick<ReadFlag, 'length'> & {given: GivenFlag} => {
    if (value !== undefined) return {length: 1, given: {name: flagName, value}};
    const next = argv[i + 1];
    if (next === undefined) throw invalid(`flag ${form} needs a value`);
    if (next.startsWith('--') || (next.startsWith('-') && next !== '-' && isFlag(next, flags)))
      throw invalid(
        `flag ${form} needs a value`,
        `${quoteOdd(next)} is a flag; if it is meant as the value: --${flagName}=${quoteOdd(next)}`,
      );
    return {length: 2, given: {name: flagName, value: next}};
  };
  const boolean = (flagName: string, form: string, value: string | undefined): GivenFlag => {
    if (value !== undefined && value !== 'true' && value !== 'false')
      throw invalid(`flag ${form} takes no value but true or false, not ${JSON.stringify(value)}`);
    return {name: flagName, value: value !== 'false'};
  };

  if (name.length > 1 && Object.hasOwn(flags, name)) {
    if (flags[name]!.type === 'boolean') return {length: 1, given: [boolean(name, `--${name}`, attached)]};
    const {length, given} = option(name, `--${name}`, attached);
    return {length, given: [given]};
  }
  if (word.startsWith('--')) throw unknownFlag(bare, flags, hints);

  const byChar = (char: string): string | undefined => Object.keys(flags).find((key) => flags[key]!.char === char);
  const given: GivenFlag[] = [];
  for (let at = 1; at < word.length; at++) {
    const char = word[at]!;
    const found = byChar(char);
    if (found === undefined) {
      const short = `-${char}`;
      // The rest of the word may be a value, and a secret: name it only if it looks like a name.
      const whole = /^-[\w-]+$/.test(bare) ? bare : undefined;
      if (whole !== undefined && (Object.hasOwn(hints, whole) || (given.length === 0 && !Object.hasOwn(hints, short))))
        throw unknownFlag(whole, flags, hints);
      const err = unknownFlag(short, {}, hints);
      throw given.length > 0 && whole !== undefined
        ? invalid(`unknown flag ${quoteOdd(short)} in ${whole}`, err.hint, err.details?.flag as string | undefined)
        : err;
    }
    const form = `--${found} (-${char})`;
    const rest = word.slice(at + 1);
    if (flags[found]!.type === 'boolean') {
      given.push(boolean(found, form, rest.startsWith('=') ? rest.slice(1) : undefined));
      if (rest.startsWith('=')) break;
      continue;
    }
    const {length, given: last} = option(found, form, rest === '' ? undefined : rest.replace(/^=/, ''));
    return {length, given: [...given, last]};
  }
  return {length: 1, given};
}

export interface SplitArgv {
  /** Values of each given flag in their order; of a boolean flag whether it is on, where the last word decides. */
  readonly flags: ReadonlyMap<string, readonly string[] | boolean>;
  readonly positionals: readonly string[];
  /** The words after the command's own positionals, untouched. */
  readonly tail: readonly string[];
  /** The flag, as it was written, whose value is the last word. */
  readonly lastTaken: string | undefined;
  /** The first error. The rest is read all the same: `--json` and `--help` count wherever they are. */
  readonly error: ErrdefsError | undefined;
}

interface SplitOptions {
  /** Flags that were read before, from words before the command. */
  readonly early?: readonly GivenFlag[];
  /** Number of positionals after which all words are the tail; by default there is no tail. */
  readonly bound?: number;
  /** Flags that each take the place of a positional. */
  readonly replacing?: readonly string[];
  readonly hints?: FlagHints;
}

export function splitArgv(
  argv: readonly string[],
  flags: FlagInput,
  {early = [], bound = Number.POSITIVE_INFINITY, replacing = [], hints = {}}: SplitOptions = {},
): SplitArgv {
  const values = new Map<string, string[] | boolean>();
  const positionals: string[] = [];
  let error: ErrdefsError | undefined;
  const add = ({name, value}: GivenFlag): void => {
    const before = values.get(name);
    if (typeof value === 'boolean') values.set(name, value);
    else if (!Array.isArray(before)) values.set(name, [value]);
    else {
      if (!(flags[name] as {multiple?: boolean}).multiple) error ??= invalid(`flag --${name} is given more than once`);
      before.push(value);
    }
  };
  for (const flag of early)
    if (Object.hasOwn(flags, flag.name)) add(flag);
    else error ??= unknownFlag(`--${flag.name}`, flags, hints);

  let i = 0;
  let flagsEnded = false;
  let lastTaken: string | undefined;
  const isWhole = (): boolean => positionals.length >= bound - replacing.filter((name) => values.has(name)).length;
  while (i < argv.length && !isWhole()) {
    const word = argv[i]!;
    if (word === '--' && !flagsEnded) {
      flagsEnded = bound === Number.POSITIVE_INFINITY;
      i++;
      continue;
    }
    if (flagsEnded || !word.startsWith('-') || word === '-') {
      positionals.push(word);
      lastTaken = undefined;
      i++;
      continue;
    }
    try {
      const {length, given} = readFlag(argv, i, flags, hints);
      given.forEach(add);
      lastTaken = length === 2 ? word : undefined;
      i += length;
    } catch (err) {
      error ??= err as ErrdefsError;
      i++;
    }
  }
  return {flags: values, positionals, tail: argv.slice(i), lastTaken, error};
}
