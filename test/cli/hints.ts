/** The commands that hints give. */
import assert from 'node:assert/strict';
import {delimiter, join} from 'node:path';
import {environment, type Program, type Result, root, run} from './harness.ts';

/** Commands of a hint that can be typed: after `: `, to its end, or in double quotes; not those with a word in capitals, which stands for another one. */
export const commandsIn = (hint: string): readonly string[] =>
  [...hint.matchAll(/(?:: |")((?:ctr|dist|berth) (?:[^"]*(?=")|[^"]*$))/gm)]
    .map((match) => match[1]!)
    .filter((command) => !/ [A-Z]{2,}/.test(command));

/** Nothing that was printed names another program than the one that was started. */
export function assertNamed(program: Program, printed: string): void {
  const others = ['ctr', 'dist', 'berth'].filter((name) => name !== program).join('|');
  assert.doesNotMatch(printed, new RegExp(`(?:: |")(?:${others}) [a-z-]`));
}

/** Types a command into a shell that finds this checkout's programs. */
export const runHint = (command: string, env: Readonly<Record<string, string>>): Promise<Result> =>
  run('sh', ['-c', command], {env: {...env, PATH: `${join(root, 'bin')}${delimiter}${environment().PATH}`}});
