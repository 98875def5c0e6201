/** Which command the words of a command line name. */
import {ErrdefsError} from '../lib/errdefs.ts';
import {GLOBAL_FLAGS} from './flags.ts';

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

/** Flags that may stand before the command; `true`: a value follows. `snapshots` has taken its own there since ever. */
const EARLY_FLAGS: ReadonlyMap<string, boolean> = new Map([
  ['--snapshotter', true],
  ...Object.entries(GLOBAL_FLAGS).flatMap(([name, flag]): [string, boolean][] => [
    [`--${name}`, flag.type === 'option'],
    ...(flag.char === undefined ? [] : ([[`-${flag.char}`, flag.type === 'option']] as [string, boolean][])),
  ]),
]);

/** Words of the flag at `argv[i]`: 1, or 2 with its value; 0 when it may not stand before a command. */
function earlyFlagLength(argv: readonly string[], i: number): number {
  const word = argv[i]!;
  const takesValue = EARLY_FLAGS.get(word);
  if (takesValue !== undefined) return takesValue ? 2 : 1;
  const attached = word.startsWith('--') ? word.slice(0, word.indexOf('=')) : word.slice(0, 2);
  return EARLY_FLAGS.get(attached) === true ? 1 : 0;
}

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
      const length = earlyFlagLength(argv, i);
      if (length === 0)
        throw new ErrdefsError('invalid_argument', `unknown flag ${word} before the command`, {
          hint: /^(-a|--address\b)/.test(word) ? 'there is no daemon, so there is no address' : `see "${program} --help"`,
        });
      early.push(...argv.slice(i, i + length));
      i += length;
      continue;
    }
    words.push(word);
    i++;
    const id = canonicalID(table, words);
    if (Object.hasOwn(table.commands, id)) return help ? {kind: 'help', id} : {kind: 'command', id, argv: [...early, ...argv.slice(i)]};
    if (words.length === 2 || !Object.hasOwn(table.topics, id)) throw unknownCommand(words, table, program);
  }
  return {kind: 'help', id: words.length === 0 ? '' : canonicalID(table, words)};
}

function unknownCommand<T>(words: readonly string[], table: CommandTable<T>, program: string): ErrdefsError {
  const given = canonicalID(table, words);
  const topic = given.split(' ')[0]!;
  const candidates = Object.hasOwn(table.topics, topic)
    ? Object.keys(table.commands).filter((id) => id.startsWith(`${topic} `))
    : [...Object.keys(table.commands), ...Object.keys(table.topics)];
  const [nearest] = candidates.map((id) => ({id, distance: editDistance(id, given)})).sort((a, b) => a.distance - b.distance);
  const help = `see "${program} ${Object.hasOwn(table.topics, topic) ? `${topic} ` : ''}--help"`;
  const close = nearest !== undefined && nearest.distance <= Math.max(2, Math.floor(given.length / 4));
  return new ErrdefsError('invalid_argument', `unknown command ${JSON.stringify(words.join(' '))}`, {
    hint: close ? `did you mean "${program} ${nearest.id}"? Otherwise ${help}` : help,
  });
}

/** Insertions, deletions, replacements and swaps of neighbours that turn one word into the other. */
function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({length: b.length + 1}, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? rows[i - 2]![j - 2]! + 1 : replaced;
      row.push(Math.min(rows[i - 1]![j]! + 1, row[j - 1]! + 1, replaced, swapped));
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}
