/**
 * check, df, prune and gc, and unusual stores: all on the executable, a sample on Node, with `BERTH_TEST_TORTURE=1` all on both.
 * damaged-store.test.ts and damage-to-every-file.test.ts have more damaged stores.
 */
import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync} from 'node:fs';
import {basename, join} from 'node:path';
import {describe, it} from 'node:test';
import {recordFile} from '../../src/lib/store/layout.ts';
import {blobsOf, diskUsage, eventually, fileScope, publishedImages, tableRows} from '../e2e/fixtures.ts';
import {flip, fromAnotherBoot, readJSON, writeJSON} from '../lib/client/pulled-store.ts';
import {
  requiresOneClock,
  requiresProgram,
  requiresRoot,
  type Scope,
  type Skippable,
  TORTURE,
  temporaryDirectory,
} from '../support/helpers.ts';
import {type CommandLine, commandLine, type Engine, environment, forEachEngine, root, run as runProgram} from './harness.ts';

const published = publishedImages();

/** As `forEachEngine`, on the executable alone unless all is asked for. */
const forOneEngine: typeof forEachEngine = (name, declare) =>
  TORTURE ? forEachEngine(name, declare) : describe(`${name}, executable`, () => declare('executable'));

const requiresRuntime = (t: Skippable): boolean => requiresRoot(t) && requiresProgram(t, 'runc', 'unshare', 'mount');

interface Trusted {
  readonly ctr: CommandLine;
  readonly ref: string;
  /** Below the root. */
  path(...parts: string[]): string;
  /** Bytes of the image's layer. */
  readonly layerBlob: string;
  /** Directories of unpacked layers of images. */
  layers(): readonly string[];
}

/** The first process of a container has no way to end that it does not make itself. */
const SLEEP = ['sh', '-c', 'trap "exit 0" TERM; sleep 100 & wait'];

const scope = fileScope();
/** Roots into which busybox was pulled, by snapshotter, to be copied. */
const origins = new Map<string, Promise<string>>();

async function pullOnce(ref: string, snapshotter: string): Promise<string> {
  const ctr = commandLine(scope, 'executable');
  await ctr.ok(['pull', '--progress', 'none', '--snapshotter', snapshotter, ref]);
  return ctr.env.BERTH_ROOT!;
}

/** busybox, pulled. */
async function trusted(
  t: Skippable & Scope,
  engine: Engine,
  snapshotter: 'erofs' | 'overlayfs' = 'overlayfs',
): Promise<Trusted | undefined> {
  if (!requiresRoot(t)) return undefined;
  const image = await published(t, 'busybox');
  if (image === undefined) return undefined;
  const ctr = commandLine(t, engine);
  const origin = origins.get(snapshotter) ?? pullOnce(image.ref, snapshotter);
  origins.set(snapshotter, origin);
  execFileSync('cp', ['-a', `${await origin}/.`, ctr.env.BERTH_ROOT!]);
  const path = (...parts: string[]): string => join(ctr.env.BERTH_ROOT!, ...parts);
  const {digest} = blobsOf(image.image).at(-1)!;
  return {
    ctr,
    ref: image.ref,
    path,
    layerBlob: path('content/blobs', digest.replace(':', '/')),
    layers: () =>
      readdirSync(path('layers'))
        .filter((name) => !name.includes('-own-'))
        .map((name) => path('layers', name)),
  };
}

const lines = (text: string): string[] => text.trimEnd().split('\n');

forEachEngine('check of damage', (engine) => {
  it('ends with 15 while there is damage, and repairs it', async (t) => {
    const store = await trusted(t, engine);
    if (store === undefined) return;
    const {ctr, layerBlob} = store;
    truncateSync(layerBlob, 0);
    const {status, stdout, stderr} = await ctr(['check']);
    assert.equal(status, 15);
    assert.match(lines(stdout)[0]!, /^damage: content sha256:[0-9a-f]{64}: has 0 B on disk instead of \d+ B \(\/\S+\)$/);
    assert.equal(lines(stdout)[1], '1 namespace, 6 records, 3 blobs, 1 layer: 1 damage, 0 suspect, 0 garbage');
    assert.equal(stderr, 'ctr: damage remains: 1 of 1 findings: data loss\nhint: repair it: ctr check --repair\n');

    const repaired = await ctr.ok(['check', '--repair', '--progress', 'none']);
    assert.match(
      lines(repaired)[0]!,
      /^repaired damage: content sha256:\S+ has 0 B on disk instead of \d+ B \(\/\S+\): fetched from 127\.0\.0\.1:\d+\/library\/busybox$/,
    );
    assert.equal(lines(repaired)[1], '1 namespace, 6 records, 3 blobs, 1 layer: 1 damage, 0 suspect, 0 garbage, 1 repaired');
    assert.match(await ctr.ok(['check', '--deep', '--progress', 'none']), /nothing wrong\n$/);
  });
});

forEachEngine('content get of damage', (engine) => {
  for (const [what, spoil] of [
    ['first', (path: string) => flip(path, 0)],
    ['middle', (path: string) => flip(path, statSync(path).size >> 1)],
    ['last', (path: string) => flip(path, -1)],
  ] as const)
    it(`ends with 15 after the last of the bytes, where a bit of the ${what} is turned`, async (t) => {
      const store = await trusted(t, engine);
      if (store === undefined) return;
      const {ctr, layerBlob, path} = store;
      const digest = `sha256:${basename(layerBlob)}`;
      const right = readFileSync(layerBlob);
      spoil(layerBlob);
      const wrong = readFileSync(layerBlob);
      const complaint = new RegExp(`^ctr: content ${digest} is sha256:[0-9a-f]{64} on disk: data loss\nhint: \\S.*\n$`);

      const file = path('got');
      const get = ['content', 'get', digest];
      const written = await runProgram('sh', ['-c', `bin/ctr ${get.join(' ')} > ${file}`], {env: ctr.env});
      assert.equal(written.status, 15, written.stderr);
      assert.match(written.stderr, complaint);
      assert.ok(readFileSync(file).equals(wrong), 'what is there, whole');
      const {status, stderr} = await ctr(get);
      assert.equal(status, 15, 'into a pipe');
      assert.match(stderr, complaint);

      rmSync(layerBlob);
      writeFileSync(layerBlob, right);
      const again = await runProgram('sh', ['-c', `bin/ctr ${get.join(' ')} > ${file}`], {env: ctr.env});
      assert.equal(again.status, 0, again.stderr);
      assert.ok(readFileSync(file).equals(right));
    });
});

forOneEngine('check', (engine) => {
  it('finds nothing wrong in an empty store and in one with an image', async (t) => {
    assert.equal(await commandLine(t, engine).ok(['check']), '0 namespaces, 0 records, 0 blobs, 0 layers: nothing wrong\n');
    for (const snapshotter of ['erofs', 'overlayfs'] as const) {
      const store = await trusted(t, engine, snapshotter);
      if (store === undefined) return;
      assert.equal(
        await store.ctr.ok(['check', '--deep', '--progress', 'none']),
        '1 namespace, 6 records, 3 blobs, 1 layer: nothing wrong\n',
      );
    }
  });

  it('prints findings and the error as JSON', async (t) => {
    const store = await trusted(t, engine);
    if (store === undefined) return;
    flip(store.layerBlob, 1000);
    const {status, stdout, stderr} = await store.ctr(['check', '--deep', '--json', '--progress', 'none']);
    const result = JSON.parse(stdout);
    const [{path, problem, object, ...finding}] = result.findings;
    assert.deepEqual([status, finding, result.damage], [15, {severity: 'damage', repaired: false}, 1]);
    assert.match(`${object} ${problem}`, /^content sha256:\S+ is sha256:\S+ on disk$/);
    assert.equal(path, store.layerBlob);
    assert.ok(result.checked.bytes > 1_000_000);
    assert.deepEqual([JSON.parse(stderr).error.kind, JSON.parse(stderr).error.code], ['data_loss', 15]);
  });

  it('does not touch the layer of a running container', async (t) => {
    if (!requiresRuntime(t)) return;
    const store = await trusted(t, engine);
    if (store === undefined) return;
    const {ctr, ref} = store;
    const child = spawn(join(root, 'bin/ctr'), ['run', '--rm', '--snapshotter', 'overlayfs', ref, 'c1', ...SLEEP], {
      env: {...environment(), ...ctr.env},
      stdio: 'ignore',
    });
    try {
      await eventually('container', () => existsSync(join(ctr.env.BERTH_STATE!, 'runs/default/bundles/c1/init.pid')));
      const [layer] = store.layers();
      const victim = join(layer!, 'fs/etc/group');
      writeFileSync(victim, 'x');
      const busy = await ctr(['check', '--deep', '--repair', '--progress', 'none']);
      assert.deepEqual(
        [busy.status, /"\/etc\/group" has mtime .*: left alone: container "c1" runs on it\n/.test(busy.stdout)],
        [15, true],
        busy.stdout,
      );
      assert.equal(readFileSync(victim, 'utf8'), 'x');
    } finally {
      child.kill('SIGTERM');
      await once(child, 'exit');
    }
    assert.match(
      await ctr.ok(['check', '--deep', '--repair', '--progress', 'none']),
      /^repaired damage: layer .*: rebuilt from its blob\n/,
    );
  });

  it('finds and removes the leftovers of a killed run', async (t) => {
    if (!requiresRuntime(t)) return;
    const store = await trusted(t, engine);
    if (store === undefined) return;
    const {ctr, ref} = store;
    const child = spawn(join(root, 'bin/ctr'), ['run', '--rm', '--snapshotter', 'overlayfs', ref, 'c1', 'sleep', '100'], {
      env: {...environment(), ...ctr.env},
      stdio: 'ignore',
    });
    const bundle = join(ctr.env.BERTH_STATE!, 'runs/default/bundles/c1');
    const pid = await eventually('container', () => existsSync(join(bundle, 'init.pid')) && readFileSync(join(bundle, 'init.pid'), 'utf8'));
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.match(
      await ctr.ok(['check']),
      /^suspect: namespace "default" container "c1": is still running, although the berth process that supervised it has ended \(/,
    );
    process.kill(Number(pid), 'SIGKILL');
    const left = await eventually('its end', () => {
      const found = execFileSync(join(root, 'bin/ctr'), ['check'], {env: {...environment(), ...ctr.env}, encoding: 'utf8'});
      return found.startsWith('garbage') ? found : undefined;
    });
    assert.match(left, /^garbage: namespace "default" container "c1": has ended and left files behind \(\S+\/default\/bundles\/c1\)\n/);
    const cleared = await ctr.ok(['check', '--repair', '--progress', 'none']);
    assert.match(cleared, /^repaired garbage: namespace "default" container "c1": .*: removed\n/);
    assert.equal(existsSync(bundle), false);
    assert.equal(await ctr.ok(['containers', 'ls', '-q']), '', 'it was to go with its run');
    assert.match(await ctr.ok(['check', '--deep', '--progress', 'none']), /nothing wrong\n$/);
  });
});

forEachEngine('df', (engine) => {
  it('agrees with du, by namespace and in total', async (t) => {
    const store = await trusted(t, engine);
    if (store === undefined) return;
    const {ctr, ref} = store;
    await ctr.ok(['-n', 'other', 'pull', '--progress', 'none', '--no-unpack', ref]);
    const rows = tableRows(await ctr.ok(['df', '-b']));
    assert.deepEqual(rows[0], ['NAMESPACE', 'KIND', 'COUNT', 'SIZE', 'DISK', 'UNIQUE', 'SHARED']);
    const total = rows.at(-1)!;
    assert.deepEqual([total[1], total[4]], ['total', String(diskUsage(ctr.env.BERTH_ROOT!))]);
    const own = rows.find(([namespace, kind]) => namespace === 'default' && kind === 'content')!;
    assert.deepEqual([own[2], own[5], own[6]], ['3', '0', own[4]], 'both have all of it');
    const sum = rows.filter(([namespace, kind]) => namespace === '-' && kind !== 'total').reduce((all, row) => all + Number(row[4]), 0);
    assert.equal(String(sum), total[4]);
    assert.match(await ctr.ok(['df']), /\n- +total +- +- +\d+\.\d MiB +- +-\n$/);
    const json = JSON.parse(await ctr.ok(['df', '--json']));
    assert.deepEqual([String(json.disk), json.namespaces.length], [total[4], 2]);
  });
});

forOneEngine('prune', (engine) => {
  it('lists what --dry-run would remove, then what it removed', async (t) => {
    const store = await trusted(t, engine);
    if (store === undefined) return;
    const {ctr, ref} = store;
    const before = diskUsage(store.path('layers')) + diskUsage(store.path('content/blobs/sha256'));
    const said = await ctr.ok(['prune', '--dry-run']);
    const rows = tableRows(said);
    assert.deepEqual(rows.slice(0, 2), [
      ['NAMESPACE', 'KIND', 'KEY'],
      ['default', 'image', ref],
    ]);
    assert.equal(rows.length, 1 + 1 + 1 + 3 + 1);
    assert.match(said, /\nwould free: \d+\.\d MiB\n$/);
    assert.equal(await ctr.ok(['prune']), said.replace('would free', 'freed'));
    const after = diskUsage(store.path('layers')) + diskUsage(store.path('content/blobs/sha256'));
    assert.equal(JSON.parse(await ctr.ok(['prune', '--json'])).freed, 0);
    assert.ok(before - after > 1_000_000);
    assert.equal(await ctr.ok(['images', 'ls', '-q']), '');
  });

  it('leaves other namespaces alone without --all-namespaces', async (t) => {
    const store = await trusted(t, engine);
    if (store === undefined) return;
    const {ctr, ref} = store;
    assert.equal(await ctr.ok(['-n', 'foo', 'prune']), 'NAMESPACE KIND KEY\nfreed: 0.0 B\n');
    assert.equal(await ctr.ok(['images', 'ls', '-q']), `${ref}\n`);
    await ctr.ok(['-n', 'foo', 'prune', '-A', 'images']);
    assert.equal(await ctr.ok(['images', 'ls', '-q']), '');
  });

  it('respects --older-than and --keep-size', async (t) => {
    const store = await trusted(t, engine);
    if (store === undefined) return;
    const {ctr, ref} = store;
    for (const flags of [
      ['--older-than', '1h'],
      ['--keep-size', '1G'],
      ['leases', 'ingests'],
      ['snapshots', 'content'],
    ]) {
      await ctr.ok(['prune', ...flags]);
      assert.equal(await ctr.ok(['images', 'ls', '-q']), `${ref}\n`, flags.join(' '));
    }
    await ctr.ok(['prune', '--keep-size', '1K']);
    assert.equal(await ctr.ok(['images', 'ls', '-q']), '');
  });

  it('refuses contradicting arguments', async (t) => {
    const ctr = commandLine(t, engine);
    for (const args of [['volumes'], ['--keep-size', '1G', 'leases'], ['--older-than', 'yesterday'], ['--keep-size', 'much']]) {
      const {status, stderr} = await ctr(['prune', ...args]);
      assert.deepEqual([status, lines(stderr).length <= 2], [3, true], stderr);
    }
    assert.equal(existsSync(join(ctr.env.BERTH_ROOT!, 'version')), false);
  });
});

forEachEngine('gc', (engine) => {
  it('prints the number of removed objects', async (t) => {
    if (!requiresOneClock(t, 'the age of a layer is a file time')) return;
    const store = await trusted(t, engine);
    if (store === undefined) return;
    writeFileSync(store.path('content/blobs/sha256', 'a'.repeat(64)), 'x');
    assert.equal(await store.ctr.ok(['gc']), 'content: 0\nsnapshots: 0\nimages: 0\nleases: 0\nblobs: 1\nlayers: 0\nsettled: 0\n');
    assert.equal(JSON.parse(await store.ctr.ok(['gc', '--json'])).blobs, 0);
  });
});

forOneEngine('a layer of another boot', (engine) => {
  it('is unpacked again by a run, and what containers wrote is kept', async (t) => {
    if (!requiresRuntime(t)) return;
    for (const snapshotter of ['erofs', 'overlayfs'] as const) {
      const store = await trusted(t, engine, snapshotter);
      if (store === undefined) return;
      const {ctr, ref, path} = store;
      const run = (...args: string[]): Promise<string> => ctr.ok(['run', '--snapshotter', snapshotter, ...args]);
      await run(ref, 'kept', 'sh', '-c', 'echo mine > /file');
      const own = readdirSync(path('layers')).filter((name) => name.includes('-own-'));
      assert.equal(readFileSync(path('layers', own[0]!, 'fs/file'), 'utf8'), 'mine\n');
      for (const layer of store.layers()) {
        fromAnotherBoot(layer);
        rmSync(join(layer, snapshotter === 'erofs' ? 'layer.erofs' : 'fs/bin/busybox'));
      }
      for (const name of own) fromAnotherBoot(path('layers', name));
      assert.equal(await run('--rm', ref, 'next', 'echo', 'works'), 'works\n');
      assert.equal(readFileSync(path('layers', own[0]!, 'fs/file'), 'utf8'), 'mine\n');
      assert.match(await ctr.ok(['check', '--deep', '--progress', 'none']), /nothing wrong\n$/);
    }
  });
});

/** Each: what is there, and what every command that looks at it says. */
const STORES: readonly (readonly [name: string, make: (root: string) => void, status: number, message: RegExp])[] = [
  [
    'of a newer format',
    (dir) => writeFileSync(join(dir, 'version'), '2\n'),
    9,
    /^ctr: state directory \S+ has format 2, this version of berth knows 1: failed precondition\nhint: .*\n$/,
  ],
  [
    'with a damaged version',
    (dir) => writeFileSync(join(dir, 'version'), 'x'),
    15,
    /^ctr: state directory \S+: file "version" is damaged: data loss\n/,
  ],
  [
    'with an empty version',
    (dir) => writeFileSync(join(dir, 'version'), ''),
    15,
    /^ctr: state directory \S+: file "version" is damaged: data loss\n/,
  ],
  [
    'with a directory for its version',
    (dir) => mkdirSync(join(dir, 'version')),
    15,
    /^ctr: state directory \S+: file "version" is damaged: data loss\nhint: /,
  ],
  [
    'that is something else',
    (dir) => writeFileSync(join(dir, 'letter.txt'), ''),
    9,
    /^ctr: directory \S+ has files, such as "letter\.txt", but no "version": not a state directory: failed precondition\nhint: /,
  ],
];

forOneEngine('a store', (engine) => {
  for (const [name, make, status, message] of STORES)
    it(`${name} is refused by every command, and left as it is`, async (t) => {
      const ctr = commandLine(t, engine);
      make(ctr.env.BERTH_ROOT!);
      const checks = [['check'], ['check', '--deep', '--repair']];
      for (const args of [...checks, ['df'], ['prune'], ['gc'], ['images', 'ls']]) {
        const got = await ctr(args);
        // What is damaged is for \`check\` to find, and nothing shows that the directory is ours to repair.
        if (status === 15 && checks.includes(args)) {
          assert.equal(got.status, status, got.stderr);
          assert.match(got.stdout, /^damage: entry version: file "version" is damaged /);
          continue;
        }
        assert.deepEqual([got.status, got.stdout], [status, ''], `${args.join(' ')}: ${got.stderr}`);
        assert.match(got.stderr, message);
      }
      assert.equal(readdirSync(ctr.env.BERTH_ROOT!).length, 1);
    });

  it('that is a file is refused', async (t) => {
    const ctr = commandLine(t, engine);
    const file = join(temporaryDirectory(t), 'file');
    writeFileSync(file, '');
    for (const command of ['check', 'df', 'prune', 'gc']) {
      const {status, stderr} = await ctr([command, '--root', file]);
      assert.deepEqual([status, lines(stderr).length], [9, 1], stderr);
    }
  });

  it('with an unreadable record: the error names it and the next step', async (t) => {
    const store = await trusted(t, engine);
    if (store === undefined) return;
    const {ctr, ref, path} = store;
    const record = path('namespaces/default/images', recordFile(ref));
    // An empty file is what a lost disk leaves, and is read from the journal.
    for (const text of ['{', '{"version":1,"name":7}']) {
      writeFileSync(record, text);
      for (const args of [['check'], ['df'], ['images', 'ls'], ['gc'], ['prune']]) {
        const {status, stdout, stderr} = await ctr(args);
        assert.equal(status, 15, `${args.join(' ')} of ${JSON.stringify(text)}: ${stdout}${stderr}`);
        assert.ok(`${stdout}${stderr}`.includes(recordFile(ref)), 'it is named');
        assert.ok(!/\n {4}at /.test(stderr), 'no stack');
        assert.match(stderr, /\nhint: /);
      }
    }
    await ctr.ok(['check', '--repair', '--progress', 'none']);
    assert.equal(await ctr.ok(['images', 'ls', '-q']), `${ref}\n`, 'the journal had it');
  });

  it('of records with unknown fields is usable', async (t) => {
    const store = await trusted(t, engine);
    if (store === undefined) return;
    const record = store.path('namespaces/default/images', recordFile(store.ref));
    writeJSON(record, {...readJSON(record), later: [1]});
    assert.match(await store.ctr.ok(['check']), /nothing wrong\n$/);
  });
});
