/**
 * Consistency of views: a reader is stopped before any of its calls while writers commit, apply, checkpoint and prune any number of
 * transactions, and still sees one state. The writers are a model of docs/STORE.md, so that each of their steps can run between two calls
 * of the reader.
 */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import {syncBuiltinESMExports} from 'node:module';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {hasCode as isCode} from '../../../src/lib/errdefs.ts';
import {bootId} from '../../../src/lib/fs/process.ts';
import {JournalBackend} from '../../../src/lib/store/journal.ts';
import {createLayout} from '../../../src/lib/store/layout.ts';
import {randomNumbers} from '../../fuzz/seeded-random.ts';
import {TORTURE} from '../../support/helpers.ts';

const SCHEDULES = TORTURE ? 10_000 : 200;
const SEED = Number(process.env.BERTH_TEST_SEED ?? 20_261);

/** Calls by which a reader reads the disk. */
const READS = ['readFileSync', 'readdirSync', 'existsSync', 'openSync', 'statSync', 'lstatSync'] as const;
const real = {...fs};

const digits = (generation: number): string => String(generation).padStart(16, '0');

/** All documents of generation `g`: a count in two places, and one that only every other generation has. */
const documentsAt = (g: number): Record<string, unknown> => ({
  'd/a.json': g,
  'd/b.json': g,
  'd/odd.json': g % 2 === 1 ? g : null,
});

/** A writer in single steps: a commit, each file, the `applied` mark, and now and then a checkpoint that prunes everything before it. */
function* writer(root: string): Generator<void> {
  const journal = join(root, 'journal');
  const put = (path: string, text: string): void => {
    real.writeFileSync(join(root, '.tmp.model'), text);
    real.renameSync(join(root, '.tmp.model'), join(root, path));
  };
  let oldest = 1;
  for (let g = 1; ; g++) {
    const writes = documentsAt(g);
    const before = g === 1 ? Object.fromEntries(Object.keys(writes).map((path) => [path, null])) : documentsAt(g - 1);
    put(`journal/${digits(g)}`, JSON.stringify({version: 1, generation: g, writes, before}));
    yield;
    for (const [path, document] of Object.entries(writes)) {
      if (document === null) real.rmSync(join(root, path), {force: true});
      else put(path, JSON.stringify(document));
      yield;
    }
    real.writeFileSync(join(journal, 'applied'), `${digits(g)} ${digits(g)}\n`);
    yield;
    if (g % 5 !== 0) continue;
    put('journal/checkpoint', JSON.stringify({generation: g, bootId: bootId()}));
    yield;
    for (; oldest <= g; oldest++) {
      real.rmSync(join(journal, digits(oldest)));
      yield;
    }
  }
}

/** Runs `fn` with a `step` before every call that reads below `root`. */
function interleaved<T>(root: string, step: () => void, fn: () => T): T {
  let isStepping = false;
  for (const name of READS) {
    const original = real[name] as (...args: unknown[]) => unknown;
    Object.assign(fs, {
      [name]: (...args: unknown[]) => {
        // The model's own calls may use these.
        if (!isStepping && String(args[0]).startsWith(root)) {
          isStepping = true;
          step();
          isStepping = false;
        }
        return original(...args);
      },
    });
  }
  syncBuiltinESMExports();
  try {
    return fn();
  } finally {
    Object.assign(fs, Object.fromEntries(READS.map((name) => [name, real[name]])));
    syncBuiltinESMExports();
  }
}

describe('a reader among writers', () => {
  it('sees one state, and never an older one than before, wherever and however long it sleeps', () => {
    const memory = ['/dev/shm', tmpdir()].find((dir) => real.existsSync(dir))!;
    let retries = 0;
    let given = 0;
    for (let schedule = 0; schedule < SCHEDULES; schedule++) {
      const next = randomNumbers(SEED + schedule);
      const root = real.mkdtempSync(join(memory, 'berth-test-'));
      const layout = createLayout(root);
      for (const directory of [layout.journal, join(root, 'd')]) real.mkdirSync(directory, {recursive: true});
      real.writeFileSync(join(layout.journal, 'checkpoint'), JSON.stringify({generation: 0, bootId: bootId()}));
      const steps = writer(root);
      const run = (count: number): void => {
        for (let i = 0; i < count; i++) steps.next();
      };
      run(Math.floor(next() * 60));
      // A limited number of long sleeps: a reader that is overtaken too often gets an error.
      let sleeps = 1 + Math.floor(next() * 3);
      const step = (): void => {
        const dice = next();
        if (dice < 0.08 && sleeps-- > 0) run(40 + Math.floor(next() * 200));
        else if (dice < 0.3) run(1 + Math.floor(next() * 3));
      };
      const backend = new JournalBackend(layout, {lockTimeoutMs: 1000});
      let newest = 0;
      for (let look = 0; look < 3; look++) {
        let runs = 0;
        try {
          const seen = interleaved(root, step, () =>
            backend.view((reader) => {
              runs++;
              return {
                a: reader.get('d/a.json') ?? 0,
                names: reader.list('d'),
                b: reader.get('d/b.json') ?? 0,
                odd: reader.get('d/odd.json'),
                again: reader.get('d/a.json') ?? 0,
              };
            }),
          );
          const g = seen.a as number;
          const odd = g % 2 === 1;
          const names = g === 0 ? [] : ['a.json', 'b.json', ...(odd ? ['odd.json'] : [])];
          const when = `seed ${SEED}, schedule ${schedule}, look ${look}`;
          assert.deepEqual(seen, {a: g, names, b: g, odd: odd ? g : undefined, again: g}, when);
          assert.ok(g >= newest, `${when}: ${g} after ${newest}`);
          newest = g;
          given++;
        } catch (err) {
          if (!isCode(err, 'aborted')) throw err;
        }
        if (runs > 1) retries++;
      }
      real.rmSync(root, {recursive: true});
    }
    assert.ok(retries > SCHEDULES / 3, `only ${retries} views were overtaken`);
    assert.ok(given > SCHEDULES * 2.9, `only ${given} of ${SCHEDULES * 3} views were given an answer`);
  });
});
