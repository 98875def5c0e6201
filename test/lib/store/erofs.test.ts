/** mkfs.erofs reads what anybody may have written: what it is given, and what it is not. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {
  EROFS_IMAGE,
  EROFS_INDEX,
  EROFS_TAR,
  findTar,
  indexedUsage,
  indexTar,
  isSameIndex,
  probeErofs,
} from '../../../src/lib/store/erofs.ts';
import {findProgram, is, onEnd, requiresProgram, requiresRoot, temporaryDirectory} from '../../helpers.ts';
import {dir, file, tar} from '../../tartest.ts';
import {ENGINES} from '../runtime/rig.ts';

const O_CLOEXEC = 0o2000000;
const LAYER = tar(dir('d'), file('d/f', 'x'.repeat(10_000)), file('g', 'y'));
/** What this process was itself started with beyond the standard streams, Node hands down. */
const INHERITED = readdirSync('/proc/self/fd')
  .map(Number)
  .filter((fd) => fd > 3 && isHandedDown(fd));

function isHandedDown(fd: number): boolean {
  try {
    const flags = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))![1]!;
    return (Number.parseInt(flags, 8) & O_CLOEXEC) === 0;
  } catch {
    return false; // it was the listing's
  }
}

const canIndex = (t: TestContext): boolean => requiresRoot(t) && requiresProgram(t, 'mkfs.erofs', 'prlimit', 'setpriv');

function layer(t: TestContext): string {
  const directory = join(temporaryDirectory(t), 'layer');
  mkdirSync(directory);
  writeFileSync(join(directory, EROFS_TAR), LAYER, {mode: 0o600});
  return directory;
}

/** A directory, open to all, with a script that stands in for mkfs.erofs. `$out` in it is a directory that it may write to. */
function standIn(t: TestContext, script: string): {readonly bin: string; readonly out: string} {
  const bin = temporaryDirectory(t);
  const out = join(bin, 'out');
  mkdirSync(out);
  chmodSync(bin, 0o755);
  chmodSync(out, 0o777);
  writeFileSync(join(bin, 'mkfs.erofs'), `#!/bin/sh\nout='${out}'\n${script}\n`, {mode: 0o755});
  return {bin, out};
}

/** Indexes in a process of its own, in which `bin` comes first. @returns what it says */
function indexWith(engine: readonly [string, ...string[]], bin: string, directory: string, further: boolean): string {
  const program = join(directory, '../index.mts');
  const source = new URL('../../../src/lib/store/erofs.ts', import.meta.url).href;
  const more = further ? ', {at: 11264, bytes: Buffer.alloc(1024)}' : '';
  writeFileSync(
    program,
    `const {indexTar} = await import(${JSON.stringify(source)});
     process.stdout.write(String(await indexTar(${JSON.stringify(directory)}, 'files'${more})));`,
  );
  return execFileSync(engine[0], [...engine.slice(1), program], {
    encoding: 'utf8',
    env: {...process.env, PATH: `${bin}:${process.env.PATH}`, SECRET: 'of ours'},
  });
}

describe('what mkfs.erofs gets', () => {
  for (const {name, argv} of ENGINES)
    for (const further of [false, true])
      it(`is a tar to read, an index to write, and bounds${further ? ', with further entries' : ''}, on ${name}`, (t) => {
        if (!canIndex(t)) return;
        const directory = layer(t);
        const {bin, out} = standIn(
          t,
          `exec 2> "$out/errors" || exit 9
           grep -E '^(Uid|Gid|Groups|NoNewPrivs|Cap...):' /proc/self/status > "$out/status"
           cat /proc/self/limits > "$out/limits"
           env > "$out/env"
           ls /proc/self/fd > "$out/fds"
           cat /proc/self/fdinfo/0 > "$out/fdinfo"
           for path in '${directory}' '${directory}/layer.tar' /etc/shadow; do
             cat "$path" > /dev/null 2>&1 && echo "reads $path"
             { : >> "$path"; } 2> /dev/null && echo "writes $path"
             ls "$path/" > /dev/null 2>&1 && echo "lists $path"
           done > "$out/reached"
           exit 3`,
        );
        assert.equal(indexWith(argv, bin, directory, further), 'false');
        const said = (part: string): string => readFileSync(join(out, part), 'utf8');
        const status = Object.fromEntries(
          said('status')
            .trim()
            .split('\n')
            .map((line) => [line.split(':')[0]!, line.split(/\s+/).slice(1).filter(Boolean)]),
        ) as Record<string, string[]>;
        const ids = new Set([...status.Uid!, ...status.Gid!]);
        assert.equal(ids.size, 1);
        assert.ok(
          [...ids].every((id) => Number(id) >= 0x70000000 && Number(id) < 0x80000000),
          [...ids].join(),
        );
        assert.deepEqual([status.Groups, status.NoNewPrivs], [[], ['1']]);
        for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) assert.match(status[set]![0]!, /^0+$/, set);
        const limits = new Map(
          said('limits')
            .split('\n')
            .map((line) => /^(Max .*?) {2,}(\S+) +(\S+)/.exec(line)?.slice(1) ?? [])
            .map(([name = '', ...values]) => [name, values.join()]),
        );
        for (const [limit, value] of Object.entries({
          'Max address space': 2 ** 31,
          'Max core file size': 0,
          'Max cpu time': 120,
          'Max file size': 2 ** 32,
          'Max processes': 256,
        }))
          assert.equal(limits.get(limit), `${value},${value}`, limit);
        const variables = [...said('env').matchAll(/^(\w+)=/gm)].map(([, variable]) => variable!);
        assert.deepEqual(variables.filter((variable) => !['PWD', 'OLDPWD', 'SHLVL', '_'].includes(variable)).sort(), ['LC_ALL', 'PATH']);
        const fds = said('fds').trim().split('\n').map(Number);
        assert.deepEqual(
          fds.filter((fd) => !INHERITED.includes(fd)),
          [0, 1, 2, 3, 4],
          'one of them is the listing',
        );
        assert.match(said('fdinfo'), /flags:\s+0\d*0$/m, 'the tar is open for reading only');
        assert.equal(said('reached'), '');
        assert.deepEqual(readdirSync(directory), [EROFS_TAR], 'an index that was refused is gone');
        assert.deepEqual(readFileSync(join(directory, EROFS_TAR)), Buffer.from(LAYER), 'the tar is what it was');
      });

  it('is room for an index of 4 GiB, and no more', (t) => {
    if (!canIndex(t)) return;
    const directory = layer(t);
    const {bin, out} = standIn(t, 'truncate -s 4G /proc/self/fd/3 && echo enough > "$out/said"; exec truncate -s 4097M /proc/self/fd/3');
    assert.equal(indexWith([process.execPath], bin, directory, false), 'false');
    assert.equal(readFileSync(join(out, 'said'), 'utf8'), 'enough\n');
    assert.deepEqual(readdirSync(directory), [EROFS_TAR]);
  });

  it('has to become an index that has something in it, whatever status it ends with', (t) => {
    if (!canIndex(t)) return;
    const superblock = Buffer.alloc(4096);
    superblock.writeUInt32LE(0xe0f5e1e2, 1024);
    superblock.writeUInt8(9, 1024 + 12);
    superblock.writeUInt16LE(1, 1024 + 86);
    for (const bytes of [superblock, Buffer.alloc(4096), Buffer.alloc(0)]) {
      const directory = layer(t);
      const {bin, out} = standIn(t, 'exec cat "$out/index" > /proc/self/fd/3');
      writeFileSync(join(out, 'index'), bytes);
      assert.equal(indexWith([process.execPath], bin, directory, false), 'false');
      assert.deepEqual(readdirSync(directory), [EROFS_TAR]);
    }
  });

  it('is not taken for an index where it can start no threads', (t) => {
    if (!canIndex(t)) return;
    const directory = layer(t);
    const {bin} = standIn(t, `PATH='${process.env.PATH}' exec prlimit --nproc=1 mkfs.erofs "$@"`);
    const made = indexWith([process.execPath], bin, directory, false);
    if (made === 'true') assert.equal(indexedUsage(directory)!.inodes, 4);
    else assert.deepEqual(readdirSync(directory), [EROFS_TAR]);
  });
});

describe('an indexed layer', () => {
  it('for a loop device is its index and its tar in one file, which says where that begins', async (t) => {
    if (!canIndex(t)) return;
    const [two, one] = [layer(t), layer(t)];
    assert.ok(await indexTar(two, 'files'));
    assert.ok(await indexTar(one, 'loop'));
    assert.deepEqual(readdirSync(two).sort(), [EROFS_INDEX, EROFS_TAR]);
    assert.deepEqual(readdirSync(one), [EROFS_IMAGE]);
    assert.deepEqual(findTar(two), {path: join(two, EROFS_TAR), start: 0, backing: 'files'});
    const {path, start} = findTar(one)!;
    assert.deepEqual(readFileSync(path).subarray(start), Buffer.from(LAYER));
    assert.equal(indexedUsage(one)!.inodes, indexedUsage(two)!.inodes);
    const again = layer(t);
    assert.ok(await indexTar(again, 'loop'));
    assert.ok(isSameIndex(path, join(again, EROFS_IMAGE)));
  });

  it('for a loop device is the same where the filesystem cannot make room before a tar', async (t) => {
    if (!canIndex(t)) return;
    const [one, other] = [layer(t), layer(t)];
    assert.ok(await indexTar(one, 'loop'));
    const {PATH} = process.env;
    const {bin} = standIn(t, 'exit 9');
    writeFileSync(join(bin, 'fallocate'), '#!/bin/sh\nexit 1\n', {mode: 0o755});
    writeFileSync(join(bin, 'mkfs.erofs'), `#!/bin/sh\nPATH='${PATH}' exec mkfs.erofs "$@"\n`);
    process.env.PATH = `${bin}:${PATH}`;
    try {
      assert.ok(await indexTar(other, 'loop'));
    } finally {
      process.env.PATH = PATH;
    }
    assert.ok(isSameIndex(join(one, EROFS_IMAGE), join(other, EROFS_IMAGE)));
    assert.deepEqual(readdirSync(other), [EROFS_IMAGE]);
  });

  it('that does not say where its tar is, is damaged', async (t) => {
    if (!canIndex(t)) return;
    const directory = layer(t);
    assert.ok(await indexTar(directory, 'loop'));
    const image = join(directory, EROFS_IMAGE);
    const whole = readFileSync(image);
    for (const torn of [Buffer.alloc(0), Buffer.alloc(whole.length), whole.subarray(0, 1100), whole.subarray(0, 2000)]) {
      writeFileSync(image, torn);
      assert.throws(() => findTar(directory), is('data_loss'), String(torn.length));
    }
  });
});

describe('the probe', () => {
  it('asks once a boot, and believes nothing else that lies there', (t) => {
    if (!canIndex(t)) return;
    const state = temporaryDirectory(t);
    const root = temporaryDirectory(t);
    const found = probeErofs(state, root);
    const known = join(state, 'erofs.json');
    const {bootId} = JSON.parse(readFileSync(known, 'utf8')) as {bootId: string};
    const say = (text: string): ReturnType<typeof probeErofs> => {
      writeFileSync(known, text);
      return probeErofs(state, root);
    };
    const said = (backing: string, boot = bootId, filesystem = statSync(root).dev): string =>
      JSON.stringify({bootId: boot, filesystems: {[filesystem]: {backing, reason: 'said'}}});
    assert.deepEqual(say(said('loop')), {backing: 'loop', reason: 'said'});
    assert.deepEqual(say(said('none')), {backing: undefined, reason: 'said'});
    for (const text of [
      '',
      'null',
      '{',
      '[]',
      JSON.stringify({bootId, filesystems: null}),
      JSON.stringify({bootId, backing: 'none', reason: 'of an earlier version'}),
      said('other'),
      said('none', '0'.repeat(32)),
      said('none', bootId, 0),
    ])
      assert.deepEqual(say(text), found, text);
  });

  it('asks of the filesystem that the layers will lie on: not all can be mounted from', (t) => {
    if (!canIndex(t)) return;
    const [state, root] = [temporaryDirectory(t), temporaryDirectory(t)];
    const found = probeErofs(state, root);
    const memory = join(root, 'memory');
    mkdirSync(memory);
    execFileSync('mount', ['-t', 'tmpfs', 'none', memory]);
    onEnd(t, () => execFileSync('umount', [memory]));
    // The kernel has no file of tmpfs for a filesystem.
    assert.notEqual(probeErofs(state, join(memory, 'not/there/yet')).backing, 'files');
    assert.deepEqual(probeErofs(state, root), found, 'what was found of another one stays');
    assert.deepEqual(readdirSync(memory), []);
  });

  it('leaves nothing where it has tried, and does not need to write there', (t) => {
    if (!canIndex(t)) return;
    const root = temporaryDirectory(t);
    probeErofs(temporaryDirectory(t), root);
    assert.deepEqual(readdirSync(root), []);
    const file = join(root, 'file');
    writeFileSync(file, '');
    assert.notEqual(probeErofs(temporaryDirectory(t), join(file, 'root')).backing, undefined);
  });

  /** As on a kernel that refuses what is asked of it: mount(8) gives way to a script that does. */
  const on = (t: TestContext, refuses: string): ReturnType<typeof probeErofs> => {
    const {PATH} = process.env;
    const {bin} = standIn(t, '');
    writeFileSync(join(bin, 'mount'), `#!/bin/sh\ncase "$*" in ${refuses}) exit 32;; esac\nPATH='${PATH}' exec mount "$@"\n`, {
      mode: 0o755,
    });
    writeFileSync(join(bin, 'mkfs.erofs'), `#!/bin/sh\nPATH='${PATH}' exec mkfs.erofs "$@"\n`);
    process.env.PATH = `${bin}:${PATH}`;
    try {
      return probeErofs(temporaryDirectory(t), temporaryDirectory(t));
    } finally {
      process.env.PATH = PATH;
    }
  };

  it('remembers only what lasts, and says which it was', (t) => {
    if (!canIndex(t)) return;
    const {PATH} = process.env;
    const [state, root] = [temporaryDirectory(t), temporaryDirectory(t)];
    const source = new URL('../../../src/lib/store/erofs.ts', import.meta.url).href;
    const ask = `import {probeErofs} from ${JSON.stringify(source)};
      console.log(JSON.stringify(probeErofs(${JSON.stringify(state)}, ${JSON.stringify(root)})))`;
    /** As where mkfs.erofs is not installed: there is nothing that can be executed in its place. */
    const withoutProgram = (): ReturnType<typeof probeErofs> => {
      const script = 'mount --bind /dev/null "$1" && exec "$2" --input-type=module -e "$3"';
      const words = ['--mount', 'sh', '-c', script, 'sh', findProgram('mkfs.erofs')!, process.execPath, ask];
      return JSON.parse(execFileSync('unshare', words, {encoding: 'utf8'})) as ReturnType<typeof probeErofs>;
    };
    const tried = (script: string | undefined): ReturnType<typeof probeErofs> => {
      rmSync(join(state, 'erofs.json'), {force: true});
      if (script === undefined) return withoutProgram();
      const bin = temporaryDirectory(t);
      writeFileSync(join(bin, 'mkfs.erofs'), `#!/bin/sh\n${script}\n`, {mode: 0o755});
      chmodSync(bin, 0o755); // mkfs.erofs runs as a user that nobody is
      process.env.PATH = `${bin}:${PATH}`;
      try {
        return probeErofs(state, root);
      } finally {
        process.env.PATH = PATH;
      }
    };
    const version = (number: string): string => `case "$*" in --version) echo "mkfs.erofs (erofs-utils) ${number}"; exit 0;; esac; exit 1`;
    for (const [script, reason, isLasting] of [
      [version('1.7.1'), /1\.7 does not index/, true],
      [version('1.8.6'), /failed this time/, false],
      [version('2.0'), /failed this time/, false],
      [undefined, /is not installed/, false],
    ] as const) {
      const found = tried(script);
      assert.equal(found.backing, undefined, String(reason));
      assert.match(found.reason, reason);
      assert.equal(existsSync(join(state, 'erofs.json')), isLasting, found.reason);
      assert.equal(probeErofs(state, root).backing === undefined, isLasting, `${found.reason}: asked again`);
    }
  });

  it('takes loop devices where the kernel mounts no files, and gives up where it mounts neither', (t) => {
    if (!canIndex(t)) return;
    const loop = on(t, '*device=*');
    if (existsSync('/dev/loop-control')) assert.equal(loop.backing, 'loop');
    assert.match(loop.reason, /older than 6\.12/);
    const none = on(t, '*');
    assert.equal(none.backing, undefined);
    assert.match(none.reason, /loop devices/);
  });
});
