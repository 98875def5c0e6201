/** The program: `bin/` starts it, on Node from `dist/node/` or from here, or compiled. */

import {processContext} from './cli/context.ts';
import {lines} from './cli/output.ts';
import {report} from './cli/report.ts';
import {exitStatus} from './lib/errdefs.ts';

/** Node keeps compiled code here between runs; only where no other user can put code for us. */
function codeCacheDirectory(): string | undefined {
  if (process.getuid?.() === 0) return '/var/cache/berth/node';
  const {XDG_CACHE_HOME, HOME} = process.env;
  return XDG_CACHE_HOME ? `${XDG_CACHE_HOME}/berth/node` : HOME ? `${HOME}/.cache/berth/node` : undefined;
}

// The launcher says by which name it was called; what we start must not see that.
const called = process.env.BERTH_PROGRAM ?? (process.versions.bun === undefined ? process.argv[1]! : process.argv0);
delete process.env.BERTH_PROGRAM;
delete process.env.BERTH_ENGINE;
const context = processContext(called);

if (process.versions.bun === undefined) {
  const [major, minor] = process.versions.node.split('.').map(Number) as [number, number];
  if (major < 22 || (major === 22 && minor < 19)) {
    context.stderr(lines([`${context.program}: Node 22.19 or newer is needed, this is ${process.versions.node}`]));
    process.exit(14);
  }
  const directory = codeCacheDirectory();
  const {enableCompileCache} = await import('node:module');
  if (directory !== undefined) enableCompileCache(directory);
}

// What nobody waited for went wrong: still a bug of ours, in our words.
for (const event of ['uncaughtException', 'unhandledRejection'] as const)
  process.on(event, async (err: unknown) => {
    await report(err, context, {json: process.argv.includes('--json'), debug: process.argv.includes('--debug')});
    process.exit(exitStatus(err));
  });

const [{runCommandLine}, {COMMANDS}] = await Promise.all([import('./cli/command-line.ts'), import('./commands/index.ts')]);
const {status, signal} = await runCommandLine(process.argv.slice(2), COMMANDS, context);
// A shell that runs us in a loop must see that we ended by the signal, or Ctrl-C stops only this round.
if (signal !== undefined) {
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
  // It comes when it comes; as process 1 of a container it never does.
  await new Promise((resolve) => setTimeout(resolve, 1000));
}
process.exit(status);
