/** scripts/run-tests.ts, on test files that pass, fail, fail once and crash. */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {temporaryDirectory} from './support/helpers.ts';

const MODULE = join(import.meta.dirname, '../scripts/run-tests.ts');

/** Fails with `how` in the first process that comes here, and in none after it. */
const once = (how: string): string => `
  let first = true;
  try { require('node:fs').mkdirSync(__filename + '.ran'); } catch { first = false; }
  if (first) { ${how} }`;

/** Files by name, each with what is to come of it: in a first run, and alone. */
const FILES: Readonly<Record<string, {readonly text: string; readonly first: 'passes' | 'fails'; readonly alone?: 'passes' | 'fails'}>> = {
  passes: {text: "it('a', () => {}); it('b', () => {});", first: 'passes'},
  skips: {text: "it('a', (t) => t.skip('no luck')); it('b', () => {});", first: 'passes'},
  'fails always': {text: "it('a', () => {}); it('b', () => { throw new Error('always'); });", first: 'fails', alone: 'fails'},
  'fails once': {text: `it('a', () => {}); it('b', () => { ${once("throw new Error('once');")} });`, first: 'fails', alone: 'passes'},
  'fails once elsewhere': {
    text: `it('a', () => { ${once("throw new Error('once');")} assert.fail('always'); });`,
    first: 'fails',
    alone: 'fails',
  },
  'crashes once': {
    text: `it('a', () => {}); it('b', () => { ${once("process.kill(process.pid, 'SIGKILL');")} });`,
    first: 'fails',
    alone: 'passes',
  },
  'does not load': {text: 'syntax error', first: 'fails', alone: 'fails'},
  'hook fails once': {
    text: `describe('a', () => { before(() => { ${once("throw new Error('once');")} }); it('b', () => {}); });`,
    first: 'fails',
    alone: 'passes',
  },
};

/** @param again whether files with failures run a second time */
function runTests(t: TestContext, names: readonly string[], again: boolean): {status: number | null; lines: string[]} {
  const dir = temporaryDirectory(t);
  mkdirSync(join(dir, 'test'));
  const paths = names.map((name, n) => `test/${name.replaceAll(' ', '-')}.test.${names.indexOf(name) === n ? '' : `${n}.`}cjs`);
  names.forEach((name, n) => {
    const text = `const {describe, before, it} = require('node:test'); const assert = require('node:assert');\n${FILES[name]!.text}`;
    writeFileSync(join(dir, paths[n]!), text);
  });
  const code = `
    const {runTests} = await import(${JSON.stringify(MODULE)});
    const again = ${again} ? async () => console.log('sweeping') : undefined;
    process.exitCode = await runTests(${JSON.stringify(paths)}, {concurrency: 2, timeoutMs: 60_000, again, write: (text) => process.stdout.write(text)});`;
  // Options such as --eval would go on to the processes of the files.
  writeFileSync(join(dir, 'run.mjs'), code);
  const {NODE_TEST_CONTEXT: _, ...env} = process.env;
  const {status, stdout, stderr} = spawnSync(process.execPath, ['run.mjs'], {cwd: dir, env, encoding: 'utf8'});
  assert.equal(stderr, '');
  return {status, lines: stdout.split('\n')};
}

/** The lines below a title that begins so; none without the title. */
function below(lines: readonly string[], title: string): string[] {
  const from = lines.findIndex((line) => line.startsWith(title));
  return from < 0 ? [] : lines.slice(from + 1, lines.indexOf('', from)).map((line) => line.trim());
}

/** A sum of the closing lines. */
const sum = (lines: readonly string[], name: string): number =>
  Number(/\d+/.exec(lines.findLast((line) => line.startsWith(`ℹ ${name} `))!)?.[0]);

/** Names of the files that the lines are of, each once. */
const filesOf = (lines: readonly string[]): string[] =>
  [...new Set(lines.map((line) => /^test\/(.*?)\.test/.exec(line)![1]!.replaceAll('-', ' ')))].sort();

describe('a run of test files', () => {
  it("counts skips by reason before node's closing lines", (t) => {
    const {status, lines} = runTests(t, ['skips', 'passes'], false);
    assert.equal(status, 0);
    assert.deepEqual(below(lines, 'skipped'), ['1 × no luck']);
    assert.deepEqual(
      lines.slice(-9, -2),
      ['tests 4', 'suites 0', 'pass 3', 'fail 0', 'cancelled 0', 'skipped 1', 'todo 0'].map((line) => `ℹ ${line}`),
    );
    assert.match(lines.at(-2)!, /^ℹ duration_ms \d+$/);
  });

  it('shows a failure in full, names it with its place, and ends with a status that is not 0', (t) => {
    const {status, lines} = runTests(t, ['fails always'], false);
    assert.equal(status, 1);
    assert.ok(lines.some((line) => line.endsWith('Error: always')));
    assert.match(below(lines, 'failed')[0]!, /^test\/fails-always\.test\.cjs:2:?\d* b$/);
    assert.ok(lines.some((line) => /^✖ test\/fails-always\.test\.cjs: 1 passed, 1 failed \(/.test(line)));
  });

  it('without a second run fails for each file with a failure', (t) => {
    const names = Object.keys(FILES);
    const {status, lines} = runTests(t, names, false);
    assert.equal(status, 1);
    const expected = names.filter((name) => FILES[name]!.first === 'fails');
    assert.deepEqual(filesOf(below(lines, 'failed:')), expected.sort());
    assert.deepEqual(below(lines, 'failed beside'), []);
    assert.ok(!lines.includes('sweeping'));
  });

  it('with a second run fails only for files that fail alone too, and tells of all failures of the first one', (t) => {
    const names = Object.keys(FILES);
    const {status, lines} = runTests(t, names, true);
    assert.equal(status, 1);
    const failed = names.filter((name) => FILES[name]!.alone === 'fails');
    assert.deepEqual(filesOf(below(lines, 'failed:')), failed.sort());
    const passed = names.filter((name) => FILES[name]!.alone === 'passes');
    assert.deepEqual(filesOf(below(lines, 'failed beside')), passed.sort());
    assert.equal(lines.filter((line) => line === 'sweeping').length, 1);
    assert.equal(lines.filter((line) => /Error: once$/.test(line)).length, 3, 'each first failure in full');
    // The sums are those of the last run of each file.
    assert.equal(sum(lines, 'tests'), 2 + 2 + 2 + 2 + 1 + 2 + 1 + 1);
    assert.equal(sum(lines, 'fail'), failed.length);
    assert.equal(sum(lines, 'tests'), sum(lines, 'pass') + sum(lines, 'fail') + sum(lines, 'skipped') + sum(lines, 'cancelled'));
  });

  it('passes when all that failed passes alone', (t) => {
    const {status, lines} = runTests(t, ['passes', 'fails once', 'crashes once'], true);
    assert.equal(status, 0);
    assert.deepEqual(below(lines, 'failed:'), []);
    assert.deepEqual(filesOf(below(lines, 'failed beside')), ['crashes once', 'fails once']);
    assert.deepEqual([sum(lines, 'tests'), sum(lines, 'pass'), sum(lines, 'fail')], [6, 6, 0]);
  });

  it('runs nothing again when failures are too many for chance', (t) => {
    const {status, lines} = runTests(t, Array.from<string>({length: 9}).fill('fails once'), true);
    assert.equal(status, 1);
    assert.equal(below(lines, 'failed:').length, 9);
    assert.ok(!lines.includes('sweeping'));
  });
});
