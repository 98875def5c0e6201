/** Executables for other machines: each target is known to npm, those for ARM and for musl work where a processor or the C++ library is emulated. */
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {compileExecutable} from '../../scripts/compile-executable.ts';
import {executableOf, ownTarget, TARGETS, type Target} from '../../scripts/targets.ts';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {requiresProgram, requiresRoot, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {ARM_MUSL_PROGRAMS, armMusl, hasMusl, muslLibraries} from '../support/musl-libraries.ts';
import {program} from '../support/static-programs.ts';
import {dir as directory, file, tar} from '../support/tartest.ts';
import {type Result, root, run} from './harness.ts';

/** Where Debian's libc6-arm64-cross puts the dynamic loader and the C library. */
const LIBRARIES = '/usr/aarch64-linux-gnu';

describe('executables', () => {
  it('have an engine of one version for every target, whose checksum is locked', () => {
    const {optionalDependencies} = JSON.parse(readFileSync(join(root, 'engines/package.json'), 'utf8'));
    const {packages} = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
    assert.equal(new Set(TARGETS.map(({bun}) => optionalDependencies[bun])).size, 1);
    for (const {bun, cpu} of TARGETS) {
      const locked = packages[`node_modules/${bun}`];
      assert.match(locked.integrity, /^sha512-/, bun);
      assert.deepEqual([locked.os, locked.cpu], [['linux'], [cpu]], bun);
    }
  });

  it('are found by the launcher for every target', () => {
    const launcher = readFileSync(join(root, 'bin/berth'), 'utf8');
    const [, words] = /^ {2}for target in (.*); do$/m.exec(launcher) ?? [];
    assert.deepEqual(
      words?.split(' ').map((word) => `linux-${word}`),
      TARGETS.map(({name}) => name),
    );
    for (const word of words!.split(' ')) assert.match(launcher, new RegExp(`^ +${word}\\) loader=/`, 'm'));
  });

  const layer = tar(directory('etc'), file('etc/motd', 'hello'), directory('bin'), file('bin/true', program('exit'), 0o755));

  /** Compiles a target, and runs its executable with a store of its own; every command has to succeed. */
  const executableFor = (t: TestContext, target: Target, before: readonly string[], libraries: Record<string, string> = {}) => {
    const dir = temporaryDirectory(t);
    const executable = join(dir, executableOf(target));
    compileExecutable(target, executable);
    const env = {BERTH_ROOT: join(dir, 'root'), BERTH_STATE: join(dir, 'state'), ...libraries};
    const words = [...before, executable];
    return async (...args: readonly string[]): Promise<Result> => {
      const result = await run(words[0]!, [...words.slice(1), ...args], {cwd: dir, env, timeoutMs: 120_000});
      assert.equal(result.status, 0, `${args.join(' ')}: ${result.stderr}`);
      return result;
    };
  };

  /** Starts a registry with one image, `app`. */
  const registryFor = async (t: TestContext, architecture: string): Promise<string> => {
    const registry = await startFakeRegistry(t);
    registry.addImage('app', 'latest', [layer], {
      architecture,
      os: 'linux',
      config: {Cmd: ['/bin/true']},
      rootfs: {type: 'layers', diff_ids: [digestOf(layer)]},
    });
    return registry.host;
  };

  for (const [name, title, programs, emulator] of [
    ['linux-arm64', 'for ARM', ['qemu-aarch64'], () => ['qemu-aarch64', '-L', LIBRARIES]],
    ['linux-arm64-musl', 'for ARM with musl', ARM_MUSL_PROGRAMS, armMusl],
  ] as const)
    it(`${title} pulls, unpacks and checks what is for ARM`, async (t) => {
      const target = TARGETS.find((one) => one.name === name)!;
      if (!TORTURE) return t.skip('an emulated processor takes minutes');
      if (ownTarget().cpu === target.cpu) return t.skip('this machine is ARM');
      if (!requiresProgram(t, ...programs)) return;
      const host = await registryFor(t, 'arm64');
      const berth = executableFor(t, target, emulator(temporaryDirectory(t)));
      assert.match((await berth('version')).stdout, /Platform: +linux\/arm64\b/);
      await berth('pull', '--plain-http', '--snapshotter', 'native', `${host}/app`);
      const [image] = JSON.parse((await berth('images', 'ls', '--json')).stdout);
      assert.deepEqual(image.platforms, ['linux/arm64']);
      assert.deepEqual(JSON.parse((await berth('check', '--deep', '--json')).stdout).findings, []);
    });

  it('with musl pulls, runs, exports and checks on musl', async (t) => {
    const target = TARGETS.find(({name}) => name === 'linux-x64-musl')!;
    if (!TORTURE) return t.skip('compiling it takes long');
    if (!hasMusl()) return t.skip("needs x64 and Debian's package musl");
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'cc')) return;
    const host = await registryFor(t, 'amd64');
    const libraries = temporaryDirectory(t);
    muslLibraries(libraries);
    const berth = executableFor(t, target, [], {LD_LIBRARY_PATH: libraries});
    const {stdout} = await berth('version', '--json');
    assert.equal(JSON.parse(stdout).engine.name, 'bun', stdout);
    await berth('pull', '--plain-http', `${host}/app`);
    assert.equal(JSON.parse((await berth('images', 'ls', '--json')).stdout).length, 1);
    await berth('run', '--rm', `${host}/app`, 'r1');
    await berth('images', 'export', 'app.tar', `${host}/app`);
    await berth('-n', 'other', 'images', 'import', 'app.tar');
    assert.deepEqual(JSON.parse((await berth('check', '--deep', '--json')).stdout).findings, []);
  });
});
