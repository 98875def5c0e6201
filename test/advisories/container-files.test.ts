/**
 * CVE-2018-15664, CVE-2026-42306 (docker): a container swaps a directory for a symbolic link while files are copied, and the copy reads or
 * writes files of the host. CVE-2019-14271, CVE-2026-41567 (docker): a copy loads libraries, or starts programs, of the container.
 */
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {chmodSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {codeOf} from '../../src/lib/errdefs.ts';
import {onEnd, type Scope, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {char, dir, fifo, file, tar} from '../support/tartest.ts';
import {requiresTasks, taskRig} from '../support/tasks.ts';

const SWAP = `
  const {renameSync} = require('node:fs');
  const [one, other] = process.argv.slice(1);
  process.stdout.write('.');
  for (;;) {
    renameSync(one, one + '.away');
    renameSync(other, one);
    renameSync(one, other);
    renameSync(one + '.away', one);
  }`;

/** Swaps two names all the time, as a process of a container would. */
async function swapping(t: Scope, one: string, other: string): Promise<void> {
  const child = spawn(process.execPath, ['-e', SWAP, one, other], {stdio: ['ignore', 'pipe', 'ignore']});
  onEnd(t, () => child.kill('SIGKILL'));
  await new Promise((resolve) => child.stdout!.once('data', resolve));
}

async function* bytes(...chunks: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* chunks;
}

const EXPECTED: readonly string[] = ['not_found', 'failed_precondition', 'already_exists', 'aborted'];

/** A copy fails because of the swaps, or not at all. */
const assertExpected = (err: unknown): void => assert.ok(EXPECTED.includes(codeOf(err)), String(err));

const ROUNDS = TORTURE ? 2000 : 40;

describe('a copy beside a container that swaps a directory for a link out of it', () => {
  it('reads and writes only what is in the container', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    const [volume, outside, work] = [temporaryDirectory(t), temporaryDirectory(t), temporaryDirectory(t)];
    mkdirSync(join(outside, 'sub'));
    writeFileSync(join(outside, 'sub/f'), 'of the host');
    mkdirSync(join(volume, 'd/sub'), {recursive: true});
    writeFileSync(join(volume, 'd/sub/f'), 'of the container');
    symlinkSync(outside, join(volume, 'link'));
    symlinkSync('../../../../../../../../../../..', join(volume, 'up'));
    mkdirSync(join(work, 'd/sub'), {recursive: true});
    writeFileSync(join(work, 'd/sub/f'), 'copied');
    const mounts = [{type: 'bind', source: volume, destination: '/volume', options: ['rbind', 'rw']}];
    await ns.run(ref, 'c1', {args: ['busybox', 'sleep', '1000'], detach: true, nullIO: true, mounts});
    await swapping(t, join(volume, 'd'), join(volume, 'link'));
    const before = statSync(outside);
    const done = {copied: 0, failed: 0};
    const attempt = async (copy: Promise<unknown>): Promise<void> => {
      try {
        await copy;
        done.copied++;
      } catch (err) {
        assertExpected(err);
        done.failed++;
      }
    };
    const archive = tar(dir('d/'), dir('d/sub/'), file('d/sub/f', 'copied'));
    for (let n = 0; n < ROUNDS; n++) {
      const to = join(work, `out${n}`);
      await attempt(ns.containers.copyFiles({container: 'c1', path: '/volume/d/sub/f'}, {path: to}));
      const text = readdirSync(work).includes(`out${n}`) ? readFileSync(to, 'utf8') : '';
      assert.doesNotMatch(text, /host/);
      await attempt(ns.containers.copyFiles({container: 'c1', path: '/volume'}, {path: join(work, `all${n}`)}));
      await attempt(ns.containers.copyFiles({path: join(work, 'd/sub')}, {container: 'c1', path: '/volume/d'}));
      await attempt(ns.containers.copyFiles({path: join(work, 'd')}, {container: 'c1', path: '/volume'}));
      await attempt(ns.containers.copyFiles(bytes(archive), {container: 'c1', path: '/volume'}));
      const seen: string[] = [];
      const look = (path: string): void => {
        for (const entry of readdirSync(path, {withFileTypes: true})) {
          if (entry.isDirectory()) look(join(path, entry.name));
          else if (entry.isFile()) seen.push(readFileSync(join(path, entry.name), 'utf8'));
        }
      };
      if (readdirSync(work).includes(`all${n}`)) look(join(work, `all${n}`));
      assert.ok(!seen.includes('of the host'));
    }
    assert.ok(done.copied > 0, JSON.stringify(done));
    assert.equal(readFileSync(join(outside, 'sub/f'), 'utf8'), 'of the host');
    assert.deepEqual([readdirSync(outside), readdirSync(join(outside, 'sub'))], [['sub'], ['f']]);
    const after = statSync(outside);
    assert.deepEqual([after.uid, after.mode, after.mtimeMs], [before.uid, before.mode, before.mtimeMs]);
  });

  it('writes only into its target on this machine', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    const [target, outside] = [temporaryDirectory(t), temporaryDirectory(t)];
    await ns.containers.create(ref, 'c1');
    await ns.run(ref, 'c2', {args: ['busybox', 'sleep', '1000'], detach: true, nullIO: true});
    const archive = tar(dir('tree/'), dir('tree/sub/'), ...Array.from({length: 20}, (_, i) => file(`tree/sub/${i}`, 'copied')));
    await ns.containers.copyFiles(bytes(archive), {container: 'c2', path: '/'});
    mkdirSync(join(target, 'tree/sub'), {recursive: true});
    symlinkSync(outside, join(target, 'link'));
    await swapping(t, join(target, 'tree/sub'), join(target, 'link'));
    for (let n = 0; n < ROUNDS; n++)
      await ns.containers.copyFiles({container: 'c2', path: '/tree'}, {path: target}).catch((err: unknown) => {
        assertExpected(err);
      });
    assert.deepEqual(readdirSync(outside), []);
  });
});

describe('a copy', () => {
  it('starts no program and loads no library of the container', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    const [work, volume] = [temporaryDirectory(t), temporaryDirectory(t)];
    const programs = ['tar', 'gzip', 'unpigz', 'mknod', 'cp', 'sh', 'mount', 'unshare'];
    const hostile = programs.flatMap((name) => ['bin', 'usr/bin', 'sbin'].map((at) => file(`${at}/${name}`, '#!/volume/hit\n', 0o755)));
    writeFileSync(join(volume, 'hit'), '#!/bin/sh\n: >"$(dirname "$0")/was-hit"\n');
    chmodSync(join(volume, 'hit'), 0o755);
    const libraries = ['libnss_files.so.2', 'libc.so.6'].map((name) => file(`lib/x86_64-linux-gnu/${name}`, 'hostile', 0o755));
    const mounts = [{type: 'bind', source: volume, destination: '/volume', options: ['rbind', 'rw']}];
    await ns.run(ref, 'c1', {args: ['busybox', 'sleep', '1000'], detach: true, nullIO: true, mounts});
    const archive = tar(...hostile, ...libraries, file('data', 'data'), fifo('fifo'), char('null', 1, 3));
    await ns.containers.copyFiles(bytes(archive), {container: 'c1', path: '/'}, {archive: true});
    await ns.containers.copyFiles({container: 'c1', path: '/.'}, {path: join(work, 'all')}, {archive: true});
    assert.equal(readFileSync(join(work, 'all/data'), 'utf8'), 'data');
    for await (const chunk of await ns.containers.readFiles('c1', '/')) assert.ok(chunk.length > 0);
    assert.deepEqual(readdirSync(volume), ['hit']);
  });
});
