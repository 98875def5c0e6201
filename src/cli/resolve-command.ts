/** Finds the command that a command line calls. */
import type {FlagInput} from '@oclif/core/parser';
import {ErrdefsError} from '../lib/errdefs.ts';
import type {CommandTable} from './command-types.ts';
import {nearest} from './did-you-mean.ts';
import {type GivenFlag, type ReadFlag, readFlag} from './read-flag-words.ts';
import {GLOBAL_FLAGS, snapshotter} from './shared-flags.ts';

export type Resolved =
  /** `argv` are the words after the command, `earlyFlags` the flags before it. */
  | {readonly kind: 'command'; readonly id: string; readonly earlyFlags: readonly GivenFlag[]; readonly argv: readonly string[]}
  /** `id` is a command or a topic; empty for the program. */
  | {readonly kind: 'help'; readonly id: string}
  | {readonly kind: 'version'};

/** Flags that may stand before the command. ctr accepts --snapshotter there: `snapshots --snapshotter NAME ls`. */
export const EARLY_FLAGS: FlagInput = {snapshotter: snapshotter(), ...GLOBAL_FLAGS};

const canonical = (aliases: Readonly<Record<string, readonly string[]>>, word: string): string =>
  Object.keys(aliases).find((name) => aliases[name]!.includes(word)) ?? word;

/** The id of the command or topic that these words call, by its own name or an alias. */
export function canonicalID<T>(table: CommandTable<T>, words: readonly string[]): string {
  const [topic, verb] = words;
  const name = canonical(table.topicAliases, topic ?? '');
  if (verb === undefined) return canonical(table.aliases, name);
  const whole = canonical(table.aliases, `${name} ${verb}`);
  return Object.hasOwn(table.commands, whole) ? whole : `${name} ${canonical(table.verbAliases, verb)}`;
}

/** @throws invalid_argument there is no such command; the hint is the nearest one */
export function resolveCommand<T>(argv: readonly string[], table: CommandTable<T>): Resolved {
  const earlyFlags: GivenFlag[] = [];
  const words: string[] = [];
  /** Early flags whose value was a word of its own, with that word. */
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
      const {length, given} = readEarlyFlag(argv, i);
      if (length === 2) taken.set(word, argv[i + 1]!);
      earlyFlags.push(...given);
      i += length;
      continue;
    }
    words.push(word);
    i++;
    const id = canonicalID(table, words);
    if (Object.hasOwn(table.commands, id)) return help ? {kind: 'help', id} : {kind: 'command', id, earlyFlags, argv: argv.slice(i)};
    if (words.length === 2 || !Object.hasOwn(table.topics, id)) throw unknownCommand(words, taken, table);
  }
  return {kind: 'help', id: words.length === 0 ? '' : canonicalID(table, words)};
}

/** @throws invalid_argument this flag may not stand before a command */
function readEarlyFlag(argv: readonly string[], i: number): ReadFlag {
  try {
    return readFlag(argv, i, EARLY_FLAGS);
  } catch (err) {
    const {message, hint} = err as ErrdefsError;
    const isAddress = /^(-a|--?address)\b/.test(argv[i]!);
    throw new ErrdefsError('invalid_argument', message, {
      hint: isAddress
        ? 'there is no daemon, so there is no address'
        : (hint ?? `only global flags may stand before the command: see "berth --help"`),
    });
  }
}

/** Commands of other tools that are no command here, one word or two, with what to do instead. */
const OTHER_TOOLS: Readonly<Record<string, string>> = {
  build: 'berth builds nothing from Dockerfiles; buildah does, and "berth images import" reads its archives',
  compose: 'berth runs single containers',
  checkpoint: 'see "berth containers checkpoint" and "berth containers restore"',
  create: 'see "berth containers create"',
  history: 'see "berth images inspect"',
  'images decrypt': 'encrypted layers cannot be read; skopeo copies them with --decryption-key',
  'images encrypt': 'images are not encrypted; skopeo does it with --encryption-key',
  import: 'see "berth images import"',
  'list-tags': 'see "berth tags"',
  list: 'see "berth images ls", "berth containers ls" and "berth tasks ls"',
  ls: 'see "berth images ls", "berth containers ls" and "berth tasks ls"',
  load: 'see "berth images import"',
  delete: 'see "berth registry rm"',
  export: 'see "berth images export"',
  manifest: 'see "berth inspect --raw"',
  'manifest-digest': 'see "berth resolve"; of a file, sha256sum prints it',
  network: 'networks are those of /etc/cni/net.d',
  plugins: 'berth has no plugins: see "berth info" and "berth doctor"',
  pprof: 'there is no daemon to look into',
  rename: 'a container keeps its identifier; "berth commit" makes an image for another one',
  sandboxes: 'berth has no sandboxes; containers can share namespaces',
  save: 'see "berth images export"',
  search: 'registries have no search: see "berth catalog" and "berth tags"',
  shim: 'conmon is in the place of the shim, and ends with its container',
  'standalone-sign': 'cosign signs; "berth images verify" and policies of namespaces check',
  system: 'see "berth df", "berth prune", "berth info" and "berth events"',
};

function unknownCommand<T>(words: readonly string[], taken: ReadonlyMap<string, string>, table: CommandTable<T>): ErrdefsError {
  const [first = '', verb] = words;
  const topic = canonical(table.topicAliases, first);
  const isTopic = Object.hasOwn(table.topics, topic);
  const help = `see "berth ${isTopic ? `${topic} ` : ''}--help"`;
  const swallowed = [...taken].find(([, value]) =>
    [table.commands, table.topics].some((all) => Object.hasOwn(all, canonicalID(table, [value]))),
  );
  const near = suggestion(table, isTopic ? topic : undefined, verb ?? first);
  const typed = isTopic ? `${topic} ${verb}` : first;
  const elsewhere = Object.hasOwn(OTHER_TOOLS, typed) ? OTHER_TOOLS[typed] : undefined;
  const hint =
    swallowed !== undefined
      ? `${swallowed[0]} has taken "${swallowed[1]}" as its value`
      : (elsewhere ?? (near === undefined ? help : `did you mean "berth ${near}"? Otherwise ${help}`));
  return new ErrdefsError('invalid_argument', `unknown command ${JSON.stringify(words.join(' '))}`, {hint});
}

/** @param topic the topic before the word; `undefined` if it is the first word */
function suggestion<T>(table: CommandTable<T>, topic: string | undefined, word: string): string | undefined {
  if (topic === undefined)
    return nearest(word, [...Object.keys(table.commands).filter((id) => !id.includes(' ')), ...Object.keys(table.topics)]);
  const prefix = `${topic} `;
  const verb = nearest(
    word,
    Object.keys(table.commands).flatMap((id) => (id.startsWith(prefix) ? [id.slice(prefix.length)] : [])),
  );
  return verb === undefined ? undefined : prefix + verb;
}
