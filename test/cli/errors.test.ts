/**
 * Every class of error by real command lines: its exit status, its one line on standard error, its JSON. The loop is over the
 * table of classes, so that a new one asks for its command line.
 */
import assert from 'node:assert/strict';
import {execFileSync, spawn, spawnSync} from 'node:child_process';
import {createHash, randomBytes} from 'node:crypto';
import {chmodSync, chownSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {createServer} from 'node:net';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {pathToFileURL} from 'node:url';
import {CLASSES, CODES, type Code, type ErrorJSON} from '../../src/lib/errdefs.ts';
import {OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';
import {assertWhole, eventually, names, start} from '../e2e/fixtures.ts';
import {type FakeRegistry, startFakeRegistry} from '../fakes/registry.ts';
import {findProgram, onEnd, requiresProgram, requiresRoot, slow, temporaryDirectory} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {file, tar} from '../support/tartest.ts';
import {type CommandLine, commandLine, forEachEngine, type Program, type Result, root, run} from './harness.ts';
import {assertNamed, commandsIn, runHint} from './hints.ts';

/** Where a command line goes wrong: a store of its own, and a registry that does as it is told. */
interface World {
  readonly t: TestContext;
  readonly ctr: CommandLine;
  /** Its program. */
  readonly program: Program;
  readonly registry: FakeRegistry;
  /** An image in the registry. */
  readonly ref: string;
}

interface Case {
  readonly code: Code;
  /** What is wrong. */
  readonly name: string;
  /** False when it has skipped the test. */
  readonly requires?: (t: TestContext) => boolean;
  /** Makes it so, once. */
  readonly prepare?: (world: World) => unknown;
  /** Runs the command line that fails, with these flags more. */
  fails(world: World, flags: readonly string[]): Promise<Result>;
}

/** A command line that only has to be typed. */
const typed = (code: Code, name: string, args: (world: World) => readonly string[], prepare?: Case['prepare']): Case => ({
  code,
  name,
  ...(prepare === undefined ? {} : {prepare}),
  fails: (world, flags) => world.ctr([...flags, ...args(world)]),
});

const pull = ({ref}: World): readonly string[] => ['pull', '--progress', 'none', '--no-unpack', ref];

/** A pull from a registry that answers like this. */
const answered = (code: Code, name: string, fault: Parameters<FakeRegistry['fault']>[0]): Case =>
  typed(code, name, pull, ({registry}) => registry.fault(fault));

/** Puts an image for this machine into a registry, with one layer that is not compressed. */
function addImage(registry: FakeRegistry, layer: Buffer, config: object = {}): void {
  const diffID = `sha256:${createHash('sha256').update(layer).digest('hex')}`;
  registry.addImage('image', 'latest', [layer], {
    architecture: ARCHITECTURE,
    os: 'linux',
    config,
    rootfs: {type: 'layers', diff_ids: [diffID]},
  });
}

const exitOf = (code: Code): number => CLASSES[code].exit;

const rootOf = ({ctr}: World): string => ctr.env.BERTH_ROOT!;

/** The one file in a directory of the store, whatever it is called. */
function onlyFile(...path: string[]): string {
  const dir = join(...path);
  const [name, ...more] = readdirSync(dir).filter((entry) => entry.endsWith('.json') || !entry.includes('.'));
  assert.deepEqual(more, []);
  return join(dir, name!);
}

/** Ends when its standard input does. Holds the lock of the store's records, stopped. */
const HOLDER = `
  import {acquireLock} from ${JSON.stringify(pathToFileURL(join(root, 'src/lib/fs/lock.ts')).href)};
  await acquireLock(process.argv[1], {timeoutMs: 1000, purpose: 'a test'});
  process.stdout.write('held');
  process.kill(process.pid, 'SIGSTOP');
  setInterval(() => {}, 1000);`;

const FULL_DISK = `mount -t tmpfs -o size=300k tmpfs "$1"; shift; exec "$@"`;

const NOBODY = ['--reuid', '65534', '--regid', '65534', '--clear-groups'];

/** True when other users can run what is in this checkout: it may lie in somebody's home. */
function requiresPassage(t: TestContext): boolean {
  const {status} = spawnSync('setpriv', [...NOBODY, 'test', '-x', join(root, 'bin/ctr')]);
  if (status !== 0) t.skip('no other user can reach this checkout');
  return status === 0;
}

const CASES: readonly Case[] = [
  {
    code: 'unknown',
    name: 'an error of the system that has no class: the file "version" is a socket',
    prepare: async (world) => {
      const server = createServer();
      await new Promise<void>((done) => server.listen(join(rootOf(world), 'version'), done));
      onEnd(world.t, () => server.close());
    },
    fails: ({ctr}, flags) => ctr([...flags, 'images', 'ls']),
  },

  typed('invalid_argument', 'a flag that there is not', () => ['images', 'ls', '--no-such-flag']),
  typed('invalid_argument', 'an argument that is missing', () => ['images', 'rm']),
  typed('invalid_argument', 'a command that there is not', () => ['images', 'nonesuch']),
  typed('invalid_argument', 'a reference that cannot be', () => ['pull', 'Not/A/Reference']),
  typed('invalid_argument', 'a namespace that cannot be', () => ['-n', '../up', 'images', 'ls']),
  typed('invalid_argument', 'a filter that cannot be read', () => ['images', 'ls', 'name==']),
  typed('invalid_argument', 'a manifest that is none', pull, ({registry}) =>
    registry.addManifest('image', Buffer.from('{'), OCI_MANIFEST, 'latest'),
  ),

  typed(
    'deadline_exceeded',
    '--timeout with a registry that says nothing',
    (world) => ['--timeout', '300ms', ...pull(world)],
    ({registry}) => registry.fault({stallAt: -1}),
  ),

  typed('not_found', 'an image that there is not', () => ['images', 'rm', 'nonesuch']),
  typed('not_found', 'a namespace that there is not', () => ['namespaces', 'rm', 'nonesuch']),
  typed('not_found', 'a container that there is not', () => ['containers', 'info', 'nonesuch']),
  typed('not_found', 'a snapshotter that there is not', (world) =>
    [...pull(world), '--snapshotter', 'nonesuch'].filter((flag) => flag !== '--no-unpack'),
  ),
  typed('not_found', 'a tag that the registry does not have', ({registry}) => [
    'pull',
    '--progress',
    'none',
    `${registry.host}/image:other`,
  ]),
  typed(
    'not_found',
    'a platform that the image does not have',
    ({ref}) => ['pull', '--progress', 'none', '--platform', 'linux/s390x', ref.replace(/latest$/, 'index')],
    ({registry}) => {
      const {manifest} = registry.addImage('image', 'latest', [Buffer.from('a layer')]);
      registry.addIndex('image', 'index', [{...manifest, platform: {os: 'linux', architecture: 'amd64'}}]);
    },
  ),

  typed(
    'already_exists',
    'a namespace that there is',
    () => ['namespaces', 'create', 'twice'],
    ({ctr}) => ctr.ok(['namespaces', 'create', 'twice']),
  ),
  typed(
    'not_modified',
    'a pull of what is here already, where only a change is wanted',
    (world) => [...pull(world), '--if-changed'],
    async (world) => {
      await world.ctr.ok([...pull(world), '--if-changed']);
    },
  ),

  typed(
    'already_exists',
    'an image of that name',
    ({ref}) => ['images', 'tag', ref, 'twice'],
    async (world) => {
      await world.ctr.ok(pull(world));
      await world.ctr.ok(['images', 'tag', world.ref, 'twice']);
    },
  ),

  {
    code: 'permission_denied',
    name: "somebody else's state directory",
    requires: (t) => requiresRoot(t) && requiresProgram(t, 'setpriv') && requiresPassage(t),
    prepare: ({ctr}) => ctr.ok(['namespaces', 'create', 'mine']),
    fails: ({ctr, program}, flags) => {
      return run('setpriv', [...NOBODY, join(root, 'bin', program), ...flags, 'namespaces', 'create', 'theirs'], {env: ctr.env});
    },
  },
  {
    code: 'failed_precondition',
    name: 'a pull that would be unpacked, by a user who has no ids for the owners of files: nothing is asked for',
    requires: (t) => requiresRoot(t) && requiresProgram(t, 'setpriv') && requiresPassage(t),
    fails: async ({ctr, program, ref, registry, t}, flags) => {
      const home = temporaryDirectory(t);
      chownSync(home, 65534, 65534);
      const env = {...ctr.env, BERTH_ROOT: join(home, 'root'), BERTH_STATE: join(home, 'state')};
      const asNobody = (...more: string[]): Promise<Result> =>
        run('setpriv', [...NOBODY, join(root, 'bin', program), ...flags, 'pull', '--progress', 'none', ...more, ref], {env, cwd: '/'});
      const result = await asNobody();
      assert.match(result.stderr, /subuid|newuidmap/);
      assert.deepEqual([registry.requests.length, existsSync(join(home, 'root'))], [0, false]);
      assert.equal((await asNobody('--no-unpack')).status, 0, 'the way out is one');
      registry.clear();
      return result;
    },
  },
  answered('permission_denied', 'a registry that forbids it', {status: 403, code: 'DENIED'}),

  {
    code: 'resource_exhausted',
    name: 'a disk that is full',
    requires: (t) => requiresRoot(t) && requiresProgram(t, 'unshare', 'mount'),
    prepare: ({registry}) => addImage(registry, Buffer.alloc(1 << 20, 'x')),
    fails: (world, flags) => {
      const full = join(rootOf(world), '..', `${rootOf(world).split('/').at(-1)}-full`);
      mkdirSync(full, {recursive: true});
      onEnd(world.t, () => rmSync(full, {recursive: true, force: true}));
      const command = [join(root, 'bin', world.program), ...flags, '--root', full, ...pull(world)];
      return run('unshare', ['--mount', '--propagation', 'private', 'sh', '-ec', FULL_DISK, 'sh', full, ...command], {env: world.ctr.env});
    },
  },
  answered('resource_exhausted', 'a registry that asks for an hour of patience', {
    status: 429,
    code: 'TOOMANYREQUESTS',
    headers: {'retry-after': '3600'},
  }),

  typed(
    'failed_precondition',
    'a namespace that is not empty',
    () => ['namespaces', 'rm', 'default'],
    (world) => world.ctr.ok(pull(world)),
  ),
  typed(
    'failed_precondition',
    'a state directory of a later version',
    () => ['images', 'ls'],
    (world) => writeFileSync(join(rootOf(world), 'version'), '999\n'),
  ),
  typed(
    'failed_precondition',
    'a directory that is no state directory',
    () => ['namespaces', 'create', 'x'],
    (world) => writeFileSync(join(rootOf(world), 'letter.txt'), 'Dear …'),
  ),
  answered('failed_precondition', 'a blob that is not what was promised', {
    path: /\/blobs\//,
    body: (right) => Buffer.alloc(right.length, 'x'),
  }),

  {
    code: 'aborted',
    name: 'a pull into a namespace that is emptied meanwhile',
    fails: async (world, flags) => {
      const {ctr, registry} = world;
      addImage(registry, randomBytes(300_000));
      const undo = registry.fault({method: 'GET', path: /\/blobs\//, trickle: {bytes: 10_000, everyMs: 40}});
      const pulling = start(ctr, [...flags, '-n', 'emptied', ...pull(world)]);
      await eventually('a lease', () => names(join(rootOf(world), 'namespaces/emptied/leases')).length > 0);
      await ctr.ok(['namespaces', 'rm', '--recursive', 'emptied']);
      const result = await pulling.ended;
      undo();
      return result;
    },
  },

  answered('out_of_range', 'a registry that finds the range wrong', {path: /\/manifests\//, status: 416, code: 'RANGE_INVALID'}),

  answered('not_implemented', 'a registry that does not do that', {status: 405, code: 'UNSUPPORTED'}),
  typed('not_implemented', 'an image of a kind from long ago', pull, ({registry}) =>
    registry.addManifest('image', {schemaVersion: 1}, 'application/vnd.docker.distribution.manifest.v1+json', 'latest'),
  ),

  {
    code: 'internal',
    name: 'a program that this machine needs and that is broken',
    requires: requiresRoot,
    prepare: ({registry}) => {
      const layer = tar(file('attribute', 'x', 0o644, {xattrs: {'user.key': 'value'}}));
      addImage(registry, layer);
    },
    fails: ({ctr, ref, t}, flags) => {
      const bin = temporaryDirectory(t);
      writeFileSync(join(bin, 'tar'), '#!/bin/sh\necho broken >&2\nexit 1\n');
      chmodSync(join(bin, 'tar'), 0o755);
      const env = {PATH: `${bin}:${process.env.PATH}`};
      return ctr([...flags, 'pull', '--progress', 'none', '--snapshotter', 'overlayfs', ref], {env});
    },
  },

  typed('unavailable', 'a registry that does not answer', () => ['pull', '--progress', 'none', '127.0.0.1:1/image:latest']),
  answered('unavailable', 'a registry that is broken', {status: 503, code: 'UNAVAILABLE', headers: {'retry-after': '3600'}}),
  {
    code: 'unavailable',
    name: 'a lock that a stopped process holds',
    prepare: async (world) => {
      await world.ctr.ok(['namespaces', 'create', 'first']);
      const lock = join(rootOf(world), 'locks', 'store');
      const holder = spawn(process.execPath, ['--input-type=module', '-e', HOLDER, lock], {stdio: ['ignore', 'pipe', 'inherit']});
      onEnd(world.t, () => void holder.kill('SIGKILL'));
      await new Promise((done) => holder.stdout.once('data', done));
      await eventually('a stopped holder', () => / T /.test(readFileSync(`/proc/${holder.pid}/stat`, 'utf8')));
    },
    fails: ({ctr}, flags) => ctr([...flags, '--lock-timeout', '200ms', 'namespaces', 'create', 'second']),
  },

  typed(
    'data_loss',
    'a record that is damaged',
    () => ['images', 'ls'],
    async (world) => {
      await world.ctr.ok(pull(world));
      writeFileSync(onlyFile(rootOf(world), 'namespaces/default/images'), '{"version": 1, "name": 7}');
    },
  ),
  typed(
    'data_loss',
    'a blob that is damaged',
    ({ref}) => ['images', 'inspect', ref],
    async (world) => {
      await world.ctr.ok(pull(world));
      const [{target}] = JSON.parse(await world.ctr.ok(['images', 'ls', '--json'])) as [{target: {digest: string; size: number}}];
      const blob = join(rootOf(world), 'content/blobs', ...target.digest.split(':'));
      chmodSync(blob, 0o644);
      writeFileSync(blob, Buffer.alloc(target.size, 'x'));
    },
  ),
  typed(
    'data_loss',
    'a file "version" that is damaged',
    () => ['images', 'ls'],
    (world) => writeFileSync(join(rootOf(world), 'version'), '?'),
  ),

  answered('unauthenticated', 'a registry that wants to know who asks', {status: 401, code: 'UNAUTHORIZED'}),

  answered('conflict', 'a registry in contradiction', {path: /\/manifests\//, status: 409}),

  {
    code: 'canceled',
    name: 'Ctrl-C',
    fails: async (world, flags) => {
      const undo = world.registry.fault({stallAt: -1});
      const asked = world.registry.requests.length;
      const pulling = start(world.ctr, [...flags, ...pull(world)]);
      await eventually('a request', () => world.registry.requests.length > asked);
      pulling.child.kill('SIGINT');
      const result = await pulling.ended;
      undo();
      return result;
    },
  },
];

/** What differs from run to run: digests and numbers, and which look finds that something is gone. */
const steady = (text: string): string =>
  text
    .replaceAll(/\b[0-9a-f]{64}\b|\d+(\.\d+)?/g, '#')
    .replace(/: (?:content|namespace) \S+ was (?:removed|emptied) meanwhile/, ': gone meanwhile');

describe('classes of errors', () => {
  it('each has a test case', () => {
    const reached = new Set(CASES.map(({code}) => code));
    assert.deepEqual(
      CODES.filter((code) => !reached.has(code)),
      [],
    );
  });
});

forEachEngine('a command line that fails', (engine) => {
  for (const code of CODES)
    for (const [i, {name, requires = () => true, prepare, fails}] of CASES.filter((candidate) => candidate.code === code).entries())
      it(`${code}: ${name}`, async (t) => {
        // --short is content with one of each class on the engine that starts more slowly.
        if (engine === 'node' && i > 0 && !slow(t)) return;
        if (!requires(t)) return;
        const registry = await startFakeRegistry(t);
        addImage(registry, Buffer.from('a layer'));
        const program = engine === 'node' ? 'ctr' : 'berth';
        const world: World = {t, registry, program, ctr: commandLine(t, engine, program), ref: `${registry.host}/image:latest`};
        await prepare?.(world);
        const {exit, text} = CLASSES[code];

        const plain = await fails(world, []);
        assert.equal(plain.status, exit, plain.stderr);
        assert.equal(plain.stdout, '');
        const [line = '', ...rest] = plain.stderr.split('\n');
        assert.match(line, new RegExp(`^${program}: \\S`));
        assertNamed(program, plain.stderr);
        assert.ok(line.endsWith(`: ${text}`), line);
        assert.match(rest.join('\n'), /^(hint: \S.*\n)?$/, plain.stderr);

        // A registry that asked for a pause is asked again, as it would be without what the first call has noted.
        rmSync(join(world.ctr.env.BERTH_STATE!, 'cool-downs'), {recursive: true, force: true});
        const json = await fails(world, ['--json']);
        assert.equal(json.status, exit, json.stderr);
        // What worked on several things says which of them succeeded.
        assert.match(json.stdout, /^(\{\s+"\w+": \[\]\s+\}\n)?$/);
        assert.match(json.stderr, /^\{.*\}\n$/);
        const {error} = JSON.parse(json.stderr) as {error: ErrorJSON};
        assert.equal(error.kind, code);
        assert.equal(error.code, exit);
        assert.equal(steady(`${program}: ${error.message}`), steady(line));
        assert.equal(error.hint === undefined ? '' : steady(`hint: ${error.hint}\n`), steady(rest.join('\n')));
        // Its registry may still be the one that fails; the line itself is right.
        for (const command of commandsIn(error.hint ?? '')) {
          const {status, stderr} = await runHint(command, {...world.ctr.env, BERTH_STATE: temporaryDirectory(t)});
          assert.ok(status !== exitOf('invalid_argument') && status < 126, `${command}: ${status}: ${stderr}`);
        }
      });
});

forEachEngine('run', (engine) => {
  for (const [status, code, what, args, env] of [
    [127, 'not_found', 'a command that is not there', ['IMAGE', 'c1', 'nonesuch'], {}],
    [126, 'permission_denied', 'a command that cannot be executed', ['IMAGE', 'c1', '/etc/passwd'], {}],
    [125, 'not_found', 'an image that is not there', ['nonesuch', 'c1'], {}],
    [125, 'not_found', 'a mount source that is not there', ['--mount', 'src=/nonesuch,dst=/mnt', 'IMAGE', 'c1'], {}],
    [125, 'invalid_argument', 'a flag that there is not', ['--no-such-flag', 'IMAGE', 'c1'], {}],
    [125, 'invalid_argument', 'an id that cannot be', ['IMAGE', '../c1'], {}],
    [125, 'unavailable', 'a runtime that is not there', ['IMAGE', 'c1'], {RUNC: '/nonesuch'}],
    [125, 'failed_precondition', 'a terminal that is not there', ['-t', 'IMAGE', 'c1'], {}],
  ] as const)
    it(`${what}: ends with ${status}, and the class is in the JSON`, async (t) => {
      if (engine === 'node' && !slow(t)) return;
      if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'unshare', 'mount', 'busybox')) return;
      const registry = await startFakeRegistry(t);
      const stage = temporaryDirectory(t);
      mkdirSync(join(stage, 'etc'));
      mkdirSync(join(stage, 'bin'));
      writeFileSync(join(stage, 'etc/passwd'), 'root:x:0:0:root:/:/bin/sh\n');
      writeFileSync(join(stage, 'bin/sh'), readFileSync(findProgram('busybox')!));
      chmodSync(join(stage, 'bin/sh'), 0o755);
      const layer = execFileSync('tar', ['-C', stage, '-cf', '-', 'bin', 'etc'], {maxBuffer: 16 << 20});
      addImage(registry, layer, {Cmd: ['/bin/sh', '-c', 'exit 0'], Env: ['PATH=/bin']});
      const ctr = commandLine(t, engine);
      const ref = `${registry.host}/image:latest`;
      await ctr.ok(['pull', ref]);
      const words = args.map((word) => (word === 'IMAGE' ? ref : word));
      const plain = await ctr(['run', '--rm', ...words], {env});
      assert.equal(plain.status, status, plain.stderr);
      assert.ok(plain.stderr.split('\n')[0]!.endsWith(`: ${CLASSES[code].text}`), plain.stderr);
      const json = await ctr(['--json', 'run', '--rm', ...words], {env});
      assert.equal(json.status, status, json.stderr);
      const {error} = JSON.parse(json.stderr) as {error: ErrorJSON};
      assert.deepEqual([error.kind, error.code], [code, CLASSES[code].exit]);
      await assertWhole(ctr);
      assert.equal(await ctr.ok(['containers', 'ls', '-q']), '');
      assert.equal((await ctr(['run', '--rm', ref, 'c1'])).status, 0);
    });
});
