/** `--format`: the same fields as `--json`, by templates as docker's users type them, or by JSON pointers. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import fc from 'fast-check';
import {assertFields, formatResult, parseTemplate} from '../../src/cli/format-template.ts';
import {RESULTS, type Shape} from '../../src/cli/result-fields.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import type {NamespaceRecord} from '../../src/lib/client/types/index.ts';
import {is} from '../support/helpers.ts';
import {runOnFakes} from './fake-client.ts';
import {root} from './harness.ts';

/** Of what others made. */
const ANYTHING = '*';

const text = (template: string, result: unknown): string =>
  formatResult(parseTemplate(template), ANYTHING, result)
    .rows.map((row) => `${row}\n`)
    .join('');

const IMAGES = [
  {name: 'redis:7', target: {digest: 'sha256:1'}, platforms: ['linux/amd64', 'linux/arm64'], labels: {'a.b/c': 'x'}, size: 5},
  {name: 'app', target: {digest: 'sha256:2'}, platforms: [], labels: {}},
];

describe('templates', () => {
  const examples: readonly [string, string][] = [
    ['{{.name}}', 'redis:7\napp\n'],
    ['{{ .Name }} {{.TARGET.Digest}}', 'redis:7 sha256:1\napp sha256:2\n'],
    ['<{{.size}}>', '<5>\n<>\n'],
    ['{{join .platforms ","}}', 'linux/amd64,linux/arm64\n\n'],
    ['{{index .labels "a.b/c"}}|{{index .platforms 1}}', 'x|linux/arm64\n|\n'],
    ['{{json .labels}}', '{"a.b/c":"x"}\n{}\n'],
    ['{{.platforms}}', '["linux/amd64","linux/arm64"]\n[]\n'],
    ['/target/digest', 'sha256:1\nsha256:2\n'],
    ['/labels/a.b~1c', 'x\n\n'],
    ['{{.name}}\\t{{.size}}', 'redis:7\t5\napp\t\n'],
    ['json', `${IMAGES.map((image) => JSON.stringify(image)).join('\n')}\n`],
  ];
  for (const [template, expected] of examples)
    it(`${template} gives a line for each item`, () => assert.equal(text(template, IMAGES), expected));

  it('give one line for what is no list, and nothing for an empty one', () => {
    assert.equal(text('{{.name}}', IMAGES[0]), 'redis:7\n');
    assert.equal(text('{{.name}}', []), '');
    assert.equal(text('{{.}}', ['a', 'b']), 'a\nb\n');
  });

  it('reach every value, by a name, an index and a pointer alike', () => {
    const key = fc.string({minLength: 1, maxLength: 4}).filter((name) => name !== '__proto__');
    fc.assert(
      fc.property(fc.array(key, {minLength: 1, maxLength: 4}), fc.jsonValue({maxDepth: 1}), (keys, value) => {
        const object = keys.reduceRight<unknown>((inner, name) => ({[name]: inner}), value);
        const expected = `${JSON.stringify(JSON.parse(JSON.stringify(value)))}\n`;
        const index = `{{index . ${keys.map((name) => JSON.stringify(name)).join(' ')}}}`;
        const pointer = `/${keys.map((name) => name.replaceAll('~', '~0').replaceAll('/', '~1')).join('/')}`;
        // What would end the action, or be a tab or a line end, cannot be written in a template.
        if (!/}}|\\[tn]/.test(index)) assert.equal(text(`${index}`, object), text(pointer, object));
        if (keys.every((name) => /^[\w-]+$/.test(name))) assert.equal(text(`{{json .${keys.join('.')}}}`, object).length, expected.length);
      }),
    );
  });

  const refusal = (call: () => unknown): string | undefined => {
    try {
      call();
      return undefined;
    } catch (err) {
      assert.ok(is('invalid_argument')(err as Error));
      return `${(err as Error).message}; ${(err as {hint?: string}).hint}`;
    }
  };

  it('refuse a field that no result of the command has, and name those that there are', () => {
    const asked = (template: string, shape: Shape = RESULTS['images ls']!): string | undefined =>
      refusal(() => assertFields(parseTemplate(template), shape));
    const own = 'name, target, labels, createdAt, updatedAt, size, platforms';
    assert.equal(asked('{{.Names}}{{.name}}'), `--format: there is no Names: invalid argument; fields are ${own}`);
    assert.match(asked('{{.target.digst}}')!, /no target\.digst: .*; fields are mediaType, digest, size, /);
    assert.match(asked('{{.a}}{{json .name.x}}')!, /no a, name\.x: /);
    assert.match(asked('/target/nope')!, /no target\.nope: /);
    for (const good of ['{{.Target.Platform.OS}}', '{{.labels.x}}', '{{index .platforms 9}}', '{{index .labels "a.b"}}', '{{.}}', 'json'])
      assert.equal(asked(good), undefined, good);
    assert.equal(asked('{{.whatever.there.is}}', ANYTHING), undefined);
    assert.equal(asked('{{.spec.process.args}}', RESULTS['containers info']), undefined);
    assert.equal(asked('{{.children.x.children.y.descriptor.digest}}', RESULTS['images inspect']), undefined, 'a type within itself');
  });

  it('refuse a field that a document of others has not, when it is there', () => {
    const unknown = (template: string, result: unknown = IMAGES): string | undefined =>
      refusal(() => formatResult(parseTemplate(template), ANYTHING, result));
    assert.equal(
      unknown('{{.Names}}{{.name}}'),
      '--format: there is no Names: invalid argument; fields are name, target, platforms, labels, size',
    );
    assert.equal(unknown('{{.nope}}', {}), '--format: there is no nope: invalid argument; see the output of --json');
    assert.equal(unknown('{{.labels.x}}{{.size}}'), undefined, 'below, who knows; and one item has a size');
  });

  it('give empty text for a field that none has now, and say so', () => {
    const formatted = (template: string, result: unknown) => formatResult(parseTemplate(template), RESULTS['tasks ls']!, result);
    const {rows, absent} = formatted('<{{.exitStatus}}{{.network.name}}{{.exitStatus}}>', [{id: 'a'}, {id: 'b'}]);
    assert.deepEqual(
      [rows, absent],
      [
        ['<>', '<>'],
        ['exitStatus', 'network.name'],
      ],
    );
    assert.equal(formatted('{{.pid}}', [{id: 'a'}, {id: 'b', pid: 1}]).absent, undefined);
    assert.deepEqual(formatted('{{.pid}}', []), {rows: []});
  });

  it('know the fields of all commands, by the types of their results', () => {
    const printed = execFileSync(process.execPath, [join(root, 'scripts/result-fields.ts')], {encoding: 'utf8'});
    assert.equal(readFileSync(join(root, 'src/cli/result-fields.ts'), 'utf8'), printed);
  });

  it('escape what a terminal would obey in values, and leave their own tabs', () =>
    assert.equal(text('{{.x}}\\t{{json .x}}', {x: 'a\u001b[2J\u202e'}), 'a\\x1b[2J\\u202e\t"a\\u001b[2J\\u202e"\n'));

  for (const template of [
    'name',
    '{{.name',
    '{{range .}}{{end}}',
    '{{if .a}}',
    '{{.a | json}}',
    '{{join .a}}',
    '{{index .a}}',
    '{{.a "b"}}',
    '{{}}',
  ])
    it(`${template} is refused`, () => assert.throws(() => parseTemplate(template), is('invalid_argument')));
});

describe('--format', () => {
  const at = '2026-01-01T00:00:00Z';
  const namespaces: readonly NamespaceRecord[] = ['a', 'b'].map((name) => ({name, labels: {}, createdAt: at, updatedAt: at}));
  const listing = {client: {namespaces: {list: async () => namespaces}}};

  it('prints a line for each item in place of the table', async () => {
    const {status, stdout, stderr} = await runOnFakes('ns ls --format {{.Name}}', listing);
    assert.deepEqual({status, stdout, stderr}, {status: 0, stdout: 'a\nb\n', stderr: ''});
    assert.equal((await runOnFakes('--format /name ns ls', listing)).stdout, 'a\nb\n');
  });
  it('aligns what tabs separate below headings, as docker does', async () => {
    const {stdout} = await runOnFakes(['ns', 'ls', '--format', 'table {{.Name}}\\t{{.CreatedAt}}'], listing);
    assert.equal(stdout, `NAME CREATEDAT\na    ${at}\nb    ${at}\n`);
  });
  it('warns of a field that nothing has now', async () => {
    const {status, stdout, stderr} = await runOnFakes('ns ls --format {{.quota}}', listing);
    assert.deepEqual([status, stdout, stderr], [0, '\n\n', 'ctr: warning: nothing here has quota\n']);
  });
  for (const [template, message] of [
    ['{{.name', '--format: template "{{.name": "{{" without "}}": invalid argument'],
    ['{{.nope}}', '--format: there is no nope: invalid argument'],
  ] as const)
    it(`${template} is refused before anything is done`, async () => {
      let called = false;
      const client = {namespaces: {create: async () => (called = true)}};
      const {status, stderr} = await runOnFakes(['ns', 'create', 'a', '--format', template], {client} as never);
      assert.equal(status, 3);
      assert.equal(stderr.split('\n')[0], `ctr: ${message}`);
      assert.equal(called, false);
    });
  it('leaves errors as they are for people', async () => {
    const client = {namespaces: {list: async () => assert.fail('no')}};
    assert.match((await runOnFakes('ns ls --format {{.name}}', {client})).stderr, /^ctr: no/);
  });
  it('and --json exclude each other', async () =>
    assert.match((await runOnFakes('ns ls --json --format {{.name}}', listing)).stderr, /exclude each other/));
});

describe('--quiet', () => {
  const LISTS = ['content active', 'diff', 'images check', 'images mount', 'images usage', 'referrers', 'snapshots usage', 'tasks ps'];
  for (const id of [...Object.keys(COMMANDS.commands).filter((name) => name.endsWith(' ls')), ...LISTS])
    it(`is a flag of ${id}`, async () => {
      const {flags} = (await COMMANDS.commands[id]!()).default;
      assert.equal(flags.quiet?.char, 'q');
    });
});
