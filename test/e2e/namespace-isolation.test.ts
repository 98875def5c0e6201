/**
 * Namespaces do not see each other, other users see nothing, and secrets appear nowhere. The program makes the changes; the test process
 * looks at the result.
 */
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {COMMANDS} from '../../src/commands/index.ts';
import type {Digest} from '../../src/lib/oci/descriptor.ts';
import {validateIdentifier} from '../../src/lib/oci/identifier.ts';
import {parseReference} from '../../src/lib/oci/reference.ts';
import {type CommandLine, engineEnvironment, type Result, root, run} from '../cli/harness.ts';
import {ctrHere} from '../cli/run-in-process.ts';
import {type FakeImage, type FakeOptions, type FakeRegistry, startFakeRegistry} from '../fakes/registry.ts';
import {findProgram, requiresProgram, requiresRoot, type Scope, temporaryDirectory} from '../support/helpers.ts';
import {checkStore} from '../support/invariants.ts';
import {criuFault} from '../support/tasks.ts';
import {eventually, type Started, start} from './fixtures.ts';

const architecture = {x64: 'amd64', arm64: 'arm64'}[process.arch as string]!;
const NOBODY = ['--reuid', '65534', '--regid', '65534', '--clear-groups'];

const requirements = (t: TestContext): boolean => requiresRoot(t) && requiresProgram(t, 'runc', 'unshare', 'mount', 'busybox', 'setpriv');

interface World {
  readonly registry: FakeRegistry;
  readonly ctr: CommandLine;
  readonly place: {readonly root: string; readonly state: string};
  readonly ref: string;
  /** Key of its snapshot. */
  readonly layer: string;
  readonly image: FakeImage;
}

/** `ctr` with directories that it makes itself, in one that others may pass through, and a registry with an image that runs. */
async function world(t: TestContext, options: FakeOptions = {}): Promise<World> {
  const registry = await startFakeRegistry(t, options);
  const stage = temporaryDirectory(t);
  mkdirSync(join(stage, 'bin'));
  writeFileSync(join(stage, 'bin/sh'), readFileSync(findProgram('busybox')!));
  chmodSync(join(stage, 'bin/sh'), 0o755);
  const layer = execFileSync('tar', ['-C', stage, '-cf', '-', 'bin'], {maxBuffer: 16 << 20});
  const diffID = `sha256:${createHash('sha256').update(layer).digest('hex')}`;
  const image = registry.addImage('image', 'latest', [layer], {
    architecture,
    os: 'linux',
    config: {Cmd: ['/bin/sh', '-c', 'exit 0'], Env: ['PATH=/bin']},
    rootfs: {type: 'layers', diff_ids: [diffID]},
  });
  const {ctr, place} = program(t);
  return {registry, ctr, place, ref: `${registry.host}/image:latest`, layer: diffID, image};
}

function program(scope: Scope): Pick<World, 'ctr' | 'place'> {
  const open = temporaryDirectory(scope);
  chmodSync(open, 0o755);
  const place = {root: join(open, 'root'), state: join(open, 'state')};
  const env = {...engineEnvironment('executable'), BERTH_ROOT: place.root, BERTH_STATE: place.state};
  const call = (args: readonly string[], options = {}): Promise<Result> => run(join(root, 'bin/ctr'), args, {...options, env});
  const ok = async (args: readonly string[], options = {}): Promise<string> => {
    const {status, stdout, stderr} = await call(args, options);
    assert.equal(status, 0, `ctr ${args.join(' ')}: ${stderr}`);
    return stdout;
  };
  return {ctr: Object.assign(call, {ok, env, program: 'ctr' as const}), place};
}

const SNAPSHOTTER = ['--snapshotter', 'overlayfs'];

/** Everything visible in a namespace, including times of last changes. */
async function visible({place}: World, namespace: string): Promise<unknown> {
  const ask = async (...words: string[]): Promise<unknown> => {
    const {status, stdout, stderr} = await ctrHere(place, ['-n', namespace, ...words, '--json']);
    assert.equal(status, 0, `${words.join(' ')}: ${stderr}`);
    return stdout;
  };
  const images = await ask('images', 'ls');
  const names = (JSON.parse(images as string) as {name: string}[]).map(({name}) => name);
  const containers = (JSON.parse((await ask('containers', 'ls')) as string) as {id: string}[]).map(({id}) => id);
  const namespaces = JSON.parse((await ask('namespaces', 'ls')) as string) as {name: string}[];
  const snapshots = JSON.parse((await ask('snapshots', 'ls', ...SNAPSHOTTER)) as string) as {key: string; kind: string}[];
  const keys = snapshots.filter(({kind}) => kind !== 'committed').map(({key}) => key);
  const each = (of: readonly string[], ...words: string[]): Promise<unknown[]> => Promise.all(of.map((one) => ask(...words, one)));
  return [
    images,
    await each(names, 'images', 'inspect'),
    await ask('images', 'check', ...SNAPSHOTTER),
    await ask('content', 'ls'),
    await ask('content', 'active'),
    await ask('snapshots', 'ls', ...SNAPSHOTTER),
    await each(keys, 'snapshots', 'mounts', ...SNAPSHOTTER, '/mnt'),
    await ask('leases', 'ls'),
    await ask('volumes', 'ls'),
    await each(containers, 'containers', 'info'),
    namespaces.find(({name}) => name === namespace),
  ];
}

const digestOf = (text: string): Digest => `sha256:${createHash('sha256').update(text).digest('hex')}` as Digest;

/** Fills a namespace with objects that carry its name. */
async function fill({ctr, ref, layer}: World, namespace: string): Promise<void> {
  const ok = (words: readonly string[], options = {}): Promise<string> => ctr.ok(['-n', namespace, ...words], options);
  await ok(['namespaces', 'create', namespace, `whose=${namespace}`]);
  await ok(['pull', '--progress', 'none', ...SNAPSHOTTER, ref]);
  await ok(['images', 'tag', ref, 'mine:1']);
  await ok(['images', 'label', 'mine:1', `whose=${namespace}`]);
  await ok(['content', 'ingest', 'notes'], {input: `notes of ${namespace}`});
  await ok(['content', 'label', digestOf(`notes of ${namespace}`), `whose=${namespace}`]);
  await ok(['leases', 'create', '--id', 'kept', `whose=${namespace}`]);
  await ok(['snapshots', 'prepare', ...SNAPSHOTTER, 'active', layer]);
  await ok(['snapshots', 'prepare', ...SNAPSHOTTER, 'work', layer]);
  await ok(['snapshots', 'commit', ...SNAPSHOTTER, 'committed', 'work']);
  await ok(['snapshots', 'label', ...SNAPSHOTTER, 'committed', `whose=${namespace}`]);
  await ok(['snapshots', 'view', ...SNAPSHOTTER, 'view', 'committed']);
  await ok(['volumes', 'create', '--label', `whose=${namespace}`, 'v1']);
  await ok(['run', ...SNAPSHOTTER, '-v', 'v1:/volume', ref, 'c1', '/bin/sh', '-c', `echo ${namespace} > /whose`]);
}

/** Results of each reading command in a namespace, with status and message, without times. */
async function answers(
  {place}: World,
  namespace: string,
  images: readonly string[],
  digests: readonly string[],
): Promise<ReadonlyMap<string, unknown>> {
  const all = new Map<string, unknown>();
  const ask = async (...words: string[]): Promise<void> => {
    const {status, stdout, stderr} = await ctrHere(place, ['-n', namespace, ...words, ...(words.includes('get') ? [] : ['--json'])]);
    // A hint may name other namespaces.
    const error =
      words.includes('get') || stderr === '' ? stderr.split('\n')[0] : (JSON.parse(stderr) as {error: {message: string}}).error.message;
    all.set(words.join(' '), [status, stdout, error]);
  };
  for (const image of images) {
    await ask('images', 'inspect', '--content', image);
    await ask('images', 'usage', ...SNAPSHOTTER, image);
    await ask('images', 'verify', image);
  }
  for (const kind of ['images ls', 'content ls', 'content active', 'leases ls', 'containers ls', 'tasks ls', 'volumes ls'])
    await ask(...kind.split(' '));
  await ask('images', 'check', ...SNAPSHOTTER);
  for (const digest of digests) await ask('content', 'get', digest);
  for (const word of ['ls', 'tree']) await ask('snapshots', word, ...SNAPSHOTTER);
  for (const word of ['info', 'usage']) await ask('snapshots', word, ...SNAPSHOTTER, 'mine');
  await ask('snapshots', 'mounts', ...SNAPSHOTTER, '/mnt', 'mine');
  await ask('containers', 'info', 'c1');
  await ask('containers', 'systemd', 'c1');
  await ask('volumes', 'inspect', 'v1');
  for (const word of ['attach', 'logs', 'metrics', 'ps', 'wait']) await ask('tasks', word, 'c1');
  await ask('tasks', 'stats', '--no-stream', 'c1');
  await ask('diff', 'c1');
  await ask('snapshots', 'diff', ...SNAPSHOTTER, 'mine');
  return all;
}

/** Commands without visible changes. */
const READING =
  /^(version|doctor|df|completion|config (explain|show)|login|logout|ping|attach|copy|sync|registry rm|resolve|tags|catalog|inspect|referrers|namespaces ls|images (ls|check|inspect|usage|verify)|content (ls|get|active|fetch-object|fetch-blob)|snapshots (ls|info|mounts|tree|usage)|leases ls|containers (ls|info|systemd)|volumes (ls|inspect)|tasks (attach|ls|wait|logs|metrics|ps|stats)|diff|events|info|oci spec|snapshots diff|unshare)$/;

/** Every changing command, in an order in which each succeeds. */
const changes = (
  {ref, image}: World,
  key: string,
  mountpoint: string,
  archive: string,
): readonly (readonly [words: readonly string[], input?: string])[] => [
  [['namespaces', 'label', 'a', 'whose=changed']],
  [['images', 'label', 'mine:1', 'whose=changed', 'more=1']],
  [['images', 'tag', ref, 'mine:2']],
  [['images', 'convert', '--progress', 'none', '--compression', 'gzip', ref, 'mine:3']],
  [['images', 'flatten', '--progress', 'none', ref, 'mine:4']],
  [['images', 'mutate', '--progress', 'none', '--env', 'A=b', ref, 'mine:5']],
  [['images', 'append', '--progress', 'none', ref, 'mine:6', join(mountpoint, '../layer.tar')]],
  [['images', 'rebase', '--progress', 'none', '--old-base', ref, '--new-base', 'mine:4', 'mine:6', 'mine:7']],
  [['pull', '--progress', 'none', ...SNAPSHOTTER, ref]],
  [['push', '--progress', 'none', `${parseReference(ref).domain}/pushed:1`, ref]],
  [['content', 'push-object', `${parseReference(ref).domain}/pushed`, digestOf('notes of a')]],
  [['content', 'fetch', '--progress', 'none', ref]],
  [['content', 'ingest', 'notes-2'], 'more notes'],
  [['content', 'label', digestOf('notes of a'), 'whose=changed']],
  [['content', 'rm', digestOf('notes of a')]],
  [['content', 'edit', '--editor', 'echo >>', digestOf('more notes')]],
  [['images', 'export', archive, ref]],
  [['images', 'import', '--progress', 'none', ...SNAPSHOTTER, archive]],
  [['snapshots', 'unpack', ...SNAPSHOTTER, image.manifest.digest]],
  [['leases', 'create', '--id', 'second']],
  [['leases', 'rm', 'second', 'kept']],
  [['snapshots', 'prepare', ...SNAPSHOTTER, 'work', key]],
  [['snapshots', 'label', ...SNAPSHOTTER, 'active', 'whose=changed']],
  [['snapshots', 'commit', ...SNAPSHOTTER, 'committed-2', 'work']],
  [['snapshots', 'view', ...SNAPSHOTTER, 'view-2', 'committed-2']],
  [['snapshots', 'rm', ...SNAPSHOTTER, 'view', 'view-2', 'committed-2', 'active']],
  [['run', '--rm', ...SNAPSHOTTER, ref, 'c2', '/bin/sh', '-c', 'echo a > /whose']],
  [['containers', 'label', 'c1', 'a=b']],
  [['containers', 'create', ...SNAPSHOTTER, ref, 'c9', '/bin/sh', '-c', 'sleep 100']],
  [['tasks', 'start', '--detach', 'c9']],
  [['tasks', 'exec', 'c9', '/bin/sh', '-c', 'echo a > /tmp-a']],
  [['tasks', 'pause', 'c9']],
  [['tasks', 'resume', 'c9']],
  [['tasks', 'kill', '--signal', 'WINCH', 'c9']],
  [['tasks', 'stop', '--time', '10ms', 'c9']],
  [['containers', 'start', 'c9']],
  [['containers', 'update', '--pids-limit', '100', 'c9']],
  [['containers', 'restart', '--time', '10ms', 'c9']],
  [['containers', 'checkpoint', '--progress', 'none', 'c9']],
  [['containers', 'restore', '--progress', 'none', '--keep', 'c9']],
  [['containers', 'checkpoint', '--remove', 'c9']],
  [['tasks', 'stop', '--time', '10ms', 'c9']],
  [['containers', 'start', 'c9']],
  [['tasks', 'checkpoint', '--progress', 'none', 'c9']],
  [['tasks', 'stop', '--time', '10ms', 'c9']],
  [['tasks', 'rm', 'c9']],
  [['containers', 'cp', archive, 'c1:/archive']],
  [['commit', '--progress', 'none', 'c1', 'mine:8']],
  [['images', 'rm', 'mine:8']],
  [['unpack', ref, join(mountpoint, '../bundle')]],
  [['repack', '--progress', 'none', ...SNAPSHOTTER, join(mountpoint, '../bundle'), 'mine:8']],
  [['images', 'rm', 'mine:8']],
  [['containers', 'rm', 'c1']],
  [['volumes', 'create', 'v2']],
  [['volumes', 'rm', 'v1']],
  [['volumes', 'prune']],
  [['images', 'mount', ...SNAPSHOTTER, ref, mountpoint]],
  [['images', 'unmount', '--rm', mountpoint]],
  [['images', 'rm', ...[1, 2, 3, 4, 5, 6, 7].map((n) => `mine:${n}`)]],
  [['check', '--deep', '--repair', '--progress', 'none']],
  [['gc']],
  [['content', 'prune', 'references']],
  [['images', 'rm', ref]],
  [['images', 'prune', '--all']],
  [['prune']],
  [['namespaces', 'create', 'new']],
  [['namespaces', 'rm', '--recursive', 'a']],
];

describe('a namespace', () => {
  it('does not see what any command does in another', async (t) => {
    if (!requirements(t)) return;
    const w = await world(t);
    await fill(w, 'a');
    await fill(w, 'b');
    const before = await visible(w, 'b');
    const place = temporaryDirectory(t);
    mkdirSync(join(place, 'mount'));
    writeFileSync(join(place, 'layer.tar'), Buffer.alloc(1024));
    const done = changes(w, w.layer, join(place, 'mount'), join(place, 'images.tar'));
    const called = new Set(done.map(([[first, second]]) => (`${first} ${second}` in COMMANDS.commands ? `${first} ${second}` : first)));
    assert.deepEqual(
      Object.keys(COMMANDS.commands).filter((id) => !READING.test(id) && !called.has(id)),
      [],
      'each command that changes something is tried',
    );
    const hasCriu = criuFault() === undefined;
    for (const [words, input = ''] of done) {
      if (!hasCriu && ['checkpoint', 'restore'].includes(words[1]!)) continue;
      await w.ctr.ok(['-n', 'a', ...words], {input});
      assert.deepEqual(await visible(w, 'b'), before, `after ctr -n a ${words.join(' ')}`);
    }
    assert.equal(await w.ctr.ok(['-n', 'b', 'content', 'get', digestOf('notes of b')]), 'notes of b');
    const {stdout} = await ctrHere(w.place, ['check', '--deep', '--progress', 'none']);
    assert.match(stdout, /nothing wrong\n$/);
    assert.deepEqual(checkStore(w.place.root), []);
  });

  it('has its own names: references, labels, leases, ingests, snapshots, containers', async (t) => {
    if (!requirements(t)) return;
    const w = await world(t);
    for (const namespace of ['a', 'b']) await fill(w, namespace);
    for (const namespace of ['a', 'b']) {
      const other = namespace === 'a' ? 'b' : 'a';
      const shown = JSON.stringify(await visible(w, namespace));
      assert.ok(
        shown.includes(`whose=${namespace}`) ||
          shown.includes(`whose\\":\\"${namespace}`) ||
          shown.includes(`\\"whose\\": \\"${namespace}`),
      );
      assert.doesNotMatch(shown, new RegExp(`whose[\\\\": =]+${other}\\b`));
      assert.equal((await w.ctr(['-n', namespace, 'content', 'get', digestOf(`notes of ${other}`)])).status, 5);
      const [layer] = (
        JSON.parse(await w.ctr.ok(['-n', namespace, 'snapshots', 'mounts', ...SNAPSHOTTER, '/mnt', 'c1', '--json'])) as {
          options: string[];
        }[]
      )
        .flatMap(({options}) => options)
        .filter((option) => option.startsWith('upperdir='));
      assert.equal(readFileSync(join(layer!.slice('upperdir='.length), 'whose'), 'utf8'), `${namespace}\n`);
    }
  });

  it('responds as if no other namespace had the content that it lacks', async (t) => {
    if (!requirements(t)) return;
    for (const lacks of ['nothing', 'layer', 'config', 'manifest', 'index', 'manifest of another platform', 'layer of another platform']) {
      const w = await world(t);
      const host = w.registry.host;
      const {manifest, config, layers} = w.image;
      const foreign = w.registry.addImage('image', 'foreign', [Buffer.from('no layer')], {
        architecture: 's390x',
        os: 'linux',
        rootfs: {type: 'layers', diff_ids: [digestOf('no layer')]},
      });
      const index = w.registry.addIndex('image', 'index', [
        {...manifest, platform: {os: 'linux', architecture}},
        {...foreign.manifest, platform: {os: 'linux', architecture: 's390x'}},
      ]);
      const images = ['latest', 'index', 'foreign'].map((tag) => `${host}/image:${tag}`);
      const pull = async (namespace: string): Promise<void> => {
        await w.ctr.ok(['-n', namespace, 'pull', '--progress', 'none', ...SNAPSHOTTER, images[0]!]);
        await w.ctr.ok(['-n', namespace, 'pull', '--progress', 'none', ...SNAPSHOTTER, images[1]!]);
        await w.ctr.ok(['-n', namespace, 'pull', '--progress', 'none', '--no-unpack', '--platform', 'linux/s390x', images[2]!]);
      };
      await pull('b');
      await w.ctr.ok(['-n', 'b', 'snapshots', 'prepare', ...SNAPSHOTTER, 'mine', w.layer]);
      await w.ctr.ok(['-n', 'b', 'run', ...SNAPSHOTTER, images[0]!, 'c1', '/bin/sh', '-c', 'exit 0']);
      const lacking: Readonly<Record<string, Digest>> = {
        layer: layers[0]!.digest,
        config: config.digest,
        manifest: manifest.digest,
        index: index.digest,
        'manifest of another platform': foreign.manifest.digest,
        'layer of another platform': foreign.layers[0]!.digest,
      };
      if (lacks !== 'nothing') await w.ctr.ok(['-n', 'b', 'content', 'rm', lacking[lacks]!]);
      const digests = Object.values(lacking);
      const alone = await answers(w, 'b', images, digests);
      const called = [...alone.keys()];
      // Of the machine, or of registries without a store.
      const GLOBAL =
        /^(version|unshare|doctor|df|completion|config (explain|show)|events|info|oci spec|login|logout|ping|namespaces ls|attach|copy|sync|registry rm|resolve|tags|catalog|inspect|referrers|content fetch-(object|blob))$/;
      const untried = Object.keys(COMMANDS.commands).filter(
        (id) => READING.test(id) && !GLOBAL.test(id) && !called.some((words) => words.startsWith(id)),
      );
      assert.deepEqual(untried, [], 'each command that reads is tried');
      await pull('a');
      assert.deepEqual(await answers(w, 'b', images, digests), alone, `without ${lacks}, beside a`);
      const cannot = await w.ctr(['-n', 'b', 'run', '--rm', '--snapshotter', 'native', images[0]!, 'c2', '/bin/sh', '-c', 'exit 0']);
      assert.equal(cannot.status, ['layer', 'config', 'manifest'].includes(lacks) ? 125 : 0, `without ${lacks}: ${cannot.stderr}`);
      await w.ctr.ok(['-n', 'a', 'images', 'rm', ...images]);
      const withNative = (one: ReadonlyMap<string, unknown>): unknown => [...one].filter(([words]) => words !== 'content ls');
      assert.deepEqual(withNative(await answers(w, 'b', images, digests)), withNative(alone), `without ${lacks}, after a has removed it`);
      assert.deepEqual(
        checkStore(w.place.root).filter((line) => !/points to content|content .* is missing/.test(line)),
        [],
      );
    }
  });

  it('runs containers with the same id as another, at the same time, for any namespace name', async (t) => {
    if (!requirements(t)) return;
    const w = await world(t);
    const names = ['a', 'views', 'erofs.json', 'runs', 'bundles', 'version'];
    const runs: Started[] = [];
    for (const namespace of names) {
      validateIdentifier(namespace);
      await w.ctr.ok(['-n', namespace, 'pull', '--progress', 'none', ...SNAPSHOTTER, w.ref]);
      runs.push(
        start(w.ctr, [
          '-n',
          namespace,
          'run',
          '--rm',
          ...SNAPSHOTTER,
          w.ref,
          'c1',
          '/bin/sh',
          '-c',
          'trap "exit 7" TERM; while :; do sleep 0.1; done',
        ]),
      );
    }
    const init = (namespace: string): string => join(w.place.state, 'runs', namespace, 'bundles/c1/init.pid');
    for (const namespace of names) await eventually(`container of ${namespace}`, () => existsSync(init(namespace)));
    const twice = await w.ctr(['-n', 'views', 'run', '--rm', ...SNAPSHOTTER, w.ref, 'c1']);
    assert.equal(twice.status, 125);
    assert.match(twice.stderr, /already exists\n/);
    for (const [i, namespace] of names.entries()) {
      runs[i]!.child.kill('SIGTERM');
      const {status, stderr} = await runs[i]!.ended;
      assert.ok(status === 7 || status === 143, `${namespace}: ${status} ${stderr}`);
      for (const later of names.slice(i + 1)) assert.ok(existsSync(`/proc/${readFileSync(init(later), 'utf8')}`), `${later} runs on`);
    }
    assert.match(await w.ctr.ok(['check']), /nothing wrong\n$/);
  });
});

/** Paths of everything below, and the directory itself. */
function everything(directory: string): string[] {
  const found = readdirSync(directory, {recursive: true, withFileTypes: true, encoding: 'utf8'});
  return [directory, ...found.filter((entry) => entry.isFile() || entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name))];
}

describe('another user of the machine', () => {
  it('reads and lists nothing, for any umask', async (t) => {
    if (!requirements(t)) return;
    const w = await world(t);
    const open = {input: ''};
    const umask = ['sh', '-c', 'umask 0; exec "$@"', 'sh', join(root, 'bin/ctr')];
    const loose = async (...words: string[]): Promise<void> => {
      const {status, stderr} = await run(umask[0]!, [...umask.slice(1), ...words], {...open, env: w.ctr.env});
      assert.equal(status, 0, `${words.join(' ')}: ${stderr}`);
    };
    for (const snapshotter of ['overlayfs', 'native']) await loose('pull', '--progress', 'none', '--snapshotter', snapshotter, w.ref);
    await loose('run', ...SNAPSHOTTER, '--env', 'SECRET=xyzzy', w.ref, 'kept', '/bin/sh', '-c', 'echo mine > /mine');
    await loose('leases', 'create', '--id', 'l');
    const running = start(w.ctr, ['run', '--rm', ...SNAPSHOTTER, w.ref, 'c1', '/bin/sh', '-c', 'while :; do sleep 0.1; done']);
    await eventually('a container', () => existsSync(join(w.place.state, 'runs/default/bundles/c1/init.pid')));
    const paths = [w.place.root, w.place.state].flatMap(everything);
    assert.ok(paths.length > 60, 'there is something to be read');
    const look =
      'while IFS= read -r path; do { [ -d "$path" ] && ls -- "$path" || head -c 1 -- "$path"; } >/dev/null 2>&1 && printf "%s\\n" "$path"; done';
    const {stdout, status} = spawnSync('setpriv', [...NOBODY, 'sh', '-c', look], {input: `${paths.join('\n')}\n`, encoding: 'utf8'});
    process.kill(Number(readFileSync(join(w.place.state, 'runs/default/bundles/c1/init.pid'), 'utf8')), 'SIGKILL');
    assert.equal((await running.ended).status, 137);
    assert.ok(status !== null);
    assert.deepEqual(
      stdout.split('\n').filter((path) => path !== ''),
      [join(w.place.root, 'version')],
      'which says a number',
    );
  });
});

describe('a secret', () => {
  const SECRET = 'hunter2-Zx9';
  const encoded = (user: string): string => Buffer.from(`${user}:${SECRET}`).toString('base64');

  /** What of these is found in some text. */
  const leaked = (text: string, secrets: readonly string[]): readonly string[] => secrets.filter((secret) => text.includes(secret));

  function onDisk(place: World['place'], secrets: readonly string[]): readonly string[] {
    return [place.root, place.state]
      .filter((directory) => existsSync(directory))
      .flatMap(everything)
      .filter((path) => !readdirSafely(path) && leaked(readFileSync(path, 'latin1'), secrets).length > 0);
  }

  const readdirSafely = (path: string): boolean => {
    try {
      readdirSync(path);
      return true;
    } catch {
      return false;
    }
  };

  for (const kind of ['basic', 'token'] as const)
    it(`for a registry (${kind}) is in no log, error or record`, async (t) => {
      if (!requirements(t)) return;
      const login = {username: 'me', password: SECRET};
      const w = await world(t, {auth: {kind, login}});
      const bearer = (): string[] => w.registry.requests.flatMap(({authorization}) => authorization?.split(' ')[1] ?? []);
      const said: string[] = [];
      const say = async (words: readonly string[], expected: number): Promise<void> => {
        const {status, stdout, stderr} = await w.ctr(words);
        assert.equal(status, expected, stderr);
        said.push(stdout, stderr);
      };
      const pull = ['pull', '--debug', '--progress', 'plain', ...SNAPSHOTTER, '--user', `me:${SECRET}`];
      await say([...pull, w.ref], 0);
      await say([...pull, '--json', '-n', 'other', w.ref], 0);
      const secrets = [SECRET, encoded('me'), ...new Set(bearer())];
      assert.ok(secrets.length > 2 && said.join('').includes('127.0.0.1'), 'there was something to say');
      assert.deepEqual(leaked(said.join('\n'), secrets), []);
      assert.deepEqual(onDisk(w.place, secrets), []);
    });

  it('is in no command line of a process that a pull or a run starts', async (t) => {
    if (!requirements(t)) return;
    const login = {username: 'me', password: SECRET};
    const w = await world(t, {auth: {kind: 'basic', login}});
    const own = `--user=me:${SECRET}`;
    const seen = new Set<string>();
    const shown = new Set<string>();
    /** Command lines of a process's descendants, while it lives. */
    const watch = async (started: Started): Promise<Result> => {
      let isOver = false;
      const ended = started.ended.finally(() => {
        isOver = true;
      });
      while (!isOver) {
        const mine = read(`/proc/${started.child.pid}/cmdline`);
        shown.add(mine);
        for (const pid of descendants(started.child.pid!)) {
          const line = read(`/proc/${pid}/cmdline`);
          // One that has not become its program yet has its parent's, which is what the user typed; just then, the beginning of it.
          if (line !== '' && (mine === '' || !line.startsWith(mine.slice(0, 100)))) seen.add(line);
        }
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      return ended;
    };
    const pulled = await watch(start(w.ctr, ['pull', '--progress', 'none', ...SNAPSHOTTER, own, w.ref]));
    assert.equal(pulled.status, 0, pulled.stderr);
    const ran = await watch(
      start(w.ctr, [
        ...['run', '--rm', ...SNAPSHOTTER, '--user', '0:0', '--env', `TOKEN=${SECRET}`],
        ...[w.ref, 'c1', '/bin/sh', '-c', 'sleep 0.3; [ -n "$TOKEN" ]'],
      ]),
    );
    assert.equal(ran.status, 0, ran.stderr);
    assert.ok(
      [...seen].some((line) => /runc/.test(line)),
      [...seen].join('\n'),
    );
    assert.deepEqual(
      [...seen].filter((line) => line.includes(SECRET)),
      [],
    );
    assert.ok([...shown].some((line) => line.includes(`--user=me:${'*'.repeat(SECRET.length)}`)));
    assert.ok(![...shown].some((line) => line.includes('--user 0:*')), 'the user of a container is no secret');
    assert.deepEqual(onDisk(w.place, [SECRET]), [], 'nor in what a run with --rm has left');
  });

  it('of a container is in no error when the container cannot be started', async (t) => {
    if (!requirements(t)) return;
    const w = await world(t);
    await w.ctr.ok(['pull', '--progress', 'none', ...SNAPSHOTTER, w.ref]);
    for (const flags of [[], ['--json'], ['--debug']])
      for (const command of ['nonesuch', '/bin']) {
        const {status, stdout, stderr} = await w.ctr([
          'run',
          '--rm',
          ...flags,
          ...SNAPSHOTTER,
          '--env',
          `TOKEN=${SECRET}`,
          w.ref,
          'c1',
          command,
        ]);
        assert.ok(status === 127 || status === 126, stderr);
        assert.deepEqual(leaked(stdout + stderr, [SECRET]), []);
      }
  });
});

const read = (path: string): string => {
  try {
    return readFileSync(path, 'latin1').replaceAll('\0', ' ').trim();
  } catch {
    return '';
  }
};

/** Descendants of a process. */
function descendants(pid: number): readonly number[] {
  const children = read(`/proc/${pid}/task/${pid}/children`)
    .split(' ')
    .filter((word) => word !== '')
    .map(Number);
  return children.flatMap((child) => [child, ...descendants(child)]);
}
