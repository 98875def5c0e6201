import assert from 'node:assert/strict';
import {once} from 'node:events';
import {createServer, type Socket} from 'node:net';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {OCI_LAYER} from '../../../src/lib/oci/mediatypes.ts';
import {openRemote, type RemoteOptions} from '../../../src/lib/remotes/index.ts';
import {selfSigned} from '../../fakes/certificate.ts';
import {digestOf, startFakeRegistry} from '../../fakes/registry.ts';
import {streamed} from '../../suites/resolver.ts';
import {is, onEnd} from '../../support/helpers.ts';

type Failure = Error & {hint?: string; details: Record<string, unknown>};

async function server(t: TestContext, serve: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>();
  const listening = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    serve(socket);
  });
  listening.listen(0, '127.0.0.1');
  await once(listening, 'listening');
  onEnd(t, () => {
    for (const socket of sockets) socket.destroy();
    listening.close();
  });
  return `127.0.0.1:${(listening.address() as {port: number}).port}`;
}

/** Resolves at this address, and insists on a failure. */
async function failure(t: TestContext, domain: string, options: RemoteOptions): Promise<{err: Failure; ms: number}> {
  const remote = openRemote({backoffMs: 1, ...options});
  onEnd(t, () => remote.close());
  const start = performance.now();
  const err = await remote.resolve({domain, path: 'team/app', tag: 'v1'}).then(
    () => assert.fail('resolved'),
    (e: Failure) => e,
  );
  return {err, ms: performance.now() - start};
}

describe('a connection', () => {
  it('that is refused is unavailable at once', async (t) => {
    const gone = await startFakeRegistry(t);
    const {host} = gone;
    await gone.close();
    for (const options of [{}, {plainHTTP: true}]) {
      const {err} = await failure(t, host, {...options, backoffMs: 10_000});
      is('unavailable')(err);
      assert.equal(err.message, `resolve ${host}/team/app:v1: ${host}: connection refused: unavailable`);
      assert.deepEqual([err.details.errno, err.details.attempt], ['ECONNREFUSED', 1]);
    }
  });
  it('to a name that does not resolve is unavailable at once', async (t) => {
    const {err} = await failure(t, 'registry.invalid', {backoffMs: 10_000});
    is('unavailable')(err);
    assert.match(err.message, /^resolve registry\.invalid\/team\/app:v1: registry\.invalid: the name does not resolve/);
  });
  it('that takes too long is a deadline, and not tried again', async (t) => {
    let connections = 0;
    const silent = await server(t, () => {
      connections++;
    });
    const {err, ms} = await failure(t, silent, {connectTimeoutMs: 150});
    is('deadline_exceeded')(err);
    assert.equal(connections, 2, 'the probe and one');
    assert.ok(ms < 2000, String(ms));
  });
  it('that is reset again and again is unavailable, after five tries', async (t) => {
    let connections = 0;
    const hostile = await server(t, (socket) => {
      connections++;
      socket.once('data', () => socket.resetAndDestroy());
    });
    const {err} = await failure(t, hostile, {plainHTTP: true});
    is('unavailable')(err);
    assert.deepEqual([connections, err.details.attempt, err.details.errno], [6, 5, 'ECONNRESET'], 'and one to see whether it speaks TLS');
  });
  for (const plainHTTP of [true, false])
    it(`that breaks at a server that is gone then is unavailable, over ${plainHTTP ? 'plain HTTP' : 'TLS'}`, async (t) => {
      const leaving = await startFakeRegistry(t, plainHTTP ? {} : {tls: selfSigned('127.0.0.1')});
      leaving.fault({restartAt: -1, restartMs: 60_000});
      const {err} = await failure(t, leaving.host, {plainHTTP, skipVerify: true});
      is('unavailable')(err);
      assert.equal(err.details.errno, 'ECONNREFUSED');
    });
  it('to what does not speak HTTP is unavailable at once', async (t) => {
    let connections = 0;
    const other = await server(t, (socket) => {
      connections++;
      socket.end('220 mail.example ESMTP\r\n');
    });
    const {err} = await failure(t, other, {plainHTTP: true});
    is('unavailable')(err);
    assert.match(err.message, /not HTTP/);
    assert.equal(connections, 2, 'one to see whether it speaks TLS');
  });
  it('with headers without end is unavailable at once', async (t) => {
    const other = await server(t, (socket) => {
      socket.write('HTTP/1.1 200 OK\r\n');
      const more = setInterval(() => socket.write(`X-${'y'.repeat(1000)}: z\r\n`), 1);
      socket.on('close', () => clearInterval(more));
    });
    const {err} = await failure(t, other, {plainHTTP: true});
    is('unavailable')(err);
  });
  it('may announce its answer before it answers', async (t) => {
    const piece = Buffer.alloc(16_384, 1);
    const bytes = Buffer.concat(new Array<Buffer>(8).fill(piece));
    let connections = 0;
    const early = await server(t, (socket) => {
      connections++;
      socket.once('data', async () => {
        socket.write(`HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: ${bytes.length}\r\n\r\n`);
        for (let i = 0; i < 8; i++) {
          socket.write(piece);
          await sleep(200);
        }
      });
    });
    const remote = openRemote({plainHTTP: true, stallTimeoutMs: 1000});
    onEnd(t, () => remote.close());
    const desc = {mediaType: OCI_LAYER, digest: digestOf(bytes), size: bytes.length};
    assert.ok((await streamed(remote.fetcher({domain: early, path: 'team/app'}), desc)).equals(bytes));
    assert.equal(connections, 1);
  });
  it('that is still being made ends with the remote', async (t) => {
    let closed: () => void = () => undefined;
    const whenClosed = new Promise<void>((resolve) => {
      closed = resolve;
    });
    const silent = await server(t, (socket) => socket.resume().on('close', closed));
    const remote = openRemote(
      {connectTimeoutMs: 30_000, signal: AbortSignal.timeout(100)},
      {
        hosts: async (domain) => [{domain, origin: `https://${silent}`, path: '/v2'}],
      },
    );
    await assert.rejects(remote.resolve({domain: 'd.example', path: 'a', tag: 'b'}), is('deadline_exceeded'));
    await remote.close();
    await whenClosed;
  });
});

describe('TLS', () => {
  it('with any certificate passes when it need not be verified', async (t) => {
    const registry = await startFakeRegistry(t, {tls: selfSigned('elsewhere.example')});
    const {manifest} = registry.addImage('team/app', 'v1', []);
    const remote = openRemote({skipVerify: true});
    onEnd(t, () => remote.close());
    assert.deepEqual(await remote.resolve({domain: registry.host, path: 'team/app', tag: 'v1'}), {descriptor: manifest});
  });
});
