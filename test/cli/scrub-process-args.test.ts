/** What is secret on a command line: other users of the machine do not find it in /proc while the command runs. */
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {eventually, start} from '../e2e/fixtures.ts';
import {startFakeRegistry} from '../fakes/registry.ts';
import {TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {commandLine, forEachEngine} from './harness.ts';

const LOGIN = {username: 'me', password: 'hünter2:=Zx 9'};
const SECRET = LOGIN.password;
const TOKEN = 'a-refresh-token';

/** As it is given, and as it is shown. */
const WAYS: readonly (readonly [given: readonly string[], shown: readonly string[]])[] = [
  [
    ['--user', `me:${SECRET}`],
    ['--user', 'me:**************'],
  ],
  [[`--user=me:${SECRET}`], ['--user=me:**************']],
  [
    ['-u', `me:${SECRET}`],
    ['-u', 'me:**************'],
  ],
  [[`-ume:${SECRET}`], ['-ume:**************']],
  [[`-u=me:${SECRET}`], ['-u=me:**************']],
  [
    ['-kq', '-ku', `me:${SECRET}`],
    ['-kq', '-ku', 'me:**************'],
  ],
  [
    ['--refresh', TOKEN],
    ['--refresh', '***************'],
  ],
  [[`--refresh=${TOKEN}`], [`--refresh=***************`]],
  [[`-user=me:${SECRET}`], ['-user=me:**************']],
  // Aliases of --user.
  [
    ['--creds', `me:${SECRET}`],
    ['--creds', 'me:**************'],
  ],
  [[`--creds=me:${SECRET}`], ['--creds=me:**************']],
  [[`-creds=me:${SECRET}`], ['-creds=me:**************']],
  [
    ['--username', `me:${SECRET}`],
    ['--username', 'me:**************'],
  ],
  [[`--username=me:${SECRET}`], ['--username=me:**************']],
  [
    ['-refresh', TOKEN],
    ['-refresh', '***************'],
  ],
];

forEachEngine('a secret on the command line', (engine) => {
  for (const [given, shown] of engine === 'executable' || TORTURE ? WAYS : WAYS.filter((_, i) => i % 3 === 0))
    it(`is overwritten, and used: ${shown.join(' ')}`, async (t) => {
      const registry = await startFakeRegistry(t, {auth: {kind: 'token', login: LOGIN, refreshToken: TOKEN}});
      registry.addImage('image', 'latest', []);
      registry.fault({path: /./, delayMs: 300});
      const ref = `${registry.host}/image:latest`;
      const ctr = commandLine(t, engine);
      const {child, ended} = start(ctr, ['pull', '--plain-http', '--no-unpack', '--progress', 'none', ...given, ref, '--label', 'a:b=c']);
      await eventually('a request', () => registry.requests.length > 0);
      const words = readFileSync(`/proc/${child.pid}/cmdline`, 'utf8').split('\0');
      assert.deepEqual(words.slice(words.indexOf('none') + 1), [...shown, ref, '--label', 'a:b=c', '']);
      const {status, stderr} = await ended;
      assert.equal(status, 0, stderr);
      assert.ok(registry.requests.some(({path, method}) => /token/.test(path) && ['GET', 'POST'].includes(method)));
    });

  for (const [given, shown] of [
    [
      ['-p', SECRET],
      ['-p', '**************'],
    ],
    [[`-p${SECRET}`], ['-p**************']],
    [
      ['--password', SECRET],
      ['--password', '**************'],
    ],
    [[`--password=${SECRET}`], ['--password=**************']],
  ] as const)
    it(`is overwritten, and used to log in: ${shown.join(' ')}`, async (t) => {
      const registry = await startFakeRegistry(t, {auth: {kind: 'basic', login: LOGIN}});
      registry.fault({path: /./, delayMs: 300});
      const ctr = commandLine(t, engine);
      const words = ['login', '--plain-http', '--authfile', join(temporaryDirectory(t), 'auth.json'), '-u', 'me'];
      const {child, ended} = start(ctr, [...words, ...given, registry.host]);
      await eventually('a request', () => registry.requests.length > 0);
      const seen = readFileSync(`/proc/${child.pid}/cmdline`, 'utf8').split('\0');
      assert.deepEqual(seen.slice(seen.indexOf('me') + 1), [...shown, registry.host, '']);
      const {status, stderr} = await ended;
      assert.equal(status, 0, stderr);
    });

  it('is overwritten for each end of a copy, and used', async (t) => {
    const [from, to] = [await startFakeRegistry(t, {auth: {kind: 'basic', login: LOGIN}}), await startFakeRegistry(t)];
    from.addImage('image', 'latest', []);
    for (const registry of [from, to]) registry.fault({path: /./, delayMs: 300});
    const ctr = commandLine(t, engine);
    const given = [`--src-creds=me:${SECRET}`, '--dest-creds', `other:${SECRET}`];
    const places = [`${from.host}/image`, `${to.host}/image`];
    const {child, ended} = start(ctr, ['copy', '--progress', 'none', ...given, ...places]);
    await eventually('a request', () => from.requests.length > 0);
    const words = readFileSync(`/proc/${child.pid}/cmdline`, 'utf8').split('\0');
    assert.deepEqual(words.slice(words.indexOf('none') + 1), [
      '--src-creds=me:**************',
      '--dest-creds',
      'other:**************',
      ...places,
      '',
    ]);
    // What becomes of the copy at a registry that takes no push is not of interest.
    await ended;
    assert.ok(from.authorizations.some((header) => header.startsWith('Basic ')));
    assert.deepEqual(to.authorizations, []);
  });

  it('need not stand there: the password is read from standard input', async (t) => {
    const registry = await startFakeRegistry(t, {auth: {kind: 'basic', login: LOGIN}});
    registry.addImage('image', 'latest', []);
    const ref = `${registry.host}/image:latest`;
    const ctr = commandLine(t, engine);
    const pull = ['pull', '--plain-http', '--no-unpack', '--progress', 'none', '--password-stdin'];
    for (const input of [SECRET, `${SECRET}\n`, `${SECRET}\r\n`]) await ctr.ok([...pull, '--user', 'me', ref], {input});
    for (const [words, input] of [
      [['--user', 'me'], '\n'],
      [['--user', 'me:too'], SECRET],
      [[], SECRET],
    ] as const) {
      const {status, stderr} = await ctr([...pull, ...words, ref], {input});
      assert.deepEqual([status, /password/.test(stderr)], [3, true], stderr);
      assert.ok(!stderr.includes(SECRET));
    }
  });
});
