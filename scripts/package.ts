/**
 * Makes the packages for machines without npm, of the executables in dist, into dist/packages: `npm run package`, for every machine
 * `npm run package-all`
 *
 *     berth_<version>_<cpu>.deb              for Debian and its derivatives
 *     berth-<version>-<target>.tar.gz        for everything else: unpack it anywhere
 *     berth-<version>.cdx.json               what is inside: an SBOM in CycloneDX's format
 *     SHA256SUMS                             of all of them
 *
 * The same commit gives the same bytes. File times are those of SOURCE_DATE_EPOCH, else of the commit.
 */
import {execFileSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import {dirname, join} from 'node:path';
import {gzipSync} from 'node:zlib';
import {completionScript} from '../src/cli/completion-scripts.ts';
import {manualPages} from './man-pages.ts';
import {executableOf, TARGETS, type Target} from './targets.ts';

const root = join(import.meta.dirname, '..');
const dist = join(root, 'dist');
const {version, description} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {version: string; description: string};

/** Debian's name for a CPU. */
const DEBIAN: Readonly<Record<string, string>> = {x64: 'amd64', arm64: 'arm64'};
const PROGRAMS = ['berth', 'ctr', 'dist'];

const epoch = (): number =>
  Number(process.env.SOURCE_DATE_EPOCH ?? execFileSync('git', ['log', '-1', '--format=%ct'], {cwd: root, encoding: 'utf8'}));

function put(path: string, content: string | Uint8Array, mode = 0o644): void {
  mkdirSync(dirname(path), {recursive: true, mode: 0o755});
  writeFileSync(path, content);
  chmodSync(path, mode);
}

function putFile(path: string, from: string, mode = 0o644): void {
  mkdirSync(dirname(path), {recursive: true, mode: 0o755});
  copyFileSync(from, path);
  chmodSync(path, mode);
}

/** The launchers, and the executable where they look for it. */
function putProgram(directory: string, target: Target): void {
  for (const program of PROGRAMS) putFile(join(directory, 'bin', program), join(root, 'bin', program), 0o755);
  const executable = `dist/${executableOf(target)}`;
  putFile(join(directory, executable), join(root, executable), 0o755);
  putFile(join(directory, 'LICENSE'), join(root, 'LICENSE'));
  putFile(join(directory, 'THIRD-PARTY'), join(dist, 'node/THIRD-PARTY'));
}

/** Gives everything below a directory the same time, and the modes that it has whatever the umask was. */
function settle(directory: string, time: number): void {
  for (const entry of readdirSync(directory, {withFileTypes: true, recursive: true}).sort()) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isDirectory()) chmodSync(path, 0o755);
    if (!entry.isSymbolicLink()) utimesSync(path, time, time);
  }
  chmodSync(directory, 0o755);
  utimesSync(directory, time, time);
}

const TMPFILES = `# State of berth that ends with the boot. The directory belongs to root, and nobody else may look into it.
d /run/berth 0700 root root -
`;

const SERVICE = `[Unit]
Description=Remove unused images and leftovers of berth
Documentation=man:berth-prune(1)

[Service]
Type=oneshot
ExecStart=/usr/bin/berth --progress none prune --all-namespaces --older-than 168h
Nice=19
IOSchedulingClass=idle
`;

const TIMER = `[Unit]
Description=Remove unused images and leftovers of berth once a week
Documentation=man:berth-prune(1)

[Timer]
OnCalendar=weekly
RandomizedDelaySec=6h
Persistent=true

[Install]
WantedBy=timers.target
`;

const README = `berth for Debian

The command is "berth". The same program under the names of containerd's tools is in /usr/lib/berth/bin, because the package containerd has
a /usr/bin/ctr of its own: put that directory first in PATH to have "ctr" and "dist".

"systemctl enable --now berth-prune.timer" removes images that no container has and that were pulled or made more than a
week ago. It is off.

Removing the package leaves the images and containers in /var/lib/berth. "rm -r /var/lib/berth" removes them.
`;

/** Debian's copyright file, in its machine-readable format. */
const copyright = (license: string): string => `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: berth
Comment: the licences of the bundled packages are in /usr/lib/berth/THIRD-PARTY

Files: *
Copyright: the authors of berth
License: Apache-2.0
${license
  .trimEnd()
  .split('\n')
  .map((line) => (line.trim() === '' ? ' .' : ` ${line}`))
  .join('\n')}
`;

async function putDebian(directory: string, target: Target): Promise<void> {
  putProgram(join(directory, 'usr/lib/berth'), target);
  mkdirSync(join(directory, 'usr/bin'), {recursive: true, mode: 0o755});
  symlinkSync('../lib/berth/bin/berth', join(directory, 'usr/bin/berth'));
  for (const [name, page] of await manualPages('berth', version))
    put(join(directory, 'usr/share/man/man1', `${name}.gz`), gzipSync(page, {level: 9}));
  for (const [path, shell] of [
    ['bash-completion/completions/berth', 'bash'],
    ['zsh/vendor-completions/_berth', 'zsh'],
    ['fish/vendor_completions.d/berth.fish', 'fish'],
  ] as const)
    put(join(directory, 'usr/share', path), completionScript(shell, 'berth'));
  put(join(directory, 'usr/lib/tmpfiles.d/berth.conf'), TMPFILES);
  put(join(directory, 'usr/lib/systemd/system/berth-prune.service'), SERVICE);
  put(join(directory, 'usr/lib/systemd/system/berth-prune.timer'), TIMER);
  const docs = join(directory, 'usr/share/doc/berth');
  put(join(docs, 'copyright'), copyright(readFileSync(join(root, 'LICENSE'), 'utf8')));
  put(join(docs, 'changelog.gz'), gzipSync(readFileSync(join(root, 'CHANGELOG.md')), {level: 9}));
  put(join(docs, 'README.Debian'), README);
}

function control(directory: string, {cpu}: Target): string {
  const bytes = readdirSync(directory, {withFileTypes: true, recursive: true})
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0);
  return `Package: berth
Version: ${version}
Architecture: ${DEBIAN[cpu]}
Maintainer: the authors of berth <berth@localhost>
Installed-Size: ${Math.ceil(bytes / 1024)}
Depends: libc6, mount, util-linux, runc
Recommends: ca-certificates, conmon, containernetworking-plugins, iproute2, iptables, passt, perl-base, uidmap
Suggests: bash-completion
Section: admin
Priority: optional
Description: containers without a daemon
 ${description}.
`;
}

async function buildDebian(work: string, time: number, target: Target): Promise<string> {
  const directory = join(work, 'deb');
  await putDebian(directory, target);
  put(join(directory, 'DEBIAN/control'), control(directory, target));
  settle(directory, time);
  const name = `berth_${version}_${DEBIAN[target.cpu]}.deb`;
  execFileSync('dpkg-deb', ['--root-owner-group', '-Zzstd', '-z6', '--build', directory, join(work, name)], {
    env: {...process.env, SOURCE_DATE_EPOCH: String(time)},
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  rmSync(directory, {recursive: true});
  return name;
}

async function buildTarball(work: string, time: number, target: Target): Promise<string> {
  const name = `berth-${version}-${target.name}`;
  const directory = join(work, name);
  putProgram(directory, target);
  putFile(join(directory, 'README.md'), join(root, 'README.md'));
  putFile(join(directory, 'CHANGELOG.md'), join(root, 'CHANGELOG.md'));
  for (const [page, text] of await manualPages('berth', version)) put(join(directory, 'share/man/man1', page), text);
  for (const shell of ['bash', 'zsh', 'fish'])
    put(join(directory, 'share/completions', `berth.${shell}`), completionScript(shell, 'berth'));
  settle(directory, time);
  const options = ['--sort=name', `--mtime=@${time}`, '--owner=0', '--group=0', '--numeric-owner', '--format=gnu'];
  const tar = execFileSync('tar', [...options, '-C', work, '-cf', '-', name], {maxBuffer: 2 ** 30});
  writeFileSync(join(work, `${name}.tar.gz`), gzipSync(tar, {level: 9}));
  rmSync(directory, {recursive: true});
  return `${name}.tar.gz`;
}

interface Bom {
  serialNumber?: string;
  metadata: {timestamp: string; component: {name: string}};
  components: {'bom-ref': string; name: string; purl: string}[];
  dependencies: {ref: string; dependsOn: string[]}[];
}

/** What npm knows from the lock file, without what differs from run to run and what is no part of the program. */
function buildBom(work: string, time: number): string {
  const text = execFileSync('npm', ['sbom', '--sbom-format', 'cyclonedx', '--omit', 'dev', '--package-lock-only'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  const bom = JSON.parse(text) as Bom;
  delete bom.serialNumber;
  bom.metadata.timestamp = new Date(time * 1000).toISOString();
  bom.metadata.component.name = 'berth';
  const engines = (ref: string): boolean => ref.startsWith('berth-engines@');
  bom.components = bom.components.filter((component) => !engines(component['bom-ref']));
  bom.dependencies = bom.dependencies
    .filter(({ref}) => !engines(ref))
    .map(({ref, dependsOn}) => ({ref, dependsOn: dependsOn.filter((one) => !engines(one))}));
  const name = `berth-${version}.cdx.json`;
  writeFileSync(join(work, name), `${JSON.stringify(bom, null, 2)}\n`);
  return name;
}

const targets = TARGETS.filter((target) => existsSync(join(dist, executableOf(target))));
const out = join(dist, 'packages');
const work = `${out}.new`;
rmSync(work, {recursive: true, force: true});
mkdirSync(work, {recursive: true});
const time = epoch();
const names: string[] = [];
for (const target of targets) {
  if (target.libc === 'glibc') names.push(await buildDebian(work, time, target));
  names.push(await buildTarball(work, time, target));
}
names.push(buildBom(work, time));
const sums = names.map(
  (name) =>
    `${createHash('sha256')
      .update(readFileSync(join(work, name)))
      .digest('hex')}  ${name}\n`,
);
writeFileSync(join(work, 'SHA256SUMS'), sums.join(''));
rmSync(out, {recursive: true, force: true});
renameSync(work, out);
process.stdout.write(sums.join(''));
