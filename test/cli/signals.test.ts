/** Commands that a signal or a timeout ends, bugs outside of commands, passwords at the terminal, and slow or closed readers. */
import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import {once} from 'node:events';
import {closeSync, constants, openSync, readSync, writeFileSync} from 'node:fs';
import {createServer, type Server} from 'node:http';
import type {AddressInfo} from 'node:net';
import {join} from 'node:path';
import {after, before, it} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {hasWaiters, otherProcess} from '../support/held-lock.ts';
import {requiresProgram, temporaryDirectory} from '../support/helpers.ts';
import {addImage, setTarget} from '../support/layouts.ts';
import {file, tar} from '../support/tartest.ts';
import {commandLine, environment, forEachEngine, root} from './harness.ts';
import {onTerminal} from './terminal.ts';

const ctr = join(root, 'bin/ctr');

/** A registry that takes a request and never answers. */
let silent: Server;
let ref: string;
before(async () => {
  silent = createServer(() => {});
  silent.listen(0, '127.0.0.1');
  await once(silent, 'listening');
  ref = `127.0.0.1:${(silent.address() as AddressInfo).port}/x:latest`;
});
after(() => {
  silent.closeAllConnections();
  silent.close();
});

forEachEngine('a command that is interrupted', (engine) => {
  for (const [signal, status] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)
    it(`by ${signal} prints one line and ends by that signal, which a shell shows as ${status}`, async (t) => {
      const {env} = commandLine(t, engine);
      const requested = once(silent, 'request');
      const child = spawn(ctr, ['pull', '--plain-http', ref], {env: {...environment(), ...env}, stdio: ['ignore', 'ignore', 'pipe']});
      let stderr = '';
      child.stderr.on('data', (chunk: Buffer) => {
        stderr += chunk.toString();
      });
      await requested;
      child.kill(signal);
      const [code, by] = await once(child, 'close');
      assert.deepEqual([code, by], [null, signal]);
      assert.match(stderr.split('\n').at(-2)!, new RegExp(`^ctr: .*interrupted by ${signal}: canceled$`));
    });

  it('while another process has the lock of the store ends by the signal', async (t) => {
    const call = commandLine(t, engine);
    const layout = join(temporaryDirectory(t), 'layout');
    setTarget(layout, addImage(layout, {layers: [tar(file('f', 'x'))]}));
    await call.ok(['images', 'import', '--no-unpack', '--base-name', 'app', layout]);
    const lock = join(call.env.BERTH_ROOT!, 'locks/store');
    const give = otherProcess(t).take(lock);
    assert.ok(give);
    const commands = [
      ['images', 'import', '--no-unpack', '--progress', 'none', '--base-name', 'other', layout],
      ['images', 'rm', 'app:latest'],
      ['images', 'tag', 'app:latest', 'other'],
      ['namespaces', 'create', 'new'],
      ['leases', 'create'],
      ['gc'],
    ];
    for (const args of commands) {
      const child = spawn(ctr, ['--lock-timeout', '1m', ...args], {env: {...environment(), ...call.env}, stdio: 'ignore'});
      const ended = once(child, 'close');
      while (child.exitCode === null && !hasWaiters(lock, child.pid)) await sleep(5);
      const began = performance.now();
      child.kill('SIGINT');
      assert.deepEqual(await ended, [null, 'SIGINT'], args.join(' '));
      assert.ok(performance.now() - began < 3000, `${args.join(' ')}: ${performance.now() - began} ms`);
    }
    give();
    assert.deepEqual((await call.ok(['images', 'ls', '-q'])).split('\n').slice(0, -1), ['docker.io/library/app:latest']);
  });

  it('by --timeout ends with 4', async (t) => {
    const {status, stderr} = await commandLine(t, engine)(['pull', '--timeout', '300ms', '--plain-http', '--progress', 'none', ref]);
    assert.deepEqual([status, /^ctr: .*not done after 300 ms: deadline exceeded\n$/.test(stderr)], [4, true], stderr);
  });

  it('while it waits for input ends by the signal too', async (t) => {
    const {env} = commandLine(t, engine);
    const child = spawn(ctr, ['content', 'ingest', 'k'], {env: {...environment(), ...env}, stdio: ['pipe', 'ignore', 'ignore']});
    child.stdin.write('some');
    await sleep(500);
    child.kill('SIGINT');
    const [, by] = await once(child, 'close');
    assert.equal(by, 'SIGINT');
  });

  it('on a terminal restores the terminal', async (t) => {
    if (!requiresProgram(t, 'script')) return;
    const requested = once(silent, 'request');
    const terminal = onTerminal(ctr, ['pull', '--plain-http', ref], {env: commandLine(t, engine).env});
    await requested;
    await terminal.expect(/resolving/);
    assert.ok(!terminal.screen.cursorVisible);
    terminal.type('\x03');
    assert.equal(await terminal.ended, 130);
    assert.deepEqual([terminal.screen.cursorVisible, terminal.screen.wraps], [true, true]);
  });
});

forEachEngine('a bug outside of the command', (engine) => {
  for (const [kind, code] of [
    ['an exception', "throw new TypeError('boom')"],
    ['a rejection', "void Promise.reject(new TypeError('boom'))"],
  ] as const)
    it(`is reported as a bug: ${kind}`, async (t) => {
      const preload = join(temporaryDirectory(t), 'preload.mjs');
      // Not before the program has begun to look out for it.
      writeFileSync(
        preload,
        `const timer = setInterval(() => { if (process.listenerCount('unhandledRejection') > 0) { clearInterval(timer); ${code}; } }, 10);\n`,
      );
      const {status, stderr} = await commandLine(t, engine)(['pull', '--progress', 'none', '--plain-http', ref], {
        env: engine === 'node' ? {NODE_OPTIONS: `--import=${preload}`} : {BUN_OPTIONS: `--preload ${preload}`},
      });
      assert.deepEqual([status, stderr], [1, 'ctr: boom: this is a bug\nhint: run it again with --debug and report the stack\n']);
    });
});

forEachEngine('the password prompt', (engine) => {
  it('comes after one for the user name, which is shown, where login is given none', async (t) => {
    if (!requiresProgram(t, 'script')) return;
    const terminal = onTerminal(ctr, ['login', '--plain-http', '--authfile', join(temporaryDirectory(t), 'auth.json'), '127.0.0.1:1'], {
      env: commandLine(t, engine).env,
    });
    await terminal.expect(/^Username: /);
    terminal.type('bob\r');
    await terminal.expect(/^Password: /);
    terminal.type('secret\r');
    assert.equal(await terminal.ended, 14);
    assert.match(terminal.output(), /bob\r+\nPassword: /);
    assert.doesNotMatch(terminal.output(), /secret/);
  });
  it('does not echo the password', async (t) => {
    if (!requiresProgram(t, 'script')) return;
    const terminal = onTerminal(ctr, ['--timeout', '2s', 'pull', '--plain-http', '-u', 'bob', ref], {env: commandLine(t, engine).env});
    await terminal.expect(/^Password: /);
    terminal.type('secret\r');
    await terminal.expect(/resolving/);
    await terminal.ended;
    assert.doesNotMatch(terminal.output(), /secret/);
  });
  for (const [key, typed] of [
    ['Ctrl-C', '\x03'],
    ['Ctrl-D', '\x04'],
  ] as const)
    it(`${key} ends the command`, async (t) => {
      if (!requiresProgram(t, 'script')) return;
      const terminal = onTerminal(ctr, ['pull', '--plain-http', '-u', 'bob', ref], {env: commandLine(t, engine).env});
      await terminal.expect(/^Password: /);
      terminal.type(typed);
      assert.equal(await terminal.ended, 130);
      assert.match(terminal.output(), /\r\nctr: password: canceled\r\n/);
    });
  it('is an error without a terminal', async (t) => {
    const {status, stderr} = await commandLine(t, engine)(['pull', '--plain-http', '-u', 'bob', ref]);
    assert.equal(status, 3);
    assert.match(
      stderr,
      /^ctr: no password for user "bob" .*: invalid argument\nhint: write it to standard input and add --password-stdin/,
    );
  });
});

forEachEngine('a reader', (engine) => {
  it('that has closed the pipe ends the command quietly, as by SIGPIPE', async (t) => {
    const {env} = commandLine(t, engine);
    const fifo = join(temporaryDirectory(t), 'fifo');
    execFileSync('mkfifo', [fifo]);
    const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    const writer = openSync(fifo, constants.O_WRONLY);
    closeSync(reader);
    const shell = `{ '${ctr}' --help; echo $? >&3; } 3>&2 2>&4`;
    const child = spawn('sh', ['-c', shell], {env: {...environment(), ...env}, stdio: ['ignore', writer, 'pipe', 'ignore', 'pipe']});
    closeSync(writer);
    let [status, stderr] = ['', ''];
    child.stderr!.on('data', (chunk: Buffer) => {
      status += chunk.toString();
    });
    child.stdio[4]!.on('data', (chunk: Buffer) => {
      stderr += chunk.toString();
    });
    await once(child, 'close');
    assert.deepEqual([status, stderr], ['141\n', '']);
  });

  const blob = randomBytes(3 << 20);

  it('gets every byte of a blob from standard input', async (t) => {
    const call = commandLine(t, engine);
    const digest = (await call.ok(['content', 'ingest', 'k'], {input: blob})).trim();
    const child = spawn(ctr, ['content', 'get', digest], {env: {...environment(), ...call.env}, stdio: ['ignore', 'pipe', 'inherit']});
    const chunks: Buffer[] = [];
    for await (const chunk of child.stdout) chunks.push(chunk as Buffer);
    assert.ok(Buffer.concat(chunks).equals(blob));
  });

  it('that is slow gets every byte of a non-blocking pipe too', async (t) => {
    if (!requiresProgram(t, 'mkfifo')) return;
    const call = commandLine(t, engine);
    const digest = (await call.ok(['content', 'ingest', 'k'], {input: blob})).trim();
    const fifo = join(temporaryDirectory(t), 'fifo');
    execFileSync('mkfifo', [fifo]);
    const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    const writer = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
    const child = spawn(ctr, ['content', 'get', digest], {env: {...environment(), ...call.env}, stdio: ['ignore', writer, 'inherit']});
    closeSync(writer);
    const got: Buffer[] = [];
    const buffer = Buffer.alloc(64 << 10);
    for (let ended = false; !ended; ) {
      try {
        const n = readSync(reader, buffer);
        got.push(Buffer.from(buffer.subarray(0, n)));
        ended = n === 0;
      } catch (err) {
        assert.equal((err as NodeJS.ErrnoException).code, 'EAGAIN');
        await sleep(5);
      }
    }
    closeSync(reader);
    assert.equal(child.exitCode ?? (await once(child, 'exit'))[0], 0);
    assert.ok(Buffer.concat(got).equals(blob));
  });
});
