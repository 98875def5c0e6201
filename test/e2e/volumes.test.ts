/** Volumes of containers that run: named ones, which outlive them, and their own, which end with them. */
import assert from 'node:assert/strict';
import {lstatSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import type {VolumeInfo} from '../../src/lib/client/types/index.ts';
import {commandLine, forEachEngine} from '../cli/harness.ts';
import {startFakeRegistry} from '../fakes/registry.ts';
import {findProgram, requiresProgram, requiresRoot, type Scope} from '../support/helpers.ts';
import {publishImage} from '../support/published-images.ts';
import {dir, file, symlink, tar} from '../support/tartest.ts';

/** An image whose VOLUMEs are /data, which has files, /link, which leads to it in a roundabout way, and /none, which is not there. */
async function publishedImage(t: Scope): Promise<string> {
  const registry = await startFakeRegistry(t);
  const layer = tar(
    dir('bin/'),
    file('bin/busybox', readFileSync(findProgram('busybox')!), 0o755),
    symlink('busybox', 'bin/sh'),
    dir('data/', 0o1777, {uid: 7, gid: 8}),
    file('data/seed', 'of the image', 0o640, {uid: 9, gid: 10}),
    dir('elsewhere/'),
    file('elsewhere/far', 'away'),
    dir('up/'),
    symlink('../../../elsewhere', 'up/link'),
  );
  publishImage(registry, 'app', [layer], {exec: {Volumes: {'/data/': {}, '/up/link': {}, '/none': {}, '/': {}}}});
  return `${registry.host}/app:latest`;
}

forEachEngine('volumes', (engine) => {
  it('outlive containers by name, and end with them without one', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'conmon', 'unshare', 'mount', 'busybox')) return;
    const ref = await publishedImage(t);
    const ctr = commandLine(t, engine, 'ctr');
    await ctr.ok(['pull', '--plain-http', ref]);
    const sh = (flags: readonly string[], script: string) => ctr(['run', '--rm', '--name', '', ...flags, ref, '/bin/sh', '-c', script]);
    const out = async (flags: readonly string[], script: string): Promise<string> => {
      const {status, stdout, stderr} = await sh(flags, script);
      assert.equal(status, 0, stderr);
      assert.equal(stderr, '');
      return stdout.trim();
    };
    const see = 'busybox ls -A /data; busybox stat -c "%a %u %g" /data /data/seed; busybox ls -A /up/link; busybox stat -c %a /none';
    const seen = 'seed\n1777 7 8\n640 9 10\nfar\n755';
    assert.equal(await out([], see), seen, 'what the image has, with its attributes');
    assert.equal(await out([], 'busybox grep -cE " (/data|/elsewhere|/none) " /proc/mounts'), '3');
    assert.equal(await out(['--image-volume', 'ignore'], 'busybox grep -cE " (/data|/none) " /proc/mounts || true'), '0');
    assert.match(await out(['--image-volume=tmpfs'], 'busybox grep -E " /data " /proc/mounts'), /^tmpfs/);
    assert.equal(await out(['--tmpfs', '/data'], 'busybox ls -A /data'), '', 'what is asked for comes first');

    const inner = ['-v', 'inner:/data/inner:nocopy', '-v', '/data/inner/most'];
    assert.equal(
      await out(inner, 'echo 1 > /data/inner/x; busybox ls -A /data /data/inner'),
      '/data:\ninner\nseed\n\n/data/inner:\nmost\nx',
    );
    assert.equal(await out(['-v', 'inner:/i'], 'busybox ls -A /i'), 'most\nx', 'one in another is not hidden by it');
    await ctr.ok(['volumes', 'rm', 'inner']);

    // By name: made and filled once; found again.
    assert.equal(await out(['-v', 'work:/data'], `${see}; echo mine > /data/mine`), seen);
    assert.equal(
      await out(['-v', 'work:/data:ro'], 'busybox ls -A /data; busybox touch /data/no 2>/dev/null || echo refused'),
      'mine\nseed\nrefused',
    );
    assert.equal(await out(['-v', 'bare:/data:nocopy'], 'busybox ls -A /data'), '');
    assert.equal(
      await out(['--mount', 'type=volume,src=work,dst=/w', '-v', '/own'], 'busybox ls -A /w /own; echo x > /own/x'),
      '/own:\n\n/w:\nmine\nseed',
    );
    // One that is made beforehand is filled as well, but neither twice nor over what somebody has put there.
    assert.equal(await ctr.ok(['volumes', 'create', '--label', 'team=infra', 'made']), 'made\n');
    assert.equal(await out(['-v', 'made:/data'], 'busybox ls -A /data; busybox rm /data/seed'), 'seed');
    assert.equal(await out(['-v', 'made:/data'], 'busybox ls -A /data'), '');
    const {path} = JSON.parse(await ctr.ok(['volumes', 'inspect', 'made'])) as VolumeInfo;
    assert.deepEqual([lstatSync(path).mode & 0o7777, lstatSync(path).uid], [0o1777, 7]);
    await ctr.ok(['volumes', 'create', 'given']);
    writeFileSync(join((JSON.parse(await ctr.ok(['volumes', 'inspect', 'given'])) as VolumeInfo).path, 'here'), '');
    assert.equal(await out(['-v', 'given:/data'], 'busybox ls -A /data; busybox rm /data/here'), 'here');
    assert.equal(await out(['-v', 'given:/data'], 'busybox ls -A /data'), '');

    // A container holds its volumes, running or not.
    await ctr.ok([
      'containers',
      'create',
      '--name',
      'c1',
      '-v',
      'work:/data',
      '-v',
      '/kept',
      ref,
      '/bin/sh',
      '-c',
      'busybox ls /kept; echo 1 > /kept/1',
    ]);
    assert.equal((await ctr(['tasks', 'start', 'c1'])).stdout, '');
    assert.equal((await ctr(['tasks', 'start', 'c1'])).stdout, '1\n', 'its own volume stays as long as the container');
    assert.deepEqual((await ctr.ok(['volumes', 'ls', '-q'])).trim().split('\n'), ['bare', 'given', 'made', 'work']);
    assert.match(await ctr.ok(['volumes', 'ls', 'name==work']), /^NAME +CREATED AT +USED BY +LABELS\nwork +\S+Z +c1 +-?\n$/);
    for (const words of [
      ['volumes', 'rm', 'work'],
      ['snapshots', 'rm', '--snapshotter', 'native', 'volumes/work'],
    ]) {
      const {status, stderr} = await ctr(words);
      assert.equal(status, 9, stderr);
      assert.match(stderr, /is used by (container )?"?c1/);
    }
    await ctr.ok(['prune', '--all-namespaces']);
    await ctr.ok(['gc']);
    assert.match(await ctr.ok(['check']), /nothing wrong/);
    assert.deepEqual((await ctr.ok(['volumes', 'prune', '--dry-run'])).trim().split('\n'), ['bare', 'given', 'made']);
    assert.deepEqual((await ctr.ok(['volumes', 'prune'])).trim().split('\n'), ['bare', 'given', 'made']);
    await ctr.ok(['containers', 'rm', 'c1']);
    assert.equal((await ctr(['namespaces', 'rm', 'default'])).status, 9, 'a volume is something that remains');
    assert.equal(await ctr.ok(['volumes', 'rm', 'work']), 'work\n');
    assert.match((await ctr(['volumes', 'rm', 'work'])).stderr, /volume "work" in namespace "default": not found/);
    await ctr.ok(['images', 'rm', ref]);
    const {root} = JSON.parse(await ctr.ok(['info', '--json'])) as {root: string};
    assert.deepEqual(readdirSync(join(root, 'layers')), [], 'nothing is left');
  });
});
