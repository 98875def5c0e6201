import assert from 'node:assert/strict';
import type {ChildProcess} from 'node:child_process';
import {once} from 'node:events';
import {chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {fileURLToPath} from 'node:url';
import type {Attachment, AttachmentRequest} from '../../../src/lib/runtime/network/attachment.ts';
import {loadNetworks, type NetworkConfig, parseNetworkConfig} from '../../../src/lib/runtime/network/cni-config.ts';
import {chooseSubnet} from '../../../src/lib/runtime/network/default-network.ts';
import {checkNames, hostsText, resolvConfText} from '../../../src/lib/runtime/network/network-files.ts';
import {formatPort, overlap, type PortMapping, parsePort} from '../../../src/lib/runtime/network/ports.ts';
import {randomNumbers} from '../../fuzz/seeded-random.ts';
import {is, onEnd, SAMPLE, type Scope, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {CNI_PLUGINS, newTestNetwork, requiresCni, type TestNetwork} from '../../support/network-namespace.ts';
import {sample, tryAll} from '../../support/sample-cases.ts';

const DRIVER = fileURLToPath(new URL('network-driver.ts', import.meta.url));

const network = (dataDir: string, subnet = '10.77.0.0/24'): NetworkConfig => ({
  name: 'tests',
  cniVersion: '1.0.0',
  plugins: [
    {
      type: 'bridge',
      bridge: 'b0',
      isGateway: true,
      ipMasq: true,
      ipam: {type: 'host-local', dataDir, ranges: [[{subnet}]], routes: [{dst: '0.0.0.0/0'}]},
    },
    {type: 'portmap', capabilities: {portMappings: true}},
    {type: 'firewall'},
  ],
});

async function eventually(condition: () => boolean, what: string): Promise<void> {
  for (let waited = 0; !condition(); waited += 20) {
    assert.ok(waited < 60_000, what);
    await delay(20);
  }
}

describe('the notation of ports', () => {
  it('is read as it was written, for every combination of its parts', () => {
    for (const hostIP of [undefined, '127.0.0.1', '::1'])
      for (const hostPort of [0, 1, 8080, 65535])
        for (const protocol of ['tcp', 'udp', 'sctp'] as const) {
          const port: PortMapping = {...(hostIP === undefined ? {} : {hostIP}), hostPort, containerPort: 80, protocol};
          if (hostPort !== 0) assert.deepEqual(parsePort(formatPort(port)), [port]);
          const address = hostIP === undefined ? '' : hostIP.includes(':') ? `[${hostIP}]:` : `${hostIP}:`;
          const host = hostPort === 0 ? (hostIP === undefined ? '' : ':') : `${hostPort}:`;
          assert.deepEqual(parsePort(`${address}${host}80${protocol === 'tcp' ? '' : `/${protocol}`}`), [port]);
        }
    for (const free of ['0:80', ':80']) assert.deepEqual(parsePort(free), parsePort('80'), free);
    assert.deepEqual(parsePort('[::1]:0:80-81'), parsePort('[::1]::80-81'));
    assert.deepEqual(
      parsePort('8000-8002:80-82').map(({hostPort, containerPort}) => [hostPort, containerPort]),
      [
        [8000, 80],
        [8001, 81],
        [8002, 82],
      ],
    );
  });

  for (const wrong of [
    '',
    'x',
    '0',
    '65536',
    '80:',
    '1:2:3',
    '::1:80:80',
    '80/icmp',
    '1-3:1-2',
    '3-1',
    '80-',
    '[127.0.0.1]:80:80',
    '1-65535',
    '80 ',
  ])
    it(`refuses ${JSON.stringify(wrong)}`, () => {
      assert.throws(() => parsePort(wrong), is('invalid_argument'));
    });

  it('overlaps where one packet could reach both', () => {
    const at = (hostIP?: string): PortMapping => ({
      ...(hostIP === undefined ? {} : {hostIP}),
      hostPort: 80,
      containerPort: 1,
      protocol: 'tcp',
    });
    assert.ok(overlap(at(), at('127.0.0.1')) && overlap(at('0.0.0.0'), at('127.0.0.1')) && overlap(at('127.0.0.1'), at('127.0.0.1')));
    assert.ok(
      !overlap(at('127.0.0.1'), at('127.0.0.2')) && !overlap(at(), {...at(), protocol: 'udp'}) && !overlap(at(), {...at(), hostPort: 81}),
    );
  });
});

describe('configurations of networks', () => {
  it('come in the order of their file names, lists and single plugins', (t) => {
    const directory = temporaryDirectory(t);
    writeFileSync(join(directory, '20-b.conflist'), JSON.stringify({name: 'b', cniVersion: '1.0.0', plugins: [{type: 'bridge'}]}));
    writeFileSync(join(directory, '10-a.conf'), JSON.stringify({name: 'a', type: 'bridge'}));
    writeFileSync(join(directory, '05-not.txt'), 'no');
    assert.deepEqual(
      loadNetworks(directory, assert.fail).map(({name, cniVersion}) => [name, cniVersion]),
      [
        ['a', '0.1.0'],
        ['b', '1.0.0'],
      ],
    );
    assert.deepEqual(loadNetworks(join(directory, 'missing'), assert.fail), []);
  });

  it('that cannot be read are passed over and told, and the first of several with one name counts', (t) => {
    const directory = temporaryDirectory(t);
    writeFileSync(join(directory, '10-a.conf'), JSON.stringify({name: 'a', type: 'bridge'}));
    writeFileSync(join(directory, '11-half.conflist'), '{"name":"half",');
    mkdirSync(join(directory, '12-directory.conf'));
    symlinkSync('/no/such/file', join(directory, '13-link.conf'));
    writeFileSync(join(directory, '20-a.conf'), JSON.stringify({name: 'a', type: 'ptp'}));
    const bad: string[] = [];
    const found = loadNetworks(directory, ({message}) => bad.push(message));
    assert.deepEqual(
      found.filter(({name}) => name === 'a').map(({plugins}) => plugins[0]!.type),
      ['bridge', 'ptp'],
    );
    assert.deepEqual(found.length, 2);
    for (const [i, name] of ['11-half.conflist', '12-directory.conf', '13-link.conf'].entries()) assert.ok(bad[i]!.includes(name), bad[i]);
  });

  for (const wrong of [
    '{',
    '[]',
    '{"plugins":[]}',
    '{"name":"../x","type":"bridge"}',
    '{"name":"a","type":"../../bin/sh"}',
    '{"name":"a","plugins":[{}]}',
  ])
    it(`refuses ${wrong}`, () => {
      assert.throws(() => parseNetworkConfig(wrong, 'configuration'), is('invalid_argument'));
    });
});

it('the subnet of the default network touches no route of the host', () => {
  const hex = (n: number): string =>
    [0, 8, 16, 24]
      .map((shift) => ((n >>> shift) & 255).toString(16).padStart(2, '0'))
      .join('')
      .toUpperCase();
  const line = (device: string, destination: number, length: number): string => {
    const mask = length === 0 ? 0 : (-1 << (32 - length)) >>> 0;
    return [device, hex(destination & mask), '00000000', '0001', 0, 0, 0, hex(mask), 0, 0, 0].join('\t');
  };
  const next = randomNumbers(7);
  const random = (below: number): number => Math.floor(next() * below);
  for (let round = 0; round < 300; round++) {
    const routes = Array.from({length: random(120)}, () => ({
      base: ((10 << 24) | (random(255) << 16) | random(65536)) >>> 0,
      length: 11 + random(18),
    }));
    const table = ['Iface', line('eth0', 0, 0), ...routes.map(({base, length}) => line('eth0', base, length))].join('\n');
    let second: number;
    try {
      second = chooseSubnet(table);
    } catch (err) {
      is('resource_exhausted')(err);
      continue;
    }
    // The oracle: neither range contains the other's first address.
    for (const {base, length} of routes) {
      const size = 2 ** (32 - length);
      const [from, subnet] = [Math.floor(base / size) * size, 10 * 2 ** 24 + second * 65536];
      assert.ok(from + size <= subnet || subnet + 65536 <= from, `10.${second}.0.0/16 and ${base.toString(16)}/${length}`);
    }
    // Once the bridge exists its subnet stays, whatever comes besides.
    assert.equal(chooseSubnet(`${table}\n${line('berth0', 10 * 2 ** 24 + 200 * 65536, 16)}`), 200);
  }
});

describe('the files of names', () => {
  it('a container is not given name servers on a loopback that is not its own', () => {
    const host = 'nameserver 127.0.0.53\nnameserver ::1\nsearch example.org\noptions edns0\n';
    assert.equal(resolvConfText({}, {}, [host]), 'search example.org\noptions edns0\n');
    assert.equal(resolvConfText({}, {}, [host, 'nameserver 192.0.2.1\n']), 'nameserver 192.0.2.1\n');
    assert.equal(resolvConfText({}, {}, [host], true).split('\n')[0], 'nameserver 127.0.0.53');
    assert.equal(
      resolvConfText({dns: ['192.0.2.7'], dnsSearch: ['.']}, {nameservers: ['192.0.2.8']}, [host]),
      'nameserver 192.0.2.7\noptions edns0\n',
    );
  });

  it('nothing but an entry gets into /etc/hosts and /etc/resolv.conf', () => {
    assert.match(
      hostsText({addHosts: ['db:10.1.2.3', 'six:fe80::1', 'up:host-gateway']}, {addresses: ['10.0.0.2'], hostname: 'c'}, '10.0.0.1'),
      /\n10\.0\.0\.2\tc\n10\.1\.2\.3\tdb\nfe80::1\tsix\n10\.0\.0\.1\tup\n$/,
    );
    for (const odd of [' ', '\t', '\n', '\r', '\v', '\0', '\x7f', '#', ';', '\u2028', '\u0085'])
      for (const options of [
        {addHosts: [`a${odd}b:192.0.2.1`]},
        {addHosts: [`a:192.0.2.1${odd}`]},
        {addHosts: [`a:fe80::1%e${odd}b`]},
        {dns: [`192.0.2.1${odd}`]},
        {dns: [`fe80::1%e${odd}b`]},
        {dnsSearch: [`a${odd}b`]},
        {dnsOptions: [`a${odd}b`]},
      ])
        assert.throws(() => checkNames(options), is('invalid_argument'), JSON.stringify(options));
    for (const wrong of ['db', 'db:', ':1.2.3.4', 'a b:1.2.3.4', 'a\nb:1.2.3.4', 'a:1.2.3.4\n5.6.7.8 c', 'a#:1.2.3.4'])
      assert.throws(() => hostsText({addHosts: [wrong]}, {addresses: []}), is('invalid_argument'), wrong);
  });
});

interface Case {
  readonly net: TestNetwork;
  readonly run: string;
  readonly dataDir: string;
  readonly request: AttachmentRequest;
  drive(command: 'attach' | 'detach', request?: AttachmentRequest): ChildProcess;
  attached(
    request?: AttachmentRequest,
  ): Promise<{readonly attachment: Attachment & {readonly namespace: string}; readonly child: ChildProcess}>;
  detach(): Promise<void>;
  /** Waits until nothing of a container is left: the kernel removes interfaces a little after their namespace. */
  assertNothingLeft(): Promise<void>;
}

async function newCase(scope: Scope, pluginDirectories: readonly string[] = [CNI_PLUGINS]): Promise<Case> {
  const directory = temporaryDirectory(scope);
  const [run, dataDir] = [join(directory, 'run'), join(directory, 'addresses')];
  mkdirSync(run);
  const net = await newTestNetwork(scope);
  const request: AttachmentRequest = {
    config: network(dataDir),
    pluginDirectories,
    ports: [{hostPort: 8080, containerPort: 80, protocol: 'tcp'}],
  };
  const drive = (command: 'attach' | 'detach', given = request): ChildProcess => {
    const child = net.start([process.execPath, DRIVER, command, run, JSON.stringify(given)], {stdio: ['pipe', 'pipe', 'pipe']});
    onEnd(scope, () => child.kill('SIGKILL'));
    return child;
  };
  const outcome = async (child: ChildProcess): Promise<void> => {
    let stderr = '';
    child.stderr?.on('data', (chunk: Buffer) => (stderr += String(chunk)));
    const [status] = (await once(child, 'close')) as [number | null];
    if (status !== 0) throw new Error(stderr);
  };
  return {
    net,
    run,
    dataDir,
    request,
    drive,
    attached: async (given) => {
      const child = drive('attach', given);
      const ended = outcome(child);
      const first = await Promise.race([once(child.stdout!, 'data'), ended]);
      if (first === undefined) throw new Error('it ended');
      ended.catch(() => undefined); // it may be killed
      return {attachment: JSON.parse(String(first[0])) as Attachment & {namespace: string}, child};
    },
    detach: () => outcome(drive('detach')),
    assertNothingLeft: async () => {
      assert.deepEqual(net.containerRules(), []);
      const addresses = existsSync(join(dataDir, 'tests')) ? readdirSync(join(dataDir, 'tests')) : [];
      assert.deepEqual(
        addresses.filter((name) => /^[\d.]+$/.test(name)),
        [],
      );
      await eventually(() => net.interfaces().every((name) => name === 'b0'), net.interfaces().join(' '));
      assert.deepEqual(
        readdirSync(run).filter((name) => name.endsWith('.json')),
        [],
      );
    },
  };
}

describe('an attachment, by the real plugins,', () => {
  it('carries traffic both ways, and leaves nothing once the container has ended', async (t) => {
    if (!requiresCni(t)) return;
    const one = await newCase(t);
    const {attachment, child} = await one.attached();
    assert.match(attachment.addresses[0] ?? '', /^10\.77\.0\.\d+\/24$/);
    const [ip] = attachment.addresses[0]!.split('/');
    assert.ok(one.net.containerRules().length > 0);
    // A program in it is reached through the published port, with the engine as server and client.
    const server = `require('net').createServer((s)=>s.end('hello')).listen(80,'${ip}',()=>console.log('on'))`;
    const serving = one.net.start(['nsenter', `--net=${attachment.namespace}`, process.execPath, '-e', server], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(serving.stdout!, 'data');
    for (const to of ['10.77.0.1', '127.0.0.1'])
      assert.equal(one.net.run(process.execPath, '-e', `require('net').connect(8080,'${to}').pipe(process.stdout)`), 'hello', to);
    serving.kill();
    child.stdin!.end();
    await once(child, 'close');
    await one.detach();
    await one.assertNothingLeft();
    await one.detach();
  });

  it('that fails half-way leaves nothing, and says what the plugin said', async (t) => {
    if (!requiresCni(t)) return;
    const one = await newCase(t);
    const full = {...one.request, config: network(one.dataDir, '10.77.0.0/30')};
    const {child} = await one.attached(full);
    await assert.rejects(one.attached(full), /host-local|no IP addresses available/);
    const other = await newCase(t);
    const plugins = [...other.request.config.plugins, {type: 'tuning', sysctl: {'net.no.such': '1'}}];
    await assert.rejects(other.attached({...other.request, config: {...other.request.config, plugins}}), /CNI plugin tuning, ADD/);
    await other.assertNothingLeft();
    await assert.rejects(one.attached({...one.request, pluginDirectories: ['/nowhere']}), /containernetworking-plugins|is not in/);
    child.stdin!.end();
    await once(child, 'close');
    await one.detach();
    await one.assertNothingLeft();
  });

  it('of a command that was killed at any plugin, before or after its work, is removed by the next', async (t) => {
    if (!requiresCni(t)) return;
    const {plugins} = network('/');
    const steps = (['ADD', 'DEL'] as const).flatMap((command) =>
      plugins.flatMap(({type}) => (['before', 'after'] as const).map((when) => ({command, type, when}))),
    );
    const failures = await tryAll(
      TORTURE ? steps : sample(steps, 5, SAMPLE),
      ({command, type, when}) => `${when} ${command} of ${type}`,
      async (scope, {command, type, when}) => {
        const directory = temporaryDirectory(scope);
        // The real plugin, but it tells that it has come so far, and waits.
        const wrapper = join(directory, type);
        const pause = `if [ "$CNI_COMMAND" = ${command} ] && ! [ -e ${directory}/reached ]; then touch ${directory}/reached; while ! [ -e ${directory}/go ]; do sleep 0.02; done; fi`;
        const real = `${CNI_PLUGINS}/${type}`;
        writeFileSync(wrapper, `#!/bin/sh\n${when === 'before' ? `${pause}\nexec ${real}` : `${real} || exit; ${pause}`}\n`);
        chmodSync(wrapper, 0o755);
        const one = await newCase(scope, [directory, CNI_PLUGINS]);
        let victim: ChildProcess;
        if (command === 'ADD') victim = one.drive('attach');
        else {
          const {child} = await one.attached();
          child.stdin!.end();
          await once(child, 'close');
          victim = one.drive('detach');
        }
        const killed = once(victim, 'close');
        await eventually(() => existsSync(join(directory, 'reached')), 'the plugin was not called');
        victim.kill('SIGKILL');
        // nsenter has become the driver, so this is the driver's end; its pipes are held by nobody else.
        await killed;
        const cleaning = one.detach();
        writeFileSync(join(directory, 'go'), '');
        await cleaning;
        await one.assertNothingLeft();
      },
    );
    assert.deepEqual(failures, []);
  });
});

it('a record that was not written whole stands for nothing', async (t) => {
  if (!requiresCni(t)) return;
  const one = await newCase(t);
  writeFileSync(join(one.run, 'network.00.json'), '{"version":1,');
  await one.detach();
  assert.equal(readFileSync(join(one.run, 'network.00.json'), 'utf8').length, 13);
});
