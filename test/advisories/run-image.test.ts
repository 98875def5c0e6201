/**
 * Published attacks by an image's config, by the command: pulls from a registry and runs, with a canary beside the store. `run-*.test.ts`
 * have the details. README.md of this directory says which attacks are elsewhere, or nowhere.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {mkdirSync, readdirSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {it, type TestContext} from 'node:test';
import type {Engine, Result} from '../cli/harness.ts';
import {findProgram, requiresProgram, temporaryDirectory} from '../support/helpers.ts';
import {dir, fifo, file, symlink, type TarEntry} from '../support/tartest.ts';
import {type AttackSetup, describeOnEngines, setUpAttack} from './hostile-registry.ts';

const ACCOUNTS = [
  dir('etc'),
  file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\nguest:x:1000:100::/home:/bin/sh\n'),
  file('etc/group', 'root:x:0:\nwheel:x:10:root,guest\nusers:x:100:\n'),
];
const APPLETS = ['sh', 'cat', 'id', 'grep', 'env', 'pwd', 'ls', 'echo', 'head', 'touch', 'true'];

interface Running extends AttackSetup {
  /** Pulls an image with busybox and these entries, and runs a command in it. */
  run(entries: readonly TarEntry[], config: object, command: readonly string[], flags?: readonly string[]): Promise<Result>;
}

async function open(t: TestContext, engine: Engine): Promise<Running | undefined> {
  if (!requiresProgram(t, 'runc', 'unshare', 'mount', 'busybox')) return undefined;
  const attack = await setUpAttack(t, engine);
  if (attack === undefined) return undefined;
  const busybox = readFileSync(findProgram('busybox')!);
  const base = [
    dir('bin'),
    file('bin/busybox', busybox, 0o755),
    ...APPLETS.map((name) => symlink('busybox', `bin/${name}`)),
    dir('tmp', 0o1777),
  ];
  let runs = 0;
  return {
    ...attack,
    run: async (entries, config, command, flags = []) => {
      const ref = attack.publish([[...base, ...entries]], {config: {Env: ['PATH=/bin'], ...config}});
      await attack.harmless(ref);
      const result = await attack.ctr(['run', '--rm', '--snapshotter', 'overlayfs', ...flags, ref, `c${++runs}`, ...command], {
        cwd: attack.outside,
        env: {CANARY_SECRET: 'canary-secret'},
      });
      await attack.assertUnharmed();
      return result;
    },
  };
}

/** Asserts that the container did not start, and that the error is one line. */
function notRun({status, stdout, stderr}: Result, message: RegExp): void {
  assert.equal(status, 125, stdout + stderr);
  assert.equal(stdout, '');
  assert.match(stderr, message);
  assert.doesNotMatch(stderr, /\n\s+at /);
}

describeOnEngines('an image', (engine) => {
  it('CVE-2019-5736: cannot overwrite the runtime by way of /proc/self/exe', async (t) => {
    const victim = await open(t, engine);
    if (victim === undefined) return;
    const fingerprint = (): string =>
      createHash('sha256')
        .update(readFileSync(findProgram('runc')!))
        .digest('hex');
    const before = fingerprint();
    const attack = '#!/bin/sh\nfor exe in /proc/[0-9]*/exe; do echo overwritten > $exe; done 2> /dev/null\nexit 0\n';
    const entries = [file('bin/self', '#!/proc/self/exe\n', 0o755), file('bin/attack', attack, 0o755)];
    for (const command of ['self', '/proc/self/exe', 'attack']) await victim.run(entries, {}, [command]);
    assert.equal(fingerprint(), before);
  });

  it('CVE-2021-30465: a link at a mount point does not lead outside', async (t) => {
    const victim = await open(t, engine);
    if (victim === undefined) return;
    const volume = join(temporaryDirectory(t), 'volume');
    mkdirSync(volume);
    writeFileSync(join(volume, 'file'), 'volume\n');
    const entries = [symlink(victim.outside, 'absolute'), symlink('../../../../../../..', 'up')];
    for (const destination of ['/absolute/dir', `/up${victim.outside}/dir`]) {
      const {status, stdout} = await victim.run(
        entries,
        {},
        ['cat', `${destination}/file`],
        ['--mount', `type=bind,src=${volume},dst=${destination},options=rbind:ro`],
      );
      assert.deepEqual([status, stdout], [0, 'volume\n'], destination);
    }
  });

  for (const directory of ['/proc/self/fd/8', '/proc/self/fd/8/../../..', '/link', 'link'])
    it(`CVE-2024-21626: its working directory cannot be a descriptor: ${directory}`, async (t) => {
      const victim = await open(t, engine);
      if (victim === undefined) return;
      notRun(await victim.run([symlink('/proc/self/fd/8', 'link')], {WorkingDir: directory}, ['pwd']), /working directory|WorkingDir|cwd/i);
    });

  it('CVE-2026-55686: its working directory is created inside, in spite of links', async (t) => {
    const victim = await open(t, engine);
    if (victim === undefined) return;
    const entries = [symlink(victim.outside, 'absolute'), symlink('../../../../../../..', 'up')];
    for (const directory of ['/absolute/made', `/up${victim.outside}/made`]) await victim.run(entries, {WorkingDir: directory}, ['pwd']);
    assert.deepEqual(readdirSync(victim.outside).sort(), ['canary', 'dir']);
  });

  it('CVE-2022-23648: a volume path that leads outside copies nothing', async (t) => {
    const victim = await open(t, engine);
    if (victim === undefined) return;
    const volumes = {[`/../../../../../../..${victim.outside}`]: {}, '/../../etc': {}};
    const {status, stdout, stderr} = await victim.run([symlink('..', 'up')], {Volumes: volumes}, ['ls', '/etc', victim.outside]);
    assert.doesNotMatch(stdout + stderr, /canary\n/);
    assert.notEqual(status, 125);
  });

  it('CVE-2022-24769: inherits no capability, and gains none', async (t) => {
    const victim = await open(t, engine);
    if (victim === undefined) return;
    const {stdout} = await victim.run([], {}, ['grep', '-E', 'Cap(Inh|Amb)|NoNewPrivs', '/proc/self/status']);
    assert.equal(stdout, `CapInh:\t${'0'.repeat(16)}\nCapAmb:\t${'0'.repeat(16)}\nNoNewPrivs:\t1\n`);
  });

  it('CVE-2023-25173: has its primary group among the supplementary ones', async (t) => {
    const victim = await open(t, engine);
    if (victim === undefined) return;
    const {stdout} = await victim.run(ACCOUNTS, {User: 'guest'}, ['grep', 'Groups', '/proc/self/status']);
    assert.match(stdout, /^Groups:\s*10 100\s*$/);
  });

  for (const user of ['4294967296', '2147483648', '-1', '0:4294967296'])
    it(`CVE-2024-40635, CVE-2026-46680: does not become root as ${user}`, async (t) => {
      const victim = await open(t, engine);
      if (victim === undefined) return;
      const entries = [dir('etc'), file('etc/passwd', `${user}:x:0:0::/:/bin/sh\n`), file('etc/group', '')];
      notRun(await victim.run(entries, {User: user}, ['id']), /invalid argument/);
    });

  it('CVE-2026-46680: a numeric user is not looked up as a name', async (t) => {
    const victim = await open(t, engine);
    if (victim === undefined) return;
    const entries = [dir('etc'), file('etc/passwd', '1000:x:0:0::/:/bin/sh\n')];
    assert.equal((await victim.run(entries, {User: '1000'}, ['id', '-u'])).stdout, '1000\n');
  });

  for (const [name, entry] of [
    ['a link to a file of the machine', (outside: string) => symlink(join(outside, '../accounts'), 'etc/passwd')],
    ['a link by way of /proc', (outside: string) => symlink(`/proc/self/root${join(outside, '../accounts')}`, 'etc/passwd')],
    ['a pipe', () => fifo('etc/passwd')],
  ] as const)
    it(`CVE-2024-9676: its accounts are not read through ${name}`, async (t) => {
      const victim = await open(t, engine);
      if (victim === undefined) return;
      writeFileSync(join(victim.outside, '../accounts'), 'victim:x:7:7::/:/bin/sh\n');
      notRun(await victim.run([dir('etc'), entry(victim.outside)], {User: 'victim'}, ['id']), /not found|failed precondition/);
    });

  it("CVE-2026-57231: a variable without a value does not take the host's", async (t) => {
    const victim = await open(t, engine);
    if (victim === undefined) return;
    const {stdout} = await victim.run([], {Env: ['PATH=/bin', 'CANARY_SECRET', 'BERTH_ROOT']}, ['env']);
    assert.doesNotMatch(stdout, /CANARY|canary|BERTH/);
  });

  it('CVE-2026-53488: its labels are not applied to containers, images or other records', async (t) => {
    const victim = await open(t, engine);
    if (victim === undefined) return;
    const Labels = {
      'containerd.io/gc.root': '1',
      'containerd.io/gc.ref.content.x': `sha256:${'0'.repeat(64)}`,
      'berth/owner': '1',
      'containerd.io/defaults/snapshotter': 'native',
    };
    const ref = victim.publish([[file('f')]], {config: {Labels}});
    await victim.harmless(ref);
    for (const list of ['images', 'content', 'snapshots', 'leases', 'namespaces'] as const) {
      const text = await victim.ctr.ok([list, 'ls', '--json']);
      for (const label of ['containerd.io/gc.root', 'gc.ref.content.x', 'berth/owner', 'defaults/snapshotter'])
        assert.ok(!text.includes(label), `${list}: ${label}`);
    }
    await victim.ctr.ok(['images', 'rm', ref]);
    assert.equal(await victim.ctr.ok(['content', 'ls', '-q']), '', 'nothing keeps itself');
  });

  it('CVE-2024-25621: other users cannot read its state', async (t) => {
    const victim = await open(t, engine);
    if (victim === undefined) return;
    await victim.run([file('bin/suid', 'x', 0o4755)], {}, ['true']);
    const {BERTH_STATE: state = ''} = victim.ctr.env;
    for (const base of [victim.root, state])
      for (const name of readdirSync(base)) {
        const stat = statSync(join(base, name));
        if (stat.isDirectory()) assert.equal(stat.mode & 0o077, 0, join(base, name));
      }
    const readable = execFileSync('find', [join(victim.root, 'content'), '-maxdepth', '1', '-perm', '/077', '-type', 'd'], {
      encoding: 'utf8',
    });
    assert.equal(readable, '');
  });

  it('CVE-2025-31133, CVE-2025-52881: masked paths stay masked if the image has its own /dev/null', async (t) => {
    const victim = await open(t, engine);
    if (victim === undefined) return;
    const script = [
      'for f in kcore keys timer_list; do test -s /proc/$f && echo readable $f; done',
      'for f in /proc/sys/kernel/hostname /proc/sysrq-trigger; do (echo x > $f) 2> /tmp/err && echo writable $f; done; true',
    ].join('\n');
    const {status, stdout} = await victim.run([dir('dev'), file('dev/null', 'not null')], {}, ['sh', '-c', script]);
    assert.deepEqual([status, stdout], [0, '']);
  });
});
