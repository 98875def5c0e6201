/** `--format`: the same fields as `--json`, by templates as docker's users type them, or by JSON pointers. */
import assert from 'node:assert/strict';
import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import fc from 'fast-check';
import {formatResult, OPTIONAL_FIELDS, parseTemplate} from '../../src/cli/format-template.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import type {NamespaceRecord} from '../../src/lib/client/types/index.ts';
import {is} from '../support/helpers.ts';
import {runOnFakes} from './fake-client.ts';
import {root} from './harness.ts';

const text = (template: string, result: unknown): string =>
  formatResult(parseTemplate(template), result)
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

  it('refuse a field that there is not, and name those that there are', () => {
    const unknown = (template: string, result: unknown = IMAGES): string | undefined => {
      try {
        formatResult(parseTemplate(template), result);
        return undefined;
      } catch (err) {
        assert.ok(is('invalid_argument')(err as Error));
        return `${(err as Error).message}; ${(err as {hint?: string}).hint}`;
      }
    };
    assert.equal(
      unknown('{{.Names}}{{.name}}'),
      '--format: there is no Names: invalid argument; fields are name, target, platforms, labels, size',
    );
    assert.equal(unknown('{{.target.digst}}'), '--format: there is no target.digst: invalid argument; fields are digest');
    assert.equal(unknown('{{.nope}}', []), undefined, 'nothing is known of what is not there');
    assert.equal(unknown('{{.labels.x}}{{index .platforms 9}}'), undefined, 'labels have the names that users give them');
  });

  it('give empty text for a field that none has now, and say so', () => {
    const {rows, absent} = formatResult(parseTemplate('<{{.exitStatus}}{{.task.network.name}}>'), IMAGES);
    assert.deepEqual(
      [rows, absent],
      [
        ['<>', '<>'],
        ['exitStatus', 'task.network.name'],
      ],
    );
    assert.equal(formatResult(parseTemplate('{{.size}}'), IMAGES).absent, undefined);
  });

  it('know every field that results of the library may lack', () => {
    const types = 'src/lib/client/types';
    const files = [
      ...readdirSync(join(root, types)).map((name) => `${types}/${name}`),
      'src/lib/store/records.ts',
      'src/lib/oci/descriptor.ts',
    ];
    const found = files.flatMap((file) => {
      const source = readFileSync(join(root, file), 'utf8');
      return [...source.matchAll(/(?:interface|type) (\w+)[^{;]*\{\n([\s\S]*?)\n\}/g)]
        .filter(([, name]) => !/(?:Options|Client|Settings|Place)$/.test(name!))
        .flatMap(([, , body]) => [...body!.matchAll(/readonly (\w+)\?:/g)].map(([, name]) => name!));
    });
    assert.ok(found.length > 40);
    assert.deepEqual(
      [...new Set(found)].filter((name) => !OPTIONAL_FIELDS.has(name)),
      [],
    );
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
  it('fails for a field that there is not', async () => {
    const {status, stdout, stderr} = await runOnFakes('ns ls --format {{.nope}}', listing);
    assert.deepEqual([status, stdout], [3, '']);
    assert.equal(stderr, 'ctr: --format: there is no nope: invalid argument\nhint: fields are name, labels, createdAt, updatedAt\n');
  });
  it('warns of a field that nothing has now', async () => {
    const {status, stdout, stderr} = await runOnFakes('ns ls --format {{.image}}', listing);
    assert.deepEqual([status, stdout, stderr], [0, '\n\n', 'ctr: warning: nothing here has image\n']);
  });
  it('is read before anything is done', async () => {
    let called = false;
    const client = {namespaces: {create: async () => (called = true)}};
    const {status, stderr} = await runOnFakes('ns create a --format {{.name', {client} as never);
    assert.equal(status, 3);
    assert.match(stderr, /^ctr: --format: template "{{.name": "{{" without "}}": invalid argument\n/);
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
