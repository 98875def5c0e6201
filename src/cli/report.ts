/** Errors on standard error: one line, then where there is one a second with the next step; or one line of JSON. */
import {isErrdefs, resolve, toJSON} from '../lib/errdefs.ts';
import type {Context} from './context.ts';
import {formatJSON, lines, type Printable} from './output.ts';

interface ReportOptions {
  readonly json: boolean;
  /** Adds the stack. */
  readonly debug: boolean;
}

/** What nobody foresaw, where an error comes from that: it has no class, nor has what it came from, and no system call made it. */
function bugBehind(err: unknown): {readonly message: string} | undefined {
  if (resolve(err) !== 'unknown') return undefined;
  let root = err;
  while (isErrdefs(root) && root.cause !== undefined) root = root.cause;
  if (isErrdefs(root) || (root as {code?: unknown} | undefined)?.code !== undefined) return undefined;
  return {message: root instanceof Error ? root.message : String(root)};
}

export async function report(err: unknown, context: Context, {json, debug}: ReportOptions): Promise<void> {
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
  // Indented: a line of a message in it is no line of ours.
  if (stack !== undefined) texts.push(...stack.split('\n').map((line) => `    ${line}`));
  context.stderr(lines(texts));
}

/** One line for all of them, whatever their number: they change neither output nor exit status. */
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
