/** Documents that say how something is written down are read by the code that reads it. */
import assert from 'node:assert/strict';
import {existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {COMMANDS} from '../src/commands/index.ts';
import {MAX_LAYOUT_BYTES} from '../src/lib/archive/archive-documents.ts';
import {
  MAX_ENTRIES,
  MAX_EXTENDED_HEADERS,
  MAX_HEADER_BYTES,
  MAX_IMPLICIT_STEPS,
  MAX_LAYER_BYTES,
  MAX_NAME_BYTES,
  MAX_NAME_DEPTH,
  MAX_PAX_RECORDS,
  MAX_TARGET_BYTES,
} from '../src/lib/archive/limits.ts';
import {MAX_ARCHIVE_ENTRIES} from '../src/lib/archive/outer-tar-reader.ts';
import {parseMountRecord} from '../src/lib/client/api/host-mounts.ts';
import {MAX_DOCUMENTS, MAX_DOCUMENTS_BYTES} from '../src/lib/client/pull/plan.ts';
import {MAX_IMAGE_VOLUMES} from '../src/lib/client/run/container-volumes.ts';
import {CLASSES} from '../src/lib/errdefs.ts';
import {parseIdentity} from '../src/lib/fs/process.ts';
import {MAX_ANNOTATIONS_BYTES, MAX_BLOB_BYTES, MAX_CHILDREN, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES} from '../src/lib/oci/manifest.ts';
import {MAX_DEPTH} from '../src/lib/oci/walk.ts';
import {LEASE_OWNER} from '../src/lib/store/gc.ts';
import {JournalBackend} from '../src/lib/store/journal.ts';
import {LayerStore} from '../src/lib/store/layer-store.ts';
import {createLayout} from '../src/lib/store/layout.ts';
import {Formats, MIGRATIONS} from '../src/lib/store/migrations.ts';
import {
  parseContainer,
  parseContent,
  parseImage,
  parseIngest,
  parseLease,
  parseNamespace,
  parseSnapshot,
  RECORD_VERSION,
} from '../src/lib/store/parse-records.ts';
import {RefCounts} from '../src/lib/store/refcounts.ts';
import {Store} from '../src/lib/store/store.ts';
import {temporaryDirectory} from './support/helpers.ts';
import {checkStore} from './support/invariants.ts';
import {MemoryBackend} from './support/metadata-memory.ts';
import {makeImage} from './support/records.ts';

const text = readFileSync(new URL('../docs/STORE.md', import.meta.url), 'utf8');

/** The fenced examples, by what follows `json` on the fence. */
const examples = [...text.matchAll(/^```json (\w+)\n(.*?)^```$/gms)].map(([, kind, json]) => ({
  kind: kind!,
  value: JSON.parse(json!) as Record<string, unknown>,
}));

describe('docs/STORE.md', () => {
  const PARSERS: Readonly<Record<string, (value: unknown, what: string) => unknown>> = {
    namespace: parseNamespace,
    image: parseImage,
    content: parseContent,
    snapshot: parseSnapshot,
    container: parseContainer,
    lease: parseLease,
    ingest: parseIngest,
    mount: parseMountRecord,
  };

  it('has an example of every kind of document, and no fence without a name', () => {
    assert.deepEqual(
      examples.map(({kind}) => kind).sort(),
      [...Object.keys(PARSERS), 'checkpoint', 'count', 'journal', 'layer', 'uncounted'].sort(),
    );
    assert.equal([...text.matchAll(/^```/gm)].length, 2 * examples.length);
  });

  for (const {kind, value} of examples.filter((example) => example.kind in PARSERS))
    it(`has a ${kind} that is read as one, with no field that nobody reads`, () => {
      const {version, ...rest} = value;
      assert.equal(version, RECORD_VERSION);
      assert.deepEqual(PARSERS[kind]!(value, 'the example'), rest);
    });

  const example = (kind: string): Record<string, unknown> => examples.find((e) => e.kind === kind)!.value;

  it('has a journal record, a checkpoint and a layer that the store takes as its own', (t) => {
    const layout = createLayout(temporaryDirectory(t));
    mkdirSync(layout.journal);
    writeFileSync(join(layout.journal, 'checkpoint'), JSON.stringify({...example('checkpoint'), generation: 7}));
    writeFileSync(join(layout.journal, '0000000000000008'), JSON.stringify(example('journal')));
    const backend = new JournalBackend(layout, {lockTimeoutMs: 1000});
    const seen = backend.view((r) => [r.generation, (r.get('namespaces/ci/leases/l.json') as {id: string}).id]);
    assert.deepEqual(seen, [8, 'l']);
    mkdirSync(join(layout.layers, 'x'), {recursive: true});
    writeFileSync(join(layout.layers, 'x', 'layer.json'), JSON.stringify(example('layer')));
    assert.deepEqual(new LayerStore(layout).info('x'), example('layer'));
    assert.equal(new LayerStore(layout).isUsable('x'), false, 'it is of another boot');
  });

  it('has what counts do not tell in a form that the store takes as its own', async () => {
    const backend = new MemoryBackend();
    const {namespaces} = example('uncounted') as {namespaces: Record<string, {due: string}>};
    const due = Date.parse(namespaces.ci!.due);
    await backend.update('example', (writer) => {
      const refs = new RefCounts(writer);
      refs.beginNamespace('ci', true);
      writer.put('refs/uncounted.json', example('uncounted'));
      assert.deepEqual([refs.isConsistent('ci'), refs.due(due - 1), refs.due(due)], [true, [], ['ci']]);
    });
  });

  it('names a process as processes are named, and the versions that there are', () => {
    const owner = (example('lease').labels as Record<string, string>)[LEASE_OWNER];
    assert.ok(parseIdentity(owner ?? '') !== undefined);
    const {known} = new Formats(MIGRATIONS);
    assert.ok(text.includes(`format, version ${known}.`) && text.includes(`"${known}"`));
  });

  it('shows the tree that a store has, and nothing beside it', async (t) => {
    const store = new Store({root: join(temporaryDirectory(t), 'root'), lockTimeoutMs: 1000});
    await makeImage(store, 'default', 'image');
    const [, tree] = /^## The tree\n\n(.*?)\n\n/ms.exec(text) ?? [];
    const documented = new Set([...tree!.matchAll(/^ {4}([a-z]+)/gm)].map(([, name]) => name));
    for (const name of readdirSync(store.layout.root)) assert.ok(documented.has(name), name);
    const inNamespace = new Set([...tree!.matchAll(/^ {8}([a-z]+)/gm)].map(([, name]) => name));
    for (const name of readdirSync(join(store.layout.root, 'namespaces/default')))
      assert.ok(inNamespace.has(name.replace('.json', '')), name);
    assert.deepEqual(checkStore(store.layout.root), []);
  });
});

describe('docs/LIMITS.md', () => {
  const limits = readFileSync(new URL('../docs/LIMITS.md', import.meta.url), 'utf8');
  const UNITS: Readonly<Record<string, number>> = {MiB: 2 ** 20, TiB: 2 ** 40};
  const rows = [...limits.matchAll(/^\| ([^|]+) \| (\d+)(?: (MiB|TiB))? \| ([a-z_, ]+) \| ([\w/–]+) \|$/gm)].map(
    ([, what, n, unit, classes, test]) => ({
      test: test!,
      what: what!,
      most: Number(n) * (unit === undefined ? 1 : UNITS[unit]!),
      classes: classes!.split(', '),
    }),
  );

  it('has the numbers that the code has', () => {
    assert.deepEqual(
      rows.map(({most}) => most),
      [
        MAX_MANIFEST_BYTES,
        MAX_CONFIG_BYTES,
        MAX_ANNOTATIONS_BYTES,
        MAX_CHILDREN,
        MAX_DEPTH,
        MAX_DOCUMENTS,
        MAX_DOCUMENTS_BYTES,
        MAX_BLOB_BYTES,
        MAX_ENTRIES,
        MAX_LAYER_BYTES,
        MAX_IMPLICIT_STEPS,
        MAX_ARCHIVE_ENTRIES,
        MAX_LAYOUT_BYTES,
        MAX_NAME_BYTES,
        MAX_TARGET_BYTES,
        MAX_NAME_DEPTH,
        MAX_HEADER_BYTES,
        MAX_PAX_RECORDS,
        MAX_EXTENDED_HEADERS,
        MAX_IMAGE_VOLUMES,
        128 << 20,
      ],
    );
  });

  it('names tests that there are', () => {
    const names = new Set(rows.map(({test}) => test));
    assert.deepEqual([...names].sort(), [
      'advisories/limits',
      'lib/archive/inflate',
      'lib/client/archives',
      'lib/client/volumes',
      'lib/oci/manifest',
      '–',
    ]);
    for (const name of names) if (name !== '–') readFileSync(new URL(`${name}.test.ts`, import.meta.url));
  });

  it('has no class that there is not', () => {
    for (const {classes} of rows) for (const name of classes) assert.ok(Object.hasOwn(CLASSES, name), name);
  });
});

describe('documents for people', () => {
  const root = new URL('../', import.meta.url);
  const files = ['src', 'test', 'scripts', 'bench', 'docs'].flatMap((dir) =>
    readdirSync(new URL(dir, root), {recursive: true, encoding: 'utf8'}).map((name) => `/${dir}/${name}`),
  );
  const decisions = readdirSync(new URL('docs/decisions', root)).map((name) => `docs/decisions/${name}`);
  const pages = [
    'CONTRIBUTING.md',
    'README.md',
    'docs/CI.md',
    'docs/FROM-CTR.md',
    'docs/FROM-DOCKER.md',
    'docs/FROM-SKOPEO.md',
    'docs/DESIGN.md',
    'docs/GLOSSARY.md',
    'docs/HOSTS.md',
    'docs/STORE.md',
  ];

  for (const page of pages)
    it(`${page} names no file that there is not`, () => {
      const words = readFileSync(new URL(page, root), 'utf8').matchAll(/`([\w./-]+\.(?:ts|md|sh))`/g);
      assert.deepEqual(
        [...words]
          .map(([, name]) => name!)
          .filter((name) => !existsSync(new URL(name, root)) && !files.some((file) => file.endsWith(`/${name}`))),
        [],
      );
    });

  for (const page of [...pages, ...decisions])
    it(`${page} links to no page that there is not`, () => {
      const links = readFileSync(new URL(page, root), 'utf8').matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g);
      for (const [, link] of links) assert.ok(existsSync(new URL(link!, new URL(page, root))), link);
    });

  it('docs/decisions/README.md lists every decision', () => {
    const list = readFileSync(new URL('docs/decisions/README.md', root), 'utf8');
    for (const page of decisions)
      assert.ok(page.endsWith('/README.md') || list.includes(`](${page.replace('docs/decisions/', '')})`), page);
  });
});

describe('README.md', () => {
  const page = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const {name, version, description} = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as Record<
    string,
    string
  >;

  it('says how this package is installed, by its name', () => {
    assert.ok(page.includes(`The package is \`${name}\``));
    for (const [, command] of page.matchAll(/^(npm (?:install|pack) .+)$/gm))
      for (const word of command!.split(' ').filter((text) => text.includes('berth')))
        assert.match(word, new RegExp(`(?:^|/)${name}(?:-linux-x64(?:-musl)?)?(?:-${version!.replaceAll('.', '[.]')}[.]tgz)?$`), command);
  });

  it('and package.json claim no command that there is not', () => {
    for (const verb of ['push', 'attach', 'exec', 'start', 'import', 'export'])
      if (![...Object.keys(COMMANDS.commands), ...Object.keys(COMMANDS.aliases)].some((id) => id.split(' ').includes(verb)))
        assert.doesNotMatch(description!, new RegExp(`\\b${verb}\\b`));
  });
});

describe('test/advisories/README.md', () => {
  const table = readFileSync(new URL('advisories/README.md', import.meta.url), 'utf8');
  const rows = [...table.matchAll(/^\| ((?:CVE|GHSA)-\S+) \| (.*) \| (.+) \|$/gm)].map(([, id, ...files]) => ({
    id: id!,
    files: files.flatMap((names) => names!.split(', ')).filter((name) => name.trim() !== ''),
  }));

  it('names tests that there are, each of which names the advisory', () => {
    assert.ok(rows.length > 30);
    for (const {id, files} of rows)
      for (const name of files)
        assert.ok(readFileSync(new URL(`advisories/${name}.test.ts`, import.meta.url), 'utf8').includes(id), `${id} in ${name}`);
  });
});
