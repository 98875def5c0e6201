/**
 * The tests of kills, crowds, full disks, power losses and damage, run by a user without root: as root of that user's namespace, with a range of
 * ids, and all directories the user's own. A sample of each, and with TORTURE all of them. What needs root of the machine skips itself there by `requiresRootOfMachine`.
 */
import assert from 'node:assert/strict';
import {join, relative} from 'node:path';
import {describe, it} from 'node:test';
import {root} from '../cli/harness.ts';
import {isShort, requiresProgram, TORTURE} from '../support/helpers.ts';
import {ordinaryUser, requiresOrdinaryUser} from '../support/ordinary-user.ts';

/** Test files, each with the tests that `npm test` runs. */
const SAMPLES: Readonly<Record<string, string>> = {
  'test/e2e/kills.test.ts': 'at any moment of run --rm',
  'test/e2e/interrupted-commands.test.ts': 'in the middle of: (?:pull|run --rm) leaves',
  'test/e2e/leftovers.test.ts': 'leaves nothing after the next cleaning command',
  'test/e2e/killed-starts.test.ts': 'is gone soon afterwards',
  'test/e2e/task-kills.test.ts': 'cannot be removed: command',
  'test/e2e/concurrent-commands.test.ts': '8 that want one id',
  'test/lib/client/fulldisk.test.ts': ' 1 layers, blocks of 4096',
  'test/lib/client/bundle-faults.test.ts': 'on a disk without space',
  'test/lib/client/powerloss.test.ts': 'broken: (?:namespaces and content|a snapshot of a user)',
  'test/lib/client/damaged-journal.test.ts': '.',
  'test/lib/store/kill.test.ts': 'during: snapshots',
  'test/cli/damaged-store.test.ts': 'record of a snapshot',
};

const MINUTE_MS = 60_000;
const LIMIT_MS = TORTURE ? 120 * MINUTE_MS : 2 * MINUTE_MS;

describe('for a user without root', {concurrency: 2}, () => {
  for (const [file, sample] of Object.entries(SAMPLES))
    it(`holds what ${file} says`, {timeout: LIMIT_MS + MINUTE_MS}, async (t) => {
      if (!requiresOrdinaryUser(t) || !requiresProgram(t, 'runc', 'conmon', 'mount')) return;
      if (isShort()) return t.skip('slow, left out by --short');
      const user = ordinaryUser(t);
      const place = join(user.home, '../package');
      const words = [join(place, relative(root, process.execPath)), '--test-reporter=spec', `--test-timeout=${LIMIT_MS}`];
      const env = {
        BERTH_OUTSIDE_UID: String(user.uid),
        ...(TORTURE ? {BERTH_TEST_TORTURE: '1'} : {BERTH_TEST_SHORT: '1'}),
        ...(process.env.CI === undefined ? {} : {CI: process.env.CI}),
      };
      const {status, stdout, stderr} = await user.run(
        [
          ...['unshare', '--user', '--map-root-user', '--map-auto', '--mount', ...words],
          ...(TORTURE ? [] : [`--test-name-pattern=${sample}`]),
          join(place, file),
        ],
        {env, timeoutMs: LIMIT_MS},
      );
      assert.equal(status, 0, `${stdout.slice(stdout.indexOf('failing tests'))}\n${stderr}`);
      const count = (what: string): number => Number(new RegExp(`^ℹ ${what} (\\d+)$`, 'm').exec(stdout)![1]);
      assert.ok(count('pass') > 0, stdout);
      t.diagnostic(`${file}: ${count('pass')} passed, ${count('skipped')} skipped`);
    });
});
