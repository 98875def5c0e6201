/** Commands with a low limit of open files: a failed open ends the command with the right class; it never hangs. */
import assert from 'node:assert/strict';
import {join} from 'node:path';
import {it} from 'node:test';
import {CLASSES} from '../../src/lib/errdefs.ts';
import {commandLine, forEachEngine, root, run} from '../cli/harness.ts';
import {requiresProgram, requiresRoot} from '../support/helpers.ts';
import {assertWhole, publishedImages} from './fixtures.ts';

const published = publishedImages();

/** Below, an engine may end itself before a command has begun; Bun has by then what it needs, Node is far from starting threads. */
const FEWEST = 26;
const MOST = 42;
/** Time limit of a command, in milliseconds. A whole pull takes less. */
const TIMEOUT_MS = 60_000;

forEachEngine('a pull with few descriptors', (engine) => {
  it('ends with a pulled image or with the right error, and the next one succeeds', {timeout: 10 * TIMEOUT_MS}, async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'prlimit')) return;
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const ends = new Map<number, number>();
    for (let files = FEWEST; files <= MOST; files += 4) {
      const ctr = commandLine(t, engine);
      const pull = ['pull', '--progress', 'none', image.ref];
      const limited = ['--signal=KILL', String(TIMEOUT_MS / 1000), 'prlimit', `--nofile=${files}`, join(root, 'bin/ctr'), ...pull];
      const {status, stderr} = await run('timeout', limited, {env: ctr.env});
      ends.set(status, (ends.get(status) ?? 0) + 1);
      // Node's own loader, where it is the one who finds none left, says so in words alone: that has no class.
      const isLoaders = engine === 'node' && status === CLASSES.unknown.exit;
      assert.ok(status === 0 || status === CLASSES.resource_exhausted.exit || isLoaders, `${files} files: ${status} ${stderr}`);
      if (status !== 0) assert.match(stderr, isLoaders ? /EMFILE|too many open files/ : /EMFILE/);
      await ctr.ok(pull);
      await assertWhole(ctr);
      assert.equal((await ctr(['check', '--deep'])).status, 0);
    }
    assert.ok([...ends.keys()].some((status) => status !== 0) || engine === 'executable', 'nothing was refused for want of descriptors');
    t.diagnostic([...ends].map(([status, count]) => `status ${status}: ${count}`).join(', '));
  });
});
