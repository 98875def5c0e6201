/**
 * Starts a container in one process: unshare(1) creates a private mount namespace, sh(1) mounts in it on request, waits, and execs the
 * runtime on request; or execs it early, to wait for its specification, and a child of it mounts. The process is the same throughout, so when the container ends, the kernel drops the namespace with its mounts
 * and nothing needs to be undone.
 *
 * Propagation is `slave`: unmounts on the host take effect here too; mounts made here are not visible there.
 */
import {closeSync, constants, openSync, readFileSync, renameSync, writeSync} from 'node:fs';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {requireProgram} from '../fs/spawn.ts';
import {type ProcessExit, type Stdio, spawnWithChannel} from '../fs/spawn-with-channel.ts';
import {hasFreeLoopDevice, verifyLoopDevices} from './loop-devices.ts';
import {loopMounts, type Mounter, writeFstab} from './mount-plan.ts';

export interface Terminal {
  /** In the format of stty -g. */
  readonly settings: string;
  /** In characters; 0 if unknown. */
  readonly size: {readonly height: number; readonly width: number};
}

/**
 * `mount` works once, on the bundle's `rootfs`; afterwards the tree is visible below `/proc/<pid>/cwd`. It returns the terminal's state,
 * if there is a terminal. It throws aborted if another image took a loop device in between.
 */
export interface Launcher extends Mounter<Terminal | undefined> {
  readonly pid: number;
  /** File to write the specification to, before the program is released. */
  readonly config: string;
  /** Starts the program, or lets the one that has started have its specification. */
  release(): Promise<void>;
  /** Starts the program with descriptor 3 still connected. @returns the line that it writes there; less if it ends before that */
  releaseConnected(): Promise<string>;
  /** Lets this process end before the program does. */
  leave(): void;
  /** Does nothing after the end. SIGKILL also kills the helpers, but not the container's processes, which have their own sessions. */
  kill(signal: NodeJS.Signals): void;
  readonly ended: Promise<ProcessExit>;
}

// Descriptor 3 is a socket to us. All programs but the runtime write errors there; the runtime must not inherit it (CVE-2024-21626). conmon
// keeps it until the container is made, and gives it to nobody.
// libmount's new mount API rejects options longer than 255 bytes. busybox supports all options used here.
const SCRIPT = `
read -r go <&3 || exit
LIBMOUNT_FORCE_MOUNT2=always mount -a -T fstab >&3 2>&3 || exit
{ test "$1" = - || { stty -g && stty size; } <&"$1"; echo mounted; } >&3 2>&3
read -r go <&3 || exit
shift
test "$go" = go || exec "$@"
exec "$@" 3<&-`;
const MOUNTED = 'mounted\n';
// Ends as MOUNTED does: the channel stays open.
const NOT_MOUNTED = `not ${MOUNTED}`;

/** Where the runtime reads the specification. */
const CONFIG = 'config.json';
/** Where it lies while a runtime that has started waits for it. */
const NEW_CONFIG = 'config.new';

// The runtime starts at once and waits for its specification, which is a FIFO until there is one: so its start goes on beside the
// transaction and the mounts. A child mounts meanwhile, and stays to end the runtime, which would wait for ever, when this process ends before.
const EARLY_SCRIPT = `
mkfifo -m 600 ${CONFIG} 2>&3 || exit
{
  trap '' PIPE
  read -r go <&3 && { LIBMOUNT_FORCE_MOUNT2=always mount -a -T fstab >&3 2>&3 || printf 'not ' >&3; echo mounted >&3; }
  read -r go <&3 || { test ! -p ${CONFIG} || kill -9 0; }
} &
shift
exec "$@" 3<&-`;

/**
 * Writes the specification into the FIFO at `fifo` once the runtime reads it, and has the file itself take its place before: where the FIFO
 * still is, the runtime has read nothing.
 */
async function feed(fifo: string, file: string, isOver: () => boolean): Promise<void> {
  /** @returns `undefined` when it cannot yet be done */
  const attempt = <T>(act: () => T): T | undefined => {
    try {
      return act();
    } catch (err) {
      if (['ENXIO', 'EAGAIN'].includes((err as NodeJS.ErrnoException).code ?? '')) return undefined;
      throw err;
    }
  };
  const bytes = readFileSync(file);
  let fd: number | undefined;
  try {
    for (let written = 0; written < bytes.length && !isOver(); ) {
      if (fd === undefined) {
        fd = attempt(() => openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK));
        if (fd !== undefined) renameSync(file, fifo);
      }
      const length = fd === undefined ? undefined : attempt(() => writeSync(fd!, bytes, written));
      if (length === undefined) await delay(1);
      else written += length;
    }
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EPIPE') throw fromErrno(err, `specification ${fifo}`); // it has ended; `ended` tells
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/**
 * Starts the launcher in `bundle`, in its own session, so that signals of the caller's terminal do not reach it. The mounts need not be
 * known yet, so the start can overlap other work.
 *
 * @param runtime argv of the runtime, its program as an absolute path
 * @param options.terminal the standard descriptor (0, 1 or 2) whose terminal settings to read
 * @param options.early the program reads the specification first of all, once and from its beginning to its end, and may wait for it
 * @throws unavailable unshare, mount or mkfifo is not installed
 */
export async function startLauncher(
  bundle: string,
  runtime: readonly string[],
  stdio: Stdio,
  {terminal, early = false}: {readonly terminal?: number | undefined; readonly early?: boolean} = {},
): Promise<Launcher> {
  const unshare = requireProgram('unshare', 'util-linux');
  requireProgram('mount', 'mount');
  if (early) requireProgram('mkfifo', 'coreutils');
  const words = [early ? EARLY_SCRIPT : SCRIPT, 'sh', String(terminal ?? '-'), ...runtime];
  const argv = [unshare, '-m', '--propagation', 'slave', '/bin/sh', '-c', ...words] as const;
  const child = await spawnWithChannel(argv, {cwd: bundle, stdio});
  const {pid, ended} = child;
  const specification = join(bundle, CONFIG);
  const config = early ? join(bundle, NEW_CONFIG) : specification;
  let over = false;
  void ended.then(() => {
    over = true;
  });
  return {
    pid,
    config,
    ended,
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
      child.write('mount\n');
      const text = await child.receive(MOUNTED);
      if (text.endsWith(MOUNTED) && !text.endsWith(NOT_MOUNTED)) {
        verifyLoopDevices(pid, loops);
        const found = /(?:^|\n)([^\n]+)\n(\d+) (\d+)\nmounted\n$/.exec(text);
        return found === null ? undefined : {settings: found[1]!, size: {height: Number(found[2]), width: Number(found[3])}};
      }
      if (loops.length > 0 && !(await hasFreeLoopDevice()))
        throw new ErrdefsError('resource_exhausted', `not enough loop devices: ${loops.length} needed`, {
          hint: 'end other containers, or create more devices /dev/loopN',
        });
      throw new ErrdefsError('failed_precondition', `unable to mount: ${text.trim().split('\n', 1)[0] || 'no mount namespace'}`, {
        hint: 'the kernel may say more: dmesg',
      });
    },
    release: async () => {
      if (early) await feed(specification, config, () => over);
      child.write('go\n');
    },
    releaseConnected: () => {
      child.write('connected\n');
      return child.receive('\n');
    },
    leave: child.leave,
  };
}
