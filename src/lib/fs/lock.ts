/**
 * Locks between processes. proper-lockfile does the locking; this file gives it a filesystem in which a lock knows its
 * holder, so that one whose holder was killed is free at once and one whose holder is merely stopped is never broken.
 */
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {listIfPresent, unlinkIfPresent} from './durable.ts';
import {describeProcess, formatIdentity, liveness, ownIdentity, parseIdentity} from './process.ts';

export interface LockOptions {
  /** How long to wait for another holder, in milliseconds; 0 does not wait. */
  readonly timeoutMs: number;
  /** Wait on for as long as the holder shows life: what it does may rightly take long. `timeoutMs` then counts from its last sign (one every 5 s). */
  readonly whileAlive?: boolean;
  /** What the lock is held for, in a few words without secrets; shown to those who wait in vain. */
  readonly purpose?: string;
  readonly signal?: AbortSignal;
  /** Called once, when the first attempt found the lock held. */
  readonly onWait?: () => void;
}

export interface Lock extends Disposable {
  /** Gives the lock back; a second call does nothing. */
  release(): void;
}

/** The staleness that proper-lockfile applies, in milliseconds, where a holder's life cannot be seen (another pid namespace). */
const STALE_MS = 10_000;

interface Owner {
  readonly file: string;
  readonly purpose: string;
  readonly since: number;
}

const errno = (code: string, path: string): NodeJS.ErrnoException => Object.assign(new Error(`${code}: ${path}`), {code, path});

/** The one owner file in a lock directory; `undefined` when the lock is free. */
function readOwner(lockPath: string): Owner | undefined {
  let names: string[];
  try {
    names = readdirSync(lockPath);
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw err;
  }
  const name = names[0];
  if (name === undefined) return undefined;
  const file = join(lockPath, name);
  try {
    const [since, ...purpose] = readFileSync(file, 'utf8').split(' ');
    return {file, since: Number(since), purpose: purpose.join(' ')};
  } catch {
    return {file, since: Date.now(), purpose: ''};
  }
}

/**
 * proper-lockfile's `fs`: a lock is a directory that holds its owner's file. Taking it renames a private directory with
 * that file onto the lock's name, which the kernel allows only while the lock is missing or empty; so there is no moment
 * at which a lock is held and nobody knows by whom. A dead owner's file is unlinked by exact name, so two who find it
 * dead cannot both win, and neither can remove a third one's lock.
 */
function ownedLockFs(lockPath: string, purpose: string) {
  const name = `${formatIdentity(ownIdentity())}.${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`;
  const owned = join(lockPath, name);
  const call =
    <T>(fn: () => T) =>
    (...args: unknown[]): void => {
      const callback = args.at(-1) as (err: unknown, value?: T) => void;
      let value: T;
      try {
        value = fn();
      } catch (err) {
        callback(err);
        return;
      }
      callback(null, value);
    };

  const take = (): void => {
    const prepared = `${lockPath}.${name}`;
    mkdirSync(prepared, {recursive: true, mode: 0o700});
    try {
      writeFileSync(join(prepared, name), `${Date.now()} ${purpose}`, {mode: 0o600});
      renameSync(prepared, lockPath);
    } catch (err) {
      rmSync(prepared, {recursive: true, force: true});
      const {code} = err as NodeJS.ErrnoException;
      throw code === 'ENOTEMPTY' || code === 'EEXIST' ? errno('EEXIST', lockPath) : err;
    }
  };
  const stat = (): {mtime: Date} => {
    const owner = readOwner(lockPath);
    if (owner === undefined) throw errno('ENOENT', lockPath);
    const identity = parseIdentity(basename(owner.file));
    const life = identity === undefined ? 'unknown' : liveness(identity);
    if (owner.file !== owned && life === 'alive') return {mtime: new Date()};
    if (life === 'dead') {
      unlinkSync(owner.file); // ENOENT: another waiter was first; proper-lockfile then tries to take the lock anew
      throw errno('ENOENT', lockPath);
    }
    return statSync(owner.file);
  };
  const free = (): void => {
    unlinkIfPresent(owned);
    removeIfEmpty(lockPath);
  };
  const breakStale = (): void => {
    const owner = readOwner(lockPath);
    if (owner === undefined || owner.file === owned) free();
    else if (Date.now() - statSync(owner.file).mtimeMs > STALE_MS) unlinkSync(owner.file);
  };
  return {
    mkdir: call(take),
    stat: call(stat),
    rmdir: call(breakStale),
    rmdirSync: free,
    utimes: (_path: string, atime: Date, mtime: Date, callback: (err: unknown) => void) =>
      call(() => utimesSync(owned, atime, mtime))(callback),
    realpath: (path: string, callback: (err: null, path: string) => void) => callback(null, path),
  };
}

/** What a timer can hold, in milliseconds. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Lock paths that this process holds or waits for: its own callers queue here instead of polling the disk against each other. */
const queues = new Map<string, Promise<void>>();

const sleep = (ms: number, signal?: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    signal?.addEventListener('abort', stop, {once: true});
  });

/**
 * Takes the lock at `path`, a directory that is made where it is missing.
 *
 * A holder that was killed costs nothing: the next one sees that the process is gone. A holder that is stopped or whose
 * event loop stands still keeps the lock. Only where a holder's life cannot be seen (another pid namespace) does
 * proper-lockfile's rule apply: no sign of life for 10 s.
 *
 * @throws unavailable it was held for all of `timeoutMs`; the message names holder, purpose and age
 * @throws canceled | deadline_exceeded `signal` was aborted
 */
export async function acquireLock(path: string, options: LockOptions): Promise<Lock> {
  const started = Date.now();
  const previous = queues.get(path);
  let leaveQueue = (): void => {};
  const turn = new Promise<void>((resolve) => {
    leaveQueue = resolve;
  });
  const queue = (previous ?? Promise.resolve()).then(() => turn);
  queues.set(path, queue);
  const leave = (): void => {
    leaveQueue();
    if (queues.get(path) === queue) queues.delete(path);
  };
  try {
    let waiting = false;
    const wait = (): void => {
      if (!waiting) options.onWait?.();
      waiting = true;
    };
    if (previous !== undefined) {
      wait();
      const waited = new AbortController();
      const signal = options.signal === undefined ? waited.signal : AbortSignal.any([waited.signal, options.signal]);
      const timeout = sleep(options.whileAlive ? LONGEST_TIMER_MS : Math.min(options.timeoutMs, LONGEST_TIMER_MS), signal).then(() =>
        Promise.reject(held(path)),
      );
      await Promise.race([previous, timeout]).finally(() => waited.abort());
    }
    const {default: lockfile} = await import('proper-lockfile');
    mkdirSync(dirname(path), {recursive: true, mode: 0o700});
    for (let delay = 1; ; delay = Math.min(delay * 1.4, 25)) {
      options.signal?.throwIfAborted();
      try {
        const release = await lockfile.lock(path, {
          lockfilePath: path,
          realpath: false,
          stale: STALE_MS,
          fs: ownedLockFs(path, options.purpose ?? ''),
          onCompromised: () => {}, // the commit itself refuses: see store/journal.ts
        });
        let released = false;
        const give = (): void => {
          if (released) return;
          released = true;
          void release().catch(() => {});
          leave();
        };
        return {release: give, [Symbol.dispose]: give};
      } catch (err) {
        if ((err as {code?: unknown}).code !== 'ELOCKED') throw err;
      }
      wait();
      const deadline = Math.max(started, options.whileAlive ? lastSignOfLife(path) : 0) + options.timeoutMs;
      if (Date.now() >= deadline) throw held(path);
      await sleep(Math.min(delay * (0.5 + Math.random()), Math.max(deadline - Date.now(), 0)), options.signal);
    }
  } catch (err) {
    leave();
    throw fromErrno(err, `lock ${path}`);
  }
}

/** When the holder last touched its file, in milliseconds since the epoch; 0 when there is none. proper-lockfile sets it up to a second into the future. */
function lastSignOfLife(path: string): number {
  const owner = readOwner(path);
  return owner === undefined ? 0 : (statSync(owner.file, {throwIfNoEntry: false})?.mtimeMs ?? 0);
}

function held(path: string): ErrdefsError {
  const owner = readOwner(path);
  if (owner === undefined) return new ErrdefsError('unavailable', `lock ${path} is held`);
  const identity = parseIdentity(basename(owner.file));
  const who = identity === undefined ? 'another process' : describeProcess(identity);
  const ageMs = Math.max(0, Date.now() - owner.since);
  return new ErrdefsError(
    'unavailable',
    `lock ${path} is held by ${who}${owner.purpose === '' ? '' : ` for ${owner.purpose}`} since ${(ageMs / 1000).toFixed(1)} s`,
    {
      hint: 'wait for it, or give more time with --lock-timeout',
      details: {path, ...(identity === undefined ? {} : {pid: identity.pid}), purpose: owner.purpose, ageMs},
    },
  );
}

/** Whether a living process holds the lock at `path`. */
export function isLockHeld(path: string): boolean {
  const owner = readOwner(path);
  if (owner === undefined) return false;
  const identity = parseIdentity(basename(owner.file));
  return identity === undefined || liveness(identity) !== 'dead';
}

/** Removes what killed processes left among the locks of `directory`: locks, and attempts at them. */
export function sweepLocks(directory: string): void {
  for (const name of listIfPresent(directory)) {
    const path = join(directory, name);
    const attempt = /\.(\d+\.\d+\.[0-9a-f]{32}\.\d+)\.[0-9a-z]+$/.exec(name);
    if (attempt !== null) {
      if (liveness(parseIdentity(attempt[1]!)!) === 'dead') rmSync(path, {recursive: true, force: true});
      continue;
    }
    const owner = readOwner(path);
    const identity = owner === undefined ? undefined : parseIdentity(basename(owner.file));
    if (identity === undefined || liveness(identity) !== 'dead') continue;
    unlinkIfPresent(owner!.file);
    removeIfEmpty(path);
  }
}

function removeIfEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch {
    // Somebody has taken the lock already, or has removed it: free is all it had to be.
  }
}
