/** Hosts of a hosts.toml, asked one after the other: who is asked for what, as whom, over which connection, and who is believed. */
import assert from 'node:assert/strict';
import {mkdirSync, writeFileSync} from 'node:fs';
import {createServer} from 'node:net';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import type {ErrdefsError} from '../../../src/lib/errdefs.ts';
import type {Descriptor} from '../../../src/lib/oci/descriptor.ts';
import {openRemote, type Remote, type RemoteOptions} from '../../../src/lib/remotes/index.ts';
import {selfSigned} from '../../fakes/certificate.ts';
import {digestOf, type FakeImage, type FakeOptions, type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {streamed} from '../../suites/resolver.ts';
import {is, onEnd, requiresProgram, temporaryDirectory} from '../../support/helpers.ts';
import {pushImage, startRegistry} from '../../support/registry.ts';

const REF = {domain: 'upstream.example', path: 'team/app', tag: 'v1'};
const LAYER = Buffer.alloc(100_000, 'layer');

/** A directory of hosts with this file for `domain`, and others beside it. */
function hostsDir(t: TestContext, text: string, files: Readonly<Record<string, string>> = {}, domain = REF.domain): string {
  const dir = temporaryDirectory(t);
  mkdirSync(join(dir, domain));
  for (const [name, content] of Object.entries({'hosts.toml': text, ...files})) writeFileSync(join(dir, domain, name), content);
  return dir;
}

interface Opened {
  readonly remote: Remote;
  /** What `onDebug` was told. */
  readonly lines: string[];
}

function open(t: TestContext, dir: string, options: RemoteOptions = {}): Opened {
  const lines: string[] = [];
  const remote = openRemote({backoffMs: 1, hostsDirs: [dir], onDebug: (line) => lines.push(line), ...options});
  onEnd(t, () => remote.close());
  return {remote, lines};
}

async function registry(t: TestContext, options: FakeOptions = {}): Promise<FakeRegistry & {image: FakeImage}> {
  const running = await startFakeRegistry(t, options);
  return Object.assign(running, {image: running.addImage(REF.path, REF.tag, [LAYER])});
}

/** Requests as `METHOD path status`, digests cut. */
const seen = ({requests}: FakeRegistry): string[] =>
  requests.map(({method, path, status}) => `${method} ${path.replace(/(sha256:[0-9a-f]{4})[0-9a-f]+/, '$1')} ${status}`);

/** A port at which nobody listens. */
async function nobody(t: TestContext): Promise<string> {
  const gone = await startFakeRegistry(t);
  const {host} = gone;
  await gone.close();
  return host;
}

const mirrors = (...hosts: string[]): string => hosts.map((host) => `[host."${host}"]\n`).join('');
const layerOf = ({image}: {image: FakeImage}): Descriptor => image.layers[0]!;

describe('mirrors', () => {
  it('are asked before the registry, and told whose content is meant', async (t) => {
    const mirror = await registry(t);
    const server = await registry(t);
    const {remote, lines} = open(t, hostsDir(t, `server = "${server.url}"\n${mirrors(mirror.url)}`));
    assert.deepEqual((await remote.resolve(REF)).descriptor, mirror.image.manifest);
    const fetcher = remote.fetcher(REF);
    await fetcher.bytes(mirror.image.config, {limit: 1000});
    assert.ok((await streamed(fetcher, layerOf(mirror))).equals(LAYER));
    const digest = (desc: Descriptor): string => desc.digest.slice(0, 11);
    assert.deepEqual(seen(mirror), [
      'HEAD /v2/team/app/manifests/v1?ns=upstream.example 200',
      `GET /v2/team/app/blobs/${digest(mirror.image.config)}?ns=upstream.example 200`,
      `GET /v2/team/app/blobs/${digest(layerOf(mirror))}?ns=upstream.example 200`,
    ]);
    assert.deepEqual(server.requests, []);
    assert.match(
      lines[0]!,
      new RegExp(`^upstream\\.example: /.*/hosts\\.toml: ${mirror.url}/v2 \\(pull resolve referrers\\), ${server.url}/v2 `),
    );
    assert.match(lines[1]!, new RegExp(`^HEAD ${mirror.url}/v2/team/app/manifests/v1\\?ns=upstream\\.example: 200 after \\d+ ms$`));
    assert.equal(lines.length, 4);
  });

  for (const [what, fault] of [
    ['has it not', {status: 404, code: 'MANIFEST_UNKNOWN'}],
    ['wants credentials', {status: 401}],
    ['denies it', {status: 403}],
    ['is broken', {status: 503}],
    ['wants patience', {status: 429, headers: {'retry-after': '30'}}],
    ['breaks the connection', {resetAt: 0}],
    ['answers with another digest', {headers: {'docker-content-digest': `sha256:${'0'.repeat(64)}`}}],
  ] as const)
    it(`that ${what} is followed by the next, without waiting`, async (t) => {
      const [first, second, server] = [await registry(t), await registry(t), await registry(t)];
      first.fault(fault);
      const {remote} = open(t, hostsDir(t, `server = "${server.url}"\n${mirrors(first.url, second.url)}`), {
        backoffMs: 10_000 * Number(!('resetAt' in fault)),
      });
      const digest = server.image.manifest.digest;
      assert.deepEqual((await remote.resolve({...REF, digest})).descriptor, server.image.manifest);
      assert.ok((await streamed(remote.fetcher(REF), layerOf(server))).equals(LAYER));
      assert.ok(first.requests.length > 0 && second.requests.length > 0);
      assert.deepEqual(server.requests, []);
    });

  it('that cannot be reached are passed over from then on', async (t) => {
    const server = await registry(t);
    const silent = createServer((socket) => socket.on('error', () => undefined));
    silent.listen(0, '127.0.0.1');
    onEnd(t, () => silent.close());
    await new Promise((resolve) => silent.once('listening', resolve));
    let connections = 0;
    silent.on('connection', () => connections++);
    const address = `https://127.0.0.1:${(silent.address() as {port: number}).port}`;
    const dir = hostsDir(
      t,
      `server = "${server.url}"\n[host."${address}"]\ndial_timeout = "100ms"\n${mirrors(`http://${await nobody(t)}`)}`,
    );
    const {remote, lines} = open(t, dir);
    for (let i = 0; i < 3; i++) await remote.resolve(REF);
    await streamed(remote.fetcher(REF), layerOf(server));
    assert.equal(connections, 1);
    assert.deepEqual(
      lines.map((line) => line.replace(/^.*: /, '')).filter((line) => line.startsWith('no') || line.includes('refused')),
      ['no connection within the time that --connect-timeout allows', 'connection refused'],
    );
  });

  it('are asked only for what they are trusted with', async (t) => {
    const [bytes, tags, server] = [await registry(t), await registry(t), await registry(t)];
    const text = `server = "${server.url}"\n[host."${bytes.url}"]\ncapabilities = ["pull"]\n[host."${tags.url}"]\ncapabilities = ["pull", "resolve"]`;
    const {remote} = open(t, hostsDir(t, text));
    await remote.resolve(REF);
    assert.deepEqual([bytes.requests.length, tags.requests.length, server.requests.length], [0, 1, 0]);
    await remote.resolve({...REF, digest: server.image.manifest.digest});
    await streamed(remote.fetcher(REF), layerOf(server));
    assert.deepEqual([bytes.requests.length, tags.requests.length, server.requests.length], [2, 1, 0]);
  });

  it('and registry that are all trusted with nothing of the kind are a failed precondition', async (t) => {
    const server = await registry(t);
    const {remote} = open(t, hostsDir(t, `server = "${server.url}"\ncapabilities = ["pull"]`));
    await assert.rejects(
      remote.resolve(REF),
      (err: ErrdefsError) => is('failed_precondition')(err) && /has the capabilities pull and resolve/.test(err.message),
    );
    assert.deepEqual(server.requests, []);
  });

  it('that die in the middle of a blob are replaced by the next, which continues it', async (t) => {
    const [mirror, server] = [await registry(t), await registry(t)];
    mirror.fault({path: /blobs/, truncateAt: 60_000, times: 1});
    mirror.fault({path: /blobs/, status: 503});
    const {remote} = open(t, hostsDir(t, `server = "${server.url}"\n${mirrors(mirror.url)}`));
    assert.ok((await streamed(remote.fetcher(REF), layerOf(server))).equals(LAYER));
    assert.equal(server.requests[0]?.range, 'bytes=60000-');
  });

  it('give what they have of a registry that is not there to be asked how it is spoken to', async (t) => {
    const mirror = await registry(t);
    const domain = await nobody(t);
    const {remote} = open(t, hostsDir(t, mirrors(mirror.url), {}, domain));
    assert.deepEqual((await remote.resolve({...REF, domain})).descriptor, mirror.image.manifest);
  });

  it('may have a path of their own, with /v2 or without', async (t) => {
    const mirror = await startFakeRegistry(t);
    const text = `server = "${mirror.url}/all/"\n[host."${mirror.url}/us"]\n[host."${mirror.url}/raw"]\noverride_path = true`;
    const {remote} = open(t, hostsDir(t, text));
    await assert.rejects(remote.resolve(REF), is('not_found'));
    assert.deepEqual(
      mirror.requests.map(({path}) => path.replace('?ns=upstream.example', '')),
      ['/us/v2', '/raw', '/all/v2', '/all/v2'].map((root) => `${root}/team/app/manifests/v1`),
    );
  });
});

describe('when no host has it', () => {
  it('the registry has the last word, and the others are protocolOf in the hint', async (t) => {
    const [mirror, server] = [await startFakeRegistry(t), await registry(t)];
    mirror.fault({status: 403, code: 'DENIED'});
    const {remote} = open(t, hostsDir(t, `server = "${server.url}"\n${mirrors(`http://${await nobody(t)}`, mirror.url)}`));
    await assert.rejects(remote.resolve({...REF, tag: 'v2'}), (err: ErrdefsError) => {
      is('not_found')(err);
      assert.equal(err.message, `resolve upstream.example/team/app:v2: ${server.host} answered 404 MANIFEST_UNKNOWN: not found`);
      assert.match(
        err.hint!,
        new RegExp(`^also tried: 127\\.0\\.0\\.1:\\d+: connection refused: unavailable; ${mirror.host} answered 403 DENIED`),
      );
      return true;
    });
  });
  it('and the registry cannot be reached, a mirror that answered is the one to be protocolOf', async (t) => {
    const mirror = await startFakeRegistry(t);
    const server = await nobody(t);
    const {remote} = open(t, hostsDir(t, `server = "http://${server}"\n${mirrors(mirror.url)}`));
    await assert.rejects(remote.resolve(REF), (err: ErrdefsError) => {
      is('not_found')(err);
      assert.match(err.message, new RegExp(`${mirror.host} answered 404`));
      assert.equal(err.hint, `also tried: ${server}: connection refused: unavailable`);
      return true;
    });
  });
  it('and no host answers, the error is that the registry is unavailable', async (t) => {
    const [mirror, server] = [await nobody(t), await nobody(t)];
    const {remote} = open(t, hostsDir(t, mirrors(`http://${mirror}`), {}, server));
    await assert.rejects(remote.resolve({...REF, domain: server}), (err: ErrdefsError) => {
      is('unavailable')(err);
      assert.match(err.message, new RegExp(`${server}: connection refused`));
      return true;
    });
  });
});

describe('a host over TLS', () => {
  const mine = selfSigned('me');

  it('is trusted by its own CA, and only it', async (t) => {
    const certificate = selfSigned('127.0.0.1');
    const [mirror, server] = [await registry(t, {tls: certificate}), await registry(t, {tls: selfSigned('127.0.0.1')})];
    const text = `server = "${server.url}"\n[host."${mirror.url}"]\nca = "ca.pem"`;
    const {remote} = open(t, hostsDir(t, text, {'ca.pem': certificate.cert}));
    assert.deepEqual((await remote.resolve(REF)).descriptor, mirror.image.manifest);
    mirror.fault({status: 404});
    await assert.rejects(remote.resolve(REF), (err: ErrdefsError) => {
      is('not_found')(err);
      assert.match(err.hint!, /unknown authority/);
      return true;
    });
    assert.deepEqual(server.requests, []);
  });
  it('takes any certificate where it says so, also against the flag', async (t) => {
    const [any, strict] = [await registry(t, {tls: selfSigned('x')}), await registry(t, {tls: selfSigned('x')})];
    const text = `server = "${any.url}"\n[host."${strict.url}"]\nskip_verify = false`;
    for (const [skipVerify, more] of [
      [false, 'skip_verify = true\n'],
      [true, ''],
    ] as const) {
      const {remote} = open(t, hostsDir(t, more + text), {skipVerify});
      assert.deepEqual((await remote.resolve(REF)).descriptor, any.image.manifest);
    }
    assert.deepEqual(strict.requests, []);
  });
  for (const [form, text] of [
    ['a pair of files', 'client = [["me.cert", "me.key"]]'],
    ['one file', 'client = "both.pem"'],
  ] as const)
    it(`is shown a certificate from ${form}, and refuses without`, async (t) => {
      const certificate = selfSigned('127.0.0.1');
      const server = await registry(t, {tls: certificate, clientCert: mine.cert});
      const files = {'ca.pem': certificate.cert, 'me.cert': mine.cert, 'me.key': mine.key, 'both.pem': mine.key + mine.cert};
      const head = `server = "${server.url}"\nca = "ca.pem"\n`;
      const {remote} = open(t, hostsDir(t, head + text, files));
      assert.deepEqual((await remote.resolve(REF)).descriptor, server.image.manifest);
      await assert.rejects(open(t, hostsDir(t, head, files)).remote.resolve(REF), is('failed_precondition'));
      assert.equal(server.requests.length, 1);
    });
  it('is found by the certificates alone that docker keeps for it', async (t) => {
    const certificate = selfSigned('127.0.0.1');
    const server = await registry(t, {tls: certificate, clientCert: mine.cert});
    const dir = temporaryDirectory(t);
    mkdirSync(join(dir, server.host));
    const files = {'ca.crt': certificate.cert, 'client.cert': mine.cert, 'client.key': mine.key};
    for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, server.host, name), text);
    const {remote} = open(t, dir);
    assert.deepEqual((await remote.resolve({...REF, domain: server.host})).descriptor, server.image.manifest);
    assert.equal(server.requests[0]?.path, '/v2/team/app/manifests/v1', 'no ns for the registry itself');
  });
  it('with an http address and something about TLS speaks what its port speaks', async (t) => {
    const [plain, secure] = [await registry(t), await registry(t, {tls: selfSigned('x')})];
    for (const {host, image, requests} of [plain, secure]) {
      const {remote} = open(t, hostsDir(t, `server = "http://${host}"\nskip_verify = true`));
      assert.deepEqual((await remote.resolve(REF)).descriptor, image.manifest);
      assert.equal(requests.length, 1);
    }
    const {remote} = open(t, hostsDir(t, `server = "http://${secure.host}"`));
    await assert.rejects(remote.resolve(REF), is('failed_precondition'), 'it is spoken to as it is written');
  });
  it('with a file that is not there is not asked, nor is any other', async (t) => {
    const server = await registry(t);
    const {remote} = open(t, hostsDir(t, `server = "${server.url}"\n[host."https://mirror.example"]\nca = "nosuch.pem"`));
    await assert.rejects(
      remote.resolve(REF),
      (err: ErrdefsError) => is('invalid_argument')(err) && /nosuch\.pem" does not exist/.test(err.message),
    );
    assert.deepEqual(server.requests, []);
  });
});

describe('secrets of hosts', () => {
  const login = {username: 'me', password: 'registry-password'};

  it("are a host's own: the registry's credentials are not told to its mirrors", async (t) => {
    const [mirror, server] = [await registry(t, {auth: {kind: 'basic', login}}), await registry(t, {auth: {kind: 'basic', login}})];
    const dir = hostsDir(t, `server = "${server.url}"\n${mirrors(mirror.url)}`);
    const {remote} = open(t, dir, {credentials: login});
    assert.deepEqual((await remote.resolve(REF)).descriptor, server.image.manifest);
    assert.deepEqual(mirror.authorizations, []);
    assert.equal(server.authorizations.length, 1);
  });
  it('are asked for under the name of the host that wants them', async (t) => {
    const [mirror, server] = [await registry(t, {auth: {kind: 'token', login}}), await registry(t, {auth: {kind: 'basic', login}})];
    const asked: string[] = [];
    const dir = hostsDir(t, `server = "${server.url}"\n${mirrors(mirror.url)}`);
    const remote = openRemote(
      {backoffMs: 1, hostsDirs: [dir]},
      {
        credentials: async ({domain}) => {
          asked.push(domain);
          return domain === mirror.host ? login : undefined;
        },
      },
    );
    onEnd(t, () => remote.close());
    assert.deepEqual((await remote.resolve(REF)).descriptor, mirror.image.manifest);
    mirror.fault({status: 404});
    await assert.rejects(remote.resolve(REF), is('unauthenticated'));
    assert.deepEqual(asked, [mirror.host, REF.domain]);
  });
  it('in headers are sent to their host only, and are not printed', async (t) => {
    const secret = 'Bearer opaque-secret';
    const [mirror, server, elsewhere] = [await registry(t), await registry(t), await registry(t, {address: '127.0.0.2'})];
    const text = `server = "${server.url}"\n[host."${mirror.url}".header]\nauthorization = "${secret}"\nx-team = ["a", "b"]`;
    const {remote, lines} = open(t, hostsDir(t, text));
    await remote.resolve(REF);
    mirror.fault({path: /blobs/, times: 1, redirect: `${elsewhere.url}/v2/team/app/blobs/${layerOf(server).digest}?sig=presigned`});
    await streamed(remote.fetcher(REF), layerOf(server));
    assert.ok(mirror.requests.every(({headers}) => headers.authorization === secret && headers['x-team'] === 'a, b'));
    assert.deepEqual(
      elsewhere.requests.map(({headers}) => [headers.authorization, headers['x-team']]),
      [[undefined, undefined]],
    );
    for (const one of [mirror, server]) one.fault({status: 403, code: 'DENIED', message: `you sent ${secret}`});
    await assert.rejects(remote.resolve(REF), (err: ErrdefsError) => {
      is('permission_denied')(err);
      assert.match(err.hint!, /you sent \*\*\*/);
      assert.doesNotMatch(JSON.stringify([lines, err, err.message, err.stack]), /opaque-secret|presigned/);
      return true;
    });
    assert.ok(server.requests.every(({headers}) => headers.authorization === undefined && headers['x-team'] === undefined));
  });
  it('in headers are sent to a token server only if it is the host itself', async (t) => {
    const elsewhere = await startFakeRegistry(t, {auth: {kind: 'token'}, address: '127.0.0.2'});
    for (const realm of [undefined, `${elsewhere.url}/token`]) {
      const server = await registry(t, {auth: {kind: 'token', ...(realm === undefined ? {} : {realm})}});
      const {remote} = open(t, hostsDir(t, `server = "${server.url}"\nheader = {x-team = "a"}`));
      await remote.resolve(REF).catch(() => undefined);
      assert.ok(server.requests.every(({headers}) => headers['x-team'] === 'a'));
      assert.equal(server.count('GET', /token/), realm === undefined ? 1 : 0);
    }
    assert.deepEqual(
      elsewhere.requests.map(({headers}) => headers['x-team']),
      [undefined],
    );
  });
});

describe('docker-registry as a mirror', () => {
  it('gives what the registry cannot, and passes on what it has not', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const [mirror, server] = [await startRegistry(t), await startRegistry(t)];
    const layout = (text: string): string => {
      const dir = temporaryDirectory(t);
      mkdirSync(join(dir, 'blobs/sha256'), {recursive: true});
      const put = (bytes: Buffer, mediaType: string): Descriptor => {
        writeFileSync(join(dir, 'blobs', digestOf(bytes).replace(':', '/')), bytes);
        return {mediaType, digest: digestOf(bytes), size: bytes.length};
      };
      const config = put(Buffer.from('{}'), 'application/vnd.oci.image.config.v1+json');
      const layers = [put(Buffer.from(text), 'application/vnd.oci.image.layer.v1.tar')];
      const mediaType = 'application/vnd.oci.image.manifest.v1+json';
      const manifest = put(Buffer.from(JSON.stringify({schemaVersion: 2, mediaType, config, layers})), mediaType);
      writeFileSync(join(dir, 'index.json'), JSON.stringify({manifests: [manifest]}));
      return dir;
    };
    const one = await pushImage(mirror, `${REF.path}:one`, layout('one'));
    const two = await pushImage(server, `${REF.path}:two`, layout('two'));
    mirror.clearLog();
    const dir = hostsDir(t, mirrors(mirror.url), {}, server.host);
    const {remote} = open(t, dir);
    const ref = {domain: server.host, path: REF.path};
    for (const [tag, manifest] of Object.entries({one, two})) {
      assert.deepEqual((await remote.resolve({...ref, tag})).descriptor, manifest);
      assert.equal((await remote.fetcher(ref).bytes(manifest, {limit: 10_000})).length, manifest.size);
    }
    assert.deepEqual(
      mirror
        .requests()
        .filter(({path}) => path.includes('/manifests/'))
        .map(({method, path, status}) => [method, path.includes(`ns=${encodeURIComponent(server.host)}`), status]),
      [
        ['HEAD', true, 200],
        ['GET', true, 200],
        ['HEAD', true, 404],
        ['GET', true, 404],
      ],
    );
    await mirror.stop();
    assert.deepEqual((await remote.resolve({...ref, tag: 'two'})).descriptor, two);
    const fresh = open(t, dir);
    assert.deepEqual((await fresh.remote.resolve({...ref, tag: 'two'})).descriptor, two);
    await assert.rejects(fresh.remote.resolve({...ref, tag: 'one'}), is('not_found'));
  });
});
