/**
 * A stopped pull (SIGSTOP: it holds its locks and makes no progress) delays another pull of the same blobs by no more than
 * `--lock-timeout`, and does no harm when it continues. It is stopped at generated points.
 */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {gzipSync} from 'node:zlib';
import {commandLine} from '../cli/harness.ts';
import {digestOf, type FakeRegistry, startFakeRegistry} from '../fakes/registry.ts';
import {requiresRoot, SAMPLE, TORTURE} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {dir, file, tar} from '../support/tartest.ts';
import {assertWhole, eventually, names, sizeOf, start} from './fixtures.ts';

const SNAPSHOTTERS = ['overlayfs', 'native', 'erofs'] as const;

/** The second layer has an implicit parent in the first, so it is completed after that. */
const TREES = [tar(dir('etc'), file('etc/motd', 'welcome')), tar(file('etc/noise', randomBytes(400_000)))];
const LAYERS = TREES.map((tree) => gzipSync(tree));

async function registryOf(t: TestContext): Promise<FakeRegistry> {
  const registry = await startFakeRegistry(t);
  const config = {os: 'linux', architecture: ARCHITECTURE, rootfs: {type: 'layers', diff_ids: TREES.map((tree) => digestOf(tree))}};
  registry.addImage('team/app', 'v1', LAYERS, config);
  return registry;
}

/** State of a process, such as `T` for one that is stopped. */
const stateOf = (pid: number): string => readFileSync(`/proc/${pid}/stat`, 'latin1').replace(/^.*\) /s, '')[0]!;

describe('a stopped pull', () => {
  const seed = SAMPLE;
  const points = TORTURE ? 24 : 3;
  for (let n = 0; n < points; n++) {
    const snapshotter = SNAPSHOTTERS[n % SNAPSHOTTERS.length]!;
    // From before the first byte to before the last.
    const share = ((seed + n * 7919) % 10) / 10;
    const at = n % 4 === 3 ? 'manifest' : 'layer';
    it(`${at === 'layer' ? `after ${share * 100} % of a layer` : 'at its manifest'} delays no other pull, and does no harm when it continues, ${snapshotter}`, async (t) => {
      t.diagnostic(`seed ${seed}`);
      if (!requiresRoot(t)) return;
      const [slow, healthy] = [await registryOf(t), await registryOf(t)];
      const layer = LAYERS[1]!;
      const path = new RegExp(digestOf(layer));
      if (at === 'manifest') slow.fault({path: /manifests\/sha256/, delayMs: 3000, times: 1});
      else slow.fault({path, times: 1, trickle: {bytes: 20_000, everyMs: 100}});

      const ctr = commandLine(t, 'executable');
      const pull = (namespace: string, {host}: FakeRegistry) =>
        start(ctr, [
          '-n',
          namespace,
          'pull',
          '--progress',
          'none',
          '--lock-timeout',
          '1s',
          '--snapshotter',
          snapshotter,
          `${host}/team/app:v1`,
        ]);
      const stopped = pull('stopped', slow);
      const data = join(ctr.env.BERTH_ROOT!, 'content/ingest', digestOf(layer).replace(':', '-'), 'data');
      const {pid} = stopped.child;
      await eventually('a pull to stop', () => slow.faulted > 0 && (at === 'manifest' || sizeOf(data) >= share * layer.length));
      process.kill(pid!, 'SIGSTOP');
      try {
        await eventually('a pull that is stopped', () => stateOf(pid!) === 'T');
        const here = sizeOf(data);
        const begun = performance.now();
        for (const {status, stderr} of await Promise.all(['left', 'right'].map((namespace) => pull(namespace, healthy).ended)))
          assert.equal(status, 0, stderr);
        assert.ok(performance.now() - begun < 30_000, 'in time');
        const sent = healthy.bytesSent(path);
        assert.ok(sent <= layer.length - here, `${sent} B came again, of ${layer.length} B, though ${here} B were here`);
        for (const namespace of ['left', 'right']) await assertWhole(ctr, namespace, snapshotter);
      } finally {
        process.kill(pid!, 'SIGCONT');
      }
      const {status, stderr} = await stopped.ended;
      assert.equal(status, 0, stderr);
      for (const namespace of ['stopped', 'left', 'right']) await assertWhole(ctr, namespace, snapshotter);
      for (const place of ['content/ingest', 'work', 'trash']) assert.deepEqual(names(join(ctr.env.BERTH_ROOT!, place)), [], place);
    });
  }
});
