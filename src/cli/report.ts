/** Errors on standard error: one line, then where there is one a second with the next step; or one line of JSON. */
import {isErrdefs, resolve, toJSON} from '../lib/errdefs.ts';
import type {Context} from './context.ts';
import {printable} from './values.ts';

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
    context.stderr(`${JSON.stringify({error: object})}\n`);
    return;
  }
  context.stderr(`${context.program}: ${oneLine(message)}\n`);
  if (hint !== undefined) context.stderr(`hint: ${oneLine(hint)}\n`);
  if (stack !== undefined) context.stderr(`${stack}\n`);
}

const oneLine = (text: string): string => printable(text.trim().replace(/\s*\n\s*/g, ' '));
