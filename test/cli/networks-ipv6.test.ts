/** A container in a network of CNI with addresses of both families, by the command and the real plugins, in a network namespace of the test's own. */
import assert from 'node:assert/strict';
import {existsSync, mkdirSync, readdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {findProgram, temporaryDirectory} from '../support/helpers.ts';
import {CNI_PLUGINS, newTestNetwork, requiresCni} from '../support/network-namespace.ts';
import {requiresTasks, taskRig, until} from '../support/tasks.ts';
import {engineEnvironment, root as repository} from './harness.ts';

it('a container has addresses of IPv4 and IPv6, is reached by both and by its published port, and leaves nothing', async (t) => {
  if (!requiresTasks(t) || !requiresCni(t) || !existsSync('/proc/sys/net/ipv6')) return;
  const r = await taskRig(t);
  const net = await newTestNetwork(t);
  net.run('ip', 'address', 'add', 'fd81::1/128', 'dev', 'lo');
  const work = temporaryDirectory(t);
  const config = join(work, 'net.d');
  const dataDir = join(work, 'addresses');
  mkdirSync(config);
  const ranges = [[{subnet: '10.80.0.0/24'}], [{subnet: 'fd80::/64'}]];
  const routes = [{dst: '0.0.0.0/0'}, {dst: '::/0'}];
  const plugins = [
    {type: 'bridge', bridge: 'b6', isGateway: true, ipMasq: true, ipam: {type: 'host-local', dataDir, ranges, routes}},
    {type: 'portmap', capabilities: {portMappings: true}},
  ];
  writeFileSync(join(config, '10-six.conflist'), JSON.stringify({name: 'six', cniVersion: '1.0.0', plugins}));
  const env = {...engineEnvironment('executable'), BERTH_ROOT: r.root, BERTH_STATE: r.state, NETCONFPATH: config, CNI_PATH: CNI_PLUGINS};
  const ctr = (...words: readonly string[]): string =>
    net.run(
      'env',
      ...Object.entries(env).map(([key, value]) => `${key}=${value}`),
      join(repository, 'bin/ctr'),
      '-n',
      r.namespace,
      ...words,
    );

  for (const loopback of ['::1', '0:0::0:1'])
    assert.throws(() => ctr('run', '-d', '--cni', '-p', `[${loopback}]:8081:80`, r.ref, 'c'), /port 80 cannot be published on \[::1\]/);
  const server = 'while :; do echo hello | busybox nc -l -p 80; done';
  ctr('run', '-d', '--cni', '-p', '8080:80', '-p', '[fd81::1]:8081:80', r.ref, 'c', 'sh', '-c', server);
  const [{network}] = JSON.parse(ctr('tasks', 'ls', '--json')) as [{network: {addresses: string[]; ports: string[]}}];
  assert.deepEqual(network.addresses, ['10.80.0.2/24', 'fd80::2/64']);
  assert.deepEqual(network.ports, ['8080:80/tcp', '[fd81::1]:8081:80/tcp']);
  // A server of one connection at a time refuses the next for a moment, and an address of IPv6 is not used before it is seen to be free.
  for (const [host, port] of [
    ['10.80.0.2', '80'],
    ['fd80::2', '80'],
    ['127.0.0.1', '8080'],
    ['fd80::1', '8080'],
    ['fd81::1', '8081'],
  ] as const)
    await until(`${host} ${port} answers`, () => {
      try {
        return net.run(findProgram('busybox')!, 'timeout', '2', 'busybox', 'nc', host, port) === 'hello\n';
      } catch {
        return false;
      }
    });
  assert.ok(net.containerRules().some((line) => line.includes('fd80::2')));
  ctr('tasks', 'rm', '--force', 'c');
  assert.deepEqual(net.containerRules(), []);
  assert.deepEqual(
    readdirSync(join(dataDir, 'six')).filter((name) => /^[\da-f]*[.:][\da-f.:]+$/.test(name)),
    [],
  );
  await until('its interface is gone', () => net.interfaces().join() === 'b6');
  ctr('containers', 'rm', 'c');
});
