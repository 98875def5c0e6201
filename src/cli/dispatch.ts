/** Which command the words of a command line name. */
import type {FlagInput} from '@oclif/core/parser';
import {ErrdefsError} from '../lib/errdefs.ts';
import {readFlag} from './argv.ts';
import {GLOBAL_FLAGS, snapshotter} from './flags.ts';
import {nearest} from './nearest.ts';

/** Commands by their words, and other words for the same. */
export interface CommandTable<T> {
  /** Such as `images ls` or `pull`. No command's words begin another's. */
  readonly commands: Readonly<Record<string, T>>;
  /** Description of each first word that is no command itself. */
  readonly topics: Readonly<Record<string, string>>;
  /** Other names of topics: `i` for `images`. */
  readonly topicAliases: Readonly<Record<string, readonly string[]>>;
  /** Other last words, in every topic: `list` for `ls`. */
  readonly verbAliases: Readonly<Record<string, readonly string[]>>;
  /** Other names of single commands: `images pull` for `pull`. */
  readonly aliases: Readonly<Record<string, readonly string[]>>;
}

export type Dispatch =
  | {readonly kind: 'command'; readonly id: string; readonly argv: readonly string[]}
  /** `id` names a command or a topic; empty: the program. */
  | {readonly kind: 'help'; readonly id: string}
  | {readonly kind: 'version'};

/** Flags that may stand before the command: the global ones, and ctr's `snapshots --snapshotter NAME ls`. */
const EARLY_FLAGS: FlagInput = {snapshotter: snapshotter(), ...GLOBAL_FLAGS};

const canonical = (aliases: Readonly<Record<string, readonly string[]>>, word: string): string =>
  Object.keys(aliases).find((name) => aliases[name]!.includes(word)) ?? word;

/** The command's own name for what may be an alias of it. */
export function canonicalID<T>(table: CommandTable<T>, words: readonly string[]): string {
  const [topic, verb] = words;
  const name = canonical(table.topicAliases, topic ?? '');
  if (verb === undefined) return canonical(table.aliases, name);
  const whole = canonical(table.aliases, `${name} ${verb}`);
  return Object.hasOwn(table.commands, whole) ? whole : `${name} ${canonical(table.verbAliases, verb)}`;
}

/**
 * @returns what to do; for a command also the words that are left, with the flags that stood before it first
 * @throws invalid_argument no such command, with the nearest one as the hint
 */
export function dispatch<T>(argv: readonly string[], table: CommandTable<T>, program: string): Dispatch {
  const early: string[] = [];
  const words: string[] = [];
  /** Values of early flags that are words of their own, by the flag's. */
  const taken = new Map<string, string>();
  let help = false;
  let i = 0;
  while (i < argv.length) {
    const word = argv[i]!;
    if (word === '--help' || word === '-h' || (word === 'help' && words.length < 2) || (word === 'h' && words.length === 0)) {
      help = true;
      i++;
      continue;
    }
    if ((word === '--version' || word === '-v') && words.length === 0) return {kind: 'version'};
    if (word.startsWith('-')) {
      const length = earlyFlagLength(argv, i, program);
      if (length === 2) taken.set(word, argv[i + 1]!);
      early.push(...argv.slice(i, i + length));
      i += length;
      continue;
    }
    words.push(word);
    i++;
    const id = canonicalID(table, words);
    if (Object.hasOwn(table.commands, id)) return help ? {kind: 'help', id} : {kind: 'command', id, argv: [...early, ...argv.slice(i)]};
    if (words.length === 2 || !Object.hasOwn(table.topics, id)) throw unknownCommand(words, taken, table, program);
  }
  return {kind: 'help', id: words.length === 0 ? '' : canonicalID(table, words)};
}

/** Words of the flag at `argv[i]`. @throws invalid_argument it may not stand before a command */
function earlyFlagLength(argv: readonly string[], i: number, program: string): number {
  try {
    return readFlag(argv, i, EARLY_FLAGS).length;
  } catch (err) {
    const {message, hint} = err as ErrdefsError;
    if (/^(-a|--?address)\b/.test(argv[i]!))
      throw new ErrdefsError('invalid_argument', message, {hint: 'there is no daemon, so there is no address'});
    throw new ErrdefsError('invalid_argument', message, {
      hint: hint ?? `only global flags may stand before the command: see "${program} --help"`,
    });
  }
}

/** Commands of other tools, and ours for the same. */
const FOREIGN: Readonly<Record<string, string>> = {
  inspect: 'images inspect',
  ps: 'containers ls',
  rm: 'containers rm',
  rmi: 'images rm',
  tag: 'images tag',
};

function unknownCommand<T>(
  words: readonly string[],
  taken: ReadonlyMap<string, string>,
  table: CommandTable<T>,
  program: string,
): ErrdefsError {
  const [first = '', verb] = words;
  const topic = canonical(table.topicAliases, first);
  const isTopic = Object.hasOwn(table.topics, topic);
  const help = `see "${program} ${isTopic ? `${topic} ` : ''}--help"`;
  const swallowed = [...taken].find(([, value]) =>
    [table.commands, table.topics].some((all) => Object.hasOwn(all, canonicalID(table, [value]))),
  );
  const near = suggestion(table, isTopic ? topic : undefined, verb ?? first);
  const hint =
    swallowed !== undefined
      ? `${swallowed[0]} has taken "${swallowed[1]}" as its value`
      : near === undefined
        ? help
        : `did you mean "${program} ${near}"? Otherwise ${help}`;
  return new ErrdefsError('invalid_argument', `unknown command ${JSON.stringify(words.join(' '))}`, {hint});
}

/** @param topic whose verb the word should be; `undefined` when it is a first word */
function suggestion<T>(table: CommandTable<T>, topic: string | undefined, word: string): string | undefined {
  if (topic === undefined) {
    if (Object.hasOwn(FOREIGN, word) && Object.hasOwn(table.commands, FOREIGN[word]!)) return FOREIGN[word];
    return nearest(word, [...Object.keys(table.commands).filter((id) => !id.includes(' ')), ...Object.keys(table.topics)]);
  }
  const prefix = `${topic} `;
  const verb = nearest(
    word,
    Object.keys(table.commands).flatMap((id) => (id.startsWith(prefix) ? [id.slice(prefix.length)] : [])),
  );
  return verb === undefined ? undefined : prefix + verb;
}
