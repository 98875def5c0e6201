/** A launcher that another program becomes first: the scope of a container without root. */
import assert from 'node:assert/strict';
import {closeSync, mkdirSync, openSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {it, type TestContext} from 'node:test';
import {startLauncher} from '../../../src/lib/runtime/launcher.ts';
import {planMounts} from '../../../src/lib/runtime/mount-plan.ts';
import {is, onEnd, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';

/** @param scope words before the launcher @param program what it becomes, with standard error in the file `errors` */
async function launcherIn(t: TestContext, scope: readonly string[], program: readonly string[]) {
  const bundle = temporaryDirectory(t);
  for (const name of ['rootfs', 'tree']) mkdirSync(join(bundle, name));
  const errors = openSync(join(bundle, 'errors'), 'w');
  const launcher = await startLauncher(bundle, program, ['ignore', 'ignore', errors], {scope});
  closeSync(errors);
  onEnd(t, async () => {
    launcher.kill('SIGKILL');
    await launcher.ended;
  });
  const plan = planMounts([{type: 'bind', source: join(bundle, 'tree'), options: ['rbind', 'ro']}]);
  return {mount: () => launcher.mount(plan), launcher, errors: () => readFileSync(join(bundle, 'errors'), 'utf8')};
}

it("a launcher's own words before it leave the program its standard error and nothing else", async (t) => {
  if (!requiresRoot(t)) return;
  const scope = ['/bin/sh', '-c', 'echo a warning >&2; exec "$@"', 'sh'];
  const {mount, launcher, errors} = await launcherIn(t, scope, [
    '/bin/sh',
    '-c',
    'echo from the program >&2; test ! -e /proc/self/fd/3 && test ! -e /proc/self/fd/4',
  ]);
  await mount();
  launcher.release();
  assert.deepEqual(await launcher.ended, {status: 0, signal: null});
  assert.equal(errors(), 'from the program\n');
});

it('a scope that systemd refuses is told in its words', async (t) => {
  if (!requiresRoot(t)) return;
  const {mount, errors} = await launcherIn(t, ['/bin/sh', '-c', 'echo Failed to ask >&2; exit 1', 'sh'], ['/bin/true']);
  await assert.rejects(mount(), (err) => is('unavailable')(err) && /^no scope of systemd: Failed to ask/.test((err as Error).message));
  assert.equal(errors(), '');
});
