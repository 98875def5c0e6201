/** Reads standard input: data, or a secret. */
import {addAbortSignal, Writable} from 'node:stream';
import {ErrdefsError} from '../lib/errdefs.ts';

/** @throws the reason of `signal` when it is aborted */
export async function* standardInput(signal: AbortSignal): AsyncGenerator<Uint8Array> {
  signal.throwIfAborted();
  yield* addAbortSignal(signal, process.stdin);
}

/**
 * Asks for a line at the terminal without echoing it.
 *
 * @returns `undefined` if standard input is not a terminal
 * @throws canceled on Ctrl-C or Ctrl-D
 */
export async function askSecret(question: string): Promise<string | undefined> {
  const {stdin, stderr} = process;
  if (!stdin.isTTY) return undefined;
  const {createInterface} = await import('node:readline');
  const nowhere = new Writable({write: (_chunk, _encoding, done) => done()});
  // Echo is off before the question appears, so that a fast answer is not shown either.
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
