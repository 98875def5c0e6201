/** Times commands side by side: all in turn within a round, so that a noisy moment meets all alike. */
import {spawnSync} from 'node:child_process';

export interface Command {
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

export interface Contender {
  readonly name: string;
  /** Untimed, before each run; makes what the run needs. @returns what to time */
  prepare(): Command | Promise<Command>;
  /** Untimed, after each run. */
  cleanUp?(): void | Promise<void>;
}

export interface Result {
  readonly name: string;
  /** Each round's time, in milliseconds. */
  readonly times: readonly number[];
  readonly median: number;
}

/** Node before 24 reads this bundle at each start, which is no part of what is measured. */
const {NODE_EXTRA_CA_CERTS: _, ...ENV} = process.env;

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length % 2 === 1 ? sorted[Math.floor(middle)]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

async function time({name, prepare, cleanUp}: Contender): Promise<number> {
  const {command, env} = await prepare();
  const start = performance.now();
  const {status, error, stderr} = spawnSync(command[0]!, command.slice(1), {env: {...ENV, ...env}, stdio: ['ignore', 'ignore', 'pipe']});
  const elapsed = performance.now() - start;
  await cleanUp?.();
  if (status !== 0) throw new Error(`${name}: ${command.join(' ')} ended with ${status}: ${stderr?.toString() ?? ''}`, {cause: error});
  return elapsed;
}

/** One round to warm up, then as many as are asked for. */
export async function compare(contenders: readonly Contender[], rounds: number): Promise<Result[]> {
  const times = new Map(contenders.map(({name}): [string, number[]] => [name, []]));
  for (let round = 0; round <= rounds; round++)
    for (const contender of contenders) {
      const elapsed = await time(contender);
      if (round > 0) times.get(contender.name)!.push(elapsed);
    }
  return [...times].map(([name, all]) => ({name, times: all, median: median(all)}));
}

/** A table with each contender's time over the first's, which is ours. */
export function report(title: string, results: readonly Result[]): string {
  const ours = results[0]!.median;
  const row = ({name, times, median: m}: Result): string =>
    `| ${name} | ${(m / ours).toFixed(2)} | ${m.toFixed(1)} | ${Math.min(...times).toFixed(1)}–${Math.max(...times).toFixed(1)} |`;
  return `### ${title}\n\n| | ratio | median ms | range |\n|---|---|---|---|\n${results.map(row).join('\n')}\n`;
}
