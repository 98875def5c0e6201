/**
 * Checks before the start that the kernel can execute a container's command. A runtime exits with 1 for a missing command, for one that
 * is not executable, and for a container that exited with 1; the three can be told apart only here.
 */
import {Buffer} from 'node:buffer';
import {readdirSync, readFileSync, type Stats} from 'node:fs';
import {ErrdefsError, hasCode} from '../errdefs.ts';
import type {MountPoints, ResolvedFile, RootReader} from './path-in-root.ts';
import {isBind, type Spec} from './spec.ts';

/** Exit statuses for a failure before the container's command ran, as in docker and POSIX shells. */
export const RUN_FAILED = 125;
export const NOT_EXECUTABLE = 126;
export const COMMAND_NOT_FOUND = 127;

/** BINPRM_BUF_SIZE: bytes that the kernel reads to detect the format. */
const HEAD = 256;
/** Nested interpreters that the kernel accepts. */
const MAX_INTERPRETERS = 5;
const MAX_INTERPRETER_PATH = 4096;
const MAX_PROGRAM_HEADERS = 65_536;
const PT_INTERP = 3;

/** ELF machines that a kernel executes natively, by Node's name of its architecture. */
const MACHINES: Readonly<Record<string, readonly number[]>> = {
  x64: [62, 3],
  ia32: [3],
  arm64: [183, 40],
  arm: [40],
  riscv64: [243],
  ppc64: [21, 20],
  s390x: [22],
  loong64: [258],
};

/** The mount points of the specification's mounts. */
export function mountPoints(rootfs: RootReader, spec: Spec): MountPoints {
  const points = new Map<string, string | undefined>();
  for (const mount of spec.mounts) points.set(rootfs.mountTarget(mount.destination, points), isBind(mount) ? mount.source : undefined);
  return points;
}

function missing(what: string, hint?: string): ErrdefsError {
  return new ErrdefsError('not_found', what, {...(hint === undefined ? {} : {hint}), details: {runExit: COMMAND_NOT_FOUND}});
}

function denied(what: string, hint?: string): ErrdefsError {
  return new ErrdefsError('permission_denied', what, {...(hint === undefined ? {} : {hint}), details: {runExit: NOT_EXECUTABLE}});
}

/** Whether the process may execute (or search) it. The specification's capabilities are effective for every user. */
function mayExecute(stats: Stats, {user, capabilities}: Spec['process']): boolean {
  if (capabilities.effective.includes('CAP_DAC_OVERRIDE')) return stats.isDirectory() || (stats.mode & 0o111) !== 0;
  if (stats.uid === user.uid) return (stats.mode & 0o100) !== 0;
  const inGroup = stats.gid === user.gid || user.additionalGids.includes(stats.gid);
  return (stats.mode & (inGroup ? 0o010 : 0o001)) !== 0;
}

/** Whether binfmt_misc has formats registered, such as another architecture's through qemu. */
function knowsForeignFormats(): boolean {
  try {
    return readdirSync('/proc/sys/fs/binfmt_misc').some((name) => name !== 'register' && name !== 'status');
  } catch {
    return false;
  }
}

interface Program {
  /** Command or interpreter, for errors. */
  readonly what: string;
  readonly found: ResolvedFile;
}

/** The interpreter of a script or a dynamically linked program; `undefined` if it needs none. See execve(2), elf(5). */
function interpreterOf({what, found}: Program): string | undefined {
  const head = found.read(0, HEAD);
  if (head.toString('latin1', 0, 2) === '#!') {
    const name = /^#![ \t]*([^ \t\n\0]+)[ \t\n\0]/.exec(head.toString().padEnd(HEAD + 1, '\0'))?.[1];
    if (name === undefined) throw denied(`${what}: its first line names no interpreter`);
    return name;
  }
  if (head.toString('latin1', 0, 4) !== '\x7fELF' || head.length < 64) {
    if (knowsForeignFormats()) return undefined;
    throw denied(`${what}: the kernel cannot execute its format`, 'a script needs a first line such as #!/bin/sh');
  }
  const wide = head[4] === 2;
  const little = head[5] === 1;
  const u16 = (buffer: Buffer, at: number): number => (little ? buffer.readUInt16LE(at) : buffer.readUInt16BE(at));
  const u32 = (buffer: Buffer, at: number): number => (little ? buffer.readUInt32LE(at) : buffer.readUInt32BE(at));
  const u64 = (buffer: Buffer, at: number): number => Number(little ? buffer.readBigUInt64LE(at) : buffer.readBigUInt64BE(at));
  const word = wide ? u64 : u32;
  const machine = u16(head, 18);
  if (!(MACHINES[process.arch]?.includes(machine) ?? true)) {
    if (knowsForeignFormats()) return undefined;
    throw denied(
      `${what} is built for another machine (ELF ${machine}, this one is ${process.arch})`,
      'pull the image for the platform of this machine',
    );
  }
  const size = u16(head, wide ? 54 : 42);
  const entry = wide ? 56 : 32;
  const table = found.read(word(head, wide ? 32 : 28), Math.min(size * u16(head, wide ? 56 : 44), MAX_PROGRAM_HEADERS));
  for (let at = 0; size >= entry && at + entry <= table.length; at += size) {
    if (u32(table, at) !== PT_INTERP) continue;
    const length = Math.min(word(table, at + (wide ? 32 : 16)), MAX_INTERPRETER_PATH);
    return found
      .read(word(table, at + (wide ? 8 : 4)), length)
      .toString()
      .split('\0', 1)[0]!;
  }
  return undefined;
}

/** MAX_ARG_STRLEN of execve(2): bytes of one argument or variable, including its NUL. */
const MAX_STRING_BYTES = 128 << 10;
const POINTER_BYTES = 8;

/** Most bytes of all arguments, variables and pointers for execve(2): a quarter of the stack limit, within bounds. */
function spaceForStrings(): number {
  const stack = /^Max stack size\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1];
  const quarter = stack === 'unlimited' || stack === undefined ? Number.POSITIVE_INFINITY : Number(stack) / 4;
  return Math.max(Math.min(quarter, 6 << 20), MAX_STRING_BYTES);
}

/** @throws invalid_argument the kernel would return E2BIG; `details.runExit` 126 */
function checkSize(args: readonly string[], env: readonly string[]): void {
  const tooLarge = (what: string, hint: string): ErrdefsError =>
    new ErrdefsError('invalid_argument', what, {hint, details: {runExit: NOT_EXECUTABLE, errno: 'E2BIG'}});
  const size = (text: string): number => Buffer.byteLength(text) + 1;
  const most = MAX_STRING_BYTES - 1;
  for (const entry of env) {
    if (size(entry) <= MAX_STRING_BYTES) continue;
    const name = entry.split('=', 1)[0]!.slice(0, 100);
    throw tooLarge(
      `environment variable ${JSON.stringify(name)} has ${size(entry) - 1} B, and the kernel takes ${most} B`,
      `remove it with --env ${name}, or set it with --env ${name}=VALUE`,
    );
  }
  const long = args.findIndex((arg) => size(arg) > MAX_STRING_BYTES);
  if (long >= 0)
    throw tooLarge(`argument ${long} has ${size(args[long]!) - 1} B, and the kernel takes ${most} B`, 'pass it in a file of a mount');
  const strings = [args[0]!, ...args, ...env].reduce((sum, text) => sum + size(text), 0);
  const total = strings + POINTER_BYTES * (args.length + env.length);
  const space = spaceForStrings();
  if (total > space)
    throw tooLarge(
      `arguments and environment of the command have ${total} B, and the kernel takes ${space} B`,
      'remove variables with --env NAME, or raise the limit of the stack: ulimit -s',
    );
}

/** @throws invalid_argument for execve(2) it would end a string; `details.runExit` 126 */
function checkNul({args, env, cwd}: Spec['process']): void {
  const variable = env.find((entry) => entry.includes('\0'))?.split(/[=\0]/, 1)[0];
  const what = [
    ...(args.some((arg) => arg.includes('\0')) ? ['an argument'] : []),
    ...(variable === undefined ? [] : [`environment variable ${JSON.stringify(variable)}`]),
    ...(cwd.includes('\0') ? ['the working directory'] : []),
  ];
  if (what.length > 0) throw new ErrdefsError('invalid_argument', `${what[0]} has a NUL byte`, {details: {runExit: NOT_EXECUTABLE}});
}

/**
 * Refuses a command that the kernel would refuse. Files that are not visible from here, such as those in a tmpfs of the container, are
 * left to the runtime.
 *
 * @throws not_found the command or its interpreter does not exist; `details.runExit` 127
 * @throws permission_denied it cannot be executed; `details.runExit` 126
 * @throws invalid_argument its arguments and environment are too large, or have a NUL; `details.runExit` 126
 */
export function checkCommand(rootfs: RootReader, {process}: Pick<Spec, 'process'>, mounts: MountPoints): void {
  checkNul(process);
  /** Calls `use` with the executable at `path`; `undefined` if it is not visible. */
  const find = <T>(path: string, what: string, use: (program: Program) => T): T | undefined => {
    const look = (found: ResolvedFile): T => {
      if (found.searched.some((directory) => !mayExecute(directory, process)))
        throw denied(`${what}: the user may not search its directory`);
      if (found.stats.isDirectory()) throw denied(`${what} is a directory`);
      if (!found.stats.isFile() || !mayExecute(found.stats, process)) throw denied(`${what} is not executable`);
      return use({what, found});
    };
    try {
      return rootfs.lookup(path.startsWith('/') ? path : `${process.cwd}/${path}`, look, mounts);
    } catch (err) {
      const {code = ''} = err as NodeJS.ErrnoException;
      if (code === 'EXDEV') return undefined;
      if (code === 'ENOENT' || code === 'ENOTDIR') throw missing(what);
      if (code === 'ELOOP' || code === 'ENAMETOOLONG') throw denied(`${what}: ${code}`);
      throw err;
    }
  };

  const name = process.args[0]!;
  const command = `command ${JSON.stringify(name)}`;
  const follow = (interpreter: string | undefined, depth: number): void => {
    if (interpreter === undefined) return;
    if (depth === MAX_INTERPRETERS) throw denied(`${command}: too many interpreters that are scripts themselves`);
    follow(find(interpreter, `interpreter ${JSON.stringify(interpreter)} of ${command}`, interpreterOf), depth + 1);
  };
  /** The first executable file in PATH counts, even if the kernel rejects its format. */
  const search = (): string => {
    const directories = process.env.findLast((entry) => entry.startsWith('PATH='))?.slice('PATH='.length) ?? '';
    let refusal: unknown;
    for (const directory of directories.split(':').filter((dir) => dir.startsWith('/'))) {
      const path = `${directory}/${name}`;
      try {
        find(path, command, () => undefined);
        return path;
      } catch (err) {
        if (!hasCode(err, 'not_found')) refusal ??= err;
      }
    }
    throw refusal ?? missing(command, `PATH in the container is ${JSON.stringify(directories)}`);
  };
  follow(find(name.includes('/') ? name : search(), command, interpreterOf), 0);
  checkSize(process.args, process.env);
}
