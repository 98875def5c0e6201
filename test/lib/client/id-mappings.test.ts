/** Containers whose users and groups are not the host's. Oracle: a model of the mappings, for generated ones and generated trees. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {chmodSync, chownSync, copyFileSync, lstatSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {text} from 'node:stream/consumers';
import {describe, it} from 'node:test';
import {createTarReader} from '../../../src/lib/archive/tar.ts';
import {openClient} from '../../../src/lib/client/index.ts';
import type {IdMapping, RunOptions} from '../../../src/lib/client/types/index.ts';
import {type Code, type ErrdefsError, hasCode} from '../../../src/lib/errdefs.ts';
import {findProgram, is, onEnd, requiresProgram, SAMPLE, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {dir, file, opaque, symlink, type TarEntry, tar, whiteout} from '../../support/tartest.ts';
import {requiresTasks, type TaskRig, taskRig, until} from '../../support/tasks.ts';

const SNAPSHOTTERS = ['erofs', 'overlayfs', 'native'];
/** What the kernel shows for an id that is not mapped. */
const NOBODY = 65534;
const TAR = 'application/vnd.oci.image.layer.v1.tar';
/** Ids of generated files are below it. */
const IDS = 300;

type Random = (below: number) => number;

/** A generator of numbers, the same for a seed. */
function numbers(seed: number): Random {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Extents in any order, with gaps on both sides; the container's 0 is among them, and sometimes the host's. */
function mappings(random: Random): readonly IdMapping[] {
  const made: IdMapping[] = [];
  let host = random(4) === 0 ? 0 : 100_000 + random(1000);
  for (let container = 0; container < IDS; ) {
    const size = 1 + random(60);
    made.push({containerID: container, hostID: host, size});
    container += size + random(3) * random(40);
    host = Math.max(host + size + random(100), 100_000);
  }
  return random(2) === 0 ? made : made.reverse();
}

const toHost = (list: readonly IdMapping[], id: number): number | undefined => {
  const found = list.find(({containerID, size}) => id >= containerID && id < containerID + size);
  return found && found.hostID + id - found.containerID;
};
/** What a container sees of an id that a file of the image has. */
const seen = (list: readonly IdMapping[], id: number): number => (toHost(list, id) === undefined ? NOBODY : id);

/** Paths with `uid:gid`. */
type Owners = ReadonlyMap<string, string>;

/** Two layers, and the owners in the tree that they make. */
function layers(random: Random): {readonly tars: readonly Buffer[]; readonly owners: Map<string, string>} {
  const owners = new Map<string, string>();
  const own = (path: string) => {
    const [uid, gid] = [random(IDS), random(IDS)] as const;
    owners.set(path, `${uid}:${gid}`);
    return {uid, gid};
  };
  const lower: TarEntry[] = [dir('t/', 0o777, own('/t'))];
  for (const d of ['a', 'b', 'c']) {
    lower.push(dir(`t/${d}/`, 0o777, own(`/t/${d}`)));
    for (let n = 0; n < 4; n++) lower.push(file(`t/${d}/${n}`, `${d}${n}`, [0o644, 0o4755, 0o600, 0o2755][n]!, own(`/t/${d}/${n}`)));
  }
  lower.push(symlink('a/0', 't/link', own('/t/link')));
  for (const path of ['/t/a/0', '/t/b/0', '/t/b/1', '/t/b/2', '/t/b/3']) owners.delete(path);
  const upper = [
    whiteout('t/a/0'),
    dir('t/b/', 0o777, own('/t/b')),
    opaque('t/b'),
    file('t/b/new', 'new', 0o644, own('/t/b/new')),
    file('t/c/1', 'other', 0o644, own('/t/c/1')),
  ];
  return {tars: [tar(...lower), tar(...upper)], owners};
}

async function* bytes(chunk: Uint8Array): AsyncGenerator<Uint8Array> {
  yield chunk;
}

async function collect(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const chunk of source) all.push(chunk);
  return Buffer.concat(all);
}

const LIST = `busybox find /t -exec busybox stat -c '%n %u:%g' {} ';'`;
const parse = (listing: string): Owners =>
  new Map(
    listing
      .trim()
      .split('\n')
      .sort()
      .map((line) => line.split(' ') as [string, string]),
  );
const sorted = (owners: Owners): Owners => new Map([...owners].sort(([a], [b]) => (a < b ? -1 : 1)));

/** Runs a command to its end. */
async function output({ns, ref}: TaskRig, options: RunOptions & {readonly image?: string; readonly script: string}): Promise<string> {
  const {image = ref, script, ...more} = options;
  const task = await ns.run(image, `o${++count}`, {args: ['sh', '-c', script], rm: true, ...more, stdio: 'pipe'});
  task.stdin.end();
  const [out, err] = await Promise.all([text(task.stdout), text(task.stderr)]);
  const {exitStatus} = await task.ended;
  assert.equal(exitStatus, 0, err);
  return out;
}
let count = 0;

async function logOf({ns}: TaskRig, id: string): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const {data} of await ns.tasks.logs(id)) chunks.push(data);
  return Buffer.concat(chunks).toString();
}

function ownersIn(layer: Buffer): Owners {
  const owners = new Map<string, string>();
  const reader = createTarReader({
    entry: ({name, uid, gid}) => void owners.set(`/${name.replace(/\/$/, '')}`, `${uid}:${gid}`),
    data: () => {},
    entryEnd: () => {},
  });
  reader.write(layer);
  reader.end();
  return owners;
}

describe('a container with mapped users', () => {
  it('has the owners of its image, and the host has those that the mappings say, for generated mappings and trees', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns} = r;
    for (let n = 0; n < (TORTURE ? 40 : 3); n++) {
      const random = numbers(SAMPLE * 1000 + n);
      const {tars, owners} = layers(random);
      const uidMappings = mappings(random);
      const gidMappings = random(3) === 0 ? undefined : mappings(random);
      const groups = gidMappings ?? uidMappings;
      const image = `tree:${n}`;
      await ns.images.append(r.ref, image, tars.map(bytes));
      const isMapped = (owner: string): boolean => {
        const [uid, gid] = owner.split(':').map(Number) as [number, number];
        return toHost(uidMappings, uid) !== undefined && toHost(groups, gid) !== undefined;
      };
      const pick = (): string => {
        for (;;) {
          const owner = `${random(IDS)}:${random(IDS)}`;
          if (isMapped(owner)) return owner;
        }
      };
      for (const snapshotter of TORTURE ? SNAPSHOTTERS : [SNAPSHOTTERS[n % 3]!]) {
        const what = JSON.stringify({n, snapshotter, uidMappings, gidMappings});
        const id = `c${n}${snapshotter}`;
        // A directory that belongs to nobody here is not the root's to change.
        const changed = new Map<string, string>();
        const steps = [...owners].flatMap(([path, owner]) => {
          if (path === '/t/link' || !isMapped(owner) || random(2) === 0) return [];
          const next = pick();
          changed.set(path, next);
          return [`busybox chown ${next} ${path}`];
        });
        const made = ['/w/0', '/w/1', '/w/2'].map((path) => [path, pick()] as const);
        const script = [
          LIST,
          'echo ---',
          ...steps,
          'busybox mkdir -m 1777 /w',
          ...made.map(([path, owner]) => `busybox touch ${path}; busybox chown ${owner} ${path}`),
          '! busybox chown 4000000000 /w/0 2>/tmp/error || echo mapped',
          LIST,
          'echo ---',
          'echo done >/tmp/ready; exec busybox sleep 1000',
        ];
        const options = {snapshotter, uidMappings, ...(gidMappings === undefined ? {} : {gidMappings})};
        const {pid} = await ns.run(image, id, {...options, detach: true, args: ['sh', '-c', script.join('\n')]});
        await until(what, async () => {
          const task = await ns.tasks.get(id);
          assert.equal(task.status, 'running', `${what}\n${await logOf(r, id)}`);
          return statSync(`/proc/${pid}/root/tmp/ready`, {throwIfNoEntry: false}) !== undefined;
        });
        const [before, after, ...rest] = (await logOf(r, id)).split('---\n');
        assert.deepEqual(rest, [''], what);
        const visible = (all: Owners): Owners =>
          sorted(
            new Map(
              [...all].map(([path, owner]) => {
                const [uid, gid] = owner.split(':').map(Number) as [number, number];
                return [path, `${seen(uidMappings, uid)}:${seen(groups, gid)}`];
              }),
            ),
          );
        assert.deepEqual(parse(before!), visible(owners), what);
        const now = new Map([...owners, ...changed]);
        assert.deepEqual(parse(after!), visible(now), what);
        const user = pick();
        await ns.tasks.exec(id, ['busybox', 'touch', '/w/exec'], {user, stdio: ['ignore', 'ignore', 2]});
        // The host's view.
        for (const [path, owner] of [...now, ...made, ['/w/exec', user] as const]) {
          if (!isMapped(owner)) continue;
          const [uid, gid] = owner.split(':').map(Number) as [number, number];
          const stats = lstatSync(`/proc/${pid}/root${path}`);
          assert.deepEqual([stats.uid, stats.gid], [toHost(uidMappings, uid), toHost(groups, gid)], `${what} ${path}`);
        }
        // What is stored has the container's ids.
        const entries = ownersIn(await collect(await ns.snapshots(snapshotter).diff(id, {mediaType: TAR})));
        const expected = new Map([...changed, ...made, ['/w/exec', user] as const]);
        for (const [path, owner] of expected) assert.equal(entries.get(path), owner, `${what} ${path} in the layer`);
        await ns.containers.commit(id, `${image}-committed`);
        await ns.tasks.delete(id, {force: true});
        const plain = await output(r, {image: `${image}-committed`, snapshotter, script: `${LIST}; busybox stat -c '%n %u:%g' /w/*`});
        assert.deepEqual(parse(plain), sorted(new Map([...now, ...expected])), `${what} without mappings`);
      }
    }
    assert.deepEqual(r.left(), []);
  });

  const ONE: readonly IdMapping[] = [{containerID: 0, hostID: 100_000, size: 1000}];
  const OTHER: readonly IdMapping[] = [{containerID: 0, hostID: 200_000, size: 1000}];

  it('shares volumes with containers of other mappings, and sees files of the host as they are', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns} = r;
    await ns.images.append(r.ref, 'v:1', [bytes(tar(dir('data/', 0o750, {uid: 7, gid: 8}), file('data/f', 'f', 0o640, {uid: 9, gid: 8})))]);
    const stored = [{name: 'vol', destination: '/data'}, {destination: '/own'}];
    const list = 'busybox stat -c "%n %u:%g" /data /data/*';
    const first = `${list}; busybox touch /data/one /own/x; busybox chown 5:6 /data/one; busybox stat -c "%n %u:%g" /own /own/x`;
    const base = {image: 'v:1', storedVolumes: stored};
    assert.equal(await output(r, {...base, uidMappings: ONE, script: first}), '/data 7:8\n/data/f 9:8\n/own 0:0\n/own/x 0:0\n');
    const all = '/data 7:8\n/data/f 9:8\n/data/one 5:6\n';
    assert.equal(await output(r, {...base, uidMappings: OTHER, script: list}), all);
    assert.equal(await output(r, {...base, script: list}), all);

    const here = temporaryDirectory(t);
    chmodSync(here, 0o755);
    for (const [name, owner] of [
      ['mapped', 100_005],
      ['host', 0],
    ] as const) {
      writeFileSync(join(here, name), name);
      chownSync(join(here, name), owner, owner);
    }
    const script = [
      'busybox stat -c "%n %u:%g" /h/*',
      'busybox stat -c "%n %u:%g %a" /m',
      'echo more >>/h/mapped',
      '(echo more >>/h/host) 2>/tmp/error && echo written',
      'exit 0',
    ].join('\n');
    const seenThere = await output(r, {
      uidMappings: ONE,
      volumes: [{source: here, destination: '/h'}],
      mounts: [{destination: '/m', type: 'tmpfs', source: 'tmpfs', options: ['mode=700']}],
      script,
    });
    assert.equal(seenThere, `/h/host ${NOBODY}:${NOBODY}\n/h/mapped 5:5\n/m 0:0 700\n`);
    assert.equal(readFileSync(join(here, 'mapped'), 'utf8'), 'mappedmore\n');
    assert.deepEqual(r.left(), []);
  });

  it('is as any other to exec, logs, cp, kill, start and rm', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns} = r;
    await ns.images.append(r.ref, 'u:1', [bytes(tar(dir('home/', 0o777, {uid: 5, gid: 5})))]);
    for (const snapshotter of SNAPSHOTTERS) {
      const id = `a${snapshotter}`;
      const script =
        'echo out >/dev/stdout; echo err >/dev/stderr; busybox id -u; until [ -e /home/end ]; do busybox sleep 0.05; done; busybox rm /home/end; exit 7';
      await ns.containers.create('u:1', id, {snapshotter, uidMappings: ONE, user: '5:5', args: ['sh', '-c', script]});
      for (const round of [1, 2]) {
        const {pid} = await ns.tasks.start(id, {detach: true});
        await until('the output', async () => (await logOf(r, id)).split('\n').length > 3);
        assert.deepEqual((await logOf(r, id)).split('\n').sort(), ['', '5', 'err', 'out']);
        const child = await ns.tasks.exec(id, ['sh', '-c', 'busybox id -u; busybox id -g; busybox touch /home/exec'], {
          user: '6:7',
          stdio: 'pipe',
        });
        child.stdin.end();
        assert.equal(await text(child.stdout), '6\n7\n');
        await assert.rejects(ns.tasks.exec(id, ['busybox', 'true'], {user: '5000'}), is('failed_precondition'));
        // In and out, of the running container and, after its end, of its files.
        const host = temporaryDirectory(t);
        writeFileSync(join(host, 'in'), 'in');
        chownSync(join(host, 'in'), 11, 12);
        await ns.containers.copyFiles({path: join(host, 'in')}, {container: id, path: '/home/plain'});
        await ns.containers.copyFiles({path: join(host, 'in')}, {container: id, path: '/home/kept'}, {archive: true});
        const owner = (path: string): readonly number[] => [lstatSync(path).uid, lstatSync(path).gid];
        assert.deepEqual(owner(`/proc/${pid}/root/home/plain`), [100_000, 100_000]);
        assert.deepEqual(owner(`/proc/${pid}/root/home/kept`), [100_011, 100_012]);
        chownSync(join(host, 'in'), 5000, 0);
        await assert.rejects(
          ns.containers.copyFiles({path: join(host, 'in')}, {container: id, path: '/home/odd'}, {archive: true}),
          is('failed_precondition'),
        );
        const copied = async (): Promise<Readonly<Record<string, readonly number[]>>> => {
          const to = join(temporaryDirectory(t), 'home');
          await ns.containers.copyFiles({container: id, path: '/home'}, {path: to}, {archive: true});
          return Object.fromEntries(readdirSync(to).map((name) => [name, owner(join(to, name))]));
        };
        const expected = {exec: [6, 7], kept: [11, 12], plain: [0, 0]};
        assert.deepEqual(await copied(), expected, `${snapshotter}, running`);
        if (round === 1) {
          await ns.tasks.exec(id, ['busybox', 'touch', '/home/end'], {user: '5:5', stdio: ['ignore', 'ignore', 2]});
          assert.deepEqual(await ns.tasks.wait(id), {id, exitStatus: 7, known: true});
        } else {
          await ns.tasks.kill(id, {signal: 'KILL'});
          await ns.tasks.wait(id);
        }
        await ns.tasks.delete(id);
        assert.deepEqual(await copied(), expected, `${snapshotter}, stopped`);
      }
      await ns.containers.delete(id);
    }
    assert.deepEqual(r.left(), []);
  });

  it('runs with what else a container can have, and leaves nothing', async (t) => {
    if (!requiresTasks(t) || !requiresProgram(t, 'tini')) return;
    const r = await taskRig(t);
    const whole = [{containerID: 0, hostID: 0, size: 1000}];
    for (const [what, options] of Object.entries({
      'the first process is tini': {init: true},
      'a read-only root': {readOnly: true},
      'all capabilities and devices': {privileged: true},
      limits: {memoryLimit: 64 << 20, pidsLimit: 50},
      'a cgroup namespace': {namespaces: {cgroup: 'private'}},
      "the host's message queues": {namespaces: {ipc: 'host'}},
      "the host's network": {netHost: true},
      'a device': {devices: ['/dev/kmsg']},
      sysctls: {sysctls: {'net.ipv4.ip_unprivileged_port_start': '80'}},
      'one id': {uidMappings: [{containerID: 0, hostID: 100_000, size: 1}]},
      'ids of the host': {uidMappings: whole},
      'groups only': {uidMappings: [], gidMappings: ONE},
    } satisfies Record<string, RunOptions>)) {
      const script = 'busybox cat /proc/self/uid_map; busybox ls /sys/class/net >/dev/null; busybox stat -c %u:%g /bin';
      const {uidMappings = ONE, ...others} = options as RunOptions;
      const out = await output(r, {...others, uidMappings, script});
      const [one = ONE[0]!] = uidMappings;
      assert.deepEqual(out.trim().split(/\s+/), [...Object.values(one).map(String), '0:0'], what);
    }
    assert.deepEqual(r.left(), []);
  });

  it('runs from a specification and in a directory as they are', async (t) => {
    if (!requiresTasks(t)) return;
    const r = await taskRig(t);
    const {ns} = r;
    const bundle = temporaryDirectory(t);
    const root = join(bundle, 'root');
    mkdirSync(join(root, 'bin'), {recursive: true});
    copyFileSync(findProgram('busybox')!, join(root, 'bin/busybox'));
    execFileSync('ln', ['-s', 'busybox', join(root, 'bin/sh')]);
    writeFileSync(join(root, 'mapped'), '');
    for (const path of [root, join(root, 'bin'), join(root, 'mapped')]) chownSync(path, 100_000, 100_000);
    const args = ['/bin/sh', '-c', 'busybox stat -c "%n %u:%g" /mapped /bin/busybox'];
    const run = async (ref: string, options: RunOptions): Promise<string> => {
      const task = await ns.run(ref, 'd', {rm: true, ...options, stdio: 'pipe'});
      task.stdin.end();
      const [out, err] = await Promise.all([text(task.stdout), text(task.stderr)]);
      assert.equal((await task.ended).exitStatus, 0, err);
      return out;
    };
    const expected = `/mapped 0:0\n/bin/busybox ${NOBODY}:${NOBODY}\n`;
    assert.equal(await run(root, {rootfs: true, uidMappings: ONE, args}), expected);
    const spec = (await r.client.defaultSpec()) as {process: object; linux: {namespaces: object[]}};
    const linux = {...spec.linux, namespaces: [...spec.linux.namespaces, {type: 'user'}], uidMappings: ONE, gidMappings: ONE};
    const made = {...spec, root: {path: 'root'}, process: {...spec.process, args}, linux: {...linux, cgroupsPath: undefined}};
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(made));
    assert.equal(await run('', {config: join(bundle, 'config.json')}), expected);
    assert.deepEqual(r.left(), []);
  });

  it('is refused before anything is made', async (t) => {
    if (!requiresTasks(t)) return;
    const above = temporaryDirectory(t);
    chmodSync(above, 0o711);
    const r = await taskRig(t, {state: join(above, 'state')});
    const {ns, ref} = r;
    const made = async (): Promise<unknown> => [
      await ns.containers.list(),
      readdirSync(join(r.root, 'layers')).sort(),
      readdirSync(join(r.state, 'runs')),
      r.left(),
    ];
    await ns.run(ref, 'first', {rm: true, args: ['sh', '-c', 'exit 0']});
    const before = await made();
    const map = (containerID: number, hostID: number, size: number): IdMapping => ({containerID, hostID, size});
    const each = (length: number, first: number): IdMapping[] => Array.from({length}, (_, n) => map(2 * n, first + 2 * n, 1));
    const wrong: readonly (readonly [Code, RegExp, RunOptions])[] = [
      ['invalid_argument', /has the container's user 0/, {uidMappings: [map(1, 100_000, 10)]}],
      ['invalid_argument', /has the container's group 0/, {uidMappings: ONE, gidMappings: [map(1, 100_000, 10)]}],
      ['invalid_argument', /overlap/, {uidMappings: [map(0, 100_000, 10), map(9, 200_000, 10)]}],
      ['invalid_argument', /overlap/, {uidMappings: [map(0, 100_000, 10), map(10, 100_009, 10)]}],
      ['invalid_argument', /at least one/, {uidMappings: [map(0, 100_000, 0)]}],
      ['invalid_argument', /ids are 0 to/, {uidMappings: [map(0, 4_294_967_290, 10)]}],
      ['invalid_argument', /341 mappings/, {uidMappings: each(341, 0)}],
      // The host's root is one more.
      ['invalid_argument', /340 mappings/, {uidMappings: each(340, 1)}],
      // Longer than a page.
      ['invalid_argument', /300 mappings/, {uidMappings: each(300, 100_000_000)}],
      ['invalid_argument', /processes of others/, {uidMappings: ONE, namespaces: {pid: 'host'}}],
      ['invalid_argument', /processes of others/, {uidMappings: ONE, joinNamespaces: [{type: 'pid', path: '/proc/1/ns/pid'}]}],
      ['invalid_argument', /to join/, {uidMappings: ONE, joinNamespaces: [{type: 'user', path: '/proc/1/ns/user'}]}],
      ['invalid_argument', /another path/, {uidMappings: ONE, devices: ['/dev/null:/dev/other']}],
      ['failed_precondition', /has no user 1000$/, {uidMappings: ONE, user: '1000:0'}],
      ['failed_precondition', /has no group 1000$/, {uidMappings: ONE, groupAdd: ['1000']}],
    ];
    for (const [code, message, options] of wrong)
      for (const make of [() => ns.run(ref, 'c', options), () => ns.containers.create(ref, 'c', options)])
        await assert.rejects(make(), (err: Error) => {
          assert.ok(hasCode(err, code), String(err));
          assert.match(err.message.replace(/: [a-z ]+$/, ''), message);
          return true;
        });
    // The runtime enters the tree as a user of the host that others do not let pass.
    chmodSync(above, 0o700);
    for (const start of [() => ns.run(ref, 'c', {uidMappings: ONE}), () => ns.containers.create(ref, 'c', {uidMappings: ONE})])
      await assert.rejects(start(), (err: ErrdefsError) => {
        assert.equal(err.code, 'failed_precondition');
        assert.match(err.message, new RegExp(`user 100000 of the host, cannot pass through ${above}: `));
        assert.match(err.hint ?? '', new RegExp(`^chmod o\\+x ${above};`));
        return true;
      });
    assert.deepEqual(await made(), before);
  });

  it('is refused where the file system of the layers has no idmapped mounts', async (t) => {
    if (!requiresTasks(t)) return;
    const work = temporaryDirectory(t);
    for (const name of ['lower', 'upper', 'work', 'root']) mkdirSync(join(work, name));
    // overlayfs has none.
    const options = `lowerdir=${work}/lower,upperdir=${work}/upper,workdir=${work}/work`;
    const root = join(work, 'root');
    execFileSync('mount', ['-t', 'overlay', 'overlay', '-o', options, root]);
    onEnd(t, () => execFileSync('umount', [root]));
    const r = await taskRig(t);
    const client = openClient({root, state: r.state});
    onEnd(t, () => client.close());
    const ns = client.namespace('default');
    const archive = join(work, 'a.tar');
    await r.ns.images.export(archive, [r.ref]);
    await ns.images.import(archive, {snapshotter: 'native'});
    const layers = (): readonly string[] => readdirSync(join(root, 'layers')).sort();
    const before = layers();
    await assert.rejects(ns.run(r.ref, 'c', {snapshotter: 'native', uidMappings: ONE}), (err: ErrdefsError) => {
      assert.equal(err.code, 'failed_precondition');
      assert.match(err.message, /owners of files in .*layers cannot be mapped/);
      assert.match(err.hint ?? '', /idmapped mounts/);
      return true;
    });
    assert.deepEqual([await ns.containers.list(), layers()], [[], before]);
  });
});
