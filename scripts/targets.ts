/** The machines that executables are built for, and the engine of each. */
import {execFileSync} from 'node:child_process';
import {copyFileSync, existsSync, mkdirSync} from 'node:fs';
import {join} from 'node:path';

const root = join(import.meta.dirname, '..');

export interface Target {
  /** As in the names of the executable and its package: `linux-x64`, `linux-arm64-musl`. */
  readonly name: string;
  /** Node's name of the CPU. */
  readonly cpu: 'x64' | 'arm64';
  readonly libc: 'glibc' | 'musl';
  /** Bun's package; those for x64 are the ones that need no AVX2, which are as fast for us: docs/decisions/0039. */
  readonly bun: string;
  /** As `bun build --target` names it. */
  readonly bunTarget: string;
}

export const TARGETS: readonly Target[] = [
  {name: 'linux-x64', cpu: 'x64', libc: 'glibc', bun: '@oven/bun-linux-x64-baseline', bunTarget: 'bun-linux-x64-baseline'},
  {name: 'linux-arm64', cpu: 'arm64', libc: 'glibc', bun: '@oven/bun-linux-aarch64', bunTarget: 'bun-linux-arm64'},
  {name: 'linux-x64-musl', cpu: 'x64', libc: 'musl', bun: '@oven/bun-linux-x64-musl-baseline', bunTarget: 'bun-linux-x64-musl-baseline'},
  {name: 'linux-arm64-musl', cpu: 'arm64', libc: 'musl', bun: '@oven/bun-linux-aarch64-musl', bunTarget: 'bun-linux-arm64-musl'},
];

/** The target that this machine is. @throws Error there is no Bun for it */
export function ownTarget(): Target {
  const {header} = process.report.getReport() as {header: {glibcVersionRuntime?: string}};
  const libc = header.glibcVersionRuntime === undefined ? 'musl' : 'glibc';
  const found = TARGETS.find((target) => target.cpu === process.arch && target.libc === libc);
  if (found === undefined) throw new Error(`there is no Bun for ${process.arch} with ${libc}`);
  return found;
}

/** Installs a Bun for another machine, of the version and with the checksum of package-lock.json, if it is not there. @returns its path */
export function bunOf({name, cpu, libc, bun}: Target): string {
  const own = join(root, 'node_modules', bun, 'bin/bun');
  if (existsSync(own)) return own;
  const directory = join(root, '.cache/engines', name);
  const path = join(directory, 'node_modules', bun, 'bin/bun');
  for (const file of ['package.json', 'package-lock.json', 'engines/package.json']) {
    mkdirSync(join(directory, 'engines'), {recursive: true});
    copyFileSync(join(root, file), join(directory, file));
  }
  execFileSync(
    'npm',
    ['ci', '--workspace=engines', '--os=linux', `--cpu=${cpu}`, `--libc=${libc}`, '--ignore-scripts', '--no-audit', '--no-fund'],
    {cwd: directory, stdio: ['ignore', 'ignore', 'inherit']},
  );
  return path;
}

/** The executable of a target, below `dist`. */
export const executableOf = ({name}: Target): string => `berth-${name}`;
