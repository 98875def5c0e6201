/**
 * The tool as far as the runtime is concerned, as a process of its own: runs one container as its first argument says, a
 * `DriverRequest` in JSON, and ends with its status. Runs on Node and on Bun.
 */

import {toJSON} from '../../../src/lib/errdefs.ts';
import type {Mount} from '../../../src/lib/runtime/mounts.ts';
import {prepareSpec, type SpecRequest} from '../../../src/lib/runtime/prepare.ts';
import {runForeground} from '../../../src/lib/runtime/run.ts';

export interface DriverRequest extends SpecRequest {
  readonly id: string;
  readonly stateDir: string;
  readonly mounts: readonly Mount[];
  readonly pidFile?: string;
}

const request = JSON.parse(process.argv[2]!) as DriverRequest;
try {
  const makeSpec = prepareSpec(request);
  const {exitStatus} = await runForeground({...request, makeSpec, tty: request.options.tty ?? false});
  process.exitCode = exitStatus;
} catch (err) {
  const {message, details} = toJSON(err);
  process.stderr.write(`driver: ${message}\n`);
  process.exitCode = (details?.runExit as number | undefined) ?? 1;
}
