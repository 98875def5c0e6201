/**
 * kill -9 at any moment of a pull and of a run: the next command works at once, nothing recorded is missing, and the next deletion removes
 * incomplete files.
 */
import assert from 'node:assert/strict';
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {probeErofs} from '../../src/lib/client/erofs-probe.ts';
import {formatIdentity, ownIdentity} from '../../src/lib/fs/process.ts';
import {type CommandLine, commandLine, type Engine, engineEnvironment} from '../cli/harness.ts';
import {randomNumbers} from '../fuzz/seeded-random.ts';
import {type ImageName, imagesForTests} from '../support/cached-images.ts';
import {isShort, requiresProgram, requiresRoot, type Skippable, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {assertNoRuns, assertWhole, blobsOf, names, publishedImages, start} from './fixtures.ts';

const published = publishedImages();
/** A large image, for kills during download and unpacking, and a small one, for kills during the other steps. */
const IMAGES = (['redis', 'busybox-multi'] as const).filter((name) => imagesForTests().includes(name));
const ENGINES: readonly Engine[] = ['executable', 'executable', 'node'];
/** `native` only once: its copies take long, and its other steps are the same. */
const SNAPSHOTTERS = ['erofs', 'overlayfs', 'erofs', 'overlayfs', 'erofs', 'overlayfs', 'native'] as const;

/** Kills of a pull, at least one for each engine with each snapshotter, and kills of a run. */
const [PULLS, RUNS] = TORTURE ? [50, 30] : isShort() ? [10, 5] : [ENGINES.length * SNAPSHOTTERS.length, 8];

/** Time limit of a command after a kill, in milliseconds, on a busy machine. */
const AT_ONCE_MS = 2000;

const requiresRuntime = (t: Skippable): boolean => requiresRoot(t) && requiresProgram(t, 'runc', 'unshare', 'mount');

const SEED = Number(process.env.BERTH_TEST_SEED ?? 1);

/** Runs a command with that time limit. @returns its output */
async function atOnce(ctr: CommandLine, args: readonly string[]): Promise<string> {
  const begun = performance.now();
  const stdout = await ctr.ok(args);
  const took = performance.now() - begun;
  assert.ok(took < AT_ONCE_MS, `${args.join(' ')} took ${Math.round(took)} ms`);
  return stdout;
}

/** Asserts that nothing of the store is mounted in this mount namespace. */
function assertNoMounts(ctr: CommandLine): void {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
  for (const dir of [ctr.env.BERTH_ROOT!, ctr.env.BERTH_STATE!]) assert.ok(!mounts.includes(dir), `mounts in ${dir}`);
}

/** Asserts that `check` finds no damage. @returns the other findings */
async function checkStore(ctr: CommandLine, ...flags: readonly string[]): Promise<readonly string[]> {
  const {damage, findings} = JSON.parse(await ctr.ok(['check', '--json', '--progress', 'none', ...flags])) as {
    damage: number;
    findings: {severity: string; object: string; problem: string}[];
  };
  assert.equal(damage, 0);
  return findings.map(({severity, object, problem}) => `${severity}: ${object}: ${problem}`);
}

describe('kill -9', () => {
  it('at any moment of a pull does not delay the next command, and the next pull downloads only the rest', {
    timeout: 1_800_000,
  }, async (t) => {
    if (!requiresRuntime(t)) return;
    const refs = new Map<ImageName, string>();
    for (const name of IMAGES) {
      const image = await published(t, name);
      if (image === undefined) return;
      refs.set(name, image.ref);
    }
    const snapshotters = SNAPSHOTTERS.filter(
      (name) => name !== 'erofs' || probeErofs(temporaryDirectory(t), tmpdir()).backing !== undefined,
    );
    const ctr = commandLine(t, 'executable');
    const root = ctr.env.BERTH_ROOT!;
    const next = randomNumbers(SEED);
    const pull = (ref: string, snapshotter: string): readonly string[] => ['pull', '--progress', 'none', '--snapshotter', snapshotter, ref];
    /** How long pulls take that are not killed, in milliseconds. */
    const durations = new Map<string, number>();
    const durationOf = async (ref: string, engine: Engine, snapshotter: string): Promise<number> => {
      const key = `${ref} ${engine} ${snapshotter}`;
      if (!durations.has(key)) {
        const begun = performance.now();
        const {status, stderr} = await start(ctr, pull(ref, snapshotter), engineEnvironment(engine)).ended;
        assert.equal(status, 0, stderr);
        durations.set(key, performance.now() - begun);
        await ctr.ok(['images', 'rm', ref]);
      }
      return durations.get(key)!;
    };

    let killed = 0;
    for (let round = 0; round < PULLS; round++) {
      const snapshotter = snapshotters[round % snapshotters.length]!;
      const name = snapshotter === 'native' ? IMAGES.at(-1)! : IMAGES[Math.floor(next() * IMAGES.length)]!;
      const engine = ENGINES[round % ENGINES.length]!;
      const ref = refs.get(name)!;
      let whole = false;
      const after = next() * (await durationOf(ref, engine, snapshotter));
      await t.test(`seed ${SEED}, round ${round}: ${engine}, ${name}, ${snapshotter}, after ${Math.round(after)} ms`, async () => {
        const pulling = start(ctr, pull(ref, snapshotter), engineEnvironment(engine));
        await delay(after);
        pulling.child.kill('SIGKILL');
        if ((await pulling.ended).status === 137) killed++;

        await atOnce(ctr, ['images', 'ls']);
        await atOnce(ctr, ['namespaces', 'create', `round${round}`]);
        await checkStore(ctr);
        await ctr.ok(pull(ref, snapshotter));
        await assertWhole(ctr, 'default', snapshotter);
        if (round % 10 === 0) await checkStore(ctr, '--deep');
        assert.equal(await ctr.ok(['run', '--rm', '--snapshotter', snapshotter, ref, 'r', 'sh', '-c', 'echo runs']), 'runs\n');

        await ctr.ok(['images', 'rm', ref]);
        await ctr.ok(['namespaces', 'rm', `round${round}`]);
        // Incomplete files and empty mount points stay until gc or the next boot.
        assert.deepEqual(
          (await checkStore(ctr)).filter((finding) => !finding.startsWith('garbage: entry ')),
          [],
        );
        for (const place of ['work', 'trash', 'layers', 'content/blobs/sha256', 'content/ingest'])
          assert.deepEqual(names(join(root, place)), [], place);
        for (const kind of ['images', 'containers', 'content', 'snapshots', 'leases'])
          assert.deepEqual(names(join(root, 'namespaces/default', kind)), [], kind);
        assertNoMounts(ctr);
        whole = true;
      });
      // Leftovers of one round would appear in all later ones.
      assert.ok(whole);
    }
    t.diagnostic(`${killed} of them were killed before they had ended`);
    assert.ok(killed > 0);
    await ctr.ok(['gc']);
    assert.deepEqual(await checkStore(ctr), []);
  });

  it('between the last two steps of a download leaves nothing visible, and the next deletion removes the leftovers', async (t) => {
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const ctr = commandLine(t, 'executable');
    await ctr.ok(['pull', '--no-unpack', image.ref]);
    const layer = blobsOf(image.image).at(-1)!;
    const ingest = join(ctr.env.BERTH_ROOT!, 'content/ingest', layer.digest.replace(':', '-'));
    mkdirSync(ingest, {recursive: true});
    const info = {version: 1, ref: `layer-${layer.digest}`, namespace: 'default', total: layer.size, startedAt: new Date().toISOString()};
    writeFileSync(join(ingest, 'info.json'), JSON.stringify(info));
    assert.deepEqual(JSON.parse(await ctr.ok(['content', 'active', '--json'])), []);
    await ctr.ok(['images', 'rm', image.ref]);
    assert.deepEqual(names(join(ctr.env.BERTH_ROOT!, 'content/ingest')), []);
  });

  it('during a scratch mount leaves an empty mount point, which gc removes', async (t) => {
    const ctr = commandLine(t, 'executable');
    await ctr.ok(['namespaces', 'create', 'default']);
    const views = join(ctr.env.BERTH_STATE!, 'views');
    // This test's own process has the pid, but started later.
    mkdirSync(join(views, `view-${formatIdentity({...ownIdentity(), startTime: '1'})}.1`, 'rootfs'), {recursive: true});
    assert.equal((await checkStore(ctr)).length, 1);
    await ctr.ok(['gc']);
    assert.deepEqual(names(views), []);
    assert.deepEqual(await checkStore(ctr), []);
  });

  it('at any moment of run --rm leaves nothing mounted, and the next run of that id works', async (t) => {
    if (!requiresRuntime(t)) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const {ref} = image;
    const ctr = commandLine(t, 'executable');
    await ctr.ok(['pull', ref]);
    const run = ['run', '--rm', ref, 'r', 'sh', '-c', 'sleep 0.1; echo ran'];
    const next = randomNumbers(SEED + 1);
    const begun = performance.now();
    await ctr.ok(run);
    const takes = performance.now() - begun;
    for (let round = 0; round < RUNS; round++) {
      const after = next() * takes;
      await t.test(`seed ${SEED}, round ${round}: after ${Math.round(after)} ms`, async () => {
        const running = start(ctr, run);
        await delay(after);
        running.child.kill('SIGKILL');
        await running.ended;
        await atOnce(ctr, ['containers', 'ls']);
        assertNoMounts(ctr);
        // The container may live on; its id stays taken until it ends.
        const deadline = performance.now() + 5000;
        let again = await ctr(['--json', ...run]);
        while (again.status === 125 && performance.now() < deadline) {
          assert.equal(JSON.parse(again.stderr).error.kind, 'already_exists', again.stderr);
          await delay(20);
          again = await ctr(['--json', ...run]);
        }
        assert.deepEqual(again, {status: 0, stdout: 'ran\n', stderr: '{"result":{"id":"r","exitStatus":0}}\n'});
        assertNoRuns(ctr.env.BERTH_STATE!);
        assert.equal(await ctr.ok(['containers', 'ls', '-q']), '');
      });
    }
    await assertWhole(ctr);
    await checkStore(ctr, '--deep');
    await ctr.ok(['images', 'rm', ref]);
    assert.deepEqual(await checkStore(ctr), []);
    for (const place of ['work', 'trash', 'layers', 'content/blobs/sha256'])
      assert.deepEqual(names(join(ctr.env.BERTH_ROOT!, place)), [], place);
  });
});
