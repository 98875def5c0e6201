import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {readFileSync} from 'node:fs';
import {describe, it} from 'node:test';
import {
  bootId,
  describeProcess,
  formatIdentity,
  liveness,
  ownIdentity,
  type ProcessIdentity,
  parseIdentity,
  uniqueName,
} from '../../../src/lib/fs/process.ts';
import {runScript, startScript} from '../../support/children.ts';
import {onEnd, requiresProgram, requiresRoot} from '../../support/helpers.ts';

const identityOf = (pid: number): ProcessIdentity => {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  return {...ownIdentity(), pid, startTime: stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]!};
};

describe('process identity', () => {
  it('is one file name, and is read back from it and from longer names', () => {
    const own = ownIdentity();
    assert.equal(own.pid, process.pid);
    assert.match(own.bootId, /^[0-9a-f]{32}$/);
    assert.equal(own.bootId, bootId());
    assert.deepEqual(parseIdentity(formatIdentity(own)), own);
    assert.deepEqual(parseIdentity(`${formatIdentity(own)}.more`), own);
    assert.deepEqual(parseIdentity(uniqueName()), own);
    for (const text of ['', '1', 'a.b.c.d', `${formatIdentity(own)}x`, `x${formatIdentity(own)}`, '1.2.short.3'])
      assert.equal(parseIdentity(text), undefined, text);
  });

  it('names are never used twice, and those of one process sort by age', () => {
    const names = Array.from({length: 1000}, uniqueName);
    assert.equal(new Set(names).size, 1000);
    const stamps = names.map((name) => name.slice(name.lastIndexOf('.') + 1).slice(0, 8));
    assert.deepEqual(stamps, stamps.toSorted());
  });

  it('distinguishes a living process from a dead one, a zombie, and another process with its pid', async (t) => {
    assert.equal(liveness(ownIdentity()), 'alive');
    const child = spawn('sleep', ['60']);
    onEnd(t, () => child.kill('SIGKILL'));
    const identity = identityOf(child.pid!);
    assert.equal(liveness(identity), 'alive');
    child.kill('SIGSTOP');
    assert.equal(liveness(identity), 'alive', 'stopped is not dead');
    assert.equal(liveness({...identity, startTime: '1'}), 'dead', 'its pid was used again');
    assert.equal(liveness({...identity, bootId: '0'.repeat(32)}), 'dead', 'of another boot');
    assert.equal(liveness({...identity, pidNamespace: '1'}), 'unknown', 'of another pid namespace');
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.equal(liveness(identity), 'dead');
  });

  it('takes a zombie for dead', async (t) => {
    const parent = spawn('sh', ['-c', 'sleep 60 & echo $!; exec sleep 60'], {stdio: ['ignore', 'pipe', 'inherit']});
    onEnd(t, () => parent.kill('SIGKILL'));
    const [text] = (await once(parent.stdout, 'data')) as [Buffer];
    const pid = Number(text.toString());
    const identity = identityOf(pid);
    // A shell would still take note of its end.
    while (readFileSync(`/proc/${parent.pid}/comm`, 'latin1') !== 'sleep\n') await new Promise((resolve) => setTimeout(resolve, 5));
    process.kill(pid, 'SIGKILL');
    while (readFileSync(`/proc/${pid}/stat`, 'latin1').split(' ')[2] !== 'Z') await new Promise((resolve) => setTimeout(resolve, 5));
    assert.equal(liveness(identity), 'dead');
  });

  it('does not consider a process dead when no file descriptor is left to check it', async (t) => {
    const code = `
      const {liveness, parseIdentity, ownIdentity} = await lib('fs/process.ts');
      const fs = require('node:fs');
      ownIdentity();
      const open = [];
      try { for (;;) open.push(fs.openSync('/dev/null')); } catch {}
      const life = liveness(parseIdentity(args[0]));
      for (const fd of open) fs.closeSync(fd);
      say(life);`;
    const {stdout} = await runScript(t, code, [formatIdentity(ownIdentity())], {through: ['prlimit', '--nofile=64']});
    assert.notEqual(stdout.trim(), 'dead');
  });

  it('does not consider a process dead when /proc shows another pid namespace', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'unshare')) return;
    // Two processes of a new pid namespace that still see the machine's /proc.
    const code = `
      const {liveness, formatIdentity, parseIdentity, ownIdentity} = await lib('fs/process.ts');
      const {execFileSync} = require('node:child_process');
      if (args.length > 0) { say(liveness(parseIdentity(args[0]))); return; }
      const script = process.execArgv[process.execArgv.indexOf('--eval') + 1];
      say(execFileSync(process.execPath, ['--eval', script, '--', formatIdentity(ownIdentity())], {encoding: 'utf8'}).trim());`;
    const {stdout} = await runScript(t, code, [], {through: ['unshare', '--pid', '--fork']});
    assert.equal(stdout.trim(), 'unknown');
  });

  it('describes a process by name and state, and never by its arguments', async (t) => {
    const script = startScript(t, 'say("up"); await go();', ['--secret=hunter2']);
    await script.line();
    const identity = identityOf(script.pid);
    assert.match(describeProcess(identity), new RegExp(`^pid ${script.pid} \\(node\\)$`));
    script.process.kill('SIGSTOP');
    while (!describeProcess(identity).includes('stopped')) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.doesNotMatch(describeProcess(identity), /hunter2/);
    script.process.kill('SIGKILL');
    await script.done;
    assert.equal(describeProcess(identity), `pid ${script.pid}`);
  });
});
