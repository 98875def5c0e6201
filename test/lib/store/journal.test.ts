import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import {dirname, join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import type {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {bootId} from '../../../src/lib/fs/process.ts';
import {JournalBackend} from '../../../src/lib/store/journal.ts';
import {createLayout, type Layout} from '../../../src/lib/store/layout.ts';
import {readLog, recorderOptions} from '../../fakes/powerloss.ts';
import {metadataSuite} from '../../suites/metadata.ts';
import {runScript, startScript} from '../../support/children.ts';
import {findProgram, is, requiresOneClock, requiresProgram, temporaryDirectory} from '../../support/helpers.ts';
import {MemoryBackend} from '../../support/metadata-memory.ts';

const openJournal = (root: string): JournalBackend => new JournalBackend(createLayout(root), {lockTimeoutMs: 10_000});

metadataSuite('memory', () => new MemoryBackend());
metadataSuite('journal', (t) => openJournal(temporaryDirectory(t)));

const record = (layout: Layout, generation: number): string => join(layout.journal, String(generation).padStart(16, '0'));

/** A store with `n` transactions; each increments `n.json` and adds a document. */
async function counted(t: TestContext, n: number) {
  const layout = createLayout(temporaryDirectory(t));
  const backend = openJournal(layout.root);
  for (let i = 1; i <= n; i++) await count(backend);
  return {layout, backend};
}

const count = (backend: JournalBackend): Promise<number> =>
  backend.update('count', (tx) => {
    const n = ((tx.get('n.json') as number | undefined) ?? 0) + 1;
    tx.put('n.json', n);
    tx.put(`d/${n}.json`, {n});
    return n;
  });

const seen = (root: string): unknown => openJournal(root).view((r) => [r.get('n.json'), r.list('d').length]);

/** Makes the store look as if written in an earlier boot. */
function reboot(layout: Layout): void {
  const file = join(layout.journal, 'checkpoint');
  writeFileSync(file, readFileSync(file, 'utf8').replace(/[0-9a-f]{32}/, '0'.repeat(32)));
}

describe('journal', () => {
  it('shows a committed change before it is applied, and the next writer applies it', async (t) => {
    const {layout, backend} = await counted(t, 3);
    const next = {
      version: 1,
      generation: 4,
      writes: {'n.json': 4, 'd/4.json': {n: 4}, 'd/1.json': null},
      before: {'n.json': 3, 'd/4.json': null, 'd/1.json': {n: 1}},
    };
    writeFileSync(record(layout, 4), JSON.stringify(next));
    assert.deepEqual(
      backend.view((r) => [r.get('n.json'), r.list('d'), r.get('d/1.json'), r.generation]),
      [4, ['2.json', '3.json', '4.json'], undefined, 4],
    );
    assert.equal(readFileSync(join(layout.root, 'n.json'), 'utf8'), '3\n', 'a reader writes nothing');
    assert.equal(await count(backend), 5);
    assert.equal(readFileSync(join(layout.root, 'n.json'), 'utf8'), '5\n');
    assert.deepEqual(readdirSync(join(layout.root, 'd')).sort(), ['2.json', '3.json', '4.json', '5.json']);
  });

  for (const [what, use] of [
    ['applied', `update('nothing', () => {})`],
    ['told of', `view((reader) => mark(String(reader.get('n.json'))))`],
  ] as const)
    it(`syncs another writer's commit before it is ${what}`, async (t) => {
      const {layout} = await counted(t, 3);
      const {root} = layout;
      const next = {version: 1, generation: 4, writes: {'n.json': 4}, before: {'n.json': 3}};
      writeFileSync(record(layout, 4), JSON.stringify(next));
      const log = join(temporaryDirectory(t), 'log');
      const code = `
        const [{JournalBackend}, {createLayout}] = [await lib('store/journal.ts'), await lib('store/layout.ts')];
        const {mark} = await import(args[1]);
        await new JournalBackend(createLayout(args[0]), {lockTimeoutMs: 10_000}).${use};`;
      const recorder = import.meta.resolve('../../fakes/powerloss.ts');
      await runScript(t, code, [root, recorder], recorderOptions({below: root, log, boot: bootId()}));
      const changes = readLog(log);
      const synced = changes.findIndex(
        (change, i) =>
          change.op === 'sync' && changes.slice(0, i).some((c) => c.op === 'open' && c.handle === change.handle && c.path === 'journal'),
      );
      const used = changes.findIndex(
        (change) => (change.op === 'rename' && change.path === 'n.json') || (change.op === 'mark' && change.name === '4'),
      );
      assert.ok(synced >= 0 && synced < used, JSON.stringify(changes));
    });

  it('applies everything since the checkpoint again after a power loss, whatever state the record files are in', async (t) => {
    for (const n of [3, 64, 70, 130]) {
      const {layout} = await counted(t, n);
      const {generation} = JSON.parse(readFileSync(join(layout.journal, 'checkpoint'), 'utf8')) as {generation: number};
      assert.ok(n - generation < 64, `the checkpoint is at ${generation} after ${n}`);
      reboot(layout);
      // Nothing was synced since the checkpoint: a file may be missing, empty or old.
      for (let i = generation + 1; i <= n; i++) {
        const file = join(layout.root, 'd', `${i}.json`);
        if (i % 3 === 0) rmSync(file);
        else if (i % 3 === 1) writeFileSync(file, '');
      }
      writeFileSync(join(layout.root, 'n.json'), generation === 0 ? '' : String(generation));
      writeFileSync(join(layout.journal, 'applied'), '');
      assert.deepEqual(seen(layout.root), [n, n]);
      const backend = openJournal(layout.root);
      assert.equal(await count(backend), n + 1);
      assert.equal(readFileSync(join(layout.root, 'n.json'), 'utf8'), `${n + 1}\n`);
      for (let i = 1; i <= n + 1; i++) assert.equal(readFileSync(join(layout.root, 'd', `${i}.json`), 'utf8'), `{"n":${i}}\n`);
      assert.ok(existsSync(layout.unswept), 'and it is known that something may have been cut short');
    }
  });

  it('does not restore after a power loss what was removed since the checkpoint', async (t) => {
    const {layout, backend} = await counted(t, 2);
    await backend.update('remove', (tx) => tx.put('d/1.json', undefined));
    reboot(layout);
    writeFileSync(join(layout.root, 'd', '1.json'), '{"n":1}\n');
    assert.deepEqual(
      openJournal(layout.root).view((r) => [r.list('d'), r.get('d/1.json')]),
      [['2.json'], undefined],
    );
    await count(openJournal(layout.root));
    assert.ok(!existsSync(join(layout.root, 'd', '1.json')));
  });

  it('applies all its records when `checkpoint` or `applied` is lost or damaged', async (t) => {
    for (const [file, damage] of [
      ['checkpoint', undefined],
      ['checkpoint', ''],
      ['checkpoint', '{"generation":"x"}'],
      ['checkpoint', 'null'],
      ['applied', undefined],
      ['applied', '0000000000000099 0000000000000003\n'],
      ['applied', 'torn'],
    ] as const) {
      const {layout} = await counted(t, 5);
      const path = join(layout.journal, file);
      if (damage === undefined) rmSync(path);
      else writeFileSync(path, damage);
      assert.deepEqual(seen(layout.root), [5, 5], `${file} ${damage}`);
      assert.equal(await count(openJournal(layout.root)), 6);
      assert.deepEqual(seen(layout.root), [6, 6]);
      assert.ok(existsSync(record(layout, 6)), 'generations go on');
    }
  });

  it('continues from its newest record when only some old ones are left', async (t) => {
    const {layout} = await counted(t, 5);
    for (const file of ['checkpoint', 'applied', '0000000000000002']) rmSync(join(layout.journal, file));
    assert.deepEqual(seen(layout.root), [5, 5]);
    assert.equal(await count(openJournal(layout.root)), 6);
    assert.ok(existsSync(record(layout, 6)));
  });

  it("makes a late writer collide, and run again on the other's result", async (t) => {
    const {layout, backend} = await counted(t, 2);
    let runs = 0;
    const result = await backend.update('late', (tx) => {
      // As if we had lost the lock: another writer commits meanwhile.
      if (++runs === 1) {
        const theirs = {version: 1, generation: 3, writes: {'n.json': 100}, before: {'n.json': 2}};
        writeFileSync(record(layout, 3), JSON.stringify(theirs));
      }
      const n = (tx.get('n.json') as number) + 1;
      tx.put('n.json', n);
      return n;
    });
    assert.deepEqual([result, runs], [101, 2]);
    assert.equal(readFileSync(join(layout.root, 'n.json'), 'utf8'), '101\n');
    assert.ok(existsSync(record(layout, 4)));
  });

  it('gives up after several faster writers, with nothing changed', async (t) => {
    const {layout, backend} = await counted(t, 1);
    let generation = 1;
    const late = backend.update('late', (tx) => {
      generation++;
      writeFileSync(
        record(layout, generation),
        JSON.stringify({version: 1, generation, writes: {'n.json': generation}, before: {'n.json': null}}),
      );
      tx.put('mine.json', 1);
    });
    await assert.rejects(late, is('aborted'));
    assert.equal(
      openJournal(layout.root).view((r) => r.get('mine.json')),
      undefined,
    );
  });

  it('makes a writer collide that slept until the record to collide with was pruned', async (t) => {
    const {layout, backend} = await counted(t, 2);
    let runs = 0;
    await backend.update('sleeper', (tx) => {
      if (++runs === 1) {
        // Meanwhile another writer has reached generation 200 and pruned the old ones.
        const boot = /[0-9a-f]{32}/.exec(readFileSync(join(layout.journal, 'checkpoint'), 'utf8'))![0];
        writeFileSync(join(layout.journal, 'checkpoint'), JSON.stringify({generation: 200, bootId: boot}));
        writeFileSync(join(layout.root, 'n.json'), '200');
      }
      tx.put('n.json', (tx.get('n.json') as number) + 1);
    });
    assert.equal(runs, 2);
    assert.deepEqual(
      readdirSync(layout.journal).filter((name) => name.startsWith('0')),
      ['0000000000000001', '0000000000000002', '0000000000000201'],
    );
    assert.equal(readFileSync(join(layout.root, 'n.json'), 'utf8'), '201\n');
  });

  it('keeps newer changes over those of a writer that applies late', async (t) => {
    const {layout, backend} = await counted(t, 2);
    // A faster writer commits between our commit and its application.
    await backend.update('late to apply', (tx) => {
      tx.put('n.json', 3);
      writeFileSync(record(layout, 4), JSON.stringify({version: 1, generation: 4, writes: {'n.json': 4}, before: {'n.json': 3}}));
    });
    assert.equal(readFileSync(join(layout.root, 'n.json'), 'utf8'), '4\n');
    assert.deepEqual(
      openJournal(layout.root).view((r) => [r.get('n.json'), r.generation]),
      [4, 4],
    );
  });

  it('tells actions after a commit that other writers have overtaken it', async (t) => {
    const {layout, backend} = await counted(t, 1);
    const answers: boolean[] = [];
    await backend.update('slow', (tx) => {
      tx.put('n.json', 2);
      tx.afterCommit((isOvertaken) => {
        answers.push(isOvertaken());
        writeFileSync(record(layout, 3), JSON.stringify({version: 1, generation: 3, writes: {}, before: {}}));
        answers.push(isOvertaken());
      });
    });
    await backend.update('looks only', (tx) => tx.afterCommit((isOvertaken) => answers.push(isOvertaken())));
    assert.deepEqual(answers, [false, true, false]);
  });

  it('keeps the newest records, and old ones as long as a sleeping writer could need them', async (t) => {
    if (!requiresOneClock(t, 'the age of a record of the journal is its file time')) return;
    const {layout, backend} = await counted(t, 140);
    const names = (): number => readdirSync(layout.journal).filter((name) => name.startsWith('0')).length;
    assert.equal(names(), 140, 'all are young');
    const past = Date.now() / 1000 - 11 * 60;
    for (let i = 1; i <= 140; i++) utimesSync(record(layout, i), past, past);
    for (let i = 141; i <= 200; i++) await count(backend);
    const {generation} = JSON.parse(readFileSync(join(layout.journal, 'checkpoint'), 'utf8')) as {generation: number};
    assert.equal(names(), 200 - (generation - 64));
    assert.ok(existsSync(record(layout, generation - 63)) && !existsSync(record(layout, generation - 64)));
    reboot(layout);
    assert.deepEqual(seen(layout.root), [200, 200], 'and enough of them to recover');
    assert.deepEqual(
      backend.view((r) => r.changesSince(1)),
      undefined,
      'what is pruned is not known any more',
    );
    assert.equal(backend.view((r) => r.changesSince(199))?.size, 2);
  });

  it('is limited in size, and still makes a writer collide that slept until the record to collide with was removed', async (t) => {
    const {layout, backend} = await counted(t, 1);
    const code = `
      const {JournalBackend} = await import(${JSON.stringify(import.meta.resolve('../../../src/lib/store/journal.ts'))});
      const {createLayout} = await import(${JSON.stringify(import.meta.resolve('../../../src/lib/store/layout.ts'))});
      const {readdirSync, statSync} = await import('node:fs');
      const layout = createLayout(process.argv[1]);
      const backend = new JournalBackend(layout, {lockTimeoutMs: 10_000});
      let most = 0;
      for (let i = 1; i <= 40; i++) {
        await backend.update('large', (tx) => tx.put('large.json', i + 'x'.repeat(300_000)));
        const bytes = readdirSync(layout.journal).reduce((sum, name) => sum + statSync(layout.journal + '/' + name).size, 0);
        most = Math.max(most, bytes);
      }
      console.log(most);`;
    let runs = 0;
    let most = 0;
    await backend.update('sleeper', (tx) => {
      if (++runs === 1) {
        // Other writers commit meanwhile, as if we had lost the lock.
        const lock = layout.lock('store');
        renameSync(lock, `${lock}.ours`);
        most = Number(execFileSync(process.execPath, ['--input-type=module', '-e', code, layout.root], {encoding: 'utf8'}));
        renameSync(`${lock}.ours`, lock);
        assert.ok(!existsSync(record(layout, 2)), 'what he would have met is gone');
      }
      tx.put('late.json', [runs, (tx.get('large.json') as string | undefined)?.slice(0, 3)]);
    });
    assert.equal(runs, 2);
    assert.deepEqual(
      backend.view((r) => [r.generation, r.get('late.json')]),
      [42, [2, '40x']],
    );
    assert.ok(!existsSync(record(layout, 2)));
    assert.ok(most < 6 << 20, `the journal had ${most} B`);
  });

  it('shows a consistent view without waiting, however many writers commit during it', async (t) => {
    const {layout, backend} = await counted(t, 0);
    // A token moves between two records; each view must see it once.
    await backend.update('begin', (tx) => tx.put('d/a.json', 'token'));
    const code = `
      const {JournalBackend} = await lib('store/journal.ts');
      const {createLayout} = await lib('store/layout.ts');
      const backend = new JournalBackend(createLayout(args[0]), {lockTimeoutMs: 10_000});
      say('up');
      for (let there = 'a';;) {
        const next = there === 'a' ? 'b' : 'a';
        await backend.update('move', (tx) => { tx.put('d/' + there + '.json', undefined); tx.put('d/' + next + '.json', 'token'); });
        there = next;
      }`;
    const writer = startScript(t, code, [layout.root]);
    await writer.line();
    let generations = 0;
    for (let i = 0; i < 30 || (generations <= 30 && i < 5000); i++) {
      const before = backend.view((r) => r.generation);
      const looks = backend.view((r) => {
        const result: unknown[] = [];
        for (let k = 0; k < 3; k++) {
          const until = performance.now() + 4;
          while (performance.now() < until);
          result.push([r.get('d/a.json') ?? null, r.get('d/b.json') ?? null], r.list('d'));
        }
        return result;
      });
      generations += backend.view((r) => r.generation) - before;
      assert.match(JSON.stringify(looks[0]), /^\["token",null\]$|^\[null,"token"\]$/);
      const name = (looks[0] as unknown[])[0] === 'token' ? 'a.json' : 'b.json';
      assert.deepEqual(looks, [looks[0], [name], looks[0], [name], looks[0], [name]]);
    }
    assert.ok(generations > 30, `only ${generations} commits went by`);
  });

  it('does not show an error that only half of a transaction could cause', async (t) => {
    const {layout, backend} = await counted(t, 1);
    let runs = 0;
    const value = backend.view((r) => {
      const before = r.get('n.json');
      if (++runs === 1) {
        writeFileSync(record(layout, 2), JSON.stringify({version: 1, generation: 2, writes: {'n.json': 2}, before: {'n.json': 1}}));
        writeFileSync(join(layout.root, 'n.json'), '2');
      }
      if (r.get('n.json') !== before) throw new Error('half a change');
      return before;
    });
    assert.deepEqual([value, runs], [1, 2]);
  });

  it('names the damaged file, with a hint', async (t) => {
    const {layout, backend} = await counted(t, 1);
    const message = (path: string) => (err: Error & {hint?: string}) =>
      is('data_loss')(err) &&
      err.message.includes(join(layout.root, path)) &&
      (path.startsWith('d/') ? /check --repair/ : /restore it/).test(err.hint ?? '');
    for (const text of ['{', '{"n":1}x', 'null }']) {
      writeFileSync(join(layout.root, 'd', '1.json'), text);
      assert.throws(() => backend.view((r) => r.get('d/1.json')), message('d/1.json'));
      await assert.rejects(
        backend.update('read', (tx) => tx.get('d/1.json')),
        message('d/1.json'),
      );
    }
    await backend.update('replace', (tx) => tx.put('d/1.json', {n: 1}));
    assert.deepEqual(
      backend.view((r) => r.get('d/1.json')),
      {n: 1},
    );
    for (const text of [
      '',
      'null',
      '{"version":1,"generation":9,"writes":{},"before":{}}',
      '{"version":1,"generation":3,"writes":[],"before":{}}',
    ]) {
      writeFileSync(record(layout, 3), text);
      assert.throws(() => backend.view((r) => r.get('n.json')), message('journal/0000000000000003'));
      await assert.rejects(count(backend), message('journal/0000000000000003'));
    }
  });

  it('reads a file that a lost disk left empty from the journal, and rewrites it', async (t) => {
    for (const text of ['', '\0\0\0\0\0\0\0\0']) {
      const {layout} = await counted(t, 5);
      const files = ['n.json', 'd/2.json', 'd/5.json'].map((path) => join(layout.root, path));
      for (const file of files) writeFileSync(file, text);
      assert.deepEqual(seen(layout.root), [5, 5]);
      assert.equal(readFileSync(files[0]!, 'utf8'), text, 'a reader writes nothing');
      const backend = openJournal(layout.root);
      assert.deepEqual(await backend.update('look', (tx) => [tx.get('n.json'), tx.get('d/2.json')]), [5, {n: 2}]);
      for (const file of files) assert.notEqual(readFileSync(file, 'utf8'), text, `${file} after the next change`);
    }
  });

  it('has written all record files at a checkpoint, whatever a lost disk made of them', async (t) => {
    const {layout, backend} = await counted(t, 60);
    for (let i = 2; i <= 60; i++) writeFileSync(join(layout.root, 'd', `${i}.json`), i % 2 === 0 ? '' : '{"n":0}\n');
    rmSync(join(layout.root, 'd', '1.json'));
    for (let i = 61; i <= 70; i++) await count(backend);
    assert.ok((JSON.parse(readFileSync(join(layout.journal, 'checkpoint'), 'utf8')) as {generation: number}).generation > 60);
    for (let i = 1; i <= 70; i++) assert.equal(readFileSync(join(layout.root, 'd', `${i}.json`), 'utf8'), `{"n":${i}}\n`);
  });

  it('reports a wrong file type in the place of a file or a directory, and overwrites nothing', async (t) => {
    const {layout, backend} = await counted(t, 1);
    const path = (name: string): string => join(layout.root, name);
    mkdirSync(path('d/2.json'));
    symlinkSync('nowhere', path('d/3.json'));
    symlinkSync('nowhere', path('away'));
    for (const [look, wrong] of [
      ['d/2.json', 'd/2.json'],
      ['d/3.json', 'd/3.json'],
      ['n.json/x.json', 'n.json'],
      ['away/x.json', 'away'],
      ['away/deep/x.json', 'away'],
    ] as const) {
      const told = (err: ErrdefsError): boolean =>
        err.code === 'data_loss' && err.details?.wrongTypePath === path(wrong) && err.hint !== undefined;
      assert.throws(() => backend.view((r) => r.get(look)), told, look);
      if (look !== wrong) assert.throws(() => backend.view((r) => r.list(dirname(look))), told, look);
      await assert.rejects(
        backend.update('a test', (tx) => tx.put(look, 1)),
        told,
        look,
      );
    }
    assert.deepEqual(seen(layout.root), [1, 3], 'nothing was committed');
  });

  it('skips files that are not records', async (t) => {
    const {layout, backend} = await counted(t, 1);
    const before = backend.view((r) => [r.list('d'), r.directories('d'), r.list('')]);
    for (const name of ['README', '.hidden.json', 'd/1.json~']) writeFileSync(join(layout.root, name), '');
    mkdirSync(join(layout.root, 'd', 'sub'));
    assert.deepEqual(
      backend.view((r) => [r.list('d'), r.directories('d'), r.list('')]),
      [before[0], ['sub'], before[2]],
    );
  });

  it('is created for its owner only, without other files', async (t) => {
    const {layout} = await counted(t, 70);
    assert.deepEqual(readdirSync(layout.root).sort(), ['d', 'journal', 'locks', 'n.json']);
    assert.deepEqual(readdirSync(layout.locks), []);
    const others = readdirSync(layout.journal).filter((name) => !/^\d{16}$/.test(name));
    assert.deepEqual(others, ['applied', 'checkpoint']);
    assert.equal(statSync(layout.journal).mode & 0o777, 0o700);
    assert.equal(statSync(join(layout.root, 'n.json')).mode & 0o777, 0o600);
  });

  it('syncs every record file before it writes the checkpoint', async (t) => {
    if (!requiresProgram(t, 'strace')) return;
    const dir = temporaryDirectory(t);
    const code = `
      const {JournalBackend} = await lib('store/journal.ts');
      const {createLayout} = await lib('store/layout.ts');
      const backend = new JournalBackend(createLayout(args[0]), {lockTimeoutMs: 1000});
      const put = (path, document) => backend.update('x', (tx) => tx.put(path, document));
      for (let i = 1; i <= 62; i++) await put('d/' + i + '.json', i);
      await put('gone/x.json', 1);
      await put('gone/x.json', undefined);`;
    await runScript(t, code, [join(dir, 'root')], {
      through: [findProgram('strace')!, '-f', '-y', '-qq', '-e', 'trace=fsync,rename,link', '-o', join(dir, 'trace')],
    });
    const calls = readFileSync(join(dir, 'trace'), 'utf8')
      .split('\n')
      .flatMap((line) => /(\w+)\((.*)\) += 0$/.exec(line)?.slice(1, 3).join(' ') ?? [])
      .map((call) => call.replaceAll(`${dir}/root`, '').replaceAll(/\d+<|[">]/g, ''));
    const commit = calls.findIndex((call) => call.endsWith(', /journal/0000000000000064'));
    const checkpoint = calls.findLastIndex((call) => call.endsWith(', /journal/checkpoint'));
    assert.ok(commit > 0 && checkpoint > commit);
    const synced = new Set(calls.slice(commit, checkpoint));
    for (let i = 1; i <= 62; i++) assert.ok(synced.has(`fsync /d/${i}.json`), `d/${i}.json`);
    // The created and removed directory is an entry of the root.
    for (const directory of ['/d', '/journal', '']) assert.ok(synced.has(`fsync ${directory}`), directory);
  });

  it('sweeps temporary files of killed writers at a checkpoint', async (t) => {
    const {layout, backend} = await counted(t, 1);
    for (const directory of [layout.journal, join(layout.root, 'd')]) writeFileSync(join(directory, `.tmp.1.1.${'0'.repeat(32)}.1.x`), '');
    assert.deepEqual(
      backend.view((r) => r.list('d')),
      ['1.json'],
      'nobody lists it meanwhile',
    );
    for (let i = 2; i <= 70; i++) await count(backend);
    for (const directory of [layout.journal, join(layout.root, 'd')])
      assert.deepEqual(
        readdirSync(directory).filter((name) => name.startsWith('.')),
        [],
      );
  });
});
