/** A container with a terminal, in a pseudo-terminal that script(1) makes. */
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import type {SpecRequest} from '../../../src/lib/runtime/resolve-spec.ts';
import {requiresProgram} from '../../support/helpers.ts';
import type {DriverRequest} from './driver.ts';
import {
  type Driven,
  ENGINES,
  type Engine,
  eventually,
  initPid,
  newHarness,
  type RunHarness,
  requiresRuntime,
  watch,
} from './run-harness.ts';

const quote = (word: string): string => `'${word.replaceAll("'", `'\\''`)}'`;

/** Runs the driver in the foreground of a terminal of 24 rows and 80 columns, and prints its status. What is written to it is typed. */
function inTerminal(harness: RunHarness, engine: Engine, options: SpecRequest['options'], more: Partial<DriverRequest> = {}): Driven {
  const driver = harness
    .argv(engine, options, {...more, settingsFile: join(harness.dir, 'after')})
    .map(quote)
    .join(' ');
  const script = `stty rows 24 cols 80; stty -g > ${harness.dir}/before; ${driver}; echo "status $?"`;
  return watch(
    spawn('script', ['--quiet', '--return', '--command', script, '/dev/null'], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: {...process.env, SHELL: '/bin/sh'},
    }),
  );
}

const settings = (harness: RunHarness): readonly [string, string] => [
  readFileSync(join(harness.dir, 'before'), 'utf8'),
  readFileSync(join(harness.dir, 'after'), 'utf8'),
];

const sh = (script: string) => ({args: ['sh', '-c', script], tty: true});

for (const engine of ENGINES)
  describe(`on ${engine.name}, a terminal`, () => {
    it("is the container's own, of the size of the caller's, and is given back as it was", async (t) => {
      if (!requiresRuntime(t) || !requiresProgram(t, 'script', 'stty')) return;
      const harness = newHarness(t);
      const driven = inTerminal(harness, engine, sh('tty; stty size; echo $TERM; exit 6'));
      await driven.expect(/\/dev\/pts\/0\r\n24 80\r\nxterm\r\nstatus 6\r\n/);
      await driven.ended;
      const [before, after] = settings(harness);
      assert.equal(after, before);
      await harness.assertNothingLeft();
    });

    it('has its size in the specification, for those who ask at once', async (t) => {
      if (!requiresRuntime(t) || !requiresProgram(t, 'script', 'stty')) return;
      const harness = newHarness(t);
      const runtime = join(harness.dir, 'runtime');
      writeFileSync(runtime, '#!/bin/sh\necho $$ > ../init.pid; cat config.json\n', {mode: 0o755});
      const driven = inTerminal(harness, engine, sh(':'), {runtime});
      await driven.expect(/"consoleSize":\{"height":24,"width":80\}/);
      await driven.ended;
    });

    it('passes on what is typed, Ctrl-C as well, byte by byte', async (t) => {
      if (!requiresRuntime(t) || !requiresProgram(t, 'script', 'stty')) return;
      const harness = newHarness(t);
      const driven = inTerminal(harness, engine, sh("trap 'echo interrupted; exit 4' INT; echo ready; while :; do sleep 0.1; done"));
      await driven.expect(/ready/);
      driven.child.stdin!.write('\x03');
      await driven.expect(/interrupted\r\nstatus 4/);
      await driven.ended;
      await harness.assertNothingLeft();
    });

    it('follows a change of size', async (t) => {
      if (!requiresRuntime(t) || !requiresProgram(t, 'script', 'stty')) return;
      const harness = newHarness(t);
      const driven = inTerminal(harness, engine, sh("trap 'stty size' WINCH; trap 'exit 3' INT; echo ready; while :; do sleep 0.1; done"));
      await driven.expect(/ready/);
      // The terminal of the tool, as any process of the user may name it.
      const pid = await eventually(
        'tool',
        () => /^\d+/.exec(readFileSync(`/proc/${driven.child.pid}/task/${driven.child.pid}/children`, 'utf8'))?.[0],
      );
      spawn('stty', ['-F', `/proc/${pid}/fd/0`, 'rows', '50', 'cols', '120']);
      await driven.expect(/50 120/);
      driven.child.stdin!.write('\x03');
      await driven.expect(/status 3/);
      await driven.ended;
      await harness.assertNothingLeft();
    });

    for (const victim of ['container', 'runtime'] as const)
      it(`is given back when the ${victim} is killed`, async (t) => {
        if (!requiresRuntime(t) || !requiresProgram(t, 'script', 'stty')) return;
        const harness = newHarness(t);
        const driven = inTerminal(harness, engine, sh('echo ready; sleep 1000'));
        await driven.expect(/ready/);
        const init = await initPid(harness);
        const runtime = Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${init}/status`, 'utf8'))![1]);
        process.kill(victim === 'container' ? init : runtime, 'SIGKILL');
        await driven.expect(victim === 'container' ? /status 137/ : /status 125/);
        await driven.ended;
        const [before, after] = settings(harness);
        assert.equal(after, before);
        await harness.assertNothingLeft();
      });

    it('that is the caller’s alone sends Ctrl-C once', async (t) => {
      if (!requiresRuntime(t) || !requiresProgram(t, 'script', 'stty')) return;
      const harness = newHarness(t);
      const script = "trap 'echo interrupted' INT; trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done";
      const driven = inTerminal(harness, engine, {args: ['sh', '-c', script]});
      await driven.expect(/ready/);
      driven.child.stdin!.write('\x03');
      await driven.expect(/interrupted/);
      await delay(300);
      assert.equal(driven.output().match(/interrupted/g)?.length, 1);
      // Two that are close would be taken for one; so see that the second has no way.
      const init = await initPid(harness);
      const runtime = /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${init}/status`, 'utf8'))![1]!;
      assert.match(readFileSync(`/proc/${runtime}/stat`, 'utf8'), new RegExp(`^${runtime} \\(runc\\) \\S \\d+ ${runtime} ${runtime} `));
      process.kill(init, 'SIGUSR1');
      await driven.ended;
      await harness.assertNothingLeft();
    });
  });
