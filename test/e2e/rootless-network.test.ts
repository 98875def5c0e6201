/** Containers of a user without root in pasta's network: redis in a container, answered on the host's loopback, in a network namespace of the test's own. */
import assert from 'node:assert/strict';
import {existsSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {type Engine, forEachEngine, type Result, run} from '../cli/harness.ts';
import {requiresImage} from '../support/cached-images.ts';
import {onEnd, requiresProgram, type Scope, type Skippable, TORTURE} from '../support/helpers.ts';
import {newTestNetwork, type TestNetwork} from '../support/network-namespace.ts';
import {type OrdinaryUser, ordinaryUser, requiresOrdinaryUser, type UserOptions} from '../support/ordinary-user.ts';
import {pushImage, sharedRegistry} from '../support/registry.ts';

const registry = sharedRegistry();
const requires = (t: Skippable): boolean => requiresOrdinaryUser(t) && requiresProgram(t, 'runc', 'conmon', 'pasta', 'ip', 'redis-cli');

/** Both families, each with a route to somewhere. */
const ADDRESSES = `
ip link add v0 type veth peer name v1
ip addr add 198.51.100.7/24 dev v0; ip addr add 2001:db8::7/64 dev v0 nodad
ip link set v0 up; ip link set v1 up
ip route add default via 198.51.100.1; ip -6 route add default via 2001:db8::1`;

interface Bench {
  readonly ref: string;
  readonly net: TestNetwork;
  readonly user: OrdinaryUser;
  berth(...args: readonly string[]): Promise<Result>;
  ok(...args: readonly string[]): Promise<string>;
  /** @returns what redis-cli prints for a command, on a port of this address of the host */
  redis(address: string, port: number, ...command: readonly string[]): string;
  untilReady(address: string, port: number): Promise<void>;
  /** Pids of this user's pasta. */
  pastas(): Promise<readonly string[]>;
  /** Fails if it takes longer than pasta needs to notice. */
  untilNoPasta(): Promise<void>;
  task(id: string): Promise<{
    readonly pid: number;
    readonly network?: {name: string; addresses: readonly string[]; ports: readonly string[]; down?: true};
  }>;
}

async function prepare(
  t: Scope & Skippable,
  engine: Engine,
  options: UserOptions = {tun: true},
  addresses = ADDRESSES,
): Promise<Bench | undefined> {
  if (!requires(t)) return undefined;
  const image = requiresImage(t, 'redis');
  const r = await registry(t);
  if (image === undefined || r === undefined) return undefined;
  await pushImage(r, 'redis:1', image.layout);
  const ref = `${r.host}/redis:1`;
  const net = await newTestNetwork(t);
  net.run('sh', '-ec', addresses);
  const user = ordinaryUser(t, engine, options);
  await user.ok(['pull', '-q', '--plain-http', ref]);
  const berth = (...args: readonly string[]): Promise<Result> => {
    const [program, ...words] = net.argv(...user.argv(join(user.home, '../package/bin/berth'), ...args));
    return run(program, words, {env: user.env});
  };
  const ok = async (...args: readonly string[]): Promise<string> => {
    const {status, stdout, stderr} = await berth(...args);
    assert.equal(status, 0, `berth ${args.join(' ')} ended with ${status}: ${stderr}`);
    return stdout;
  };
  // Without the clock of --clock: see scripts/test.ts.
  const redis = (address: string, port: number, ...command: readonly string[]): string =>
    net.run('env', '--unset=LD_PRELOAD', 'timeout', '5', 'redis-cli', '-h', address, '-p', String(port), ...command).trim();
  const pastas = async (): Promise<readonly string[]> =>
    (await run('pgrep', ['-f', `^pasta .*${join(user.home, '..')}|^/usr/bin/pasta.*${join(user.home, '..')}`])).stdout
      .split('\n')
      .filter((pid) => pid !== '');
  const bench: Bench = {
    ref,
    net,
    user,
    berth,
    ok,
    redis,
    pastas,
    untilReady: async (address, port) => {
      for (let waited = 0; ; waited += 50) {
        try {
          if (redis(address, port, 'ping') === 'PONG') return;
        } catch (err) {
          assert.ok(waited < 30_000, String(err));
        }
        await delay(50);
      }
    },
    untilNoPasta: async () => {
      for (let waited = 0; (await pastas()).length > 0; waited += 50) {
        assert.ok(waited < 10_000, 'pasta outlives its container');
        await delay(50);
      }
    },
    task: async (id) => (JSON.parse(await ok('tasks', 'ls', '--json')) as {id: string; pid: number}[]).find((task) => task.id === id)!,
  };
  onEnd(t, async () => {
    for (const {id} of JSON.parse(await ok('tasks', 'ls', '--json')) as {id: string}[]) await ok('tasks', 'rm', '--force', id);
  });
  return bench;
}

const SERVER = ['redis-server', '--bind', '*', '-::*', '--protected-mode', 'no'];
/** The same, and what answers datagrams on port 5353. */
const DATAGRAMS =
  'my $s = IO::Socket::INET->new(LocalPort => 5353, Proto => "udp") or die $!; while ($s->recv(my $m, 100)) { $s->send("got $m") }';
const BOTH_SERVERS = ['sh', '-c', `perl -MIO::Socket::INET -e '${DATAGRAMS}' & exec ${SERVER.map((word) => `'${word}'`).join(' ')}`];

/** Sends a datagram until one comes back. */
const DATAGRAM_CLIENT = `
const socket = require('dgram').createSocket('udp4');
socket.on('message', (message) => { console.log(String(message)); process.exit(); });
socket.on('error', () => {});
setInterval(() => socket.send('ping', Number(process.argv[2]), process.argv[1]), 100);
setTimeout(() => process.exit(1), 20_000);`;
const LOOPBACKS = ['127.0.0.1', '::1'];
const parentOf = (pid: number): number => Number(/\nPPid:\t(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))![1]);

async function untilGone(pid: number): Promise<void> {
  while (existsSync(`/proc/${pid}`)) await delay(10);
}

forEachEngine('a user without root', (engine) => {
  if (engine === 'node' && !TORTURE) return;
  it('publishes the ports of a container, which end with it', async (t) => {
    const bench = await prepare(t, engine);
    if (bench === undefined) return;
    const {ref, net, ok, berth, redis, untilReady, pastas, task} = bench;
    await ok('run', '-d', '-p', '16399:6379', '-p', '127.0.0.1:16400:6379', '-p', '5353/udp', ref, 'r1', ...BOTH_SERVERS);
    for (const address of [...LOOPBACKS, '198.51.100.7', '2001:db8::7']) await untilReady(address, 16399);
    assert.equal(redis('127.0.0.1', 16399, 'set', 'a', 'b'), 'OK');
    for (const address of [...LOOPBACKS, '198.51.100.7', '2001:db8::7']) assert.equal(redis(address, 16399, 'get', 'a'), 'b', address);
    assert.equal(redis('127.0.0.1', 16400, 'get', 'a'), 'b');
    assert.throws(() => redis('198.51.100.7', 16400, 'get', 'a'));
    const {network} = await task('r1');
    assert.equal(network?.name, 'pasta');
    assert.deepEqual(network.addresses, ['198.51.100.7/24', '2001:db8::7/64']);
    const [first, second, udp] = network.ports;
    assert.deepEqual([first, second], ['16399:6379/tcp', '127.0.0.1:16400:6379/tcp']);
    assert.match(udp!, /^\d+:5353\/udp$/);
    for (const address of ['127.0.0.1', '198.51.100.7'])
      assert.equal(net.run(process.execPath, '-e', DATAGRAM_CLIENT, address, udp!.split(':')[0]!), 'got ping\n', address);

    // Names, and another container in the same network.
    assert.equal(await ok('run', '--rm', '--network', 'container:r1', ref, 'r2', 'redis-cli', 'get', 'a'), 'b\n');
    assert.match(await ok('run', '--rm', '--network', 'container:r1', ref, 'r2', 'getent', 'hosts', 'r1'), /^127\.0\.1\.1\s+r1\n$/);
    const hosts = await ok(
      'run',
      '--rm',
      '--network',
      'pasta',
      '--add-host',
      'up:host-gateway',
      ref,
      'r3',
      'sh',
      '-c',
      'cat /etc/hosts /etc/resolv.conf',
    );
    assert.match(hosts, /127\.0\.1\.1\tr3\n169\.254\.1\.2\tup\n/);
    assert.equal((await pastas()).length, 1);

    for (const [port, words] of [
      ['16399:1', /16399\/tcp is taken by container "r1"/],
      ['80:1', /80\/tcp is for root of the machine[\s\S]*ip_unprivileged_port_start=80/],
      ['17000:1/sctp', /is of sctp/],
    ] as const) {
      const {status, stderr} = await berth('run', '-d', '-p', port, ref, 'r4', ...SERVER);
      assert.match(stderr, words);
      assert.equal(status, 125);
    }
    const occupied = net.start(
      [process.execPath, '-e', "require('net').createServer().listen(16500, '0.0.0.0', () => console.log('on'))"],
      {stdio: ['ignore', 'pipe', 'inherit']},
    );
    await new Promise((done) => occupied.stdout!.once('data', done));
    const {stderr} = await berth('run', '--rm', '-p', '16500:1', ref, 'r4', 'true');
    occupied.kill();
    assert.match(stderr, /16500\/tcp is taken by a program of the host/);

    await ok('stop', 'r1');
    assert.deepEqual(await pastas(), []);
    await ok('tasks', 'rm', 'r1');
    // The next start has the ports again, though nobody names them.
    await ok('start', 'r1');
    await untilReady('::1', 16399);
    await ok('rm', '--force', 'r1');
    assert.deepEqual(await pastas(), []);
    assert.match(await ok('check'), /nothing wrong/);
  });
});

describe('pasta', () => {
  it('leaves no pasta behind, whoever is killed', async (t) => {
    const bench = await prepare(t, 'executable');
    if (bench === undefined) return;
    const {ref, net, user, ok, untilReady, untilNoPasta, pastas, task} = bench;
    // The container, by which conmon ends, too.
    await ok('run', '-d', '-p', '16399:6379', ref, 'r1', ...SERVER);
    process.kill((await task('r1')).pid, 'SIGKILL');
    await untilNoPasta();
    await ok('rm', 'r1');

    // conmon: the container goes on with its network, and is found.
    await ok('run', '-d', '-p', '16399:6379', ref, 'r2', ...SERVER);
    await untilReady('127.0.0.1', 16399);
    const {pid} = await task('r2');
    const conmon = parentOf(pid);
    process.kill(conmon, 'SIGKILL');
    await untilGone(conmon);
    await delay(1500);
    await untilReady('::1', 16399);
    process.kill(pid, 'SIGKILL');
    await untilNoPasta();
    assert.match(await ok('check').catch(String), /network was not removed|left files behind/);
    await ok('prune');
    assert.match(await ok('check'), /nothing wrong/);

    // pasta itself: the container goes on without a network, and is removed as any.
    await ok('run', '-d', '-p', '16399:6379', ref, 'r3', ...SERVER);
    for (const one of await pastas()) process.kill(Number(one), 'SIGKILL');
    await ok('stop', 'r3');
    await ok('rm', 'r3');

    // The command in the foreground, and its runtime.
    for (const victim of ['command', 'runtime'] as const) {
      const child = net.start(user.argv(join(user.home, '../package/bin/berth'), 'run', '--rm', '-p', '16399:6379', ref, 'r4', ...SERVER), {
        stdio: 'ignore',
        env: {...process.env, ...user.env},
      });
      const ended = new Promise((done) => child.once('exit', done));
      await untilReady('127.0.0.1', 16399);
      const main = (await task('r4')).pid;
      const runtime = parentOf(main);
      process.kill(victim === 'runtime' ? runtime : parentOf(runtime), 'SIGKILL');
      await ended;
      if (existsSync(`/proc/${main}`)) process.kill(main, 'SIGKILL');
      await untilNoPasta();
      await untilGone(runtime);
      await ok('prune');
      assert.match(await ok('check'), /nothing wrong/);
    }
  });

  const REFUSED: readonly (readonly [what: string, options: UserOptions, words: RegExp])[] = [
    ['is not installed', {tun: true, files: {'/usr/bin/pasta': '/dev/null'}}, /pasta is not installed[\s\S]*passt/],
    ['may not use its device', {}, /pasta needs \/dev\/net\/tun: EACCES: permission denied[\s\S]*chmod 0666/],
    ['does not begin', {tun: true, files: {'/usr/bin/pasta': '#!/bin/sh\nexec sleep 1000\n'}}, /./],
    [
      'fails',
      {tun: true, files: {'/usr/bin/pasta': '#!/bin/sh\necho no such luck >&2\nexit 1\n'}},
      /network "pasta": no such luck: failed precondition/,
    ],
  ];
  for (const [what, options, words] of REFUSED)
    it(`${what}: the run ends, says so, and leaves nothing`, async (t) => {
      const bench = await prepare(t, 'executable', options);
      if (bench === undefined) return;
      // One that does not begin takes ten seconds.
      for (const how of what === 'does not begin' ? [['-d']] : [['--rm'], ['-d']]) {
        const {status, stderr} = await bench.berth('run', ...how, '-p', '16399:6379', bench.ref, 'r1', ...SERVER);
        assert.match(stderr, words);
        assert.equal(status, 125, stderr);
        assert.equal(await bench.ok('containers', 'ls', '-q'), '');
      }
      assert.match(await bench.ok('check'), /nothing wrong/);
      assert.match(await bench.ok('run', '--rm', bench.ref, 'r1', 'echo', 'ran'), /ran/);
    });

  it('publishes on a machine without any route', async (t) => {
    const bench = await prepare(t, 'executable', {tun: true}, ':');
    if (bench === undefined) return;
    await bench.ok('run', '-d', '-p', '16399:6379', bench.ref, 'r1', ...SERVER);
    await bench.untilReady('127.0.0.1', 16399);
    // A client of localhost goes on to the other address.
    assert.throws(() => bench.redis('::1', 16399, 'ping'), /refused/);
    assert.equal(bench.redis('localhost', 16399, 'ping'), 'PONG');
    const {status, stderr} = await bench.berth('run', '--rm', '-p', '[::1]:16400:6379', bench.ref, 'r2', 'true');
    assert.deepEqual(
      [status, /port 6379 on ::1: this machine has no default route of IPv6[\s\S]*published on IPv4$/m.test(stderr)],
      [125, true],
      stderr,
    );

    // pasta is killed: the container runs on, is said to have no network, and has it again after a restart.
    assert.equal((await bench.task('r1')).network?.down, undefined);
    for (const pid of await bench.pastas()) process.kill(Number(pid), 'SIGKILL');
    await bench.untilNoPasta();
    assert.equal((await bench.task('r1')).network?.down, true);
    const listed = await bench.berth('tasks', 'ls');
    assert.match(listed.stderr, /container "r1" runs without its network[\s\S]*start it anew: berth restart r1/);
    assert.equal(listed.status, 0);
    assert.match((await bench.berth('check')).stdout, /suspect.*container "r1".*runs without its network/);
    await bench.ok('restart', 'r1');
    await bench.untilReady('127.0.0.1', 16399);
    assert.equal((await bench.task('r1')).network?.down, undefined);
    assert.match(await bench.ok('check'), /nothing wrong/);
  });
});
