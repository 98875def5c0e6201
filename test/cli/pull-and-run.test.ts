/** Pull, list and run with a real registry and a real runtime, on both engines, in a pipe and on a terminal. */
import assert from 'node:assert/strict';
import {join} from 'node:path';
import {it} from 'node:test';
import type {Descriptor} from '../../src/lib/oci/descriptor.ts';
import {kindOf} from '../../src/lib/oci/mediatypes.ts';
import {assertNoRuns, blobsOf, document, fingerprint, type Published, publishedImages, slowWire, sum, tableRows} from '../e2e/fixtures.ts';
import {requiresProgram, requiresRoot, type Scope, type Skippable} from '../support/helpers.ts';
import {type CommandLine, commandLine, type Engine, forEachEngine, root, type SpawnOptions} from './harness.ts';
import {onTerminal, type Terminal} from './terminal.ts';

const published = publishedImages();

const requiresRuntime = (t: Skippable): boolean => requiresRoot(t) && requiresProgram(t, 'runc', 'unshare', 'mount');

/** `ctr` and `dist` over one store. */
function commands(scope: Scope, engine: Engine): {ctr: CommandLine; dist: CommandLine} {
  const [ctr, other] = [commandLine(scope, engine, 'ctr'), commandLine(scope, engine, 'dist')];
  const same = ({env, ...options}: SpawnOptions = {}): SpawnOptions => ({...options, env: {...ctr.env, ...env}});
  const dist: CommandLine = Object.assign((args: readonly string[], options?: SpawnOptions) => other(args, same(options)), {
    ok: (args: readonly string[], options?: SpawnOptions) => other.ok(args, same(options)),
    env: ctr.env,
    program: other.program,
  });
  return {ctr, dist};
}

const CHAIN_ID = /^unpacked chain id: sha256:[0-9a-f]{64}$/;

const rowOf = ({mediaType, digest}: Descriptor): string => `${kindOf(mediaType)}-${digest}`;

const inMiB = (bytes: number): string => `${(bytes / 1024 / 1024).toFixed(1)} MiB`;

/** Progress as a log has it: row → its states, in order; and the closing lines. */
function readPlain(stderr: string): {states: Map<string, string[]>; closing: string[]} {
  const states = new Map<string, string[]>();
  const closing: string[] = [];
  for (const line of stderr.trimEnd().split('\n')) {
    const state = /^(\S+): (\w+)(?: \d+\.\d [KMG]?i?B)?$/.exec(line);
    if (state === null) closing.push(line);
    else states.set(state[1]!, [...(states.get(state[1]!) ?? []), state[2]!]);
  }
  return {states, closing};
}

/** What a pull leaves in a log: a line for each change of state of each descriptor, two lines at the end, nothing for a terminal. */
function assertPlainPull({ref, image}: Published, stderr: string, expected: 'done' | 'exists', bytes: number): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: none of them may be there
  assert.doesNotMatch(stderr, /[\x00-\x09\x0b-\x1f]/);
  const {states, closing} = readPlain(stderr);
  assert.deepEqual([...states.keys()].sort(), [ref, ...blobsOf(image).map(rowOf)].sort(), 'a row for each descriptor');
  assert.deepEqual(states.get(ref), ['resolving', 'resolved']);
  for (const desc of blobsOf(image)) {
    const seen = states.get(rowOf(desc))!;
    assert.equal(seen.at(-1), expected, rowOf(desc));
    seen.forEach((state, i) => {
      assert.notEqual(state, seen[i - 1], `${rowOf(desc)}: a line without a change`);
    });
    if (expected === 'done') assert.ok(seen.includes('downloading'), rowOf(desc));
  }
  const [total, chainID, ...more] = closing;
  assert.deepEqual(more, []);
  const [, amount] = /^elapsed: \d+\.\d s {2}total: (\d+\.\d [KMG]?i?B) \(\d+\.\d [KMG]?i?B\/s\)$/.exec(total!) ?? [];
  assert.equal(amount, bytes === 0 ? '0.0 B' : inMiB(bytes), total);
  assert.match(chainID!, CHAIN_ID);
}

/** Each descriptor's bar as it was drawn, one frame after the other: its states, and how many of its cells were full. */
function readBars({screen}: Terminal): Map<string, {states: string[]; fill: number[]}> {
  const bars = new Map<string, {states: string[]; fill: number[]}>();
  for (const texts of screen.history) {
    const frames = texts.flatMap((text) => [...text.matchAll(/^(\S+): +(\w+) *\|(\+*)-*\|/g)]);
    const [name, ...others] = new Set(frames.map((frame) => frame[1]!));
    if (name === undefined) continue;
    assert.deepEqual(others, [], 'a row is redrawn in its place');
    bars.set(name, {states: frames.map((frame) => frame[2]!), fill: frames.map((frame) => frame[3]!.length)});
  }
  return bars;
}

function assertRestored({screen}: Terminal): void {
  assert.ok(screen.cursorVisible, 'the cursor is back');
  assert.ok(screen.wraps, 'lines wrap again');
}

forEachEngine('pull and run', (engine) => {
  it('work in a pipe', async (t) => {
    if (!requiresRuntime(t)) return;
    const redis = await published(t, 'redis');
    if (redis === undefined) return;
    const {ref, image} = redis;
    const {ctr, dist} = commands(t, engine);
    const foo = {env: {CONTAINERD_NAMESPACE: 'foo'}};
    const blobs = blobsOf(image);

    assert.equal(await ctr.ok(['namespaces', 'create', 'foo', 'mylabel=bar']), '');
    assert.equal(await ctr.ok(['namespaces', 'ls']), 'NAME LABELS\nfoo  mylabel=bar\n');

    const first = await dist(['pull', ref]);
    assert.equal(first.status, 0, first.stderr);
    assert.equal(first.stdout, '');
    assertPlainPull(redis, first.stderr, 'done', sum(blobs));

    const listed = await dist.ok(['images', 'ls']);
    const header = ['REF', 'TYPE', 'DIGEST', 'SIZE', 'PLATFORMS', 'LABELS'];
    const {architecture} = document<{architecture: string}>(image, blobs[1]!);
    const row = [ref, image.target.mediaType, image.target.digest, inMiB(sum(blobs)), `linux/${architecture}`, '-'];
    assert.equal(image.target.mediaType, 'application/vnd.docker.distribution.manifest.v2+json');
    assert.deepEqual(tableRows(listed), [header, row]);
    assert.equal(await dist.ok(['images', 'ls'], foo), `${header.join(' ')}\n`, 'nothing was pulled in foo');

    const unpacked = fingerprint(join(ctr.env.BERTH_ROOT!, 'layers'));
    const again = await dist(['pull', ref], foo);
    assert.equal(again.status, 0, again.stderr);
    assertPlainPull(redis, again.stderr, 'exists', 0);
    assert.equal(fingerprint(join(ctr.env.BERTH_ROOT!, 'layers')), unpacked, 'nothing is unpacked twice');

    assert.equal(await dist.ok(['images', 'rm', ref], foo), `${ref}\n`);
    assert.equal(await dist.ok(['images', 'ls'], foo), `${header.join(' ')}\n`);
    assert.equal(await dist.ok(['images', 'ls']), listed, 'still in default');
    assert.match(await ctr.ok(['run', '--rm', ref, 'r0', 'redis-server', '--version']), /^Redis server v=/, 'and still runs');

    assert.equal(await ctr.ok(['namespaces', 'ls']), 'NAME    LABELS\ndefault -\nfoo     mylabel=bar\n', 'default has appeared by itself');
    assert.equal(await ctr.ok(['namespaces', 'rm', 'foo']), 'foo\n');
    assert.equal(await ctr.ok(['namespaces', 'ls']), 'NAME    LABELS\ndefault -\n');
    const refused = await ctr(['namespaces', 'rm', 'default']);
    assert.equal(refused.status, 9);
    assert.equal(refused.stdout, '');
    assert.match(
      refused.stderr.split('\n')[0]!,
      /^ctr: unable to delete default: namespace "default" must be empty, but it still has images, blobs, snapshots on "\w+" snapshotter: failed precondition$/,
    );

    const version = await ctr(['run', '--rm', ref, 'r1', 'redis-server', '--version']);
    assert.equal(version.status, 0);
    assert.match(version.stdout, /^Redis server v=\d+\.\d+/);
    assert.equal(version.stderr, '');
    assert.deepEqual(await ctr(['run', '--rm', ref, 'r2', 'sh', '-c', 'exit 7']), {status: 7, stdout: '', stderr: ''});

    assert.deepEqual(tableRows(await ctr.ok(['containers', 'ls'])), [['CONTAINER', 'IMAGE', 'RUNTIME', 'STATUS']]);
    assertNoRuns(ctr.env.BERTH_STATE!);
  });

  it('work with an OCI image', async (t) => {
    if (!requiresRuntime(t)) return;
    const busybox = await published(t, 'busybox-zstd');
    if (busybox === undefined) return;
    const {ctr, dist} = commands(t, engine);
    const pulled = await dist(['pull', busybox.ref]);
    assert.equal(pulled.status, 0, pulled.stderr);
    assertPlainPull(busybox, pulled.stderr, 'done', sum(blobsOf(busybox.image)));
    assert.equal(await ctr.ok(['run', '--rm', busybox.ref, 'b1', 'echo', 'hello']), 'hello\n');
    const failed = await ctr(['run', '--rm', busybox.ref, 'b2', 'sh', '-c', 'echo out; echo err >&2; exit 7']);
    assert.deepEqual(failed, {status: 7, stdout: 'out\n', stderr: 'err\n'});
    assert.equal((await ctr(['run', '--rm', busybox.ref, 'b3', 'nonesuch'])).status, 127);
    assert.equal((await ctr(['run', '--rm', busybox.ref, 'b3', '/etc/passwd'])).status, 126);
    assert.equal((await ctr(['run', '--rm', 'nonesuch', 'b3'])).status, 125);
    assert.equal(await ctr.ok(['run', '--rm', busybox.ref, 'b3', 'cat'], {input: 'through\n'}), 'through\n');
    assertNoRuns(ctr.env.BERTH_STATE!);
  });

  it('draw moving bars on a terminal', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'script')) return;
    const busybox = await published(t, 'busybox');
    if (busybox === undefined) return;
    const layer = blobsOf(busybox.image).at(-1)!;
    const wire = await slowWire(t, busybox.registry, layer.size / 1.5);
    const ref = `${wire.host}/${busybox.name}`;
    const {dist} = commands(t, engine);

    const pulling = onTerminal(join(root, 'bin/dist'), ['pull', ref], {env: dist.env});
    assert.equal(await pulling.ended, 0, pulling.output());
    const bars = readBars(pulling);
    const rows = [ref, ...blobsOf(busybox.image).map(rowOf)];
    assert.deepEqual([...bars.keys()].sort(), rows.sort(), 'one row for each descriptor');
    const {fill, states} = bars.get(rowOf(layer))!;
    assert.ok(new Set(fill).size >= 4, `its bar is seen in ${[...new Set(fill)]}`);
    assert.deepEqual(
      fill,
      fill.toSorted((a, b) => a - b),
      'the fill grows',
    );
    assert.deepEqual([states.at(-1), fill.at(-1)], ['done', Math.max(...fill)]);
    assert.ok(fill.at(-1)! >= 10, 'and is full');
    assert.equal(bars.get(ref)!.states.at(-1), 'resolved');
    const [total, chainID, ...rest] = pulling.screen.rows.filter((row) => !row.includes('|'));
    assert.match(total!, /^elapsed: \d+\.\d s {2}total: /);
    assert.match(chainID!, CHAIN_ID);
    assert.deepEqual(rest, ['']);
    assertRestored(pulling);

    const again = onTerminal(join(root, 'bin/dist'), ['pull', ref], {env: {...dist.env, CONTAINERD_NAMESPACE: 'foo'}});
    assert.equal(await again.ended, 0, again.output());
    assert.ok(again.screen.rows.some((row) => / {2}total: 0\.0 B \(0\.0 B\/s\)$/.test(row)));
    assertRestored(again);
  });

  it('restore the terminal on Ctrl-C, and the next pull resumes', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'script')) return;
    const busybox = await published(t, 'busybox');
    if (busybox === undefined) return;
    const layer = blobsOf(busybox.image).at(-1)!;
    const wire = await slowWire(t, busybox.registry, layer.size / 4);
    const ref = `${wire.host}/${busybox.name}`;
    const {dist} = commands(t, engine);

    const pulling = onTerminal(join(root, 'bin/dist'), ['pull', ref], {env: dist.env});
    await pulling.expect(/^layer-\S+: +downloading +\|\+{4}/);
    pulling.type('\x03');
    assert.equal(await pulling.ended, 130);
    assertRestored(pulling);
    const said = pulling.screen.rows.filter((row) => row.startsWith('dist: '));
    assert.ok(said.length === 1 && said[0]!.endsWith('interrupted by SIGINT: canceled'), pulling.screen.rows.join('\n'));

    wire.rate = 1 << 30;
    const before = wire.bytes();
    assert.match(await dist.ok(['pull', ref, '--print-chainid']), /^sha256:[0-9a-f]{64}\n$/);
    assert.ok(wire.bytes() - before < layer.size, 'what had come is not fetched again');
  });

  it('give the terminal to the container', async (t) => {
    if (!requiresRuntime(t) || !requiresProgram(t, 'script')) return;
    const busybox = await published(t, 'busybox');
    if (busybox === undefined) return;
    const {ctr, dist} = commands(t, engine);
    await dist.ok(['pull', busybox.ref]);
    const shell = 'tty; stty size; read -r word; echo "got $word"; exit 7';
    const running = onTerminal(join(root, 'bin/ctr'), ['run', '--rm', '-t', busybox.ref, 't1', 'sh', '-c', shell], {
      env: ctr.env,
      columns: 97,
      rows: 31,
    });
    await running.expect(/^31 97$/);
    running.type('this\r');
    assert.equal(await running.ended, 7, running.output());
    assert.deepEqual(
      running.screen.rows.filter((row) => row !== ''),
      ['/dev/pts/0', '31 97', 'this', 'got this'],
    );
    const refused = await ctr(['run', '--rm', '-t', busybox.ref, 't1', 'true']);
    assert.equal(refused.status, 125);
    assertNoRuns(ctr.env.BERTH_STATE!);
  });
});
