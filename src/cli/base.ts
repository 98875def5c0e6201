/** What every command has: the global flags, a client, one way to print and one to end. */
import {type ArgInput, type FlagInput, type OutputArgs, type OutputFlags, parse} from '@oclif/core/parser';
import type {Client, NamespaceClient} from '../lib/client/types/index.ts';
import {ErrdefsError, exitStatus, isErrdefs, wrap} from '../lib/errdefs.ts';
import {canonicalWords, type ForeignFlags, plainValue, type SplitArgv, splitArgv} from './argv.ts';
import {BROKEN_PIPE_STATUS, BrokenPipe, type Context} from './context.ts';
import type {CommandTable} from './dispatch.ts';
import {GLOBAL_FLAGS} from './flags.ts';
import {formatJSON, lines, type Printable} from './output.ts';
import {report, reportWarnings} from './report.ts';
import {formatTable} from './table.ts';
import {defined} from './values.ts';

export interface Exit {
  readonly status: number;
  /** The signal that ended the command; its parent should see that. */
  readonly signal?: NodeJS.Signals;
}

type FlagsOf<T> = T extends FlagInput<infer F> ? F : never;
export type GlobalFlags = FlagsOf<typeof GLOBAL_FLAGS>;

const SIGNALS = {SIGHUP: 129, SIGINT: 130, SIGTERM: 143} as const;
const SIGNAL_NAMES = Object.keys(SIGNALS) as (keyof typeof SIGNALS)[];

/** How long an interrupted command may clean up. Ending it then is safe: the store takes a kill at any moment. */
const GRACE_MS = 5000;

/** The longest that a timer takes, 24 days: no bound. */
const LONGEST_MS = 2 ** 31 - 1;

/** A command line, after it is known which command it calls. */
export interface Call {
  readonly id: string;
  /** The words that are the command's own. */
  readonly argv: readonly string[];
  /** All there are, for the help. */
  readonly commands: Commands;
  readonly context: Context;
}

/** Every command by its words, loaded when it is called. */
export type Commands = CommandTable<() => Promise<{readonly default: CommandClass}>>;

export interface CommandClass {
  new (call: Call): BaseCommand;
  readonly summary: string;
  readonly description: string | undefined;
  readonly examples: readonly string[];
  readonly flags: FlagInput;
  readonly args: ArgInput;
  readonly positionals: number;
  readonly foreign: ForeignFlags;
}

/** A value that a flag refuses, on its way through oclif's parser, which changes the messages of errors. */
class Refused extends Error {
  readonly error: ErrdefsError;

  constructor(error: ErrdefsError) {
    super();
    this.error = error;
  }
}

/**
 * A command parses, makes one call, prints. What `run` returns is what `--json` prints; what it passes to `print` and
 * `table` is for people, and nothing is printed of it with `--json`.
 *
 * It has the shape that oclif's parser and help ask of a command, but is not built on oclif's `Command`: loading that
 * touches the standard streams, which alone is a third of the start-up.
 */
export abstract class BaseCommand {
  static summary = '';
  static description: string | undefined;
  static examples: readonly string[] = [];
  static flags: FlagInput = {};
  static args: ArgInput = {};
  /** Positionals of its own; everything after them goes, as it is, to `this.tail`. */
  static positionals = Number.POSITIVE_INFINITY;

  /** Hints for flags that other tools have for the same. */
  static foreign: ForeignFlags = {};

  protected readonly context: Context;
  /** Exit status when nothing fails. */
  protected status = 0;
  protected tail: readonly string[] = [];
  protected json = false;
  #debug = false;
  readonly #call: Call;
  #split!: SplitArgv;
  #client: Client | undefined;
  #abort: AbortController | undefined;
  #interruptedBy: keyof typeof SIGNALS | undefined;
  #failure: {readonly err: unknown} | undefined;
  readonly #warnings: Error[] = [];
  readonly #overdue: Promise<never>;
  #endNow!: (reason: unknown) => void;
  readonly #timers: NodeJS.Timeout[] = [];

  constructor(call: Call) {
    this.#call = call;
    this.context = call.context;
    this.#overdue = new Promise((_, reject) => {
      this.#endNow = reject;
    });
    this.#overdue.catch(() => {});
  }

  abstract run(): Promise<unknown>;

  /** Runs the command to its end: prints the result or the error and tells how to exit. */
  async execute(): Promise<Exit> {
    const ctor = this.constructor as typeof BaseCommand;
    this.#split = splitArgv(this.#call.argv, {...GLOBAL_FLAGS, ...ctor.flags}, ctor.positionals, ctor.foreign);
    const {flags, tail} = this.#split;
    this.#debug = flags.get('debug') === true;
    this.json = flags.get('json') === true;
    this.tail = tail;
    try {
      if (flags.get('help') === true) {
        const {showHelp} = await import('./help.ts');
        await showHelp(this.#call.id, this.#call.commands, this.context);
        return {status: 0};
      }
      const result = await Promise.race([this.run(), this.#overdue]);
      if (this.json && result !== undefined) this.printResult(result);
    } catch (err) {
      if (err instanceof BrokenPipe) return {status: BROKEN_PIPE_STATUS};
      await this.fail(this.#interruption(err));
    } finally {
      await this.#end();
    }
    const signal = this.#failure === undefined ? undefined : this.#interruptedBy;
    if (signal !== undefined) return {status: SIGNALS[signal], signal};
    return {status: this.#failure === undefined ? this.status : this.statusOf(this.#failure.err)};
  }

  /** What an interrupted command says is why it was interrupted, with the library's words around it where it passed that on. */
  #interruption(err: unknown): unknown {
    const reason = this.#abort?.signal.reason as ErrdefsError | undefined;
    return reason === undefined || (isErrdefs(err) && err.code === reason.code) ? err : reason;
  }

  /** Exit status for an error of ours. */
  protected statusOf(err: unknown): number {
    return exitStatus(err);
  }

  /**
   * Parses this command's words; from here on `--timeout` runs.
   *
   * @throws invalid_argument they do not fit its flags and arguments
   */
  protected async parse<F extends OutputFlags<FlagInput>, A extends OutputArgs<ArgInput>>(command: {
    readonly flags?: FlagInput<F>;
    readonly args?: ArgInput<A>;
  }): Promise<{flags: F & GlobalFlags; args: A}> {
    const flags = {...GLOBAL_FLAGS, ...command.flags} as FlagInput;
    const args = (command.args ?? {}) as ArgInput;
    this.#check(flags, args);
    const parsed = await parse(canonicalWords(this.#split), {
      flags: mapValues(flags, (flag, name) =>
        flag.type === 'boolean' ? flag : {...flag, options: undefined, parse: this.#reader(name, flag)},
      ),
      // Without this a missing argument is read from standard input.
      args: mapValues(args, (arg) => ({...arg, ignoreStdin: true})),
    } as never).catch((err: unknown) => {
      throw err instanceof Refused ? err.error : err;
    });
    // oclif types an absent boolean flag as `false` and leaves it undefined.
    for (const [name, flag] of Object.entries(flags)) if (flag.type === 'boolean') parsed.flags[name] ??= false;
    const {timeout} = parsed.flags as GlobalFlags;
    if (timeout > 0)
      this.#after(Math.min(timeout, LONGEST_MS), () =>
        this.#interrupt(new ErrdefsError('deadline_exceeded', `not done after ${timeout} ms`)),
      );
    return {flags: parsed.flags as F & GlobalFlags, args: parsed.args as A};
  }

  /** @param hint better advice than to read the help */
  protected usage(message: string, hint = `see "${this.context.program} ${this.#call.id} --help"`): ErrdefsError {
    return new ErrdefsError('invalid_argument', message, {hint});
  }

  /** What can be said of the words before any value is read. @throws invalid_argument */
  #check(flags: FlagInput, args: ArgInput): void {
    const {flags: given, positionals, error} = this.#split;
    if (error !== undefined) throw this.usage(error.message, error.hint);
    const isGiven = (name: string): boolean => given.has(name) && given.get(name) !== false;
    for (const name of given.keys())
      if (isGiven(name)) {
        const {exclusive = [], dependsOn = []} = flags[name] as {exclusive?: readonly string[]; dependsOn?: readonly string[]};
        const other = exclusive.find(isGiven);
        if (other !== undefined) throw this.usage(`--${name} and --${other} exclude each other`);
        const needed = dependsOn.find((needs) => !isGiven(needs));
        if (needed !== undefined) throw this.usage(`--${name} needs --${needed}`);
      }
    const names = Object.keys(args);
    const missing = names.filter((name, i) => args[name]!.required && positionals[i] === undefined);
    if (missing.length > 0)
      throw this.usage(`missing argument${missing.length === 1 ? '' : 's'}: ${missing.map((name) => name.toUpperCase()).join(', ')}`);
    const many = names.findIndex((name) => args[name]!.multiple);
    if (many === -1 && positionals.length > names.length)
      throw this.usage(`unexpected argument ${JSON.stringify(positionals[names.length])}`);
    for (const [i, text] of positionals.entries()) {
      const name = names[many === -1 ? i : Math.min(i, many)]!;
      const {options} = args[name] as {options?: readonly string[]};
      if (options !== undefined && !options.includes(text)) throw this.usage(notOneOf(name.toUpperCase(), text, options));
    }
  }

  /** Reads a flag's value; what is wrong with it names the flag. */
  #reader(name: string, flag: FlagInput[string]): (text: string, context: unknown, definition: unknown) => Promise<unknown> {
    const {options, parse: read} = flag as {options?: readonly string[]; parse(...args: unknown[]): Promise<unknown>};
    return async (given, context, definition) => {
      const text = plainValue(given);
      if (options !== undefined && !options.includes(text)) throw new Refused(this.usage(notOneOf(`--${name}`, text, options)));
      try {
        return await read(text, context, definition);
      } catch (err) {
        throw new Refused(this.usage(`--${name}: ${(err as Error).message}`, isErrdefs(err) ? err.hint : undefined));
      }
    };
  }

  protected async client(flags: GlobalFlags): Promise<Client> {
    this.#client ??= await this.context.open({
      ...defined({root: flags.root, state: flags.state}),
      lockTimeoutMs: Math.min(flags['lock-timeout'] || LONGEST_MS, LONGEST_MS),
      onWarning: (warning) => void this.#warnings.push(warning),
    });
    return this.#client;
  }

  protected async namespace(flags: GlobalFlags): Promise<NamespaceClient> {
    return (await this.client(flags)).namespace(flags.namespace);
  }

  /**
   * Aborted by the first SIGINT, SIGTERM or SIGHUP and by `--timeout`. Whoever asks for it has something to clean up; of
   * a command that does not ask, a signal ends the process at once.
   */
  protected get signal(): AbortSignal {
    for (const name of SIGNAL_NAMES) process.off(name, this.#onSignal).on(name, this.#onSignal);
    return this.#abortController().signal;
  }

  /** Aborted by `--timeout` only, for a command that passes signals on. */
  protected get deadline(): AbortSignal {
    return this.#abortController().signal;
  }

  #abortController(): AbortController {
    this.#abort ??= new AbortController();
    return this.#abort;
  }

  readonly #onSignal = (name: NodeJS.Signals): void => {
    if (this.#interruptedBy !== undefined) this.#giveUp(this.#abort?.signal.reason);
    this.#interruptedBy = name as keyof typeof SIGNALS;
    this.#interrupt(new ErrdefsError('canceled', `interrupted by ${name}`));
  };

  #interrupt(reason: ErrdefsError): void {
    this.#abort?.abort(reason);
    this.#after(this.#abort === undefined ? 0 : GRACE_MS, () => this.#giveUp(reason));
  }

  #after(ms: number, action: () => void): void {
    this.#timers.push(setTimeout(action, ms));
  }

  /** What does not end by itself is not waited for, nor closed. */
  #giveUp(reason: unknown): void {
    this.#client = undefined;
    this.#endNow(reason);
  }

  /** What `--json` prints in the end. */
  protected printResult(result: unknown): void {
    this.context.stdout(`${formatJSON(result, 2)}\n` as Printable);
  }

  /** One line for people. */
  protected print(line: string): void {
    this.list([line], (text) => text);
  }

  /** One line a thing, for people and for scripts without JSON. */
  protected list<T>(items: readonly T[], line: (item: T) => string): void {
    if (!this.json) this.context.stdout(lines(items.map(line)));
  }

  /** A document that is JSON for people, too. */
  protected printJSON(value: unknown): void {
    if (!this.json) this.context.stdout(`${formatJSON(value, 2)}\n` as Printable);
  }

  /** A table for people. */
  protected table<T>(columns: readonly string[], items: readonly T[], row: (item: T) => readonly string[]): void {
    this.list(formatTable(columns, items.map(row)), (line) => line);
  }

  /**
   * Does the same to each of several things: every one is tried, each success printed at once, each failure too; the
   * first failure decides the exit status.
   *
   * @param doing what is attempted, such as `delete`, for the message `unable to delete NAME: …`
   * @param fn gives the name to print, where it is another one
   * @returns the names of those that succeeded
   */
  protected async each(doing: string, names: readonly string[], fn: (name: string) => Promise<unknown>): Promise<string[]> {
    const done: string[] = [];
    for (const name of names) {
      let shown: string;
      try {
        const made = await fn(name);
        shown = typeof made === 'string' ? made : name;
      } catch (err) {
        await this.fail(isErrdefs(err) ? wrap(`unable to ${doing} ${name}`, err) : err);
        continue;
      }
      this.print(shown);
      done.push(shown);
    }
    return done;
  }

  /** Reports an error and lets the command go on; the first one decides the exit status. */
  protected async fail(err: unknown): Promise<void> {
    this.#failure ??= {err};
    await report(err, this.context, {json: this.json, debug: this.#debug});
  }

  async #end(): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer);
    for (const name of SIGNAL_NAMES) process.off(name, this.#onSignal);
    if (this.#client !== undefined) await this.#client.close();
    reportWarnings(this.#warnings, this.context, {json: this.json});
  }
}

const notOneOf = (what: string, text: string, options: readonly string[]): string =>
  `${what}: ${JSON.stringify(text)} is not one of ${options.join(', ')}`;

const mapValues = <T, U>(object: Readonly<Record<string, T>>, fn: (value: T, key: string) => U): Record<string, U> =>
  Object.fromEntries(Object.entries(object).map(([key, value]) => [key, fn(value, key)]));
