/**
 * Checkpoints of containers by criu, which the runtime starts. A dump is made of a frozen container, so that nothing of it runs between
 * its last image and what is done with that.
 */
import {closeSync, constants, fstatSync, openSync, readFileSync, readSync} from 'node:fs';
import {constants as osConstants} from 'node:os';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError} from '../errdefs.ts';
import {isNearlyFull} from '../fs/free-space.ts';
import {hasFollowers} from '../fs/process.ts';
import {findProgram, run} from '../fs/spawn.ts';
import {spawnWithChannel} from '../fs/spawn-with-channel.ts';
import {containerState, type Runtime, runRuntime, runtimeFailure} from './oci-runtime.ts';

/** Options that a dump and its restoration have to agree on. */
export interface CheckpointFlags {
  /** Keeps TCP connections: both ends, addresses and ports stay what they are. */
  readonly tcpEstablished: boolean;
}

/** Flags of runc and crun. Locks of files are those of the container: it sees files that only it has. */
export const checkpointFlags = ({tcpEstablished}: CheckpointFlags): readonly string[] => [
  '--file-locks',
  ...(tcpEstablished ? ['--tcp-established'] : []),
];

/** @throws failed_precondition criu is not installed */
export function requireCriu(): void {
  if (findProgram('criu') === undefined)
    throw new ErrdefsError('failed_precondition', 'criu is not installed', {
      hint: 'install the Debian package criu, and try "criu check"',
      details: {program: 'criu', package: 'criu'},
    });
}

/** Of criu's log, so much of its end is read. */
const LOG_TAIL = 64 << 10;
/** Of criu's errors, so many are shown: the first ones say why, those behind them what was given up therefore. */
const SHOWN_ERRORS = 3;

/** The end of criu's log; empty without one. A container may have had a hand on the directory, so no link is followed. */
function endOfLog(file: string): string {
  try {
    const fd = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const {size} = fstatSync(fd);
      const buffer = Buffer.alloc(Math.min(size, LOG_TAIL));
      return buffer.toString('utf8', 0, readSync(fd, buffer, 0, buffer.length, Math.max(0, size - LOG_TAIL)));
    } finally {
      closeSync(fd);
    }
  } catch {
    return ''; // criu did not get that far
  }
}

const criuErrors = (log: string): string =>
  log
    .split('\n')
    .flatMap((line) => /\bError \([^)]*\): (.*)$/.exec(line)?.[1] ?? [])
    .slice(0, SHOWN_ERRORS)
    .join('; ');

/** Whether a process's network namespace has TCP connections; see proc(5). */
function hasConnections(pid: number): boolean {
  return ['tcp', 'tcp6'].some((name) => {
    try {
      const [, ...lines] = readFileSync(`/proc/${pid}/net/${name}`, 'latin1').trim().split('\n');
      // The fourth field is the state: 0A listens, 07 is closed, 06 waits for its time.
      return lines.some((line) => !['0A', '07', '06'].includes(line.trim().split(/\s+/)[3] ?? '0A'));
    } catch {
      return false; // it has ended
    }
  });
}

/**
 * The error for criu's failure.
 *
 * @param what what it was to do
 * @param log its log
 * @param said by the runtime
 * @param disk where its images are
 */
export async function criuFailure(what: string, log: string, said: string, disk: string, hint?: string): Promise<ErrdefsError> {
  if (isNearlyFull(disk))
    return new ErrdefsError('resource_exhausted', what, {hint: 'free disk space: "berth prune" or "berth images rm"'});
  const checked = await run('criu', ['check'], {package: 'criu'});
  const end = endOfLog(log);
  const words = criuErrors(end);
  if (checked.status !== 0) {
    const [first = ''] = checked.stderr.trim().split('\n').slice(-1);
    return new ErrdefsError('failed_precondition', `${what}: criu does not work on this machine: ${words || first || said}`, {
      hint: '"criu check" says what the kernel lacks',
    });
  }
  // Its last words, whatever it was to do.
  if (end !== '' && !end.includes(' FAILED.'))
    return new ErrdefsError('aborted', `${what}: criu ended in the middle, as when it is killed: ${said}`, {hint: 'try again'});
  return new ErrdefsError('failed_precondition', `${what}: criu: ${words || said}`, hint === undefined ? {} : {hint});
}

/** A container that is dumped and frozen. Ends by one of the two. */
export interface Dumped {
  /** Lets it go on. */
  resume(): Promise<void>;
  /** Ends it by SIGKILL, without letting it go on. */
  end(): Promise<void>;
}

const DUMPED = '\ndumped\n';
/**
 * Words: runtime, its root, ID, then the flags of the dump. A shell does it, which outlives us: if we are killed, the dump comes to its end
 * and the container goes on. criu must not be met by a thaw from outside.
 */
const DUMP = `
trap '' PIPE
runtime=$1 root=$2 id=$3
shift 3
said=$("$runtime" --root "$root" pause "$id" 2>&1 3<&-) || {
  status=$?
  "$runtime" --root "$root" resume "$id" 3<&-
  printf %s "$said" >&3
  exit $status
}
said=$("$runtime" --root "$root" checkpoint --leave-running "$@" "$id" 2>&1 3<&-)
printf '%s\\n%s\\ndumped\\n' "$?" "$said" >&3
read -r word <&3
if test "$word" = end; then "$runtime" --root "$root" kill --all "$id" KILL 3<&-; fi
"$runtime" --root "$root" resume "$id" 3<&- || test "$word" = end`;

/** Time for criu to end by itself, once nobody waits for it any more. */
const CRIU_MS = 60_000;
const POLL_MS = 10;

/** When the runtime was killed, criu goes on, and leaves the container as it found it, frozen. @param session of those who started it */
async function untilCriuEnds(session: number): Promise<void> {
  for (let waited = 0; waited < CRIU_MS && hasFollowers(session); waited += POLL_MS) await delay(POLL_MS);
}

/** Lets a container go on whose shell, or the shell's runtime, was killed. @param session of the shell */
async function thaw({id, runtime, runtimeRoot}: DumpTarget, session: number): Promise<void> {
  await untilCriuEnds(session);
  const {status, stderr} = await runRuntime(runtime, ['--root', runtimeRoot, 'resume', id]);
  // One that was not frozen yet goes on, and one that was killed has ended.
  if (status === 0 || (await containerState(runtime, runtimeRoot, id))?.status !== 'paused') return;
  throw runtimeFailure(runtime, `unable to resume container ${JSON.stringify(id)}`, {status, stderr});
}

interface DumpTarget {
  readonly id: string;
  /** Of its first process. */
  readonly pid: number;
  readonly runtime: Runtime;
  readonly runtimeRoot: string;
}

/**
 * Freezes a running container and dumps it.
 *
 * @param directories.images empty directory for criu's images, of mode 0700; `directories.log` for its log
 * @throws failed_precondition criu cannot dump it; it goes on
 * @throws resource_exhausted the disk is full; it goes on
 * @throws aborted the runtime was killed
 */
export async function dumpContainer(
  target: DumpTarget,
  directories: {readonly images: string; readonly log: string},
  flags: CheckpointFlags,
): Promise<Dumped> {
  const {id, pid, runtime, runtimeRoot} = target;
  const what = `unable to checkpoint container ${JSON.stringify(id)}`;
  const words = ['--image-path', directories.images, '--work-path', directories.log, ...checkpointFlags(flags)];
  const guard = await spawnWithChannel(['/bin/sh', '-c', DUMP, 'sh', runtime.path, runtimeRoot, id, ...words], {
    cwd: '/',
    stdio: ['ignore', 'ignore', 'ignore'],
  });
  const said = await guard.receive(DUMPED);
  const answer = /^(\d+)\n(.*)\ndumped\n$/s.exec(said);
  if (answer === null) {
    const {status} = await guard.ended;
    if (status === null) await thaw(target, guard.pid).catch(() => undefined); // the reason why it failed says more
    throw runtimeFailure(runtime, what, {status: status ?? 128 + osConstants.signals.SIGKILL, stderr: said});
  }
  const conclude = async (word: 'resume' | 'end'): Promise<void> => {
    guard.write(`${word}\n`);
    const {status} = await guard.ended;
    if (status === 0) return;
    if (word === 'end') await runRuntime(runtime, ['--root', runtimeRoot, 'kill', '--all', id, 'KILL']);
    await thaw(target, guard.pid);
  };
  const status = Number(answer[1]);
  if (status === 0) return {resume: () => conclude('resume'), end: () => conclude('end')};
  if (status > 128) await untilCriuEnds(guard.pid);
  const connected = !flags.tcpEstablished && hasConnections(pid);
  await conclude('resume').catch(() => undefined); // the reason why it failed says more
  if (status > 128) throw runtimeFailure(runtime, what, {status, stderr: answer[2]!});
  const hint = connected ? 'it has TCP connections: keep them by --tcp-established, or end them first' : undefined;
  throw await criuFailure(what, join(directories.log, 'dump.log'), answer[2]!.split('\n', 1)[0]!, directories.images, hint);
}
