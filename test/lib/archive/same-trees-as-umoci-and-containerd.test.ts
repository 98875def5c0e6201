import assert from 'node:assert/strict';
import {type ChildProcess, spawn, spawnSync} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {onEnd, requiresProgram, requiresRoot, slow, temporaryDirectory} from '../../support/helpers.ts';
import {addImage, setTarget} from '../../support/layouts.ts';
import {tar} from '../../support/tartest.ts';
import {type DiffOptions, diffTrees, readTree} from '../../support/tree.ts';
import {PLAIN_MODE} from './apply-modes.ts';
import {SCENARIOS, type Scenario} from './scenarios.ts';

const tarsOf = (scenario: Scenario): Buffer[] => scenario.layers.map((entries) => tar(...entries));

describe('a layer becomes the same tree as with umoci', () => {
  for (const scenario of SCENARIOS)
    it(scenario.name, (t) => {
      const {umoci, error} = scenario;
      if (!requiresRoot(t) || !requiresProgram(t, 'umoci', 'getfattr')) return;
      if (typeof umoci === 'string') {
        t.diagnostic(umoci);
        return;
      }
      const work = temporaryDirectory(t);
      const tars = tarsOf(scenario);
      setTarget(join(work, 'layout'), addImage(join(work, 'layout'), {layers: tars, compression: 'none'}));
      const {status, stderr} = spawnSync('umoci', ['raw', 'unpack', '--image', `${work}/layout:latest`, join(work, 'theirs')], {
        encoding: 'utf8',
      });
      if (error !== undefined) {
        assert.notEqual(status, 0, 'umoci refuses it too');
        return;
      }
      assert.equal(status, 0, stderr);
      // The unpacker creates the root.
      const ignore: DiffOptions['ignore'] = (path, field) => path === '.' || umoci?.[path]?.includes(field) === true;
      assert.deepEqual(diffTrees(PLAIN_MODE.run(join(work), tars), readTree(join(work, 'theirs')), {ignore}), []);
    });
});

/** Starts containerd with its own directories. */
async function startContainerd(t: TestContext, work: string): Promise<(...args: string[]) => ReturnType<typeof spawnSync>> {
  const socket = join(work, 'containerd.sock');
  const config = [
    'version = 2',
    `root = "${work}/root"`,
    `state = "${work}/state"`,
    'disabled_plugins = ["io.containerd.grpc.v1.cri"]',
    '[grpc]',
    `  address = "${socket}"`,
  ];
  writeFileSync(join(work, 'config.toml'), config.join('\n'));
  const daemon: ChildProcess = spawn('containerd', ['-c', join(work, 'config.toml')], {stdio: 'ignore'});
  onEnd(t, async () => {
    daemon.kill('SIGTERM');
    await once(daemon, 'exit');
  });
  for (let tries = 0; tries < 600 && !existsSync(socket); tries++) await sleep(100);
  return (...args) => spawnSync('ctr', ['--address', socket, ...args], {encoding: 'utf8'});
}

describe("a layer becomes the same tree as with containerd's native snapshotter", () => {
  it('every scenario', async (t) => {
    if (!slow(t) || !requiresRoot(t) || !requiresProgram(t, 'containerd', 'ctr', 'getfattr', 'tar')) return;
    const work = temporaryDirectory(t);
    const ctr = await startContainerd(t, work);
    const layout = join(work, 'layout');
    const manifests = SCENARIOS.map((scenario, i) => ({
      ...addImage(layout, {layers: tarsOf(scenario), compression: 'none'}),
      annotations: {'io.containerd.image.name': `scenario.test/${i}:1`},
    }));
    writeFileSync(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
    writeFileSync(join(layout, 'index.json'), JSON.stringify({schemaVersion: 2, manifests}));
    assert.equal(spawnSync('tar', ['-C', layout, '-cf', join(work, 'images.tar'), '.']).status, 0);
    assert.equal(ctr('images', 'import', '--no-unpack', join(work, 'images.tar')).status, 0);
    const lines: string[] = [];
    for (const [i, scenario] of SCENARIOS.entries()) {
      if (scenario.containerd !== undefined) continue;
      const at = join(work, `mount${i}`);
      mkdirSync(at);
      const {status, stderr} = ctr('images', 'mount', '--snapshotter', 'native', `scenario.test/${i}:1`, at);
      if (scenario.error !== undefined || status !== 0) {
        if ((status !== 0) !== (scenario.error !== undefined)) lines.push(`${scenario.name}: ${status === 0 ? 'taken' : stderr}`);
        continue;
      }
      const theirs = readTree(at);
      assert.equal(spawnSync('umount', [at]).status, 0);
      const directories = new Set(theirs.filter(({type}) => type === 'directory').map(({path}) => path));
      mkdirSync(join(work, `ours${i}`));
      const ours = PLAIN_MODE.run(join(work, `ours${i}`), tarsOf(scenario));
      // In containerd a directory that the layer does not carry has the mtime of its last change.
      const ignore: DiffOptions['ignore'] = (path, field) => field === 'mtime' && directories.has(path);
      lines.push(...diffTrees(ours, theirs, {ignore}).map((line) => `${scenario.name}: ${line}`));
    }
    assert.deepEqual(lines, []);
  });
});
