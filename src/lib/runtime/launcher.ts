/**
 * Starts a container in one process: unshare(1) creates a private mount namespace, sh(1) mounts in it on request, waits, and execs the
 * runtime on request. The process is the same throughout, so when the container ends, the kernel drops the namespace with its mounts
 * and nothing needs to be undone.
 *
 * Propagation is `slave`: unmounts on the host take effect here too; mounts made here are not visible there.
 */
import {join} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';
import {requireProgram} from '../fs/spawn.ts';
import {type PipedStreams, type ProcessExit, type Stdio, spawnWithChannel} from '../fs/spawn-with-channel.ts';
import {mayMount} from '../user-namespace-identity.ts';
import {loopMounts, type Mounter, type MountPlan, writeFstab} from './mount-plan.ts';
import {hasFreeLoopDevice, verifyLoopDevices} from './verify-loop-devices.ts';

/** In characters. */
export interface TerminalSize {
  readonly height: number;
  readonly width: number;
}

export interface Terminal {
  /** In the format of stty -g. */
  readonly settings: string;
  /** 0 if unknown. */
  readonly size: TerminalSize;
}

/**
 * `mount` works once, on the bundle's `rootfs`; afterwards the tree is visible below `/proc/<pid>/cwd`. It returns the terminal's state,
 * if there is a terminal. It throws aborted if another image took a loop device in between.
 */
export interface Launcher extends Mounter<Terminal | undefined> {
  readonly pid: number;
  /**
   * Once after `mount`: replaces that tree by another one, on a directory of the caller's choice.
   *
   * @param target absolute path of a directory @throws failed_precondition a mount failed
   */
  remount(plan: MountPlan, target: string): Promise<void>;
  /** Starts the program. */
  release(): void;
  /** Starts the program with descriptor 3 still connected. @returns the line that it writes there; less if it ends before that */
  releaseConnected(): Promise<string>;
  /** Lets this process end before the program does. */
  leave(): void;
  /** Does nothing after the end. SIGKILL also kills the helpers, but not the container's processes, which have their own sessions. */
  kill(signal: NodeJS.Signals): void;
  readonly ended: Promise<ProcessExit>;
  /** Of one that was started with pipes. */
  readonly streams: PipedStreams | undefined;
}

// Descriptor 3 is a socket to us. All programs but the runtime write errors there; the runtime must not inherit it (CVE-2024-21626). conmon
// keeps it until the container is made, and gives it to nobody.
// libmount's new mount API rejects options longer than 255 bytes. busybox supports all options used here.
const SCRIPT = `
read -r go <&3 || exit
LIBMOUNT_FORCE_MOUNT2=always mount -a -T fstab >&3 2>&3 || exit
{ test "$1" = - || { stty -g && stty size; } <&"$1"; echo mounted; } >&3 2>&3
read -r go <&3 || exit
if test "$go" = remount
then
  umount -l rootfs >&3 2>&3 && LIBMOUNT_FORCE_MOUNT2=always mount -a -T fstab.2 >&3 2>&3 || exit
  echo mounted >&3
  read -r go <&3 || exit
fi
shift
test "$go" = go || exec "$@"
exec "$@" 3<&-`;
const MOUNTED = 'mounted\n';

/** As the script, the words before it write errors to descriptor 3. */
const IN_SCOPE = 'exec 4>&2 2>&3 "$@"';
const SCOPED = 'scoped\n';
const AS_BEFORE = 'exec 2>&4 4>&-; echo scoped >&3';

const noNamespace = (): ErrdefsError =>
  new ErrdefsError('failed_precondition', 'unable to mount: no mount namespace', {
    hint: 'a container that this runs in needs the capability SYS_ADMIN; pull, push, copy, unpack and repack need no mount',
  });

export interface LauncherOptions {
  /** The standard descriptor (0, 1 or 2) whose terminal settings to read. */
  readonly terminal?: number | undefined;
  /** Words before the command, which become it: see `scopeForContainer`. */
  readonly scope?: readonly string[] | undefined;
}

/**
 * Starts the launcher in `bundle`, in its own session, so that signals of the caller's terminal do not reach it. The mounts need not be
 * known yet, so the start can overlap other work.
 *
 * @param runtime argv of the runtime, its program as an absolute path
 * @throws unavailable unshare or mount is not installed @throws failed_precondition this process may not mount
 */
export async function startLauncher(
  bundle: string,
  runtime: readonly string[],
  stdio: Stdio | 'pipe',
  {terminal, scope}: LauncherOptions = {},
): Promise<Launcher> {
  const unshare = requireProgram('unshare', 'util-linux');
  requireProgram('mount', 'mount');
  // unshare would say so on the container's standard error.
  if (!mayMount()) throw noNamespace();
  const [before, script] = scope === undefined ? [[], SCRIPT] : [['/bin/sh', '-c', IN_SCOPE, 'sh', ...scope], `${AS_BEFORE}${SCRIPT}`];
  const own = [unshare, '-m', '--propagation', 'slave', '/bin/sh', '-c', script, 'sh', String(terminal ?? '-'), ...runtime];
  const argv = [...before, ...own] as [string, ...string[]];
  const child = await spawnWithChannel(argv, {cwd: bundle, stdio});
  const {pid, ended} = child;
  let over = false;
  void ended.then(() => {
    over = true;
  });
  const failure = async (text: string): Promise<ErrdefsError> => {
    const said = text.trim().split('\n', 1)[0];
    // It says nothing more, so it ends.
    if (said === '' && (await ended).signal !== null)
      return new ErrdefsError('aborted', 'unable to mount: the process that mounts was killed', {hint: 'run it again'});
    if (said === '') return noNamespace();
    return new ErrdefsError('failed_precondition', `unable to mount: ${said}`, {hint: 'the kernel may say more: dmesg'});
  };
  return {
    pid,
    ended,
    streams: child.streams,
    kill: (signal) => {
      try {
        if (!over) process.kill(signal === 'SIGKILL' ? -pid : pid, signal);
      } catch (err) {
        if ((err as NodeJS.ErrnoException).code !== 'ESRCH') throw err; // it has ended; `ended` is about to resolve
      }
    },
    mount: async (plan) => {
      const rootfs = join(bundle, 'rootfs');
      const loops = loopMounts(plan).map(({image, mountPoint}) => ({
        image,
        target: mountPoint === undefined ? rootfs : join(bundle, mountPoint),
      }));
      writeFstab(bundle, plan, rootfs);
      // Nothing is written to one that may have ended: what it said would be lost.
      const before = scope === undefined ? SCOPED : await child.receive(SCOPED);
      if (!before.endsWith(SCOPED))
        throw new ErrdefsError('unavailable', `no scope of systemd: ${before.trim() || 'systemd-run was killed'}`, {
          hint: 'the manager of your units may say more: systemctl --user status',
        });
      child.write('mount\n');
      const text = await child.receive(MOUNTED);
      if (text.endsWith(MOUNTED)) {
        verifyLoopDevices(pid, loops);
        const found = /(?:^|\n)([^\n]+)\n(\d+) (\d+)\nmounted\n$/.exec(text);
        return found === null ? undefined : {settings: found[1]!, size: {height: Number(found[2]), width: Number(found[3])}};
      }
      if (loops.length > 0 && !(await hasFreeLoopDevice()))
        throw new ErrdefsError('resource_exhausted', `not enough loop devices: ${loops.length} needed`, {
          hint: 'end other containers, or create more devices /dev/loopN',
        });
      throw await failure(text);
    },
    remount: async (plan, target) => {
      writeFstab(bundle, plan, target, 'fstab.2');
      child.write('remount\n');
      const text = await child.receive(MOUNTED);
      if (!text.endsWith(MOUNTED)) throw await failure(text);
    },
    release: () => child.write('go\n'),
    releaseConnected: () => {
      child.write('connected\n');
      return child.receive('\n');
    },
    leave: child.leave,
  };
}
