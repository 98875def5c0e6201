/**
 * What a container changed, as a layer, a list and an image. Oracles: the layer applied to the tree before gives the tree after, for
 * generated changes; what overlayfs collected gives the same bytes as the comparison of whole trees; containerd writes the same entries.
 */
import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {gunzipSync} from 'node:zlib';
import {findChanges} from '../../../src/lib/archive/find-tree-changes.ts';
import {writeLayerDiff} from '../../../src/lib/archive/layer-diff.ts';
import {createTarReader} from '../../../src/lib/archive/tar.ts';
import {openClient} from '../../../src/lib/client/index.ts';
import type {NamespaceClient} from '../../../src/lib/client/types/index.ts';
import {engineEnvironment} from '../../cli/harness.ts';
import {ctrHere} from '../../cli/run-in-process.ts';
import {startContainerd} from '../../e2e/containerd.ts';
import {eventually, start} from '../../e2e/fixtures.ts';
import {digestOf, startFakeRegistry} from '../../fakes/registry.ts';
import {ATTRIBUTES, BASE, CHANGES, changesFor, sh, WHOLE_SECONDS} from '../../support/changed-trees.ts';
import {
  findProgram,
  is,
  newClient,
  onEnd,
  requiresProgram,
  requiresRoot,
  type Scope,
  TORTURE,
  temporaryDirectory,
} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {ARCHITECTURE} from '../../support/layouts.ts';
import {assertValidLayout} from '../../support/oci-schemas.ts';
import {readDocument} from '../../support/published-images.ts';
import {dir, file, symlink, tar} from '../../support/tartest.ts';
import {requiresTasks, taskRig} from '../../support/tasks.ts';
import {diffTrees, readTree} from '../../support/tree.ts';
import {APPLY_MODES} from '../archive/apply-modes.ts';

const TAR = 'application/vnd.oci.image.layer.v1.tar';

async function collect(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const chunk of source) all.push(chunk);
  return Buffer.concat(all);
}

const layerOf = async (lower: string | undefined, upper: string): Promise<Buffer> =>
  collect(writeLayerDiff(upper, await findChanges({lower, upper})));

interface Entry {
  readonly [field: string]: unknown;
}

/** Entries with what a layer tells of them. */
function entriesOf(tar: Buffer): readonly Entry[] {
  const all: {[field: string]: unknown}[] = [];
  const reader = createTarReader({
    entry: ({name, type, mode, uid, gid, linkname, mtimeSec, mtimeNs, devmajor, devminor, size, xattrs}) =>
      all.push({
        name,
        type,
        mode,
        uid,
        gid,
        linkname,
        // containerd gives a whiteout the time of the diff.
        mtime: /(?:^|\/)\.wh\./.test(name) ? '' : `${mtimeSec}.${mtimeNs}`,
        device: `${devmajor}:${devminor}`,
        size: type === 'file' ? size : 0,
        capability: xattrs.get('security.capability')?.toString('hex'),
        content: '',
      }),
    data: (chunk) => {
      all.at(-1)!.content += chunk.toString('latin1');
    },
    entryEnd: () => {},
  });
  reader.write(tar);
  reader.end();
  return all;
}

/** Mounts a snapshot privately, and runs a script in it. */
async function change(ns: NamespaceClient, snapshotter: string, key: string, work: string, script: string): Promise<void> {
  const at = join(work, 'mounted');
  mkdirSync(at, {recursive: true});
  const lines = await ns.snapshots(snapshotter).mountScript(key, at);
  inMount(lines.join('\n'), at, script);
}

const inMount = (mount: string, at: string, script: string): void =>
  void execFileSync('unshare', ['-m', '--propagation', 'private', 'sh', '-euc', `${mount}\ncd "$1"\n${script}`, 'sh', at], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });

describe('the diff of two trees', () => {
  it('applied to the tree before gives the tree after, and tells nothing more', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'setfattr')) return;
    for (let n = 0; n < (TORTURE ? 200 : 12); n++) {
      const work = temporaryDirectory(t);
      const [base, changed] = [join(work, 'base'), join(work, 'changed')];
      mkdirSync(base);
      sh(BASE, base);
      sh('cp -a base changed', work);
      const script = n < ATTRIBUTES.length ? ATTRIBUTES[n]! : changesFor(n, [...CHANGES, ...ATTRIBUTES]);
      sh(`${script}\n${WHOLE_SECONDS}`, changed);
      const layers = [await layerOf(undefined, base), await layerOf(base, changed)];
      assert.ok(layers[1]!.equals(await layerOf(base, changed)), 'the same bytes again');
      sh('find . -type s -delete', changed); // no layer has sockets
      const wanted = readTree(changed);
      for (const {name, run} of APPLY_MODES) {
        const at = join(work, name);
        mkdirSync(at);
        const lines = diffTrees(wanted, run(at, layers), {ignore: (path, field) => field === 'mtime' && isDirectory(wanted, path)});
        assert.deepEqual(lines, [], `changes ${n}, ${name}:\n${script}`);
      }
    }
  });

  it('keeps times before 1970', async (t) => {
    if (!requiresRoot(t)) return;
    const work = temporaryDirectory(t);
    sh('echo 1 >f; ln f g; mkdir d; touch -d @-1.5 f d', work);
    assert.deepEqual(
      entriesOf(await layerOf(undefined, work)).map(({name, type, mtime}) => [name, type, mtime]),
      [
        ['d/', 'directory', '-2.0'],
        ['f', 'file', '-2.0'],
        ['g', 'link', '-2.0'],
      ],
    );
  });

  it('of equal trees has no entry', async (t) => {
    if (!requiresRoot(t)) return;
    const work = temporaryDirectory(t);
    mkdirSync(join(work, 'base'));
    sh(BASE, join(work, 'base'));
    sh('cp -a base changed; touch changed/a', work);
    assert.deepEqual(entriesOf(await layerOf(join(work, 'base'), join(work, 'changed'))), []);
  });
});

const isDirectory = (tree: readonly {readonly path: string; readonly type: string}[], path: string): boolean =>
  tree.find((entry) => entry.path === path)?.type === 'directory' || path === '.';

describe('snapshots diff', () => {
  it('has the entries that containerd writes, and is the same from what overlayfs collected as from whole trees', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'containerd', 'ctr', 'setfattr')) return;
    const work = temporaryDirectory(t);
    const peer = await startContainerd(t);
    const ns = (await newClient(t)).namespace('default');
    const peerChange = (key: string, script: string): void => {
      const at = join(work, 'peer');
      inMount(peer.ctr('snapshots', '--snapshotter', 'overlayfs', 'mounts', at, key), at, script);
    };
    mkdirSync(join(work, 'peer'));
    peer.ctr('snapshots', '--snapshotter', 'overlayfs', 'prepare', 'base-work');
    peerChange('base-work', BASE);
    peer.ctr('snapshots', '--snapshotter', 'overlayfs', 'commit', 'base', 'base-work');
    for (const snapshotter of ['overlayfs', 'native']) {
      const snapshots = ns.snapshots(snapshotter);
      await snapshots.prepare('base-work');
      await change(ns, snapshotter, 'base-work', work, BASE);
      await snapshots.commit('base', 'base-work');
      await snapshots.view('before', 'base');
    }
    for (let n = 0; n < (TORTURE ? 60 : 4); n++) {
      const script = `${changesFor(100 + n)}\n${WHOLE_SECONDS}`;
      const key = `n${n}`;
      peer.ctr('snapshots', '--snapshotter', 'overlayfs', 'prepare', key, 'base');
      peerChange(key, script);
      const theirs = execFileSync('ctr', ['--address', peer.socket, 'snapshots', '--snapshotter', 'overlayfs', 'diff', key], {
        maxBuffer: 1 << 26,
      });
      const wanted = entriesOf(gunzipSync(theirs));
      const tars: Buffer[] = [];
      for (const snapshotter of ['overlayfs', 'native']) {
        const snapshots = ns.snapshots(snapshotter);
        await snapshots.prepare(key, 'base');
        await change(ns, snapshotter, key, work, script);
        const tar = await collect(await snapshots.diff(key, {mediaType: TAR}));
        assert.ok(tar.equals(await collect(await snapshots.diff(key, {mediaType: TAR, against: 'before'}))), `${script}: whole trees`);
        tars.push(tar);
      }
      assert.deepEqual(entriesOf(tars[0]!), wanted, script);
      assert.ok(tars[0]!.equals(gunzipSync(await collect(await ns.snapshots('overlayfs').diff(key)))), 'compressed');
    }
    await assert.rejects(ns.snapshots('overlayfs').diff('n0', {mediaType: 'text/plain'}), is('not_implemented'));
  });

  it('has what only attributes tell apart', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'setcap', 'setfattr')) return;
    const work = temporaryDirectory(t);
    const client = openClient({root: temporaryDirectory(t), state: temporaryDirectory(t)});
    onEnd(t, () => client.close());
    const ns = client.namespace('difftest');
    for (const snapshotter of ['overlayfs', 'erofs', 'native']) {
      const snapshots = ns.snapshots(snapshotter);
      await snapshots.prepare('work');
      await change(ns, snapshotter, 'work', work, BASE);
      await snapshots.commit('base', 'work');
      await snapshots.view('before', 'base');
      await snapshots.prepare('k', 'base');
      await change(ns, snapshotter, 'k', work, [0, 1, 3, 4].map((n) => ATTRIBUTES[n]).join('\n'));
      const tar = await collect(await snapshots.diff('k', {mediaType: TAR}));
      const names = entriesOf(tar).map(({name}) => name);
      assert.deepEqual(names, ['a/', 'a/b/', 'a/b/c/', 'a/b/c/3', 'd/', 'etc/', 'etc/5', 'etc/old'], snapshotter);
      assert.ok(tar.equals(await collect(await snapshots.diff('k', {mediaType: TAR, against: 'before'}))), `${snapshotter}: whole trees`);
    }
  });
});

async function withImage(
  t: Scope,
): Promise<{readonly ns: NamespaceClient; readonly ref: string; readonly root: string; readonly state: string}> {
  const registry = await startFakeRegistry(t);
  const busybox = readFileSync(findProgram('busybox')!);
  const layer = tar(dir('bin/'), file('bin/busybox', busybox, 0o755), symlink('busybox', 'bin/sh'), dir('old/'), file('old/f', 'f'));
  const config = {
    architecture: ARCHITECTURE,
    os: 'linux',
    config: {Cmd: ['sh', '-c', 'exit 5'], Env: ['PATH=/bin']},
    rootfs: {type: 'layers', diff_ids: [digestOf(layer)]},
    history: [{created_by: 'test'}],
  };
  registry.addImage('app', 'v1', [layer], config);
  const ref = `${registry.host}/app:v1`;
  const [root, state] = [temporaryDirectory(t), temporaryDirectory(t)];
  const client = openClient({root, state, program: [process.execPath, join(import.meta.dirname, '../../../src/main.ts')]});
  const ns = client.namespace('difftest');
  onEnd(t, async () => {
    for (const {id} of await ns.tasks.list()) await ns.tasks.delete(id, {force: true});
    await client.namespaces.delete('difftest', {recursive: true}).catch(() => undefined);
    await client.close();
  });
  await ns.pull(ref);
  return {ns, ref, root, state};
}

const run = (ns: NamespaceClient, ref: string, id: string, script: string) =>
  ns.run(ref, id, {args: ['sh', '-c', script], stdio: ['ignore', 'ignore', 'ignore']});

describe('a container', () => {
  it('is committed as an image that runs with its changes and no others, the same bytes from the same tree', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox')) return;
    const {ns, ref, root, state} = await withImage(t);
    assert.equal((await run(ns, ref, 'c1', 'busybox rm -r /old && busybox mkdir /new && echo hello >/new/f')).exitStatus, 0);
    assert.deepEqual(
      (await ns.containers.changes('c1')).filter(({path}) => /^\/(?:old|new)/.test(path)),
      [
        {kind: 'added', path: '/new'},
        {kind: 'added', path: '/new/f'},
        {kind: 'deleted', path: '/old'},
      ],
    );
    const options = {
      author: 'me',
      message: 'with data',
      changes: ['CMD ["sh", "-c", "exit 7"]', 'ENV A="b c" D=1'],
      created: '2001-02-03T04:05:06Z',
    };
    const image = await ns.containers.commit('c1', 'made:1', options);
    assert.equal((await ns.containers.commit('c1', 'made:2', options)).target.digest, image.target.digest);
    const layout = join(temporaryDirectory(t), 'layout');
    await ns.images.export(`${layout}/`, ['made:1']);
    assert.equal(assertValidLayout(layout), 4);
    assert.deepEqual(await ns.images.changes('made:1'), await ns.containers.changes('c1'));
    const lines = async (...words: readonly string[]): Promise<string> =>
      (await ctrHere({root, state}, ['-n', 'difftest', ...words])).stdout;
    assert.equal(await lines('diff', 'made:1'), await lines('diff', 'c1'));
    assert.match(await lines('diff', ref), /^A \/bin\nA \/bin\/busybox\n/);
    const {exitStatus} = await run(ns, 'made:1', 'c2', '[ ! -e /old ] && read x </new/f && [ "$x" = hello ] && [ "$A$D" = "b c1" ]');
    assert.equal(exitStatus, 0);
    assert.equal((await ns.run('made:1', 'c3', {stdio: ['ignore', 'ignore', 'ignore']})).exitStatus, 7);
    const manifest: {config: {digest: string}} = await readDocument(ns, image.target.digest);
    const config: Record<string, unknown> = await readDocument(ns, manifest.config.digest);
    assert.deepEqual(config.history, [
      {created_by: 'test'},
      {created: options.created, created_by: 'berth commit', author: 'me', comment: 'with data'},
    ]);
    assert.deepEqual(checkStore(root, {deep: true}), []);
    assert.deepEqual(existsSync(join(state, 'views')) ? readdirSync(join(state, 'views')) : [], []);
  });

  it('has changed nothing by its start: what is made to mount on counts once something is in it', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox')) return;
    const {ns, ref} = await withImage(t);
    const stdio = ['ignore', 'ignore', 'ignore'] as const;
    await ns.run(ref, 'c1', {args: ['sh', '-c', ':'], dns: ['127.0.0.1'], addHosts: ['a:127.0.0.1'], stdio});
    assert.deepEqual(await ns.containers.changes('c1'), []);
    assert.deepEqual(await ns.images.changes((await ns.containers.commit('c1', 'made:1')).name), []);
    // The snapshot has them, as containerd's has.
    const names = entriesOf(
      await collect(await ns.snapshots((await ns.containers.get('c1')).snapshotter).diff('c1', {mediaType: TAR})),
    ).map(({name}) => name);
    assert.deepEqual(names, ['dev/', 'etc/', 'etc/hosts', 'etc/resolv.conf', 'proc/', 'run/', 'sys/']);
    await run(ns, ref, 'c2', 'busybox mkdir /etc /data && busybox touch /etc/hosts /etc/x /data/dev');
    assert.deepEqual(
      (await ns.containers.changes('c2')).map(({path}) => path),
      ['/data', '/data/dev', '/etc', '/etc/x'],
    );
  });

  it('has a layer that is kept as content on request, with labels, under the name of a transfer', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox')) return;
    const {ns, ref, root, state} = await withImage(t);
    await run(ns, ref, 'c1', ': >/x');
    const words = ['-n', 'difftest', 'snapshots', 'diff', '--media-type', TAR, 'c1'];
    const layer = await collect(await ns.snapshots().diff('c1', {mediaType: TAR}));
    const kept = ['--keep', '--ref', 'mine', '--label', 'why=backup'];
    const {status, stdout} = await ctrHere({root, state}, [...words, ...kept, '--json']);
    assert.equal(status, 0);
    const {digest, labels} = JSON.parse(stdout) as {digest: string; labels: Record<string, string>};
    assert.deepEqual([digest, labels.why], [digestOf(layer), 'backup']);
    assert.ok((await collect(await ns.content.open(digest))).equals(layer));
    assert.equal((await ctrHere({root, state}, [...words, '--label', 'why=backup'])).status, 3);
    assert.deepEqual(checkStore(root), []);
  });

  it('is not committed on another image than its own, with changes that make no sense, or where there is none', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox')) return;
    const {ns, ref} = await withImage(t);
    await run(ns, ref, 'c1', ': >/x');
    await ns.containers.commit('c1', 'made:1');
    await assert.rejects(ns.containers.commit('c1', 'made:2', {changes: ['RUN x']}), is('invalid_argument'));
    await assert.rejects(ns.containers.commit('absent', 'made:2'), is('not_found'));
    await ns.images.tag('made:1', ref, {force: true});
    await assert.rejects(ns.containers.commit('c1', 'made:2'), is('failed_precondition'));
    assert.deepEqual(
      (await ns.images.list()).filter(({name}) => name.endsWith('made:2')),
      [],
    );
    assert.deepEqual(await ns.leases.list(), []);
  });

  it('is paused while what it changed is read, and runs on', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox', 'conmon')) return;
    const {ns, ref, root} = await withImage(t);
    const script = 'busybox mkdir /n; i=0; while :; do i=$((i + 1)); echo $i >/n/$i; busybox usleep 2000; done';
    await ns.run(ref, 'c1', {args: ['sh', '-c', script], detach: true, nullIO: true});
    const count = async (): Promise<number> => (await ns.containers.changes('c1')).filter(({path}) => path.startsWith('/n/')).length;
    await eventually('a container that writes', async () => (await count()) > 3);
    const layer = (await ns.snapshots().diff('c1', {mediaType: TAR}))[Symbol.asyncIterator]();
    assert.ok(((await layer.next()).value as Uint8Array).length > 0);
    // However long the reader takes for the rest.
    assert.equal((await ns.tasks.get('c1')).status, 'running');
    const before = await count();
    await eventually('a container that writes on', async () => (await count()) > before);
    await layer.return?.();
    assert.deepEqual(readdirSync(join(root, 'work')), []);
  });

  it('runs on when the command that has paused it is killed', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref, namespace, root, state} = await taskRig(t);
    const script = 'busybox mkdir /n; while :; do echo x >>/n/f; busybox usleep 1000; done';
    await ns.run(ref, 'c1', {args: ['sh', '-c', script], detach: true, nullIO: true});
    const main = join(import.meta.dirname, '../../../src/main.ts');
    const status = async (): Promise<string> => (await ns.tasks.get('c1')).status;
    // A program that takes part in the comparison, and waits until the command is killed.
    const bin = temporaryDirectory(t);
    writeFileSync(join(bin, 'mount'), '#!/bin/sh\nexec sleep 60\n', {mode: 0o755});
    const command = spawn(process.execPath, [main, '--root', root, '--state', state, '-n', namespace, 'diff', 'c1'], {
      env: {...process.env, PATH: `${bin}:${process.env.PATH}`},
      stdio: 'ignore',
    });
    onEnd(t, () => command.kill('SIGKILL'));
    await eventually('a paused container', async () => (await status()) === 'paused');
    command.kill('SIGKILL');
    await eventually('a container that runs on', async () => (await status()) === 'running');
  });

  it('runs on when the command is killed while it pauses it', async (t) => {
    if (!requiresTasks(t)) return;
    const bin = temporaryDirectory(t); // goes last: tasks need their runtime
    const {ns, ref, namespace, root, state} = await taskRig(t);
    const runtime = join(bin, 'slow-to-pause');
    const runc = findProgram('runc')!;
    const pause = `: >${bin}/begun; until [ -e ${bin}/go ]; do sleep 0.02; done; ${runc} "$@"; : >${bin}/done`;
    writeFileSync(
      runtime,
      `#!/bin/sh\ncase " $* " in *' pause '*) ${pause}; exit ;; *' resume '*) ${runc} "$@"; : >${bin}/resumed; exit ;; esac\nexec ${runc} "$@"\n`,
      {mode: 0o755},
    );
    await ns.run(ref, 'c1', {args: ['busybox', 'sleep', '1000'], detach: true, runtime});
    const env = {...engineEnvironment('executable'), BERTH_ROOT: root, BERTH_STATE: state};
    const command = start({env} as never, ['-n', namespace, 'diff', 'c1']);
    await eventually('the pause', () => existsSync(join(bin, 'begun')));
    command.child.kill('SIGKILL');
    await command.ended;
    // Whoever lets it go on before it is paused has a second to do so.
    for (let i = 0; i < 50 && !existsSync(join(bin, 'resumed')); i++) await delay(20);
    writeFileSync(join(bin, 'go'), '');
    await eventually('the end of the pause', () => existsSync(join(bin, 'done')));
    await eventually('a container that runs on', async () => (await ns.tasks.get('c1')).status === 'running');
  });

  it('has variables and labels as a Dockerfile writes them', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox')) return;
    const {ns, ref} = await withImage(t);
    await run(ns, ref, 'c1', ': >/x');
    // By the Dockerfile reference, and moby's parser.
    const written: Readonly<Record<string, readonly string[]>> = {
      'ENV A=1 B=2': ['A=1', 'B=2'],
      'ENV A=b\\ c "D"=e': ['A=b c', 'D=e'],
      'ENV A="b c" D=\'e "f\'': ['A=b c', 'D=e "f'],
      'ENV A="b \\"c\\" \\d"': ['A=b "c" \\d'],
      'ENV A b  c=d': ['A=b  c=d'],
      'ENV A=': ['A='],
    };
    for (const [change, env] of Object.entries(written)) {
      const image = await ns.containers.commit('c1', 'made:1', {changes: [change]});
      const manifest: {config: {digest: string}} = await readDocument(ns, image.target.digest);
      const {config}: {config: {Env: readonly string[]}} = await readDocument(ns, manifest.config.digest);
      assert.deepEqual(
        config.Env.filter((entry) => !entry.startsWith('PATH=')),
        env,
        change,
      );
    }
    for (const change of ['ENV A=1 B', 'ENV =1', 'LABEL a'])
      await assert.rejects(ns.containers.commit('c1', 'made:1', {changes: [change]}), is('invalid_argument'), change);
  });

  it('is not committed with a file whose name would be a whiteout', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox')) return;
    const {ns, ref} = await withImage(t);
    await run(ns, ref, 'c1', ': >/old/.wh.f');
    await assert.rejects(ns.containers.commit('c1', 'made:1'), {code: 'failed_precondition', message: /\/old\/\.wh\.f/});
  });
});
