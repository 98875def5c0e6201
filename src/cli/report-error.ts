/** Reports errors and warnings on standard error: a line, and a second one with the hint if there is one; or a line of JSON. */
import {codeOf, isErrdefs, toJSON} from '../lib/errdefs.ts';
import type {Context} from './command-context.ts';
import {formatJSON, lines, type Printable} from './printable.ts';

interface ReportOptions {
  readonly json: boolean;
  /** Adds the stack. */
  readonly debug: boolean;
}

/** The root cause of an error, if it is a bug: no error of the chain has a class, and no system call failed. */
function bugBehind(err: unknown): {readonly message: string} | undefined {
  if (codeOf(err) !== 'unknown') return undefined;
  let root = err;
  while (isErrdefs(root) && root.cause !== undefined) root = root.cause;
  if (isErrdefs(root) || (root as {code?: unknown} | undefined)?.code !== undefined) return undefined;
  return {message: root instanceof Error ? root.message : String(root)};
}

export async function reportError(err: unknown, context: Context, {json, debug}: ReportOptions): Promise<void> {
  const error = toJSON(err);
  const bug = bugBehind(err);
  const message = bug === undefined ? error.message : `${bug.message}: this is a bug`;
  const hint = bug !== undefined && !debug ? 'run it again with --debug and report the stack' : error.hint;
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
export function reportWarnings([first, ...rest]: readonly Error[], context: Context, {json}: Pick<ReportOptions, 'json'>): void {
  if (first === undefined) return;
  const {message, ...warning} = toJSON(first);
  const text = rest.length === 0 ? message : `${message} (and ${rest.length} more)`;
  if (json) {
    context.stderr(`${formatJSON({warning: {...warning, message: text}})}\n` as Printable);
    return;
  }
  const {hint} = warning;
  context.stderr(lines([`${context.program}: warning: ${oneLine(text)}`, ...(hint === undefined ? [] : [`hint: ${oneLine(hint)}`])]));
}

const oneLine = (text: string): string => text.trim().replace(/\s*\n\s*/g, ' ');
