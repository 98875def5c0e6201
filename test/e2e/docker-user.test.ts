/** What a user of docker types at a terminal, and what it says. */
import assert from 'node:assert/strict';
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {commandLine, forEachEngine} from '../cli/harness.ts';
import {startFakeRegistry} from '../fakes/registry.ts';
import {findProgram, requiresProgram, requiresRoot, slow, temporaryDirectory} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {publishImage} from '../support/published-images.ts';
import {dir, file, symlink, tar} from '../support/tartest.ts';

forEachEngine('a user of docker', (engine) => {
  it('finds commands, flags and names as there', async (t) => {
    if (engine === 'node' && !slow(t)) return;
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'conmon', 'unshare', 'mount', 'busybox')) return;
    const registry = await startFakeRegistry(t);
    const busybox = readFileSync(findProgram('busybox')!);
    const layer = tar(dir('bin/'), file('bin/busybox', busybox, 0o755), symlink('busybox', 'bin/sh'), symlink('busybox', 'bin/sleep'));
    publishImage(registry, 'app', [layer], {exec: {Env: ['PATH=/bin']}});
    const ref = `${registry.host}/app:latest`;
    const berth = commandLine(t, engine, 'berth');
    await berth.ok(['pull', '--progress', 'none', ref]);
    const labels = join(temporaryDirectory(t), 'labels');
    writeFileSync(labels, '# of the team\n\nteam=infra\r\n tier=one\n');
    await berth.ok([
      'container',
      'run',
      '-d',
      '--name',
      'own',
      '--label-file',
      labels,
      '--label',
      'tier=two',
      '-v',
      '/data',
      ref,
      'sleep',
      '100',
    ]);
    assert.equal(await berth.ok(['container', 'exec', '-w', '/data', 'own', 'busybox', 'pwd']), '/data\n');

    // A container by its name; a reference with a tag, or what no container is called, is that of an image in its registry.
    const shown = JSON.parse(await berth.ok(['inspect', 'own'])) as {id: string; labels: Record<string, string>};
    assert.deepEqual([shown.id, shown.labels.team, shown.labels.tier], ['own', 'infra', 'two']);
    assert.equal(await berth.ok(['inspect', '--format', '{{.Id}}', 'own']), 'own\n');
    assert.match(await berth.ok(['inspect', ref]), /"Digest"/);
    // What only an image has asks for the image of that name.
    publishImage(registry, 'library/own', [layer], {exec: {}});
    const hosts = temporaryDirectory(t);
    mkdirSync(join(hosts, '_default'));
    writeFileSync(join(hosts, '_default/hosts.toml'), `server = "http://${registry.host}"\n`);
    for (const flags of [
      ['--platform', `linux/${ARCHITECTURE}`],
      ['--user', 'me:x'],
    ])
      assert.match(await berth.ok(['inspect', '--hosts-dir', hosts, ...flags, 'own']), /"Digest"/, flags[0]);

    const volume = (await berth.ok(['volume', 'create'])).trim();
    assert.match(volume, /^[0-9a-f]{64}$/);
    assert.equal((await berth.ok(['volume', 'prune', '-f'])).trim(), volume);

    const mistaken = await berth(['run', '--rm', ref, 'echo', 'hello']);
    assert.equal(mistaken.status, 127);
    assert.match(mistaken.stderr, /\nhint: .*"echo" was taken as the container's ID/);
    assert.equal((await berth(['run', '--rm', '--name', 'other', ref, 'hello'])).stderr.includes('was taken as'), false);

    // The ID of a container that is gone is held by its volumes, which another one has.
    await berth.ok(['run', '-d', '--name', 'user', '--volumes-from', 'own', ref, 'sleep', '100']);
    await berth.ok(['rm', '-fv', 'own']);
    const held = await berth(['run', '--rm', '--name', 'own', ref, 'true']);
    assert.equal(held.status, 125);
    assert.match(held.stderr, /already exists\nhint: .*container "user" has the volumes/);
    await berth.ok(['rm', '-f', 'user']);

    assert.equal((await berth(['rm', 'user'])).status, 5);
    assert.equal(await berth.ok(['rm', '-f', 'user', 'never']), '');
  });
});
