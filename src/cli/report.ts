/** Errors on standard error: one line, then where there is one a second with the next step; or one line of JSON. */
import {isErrdefs, resolve, toJSON} from '../lib/errdefs.ts';
import type {Context} from './context.ts';
import {formatJSON, lines, type Printable} from './output.ts';

interface ReportOptions {
  readonly json: boolean;
  /** Adds the stack. */
  readonly debug: boolean;
}

/** An error that nobody foresaw: it has no class, nor has what it came from, and no system call made it. */
function isBug(err: unknown): boolean {
  if (resolve(err) !== 'unknown') return false;
  let root = err;
  while (isErrdefs(root) && root.cause !== undefined) root = root.cause;
  return !isErrdefs(root) && (root as {code?: unknown} | undefined)?.code === undefined;
}

export async function report(err: unknown, context: Context, {json, debug}: ReportOptions): Promise<void> {
  const error = toJSON(err);
  const bug = isBug(err);
  const message = bug ? `${error.message}: this is a bug` : error.message;
  const hint = bug && !debug ? 'run it again with --debug and report the stack' : error.hint;
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

const oneLine = (text: string): string => text.trim().replace(/\s*\n\s*/g, ' ');
