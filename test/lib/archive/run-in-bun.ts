/** Runs modules in Bun, for tests of both engines. */
import {execFileSync} from 'node:child_process';
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {ownTarget} from '../../../scripts/targets.ts';

/** Path of Bun's executable, if installed. */
export function findBun(): string | undefined {
  const path = join(import.meta.dirname, '../../../node_modules', ownTarget().bun, 'bin/bun');
  return existsSync(path) ? path : undefined;
}

/** Runs a module in Bun, and parses its output as JSON. */
export function runInBun(module: string, ...args: string[]): unknown {
  return JSON.parse(execFileSync(findBun()!, [join(import.meta.dirname, module), ...args], {encoding: 'utf8', maxBuffer: 1 << 26}));
}
