/**
 * Completes a command line for a shell: `ctr __complete WORD…`, where the last word is the one that is being typed. Prints a candidate a
 * line, with a tab and a description where there is one; then `:` and what the shell itself should add: nothing, `files` or `directories`.
 *
 * Nothing is changed and nothing fails: what cannot be read has no candidates.
 */
import type {FlagInput} from '@oclif/core/parser';
import type {NamespaceClient} from '../lib/client/types/index.ts';
import type {Context} from './command-context.ts';
import type {CommandClass, Commands} from './command-types.ts';
import {readSettings} from './config-file.ts';
import {omitUndefined} from './omit-undefined.ts';
import {ownText} from './printable.ts';
import {readFlag, splitArgv} from './read-flag-words.ts';
import {canonicalID} from './resolve-command.ts';
import {GLOBAL_FLAGS, snapshotter} from './shared-flags.ts';

/** What stands in an argument or a flag's value. */
export type ValueKind =
  | 'container'
  | 'container-or-image'
  | 'container-path'
  | 'digest'
  | 'digest-or-file'
  | 'directory'
  | 'file'
  | 'image'
  | 'lease'
  | 'namespace'
  | 'platform'
  | 'snapshot'
  | 'snapshotter'
  | 'transport'
  | 'volume'
  /** Nothing that could be listed: a new name, a number, an address, a filter. */
  | 'free';

/** Of arguments, by `<command> <argument>`, else by `<topic> <argument>`, else by the argument's name alone. */
export const ARGUMENT_KINDS: Readonly<Record<string, ValueKind>> = {
  'attach file': 'file',
  'containers cp dest': 'container-path',
  'containers cp src': 'container-path',
  'containers create id': 'free',
  'containers create image': 'image',
  'containers id': 'container',
  'commit id': 'container',
  'content digest': 'digest',
  'content push-object object': 'digest-or-file',
  'copy source': 'transport',
  'copy destination': 'transport',
  'diff id': 'container-or-image',
  'images export out': 'file',
  'images export ref': 'image',
  'images import in': 'file',
  'images append layer': 'file',
  'images mount target': 'directory',
  'images ref': 'image',
  'images source': 'image',
  'images tag target': 'free',
  'images target': 'free',
  'images unmount target': 'directory',
  'leases id': 'lease',
  'namespaces create name': 'free',
  'namespaces name': 'namespace',
  'pull ref': 'image',
  'push local': 'image',
  'push remote': 'image',
  'repack directory': 'directory',
  'run image': 'image',
  'snapshots commit name': 'free',
  'snapshots diff a': 'snapshot',
  'snapshots diff b': 'snapshot',
  'snapshots mounts target': 'directory',
  'snapshots prepare key': 'free',
  'snapshots unpack digest': 'digest',
  'snapshots view key': 'free',
  'snapshots key': 'snapshot',
  'snapshots parent': 'snapshot',
  'sync file': 'file',
  'tasks id': 'container',
  'unpack directory': 'directory',
  'unpack ref': 'image',
  'unshare program': 'file',
  'volumes create name': 'free',
  'volumes name': 'volume',
};

/** Of flags, by their names; others by the value that their help shows. */
const FLAG_KINDS: Readonly<Record<string, ValueKind>> = {
  manifest: 'digest',
  namespace: 'namespace',
  'new-base': 'image',
  'old-base': 'image',
  platform: 'platform',
  snapshotter: 'snapshotter',
};
const HELP_VALUE_KINDS: Readonly<Record<string, ValueKind>> = {DIR: 'directory', FILE: 'file'};

const PLATFORMS = ['linux/amd64', 'linux/arm64', 'linux/arm/v7', 'linux/386', 'linux/ppc64le', 'linux/riscv64', 'linux/s390x'];
const SNAPSHOTTERS = ['erofs', 'native', 'overlayfs'];
const TRANSPORTS = ['docker://', 'oci:', 'oci-archive:', 'docker-archive:', 'dir:'];

interface Candidate {
  readonly value: string;
  readonly description?: string;
}

/** @param value what the shell should complete besides */
interface Completion {
  readonly candidates: readonly Candidate[];
  readonly shell?: 'files' | 'directories';
}

const NONE: Completion = {candidates: []};

const plain = (values: readonly string[]): Completion => ({candidates: values.map((value) => ({value}))});

/** A word that every shell takes as it stands. */
const isPlainWord = (word: string): boolean => /^[\w./:@+~=,-]+$/.test(word);

interface Definition {
  readonly char?: string;
  readonly description?: string;
  readonly helpValue?: string;
  readonly hidden?: boolean;
  readonly multiple?: boolean;
  readonly options?: readonly string[];
  readonly type: string;
}

export async function printCompletions(words: readonly string[], commands: Commands, context: Context): Promise<void> {
  const {candidates, shell} = await complete(words, commands, context).catch(() => NONE);
  const rows = candidates
    .filter(({value}) => isPlainWord(value))
    .map(({value, description}) => (description === undefined ? value : `${value}\t${description}`));
  context.stdout(ownText(`${[...rows, `:${shell ?? ''}`].join('\n')}\n`));
}

async function complete(words: readonly string[], commands: Commands, context: Context): Promise<Completion> {
  const current = words.at(-1) ?? '';
  const {id, topic, early, rest, dangling} = before(words.slice(0, -1), commands);
  const command = id === undefined ? undefined : (await commands.commands[id]!()).default;
  const flags = {...(command === undefined ? {snapshotter: snapshotter()} : {}), ...GLOBAL_FLAGS, ...command?.flags} as FlagInput;
  const known = [...early, ...rest];
  const values = (kind: ValueKind, given: string): Promise<Completion> => listValues(kind, given, known, flags, context);

  if (dangling !== undefined) return flagValue(dangling, flags, current, values);
  const end = rest.indexOf('--');
  if (command === undefined || end === -1) {
    const attached = /^--?([\w-]+)=(.*)$/s.exec(current);
    if (attached !== null && Object.hasOwn(flags, attached[1]!)) {
      const {candidates, shell} = await flagValue(attached[1]!, flags, attached[2]!, values);
      const prefix = current.slice(0, current.length - attached[2]!.length);
      return {candidates: candidates.map((one) => ({...one, value: prefix + one.value})), ...omitUndefined({shell})};
    }
    if (command !== undefined && rest.length > 0) {
      const unfinished = danglingFlag(rest, flags);
      if (unfinished !== undefined) return flagValue(unfinished, flags, current, values);
    }
    if (current.startsWith('-')) return begins(flagNames(flags), current);
  }
  if (command === undefined) return begins(await nextWords(topic, commands), current);
  return argumentValue(id!, command, rest, flags, current, values);
}

/** What the words before the one that is typed are. */
interface Before {
  /** The command. Without it `topic` is the topic so far; '' if the words are no command. */
  readonly id?: string;
  readonly topic?: string;
  /** Flags before the command, with their values. */
  readonly early: readonly string[];
  /** The words after the command. */
  readonly rest: readonly string[];
  /** The flag before the command whose value is being typed. */
  readonly dangling?: string;
}

function before(words: readonly string[], commands: Commands): Before {
  const EARLY = {snapshotter: snapshotter(), ...GLOBAL_FLAGS} as FlagInput;
  const names: string[] = [];
  const early: string[] = [];
  for (let i = 0; i < words.length; ) {
    const word = words[i]!;
    if (word.startsWith('-')) {
      try {
        const {length} = readFlag(words, i, EARLY);
        early.push(...words.slice(i, i + length));
        i += length;
        continue;
      } catch {
        const dangling = i === words.length - 1 ? danglingFlag([word], EARLY) : undefined;
        return {early, rest: [], ...omitUndefined({dangling, topic: names[0]})};
      }
    }
    names.push(word);
    i++;
    const id = canonicalID(commands, names);
    if (Object.hasOwn(commands.commands, id)) return {id, early, rest: words.slice(i)};
    if (names.length === 2 || !Object.hasOwn(commands.topics, id)) return {early, rest: [], topic: ''};
    names[0] = id;
  }
  return {early, rest: [], ...omitUndefined({topic: names[0]})};
}

/** The flag at the end of these words whose value is still to come. */
function danglingFlag(words: readonly string[], flags: FlagInput): string | undefined {
  const last = words.at(-1)!;
  if (!last.startsWith('-') || last === '-' || last.includes('=')) return undefined;
  try {
    // With a value behind it, it would take two words.
    const {length, given} = readFlag([last, 'x'], 0, flags);
    return length === 2 ? given.at(-1)!.name : undefined;
  } catch {
    return undefined;
  }
}

const begins = (candidates: readonly Candidate[], current: string): Completion => ({
  candidates: candidates.filter(({value}) => value.startsWith(current)),
});

function flagNames(flags: FlagInput): readonly Candidate[] {
  return Object.entries(flags as unknown as Record<string, Definition>)
    .filter(([, {hidden}]) => hidden !== true)
    .map(([name, {description}]) => ({value: `--${name}`, ...omitUndefined({description})}));
}

/** Set by scripts/build.ts: the summary of each command, by its words. To load all of them takes longer than a user waits for. */
declare const BERTH_SUMMARIES: Readonly<Record<string, string>> | undefined;

const summaryOf = async (id: string, {commands}: Commands): Promise<string> =>
  typeof BERTH_SUMMARIES === 'undefined' ? (await commands[id]!()).default.summary : BERTH_SUMMARIES[id]!;

/** First words, or the verbs of a topic. An alias is not offered: it would be the same command twice. */
async function nextWords(topic: string | undefined, commands: Commands): Promise<readonly Candidate[]> {
  const prefix = topic === undefined ? '' : `${topic} `;
  const ids = Object.keys(commands.commands).filter((id) => id.startsWith(prefix) && !id.slice(prefix.length).includes(' '));
  const own = await Promise.all(ids.map(async (id) => ({value: id.slice(prefix.length), description: await summaryOf(id, commands)})));
  const groups = Object.entries(commands.topics).map(([value, description]) => ({value, description}));
  return [...own, ...(topic === undefined ? groups : [])].sort((a, b) => (a.value < b.value ? -1 : 1));
}

type Values = (kind: ValueKind, given: string) => Promise<Completion>;

async function flagValue(name: string, flags: FlagInput, given: string, values: Values): Promise<Completion> {
  const {options, helpValue = ''} = flags[name] as unknown as Definition;
  if (options !== undefined) return begins(plain(options).candidates, given);
  return values(FLAG_KINDS[name] ?? HELP_VALUE_KINDS[helpValue] ?? 'free', given);
}

async function argumentValue(
  id: string,
  {args, positionals}: CommandClass,
  rest: readonly string[],
  flags: FlagInput,
  current: string,
  values: Values,
): Promise<Completion> {
  const given = splitArgv(rest, flags, {bound: positionals});
  if (given.positionals.length >= positionals) return NONE;
  const entries = Object.entries(args as unknown as Record<string, Definition>);
  const at = Math.min(given.positionals.length, entries.length - 1);
  const entry = entries[at];
  if (entry === undefined || (given.positionals.length >= entries.length && entry[1].multiple !== true)) return NONE;
  const [name, {options}] = entry;
  const found = options === undefined ? await values(kindOfArgument(id, name), current) : begins(plain(options).candidates, current);
  // What stands there already is not wanted twice.
  return {...found, candidates: found.candidates.filter(({value}) => !given.positionals.includes(value))};
}

export const kindOfArgument = (id: string, name: string): ValueKind =>
  ARGUMENT_KINDS[`${id} ${name}`] ?? (id.includes(' ') ? ARGUMENT_KINDS[`${id.split(' ', 1)[0]} ${name}`] : undefined) ?? 'free';

async function listValues(
  kind: ValueKind,
  given: string,
  words: readonly string[],
  flags: FlagInput,
  context: Context,
): Promise<Completion> {
  if (kind === 'free') return NONE;
  if (kind === 'file') return {candidates: [], shell: 'files'};
  if (kind === 'directory') return {candidates: [], shell: 'directories'};
  if (kind === 'container-path' && /[/:.]/.test(given)) return {candidates: [], shell: 'files'};
  if (kind === 'platform') return begins(plain(PLATFORMS).candidates, given);
  if (kind === 'transport') {
    const local = /^(?:oci|oci-archive|docker-archive|dir):/.test(given);
    return local ? {candidates: [], shell: 'files'} : begins(plain(TRANSPORTS).candidates, given);
  }
  if (kind === 'snapshotter') return begins(plain(SNAPSHOTTERS).candidates, given);

  const split = splitArgv(words, flags).flags;
  const settings = await readSettings();
  const text = (name: string, variable: string): string | undefined => {
    const value = split.get(name);
    return Array.isArray(value) ? value.at(-1) : process.env[variable] || settings.get(name)?.value;
  };
  const client = await context.open(omitUndefined({root: text('root', 'BERTH_ROOT'), state: text('state', 'BERTH_STATE')}));
  try {
    if (kind === 'namespace') return begins(plain((await client.namespaces.list()).map(({name}) => name)).candidates, given);
    const namespace = client.namespace(text('namespace', 'CONTAINERD_NAMESPACE') ?? 'default');
    const names = await namesOf(kind, namespace, text('snapshotter', 'CONTAINERD_SNAPSHOTTER'));
    return {...begins(plain(names).candidates, given), ...(kind === 'container-path' || kind === 'digest-or-file' ? {shell: 'files'} : {})};
  } finally {
    await client.close();
  }
}

async function namesOf(
  kind: 'container' | 'container-or-image' | 'container-path' | 'digest' | 'digest-or-file' | 'image' | 'lease' | 'snapshot' | 'volume',
  {containers, content, images, leases, snapshots, volumes}: NamespaceClient,
  snapshotterName: string | undefined,
): Promise<readonly string[]> {
  switch (kind) {
    case 'container':
      return (await containers.list()).map(({id}) => id);
    case 'container-or-image':
      return [...(await containers.list()).map(({id}) => id), ...(await images.records()).map(({name}) => name)];
    case 'container-path':
      return (await containers.list()).map(({id}) => `${id}:`);
    case 'digest':
    case 'digest-or-file':
      return (await content.list()).map(({digest}) => digest);
    case 'image':
      return (await images.records()).map(({name}) => name);
    case 'lease':
      return (await leases.list()).map(({id}) => id);
    case 'snapshot':
      return (await snapshots(snapshotterName).list()).map(({key}) => key);
    case 'volume':
      return (await volumes.list()).map(({name}) => name);
  }
}
