/** Compiles dist/node into one executable. */
import {execFileSync} from 'node:child_process';
import {chmodSync} from 'node:fs';
import {join} from 'node:path';
import {bunOf, ownTarget, type Target} from './targets.ts';

const built = join(import.meta.dirname, '../dist/node');

/** Name of the worker thread's script in dist/node; no other program uses it, because it is looked for beside a bundle of the library. */
export const WORKER = 'berth-worker';

/** Compiles the executable of a target with the Bun of this machine; the target's Bun becomes part of the executable. */
export function compileExecutable(target: Target, outfile: string): void {
  const own = ownTarget();
  // Without `--target`, `process.arch` would be that of this machine.
  const foreign = target.name === own.name ? [] : [`--target=${target.bunTarget}`, `--compile-executable-path=${bunOf(target)}`];
  execFileSync(
    bunOf(own),
    [
      ...['build', '--compile', '--splitting', '--minify', '--bytecode', '--format=esm', ...foreign],
      // `--splitting`, because a single chunk is read whole at the start. The last two, because files of the current
      // directory must not change what the command does.
      ...['--no-compile-autoload-dotenv', '--no-compile-autoload-bunfig'],
      ...[join(built, 'main.js'), join(built, `${WORKER}.js`)],
      ...['--outfile', outfile],
    ],
    {stdio: ['ignore', 'ignore', 'inherit']},
  );
  chmodSync(outfile, 0o755);
}
