/** Runs the built command through bin/, on each engine. */
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {existsSync} from 'node:fs';
import {constants, tmpdir} from 'node:os';
import {join} from 'node:path';
import {describe} from 'node:test';
import {clockEnvironment, type Scope, temporaryDirectory} from '../support/helpers.ts';
import {assertResultFields} from './assert-result-fields.ts';

export const root = join(import.meta.dirname, '../..');
export const executable = join(root, `dist/berth-linux-${process.arch}`);

export type Engine = 'node' | 'executable';

export interface Result {
  /** 128+n if signal n ended it. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface SpawnOptions {
  /** Added to an environment without the user's own settings. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly input?: string | Uint8Array;
  /** Milliseconds after which it is killed and the test fails. Default 60 000. */
  readonly timeoutMs?: number;
}

/** Environment of every process of these tests; Node's code cache is not the machine's. */
export const environment = (): Record<string, string> => ({
  PATH: process.env.PATH ?? '/usr/bin:/bin',
  HOME: tmpdir(),
  TMPDIR: tmpdir(),
  NODE_COMPILE_CACHE: join(tmpdir(), 'node-compile-cache'),
  // Not the machine's settings.
  BERTH_CONFIG: '/dev/null',
  ...clockEnvironment(),
  ...(process.env.BERTH_TEST_RUN === undefined ? {} : {BERTH_TEST_RUN: process.env.BERTH_TEST_RUN}),
});

/** Runs a program to its end. */
export async function run(program: string, args: readonly string[], options: SpawnOptions = {}): Promise<Result> {
  const {env = {}, cwd = root, input = '', timeoutMs = 60_000} = options;
  const child = spawn(program, args, {cwd, env: {...environment(), ...env}, timeout: timeoutMs, killSignal: 'SIGKILL'});
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
  // It may end without having read its input.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const {promise, resolve, reject} = Promise.withResolvers<number>();
  child.on('error', reject);
  child.on('close', (code, signal) => resolve(code ?? 128 + constants.signals[signal!]));
  const status = await promise;
  const result = {status, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString()};
  assert.notEqual(
    status,
    128 + constants.signals.SIGKILL,
    `${program} ${args.join(' ')} was killed; it had printed ${JSON.stringify(result)}`,
  );
  if (status === 0 && /\/(?:ctr|dist|berth)$/.test(program)) assertResultFields(args, result.stdout);
  return result;
}

/** Environment that makes bin/ choose an engine. */
export function engineEnvironment(engine: Engine): Record<string, string> {
  const needed = engine === 'node' ? join(root, 'dist/node/main.js') : executable;
  assert.ok(existsSync(needed), `${needed} is missing: npm run build`);
  return engine === 'node' ? {BERTH_ENGINE: 'node'} : {};
}

export interface CommandLine {
  (args: readonly string[], options?: SpawnOptions): Promise<Result>;
  /** The same, but it must succeed. @returns its standard output */
  ok(args: readonly string[], options?: SpawnOptions): Promise<string>;
  readonly program: Program;
  /** Environment of its store, for a process that a test starts itself. */
  readonly env: Readonly<Record<string, string>>;
}

export type Program = 'ctr' | 'dist' | 'berth';

/** `ctr` on an engine, with a store of its own that is removed at the end of the scope. */
export function commandLine(scope: Scope, engine: Engine, program: Program = 'ctr'): CommandLine {
  const env = {
    ...engineEnvironment(engine),
    BERTH_ROOT: temporaryDirectory(scope, 'berth-root-'),
    BERTH_STATE: temporaryDirectory(scope, 'berth-state-'),
  };
  const call = (args: readonly string[], options: SpawnOptions = {}): Promise<Result> =>
    run(join(root, 'bin', program), args, {...options, env: {...env, ...options.env}});
  const ok = async (args: readonly string[], options: SpawnOptions = {}): Promise<string> => {
    const {status, stdout, stderr} = await call(args, options);
    assert.equal(status, 0, `${program} ${args.join(' ')} ended with ${status}: ${stderr}`);
    return stdout;
  };
  return Object.assign(call, {ok, env, program});
}

/** Declares the tests once for each engine. */
export function forEachEngine(name: string, declare: (engine: Engine) => void): void {
  for (const engine of ['node', 'executable'] as const) describe(`${name}, ${engine}`, () => declare(engine));
}
