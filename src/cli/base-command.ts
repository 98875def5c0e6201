/** The base of every command: global flags, a client, signals and time limits, printing, and the exit status. */
import type {ArgInput, FlagInput, OutputArgs, OutputFlags} from '@oclif/core/parser';
import type {Client, NamespaceClient} from '../lib/client/types/index.ts';
import {ErrdefsError, exitStatus, isErrdefs, wrap} from '../lib/errdefs.ts';
import {BROKEN_PIPE_STATUS, BrokenPipe, type Context} from './command-context.ts';
import type {Call, Exit} from './command-types.ts';
import {readSettings, type Settings} from './config-file.ts';
import {formatTable} from './format-table.ts';
import type {Formatted, Template} from './format-template.ts';
import {omitUndefined} from './omit-undefined.ts';
import {type Origin, originOf, parseFlags} from './parse-flags.ts';
import {formatJSON, lines, type Printable} from './printable.ts';
import {type FlagHints, type SplitArgv, splitArgv} from './read-flag-words.ts';
import {type Here, reportError, reportWarnings, typedHere, whereFlags} from './report-error.ts';
import {GLOBAL_FLAGS, type GlobalFlags} from './shared-flags.ts';

const SIGNALS = {SIGHUP: 129, SIGINT: 130, SIGTERM: 143} as const;
const SIGNAL_NAMES = Object.keys(SIGNALS) as (keyof typeof SIGNALS)[];

/** Time for an interrupted command to clean up. Ending it then is safe: the store survives a kill at any instant. */
const GRACE_MS = 5000;

/** The longest delay of a timer, 24 days; stands for no limit. */
const LONGEST_MS = 2 ** 31 - 1;

/**
 * A command parses its flags, makes one call, and prints. With `--json` or `--format` the return value of `run` is printed, and
 * nothing that was passed to `print`, `list` or `table`.
 *
 * Its static members have the shape that oclif's help asks for. It does not extend oclif's `Command`, which loads all of
 * oclif: docs/decisions/0010-flags.md.
 */
export abstract class BaseCommand {
  static summary = '';
  static description: string | undefined;
  static examples: readonly string[] = [];
  static flags: FlagInput = {};
  static args: ArgInput = {};
  /** Number of its positionals; all words after them are `this.tail`. */
  static positionals = Number.POSITIVE_INFINITY;
  /** Flags that take the place of an argument, by its name: with the flag, the argument is not given. */
  static replacedArgs: Readonly<Record<string, string>> = {};
  static flagHints: FlagHints = {};
  /** For an argument that is missing, by its name. */
  static missingHints: Readonly<Record<string, string>> = {};

  protected readonly context: Context;
  /** Exit status if nothing fails. */
  protected status = 0;
  protected tail: readonly string[] = [];
  /** Results are printed as what they are, by `--json` or `--format`, and not for people. */
  protected json = false;
  #template: Template | undefined;
  #quiet = false;
  #debug = false;
  #here: Here;
  readonly #call: Call;
  #split!: SplitArgv;
  #settings: Settings = new Map();
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
    this.#here = {program: call.context.program, flags: []};
    this.#overdue = new Promise((_, reject) => {
      this.#endNow = reject;
    });
    this.#overdue.catch(() => {});
  }

  abstract run(): Promise<unknown>;

  /** Runs the command, prints its result or error. */
  async execute(): Promise<Exit> {
    const ctor = this.constructor as typeof BaseCommand;
    const {argv, earlyFlags} = this.#call;
    this.#split = splitArgv(
      argv,
      {...GLOBAL_FLAGS, ...ctor.flags},
      {early: earlyFlags, bound: ctor.positionals, replacing: Object.values(ctor.replacedArgs), hints: ctor.flagHints},
    );
    const {flags, tail} = this.#split;
    this.#here = whereFlags(this.context.program, flags);
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
      if (this.json && result !== undefined) await this.printResult(result);
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

  /** The reason of an interruption replaces the error that it caused, unless that error passes the reason on. */
  #interruption(err: unknown): unknown {
    const reason = this.#abort?.signal.reason as ErrdefsError | undefined;
    return reason === undefined || (isErrdefs(err) && err.code === reason.code) ? err : reason;
  }

  /** Exit status for an error. */
  protected statusOf(err: unknown): number {
    return exitStatus(err);
  }

  /**
   * Parses the command's flags and arguments. From here on `--timeout` runs.
   *
   * @throws invalid_argument naming the flag or argument
   */
  protected async parse<F extends OutputFlags<FlagInput>, A extends OutputArgs<ArgInput>>(command: {
    readonly flags?: FlagInput<F>;
    readonly args?: ArgInput<A>;
  }): Promise<{flags: F & GlobalFlags; args: A}> {
    const definitions = {...GLOBAL_FLAGS, ...command.flags} as FlagInput;
    const unknown = this.#split.error?.details?.flag;
    if (typeof unknown === 'string') {
      const {foreignFlagHint} = await import('./foreign-flags.ts');
      const {message, hint} = this.#split.error!;
      throw this.usage(message, foreignFlagHint(this.#call.id, unknown) ?? hint);
    }
    this.#settings = await readSettings();
    const {missingHints, replacedArgs} = this.constructor as typeof BaseCommand;
    const taken = Object.entries((command.args ?? {}) as ArgInput).filter(([name]) => !this.#split.flags.has(replacedArgs[name] ?? ''));
    const usage = (message: string, hint?: string): ErrdefsError => this.usage(message, hint);
    const parsed = await parseFlags(this.#split, definitions, Object.fromEntries(taken), this.#settings, usage, missingHints);
    const flags = parsed.flags as F & GlobalFlags;
    this.#here = {...this.#here, namespace: flags.namespace};
    if (!Object.hasOwn(command.flags ?? {}, 'format')) this.#template = parsed.flags.format as Template | undefined;
    if (this.#template !== undefined) await this.#useTemplate(this.#template);
    this.#quiet = parsed.flags.quiet === true;
    const {timeout} = flags;
    if (timeout > 0)
      this.#after(Math.min(timeout, LONGEST_MS), () =>
        this.#interrupt(new ErrdefsError('deadline_exceeded', `not done after ${timeout} ms`)),
      );
    return {flags, args: parsed.args as A};
  }

  async #useTemplate(template: Template): Promise<void> {
    const [{assertFields}, {RESULTS}] = await Promise.all([import('./format-template.ts'), import('./result-fields.ts')]);
    assertFields(template, RESULTS[this.#call.id]!);
    this.json = true;
  }

  /** Where a flag's value comes from, once the flags are parsed. */
  protected origin(name: string, flags: Readonly<Record<string, unknown>>): Origin {
    return originOf(name, (flags[name] ?? {}) as {readonly env?: string}, this.#split.flags.get(name), this.#settings);
  }

  /** @param hint by default it points to the help */
  protected usage(message: string, hint = `see "berth ${this.#call.id} --help"`): ErrdefsError {
    return new ErrdefsError('invalid_argument', message, {hint});
  }

  protected async client(flags: GlobalFlags): Promise<Client> {
    if (this.#client === undefined && process.geteuid?.() !== 0) await this.#enterUserNamespace(flags);
    this.#client ??= await this.context.open({
      ...omitUndefined({root: flags.root, state: flags.state}),
      lockTimeoutMs: Math.min(flags['lock-timeout'] || LONGEST_MS, LONGEST_MS),
      onWarning: (warning) => void this.#warnings.push(warning),
    });
    return this.#client;
  }

  /** Before anything is read or written besides flags: the command begins again. */
  async #enterUserNamespace({root, state}: GlobalFlags): Promise<void> {
    const {userNamespaceNeed} = await import('./user-namespace-needs.ts');
    const need = userNamespaceNeed(this.#call.id, this.#split.flags.get('no-unpack') === true);
    if (need !== 'never') await this.context.enterUserNamespace?.(need, omitUndefined({root, state}));
  }

  protected async namespace(flags: GlobalFlags): Promise<NamespaceClient> {
    return (await this.client(flags)).namespace(flags.namespace);
  }

  /**
   * Aborted by the first SIGINT, SIGTERM or SIGHUP and by `--timeout`, so that the command can clean up. If a command
   * does not read this property, a signal ends the process at once.
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

  /** Ends the command without waiting for its work or closing its client. */
  #giveUp(reason: unknown): void {
    this.#client = undefined;
    this.#endNow(reason);
  }

  /** Prints the result with `--json` or `--format`. */
  protected async printResult(result: unknown): Promise<void> {
    if (this.#template === undefined) {
      this.context.stdout(`${formatJSON(result, 2)}\n` as Printable);
      return;
    }
    const absent = await this.#printFormatted(this.#template, result);
    if (absent !== undefined) this.context.stderr(lines([`${this.context.program}: warning: nothing here has ${absent.join(', ')}`]));
  }

  /** Prints a record of a stream as it comes: a line of JSON, or what `--format` makes of it. */
  protected async printRecord(record: unknown): Promise<void> {
    if (this.#template === undefined) this.context.stdout(lines([formatJSON(record)]));
    else await this.#printFormatted(this.#template, record);
  }

  async #printFormatted(template: Template, result: unknown): Promise<Formatted['absent']> {
    const [{formatResult}, {RESULTS}] = await Promise.all([import('./format-template.ts'), import('./result-fields.ts')]);
    const {rows, heading, absent} = formatResult(template, RESULTS[this.#call.id]!, result);
    const cells = (row: string): readonly string[] => row.split('\t');
    const shown = heading === undefined ? rows : formatTable(cells(heading), rows.map(cells));
    this.context.stdout(shown.map((row) => `${row}\n`).join('') as Printable);
    return absent;
  }

  /** Prints a line, for people. */
  protected print(line: string): void {
    this.list([line], (text) => text);
  }

  /** Prints a line for each item, for people and for scripts that do not use JSON. */
  protected list<T>(items: readonly T[], line: (item: T) => string): void {
    if (!this.json) this.context.stdout(lines(items.map(line)));
  }

  /** Prints texts as they come, a line each. @returns all of them, for `--json` */
  protected async printEach(texts: AsyncIterable<string>): Promise<readonly string[]> {
    const all: string[] = [];
    for await (const text of texts) {
      if (this.json) all.push(text);
      else this.print(text);
    }
    return all;
  }

  /** Prints a document as JSON, for people too. */
  protected printJSON(value: unknown): void {
    if (!this.json) this.context.stdout(`${formatJSON(value, 2)}\n` as Printable);
  }

  /** Prints a table, for people; with the command's `--quiet` only its first column, which is the key, without headings. */
  protected table<T>(columns: readonly string[], items: readonly T[], row: (item: T) => readonly string[]): void {
    if (this.#quiet) this.list(items, (item) => row(item)[0]!);
    else this.list(formatTable(columns, items.map(row)), (line) => line);
  }

  /**
   * Calls `fn` for each name and prints each success and failure at once. The first failure decides the exit status.
   *
   * @param verb such as `delete`, for the message `unable to delete NAME: …`
   * @param fn may return another name to print, or `null` when there was nothing to do
   * @returns the names that succeeded
   */
  protected async each(verb: string, names: readonly string[], fn: (name: string) => Promise<unknown>): Promise<string[]> {
    const done: string[] = [];
    for (const name of names) {
      let shown: string;
      try {
        const made = await fn(name);
        if (made === null) continue;
        shown = typeof made === 'string' ? made : name;
      } catch (err) {
        await this.fail(isErrdefs(err) ? wrap(`unable to ${verb} ${name}`, err) : err);
        continue;
      }
      this.print(shown);
      done.push(shown);
    }
    return done;
  }

  /** What standard error has is read by programs. */
  protected get jsonErrors(): boolean {
    return this.json && this.#template === undefined;
  }

  /** A text of the library with its commands as they are typed here. */
  protected typedHere<T extends string | undefined>(text: T): T {
    return (text === undefined ? text : typedHere(text, this.#here)) as T;
  }

  /** Has a warning reported at the end. */
  protected warn(message: string, hint: string): void {
    this.#warnings.push(new ErrdefsError('failed_precondition', message, {hint}));
  }

  /** Reports an error and lets the command continue. The first one decides the exit status. */
  protected async fail(err: unknown): Promise<void> {
    this.#failure ??= {err};
    await reportError(err, this.context, {json: this.jsonErrors, debug: this.#debug, here: this.#here});
  }

  async #end(): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer);
    for (const name of SIGNAL_NAMES) process.off(name, this.#onSignal);
    if (this.#client !== undefined) await this.#client.close();
    reportWarnings(this.#warnings, this.context, {json: this.jsonErrors, here: this.#here});
  }
}
