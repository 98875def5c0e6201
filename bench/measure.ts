/** Times commands side by side: all in turn within a round, so that a noisy moment meets all alike. */
import {spawn, spawnSync} from 'node:child_process';
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
  /** Each round's processor time, user and system, of the command and of its daemon, in milliseconds; absent where only a part counts. */
  readonly processor?: readonly number[];
  readonly memory?: Memory;
  /** Why it did not get through; it then took no part in later rounds. */
  readonly failure?: string;
}

export interface CompareOptions {
  readonly rounds: number;
  /** Watches memory in the round that warms up, which is not timed. */
  readonly memory?: boolean;
}

const {NODE_EXTRA_CA_CERTS: _, ...environment} = process.env;

/** What is measured sees this. Node before 24 reads the bundle that is left out at each start, which is no part of it. */
export const ENV: NodeJS.ProcessEnv = environment;

/** What hangs is ended after that many milliseconds. */
const TIMEOUT_MS = 15 * 60_000;
const SAMPLE_MS = 5;

/** The value that `part` of all are below, interpolated between two. */
function quantile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = part * (sorted.length - 1);
  const [below, above] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
  return below + (at - Math.floor(at)) * (above - below);
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

/** What the middle half of the values lies between. */
export const quartiles = (values: readonly number[]): readonly [lower: number, upper: number] => [
  quantile(values, 0.25),
  quantile(values, 0.75),
];

/** Each round's value, or `undefined` where a contender failed. */
export type Samples = readonly number[] | undefined;

/** Each round's time in milliseconds. */
export const times = (result: Result): Samples => (result.failure === undefined ? result.times : undefined);

/** For each round, the value that `combine` makes of the two times. */
function paired(a: Result, b: Result, combine: (a: number, b: number) => number): Samples {
  const [one, other] = [times(a), times(b)];
  return one === undefined || other === undefined ? undefined : one.map((t, round) => combine(t, other[round]!));
}

/** How many times as long as `ours` `theirs` takes. */
export const ratios = (theirs: Result, ours: Result): Samples => paired(theirs, ours, (a, b) => a / b);

/** How many milliseconds more than `without` `with_` takes. */
export const differences = (with_: Result, without: Result): Samples => paired(with_, without, (a, b) => a - b);

/** A contender's own: it is reported, and the others go on. */
class Failure extends Error {}

/** The user wants everything to end. */
export class Interrupted extends Error {}

let interrupted = false;
let endRunning: (() => void) | undefined;

/** Ends what runs, and the comparison with it. */
export function interrupt(): void {
  interrupted = true;
  endRunning?.();
}

/**
 * Runs a command to its end, in a process group of its own.
 *
 * @param whileRunning is called again and again with its process ID
 * @returns its standard output
 */
async function execute({command, env, cwd}: Command, whileRunning?: (pid: number) => void): Promise<string> {
  const child = spawn(command[0]!, command.slice(1), {
    env: {...ENV, ...env},
    ...(cwd === undefined ? {} : {cwd}),
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let running = true;
  const output = {stdout: '', stderr: ''};
  for (const name of ['stdout', 'stderr'] as const)
    child[name].setEncoding('utf8').on('data', (text: string) => {
      output[name] += text;
    });
  const closed = new Promise<{status: number | null; signal: NodeJS.Signals | null}>((resolve, reject) => {
    child.once('error', (err) => reject(new Failure(err.message)));
    child.once('close', (status, signal) => resolve({status, signal}));
  }).finally(() => {
    running = false;
  });
  closed.catch(() => {}); // it is awaited below
  const end = (): void => {
    if (running && child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  };
  const timeout = setTimeout(end, TIMEOUT_MS);
  endRunning = end;
  try {
    for (; running && whileRunning !== undefined && child.pid !== undefined; await sleep(SAMPLE_MS)) whileRunning(child.pid);
    const {status, signal} = await closed;
    if (interrupted) throw new Interrupted('interrupted');
    if (status === 0) return output.stdout;
    const lines = output.stderr.trim().split('\n');
    const words = (lines.find((line) => /error/i.test(line)) ?? lines.at(-1)!).slice(0, 300);
    throw new Failure(`ended with ${status ?? signal}${words === '' ? '' : `: ${words}`}`);
  } finally {
    clearTimeout(timeout);
    endRunning = undefined;
  }
}

/**
 * Starts a program and prints when it began and ended, in seconds, then the processor time of the shell and of its children. A
 * process as small as this one starts others faster than Node does, and always alike.
 */
const STOPWATCH = `
start=$EPOCHREALTIME
"$@" >/dev/null
status=$?
end=$EPOCHREALTIME
echo "\${start/,/.} \${end/,/.}"
times
exit $status`;

/** Milliseconds. */
interface Run {
  readonly time: number;
  readonly processor: number;
}

/** "1m2.345s" in milliseconds. */
function parseMinutes(text: string): number {
  const [minutes, seconds] = text.replace(',', '.').replace('s', '').split('m').map(Number) as [number, number];
  return 1000 * (60 * minutes + seconds);
}

async function runTimed({command, env, cwd}: Command, elapsed: Contender['elapsed']): Promise<Run> {
  const said = await execute({
    command: ['bash', '-c', STOPWATCH, 'bash', ...command],
    ...(env === undefined ? {} : {env}),
    ...(cwd === undefined ? {} : {cwd}),
  });
  const [clock, , children] = said.split('\n') as [string, string, string];
  const [start, end] = clock.split(' ').map((seconds) => 1000 * Number(seconds)) as [number, number];
  const [user, system] = children.split(' ').map(parseMinutes) as [number, number];
  return {time: elapsed?.(start) ?? end - start, processor: user + system};
}

/** Processor time so far of a process and of its children that have ended, in milliseconds. */
function processorTime(pid: number | undefined): number {
  const stat = pid === undefined ? '' : readProc(`${pid}/stat`);
  // See proc_pid_stat(5): fields 14 to 17, in ticks of 10 ms.
  const fields = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 15);
  return 10 * fields.reduce((sum, field) => sum + Number(field), 0);
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

/** Memory of processes and their descendants in bytes, pages that they share counted once. */
export const proportionalMemory = (pids: readonly number[]): number =>
  pids.flatMap(processTree).reduce((sum, pid) => sum + kilobytes(readProc(`${pid}/smaps_rollup`), 'Pss'), 0);

async function runWatched(command: Command, daemon: number | undefined): Promise<Memory> {
  let together = 0;
  let largest = 0;
  await execute(command, (child) => {
    const pids = [child, daemon].flatMap((pid) => (pid === undefined ? [] : processTree(pid)));
    // By what it says of its memory: a child that has not become another program yet may still have its parent's.
    const statuses = new Map(pids.map((pid) => [readProc(`${pid}/status`).match(/^Vm.*/gm)?.join('\n') ?? '', pid]));
    together = Math.max(
      together,
      [...statuses.values()].reduce((sum, pid) => sum + kilobytes(readProc(`${pid}/smaps_rollup`), 'Pss'), 0),
    );
    largest = Math.max(largest, ...[...statuses.keys()].map((status) => kilobytes(status, 'VmHWM')));
  });
  return {together, largest};
}

/** One round to warm up, then as many as are asked for. */
export async function compare(contenders: readonly Contender[], {rounds, memory = false}: CompareOptions): Promise<Result[]> {
  const entries = contenders.map((contender) => ({
    contender,
    times: [] as number[],
    processor: [] as number[],
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
          if (round > 0) {
            const before = processorTime(daemon?.());
            const run = await runTimed(command, elapsed);
            entry.times.push(run.time);
            entry.processor.push(run.processor + processorTime(daemon?.()) - before);
          } else if (memory) entry.memory = await runWatched(command, daemon?.());
          else await runTimed(command, elapsed);
        } finally {
          await cleanUp?.();
        }
      } catch (err) {
        if (err instanceof Interrupted) throw err;
        entry.failure = (err as Error).message;
        process.stderr.write(`bench: ${name}: ${err instanceof Failure ? err.message : (err as Error).stack}\n`);
      }
    }
  return entries.map(({contender: {name, elapsed}, times, processor, memory: seen, failure}) => ({
    name,
    times,
    ...(elapsed === undefined ? {processor} : {}),
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
