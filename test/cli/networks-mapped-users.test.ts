/** A container with mapped users in a network of CNI, by the command and the real plugins, in a network namespace of the test's own. */
import assert from 'node:assert/strict';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {findProgram, temporaryDirectory} from '../support/helpers.ts';
import {CNI_PLUGINS, newTestNetwork, requiresCni} from '../support/network-namespace.ts';
import {requiresTasks, taskRig, until} from '../support/tasks.ts';

const MAIN = join(import.meta.dirname, '../../src/main.ts');

it('a container with mapped users is root over its network, is reached, and leaves nothing', async (t) => {
  if (!requiresTasks(t) || !requiresCni(t)) return;
  const r = await taskRig(t);
  const net = await newTestNetwork(t);
  const work = temporaryDirectory(t);
  const config = join(work, 'net.d');
  mkdirSync(config);
  const ipam = {type: 'host-local', dataDir: join(work, 'addresses'), ranges: [[{subnet: '10.81.0.0/24'}]]};
  const plugins = [
    {type: 'bridge', bridge: 'b7', isGateway: true, ipMasq: true, ipam},
    {type: 'portmap', capabilities: {portMappings: true}},
  ];
  writeFileSync(join(config, '10-m.conflist'), JSON.stringify({name: 'mapped', cniVersion: '1.0.0', plugins}));
  const ctr = (...words: readonly string[]): string =>
    net.run(
      ...['env', `NETCONFPATH=${config}`, `CNI_PATH=${CNI_PLUGINS}`, process.execPath, MAIN, '-n', r.namespace],
      ...['--root', r.root, '--state', r.state, ...words],
    );
  const mapped = ['--uidmap', '0:100000:1000', '--gidmap', '0:200000:1000'];
  const server = 'while :; do echo hello | busybox nc -l -p 80; done';
  const serves = (): Promise<void> =>
    until('it answers', () => {
      try {
        return net.run(findProgram('busybox')!, 'timeout', '2', 'busybox', 'nc', '127.0.0.1', '8080') === 'hello\n';
      } catch {
        return false;
      }
    });
  ctr('run', '-d', '--cni', '-p', '8080:80', ...mapped, r.ref, 'c', 'sh', '-c', server);
  await serves();
  // As in any other container: raw sockets, and with the capability interfaces, too.
  const script = [
    'set -e',
    'busybox ping -c 1 10.81.0.1 >/dev/null',
    'busybox ip address add 10.99.0.1/32 dev eth0',
    'busybox ls /sys/class/net',
    'busybox cat /proc/self/uid_map',
  ].join('\n');
  const said = ctr('run', '--rm', '--cni', '--cap-add', 'NET_ADMIN', ...mapped, r.ref, 'r', 'sh', '-c', script);
  assert.match(said, /^eth0\nlo\n\s*0\s+100000\s+1000\n$/);
  // In a network that is not its own it has fewer rights, and still runs.
  assert.equal(ctr('run', '--rm', '--network', 'container:c', ...mapped, r.ref, 'r', 'sh', '-c', 'busybox nc 127.0.0.1 80'), 'hello\n');
  assert.match(ctr('run', '--rm', '--net-host', ...mapped, r.ref, 'r', 'sh', '-c', 'busybox ip -o link'), /: b7:/);
  ctr('tasks', 'rm', '--force', 'c');
  ctr('tasks', 'start', '-d', 'c');
  await serves();
  ctr('tasks', 'rm', '--force', 'c');
  assert.deepEqual(net.containerRules(), []);
  await until('its interface is gone', () => net.interfaces().join() === 'b7');
  ctr('containers', 'rm', 'c');
  assert.deepEqual(r.left(), []);
});
