/** Runs commands in the test's process, on a real store. Much faster than bin/, which starts a program. */
import {runCommandLine} from '../../src/cli/run-command-line.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import {openClient} from '../../src/lib/client/index.ts';
import {assertResultFields} from './assert-result-fields.ts';
import type {Result} from './harness.ts';

export interface Place {
  readonly root: string;
  readonly state: string;
}

/** Runs `ctr` with these words. */
export async function ctrHere({root, state}: Place, words: readonly string[]): Promise<Result> {
  let stdout = '';
  let stderr = '';
  const {status} = await runCommandLine(['--root', root, '--state', state, ...words], COMMANDS, {
    program: 'ctr',
    stdout: (data) => {
      stdout += Buffer.from(data as string).toString();
    },
    stderr: (text) => {
      stderr += text;
    },
    open: async (options) => openClient(options),
  });
  if (status === 0) assertResultFields(words, stdout);
  return {status, stdout, stderr};
}
