/**
 * Mounts and unmounts snapshots. host-mounts.test.ts runs it in a private mount namespace, so that other processes do not see the mounts.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmdirSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {chdir} from 'node:process';
import {openClient} from '../../../src/lib/client/index.ts';
import type {Client, HostMount} from '../../../src/lib/client/types/index.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {is, TORTURE} from '../../support/helpers.ts';
import {ODD_NAMES, oddName} from '../../support/odd-names.ts';

interface Request {
  readonly scenario: string;
  readonly base: string;
  readonly ref: string;
  readonly snapshotter: string;
  readonly seed: number;
}

const {scenario, base, ref, snapshotter, seed} = JSON.parse(process.argv[2]!) as Request;
const [root, state] = ['root', 'state'].map((name) => join(base, name)) as [string, string];
let client: Client = openClient({root, state});
const ns = () => client.namespace('default');

const mountCount = (): number =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(base)).length;
const newDirectory = (name: string): string => {
  const path = join(base, 'targets', name);
  mkdirSync(path, {recursive: true});
  return path;
};
const findings = async (): Promise<readonly string[]> =>
  (await client.check()).findings.map(({severity, object, problem}) => `${severity}: ${object} ${problem}`);
const mountsDirectory = (): readonly string[] => (existsSync(join(state, 'mounts')) ? readdirSync(join(state, 'mounts')) : []);

/** Asserts that no mount, record or lease is left. */
async function assertNothingLeft(): Promise<void> {
  assert.deepEqual(mountsDirectory(), []);
  assert.equal(mountCount(), 0);
  assert.deepEqual(await ns().images.mounts(), []);
  assert.deepEqual(
    (await ns().leases.list()).map(({id}) => id),
    [],
  );
  assert.deepEqual(await findings(), []);
}

const states = async (): Promise<readonly HostMount['state'][]> => (await ns().images.mounts()).map((mount) => mount.state);

const SCENARIOS: Readonly<Record<string, () => Promise<void>>> = {
  'an image': async () => {
    const target = newDirectory('a');
    symlinkSync(target, join(base, 'link'));
    const mount = await ns().images.mount(ref, join(base, 'link'), {snapshotter});
    assert.deepEqual([mount.target, mount.key, mount.image, mount.readOnly, mount.state], [target, target, ref, true, 'mounted']);
    assert.equal(mountCount(), 1, 'the mount is the only one');
    assert.equal(readFileSync(join(target, 'b'), 'utf8'), 'world');
    assert.throws(() => writeFileSync(join(target, 'x'), ''), {code: 'EROFS'});
    assert.deepEqual(await ns().images.mounts(), [mount]);
    // The lease protects the mounted snapshot.
    await ns().images.delete(ref);
    await client.gc();
    await client.prune();
    assert.equal(readFileSync(join(target, 'b'), 'utf8'), 'world');
    assert.deepEqual(await findings(), []);
    await assert.rejects(ns().leases.delete(target), is('failed_precondition'));
    await assert.rejects(ns().snapshots(snapshotter).delete(target), is('failed_precondition'));
    await assert.rejects(client.namespaces.delete('default', {recursive: true}), is('failed_precondition'));
    await assert.rejects(client.namespace('other').images.unmount(target), is('not_found'));
    // Busy, and later no longer.
    chdir(target);
    await assert.rejects(ns().images.unmount(target), is('failed_precondition'));
    chdir('/');
    assert.equal((await ns().images.unmount(target, {rm: true})).state, 'unmounted');
    await assert.rejects(ns().images.unmount(target, {rm: true}), is('not_found'));
    await assertNothingLeft();
    assert.deepEqual(await ns().snapshots(snapshotter).list(), [], 'nothing keeps the layers any more');
  },

  'what is written': async () => {
    const target = newDirectory('a');
    await ns().images.mount(ref, target, {snapshotter, rw: true});
    writeFileSync(join(target, 'mine'), 'x');
    await assert.rejects(ns().images.mount(ref, target, {snapshotter, rw: true}), is('already_exists'));
    await assert.rejects(ns().snapshots(snapshotter).commit('c', target), is('failed_precondition'));
    await ns().images.unmount(target);
    assert.deepEqual(readdirSync(target), []);
    assert.equal((await ns().leases.list()).length, 1);
    await assert.rejects(ns().images.mount(ref, target, {snapshotter}), is('already_exists'));
    await ns().images.mount(ref, target, {snapshotter, rw: true});
    assert.equal(readFileSync(join(target, 'mine'), 'utf8'), 'x');
    execFileSync('umount', [target]);
    assert.deepEqual(await states(), ['stale']);
    assert.deepEqual(await findings(), [`garbage: mount ${JSON.stringify(target)} is recorded but no longer mounted`]);
    await client.check({repair: true});
    await assertNothingLeft();
    assert.equal((await ns().snapshots(snapshotter).get(target)).kind, 'active', 'nobody asked to have it removed');
    await ns().images.mount(ref, target, {snapshotter, rw: true});
    await ns().images.unmount(target, {rm: true});
    await assert.rejects(ns().snapshots(snapshotter).get(target), is('not_found'));
    await ns().images.mount(ref, target, {snapshotter});
    await ns().images.unmount(target);
    await ns().images.unmount(target, {rm: true});
    await assertNothingLeft();
  },

  'odd names': async () => {
    const all = [...ODD_NAMES, ...Array.from({length: TORTURE ? 100 : 10}, (_, n) => oddName(randomOf(seed, n)))];
    // The snapshotters share them, unless there is time.
    const some = TORTURE ? all : all.filter((_, i) => i % 3 === ['erofs', 'overlayfs', 'native'].indexOf(snapshotter));
    const chain = (await ns().snapshots(snapshotter).list()).find(({parent}) => parent !== undefined)!.key;
    let at = root;
    for (const [i, name] of some.entries()) {
      await client.close();
      const next = join(newDirectory('roots'), name);
      renameSync(at, next);
      at = next;
      client = openClient({root: next, state});
      const target = newDirectory(some[(i + 7) % some.length]!);
      const key = `snapshot ${i}`;
      await ns().snapshots(snapshotter).prepare(key, chain);
      await ns().snapshots(snapshotter).mount(key, target);
      assert.equal(readFileSync(join(target, 'b'), 'utf8'), 'world', JSON.stringify({name, target}));
      assert.equal(mountCount(), 1);
      writeFileSync(join(target, 'mine'), 'x');
      await ns().images.unmount(target);
      assert.equal((await ns().snapshots(snapshotter).get(key)).kind, 'active');
      await ns().images.mount(ref, target, {snapshotter});
      assert.equal(readFileSync(join(target, 'etc/c'), 'utf8'), 'below');
      await ns().images.unmount(target, {rm: true});
      await assertNothingLeft();
      rmdirSync(target);
    }
  },

  'another boot': async () => {
    const target = newDirectory('a');
    await ns().images.mount(ref, target, {snapshotter});
    const [id] = mountsDirectory();
    const file = join(state, 'mounts', id!, 'mount.json');
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim().replaceAll('-', '');
    writeFileSync(file, readFileSync(file, 'utf8').replaceAll(boot, '0'.repeat(32)));
    assert.deepEqual(await states(), ['stale']);
    await client.gc();
    execFileSync('umount', [target]);
    await ns().leases.create({labels: {'berth/mount': '0'.repeat(32)}});
    await client.prune({kinds: ['leases']});
    await assertNothingLeft();
  },

  'many at once': async () => {
    const target = newDirectory('a');
    const outcomes = await Promise.allSettled(Array.from({length: 5}, () => ns().images.mount(ref, target, {snapshotter})));
    const failed = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []));
    assert.equal(failed.length, 4);
    for (const err of failed) is('already_exists')(err);
    assert.equal(mountCount(), 1);
    const ends = await Promise.allSettled(Array.from({length: 5}, () => ns().images.unmount(target, {rm: true})));
    assert.ok(ends.some(({status}) => status === 'fulfilled'));
    for (const end of ends) if (end.status === 'rejected') is('not_found')(end.reason);
    await assertNothingLeft();
  },

  'a failure': async () => {
    const target = newDirectory('a');
    await assert.rejects(ns().images.mount(ref, join(base, 'absent'), {snapshotter}), is('not_found'));
    writeFileSync(join(base, 'file'), '');
    await assert.rejects(ns().images.mount(ref, join(base, 'file'), {snapshotter}), is('invalid_argument'));
    await assert.rejects(ns().images.unmount(target), is('not_found'));
    await assert.rejects(ns().snapshots(snapshotter).mount('absent', target), is('not_found'));
    await ns().snapshots(snapshotter).prepare('k');
    const tree = (await ns().snapshots(snapshotter).mounts('k'))[0]!.source;
    renameSync(tree, `${tree}.away`);
    await assert.rejects(ns().snapshots(snapshotter).mount('k', target), is('failed_precondition'));
    renameSync(`${tree}.away`, tree);
    await assertNothingLeft();
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', target]);
    await assert.rejects(ns().images.unmount(target), is('not_found'));
    await ns().images.mount(ref, target, {snapshotter});
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', target]);
    await assert.rejects(ns().images.unmount(target), is('failed_precondition'));
    execFileSync('umount', [target]);
    await ns().images.unmount(target, {rm: true});
    assert.equal(mountCount(), 1, 'what was there before is there still');
    execFileSync('umount', [target]);
    await assertNothingLeft();
  },

  mount: async () => {
    await ns().images.mount(ref, newDirectory('a'), {snapshotter});
    process.stdout.write('mounted\n');
  },

  unmount: async () => {
    await ns().images.unmount(newDirectory('a'), {rm: true});
  },

  /** After one of the two above was killed. */
  mend: async () => {
    await client.check({repair: true});
    const mounted = await ns().images.mounts();
    assert.deepEqual(
      mounted.filter(({state: s}) => s !== 'mounted'),
      [],
    );
    assert.equal(mountCount(), mounted.length, 'what is mounted is recorded');
    for (const {target} of mounted) await ns().images.unmount(target, {rm: true});
    await client.prune({kinds: ['leases']});
    await assertNothingLeft();
  },
};

try {
  await SCENARIOS[scenario]!();
} finally {
  await client.close();
}
