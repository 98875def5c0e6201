/** Finds the OCI runtime (runc or crun), and runs its commands `--version`, `state` and `delete`. */
import {existsSync, readFileSync} from 'node:fs';
import {basename, join} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';
import {findProgram, type RunResult, run} from '../fs/spawn.ts';

export interface Runtime {
  /** The file's name, such as `runc` or `crun`. */
  readonly name: string;
  readonly path: string;
}

/** Defaults; the first that is installed is used. */
const RUNTIMES = ['runc', 'crun'] as const;

/**
 * @param name program or path; default: environment variable `RUNC`, else runc, else crun
 * @throws unavailable it is not installed
 */
export function findRuntime(name = process.env.RUNC): Runtime {
  for (const candidate of name === undefined || name === '' ? RUNTIMES : [name]) {
    const path = findProgram(candidate);
    if (path !== undefined) return {name: basename(path), path};
  }
  throw new ErrdefsError('unavailable', `runtime ${JSON.stringify(name || RUNTIMES[0])} is not installed`, {
    hint: 'install runc 1.1.12 or newer',
  });
}

/** Runs a command of the runtime. */
export const runRuntime = ({path}: Runtime, args: readonly string[]): Promise<RunResult> => run(path, args, {package: 'runc'});

/**
 * The runtime's version.
 *
 * @returns its numbers, such as `[1, 1, 15]`, and its text; `undefined` if the output is not that of a runtime
 */
export async function runtimeVersion(
  runtime: Runtime,
): Promise<{readonly numbers: readonly [number, number, number]; readonly text: string} | undefined> {
  const {stdout} = await runRuntime(runtime, ['--version']);
  const match = /^\S+ version ((\d+)\.(\d+)(?:\.(\d+))?\S*)/.exec(stdout.toString());
  return match === null ? undefined : {numbers: [Number(match[2]), Number(match[3]), Number(match[4] ?? 0)], text: match[1]!};
}

/** Error messages in a log of `--log-format json`, oldest first; none without a log. */
export function runtimeErrors(logFile: string): readonly string[] {
  if (!existsSync(logFile)) return [];
  return readFileSync(logFile, 'utf8')
    .split('\n')
    .flatMap((line) => {
      try {
        const {level, msg} = JSON.parse(line) as {level?: unknown; msg?: unknown};
        return level === 'error' && typeof msg === 'string' ? [msg] : [];
      } catch {
        return []; // a killed runtime's last line
      }
    });
}

export interface ContainerState {
  /** creating, created, running or stopped (runtime specification), or paused (runc). */
  readonly status: string;
  /** PID of the container's first process; 0 without one. */
  readonly pid: number;
}

/** @returns `undefined` if the runtime has no such container */
export async function containerState(runtime: Runtime, root: string, id: string): Promise<ContainerState | undefined> {
  if (!existsSync(join(root, id))) return undefined;
  const {status, stdout} = await runRuntime(runtime, ['--root', root, 'state', id]);
  return status === 0 ? (JSON.parse(stdout.toString()) as ContainerState) : undefined;
}

/**
 * Kills a container's processes and deletes its state; succeeds if there is none.
 *
 * @throws unknown the runtime failed
 */
export async function deleteContainer(runtime: Runtime, root: string, id: string): Promise<void> {
  if (!existsSync(join(root, id))) return;
  const {status, stderr} = await runRuntime(runtime, ['--root', root, 'delete', '--force', id]);
  if (status !== 0 && existsSync(join(root, id)))
    throw new ErrdefsError('unknown', `unable to delete container ${JSON.stringify(id)}: ${stderr.trim()}`);
}
