/** Entry point of the program, as source, as `dist/node/main.js`, and in the executable. `bin/` starts it. */

import {processContext} from './cli/command-context.ts';
import {lines} from './cli/printable.ts';
import {reportError} from './cli/report-error.ts';
import {baseDirectory} from './lib/base-directories.ts';
import {exitStatus} from './lib/errdefs.ts';

/** Where Node caches compiled code. Only a directory in which no other user can write: Node executes what it finds there. */
function codeCacheDirectory(): string | undefined {
  const base = baseDirectory('cache');
  return base === undefined ? undefined : `${base}/berth/node`;
}

// Set by the launcher; programs that berth starts must not inherit it.
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

// An error that no code handles is a bug, and is reported like every error.
for (const event of ['uncaughtException', 'unhandledRejection'] as const)
  process.on(event, async (err: unknown) => {
    await reportError(err, context, {json: process.argv.includes('--json'), debug: process.argv.includes('--debug')});
    process.exit(exitStatus(err));
  });

const [{runCommandLine}, {COMMANDS}] = await Promise.all([import('./cli/run-command-line.ts'), import('./commands/index.ts')]);
const {status, signal} = await runCommandLine(process.argv.slice(2), COMMANDS, context);
// A shell loop stops at Ctrl-C only if it sees that the signal ended the command.
if (signal !== undefined) {
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
  // The signal is delivered asynchronously, and never to process 1 of a container.
  await new Promise((resolve) => setTimeout(resolve, 1000));
}
process.exit(status);
