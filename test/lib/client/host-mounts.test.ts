/** Mounts on this machine. Each test has its own mount namespace. */
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {failpointOptions} from '../../fakes/failpoints.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {is, newClient, onEnd, requiresProgram, requiresRoot, SAMPLE, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {pulled} from './pulled-store.ts';

const DRIVER = join(import.meta.dirname, 'mount-driver.ts');
const SNAPSHOTTERS = ['erofs', 'overlayfs', 'native'] as const;

const canUse = (t: TestContext): boolean => requiresRoot(t) && requiresProgram(t, 'unshare', 'nsenter', 'mount');

interface Outcome {
  readonly status: number | null;
  readonly stderr: string;
  readonly calls: number;
}

interface Machine {
  readonly base: string;
  /** Ends the mount namespace. */
  stop(): Promise<void>;
  /** Runs a scenario of the driver to its end. @returns its status, null when it was killed, and how many calls that change something it made */
  run(scenario: string, stop?: {readonly action: string; readonly at: number}): Promise<Outcome>;
  ok(scenario: string): Promise<void>;
}

/** A store with an image, and a mount namespace that lasts as long as the test. */
async function newMachine(t: TestContext, snapshotter: string, seed = 0): Promise<Machine> {
  const base = temporaryDirectory(t);
  for (const name of ['root', 'state']) mkdirSync(join(base, name), {mode: 0o700});
  const client = await newClient(t, {root: join(base, 'root'), state: join(base, 'state')});
  const {ref} = await pulled(t, snapshotter, {root: join(base, 'root'), state: join(base, 'state')});
  await client.close();
  const holder = spawn('unshare', ['-m', '--propagation', 'private', 'sh', '-c', 'echo; exec sleep 3600'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const ended = new Promise((done) => holder.once('exit', done));
  const stop = async (): Promise<void> => {
    holder.kill('SIGKILL');
    await ended;
  };
  onEnd(t, stop);
  await new Promise((done) => holder.stdout.once('data', done));
  const run: Machine['run'] = async (scenario, stop = {action: 'kill', at: 0}) => {
    const request = JSON.stringify({scenario, base, ref, snapshotter, seed});
    const log = join(base, 'calls');
    writeFileSync(log, '');
    const {execArgv, env} = failpointOptions({below: base, ...stop}, log);
    const argv = ['--mount', '-t', String(holder.pid), process.execPath, ...execArgv, DRIVER, request];
    const child = spawn('nsenter', argv, {stdio: ['ignore', 'ignore', 'pipe'], env: {...process.env, ...env}});
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const status = await new Promise<number | null>((done) => child.once('close', done));
    return {status, stderr, calls: readFileSync(log, 'utf8').split('\n').length - 1};
  };
  const ok: Machine['ok'] = async (scenario) => {
    const {status, stderr} = await run(scenario);
    assert.equal(status, 0, stderr);
  };
  return {base, stop, run, ok};
}

for (const snapshotter of SNAPSHOTTERS)
  describe(`a mount on this machine, ${snapshotter}`, () => {
    const scenario = (name: string, title: string, seed = 0): Promise<void> =>
      it(title, async (t) => {
        if (!canUse(t)) return;
        await (await newMachine(t, snapshotter, seed)).ok(name);
      });
    scenario('an image', 'is listed, keeps its layers, and is gone when it is unmounted');
    scenario('what is written', 'keeps what is written to it until that is removed');
    scenario('odd names', `is made whatever root and target are called, seed ${SAMPLE}`, SAMPLE);
    scenario('another boot', 'is forgotten after a boot');
    scenario('many at once', 'is made, and unmade, by one of many');
    scenario('a failure', 'leaves nothing where it fails, and what others mount alone');

    it(`is recorded when its command is killed or fails at any call, seed ${SAMPLE}`, async (t) => {
      if (!canUse(t)) return;
      const machine = await newMachine(t, snapshotter);
      const {below} = randomOf(SAMPLE, SNAPSHOTTERS.indexOf(snapshotter));
      for (const scenario of ['mount', 'unmount']) {
        if (scenario === 'unmount') await machine.ok('mount');
        const {calls} = await machine.run(scenario);
        await machine.ok('mend');
        assert.ok(calls > 10, `${calls} calls`);
        const all = Array.from({length: calls}, (_, i) => i + 1);
        for (const action of ['kill', 'ENOSPC'])
          for (const at of TORTURE ? all : [1 + below(calls)]) {
            if (scenario === 'unmount') await machine.ok('mount');
            await machine.run(scenario, {action, at});
            // The shell that mounts goes on for a moment.
            if (action === 'kill') await delay(300);
            const {status, stderr} = await machine.run('mend');
            assert.equal(status, 0, `${scenario}, ${action} at call ${at} of ${calls}: ${stderr}`);
          }
      }
    });
  });

describe('a mount in another mount namespace', () => {
  it('stays, and its record is removed once that namespace has ended', async (t) => {
    if (!canUse(t)) return;
    const machine = await newMachine(t, 'overlayfs');
    await machine.ok('mount');
    const client = await newClient(t, {root: join(machine.base, 'root'), state: join(machine.base, 'state')});
    const {images, leases} = client.namespace('default');
    const [mount] = await images.mounts();
    assert.equal(mount!.state, 'mounted');
    await assert.rejects(images.unmount(mount!.target), is('failed_precondition'));
    await client.prune();
    assert.deepEqual((await images.mounts()).length, 1);
    await machine.stop();
    assert.equal((await images.mounts())[0]!.state, 'stale');
    assert.deepEqual(
      (await client.check()).findings.map(({severity, repaired}) => [severity, repaired]),
      [['garbage', false]],
    );
    await client.gc();
    assert.deepEqual([await images.mounts(), await leases.list()], [[], []]);
  });
});
