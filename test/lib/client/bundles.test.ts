/**
 * Images unpacked as bundles, and images made of them. Oracle: umoci, which unpacks the same tree, describes it in the same words, and repacks
 * our bundles as we do its own.
 */
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import {existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {findChanges} from '../../../src/lib/archive/find-tree-changes.ts';
import {writeLayerDiff} from '../../../src/lib/archive/layer-diff.ts';
import type {NamespaceClient, PullOptions} from '../../../src/lib/client/types/index.ts';
import {startFakeRegistry} from '../../fakes/registry.ts';
import {ATTRIBUTES, BASE, CHANGES, changesFor, sh, WHOLE_SECONDS} from '../../support/changed-trees.ts';
import {findProgram, is, newClient, requiresProgram, requiresRoot, type Scope, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {assertValidLayout} from '../../support/oci-schemas.ts';
import {type PublishedImage, publishImage, writeLayout} from '../../support/published-images.ts';
import {dir, file, tar} from '../../support/tartest.ts';
import {diffTrees, readTree, type TreeEntry} from '../../support/tree.ts';

async function collect(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const chunk of source) all.push(chunk);
  return Buffer.concat(all);
}

const umoci = (...args: readonly string[]): void => {
  const {status, stderr} = spawnSync('umoci', args, {encoding: 'utf8'});
  assert.equal(status, 0, stderr);
};

interface World {
  readonly root: string;
  readonly ns: NamespaceClient;
  readonly ref: string;
  readonly work: string;
}

/** A namespace with an image whose tree is made by a script. */
async function world(t: Scope, script: string, image: PublishedImage = {}, options: PullOptions = {}): Promise<World> {
  const work = temporaryDirectory(t);
  mkdirSync(join(work, 'base'));
  sh(script, join(work, 'base'));
  const layer = await collect(writeLayerDiff(join(work, 'base'), await findChanges({lower: undefined, upper: join(work, 'base')})));
  const registry = await startFakeRegistry(t);
  publishImage(registry, 'app', [layer, tar(dir('second/'), file('second/f', 'f'))], image);
  const client = await newClient(t);
  const ns = client.namespace('default');
  const ref = `${registry.host}/app:latest`;
  await ns.pull(ref, options);
  return {root: client.root, ns, ref, work};
}

/** The path of each entry of an mtree file, with its keywords. */
function mtreeEntries(text: string): ReadonlyMap<string, Readonly<Record<string, string>>> {
  const all = new Map<string, Readonly<Record<string, string>>>();
  const at: string[] = [];
  let defaults: Record<string, string> = {};
  for (const line of text.split('\n')) {
    const [name = '', ...words] = line.trim().split(' ');
    const keywords = Object.fromEntries(words.map((word) => [word.split('=', 1)[0]!, word.slice(word.indexOf('=') + 1)]));
    if (name === '' || name.startsWith('#')) continue;
    if (name === '/set') defaults = keywords;
    else if (name === '..') at.pop();
    else {
      const entry = {...defaults, ...keywords};
      all.set([...at, name].join('/'), entry);
      if (entry.type === 'dir') at.push(name);
    }
  }
  return all;
}

const mtreeIn = (bundle: string): string => join(bundle, readdirSync(bundle).find((name) => name.endsWith('.mtree'))!);

const ODD_NAMES = `
  for n in $(seq 1 255); do
    case $n in 46|47) ;; *) : >"$(printf "n\\\\$(printf %o $n)x.")" ;; esac
  done
  ln -s 'a b#\\[*?' link; ln -s /absolute/target way
  mkdir -m 1777 sticky; : >suid; chmod 6755 suid; : >none; chmod 0 none; setfattr -n 'user.a b' -v 0s/wA= suid
  find . -exec touch -h -d @1500000000 {} +`;

describe('unpack', () => {
  it('makes the tree that umoci makes, and describes it in the same words', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'umoci', 'setfattr', 'getfattr')) return;
    const {root, ns, ref, work} = await world(t, `${BASE}\n${ODD_NAMES}`, {exec: {User: '7:8', Volumes: {'/d': {}}}});
    await writeLayout(ns, ref, join(work, 'layout'));
    umoci('unpack', '--image', `${work}/layout:latest`, join(work, 'theirs'));
    const theirs = mtreeEntries(readFileSync(mtreeIn(join(work, 'theirs')), 'utf8'));
    const at = join(work, 'ours');
    const {directory, digest} = await ns.images.unpack(ref, at);
    assert.equal(directory, at);
    assert.equal(statSync(at).mode & 0o7777, 0o700);
    // The root's own time is that of its making.
    const lines = diffTrees(readTree(join(work, 'theirs/rootfs')), readTree(join(at, 'rootfs')), {
      ignore: (path, field) => path === '.' && field === 'mtime',
    });
    assert.deepEqual(lines, []);
    const ours = mtreeEntries(readFileSync(mtreeIn(at), 'utf8'));
    assert.deepEqual([...ours.keys()].sort(), [...theirs.keys()].sort());
    for (const [path, {tar_time: time, ...rest}] of theirs) {
      const {tar_time: ourTime, ...own} = ours.get(path)!;
      assert.deepEqual(own, rest, path);
      if (path !== '.') assert.equal(ourTime, time, path);
    }
    assert.deepEqual(readdirSync(at).sort(), [`${digest.replace(':', '_')}.mtree`, 'config.json', 'rootfs', 'umoci.json'].sort());
    assert.deepEqual(checkStore(root), []);
  });

  it('makes the same bundle without the right to mount, and repack the same image of it', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'setpriv', 'setfattr', 'getfattr')) return;
    const {root, ns, ref, work} = await world(t, BASE, {}, {unpack: false});
    const unprivileged = (method: 'unpack' | 'repack', ...args: readonly unknown[]): string => {
      const script = `import {openClient} from ${JSON.stringify(join(import.meta.dirname, '../../../src/lib/client/index.ts'))};
        const client = openClient(${JSON.stringify({root, state: join(work, 'state')})});
        const {digest, target} = await client.namespace('default').images[${JSON.stringify(method)}](...${JSON.stringify(args)});
        console.log(digest ?? target.digest);
        await client.close();`;
      writeFileSync(join(work, 'script.mjs'), script);
      const node = [process.execPath, join(work, 'script.mjs')];
      const {status, stdout, stderr} = spawnSync('setpriv', ['--bounding-set=-sys_admin', ...node], {encoding: 'utf8'});
      assert.equal(status, 0, stderr);
      return stdout.trim();
    };
    const created = '2030-01-01T00:00:00Z';
    let image = ref;
    for (let n = 0; n < (TORTURE ? 30 : 2); n++) {
      const [one, other] = [join(work, `${n}`), join(work, `${n}-unprivileged`)];
      await ns.images.unpack(image, one);
      unprivileged('unpack', image, other);
      assert.deepEqual(sameTree(readTree(join(one, 'rootfs')), readTree(join(other, 'rootfs'))), []);
      assert.deepEqual(readdirSync(other), readdirSync(one));
      const entries = (bundle: string) => mtreeEntries(readFileSync(mtreeIn(bundle), 'utf8').replace(/tar_time=\S+/, ''));
      assert.deepEqual(entries(other), entries(one));
      const script = changesFor(300 + n, [...CHANGES, ...ATTRIBUTES]);
      for (const bundle of [one, other]) sh(`${script}\n${WHOLE_SECONDS}\nfind . -type s -delete`, join(bundle, 'rootfs'));
      const {target} = await ns.images.repack(one, `one:${n}`, {created});
      assert.equal(unprivileged('repack', other, `other:${n}`, {created}), target.digest, script);
      image = `other:${n}`;
    }
    assert.deepEqual(checkStore(root), []);
  });

  it('leaves nothing in the directory when it is aborted', async (t) => {
    if (!requiresRoot(t)) return;
    const {root, ns, ref, work} = await world(t, 'for n in $(seq 2000); do echo $n >$n; done', {}, {unpack: false});
    const at = join(work, 'aborted');
    const aborter = new AbortController();
    const unpacked = ns.images.unpack(ref, at, {signal: aborter.signal});
    const files = (): number => {
      const work = existsSync(at) ? readdirSync(at).find((name) => name.startsWith('.tmp.')) : undefined;
      return work !== undefined && existsSync(join(at, work, 'fs')) ? readdirSync(join(at, work, 'fs')).length : 0;
    };
    const watch = setInterval(() => files() > 0 && aborter.abort(), 0);
    await assert.rejects(unpacked, is('canceled'));
    clearInterval(watch);
    assert.equal(existsSync(at), false);
    assert.deepEqual(checkStore(root), []);
  });

  it('makes a bundle that the runtime runs', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox')) return;
    const script = `mkdir bin tmp; cp ${findProgram('busybox')} bin/busybox; ln -s busybox bin/sh`;
    const {ns, ref, work} = await world(t, script, {
      exec: {Cmd: ['sh', '-c', 'echo "$A" >/tmp/out; exit 7'], Env: ['PATH=/bin', 'A=seen']},
    });
    await ns.images.unpack(ref, join(work, 'bundle'));
    const id = `bundle-${process.pid}`;
    const {status, stderr} = spawnSync('runc', ['--root', join(work, 'runc'), 'run', '--bundle', join(work, 'bundle'), id], {
      encoding: 'utf8',
    });
    assert.equal(status, 7, stderr);
    assert.equal(readFileSync(join(work, 'bundle/rootfs/tmp/out'), 'utf8'), 'seen\n');
  });

  it('takes a new or empty directory, and leaves it so when it fails', async (t) => {
    if (!requiresRoot(t)) return;
    const {root, ns, ref, work} = await world(t, 'echo 1 >f', {exec: {User: 'nobody-here'}});
    mkdirSync(join(work, 'full/x'), {recursive: true});
    await assert.rejects(ns.images.unpack(ref, join(work, 'full')), is('failed_precondition'));
    await assert.rejects(ns.images.unpack(ref, join(work, 'new')), is('not_found'));
    mkdirSync(join(work, 'empty'));
    await assert.rejects(ns.images.unpack(ref, join(work, 'empty')), is('not_found'));
    assert.deepEqual(readdirSync(work).sort(), ['base', 'empty', 'full']);
    assert.deepEqual([readdirSync(join(work, 'empty')), readdirSync(join(work, 'full'))], [[], ['x']]);
    writeFileSync(join(work, 'file'), '');
    symlinkSync('nowhere', join(work, 'dangling'));
    symlinkSync('file', join(work, 'tofile'));
    symlinkSync('loop', join(work, 'loop'));
    for (const name of ['file', 'dangling', 'tofile', 'loop'])
      for (const below of ['', 'a', 'a/b'])
        await assert.rejects(ns.images.unpack(ref, join(work, name, below)), (err: Error) => {
          assert.match(err.message, new RegExp(`/${name}" is (a link to "\\w+", which is no|not a) directory`));
          return is('failed_precondition')(err);
        });
    assert.ok(!existsSync(join(work, 'nowhere')));
    await assert.rejects(ns.images.unpack('none', join(work, 'new')), is('not_found'));
    assert.deepEqual(checkStore(root), []);
  });
});

/** Times of directories are of no change, and the times of those with one are told only where something else is. */
const sameTree = (wanted: readonly TreeEntry[], tree: readonly TreeEntry[]): readonly string[] =>
  diffTrees(wanted, tree, {
    ignore: (path, field) => field === 'mtime' && wanted.some((one) => one.path === path && one.type === 'directory'),
  });

describe('repack', () => {
  it('makes an image of the changed tree, of our bundles and of umoci’s, as umoci does of ours', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'umoci', 'setfattr', 'getfattr')) return;
    const {root, ns, ref, work} = await world(t, BASE);
    for (let n = 0; n < (TORTURE ? 60 : 6); n++) {
      const script = n < 2 ? ATTRIBUTES[n]! : changesFor(200 + n, [...CHANGES, ...ATTRIBUTES]);
      const at = join(work, String(n));
      mkdirSync(at);
      await writeLayout(ns, ref, join(at, 'layout'));
      await ns.images.unpack(ref, join(at, 'ours'));
      umoci('unpack', '--image', `${at}/layout:latest`, join(at, 'theirs'));
      for (const bundle of ['ours', 'theirs']) sh(`${script}\n${WHOLE_SECONDS}\nfind . -type s -delete`, join(at, bundle, 'rootfs'));
      const wanted = readTree(join(at, 'ours/rootfs'));
      assert.deepEqual(sameTree(wanted, readTree(join(at, 'theirs/rootfs'))), []);
      // Ours of both are the same layer.
      const options = {created: '2030-01-01T00:00:00Z'};
      const [one, other] = [
        await ns.images.repack(join(at, 'ours'), 'mine:1', options),
        await ns.images.repack(join(at, 'theirs'), 'mine:2', options),
      ];
      assert.equal(one.target.digest, other.target.digest, script);
      await ns.images.unpack('mine:1', join(at, 'again'));
      assert.deepEqual(sameTree(wanted, readTree(join(at, 'again/rootfs'))), [], script);
      await ns.images.export(`${at}/written/`, ['mine:1']);
      assert.equal(assertValidLayout(join(at, 'written')), 4);
      // Theirs of ours has the same tree.
      umoci('repack', '--image', `${at}/layout:changed`, join(at, 'ours'));
      umoci('unpack', '--image', `${at}/layout:changed`, join(at, 'umoci'));
      assert.deepEqual(sameTree(wanted, readTree(join(at, 'umoci/rootfs'))), [], script);
      execFileSync('rm', ['-rf', at]);
    }
    assert.deepEqual(checkStore(root), []);
  });

  it('of an unchanged bundle is the same image, and of a refreshed one goes on from the new image', async (t) => {
    if (!requiresRoot(t)) return;
    const {ns, ref, work} = await world(t, BASE, {exec: {Volumes: {'/data': {}}}});
    const bundle = join(work, 'bundle');
    const {digest} = await ns.images.unpack(ref, bundle);
    assert.equal((await ns.images.repack(bundle, 'same:1')).target.digest, digest);
    sh('mkdir data cache; echo 1 >data/f; echo 1 >cache/f; echo 1 >new', join(bundle, 'rootfs'));
    const layers = async (name: string): Promise<readonly string[]> => {
      await ns.images.unpack(name, join(work, 'look'));
      const names = ['data', 'cache', 'new', 'more'].filter((one) => readdirSync(join(work, 'look/rootfs')).includes(one));
      execFileSync('rm', ['-rf', join(work, 'look')]);
      return names;
    };
    await ns.images.repack(bundle, 'masked:1', {maskPaths: ['cache']});
    assert.deepEqual(await layers('masked:1'), ['new']);
    const author = {author: 'me', message: 'all', refreshBundle: true};
    const all = await ns.images.repack(bundle, 'all:1', {maskVolumes: false, ...author});
    assert.deepEqual(await layers('all:1'), ['data', 'cache', 'new']);
    assert.deepEqual(
      readdirSync(bundle).filter((name) => name.endsWith('.mtree')),
      [`${all.target.digest.replace(':', '_')}.mtree`],
    );
    assert.equal((await ns.images.repack(bundle, 'same:2', {maskVolumes: false})).target.digest, all.target.digest);
    sh('echo 1 >more', join(bundle, 'rootfs'));
    const more = await ns.images.repack(bundle, 'more:1');
    assert.deepEqual(await layers('more:1'), ['data', 'cache', 'new', 'more']);
    await ns.images.delete('more:1');
    assert.notEqual(more.target.digest, all.target.digest);
  });

  it('refuses what is no bundle, what another program has to repack, and a bundle of an image that is not here', async (t) => {
    if (!requiresRoot(t)) return;
    const {ns, ref, work} = await world(t, 'echo 1 >f');
    const bundle = join(work, 'bundle');
    await ns.images.unpack(ref, bundle);
    const repack = (): Promise<unknown> => ns.images.repack(bundle, 'mine:1');
    const metadata = join(bundle, 'umoci.json');
    const text = readFileSync(metadata, 'utf8');
    await assert.rejects(ns.images.repack(work, 'mine:1'), is('failed_precondition'));
    for (const damaged of ['', '{}', '{"from_descriptor_path":{"descriptor_walk":[]}}', text.replace('sha256:', 'sha256:../')]) {
      writeFileSync(metadata, damaged);
      await assert.rejects(repack(), is('data_loss'), damaged);
    }
    writeFileSync(metadata, text.replace('"rootless":false', '"rootless":true'));
    await assert.rejects(repack(), is('not_implemented'));
    writeFileSync(metadata, text);
    writeFileSync(join(bundle, 'rootfs/.wh.f'), '');
    await assert.rejects(repack(), is('failed_precondition'));
    execFileSync('rm', [join(bundle, 'rootfs/.wh.f')]);
    await repack();
    for (const {name} of await ns.images.records()) await ns.images.delete(name);
    await assert.rejects(repack(), is('not_found'));
  });
});
