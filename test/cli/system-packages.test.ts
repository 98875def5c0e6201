/** The packages for machines without npm: what is in them, that they work where nothing else is, and that nothing of them stays. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {before, describe, it} from 'node:test';
import {ownTarget} from '../../scripts/targets.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import {findProgram, requiresProgram, requiresRoot, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {root, run} from './harness.ts';

const packages = join(root, 'dist/packages');
const {version} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {version: string};
const CPU = {x64: 'amd64', arm64: 'arm64'}[process.arch as string]!;
const deb = join(packages, `berth_${version}_${CPU}.deb`);

/** The file times of the packages, fixed: somebody may commit between two builds. */
const SOURCE_DATE_EPOCH = '1700000000';

const make = async (): Promise<void> => {
  const {status, stderr} = await run(process.execPath, ['scripts/package.ts'], {
    env: {...(process.env as Record<string, string>), SOURCE_DATE_EPOCH},
    timeoutMs: 300_000,
  });
  assert.equal(status, 0, stderr);
};

/** Every path below a directory. */
const tree = (directory: string): readonly string[] => readdirSync(directory, {recursive: true, encoding: 'utf8'}).sort();

describe('packages', () => {
  before(async (t) => {
    if (requiresProgram(t as never, 'dpkg-deb')) await make();
  });

  it('are the same bytes each time', async (t) => {
    if (!TORTURE || !requiresProgram(t, 'dpkg-deb')) return t.skip('two builds take long');
    const sums = readFileSync(join(packages, 'SHA256SUMS'), 'utf8');
    await make();
    assert.equal(readFileSync(join(packages, 'SHA256SUMS'), 'utf8'), sums);
  });

  it('have sums that sha256sum checks', (t) => {
    if (!requiresProgram(t, 'dpkg-deb')) return;
    const out = execFileSync('sha256sum', ['--check', 'SHA256SUMS'], {cwd: packages, encoding: 'utf8'});
    assert.equal(out.match(/: OK$/gm)?.length, 3);
    assert.deepEqual(readdirSync(packages).length, 4);
  });

  it('name what is inside: the packages that the lock file has for the program', (t) => {
    if (!requiresProgram(t, 'dpkg-deb')) return;
    const {packages: locked} = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
      packages: Record<string, {version: string; dev?: boolean; link?: boolean; devOptional?: boolean}>;
    };
    const expected = Object.entries(locked).flatMap(([path, {version: found, dev, link, devOptional}]) =>
      path.startsWith('node_modules/') && !dev && !link && !devOptional ? [`${path.replace(/^.*node_modules\//, '')}@${found}`] : [],
    );
    const bom = JSON.parse(readFileSync(join(packages, `berth-${version}.cdx.json`), 'utf8')) as {
      bomFormat: string;
      components: {name: string; version: string; licenses?: unknown}[];
    };
    assert.equal(bom.bomFormat, 'CycloneDX');
    assert.deepEqual(
      [...new Set(bom.components.map(({name, version: found}) => `${name}@${found}`))].sort(),
      [...new Set(expected)].sort(),
    );
    for (const {name, licenses} of bom.components) assert.ok(licenses !== undefined, name);
  });

  it('work from the tarball, anywhere', async (t) => {
    if (!requiresProgram(t, 'dpkg-deb')) return;
    const dir = temporaryDirectory(t);
    const name = `berth-${version}-linux-${process.arch}`;
    execFileSync('tar', ['-xzf', join(packages, `${name}.tar.gz`), '-C', dir]);
    for (const program of ['berth', 'ctr', 'dist']) {
      const {status, stdout, stderr} = await run(join(dir, name, 'bin', program), ['version'], {cwd: dir, env: {PATH: '/usr/bin:/bin'}});
      assert.equal(status, 0, stderr);
      assert.match(stdout, new RegExp(version));
    }
  });

  it('are installed by dpkg and removed without a trace', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'dpkg-deb')) return;
    const dir = temporaryDirectory(t);
    for (const path of ['var/lib/dpkg/info', 'var/lib/dpkg/updates', 'var/log']) mkdirSync(join(dir, path), {recursive: true});
    for (const file of ['status', 'available']) writeFileSync(join(dir, 'var/lib/dpkg', file), '');
    // Its dependencies are on this machine, not in the empty root.
    const dpkg = (...args: readonly string[]): string =>
      execFileSync('dpkg', [`--root=${dir}`, '--force-depends', '--force-script-chrootless', ...args], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
      });
    const own = (): readonly string[] => tree(dir).filter((path) => !/^var(?:\/|$)/.test(path));
    assert.deepEqual(own(), []);
    dpkg('--install', deb);
    const installed = own();
    for (const id of Object.keys(COMMANDS.commands))
      assert.ok(installed.includes(`usr/share/man/man1/berth-${id.replaceAll(' ', '-')}.1.gz`), id);
    assert.deepEqual(
      installed.filter((path) => /^usr\/s?bin\/./.test(path)),
      ['usr/bin/berth'],
      'containerd has a ctr',
    );
    const {status, stdout, stderr} = await run(join(dir, 'usr/bin/berth'), ['version'], {env: {PATH: '/usr/bin:/bin'}});
    assert.equal(status, 0, stderr);
    assert.match(stdout, new RegExp(version));
    dpkg('--purge', 'berth');
    assert.deepEqual(own(), []);
  });

  it('are installed in a clean Debian, by apt, tar and npm, and removed without a trace', async (t) => {
    if (!TORTURE || !requiresRoot(t) || !requiresProgram(t, 'debootstrap', 'npm')) return t.skip('a new Debian takes long');
    const dir = join(temporaryDirectory(t), 'root');
    execFileSync('debootstrap', ['--variant=minbase', 'stable', dir], {stdio: 'ignore'});
    const script = 'mount -t proc proc "$1/proc"; exec chroot "$@"';
    const inside = (...words: readonly string[]): string =>
      execFileSync('unshare', ['--mount', '--propagation', 'private', 'sh', '-ec', script, 'sh', dir, ...words], {
        encoding: 'utf8',
        env: {PATH: '/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C'},
        stdio: ['ignore', 'pipe', 'pipe'],
      });
    const own = (): readonly string[] =>
      tree(dir).filter((path) => !/^(?:var|tmp|proc|sys|dev|run)\//.test(path) && !/ld\.so\.cache/.test(path));
    const clean = own();
    const assertClean = (): void =>
      assert.deepEqual(
        own().filter((path) => !clean.includes(path)),
        [],
      );
    const assertWorks = (program: string): void => {
      assert.match(inside(program, 'version'), new RegExp(`${version}[^]*Engine: +bun `));
      assert.match(inside(program, 'images', 'ls'), /^REF/);
    };
    cpSync(deb, join(dir, 'tmp/berth.deb'));
    inside('apt-get', 'install', '--yes', '--no-install-recommends', '/tmp/berth.deb');
    assertWorks('berth');
    assert.ok(existsSync(join(dir, 'usr/sbin/runc')));
    inside('apt-get', 'purge', '--yes', '--autoremove', 'berth');
    assertClean();

    const unpacked = join(dir, `opt/berth-${version}-linux-${process.arch}`);
    execFileSync('tar', ['-xzf', join(packages, `berth-${version}-linux-${process.arch}.tar.gz`), '-C', join(dir, 'opt')]);
    assertWorks(join(unpacked.slice(dir.length), 'bin/ctr'));
    rmSync(unpacked, {recursive: true});
    assertClean();

    // A Node that this Debian has not, and npm's own code, outside of what is compared.
    const npmCode = dirname(dirname(realpathSync(findProgram('npm')!)));
    copyFileSync(process.execPath, join(dir, 'tmp/node'));
    cpSync(npmCode, join(dir, 'tmp/npm'), {recursive: true, dereference: true});
    const npm = (...words: readonly string[]): string =>
      inside(
        'env',
        'PATH=/tmp:/usr/bin:/bin',
        'HOME=/tmp',
        '/tmp/node',
        '/tmp/npm/bin/npm-cli.js',
        ...words,
        '--global',
        '--prefix',
        '/usr/local',
      );
    const names = ['berth-oci', `berth-oci-${ownTarget().name}`];
    for (const name of names)
      execFileSync('npm', ['pack', '--silent', join(root, 'dist/npm', name)], {cwd: join(dir, 'tmp'), stdio: 'ignore'});
    npm('install', '--offline', '--omit=optional', ...names.map((name) => `/tmp/${name}-${version}.tgz`));
    assertWorks('dist');
    npm('uninstall', ...names);
    rmSync(join(dir, 'usr/local/lib/node_modules'), {recursive: true, force: true});
    assertClean();
  });
});
