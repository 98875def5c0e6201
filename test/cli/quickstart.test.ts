import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {requiresImage} from '../support/cached-images.ts';
import {requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Files that it left in its temporary directory, and processes that still name it. */
  readonly left: readonly string[];
}

function quickstart(t: TestContext, ...args: readonly string[]): Outcome {
  const dir = temporaryDirectory(t);
  const script = join(import.meta.dirname, '../../scripts/quickstart.ts');
  const {NODE_TEST_CONTEXT: _, ...env} = process.env;
  const {status, stdout, stderr} = spawnSync(process.execPath, [script, ...args], {env: {...env, TMPDIR: dir}, encoding: 'utf8'});
  const processes = readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(dir);
    } catch {
      return false;
    }
  });
  return {status, stdout, stderr, left: [...readdirSync(dir).filter((name) => name.startsWith('berth-')), ...processes]};
}

describe('the quick start', () => {
  it('pulls, lists, runs, shares between namespaces, and leaves nothing', (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'docker-registry', 'runc') || requiresImage(t, 'busybox') === undefined) return;
    const {status, stdout, stderr, left} = quickstart(t);
    assert.equal(status, 0, stderr);
    assert.match(stdout, /\nhello from process 1 on Linux\n/);
    assert.match(stdout, /\$ dist -n demo images ls\nREF TYPE DIGEST SIZE PLATFORMS LABELS\n/);
    assert.match(stdout + stderr, /total: 0\.0 B /);
    assert.match(stdout, /\(exit status 7\)\n/);
    assert.deepEqual(left, []);
  });

  it('takes a reference, ends with the status of a failed command, and leaves nothing then either', (t) => {
    if (!requiresRoot(t)) return;
    const {status, stdout, left} = quickstart(t, '127.0.0.1:1/no/registry:here');
    assert.equal(status, 14);
    assert.match(stdout, /\$ dist pull 127\.0\.0\.1:1\/no\/registry:here\n/);
    assert.deepEqual(left, []);
  });
});
