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
      const {length, given} = readEarlyFlag(argv, i, words.length === 0 ? undefined : canonicalID(table, words), table);
      if (length === 2) taken.set(word, argv[i + 1]!);
      earlyFlags.push(...given);
      i += length;
      continue;
    }
    words.push(word);
    i++;
    const id = canonicalID(table, words);
    if (Object.hasOwn(table.commands, id)) return help ? {kind: 'help', id} : {kind: 'command', id, earlyFlags, argv: argv.slice(i)};
    if (words.length === 2 || !Object.hasOwn(table.topics, id)) throw unknownCommand(words, argv[i], taken, table);
  }
  return {kind: 'help', id: words.length === 0 ? '' : canonicalID(table, words)};
}

/**
 * @param topic the word before the flag
 * @throws invalid_argument this flag may not stand before a command
 */
function readEarlyFlag<T>(argv: readonly string[], i: number, topic: string | undefined, table: CommandTable<T>): ReadFlag {
  try {
    return readFlag(argv, i, EARLY_FLAGS);
  } catch (err) {
    const {message, hint, details} = err as ErrdefsError;
    const list = `${topic} ls`;
    const help = Object.hasOwn(table.commands, list)
      ? `"berth ${list}" has flags of its own, and "berth ${topic} --help" lists the commands`
      : `see "berth ${topic === undefined ? '' : `${topic} `}--help"`;
    throw new ErrdefsError('invalid_argument', message, {
      hint: hint ?? `only global flags may stand before the command: ${help}`,
      ...(details?.flag === undefined ? {} : {details: {flag: details.flag, before: topic ?? 'berth'}}),
    });
  }
}

/** Commands of other tools that are no command here, one word or two, with what to do instead. */
const OTHER_TOOLS: Readonly<Record<string, string>> = {
  artifact: 'see "berth content push-object" and "berth referrers"',
  'auto-update': '"berth pull --if-changed" has the exit status 18 when nothing is new',
  bake: 'berth builds nothing from Dockerfiles; buildah does',
  build: 'berth builds nothing from Dockerfiles; buildah does, and "berth images import" reads its archives',
  builder: 'berth builds nothing from Dockerfiles; buildah does',
  buildx: 'berth builds nothing from Dockerfiles; buildah does',
  checkpoint: 'see "berth containers checkpoint" and "berth containers restore"',
  cleanup: 'nothing is left of a container that has ended; see "berth gc"',
  clone: '"berth commit" makes an image of a container, and "berth run" another container of it',
  compose: 'berth runs single containers',
  'containers prune': '"berth containers rm" removes them by name, and "berth containers ls -q" prints the names',
  context: 'there is no daemon, so there is nothing to connect to: --root names the store',
  delete: 'see "berth registry rm"',
  deprecations: 'see "berth doctor"',
  exists: 'the exit status of what does not exist is 5: see "berth containers info", "berth images inspect" and "berth volumes inspect"',
  export: 'see "berth images export"',
  farm: 'berth builds nothing from Dockerfiles; buildah does',
  'generate-sigstore-key': 'cosign signs; "berth images verify" and policies of namespaces check',
  generate: 'see "berth containers systemd"',
  healthcheck: 'nothing of berth stays to check a health: let a timer of systemd call "berth tasks exec"',
  history: 'see "berth images inspect"',
  'images decrypt': 'encrypted layers cannot be read; skopeo copies them with --decryption-key',
  'images encrypt': 'images are not encrypted; skopeo does it with --encryption-key',
  import: 'see "berth images import"',
  init: 'see "berth containers create"; --init runs tini in a container; a layout is made by what is copied to it: "berth copy REF oci:DIR"',
  insert: 'see "berth images append" and "berth cp"',
  install: '"berth images export" and "berth unpack" write files of an image',
  kube: 'berth runs single containers',
  'list-tags': 'see "berth tags"',
  list: 'see "berth images ls", "berth containers ls" and "berth tasks ls"',
  load: 'see "berth images import"',
  ls: 'see "berth images ls", "berth containers ls" and "berth tasks ls"',
  machine: 'berth needs no virtual machine: it runs on Linux',
  'manifest-digest': 'see "berth resolve"; of a file, sha256sum prints it',
  manifest: 'see "berth inspect --raw"',
  mount: 'see "berth images mount" and "berth snapshots mounts"; "berth cp" copies files of a container',
  network: 'networks are those of /etc/cni/net.d',
  new: 'see "berth images append": it makes an image of another one and a tar',
  node: 'berth runs single containers, on one machine',
  plugin: 'berth has no plugins: see "berth info" and "berth doctor"',
  plugins: 'berth has no plugins: see "berth info" and "berth doctor"',
  pod: 'berth runs single containers; --with-ns joins the namespaces of another one',
  port: 'the ports of a container are in "berth tasks ls --json"',
  pprof: 'there is no daemon to look into',
  raw: 'see "berth images append", "berth oci spec" and "berth unpack"',
  reload: 'there is nothing to load: volumes are directories of the state directory',
  remove: 'see "berth images rm", "berth containers rm" and "berth tasks rm"',
  rename: 'a container keeps its identifier; "berth commit" makes an image for another one',
  restore: 'see "berth containers checkpoint" and "berth containers restore"',
  runlabel: '"berth images inspect --content" shows the labels of an image',
  s: 'berth has no sandboxes; containers can share namespaces',
  sandbox: 'berth has no sandboxes; containers can share namespaces',
  sandboxes: 'berth has no sandboxes; containers can share namespaces',
  save: 'see "berth images export"',
  sb: 'berth has no sandboxes; containers can share namespaces',
  scp: 'see "berth copy", or "berth images export - REF" to a pipe',
  search: 'registries have no search: see "berth catalog" and "berth tags"',
  secret: 'mount a file: --volume FILE:/run/secrets/NAME:ro',
  service: 'berth runs single containers; "berth containers systemd" prints a unit',
  shim: 'conmon is in the place of the shim, and ends with its container',
  sign: 'cosign signs; "berth images verify" and policies of namespaces check',
  stack: 'berth runs single containers',
  'standalone-sign': 'cosign signs; "berth images verify" and policies of namespaces check',
  'standalone-verify': 'see "berth images verify"',
  stat: 'see "berth images inspect --content"',
  swarm: 'berth runs single containers, on one machine',
  system: 'see "berth df", "berth prune", "berth info" and "berth events"',
  tree: 'see "berth images inspect"',
  trust: 'cosign signs; "berth images verify" and policies of namespaces check',
  unmount: 'see "berth images unmount"',
  untag: 'see "berth images rm": it removes the name, and what nothing else refers to',
  'volumes export': 'a volume is a directory: its path is in "berth volumes inspect"',
  'volumes import': 'a volume is a directory: its path is in "berth volumes inspect"',
  'volumes mount': 'a volume is a directory: its path is in "berth volumes inspect"',
  'volumes update': 'a volume has only labels, which "berth volumes create" gives it',
};

/** @param next the word after `words`, if there is one */
function unknownCommand<T>(
  words: readonly string[],
  next: string | undefined,
  taken: ReadonlyMap<string, string>,
  table: CommandTable<T>,
): ErrdefsError {
  const [first = '', verb] = words;
  const topic = canonical(table.topicAliases, first);
  const isTopic = Object.hasOwn(table.topics, topic);
  const help = `see "berth ${isTopic ? `${topic} ` : ''}--help"`;
  const swallowed = [...taken].find(([, value]) =>
    [table.commands, table.topics].some((all) => Object.hasOwn(all, canonicalID(table, [value]))),
  );
  const nearWord = suggestion(table, isTopic ? topic : undefined, verb ?? first);
  // What follows a misspelt topic may be right.
  const whole = nearWord === undefined || isTopic || next === undefined ? undefined : canonicalID(table, [nearWord, next]);
  const near = whole !== undefined && Object.hasOwn(table.commands, whole) ? whole : nearWord;
  const typed = isTopic ? `${topic} ${verb}` : first;
  const elsewhere = [typed, ...(isTopic && verb !== undefined ? [verb] : [])]
    .map((line) => (Object.hasOwn(OTHER_TOOLS, line) ? OTHER_TOOLS[line] : undefined))
    .find((text) => text !== undefined);
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
