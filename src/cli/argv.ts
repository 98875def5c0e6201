/** The words of a command line as flags and positionals, in every form that people and Go programs write them in. */
import type {FlagInput} from '@oclif/core/parser';
import {ErrdefsError} from '../lib/errdefs.ts';
import {nearest} from './nearest.ts';

/** One flag as it was given. */
export interface GivenFlag {
  /** Its long name, without dashes. */
  readonly name: string;
  /** Absent for a boolean flag. */
  readonly value?: string;
  /** Of a boolean flag. */
  readonly on?: boolean;
}

export interface ReadFlag {
  /** Words that it takes: its own, and 1 more where the value is a word of its own. */
  readonly length: 1 | 2;
  /** Several where short ones share a word. */
  readonly given: readonly GivenFlag[];
}

/** What is asked for in other tools by a flag that is not known here, by its name with dashes. */
export type ForeignFlags = Readonly<Record<string, string>>;

const shown = (word: string): string => (/^[\w-]+$/.test(word) ? word : JSON.stringify(word));

const unknownFlag = (word: string, flags: FlagInput, foreign: ForeignFlags): ErrdefsError => {
  const hint = Object.hasOwn(foreign, word) ? foreign[word] : nearestFlag(word, flags);
  return new ErrdefsError('invalid_argument', `unknown flag ${shown(word)}`, hint === undefined ? {} : {hint});
};

function nearestFlag(word: string, flags: FlagInput): string | undefined {
  const found = nearest(
    word.replace(/^-+/, ''),
    Object.keys(flags).filter((name) => !flags[name]!.hidden),
  );
  return found === undefined ? undefined : `did you mean --${found}?`;
}

const invalid = (what: string, hint?: string): ErrdefsError => new ErrdefsError('invalid_argument', what, hint === undefined ? {} : {hint});

/** Whether a word is a flag of these, in any form. */
function isFlag(word: string, flags: FlagInput): boolean {
  try {
    readFlag([word, ''], 0, flags);
    return true;
  } catch {
    return false;
  }
}

/**
 * Reads the flag at `argv[i]`: `--name`, `--name=value`, `--name value`; the same with one dash, as Go has it; `-x`, `-xvalue`,
 * `-x=value`, `-x value`, and several short ones in a word, of which the last may have a value. A boolean flag takes `=true` and
 * `=false`. A value that looks like a flag is written with `=`.
 *
 * @param foreign hints for flags of other tools
 * @throws invalid_argument naming the flag
 */
export function readFlag(argv: readonly string[], i: number, flags: FlagInput, foreign: ForeignFlags = {}): ReadFlag {
  const word = argv[i]!;
  const equals = word.indexOf('=');
  const bare = equals === -1 ? word : word.slice(0, equals);
  const attached = equals === -1 ? undefined : word.slice(equals + 1);
  const name = bare.replace(/^--?/, '');

  const option = (flagName: string, form: string, value: string | undefined): Pick<ReadFlag, 'length'> & {given: GivenFlag} => {
    if (value !== undefined) return {length: 1, given: {name: flagName, value}};
    const next = argv[i + 1];
    if (next === undefined) throw invalid(`flag ${form} needs a value`);
    if (next.startsWith('--') || (next.startsWith('-') && next !== '-' && isFlag(next, flags)))
      throw invalid(`flag ${form} needs a value`, `${shown(next)} is a flag; if it is meant as the value: --${flagName}=${shown(next)}`);
    return {length: 2, given: {name: flagName, value: next}};
  };
  const boolean = (flagName: string, form: string, value: string | undefined): GivenFlag => {
    if (value !== undefined && value !== 'true' && value !== 'false')
      throw invalid(`flag ${form} takes no value but true or false, not ${JSON.stringify(value)}`);
    return {name: flagName, on: value !== 'false'};
  };

  if (name.length > 1 && Object.hasOwn(flags, name)) {
    if (flags[name]!.type === 'boolean') return {length: 1, given: [boolean(name, `--${name}`, attached)]};
    const {length, given} = option(name, `--${name}`, attached);
    return {length, given: [given]};
  }
  if (word.startsWith('--')) throw unknownFlag(bare, flags, foreign);

  const byChar = (char: string): string | undefined => Object.keys(flags).find((key) => flags[key]!.char === char);
  const given: GivenFlag[] = [];
  for (let at = 1; at < word.length; at++) {
    const char = word[at]!;
    const found = byChar(char);
    if (found === undefined) {
      const short = `-${char}`;
      // What follows may be a value, and a secret.
      const whole = /^-[\w-]+$/.test(bare) ? bare : undefined;
      if (whole !== undefined && (Object.hasOwn(foreign, whole) || (given.length === 0 && !Object.hasOwn(foreign, short))))
        throw unknownFlag(whole, flags, foreign);
      const err = unknownFlag(short, {}, foreign);
      throw given.length > 0 && whole !== undefined ? invalid(`unknown flag ${shown(short)} in ${whole}`, err.hint) : err;
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
  /** Each flag that was given: its values in their order, or of a boolean flag whether it is on, by the last word. */
  readonly flags: ReadonlyMap<string, readonly string[] | boolean>;
  readonly positionals: readonly string[];
  /** What follows the last positional that is the command's own; untouched. */
  readonly tail: readonly string[];
  /** The first thing that is wrong. The rest is read all the same: `--json` and `--help` count wherever they are. */
  readonly error: ErrdefsError | undefined;
}

/** @param bound after that many positionals everything is passed on; `Infinity` passes nothing on */
export function splitArgv(argv: readonly string[], flags: FlagInput, bound: number, foreign: ForeignFlags = {}): SplitArgv {
  const values = new Map<string, string[] | boolean>();
  const positionals: string[] = [];
  let error: ErrdefsError | undefined;
  let i = 0;
  let onlyPositionals = false;
  while (i < argv.length && positionals.length < bound) {
    const word = argv[i]!;
    if (word === '--' && !onlyPositionals) {
      onlyPositionals = bound === Number.POSITIVE_INFINITY;
      i++;
      continue;
    }
    if (onlyPositionals || !word.startsWith('-') || word === '-') {
      positionals.push(word);
      i++;
      continue;
    }
    try {
      const {length, given} = readFlag(argv, i, flags, foreign);
      for (const {name, value, on} of given) {
        const before = values.get(name);
        if (value === undefined) values.set(name, on ?? true);
        else if (!Array.isArray(before)) values.set(name, [value]);
        else {
          if (!(flags[name] as {multiple?: boolean}).multiple) error ??= invalid(`flag --${name} is given more than once`);
          before.push(value);
        }
      }
      i += length;
    } catch (err) {
      error ??= err as ErrdefsError;
      i++;
    }
  }
  return {flags: values, positionals, tail: argv.slice(i), error};
}

/** No word of a command line has one, so it marks what is a value though it looks like a flag. */
const MARK = '\0';

/** The words again, for oclif's parser, in the one form that it cannot take for another. */
export const canonicalWords = ({flags, positionals}: SplitArgv): string[] => [
  ...[...flags].flatMap(([name, value]) => {
    if (typeof value === 'boolean') return value ? [`--${name}`] : [];
    return value.flatMap((text) => [`--${name}`, MARK + text]);
  }),
  '--',
  ...positionals,
];

/** A value of a flag as it was given. @param text as the parser has it: from `canonicalWords`, from the environment, or a default */
export const plainValue = (text: string): string => (text.startsWith(MARK) ? text.slice(MARK.length) : text);
