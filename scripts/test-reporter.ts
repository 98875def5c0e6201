/**
 * Reporter for `node --test`, for logs: a line for each file, failures in full when they happen and by name at the end, skipped
 * tests counted by reason, then the runner's own closing lines.
 */
import {relative} from 'node:path';
import type {TestEvent} from 'node:test/reporters';
import {inspect} from 'node:util';

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

/** The message of an assertion has all that its properties would repeat. */
const describe = (err: unknown): string => (err instanceof Error && 'generatedMessage' in err ? (err.stack ?? err.message) : inspect(err));

const indent = (text: string): string => text.replaceAll(/^(?=.)/gm, '    ');

export default async function* report(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  /** Names of the tests that contain the current one, by nesting. */
  const path: string[] = [];
  const failures: string[] = [];
  const skips = new Map<string, number>();
  const closing: string[] = [];

  for await (const {type, data} of source) {
    switch (type) {
      case 'test:start':
        path.splice(data.nesting, path.length, data.name);
        break;
      case 'test:pass':
        if (data.skip !== undefined && data.skip !== false) {
          const reason = typeof data.skip === 'string' ? data.skip : 'no reason given';
          skips.set(reason, (skips.get(reason) ?? 0) + 1);
        }
        break;
      case 'test:fail': {
        const error = data.details.error as Error & {failureType?: string};
        // The failing tests in this suite have been reported already.
        if (error.failureType === 'subtestsFailed') break;
        const where = data.file === undefined ? '' : `${relative('.', data.file)}${data.line === undefined ? '' : `:${data.line}`} `;
        const name = `${where}${[...path.slice(0, data.nesting), data.name].join(' > ')}`;
        failures.push(name);
        yield `✖ ${name} (${seconds(data.details.duration_ms)})\n${indent(describe(error.cause ?? error))}\n`;
        break;
      }
      case 'test:stdout':
      case 'test:stderr':
        yield data.message;
        break;
      case 'test:diagnostic':
        if (data.file === undefined) closing.push(data.message);
        else yield `ℹ ${relative('.', data.file)}: ${data.message}\n`;
        break;
      case 'test:summary': {
        if (data.file === undefined) break;
        const {tests, passed, skipped, todo} = data.counts;
        const failed = tests - passed - skipped - todo;
        const text = `${passed} passed${failed > 0 ? `, ${failed} failed` : ''}${skipped > 0 ? `, ${skipped} skipped` : ''}`;
        yield `${data.success ? '✔' : '✖'} ${relative('.', data.file)}: ${text} (${seconds(data.duration_ms)})\n`;
        break;
      }
    }
  }

  if (failures.length > 0) yield `\nfailed:\n${failures.map((name) => `  ${name}\n`).join('')}`;
  if (skips.size > 0) {
    const lines = [...skips].sort(([a, m], [b, n]) => n - m || a.localeCompare(b)).map(([reason, count]) => `  ${count} × ${reason}\n`);
    yield `\nskipped:\n${lines.join('')}`;
  }
  yield `\n${closing.map((line) => `ℹ ${line}\n`).join('')}`;
}
