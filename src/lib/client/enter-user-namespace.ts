/**
 * Without root, what makes files of several users or mounts is done in a user namespace: there the user is root over a range of ids
 * that /etc/subuid gives. The process becomes another one there, by execve(2), so nothing is left beside it.
 *
 * All processes of one state directory share one namespace while any lives, because a process has no rights over those of a
 * sibling namespace. Who enters has a file of its identity in `<state>/user-namespace`; tasks have theirs beside their bundles. Who finds
 * nobody inside makes the namespace, and of several the one that links the next generation first.
 */
import {mkdirSync, readFileSync, readlinkSync} from 'node:fs';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {createExclusive, listIfPresent, readIfPresent, unlinkIfPresent, writeAtomic} from '../fs/durable.ts';
import {formatIdentity, liveness, ownIdentity, type ProcessIdentity, parseIdentity} from '../fs/process.ts';
import {findProgram, requireProgram, runSync, searchPath} from '../fs/spawn.ts';
import {createLayout, runtimeStatePath} from '../store/layout.ts';
import {isRootless, OUTSIDE_UID} from '../user-namespace-identity.ts';
import {assertState, type Directories, findDirectories} from './default-directories.ts';
import type {ProgramCall} from './types/index.ts';

/** Asks for a namespace with one id, the user's own. */
const ONE_ID = 'BERTH_ONE_ID';

const POLL_MS = 2;
/** Exit status of a shell for a command that does not exist. */
const NO_SUCH_PROGRAM = 127;
/** A process that has not entered by then counts as one that never will. */
const ENTER_TIMEOUT_MS = 10_000;

const refused = (why: string, hint: string): ErrdefsError =>
  new ErrdefsError('failed_precondition', `no user namespace for user ${process.geteuid?.()}: ${why}`, {hint});

/** How root changes a setting of the kernel, now and for good. */
const sysctl = (assignment: string): string =>
  `as root: sysctl ${assignment}; to keep it: echo ${assignment} >/etc/sysctl.d/60-userns.conf`;

const setting = (file: string): string | undefined => readIfPresent(`/proc/sys/${file}`)?.trim();

/** The user's name in /etc/passwd, and its number: subuid(5) takes either. */
function ownNames(): readonly string[] {
  const uid = String(process.geteuid?.());
  const entry = (readIfPresent('/etc/passwd') ?? '').split('\n').find((line) => line.split(':')[2] === uid);
  return entry === undefined ? [uid] : [entry.split(':')[0]!, uid];
}

/** Whether subuid(5) or subgid(5) has a range for this user. Another source of ranges is not asked, and believed. */
function hasRange(file: '/etc/subuid' | '/etc/subgid'): boolean {
  if (/^subid:\s*(?!files\s*$)\S/m.test(readIfPresent('/etc/nsswitch.conf') ?? '')) return true;
  const names = ownNames();
  return (readIfPresent(file) ?? '').split('\n').some((line) => {
    const [name = '', , count] = line.trim().split(':');
    return names.includes(name) && Number(count) > 0;
  });
}

/**
 * Whether this user can have a user namespace; nothing is changed.
 *
 * @returns the arguments of unshare(1)
 * @throws unavailable a program is not installed @throws failed_precondition a setting of the machine forbids it; the hint names it
 */
export function checkUserNamespace(env: NodeJS.ProcessEnv = process.env): readonly string[] {
  const unshare = requireProgram('unshare', 'util-linux');
  requireProgram('nsenter', 'util-linux');
  if (setting('kernel/unprivileged_userns_clone') === '0')
    throw refused('they are switched off', sysctl('kernel.unprivileged_userns_clone=1'));
  if (setting('user/max_user_namespaces') === '0') throw refused('none is allowed', sysctl('user.max_user_namespaces=15000'));
  const oneId = env[ONE_ID] === '1';
  const status = readFileSync('/proc/self/status', 'latin1');
  const restricted = setting('kernel/apparmor_restrict_unprivileged_userns') === '1';
  const options = ['--user', '--map-root-user', ...(oneId ? [] : ['--map-auto'])];
  // A namespace may be made and yet have no rights, so only a trial tells.
  const check = (words: readonly string[]): void => {
    if (!restricted && !/^Seccomp:\s*[12]/m.test(status)) return;
    const trial = runSync(unshare, [...words, '--mount', 'true'], {package: 'util-linux'});
    if (trial.status !== 0)
      throw refused(
        trial.stderr.trim() || `unshare ended with status ${trial.status}`,
        restricted
          ? `${sysctl('kernel.apparmor_restrict_unprivileged_userns=0')}; or a profile with "userns" in /etc/apparmor.d`
          : 'the container that this runs in forbids it; without a user namespace: pull --no-unpack, push, copy',
      );
  };
  if (!oneId) {
    const own = `set ${ONE_ID}=1: every file then belongs to you`;
    const instead = (err: ErrdefsError): ErrdefsError => {
      check(['--user', '--map-root-user']); // nothing that is installed helps where it is forbidden
      return err;
    };
    for (const program of ['newuidmap', 'newgidmap'])
      if (findProgram(program) === undefined)
        throw instead(
          new ErrdefsError('unavailable', `${program} is not installed`, {
            hint: `install the Debian package uidmap, or ${own}`,
            details: {program, package: 'uidmap'},
          }),
        );
    for (const file of ['/etc/subuid', '/etc/subgid'] as const)
      if (!hasRange(file))
        throw instead(
          refused(
            `${file} has no range for it`,
            `as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ${ownNames()[0]}; or ${own}`,
          ),
        );
    if (/^NoNewPrivs:\s*1/m.test(status)) throw instead(refused('it runs with no_new_privs, so newuidmap has no rights', own));
  }
  check(options);
  return options;
}

/** Where a living process stands. `pending`: outside, and may be about to enter. */
function placeOf({pid}: ProcessIdentity): 'inside' | 'pending' {
  try {
    if (readlinkSync(`/proc/${pid}/ns/user`) === readlinkSync('/proc/self/ns/user')) return 'pending';
    return new RegExp(`^\\s*0\\s+${process.geteuid?.()}\\s+1\\s`).test(readFileSync(`/proc/${pid}/uid_map`, 'latin1'))
      ? 'inside'
      : 'pending';
  } catch {
    return 'pending';
  }
}

const GENERATION = /^g(\d+)$/;

/** Processes that are, or may be about to be, in the namespace of a state directory, those of tasks among them. */
function findMembers(stateDir: string): {
  readonly inside: ProcessIdentity | undefined;
  readonly pending: boolean;
  readonly generation: number;
} {
  const directory = runtimeStatePath.userNamespace(stateDir);
  let pending = false;
  let generation = 0;
  const registered: ProcessIdentity[] = [];
  for (const name of listIfPresent(directory)) {
    const number = GENERATION.exec(name)?.[1];
    generation = Math.max(generation, Number(number ?? 0));
    const identity = parseIdentity(number === undefined ? name : (readIfPresent(join(directory, name)) ?? ''));
    if (identity === undefined) continue;
    if (liveness(identity) === 'alive') registered.push(identity);
    else if (number === undefined) unlinkIfPresent(join(directory, name));
  }
  const runs = runtimeStatePath.runs(stateDir);
  const tasks = listIfPresent(runs).flatMap((namespace) => {
    const bundles = join(runs, namespace, 'bundles');
    return listIfPresent(bundles).flatMap((id) =>
      listIfPresent(join(bundles, id)).flatMap((name) => (name.startsWith('runtime.') ? (parseIdentity(name.slice(8)) ?? []) : [])),
    );
  });
  const own = formatIdentity(ownIdentity());
  let inside: ProcessIdentity | undefined;
  for (const identity of registered) {
    if (formatIdentity(identity) === own) continue;
    if (placeOf(identity) === 'inside') inside ??= identity;
    else pending = true;
  }
  inside ??= tasks.find((identity) => liveness(identity) === 'alive' && placeOf(identity) === 'inside');
  return {inside, pending, generation};
}

/**
 * Opens the namespace before the last process in it can end; if it has, begins again, without a word about it.
 *
 *     sh -c JOIN sh NAMESPACE-FILE NSENTER COMMAND…
 */
export const JOIN = `{ command exec 9<"$1"; } 2>/dev/null || { shift 2; exec "$@"; }
n=$2; shift 2
exec "$n" --user=/proc/self/fd/9 --preserve-credentials -- sh -c 'exec "$@" 9<&-' sh "$@"`;

/**
 * How this process becomes `command` in the user namespace of its state directory: a program for execve(2).
 *
 * @param command a program as an absolute path, and its arguments
 * @throws unavailable, failed_precondition as `checkUserNamespace`
 * @throws permission_denied the state directory belongs to another user
 */
export async function userNamespaceEntry(directories: Directories, command: readonly string[]): Promise<ProgramCall> {
  const options = checkUserNamespace();
  const stateDir = assertState(directories);
  const directory = runtimeStatePath.userNamespace(stateDir);
  const own = formatIdentity(ownIdentity());
  const register = (): void => writeAtomic(join(directory, own), '', {sync: false, mode: 0o600});
  const env = {...process.env, PATH: searchPath(), [OUTSIDE_UID]: String(process.geteuid?.())} as Record<string, string>;
  try {
    mkdirSync(directory, {recursive: true, mode: 0o700});
    unlinkIfPresent(join(directory, own)); // of an attempt before this one
    for (let waited = 0; ; waited += POLL_MS) {
      const {inside, pending, generation} = findMembers(stateDir);
      if (inside !== undefined) {
        register();
        const nsenter = requireProgram('nsenter', 'util-linux');
        return {program: '/bin/sh', argv: ['sh', '-c', JOIN, 'sh', `/proc/${inside.pid}/ns/user`, nsenter, ...command], env};
      }
      if ((!pending || waited >= ENTER_TIMEOUT_MS) && claimGeneration(directory, generation + 1, own)) {
        const unshare = requireProgram('unshare', 'util-linux');
        return {program: unshare, argv: [unshare, ...options, '--', ...command], env};
      }
      await delay(POLL_MS);
    }
  } catch (err) {
    throw fromErrno(err, `user namespace in ${directory}`);
  }
}

interface BecomeOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly ifLayers?: boolean;
  readonly ifPossible?: boolean;
}

/**
 * Makes this process `command`, as root of the user namespace. Returns only where that is not needed.
 *
 * @param command as of `userNamespaceEntry`
 * @param options.env further variables
 * @param options.ifLayers only if the store has layers, whose files belong to other users
 * @param options.ifPossible goes on as it is where it cannot enter
 * @throws as `userNamespaceEntry`
 */
export async function becomeRoot(
  given: {readonly root?: string; readonly state?: string},
  command: readonly string[],
  {env = {}, ifLayers = false, ifPossible = false}: BecomeOptions = {},
): Promise<void> {
  const directories = findDirectories(given);
  const {layers, trash} = createLayout(directories.root);
  if (ifLayers && listIfPresent(layers).length + listIfPresent(trash).length === 0) return;
  let entry: ProgramCall;
  try {
    entry = await userNamespaceEntry(directories, command);
  } catch (err) {
    if (ifPossible) return;
    throw err;
  }
  process.execve!(entry.program, entry.argv, {...entry.env, ...env});
}

/**
 * A program in the namespace, with mounts of its own.
 *
 * @throws as `Client.unshare`
 */
export async function unshareCall(directories: Directories, [name = '', ...args]: readonly string[]): Promise<ProgramCall> {
  const program = findProgram(name);
  if (program === undefined) throw new ErrdefsError('not_found', `program ${JSON.stringify(name)}`, {details: {runExit: NO_SUCH_PROGRAM}});
  if (!isRootless()) throw new ErrdefsError('failed_precondition', 'root needs no user namespace', {hint: 'start the program without it'});
  const unshare = requireProgram('unshare', 'util-linux');
  // The engine ignores signals, and what is ignored stays so.
  const signals = [requireProgram('env', 'coreutils'), '--default-signal'];
  const argv = [unshare, '--mount', '--propagation', 'slave', ...signals, program, ...args];
  if (process.geteuid?.() !== 0) return userNamespaceEntry(directories, argv);
  return {program: unshare, argv, env: {...process.env} as Record<string, string>};
}

/** @returns false if another process was faster */
function claimGeneration(directory: string, generation: number, own: string): boolean {
  if (!createExclusive(join(directory, `g${generation}`), own, {sync: false})) return false;
  for (const name of listIfPresent(directory))
    if (Number(GENERATION.exec(name)?.[1] ?? generation) < generation) unlinkIfPresent(join(directory, name));
  return true;
}
