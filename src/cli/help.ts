/** Prints the help, drawn by oclif's `Help` from the command table, and the version. Loaded when asked for. */
import type {Command, Interfaces} from '@oclif/core';
import {Help} from '@oclif/core/help';
import type {ArgInput, FlagInput} from '@oclif/core/parser';
import {CLASSES, CODES} from '../lib/errdefs.ts';
import {type BuildInfo, buildInfo, userAgent} from './build-info.ts';
import type {Context} from './command-context.ts';
import type {CommandClass, Commands} from './command-types.ts';
import {omitUndefined} from './omit-undefined.ts';
import {lines, ownText} from './printable.ts';
import {GLOBAL_FLAGS} from './shared-flags.ts';

/** The program's manual, too, is made of what this file exports: see scripts/man-pages.ts. */
export const STATUSES = ['0  success', ...CODES.map((code) => `${CLASSES[code].exit}  ${CLASSES[code].text}`), '128+n  ended by signal n'];

export const SUMMARY = 'Containers without a daemon: pull, store, unpack, run and clean up OCI images, in namespaces.';
export const RUN_STATUSES =
  '"run" exits with the status of the container; 125 is an error in berth itself, 126 a command that cannot be executed and 127 one that is not found.';

/** The aliases of one word: what users of docker type, such as `ps`. */
export const shortForms = ({aliases}: Commands): readonly string[] =>
  Object.values(aliases)
    .flat()
    .filter((alias) => !alias.includes(' '))
    .sort();

const describe = (commands: Commands): string => `${SUMMARY}
Global flags, which the --help of every command lists, may also stand before the command.
Short forms of commands: ${shortForms(commands).join(' ')}.`;

/** Adds to flags or arguments their names, and `defaultHelp` in place of defaults. */
async function named(definitions: FlagInput | ArgInput): Promise<Record<string, object>> {
  const entries = Object.entries(definitions).map(async ([name, definition]) => {
    const defaultHelp = 'defaultHelp' in definition ? definition.defaultHelp : undefined;
    const inWords = typeof defaultHelp === 'function' ? await defaultHelp({options: definition, flags: {}} as never) : undefined;
    return [name, {...definition, name, ...omitUndefined({default: inWords})}] as const;
  });
  return Object.fromEntries(await Promise.all(entries));
}

/** `run [FLAGS] IMAGE ID [COMMAND...]` */
export function usageOf(id: string, {args, positionals}: CommandClass): string {
  const words = Object.entries(args).map(([name, {required, multiple}]) => {
    const word = `${name.toUpperCase()}${multiple ? '...' : ''}`;
    return required ? word : `[${word}]`;
  });
  return [id, '[FLAGS]', ...words, ...(positionals === Number.POSITIVE_INFINITY ? [] : ['[COMMAND...]'])].join(' ');
}

/** A command in the form that oclif's help takes. */
async function loadable(id: string, command: CommandClass, commands: Commands): Promise<Command.Loadable> {
  return {
    id: id.replaceAll(' ', ':'),
    summary: command.summary,
    description: command.description,
    examples: command.examples.map((example) => `<%= config.bin %> ${example}`),
    usage: usageOf(id, command),
    args: await named(command.args),
    flags: await named({...GLOBAL_FLAGS, ...command.flags}),
    strict: true,
    hidden: false,
    aliases: aliasesOf(id, commands),
    hiddenAliases: [],
  } as unknown as Command.Loadable;
}

/** Aliases of a command: its own, then those of its topic and verb. */
export function aliasesOf(id: string, {aliases, topicAliases, verbAliases}: Commands): string[] {
  const [topic, verb] = id.split(' ') as [string, string?];
  if (verb === undefined) return [...(aliases[id] ?? [])];
  const verbs = [verb, ...(verbAliases[verb] ?? [])];
  const topics = [topic, ...(topicAliases[topic] ?? [])];
  return [...(aliases[id] ?? []), ...topics.flatMap((t) => verbs.map((v) => `${t} ${v}`))].filter((alias) => alias !== id);
}

class TerminalHelp extends Help {
  readonly #print: (text: string) => void;

  constructor(config: Interfaces.Config, print: (text: string) => void) {
    super(config, {hideAliasesFromRoot: true, hideCommandSummaryInDescription: true});
    this.#print = print;
  }

  protected override log(...lines: string[]): void {
    this.#print(`${lines.join(' ')}\n`);
  }

  async show(subject: string): Promise<void> {
    const id = subject.replaceAll(' ', ':');
    const command = this.config.findCommand(id);
    if (command !== undefined) return this.showCommandHelp(command);
    if (subject === '') {
      await this.showRootHelp();
      // After what a reader looks for first.
      return this.log(this.section('EXIT STATUS', this.wrap([...STATUSES, RUN_STATUSES].join('\n'))));
    }
    return this.showTopicHelp(this.config.findTopic(id, {must: true}));
  }
}

/** The part of oclif's `Config` that its help reads. */
async function helpConfig(table: Commands, context: Context, info: BuildInfo): Promise<Interfaces.Config> {
  const commands = await Promise.all(Object.entries(table.commands).map(async ([id, load]) => loadable(id, (await load()).default, table)));
  const topics = Object.entries(table.topics).map(([name, description]) => ({name, description}));
  const children = commands.filter(({id}) => id.includes(':')).map(({id, summary}) => ({name: id, description: summary}));
  return {
    bin: context.program,
    commands,
    commandIDs: commands.map(({id}) => id),
    findCommand: (id: string) => commands.find((command) => command.id === id),
    findTopic: (name: string) => topics.find((topic) => topic.name === name),
    pjson: {oclif: {description: describe(table)}},
    plugins: new Map(),
    platform: process.platform,
    topics: [...topics, ...children],
    topicSeparator: ' ',
    userAgent: userAgent(info),
  } as unknown as Interfaces.Config;
}

/** @param subject id of a command or topic; empty for the program */
export async function showHelp(subject: string, commands: Commands, context: Context): Promise<void> {
  await new TerminalHelp(await helpConfig(commands, context, await buildInfo()), (text) => context.stdout(ownText(text))).show(subject);
}

export async function showVersion(context: Context): Promise<void> {
  context.stdout(lines([userAgent(await buildInfo())]));
}
