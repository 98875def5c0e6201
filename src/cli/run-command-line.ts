/** Runs a command line: finds the command, executes it, reports what fails. */
import {ErrdefsError, exitStatus, isErrdefs} from '../lib/errdefs.ts';
import {BROKEN_PIPE_STATUS, BrokenPipe, type Context} from './command-context.ts';
import type {Commands, Exit} from './command-types.ts';
import {readSettings} from './config-file.ts';
import {type GivenFlag, readFlag} from './read-flag-words.ts';
import {type Here, reportError, whereFlags} from './report-error.ts';
import {EARLY_FLAGS, resolveCommand} from './resolve-command.ts';
import {entersAtOnce} from './user-namespace-needs.ts';

/** Asks for completions; only the scripts of `completion` do. */
const COMPLETE = '__complete';
/** Finishes a task that has ended; only conmon calls it. */
const SETTLE = '__settle';

/** A word that may be a flag with a secret, in any of its forms. */
const MAY_BE_SECRET = /^--?(?:user|refresh|creds|src-creds|dest-creds|\w*u)/;

/**
 * Begins again in the user namespace, before the command and its flags are loaded, which takes as long as the rest of this start. What cannot be done here,
 * or should not, is found, and said, by the command itself.
 */
async function enterAtOnce(context: Context): Promise<void> {
  const settings = await readSettings().catch(() => undefined);
  if (settings === undefined || settings.has('root') || settings.has('state')) return;
  await context.enterUserNamespace?.('possible', {});
}

export async function runCommandLine(argv: readonly string[], commands: Commands, context: Context): Promise<Exit> {
  try {
    if (argv[0] === COMPLETE) {
      await (await import('./complete.ts')).printCompletions(argv.slice(1), commands, context);
      return {status: 0};
    }
    if (argv[0] === SETTLE) {
      await (await import('./on-conmon-exit.ts')).settleTask(argv.slice(1), context);
      return {status: 0};
    }
    const resolved = resolveCommand(argv, commands);
    if (resolved.kind === 'command') {
      // The --user of `run` is a user in the container, not a secret. A login may wait for a user name after its password was given.
      if (
        resolved.id === 'login' ||
        (!['run', 'containers create'].includes(resolved.id) && resolved.argv.some((word) => MAY_BE_SECRET.test(word)))
      )
        (await import('./scrub-process-args.ts')).scrubProcessArgs();
      if (process.geteuid?.() !== 0 && entersAtOnce(resolved.id, argv)) await enterAtOnce(context);
      const {default: Command} = await commands.commands[resolved.id]!();
      return await new Command({...resolved, commands, context}).execute();
    }
    const {showHelp, showVersion} = await import('./help.ts');
    await (resolved.kind === 'version' ? showVersion(context) : showHelp(resolved.id, commands, context));
    return {status: 0};
  } catch (err) {
    if (err instanceof BrokenPipe) return {status: BROKEN_PIPE_STATUS};
    await reportError(await explained(err), context, {
      json: argv.includes('--json'),
      debug: argv.includes('--debug'),
      here: whereOf(context.program, argv),
    });
    return {status: exitStatus(err)};
  }
}

/** An error of a flag before the command, with what to do instead if another tool has that flag. */
async function explained(err: unknown): Promise<unknown> {
  const {flag, before} = (isErrdefs(err) ? err.details : undefined) ?? {};
  if (!isErrdefs(err) || typeof flag !== 'string' || typeof before !== 'string') return err;
  const {foreignFlagHint} = await import('./foreign-flags.ts');
  const hint = foreignFlagHint(before, flag) ?? err.hint;
  return new ErrdefsError(err.code, err.message, {...(hint === undefined ? {} : {hint}), cause: err});
}

/** Where a command line works of which no command is known: by the flags before its first word. */
export function whereOf(program: string, argv: readonly string[]): Here {
  const given: GivenFlag[] = [];
  try {
    for (let i = 0; argv[i]?.startsWith('-') === true; ) {
      const {length, given: read} = readFlag(argv, i, EARLY_FLAGS);
      given.push(...read);
      i += length;
    }
  } catch {
    // The error that is reported is this one, or one before it.
  }
  return whereFlags(program, new Map(given.map(({name, value}) => [name, value])));
}
