/** Images with the largest number of layers that the kernel stacks, and state directories with unusual names. */
import assert from 'node:assert/strict';
import {closeSync, mkdirSync, openSync, readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import type {Client} from '../../../src/lib/client/types/index.ts';
import {digestOf, startFakeRegistry} from '../../fakes/registry.ts';
import {findProgram, is, newClient, requiresProgram, requiresRoot, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {assertNoLoops, requiresLoopDevices, stateOnLoops} from '../../support/loop-devices.ts';
import {withMounted} from '../../support/mounted-snapshot.ts';
import {openPrivateMount} from '../../support/private-mount.ts';
import {dir, file, symlink, tar, whiteout} from '../../support/tartest.ts';
import {CONFIG} from './pulled-store.ts';

const WAYS = ['erofs', 'erofs on loop devices', 'overlayfs', 'native'] as const;
type Way = (typeof WAYS)[number];

async function canUse(t: TestContext, way: Way): Promise<boolean> {
  if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox', 'unshare', 'mount')) return false;
  return way !== 'erofs on loop devices' || (await requiresLoopDevices(t));
}

const snapshotterOf = (way: Way): string => (way === 'erofs on loop devices' ? 'erofs' : way);

/** A program, below any number of layers that each add a file and delete that of the layer below. */
const layersOf = (count: number): readonly Buffer[] => [
  tar(
    ...['bin', 'dev', 'etc', 'proc', 'sys', 'tmp'].map((name) => dir(name)),
    file('bin/busybox', readFileSync(findProgram('busybox')!), 0o755),
    ...['cat', 'ls', 'sh'].map((name) => symlink('busybox', `bin/${name}`)),
  ),
  ...Array.from({length: count - 1}, (_, i) =>
    tar(file(`file-${i}`, `${i}`), file('last', `${i}`), ...(i === 0 ? [] : [whiteout(`file-${i - 1}`)])),
  ),
];

async function pull(
  t: TestContext,
  client: Client,
  way: Way,
  layers: readonly Buffer[],
): Promise<{readonly ref: string; readonly chainID: string}> {
  const registry = await startFakeRegistry(t);
  const config = {...CONFIG, config: {Env: ['PATH=/bin']}, rootfs: {type: 'layers', diff_ids: layers.map((layer) => digestOf(layer))}};
  registry.addImage('app', 'latest', layers, config);
  const ref = `${registry.host}/app:latest`;
  const {unpacked} = await client.namespace('default').pull(ref, {snapshotter: snapshotterOf(way)});
  return {ref, chainID: unpacked[0]!.chainID};
}

/** Output of a container of the image. */
async function output(t: TestContext, client: Client, way: Way, ref: string, args: readonly string[]): Promise<string> {
  const path = join(temporaryDirectory(t), 'output');
  const fd = openSync(path, 'w');
  try {
    const {exitStatus} = await client
      .namespace('default')
      .run(ref, 'c', {args, rm: true, snapshotter: snapshotterOf(way), stdio: ['ignore', fd, 2]});
    return `${exitStatus} ${readFileSync(path, 'utf8')}`;
  } finally {
    closeSync(fd);
  }
}

const clientFor = (t: TestContext, way: Way, root?: string): Promise<Client> =>
  newClient(t, {...(way === 'erofs on loop devices' ? {state: stateOnLoops(t)} : {}), ...(root === undefined ? {} : {root})});

describe('an image of 127 layers', () => {
  for (const way of WAYS.filter((name) => name !== 'native'))
    it(`can be pulled, listed and run, ${way}`, async (t) => {
      if (!(await canUse(t, way))) return;
      const client = await clientFor(t, way);
      const {ref, chainID} = await pull(t, client, way, layersOf(127));
      const mounts = await client.namespace('default').snapshots(snapshotterOf(way)).view('v', chainID);
      assert.equal(mounts.length, way === 'overlayfs' ? 1 : 128);
      await withMounted(mounts, (root) => {
        assert.deepEqual(
          readdirSync(root).filter((name) => name.startsWith('file')),
          ['file-125'],
        );
        assert.equal(readFileSync(join(root, 'last'), 'utf8'), '125');
      });
      const printed = await output(t, client, way, ref, ['sh', '-c', 'echo /file*; echo mine > /last; cat /last']);
      assert.equal(printed, '0 /file-125\nmine\n');
      await assertNoLoops(client.root);
    });
});

describe('an overlay', () => {
  it('has as many layers as the kernel stacks; the error for more names the limit', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'mount')) return;
    const base = temporaryDirectory(t);
    const lowers = Array.from({length: 501}, (_, i) => join(base, `a directory with a longer name than that of others ${i}`));
    for (const path of lowers) mkdirSync(path);
    mkdirSync(join(lowers[499]!, 'lowest'));
    const mount = (count: number) => ({type: 'overlay', source: 'overlay', options: [`lowerdir=${lowers.slice(0, count).join(':')}`]});
    await withMounted([mount(500)], (root) => assert.deepEqual(readdirSync(root), ['lowest']));
    await assert.rejects(
      openPrivateMount(join(base, 'view'), [mount(501)]),
      (err: Error) => is('failed_precondition')(err) && /501 layers.*500/.test(err.message),
    );
    assert.ok(!readdirSync(base).includes('view'));
  });
});

describe('directories with unusual names', () => {
  const NAMES = ['a:b,c d\\e', '#"\'=%;[{}]', 'tab\tand\nline', '\\:x\\', 'ü ', '{{ mount 0 }}', 'upperdir=x,lowerdir=y'];
  for (const way of WAYS)
    it(`work as root and state directory, ${way}`, async (t) => {
      if (!(await canUse(t, way))) return;
      const layers = [...layersOf(2), tar(file('only', 'x'))];
      for (const [i, name] of NAMES.entries()) {
        if (!TORTURE && i % 2 !== WAYS.indexOf(way) % 2) continue;
        const place = join(temporaryDirectory(t), name);
        mkdirSync(place);
        const root = join(place, 'root');
        const state = join(place, 'state');
        mkdirSync(state);
        if (way === 'erofs on loop devices') stateOnLoops(t, state);
        const client = await newClient(t, {root, state});
        const {ref, chainID} = await pull(t, client, way, layers);
        const mounts = await client.namespace('default').snapshots(snapshotterOf(way)).view('v', chainID);
        await withMounted(mounts, (tree) =>
          assert.deepEqual(
            readdirSync(tree).filter((entry) => entry.includes('l')),
            ['file-0', 'last', 'only'],
            name,
          ),
        );
        assert.equal(await output(t, client, way, ref, ['sh', '-c', 'cat /only /last; echo y > /only; cat /only']), '0 x0y\n', name);
        await assertNoLoops(root);
      }
    });
});
