/** Documents that say how something is written down are read by the code that reads it. */
import assert from 'node:assert/strict';
import {mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {parseIdentity} from '../src/lib/fs/process.ts';
import {LEASE_OWNER} from '../src/lib/store/gc.ts';
import {JournalBackend} from '../src/lib/store/journal.ts';
import {LayerStore} from '../src/lib/store/layers.ts';
import {createLayout, FORMAT_VERSION} from '../src/lib/store/layout.ts';
import {
  parseContainer,
  parseContent,
  parseImage,
  parseIngest,
  parseLease,
  parseNamespace,
  parseSnapshot,
  RECORD_VERSION,
} from '../src/lib/store/schema.ts';
import {Store} from '../src/lib/store/store.ts';
import {temporaryDirectory} from './helpers.ts';
import {checkStore} from './invariants.ts';
import {makeImage} from './records.ts';

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
  };

  it('has an example of every kind of document, and no fence without a name', () => {
    assert.deepEqual(examples.map(({kind}) => kind).sort(), [...Object.keys(PARSERS), 'checkpoint', 'count', 'journal', 'layer'].sort());
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

  it('names a process as processes are named, and the versions that there are', () => {
    const owner = (example('lease').labels as Record<string, string>)[LEASE_OWNER];
    assert.ok(parseIdentity(owner ?? '') !== undefined);
    assert.ok(text.includes(`format, version ${FORMAT_VERSION}.`) && text.includes(`"${FORMAT_VERSION}"`));
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
