/** Checks the words of a command against its flags and arguments, and converts the values. */
import type {ArgInput, FlagInput} from '@oclif/core/parser';
import {isErrdefs} from '../lib/errdefs.ts';
import type {Settings} from './config-file.ts';
import {omitUndefined} from './omit-undefined.ts';
import type {SplitArgv} from './read-flag-words.ts';

/** Members of oclif's definitions that its types give only some of them. */
interface FlagRules {
  readonly default?: unknown;
  readonly dependsOn?: readonly string[];
  readonly env?: string;
  readonly exclusive?: readonly string[];
  readonly multiple?: boolean;
  readonly options?: readonly string[];
  parse(text: string, context: unknown, definition: unknown): Promise<unknown>;
}

/** Makes the error of a command that is used wrongly. */
type UsageError = (message: string, hint?: string) => Error;

/** Where the value of a flag comes from: the command line, a variable, a file, or nowhere: then it is the default. */
export interface Origin {
  readonly kind: 'flag' | 'variable' | 'file' | 'default';
  /** In words: the flag, the variable's name, the file's path. */
  readonly name: string;
  readonly texts?: readonly string[];
}

/** The texts of a flag, from the first place that has some. */
export function originOf(
  name: string,
  {env}: {readonly env?: string},
  given: readonly string[] | boolean | undefined,
  settings: Settings,
): Origin {
  if (Array.isArray(given)) return {kind: 'flag', name: `--${name}`, texts: given as readonly string[]};
  const fromEnvironment = env === undefined ? undefined : process.env[env];
  if (fromEnvironment) return {kind: 'variable', name: env!, texts: [fromEnvironment]};
  const setting = settings.get(name);
  return setting === undefined ? {kind: 'default', name: 'default'} : {kind: 'file', name: setting.file, texts: [setting.value]};
}

/**
 * Values of flags and arguments by their names. A flag that is not given has the value of its environment variable, else of the
 * configuration, else its default; a boolean flag is false without one.
 *
 * @throws what `usage` makes, naming the flag or argument
 */
export async function parseFlags(
  split: SplitArgv,
  flags: FlagInput,
  args: ArgInput,
  settings: Settings,
  usage: UsageError,
  missingHints: Readonly<Record<string, string>> = {},
): Promise<{flags: Record<string, unknown>; args: Record<string, unknown>}> {
  if (split.error !== undefined) throw usage(split.error.message, split.error.hint);
  checkCombinations(split, flags, usage);
  const parsedArgs = bindArgs(split, args, usage, missingHints);
  const parsedFlags: Record<string, unknown> = {};
  for (const [name, flag] of Object.entries(flags)) parsedFlags[name] = await flagValue(name, flag, split.flags.get(name), settings, usage);
  return {flags: parsedFlags, args: parsedArgs};
}

function checkCombinations({flags: given}: SplitArgv, flags: FlagInput, usage: UsageError): void {
  const isGiven = (name: string): boolean => given.has(name) && given.get(name) !== false;
  for (const name of [...given.keys()].filter(isGiven)) {
    const {exclusive = [], dependsOn = []} = flags[name] as FlagRules;
    const other = exclusive.find(isGiven);
    if (other !== undefined) throw usage(`--${name} and --${other} exclude each other`);
    const needed = dependsOn.find((needs) => !isGiven(needs));
    if (needed !== undefined) throw usage(`--${name} needs --${needed}`);
  }
}

/** An argument with `multiple` is the last one. */
function bindArgs(
  {positionals, lastTaken}: SplitArgv,
  args: ArgInput,
  usage: UsageError,
  missingHints: Readonly<Record<string, string>>,
): Record<string, unknown> {
  const entries = Object.entries(args);
  const missing = entries.filter(([, {required}], i) => required && positionals[i] === undefined);
  if (missing.length > 0)
    throw usage(
      `missing argument${missing.length === 1 ? '' : 's'}: ${missing.map(([name]) => name.toUpperCase()).join(', ')}`,
      lastTaken !== undefined
        ? `the last word is the value of ${lastTaken}`
        : missing.length === 1
          ? missingHints[missing[0]![0]]
          : undefined,
    );
  const isOpen = entries.at(-1)?.[1].multiple === true;
  if (!isOpen && positionals.length > entries.length) throw usage(`unexpected argument ${JSON.stringify(positionals[entries.length])}`);
  return Object.fromEntries(
    entries.map(([name, arg], i) => {
      const texts = arg.multiple ? positionals.slice(i) : positionals.slice(i, i + 1);
      for (const text of texts) checkOptions(name.toUpperCase(), text, arg, usage);
      return [name, texts.length === 0 ? undefined : arg.multiple ? texts : texts[0]];
    }),
  );
}

async function flagValue(
  name: string,
  flag: FlagInput[string],
  given: readonly string[] | boolean | undefined,
  settings: Settings,
  usage: UsageError,
): Promise<unknown> {
  if (flag.type === 'boolean') return given === undefined ? (flag as {readonly default?: unknown}).default === true : given === true;
  const rules = flag as unknown as FlagRules;
  const origin = originOf(name, omitUndefined({env: rules.env}), given, settings);
  const what = origin.kind === 'file' ? `configuration ${origin.name}: ${name}` : origin.kind === 'variable' ? origin.name : `--${name}`;
  const convert = async (text: string): Promise<unknown> => {
    checkOptions(what, text, rules, usage);
    try {
      return await rules.parse(text, undefined, flag);
    } catch (err) {
      throw usage(`${what}: ${(err as Error).message}`, isErrdefs(err) ? err.hint : undefined);
    }
  };
  if (origin.texts === undefined) return rules.default;
  return rules.multiple ? Promise.all(origin.texts.map(convert)) : convert(origin.texts[0]!);
}

function checkOptions(what: string, text: string, {options}: {readonly options?: readonly string[]}, usage: UsageError): void {
  if (options !== undefined && !options.includes(text)) throw usage(`${what}: ${JSON.stringify(text)} is not one of ${options.join(', ')}`);
}
