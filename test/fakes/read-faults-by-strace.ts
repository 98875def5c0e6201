/**
 * Failures of calls that read, in a whole process and all its threads, injected by strace: the system call itself fails, so
 * what the engine makes of it is part of what is tested.
 *
 * Only calls on paths that an undisturbed run was seen to use below one directory count; what the engine reads for itself
 * goes through. strace counts in each thread by itself, and lets the n-th call of each of them fail.
 */
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {run, type SpawnOptions} from '../cli/harness.ts';

/** Which call fails, and with what. `socket` counts wherever it comes from. */
const FAULTS = [
  ['openat', 'EMFILE'],
  ['openat', 'EIO'],
  ['read', 'EIO'],
  ['pread64', 'EIO'],
  ['getdents64', 'EIO'],
  ['socket', 'EMFILE'],
] as const;

export interface ReadFault {
  readonly call: (typeof FAULTS)[number][0];
  readonly errno: (typeof FAULTS)[number][1];
  /** Number of the call, from 1 on. */
  readonly at: number;
}

export interface Readings {
  readonly faults: readonly ReadFault[];
  readonly paths: readonly string[];
}

export interface Traced {
  readonly program: string;
  readonly args: readonly string[];
  readonly options: SpawnOptions;
  /** Paths below it count. */
  readonly below: string;
  /** Whether the programs that it starts are to fail as well. */
  readonly isWithChildren: boolean;
}

const words = ({isWithChildren}: Traced, log: string): readonly string[] => [...(isWithChildren ? ['-f'] : []), '-qq', '-y', '-o', log];
const CALLS = [...new Set(FAULTS.map(([call]) => call))];

/** Runs it undisturbed. @returns where it can fail */
export async function recordReadings(traced: Traced, directory: string): Promise<Readings> {
  const log = join(directory, 'strace');
  const {stderr} = await run(
    'strace',
    [...words(traced, log), '-e', `trace=${CALLS.join()}`, traced.program, ...traced.args],
    traced.options,
  );
  const paths = new Set<string>();
  const counts = new Map<string, number>();
  for (const line of readFileSync(log, 'utf8').split('\n')) {
    const [, thread = '', call] = /^(\d+ +)?(\w+)\(/.exec(line) ?? [];
    if (call === undefined) continue;
    const path = /(?:"|\d<)(\/[^">]*)[">]/.exec(line.replace('AT_FDCWD<', ''))?.[1];
    if (call !== 'socket' && !path?.startsWith(`${traced.below}/`)) continue;
    if (path !== undefined) paths.add(path);
    const key = `${thread}${call}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  assert.ok(paths.size > 0, stderr);
  const faults = FAULTS.flatMap(([call, errno]) => {
    const most = Math.max(0, ...[...counts].filter(([key]) => key.endsWith(call) && !key.endsWith(`p${call}`)).map(([, n]) => n));
    return Array.from({length: most}, (_, i) => ({call, errno, at: i + 1}));
  });
  return {faults, paths: [...paths]};
}

/** Runs it with a fault. @returns how it ended, and whether that call came */
export async function runWithFault(traced: Traced, directory: string, {paths}: Readings, {call, errno, at}: ReadFault) {
  const log = join(directory, 'strace');
  const only = call === 'socket' ? [] : paths.flatMap((path) => ['-P', path]);
  const what = ['-e', `trace=${call}`, '-e', `inject=${call}:error=${errno}:when=${at}`];
  const start = (): ReturnType<typeof run> =>
    run('strace', [...words(traced, log), ...only, ...what, traced.program, ...traced.args], traced.options);
  let result = await start();
  // It gives up where a thread that it means to hold ends at that moment.
  for (let again = 0; /^strace: /m.test(result.stderr) && again < 3; again++) result = await start();
  const injected = readFileSync(log, 'utf8')
    .split('\n')
    .filter((line) => line.includes('(INJECTED)'));
  return {...result, injected};
}
