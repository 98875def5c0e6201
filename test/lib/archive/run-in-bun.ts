/** The other engine, for what has to hold on both: Bun runs a module of ours as Node does. */
import {execFileSync} from 'node:child_process';
import {existsSync} from 'node:fs';
import {join} from 'node:path';

const PACKAGES: Readonly<Record<string, string>> = {x64: '@oven/bun-linux-x64', arm64: '@oven/bun-linux-aarch64'};

/** Path of Bun's executable, if it is installed. */
export function findBun(): string | undefined {
  const path = join(import.meta.dirname, '../../../node_modules', PACKAGES[process.arch] ?? '', 'bin/bun');
  return existsSync(path) ? path : undefined;
}

/** What a module prints as JSON under Bun. */
export function runInBun(module: string, ...args: string[]): unknown {
  return JSON.parse(execFileSync(findBun()!, [join(import.meta.dirname, module), ...args], {encoding: 'utf8', maxBuffer: 1 << 26}));
}
