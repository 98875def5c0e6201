/** Types of the table of commands and of what it holds. */
import type {ArgInput, FlagInput} from '@oclif/core/parser';
import type {Context} from './command-context.ts';
import type {FlagHints, GivenFlag} from './read-flag-words.ts';

/** Commands by their words, and the aliases of both. */
export interface CommandTable<T> {
  /** Keys such as `images ls` or `pull`. No key is the beginning of another. */
  readonly commands: Readonly<Record<string, T>>;
  /** Description of each first word that is not a command itself. */
  readonly topics: Readonly<Record<string, string>>;
  /** Aliases of topics: `i` for `images`. */
  readonly topicAliases: Readonly<Record<string, readonly string[]>>;
  /** Aliases of second words, in every topic: `list` for `ls`. */
  readonly verbAliases: Readonly<Record<string, readonly string[]>>;
  /** Aliases of single commands: `images pull` for `pull`. */
  readonly aliases: Readonly<Record<string, readonly string[]>>;
}

/** Every command, loaded when it is called. */
export type Commands = CommandTable<() => Promise<{readonly default: CommandClass}>>;

/** The shape that oclif's help asks of a command, and what our parser needs besides. */
export interface CommandClass {
  new (call: Call): {execute(): Promise<Exit>};
  readonly summary: string;
  readonly description: string | undefined;
  readonly examples: readonly string[];
  readonly flags: FlagInput;
  readonly args: ArgInput;
  readonly positionals: number;
  readonly flagHints: FlagHints;
}

/** A command line whose command is known. */
export interface Call {
  readonly id: string;
  /** Flags that stood before the command. */
  readonly earlyFlags: readonly GivenFlag[];
  /** The words after the command. */
  readonly argv: readonly string[];
  /** For the help. */
  readonly commands: Commands;
  readonly context: Context;
}

/** What `--json` prints of a document that others made, such as a manifest. */
export interface ForeignDocument {
  readonly [field: string]: unknown;
}

/** How the process should end. */
export interface Exit {
  readonly status: number;
  /** The signal that ended the command; the parent process should see it. */
  readonly signal?: NodeJS.Signals;
}
