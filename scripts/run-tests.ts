/**
 * Runs test files by node's runner, each in a process of its own, and reports for logs: a line for each file, failures in full when
 * they happen and by name at the end, skipped tests counted by reason, then the runner's closing lines.
 *
 * A file with failures may be run a second time, alone: CONTRIBUTING.md, "A test that fails once", says when and why.
 */
import {relative} from 'node:path';
import {run} from 'node:test';
import type {TestEvent} from 'node:test/reporters';
import {inspect} from 'node:util';

/** With failures in more files than these something is broken, and a second run would only take long. */
const MOST_FILES_AGAIN = 8;

/** In the order of node's closing lines. */
const COUNTS = ['tests', 'suites', 'pass', 'fail', 'cancelled', 'skipped', 'todo'] as const;

/** What came of the tests of one file. */
interface Outcome {
  readonly counts: Record<(typeof COUNTS)[number], number>;
  /** Names of the tests that failed, each with its place. */
  readonly failures: string[];
  /** A reason for each test that was skipped. */
  readonly skips: string[];
}

/** By the path of the file, from the working directory. */
type Outcomes = Map<string, Outcome>;

export interface RunTestsOptions {
  /** Files that run side by side. */
  readonly concurrency: number;
  /** Time limit for one test, in milliseconds. */
  readonly timeoutMs: number;
  /** Options of Node for the processes of the files. */
  readonly execArgv?: readonly string[];
  /** Runs files with failures once more, alone, after this has ended what the first run left. */
  readonly again?: (() => Promise<void>) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Takes the report, piece by piece. */
  readonly write: (text: string) => void;
}

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

/** The message of an assertion has all that its properties would repeat. */
const describe = (err: unknown): string => (err instanceof Error && 'generatedMessage' in err ? (err.stack ?? err.message) : inspect(err));

const indent = (text: string): string => text.replaceAll(/^(?=.)/gm, '    ');

const list = (title: string, lines: readonly string[]): string =>
  lines.length === 0 ? '' : `\n${title}:\n${lines.map((line) => `  ${line}\n`).join('')}`;

interface Ended {
  readonly details: {readonly type?: 'suite' | 'test'};
  readonly skip?: string | boolean;
  readonly todo?: string | boolean;
}

/** Counts as node's runner does (countCompletedTest in lib/internal/test_runner/utils.js). @param failure its type, unless the test passed */
function add(counts: Outcome['counts'], {details, skip, todo}: Ended, failure?: string): void {
  if (details.type === 'suite') {
    counts.suites++;
    return;
  }
  counts.tests++;
  if (skip !== undefined) counts.skipped++;
  else if (todo !== undefined) counts.todo++;
  else if (failure === undefined) counts.pass++;
  else if (['cancelledByParent', 'testAborted', 'testTimeoutFailure'].includes(failure)) counts.cancelled++;
  else counts.fail++;
}

/** Turns the runner's events into text, and adds to `outcomes`. */
async function* report(events: AsyncIterable<TestEvent>, outcomes: Outcomes): AsyncGenerator<string> {
  /** Names of the tests that contain the current one, by nesting. */
  const path: string[] = [];
  const outcomeOf = (file: string): Outcome => {
    const known = outcomes.get(file);
    if (known !== undefined) return known;
    const outcome = {counts: {tests: 0, suites: 0, pass: 0, fail: 0, cancelled: 0, skipped: 0, todo: 0}, failures: [], skips: []};
    outcomes.set(file, outcome);
    return outcome;
  };
  /** A test may be defined in another file than the one that was started. */
  const started = (data: {readonly entryFile?: string; readonly file?: string | undefined}): string =>
    relative('.', data.entryFile ?? data.file ?? '');

  for await (const {type, data} of events) {
    switch (type) {
      case 'test:start':
        path.splice(data.nesting, path.length, data.name);
        break;
      case 'test:pass': {
        const outcome = outcomeOf(started(data));
        add(outcome.counts, data);
        if (data.skip !== undefined && data.skip !== false)
          outcome.skips.push(typeof data.skip === 'string' ? data.skip : 'no reason given');
        break;
      }
      case 'test:fail': {
        const outcome = outcomeOf(started(data));
        const error = data.details.error as Error & {failureType?: string};
        add(outcome.counts, data, error.failureType ?? 'unknown');
        // The failing tests in this suite have been reported already.
        if (error.failureType === 'subtestsFailed' || data.todo !== undefined) break;
        const where = data.file === undefined ? '' : `${relative('.', data.file)}${data.line === undefined ? '' : `:${data.line}`} `;
        const name = `${where}${[...path.slice(0, data.nesting), data.name].join(' > ')}`;
        outcome.failures.push(name);
        yield `✖ ${name} (${seconds(data.details.duration_ms)})\n${indent(describe(error.cause ?? error))}\n`;
        break;
      }
      case 'test:stdout':
      case 'test:stderr':
        yield data.message;
        break;
      case 'test:diagnostic':
        // Those without a file are the closing lines, which `closing` writes.
        if (data.file !== undefined) yield `ℹ ${relative('.', data.file)}: ${data.message}\n`;
        break;
      case 'test:summary': {
        if (data.file === undefined) break;
        const {tests, passed, skipped, todo} = data.counts;
        const failed = tests - passed - skipped - todo;
        const text = `${passed} passed${failed > 0 ? `, ${failed} failed` : ''}${skipped > 0 ? `, ${skipped} skipped` : ''}`;
        yield `${data.success ? '✔' : '✖'} ${relative('.', data.file)}: ${text} (${seconds(data.duration_ms)})\n`;
        const outcome = outcomeOf(started(data));
        if (!data.success && outcome.failures.length === 0) outcome.failures.push(`${relative('.', data.file)} ends with failure`);
        break;
      }
    }
  }
}

/** The end of the report. @param passedAlone names of tests that failed in a first run only */
function closing(outcomes: Outcomes, passedAlone: readonly string[], durationMs: number): string {
  const all = [...outcomes.values()];
  const skips = Map.groupBy(
    all.flatMap((outcome) => outcome.skips),
    (reason) => reason,
  );
  const reasons = [...skips]
    .sort(([a, m], [b, n]) => n.length - m.length || a.localeCompare(b))
    .map(([reason, {length}]) => `${length} × ${reason}`);
  const sums = COUNTS.map((name) => `ℹ ${name} ${all.reduce((sum, {counts}) => sum + counts[name], 0)}\n`);
  return [
    list(
      'failed',
      all.flatMap((outcome) => outcome.failures),
    ),
    list('failed beside other tests, passed alone (to be mended: each depends on load, on time, or on what runs beside it)', passedAlone),
    list('skipped', reasons),
    `\n${sums.join('')}ℹ duration_ms ${durationMs.toFixed(0)}\n`,
  ].join('');
}

/**
 * Runs the files, which start in the order given.
 *
 * @param files paths from the working directory
 * @returns the exit status: 0 when each test has passed, in the first run of its file or in the second one
 */
export async function runTests(files: readonly string[], options: RunTestsOptions): Promise<number> {
  const {concurrency, timeoutMs, execArgv = [], again, signal, write} = options;
  const begun = performance.now();
  const pass = async (some: readonly string[], atOnce: number): Promise<Outcomes> => {
    const outcomes: Outcomes = new Map();
    const events = run({files: some, concurrency: atOnce, timeout: timeoutMs, execArgv, signal});
    for await (const text of report(events, outcomes)) write(text);
    return outcomes;
  };

  const outcomes = await pass(files, concurrency);
  const failed = [...outcomes].filter(([, {failures}]) => failures.length > 0).map(([file]) => file);
  const passedAlone: string[] = [];
  if (again !== undefined && failed.length > 0 && signal?.aborted !== true) {
    if (failed.length > MOST_FILES_AGAIN) write(`\nfailures in ${failed.length} files are no chance: nothing is run again\n`);
    else {
      await again();
      write(`\nrunning alone what has failures, one at a time: ${failed.join(' ')}\n`);
      for (const [file, outcome] of await pass(failed, 1)) {
        passedAlone.push(...outcomes.get(file)!.failures.filter((name) => !outcome.failures.includes(name)));
        outcomes.set(file, outcome);
      }
    }
  }
  write(closing(outcomes, passedAlone, performance.now() - begun));
  return [...outcomes.values()].some(({failures}) => failures.length > 0) ? 1 : 0;
}
