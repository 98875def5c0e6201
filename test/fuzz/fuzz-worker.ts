/** The worker thread that reads inputs. It may hang or run out of memory; the test then still knows the input. */
import {createHash} from 'node:crypto';
import {writeFileSync} from 'node:fs';
import {Session} from 'node:inspector';
import {join} from 'node:path';
import {setTimeout} from 'node:timers/promises';
import {setFlagsFromString} from 'node:v8';
import {runInNewContext} from 'node:vm';
import {parentPort, workerData} from 'node:worker_threads';
import {codeOf, isErrdefs} from '../../src/lib/errdefs.ts';
import type {FuzzResult, Job} from './fuzzer.ts';
import {mutate} from './mutate.ts';
import {randomOf} from './seeded-random.ts';
import {CORPUS, corpusOf, type Target} from './target.ts';

const {module, seed, cases, input, save, progress} = workerData as Job;
const at = new Int32Array(progress);
const {target} = (await import(module)) as {readonly target: Target};

/** Inputs to mutate; those that cover new code are added. */
const pool: Uint8Array[] = [...target.seeds, ...corpusOf(target.name)];
/** Inputs tried before any is mutated. */
const UNCHANGED_INPUTS = pool.length;
const LARGEST_POOL = 1000;
/** Inputs with coverage measurement, which takes most of the time. Later inputs rarely cover new code. */
const GUIDED = 10_000;

/** Tells whether an input covered new code. */
class Coverage {
  readonly #session = new Session();
  readonly #seen = new Set<string>();

  constructor() {
    this.#session.connect();
    this.#session.post('Profiler.enable');
    this.#session.post('Profiler.startPreciseCoverage', {callCount: false, detailed: true});
    this.isNew();
  }

  isNew(): boolean {
    let found = false;
    this.#session.post('Profiler.takePreciseCoverage', (err, answer) => {
      if (err !== null) throw err;
      for (const {url, functions} of answer.result) {
        if (!target.sources.some((source) => url.includes(source))) continue;
        for (const {ranges} of functions)
          for (const {startOffset, endOffset, count} of ranges) {
            const place = `${url}:${startOffset}:${endOffset}:${count}`;
            if (this.#seen.has(place)) continue;
            this.#seen.add(place);
            found = true;
          }
      }
    });
    return found;
  }

  get ranges(): number {
    return this.#seen.size;
  }

  close(): void {
    this.#session.disconnect();
  }
}

function inputOf(n: number): Buffer {
  if (n < UNCHANGED_INPUTS) return Buffer.from(pool[n]!);
  const random = randomOf(seed, n);
  const mutated = mutate(random.pick(pool), random, pool, target.tokens);
  return target.repair?.(mutated, random) ?? mutated;
}

function failureOf(err: unknown): string | undefined {
  if (isErrdefs(err) && target.refuses.includes(codeOf(err))) return undefined;
  return isErrdefs(err) ? `refused as ${codeOf(err)}: ${err.stack}` : String((err as Error)?.stack ?? err);
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;
const heapUsed = async (): Promise<number> => {
  // Memory of buffers is freed with a delay.
  for (let i = 0; i < 3; i++) {
    collectGarbage();
    await setTimeout(20);
  }
  return process.memoryUsage().heapUsed + process.memoryUsage().external;
};

const result: FuzzResult = {failures: [], cases: 0, accepted: 0, pool: 0, coveredRanges: 0, slowestMs: 0, growth: 0};
const coverage = new Coverage();
const inputs = input === undefined ? undefined : [Buffer.from(input, 'base64')];
const last = inputs?.length ?? cases;
/** Growth is measured from this input to the end, after modules are loaded and caches filled. */
const measureFrom = Math.max(Math.floor(last / 2), last > GUIDED ? GUIDED + 1 : 0);
let before = 0;
let pooled = 0;
let pooledBefore = 0;

for (let n = 0; n < last && result.failures.length < 3; n++) {
  Atomics.store(at, 0, n);
  if (n === measureFrom) {
    before = await heapUsed();
    pooledBefore = pooled;
  }
  const bytes = inputs?.[n] ?? inputOf(n);
  const began = performance.now();
  try {
    await target.run(bytes);
    result.accepted++;
  } catch (err) {
    const failure = failureOf(err);
    if (failure !== undefined) result.failures.push({n, failure, input: bytes.toString('base64')});
  }
  result.slowestMs = Math.max(result.slowestMs, performance.now() - began);
  result.cases++;
  if (n === GUIDED) coverage.close();
  if (n < GUIDED && coverage.isNew() && pool.length < LARGEST_POOL && bytes.length > 0) {
    pool.push(bytes);
    pooled += bytes.length;
    if (save !== undefined && n >= target.seeds.length)
      writeFileSync(join(CORPUS, `${target.name}-${createHash('sha256').update(bytes).digest('hex').slice(0, 12)}`), bytes);
  }
}
if (last > 1) result.growth = (await heapUsed()) - before - (pooled - pooledBefore);
result.pool = pool.length;
result.coveredRanges = coverage.ranges;
if (last <= GUIDED) coverage.close();
target.close?.();
parentPort!.postMessage(result);
