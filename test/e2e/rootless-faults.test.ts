/** What holds for root's store under kills, in crowds and on a full disk holds for that of an ordinary user, whose files belong to many ids. */
import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {once} from 'node:events';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {onEnd, requiresProgram, type Skippable, TORTURE} from '../support/helpers.ts';
import {type OrdinaryUser, ordinaryUser, requiresOrdinaryUser} from '../support/ordinary-user.ts';
import {names, publishedImages} from './fixtures.ts';

const published = publishedImages();
const [PULLS, RUNS, CROWD, DISKS] = TORTURE ? [40, 40, 12, 60] : [4, 3, 4, 4];
const SEED = Number(process.env.BERTH_TEST_SEED ?? 1);

const requires = (t: Skippable): boolean => requiresOrdinaryUser(t) && requiresProgram(t, 'runc', 'mount');

/** The same numbers for the same seed, from 0 to below 1. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const store = (user: OrdinaryUser, place: string): string => join(user.home, '.local/share/berth', place);

/** Asserts that nothing is damaged. @returns what else `check` finds */
async function otherFindings(user: OrdinaryUser): Promise<readonly string[]> {
  const {damage, findings} = JSON.parse(await user.ok(['check', '--deep', '--json', '--progress', 'none'])) as {
    damage: number;
    findings: {object: string; problem: string}[];
  };
  assert.equal(damage, 0, JSON.stringify(findings));
  return findings.map(({object, problem}) => `${object}: ${problem}`);
}

async function assertEmpty(user: OrdinaryUser): Promise<void> {
  await user.ok(['images', 'prune', '--all']);
  await user.ok(['gc']);
  for (const place of ['work', 'trash', 'layers', 'content/blobs/sha256', 'content/ingest'])
    assert.deepEqual(names(store(user, place)), [], place);
  assert.deepEqual(await otherFindings(user), []);
}

/** Kills the command with SIGKILL after that time, if it still runs; the process is the command itself. */
async function killed(user: OrdinaryUser, args: readonly string[], afterMs: number): Promise<void> {
  const [program, ...words] = user.argv(join(user.home, '../package/bin/berth'), ...args);
  const child = spawn(program, words, {env: {PATH: process.env.PATH, ...user.env}, stdio: 'ignore'});
  const exit = once(child, 'exit');
  await delay(afterMs);
  child.kill('SIGKILL');
  await exit;
}

async function timeOf(action: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await action();
  return performance.now() - begun;
}

describe('the store of a user without root', () => {
  it('stays whole when pulls and runs are killed at any moment', async (t) => {
    if (!requires(t)) return;
    const image = await published(t, 'busybox-multi');
    if (image === undefined) return;
    const {ref} = image;
    const user = ordinaryUser(t);
    const next = random(SEED);
    const pull = ['pull', '-q', '--plain-http', ref];
    const run = ['run', '--rm', ref, 'r', 'sh', '-c', 'echo ran'];
    let takes = await timeOf(() => user.ok(pull));
    for (let round = 0; round < PULLS; round++) {
      await user.ok(['images', 'rm', ref]);
      await killed(user, pull, next() * takes);
      await otherFindings(user);
      await user.ok(pull);
    }
    takes = await timeOf(() => user.ok(run));
    for (let round = 0; round < RUNS; round++) {
      await killed(user, run, next() * takes);
      // The container may live on; its id stays taken until it ends.
      let again = await user.berth(['--json', ...run]);
      for (const deadline = performance.now() + 20_000; again.status === 125 && performance.now() < deadline; ) {
        assert.equal(JSON.parse(again.stderr).error.kind, 'already_exists', again.stderr);
        again = await user.berth(['--json', ...run]);
      }
      assert.deepEqual([again.status, again.stdout], [0, 'ran\n'], again.stderr);
      assert.equal(await user.ok(['containers', 'ls', '-q']), '');
    }
    await assertEmpty(user);
  });

  it('is one for a crowd that pulls, runs and removes at once', async (t) => {
    if (!requires(t)) return;
    const image = await published(t, 'busybox-multi');
    if (image === undefined) return;
    const {ref} = image;
    const user = ordinaryUser(t);
    await Promise.all(
      Array.from({length: CROWD}, async (_, i) => {
        const own = ['--namespace', `n${i % 2}`];
        await user.ok([...own, 'pull', '-q', '--plain-http', ref]);
        await user.ok([...own, 'images', 'tag', ref, `mine:${i}`]);
        assert.equal(await user.ok([...own, 'run', '--rm', `mine:${i}`, `c${i}`, 'echo', 'ran']), 'ran\n');
        await user.ok([...own, 'images', 'rm', `mine:${i}`]);
      }),
    );
    assert.deepEqual(await otherFindings(user), []);
    for (const namespace of ['n0', 'n1']) await user.ok(['namespaces', 'rm', '--recursive', namespace]);
    await assertEmpty(user);
  });

  it('tells of a full disk, is whole, and goes on once there is room', async (t) => {
    if (!requires(t)) return;
    const image = await published(t, 'busybox-multi');
    if (image === undefined) return;
    const {ref} = image;
    const user = ordinaryUser(t);
    const pull = ['pull', '--progress', 'none', '--plain-http', ref];
    const mount = (size: string): void => {
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=700,uid=${user.uid},gid=${user.uid}`, 'tmpfs', user.home]);
    };
    const unmount = (): void => void execFileSync('umount', [user.home]);
    let mounted = false;
    onEnd(t, () => {
      if (mounted) unmount();
    });
    mount('64m');
    mounted = true;
    await user.ok(pull);
    const needed = Number(execFileSync('df', ['--output=used', '-B1024', user.home], {encoding: 'utf8'}).split('\n')[1]);
    for (let i = 1; i <= DISKS; i++) {
      unmount();
      mounted = false;
      mount(`${Math.ceil((needed * i) / (DISKS + 1))}k`);
      mounted = true;
      const {status, stderr} = await user.berth(pull);
      // What a store holds in reserve for its records is given up where nothing else is left.
      assert.ok(status === 8 || (status === 0 && i > DISKS / 2), stderr);
      execFileSync('mount', ['-o', 'remount,size=64m', user.home]);
      await otherFindings(user);
      await user.ok(pull);
      assert.equal(await user.ok(['run', '--rm', ref, 'r', 'echo', 'ran']), 'ran\n');
      await assertEmpty(user);
    }
  });
});
