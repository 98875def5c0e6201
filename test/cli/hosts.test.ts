/** hosts.toml named by flag and by variable, and with errors. */
import assert from 'node:assert/strict';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {it, type TestContext} from 'node:test';
import {gzipSync} from 'node:zlib';
import {selfSigned} from '../fakes/certificate.ts';
import {digestOf, type FakeImage, type FakeRegistry, startFakeRegistry} from '../fakes/registry.ts';
import {temporaryDirectory} from '../support/helpers.ts';
import {commandLine, forEachEngine} from './harness.ts';

const DOMAIN = 'upstream.example';
const REF = `${DOMAIN}/team/app:v1`;
const PULL = ['pull', '--no-unpack', '--progress', 'none', REF];

function hostsDir(t: TestContext, files: Readonly<Record<string, string>>): string {
  const dir = temporaryDirectory(t);
  mkdirSync(join(dir, DOMAIN));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, DOMAIN, name), text);
  return dir;
}

function addImage(registry: FakeRegistry): FakeImage {
  const tar = Buffer.alloc(1024);
  const config = {
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    os: 'linux',
    rootfs: {type: 'layers', diff_ids: [digestOf(tar)]},
  };
  return registry.addImage('team/app', 'v1', [gzipSync(tar)], config);
}

forEachEngine('hosts.toml', (engine) => {
  it('sends a pull to a mirror with its own CA and client certificate', async (t) => {
    const [certificate, mine] = [selfSigned('127.0.0.1'), selfSigned('me')];
    const mirror = await startFakeRegistry(t, {tls: certificate, clientCert: mine.cert});
    const {manifest} = addImage(mirror);
    const dir = hostsDir(t, {
      'hosts.toml': `[host."${mirror.url}"]\nca = "ca.pem"\nclient = [["me.cert", "me.key"]]\nheader = {x-secret = "not-for-the-log"}\n`,
      'ca.pem': certificate.cert,
      'me.cert': mine.cert,
      'me.key': mine.key,
    });
    for (const [args, env] of [
      [['--hosts-dir', dir], {}],
      [[], {BERTH_HOSTS_DIR: dir}],
    ] as const) {
      const ctr = commandLine(t, engine);
      await ctr.ok([...PULL, ...args], {env});
      assert.match(await ctr.ok(['images', 'ls']), new RegExp(`^upstream\\.example/team/app:v1 .* ${manifest.digest}`, 'm'));
    }
    assert.ok(
      mirror.requests.every(({path, headers}) => path.endsWith('?ns=upstream.example') && headers['x-secret'] === 'not-for-the-log'),
    );
  });

  it('with --debug: each request and its answer are shown, without secrets', async (t) => {
    const [first, second] = [await startFakeRegistry(t), await startFakeRegistry(t)];
    addImage(second);
    const dir = hostsDir(t, {'hosts.toml': `server = "${second.url}"\n[host."${first.url}".header]\nx-secret = "not-for-the-log"\n`});
    const {status, stderr} = await commandLine(t, engine)([...PULL, '--hosts-dir', dir, '--debug']);
    assert.equal(status, 0, stderr);
    const lines = stderr.split('\n');
    assert.match(lines[0]!, new RegExp(`^debug: ${DOMAIN}: ${dir}/${DOMAIN}/hosts\\.toml: ${first.url}/v2 \\(.*\\), ${second.url}/v2 `));
    assert.match(lines[1]!, new RegExp(`^debug: HEAD ${first.url}/v2/team/app/manifests/v1\\?ns=${DOMAIN}: 404 after \\d+ ms$`));
    assert.match(lines[2]!, new RegExp(`^debug: HEAD ${second.url}/v2/team/app/manifests/v1\\?ns=${DOMAIN}: 200 after \\d+ ms$`));
    assert.doesNotMatch(stderr, /not-for-the-log/);
    const json = await commandLine(t, engine)([...PULL, '--hosts-dir', dir, '--debug', '--json']);
    for (const line of json.stderr.trim().split('\n')) assert.equal(typeof (JSON.parse(line) as {debug: unknown}).debug, 'string');
  });

  it('with an error: invalid argument with line and column, before any request', async (t) => {
    const server = await startFakeRegistry(t);
    addImage(server);
    const dir = hostsDir(t, {'hosts.toml': `server = "${server.url}"\ncapabilites = ["pull"]\n`});
    const {status, stderr} = await commandLine(t, engine)([...PULL, '--hosts-dir', dir]);
    assert.equal(status, 3);
    assert.equal(
      stderr,
      `ctr: unable to pull ${REF}: hosts file "${dir}/${DOMAIN}/hosts.toml": capabilites is an unknown field: invalid argument\n` +
        'hint: the fields are server, host, capabilities, ca, client, skip_verify, header, override_path, dial_timeout, proxy\n',
    );
    assert.deepEqual(server.requests, []);
    const missing = await commandLine(t, engine)([...PULL, '--hosts-dir', join(dir, 'nosuch')]);
    assert.deepEqual([missing.status, /hosts directory ".*nosuch" does not exist/.test(missing.stderr)], [3, true], missing.stderr);
  });

  it('is not read if the variable is empty', async (t) => {
    const {status, stderr} = await commandLine(t, engine)([...PULL, '--debug', '--connect-timeout', '5s'], {env: {BERTH_HOSTS_DIR: ''}});
    assert.equal(status, 14, stderr);
    assert.match(stderr, /^debug: HEAD https:\/\/upstream\.example\/v2\/team\/app\/manifests\/v1: the name does not resolve$/m);
  });
});
