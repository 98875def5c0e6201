/** Reads standard input: data, or a secret. */
import {ErrdefsError} from '../lib/errdefs.ts';

/** @throws the reason of `signal` when it is aborted */
export async function* standardInput(signal: AbortSignal): AsyncGenerator<Uint8Array> {
  signal.throwIfAborted();
  const {addAbortSignal} = await import('node:stream');
  yield* addAbortSignal(signal, process.stdin);
}

/** Asks for a line at the terminal without echoing it; otherwise as `askLine`. */
export const askSecret = (question: string): Promise<string | undefined> => ask(question, false);

/**
 * Asks for a line at the terminal.
 *
 * @returns `undefined` if standard input is not a terminal
 * @throws canceled on Ctrl-C or Ctrl-D
 */
export const askLine = (question: string): Promise<string | undefined> => ask(question, true);

async function ask(question: string, echo: boolean): Promise<string | undefined> {
  const {stdin, stderr} = process;
  if (!stdin.isTTY) return undefined;
  const [{createInterface}, {Writable}] = await Promise.all([import('node:readline'), import('node:stream')]);
  const nowhere = new Writable({write: (_chunk, _encoding, done) => done()});
  // Echo is off before the question appears, so that a fast answer is not shown either.
  const lines = createInterface({input: stdin, output: echo ? stderr : nowhere, terminal: true});
  if (echo) lines.setPrompt(question);
  if (echo) lines.prompt();
  else stderr.write(question);
  try {
    return await new Promise((resolve, reject) => {
      lines.once('line', resolve);
      lines.once('close', () => reject(new ErrdefsError('canceled', question.replace(/: $/, '').toLowerCase())));
    });
  } finally {
    lines.close();
    if (!echo) stderr.write('\n');
  }
}

/** @returns all of standard input without its last line end; `undefined` if that is empty */
export async function readSecret(): Promise<string | undefined> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  return (
    Buffer.concat(chunks)
      .toString()
      .replace(/\r?\n$/, '') || undefined
  );
}
