/** Units of systemd that run containers: systemd's own reading of them, and what their commands do. */
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {openClient} from '../../src/lib/client/index.ts';
import {systemdWord} from '../../src/lib/client/tasks/systemd-unit.ts';
import {is, requiresProgram, temporaryDirectory} from '../support/helpers.ts';
import {requiresTasks, taskRig} from '../support/tasks.ts';

/** The commands of a unit, by the kind of each. */
const commandsOf = (text: string): Readonly<Record<string, string>> =>
  Object.fromEntries([...text.matchAll(/^(Exec\w+)=-?(.*)$/gm)].map(([, kind, command]) => [kind!, command!]));

describe('a unit of systemd', () => {
  it('is one that systemd takes, wherever the state directory is', async (t) => {
    if (!requiresTasks(t) || !requiresProgram(t, 'systemd-analyze')) return;
    const {ns, ref, client, namespace} = await taskRig(t);
    await ns.containers.create(ref, 'c1', {stopTimeoutMs: 2500});
    const units = temporaryDirectory(t);
    const verify = (text: string): void => {
      writeFileSync(join(units, 'c.service'), text);
      const {status, stderr} = spawnSync('systemd-analyze', ['verify', '--man=no', '--recursive-errors=no', join(units, 'c.service')], {
        encoding: 'utf8',
      });
      assert.deepEqual([status, stderr], [0, ''], text);
    };
    for (const restart of [undefined, 'no', 'on-failure', 'always'] as const) {
      const {name, text} = await ns.containers.systemdUnit('c1', restart === undefined ? {} : {restart});
      assert.equal(name, `berth-${namespace}-c1.service`);
      assert.match(text, new RegExp(`^Restart=${restart ?? 'on-failure'}$`, 'm'));
      assert.match(text, /^TimeoutStopSec=13$/m);
      verify(text);
    }
    const odd = join(temporaryDirectory(t), 'a "b" $c %d \\e');
    mkdirSync(odd);
    execFileSync('cp', ['-a', client.root, join(odd, 'root')]);
    const elsewhere = openClient({root: join(odd, 'root'), state: join(odd, 'state'), program: [process.execPath, join(odd, 'main.js')]});
    const {text} = await elsewhere.namespace(namespace).containers.systemdUnit('c1');
    verify(text);
    assert.ok(text.includes(String.raw`/a \"b\" $$c %%d \\e/root"`), text);
    assert.ok(text.includes(String.raw`/a \"b\" $c %%d \\e/root"`), 'a path is no command');
    await elsewhere.close();
    await assert.rejects(ns.containers.systemdUnit('c2'), is('not_found'));
    await ns.containers.create(ref, 'c3', {tty: true});
    await assert.rejects(ns.containers.systemdUnit('c3'), is('failed_precondition'));
    assert.equal(systemdWord('a\nb', {isCommand: true}), '"a\\nb"');
  });

  it('has commands that start the container, again and again, and stop it', async (t) => {
    if (!requiresTasks(t)) return;
    const {ns, ref} = await taskRig(t);
    await ns.containers.create(ref, 'c1', {args: ['sh', '-c', 'echo ran; exit 5']});
    const {ExecStartPre, ExecStart, ExecStop, ExecStopPost} = commandsOf((await ns.containers.systemdUnit('c1')).text);
    // Paths here are no words that a shell reads otherwise.
    const sh = (command: string | undefined) => spawnSync('sh', ['-c', command!], {encoding: 'utf8'});
    for (let round = 0; round < 2; round++) {
      sh(ExecStartPre);
      const {status, stdout, stderr} = sh(ExecStart);
      assert.deepEqual([status, stdout], [5, 'ran\n'], stderr);
      sh(ExecStopPost);
      assert.deepEqual(await ns.tasks.list(), []);
    }
    // A task that is left over is in the way of none.
    await ns.containers.create(ref, 'c2', {args: ['sh', '-c', 'while :; do busybox sleep 1; done']});
    const other = commandsOf((await ns.containers.systemdUnit('c2')).text);
    await ns.tasks.start('c2', {detach: true});
    assert.equal(sh(other.ExecStartPre).status, 0);
    await ns.tasks.start('c2', {detach: true});
    const stopped = sh(other.ExecStop);
    assert.equal(stopped.status, 0, stopped.stderr);
    assert.ok(ExecStop?.includes('tasks stop'));
  });
});
