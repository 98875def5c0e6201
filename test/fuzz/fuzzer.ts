/**
 * Coverage-guided fuzzing with a fixed number of inputs from a seed.
 *
 * A failure prints the seed, the number of the input, and the input. `BERTH_TEST_FUZZ_SEED=<seed> node --test <file>` repeats the run;
 * `BERTH_TEST_FUZZ_INPUT=<base64>` reads only that input. `BERTH_TEST_FUZZ_SAVE=1` saves inputs that cover new code in `corpus/`, for a
 * person to choose from. `BERTH_TEST_TORTURE=1` reads a hundred times as many, from a seed of the day.
 */
import assert from 'node:assert/strict';
import {it} from 'node:test';
import {Worker} from 'node:worker_threads';
import {SAMPLE, TORTURE} from '../support/helpers.ts';

export interface Job {
  readonly module: string;
  readonly seed: number;
  readonly cases: number;
  /** The only input to read, in base64. */
  readonly input?: string | undefined;
  readonly save?: string | undefined;
  /** Number of the current input. */
  readonly progress: SharedArrayBuffer;
}

export interface FuzzResult {
  readonly failures: {readonly n: number; readonly failure: string; readonly input: string}[];
  cases: number;
  /** Inputs without an error. */
  accepted: number;
  /** Size of the pool at the end. */
  pool: number;
  /** Covered ranges of the sources. */
  coveredRanges: number;
  slowestMs: number;
  /** Bytes of heap growth in the second half of the inputs. */
  growth: number;
}

const {BERTH_TEST_FUZZ_SEED, BERTH_TEST_FUZZ_INPUT, BERTH_TEST_FUZZ_SAVE} = process.env;
const TIMES = TORTURE ? 100 : 1;
const SEED = BERTH_TEST_FUZZ_SEED === undefined ? (TIMES === 1 ? 1 : SAMPLE) : Number(BERTH_TEST_FUZZ_SEED);

/** Most milliseconds for an input. Most take less than one, but the machine may be busy. */
const HANG_MS = 20_000;
/** Compiled code and larger tables are allowed. */
const GROWTH_BYTES = 16 << 20;
const HEAP_MB = 512;

/**
 * Declares a test.
 *
 * @param module a file in `targets/`
 * @param cases inputs to read by default
 */
export function fuzz(module: string, cases: number): void {
  it(`${module}: every input is read or rejected with an error class, in time and without a memory leak`, {timeout: 900_000}, async (t) => {
    const progress = new SharedArrayBuffer(4);
    const job: Job = {
      module: new URL(`targets/${module}.ts`, import.meta.url).href,
      seed: SEED,
      cases: cases * TIMES,
      input: BERTH_TEST_FUZZ_INPUT,
      save: BERTH_TEST_FUZZ_SAVE,
      progress,
    };
    const again = `BERTH_TEST_FUZZ_SEED=${SEED}${TIMES === 1 ? '' : ' BERTH_TEST_TORTURE=1'} node --test ${process.argv[1] ?? ''}`;
    const result = await run(job, again);
    for (const {n, failure, input} of result.failures)
      assert.fail(`input ${n} of seed ${SEED}: ${failure}\nagain: ${again}\nalone: BERTH_TEST_FUZZ_INPUT=${input}`);
    assert.ok(result.growth < GROWTH_BYTES, `${result.growth} B are left in memory of ${result.cases} inputs (seed ${SEED}): ${again}`);
    t.diagnostic(
      `${module}: ${result.cases} inputs of seed ${SEED}, ${result.accepted} accepted, ${result.pool} in the pool, ${result.coveredRanges} places, slowest ${Math.ceil(result.slowestMs)} ms, ${result.growth} B left`,
    );
  });
}

function run(job: Job, again: string): Promise<FuzzResult> {
  const at = new Int32Array(job.progress);
  const worker = new Worker(new URL('fuzz-worker.ts', import.meta.url), {
    workerData: job,
    resourceLimits: {maxOldGenerationSizeMb: HEAP_MB},
  });
  return new Promise<FuzzResult>((resolve, reject) => {
    let [seen, since] = [-1, performance.now()];
    const watchdog = setInterval(() => {
      const n = Atomics.load(at, 0);
      if (n !== seen) [seen, since] = [n, performance.now()];
      else if (performance.now() - since > HANG_MS) reject(new Error(`input ${n} of seed ${job.seed} hangs; again: ${again}`));
    }, 1000);
    worker.once('message', resolve);
    worker.once('error', (err) =>
      reject(new Error(`input ${Atomics.load(at, 0)} of seed ${job.seed}: ${err.message}; again: ${again}`, {cause: err})),
    );
    worker.once('exit', () => reject(new Error(`input ${Atomics.load(at, 0)} of seed ${job.seed} ended the thread; again: ${again}`)));
    worker.once('exit', () => clearInterval(watchdog));
  }).finally(() => worker.terminate());
}
