/** The shell's part of entering a user namespace that exists. */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {chmodSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {JOIN} from '../../../src/lib/client/enter-user-namespace.ts';
import {temporaryDirectory} from '../../support/helpers.ts';

describe('joining a user namespace', () => {
  const run = (...words: readonly string[]): readonly string[] => {
    const {stdout, stderr} = spawnSync('sh', ['-c', JOIN, 'sh', ...words], {encoding: 'utf8'});
    return [stdout, stderr];
  };

  it('holds it open until nsenter has it', (t) => {
    const nsenter = join(temporaryDirectory(t), 'nsenter');
    writeFileSync(nsenter, '#!/bin/sh\nreadlink /proc/self/fd/9\n');
    chmodSync(nsenter, 0o755);
    const [stdout, stderr] = run('/proc/self/ns/user', nsenter, 'true');
    assert.match(stdout!, /^user:\[\d+\]\n$/);
    assert.equal(stderr, '');
  });

  it('begins again, and says nothing, when its last process has ended', () => {
    assert.deepEqual(run('/proc/0/ns/user', 'nsenter', 'echo', 'again'), ['again\n', '']);
  });
});
