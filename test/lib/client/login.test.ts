/** login and logout: files that podman, skopeo and docker read, changed without losing anything. */
import assert from 'node:assert/strict';
import {execFile} from 'node:child_process';
import {chmodSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {promisify} from 'node:util';
import fc from 'fast-check';
import {editMember} from '../../../src/lib/client/credentials/edit-json.ts';
import {parseRegistry} from '../../../src/lib/client/credentials/login.ts';
import type {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {startFakeRegistry} from '../../fakes/registry.ts';
import {is, newClient, onEnd, requiresProgram, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {sharedRegistry} from '../../support/registry.ts';

const LOGIN = {username: 'me', password: 'pässwörd:"1'};
const run = promisify(execFile);

/** An environment in which no file of the caller's is found. */
function isolated(t: TestContext): string {
  const home = temporaryDirectory(t);
  const names = ['HOME', 'DOCKER_CONFIG', 'REGISTRY_AUTH_FILE', 'XDG_RUNTIME_DIR', 'XDG_CONFIG_HOME', 'PATH'];
  const before = names.map((name) => [name, process.env[name]] as const);
  for (const name of names.slice(1, -1)) delete process.env[name];
  process.env.HOME = home;
  process.env.XDG_RUNTIME_DIR = join(home, 'run');
  onEnd(t, () => {
    for (const [name, value] of before)
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
  });
  return home;
}

const read = (path: string): {auths: Record<string, {auth?: string}>} => JSON.parse(readFileSync(path, 'utf8'));

describe('a member of a JSON document', () => {
  it('is set and removed, and everything else stays as it is, byte for byte', () => {
    const json = fc.json({maxDepth: 3});
    const key = fc.constantFrom('a', 'b.example', 'https://index.docker.io/v1/', 'ü"\\', '');
    const space = fc.constantFrom('', ' ', '\n', '\n\t', '\r\n  ');
    const object = (values: readonly (readonly [string, string])[], gaps: readonly string[]): string => {
      const gap = (i: number): string => gaps[i % Math.max(gaps.length, 1)] ?? '';
      return `{${values.map(([name, value], i) => `${gap(i)}${JSON.stringify(name)}${gap(i + 1)}:${gap(i + 2)}${value}${gap(i + 3)}`).join(',')}${gap(4)}}`;
    };
    const members = fc.uniqueArray(fc.tuple(key, json), {selector: ([name]) => name, maxLength: 4});
    fc.assert(
      fc.property(members, members, key, fc.array(space, {maxLength: 5}), fc.boolean(), (inner, outer, name, gaps, hasTable) => {
        const others = outer.map(([one, value]) => [`x${one}`, value] as const);
        const at = others.length >> 1;
        const table = [['auths', object(inner, gaps)] as const];
        const text = object([...others.slice(0, at), ...(hasTable ? table : []), ...others.slice(at)], gaps);
        const entry = {auth: 'bmV3'};
        const set = editMember(text, 'auths', name, entry);
        const before = hasTable ? Object.fromEntries(inner.map(([one, value]) => [one, JSON.parse(value)])) : {};
        assert.deepEqual(JSON.parse(set), {...JSON.parse(text), auths: {...before, [name]: entry}});
        for (const [, value] of [...others, ...(hasTable ? inner.filter(([one]) => one !== name) : [])]) assert.ok(set.includes(value));
        const {[name]: _, ...rest} = before;
        const removed = editMember(set, 'auths', name, undefined);
        assert.deepEqual(JSON.parse(removed), {...JSON.parse(text), auths: rest});
        for (const [, value] of others) assert.ok(removed.includes(value));
      }),
      {seed: 1, numRuns: TORTURE ? 20_000 : 500},
    );
  });
  it('keeps numbers that JavaScript cannot hold', () => {
    const text = '{\n\t"big": 12345678901234567890, "e": 1.0e2,\n\t"auths": {}\n}\n';
    const edited = editMember(text, 'auths', 'r.example', {});
    assert.ok(edited.includes('"big": 12345678901234567890, "e": 1.0e2,'));
    assert.equal(edited, '{\n\t"big": 12345678901234567890, "e": 1.0e2,\n\t"auths": {\n\t\t"r.example": {}\n\t}\n}\n');
  });
});

describe('a registry to log in to', () => {
  for (const [text, domain, repository] of [
    ['docker.io', 'docker.io', undefined],
    ['https://index.docker.io/v1/', 'docker.io', undefined],
    ['registry-1.docker.io', 'docker.io', undefined],
    ['registry.example:5000', 'registry.example:5000', undefined],
    ['http://registry.example', 'registry.example', undefined],
    ['registry.example/team/app', 'registry.example', 'team/app'],
    ['registry.example/', 'registry.example', undefined],
    ['localhost', 'localhost', undefined],
  ] as const)
    it(`${text} is ${domain} ${repository ?? ''}`, () => assert.deepEqual(parseRegistry(text), {domain, repository}));
  for (const text of ['', '/', 'a b', 'registry.example/UPPER', 'user:pw@registry.example', 'http://', '../x', 'r.example/a:tag'])
    it(`is not ${JSON.stringify(text)}`, () => assert.throws(() => parseRegistry(text), is('invalid_argument')));
});

describe('login', () => {
  it('checks the credentials before it writes, for basic and token authentication', async (t) => {
    const home = isolated(t);
    const client = await newClient(t);
    for (const auth of [{kind: 'basic', login: LOGIN} as const, {kind: 'token', login: LOGIN} as const]) {
      const {host} = await startFakeRegistry(t, {auth});
      await assert.rejects(client.registry.login(host, 'me', 'wr0ng'), (err: Error) => {
        is('unauthenticated')(err);
        assert.match(err.message, new RegExp(`^unable to log in to ${host}: `));
        assert.doesNotMatch(err.message, /wr0ng/);
        return true;
      });
      await assert.rejects(client.registry.loggedIn(host), is('not_found'));
      const result = await client.registry.login(host, LOGIN.username, LOGIN.password);
      assert.deepEqual(result, {registry: host, username: 'me', file: join(home, '.docker/config.json'), verified: true});
      assert.equal(await client.registry.loggedIn(host), 'me');
      await client.registry.ping(host).then((answers) =>
        assert.deepEqual(
          answers.map(({code, credentials}) => [code, credentials]),
          [['ok', true]],
        ),
      );
    }
    const open = await startFakeRegistry(t);
    assert.equal((await client.registry.login(open.host, LOGIN.username, LOGIN.password)).verified, false);
    assert.equal(statSync(join(home, '.docker/config.json')).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(join(home, '.docker')), ['config.json'], 'no lock and no temporary file');
  });

  it('writes where the entry is read from, and honours the variables and the flag', async (t) => {
    const home = isolated(t);
    const client = await newClient(t);
    const {host} = await startFakeRegistry(t, {auth: {kind: 'basic', login: LOGIN}});
    const podmans = join(home, 'run/containers/auth.json');
    mkdirSync(dirname(podmans), {recursive: true});
    writeFileSync(podmans, JSON.stringify({auths: {[host]: {auth: 'b2xkOm9sZA=='}}, other: 1}));
    assert.equal((await client.registry.login(host, LOGIN.username, LOGIN.password)).file, podmans);
    assert.deepEqual(Object.keys(read(podmans)), ['auths', 'other']);
    process.env.DOCKER_CONFIG = join(home, 'docker');
    const second = await startFakeRegistry(t);
    assert.equal((await client.registry.login(second.host, LOGIN.username, LOGIN.password)).file, join(home, 'docker/config.json'));
    process.env.REGISTRY_AUTH_FILE = join(home, 'r.json');
    assert.equal((await client.registry.login(host, LOGIN.username, LOGIN.password)).file, join(home, 'r.json'));
    assert.equal(
      (await client.registry.login(host, LOGIN.username, LOGIN.password, {authFile: join(home, 'f.json')})).file,
      join(home, 'f.json'),
    );
  });

  it('keeps a link, and every other key', async (t) => {
    const home = isolated(t);
    const client = await newClient(t);
    const {host} = await startFakeRegistry(t, {auth: {kind: 'basic', login: LOGIN}});
    const real = join(temporaryDirectory(t), 'real.json');
    writeFileSync(real, '{"auths":{"https://OLD.example/v1/":{"auth":"eDp5"}},"HttpHeaders":{"n":1.50}}');
    symlinkSync(real, join(home, 'link.json'));
    const authFile = join(home, 'link.json');
    await client.registry.login(host, LOGIN.username, LOGIN.password, {authFile});
    assert.match(
      readFileSync(real, 'utf8'),
      /^\{"auths":\{"https:\/\/OLD\.example\/v1\/":\{"auth":"eDp5"\},.*"HttpHeaders":\{"n":1\.50\}\}$/s,
    );
    const {registries} = await client.registry.logout(host, {authFile});
    assert.deepEqual(registries, [host]);
    assert.equal(readFileSync(real, 'utf8'), '{"auths":{"https://OLD.example/v1/":{"auth":"eDp5"}},"HttpHeaders":{"n":1.50}}');
    await assert.rejects(client.registry.logout(host, {authFile}), is('not_found'));
    assert.deepEqual((await client.registry.logout(undefined, {authFile, all: true})).registries, ['https://OLD.example/v1/']);
    await assert.rejects(client.registry.logout(), is('invalid_argument'));
  });

  it('removes at logout what other files have when one is broken, and says which', async (t) => {
    const home = isolated(t);
    const text = '{"auths":{"registry.example":{"auth":"eDp5"}}}';
    const paths = [join(home, 'run/containers/auth.json'), join(home, '.docker/config.json')];
    for (const path of paths) mkdirSync(dirname(path), {recursive: true});
    for (const [broken, other] of [paths, paths.toReversed()] as [string, string][]) {
      const warnings: ErrdefsError[] = [];
      const client = await newClient(t, {onWarning: (warning) => void warnings.push(warning as ErrdefsError)});
      writeFileSync(broken, '{');
      writeFileSync(other, text);
      assert.deepEqual((await client.registry.logout('registry.example')).from, [other]);
      assert.deepEqual([read(other).auths, readFileSync(broken, 'utf8')], [{}, '{']);
      assert.deepEqual([warnings.map(({code}) => code), warnings[0]!.message.includes(broken)], [['failed_precondition'], true]);
      await assert.rejects(client.registry.logout('registry.example'), is('failed_precondition'));
    }
  });

  it('removes at logout what is in the file by then', async (t) => {
    const home = isolated(t);
    const client = await newClient(t);
    const authFile = join(home, 'auth.json');
    // The helper is asked between the first look and the change.
    const helper = join(home, 'docker-credential-meanwhile');
    const later = '{"auths":{"https://registry.example/v1/":{"auth":"eDp5"},"other.example":{"auth":"eDp5"}}}';
    writeFileSync(helper, `#!/bin/sh\necho '${later}' >${authFile}\necho credentials not found in native keychain\nexit 1\n`);
    chmodSync(helper, 0o755);
    process.env.PATH = `${home}:${process.env.PATH}`;
    writeFileSync(authFile, '{"auths":{"registry.example":{"auth":"eDp5"}},"credHelpers":{"registry.example":"meanwhile"}}');
    await client.registry.logout('registry.example', {authFile});
    assert.deepEqual(Object.keys(read(authFile).auths), ['other.example']);
  });

  it('changes nothing in a file that is broken', async (t) => {
    isolated(t);
    const client = await newClient(t);
    const registry = await startFakeRegistry(t, {auth: {kind: 'basic', login: LOGIN}});
    const authFile = join(temporaryDirectory(t), 'auth.json');
    for (const text of ['{', '[]', '{"auths": 7}']) {
      writeFileSync(authFile, text);
      await assert.rejects(client.registry.login(registry.host, LOGIN.username, LOGIN.password, {authFile}), is('failed_precondition'));
      assert.equal(readFileSync(authFile, 'utf8'), text);
    }
    assert.deepEqual(registry.requests, [], 'and a password is not even sent');
  });

  it('loses none of many at once', async (t) => {
    isolated(t);
    const client = await newClient(t);
    const authFile = join(temporaryDirectory(t), 'auth.json');
    const registries = await Promise.all(Array.from({length: 8}, () => startFakeRegistry(t, {auth: {kind: 'basic', login: LOGIN}})));
    await Promise.all(registries.map(({host}) => client.registry.login(host, LOGIN.username, LOGIN.password, {authFile})));
    assert.deepEqual(Object.keys(read(authFile).auths).sort(), registries.map(({host}) => host).sort());
  });

  it('uses the helper that the file names', async (t) => {
    const home = isolated(t);
    const client = await newClient(t);
    const {host} = await startFakeRegistry(t, {auth: {kind: 'basic', login: LOGIN}});
    const bin = temporaryDirectory(t);
    writeFileSync(
      join(bin, 'docker-credential-file'),
      `#!/bin/sh\ncase $1 in store) cat > ${bin}/kept;; get) cat >/dev/null; test -e ${bin}/kept && cat ${bin}/kept || { echo credentials not found in native keychain; exit 1; };; erase) cat >/dev/null; rm ${bin}/kept;; esac\n`,
    );
    chmodSync(join(bin, 'docker-credential-file'), 0o755);
    process.env.PATH = `${bin}:${process.env.PATH}`;
    const authFile = join(home, 'auth.json');
    writeFileSync(authFile, '{"credsStore": "file"}');
    assert.equal((await client.registry.login(host, LOGIN.username, LOGIN.password, {authFile})).helper, 'docker-credential-file');
    assert.deepEqual(JSON.parse(readFileSync(join(bin, 'kept'), 'utf8')), {ServerURL: host, Username: 'me', Secret: LOGIN.password});
    assert.doesNotMatch(readFileSync(authFile, 'utf8'), /auth"/);
    assert.equal(await client.registry.loggedIn(host, {authFile}), 'me');
    const {from} = await client.registry.logout(host, {authFile});
    assert.deepEqual(from.toSorted(), [authFile, 'docker-credential-file'].sort());
    await assert.rejects(client.registry.loggedIn(host, {authFile}), is('not_found'));
  });
});

/** `me:secret` by bcrypt. */
const HTPASSWD = 'me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a';
const real = sharedRegistry({htpasswd: HTPASSWD});

describe('skopeo and podman', () => {
  for (const tool of ['skopeo', 'podman'])
    it(`${tool} reads what login has written, and the other way round`, async (t) => {
      if (!requiresProgram(t, tool)) return;
      const registry = await real(t);
      if (registry === undefined) return;
      const home = isolated(t);
      const client = await newClient(t);
      const {host} = registry;
      const password = 'secret';
      await assert.rejects(client.registry.login(host, 'me', 'wrong'), is('unauthenticated'));
      const authFile = join(home, 'auth.json');
      await client.registry.login(host, 'me', password, {authFile});
      const env = {PATH: process.env.PATH!, HOME: home, TMPDIR: tmpdir()};
      const {stdout} = await run(tool, ['login', '--get-login', '--authfile', authFile, host], {env});
      assert.equal(stdout.trim(), 'me');
      await client.registry.logout(host, {authFile});
      await assert.rejects(run(tool, ['login', '--get-login', '--authfile', authFile, host], {env}));
      await run(tool, ['login', '--tls-verify=false', '--authfile', authFile, '-u', 'me', '-p', password, host], {env});
      assert.equal(await client.registry.loggedIn(host, {authFile}), 'me');
      const [answer] = await client.registry.ping(host, {authFile});
      assert.deepEqual([answer?.code, answer?.credentials], ['ok', true]);
    });
});
