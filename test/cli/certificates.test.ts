/**
 * Trust in certificates, and the errors about untrusted ones. Tests change the system's authorities in mount namespaces of their own,
 * with the system's own program if it is installed.
 */
import assert from 'node:assert/strict';
import {mkdirSync, writeFileSync} from 'node:fs';
import {createServer} from 'node:https';
import {join} from 'node:path';
import {it, type TestContext} from 'node:test';
import {type Certificate, certificate, selfSigned} from '../fakes/certificate.ts';
import {type FakeRegistry, startFakeRegistry} from '../fakes/registry.ts';
import {onEnd, requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {startRegistry} from '../support/registry.ts';
import {commandLine, type Engine, forEachEngine, type Result, root, run} from './harness.ts';

interface Served {
  readonly registry: FakeRegistry;
  readonly certificate: Certificate;
  readonly file: string;
}

async function serve(t: TestContext, tls = selfSigned('127.0.0.1')): Promise<Served> {
  const registry = await startFakeRegistry(t, {tls});
  registry.addImage('team/app', 'v1', []);
  const file = join(temporaryDirectory(t), 'ca.pem');
  writeFileSync(file, tls.cert);
  return {registry, certificate: tls, file};
}

const pullOf = (host: string): string[] => ['pull', '--no-unpack', '--progress', 'none', '-q', `${host}/team/app:v1`];

/** Runs a pull in a mount namespace of its own, after a script that may mount whatever it likes. */
function pullBehind(
  t: TestContext,
  engine: Engine,
  script: string,
  host: string,
  env: Readonly<Record<string, string>> = {},
): Promise<Result> {
  const {env: store} = commandLine(t, engine);
  const command = ['-m', '--propagation', 'private', 'sh', '-ec', `${script}\nexec "$0" "$@"`, join(root, 'bin/ctr'), ...pullOf(host)];
  return run('unshare', command, {env: {...store, ...env}});
}

forEachEngine('certificates', (engine) => {
  it('of an authority that update-ca-certificates added are trusted until it is removed', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'update-ca-certificates')) return;
    const {registry, file} = await serve(t);
    const prepare = `
      copy=$(mktemp -d)
      mount -t tmpfs none "$copy"
      cp -a /etc/ssl/. "$copy"
      mount --bind "$copy" /etc/ssl
      mount -t tmpfs none /usr/local/share/ca-certificates
      umount "$copy"
      rmdir "$copy"
      cp ${file} /usr/local/share/ca-certificates/berth-test.crt
      update-ca-certificates --hooksdir /nonexistent >/dev/null 2>&1`;
    const trusted = await pullBehind(t, engine, prepare, registry.host);
    assert.equal(trusted.status, 0, trusted.stderr);
    const removed = `${prepare}
      rm /usr/local/share/ca-certificates/berth-test.crt
      update-ca-certificates --fresh --hooksdir /nonexistent >/dev/null 2>&1`;
    const refused = await pullBehind(t, engine, removed, registry.host);
    assert.equal(refused.status, 9, refused.stderr);
    assert.equal(
      refused.stderr,
      `ctr: unable to pull ${registry.host}/team/app:v1: resolve ${registry.host}/team/app:v1: ${registry.host}: the certificate is signed by an unknown authority: failed precondition\n` +
        "hint: add its CA to the system's (update-ca-certificates or update-ca-trust), name it as ca in hosts.toml, or accept any certificate with --skip-verify\n",
    );
  });

  for (const path of ['/etc/ssl/ca-bundle.pem', '/etc/ssl/cert.pem', '/etc/ssl/certs/ca-certificates.crt', '/etc/ssl/certs/0a1b2c3d.0'])
    it(`of an authority in ${path} are trusted`, async (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'unshare')) return;
      const {registry, file} = await serve(t);
      const {status, stderr} = await pullBehind(
        t,
        engine,
        `mount -t tmpfs none /etc/ssl; mkdir -p ${join(path, '..')}; cp ${file} ${path}`,
        registry.host,
      );
      assert.equal(status, 0, stderr);
    });

  it('of an authority that SSL_CERT_FILE, SSL_CERT_DIR or NODE_EXTRA_CA_CERTS names are trusted', async (t) => {
    const {registry, file} = await serve(t);
    for (const env of [{SSL_CERT_FILE: file}, {SSL_CERT_DIR: join(file, '..')}, {NODE_EXTRA_CA_CERTS: file}]) {
      const {status, stderr} = await commandLine(t, engine)(pullOf(registry.host), {env: env as Record<string, string>});
      assert.equal(status, 0, `${Object.keys(env)}: ${stderr}`);
    }
  });

  it('unreadable SSL_CERT_FILE is an error before any request, and unused certificates are not read', async (t) => {
    const {registry} = await serve(t);
    const env = {SSL_CERT_FILE: '/nonexistent/ca.pem'};
    const {status, stderr} = await commandLine(t, engine)(pullOf(registry.host), {env});
    assert.deepEqual([status, /SSL_CERT_FILE "\/nonexistent\/ca\.pem"/.test(stderr)], [3, true], stderr);
    assert.deepEqual(registry.requests, []);
    await commandLine(t, engine).ok([...pullOf(registry.host), '--skip-verify'], {env});
  });

  /** Refused, for this reason. */
  const refuses = async (
    t: TestContext,
    host: string,
    reason: RegExp,
    hint: RegExp,
    more: readonly string[] = [],
    env: Readonly<Record<string, string>> = {},
  ): Promise<void> => {
    const {status, stderr} = await commandLine(t, engine)([...pullOf(host), ...more], {env});
    const [line = '', next = ''] = stderr.split('\n');
    assert.equal(status, 9, stderr);
    assert.match(line, reason);
    assert.match(next, hint);
  };

  for (const [what, tls, reason, hint] of [
    ['has expired', certificate(['127.0.0.1'], -3000, -2000), /the certificate has expired/, /renew/],
    ['is not valid yet', certificate(['127.0.0.1'], 2000, 3000), /the certificate is not valid yet/, /clock/],
    ['is for another name', selfSigned('elsewhere.example'), /the certificate is for another name/, /name that the certificate has/],
  ] as const)
    it(`that ${what}: the error has the cause and a hint`, async (t) => {
      const {registry, file} = await serve(t, tls);
      await refuses(t, registry.host, reason, hint, [], {SSL_CERT_FILE: file});
      assert.deepEqual(registry.requests, []);
    });

  it('of a client that are required or not accepted: the error has the cause and a hint', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const [mine, other, server] = [selfSigned('me'), selfSigned('other'), selfSigned('127.0.0.1')];
    const {host} = await startRegistry(t, {tls: {...server, clientCA: mine.cert}});
    const dir = temporaryDirectory(t);
    const write = (name: string, {cert, key}: Certificate): void => writeFileSync(join(dir, name), cert + key);
    write('other.pem', other);
    write('mine.pem', mine);
    writeFileSync(join(dir, 'ca.pem'), server.cert);
    mkdirSync(join(dir, '_default'));
    for (const client of ['', 'client = "../other.pem"']) {
      writeFileSync(join(dir, '_default/hosts.toml'), `ca = "../ca.pem"\n${client}\n`);
      await refuses(t, host, /requires a client certificate that it accepts/, /client in hosts\.toml/, ['--hosts-dir', dir]);
    }
    writeFileSync(join(dir, '_default/hosts.toml'), 'ca = "../ca.pem"\nclient = "../mine.pem"\n');
    const {stderr} = await commandLine(t, engine)([...pullOf(host), '--hosts-dir', dir]);
    assert.match(stderr, /answered 404/);
  });

  it('of a client that a TLS 1.2 server requires: the hint names them', async (t) => {
    const tls = selfSigned('127.0.0.1');
    const listening = createServer({...tls, ca: selfSigned('me').cert, requestCert: true, rejectUnauthorized: true, maxVersion: 'TLSv1.2'});
    await new Promise<void>((resolve) => void listening.listen(0, '127.0.0.1', resolve));
    onEnd(t, () => void listening.close());
    const {port} = listening.address() as {port: number};
    await refuses(t, `127.0.0.1:${port}`, /the TLS handshake failed/, /client certificate \(client in hosts\.toml\)/, ['-k']);
  });

  it('plain HTTP to a TLS port, or TLS to an HTTP port: the error has the cause and a hint', async (t) => {
    const {registry} = await serve(t);
    await refuses(t, registry.host, /the port speaks TLS, but the request was plain HTTP/, /leave out --plain-http/, ['--plain-http']);
    if (requiresProgram(t, 'docker-registry')) {
      // Go's server answers in HTTP where node's hangs up.
      const {host} = await startRegistry(t, {tls: selfSigned('127.0.0.1')});
      await refuses(t, host, /the port speaks TLS, but the request was plain HTTP/, /leave out --plain-http/, ['--plain-http']);
    }
    const plain = await startFakeRegistry(t);
    const dir = temporaryDirectory(t);
    mkdirSync(join(dir, '_default'));
    writeFileSync(join(dir, '_default/hosts.toml'), `server = "https://${plain.host}"\n`);
    await refuses(t, plain.host, /the port does not speak TLS/, /--plain-http/, ['--hosts-dir', dir]);
    assert.deepEqual(plain.requests, []);
  });
});
