/** login, logout, ping and config explain, in this process; and what --http-dump and --http-trace show. */
import assert from 'node:assert/strict';
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import type {RegistryExplanation} from '../../src/lib/client/types/index.ts';
import {OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';
import {selfSigned} from '../fakes/certificate.ts';
import {startFakeRegistry} from '../fakes/registry.ts';
import {temporaryDirectory} from '../support/helpers.ts';
import {ctrHere, type Place} from './run-in-process.ts';

const LOGIN = {username: 'me', password: 'canary-password'};

const place = (t: TestContext): Place & {readonly auth: string} => {
  const top = temporaryDirectory(t);
  return {root: join(top, 'root'), state: join(top, 'state'), auth: join(top, 'auth.json')};
};

function hostsDir(t: TestContext, domain: string, text: string): string {
  const dir = temporaryDirectory(t);
  mkdirSync(join(dir, domain));
  writeFileSync(join(dir, domain, 'hosts.toml'), text);
  return dir;
}

describe('login', () => {
  it('keeps what a registry takes, and logout removes it', async (t) => {
    const {host} = await startFakeRegistry(t, {auth: {kind: 'token', login: LOGIN}});
    const here = place(t);
    const file = ['--authfile', here.auth];
    const wrong = await ctrHere(here, ['login', '-u', 'me:wr0ng', ...file, host]);
    assert.equal(wrong.status, 16);
    assert.match(wrong.stderr, /^ctr: unable to log in to \S+: .*: unauthenticated\nhint: /);
    assert.equal((await ctrHere(here, ['login', '--get-login', ...file, host])).status, 5);
    const {status, stdout, stderr} = await ctrHere(here, ['login', '-u', 'me', '-p', LOGIN.password, ...file, host]);
    assert.deepEqual([status, stdout], [0, `logged in to ${host} as me: ${here.auth}\n`]);
    assert.match(stderr, /^ctr: warning: a password on the command line/);
    assert.equal((await ctrHere(here, ['login', '--get-login', ...file, host])).stdout, 'me\n');
    assert.equal((await ctrHere(here, ['logout', ...file, host])).stdout, `${host}\n`);
    assert.equal((await ctrHere(here, ['logout', ...file, host])).status, 5);
    assert.deepEqual(JSON.parse(readFileSync(here.auth, 'utf8')), {auths: {}});
    assert.equal((await ctrHere(here, ['logout'])).status, 3);
    assert.equal((await ctrHere(here, ['logout', '--all', host])).status, 3);
    assert.equal((await ctrHere(here, ['login', ...file, host])).status, 3);
  });
});

describe('an object that is not JSON', () => {
  it('is written as it is, and no member of a JSON document', async (t) => {
    const registry = await startFakeRegistry(t);
    registry.addManifest('app', Buffer.from('no JSON'), OCI_MANIFEST, 'v1');
    const here = place(t);
    for (const command of [
      ['inspect', '--raw'],
      ['content', 'fetch-object'],
    ]) {
      assert.equal((await ctrHere(here, [...command, `${registry.host}/app:v1`])).stdout, 'no JSON');
      const {status, stderr} = await ctrHere(here, [...command, '--json', `${registry.host}/app:v1`]);
      assert.deepEqual([status, JSON.parse(stderr).error.kind], [9, 'failed_precondition']);
    }
  });
});

describe('ping', () => {
  it('has a line for each host, and the status of the class where none can be used', async (t) => {
    const registry = await startFakeRegistry(t, {auth: {kind: 'basic', login: LOGIN}});
    const mirror = await startFakeRegistry(t);
    const here = place(t);
    const dir = hostsDir(t, 'upstream.example', `server = "${registry.url}"\n[host."http://127.0.0.1:1"]\n[host."${mirror.url}"]\n`);
    const some = await ctrHere(here, ['ping', '--hosts-dir', dir, '--authfile', here.auth, 'upstream.example']);
    assert.equal(some.status, 0, some.stderr);
    const rows = some.stdout.split('\n').map((line) =>
      line
        .trim()
        .split(/\s{1,}/)
        .slice(0, 2)
        .join(' '),
    );
    assert.deepEqual(rows, [
      'HOST CLASS',
      'http://127.0.0.1:1/v2 unavailable',
      `${mirror.url}/v2 ok`,
      `${registry.url}/v2 unauthenticated`,
      '',
    ]);
    const none = await ctrHere(here, ['ping', '--authfile', here.auth, `${registry.host}/x`]);
    assert.equal(none.status, 16);
    assert.match(none.stderr, /^ctr: no host of \S+ can be used: unauthenticated\nhint: log in with "ctr (?:--\w+ \S+ )*login REGISTRY"/);
    const good = await ctrHere(here, ['ping', '--user', `me:${LOGIN.password}`, '--json', `${registry.host}/`]);
    assert.deepEqual(
      (JSON.parse(good.stdout) as {code: string; status: number; credentials: boolean}[]).map(({code, status, credentials}) => [
        code,
        status,
        credentials,
      ]),
      [['ok', 200, true]],
    );
    assert.equal((await ctrHere(here, ['ping', '127.0.0.1:1/x'])).status, 14);
  });
});

describe('config explain', () => {
  it('tells where everything is from, without a request and without secrets', async (t) => {
    const mirror = await startFakeRegistry(t);
    const here = place(t);
    const certificate = selfSigned('me');
    const dir = hostsDir(
      t,
      'upstream.example',
      `proxy = "http://u:s3cret@proxy.example:3128"\n[host."${mirror.url}"]\ncapabilities = ["pull"]\nca = "ca.pem"\nheader = {x-key = "s3cret"}\n`,
    );
    const source = join(dir, 'upstream.example/hosts.toml');
    // With a CA, its port is asked first whether it speaks TLS.
    const asked = `${mirror.url.replace('http:', 'https:')}/v2`;
    writeFileSync(join(dir, 'upstream.example/ca.pem'), certificate.cert);
    const secret = Buffer.from('ci:s3cret').toString('base64');
    writeFileSync(
      here.auth,
      JSON.stringify({
        auths: {'upstream.example/team': {auth: secret}, 'upstream.example': {auth: secret}},
        credHelpers: {'upstream.example': 'none'},
      }),
    );
    const words = ['config', 'explain', '--hosts-dir', dir, '--authfile', here.auth, 'upstream.example/team/app'];
    const {status, stdout, stderr} = await ctrHere(here, [...words, '--json']);
    assert.equal(status, 0, stderr);
    const {hosts, order, registry, repository} = JSON.parse(stdout) as RegistryExplanation;
    assert.deepEqual([registry, repository], ['upstream.example', 'team/app']);
    assert.deepEqual(order, {
      tags: ['https://upstream.example/v2'],
      content: [asked, 'https://upstream.example/v2'],
      push: ['https://upstream.example/v2'],
    });
    assert.deepEqual(
      hosts.map((host) => [host.url, host.isMirror, host.source, host.ca, host.headers, host.proxy, host.credentials]),
      [
        [asked, true, source, [join(dir, 'upstream.example/ca.pem')], ['x-key'], undefined, []],
        [
          'https://upstream.example/v2',
          false,
          source,
          [],
          [],
          {url: 'http://proxy.example:3128', source},
          [
            {source: here.auth, key: 'upstream.example/team', user: 'ci'},
            {source: here.auth, helper: 'docker-credential-none'},
            {source: here.auth, key: 'upstream.example', user: 'ci'},
          ],
        ],
      ],
    );
    const text = await ctrHere(here, words);
    assert.match(text.stdout, /^ {3}credentials {3}user "ci" from \S+auth\.json, upstream\.example\/team$/m);
    for (const shown of [stdout, text.stdout]) assert.ok(!shown.includes('s3cret') && !shown.includes(secret));
    assert.deepEqual(mirror.requests, []);
  });
});

describe('--http-dump and --http-trace', () => {
  it('show heads and steps, and no secret of any kind', async (t) => {
    const store = await startFakeRegistry(t);
    const registry = await startFakeRegistry(t, {auth: {kind: 'token', login: LOGIN, expiresIn: 300}});
    const {config} = registry.addImage('team/app', 'v1', []);
    registry.fault({
      path: /blobs/,
      redirect: `${store.url}/v2/x/blobs/${config.digest}?X-Signature=canary-signature`,
      headers: {'set-cookie': 'a=canary-cookie'},
    });
    const here = place(t);
    const words = [
      'pull',
      '--no-unpack',
      '--progress',
      'none',
      '--http-dump',
      '--http-trace',
      '-u',
      `me:${LOGIN.password}`,
      `${registry.host}/team/app:v1`,
    ];
    const {stderr} = await ctrHere(here, words);
    assert.match(stderr, /^dump: > HEAD http:\/\/127\.0\.0\.1:\d+\/v2\/team\/app\/manifests\/v1$/m);
    assert.match(stderr, /^dump: > authorization: Bearer \*\*\*$/m);
    assert.match(stderr, /^dump: < 401$/m);
    assert.match(stderr, /^dump: < location: http:\/\/127\.0\.0\.1:\d+\/v2\/x\/blobs\/sha256:[0-9a-f]+\?X-Signature=\*\*\*$/m);
    assert.match(stderr, /^trace: http:\/\/127\.0\.0\.1:\d+: connected to 127\.0\.0\.1:\d+ after [\d.]+ ms$/m);
    const tokens = registry.authorizations.map((header) => header.split(' ')[1]!);
    assert.ok(tokens.length > 0);
    for (const secret of ['canary', ...tokens, Buffer.from(`me:${LOGIN.password}`).toString('base64')])
      assert.ok(!stderr.includes(secret), secret);
  });
});
