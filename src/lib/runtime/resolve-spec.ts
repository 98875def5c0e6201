/** What a specification needs from this machine – environment files, devices, capabilities – and, once it is mounted, from the image's tree. */
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
} from 'node:fs';
import {hostname} from 'node:os';
import {join, resolve} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError, fromErrno, is, wrap} from '../errdefs.ts';
import type {ExecConfig} from '../oci/manifest.ts';
import {checkCommand, mountPoints} from './check-executable.ts';
import type {RootReader} from './path-in-root.ts';
import {
  CAPABILITIES,
  checkWorkingDirectory,
  createSpec,
  type Device,
  type HostFacts,
  isBind,
  type Spec,
  type SpecMount,
  type SpecOptions,
} from './spec.ts';
import {imageUser, requestedUser} from './user.ts';

export interface SpecRequest {
  readonly cgroupsPath: string;
  readonly image: ExecConfig;
  readonly options: SpecOptions & {
    /** Instead of the image's USER. */
    readonly user?: string;
    /** Paths on this machine; later ones come over earlier ones, `env` over all. */
    readonly envFiles?: readonly string[];
  };
  /** Ends the wait for an environment file that is a FIFO. */
  readonly signal?: AbortSignal;
}

/** Directories of /dev that every container has for itself, or that hold no devices. After containerd, pkg/oci/utils_unix.go (getDevices). */
const NO_DEVICES = ['pts', 'shm', 'fd', 'mqueue', '.lxc', '.lxd-mounts', '.udev'];

function hostDevices(directory: string): readonly Device[] {
  return readdirSync(directory, {withFileTypes: true}).flatMap((entry): readonly Device[] => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return NO_DEVICES.includes(entry.name) ? [] : hostDevices(path);
    if (entry.name === 'console' || !(entry.isCharacterDevice() || entry.isBlockDevice())) return [];
    const stats = lstatSync(path, {bigint: true, throwIfNoEntry: false});
    if (stats === undefined) return [];
    // Bits of dev_t as makedev(3) of glibc and musl lays them.
    const major = Number(((stats.rdev >> 32n) & 0xfffff000n) | ((stats.rdev >> 8n) & 0xfffn));
    const minor = Number(((stats.rdev >> 12n) & 0xffffff00n) | (stats.rdev & 0xffn));
    const type = entry.isBlockDevice() ? 'b' : 'c';
    return [{path, type, major, minor, fileMode: Number(stats.mode & 0o7777n), uid: Number(stats.uid), gid: Number(stats.gid)}];
  });
}

/** Names of the capabilities that this process has in effect; see proc_pid_status(5). */
function ownCapabilities(): readonly string[] {
  const mask = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0'}`);
  return CAPABILITIES.filter((_, bit) => (mask >> BigInt(bit)) & 1n);
}

function readHostFacts({privileged = false, netHost = false, capAdd = []}: SpecOptions): HostFacts {
  return {
    hostname: hostname(),
    files: netHost ? ['/etc/hosts', '/etc/resolv.conf'].filter((file) => existsSync(file)) : [],
    capabilities: privileged || capAdd.includes('ALL') ? ownCapabilities() : [],
    devices: privileged ? hostDevices('/dev') : [],
  };
}

/** The kernel starts no program with more. */
const MAX_ENV_FILE_BYTES = 8 << 20;
const POLL_MS = 5;

/**
 * Reads a file, a FIFO or a terminal to its end, without a call that blocks.
 *
 * @throws canceled `signal` was aborted
 */
async function readWhole(path: string, signal?: AbortSignal): Promise<string> {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  try {
    // The end of a FIFO also means that nobody has opened it for writing yet. A pipe, as a shell's <(…), has no such time.
    let begun = !fstatSync(fd).isFIFO() || readlinkSync(`/proc/self/fd/${fd}`).startsWith('pipe:');
    const chunks: Buffer[] = [];
    for (let size = 0; ; ) {
      if (signal?.aborted === true) throw new ErrdefsError('canceled', 'run', {cause: signal.reason});
      const chunk = Buffer.alloc(64 << 10);
      let length = 0;
      try {
        length = readSync(fd, chunk);
        if (length === 0 && begun) return Buffer.concat(chunks).toString();
      } catch (err) {
        if ((err as NodeJS.ErrnoException).code !== 'EAGAIN') throw err;
        begun = true;
      }
      if (length === 0) {
        await delay(POLL_MS);
        continue;
      }
      begun = true;
      chunks.push(chunk.subarray(0, length));
      size += length;
      if (size > MAX_ENV_FILE_BYTES) throw new ErrdefsError('invalid_argument', `more than ${MAX_ENV_FILE_BYTES} B`);
    }
  } finally {
    closeSync(fd);
  }
}

/** Entries of an environment file: one a line, empty lines and comments passed over. */
async function readEnvFile(path: string, signal?: AbortSignal): Promise<readonly string[]> {
  try {
    return (await readWhole(path, signal)).split(/\r?\n/).filter((line) => line.trim() !== '' && !line.trimStart().startsWith('#'));
  } catch (err) {
    const what = `env file ${JSON.stringify(path)}`;
    throw is(err, 'invalid_argument') ? wrap(what, err) : fromErrno(err, what);
  }
}

/** A bind mount's relative source is one in the current directory of the caller, and of nobody else. */
const withAbsoluteSource = (mount: SpecMount): SpecMount =>
  isBind(mount) && mount.source !== '' ? {...mount, source: resolve(mount.source)} : mount;

/** A bind mount without its source would fail in the runtime, which has no class for it. */
function checkSources(spec: Spec): void {
  for (const {source} of spec.mounts.filter(isBind)) {
    try {
      statSync(source);
    } catch (err) {
      throw fromErrno(err, `mount source ${JSON.stringify(source)}`);
    }
  }
}

/**
 * Checks all that can be checked before anything exists, and answers with the rest: what to do with the container's tree.
 *
 * What it answers with throws not_found for a user or group that the image does not have, and for a command that is not
 * there (`details.runExit` 127), permission_denied for one that cannot be executed (126), and the errors of `imageUser`.
 *
 * @throws invalid_argument an option that cannot be, or no command at all
 * @throws not_found an environment file, or the source of a bind mount
 * @throws canceled `signal` was aborted
 */
export async function resolveSpec({cgroupsPath, image, options, signal}: SpecRequest): Promise<(rootfs: RootReader) => Spec> {
  const envFile: string[] = [];
  const mounts = options.mounts?.map(withAbsoluteSource);
  for (const path of options.envFiles ?? []) envFile.push(...(await readEnvFile(path, signal)));
  const root = {uid: 0, gid: 0, additionalGids: [0]};
  const given = mounts === undefined ? options : {...options, mounts};
  const draft = createSpec({cgroupsPath, image, options: given, envFile, user: root, host: readHostFacts(options)});
  checkSources(draft);
  return (rootfs) => {
    const user =
      options.user === undefined || options.user === '' ? imageUser(rootfs, image.User ?? '') : requestedUser(rootfs, options.user);
    const spec = {...draft, process: {...draft.process, user}};
    const points = mountPoints(rootfs, spec);
    try {
      rootfs.lookup(spec.process.cwd, () => undefined, points);
    } catch (err) {
      // Links may lead to /proc as well; a missing directory is made by the runtime, inside the container.
      const {code, path = ''} = err as NodeJS.ErrnoException;
      if (code === 'EXDEV') checkWorkingDirectory(path);
    }
    checkCommand(rootfs, spec, points);
    return spec;
  };
}
