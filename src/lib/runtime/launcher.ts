/**
 * A chain of programs that becomes a container: unshare(1) makes a mount namespace of its own, sh(1) mounts in it when it
 * is told to, waits, and when it is released turns into the runtime. It is one process all along, so its end is the
 * container's, and with it the kernel drops the namespace and its mounts; nothing has to be undone.
 *
 * `slave`: what the machine unmounts later goes away here too; nothing made here is seen there.
 */
import {Buffer} from 'node:buffer';
import {closeSync, readSync, writeSync} from 'node:fs';
import type {Socket} from 'node:net';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {searchPath} from '../fs/spawn.ts';
import {hasFreeLoopDevice, verifyLoopDevices} from './loop-devices.ts';
import {loopMounts, type Mounter, writeFstab} from './mount-plan.ts';
import {requireProgram} from './runc.ts';

/** Descriptors of this process for the container's standard streams; `ignore` is /dev/null. */
export type Stdio = readonly [stdin: number | 'ignore', stdout: number | 'ignore', stderr: number | 'ignore'];

export interface ProcessExit {
  /** Exit status; `null` when a signal ended it. */
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface Terminal {
  /** As stty(1) writes and takes them. */
  readonly settings: string;
  /** Characters; 0 where it does not say. */
  readonly size: {readonly height: number; readonly width: number};
}

/**
 * Mounts once, on the bundle's `rootfs`. Then the launcher waits, and the tree is seen below `/proc/<pid>/cwd`. Mounting gives what is
 * known of the terminal, where one was given; it throws aborted where another image took a loop device in between.
 */
export interface Launcher extends Mounter<Terminal | undefined> {
  readonly pid: number;
  /** Lets the runtime start. */
  release(): void;
  /** Nothing happens when it has ended. SIGKILL ends its helpers as well, but not the container's processes, which have sessions of their own. */
  kill(signal: NodeJS.Signals): void;
  readonly ended: Promise<ProcessExit>;
}

// Descriptor 3 is a socket to us. Every program but the runtime writes its complaints there, and the runtime does not
// inherit it (CVE-2024-21626). libmount's newer way takes no option longer than 255 bytes. Options are those that busybox has as well.
const SCRIPT = `
read -r go <&3 || exit
LIBMOUNT_FORCE_MOUNT2=always mount -a -T fstab >&3 2>&3 || exit
{ test "$1" = - || { stty -g && stty size; } <&"$1"; echo mounted; } >&3 2>&3
read -r go <&3 || exit
shift
exec "$@" 3<&-`;
const MOUNTED = 'mounted\n';

interface Child {
  readonly pid: number;
  readonly ended: Promise<ProcessExit>;
  /** What the other side of descriptor 3 wrote, until it ends with `MOUNTED` or is closed. */
  readonly text: Promise<string>;
  write(text: string): void;
}

interface SpawnOptions {
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  readonly stdio: readonly (number | 'ignore' | 'pipe')[];
  readonly detached: true;
}

async function spawnInNode(argv: readonly [string, ...string[]], options: SpawnOptions): Promise<Child> {
  const {spawn} = await import('node:child_process');
  const child = spawn(argv[0], argv.slice(1), {...options, stdio: [...options.stdio]});
  const ended = new Promise<ProcessExit>((done) => {
    child.once('exit', (status, signal) => done({status, signal}));
  });
  const socket = child.stdio[3] as Socket;
  const text = new Promise<string>((done) => {
    let received = '';
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      received += chunk;
      if (received.endsWith(MOUNTED)) done(received);
    });
    socket.on('error', () => undefined); // it closes, too
    socket.once('close', () => done(received));
  });
  await new Promise((done, fail) => {
    child.once('spawn', done);
    child.once('error', fail);
  });
  return {pid: child.pid!, ended, text, write: (words) => void socket.write(words)};
}

/** As much of Bun's own API as is used here. Its node:child_process takes 4 ms to load and start a program with a fourth descriptor, this takes 0.5. */
interface Bun {
  spawn(argv: readonly string[], options: SpawnOptions & {onExit(child: BunChild): void}): BunChild;
}

interface BunChild {
  readonly pid: number;
  readonly exitCode: number | null;
  readonly signalCode: NodeJS.Signals | null;
  /** Of a `pipe` beyond the standard streams our end of a socket, which is non-blocking and ours to close. */
  readonly stdio: readonly (number | null)[];
}

function spawnInBun(bun: Bun, argv: readonly string[], options: SpawnOptions): Child {
  let settle: (processExit: ProcessExit) => void;
  const ended = new Promise<ProcessExit>((done) => {
    settle = done;
  });
  const child = bun.spawn(argv, {
    ...options,
    onExit: ({exitCode, signalCode}) => settle({status: signalCode === null ? exitCode : null, signal: signalCode}),
  });
  const socket = child.stdio[3]!;
  const text = (async (): Promise<string> => {
    const buffer = Buffer.alloc(4096);
    let received = '';
    for (;;) {
      try {
        const length = readSync(socket, buffer);
        received += buffer.toString('utf8', 0, length);
        if (length === 0 || received.endsWith(MOUNTED)) return received;
      } catch (err) {
        if ((err as NodeJS.ErrnoException).code !== 'EAGAIN') return received; // reset by its end
        await delay(1);
      }
    }
  })();
  // The last words are read before the end is told, and nothing is written after it.
  let open = true;
  void Promise.all([ended, text]).then(() => {
    open = false;
    closeSync(socket);
  });
  const write = (words: string): void => {
    try {
      if (open) writeSync(socket, words);
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EPIPE') throw err; // it has ended, which is told elsewhere
    }
  };
  return {pid: child.pid, ended, text, write};
}

/**
 * Starts the launcher in `bundle`, in a session of its own: signals of the caller's terminal reach it only when they are
 * passed on. It starts while there is something else to do: what is to be mounted need not be known yet.
 *
 * @param runtime the runtime's argv, its program as an absolute path
 * @param terminal a standard descriptor (0, 1 or 2) that is a terminal, whose settings are asked for
 * @throws unavailable unshare or mount is not installed
 */
export async function startLauncher(bundle: string, runtime: readonly string[], stdio: Stdio, terminal?: number): Promise<Launcher> {
  const unshare = requireProgram('unshare', 'util-linux');
  requireProgram('mount', 'mount (util-linux)');
  const argv = [unshare, '-m', '--propagation', 'slave', '/bin/sh', '-c', SCRIPT, 'sh', String(terminal ?? '-'), ...runtime] as const;
  const options: SpawnOptions = {cwd: bundle, env: {PATH: searchPath()}, stdio: [...stdio, 'pipe'], detached: true};
  const {Bun: bun} = globalThis as {readonly Bun?: Bun};
  let child: Child;
  try {
    child = bun === undefined ? await spawnInNode(argv, options) : spawnInBun(bun, argv, options);
  } catch (err) {
    throw fromErrno(err, unshare);
  }
  const {pid, ended} = child;
  let over = false;
  void ended.then(() => {
    over = true;
  });
  return {
    pid,
    ended,
    kill: (signal) => {
      try {
        if (!over) process.kill(signal === 'SIGKILL' ? -pid : pid, signal);
      } catch (err) {
        if ((err as NodeJS.ErrnoException).code !== 'ESRCH') throw err; // it has ended, and we are about to be told
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
      const text = await child.text;
      if (text.endsWith(MOUNTED)) {
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
    release: () => child.write('go\n'),
  };
}
