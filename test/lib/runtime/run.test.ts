import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import {hostname} from 'node:os';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import type {Code, ErrdefsError} from '../../../src/lib/errdefs.ts';
import type {SpecRequest} from '../../../src/lib/runtime/resolve-spec.ts';
import {is, onEnd, requiresProgram, slow} from '../../support/helpers.ts';
import {ENGINES, eventually, initPid, NODE, newHarness, OWN, type RunHarness, requiresRuntime, watch} from './run-harness.ts';

const sh = (script: string): SpecRequest['options'] => ({args: ['sh', '-c', script]});

/** For `assert.rejects`: class, and the status that a command line gives. */
const fails =
  (code: Code, runExit: number) =>
  (err: unknown): boolean => {
    assert.equal((err as ErrdefsError).details?.runExit, runExit, String(err));
    return is(code)(err);
  };

/** The host's path of a file of the container's memory or cpu cgroup, whichever version this machine has. */
const cgroupFile = (harness: RunHarness, controller: string, v1: string, v2: string): string => {
  const old = join('/sys/fs/cgroup', controller, harness.cgroup, `c${OWN}`, v1);
  return existsSync(old) ? old : join('/sys/fs/cgroup', harness.cgroup, `c${OWN}`, v2);
};

describe('a run passes on', () => {
  for (const status of [0, 1, 7, 125, 255])
    it(`status ${status}`, async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      assert.equal((await harness.run(sh(`exit ${status}`))).exitStatus, status);
      await harness.assertNothingLeft();
    });

  it('what is written, and standard input to its end', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const input = 'line\n'.repeat(100_000);
    const {stdout, stderr} = await harness.run(sh('cat; echo done >&2'), {input});
    assert.equal(stdout, input);
    assert.equal(stderr, 'done\n');
  });

  for (const signal of ['SIGKILL', 'SIGTERM'] as const)
    it(`the signal that ended it: ${signal}`, async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      const pidFile = join(harness.dir, 'pid');
      // The first process of a container dies of no signal but SIGKILL unless it asks to.
      const run = harness.run(sh("trap 'exit 143' TERM; while :; do sleep 0.1; done"), {pidFile});
      const pid = Number(await eventually('pid file', () => existsSync(pidFile) && readFileSync(pidFile, 'utf8')));
      await delay(200);
      process.kill(pid, signal);
      assert.equal((await run).exitStatus, signal === 'SIGKILL' ? 137 : 143);
      await harness.assertNothingLeft();
    });
});

describe('a run that cannot be', () => {
  /** What each puts into the tree, asks for, and gets. */
  const cases: Readonly<Record<string, readonly [Code, number, SpecRequest['options'], ((harness: RunHarness) => void)?]>> = {
    'no such command': ['not_found', 127, {args: ['nothing']}],
    'no such path': ['not_found', 127, {args: ['/bin/nothing']}],
    'no such relative path': ['not_found', 127, {args: ['./sh'], cwd: '/etc'}],
    'a path through a file': ['not_found', 127, {args: ['/etc/passwd/x']}],
    'a script without its interpreter': ['not_found', 127, {args: ['/script']}, (harness) => script(harness, '#!/bin/nothing -x\n')],
    'a script whose interpreter lacks its own': [
      'not_found',
      127,
      {args: ['/script']},
      (harness) => {
        script(harness, '#! /inner\n');
        writeFileSync(join(harness.lower, 'inner'), '#!/nothing\n', {mode: 0o755});
      },
    ],
    'a program without its loader': [
      'not_found',
      127,
      {args: ['/script']},
      (harness) => elf(harness, {machine: hostMachine, interpreter: '/lib/ld-none.so'}),
    ],
    'a directory': ['permission_denied', 126, {args: ['/bin']}],
    'a file that is not executable': ['permission_denied', 126, {args: ['/etc/passwd']}],
    'a script that is not executable': [
      'permission_denied',
      126,
      {args: ['/plain']},
      (harness) => writeFileSync(join(harness.lower, 'plain'), '#!/bin/sh\n'),
    ],
    'a file in PATH that is not executable': ['permission_denied', 126, {args: ['passwd'], env: ['PATH=/etc:/bin']}],
    'a format that the kernel does not know': ['permission_denied', 126, {args: ['/script']}, (harness) => script(harness, 'echo hello\n')],
    'an empty file': ['permission_denied', 126, {args: ['/script']}, (harness) => script(harness, '')],
    'a first line that names nothing': ['permission_denied', 126, {args: ['/script']}, (harness) => script(harness, '#! \n')],
    'a program of another machine': ['permission_denied', 126, {args: ['/script']}, (harness) => elf(harness, {machine: 0xf1f1})],
    'a circle of links': ['permission_denied', 126, {args: ['/loop']}, (harness) => symlinkSync('loop', join(harness.lower, 'loop'))],
    'a directory that is closed to the user': [
      'permission_denied',
      126,
      {args: ['/closed/sh'], user: 'guest', capDrop: ['ALL']},
      (harness) => {
        mkdirSync(join(harness.lower, 'closed'), {mode: 0o700});
        copyFileSync(join(harness.lower, 'bin/busybox'), join(harness.lower, 'closed/sh'));
      },
    ],
    'a NUL in an argument': ['invalid_argument', 126, {args: ['true', 'a\0b']}],
    'a NUL in the command': ['invalid_argument', 126, {args: ['tr\0ue']}],
    'a NUL in a variable': ['invalid_argument', 126, {args: ['true'], env: ['A=b\0c']}],
    'a NUL in the working directory': ['invalid_argument', 126, {args: ['true'], cwd: '/a\0b'}],
    'no such user': ['not_found', 125, {args: ['true'], user: 'nobody'}],
    'a user beyond all users': ['invalid_argument', 125, {args: ['true'], user: '4294967296'}],
    'a working directory that is a file': ['unknown', 125, {args: ['true'], cwd: '/etc/passwd'}],
    'a working directory that leads to /proc': [
      'invalid_argument',
      125,
      {args: ['true'], cwd: '/link/x'},
      (harness) => symlinkSync('/proc/self/fd/3/../..', join(harness.lower, 'link')),
    ],
  };
  const script = (harness: RunHarness, text: string): void => writeFileSync(join(harness.lower, 'script'), text, {mode: 0o755});
  const hostMachine = {x64: 62, arm64: 183}[process.arch as string] ?? 0;
  function elf(harness: RunHarness, {machine, interpreter}: {machine: number; interpreter?: string}): void {
    const file = Buffer.alloc(300);
    file.write('\x7fELF\x02\x01\x01', 'latin1');
    file.writeUInt16LE(2, 16);
    file.writeUInt16LE(machine, 18);
    file.writeBigUInt64LE(64n, 32);
    file.writeUInt16LE(56, 54);
    file.writeUInt16LE(interpreter === undefined ? 0 : 1, 56);
    if (interpreter !== undefined) {
      file.writeUInt32LE(3, 64);
      file.writeBigUInt64LE(200n, 64 + 8);
      file.writeBigUInt64LE(BigInt(interpreter.length + 1), 64 + 32);
      file.write(interpreter, 200);
    }
    writeFileSync(join(harness.lower, 'script'), file, {mode: 0o755});
  }

  for (const [name, [code, runExit, options, arrange]] of Object.entries(cases))
    it(`ends with ${runExit}: ${name}`, async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      arrange?.(harness);
      await assert.rejects(harness.run(options), fails(code, runExit));
      await harness.assertNothingLeft();
    });

  it('is told before anything exists, where the options tell', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    await assert.rejects(harness.run({args: ['true'], cwd: '/proc/self/fd/8'}), is('invalid_argument'));
    await assert.rejects(harness.run({args: ['true'], envFiles: [join(harness.dir, 'none')]}), is('not_found'));
    const mounts = [{type: 'bind', source: join(harness.dir, 'none'), destination: '/x', options: []}];
    await assert.rejects(harness.run({args: ['true'], mounts}), is('not_found'));
    assert.deepEqual(readdirSync(harness.stateDir), []);
  });

  it('fails when it cannot be mounted', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const overlay = [{type: 'overlay', source: 'overlay', options: [`lowerdir=${harness.dir}/none:${harness.lower}`]}];
    await assert.rejects(harness.run({args: ['true']}, {mounts: overlay}), fails('failed_precondition', 125));
    const bind = [{type: 'bind', source: `${harness.dir}/none`, options: ['rbind', 'rw']}];
    await assert.rejects(harness.run({args: ['true']}, {mounts: bind}), fails('failed_precondition', 125));
    await harness.assertNothingLeft();
  });

  it('says which variable is too large for the kernel, and runs what just fits', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const PATH = 'PATH=/bin';
    /** One string may have 128 KiB with its end. */
    const longest = 131_071;
    const variable = (name: string, bytes: number): string => `${name}=${'x'.repeat(bytes - name.length - 1)}`;
    const command = {args: ['true']};
    assert.equal((await harness.run(command, {image: {Env: [PATH, variable('BIG', longest)]}})).exitStatus, 0);
    const image = {Env: [PATH, 'A=secret', variable('BIG', longest + 1)]};
    await assert.rejects(harness.run(command, {image}), (err: ErrdefsError) => {
      assert.match(err.message, /variable "BIG"/);
      assert.doesNotMatch(err.message, /secret|xxx/);
      assert.match(err.hint!, /--env BIG/);
      return fails('invalid_argument', 126)(err);
    });
    // As the hint says.
    assert.equal((await harness.run({...command, env: ['BIG']}, {image})).exitStatus, 0);
    await assert.rejects(harness.run({args: ['true', 'x'.repeat(longest + 1)]}), fails('invalid_argument', 126));
    // All of it: a quarter of the limit of the stack, 6 MiB at most. The answers on both sides of the edge are the kernel's.
    const many = Array.from({length: 100}, (_, n) => variable(`V${n}`, longest));
    await assert.rejects(harness.run(command, {image: {Env: [PATH, ...many]}}), fails('invalid_argument', 126));
    const stack = /^Max stack size\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))![1];
    const space = Math.min(stack === 'unlimited' ? Number.POSITIVE_INFINITY : Number(stack) / 4, 6 << 20);
    const fitting = many.slice(0, Math.floor((space - 4096) / (longest + 9)));
    assert.equal((await harness.run(command, {image: {Env: [PATH, ...fitting]}})).exitStatus, 0);
    await harness.assertNothingLeft();
  });

  it('fails without a runtime', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    await assert.rejects(harness.run({args: ['true']}, {runtime: 'no-such-runtime'}), fails('unavailable', 125));
  });

  it('fails when the pid file cannot be written, and does not run', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    await assert.rejects(harness.run(sh('touch /ran'), {pidFile: join(harness.dir, 'none/pid')}), fails('not_found', 125));
    assert.ok(!existsSync(join(harness.upper, 'ran')));
  });

  it('fails for a terminal that is not there', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    await assert.rejects(harness.run({args: ['true'], tty: true}, {tty: true}), fails('failed_precondition', 125));
    await harness.assertNothingLeft();
  });

  it('lets the caller stop it when the tree is there', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const makeSpec = async (): Promise<never> => {
      await delay(5);
      throw new Error('a bug');
    };
    await assert.rejects(harness.run({args: ['true']}, {makeSpec}), /^Error: a bug$/);
    await harness.assertNothingLeft();
  });
});

describe('a container', () => {
  it('sees its own tree and writes to its own layer', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const {stdout} = await harness.run(sh('echo new > /file; ls /; readlink /proc/self/exe'));
    assert.deepEqual(stdout.split('\n').slice(0, -1), ['bin', 'dev', 'etc', 'file', 'proc', 'run', 'sys', 'tmp', '/bin/busybox']);
    assert.equal(readFileSync(join(harness.upper, 'file'), 'utf8'), 'new\n');
    assert.ok(!existsSync(join(harness.lower, 'file')));
  });

  it('is invisible in the mounts of the machine, and knows no path of it', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const run = harness.run(harness.waiting('grep overlay /proc/self/mountinfo'));
    await initPid(harness);
    assert.ok(!readFileSync('/proc/self/mountinfo', 'utf8').includes(harness.dir));
    assert.deepEqual(readdirSync(join(harness.stateDir, 'bundles/c/bundle/rootfs')), []);
    harness.open();
    const {stdout} = await run;
    assert.match(stdout, /overlay/);
    assert.ok(!stdout.includes(harness.dir));
  });

  it('is invisible also where mounts are shared', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const shared = 'mount --bind "$1" "$1" && mount --make-shared "$1" && shift && exec "$@"';
    const argv = harness.argv(NODE, harness.waiting());
    const driven = watch(
      spawn('unshare', ['--mount', 'sh', '-c', shared, 'sh', harness.stateDir, ...argv], {stdio: ['ignore', 'pipe', 'pipe']}),
    );
    await initPid(harness);
    const mountinfo = readFileSync(`/proc/${driven.child.pid}/mountinfo`, 'utf8');
    harness.open();
    assert.equal((await driven.ended).status, 0);
    assert.match(mountinfo, new RegExp(`${harness.stateDir} .* shared:`));
    assert.ok(!mountinfo.includes(join(harness.stateDir, 'bundles')));
  });

  it('runs as the user by name, with its groups', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    assert.equal((await harness.run({args: ['id'], user: 'guest'})).stdout, 'uid=405(guest) gid=100(guest) groups=10(wheel),100(guest)\n');
    assert.equal((await harness.run({args: ['id', '-u']}, {image: {User: 'guest', Env: ['PATH=/bin']}})).stdout, '405\n');
  });

  it('is held to modes as its user and capabilities have it, root too', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const file = join(harness.lower, 'bin/busybox-own');
    copyFileSync(join(harness.lower, 'bin/busybox'), file);
    chownSync(file, 405, 0);
    chmodSync(file, 0o700);
    assert.equal((await harness.run({args: ['busybox-own', 'true'], user: 'guest', capDrop: ['ALL']})).exitStatus, 0);
    assert.equal((await harness.run({args: ['busybox-own', 'true']})).exitStatus, 0);
    await assert.rejects(harness.run({args: ['busybox-own', 'true'], capDrop: ['ALL']}), fails('permission_denied', 126));
  });

  it('has a working directory, made inside when the image has none', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    assert.equal((await harness.run({args: ['pwd'], cwd: '/new/deep'})).stdout, '/new/deep\n');
    assert.ok(statSync(join(harness.upper, 'new/deep')).isDirectory());
    assert.equal((await harness.run({args: ['./sh', '-c', 'pwd'], cwd: '/bin'})).stdout, '/bin\n');
  });

  it('cannot write to a read-only root', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    assert.equal((await harness.run({...sh('touch /file'), readOnly: true})).exitStatus, 1);
    assert.ok(!existsSync(join(harness.upper, 'file')));
  });

  it('passes over what is not executable in PATH', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    mkdirSync(join(harness.lower, 'first/id'), {recursive: true});
    writeFileSync(join(harness.lower, 'first/echo'), '#!/bin/false\n');
    const env = ['PATH=/none:relative::/etc/passwd:/first:/bin'];
    assert.equal((await harness.run({args: ['echo', 'found'], env})).stdout, 'found\n');
    assert.equal((await harness.run({args: ['id', '-u'], env})).stdout, '0\n');
  });

  it('finds its command in what is mounted', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const tools = join(harness.dir, 'tools');
    mkdirSync(tools);
    writeFileSync(join(tools, 'tool'), '#!/bin/sh\necho tool "$@"\n', {mode: 0o755});
    const mounts = [{type: 'bind', source: tools, destination: '/opt/tools', options: ['ro']}];
    assert.equal((await harness.run({args: ['tool', 'x'], env: ['PATH=/opt/tools:/bin'], mounts})).stdout, 'tool x\n');
    assert.equal((await harness.run({args: ['/opt/tools/tool'], mounts})).stdout, 'tool\n');
    await assert.rejects(harness.run({args: ['/opt/tools/none'], mounts}), fails('not_found', 127));
    // What the runtime alone can see is left to it.
    assert.equal((await harness.run({args: ['/proc/self/exe'], mounts})).exitStatus, 1);
  });

  it('has the environment, the files and the name that were asked for', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    writeFileSync(join(harness.dir, 'env'), '# comment\r\n\nA=file\nB=file\r\nC=file\n');
    const options = {args: ['env'], envFiles: [join(harness.dir, 'env')], env: ['B=env', 'C']};
    const {stdout} = await harness.run(options, {image: {Env: ['PATH=/bin', 'A=image', 'C=image']}});
    assert.deepEqual(stdout.split('\n').slice(0, 3), ['PATH=/bin', 'A=file', 'B=env']);
    assert.ok(!stdout.includes('C='));
    assert.equal((await harness.run({args: ['cat', '/proc/sys/kernel/hostname'], hostname: 'name'})).stdout, 'name\n');
  });

  it("shares the machine's network and its names", async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const {stdout} = await harness.run({...sh('cat /etc/resolv.conf; echo $HOSTNAME; readlink /proc/self/ns/net'), netHost: true});
    const net = execFileSync('readlink', ['/proc/self/ns/net'], {encoding: 'utf8'});
    assert.equal(stdout, `${readFileSync('/etc/resolv.conf', 'utf8')}${hostname()}\n${net}`);
  });

  it('is held to its limits', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const run = harness.run({...harness.waiting(), memoryLimit: 64 * 1024 * 1024, cpus: 0.5});
    await initPid(harness);
    const memory = readFileSync(cgroupFile(harness, 'memory', 'memory.limit_in_bytes', 'memory.max'), 'utf8');
    const cpu = readFileSync(cgroupFile(harness, 'cpu', 'cpu.cfs_quota_us', 'cpu.max'), 'utf8');
    harness.open();
    await run;
    assert.equal(memory.trim(), '67108864');
    assert.match(cpu, /^50000\b/);
  });

  it('has what a privileged one has', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const {stdout} = await harness.run({...sh('test -c /dev/kmsg && grep CapEff /proc/self/status'), privileged: true});
    assert.equal(stdout, `${/^CapEff.*$/m.exec(readFileSync('/proc/self/status', 'utf8'))![0]}\n`);
  });

  it('gets no capability that it was not given', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const {stdout} = await harness.run({args: ['grep', '^Cap', '/proc/self/status'], capDrop: ['ALL'], capAdd: ['CAP_CHOWN']});
    assert.deepEqual(
      [...stdout.matchAll(/^(\w+):\t0*([0-9a-f]+)$/gm)].map((match) => match.slice(1)),
      [
        ['CapInh', '0'],
        ['CapPrm', '1'],
        ['CapEff', '1'],
        ['CapBnd', '1'],
        ['CapAmb', '0'],
      ],
    );
  });
});

describe('mounts', () => {
  it('may be a directory, read-only or not', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const tree = (mode: string) => ({mounts: [{type: 'bind', source: harness.lower, options: ['rbind', mode]}]});
    assert.equal((await harness.run(sh('touch /file'), tree('ro'))).exitStatus, 1);
    assert.equal((await harness.run(sh('touch /file'), tree('rw'))).exitStatus, 0);
    assert.ok(existsSync(join(harness.lower, 'file')));
    await harness.assertNothingLeft();
  });

  it('may be an overlay of 127 layers at long paths', async (t) => {
    if (!requiresRuntime(t) || !slow(t)) return;
    const harness = newHarness(t);
    const layers = Array.from({length: 126}, (_, n) =>
      join(harness.dir, 'layers', `overlayfs-sha256-${'0'.repeat(60)}${n}`, 'fs, with: odd\\ name'),
    );
    for (const [n, layer] of layers.entries()) {
      mkdirSync(join(layer, 'n'), {recursive: true});
      writeFileSync(join(layer, 'n', String(n)), '');
    }
    const lowerdir = `lowerdir=${[...layers.map((layer) => layer.replaceAll(/[\\:]/g, '\\$&')), harness.lower].join(':')}`;
    const options = [...harness.mounts[0]!.options.slice(0, 2), lowerdir];
    assert.equal((await harness.run(sh('ls /n | wc -l'), {mounts: [{type: 'overlay', source: 'overlay', options}]})).stdout, '126\n');
    await harness.assertNothingLeft();
  });

  it('may be stacked: each but the last at a place of its own', async (t) => {
    if (!requiresRuntime(t) || !requiresProgram(t, 'mkfs.erofs', 'tar')) return;
    const harness = newHarness(t);
    for (const [n, dir] of [harness.lower, harness.upper].entries()) {
      writeFileSync(join(dir, `layer${n}`), `${n}\n`);
      execFileSync('tar', ['-C', dir, '-cf', join(harness.dir, `${n}.tar`), '.']);
      execFileSync('mkfs.erofs', ['--quiet', '--tar=i', '--aufs', join(harness.dir, `${n}.erofs`), join(harness.dir, `${n}.tar`)], {
        stdio: 'ignore',
      });
    }
    const layer = (n: number) => ({
      type: 'erofs',
      source: join(harness.dir, `${n}.erofs`),
      options: ['ro', `device=${join(harness.dir, `${n}.tar`)}`],
    });
    mkdirSync(join(harness.dir, 'up'));
    const overlay = {
      type: 'overlay',
      source: 'overlay',
      options: [`workdir=${harness.dir}/work`, `upperdir=${harness.dir}/up`, 'lowerdir={{ mount 1 }}:{{ mount 0 }}'],
    };
    assert.equal((await harness.run(sh('cat /layer0 /layer1'), {mounts: [layer(0), layer(1), overlay]})).stdout, '0\n1\n');
    await harness.assertNothingLeft();
  });

  it('need not reach the disk when the layer is thrown away', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    assert.match((await harness.run({args: ['cat', '/proc/self/mountinfo']}, {volatile: true})).stdout, /overlay.*\bvolatile\b/);
  });
});

describe('one ID', () => {
  it('runs once at a time', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const first = harness.run(harness.waiting('exit 3'));
    await initPid(harness);
    await assert.rejects(harness.run({args: ['true']}), fails('already_exists', 125));
    harness.open();
    assert.equal((await first).exitStatus, 3);
    assert.equal((await harness.run({args: ['true']})).exitStatus, 0);
    await harness.assertNothingLeft();
  });

  it('does not stand in the way of others: 20 at once', async (t) => {
    if (!requiresRuntime(t) || !slow(t)) return;
    const harness = newHarness(t);
    const runs = Array.from({length: 20}, (_, n) => {
      for (const part of ['upper', 'work']) mkdirSync(join(harness.dir, `${part}${n}`));
      const options = [`workdir=${harness.dir}/work${n}`, `upperdir=${harness.dir}/upper${n}`, `lowerdir=${harness.lower}`];
      return harness.run(sh(`echo ${n}; exit ${n}`), {id: `c${n}`, mounts: [{type: 'overlay', source: 'overlay', options}]});
    });
    assert.deepEqual(
      (await Promise.all(runs)).map(({exitStatus, stdout}) => [exitStatus, stdout]),
      runs.map((_, n) => [n, `${n}\n`]),
    );
    await harness.assertNothingLeft();
  });
});

describe('an aborted run', () => {
  it('is killed while it runs', async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const abort = new AbortController();
    const run = harness.run({args: ['sleep', '1000']}, {signal: abort.signal});
    await initPid(harness);
    abort.abort();
    await assert.rejects(run, fails('canceled', 125));
    await harness.assertNothingLeft();
  });

  for (const afterMs of [0, 5, 20, 40])
    it(`leaves nothing when it comes after ${afterMs} ms`, async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      const run = harness.run({args: ['sleep', '1000']}, {signal: AbortSignal.timeout(afterMs)});
      await assert.rejects(run, (err: ErrdefsError) => err.details?.runExit === 125 && is('canceled')(err));
      await harness.assertNothingLeft();
    });
});

for (const engine of ENGINES)
  describe(`on ${engine.name}, signals`, () => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const)
      it(`${signal} reaches the container once`, async (t) => {
        if (!requiresRuntime(t)) return;
        const harness = newHarness(t);
        const name = signal.slice(3);
        const driven = harness.drive(
          engine,
          sh(`trap 'echo got ${name}' ${name}; trap 'exit 9' WINCH ALRM; echo ready; while :; do sleep 0.1; done`),
        );
        await driven.expect(/ready/);
        driven.child.kill(signal);
        await driven.expect(new RegExp(`got ${name}`));
        await delay(300);
        driven.child.kill('SIGALRM');
        assert.deepEqual(await driven.ended, {status: 9, signal: null});
        assert.equal(driven.output().match(/got/g)?.length, 1);
        await harness.assertNothingLeft();
      });

    it('that come before the container runs end the run', async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      const driven = harness.drive(engine, sh("trap 'exit 143' TERM; while :; do sleep 0.1; done"));
      await eventually('bundle', () => existsSync(join(harness.stateDir, 'bundles/c')));
      driven.child.kill('SIGTERM');
      // Where the container was faster after all, a first process without a handler yet takes no notice of it.
      const again = setInterval(() => driven.child.kill('SIGTERM'), 500);
      onEnd(t, () => clearInterval(again));
      assert.deepEqual(await driven.ended, {status: 143, signal: null});
      await harness.assertNothingLeft();
    });

    it('are held back until the container can take them', async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      const driven = harness.drive(engine, sh("trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done"));
      await eventually('bundle', () => existsSync(join(harness.stateDir, 'bundles/c')));
      while (!/ready/.test(driven.output())) {
        driven.child.kill('SIGUSR1');
        await delay(5);
      }
      driven.child.kill('SIGUSR1');
      assert.deepEqual(await driven.ended, {status: 9, signal: null});
      await harness.assertNothingLeft();
    });

    it('start with their defaults, and only the standard streams are open', async (t) => {
      if (!requiresRuntime(t)) return;
      const harness = newHarness(t);
      const extra = ['ignore', 'pipe', 'pipe', 'ignore', 'ignore', 'pipe'] as const;
      const driven = harness.drive(engine, sh('grep ^Sig[BI] /proc/self/status; ls /proc/1/fd; exit 5'), {}, [...extra]);
      assert.deepEqual(await driven.ended, {status: 5, signal: null}, driven.output());
      const zero = '0'.repeat(16);
      assert.equal(driven.output(), `SigBlk:\t${zero}\nSigIgn:\t${zero}\n0\n1\n2\n`);
    });
  });

for (const engine of ENGINES)
  it(`on ${engine.name}, a mount that fails is told in its own words, and nothing is left`, async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const mounts = [{type: 'overlay', source: 'overlay', options: [`lowerdir=${harness.dir}/none:${harness.lower}`]}];
    for (let n = 0; n < 4; n++) {
      const driven = harness.drive(engine, {args: ['true']}, {mounts});
      assert.equal((await driven.ended).status, 125);
      assert.match(driven.output(), /^driver: container "c": unable to mount: mount: [^\n]+: failed precondition\n$/);
    }
    await harness.assertNothingLeft();
  });

describe('a pid file', () => {
  it("holds the machine's pid of the container's first process", async (t) => {
    if (!requiresRuntime(t)) return;
    const harness = newHarness(t);
    const pidFile = join(harness.dir, 'pid');
    writeFileSync(pidFile, 'old');
    const driven = harness.drive(NODE, harness.waiting(), {pidFile});
    const pid = await eventually('pid', () => /^\d+$/.exec(readFileSync(pidFile, 'utf8'))?.[0]);
    assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), new RegExp(`^NSpid:\\t${pid}\\t1$`, 'm'));
    harness.open();
    assert.equal((await driven.ended).status, 0);
    assert.deepEqual(
      readdirSync(harness.dir).filter((name) => name.startsWith('.pid')),
      [],
    );
  });
});
