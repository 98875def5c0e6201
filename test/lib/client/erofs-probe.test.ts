import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {createErofsIndex} from '../../../src/lib/archive/erofs-index.ts';
import {emptyIndex, probeErofs} from '../../../src/lib/client/erofs-probe.ts';
import {onEnd, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';

describe('the probe', () => {
  it('probes once a boot, and ignores malformed or older results', (t) => {
    if (!requiresRoot(t)) return;
    const state = temporaryDirectory(t);
    const root = temporaryDirectory(t);
    const found = probeErofs(state, root);
    const known = join(state, 'erofs.json');
    const {bootId} = JSON.parse(readFileSync(known, 'utf8')) as {bootId: string};
    const say = (text: string): ReturnType<typeof probeErofs> => {
      writeFileSync(known, text);
      return probeErofs(state, root);
    };
    const said = (backing: string, boot = bootId, filesystem = statSync(root).dev): string =>
      JSON.stringify({bootId: boot, filesystems: {[filesystem]: {backing, reason: 'said'}}});
    assert.deepEqual(say(said('loop')), {backing: 'loop', reason: 'said'});
    assert.deepEqual(say(said('none')), {backing: undefined, reason: 'said'});
    for (const text of [
      '',
      'null',
      '{',
      '[]',
      JSON.stringify({bootId, filesystems: null}),
      JSON.stringify({bootId, backing: 'none', reason: 'of an earlier version'}),
      said('other'),
      said('none', '0'.repeat(32)),
      said('none', bootId, 0),
    ])
      assert.deepEqual(say(text), found, text);
  });

  it('probes the filesystem of the layers: not all can be mounted from', (t) => {
    if (!requiresRoot(t)) return;
    const [state, root] = [temporaryDirectory(t), temporaryDirectory(t)];
    const found = probeErofs(state, root);
    const memory = join(root, 'memory');
    mkdirSync(memory);
    execFileSync('mount', ['-t', 'tmpfs', 'none', memory]);
    onEnd(t, () => execFileSync('umount', [memory]));
    // The kernel cannot mount a filesystem from a file in tmpfs.
    assert.notEqual(probeErofs(state, join(memory, 'not/there/yet')).backing, 'files');
    assert.deepEqual(probeErofs(state, root), found, 'what was found of another one stays');
    assert.deepEqual(readdirSync(memory), []);
  });

  it('leaves no files, and works on a read-only filesystem', (t) => {
    if (!requiresRoot(t)) return;
    const root = temporaryDirectory(t);
    probeErofs(temporaryDirectory(t), root);
    assert.deepEqual(readdirSync(root), []);
    const file = join(root, 'file');
    writeFileSync(file, '');
    assert.notEqual(probeErofs(temporaryDirectory(t), join(file, 'root')).backing, undefined);
  });

  /** Simulates a kernel that refuses to mount: a script replaces mount(8). */
  const on = (t: TestContext, refuses: string): ReturnType<typeof probeErofs> => {
    const {PATH} = process.env;
    const bin = temporaryDirectory(t);
    chmodSync(bin, 0o755);
    writeFileSync(join(bin, 'mount'), `#!/bin/sh\ncase "$*" in ${refuses}) exit 32;; esac\nPATH='${PATH}' exec mount "$@"\n`, {
      mode: 0o755,
    });
    process.env.PATH = `${bin}:${PATH}`;
    try {
      return probeErofs(temporaryDirectory(t), temporaryDirectory(t));
    } finally {
      process.env.PATH = PATH;
    }
  };

  it('stores only lasting results, and names the reason', (t) => {
    if (!requiresRoot(t)) return;
    const {PATH} = process.env;
    const [state, root] = [temporaryDirectory(t), temporaryDirectory(t)];
    const isKnown = /\terofs$/m.test(readFileSync('/proc/filesystems', 'utf8'));
    const device = join(temporaryDirectory(t), 'loop0');
    writeFileSync(device, '');
    const counted = join(temporaryDirectory(t), 'asked');
    // Of a loop device: none is free; one is that may not be opened; the last was taken meanwhile; one is free.
    for (const [status, losetup, reason, isLasting] of [
      [1, `echo ${device}`, /mount failed with status 1/, false],
      [32, 'exit 1', /loop devices/, !isKnown],
      [32, `echo ${device}x`, /loop devices/, !isKnown],
      [32, `[ ! -e ${counted} ] && >${counted} && echo ${device}`, /loop devices/, !isKnown],
      [32, `echo ${device}`, /loop devices/, true],
    ] as const) {
      const bin = temporaryDirectory(t);
      rmSync(join(state, 'erofs.json'), {force: true});
      writeFileSync(join(bin, 'unshare'), `#!/bin/sh\nexit ${status}\n`, {mode: 0o755});
      writeFileSync(join(bin, 'losetup'), `#!/bin/sh\n${losetup}\n`, {mode: 0o755});
      process.env.PATH = `${bin}:${PATH}`;
      try {
        const found = probeErofs(state, root);
        assert.equal(found.backing, undefined, losetup);
        assert.match(found.reason, reason);
      } finally {
        process.env.PATH = PATH;
      }
      assert.equal(existsSync(join(state, 'erofs.json')), isLasting, `${status} ${losetup}`);
    }
  });

  it('mounts the index that a layer without entries would have', () => {
    for (const alignment of [512, 1024, 4096, 65536])
      assert.deepEqual(emptyIndex(alignment), Buffer.concat([...createErofsIndex().encode(1024, alignment).bytes]), String(alignment));
  });

  it('uses loop devices when the kernel cannot mount files, and reports when it can mount neither', (t) => {
    if (!requiresRoot(t)) return;
    const loop = on(t, '*device=*');
    if (existsSync('/dev/loop-control')) assert.equal(loop.backing, 'loop');
    assert.match(loop.reason, /older than 6\.12/);
    const none = on(t, '*');
    assert.equal(none.backing, undefined);
    assert.match(none.reason, /loop devices/);
  });
});
