/** Writes the manual, a page a command, from what `--help` is made of. */
import {mkdirSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import type {CommandClass, Commands} from '../src/cli/command-types.ts';
import {aliasesOf, RUN_STATUSES, STATUSES, SUMMARY, shortForms, usageOf} from '../src/cli/help.ts';
import {canonicalID} from '../src/cli/resolve-command.ts';
import {GLOBAL_FLAGS} from '../src/cli/shared-flags.ts';
import {COMMANDS} from '../src/commands/index.ts';

/** What a page shows of a flag or an argument. */
interface Definition {
  readonly char?: string;
  readonly default?: unknown;
  readonly defaultHelp?: (context: unknown) => Promise<string>;
  readonly description?: string;
  readonly env?: string;
  readonly helpValue?: string;
  readonly hidden?: boolean;
  readonly multiple?: boolean;
  readonly options?: readonly string[];
  readonly type: string;
}

/** Text for roff(7), in ASCII: no backslash, dash or leading dot means anything to it. */
const roff = (text: string): string =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(/^(?=[.'])/gm, '\\&')
    .replaceAll(/\P{ASCII}/gu, (character) => `\\[u${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}]`);

/** Fills in what the help, too, is given. */
const named = (text: string, program: string): string => text.replaceAll('<%= config.bin %>', program);

const paragraphs = (text: string): string[] => text.split('\n').flatMap((line) => (line === '' ? ['.PP'] : [roff(line), '.br']));

async function flagLines(flags: Readonly<Record<string, Definition>>): Promise<string[]> {
  const rows: string[] = [];
  for (const [name, flag] of Object.entries(flags)) {
    if (flag.hidden) continue;
    const value = flag.options?.join('|') ?? flag.helpValue ?? 'VALUE';
    const forms = [...(flag.char === undefined ? [] : [`-${flag.char}`]), `--${name}`];
    const label = forms.map((form) => `\\fB${roff(form)}\\fR`).join(', ') + (flag.type === 'boolean' ? '' : `=\\fI${roff(value)}\\fR`);
    const inWords = typeof flag.defaultHelp === 'function' ? await flag.defaultHelp({options: flag, flags: {}}) : flag.default;
    const notes = [
      ...(inWords === undefined || flag.type === 'boolean' ? [] : [`default ${String(inWords)}`]),
      ...(flag.env === undefined ? [] : [`environment variable ${flag.env}`]),
    ];
    rows.push('.TP', label, roff(`${flag.description ?? ''}${notes.length === 0 ? '' : ` (${notes.join('; ')})`}`));
  }
  return rows;
}

const heading = (program: string, name: string, version: string): string[] => [
  `.TH "${roff(
    [program, ...name.split(' ')]
      .filter((word) => word !== '')
      .join('-')
      .toUpperCase(),
  )}" 1 "" "berth ${roff(version)}" "User Commands"`,
];

export async function commandPage(
  program: string,
  id: string,
  command: CommandClass,
  commands: Commands,
  version: string,
): Promise<string> {
  const args = Object.entries(command.args as unknown as Readonly<Record<string, Definition>>);
  const own = await flagLines(command.flags as unknown as Readonly<Record<string, Definition>>);
  const aliases = aliasesOf(id, commands);
  return [
    ...heading(program, id, version),
    '.SH NAME',
    `${roff(`${program}-${id.replaceAll(' ', '-')}`)} \\- ${roff(command.summary)}`,
    '.SH SYNOPSIS',
    `\\fB${roff(program)}\\fR ${roff(usageOf(id, command))}`,
    ...(command.description === undefined ? [] : ['.SH DESCRIPTION', ...paragraphs(named(command.description, program))]),
    ...(args.length === 0 ? [] : ['.SH ARGUMENTS']),
    ...args.flatMap(([name, {description = '', multiple, options}]) => [
      '.TP',
      `\\fI${roff(name.toUpperCase())}\\fR${multiple ? '...' : ''}`,
      roff(`${description}${options === undefined ? '' : ` (${options.join(', ')})`}`),
    ]),
    ...(own.length === 0 ? [] : ['.SH OPTIONS', ...own]),
    '.SH GLOBAL OPTIONS',
    ...(await flagLines(GLOBAL_FLAGS as unknown as Readonly<Record<string, Definition>>)),
    ...(command.examples.length === 0
      ? []
      : ['.SH EXAMPLES', '.nf', ...command.examples.map((line) => roff(named(`${program} ${line}`, program))), '.fi']),
    ...(aliases.length === 0 ? [] : ['.SH ALIASES', ...aliases.flatMap((alias) => [roff(`${program} ${alias}`), '.br'])]),
    '.SH SEE ALSO',
    `\\fB${roff(program)}\\fR(1)`,
    '',
  ].join('\n');
}

async function programPage(program: string, commands: Commands, version: string): Promise<string> {
  const rows: string[] = [];
  for (const [id, load] of Object.entries(commands.commands))
    rows.push('.TP', `\\fB${roff(`${program}-${id.replaceAll(' ', '-')}`)}\\fR(1)`, roff((await load()).default.summary));
  return [
    ...heading(program, '', version),
    '.SH NAME',
    `${roff(program)} \\- containers without a daemon`,
    '.SH SYNOPSIS',
    `\\fB${roff(program)}\\fR [FLAGS] COMMAND [FLAGS] ...`,
    '.SH DESCRIPTION',
    roff(SUMMARY),
    '.SH COMMANDS',
    ...rows,
    '.SH SHORT FORMS',
    ...shortForms(commands).flatMap((form) => [
      '.TP',
      `\\fB${roff(`${program} ${form}`)}\\fR`,
      roff(`${program} ${canonicalID(commands, [form])}`),
    ]),
    '.SH GLOBAL OPTIONS',
    ...(await flagLines(GLOBAL_FLAGS as unknown as Readonly<Record<string, Definition>>)),
    '.SH EXIT STATUS',
    ...STATUSES.flatMap((line) => ['.TP', `\\fB${roff(line.split('  ')[0]!)}\\fR`, roff(line.split('  ')[1]!)]),
    '.PP',
    roff(RUN_STATUSES),
    '',
  ].join('\n');
}

/** Every page by its file's name, such as `ctr-images-ls.1`. */
export async function manualPages(program: string, version: string): Promise<ReadonlyMap<string, string>> {
  const pages = new Map([[`${program}.1`, await programPage(program, COMMANDS, version)]]);
  for (const [id, load] of Object.entries(COMMANDS.commands))
    pages.set(`${program}-${id.replaceAll(' ', '-')}.1`, await commandPage(program, id, (await load()).default, COMMANDS, version));
  return pages;
}

/** Writes the pages into a directory, which is made anew. */
export async function writeManual(directory: string, program: string, version: string): Promise<void> {
  rmSync(directory, {recursive: true, force: true});
  mkdirSync(directory, {recursive: true});
  for (const [name, page] of await manualPages(program, version)) writeFileSync(join(directory, name), page);
}
