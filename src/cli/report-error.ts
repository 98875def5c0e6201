/** Reports errors and warnings on standard error, with the commands in hints as they would be typed here: a line, and a second one with the hint if there is one; or a line of JSON. */
import {quoteWord} from '../lib/berth-command.ts';
import {codeOf, isErrdefs, toJSON} from '../lib/errdefs.ts';
import type {Context} from './command-context.ts';
import {formatJSON, lines, type Printable} from './printable.ts';

/** What a command line says of where it works. */
export interface Here {
  /** Name of the program. */
  readonly program: string;
  /** `--root` and `--state` as they were given by flag; the environment has the others. */
  readonly flags: readonly string[];
  /** The namespace, if it was given by flag. */
  readonly givenNamespace?: string | undefined;
  /** The namespace of a command without the flag; `undefined` where it is not known. */
  readonly namespace?: string | undefined;
}

const PLACE = ['root', 'state'] as const;

/** @param given values of flags by name, as `SplitArgv` has them */
export function whereFlags(program: string, given: ReadonlyMap<string, unknown>): Here {
  const wordOf = (name: string): string | undefined => ([given.get(name)].flat() as (string | undefined)[]).at(-1);
  const flags = PLACE.flatMap((name) => {
    const value = wordOf(name);
    return value === undefined ? [] : [`--${name}`, quoteWord(value)];
  });
  return {program, flags, givenNamespace: wordOf('namespace')};
}

/** A text with its commands as they are typed here: with the name of the program, and what says where it works. */
export function typedHere(text: string, {program, flags, givenNamespace, namespace}: Here): string {
  return text.replaceAll(/(?<=: |")berth (?:-n (\S+) )?(?=[a-z-])/g, (_, named?: string) => {
    const wanted = named ?? givenNamespace;
    const words = wanted === undefined || (givenNamespace === undefined && wanted === namespace) ? [] : ['-n', quoteWord(wanted)];
    return `${[program, ...flags, ...words].join(' ')} `;
  });
}

interface ReportOptions {
  readonly json: boolean;
  /** Adds the stack. */
  readonly debug: boolean;
  /** For the commands in hints; by default only the program's name is. */
  readonly here?: Here;
}

const namedOnly = ({program}: Context): Here => ({program, flags: []});

/** The root cause of an error, if it is a bug: no error of the chain has a class, and no system call failed. */
function bugBehind(err: unknown): {readonly message: string} | undefined {
  if (codeOf(err) !== 'unknown') return undefined;
  let root = err;
  while (isErrdefs(root) && root.cause !== undefined) root = root.cause;
  if (isErrdefs(root) || (root as {code?: unknown} | undefined)?.code !== undefined) return undefined;
  return {message: root instanceof Error ? root.message : String(root)};
}

export async function reportError(err: unknown, context: Context, {json, debug, here = namedOnly(context)}: ReportOptions): Promise<void> {
  const error = toJSON(err);
  const bug = bugBehind(err);
  const message = bug === undefined ? error.message : `${bug.message}: this is a bug`;
  const hint = bug !== undefined && !debug ? 'run it again with --debug and report the stack' : error.hint && typedHere(error.hint, here);
  const stack = debug ? (await import('node:util')).inspect(err) : undefined;
  if (json) {
    const object = {...error, message, ...(hint === undefined ? {} : {hint}), ...(stack === undefined ? {} : {stack})};
    context.stderr(`${formatJSON({error: object})}\n` as Printable);
    return;
  }
  const texts = [`${context.program}: ${oneLine(message)}`];
  if (hint !== undefined) texts.push(`hint: ${oneLine(hint)}`);
  // Indented, so that a line of a quoted message cannot look like a line of berth.
  if (stack !== undefined) texts.push(...stack.split('\n').map((line) => `    ${line}`));
  context.stderr(lines(texts));
}

/** Reports the first warning and the number of the others. Warnings change neither the output nor the exit status. */
export function reportWarnings([first, ...rest]: readonly Error[], context: Context, options: Pick<ReportOptions, 'json' | 'here'>): void {
  if (first === undefined) return;
  const {json, here = namedOnly(context)} = options;
  const {message, hint: raw, ...warning} = toJSON(first);
  const hint = raw && typedHere(raw, here);
  const text = rest.length === 0 ? message : `${message} (and ${rest.length} more)`;
  if (json) {
    context.stderr(`${formatJSON({warning: {...warning, message: text, ...(hint === undefined ? {} : {hint})}})}\n` as Printable);
    return;
  }
  context.stderr(lines([`${context.program}: warning: ${oneLine(text)}`, ...(hint === undefined ? [] : [`hint: ${oneLine(hint)}`])]));
}

const oneLine = (text: string): string => text.trim().replace(/\s*\n\s*/g, ' ');
