import assert from 'node:assert/strict';
import {once} from 'node:events';
import {createServer, type Server} from 'node:net';
import {networkInterfaces} from 'node:os';
import {describe, it, type TestContext} from 'node:test';
import {isLoopback} from '../../../src/lib/remotes/address-filter.ts';
import {registryHosts} from '../../../src/lib/remotes/hosts.ts';
import {openRemote} from '../../../src/lib/remotes/index.ts';
import {selfSigned} from '../../fakes/certificate.ts';
import {startFakeRegistry} from '../../fakes/registry.ts';
import {is, onEnd, requiresProgram} from '../../support/helpers.ts';
import {startRegistry} from '../../support/registry.ts';

const origin = async (domain: string, plainHTTP = false): Promise<string> =>
  (await registryHosts({plainHTTP, connectTimeoutMs: 0})(domain, undefined))[0].origin;

async function listen(t: TestContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onEnd(t, () => server.close());
  return (server.address() as {port: number}).port;
}

describe('the address of a registry', () => {
  for (const [domain, https, http] of [
    ['docker.io', 'https://registry-1.docker.io', 'http://registry-1.docker.io'],
    ['quay.io', 'https://quay.io', 'http://quay.io'],
    ['registry.example:5000', 'https://registry.example:5000', 'http://registry.example:5000'],
    ['10.0.0.1:80', 'https://10.0.0.1:80', 'http://10.0.0.1'],
    ['[fe80::1]:5000', 'https://[fe80::1]:5000', 'http://[fe80::1]:5000'],
    ['localhost', 'https://localhost', 'http://localhost'],
    ['localhost:443', 'https://localhost', 'http://localhost:443'],
    ['localhost:80', 'http://localhost', 'http://localhost'],
    ['127.8.9.10:80', 'http://127.8.9.10', 'http://127.8.9.10'],
    ['[::1]:80', 'http://[::1]', 'http://[::1]'],
    ['localhost.example:80', 'https://localhost.example:80', 'http://localhost.example'],
  ] as const) {
    it(`${domain} is ${https}`, async () => assert.equal(await origin(domain), https));
    it(`${domain} is ${http} when plain HTTP is asked for`, async () => assert.equal(await origin(domain, true), http));
  }

  it('on loopback is plain HTTP or HTTPS, whichever the port speaks', async (t) => {
    const plain = await startFakeRegistry(t);
    const secure = await startFakeRegistry(t, {tls: selfSigned('127.0.0.1')});
    assert.equal(await origin(plain.host), plain.url);
    assert.equal(await origin(secure.host), secure.url);
    assert.deepEqual([plain.requests, secure.requests], [[], []]);
  });
  it('on loopback may be one of IPv6', async (t) => {
    if (!Object.values(networkInterfaces()).some((addresses) => addresses?.some(({address}) => address === '::1'))) {
      t.skip('needs IPv6');
      return;
    }
    const registry = await startFakeRegistry(t, {address: '::1'});
    const {manifest} = registry.addImage('a', 'b', []);
    const remote = openRemote();
    onEnd(t, () => remote.close());
    assert.deepEqual(await remote.resolve({domain: registry.host, path: 'a', tag: 'b'}), {descriptor: manifest});
  });
  it('on loopback is plain HTTP for docker-registry', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const registry = await startRegistry(t);
    const start = performance.now();
    assert.equal(await origin(registry.host), registry.url);
    t.diagnostic(`the probe took ${(performance.now() - start).toFixed(2)} ms`);
  });
  it('on loopback is HTTPS when the port says nothing, or ends without a word', async (t) => {
    const silent = await listen(
      t,
      createServer((socket) => socket.resume().on('error', () => undefined)),
    );
    const rude = await listen(
      t,
      createServer((socket) => socket.destroy()),
    );
    const hosts = registryHosts({plainHTTP: false, connectTimeoutMs: 50});
    for (const port of [silent, rude]) assert.equal((await hosts(`127.0.0.1:${port}`, undefined))[0].origin, `https://127.0.0.1:${port}`);
  });
  it('on loopback is plain HTTP also where that is slow, or waits for the end of a request', async (t) => {
    const answer = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n';
    const protocolError = 'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n';
    const servers = {
      slow: createServer((socket) => socket.on('error', () => {}).once('data', () => setTimeout(() => socket.end(protocolError), 1800))),
      waiting: createServer((socket) =>
        socket.on('error', () => {}).on('data', (data) => (data.includes('\r\n\r\n') ? socket.end(answer) : undefined)),
      ),
    };
    const hosts = registryHosts({plainHTTP: false, connectTimeoutMs: 5000});
    const origins = async (name: keyof typeof servers): Promise<void> => {
      const host = `127.0.0.1:${await listen(t, servers[name])}`;
      assert.equal((await hosts(host, undefined))[0].origin, `http://${host}`, name);
    };
    await Promise.all([origins('slow'), origins('waiting')]);
  });
  it('on loopback is HTTPS where TLS is slow, and says in HTTP that it is none', async (t) => {
    const slow = createServer((socket) =>
      socket
        .on('error', () => {})
        .once('data', ([first]) => {
          if (first === 0x16) setTimeout(() => socket.end(Buffer.from([0x15, 3, 3, 0, 2, 2, 40])), 1500);
          else socket.end('HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n');
        }),
    );
    const host = `127.0.0.1:${await listen(t, slow)}`;
    const hosts = registryHosts({plainHTTP: false, connectTimeoutMs: 5000});
    assert.equal((await hosts(host, undefined))[0].origin, `https://${host}`);
  });
  it('on loopback is probed once, and again if nothing listened', async (t) => {
    const registry = await startFakeRegistry(t);
    registry.addImage('a', 'b', []);
    const remote = openRemote();
    onEnd(t, () => remote.close());
    const ref = {domain: registry.host, path: 'a', tag: 'b'};
    await Promise.all([remote.resolve(ref), remote.resolve(ref)]);
    await remote.resolve(ref);
    assert.equal(registry.connections, 1 + 2, 'one for the probe, one for each request at once');
    const {host} = registry;
    await registry.close();
    const later = openRemote();
    onEnd(t, () => later.close());
    await assert.rejects(later.resolve(ref), is('unavailable'));
    const again = createServer((socket) => socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n'));
    again.listen(Number(host.split(':')[1]), '127.0.0.1');
    onEnd(t, () => again.close());
    await once(again, 'listening');
    await assert.rejects(later.resolve(ref), is('not_found'));
  });
});

describe('host names', () => {
  it("know this machine's own", () => {
    for (const own of ['localhost', '127.0.0.1', '127.255.0.3', '[::1]']) assert.ok(isLoopback(own), own);
    for (const other of ['localhost.example', '128.0.0.1', '10.0.0.1', '127.example', '[::2]', '0.0.0.0'])
      assert.ok(!isLoopback(other), other);
  });
});
