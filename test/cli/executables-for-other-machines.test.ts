/** Executables for other machines: each target is known to npm, and the one for ARM works where a processor is emulated. */
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {compileExecutable} from '../../scripts/compile-executable.ts';
import {executableOf, ownTarget, TARGETS} from '../../scripts/targets.ts';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {requiresProgram, TORTURE, temporaryDirectory} from '../support/helpers.ts';
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

  it('for ARM pulls, unpacks and checks what is for ARM', async (t) => {
    const target = TARGETS.find(({name}) => name === 'linux-arm64')!;
    if (!TORTURE) return t.skip('an emulated processor takes minutes');
    if (ownTarget() === target) return t.skip('this machine is ARM');
    if (!requiresProgram(t, 'qemu-aarch64')) return;
    const dir = temporaryDirectory(t);
    const executable = join(dir, executableOf(target));
    compileExecutable(target, executable);
    const registry = await startFakeRegistry(t);
    const layer = tar(directory('etc'), file('etc/motd', 'hello'));
    registry.addImage('app', 'latest', [layer], {
      architecture: 'arm64',
      os: 'linux',
      rootfs: {type: 'layers', diff_ids: [digestOf(layer)]},
    });
    const env = {BERTH_ROOT: join(dir, 'root'), BERTH_STATE: join(dir, 'state')};
    const berth = async (...args: readonly string[]): Promise<Result> => {
      const result = await run('qemu-aarch64', ['-L', LIBRARIES, executable, ...args], {cwd: dir, env, timeoutMs: 120_000});
      assert.equal(result.status, 0, result.stderr);
      return result;
    };
    assert.match((await berth('version')).stdout, /Platform: +linux\/arm64\b/);
    await berth('pull', '--plain-http', '--snapshotter', 'native', `${registry.host}/app`);
    const [image] = JSON.parse((await berth('images', 'ls', '--json')).stdout);
    assert.deepEqual(image.platforms, ['linux/arm64']);
    assert.deepEqual(JSON.parse((await berth('check', '--deep', '--json')).stdout).findings, []);
  });
});
