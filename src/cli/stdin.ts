/** Standard input: as data, or as a person's answer. */
import {addAbortSignal, Writable} from 'node:stream';
import {ErrdefsError} from '../lib/errdefs.ts';

/** @throws the signal's reason, once it is aborted */
export async function* standardInput(signal: AbortSignal): AsyncGenerator<Uint8Array> {
  signal.throwIfAborted();
  yield* addAbortSignal(signal, process.stdin);
}

/**
 * Asks at the terminal, without showing what is typed.
 *
 * @returns the line; `undefined` when there is no terminal
 * @throws canceled Ctrl-C or Ctrl-D instead of an answer
 */
export async function askSecret(question: string): Promise<string | undefined> {
  const {stdin, stderr} = process;
  if (!stdin.isTTY) return undefined;
  const {createInterface} = await import('node:readline');
  const nowhere = new Writable({write: (_chunk, _encoding, done) => done()});
  // Whoever answers at once must not see it either: the terminal is quiet before the question is there.
  const lines = createInterface({input: stdin, output: nowhere, terminal: true});
  stderr.write(question);
  try {
    return await new Promise((resolve, reject) => {
      lines.once('line', resolve);
      lines.once('close', () => reject(new ErrdefsError('canceled', 'password')));
    });
  } finally {
    lines.close();
    stderr.write('\n');
  }
}

/** @returns all of standard input but the end of its last line; `undefined` when that is nothing */
export async function readSecret(): Promise<string | undefined> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  return (
    Buffer.concat(chunks)
      .toString()
      .replace(/\r?\n$/, '') || undefined
  );
}
