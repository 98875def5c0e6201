/** Times commands side by side: all in turn within a round, so that a noisy moment meets all alike. */
import {spawn, spawnSync} from 'node:child_process';
import {once} from 'node:events';
import {readdirSync, readFileSync} from 'node:fs';
import {setTimeout as sleep} from 'node:timers/promises';

export interface Command {
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

export interface Contender {
  readonly name: string;
  /** Untimed, before each run; makes what the run needs. @returns what to time */
  prepare(): Command | Promise<Command>;
  /** Untimed, after each run. */
  cleanUp?(): void | Promise<void>;
  /** For those of whom only a part counts. @param start milliseconds since the epoch @returns milliseconds, instead of all from start to end */
  elapsed?(start: number): number;
  /** A process that was there before and does part of the work: its memory counts. */
  daemon?(): number | undefined;
}

/** Resident memory in bytes. */
export interface Memory {
  /** The most that all processes had at one time, pages that they share counted once. */
  readonly together: number;
  /** The most that one process ever had. */
  readonly largest: number;
}

export interface Result {
  readonly name: string;
  /** Each round's time, in milliseconds; as many as there were rounds, unless it failed. */
  readonly times: readonly number[];
  readonly memory?: Memory;
  /** Why it did not get through; it then took no part in later rounds. */
  readonly failure?: string;
}

export interface CompareOptions {
  readonly rounds: number;
  /** Watches memory in the round that warms up, which is not timed. */
  readonly memory?: boolean;
}

/** Node before 24 reads this bundle at each start, which is no part of what is measured. */
const {NODE_EXTRA_CA_CERTS: _, ...ENV} = process.env;

/** What hangs is ended after that many milliseconds. */
const TIMEOUT_MS = 15 * 60_000;
const SAMPLE_MS = 5;

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length % 2 === 1 ? sorted[Math.floor(middle)]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Median, in milliseconds; `undefined` when it failed. */
export const time = ({times, failure}: Result): number | undefined => (failure === undefined ? median(times) : undefined);

/** The median over the rounds of what `combine` makes of the two times of a round; `undefined` when one failed. */
function paired(a: Result, b: Result, combine: (a: number, b: number) => number): number | undefined {
  if (a.failure !== undefined || b.failure !== undefined) return undefined;
  return median(a.times.map((t, round) => combine(t, b.times[round]!)));
}

/** How many times as long as `ours` `theirs` takes. */
export const ratio = (theirs: Result, ours: Result): number | undefined => paired(theirs, ours, (a, b) => a / b);

/** How many milliseconds more than `without` `with_` takes. */
export const difference = (with_: Result, without: Result): number | undefined => paired(with_, without, (a, b) => a - b);

interface Ended {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
}

function check(command: readonly string[], {status, signal, stderr}: Ended): void {
  if (signal === 'SIGINT') throw new Interrupted('interrupted');
  if (status === 0) return;
  const lines = stderr.trim().split('\n');
  const words = (lines.find((line) => /error/i.test(line)) ?? lines.at(-1)!).slice(0, 300);
  throw new Failure(`${command[0]!.split('/').at(-1)} ended with ${status ?? signal}${words === '' ? '' : `: ${words}`}`);
}

/** A contender's own: it is reported, and the others go on. */
class Failure extends Error {}

/** The user's wish: everything ends. */
class Interrupted extends Error {}

/** @returns milliseconds */
function runTimed({command, env, cwd}: Command, elapsed: Contender['elapsed']): number {
  const start = performance.now();
  const {status, signal, error, stderr} = spawnSync(command[0]!, command.slice(1), {
    env: {...ENV, ...env},
    ...(cwd === undefined ? {} : {cwd}),
    stdio: ['ignore', 'ignore', 'pipe'],
    maxBuffer: 64 << 20,
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL',
  });
  const all = performance.now() - start;
  if (error !== undefined) throw new Failure(error.message);
  check(command, {status, signal, stderr: stderr.toString()});
  return elapsed?.(performance.timeOrigin + start) ?? all;
}

const readProc = (path: string): string => {
  try {
    return readFileSync(`/proc/${path}`, 'latin1');
  } catch {
    return ''; // it has ended
  }
};

/** A process and its descendants. */
function processTree(pid: number): number[] {
  let threads: string[] = [];
  try {
    threads = readdirSync(`/proc/${pid}/task`);
  } catch {
    // it has ended
  }
  const children = threads.flatMap((thread) => readProc(`${pid}/task/${thread}/children`).trim().split(' ').filter(Boolean));
  return [pid, ...children.flatMap((child) => processTree(Number(child)))];
}

const kilobytes = (text: string, field: string): number => 1024 * Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0);

async function runWatched({command, env, cwd}: Command, daemon: number | undefined): Promise<Memory> {
  const child = spawn(command[0]!, command.slice(1), {
    env: {...ENV, ...env},
    ...(cwd === undefined ? {} : {cwd}),
    stdio: ['ignore', 'ignore', 'pipe'],
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL',
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const closed = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
  let ended = false;
  const end = closed.then(
    () => undefined,
    (err: Error) => err,
  );
  void end.then(() => {
    ended = true;
  });
  let together = 0;
  let largest = 0;
  while (!ended) {
    const pids = [child.pid, daemon].flatMap((pid) => (pid === undefined ? [] : processTree(pid)));
    together = Math.max(
      together,
      pids.reduce((sum, pid) => sum + kilobytes(readProc(`${pid}/smaps_rollup`), 'Pss'), 0),
    );
    largest = Math.max(largest, ...pids.map((pid) => kilobytes(readProc(`${pid}/status`), 'VmHWM')));
    await sleep(SAMPLE_MS);
  }
  const failure = await end;
  if (failure !== undefined) throw new Failure(failure.message);
  const [status, signal] = await closed;
  check(command, {status, signal, stderr});
  return {together, largest};
}

/** One round to warm up, then as many as are asked for. */
export async function compare(contenders: readonly Contender[], {rounds, memory = false}: CompareOptions): Promise<Result[]> {
  const entries = contenders.map((contender) => ({
    contender,
    times: [] as number[],
    memory: undefined as Memory | undefined,
    failure: undefined as string | undefined,
  }));
  for (let round = 0; round <= rounds; round++)
    for (const entry of entries) {
      if (entry.failure !== undefined) continue;
      const {name, prepare, cleanUp, elapsed, daemon} = entry.contender;
      try {
        const command = await prepare();
        try {
          if (round > 0) entry.times.push(runTimed(command, elapsed));
          else if (memory) entry.memory = await runWatched(command, daemon?.());
          else runTimed(command, elapsed);
        } finally {
          await cleanUp?.();
        }
      } catch (err) {
        if (err instanceof Interrupted) throw err;
        entry.failure = (err as Error).message;
        process.stderr.write(`bench: ${name}: ${err instanceof Failure ? err.message : (err as Error).stack}\n`);
      }
    }
  return entries.map(({contender: {name}, times, memory: seen, failure}) => ({
    name,
    times,
    ...(seen === undefined ? {} : {memory: seen}),
    ...(failure === undefined ? {} : {failure}),
  }));
}

/** Runs what a bench needs done, untimed. @throws Error with the end of what it said */
export function prepareBy({command, env, cwd}: Command): string {
  const {status, error, stdout, stderr} = spawnSync(command[0]!, command.slice(1), {
    env: {...ENV, ...env},
    ...(cwd === undefined ? {} : {cwd}),
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  });
  if (status !== 0) throw new Error(`${command.join(' ')} ended with ${status}: ${stderr?.slice(-1000) ?? ''}`, {cause: error});
  return stdout;
}
