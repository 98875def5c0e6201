import assert from 'node:assert/strict';
import {existsSync, mkdirSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {acquireLock, isLockHeld, sweepLocks, withFreeLock} from '../../../src/lib/fs/lock.ts';
import {formatIdentity, ownIdentity} from '../../../src/lib/fs/process.ts';
import {type Script, startScript} from '../../support/children.ts';
import {is, onEnd, requiresOneClock, requiresProgram, requiresRoot, slow, temporaryDirectory} from '../../support/helpers.ts';

const ACQUIRE = `const {acquireLock} = await lib('fs/lock.ts');`;

/** A process that holds the lock until it is told to go, or killed. */
async function holder(t: TestContext, path: string, through: readonly string[] = []): Promise<Script> {
  const code = `${ACQUIRE}
    const lock = await acquireLock(args[0], {timeoutMs: 60_000, purpose: 'a long story'});
    say('held');
    await go();
    lock.release();
    say('released');`;
  const script = startScript(t, code, [path], {through});
  assert.equal(await script.line(), 'held');
  return script;
}

const rejection = async (promise: Promise<unknown>): Promise<ErrdefsError> => {
  const err = await promise.then(
    () => assert.fail('it was given'),
    (e: unknown) => e,
  );
  assert.ok(err instanceof ErrdefsError, String(err));
  return err;
};

describe('locks', () => {
  it('are held by one at a time, however many processes want them', async (t) => {
    const dir = temporaryDirectory(t);
    const [processes, rounds] = [8, 25];
    writeFileSync(join(dir, 'counter'), '0');
    const code = `${ACQUIRE}
      const fs = require('node:fs');
      const [dir, rounds] = args;
      say('up');
      await go();
      for (let i = 0; i < Number(rounds); i++) {
        using lock = await acquireLock(dir + '/lock', {timeoutMs: 60_000});
        fs.writeFileSync(dir + '/alone', '', {flag: 'wx'});
        const n = Number(fs.readFileSync(dir + '/counter', 'utf8'));
        if (i % 5 === 0) await sleep(1);
        fs.writeFileSync(dir + '/counter', String(n + 1));
        fs.unlinkSync(dir + '/alone');
      }`;
    const scripts = Array.from({length: processes}, () => startScript(t, code, [dir, String(rounds)]));
    for (const script of scripts) await script.line();
    for (const script of scripts) script.go();
    for (const script of scripts) assert.deepEqual(await script.done, {status: 0, signal: null, stdout: '', stderr: ''});
    assert.equal(readFileSync(join(dir, 'counter'), 'utf8'), String(processes * rounds));
    assert.deepEqual(readdirSync(dir), ['counter'], 'nothing is left behind');
  });

  it('are free when their holder is killed, without waiting for signs of life to fail', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    for (let round = 0; round < 5; round++) {
      const dead = await holder(t, path);
      const file = join(path, readdirSync(path)[0]!);
      const waiting = acquireLock(path, {timeoutMs: 60_000});
      await sleep(30);
      const inAnHour = Date.now() / 1000 + 3600;
      utimesSync(file, inAnHour, inAnHour);
      dead.process.kill('SIGKILL');
      const lock = await waiting;
      assert.equal(lock.inherited, true, 'and it is known that somebody died with it');
      lock.release();
      const next = await acquireLock(path, {timeoutMs: 0});
      assert.equal(next.inherited, false);
      next.release();
    }
  });

  it('stay with a stopped holder; the error of a waiter names the holder, its purpose and since when it holds the lock', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    const stopped = await holder(t, path);
    stopped.process.kill('SIGSTOP');
    // Far beyond the time after which proper-lockfile alone would take the lock away.
    const file = join(path, readdirSync(path)[0]!);
    utimesSync(file, 1, 1);
    const err = await rejection(acquireLock(path, {timeoutMs: 300}));
    assert.equal(err.code, 'unavailable');
    assert.match(
      err.message,
      new RegExp(`is held by pid ${stopped.pid} \\(.*stopped\\) for a long story since \\d+\\.\\d s: unavailable$`),
    );
    assert.equal(err.details?.pid, stopped.pid);
    assert.equal(err.details?.purpose, 'a long story');
    assert.ok(Number(err.details?.ageMs) >= 300);
    assert.match(err.hint ?? '', /--lock-timeout/);
    assert.equal(isLockHeld(path), true);
    stopped.process.kill('SIGCONT');
    stopped.go();
    assert.equal(await stopped.line(), 'released');
    (await acquireLock(path, {timeoutMs: 1000})).release();
  });

  it('are not waited for with a timeout of 0', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    await holder(t, path);
    assert.equal((await rejection(acquireLock(path, {timeoutMs: 0}))).code, 'unavailable');
  });

  it('remove a waiter that gave up from the queue', async (t) => {
    const dir = temporaryDirectory(t);
    await holder(t, join(dir, 'lock'));
    await rejection(acquireLock(join(dir, 'lock'), {timeoutMs: 50}));
    assert.deepEqual(readdirSync(dir), ['lock']);
  });

  it('are waited for beyond the timeout as long as the holder shows signs of life', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    const script = await holder(t, path);
    const file = join(path, readdirSync(path)[0]!);
    const alive = setInterval(() => utimesSync(file, new Date(), new Date()), 20);
    onEnd(t, () => clearInterval(alive));
    let waited = 0;
    const started = performance.now();
    const waiting = rejection(acquireLock(path, {timeoutMs: 1000, whileAlive: true, onWait: () => waited++}));
    await sleep(2500);
    clearInterval(alive);
    script.process.kill('SIGSTOP');
    assert.equal((await waiting).code, 'unavailable');
    const ms = performance.now() - started;
    assert.ok(ms >= 3000, `it gave up after ${ms} ms`);
    assert.equal(waited, 1, 'and said once that it waits');
  });

  for (const [what, jump] of [
    ['forward', 3600_000],
    ['back', -3600_000],
  ] as const)
    it(`are waited for as long as was asked, though the machine's clock is set ${what}`, async (t) => {
      const path = join(temporaryDirectory(t), 'lock');
      await holder(t, path);
      const now = Date.now;
      onEnd(t, () => {
        Date.now = now;
      });
      for (const whileAlive of [false, true]) {
        const started = performance.now();
        const waiting = rejection(
          acquireLock(path, {
            timeoutMs: 400,
            whileAlive,
            onWait: () => {
              Date.now = () => now() + jump;
            },
          }),
        );
        const {code} = await Promise.race([waiting, sleep(60_000, {code: 'it waits on'}, {ref: false})]);
        Date.now = now;
        assert.equal(code, 'unavailable');
        assert.ok(performance.now() - started >= 390, `it gave up after ${performance.now() - started} ms`);
      }
    });

  it('let a newcomer overtake waiters, but not one that has waited for long', async (t) => {
    for (const [waitedMs, mayPass] of [
      [0, true],
      [50, true],
      [800, false],
      [5000, false],
    ] as const) {
      const path = join(temporaryDirectory(t), 'lock');
      // Somebody who lives, and waits, and does not look: we ourselves.
      const ticket = `${formatIdentity(ownIdentity())}.${(Date.now() - waitedMs).toString(36)}zzzz`;
      mkdirSync(`${path}.${ticket}`, {recursive: true});
      writeFileSync(join(`${path}.${ticket}`, ticket), '0 a long wait');
      let waited = 0;
      using _lock = await acquireLock(path, {timeoutMs: 10_000, onWait: () => waited++});
      assert.equal(waited === 0, mayPass, `the first of the queue has waited ${waitedMs} ms`);
    }
  });

  it('show a sign of life every few seconds', async (t) => {
    if (!requiresOneClock(t, 'a sign of life is a file time')) return;
    if (!slow(t)) return;
    const path = join(temporaryDirectory(t), 'lock');
    using _lock = await acquireLock(path, {timeoutMs: 0});
    const file = join(path, readdirSync(path)[0]!);
    const before = statSync(file).mtimeMs;
    for (let waited = 0; statSync(file).mtimeMs === before && waited < 60_000; waited += 100) await sleep(100);
    assert.ok(statSync(file).mtimeMs > before + 4000);
  });

  it('stop waiting when they are told to, and say why', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    await holder(t, path);
    for (const [signal, code] of [
      [AbortSignal.timeout(50), 'deadline_exceeded'],
      [AbortSignal.abort(), 'canceled'],
    ] as const)
      await assert.rejects(acquireLock(path, {timeoutMs: 10_000, signal}), is(code));
    // The same behind a caller of this process.
    const own = join(temporaryDirectory(t), 'lock');
    using _lock = await acquireLock(own, {timeoutMs: 0});
    await assert.rejects(acquireLock(own, {timeoutMs: 10_000, signal: AbortSignal.timeout(50)}), is('deadline_exceeded'));
    await assert.rejects(acquireLock(own, {timeoutMs: 10_000, signal: AbortSignal.abort()}), is('canceled'));
  });

  it('are given to callers of one process in order, except those that gave up', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    const order: number[] = [];
    const first = await acquireLock(path, {timeoutMs: 0});
    const others = [1, 2, 3].map(async (n) => {
      using _lock = await acquireLock(path, {timeoutMs: 10_000});
      order.push(n);
      await sleep(5);
    });
    await assert.rejects(acquireLock(path, {timeoutMs: 20}), is('unavailable'));
    const last = acquireLock(path, {timeoutMs: 10_000}).then((lock) => {
      order.push(4);
      lock.release();
      lock.release();
    });
    first.release();
    await Promise.all([...others, last]);
    assert.deepEqual(order, [1, 2, 3, 4]);
    assert.equal(existsSync(path), false);
  });

  it('pass over the first in the queue when it is stopped or killed', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    const gate = await holder(t, path);
    const code = `${ACQUIRE} await acquireLock(args[0], {timeoutMs: 600_000, onWait: () => say('waits')});`;
    for (const signal of ['SIGSTOP', 'SIGKILL'] as const) {
      const first = startScript(t, code, [path]);
      assert.equal(await first.line(), 'waits');
      first.process.kill(signal);
    }
    const waiting = acquireLock(path, {timeoutMs: 60_000});
    await sleep(100);
    gate.go();
    (await waiting).release();
  });

  it('signal their release to the first waiter that can receive the signal', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    const waiter = `const {uniqueName} = await lib('fs/process.ts');
      process.on('SIGURG', () => say('told'));
      require('node:fs').mkdirSync(args[0] + '.' + uniqueName());
      say('waits');
      await go();`;
    const waiters: Script[] = [];
    for (let i = 0; i < 3; i++) {
      const script = startScript(t, waiter, [path]);
      assert.equal(await script.line(), 'waits');
      waiters.push(script);
    }
    const [stopped, first, last] = waiters as [Script, Script, Script];
    stopped.process.kill('SIGSTOP');
    for (const ends of ['lock.release(); await go();', 'lock.release(); process.exit();', 'process.exit();']) {
      // One that begins while they have not waited for long may go first.
      startScript(t, `${ACQUIRE} const lock = await acquireLock(args[0], {timeoutMs: 5000}); ${ends}`, [path]);
      assert.equal(await first.line(), 'told', ends);
    }
    for (const script of [stopped, last]) {
      script.process.kill('SIGCONT');
      script.go();
      assert.equal((await script.done).stdout, '');
    }
  });

  it('take a signal of the process only while it waits', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    const gate = await holder(t, path);
    const listening = (): number => process.listenerCount('SIGURG');
    const waiting = acquireLock(path, {timeoutMs: 10_000, onWait: () => assert.equal(listening(), 0)});
    const inVain = acquireLock(`${path}-of-another`, {timeoutMs: 0});
    while (listening() === 0) await sleep(1);
    assert.equal(listening(), 1);
    gate.go();
    for (const lock of await Promise.all([waiting, inVain])) lock.release();
    assert.equal(listening(), 0);
  });

  it('are taken from a holder of another pid namespace only when it shows no life for long', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'unshare')) return;
    if (!requiresOneClock(t, 'a holder of another pid namespace shows life by file times')) return;
    const path = join(temporaryDirectory(t), 'lock');
    const foreign = await holder(t, path, ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc']);
    const file = join(path, readdirSync(path)[0]!);
    assert.notEqual(file.split('.').at(-2), ownIdentity().pidNamespace);
    assert.equal((await rejection(acquireLock(path, {timeoutMs: 100}))).code, 'unavailable');
    assert.equal(isLockHeld(path), true);
    foreign.process.kill('SIGKILL');
    await foreign.done;
    assert.equal((await rejection(acquireLock(path, {timeoutMs: 100}))).code, 'unavailable', 'from here nobody sees that it is dead');
    const past = Date.now() / 1000 - 11;
    utimesSync(file, past, past);
    assert.equal(isLockHeld(path), false);
    using lock = await acquireLock(path, {timeoutMs: 100});
    assert.equal(lock.inherited, true);
  });

  it('can be tried without waiting', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    let ran = 0;
    assert.equal(
      withFreeLock(path, 'a test', () => {
        assert.equal(isLockHeld(path), true);
        ran++;
      }),
      true,
    );
    assert.equal(isLockHeld(path), false);
    assert.throws(
      () =>
        withFreeLock(path, 'a test', () => {
          throw new Error('broken');
        }),
      /broken/,
    );
    assert.equal(isLockHeld(path), false, 'it is given back whatever happens');
    const other = await holder(t, path);
    assert.equal(
      withFreeLock(path, 'a test', () => ran++),
      false,
    );
    other.process.kill('SIGKILL');
    await other.done;
    sweepLocks(join(path, '..'));
    assert.equal(
      withFreeLock(path, 'a test', () => ran++),
      true,
    );
    assert.equal(ran, 2);
  });

  it('that dead processes left are swept, and no others', async (t) => {
    const dir = temporaryDirectory(t);
    const dead = await holder(t, join(dir, 'dead'));
    const waiter = startScript(t, `${ACQUIRE} await acquireLock(args[0], {timeoutMs: 60_000, onWait: () => say('waits')});`, [
      join(dir, 'dead'),
    ]);
    await waiter.line();
    const alive = await holder(t, join(dir, 'alive'));
    mkdirSync(join(dir, 'empty'));
    mkdirSync(join(dir, 'foreign'));
    writeFileSync(join(dir, 'foreign', 'file'), '');
    writeFileSync(join(dir, 'file'), '');
    const elsewhere = formatIdentity({...ownIdentity(), pidNamespace: '1'});
    for (const [name, age] of [
      [`old.${elsewhere}.0`, 4000],
      [`new.${elsewhere}.0`, 20],
    ] as const) {
      mkdirSync(join(dir, name));
      const file = join(dir, name, `${elsewhere}.0`);
      writeFileSync(file, '');
      utimesSync(file, Date.now() / 1000 - age, Date.now() / 1000 - age);
    }
    for (const script of [waiter, dead]) {
      script.process.kill('SIGKILL');
      await script.done;
    }
    sweepLocks(dir);
    assert.deepEqual(readdirSync(dir), ['alive', 'file', 'foreign', `new.${elsewhere}.0`]);
    alive.go();
    assert.equal(await alive.line(), 'released');
    sweepLocks(join(dir, 'no such directory'));
  });

  it('that cannot be created fail with the class of the cause, and name the path', async (t) => {
    const dir = temporaryDirectory(t);
    writeFileSync(join(dir, 'file'), '');
    const err = await rejection(acquireLock(join(dir, 'file', 'lock'), {timeoutMs: 0}));
    assert.equal(err.code, 'failed_precondition');
    assert.match(err.message, /file\/lock/);
    assert.equal((await rejection(acquireLock(join(dir, 'file'), {timeoutMs: 0}))).code, 'failed_precondition');
  });

  it('are given back when the process ends in the middle', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    const code = `${ACQUIRE} await acquireLock(args[0], {timeoutMs: 0}); process.exit(0);`;
    const script = startScript(t, code, [path]);
    assert.equal((await script.done).status, 0);
    assert.equal(existsSync(path), false);
  });
});
