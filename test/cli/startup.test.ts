/** A command loads only what it uses. What that takes is measured by bench/startup.ts. */
import assert from 'node:assert/strict';
import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {startFakeRegistry} from '../fakes/registry.ts';
import {requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {engineEnvironment, root, run} from './harness.ts';

const entry = join(root, 'dist/node/main.js');

interface Coverage {
  readonly result: readonly {
    readonly url: string;
    readonly functions: readonly {readonly functionName: string; readonly ranges: readonly {readonly count: number}[]}[];
  }[];
}

/** What a run of the built program on Node loads: modules of packages by path, our own chunks by name. */
async function loadedBy(args: readonly string[], dir: string): Promise<{modules: string[]; chunks: string[]; functions: string[]}> {
  engineEnvironment('node');
  await run(process.execPath, [entry, ...args], {
    env: {NODE_V8_COVERAGE: dir, BERTH_ROOT: join(dir, 'root'), BERTH_STATE: join(dir, 'state')},
  });
  const file = readdirSync(dir).find((name) => name.startsWith('coverage-'));
  const {result} = JSON.parse(readFileSync(join(dir, file!), 'utf8')) as Coverage;
  const ours = result.filter(({url}) => url.includes('/dist/node/'));
  return {
    functions: ours.flatMap(({functions}) => functions.map(({functionName}) => functionName)),
    chunks: ours.map(({url}) => url.slice(url.lastIndexOf('/') + 1).replace(/(-[A-Z0-9]{8})?\.js$/, '')),
    // The bundler wraps each CommonJS module in a function that is named after its file.
    modules: ours
      .flatMap(({functions}) => functions)
      .filter(({functionName, ranges}) => functionName.includes('node_modules/') && ranges[0]!.count > 0)
      .map(({functionName}) => functionName.slice(functionName.lastIndexOf('node_modules/') + 'node_modules/'.length))
      .sort(),
  };
}

describe('start-up', () => {
  for (const line of ['namespaces ls', 'images ls', 'images inspect x', '-n foo content ls -q'])
    it(`"${line}" loads no package`, async (t) => {
      const {modules} = await loadedBy(line.split(' '), temporaryDirectory(t));
      assert.deepEqual(modules, []);
    });

  it('help loads oclif', async (t) => {
    const {modules} = await loadedBy(['namespaces', 'ls', '--help'], temporaryDirectory(t));
    assert.ok(modules.includes('@oclif/core/lib/help/index.js'), `the names of modules are still seen: ${modules.length}`);
  });

  for (const [what, line, expected] of [
    ['a listing', 'namespaces ls', 'node:buffer node:fs node:path'],
    // Of an image that is missing; what `run` loads of Node afterwards, it uses.
    ['run', 'run --rm missing x', 'node:async_hooks node:buffer node:fs node:path node:timers/promises'],
    ['exec', 'tasks exec missing true', 'node:async_hooks node:buffer node:crypto node:fs node:path node:timers/promises'],
  ] as const)
    it(`${what} does not load slow modules of Node`, async (t) => {
      if (line !== 'namespaces ls' && !requiresRoot(t)) return;
      const dir = temporaryDirectory(t);
      const watch = `data:text/javascript,const get = process.getBuiltinModule; const asked = new Set();
        process.getBuiltinModule = (id) => { asked.add(id); return get(id); };
        process.on('exit', () => console.error([...asked].sort().join(' ')));`;
      const {stderr} = await run(process.execPath, ['--import', watch, entry, ...line.split(' ')], {
        env: {BERTH_ROOT: join(dir, 'root'), BERTH_STATE: join(dir, 'state')},
      });
      assert.equal(stderr.trim().split('\n').at(-1), expected);
    });

  it('a request loads neither HTTP/2 nor the HTTP client of Node', async (t) => {
    const dir = temporaryDirectory(t);
    const registry = await startFakeRegistry(t);
    const watch = `data:text/javascript,const get = process.getBuiltinModule; const asked = new Set();
      process.getBuiltinModule = (id) => { asked.add(id); return get(id); };
      process.on('exit', () => console.error(asked.has('node:net'), [...asked].filter((id) => /http/.test(id)).join(' ')));`;
    const {stderr, status} = await run(process.execPath, ['--import', watch, entry, 'ping', registry.host], {
      env: {BERTH_ROOT: join(dir, 'root'), BERTH_STATE: join(dir, 'state')},
    });
    assert.deepEqual([status, stderr.trim()], [0, 'true']);
  });

  it('one command does not load another', async (t) => {
    const {chunks, functions} = await loadedBy(['namespaces', 'ls'], temporaryDirectory(t));
    for (const name of ['pull', 'run', 'help', 'progress-bars', 'doctor', 'remotes', 'agent', 'spawn-worker', 'worker', 'proper-lockfile'])
      assert.ok(!chunks.includes(name), `${name} is loaded`);
    assert.ok(chunks.includes('ls'));
    assert.ok(chunks.length <= 28, `${chunks.length} files are loaded: the core is in pieces`);
    // It has no chunk of its own.
    assert.ok(!functions.includes('createErofsIndex'), 'the index writer is loaded');
    assert.ok(functions.includes('probeErofs'), 'names of functions are no longer seen');
  });

  /** Names and code of the files that are loaded with these, by the beginnings of their names. */
  function loadedWith(...beginnings: readonly string[]): {files: ReadonlySet<string>; text: string} {
    const dist = join(root, 'dist/node');
    const files = new Set(readdirSync(dist).filter((name) => beginnings.some((beginning) => name.startsWith(beginning))));
    let text = '';
    for (const name of files) {
      const code = readFileSync(join(dist, name), 'utf8');
      for (const [, other] of code.matchAll(/(?:from|import)"\.\/([^"]+)"/g)) files.add(other!);
      text += code;
    }
    assert.ok(text.includes('formatIdentity'), 'names of functions are no longer seen');
    return {files, text};
  }

  it('what enters the user namespace loads no store', () => {
    const {text} = loadedWith('enter-user-namespace-');
    assert.ok(!text.includes('JournalBackend=class'), `the store is loaded, ${text.length} bytes in all`);
  });

  it('what runs a container is in few files', () => {
    const {files, text} = loadedWith('main.js', 'run-', 'commands-', 'foreground-run-', 'proper-lockfile-', 'event-log-');
    assert.ok(text.includes('JournalBackend=class'), 'names of classes are no longer seen');
    assert.ok(files.size <= 38, `${files.size} files are loaded`);
  });

  for (const words of [[''], ['images', '']])
    it(`a completion of ${JSON.stringify(words.join(' '))} loads no command, and tells what the source tells`, async (t) => {
      const dir = temporaryDirectory(t);
      const args = ['__complete', ...words];
      const {chunks} = await loadedBy(args, dir);
      for (const name of ['pull', 'run', 'doctor', 'ls', 'export', 'client']) assert.ok(!chunks.includes(name), `${name} is loaded`);
      assert.ok(chunks.includes('complete'), 'names of files are no longer seen');
      const [built, source] = [
        await run(process.execPath, [entry, ...args]),
        await run(process.execPath, [join(root, 'src/main.ts'), ...args]),
      ];
      assert.deepEqual([built.status, built.stdout], [0, source.stdout]);
    });

  for (const [filter, expected] of [
    ['labels.team==x', false],
    ['name~=x', true],
  ] as const)
    it(`a listing with the filter ${filter} ${expected ? 'loads' : 'does not load'} the regular expressions`, async (t) => {
      const {chunks} = await loadedBy(['content', 'ls', filter], temporaryDirectory(t));
      assert.equal(chunks.includes('regexp'), expected);
    });
});
