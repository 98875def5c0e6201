import assert from 'node:assert/strict';
import {
  chmodSync,
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import {join} from 'node:path';
import {afterEach, describe, it} from 'node:test';
import {startScript} from '../support/children.ts';
import {temporaryDirectory} from '../support/helpers.ts';
import {arm, counted, disarm, failpointOptions} from './failpoints.ts';

afterEach(() => void disarm());

describe('failpoints', () => {
  it('count what changes something below a directory, and nothing else', (t) => {
    const dir = temporaryDirectory(t);
    const below = join(dir, 'below');
    mkdirSync(below);
    arm({below, action: 'EIO', at: 0});
    writeFileSync(join(dir, 'beside'), '');
    writeFileSync(join(`${below}side`), '');
    readdirSync(below);
    closeSync(openSync(below, 'r'));
    existsSync(join(below, 'a'));
    assert.equal(counted().calls, 0);
    const fd = openSync(join(below, 'a'), 'w');
    writeSync(fd, 'some');
    fsyncSync(fd);
    closeSync(fd);
    renameSync(join(below, 'a'), join(below, 'b'));
    chmodSync(join(below, 'b'), 0o600);
    writeFileSync(join(below, 'c'), 'whole, as one');
    renameSync(join(below, 'c'), join(dir, 'out'));
    renameSync(join(dir, 'out'), join(below, 'in'));
    assert.deepEqual(disarm(), {calls: 8, failures: 0});
    writeFileSync(join(below, 'd'), '');
    assert.equal(counted().calls, 8);
  });

  it('throw what was asked for, instead of the call, once or from then on', (t) => {
    const below = temporaryDirectory(t);
    arm({below, action: 'ENOSPC', at: 2});
    mkdirSync(join(below, '1'));
    assert.throws(() => mkdirSync(join(below, '2')), {code: 'ENOSPC', syscall: 'mkdir', path: join(below, '2')});
    mkdirSync(join(below, '3'));
    assert.deepEqual(readdirSync(below), ['1', '3']);
    arm({below, action: 'EIO', at: 2, lasting: true});
    mkdirSync(join(below, '4'));
    for (const name of ['5', '6']) assert.throws(() => mkdirSync(join(below, name)), {code: 'EIO'});
    assert.deepEqual(disarm(), {calls: 3, failures: 2});
  });

  it('kill a process at the call, before it is done, or in the middle of a write', async (t) => {
    const below = temporaryDirectory(t);
    const code = `
      const fs = require('node:fs');
      const fd = fs.openSync(args[0] + '/file', 'a');
      fs.writeSync(fd, 'first ');
      fs.writeSync(fd, 'second');
      fs.writeFileSync(args[0] + '/another', '12345678');
      fs.writeFileSync(args[0] + '/last', '');`;
    const run = async (at: number, torn = false) => {
      for (const name of readdirSync(below)) renameSync(join(below, name), join(temporaryDirectory(t), name));
      const {status, signal} = await startScript(t, code, [below], failpointOptions({below, action: 'kill', at, torn})).done;
      return [status ?? signal, ...readdirSync(below).map((name) => `${name}: ${readFileSync(join(below, name), 'utf8')}`)];
    };
    assert.deepEqual(await run(1), ['SIGKILL']);
    assert.deepEqual(await run(3), ['SIGKILL', 'file: first ']);
    assert.deepEqual(await run(3, true), ['SIGKILL', 'file: first sec']);
    assert.deepEqual(await run(4, true), ['SIGKILL', 'another: 1234', 'file: first second']);
    assert.deepEqual(await run(5), ['SIGKILL', 'another: 12345678', 'file: first second']);
    assert.deepEqual(await run(6), [0, 'another: 12345678', 'file: first second', 'last: ']);
  });

  it('count on in worker threads, and count programs that are given a path', async (t) => {
    const below = temporaryDirectory(t);
    const beside = temporaryDirectory(t);
    const log = join(beside, 'log');
    writeFileSync(join(beside, 'worker.mjs'), "import {mkdirSync} from 'node:fs'; mkdirSync(process.argv[2] + '/worker');");
    const code = `
      const {Worker} = require('node:worker_threads');
      const {once} = require('node:events');
      require('node:fs').mkdirSync(args[0] + '/main');
      require('node:child_process').spawnSync('true', [args[0] + '/x']);
      require('node:child_process').spawnSync('true', ['elsewhere']);
      const worker = new Worker(args[1], {argv: [args[0]]});
      await once(worker, 'exit');
      require('node:fs').mkdirSync(args[0] + '/last');`;
    const {status, stderr} = await startScript(
      t,
      code,
      [below, join(beside, 'worker.mjs')],
      failpointOptions({below, action: 'EIO', at: 4}, log),
    ).done;
    assert.equal(status, 1, stderr);
    assert.deepEqual(readdirSync(below), ['main', 'worker']);
    assert.deepEqual(readFileSync(log, 'utf8').split('\n'), [
      '1 mkdirSync /main',
      '2 spawnSync /x',
      '3 mkdirSync /worker',
      '4 mkdirSync /last',
      '',
    ]);
  });
});
