/** The worker threads, with the jobs of pulls. */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout} from 'node:timers/promises';
import {Worker} from 'node:worker_threads';
import {gzipSync} from 'node:zlib';
import {WorkerPool} from '../../../src/lib/client/workers/pool.ts';
import {spawnWorker} from '../../../src/lib/client/workers/spawn.ts';
import {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {digestOf} from '../../fakes/registry.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {is, onEnd, type Scope, temporaryDirectory} from '../../support/helpers.ts';
import {file, tar} from '../../support/tartest.ts';

const MIB = 1 << 20;

/** A layer, and a pool that unpacks it. */
function setUp(scope: Scope, layer: Uint8Array = tar(file('random', randomBytes(6 * MIB))), pool = new WorkerPool(1)) {
  const directory = temporaryDirectory(scope);
  onEnd(scope, () => pool.close());
  const blob = gzipSync(layer, {level: 1});
  const path = join(directory, 'blob');
  writeFileSync(path, blob);
  const ingestPath = join(directory, 'ingest');
  let works = 0;
  const newWork = (): string => {
    const work = join(directory, `work-${works++}`);
    mkdirSync(work);
    return work;
  };
  const unpackJob = (work: string) => ({directory: work, form: 'erofs', backing: 'files', diffID: digestOf(Buffer.from(layer))}) as const;
  const expected = {digest: digestOf(blob), size: blob.length};
  return {
    pool,
    layer,
    blob,
    ingestPath,
    newWork,
    fromBlob: (work = newWork(), onProgress: () => void = () => {}) =>
      pool.run({what: 'layer', size: blob.length, source: {kind: 'blob', path}, unpack: unpackJob(work)}, onProgress),
    fromNetwork: (work = newWork(), promised: typeof expected = expected) =>
      pool.run(
        {
          what: 'layer',
          size: blob.length,
          source: {kind: 'network', ingestPath, expected: promised, isNew: !existsSync(ingestPath)},
          unpack: unpackJob(work),
        },
        () => {},
      ),
  };
}

describe('a layer from the network', () => {
  for (const step of [1, 1000, 64 << 10, 5 * MIB]) {
    it(`gives the right blob and tar, in chunks of ${step}`, async (t) => {
      const {fromNetwork, newWork, ingestPath, blob, layer} = setUp(t, step === 1 ? tar(file('f', 'text')) : undefined);
      const work = newWork();
      const task = await fromNetwork(work);
      assert.equal(await task.offset, 0);
      const chunk = Buffer.alloc(step);
      for (let at = 0; at < blob.length; at += step) {
        // The caller may reuse a chunk's memory after `write`.
        const part = chunk.subarray(0, blob.copy(chunk, 0, at, at + step));
        await task.write(part);
        chunk.fill(0xff);
      }
      task.end();
      const result = await task.result;
      assert.deepEqual([result?.applied, result?.implicitParents], [undefined, undefined]);
      assert.ok(readFileSync(ingestPath).equals(blob));
      assert.ok(readFileSync(join(work, 'layer.tar')).equals(layer));
    });
  }

  it('is written to its file as far as it has arrived', async (t) => {
    const {fromNetwork, ingestPath, blob} = setUp(t);
    const task = await fromNetwork();
    await task.offset;
    for (const end of [1, 1000, 70_000]) {
      const sizeNow = (): number => statSync(ingestPath, {throwIfNoEntry: false})?.size ?? 0;
      await task.write(blob.subarray(sizeNow(), end));
      const deadline = performance.now() + 60_000;
      while (sizeNow() < end && performance.now() < deadline) await setTimeout(10);
      assert.equal(sizeNow(), end);
    }
    task.abort(new Error('enough'));
    await assert.rejects(task.result);
  });

  it('makes the writer wait while a worker is behind', async (t) => {
    const {fromNetwork, blob} = setUp(t, tar(file('random', randomBytes(16 * MIB))));
    const task = await fromNetwork();
    await task.offset;
    let waits = 0;
    for (let at = 0; at < blob.length; at += 64 << 10) {
      const wait = task.write(blob.subarray(at, at + (64 << 10)));
      if (wait !== undefined) waits++;
      await wait;
    }
    task.end();
    await task.result;
    assert.ok(waits > 0);
  });

  it('resumes an earlier attempt', async (t) => {
    const {fromNetwork, newWork, ingestPath, blob, layer} = setUp(t);
    writeFileSync(ingestPath, blob.subarray(0, 3 * MIB + 17));
    const work = newWork();
    const task = await fromNetwork(work);
    const offset = await task.offset;
    assert.equal(offset, 3 * MIB + 17);
    await task.write(blob.subarray(offset));
    task.end();
    await task.result;
    assert.ok(readFileSync(join(work, 'layer.tar')).equals(layer));
  });

  it('is verified as a blob first, and the blob is kept when only the layer is wrong', async (t) => {
    const {fromNetwork, newWork, ingestPath, blob} = setUp(t);
    const work = newWork();
    writeFileSync(join(work, 'layer.tar'), 'in the way');
    const task = await fromNetwork(work);
    await task.offset;
    for (let at = 0; at < blob.length; at += MIB) await task.write(blob.subarray(at, at + MIB));
    task.end();
    await assert.rejects(task.result, is('already_exists'));
    assert.ok(readFileSync(ingestPath).equals(blob));
  });

  it('is refused when the blob has another digest than expected', async (t) => {
    const {fromNetwork, blob} = setUp(t);
    const task = await fromNetwork(undefined, {digest: digestOf(Buffer.from('another')), size: blob.length});
    await task.offset;
    for (let at = 0; at < blob.length; at += MIB) await task.write(blob.subarray(at, at + MIB));
    task.end();
    await assert.rejects(task.result, is('failed_precondition'));
  });
});

describe('memory between threads', () => {
  /** Counts shared buffers created while `action` runs. */
  async function made(action: () => Promise<void>): Promise<number> {
    const Real = globalThis.SharedArrayBuffer;
    let count = 0;
    globalThis.SharedArrayBuffer = class extends Real {
      constructor(bytes: number) {
        super(bytes);
        count++;
      }
    } as typeof Real;
    try {
      await action();
    } finally {
      globalThis.SharedArrayBuffer = Real;
    }
    return count;
  }

  it('is reused after a layer that succeeded, and never after one that failed', async (t) => {
    const {fromNetwork, fromBlob, newWork, ingestPath, blob, layer} = setUp(t);
    const pull = async (): Promise<void> => {
      rmSync(ingestPath, {force: true});
      const work = newWork();
      const task = await fromNetwork(work);
      await task.offset;
      for (let at = 0; at < blob.length; at += MIB) await task.write(blob.subarray(at, at + MIB));
      task.end();
      await task.result;
      assert.ok(readFileSync(ingestPath).equals(blob));
      assert.ok(readFileSync(join(work, 'layer.tar')).equals(layer));
    };
    assert.equal(await made(pull), 2);
    const more = await made(async () => {
      for (let n = 0; n < 5; n++) await pull();
      await (await fromBlob()).result;
    });
    assert.equal(more, 0);
    const failed = await fromBlob(undefined, () => failed.abort(new Error('given up')));
    await assert.rejects(failed.result, /given up/);
    assert.equal(await made(pull), 1);
  });
});

describe('a layer that is unpacked from its blob', () => {
  it('can be aborted between any two chunks, and the threads continue with others', async (t) => {
    const {fromBlob, newWork, layer} = setUp(t);
    for (let acks = 1; acks <= 6; acks++) {
      let heard = 0;
      const task = await fromBlob(undefined, () => {
        if (++heard === acks) task.abort(new Error('given up'));
      });
      await assert.rejects(task.result, /given up/);
    }
    const work = newWork();
    await (await fromBlob(work)).result;
    assert.ok(readFileSync(join(work, 'layer.tar')).equals(layer));
  });

  it('fails with the right class when its directory cannot be written', async (t) => {
    const {fromBlob, newWork} = setUp(t);
    const work = newWork();
    writeFileSync(join(work, 'layer.tar'), '');
    await assert.rejects((await fromBlob(work)).result, is('already_exists'));
  });

  it('alternates with other layers', async (t) => {
    const {fromBlob, newWork, layer} = setUp(t);
    const works = Array.from({length: 5}, newWork);
    const tasks = await Promise.all(works.map((work) => fromBlob(work)));
    await Promise.all(tasks.map(({result}) => result));
    for (const work of works) assert.ok(readFileSync(join(work, 'layer.tar')).equals(layer));
  });

  it('does not prevent the pool from closing', async (t) => {
    const {fromBlob, pool} = setUp(t, tar(file('random', randomBytes(32 * MIB))));
    const task = await fromBlob();
    const rejected = assert.rejects(task.result, is('canceled'));
    await pool.close();
    await rejected;
  });
});

describe('jobs', () => {
  it('go to the pair with the shortest queue, to a new pair before a busy one, and leave no load behind', async (t) => {
    const seed = 5;
    const directory = temporaryDirectory(t);
    const pool = new WorkerPool(2);
    onEnd(t, () => pool.close());
    const model: number[] = [];
    const running: {readonly end: () => Promise<void>; readonly weight: number; readonly pair: number}[] = [];
    const expected = {digest: digestOf(Buffer.alloc(0)), size: 0};
    for (let n = 0; n < 200; n++) {
      const random = randomOf(seed, n);
      if (running.length > 0 && random.chance(running.length / 12)) {
        const [job] = running.splice(random.below(running.length), 1);
        await job!.end();
        model[job!.pair]! -= job!.weight;
      } else {
        const size = random.below(1000);
        const least = Math.min(...model);
        const pair = model.length === 0 || (least > 0 && model.length < 2) ? model.push(0) - 1 : model.indexOf(least);
        model[pair]! += size + 1;
        const source = {kind: 'network', ingestPath: join(directory, `ingest-${n}`), expected, isNew: true} as const;
        const task = await pool.run({what: 'layer', size, source}, () => {});
        const end = async (): Promise<void> => {
          // Some complete, others are aborted.
          if (random.chance(0.5)) task.end();
          else task.abort(new ErrdefsError('canceled', 'job'));
          await task.result.catch(() => {});
        };
        running.push({end, weight: size + 1, pair});
      }
      assert.deepEqual(pool.load, model, `seed ${seed}, step ${n}`);
    }
    for (const {end} of running) await end();
    assert.deepEqual(pool.load, [0, 0]);
  });
});

describe('a pair of threads that fails', () => {
  const LAYER = tar(file('a', 'b'));
  /** A pool whose n-th thread, from 0, fails to start in a given way. */
  const failing = (n: number, spawnFailing: () => Worker): WorkerPool => {
    let count = 0;
    return new WorkerPool(1, async () => (count++ === n ? spawnFailing() : spawnWorker()));
  };
  const WAYS: Readonly<Record<string, () => Worker>> = {
    'cannot be made': () => {
      throw Object.assign(new Error('no thread'), {code: 'ERR_WORKER_INIT_FAILED'});
    },
    'throws at its start': () => new Worker('throw new Error("at once")', {eval: true}),
    'ends at its start': () => new Worker('process.exit(3)', {eval: true}),
  };
  for (const [way, spawn] of Object.entries(WAYS))
    for (const n of [0, 1])
      it(`is replaced: thread ${n} ${way}`, {timeout: 60_000}, async (t) => {
        const {fromBlob, newWork} = setUp(t, LAYER, failing(n, spawn));
        await assert.rejects(async () => (await fromBlob()).result);
        const work = newWork();
        await (await fromBlob(work)).result;
        assert.ok(readFileSync(join(work, 'layer.tar')).equals(LAYER));
      });

  it('is replaced when it dies during a job', {timeout: 60_000}, async (t) => {
    const workers: Worker[] = [];
    const spawn = async (): Promise<Worker> => {
      const worker = await spawnWorker();
      workers.push(worker);
      return worker;
    };
    const {fromNetwork, fromBlob, newWork, blob, layer} = setUp(t, undefined, new WorkerPool(1, spawn));
    const task = await fromNetwork();
    await task.write(blob.subarray(0, MIB));
    await workers[1]!.terminate();
    await assert.rejects(task.result, is('internal'));
    const work = newWork();
    await (await fromBlob(work)).result;
    assert.ok(readFileSync(join(work, 'layer.tar')).equals(layer));
    assert.equal(workers.length, 4);
  });
});
