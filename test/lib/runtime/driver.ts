/**
 * The tool as far as the runtime is concerned, as a process of its own: runs one container as its first argument says, a
 * `DriverRequest` in JSON, and ends with its status. Runs on Node and on Bun.
 */

import {execFileSync} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import {toJSON} from '../../../src/lib/errdefs.ts';
import {runForeground} from '../../../src/lib/runtime/foreground-run.ts';
import type {Mount} from '../../../src/lib/runtime/mount-plan.ts';
import {resolveSpec, type SpecRequest} from '../../../src/lib/runtime/resolve-spec.ts';

export interface DriverRequest extends SpecRequest {
  readonly id: string;
  readonly stateDir: string;
  readonly mounts: readonly Mount[];
  readonly pidFile?: string;
  readonly runtime?: string;
  /** Gets the terminal's settings after the run: at its exit an engine sets them back by itself. */
  readonly settingsFile?: string;
}

function writeSettings(): void {
  if (request.settingsFile !== undefined)
    writeFileSync(request.settingsFile, execFileSync('stty', ['-g'], {stdio: ['inherit', 'pipe', 'inherit']}));
}

const request = JSON.parse(process.argv[2]!) as DriverRequest;
try {
  const makeSpec = await resolveSpec(request);
  const {exitStatus} = await runForeground({...request, makeSpec, tty: request.options.tty ?? false});
  writeSettings();
  process.exitCode = exitStatus;
} catch (err) {
  writeSettings();
  const {message, details} = toJSON(err);
  process.stderr.write(`driver: ${message}\n`);
  process.exitCode = (details?.runExit as number | undefined) ?? 1;
}
