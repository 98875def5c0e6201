import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {closeSync, existsSync, mkdirSync, openSync, readFileSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import type {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {checkRuncVersion, checkRuntime} from '../../../src/lib/runtime/doctor.ts';
import {containerState, deleteContainer, findRuntime, runtimeErrors, runtimeVersion} from '../../../src/lib/runtime/oci-runtime.ts';
import {is, onEnd, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';
import {newHarness, requiresRuntime} from './run-harness.ts';

function program(t: TestContext, text: string): string {
  const file = join(temporaryDirectory(t), 'runtime');
  writeFileSync(file, `#!/bin/sh\n${text}\n`, {mode: 0o755});
  return file;
}

describe('the runtime', () => {
  it('is the named one, and must exist', (t) => {
    const file = program(t, '');
    assert.deepEqual(findRuntime(file), {name: 'runtime', path: file});
    assert.throws(() => findRuntime('no-such-runtime'), is('unavailable'));
    writeFileSync(file, '', {mode: 0o644});
    mkdirSync(`${file}.d`);
    assert.throws(() => findRuntime(`${file}.d`), is('unavailable'));
  });

  it('reports its version, or none', async (t) => {
    for (const [text, version] of [
      ['runc version 1.1.15+ds1', {numbers: [1, 1, 15], text: '1.1.15+ds1'}],
      ['crun version 1.21', {numbers: [1, 21, 0], text: '1.21'}],
      ['runc version 1.4.0-rc.3', {numbers: [1, 4, 0], text: '1.4.0-rc.3'}],
      ['something else', undefined],
    ] as const)
      assert.deepEqual(await runtimeVersion(findRuntime(program(t, `echo '${text}'`))), version);
  });

  it('that is killed is not taken for one that knows of no container', async (t) => {
    const root = temporaryDirectory(t);
    mkdirSync(join(root, 'c'));
    const runtime = findRuntime(program(t, 'kill -9 $$'));
    for (const call of [containerState, deleteContainer])
      await assert.rejects(call(runtime, root, 'c'), (err: ErrdefsError) => {
        assert.match(err.message, /container "c": runtime was killed by SIGKILL: aborted$/);
        return err.code === 'aborted';
      });
    assert.equal(await containerState(findRuntime(program(t, 'exit 1')), root, 'c'), undefined);
    await assert.rejects(deleteContainer(findRuntime(program(t, 'exit 3')), root, 'c'), /"c": runtime ended with status 3: unknown$/);
  });

  it('has its log read as far as it was written', (t) => {
    const file = join(temporaryDirectory(t), 'log.json');
    assert.deepEqual(runtimeErrors(file), []);
    writeFileSync(file, '{"level":"warning","msg":"w"}\n{"level":"error","msg":"e"}\n{"level":"error","msg":7}\n\n{"level":"err');
    assert.deepEqual(runtimeErrors(file), ['e']);
  });

  it('has its own error message reported when it fails', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const words = `echo '{"level":"error","msg":"its own words"}' > ../log.json; exit 1`;
    await assert.rejects(harness.run({args: ['true']}, {runtime: program(t, words)}), (err: ErrdefsError) => {
      assert.equal(err.message, 'container "c": its own words: unknown');
      return err.details?.runExit === 125;
    });
    await assert.rejects(harness.run({args: ['true']}, {runtime: program(t, 'exit 3')}), /ended with status 3 before the container ran/);
    await harness.assertNothingLeft();
  });

  it('inherits no descriptor and no environment of ours', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const secret = openSync(join(harness.dir, 'secret'), 'w');
    onEnd(t, () => closeSync(secret));
    process.env.BERTH_TEST_SECRET = 'secret';
    onEnd(t, () => delete process.env.BERTH_TEST_SECRET);
    const spy = program(t, 'echo $$ > ../init.pid; for fd in /proc/$$/fd/*; do readlink $fd; done; env');
    const {stdout} = await harness.run({args: ['true']}, {runtime: spy});
    assert.match(stdout, /c\.out\n/);
    assert.doesNotMatch(stdout, /secret|socket:/);
    assert.match(stdout, /\nPATH=[^\n]*\nPWD=[^\n]*\n$/);
  });

  it("is asked for a container's state only where the container may not run, and says the same as what was read", async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const dir = temporaryDirectory(t);
    const [bundle, root, calls] = [join(dir, 'b'), join(dir, 'root'), join(dir, 'calls')];
    mkdirSync(bundle);
    const runc = findRuntime('runc').path;
    const runtime = findRuntime(program(t, `echo "$*" >>${calls}; exec ${runc} "$@"`));
    const act = (...words: readonly string[]): string =>
      execFileSync(runc, ['--root', root, ...words], {cwd: bundle, encoding: 'utf8', stdio: ['ignore', 'ignore', 'ignore']});
    act('spec');
    const spec = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8'));
    spec.process = {...spec.process, terminal: false, args: ['/bin/sleep', '1000000']};
    spec.root.path = harness.lower;
    // A cgroup of its own, below those that the harness looks after.
    spec.linux.cgroupsPath = `${harness.cgroup}/state`;
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(spec));
    onEnd(t, () => act('delete', '--force', 'c'));
    for (const [words, status, asked] of [
      [['create', 'c'], 'created', true],
      [['start', 'c'], 'running', false],
      [['pause', 'c'], 'paused', true],
      [['resume', 'c'], 'running', false],
    ] as const) {
      act(...words);
      writeFileSync(calls, '');
      const found = await containerState(runtime, root, 'c');
      assert.equal(readFileSync(calls, 'utf8') !== '', asked, status);
      const said = JSON.parse(execFileSync(runc, ['--root', root, 'state', 'c'], {encoding: 'utf8'})) as {status: string; pid: number};
      assert.deepEqual({status: found?.status, pid: found?.pid}, {status: said.status, pid: said.pid});
      assert.equal(said.status, status);
    }
    // What it cannot have written: it is asked.
    const file = join(root, 'c', 'state.json');
    const state = JSON.parse(readFileSync(file, 'utf8'));
    for (const wrong of [{...state, init_process_start: 1}, {...state, init_process_pid: 'x'}, {...state, cgroup_paths: null}, 7]) {
      writeFileSync(file, JSON.stringify(wrong));
      writeFileSync(calls, '');
      await containerState(runtime, root, 'c');
      assert.notEqual(readFileSync(calls, 'utf8'), '', JSON.stringify(wrong).slice(0, 100));
    }
    writeFileSync(file, JSON.stringify(state));
    act('kill', 'c', 'KILL');
    while ((await containerState(runtime, root, 'c'))?.status !== 'stopped');
    act('delete', 'c');
    assert.equal(existsSync(join(root, 'c')), false);
    assert.equal(await containerState(runtime, root, 'c'), undefined);
  });
});

describe('doctor', () => {
  for (const [version, status] of [
    [[1, 1, 11], 'error'],
    [[1, 0, 99], 'error'],
    [[1, 1, 12], 'warning'],
    [[1, 2, 7], 'warning'],
    [[1, 2, 8], 'ok'],
    [[1, 3, 2], 'warning'],
    [[1, 3, 3], 'ok'],
    [[1, 4, 0], 'ok'],
    [[2, 0, 0], 'ok'],
  ] as const)
    it(`calls runc ${version.join('.')} ${status}`, () => assert.equal(checkRuncVersion(version).status, status));

  it('says how each of its checks came out', async (t) => {
    if (!requiresRuntime(t)) return;
    const checks = await checkRuntime(temporaryDirectory(t));
    assert.deepEqual(
      checks.map(({name}) => name),
      ['runtime', 'conmon', 'mounts', 'cgroups', 'criu'],
    );
    for (const {status, hint} of checks) assert.equal(hint === undefined, status === 'ok');
  });

  it('names a tar that is only a part of busybox', async (t) => {
    const dir = temporaryDirectory(t);
    writeFileSync(join(dir, 'busybox'), '', {mode: 0o755});
    symlinkSync('busybox', join(dir, 'tar'));
    const path = process.env.PATH;
    onEnd(t, () => {
      process.env.PATH = path;
    });
    process.env.PATH = `${dir}:${path}`;
    const {name, status, hint} = (await checkRuntime(temporaryDirectory(t))).at(-1)!;
    assert.deepEqual([name, status, hint], ['tar', 'warning', 'install the package tar']);
  });

  it('names the remedy', async (t) => {
    if (!requiresRoot(t)) return;
    const [runtime, , mounts] = await checkRuntime('/nowhere', 'no-such-runtime');
    for (const check of [runtime!, mounts!]) {
      assert.equal(check.status, 'error');
      assert.ok(check.hint);
    }
  });
});
