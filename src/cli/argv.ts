/** The words of one command, before oclif's parser sees them. */
import type {FlagInput} from '@oclif/core/parser';
import {ErrdefsError} from '../lib/errdefs.ts';

export interface SplitArgv {
  /** For the parser. */
  readonly head: readonly string[];
  /** What follows the last positional that is the command's own; untouched. */
  readonly tail: readonly string[];
  readonly help: boolean;
  readonly json: boolean;
}

/**
 * Splits what is the command's own from what it passes on, and takes from the first the things that must be known even
 * when the rest does not parse.
 *
 * `--flag=true` and `--flag=false` of boolean flags, which Go programs take and oclif does not, become the flag or nothing.
 *
 * @param positionals after that many of them everything is passed on; `Infinity` passes nothing on
 * @throws invalid_argument a boolean flag with another value
 */
export function splitArgv(argv: readonly string[], flags: FlagInput, positionals: number): SplitArgv {
  const byChar = new Map(Object.values(flags).flatMap((flag) => (flag.char === undefined ? [] : [[flag.char as string, flag]])));
  const head: string[] = [];
  let help = false;
  let json = false;
  let seen = 0;
  let i = 0;
  for (; i < argv.length && seen < positionals; i++) {
    const word = argv[i]!;
    if (word === '--') {
      if (positionals === Infinity) {
        head.push(...argv.slice(i));
        i = argv.length;
      }
      continue;
    }
    if (!word.startsWith('-') || word === '-') {
      head.push(word);
      seen++;
      continue;
    }
    help ||= word === '--help' || word === '-h';
    json ||= word === '--json';
    const equals = word.indexOf('=');
    const flag = word.startsWith('--') ? flags[equals === -1 ? word.slice(2) : word.slice(2, equals)] : byChar.get(word[1]!);
    if (flag?.type === 'boolean' && equals !== -1) {
      const value = word.slice(equals + 1);
      if (value !== 'true' && value !== 'false') throw new ErrdefsError('invalid_argument', `flag ${word} is not true or false`);
      if (value === 'true') head.push(word.slice(0, equals));
      json ||= value === 'true' && word.startsWith('--json=');
      continue;
    }
    head.push(word);
    const valueFollows = flag?.type === 'option' && equals === -1 && (word.startsWith('--') || word.length === 2);
    if (valueFollows && i + 1 < argv.length) head.push(argv[++i]!);
  }
  return {head, tail: argv.slice(i), help, json};
}
