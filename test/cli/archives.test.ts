/** Commands around archives and content, on both engines: what they print, what they refuse, and how they end. */
import assert from 'node:assert/strict';
import {chmodSync, existsSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {digestOf} from '../../src/lib/oci/hash.ts';
import {requiresProgram, requiresRoot, type Scope, temporaryDirectory} from '../support/helpers.ts';
import {addImage, setTarget} from '../support/layouts.ts';
import {dir, file, tar} from '../support/tartest.ts';
import {type CommandLine, commandLine, forEachEngine, root, run} from './harness.ts';
import {onTerminal} from './terminal.ts';

const LAYERS = [tar(dir('etc'), file('etc/a', 'x'.repeat(100_000))), tar(file('b', 'upper'))];
const NAME = 'registry.example/app:latest';
const ctrProgram = join(root, 'bin/ctr');

/** A layout directory with one image, and its digest. */
function layout(scope: Scope): {readonly path: string; readonly digest: string} {
  const path = temporaryDirectory(scope);
  const {digest} = setTarget(path, addImage(path, {layers: LAYERS}));
  return {path, digest};
}

const importing = (path: string): readonly string[] => ['images', 'import', '--no-unpack', '--base-name', 'registry.example/app', path];

async function refused(call: CommandLine, args: readonly string[], status: number, message: RegExp): Promise<void> {
  const got = await call(args);
  assert.deepEqual([got.status, got.stdout], [status, ''], got.stderr);
  assert.match(got.stderr, message);
}

forEachEngine('images import and export', (engine) => {
  it('print names, pass a pipe, and tell of each file as JSON', async (t) => {
    const ctr = commandLine(t, engine);
    const {path, digest} = layout(t);
    assert.equal(await ctr.ok(importing(path)), `${NAME}\n`);
    const pipe = `'${ctrProgram}' images export - ${NAME} | '${ctrProgram}' -n other images import --no-unpack --progress none -`;
    const piped = await run('sh', ['-c', pipe], {env: ctr.env});
    assert.deepEqual([piped.status, piped.stdout], [0, `${NAME}\n`], piped.stderr);
    assert.equal(await ctr.ok(['-n', 'other', 'images', 'ls', '-q', `target.digest==${digest}`]), `${NAME}\n`);
    const out = join(temporaryDirectory(t), 'a.tar.gz');
    const made = JSON.parse(await ctr.ok(['images', 'export', '--json', '--compression', 'gzip', out, NAME])) as {images: object[]};
    assert.deepEqual(
      made.images.map((image) => JSON.parse(JSON.stringify(image)).target.digest),
      [digest],
    );
    const results = JSON.parse(await ctr.ok([...importing(out), '--json', path])) as {images: {name: string}[]}[];
    assert.deepEqual(
      results.map(({images}) => images.map(({name}) => name)),
      [[NAME], [NAME]],
    );
  });

  it('end as a program that SIGPIPE ended when the reader has gone', async (t) => {
    const ctr = commandLine(t, engine);
    await ctr.ok(importing(layout(t).path));
    const gone = join(temporaryDirectory(t), 'gone');
    const write = `'${ctrProgram}' images export --progress none - ${NAME}; echo $? >&2`;
    const script = `{ until [ -e '${gone}' ]; do sleep 0.02; done; ${write}; } | { exec <&-; : >'${gone}'; }`;
    const {stderr} = await run('sh', ['-c', script], {env: ctr.env});
    assert.equal(stderr, '141\n');
  });

  it('refuse a terminal, and what they do not support, by name', async (t) => {
    const ctr = commandLine(t, engine);
    const {path} = layout(t);
    await ctr.ok(importing(path));
    await refused(ctr, ['images', 'import', '--compress-blobs', path], 12, /^ctr: --compress-blobs: not implemented\nhint: /);
    await refused(
      ctr,
      ['images', 'import', '--discard-unpacked-layers', path],
      12,
      /^ctr: --discard-unpacked-layers: not implemented\nhint: .*prune/,
    );
    await refused(ctr, ['images', 'import', '--skip-digest-for-named', path], 3, /needs --digests/);
    await refused(
      ctr,
      ['images', 'export', '--json', '-', NAME],
      3,
      /"--json or --format and an archive on standard output exclude each other: invalid argument"/,
    );
    await refused(ctr, ['images', 'export', join(path, 'no/such/x.tar'), NAME], 5, /^ctr: archive ".*x\.tar": not found\n/);
    await refused(ctr, ['images', 'export', '/dev/full', NAME], 8, /^ctr: archive "\/dev\/full": .*resource exhausted\n/m);
    assert.ok(existsSync('/dev/full'));
    if (!requiresProgram(t, 'script')) return;
    for (const [args, text] of [
      [['images', 'export', '-', NAME], /standard output is a terminal: redirect it, or name a file/],
      [['images', 'import', '-'], /standard input is a terminal, not an archive/],
    ] as const) {
      const terminal = onTerminal(ctrProgram, args, {env: ctr.env});
      assert.equal(await terminal.ended, 3, terminal.output());
      assert.match(terminal.output(), text);
    }
  });

  it('show progress as calm lines', async (t) => {
    const ctr = commandLine(t, engine);
    const {stderr} = await ctr(importing(layout(t).path));
    assert.match(stderr, /^layer-sha256:[0-9a-f]{64}: reading \d/m);
    assert.match(stderr, /^elapsed: .* total: /m);
  });
});

forEachEngine('images prune', (engine) => {
  it('removes what no container was made from, with --all', async (t) => {
    const ctr = commandLine(t, engine);
    await ctr.ok(importing(layout(t).path));
    const {stdout, stderr} = await ctr(['images', 'prune']);
    assert.deepEqual([stdout, stderr], ['', 'ctr: warning: nothing is removed without --all\n']);
    assert.equal(await ctr.ok(['images', 'ls', '-q']), `${NAME}\n`);
    assert.equal(await ctr.ok(['images', 'prune', '--all']), `${NAME}\n`);
    assert.equal(await ctr.ok(['content', 'ls', '-q']), '');
  });
});

forEachEngine('content edit', (engine) => {
  it('stores what the editor made of a document, and leaves the document', async (t) => {
    const ctr = commandLine(t, engine);
    const before = (await ctr.ok(['content', 'ingest', 'k'], {input: '{"a":1}'})).trim();
    const editor = join(temporaryDirectory(t), 'my editor');
    writeFileSync(editor, '#!/bin/sh\nprintf %s "$1" >"$2"\n');
    chmodSync(editor, 0o755);
    const after = (await ctr.ok(['content', 'edit', before], {env: {EDITOR: `'${editor}' changed`}})).trim();
    assert.equal(after, digestOf('changed'));
    assert.deepEqual([await ctr.ok(['content', 'get', before]), await ctr.ok(['content', 'get', after])], ['{"a":1}', 'changed']);
    for (const same of ['true', `'${editor}' '{"a":1}'`])
      assert.equal(await ctr.ok(['content', 'edit', '--editor', same, before]), `${before}\n`);
    assert.equal(await ctr.ok(['content', 'edit', '--editor', `'${editor}' changed`, before]), `${after}\n`, 'again');
    await refused(
      ctr,
      ['content', 'edit', '--editor', 'false', before],
      10,
      /^ctr: editor "false" ended with status 1, and nothing is stored: aborted\n/,
    );
    await refused(ctr, ['content', 'edit', before], 3, /^ctr: no editor/);
    await ctr.ok(['gc']);
    assert.equal(await ctr.ok(['content', 'get', after]), 'changed', 'a collection keeps it');
  });
});

forEachEngine('snapshots unpack and content prune', (engine) => {
  it('unpack an image, and give up the blobs of its layers', async (t) => {
    if (!requiresRoot(t)) return;
    const ctr = commandLine(t, engine);
    const {path, digest} = layout(t);
    await ctr.ok(importing(path));
    const native = ['--snapshotter', 'native'];
    assert.equal(await ctr.ok(['content', 'prune', 'references']), '', 'nothing is unpacked');
    const chainID = (await ctr.ok(['snapshots', 'unpack', ...native, digest])).trim();
    assert.equal((await ctr.ok(['snapshots', 'ls', ...native, '-q', `name==${chainID}`])).trim(), chainID);
    assert.match(await ctr.ok(['images', 'check', ...native]), / complete \(4\/4\) .* true\n$/);
    await refused(ctr, ['snapshots', 'unpack', ...native, digestOf('nothing')], 5, /^ctr: image with the target sha256:.*: not found\n/);
    const layers = await ctr.ok(['content', 'prune', '--dry', 'references']);
    assert.equal(layers.trim().split('\n').length, LAYERS.length);
    assert.match(await ctr.ok(['images', 'check']), / complete \(4\/4\)/, 'a rehearsal');
    assert.equal(await ctr.ok(['content', 'prune', 'references']), layers);
    assert.match(await ctr.ok(['images', 'check', ...native]), / incomplete \(2\/4\) .* true\n$/);
    assert.equal(
      existsSync(join(ctr.env.BERTH_ROOT!, 'content/blobs/sha256', layers.trim().split('\n')[0]!.slice('sha256:'.length))),
      false,
    );
    await refused(
      ctr,
      ['images', 'export', join(temporaryDirectory(t), 'x.tar'), NAME],
      5,
      /is incomplete.*\nhint: pull it: ctr images pull /,
    );
    assert.match(await ctr.ok(['check', '--deep', '--progress', 'none']), /: nothing wrong\n/);
    assert.equal(await ctr.ok(['content', 'prune', 'references']), '', 'again');
    await refused(ctr, ['content', 'prune', 'all'], 3, /is not references/);
    // The archive has the blobs again.
    await ctr.ok(importing(path));
    assert.match(await ctr.ok(['images', 'check', ...native]), / complete \(4\/4\) .* true\n$/);
  });
});
