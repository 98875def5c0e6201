/** Commands that store or show something, on both engines: their output and their effect. */
import assert from 'node:assert/strict';
import {mkdirSync} from 'node:fs';
import {join} from 'node:path';
import {after, describe, it} from 'node:test';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {dir, file, tar} from '../support/tartest.ts';
import {type CommandLine, commandLine, forEachEngine, root, run} from './harness.ts';

const LAYERS = [tar(dir('etc'), file('etc/a', 'hello')), tar(file('b', 'world'))];
const DIFF_ID = digestOf(LAYERS[0]!);
const NOWHERE = `sha256:${'0'.repeat(64)}`;

const architecture = {x64: 'amd64', arm64: 'arm64'}[process.arch as string]!;
const CONFIG = {
  architecture,
  os: 'linux',
  config: {Cmd: ['/b']},
  rootfs: {type: 'layers', diff_ids: LAYERS.map((layer) => digestOf(layer))},
};

const registry = await startFakeRegistry({after});
const image = registry.addImage('app', 'latest', LAYERS, CONFIG);
const ref = `${registry.host}/app:latest`;

const lines = (stdout: string): string[] => stdout.trimEnd().split('\n');

async function refused(call: CommandLine, args: readonly string[], status: number, message: RegExp): Promise<void> {
  const got = await call(args);
  assert.equal(got.status, status, got.stderr);
  assert.match(got.stderr, message);
}

forEachEngine('namespaces', (engine) => {
  it('are created, labelled, listed and removed', async (t) => {
    const ctr = commandLine(t, engine);
    assert.equal(await ctr.ok(['namespaces', 'create', 'foo', 'mylabel=bar', 'flag']), '');
    assert.equal(await ctr.ok(['ns', 'c', 'bar']), '');
    assert.equal(await ctr.ok(['namespaces', 'ls']), 'NAME LABELS\nbar  -\nfoo  flag=true,mylabel=bar\n');
    assert.equal(await ctr.ok(['namespaces', 'label', 'foo', 'flag=', 'a=b']), '');
    assert.equal(await ctr.ok(['ns', 'list', 'labels.a==b']), 'NAME LABELS\nfoo  a=b,mylabel=bar\n');
    assert.equal(await ctr.ok(['ns', 'ls', '-q']), 'bar\nfoo\n');
    assert.equal(await ctr.ok(['ns', 'rm', 'bar', 'foo']), 'bar\nfoo\n');
    assert.equal(await ctr.ok(['ns', 'ls']), 'NAME LABELS\n');
  });
  it('are refused where containerd refuses them', async (t) => {
    const ctr = commandLine(t, engine);
    await ctr.ok(['ns', 'create', 'foo']);
    await refused(ctr, ['ns', 'create', 'foo'], 6, /^ctr: namespace "foo": already exists\n/);
    await refused(ctr, ['ns', 'create', 'foo/bar'], 3, /^ctr: .*"foo\/bar".*: invalid argument\n/);
    await refused(ctr, ['ns', 'label', 'nope', 'a=b'], 5, /^ctr: namespace "nope": not found\n/);
    await refused(ctr, ['ns', 'rm', 'nope'], 5, /^ctr: unable to delete nope: namespace "nope": not found\n/);
    await refused(ctr, ['ns', 'ls', 'labels.'], 3, /^ctr: .*\[labels\.\]: expected field or quoted.*: invalid argument\n/);
  });
  it('must be empty to be removed, except with --recursive', async (t) => {
    const ctr = commandLine(t, engine);
    await ctr.ok(['-n', 'foo', 'content', 'ingest', 'k'], {input: 'x'});
    await refused(
      ctr,
      ['ns', 'rm', 'foo'],
      9,
      /^ctr: unable to delete foo: namespace "foo" must be empty, but it still has blobs: failed precondition\nhint: /,
    );
    assert.equal(await ctr.ok(['ns', 'rm', '--recursive', 'foo']), 'foo\n');
    assert.equal(await ctr.ok(['ns', 'ls', '-q']), '');
  });
});

forEachEngine('content', (engine) => {
  it('is ingested from standard input, listed, labelled, printed and removed', async (t) => {
    const ctr = commandLine(t, engine);
    const bytes = Buffer.from([0, 255, 10, 13, 0]);
    const digest = digestOf(bytes);
    const ingest = ['content', 'ingest', 'key', '--expected-size', '5', '--expected-digest', digest, '--label', 'a=b'];
    assert.equal(await ctr.ok(ingest, {input: bytes}), `${digest}\n`);
    assert.match(lines(await ctr.ok(['content', 'ls']))[1]!, new RegExp(`^${digest} 5\\.0 B (Less than a second|\\d+ seconds?) a=b`));
    assert.equal(await ctr.ok(['content', 'ls', '-q', 'labels.a==b']), `${digest}\n`);
    assert.equal(await ctr.ok(['content', 'ls', '-q', 'labels.a==c']), '');
    assert.equal(await ctr.ok(['content', 'label', digest, 'a=', 'c=d']), await ctr.ok(['content', 'label', digest]));
    assert.match(await ctr.ok(['content', 'label', digest]), /^c=d(,|\n)/);
    assert.equal(digestOf(Buffer.from(await ctr.ok(['content', 'get', digest]))), digestOf(Buffer.from(bytes.toString())));
    for (const pattern of [[], ['^k'], ['a"b|,c']]) assert.equal(await ctr.ok(['content', 'active', ...pattern]), 'REF SIZE AGE\n');
    await refused(ctr, ['content', 'active', '(a'], 3, /^ctr: .*missing closing \): `\(a`: invalid argument\n/);
    assert.equal(await ctr.ok(['content', 'del', digest]), `${digest}\n`);
    assert.equal(await ctr.ok(['content', 'ls']), 'DIGEST SIZE AGE LABELS\n');
  });
  it('of another size or digest than expected is refused', async (t) => {
    const ctr = commandLine(t, engine);
    for (const promise of [
      ['--expected-size', '2'],
      ['--expected-digest', NOWHERE],
    ]) {
      const {status, stderr} = await ctr(['content', 'ingest', 'key', ...promise], {input: 'x'});
      assert.equal(status, 9, stderr);
    }
    assert.equal(await ctr.ok(['content', 'ls', '-q']), '');
  });
  it('that is missing: the error names it and the namespaces that have it', async (t) => {
    const ctr = commandLine(t, engine);
    const digest = (await ctr.ok(['-n', 'foo', 'content', 'ingest', 'k'], {input: 'x'})).trim();
    await refused(
      ctr,
      ['content', 'get', digest],
      5,
      new RegExp(`^ctr: content "${digest}" in namespace "default": not found\nhint: .*-n foo`),
    );
    await refused(
      ctr,
      ['content', 'rm', NOWHERE],
      5,
      /^ctr: unable to delete sha256:0+: content "sha256:0+" in namespace "default": not found\n/,
    );
    await refused(ctr, ['content', 'get', 'nope'], 3, /^ctr: digest "nope": invalid argument\n/);
  });
});

forEachEngine('leases', (engine) => {
  it('are created, listed and removed', async (t) => {
    const ctr = commandLine(t, engine);
    assert.equal(await ctr.ok(['leases', 'create', '--id', 'mine', '-x', '0', 'a=b']), 'mine\n');
    const made = (await ctr.ok(['leases', 'create'])).trim();
    assert.match(made, /^\S+$/);
    const [heading, row] = lines(await ctr.ok(['leases', 'ls', `id==${made}`]));
    assert.match(heading!, /^ID +CREATED AT +EXPIRES AT +LABELS$/);
    const [, created, expires] = row!.split(/ +/) as [string, string, string];
    assert.equal(Date.parse(expires) - Date.parse(created), 24 * 3600_000);
    assert.deepEqual((await ctr.ok(['leases', 'ls', '-q'])).trim().split('\n').sort(), ['mine', made].sort());
    assert.match(lines(await ctr.ok(['leases', 'ls', 'id==mine']))[1]!, /^mine \d{4}-\d\d-\d\dT\S+Z - +a=b$/);
    const [record] = JSON.parse(await ctr.ok(['leases', 'ls', '--json', 'id==mine']));
    assert.equal(record.expiresAt, undefined);
    assert.equal(await ctr.ok(['leases', 'delete', '--sync', 'mine', made]), `mine\n${made}\n`);
    await refused(ctr, ['leases', 'rm', 'mine'], 5, /^ctr: unable to delete mine: lease "mine" in namespace "default": not found\n/);
  });
});

forEachEngine('images', (engine) => {
  it('are pulled, listed, inspected, checked, tagged, labelled and removed', async (t) => {
    const dist = commandLine(t, engine, 'dist');
    assert.equal(await dist.ok(['pull', '-q', '--no-unpack', '--label', 'x=y', ref]), `${ref}\n`);
    const {mediaType, digest, size} = image.manifest;
    const bytes = size + image.config.size + LAYERS[0]!.length + LAYERS[1]!.length;
    const human = `${(bytes / 1024).toFixed(1)} KiB`;
    assert.equal(
      lines(await dist.ok(['images', 'ls']))[1]!.replaceAll(/ +/g, ' '),
      `${ref} ${mediaType} ${digest} ${human} linux/${architecture} x=y`,
    );
    assert.equal(lines(await dist.ok(['images', 'ls']))[0]!.replaceAll(/ +/g, ' '), 'REF TYPE DIGEST SIZE PLATFORMS LABELS');
    assert.equal(await dist.ok(['i', 'ls', '-q', 'name~=app']), `${ref}\n`);
    assert.equal(
      lines(await dist.ok(['images', 'check']))[1]!.replaceAll(/ +/g, ' '),
      `${ref} ${mediaType} ${digest} complete (4/4) ${human}/${human} false`,
    );

    assert.equal(await dist.ok(['images', 'tag', ref, 'b.example/other:1', 'b.example/other:2']), 'b.example/other:1\nb.example/other:2\n');
    await refused(
      dist,
      ['images', 'tag', ref, 'b.example/other:1'],
      6,
      /^dist: unable to tag b\.example\/other:1: image "b\.example\/other:1".*: already exists\n/,
    );
    assert.equal(await dist.ok(['images', 'tag', '--force', ref, 'b.example/other:1']), 'b.example/other:1\n');
    assert.equal(await dist.ok(['images', 'label', ref, 'x=', 'z=1']), 'z=1\n');
    assert.equal(await dist.ok(['images', 'label', '-r', ref, 'only=this']), 'only=this\n');

    const tree = await dist.ok(['images', 'inspect', ref]);
    for (const descriptor of [image.manifest, image.config, ...image.layers])
      assert.ok(tree.includes(`${descriptor.mediaType} @${descriptor.digest} (`));
    assert.equal(lines(tree)[0], ref);
    assert.match(await dist.ok(['images', 'inspect', '--content', ref]), /"Cmd": \[/);
    const json = JSON.parse(await dist.ok(['images', 'inspect', '--json', ref]));
    assert.deepEqual([json.descriptor.digest, json.children.length, json.present], [digest, 3, true]);

    assert.equal(
      await dist.ok(['images', 'rm', '--sync', ref, 'b.example/other:1', 'b.example/other:2']),
      `${ref}\nb.example/other:1\nb.example/other:2\n`,
    );
    assert.equal(await dist.ok(['content', 'ls', '-q']), '', 'what only they needed has gone');
  });

  it('have short names', async (t) => {
    const ctr = commandLine(t, engine);
    await ctr.ok(['pull', '-q', '--no-unpack', ref]);
    assert.equal(await ctr.ok(['images', 'tag', ref, 'redis']), 'docker.io/library/redis:latest\n', 'the name that it is kept under');
    assert.equal(await ctr.ok(['images', 'ls', '-q', 'name~=redis']), 'docker.io/library/redis:latest\n');
    assert.equal(await ctr.ok(['images', 'rm', 'redis']), 'redis\n');
  });

  it('that are missing: the error names them and the namespaces that have them', async (t) => {
    const ctr = commandLine(t, engine);
    await ctr.ok(['-n', 'foo', 'pull', '-q', '--no-unpack', ref]);
    for (const args of [
      ['inspect', ref],
      ['label', ref, 'a=b'],
      ['usage', ref],
      ['rm', ref],
      ['tag', ref, 'x.example/y'],
    ])
      await refused(ctr, ['images', ...args], 5, new RegExp(`image "${ref}" in namespace "default": not found\nhint: .*-n foo`));
  });

  it('are unpacked into snapshots', async (t) => {
    if (!requiresRoot(t)) return;
    const ctr = commandLine(t, engine);
    const native = ['--snapshotter', 'native'];
    const chainID = (await ctr.ok(['pull', '--progress', 'none', '--print-chainid', ...native, ref])).trim();
    assert.match(chainID, /^sha256:[0-9a-f]{64}$/);
    assert.deepEqual(
      lines(await ctr.ok(['snapshots', ...native, 'ls'])).map((line) => line.split(/ +/)),
      [
        ['KEY', 'PARENT', 'KIND'],
        ...[
          [DIFF_ID, '-', 'Committed'],
          [chainID, DIFF_ID, 'Committed'],
        ].sort(),
      ],
    );
    assert.equal(await ctr.ok(['snapshots', 'tree', ...native]), ` ${DIFF_ID}\n  \\_ ${chainID}\n`);
    const usage = await ctr.ok(['images', 'usage', ...native, ref]);
    assert.match(usage, new RegExp(`^KEY +SIZE +INODES\n${chainID} +\\d+\\.\\d KiB +\\d+\n${DIFF_ID} +\\d+\\.\\d KiB +\\d+\n$`));
    assert.match(await ctr.ok(['images', 'check', ...native]), / true\n$/);

    const mount = await ctr.ok(['snapshots', 'prepare', ...native, '-t', '/mnt/a b', 'work', chainID]);
    assert.match(mount, /^mount -t bind \S+ '\/mnt\/a b' -o rbind,rw\n$|^mount -t bind \S+ '\/mnt\/a b' -o \S+\n$/);
    assert.equal(await ctr.ok(['snapshots', 'mounts', ...native, '/mnt/a b', 'work']), mount);
    const cwd = temporaryDirectory(t);
    mkdirSync(join(cwd, '-o\u202e\n'));
    const script = await ctr.ok(['snapshots', 'mount', ...native, '--', '-o\u202e\n', 'work'], {cwd});
    assert.ok((await ctr.ok(['snapshots', 'prepare', ...native, '--target=-o', 'other'], {cwd})).endsWith(` ${cwd}/-o -o rw,rbind\n`));
    assert.equal(await ctr.ok(['snapshots', 'rm', ...native, 'other']), 'other\n');
    const typed = await run('unshare', ['-m', 'sh', '-c', `${script}\nls -d -- "$1"/*`, 'sh', join(cwd, '-o\u202e\n')]);
    assert.deepEqual([typed.status, typed.stderr], [0, '']);
    assert.match(typed.stdout, /\/b\n.*\/etc\n$/s);
    assert.equal(JSON.parse(await ctr.ok(['snapshots', 'view', ...native, '--mounts', 'look', chainID]))[0].type, 'bind');
    assert.equal(JSON.parse(await ctr.ok(['snapshots', 'info', ...native, 'look'])).kind, 'view');
    assert.match(await ctr.ok(['snapshots', 'usage', ...native, '-b', 'work']), /^KEY +SIZE +INODES\nwork +\d+ +\d+\n$/);
    assert.match(await ctr.ok(['snapshots', 'label', ...native, 'work', 'a=b']), /^a=b(,|\n)/);
    assert.equal(await ctr.ok(['snapshots', 'ls', ...native, '-q', 'kind==active']), 'work\n');
    assert.equal(await ctr.ok(['snapshots', 'commit', ...native, '--label', 'c=d', 'done', 'work']), '');
    await refused(ctr, ['snapshots', 'rm', ...native, chainID], 9, /^ctr: unable to remove sha256:\S+: .*: failed precondition\n/);
    assert.equal(await ctr.ok(['snapshots', 'rm', ...native, 'look', 'done']), 'look\ndone\n');
    await refused(ctr, ['snapshots', 'info', ...native, 'done'], 5, /^ctr: snapshot "?done"?.*: not found\n/);
  });

  it('are mounted on the machine, and unmounted', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'unshare')) return;
    const ctr = commandLine(t, engine);
    await ctr.ok(['pull', '--progress', 'none', '--snapshotter', 'native', ref]);
    const target = temporaryDirectory(t);
    const script = `
      ctr=$1; ref=$2; target=$3
      $ctr images mount --snapshotter native "$ref" "$target" && cat "$target/b" && echo && $ctr images mount --json &&
      $ctr images umount --rm --snapshotter native "$target" || exit
      $ctr images unmount "$target"; echo $?
      $ctr snapshots prepare --snapshotter native work "$($ctr snapshots --snapshotter native ls -q | head -n 1)" && $ctr images mount
      cd "$target" && $ctr snapshots mount --mount --snapshotter native . work || exit
      cd "$target" && test -d etc && $ctr images unmount .; echo $?; cd / && $ctr images unmount "$target"`;
    const call = ['-m', 'sh', '-c', script, 'sh', join(root, 'bin/ctr'), ref, target];
    const {status, stdout, stderr} = await run('unshare', call, {env: ctr.env});
    assert.equal(status, 0, stderr);
    const [printed, content, ...rest] = stdout.split('\n');
    assert.deepEqual([printed, content], [target, 'world']);
    const json = rest.slice(0, rest.indexOf(']') + 1).join('\n');
    assert.deepEqual(
      JSON.parse(json).map((mount: Record<string, unknown>) => [mount.target, mount.image, mount.state, mount.readOnly]),
      [[target, ref, 'mounted', true]],
    );
    const after = rest.slice(rest.indexOf(']') + 1);
    assert.deepEqual(after.slice(0, 2), [target, '5']);
    assert.match(after[2]!, /^TARGET +IMAGE +SNAPSHOT +ACCESS +STATE$/);
    assert.equal(after[3], '.');
    assert.deepEqual(after.slice(4), ['9', target, '']);
    assert.match(stderr, /not found\nhint: see "ctr images mount"/);
    assert.match(stderr, /failed precondition\nhint: see which processes use it: fuser/);
    assert.equal(await ctr.ok(['images', 'mount', '-n', 'x', '--json']), '[]\n');
  });

  it('are reported with the whole result of the pull, with --json', async (t) => {
    const ctr = commandLine(t, engine);
    const {status, stdout, stderr} = await ctr(['pull', '--json', '--progress', 'json', '--no-unpack', ref]);
    assert.equal(status, 0, stderr);
    const result = JSON.parse(stdout);
    assert.deepEqual([result.image.name, result.image.target.digest, result.unpacked], [ref, image.manifest.digest, []]);
    const events = lines(stderr).map((line) => JSON.parse(line));
    assert.ok(events.every(({version}) => version === 1));
    assert.deepEqual(events.at(-1), {
      version: 1,
      type: 'done',
      elapsedMs: result.elapsedMs,
      transferredBytes: result.transferredBytes,
      unpacked: [],
    });
  });
});

forEachEngine('containers', (engine) => {
  it('are listed; an error names a missing one', async (t) => {
    const ctr = commandLine(t, engine);
    assert.equal(await ctr.ok(['containers', 'ls']), 'CONTAINER IMAGE RUNTIME STATUS\n');
    await refused(ctr, ['c', 'info', 'c1'], 5, /^ctr: container "c1" in namespace "default": not found\n/);
    await refused(
      ctr,
      ['c', 'rm', '--keep-snapshot', 'c1'],
      5,
      /^ctr: unable to delete c1: container "c1" in namespace "default": not found\n/,
    );
  });
});

forEachEngine('doctor', (engine) => {
  it('lists each check, and fails if one fails', async (t) => {
    const ctr = commandLine(t, engine);
    const {status, stdout, stderr} = await ctr(['doctor']);
    assert.match(stdout, /^CHECK +STATUS +DETAIL\nstate directory +ok /);
    const checks = JSON.parse((await ctr(['doctor', '--json'])).stdout) as {name: string; status: string}[];
    const failed = checks.filter((check) => check.status === 'error').map(({name}) => name);
    assert.deepEqual([status, stderr], failed.length === 0 ? [0, ''] : [9, `ctr: not ready: ${failed.join(', ')}: failed precondition\n`]);
  });
});

describe('version', () => {
  forEachEngine('version', (engine) => {
    it('is that of package.json, with the engine', async (t) => {
      const ctr = commandLine(t, engine);
      const {default: manifest} = await import('../../package.json', {with: {type: 'json'}});
      const info = JSON.parse(await ctr.ok(['version', '--json']));
      assert.deepEqual([info.name, info.version, info.engine.name], ['berth', manifest.version, engine === 'node' ? 'node' : 'bun']);
      assert.equal(await ctr.ok(['--version']), `berth/${info.version} ${info.platform} ${info.engine.name}/${info.engine.version}\n`);
    });
  });
});
