/**
 * Files copied into containers and out of them. Oracles: podman for what goes where, tar(1) for trees, and a canary outside of the root for
 * containers that move their directories meanwhile.
 */
import assert from 'node:assert/strict';
import {execFileSync, spawn, spawnSync} from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import type {NamespaceClient} from '../../../src/lib/client/types/index.ts';
import {codeOf} from '../../../src/lib/errdefs.ts';
import {is, onEnd, requiresProgram, type Scope, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {dir, file, link, symlink, tar} from '../../support/tartest.ts';
import {requiresTasks, taskRig, until} from '../../support/tasks.ts';
import {diffTrees, readTree} from '../../support/tree.ts';

async function* bytes(...chunks: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* chunks;
}

async function collect(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const chunk of source) all.push(chunk);
  return Buffer.concat(all);
}

/** Text of a container's file. */
async function read(t: Scope, ns: NamespaceClient, container: string, path: string): Promise<string> {
  const at = join(temporaryDirectory(t), 'read');
  await ns.containers.copyFiles({container, path}, {path: at}, {followLink: true});
  return readFileSync(at, 'utf8');
}

/** Each path with its content; of a directory with a slash. */
function namesOf(root: string, path = ''): readonly string[] {
  return readdirSync(join(root, path), {withFileTypes: true})
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const below = join(path, entry.name);
      if (entry.isDirectory()) return [`${below}/`, ...namesOf(root, below)];
      return [
        entry.isSymbolicLink() ? `${below}>${readlinkSync(join(root, below))}` : `${below}=${readFileSync(join(root, below), 'utf8')}`,
      ];
    });
}

/** A container that runs until it is deleted. */
const SLEEP = ['busybox', 'sleep', '1000'];

describe('what a copy copies to where', () => {
  const SOURCES = ['f', 'f/', 'd', 'd/', 'd/.', 'd/e/..', 'none'];
  const TARGETS = ['D', 'D/', 'D/.', 'F', 'F/', 'N', 'N/', 'none/N', 'L', 'D/d'];
  const CASES = SOURCES.flatMap((source) => TARGETS.map((target) => ({source, target})));
  const prepare = (at: string): void => {
    mkdirSync(join(at, 'D/d'), {recursive: true});
    writeFileSync(join(at, 'F'), 'F');
    writeFileSync(join(at, 'D/d/kept'), 'kept');
    symlinkSync('D', join(at, 'L'));
  };
  const sources = (at: string): void => {
    mkdirSync(join(at, 'd/e'), {recursive: true});
    writeFileSync(join(at, 'f'), 'f');
    writeFileSync(join(at, 'd/x'), 'x');
  };
  /**
   * podman refuses a new directory that is written with a slash at its end, a directory in the place of nothing with /. (docker makes
   * both), and takes a file for a directory where a slash follows it.
   */
  const DIFFERENT = /^(?:d.* N\/|f\/ .*|f F\/)$/;

  it('is what podman does, but for a listed few', async (t) => {
    if (!requiresTasks(t) || !requiresProgram(t, 'podman')) return;
    const work = temporaryDirectory(t);
    const {ns, ref} = await taskRig(t);
    const tree = join(work, 'tree');
    mkdirSync(tree);
    sources(tree);
    for (const i of CASES.keys()) prepare(join(tree, `in${i}`));
    const archive = execFileSync('tar', ['-C', tree, '-c', '.']);
    const storage = [
      '--root',
      join(work, 'storage'),
      '--runroot',
      join(work, 'run'),
      '--storage-driver',
      'vfs',
      '--events-backend',
      'none',
    ];
    const podman = (...args: readonly string[]) =>
      spawnSync('podman', [...storage, '--cgroup-manager', 'cgroupfs', ...args], {
        input: args[0] === 'import' ? archive : '',
        env: {...process.env, TMPDIR: work, PODMAN_IGNORE_CGROUPSV1_WARNING: '1'},
      });
    onEnd(t, () => podman('rm', '--force', 'c1'));
    assert.equal(podman('import', '-', 'img').status, 0);
    assert.equal(podman('create', '--name', 'c1', 'localhost/img', '/bin/true').status, 0);
    await ns.containers.create(ref, 'c1');
    await ns.containers.copyFiles(bytes(archive), {container: 'c1', path: '/'});

    const ours = async (...places: Parameters<NamespaceClient['containers']['copyFiles']>): Promise<boolean> =>
      ns.containers.copyFiles(...places).then(
        () => true,
        (err: unknown) => {
          assert.ok(['not_found', 'failed_precondition'].includes(codeOf(err)), String(err));
          return false;
        },
      );
    const wrong: string[] = [];
    for (const [i, {source, target}] of CASES.entries()) {
      const [isIn, isOut] = TORTURE ? [true, true] : [i % 4 === 0, i % 4 === 3];
      const says = `${source} ${target}`;
      if (DIFFERENT.test(says)) continue;
      if (isIn) {
        // Joined by hand, because `join` takes the slash away.
        const [from, to] = [`${tree}/${source}`, `/in${i}/${target}`];
        const theirs = podman('cp', from, `c1:${to}`).status === 0;
        if ((await ours({path: from}, {container: 'c1', path: to})) !== theirs) wrong.push(`in: ${says}: podman ${theirs}`);
      }
      if (!isOut) continue;
      const [mine, other] = [join(work, `ours${i}`), join(work, `theirs${i}`)];
      for (const at of [mine, other]) prepare(at);
      const theirs = podman('cp', `c1:/${source}`, `${other}/${target}`).status === 0;
      if ((await ours({container: 'c1', path: `/${source}`}, {path: `${mine}/${target}`})) !== theirs)
        wrong.push(`out: ${says}: podman ${theirs}`);
      const [a, b] = [namesOf(mine), namesOf(other)];
      if (a.join() !== b.join()) wrong.push(`out: ${says}: ${a} podman ${b}`);
    }
    const [mine, other] = [join(work, 'ours'), join(work, 'theirs')];
    assert.equal(podman('cp', 'c1:/.', other).status, 0);
    await ns.containers.copyFiles({container: 'c1', path: '/.'}, {path: mine});
    for (const [i, {source, target}] of CASES.entries()) {
      const [a, b] = [namesOf(join(mine, `in${i}`)), namesOf(join(other, `in${i}`))];
      if (a.join() !== b.join()) wrong.push(`in: ${source} ${target}: ${a} podman ${b}`);
    }
    assert.deepEqual(wrong, []);
  });

  it('is what docker says where podman does otherwise', async (t) => {
    if (!requiresTasks(t)) return;
    const work = temporaryDirectory(t);
    const {ns, ref} = await taskRig(t);
    sources(work);
    prepare(work);
    await ns.containers.create(ref, 'c1');
    const copy = (source: string, path: string) => ns.containers.copyFiles({path: `${work}/${source}`}, {container: 'c1', path});
    await copy('d', '/new/');
    assert.equal(await read(t, ns, 'c1', '/new/x'), 'x');
    await copy('f', '/f');
    await assert.rejects(copy('f/', '/g'), is('failed_precondition'));
    await assert.rejects(copy('f', '/f/'), is('failed_precondition'));
    await assert.rejects(copy('f', '/g/'), is('not_found'));
    await assert.rejects(copy('d', '/f'), is('failed_precondition'));
    await assert.rejects(copy('none', '/g'), is('not_found'));
    await assert.rejects(ns.containers.copyFiles({path: work}, {path: work}), is('invalid_argument'));
    await assert.rejects(ns.containers.copyFiles({container: 'absent', path: '/'}, {path: work}), is('not_found'));
    await assert.rejects(ns.containers.copyFiles({container: 'c1', path: '/'}, {container: 'c1', path: '/new'}), is('failed_precondition'));
  });
});

/** A tree of everything that can be copied. */
function oddTree(at: string): void {
  mkdirSync(join(at, 'sub/deeper'), {recursive: true});
  writeFileSync(join(at, 'sub/large'), Buffer.alloc(700_000, 'large'));
  writeFileSync(join(at, 'empty'), '');
  writeFileSync(Buffer.from(`${at}/sub/n\xe4me\n`, 'latin1'), 'odd');
  linkSync(join(at, 'sub/large'), join(at, 'another'));
  symlinkSync('../nowhere', join(at, 'sub/dangling'));
  symlinkSync('/etc/passwd', join(at, 'absolute'));
  execFileSync('mkfifo', [join(at, 'sub/fifo')]);
  chmodSync(join(at, 'sub/deeper'), 0o1755);
  chmodSync(join(at, 'empty'), 0o640);
  execFileSync('find', [at, '-exec', 'touch', '-h', '-d', '@1234567890', '{}', '+']);
}

describe('a copied tree', () => {
  for (const isRunning of [false, true])
    it(`is the same after its way into a ${isRunning ? 'running' : 'stopped'} container and out again`, async (t) => {
      if (!requiresTasks(t)) return;
      const {ns, ref, left} = await taskRig(t);
      const work = temporaryDirectory(t);
      const tree = join(work, 'tree');
      oddTree(tree);
      if (isRunning) await ns.run(ref, 'c1', {args: SLEEP, detach: true, nullIO: true});
      else await ns.containers.create(ref, 'c1');
      const copied = await ns.containers.copyFiles({path: tree}, {container: 'c1', path: '/tmp'});
      assert.deepEqual(copied, {files: 7, bytes: 700_003});
      await ns.containers.copyFiles({container: 'c1', path: '/tmp/tree'}, {path: join(work, 'back')});
      assert.deepEqual(diffTrees(readTree(tree), readTree(join(work, 'back'))), []);
      // As a tar, which another program reads.
      mkdirSync(join(work, 'untarred'));
      const archive = await collect(await ns.containers.readFiles('c1', '/tmp/tree/.'));
      execFileSync('tar', ['-C', join(work, 'untarred'), '-xpP'], {input: archive});
      assert.deepEqual(diffTrees(readTree(tree), readTree(join(work, 'untarred'))), []);
      await ns.containers.copyFiles(bytes(archive), {container: 'c1', path: '/bin/..'});
      await ns.containers.copyFiles({container: 'c1', path: '/sub'}, {path: join(work, 'sub')});
      assert.deepEqual(diffTrees(readTree(join(tree, 'sub')), readTree(join(work, 'sub'))), []);
      // Between containers.
      await ns.containers.create(ref, 'c2');
      await ns.containers.copyFiles({container: 'c1', path: '/tmp/tree/.'}, {container: 'c2', path: '/copied'});
      await ns.containers.copyFiles({container: 'c2', path: '/copied'}, {path: join(work, 'last')});
      assert.deepEqual(diffTrees(readTree(tree), readTree(join(work, 'last'))), []);
      // Once more over itself: directories that exist stay as they are, but for their times.
      await ns.containers.copyFiles({path: tree}, {container: 'c1', path: '/tmp'});
      await ns.containers.copyFiles({container: 'c1', path: '/tmp/tree'}, {path: join(work, 'twice')});
      const differences = diffTrees(readTree(tree), readTree(join(work, 'twice')));
      assert.deepEqual(
        differences.filter((one) => !/^"(?:\.|sub)": mtime /.test(one)),
        [],
      );
      if (isRunning) await ns.tasks.delete('c1', {force: true});
      assert.deepEqual(left(), []);
    });

  it('belongs to root in a container and to the caller outside, without set-ID bits; with archive to its owners, with everything', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    const work = temporaryDirectory(t);
    const tree = join(work, 'tree');
    mkdirSync(tree, {mode: 0o2755});
    writeFileSync(join(tree, 'tool'), '');
    chownSync(tree, 7, 8);
    chownSync(join(tree, 'tool'), 1234, 5678);
    chmodSync(join(tree, 'tool'), 0o6755);
    chmodSync(tree, 0o2755);
    await ns.containers.create(ref, 'c1');
    const seen = async (archive: boolean): Promise<readonly string[]> => {
      const name = `out-${archive}`;
      await ns.containers.copyFiles({path: tree}, {container: 'c1', path: `/${name}`}, {archive});
      await ns.containers.copyFiles({container: 'c1', path: `/${name}`}, {path: join(work, name)}, {archive: true});
      return ['', 'tool'].map((path) => {
        const {uid, gid, mode} = statSync(join(work, name, path));
        return `${uid}:${gid} ${(mode & 0o7777).toString(8)}`;
      });
    };
    assert.deepEqual(await seen(false), ['0:0 755', '0:0 755']);
    assert.deepEqual(await seen(true), ['7:8 2755', '1234:5678 6755']);
    execFileSync('mknod', [join(tree, 'null'), 'c', '1', '3']);
    await assert.rejects(ns.containers.copyFiles({path: tree}, {container: 'c1', path: '/tmp'}), is('failed_precondition'));
    await ns.containers.copyFiles({path: tree}, {container: 'c1', path: '/devices'}, {archive: true});
    await ns.containers.copyFiles({container: 'c1', path: '/devices/null'}, {path: join(work, 'null')}, {archive: true});
    assert.ok(lstatSync(join(work, 'null')).isCharacterDevice());
    assert.equal(lstatSync(join(work, 'null')).rdev, 0x103);
  });

  it('keeps attributes of directories that exist, files of other names, and no times of what it replaces', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    const work = temporaryDirectory(t);
    mkdirSync(join(work, 'tmp'), {mode: 0o700});
    writeFileSync(join(work, 'tmp/f'), 'new');
    utimesSync(join(work, 'tmp/f'), 1_000_000, new Date(-1500));
    await ns.containers.create(ref, 'c1');
    await ns.containers.copyFiles(bytes(tar(dir('tmp/', 0o755), file('tmp/f', 'old'), file('tmp/other', 'other'))), {
      container: 'c1',
      path: '/',
    });
    await ns.containers.copyFiles({path: join(work, 'tmp')}, {container: 'c1', path: '/'});
    await ns.containers.copyFiles({container: 'c1', path: '/tmp'}, {path: join(work, 'out')});
    assert.deepEqual(namesOf(join(work, 'out')), ['f=new', 'other=other']);
    assert.equal(statSync(join(work, 'out')).mode & 0o777, 0o755);
    assert.equal(statSync(join(work, 'out/f')).mtimeMs, -1500);
  });

  it('has links as links, followed at the end of the source on request, and on the way always, within the root', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    const work = temporaryDirectory(t);
    await ns.containers.create(ref, 'c1');
    await ns.containers.copyFiles(
      bytes(
        tar(dir('real/'), file('real/f', 'f'), symlink('/real', 'way'), symlink('../../../../real/f', 'last'), symlink('gone', 'dangling')),
      ),
      {container: 'c1', path: '/'},
    );
    const out = async (path: string, to: string, followLink = false): Promise<string> => {
      await ns.containers.copyFiles({container: 'c1', path}, {path: join(work, to)}, {followLink});
      return join(work, to);
    };
    assert.equal(readFileSync(await out('/way/f', 'a'), 'utf8'), 'f');
    assert.equal(readlinkSync(await out('/last', 'b')), '../../../../real/f');
    assert.equal(readFileSync(await out('/last', 'c', true), 'utf8'), 'f');
    assert.equal(readlinkSync(await out('/way', 'd')), '/real');
    assert.deepEqual(namesOf(await out('/way/', 'e')), ['f=f']);
    await assert.rejects(out('/dangling', 'x', true), is('not_found'));
    // A link that is the target is followed, also to what does not exist; an archive follows those on its way.
    writeFileSync(join(work, 'new'), 'new');
    await ns.containers.copyFiles({path: join(work, 'new')}, {container: 'c1', path: '/dangling'});
    assert.equal(await read(t, ns, 'c1', '/gone'), 'new');
    await ns.containers.copyFiles(bytes(tar(file('way/g', 'g'))), {container: 'c1', path: '/'});
    assert.equal(await read(t, ns, 'c1', '/real/g'), 'g');
    await assert.rejects(ns.containers.copyFiles(bytes(tar(dir('way/'))), {container: 'c1', path: '/'}), is('failed_precondition'));
    await assert.rejects(ns.containers.copyFiles(bytes(tar(file('real', ''))), {container: 'c1', path: '/'}), is('failed_precondition'));
  });

  it('is not made from an archive that leads out, is damaged, or has another file where a directory is wanted', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref, left} = await taskRig(t);
    await ns.containers.create(ref, 'c1');
    const put = (archive: Uint8Array, path = '/tmp') => ns.containers.copyFiles(bytes(archive), {container: 'c1', path});
    await assert.rejects(put(tar(file('../f', 'f'))), is('invalid_argument'));
    await assert.rejects(put(tar(link('../../bin/busybox', 'f'))), is('invalid_argument'));
    await assert.rejects(put(tar(file('f', 'not whole')).subarray(0, 520)), is('data_loss'));
    await assert.rejects(put(tar(file('f', 'f')), '/bin/busybox'), is('failed_precondition'));
    await assert.rejects(put(tar(file('f', 'f')), '/none'), is('not_found'));
    // What was not whole is gone.
    assert.deepEqual(namesOf(await outOf(t, ns, '/tmp')), []);
    await put(tar(file('/tmp/./f', 'f'), link('/tmp/f', 'deep/er/g')), '/');
    assert.deepEqual(namesOf(await outOf(t, ns, '/deep')), ['er/', 'er/g=f']);
    assert.deepEqual(left(), []);
  });

  it('is seen with the volumes of the container, whether it runs or not', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    const volume = temporaryDirectory(t);
    const mounts = [
      {type: 'bind', source: volume, destination: '/volume', options: ['rbind', 'rw']},
      {type: 'bind', source: volume, destination: '/fixed', options: ['rbind', 'ro']},
      {type: 'tmpfs', source: 'tmpfs', destination: '/scratch', options: []},
    ];
    await ns.containers.create(ref, 'c1', {args: SLEEP, mounts});
    const put = (path: string) => ns.containers.copyFiles(bytes(tar(file('f', path))), {container: 'c1', path});
    await put('/volume');
    assert.equal(readFileSync(join(volume, 'f'), 'utf8'), '/volume');
    assert.equal(await read(t, ns, 'c1', '/fixed/f'), '/volume');
    await assert.rejects(put('/fixed'), is('failed_precondition'));
    await assert.rejects(put('/scratch'), is('failed_precondition'));
    await assert.rejects(read(t, ns, 'c1', '/proc/version'), is('failed_precondition'));
    await ns.tasks.start('c1', {detach: true, nullIO: true});
    writeFileSync(join(volume, 'f'), 'again');
    assert.equal(await read(t, ns, 'c1', '/volume/f'), 'again');
    await put('/scratch');
    assert.equal(await read(t, ns, 'c1', '/scratch/f'), '/scratch');
    await assert.rejects(put('/fixed'), is('permission_denied'));
    // All of it, without what the kernel shows in /proc and /sys.
    const all = await outOf(t, ns, '/', {archive: true});
    assert.deepEqual(readdirSync(join(all, 'proc')), []);
    assert.deepEqual(readdirSync(join(all, 'sys')), []);
    assert.equal(readFileSync(join(all, 'scratch/f'), 'utf8'), '/scratch');
    await ns.tasks.delete('c1', {force: true});
  });
});

async function outOf(t: Scope, ns: NamespaceClient, path: string, options = {}): Promise<string> {
  const at = join(temporaryDirectory(t), 'out');
  await ns.containers.copyFiles({container: 'c1', path}, {path: at}, options);
  return at;
}

describe('a copy that is ended', () => {
  it('by SIGKILL leaves the old file or the new one, and nothing mounted', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref, namespace, root, state, left, client} = await taskRig(t);
    await ns.containers.create(ref, 'c1');
    await ns.containers.copyFiles(bytes(tar(file('f', 'old'))), {container: 'c1', path: '/'});
    const main = join(import.meta.dirname, '../../../src/main.ts');
    const views = join(state, 'views');
    for (let n = 0; n < (TORTURE ? 10 : 2); n++) {
      const argv = [main, '--root', root, '--state', state, '-n', namespace, 'cp', '-', 'c1:/'];
      const command = spawn(process.execPath, argv, {stdio: ['pipe', 'ignore', 'inherit']});
      onEnd(t, () => command.kill('SIGKILL'));
      const ended = new Promise((resolve) => command.once('exit', resolve));
      // More than a pipe holds, and not all of it.
      command.stdin!.on('error', () => undefined);
      command.stdin!.write(tar(file('f', Buffer.alloc(1 << 20, 'new'))).subarray(0, (1 << 20) - n * 1000));
      await until('a copy that has begun', () => existsSync(views) && readdirSync(views).length > 0);
      await until('bytes that were taken', () => command.stdin!.writableLength === 0);
      command.kill('SIGKILL');
      await ended;
      command.stdin!.destroy();
      assert.equal(await read(t, ns, 'c1', '/f'), 'old');
    }
    await client.gc();
    await until('nothing left', () => left().length === 0);
    assert.deepEqual(readdirSync(views), []);
  });

  it('by its signal, or by a reader that goes away, leaves nothing mounted', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref, left, state} = await taskRig(t);
    await ns.containers.create(ref, 'c1');
    const abort = new AbortController();
    async function* endless(): AsyncGenerator<Uint8Array> {
      yield tar(file('f', Buffer.alloc(100_000))).subarray(0, 50_000);
      abort.abort();
      yield Buffer.alloc(512);
    }
    await assert.rejects(ns.containers.copyFiles(endless(), {container: 'c1', path: '/tmp'}, {signal: abort.signal}), is('canceled'));
    for await (const chunk of await ns.containers.readFiles('c1', '/bin')) {
      assert.ok(chunk.length > 0);
      break;
    }
    assert.deepEqual(namesOf(await outOf(t, ns, '/tmp')), []);
    assert.deepEqual(left(), []);
    assert.deepEqual(readdirSync(join(state, 'views')), []);
  });
});
