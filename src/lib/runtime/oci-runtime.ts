/** Finds the OCI runtime (runc or crun), and runs its commands `--version`, `state` and `delete`. */
import {existsSync, readFileSync} from 'node:fs';
import {constants} from 'node:os';
import {basename, join} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';
import {liveness, ownIdentity} from '../fs/process.ts';
import {findProgram, type RunResult, run} from '../fs/spawn.ts';
import {isRootless} from '../user-namespace-identity.ts';

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
    hint: name === undefined || name === '' || name === 'runc' ? 'install runc 1.1.12 or newer' : 'install it, or name its path',
  });
}

/**
 * Global flags of a runtime that makes a container. In a user namespace of ours runc does without a cgroup if it is told; crun finds
 * out by itself.
 */
export const rootlessFlags = ({name}: Runtime): readonly string[] => (isRootless() && name !== 'crun' ? ['--rootless=true'] : []);

/** Runs a command of the runtime. */
export const runRuntime = ({path}: Runtime, args: readonly string[], options: {readonly input?: Uint8Array} = {}): Promise<RunResult> =>
  run(path, args, {package: 'runc', ...options});

/**
 * The error for a command of the runtime that failed. One that was killed says nothing itself.
 *
 * @param what what it was to do, such as `unable to pause task "a"`
 */
export function runtimeFailure({name}: Runtime, what: string, {status, stderr}: Pick<RunResult, 'status' | 'stderr'>): ErrdefsError {
  const [signal] = Object.entries(constants.signals).find(([, number]) => number === status - 128) ?? [];
  if (signal !== undefined) return new ErrdefsError('aborted', `${what}: ${name} was killed by ${signal}`, {hint: 'try again'});
  return new ErrdefsError('unknown', `${what}: ${stderr.trim() || `${name} ended with status ${status}`}`);
}

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

/**
 * @returns `undefined` if the runtime has no such container
 * @throws aborted the runtime was killed: what lives must not be taken for dead
 */
export async function containerState(runtime: Runtime, root: string, id: string): Promise<ContainerState | undefined> {
  if (!existsSync(join(root, id))) return undefined;
  const running = runningState(join(root, id));
  if (running !== undefined) return running;
  const result = await runRuntime(runtime, ['--root', root, 'state', id]);
  if (result.status === 0) return JSON.parse(result.stdout.toString()) as ContainerState;
  const failure = runtimeFailure(runtime, `state of container ${JSON.stringify(id)}`, result);
  if (failure.code === 'aborted') throw failure;
  return undefined;
}

/** The part in use of runc's `state.json`, which it replaces by a rename. */
interface RuncState {
  readonly init_process_pid: unknown;
  readonly init_process_start: unknown;
  readonly cgroup_paths: Readonly<Record<string, unknown>>;
}

/**
 * What the runtime says of a container that runs, without starting it, which takes 15 ms. `undefined` wherever it might say anything else:
 * the runtime is asked then.
 *
 * After runc, libcontainer/container_linux.go (runType, isPaused).
 *
 * @param directory the runtime's own, of the container
 */
function runningState(directory: string): ContainerState | undefined {
  try {
    const state = JSON.parse(readFileSync(join(directory, 'state.json'), 'utf8')) as RuncState;
    const {init_process_pid: pid, init_process_start: start, cgroup_paths: cgroups} = state;
    if (typeof pid !== 'number' || typeof start !== 'number') return undefined;
    if (liveness({...ownIdentity(), pid, startTime: String(start)}) !== 'alive') return undefined;
    // It is there until the container is started.
    if (existsSync(join(directory, 'exec.fifo'))) return undefined;
    const {freezer, '': unified} = cgroups;
    // Nothing could have paused one without a group.
    if (isRootless() && !(typeof unified === 'string' && existsSync(unified))) return {status: 'running', pid};
    const reads = (file: string, text: string): boolean => readFileSync(file, 'latin1').trim() === text;
    const thaws =
      typeof freezer === 'string'
        ? reads(join(freezer, 'freezer.state'), 'THAWED')
        : typeof unified === 'string' && reads(join(unified, 'cgroup.freeze'), '0');
    return thaws ? {status: 'running', pid} : undefined;
  } catch {
    return undefined; // another runtime, or one that is just ending
  }
}

/**
 * Kills a container's processes and deletes its state; succeeds if there is none.
 *
 * @throws unknown the runtime failed
 * @throws aborted it was killed
 */
export async function deleteContainer(runtime: Runtime, root: string, id: string): Promise<void> {
  if (!existsSync(join(root, id))) return;
  const result = await runRuntime(runtime, ['--root', root, 'delete', '--force', id]);
  if (result.status !== 0 && existsSync(join(root, id)))
    throw runtimeFailure(runtime, `unable to delete container ${JSON.stringify(id)}`, result);
}
