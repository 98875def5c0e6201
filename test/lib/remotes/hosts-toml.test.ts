/** hosts.toml: what a file says, what it may not say, and where it is looked for. */
import assert from 'node:assert/strict';
import {chmodSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {describe, it} from 'node:test';
import fc from 'fast-check';
import {type ErrdefsError, isErrdefs} from '../../../src/lib/errdefs.ts';
import type {HostConfig} from '../../../src/lib/remotes/host-config-types.ts';
import {connectionOf, DEFAULT_HOSTS_DIRS, hostsDirs, namesOf, readRegistryConfig} from '../../../src/lib/remotes/hosts-dir.ts';
import {MAX_HOSTS_FILE, parseHosts, ROOT_FIELDS} from '../../../src/lib/remotes/hosts-toml.ts';
import {selfSigned} from '../../fakes/certificate.ts';
import {is, onEnd, TORTURE, temporaryDirectory} from '../../support/helpers.ts';

const DIR = '/etc/certs.d/reg.example';
const RUNS = TORTURE ? 20_000 : 500;

/** What a host may be asked for when its file does not say. A mirror is never pushed to unasked, other than in containerd. */
const UNSAID: Readonly<Record<string, string>> = {'pull+resolve+push+referrers': 'all', 'pull+resolve+referrers': 'unpushed'};

/** A configuration as one line, so that a table of them can be read. */
const shown = ({address, capabilities, ca, client, skipVerify, headers, dialTimeoutMs}: HostConfig): string =>
  [
    address === undefined ? 'itself' : `${address.scheme}://${address.host}${address.path}`,
    UNSAID[[...capabilities].join('+')] ?? [...capabilities].join('+'),
    ...(ca.length > 0 ? [`ca=${ca}`] : []),
    ...client.map(({cert, key}) => `client=${cert}:${key}`),
    ...(skipVerify === undefined ? [] : [`skip=${skipVerify}`]),
    ...Object.entries(headers).map(([name, values]) => `${name}=${values.join('|')}`),
    ...(dialTimeoutMs === undefined ? [] : [`dial=${dialTimeoutMs}`]),
  ].join(' ');

const hosts = (text: string): string[] => parseHosts(text, DIR).map(shown);

describe('a hosts.toml', () => {
  // What containerd's own test of its parser has: every field in every form, and `server` at the top to come out last.
  it('is read as containerd reads it, host by host in the order of the file', () => {
    assert.deepEqual(
      hosts(`
        server = "https://last.example"
        ca = "/etc/ssl/last.pem"
        [header]
          x-one = "text"
        [host."https://first.example"]
          capabilities = ["pull"]
          ca = "/etc/ssl/first.pem"
          skip_verify = false
          [host."https://first.example".header]
            x-two = ["a", "b"]
        [host."https://second.example/us"]
          capabilities = ["pull"]
          skip_verify = true
        [host."http://first.example"]
          capabilities = ["pull"]
        [host."https://third.example"]
          capabilities = ["pull", "resolve", "push", "referrers"]
          ca = ["/etc/ssl/a.pem", "/etc/ssl/b.pem"]
          client = [["/etc/ssl/me.cert", "/etc/ssl/me.key"], ["/etc/ssl/both.pem", ""]]
        [host."https://fourth.example"]
          client = "/etc/ssl/both.pem"
        [host."https://fifth.example"]
          client = ["/etc/ssl/both-1.pem", "/etc/ssl/both-2.pem"]
        [host."https://without-referrers.example"]
          capabilities = ["pull", "resolve", "push"]
        [host."https://prefixed.example/v2/team"]
          capabilities = ["pull"]
          override_path = true
        [host."https://bare.example"]
          override_path = true
        [host."https://header.example".header]
          x-one = "alone"
        [host."https://slow.example"]
          dial_timeout = "3s"
      `),
      [
        'https://first.example/v2 pull ca=/etc/ssl/first.pem skip=false x-two=a|b',
        'https://second.example/us/v2 pull skip=true',
        'http://first.example/v2 pull',
        'https://third.example/v2 all ca=/etc/ssl/a.pem,/etc/ssl/b.pem client=/etc/ssl/me.cert:/etc/ssl/me.key client=/etc/ssl/both.pem:/etc/ssl/both.pem',
        'https://fourth.example/v2 unpushed client=/etc/ssl/both.pem:/etc/ssl/both.pem',
        'https://fifth.example/v2 unpushed client=/etc/ssl/both-1.pem:/etc/ssl/both-1.pem client=/etc/ssl/both-2.pem:/etc/ssl/both-2.pem',
        'https://without-referrers.example/v2 pull+resolve+push',
        'https://prefixed.example/v2/team pull',
        'https://bare.example unpushed',
        'https://header.example/v2 unpushed x-one=alone',
        'https://slow.example/v2 unpushed dial=3000',
        'https://last.example/v2 all ca=/etc/ssl/last.pem x-one=text',
      ],
    );
  });

  for (const [text, ...expected] of [
    ['', 'itself all'],
    ['# nothing', 'itself all'],
    ['server = ""', 'itself all'],
    ['ca = "ca.pem"', `itself all ca=${DIR}/ca.pem`],
    ['client = ["a.pem", ["b.cert", "b.key"]]', `itself all client=${DIR}/a.pem:${DIR}/a.pem client=${DIR}/b.cert:${DIR}/b.key`],
    ['capabilities = []', 'itself all'],
    ['capabilities = ["Pull", "RESOLVE"]', 'itself pull+resolve'],
    ['server = "reg.example:5000"', 'https://reg.example:5000/v2 all'],
    ['server = "https://reg.example:443/"', 'https://reg.example/v2 all'],
    ['server = "http://10.0.0.1:80"', 'http://10.0.0.1/v2 all'],
    ['server = "http://[::1]:5000"', 'http://[::1]:5000/v2 all'],
    ['server = "http://kind_registry:5000"', 'http://kind_registry:5000/v2 all'],
    ['server = "https://reg.example/v2"', 'https://reg.example/v2 all'],
    ['server = "https://reg.example//a//b/"', 'https://reg.example/a/b/v2 all'],
    ['server = "https://reg.example/"\noverride_path = true', 'https://reg.example all'],
    ['dial_timeout = "1m30.5s"', 'itself all dial=90500'],
    ['header = {X-A = "1", x-a = ["2"]}', 'itself all x-a=1|2'],
    ['header = {__proto__ = "1"}', 'itself all __proto__=1'],
    [
      'host = {"https://b.example" = {}, "https://a.example" = {}}',
      'https://b.example/v2 unpushed',
      'https://a.example/v2 unpushed',
      'itself all',
    ],
    [
      '[host."https://b.example".header]\nx = "1"\n[host."https://a.example"]\n[host."https://b.example"]\nskip_verify = true',
      'https://b.example/v2 unpushed skip=true x=1',
      'https://a.example/v2 unpushed',
      'itself all',
    ],
    ['\uFEFFskip_verify = true\r\n', 'itself all skip=true'],
  ] as const)
    it(`${JSON.stringify(text)} is ${expected.join(', ')}`, () => assert.deepEqual(hosts(text), expected));

  it('is documented by one that is read, with each of its fields in a table', () => {
    const text = readFileSync(new URL('../../../docs/HOSTS.md', import.meta.url), 'utf8');
    assert.deepEqual(hosts(/^```toml\n(.*?)^```$/ms.exec(text)![1]!), [
      `https://mirror.example/v2 pull+resolve ca=${DIR}/mirror-ca.pem x-team=builds`,
      'https://cache.example/docker/v2 pull dial=1000',
      'https://registry-1.docker.io/v2 all',
    ]);
    for (const field of ROOT_FIELDS) if (field !== 'host') assert.ok(text.includes(`\n| \`${field}\` |`), field);
  });

  it('is what docs/FLEET.md shows for each kind of mirror', () => {
    const text = readFileSync(new URL('../../../docs/FLEET.md', import.meta.url), 'utf8');
    const read = [...text.matchAll(/^```toml hosts\n(.*?)^```$/gms)].map(([, block]) => hosts(block!));
    assert.equal(read.length, 4);
    for (const list of read) {
      assert.equal(list.length, 2);
      assert.match(list[0]!, /^http:\/\/[^ ]+ pull(\+resolve)?\b/);
      assert.match(list[1]!, /^https:\/\/[^ ]+ all$/);
    }
  });

  it('keeps the order of as many hosts as it has', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.stringMatching(/^[a-z0-9]{1,8}\.[a-z]{1,3}(:[1-9]\d{0,3})?$/), {maxLength: 30}), (names) => {
        const text = names.map((name) => `[host."http://${name}"]\ncapabilities = ["pull"]\n`).join('');
        const got = parseHosts(text, DIR).map(({address}) => address);
        assert.deepEqual(
          got.slice(0, -1).map((address) => `${address!.scheme}://${address!.host}`),
          names.map((name) => new URL(`http://${name}`).origin),
        );
        assert.equal(got.at(-1), undefined);
      }),
      {seed: 1, numRuns: Math.min(RUNS, 500)},
    );
  });

  // Text, where it is wrong, the reason, the remedy.
  for (const [text, place, problem, remedy] of [
    ['server =', {line: 1, column: 9}, /:/, /quoted/],
    ['x', {line: 1, column: 1}, /:/, /quoted/],
    ['ca = "a"\n\nca = "b"', {line: 3, column: 1}, /redefine/, /quoted/],
    ['[host."https://a.example"]\n[host."https://a.example"]', {line: 2, column: 2}, /redefine/, /quoted/],
    ['prozy = "http://x"', 'prozy', /: prozy is an unknown field/, /^the fields are server, host, capabilities/],
    [
      '[host."https://a.example"]\n\n  capabilites = ["pull"]',
      'host."https://a.example".capabilites',
      /capabilites is an unknown field/,
      /capabilities/,
    ],
    [
      '[host."https://a.example"]\nserver = "x"',
      'host."https://a.example".server',
      /host\."https:\/\/a\.example"\.server is an unknown field/,
      /capabilities/,
    ],
    ['server = 5', 'server', /server is not a string/, /server = "/],
    ['server = "ftp://a.example"', 'server', /server is not the address/, /https:\/\//],
    ['server = "https://"', 'server', /server is not the address/, /https:\/\//],
    ['server = "https://a b"', 'server', /server is not the address/, /https:\/\//],
    ['server = "https://a.example?x=1"', 'server', /more than a path/, /https:\/\//],
    ['server = "https://me:secret@a.example"', 'server', /server carries credentials/, /--user/],
    [
      '[host."https://me:secret@a.example"]',
      'host."https://***@a.example"',
      /host\."https:\/\/\*\*\*@a\.example" carries credentials/,
      /--user/,
    ],
    ['host = 5', 'host', /host is not a table/, /\[host\."/],
    ['[[host]]', 'host', /host is not a table/, /\[host\."/],
    ['[host]\n"https://a.example" = "x"', 'host."https://a.example"', /is not a table/, /\[host\."/],
    ['[host.5000]', 'host.5000', /5000 is not the address/, /\[host\."/],
    ['[host.""]', 'host.""', /is not the address/, /https:\/\//],
    ['capabilities = "pull"', 'capabilities', /not a list/, /\["pull"/],
    ['capabilities = [\n  "pull",\n  "fetch",\n]', 'capabilities', /the unknown capability "fetch"/, /pull, resolve, push, referrers/],
    ['ca = 1979-05-27', 'ca', /ca is neither/, /ca = \["a/],
    ['ca = ["a", 1]', 'ca', /ca is neither/, /ca = \["a/],
    ['client = [["a", "b", "c"]]', 'client', /client is neither/, /client\.key/],
    ['client = {cert = "a"}', 'client', /client is neither/, /client\.key/],
    ['skip_verify = "yes"', 'skip_verify', /skip_verify is neither true nor false/, /skip_verify = true/],
    ['\n override_path = 1', 'override_path', /override_path is neither/, /override_path = true/],
    ['dial_timeout = 3', 'dial_timeout', /not a duration/, /"3s"/],
    ['dial_timeout = "soon"', 'dial_timeout', /not a duration/, /"3s"/],
    ['dial_timeout = "-3s"', 'dial_timeout', /not a duration/, /"3s"/],
    ['header = "x"', 'header', /header is not a table/, /header = \{/],
    ['[header]\n"x y" = "1"', 'header."x y"', /"x y" is not the name/, /x-name/],
    ['[header]\nx = 1', 'header.x', /header\.x is neither/, /x-name/],
    ['[header]\nx = "a\\nb"', 'header.x', /characters that a header cannot/, /Latin-1/],
    ['[header]\nx = "€"', 'header.x', /characters that a header cannot/, /Latin-1/],
    ['[header]\nHost = "x"', 'header.Host', /berth sets itself/, /leave it out/],
    [
      '# "\n[host."https://a.example"] # ]\nca = """\n[x]\n"""\ndial_timeout = "x" # "',
      'host."https://a.example".dial_timeout',
      /dial_timeout is not/,
      /"3s"/,
    ],
    ['"host"."https://a.example" = {ca = 5}', 'host."https://a.example".ca', /ca is neither/, /ca = \["a/],
    ["host.'https://a.example'.ca = 5", 'host."https://a.example".ca', /ca is neither/, /ca = \["a/],
  ] as const)
    it(`${JSON.stringify(text)} is wrong at ${JSON.stringify(place)}`, () => {
      assert.throws(
        () => parseHosts(text, DIR),
        (err: ErrdefsError) => {
          is('invalid_argument')(err);
          assert.deepEqual(err.details, {file: `${DIR}/hosts.toml`, ...(typeof place === 'string' ? {key: place} : place)});
          const at = typeof place === 'string' ? `${place} ` : `line ${place.line}, column ${place.column}: `;
          assert.ok(err.message.startsWith(`hosts file "${DIR}/hosts.toml": ${at}`), err.message);
          assert.match(err.message, problem);
          assert.match(err.hint!, remedy);
          assert.doesNotMatch(`${err.message}${err.hint}${err.stack}`, /secret/);
          return true;
        },
      );
    });

  it('that is too long is refused before it is read', () => {
    assert.throws(() => parseHosts(`# ${'x'.repeat(MAX_HOSTS_FILE)}`, DIR), /more than 262144/);
  });

  it('that is nested without end is refused, not followed', () => {
    for (const deep of ['[', '{a='].map((open) => `ca = ${open.repeat(80_000)}`))
      assert.throws(() => parseHosts(deep, DIR), is('invalid_argument'));
  });

  it('shows nothing of its lines when it is not TOML, for a header is a secret', () => {
    try {
      parseHosts('[header]\nauthorization = "Basic c2VjcmV0" x', DIR);
      assert.fail('it was read');
    } catch (err) {
      is('invalid_argument')(err);
      assert.doesNotMatch(JSON.stringify(err, Object.getOwnPropertyNames(err)), /c2VjcmV0/);
    }
  });
});

/** Pieces of files, so that chance makes more of them than syntax errors. */
const piece = fc.constantFrom(
  ...['server', 'host', 'capabilities', 'ca', 'client', 'skip_verify', 'header', 'override_path', 'dial_timeout', 'x-a', '__proto__'],
  ...['[', ']', '[[', ']]', '{', '}', '.', ',', '=', '\n', '\n', ' ', '#', '"', "'", '"""', "'''", '\\', '\r\n', '\t', '\0', '\uFEFF'],
  ...['true', '1', '-', '1979-05-27', 'inf', '"pull"', '"3s"', '"https://a.example"', '"http://[::1"', '"\\U0001F600"', '"\\ud800"'],
  ...['[host."https://a.example"]\n', 'ca = "a.pem"\n', 'capabilities = ["pull"]\n', 'client = [["a", "b"]]\n', '\u2028', '😀', '\ud800'],
);
const document = fc.oneof(
  fc.string({unit: 'binary', maxLength: 200}),
  fc.array(piece, {maxLength: 60}).map((pieces) => pieces.join('')),
  fc
    .array(fc.constantFrom('[', '{a=', '[a.', '"', '"""\\', "'''", '#'), {minLength: 1, maxLength: 2})
    .map((many) => many.join('').repeat(3000)),
);

describe('any text', () => {
  it('is a list of hosts with the registry last, or an invalid argument that points into it', () => {
    let read = 0;
    fc.assert(
      fc.property(document, (text) => {
        let list: HostConfig[];
        try {
          list = parseHosts(text, DIR);
        } catch (err) {
          assert.ok(isErrdefs(err) && err.code === 'invalid_argument', String(err));
          const {key, line = 1, column = 1} = err.details as {key?: string; line?: number; column?: number};
          const lines = text.split('\n');
          assert.ok(line >= 1 && line <= lines.length && column >= 1 && column <= lines[line - 1]!.length + 1, `${line}:${column}`);
          assert.ok(key === undefined || err.message.includes(`: ${key} `), err.message);
          assert.doesNotMatch(err.message, /\n/);
          return;
        }
        read++;
        assert.ok(list.length >= 1);
        for (const {address, capabilities, ca} of list) {
          assert.ok(address === undefined || new URL(`${address.scheme}://${address.host}`).host === address.host);
          assert.ok(capabilities.size > 0);
          assert.ok(ca.every((file) => file.startsWith('/')));
        }
      }),
      {seed: 2, numRuns: RUNS},
    );
    assert.ok(read > RUNS / 100, `${read} were files`);
  });
});

describe('the directories of hosts', () => {
  const tree = (t: Parameters<typeof temporaryDirectory>[0], files: Readonly<Record<string, string>>): string => {
    const dir = temporaryDirectory(t);
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(dir, path)), {recursive: true});
      writeFileSync(join(dir, path), text);
    }
    return dir;
  };

  it("have a registry's under its name, its port between underscores first, and one for all last", () => {
    assert.deepEqual(namesOf('reg.example:5000'), ['reg.example_5000_', 'reg.example:5000', '_default']);
    assert.deepEqual(namesOf('reg.example'), ['reg.example', '_default']);
    assert.deepEqual(namesOf('[::1]:5000'), ['[::1]_5000_', '[::1]:5000', '_default']);
    assert.deepEqual(namesOf('[::1]'), ['[::1]', '_default']);
  });

  it('are looked into in order, until one has it', async (t) => {
    const file = (name: string): string => `server = "https://${name}.example"`;
    const first = tree(t, {
      'a_5000_/hosts.toml': file('underscores'),
      'a:5000/hosts.toml': file('colon'),
      'a/hosts.toml': file('no-port'),
      'b:5000/hosts.toml': file('b'),
    });
    const second = tree(t, {'a_5000_/hosts.toml': file('second'), 'c/hosts.toml': file('c'), '_default/hosts.toml': file('all')});
    const server = async (...dirs: string[]): Promise<string | undefined> =>
      (await readRegistryConfig(dirs.slice(1), dirs[0]!))?.hosts.at(-1)?.address?.host;
    assert.equal(await server('a:5000', first, second), 'underscores.example');
    assert.equal(await server('a:5000', second, first), 'second.example');
    assert.equal(await server('a', first, second), 'no-port.example');
    assert.equal(await server('a:5001', first, second), 'all.example');
    assert.equal(await server('a:5001', first), undefined);
    assert.equal(await server('b:5000', first, second), 'b.example');
    assert.equal(await server('c', first, second), 'c.example');
    assert.equal(await server('c', join(first, 'nosuch')), undefined);
  });

  it('may have certificates only, as docker has them, beside no file or an empty one', async (t) => {
    const dir = tree(t, {
      'a/b.crt': '',
      'a/a.crt': '',
      'a/me.cert': '',
      'a/me.key': '',
      'a/both.cert': '',
      'a/README': '',
      'b/hosts.toml': '',
      'b/ca.crt': '',
      'c/hosts.toml': '# nothing',
      'c/ca.crt': '',
    });
    const config = async (domain: string): Promise<string[] | undefined> =>
      (await readRegistryConfig([dir], domain))?.hosts.map((host) => shown(host).replaceAll(`${dir}/`, ''));
    assert.deepEqual(await config('a'), ['itself all ca=a/a.crt,a/b.crt client=a/both.cert:a/both.cert client=a/me.cert:a/me.key']);
    assert.deepEqual(await config('b'), ['itself all ca=b/ca.crt']);
    assert.deepEqual(await config('c'), ['itself all']);
  });

  it('are the one that is given, none when that is empty, else those that are there', (t) => {
    const dir = tree(t, {file: ''});
    assert.deepEqual(hostsDirs(dir), [dir]);
    assert.deepEqual(hostsDirs(''), []);
    assert.ok(hostsDirs(undefined).every((path) => (DEFAULT_HOSTS_DIRS as readonly string[]).includes(path)));
    for (const wrong of [join(dir, 'nosuch'), join(dir, 'file')]) assert.throws(() => hostsDirs(wrong), is('invalid_argument'));
  });

  it('that are not UTF-8, or no file, or not ours to read, say so and name the file', async (t) => {
    const dir = tree(t, {'utf/hosts.toml': '', 'dir/hosts.toml/x': '', 'closed/hosts.toml': 'x'});
    writeFileSync(join(dir, 'utf/hosts.toml'), Buffer.from([0x23, 0xff]));
    await assert.rejects(
      readRegistryConfig([dir], 'utf'),
      (err: Error) => is('invalid_argument')(err) && err.message.includes('utf/hosts.toml'),
    );
    await assert.rejects(
      readRegistryConfig([dir], 'dir'),
      (err: Error) => is('failed_precondition')(err) && err.message.includes('dir/hosts.toml'),
    );
    if (process.getuid?.() === 0) return;
    chmodSync(join(dir, 'closed/hosts.toml'), 0);
    onEnd(t, () => chmodSync(join(dir, 'closed/hosts.toml'), 0o600));
    await assert.rejects(readRegistryConfig([dir], 'closed'), is('permission_denied'));
  });

  it('name certificates that are read and belong together, or say which do not', (t) => {
    const [ca, me, other] = [selfSigned('a'), selfSigned('b'), selfSigned('c')];
    const dir = tree(t, {
      'ca.pem': ca.cert,
      'bundle.pem': `# two\n${ca.cert}${other.cert}`,
      'me.cert': me.cert,
      'me.key': me.key,
      'both.pem': `${other.key}${other.cert}`,
      'other.key': other.key,
      'none.pem': 'nothing\n',
    });
    const connect = (text: string) => connectionOf(parseHosts(text, dir).at(-1)!, join(dir, 'hosts.toml'));
    assert.equal(connect(''), undefined);
    assert.deepEqual(connect('ca = ["ca.pem", "bundle.pem"]')?.ca.length, 2);
    assert.deepEqual(connect('client = [["me.cert", "me.key"]]')?.client, [{cert: me.cert, key: me.key}]);
    assert.deepEqual(connect('client = ["both.pem", ["me.cert", "me.key"]]')?.client.length, 1, 'one of each type of key');
    assert.deepEqual([connect('skip_verify = false')?.skipVerify, connect('dial_timeout = "2s"')?.connectTimeoutMs], [false, 2000]);
    for (const [text, said] of [
      ['ca = "nosuch.pem"', /CA ".*\/nosuch\.pem" does not exist/],
      ['ca = "none.pem"', /CA ".*\/none\.pem" has no certificate/],
      ['client = "me.cert"', /client key ".*\/me\.cert" has no key/],
      ['client = "other.key"', /client certificate ".*\/other\.key" has no certificate/],
      ['client = [["me.cert", "other.key"]]', /client key ".*\/other\.key" does not belong to ".*\/me\.cert"/],
    ] as const)
      assert.throws(
        () => connect(text),
        (err: ErrdefsError) => is('invalid_argument')(err) && said.test(err.message) && err.hint!.includes(join(dir, 'hosts.toml')),
      );
  });
});
