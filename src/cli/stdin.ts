/** Standard input: as data, or as a person's answer. */
import {addAbortSignal} from 'node:stream';

/** @throws the signal's reason, once it is aborted */
export async function* standardInput(signal: AbortSignal): AsyncGenerator<Uint8Array> {
  signal.throwIfAborted();
  yield* addAbortSignal(signal, process.stdin);
}

/**
 * Asks at the terminal, without showing what is typed.
 *
 * @returns the line; `undefined` when there is no terminal
 */
export async function askSecret(question: string): Promise<string | undefined> {
  const {stdin, stderr} = process;
  if (!stdin.isTTY) return undefined;
  const {createInterface} = await import('node:readline/promises');
  const {Writable} = await import('node:stream');
  stderr.write(question);
  const nowhere = new Writable({write: (_chunk, _encoding, done) => done()});
  const lines = createInterface({input: stdin, output: nowhere, terminal: true});
  try {
    return await lines.question('');
  } finally {
    lines.close();
    stderr.write('\n');
  }
}
