/** The OCI runtime as a program: where it is, which it is, and the few of its commands that outlive a run. */
import {existsSync, readFileSync} from 'node:fs';
import {basename, join} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';
import {findProgram, searchPath} from '../fs/spawn.ts';

export interface Runtime {
  /** `runc`, `crun`, or whatever the file is called. */
  readonly name: string;
  readonly path: string;
}

/** Default program names, the first that is installed. */
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

/** @throws unavailable it is not installed */
export function requireProgram(name: string, what: string): string {
  const path = findProgram(name);
  if (path === undefined) throw new ErrdefsError('unavailable', `${name} is not installed`, {hint: `install ${what}`});
  return path;
}

export interface Outcome {
  /** Exit status; -1 when a signal ended it. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end. Only what keeps it from starting is thrown. */
export async function capture(path: string, args: readonly string[]): Promise<Outcome> {
  const {execFile} = await import('node:child_process');
  return new Promise((done, fail) => {
    execFile(path, args, {env: {PATH: searchPath()}, maxBuffer: 16 * 1024 * 1024}, (err, stdout, stderr) => {
      const {code} = err ?? {code: 0};
      if (typeof code === 'string') fail(err);
      else done({status: code ?? -1, stdout, stderr});
    });
  });
}

/**
 * What the runtime says it is.
 *
 * @returns numbers of the version, such as `[1, 1, 15]`, and the version as written; `undefined` when it does not answer as runtimes do
 */
export async function runtimeVersion(
  runtime: Runtime,
): Promise<{readonly numbers: readonly [number, number, number]; readonly text: string} | undefined> {
  const {stdout} = await capture(runtime.path, ['--version']);
  const match = /^\S+ version ((\d+)\.(\d+)(?:\.(\d+))?\S*)/.exec(stdout);
  return match === null ? undefined : {numbers: [Number(match[2]), Number(match[3]), Number(match[4] ?? 0)], text: match[1]!};
}

/** Messages of level error of a log that a runtime wrote with `--log-format json`, oldest first; none when there is no log. */
export function runtimeErrors(logFile: string): readonly string[] {
  if (!existsSync(logFile)) return [];
  return readFileSync(logFile, 'utf8')
    .split('\n')
    .flatMap((line) => {
      try {
        const {level, msg} = JSON.parse(line) as {level?: unknown; msg?: unknown};
        return level === 'error' && typeof msg === 'string' ? [msg] : [];
      } catch {
        return []; // the last line of a runtime that was killed
      }
    });
}

export interface ContainerState {
  /** Of the specification: creating, created, running, stopped; runc has paused as well. */
  readonly status: string;
  /** Of the container's first process; 0 when there is none. */
  readonly pid: number;
}

/** @returns `undefined` when the runtime knows no such container */
export async function containerState(runtime: Runtime, root: string, id: string): Promise<ContainerState | undefined> {
  if (!existsSync(join(root, id))) return undefined;
  const {status, stdout} = await capture(runtime.path, ['--root', root, 'state', id]);
  return status === 0 ? (JSON.parse(stdout) as ContainerState) : undefined;
}

/**
 * Ends what still runs of a container and forgets it. That there is none is success.
 *
 * @throws unknown the runtime could not
 */
export async function deleteContainer(runtime: Runtime, root: string, id: string): Promise<void> {
  if (!existsSync(join(root, id))) return;
  const {status, stderr} = await capture(runtime.path, ['--root', root, 'delete', '--force', id]);
  if (status !== 0 && existsSync(join(root, id)))
    throw new ErrdefsError('unknown', `unable to delete container ${JSON.stringify(id)}: ${stderr.trim()}`);
}
