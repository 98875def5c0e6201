/** Runs test code in child processes, for real locks and real kills. */
import {type ChildProcess, type SpawnOptions, spawn} from 'node:child_process';
import {once} from 'node:events';
import type {Readable} from 'node:stream';
import {onEnd, type Scope} from './helpers.ts';

const SOURCE = new URL('../../src/lib/', import.meta.url).href;

export interface ScriptOptions {
  /** Options of Node itself, such as `--import`. */
  readonly execArgv?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** A program and its arguments, in front of Node: `unshare --pid --fork`. */
  readonly through?: readonly string[];
}

/** A process that runs a piece of code. */
export interface Script {
  readonly process: ChildProcess;
  readonly pid: number;
  /** Resolves with the next whole line of its standard output; rejects when it ends first. */
  line(): Promise<string>;
  /** Resolves `await go()` in the script. */
  go(): void;
  /** Resolves when it has ended. */
  readonly done: Promise<Ended>;
}

export interface Ended {
  /** Exit status; null when a signal ended it. */
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Output that was not read with `line`. */
  readonly stdout: string;
  readonly stderr: string;
}

const PRELUDE = `
const lib = (name) => import(${JSON.stringify(SOURCE)} + name);
const say = (text) => require('node:fs').writeSync(1, text + '\\n');
const go = () => new Promise((resolve) => process.stdin.once('data', () => { process.stdin.unref(); resolve(); }));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const args = process.argv.slice(1);
`;

/**
 * Runs `code`, an async function's body, in a new Node. It has `lib('store/store.ts')`, which imports from the library's
 * source, `say(text)`, `go()`, `sleep(ms)` and `args`. It is killed when the scope ends.
 */
export function startScript(scope: Scope, code: string, args: readonly string[] = [], options: ScriptOptions = {}): Script {
  const program = [
    ...(options.through ?? []),
    process.execPath,
    ...(options.execArgv ?? []),
    '--eval',
    `${PRELUDE}(async () => {${code}\n})();`,
    '--',
    ...args,
  ];
  const spawned: SpawnOptions = {stdio: ['pipe', 'pipe', 'pipe'], env: {...process.env, ...options.env}};
  const child = spawn(program[0]!, program.slice(1), spawned);
  let stdout = '';
  let stderr = '';
  let ended = false;
  const waiting: {resolve(line: string): void; reject(err: unknown): void}[] = [];
  const serve = (): void => {
    for (let end = stdout.indexOf('\n'); end >= 0 && waiting.length > 0; end = stdout.indexOf('\n')) {
      waiting.shift()!.resolve(stdout.slice(0, end));
      stdout = stdout.slice(end + 1);
    }
    if (ended) for (const {reject} of waiting.splice(0)) reject(new Error(`it ended: ${stdout}${stderr}`));
  };
  (child.stdout as Readable).setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    serve();
  });
  (child.stderr as Readable).setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  child.stdin!.on('error', () => {}); // it ended before it was told to go
  const done = once(child, 'close').then(([status, signal]): Ended => {
    ended = true;
    serve();
    return {status: status as number | null, signal: signal as NodeJS.Signals | null, stdout, stderr};
  });
  onEnd(scope, async () => {
    child.kill('SIGCONT');
    child.kill('SIGKILL');
    await done;
  });
  return {
    process: child,
    pid: child.pid!,
    line: () =>
      new Promise((resolve, reject) => {
        waiting.push({resolve, reject});
        serve();
      }),
    go: () => void child.stdin!.write('go\n'),
    done,
  };
}

/** Runs `code` to its end. @throws when its exit status is not 0 */
export async function runScript(scope: Scope, code: string, args: readonly string[] = [], options: ScriptOptions = {}): Promise<Ended> {
  const ended = await startScript(scope, code, args, options).done;
  if (ended.status !== 0) throw new Error(`status ${ended.status}, signal ${ended.signal}: ${ended.stdout}${ended.stderr}`);
  return ended;
}
