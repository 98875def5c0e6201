/**
 * Locks between processes. proper-lockfile does the locking; this file gives it a filesystem in which a lock knows its
 * holder, so that one whose holder was killed is free at once and one whose holder is merely stopped is never broken, and
 * lets those who wait form a queue.
 */
import type {AsyncLocalStorage} from 'node:async_hooks';
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
import {forEachDespiteErrors, listIfPresent, makeDirectories, unlinkIfPresent} from './durable.ts';
import {describeProcess, isRunning, liveness, parseIdentity, uniqueName} from './process.ts';

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
  /** Whether it was taken from one who died with it, and may have left something half done. */
  readonly inherited: boolean;
  /** Gives the lock back; a second call does nothing. */
  release(): void;
}

/** The staleness that proper-lockfile applies, in milliseconds, where a holder's life cannot be seen (another pid namespace). */
const STALE_MS = 10_000;
/** Age at which what such a process left in the queue is swept, in milliseconds. One that still waits makes its ticket anew. */
const ABANDONED_MS = 3600_000;
/** Time without any movement after which those behind in the queue try for themselves, in milliseconds: its first may be stopped. */
const STUCK_MS = 50;
/**
 * How long those who wait let others go before them who come while the lock is free, in milliseconds: one who makes change after
 * change has all at hand, and needs no change of processes. It bounds the wait: who has waited so long is served in turn.
 */
const PATIENCE_MS = 400;
/**
 * Pauses between two looks at a lock of which nobody told that it is free, in milliseconds: of the first in the queue; of those
 * behind, for each before them; and the longest. More looks would only take the processor from those who change something.
 */
const PAUSE_MS = 8;
const PAUSE_BEHIND_MS = 40;
const LONGEST_PAUSE_MS = 250;
/** Tells one who waits that a lock is free. To a process that does not expect it, it means nothing. */
const FREE_SIGNAL = 'SIGURG';
/** How long an aborted call waits for a lock at most, in milliseconds: for what others hold for moments, so that it can clean up. */
const ABORTED_MS = 500;

/** The signal of the call that this code runs for. */
let signals: AsyncLocalStorage<AbortSignal> | undefined;

/**
 * Runs a call whose waits for locks, however deep in it, last half a second at most once `signal` is aborted. Whoever holds a lock may be
 * stopped, and the caller waits. What the call does then is mostly to clean up.
 */
export function withLockWaitsUntil<T>(signal: AbortSignal, call: () => T): T {
  signals ??= new (process.getBuiltinModule('node:async_hooks').AsyncLocalStorage)<AbortSignal>();
  return signals.run(signal, call);
}

const codeOf = (err: unknown): string | undefined => (err as NodeJS.ErrnoException).code;
const errno = (code: string, path: string): NodeJS.ErrnoException => Object.assign(new Error(`${code}: ${path}`), {code, path});

/** The one file in a lock's directory, named after the holder; `undefined` when the lock is free. */
function ownerFile(lockPath: string): string | undefined {
  const name = namesIn(lockPath)[0];
  return name === undefined ? undefined : join(lockPath, name);
}

const identityOf = (file: string) => parseIdentity(basename(file));

/** Whether the holder or waiter that a file or directory is named after lives. */
function lifeOf(file: string): ReturnType<typeof liveness> {
  const identity = identityOf(file);
  return identity === undefined ? 'unknown' : liveness(identity);
}

/** Last sign of life, in milliseconds since the epoch; 0 when there is none. */
const touchedAt = (file: string): number => statSync(file, {throwIfNoEntry: false})?.mtimeMs ?? 0;

/**
 * One attempt at a lock. A lock is a directory that holds its owner's file. Taking it renames a private directory with
 * that file, the ticket, onto the lock's name, which the kernel allows only while that is missing or empty; so there is no
 * moment at which a lock is held and nobody knows by whom. A dead owner's file is unlinked by exact name, so two who find
 * it dead cannot both win, and neither can remove a third one's lock.
 *
 * Tickets are beside the lock while their owners wait: there everybody sees who came first. They only order the attempts;
 * nothing depends on them.
 */
class Ticket {
  readonly #lockPath: string;
  readonly #purpose: string;
  readonly #name = uniqueName();
  readonly #directory: string;
  /** Our file while the lock is ours. */
  readonly #owned: string;
  /** Of this process's own clock, as `#movedAt`: the machine's may be set at any time. */
  #refreshedAt: number | undefined;
  /** Who was first in the queue at the last look, and who had the lock; since when; and how many were before us. */
  #first: string | undefined;
  #owner: string | undefined;
  #movedAt = performance.now();
  #ahead: number | undefined;
  inherited = false;

  constructor(lockPath: string, purpose: string) {
    this.#lockPath = lockPath;
    this.#purpose = purpose;
    this.#directory = `${lockPath}.${this.#name}`;
    this.#owned = join(lockPath, this.#name);
  }

  /** Makes the ticket where it is missing, and shows once a second that its owner is there. */
  draw(): void {
    if (this.#refreshedAt !== undefined && performance.now() - this.#refreshedAt < 1000) return;
    const write = (): void => writeFileSync(join(this.#directory, this.#name), `${Date.now()} ${this.#purpose}`, {mode: 0o600});
    try {
      if (this.#refreshedAt === undefined) mkdirSync(this.#directory, {mode: 0o700});
      write();
    } catch (err) {
      if (codeOf(err) !== 'ENOENT') throw err;
      makeDirectories(this.#directory, {sync: false});
      write();
    }
    this.#refreshedAt = performance.now();
  }

  /** Removes the ticket of one who waits no longer. */
  drop(): void {
    try {
      rmSync(this.#directory, {recursive: true, force: true});
    } catch {
      // What went wrong with the lock counts for more; what is left is seen to be a dead one's when this process ends.
    }
  }

  /** Whether it is our turn to try. What dead ones left at the head of the queue is removed. */
  isFirst(): boolean {
    const now = performance.now();
    const isNew = this.#ahead === undefined;
    const before = waitersFor(this.#lockPath, this.#name);
    const [first] = before;
    const owner = ownerFile(this.#lockPath);
    if (first !== this.#first || owner !== this.#owner) this.#movedAt = now;
    this.#first = first;
    this.#owner = owner;
    this.#ahead = before.length;
    if (first === undefined || now - this.#movedAt > STUCK_MS) return true;
    return isNew && Date.now() - timeOf(first) < PATIENCE_MS;
  }

  /** Milliseconds to the next look, unless somebody tells before that the lock is free. */
  pause(): number {
    const ahead = this.#ahead ?? 0;
    return (ahead === 0 ? PAUSE_MS : Math.min(ahead * PAUSE_BEHIND_MS, LONGEST_PAUSE_MS)) * (0.75 + Math.random() / 2);
  }

  /** @throws EEXIST somebody has the lock */
  take(): void {
    this.draw();
    try {
      renameSync(this.#directory, this.#lockPath);
    } catch (err) {
      const code = codeOf(err);
      if (code === 'ENOTEMPTY' || code === 'EEXIST') throw errno('EEXIST', this.#lockPath);
      if (code !== 'ENOENT') throw err;
      // Somebody has swept the ticket.
      this.#refreshedAt = undefined;
      this.draw();
      renameSync(this.#directory, this.#lockPath);
    }
  }

  /** What proper-lockfile judges staleness by. A dead owner is removed here. @throws ENOENT the lock is free */
  stat(): {mtime: Date} {
    const file = ownerFile(this.#lockPath);
    if (file === undefined) throw errno('ENOENT', this.#lockPath);
    if (file === this.#owned) return statSync(file);
    const life = lifeOf(file);
    if (life === 'alive') return {mtime: new Date()};
    if (life === 'unknown') return statSync(file);
    unlinkSync(file); // ENOENT: another waiter was first; proper-lockfile then tries to take the lock anew
    this.inherited = true;
    throw errno('ENOENT', this.#lockPath);
  }

  /** Removes an owner that shows no life, as proper-lockfile has judged it; or ourselves, where taking failed halfway. */
  breakStale(): void {
    const file = ownerFile(this.#lockPath);
    if (file === this.#owned) this.free();
    else if (file !== undefined && lifeOf(file) === 'unknown' && Date.now() - touchedAt(file) > STALE_MS) {
      unlinkSync(file);
      this.inherited = true;
    }
  }

  touch(atime: Date, mtime: Date): void {
    utimesSync(this.#owned, atime, mtime);
  }

  /** What proper-lockfile does as the process ends. */
  abandon(): void {
    this.free();
    tellFirst(this.#lockPath);
  }

  /** Gives the lock back. One that was broken meanwhile is another's, and left to it. */
  free(): void {
    try {
      unlinkSync(this.#owned);
      rmdirSync(this.#lockPath);
    } catch {
      // Another has taken it already; or the file is still there, and is seen to be a dead one's when this process ends.
    }
  }
}

/** Names in a directory, in no order. */
function namesIn(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch (err) {
    if (codeOf(err) === 'ENOENT') return [];
    throw err;
  }
}

/** The end of a ticket's name: when it was made, and what makes it unique. */
const stampOf = (name: string): string => name.slice(name.lastIndexOf('.') + 1);

/** When a ticket was made, in milliseconds since the epoch; see `uniqueName`. */
const timeOf = (name: string): number => Number.parseInt(stampOf(name).slice(0, 8), 36);

/**
 * Those who wait for a lock, first come first. What dead ones left before the first is removed.
 *
 * @param before only those whose ticket is older than this one
 */
function waitersFor(lockPath: string, before?: string): readonly string[] {
  const directory = dirname(lockPath);
  const prefix = `${basename(lockPath)}.`;
  const waiters = namesIn(directory)
    .filter((entry) => entry.startsWith(prefix))
    .map((entry) => entry.slice(prefix.length))
    .filter((name) => before === undefined || stampOf(name) < stampOf(before))
    .sort((a, b) => (stampOf(a) < stampOf(b) ? -1 : 1));
  const first = waiters.findIndex((name) => !hasGone(join(directory, prefix + name), name));
  return first === -1 ? [] : waiters.slice(first);
}

/** Locks that this process holds, and those that it gave back and of which it has yet to tell. */
const holding = new Set<string>();
const toTell = new Set<string>();

/** Has a lock that was given back told of, unless this process takes it again before it does anything else. */
function tellSoon(lockPath: string): void {
  if (toTell.size === 0) {
    process.once('exit', tell);
    setImmediate(tell);
  }
  toTell.add(lockPath);
}

function tell(): void {
  process.off('exit', tell);
  for (const lockPath of toTell) if (!holding.has(lockPath)) tellFirst(lockPath);
  toTell.clear();
}

/** Tells the first one who can hear it. Nothing depends on it but time: everybody looks every now and then. */
function tellFirst(lockPath: string): void {
  try {
    for (const name of waitersFor(lockPath)) {
      const identity = parseIdentity(name);
      if (identity === undefined || !isRunning(identity)) continue;
      process.kill(identity.pid, FREE_SIGNAL);
      return;
    }
  } catch {
    // Gone this moment.
  }
}

/** What cannot be removed is in nobody's way; a collection tries again, and tells of it. */
function removeQuietly(directory: string): void {
  try {
    rmSync(directory, {recursive: true, force: true});
  } catch {
    // See above.
  }
}

/** Whether a ticket's owner waits no more; what a dead one left is removed. */
function hasGone(directory: string, name: string): boolean {
  const life = lifeOf(name);
  if (life === 'dead') removeQuietly(directory);
  return life === 'dead' || (life === 'unknown' && Date.now() - touchedAt(join(directory, name)) > STALE_MS);
}

/** proper-lockfile's `fs` over a ticket. */
function lockFs(ticket: Ticket) {
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
  let probed = false;
  return {
    mkdir: call(() => ticket.take()),
    stat: call(() => ticket.stat()),
    rmdir: call(() => ticket.breakStale()),
    rmdirSync: () => ticket.abandon(),
    utimes: (_path: string, atime: Date, mtime: Date, callback: (err: unknown) => void) => {
      // The first call probes the precision of times, and needs none of its own: the file is new.
      const action = probed ? () => ticket.touch(atime, mtime) : () => {};
      probed = true;
      call(action)(callback);
    },
    realpath: (path: string, callback: (err: null, path: string) => void) => callback(null, path),
  };
}

/** What a timer can hold, in milliseconds. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Lock paths that this process holds or waits for: its own callers queue here instead of on the disk. */
const queues = new Map<string, Promise<void>>();

const sleep = (ms: number, signal?: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(
      () => {
        signal?.removeEventListener('abort', stop);
        resolve();
      },
      Math.min(ms, LONGEST_TIMER_MS),
    );
    signal?.addEventListener('abort', stop, {once: true});
  });

/** One who waits for a lock of another process, and hears when some lock is given back. */
class Listener {
  static readonly #all = new Set<Listener>();
  static readonly #tellAll = (): void => {
    for (const listener of Listener.#all) listener.#told.abort();
  };
  #told = new AbortController();

  constructor() {
    if (Listener.#all.size === 0) process.on(FREE_SIGNAL, Listener.#tellAll);
    Listener.#all.add(this);
  }

  /** Sleeps for `ms`, or until told since the last call. @returns whether it was told @throws `signal`'s reason */
  async sleep(ms: number, signal?: AbortSignal): Promise<boolean> {
    const told = this.#told.signal;
    await sleep(ms, signal === undefined ? told : AbortSignal.any([told, signal])).catch((err: unknown) => {
      if (signal?.aborted || !told.aborted) throw err;
    });
    if (told.aborted) this.#told = new AbortController();
    return told.aborted;
  }

  [Symbol.dispose](): void {
    Listener.#all.delete(this);
    if (Listener.#all.size === 0) process.off(FREE_SIGNAL, Listener.#tellAll);
  }
}

const anyOf = (...signals: readonly (AbortSignal | undefined)[]): AbortSignal | undefined => {
  const [first, ...others] = signals.filter((signal) => signal !== undefined);
  return first === undefined || others.length === 0 ? first : AbortSignal.any([first, ...others]);
};

/** A signal that is aborted so many milliseconds after another one, or after now where that one is aborted already. */
function laterThan(first: AbortSignal, ms: number): Disposable & {readonly signal: AbortSignal} {
  const later = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const begin = (): void => {
    timer = setTimeout(() => later.abort(first.reason), ms);
  };
  if (first.aborted) begin();
  else first.addEventListener('abort', begin, {once: true});
  return {
    signal: later.signal,
    [Symbol.dispose]: () => {
      clearTimeout(timer);
      first.removeEventListener('abort', begin);
    },
  };
}

/**
 * Takes the lock at `path`, a directory that is made where it is missing.
 *
 * A holder that was killed costs nothing: the next one sees that the process is gone. A holder that is stopped or whose
 * event loop stands still keeps the lock. Only where a holder's life cannot be seen (another pid namespace) does
 * proper-lockfile's rule apply: no sign of life for 10 s. Those who wait are served in turn.
 *
 * @throws unavailable it was held for all of `timeoutMs`; the message names holder, purpose and age
 * @throws canceled | deadline_exceeded `signal` was aborted, or half a second ago that of `withLockWaitsUntil`
 */
export async function acquireLock(path: string, options: LockOptions): Promise<Lock> {
  // The machine's clock may be set while we wait.
  const started = performance.now();
  const call = signals?.getStore();
  using late = call && laterThan(call, ABORTED_MS);
  const signal = anyOf(options.signal, late?.signal);
  let life: {readonly sign: number | undefined; readonly at: number} = {sign: undefined, at: started};
  const previous = queues.get(path);
  let leave = (): void => {};
  const turn = new Promise<void>((resolve) => {
    leave = resolve;
  });
  const queue = (previous ?? Promise.resolve())
    .then(() => turn)
    .then(() => {
      if (queues.get(path) === queue) queues.delete(path);
    });
  queues.set(path, queue);
  const ticket = new Ticket(path, options.purpose ?? '');
  let taken = false;
  let listener: Listener | undefined;
  let isTold = false;
  try {
    let waiting = false;
    const wait = (): void => {
      if (!waiting) options.onWait?.();
      waiting = true;
    };
    if (previous !== undefined) {
      wait();
      const waited = new AbortController();
      const timeout = sleep(options.whileAlive ? LONGEST_TIMER_MS : options.timeoutMs, anyOf(waited.signal, signal)).then(() =>
        Promise.reject(held(path)),
      );
      await Promise.race([previous, timeout]).finally(() => waited.abort());
    }
    const {default: lockfile} = await import('proper-lockfile');
    for (;;) {
      signal?.throwIfAborted();
      ticket.draw();
      // Who is told of it tries though others came first: they are stopped.
      if (ticket.isFirst() || isTold || options.timeoutMs === 0) {
        const release = await lockfile
          .lock(path, {
            lockfilePath: path,
            realpath: false,
            stale: STALE_MS,
            fs: lockFs(ticket),
            onCompromised: () => {}, // the commit itself refuses: see store/journal.ts
          })
          .catch((err: unknown) => {
            if (codeOf(err) !== 'ELOCKED') throw err;
          });
        if (release !== undefined) {
          taken = true;
          holding.add(path);
          const give = (): void => {
            if (!taken) return;
            taken = false;
            ticket.free();
            void release().catch(() => {}); // ends the signs of life; the lock itself is given back
            leave();
            holding.delete(path);
            tellSoon(path);
          };
          return {inherited: ticket.inherited, release: give, [Symbol.dispose]: give};
        }
      }
      wait();
      if (options.whileAlive) {
        const sign = lastSignOfLife(path);
        if (sign !== life.sign) life = {sign, at: life.sign === undefined ? started : performance.now()};
      }
      const deadline = life.at + options.timeoutMs;
      if (performance.now() >= deadline) throw held(path);
      // What was told before we listen is not heard: the first pause is short.
      const pause = listener === undefined ? 1 : ticket.pause();
      listener ??= new Listener();
      isTold = await listener.sleep(Math.min(pause, Math.max(deadline - performance.now(), 0)), signal);
    }
  } catch (err) {
    leave();
    throw fromErrno(err, `lock ${path}`);
  } finally {
    listener?.[Symbol.dispose]();
    if (!taken) ticket.drop();
  }
}

function lastSignOfLife(path: string): number {
  const file = ownerFile(path);
  return file === undefined ? 0 : touchedAt(file);
}

function held(path: string): ErrdefsError {
  const file = ownerFile(path);
  if (file === undefined) return new ErrdefsError('unavailable', `lock ${path} is held`);
  const identity = identityOf(file);
  const who = identity === undefined ? 'another process' : describeProcess(identity);
  const {since, purpose} = readOwner(file);
  const ageMs = Math.max(0, Date.now() - since);
  return new ErrdefsError(
    'unavailable',
    `lock ${path} is held by ${who}${purpose === '' ? '' : ` for ${purpose}`} since ${(ageMs / 1000).toFixed(1)} s`,
    {
      hint: 'wait for it, or wait longer with --lock-timeout',
      details: {path, ...(identity === undefined ? {} : {pid: identity.pid}), purpose, ageMs},
    },
  );
}

/** What an owner's file says: since when, in milliseconds since the epoch, and what for. */
function readOwner(file: string): {since: number; purpose: string} {
  try {
    const [since, ...purpose] = readFileSync(file, 'utf8').split(' ');
    return {since: Number(since), purpose: purpose.join(' ')};
  } catch {
    return {since: Date.now(), purpose: ''}; // it was given back this moment
  }
}

/** Whether the lock at `path` is held, as far as one can see. */
export function isLockHeld(path: string): boolean {
  const file = ownerFile(path);
  if (file === undefined) return false;
  const life = lifeOf(file);
  return life === 'alive' || (life === 'unknown' && Date.now() - touchedAt(file) <= STALE_MS);
}

/**
 * Runs `action` under the lock at `path` if that is free, without waiting.
 *
 * @returns whether it ran
 */
export function withFreeLock(path: string, purpose: string, action: () => void): boolean {
  const file = ownerFile(path);
  if (file !== undefined && isLockHeld(path)) return false;
  const ticket = new Ticket(path, purpose);
  try {
    if (file !== undefined) unlinkIfPresent(file); // of one who is gone, by its exact name
    ticket.take();
  } catch (err) {
    ticket.drop();
    if (codeOf(err) !== 'EEXIST') throw err;
    return false;
  }
  try {
    action();
  } finally {
    ticket.free();
  }
  return true;
}

/** Removes what processes that are gone left among the locks of `directory`: locks, and places in queues. */
export function sweepLocks(directory: string): void {
  try {
    forEachDespiteErrors(listIfPresent(directory), (name) => {
      const ticket = /\.(\d+\.\d+\.[0-9a-f]{32}\.\d+\.[0-9a-z]+)$/.exec(name)?.[1];
      if (ticket === undefined) sweepLock(join(directory, name));
      else sweepTicket(join(directory, name), ticket);
    });
  } catch (err) {
    throw fromErrno(err, `locks ${directory}`);
  }
}

function sweepTicket(path: string, name: string): void {
  const life = lifeOf(name);
  if (life === 'dead' || (life === 'unknown' && Date.now() - touchedAt(join(path, name)) > ABANDONED_MS))
    rmSync(path, {recursive: true, force: true});
}

function sweepLock(path: string): void {
  try {
    const file = ownerFile(path);
    if (file !== undefined && lifeOf(file) !== 'dead') return;
    if (file !== undefined) unlinkSync(file);
    rmdirSync(path);
  } catch (err) {
    // Taken this moment, gone already, or no lock at all: nothing to sweep.
    if (!['ENOTEMPTY', 'EEXIST', 'ENOENT', 'ENOTDIR'].includes(codeOf(err) ?? '')) throw err;
  }
}
