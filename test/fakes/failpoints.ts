/**
 * Stops or faults at the n-th call that changes something on the disk.
 *
 * The calls counted are the synchronous state-changing ones of node:fs on paths below one directory, and child processes
 * that are given such a path. They are patched in the module that everybody imports, so the code under test is the code
 * that ships. As a preload (`node --import`) it obeys the environment; in a test's own process it is `arm`ed.
 *
 *     FAILPOINT=kill:17      SIGKILL instead of the 17th call
 *     FAILPOINT=ENOSPC:17    the 17th call throws this errno; `ENOSPC:17+` every one from there on
 *     FAILPOINT=kill:17~     of a write, half is done before
 *     FAILPOINT_BELOW=DIR    the directory
 *     FAILPOINT_LOG=FILE     gets a line for each call; for the reader of a failure
 *
 * Worker threads that run a file count along: a preload is run in each of them, and they share one counter.
 *
 * After containerd, internal/failpoint, and SQLite's I/O-error and crash tests (test/ioerr.test, test/crash.test).
 */
import childProcess from 'node:child_process';
import fs from 'node:fs';
import {syncBuiltinESMExports} from 'node:module';
import {isAbsolute, join, resolve} from 'node:path';
import {getEnvironmentData, isMainThread, setEnvironmentData} from 'node:worker_threads';
import {formatIdentity, ownIdentity} from '../../src/lib/fs/process.ts';

export interface Failpoint {
  /** Paths below it count. */
  readonly below: string;
  /** `kill`, or an errno. */
  readonly action: string;
  /** Number of the call, from 1 on; 0 only counts. */
  readonly at: number;
  /**
   * The errno stays from then on: nothing more is changed. On the disk that is what a kill leaves, and it needs no process
   * of its own; see `killedHere`.
   */
  readonly lasting?: boolean;
  /** Of a write, half is done before. */
  readonly torn?: boolean;
  /** Calls that count. @param path below `below`, with a leading slash */
  readonly only?: (name: string, path: string) => boolean;
}

/** Functions whose first argument is a path, and which change what it names. */
const ON_PATHS = [
  'writeFileSync',
  'appendFileSync',
  'truncateSync',
  'unlinkSync',
  'mkdirSync',
  'mkdtempSync',
  'rmdirSync',
  'rmSync',
  'chmodSync',
  'lchownSync',
  'chownSync',
  'utimesSync',
  'lutimesSync',
] as const;

/** Functions whose second argument is the path that comes to be. */
const ON_TWO_PATHS = ['renameSync', 'linkSync', 'symlinkSync', 'copyFileSync', 'cpSync'] as const;

/** Functions on an open descriptor. */
const ON_DESCRIPTORS = [
  'writeSync',
  'writevSync',
  'fsyncSync',
  'fdatasyncSync',
  'ftruncateSync',
  'fchmodSync',
  'fchownSync',
  'futimesSync',
] as const;

const PROGRAMS = ['spawnSync', 'execFileSync', 'spawn', 'execFile'] as const;

const {O_WRONLY, O_RDWR, O_CREAT, O_TRUNC} = fs.constants;
const changes = (flags: unknown): boolean =>
  typeof flags === 'number'
    ? (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) !== 0
    : typeof flags === 'string' && flags !== 'r' && flags !== 'rs';

type Any = (...args: unknown[]) => unknown;
const original = new Map<string, Any>();
/** Open descriptors of files below → path. */
const descriptors = new Map<number, string>();

let armed: Failpoint | undefined;
let log: string | undefined;
/** `[0]` counts the calls, `[1]` those that failed. */
let counters = new Int32Array(new SharedArrayBuffer(8));
/** Not zero while a patched function runs another one: it is one call. */
let depth = 0;

const realWrite = fs.writeSync;
const realAppend = fs.appendFileSync;

/** Calls so far, and how many of them failed. */
export const counted = (): {readonly calls: number; readonly failures: number} => ({
  calls: Atomics.load(counters, 0),
  failures: Atomics.load(counters, 1),
});

function isBelow(path: unknown): path is string {
  if (armed === undefined || (typeof path !== 'string' && !Buffer.isBuffer(path))) return false;
  const text = String(path);
  const absolute = isAbsolute(text) ? text : resolve(text);
  return absolute === armed.below || absolute.startsWith(`${armed.below}/`);
}

/** Counts a call, and does to it what is due. */
function pass(name: string, path: string, half?: () => void): void {
  const {action, at, lasting = false, torn = false, only} = armed!;
  if (only?.(name, path.slice(armed!.below.length)) === false) return;
  const n = Atomics.add(counters, 0, 1) + 1;
  if (log !== undefined) realAppend(log, `${n} ${name} ${path.slice(armed!.below.length)}\n`);
  if (at === 0 || (lasting ? n < at : n !== at)) return;
  if (torn && n === at) half?.();
  if (action === 'kill') {
    process.kill(process.pid, 'SIGKILL');
    for (;;); // it comes in a moment; nothing more may happen
  }
  Atomics.add(counters, 1, 1);
  throw Object.assign(new Error(`${action}: injected, ${name} '${path}'`), {
    code: action,
    syscall: name.replace(/Sync$/, ''),
    path,
  });
}

function patch(module: object, name: string, around: (call: Any, args: unknown[]) => unknown): void {
  const functions = module as Record<string, Any>;
  const call = functions[name]!;
  original.set(name, call);
  functions[name] = function (this: unknown, ...args: unknown[]) {
    if (armed === undefined || depth > 0) return call.apply(this, args);
    depth++;
    try {
      return around((...given) => call.apply(this, given), args);
    } finally {
      depth--;
    }
  };
}

function install(): void {
  if (original.size > 0) return;
  for (const name of ON_PATHS)
    patch(fs, name, (call, args) => {
      const path = typeof args[0] === 'number' ? descriptors.get(args[0]) : args[0];
      if (isBelow(path)) pass(name, path, name === 'writeFileSync' ? () => halfFile(args) : undefined);
      return call(...args);
    });
  for (const name of ON_TWO_PATHS)
    patch(fs, name, (call, args) => {
      const path = [args[1], args[0]].find(isBelow);
      if (path !== undefined) pass(name, path);
      return call(...args);
    });
  for (const name of ON_DESCRIPTORS)
    patch(fs, name, (call, args) => {
      const path = descriptors.get(args[0] as number);
      if (path !== undefined && isBelow(path)) pass(name, path, name === 'writeSync' ? () => halfWrite(args) : undefined);
      return call(...args);
    });
  patch(fs, 'openSync', (call, args) => {
    const [path, flags = 'r'] = args;
    if (isBelow(path) && changes(flags)) pass('openSync', path);
    const fd = call(...args) as number;
    if (isBelow(path)) descriptors.set(fd, String(path));
    return fd;
  });
  patch(fs, 'closeSync', (call, args) => {
    descriptors.delete(args[0] as number);
    return call(...args);
  });
  for (const name of PROGRAMS)
    patch(childProcess, name, (call, args) => {
      const path = (Array.isArray(args[1]) ? args[1] : []).find(isBelow);
      try {
        if (path !== undefined) pass(name, path);
      } catch (error) {
        if (name !== 'spawnSync') throw error;
        return {pid: 0, status: null, signal: null, stdout: Buffer.alloc(0), stderr: Buffer.alloc(0), output: [], error};
      }
      return call(...args);
    });
  syncBuiltinESMExports();
}

/** Half of what `writeSync` was to write. */
function halfWrite([fd, data, ...rest]: unknown[]): void {
  if (typeof data === 'string') realWrite(fd as number, data.slice(0, data.length >> 1), ...(rest as []));
  else
    realWrite(
      fd as number,
      data as Uint8Array,
      (rest[0] as number | undefined) ?? 0,
      ((rest[1] as number | undefined) ?? (data as Uint8Array).length) >> 1,
    );
}

/** Half of what `writeFileSync` was to write. */
function halfFile([file, data, options]: unknown[]): void {
  const bytes = typeof data === 'string' ? Buffer.from(data) : Buffer.from(data as Uint8Array);
  const {mode} = (options ?? {}) as {readonly mode?: number};
  const fd = typeof file === 'number' ? file : original.get('openSync')!(file, 'w', mode);
  realWrite(fd as number, bytes.subarray(0, bytes.length >> 1));
}

/** From now on calls are counted, and the `at`-th meets its fate. */
export function arm(failpoint: Failpoint): void {
  install();
  counters.fill(0);
  armed = {...failpoint, below: resolve(failpoint.below)};
}

/** Everything goes through again. @returns what was counted */
export function disarm(): {readonly calls: number; readonly failures: number} {
  armed = undefined;
  descriptors.clear();
  return counted();
}

/**
 * Makes what this process left below a directory a dead one's: after everything failed from some call on, that is the
 * state of the disk after a kill at this call.
 */
export function killedHere(directory: string): void {
  const own = formatIdentity(ownIdentity());
  const dead = formatIdentity({...ownIdentity(), startTime: '1'});
  const visit = (path: string): void => {
    for (const name of fs.readdirSync(path)) {
      const file = join(path, name);
      const stat = fs.lstatSync(file);
      if (stat.isDirectory()) visit(file);
      else if (name.endsWith('.json') || /^\d{16}$/.test(name)) {
        const text = fs.readFileSync(file, 'utf8');
        if (text.includes(own)) fs.writeFileSync(file, text.replaceAll(own, dead));
      }
      if (name.includes(own)) fs.renameSync(file, join(path, name.replaceAll(own, dead)));
    }
  };
  if (fs.existsSync(directory)) visit(directory);
}

/** Environment and options for a child of Node that obeys `failpoint`. */
export function failpointOptions(
  {below, action, at, lasting = false, torn = false}: Failpoint,
  logFile?: string,
): {env: Record<string, string>; execArgv: string[]} {
  return {
    execArgv: ['--import', import.meta.url],
    env: {
      FAILPOINT: `${action}:${at}${lasting ? '+' : ''}${torn ? '~' : ''}`,
      FAILPOINT_BELOW: below,
      ...(logFile === undefined ? {} : {FAILPOINT_LOG: logFile}),
    },
  };
}

const asked = /^(\w+):(\d+)(\+?)(~?)$/.exec(process.env.FAILPOINT ?? '');
if (asked !== null) {
  if (isMainThread) setEnvironmentData('failpoint counters', counters.buffer);
  else counters = new Int32Array(getEnvironmentData('failpoint counters') as SharedArrayBuffer);
  log = process.env.FAILPOINT_LOG;
  install();
  armed = {
    below: resolve(process.env.FAILPOINT_BELOW ?? '/'),
    action: asked[1]!,
    at: Number(asked[2]),
    lasting: asked[3] === '+',
    torn: asked[4] === '~',
  };
}
