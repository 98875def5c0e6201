/**
 * A store whose process stops, or whose call fails, at every call that changes something: the result is consistent, the next process works
 * at once, and the same change succeeds when repeated.
 *
 * Most stops are simulated: every call from the n-th on fails, and the leftovers are made to look like a dead process's. That is what
 * SIGKILL leaves; a sample of real kills verifies it. `BERTH_TEST_TORTURE=1` tries every n with every fault.
 */
import assert from 'node:assert/strict';
import {chmodSync, copyFileSync, existsSync, lstatSync, mkdirSync, readdirSync, rmSync, utimesSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {after, describe, it} from 'node:test';
import {type Code, codeOf} from '../../../src/lib/errdefs.ts';
import {collectAll} from '../../../src/lib/store/gc.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {arm, disarm, failpointOptions, killedHere} from '../../fakes/failpoints.ts';
import {startScript} from '../../support/children.ts';
import {isShort, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {leaseRecord} from '../../support/records.ts';
import {begin, run, SEQUENCES, visible} from './change-sequences.ts';

/** Every n-th call is tried, in this process and in a child. */
const STRIDE = TORTURE ? {here: 1, child: 1} : isShort() ? {here: 32, child: 128} : {here: 18, child: 96};

/** Fixed, so that a failure can be reproduced. */
const OFFSET = TORTURE ? 1 : 4;

/** On tmpfs a sync costs nothing; durability is not tested here. */
const before = process.env.TMPDIR;
const memory = ['/dev/shm', tmpdir()].find((dir) => existsSync(dir))!;
process.env.TMPDIR = memory;
after(() => {
  if (before === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = before;
});

const FAULTS: Readonly<Record<string, Code>> = {
  EIO: 'data_loss',
  ENOSPC: 'resource_exhausted',
  EACCES: 'permission_denied',
  EMFILE: 'resource_exhausted',
};

/** Maximum delay of a process after another was stopped, in milliseconds: less than the ten seconds after which a lock without signs of life is taken. */
const AT_ONCE_MS = 9000;

/** Copies directories and files with modes and times. */
function copyTree(from: string, to: string): void {
  const stat = lstatSync(from);
  if (stat.isDirectory()) {
    mkdirSync(to);
    for (const name of readdirSync(from)) copyTree(join(from, name), join(to, name));
  } else copyFileSync(from, to);
  chmodSync(to, stat.mode);
  utimesSync(to, stat.atime, stat.mtime);
}

describe('a store', () => {
  for (const name of Object.keys(SEQUENCES)) {
    describe(`stopped during: ${name}`, () => {
      async function rig(t: {after(fn: () => void): void}) {
        const dir = temporaryDirectory(t);
        const origin = join(dir, 'origin');
        mkdirSync(origin);
        await begin(join(origin, 'root'), name);
        const fresh = (): string => {
          const place = join(dir, 'place');
          rmSync(place, {recursive: true, force: true});
          copyTree(origin, place);
          return join(place, 'root');
        };
        // The undisturbed run gives the number of calls and the final state.
        const root = fresh();
        arm({below: root, action: 'EIO', at: 0});
        await run(root, name);
        const {calls} = disarm();
        assert.deepEqual(checkStore(root, {litter: name !== 'recovery after a power loss'}), []);
        return {fresh, calls, goal: visible(root)};
      }

      /** Invariants after a stop or a fault. */
      async function judge(root: string, goal: unknown, when: string): Promise<void> {
        assert.deepEqual(checkStore(root), [], when);
        const started = performance.now();
        const store = new Store({root, lockTimeoutMs: 60_000});
        await store.update('a probe', (tx) => tx.namespace('other').leases.put(leaseRecord('probe')));
        const ms = performance.now() - started;
        assert.ok(ms < AT_ONCE_MS, `${when}: the next change took ${ms} ms`);
        await store.update('a probe', (tx) => {
          tx.namespace('other').leases.delete('probe');
          if (name === 'the first change') tx.namespaces.delete('other');
        });
        await run(root, name);
        assert.deepEqual(checkStore(root), [], `${when}, and again`);
        assert.deepEqual(visible(root), goal, `${when}, and again`);
        await store.update('everything', (tx) => collectAll(store, tx));
        store.layers.emptyTrash();
        assert.deepEqual(checkStore(root, {litter: true}), [], `${when}, and collected`);
        assert.deepEqual(visible(root), goal, `${when}, and collected`);
      }

      it('stays consistent and usable when it is stopped', async (t) => {
        const {fresh, calls, goal} = await rig(t);
        for (let at = OFFSET; at <= calls; at += STRIDE.here) {
          for (const torn of [false, true]) {
            const root = fresh();
            arm({below: root, action: 'EFROZEN', at, lasting: true, torn});
            await run(root, name).catch(() => {});
            const {failures} = disarm();
            assert.ok(failures > 0);
            if (torn && at % 2 === 0 && !TORTURE) continue;
            killedHere(root);
            await judge(root, goal, `stopped at call ${at} of ${calls}${torn ? ', a write half done' : ''}`);
          }
        }
      });

      it('stays the same when it is killed', async (t) => {
        const {fresh, calls, goal} = await rig(t);
        const code = `const {run} = await import(${JSON.stringify(new URL('./change-sequences.ts', import.meta.url).href)}); await run(args[0], args[1]);`;
        for (let at = OFFSET; at <= calls; at += STRIDE.child) {
          const root = fresh();
          const {signal, stderr} = await startScript(t, code, [root, name], failpointOptions({below: root, action: 'kill', at, torn: true}))
            .done;
          assert.equal(signal, 'SIGKILL', stderr);
          await judge(root, goal, `killed at call ${at} of ${calls}`);
        }
      });

      it('reports the error and loses nothing when a call fails', async (t) => {
        const {fresh, calls, goal} = await rig(t);
        const faults = Object.entries(FAULTS);
        for (let at = OFFSET; at <= calls; at += STRIDE.here) {
          for (const [i, [errno, expected]] of faults.entries()) {
            if (!TORTURE && at % faults.length !== i) continue;
            const root = fresh();
            arm({below: root, action: errno, at, torn: at % 2 === 0});
            const failure = await run(root, name).then(
              () => undefined,
              (err: unknown) => err,
            );
            assert.equal(disarm().failures, 1);
            const when = `${errno} at call ${at} of ${calls}`;
            if (failure === undefined) assert.deepEqual(visible(root), goal, `${when}, which nobody needed to hear of`);
            else assert.equal(codeOf(failure), expected, `${when}: ${(failure as Error).stack}`);
            await judge(root, goal, when);
          }
        }
      });
    });
  }
});
