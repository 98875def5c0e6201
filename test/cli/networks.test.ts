/** Containers in networks, by the command, the real plugins, runc, conmon and redis. Everything is in a network namespace of the test's own. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {openClient} from '../../src/lib/client/index.ts';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {requiresImage} from '../support/cached-images.ts';
import {findProgram, onEnd, requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {CNI_PLUGINS, newTestNetwork, requiresCni} from '../support/network-namespace.ts';
import {dir, file, symlink, tar} from '../support/tartest.ts';

const MAIN = join(import.meta.dirname, '../../src/main.ts');

it('a redis in a container serves redis-cli on a published port, whatever ends it', async (t) => {
  const image = requiresCni(t) && requiresProgram(t, 'runc', 'conmon', 'redis-cli', 'tar') ? requiresImage(t, 'redis') : undefined;
  if (image === undefined) return;
  const [root, state, work] = [temporaryDirectory(t), temporaryDirectory(t), temporaryDirectory(t)];
  const net = await newTestNetwork(t);
  const config = join(work, 'net.d');
  mkdirSync(config);
  const dataDir = join(work, 'addresses');
  const bridge = {
    type: 'bridge',
    bridge: 'b0',
    isGateway: true,
    ipMasq: true,
    ipam: {type: 'host-local', dataDir, ranges: [[{subnet: '10.78.0.0/24'}]]},
  };
  const plugins = [bridge, {type: 'portmap', capabilities: {portMappings: true}}];
  writeFileSync(join(config, '10-t.conflist'), JSON.stringify({name: 'tests', cniVersion: '1.0.0', plugins}));
  // One that cannot be read is passed over, with a warning.
  writeFileSync(join(config, '05-half.conf'), '{"name":"half",');
  writeFileSync(join(config, '20-p.conf'), JSON.stringify({...bridge, name: 'portless', cniVersion: '1.0.0'}));
  const words = (args: readonly string[]): string[] => [
    ...['env', `NETCONFPATH=${config}`, `CNI_PATH=${CNI_PLUGINS}`, process.execPath, MAIN],
    ...(args[0] === '--root' ? args : ['--root', root, '--state', state, ...args]),
  ];
  const ctr = (...args: string[]): string => net.run(...words(args));
  const fails = (pattern: RegExp, ...args: string[]): void => {
    assert.throws(
      () => ctr(...args),
      (err: unknown) => {
        assert.match(String((err as {stderr?: unknown}).stderr), pattern);
        return true;
      },
    );
  };
  const tarFile = join(work, 'redis.tar');
  execFileSync('tar', ['-C', image.layout, '-cf', tarFile, '.']);
  ctr('images', 'import', '--index-name', 'localhost/redis:1', '--progress', 'none', tarFile);
  // Without the clock of --clock: see scripts/test.ts.
  const redis = (...args: string[]): string =>
    net.run('env', '--unset=LD_PRELOAD', 'redis-cli', '-h', '127.0.0.1', '-p', '6399', ...args).trim();
  const ready = async (): Promise<void> => {
    for (let waited = 0; ; waited += 50) {
      try {
        if (redis('ping') === 'PONG') return;
      } catch (err) {
        assert.ok(waited < 60_000, String(err));
      }
      await delay(50);
    }
  };
  const held = (): string[] => {
    const addresses = join(dataDir, 'tests');
    return [...net.containerRules(), ...(existsSync(addresses) ? readdirSync(addresses) : []).filter((name) => /^[\d.]+$/.test(name))];
  };
  const SERVER = ['redis-server', '--bind', '0.0.0.0', '--protected-mode', 'no'];
  onEnd(t, () => ctr('tasks', 'rm', '--force', 'r1'));

  ctr('run', '-d', '--cni', '-p', '6399:6379', 'localhost/redis:1', 'r1', ...SERVER);
  await ready();
  assert.equal(redis('set', 'a', 'b'), 'OK');
  const [task] = JSON.parse(ctr('tasks', 'ls', '--json')) as {network?: {name: string; addresses: string[]; ports: string[]}}[];
  assert.deepEqual(task!.network, {name: 'tests', addresses: ['10.78.0.2/24'], ports: ['6399:6379/tcp']});

  // Others see it by its address, by the host's, and from its own network.
  const names = ['--dns', '192.0.2.1', '--dns-search', 'example.org', '--add-host', 'up:host-gateway'];
  const script = 'cat /etc/hosts /etc/resolv.conf; redis-cli -h up -p 6399 get a; redis-cli -h 10.78.0.2 get a';
  const said = ctr('run', '--rm', '--network', 'tests', ...names, 'localhost/redis:1', 'r2', 'sh', '-c', script);
  assert.match(said, /\n10\.78\.0\.3\tr2\n10\.78\.0\.1\tup\nnameserver 192\.0\.2\.1\nsearch example\.org\n(?:options .*\n)?b\nb\n$/);
  assert.equal(ctr('run', '--rm', '--network', 'container:r1', 'localhost/redis:1', 'r3', 'redis-cli', 'get', 'a'), 'b\n');

  fails(/6399\/tcp is taken by container "r1"/, 'run', '-d', '-p', '6399:1', 'localhost/redis:1', 'r4');
  // The host's ports are one, whatever store and state directory a container has.
  const [otherRoot, otherState] = [temporaryDirectory(t), temporaryDirectory(t)];
  ctr('--root', otherRoot, '--state', otherState, 'images', 'import', '--index-name', 'localhost/redis:1', '--progress', 'none', tarFile);
  fails(
    new RegExp(`6399/tcp is taken by container "r1" of namespace default \\(state directory ${state}\\)`),
    ...['--root', otherRoot, '--state', otherState, 'run', '-d', '-p', '127.0.0.1:6399:1', 'localhost/redis:1', 'r4'],
  );
  fails(/05-half\.conf is not JSON/, 'run', '--network', 'nosuch', 'localhost/redis:1', 'r4');
  fails(/there are: tests, portless, berth/, 'run', '--network', 'nosuch', 'localhost/redis:1', 'r4');
  fails(/publishes no ports/, 'run', '--network', 'portless', '-p', '1:1', 'localhost/redis:1', 'r4');
  fails(
    /port 192\.0\.2\.9:6398\/tcp is of an address that this host does not have/,
    'run',
    '-p',
    '192.0.2.9:6398:1',
    'localhost/redis:1',
    'r4',
  );
  fails(/cannot be published/, 'run', '--network', 'none', '-p', '1:1', 'localhost/redis:1', 'r4');

  ctr('tasks', 'stop', 'r1');
  assert.deepEqual(held(), []);
  ctr('tasks', 'rm', 'r1');
  // The next start has the network again, though nobody names it.
  ctr('tasks', 'start', '-d', 'r1');
  await ready();

  // It and its conmon are killed: nobody is left to remove its network. It is found, and taken.
  const pid = (JSON.parse(ctr('tasks', 'ls', '--json')) as {pid: number}[])[0]!.pid;
  const parent = Number(/\nPPid:\t(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))![1]);
  process.kill(parent, 'SIGKILL');
  process.kill(pid, 'SIGKILL');
  while (existsSync(`/proc/${pid}`)) await delay(20);
  assert.ok(held().length > 0);
  assert.match(ctr('check'), /network was not removed|left files behind/);
  ctr('gc');
  assert.deepEqual(held(), []);
});

it("links in the image's /etc lead nowhere but into its own root", async (t) => {
  if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'busybox', 'unshare', 'mount')) return;
  const registry = await startFakeRegistry(t);
  const victim = join(temporaryDirectory(t), 'file');
  writeFileSync(victim, 'untouched');
  for (const target of [victim, `../../../../../../../..${victim}`, '/proc/1/root/etc/hostname']) {
    const layer = tar(
      dir('bin/'),
      file('bin/busybox', readFileSync(findProgram('busybox')!), 0o755),
      symlink('busybox', 'bin/cat'),
      dir('etc/'),
      symlink(target, 'etc/hosts'),
      symlink(target, 'etc/resolv.conf'),
    );
    const config = {
      architecture: {x64: 'amd64', arm64: 'arm64'}[process.arch as string]!,
      os: 'linux',
      config: {Cmd: ['/bin/cat', '/etc/hosts']},
      rootfs: {type: 'layers', diff_ids: [digestOf(layer)]},
    };
    registry.addImage('links', 'v1', [layer], config);
    const client = openClient({root: temporaryDirectory(t), state: temporaryDirectory(t)});
    onEnd(t, () => client.close());
    const ns = client.namespace('links');
    await ns.pull(`${registry.host}/links:v1`);
    const before = readFileSync('/etc/hostname', 'latin1');
    // It runs or it is refused; either way the host's files are as they were.
    await ns
      .run(`${registry.host}/links:v1`, 'c', {
        rm: true,
        dns: ['192.0.2.1'],
        addHosts: ['a:192.0.2.2'],
        stdio: ['ignore', 'ignore', 'ignore'],
      })
      .catch((err: unknown) => assert.match(String(err), /container "c"/));
    assert.equal(readFileSync(victim, 'latin1'), 'untouched');
    assert.equal(readFileSync('/etc/hostname', 'latin1'), before);
  }
});
