/** Completes a specification with facts of the host (environment files, devices, capabilities) and, once mounted, of the image's root. */
import {
  type BigIntStats,
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
  statfsSync,
  statSync,
} from 'node:fs';
import {hostname, release} from 'node:os';
import {join, posix, resolve} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError, fromErrno, hasCode, wrap} from '../errdefs.ts';
import {findProgram} from '../fs/spawn.ts';
import type {ExecConfig} from '../oci/manifest.ts';
import {hostPlatform} from '../oci/platform.ts';
import {apparmorOf} from './apparmor.ts';
import {checkCommand, mountPoints} from './check-executable.ts';
import {assertMapped, idMappings, idSets} from './id-mappings.ts';
import type {RootReader} from './path-in-root.ts';
import {defaultSeccomp, parseSeccomp} from './seccomp.ts';
import {
  CAPABILITIES,
  checkWorkingDirectory,
  createSpec,
  type Device,
  type HostFacts,
  hasHostDevices,
  isBind,
  type Spec,
  withVolumes,
} from './spec.ts';
import type {ContainerOptions, MountSpec, SpecOptions, Volume} from './spec-option-types.ts';
import {groupID, imageUser, requestedUser} from './user.ts';

export interface SpecRequest {
  readonly cgroupsPath: string;
  readonly image: ExecConfig;
  /** Of the image, in Go's words. Default: this machine's. */
  readonly architecture?: string;
  readonly options: ContainerOptions;
  /** Cancels the wait for an environment file that is a FIFO. */
  readonly signal?: AbortSignal;
}

/** Directories of /dev that every container has itself, or without devices. After containerd, pkg/oci/utils_unix.go (getDevices). */
const NO_DEVICES = ['pts', 'shm', 'fd', 'mqueue', '.lxc', '.lxd-mounts', '.udev'];

function hostDevices(directory: string): readonly Device[] {
  return readdirSync(directory, {withFileTypes: true}).flatMap((entry): readonly Device[] => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return NO_DEVICES.includes(entry.name) ? [] : hostDevices(path);
    if (entry.name === 'console' || !(entry.isCharacterDevice() || entry.isBlockDevice())) return [];
    const stats = lstatSync(path, {bigint: true, throwIfNoEntry: false});
    return stats === undefined ? [] : [deviceAt(path, stats)];
  });
}

function deviceAt(path: string, stats: BigIntStats): Device {
  // dev_t as encoded by makedev(3) of glibc and musl.
  const major = Number(((stats.rdev >> 32n) & 0xfffff000n) | ((stats.rdev >> 8n) & 0xfffn));
  const minor = Number(((stats.rdev >> 12n) & 0xffffff00n) | (stats.rdev & 0xffn));
  const type = stats.isBlockDevice() ? 'b' : 'c';
  return {path, type, major, minor, fileMode: Number(stats.mode & 0o7777n), uid: Number(stats.uid), gid: Number(stats.gid)};
}

/** The device at a path, or the devices in a directory. @throws not_found @throws invalid_argument neither of both */
function devicesAt(path: string): readonly Device[] {
  const what = `device ${JSON.stringify(path)}`;
  try {
    const stats = statSync(path, {bigint: true});
    if (stats.isDirectory()) return hostDevices(path);
    if (stats.isCharacterDevice() || stats.isBlockDevice()) return [deviceAt(path, stats)];
  } catch (err) {
    throw fromErrno(err, what);
  }
  throw new ErrdefsError('invalid_argument', `${what} is no device`);
}

/** `PATH[:PATH IN THE CONTAINER][:rwm]`; what there is by that name is a path, colons included. @throws as `devicesAt` */
function requestedDevices(text: string): NonNullable<HostFacts['requestedDevices']> {
  const [path = '', ...more] = existsSync(text) ? [text] : text.split(':');
  const access = more.length > 0 && /^[rwm]+$/.test(more.at(-1)!) ? more.pop()! : 'rwm';
  const [destination] = more;
  const from = resolve(path);
  const devices = devicesAt(from);
  if (more.length > 1 || (destination !== undefined && !posix.isAbsolute(destination)))
    throw new ErrdefsError('invalid_argument', `device ${JSON.stringify(text)} is not PATH[:PATH][:rwm]`);
  const moved = (found: string): string => (destination === undefined ? found : posix.join(destination, posix.relative(from, found)));
  return devices.map((device) => ({device: {...device, path: moved(device.path)}, access}));
}

/**
 * In a user namespace the runtime cannot make device nodes, and binds the host's by their path in the container.
 *
 * @throws invalid_argument a device has another path there
 */
function refuseMoved(devices: NonNullable<HostFacts['requestedDevices']>): void {
  for (const {device} of devices) {
    const stats = statSync(device.path, {bigint: true, throwIfNoEntry: false});
    const there = stats === undefined ? undefined : deviceAt(device.path, stats);
    if (there?.type === device.type && there.major === device.major && there.minor === device.minor) continue;
    throw new ErrdefsError('invalid_argument', `device ${JSON.stringify(device.path)} has another path on the host`, {
      hint: 'a container with mapped users has devices by their own path: leave out the second one',
    });
  }
}

/** Effective capabilities of this process; see proc_pid_status(5). */
function ownCapabilities(): readonly string[] {
  const mask = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0'}`);
  return CAPABILITIES.filter((_, bit) => (mask >> BigInt(bit)) & 1n);
}

function readHostFacts(options: SpecRequest['options']): HostFacts {
  const {privileged = false, netHost = false, capAdd = [], devices = []} = options;
  return {
    hostname: netHost ? hostname() : '',
    files: netHost ? ['/etc/hosts', '/etc/resolv.conf'].filter((file) => existsSync(file)) : [],
    capabilities: privileged || capAdd.includes('ALL') ? ownCapabilities() : [],
    devices: hasHostDevices(options) ? hostDevices('/dev') : [],
    requestedDevices: devices.flatMap(requestedDevices),
  };
}

/** execve(2) accepts no larger environment. */
const MAX_ENV_FILE_BYTES = 8 << 20;
const POLL_MS = 5;

/**
 * Reads a file, a FIFO or a terminal to its end, without blocking.
 *
 * @throws canceled `signal` was aborted
 */
async function readWhole(path: string, signal?: AbortSignal): Promise<string> {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  try {
    // A FIFO reads as ended until a writer opens it. A pipe, such as a shell's <(…), has its writer from the start.
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

/** Entries of an environment file: one a line, without empty lines and comments. */
async function readEnvFile(path: string, signal?: AbortSignal): Promise<readonly string[]> {
  try {
    return (await readWhole(path, signal)).split(/\r?\n/).filter((line) => line.trim() !== '' && !line.trimStart().startsWith('#'));
  } catch (err) {
    const what = `env file ${JSON.stringify(path)}`;
    throw hasCode(err, 'invalid_argument') ? wrap(what, err) : fromErrno(err, what);
  }
}

/** Resolves the relative source of a bind mount from the caller's working directory. */
const withAbsoluteSource = (mount: MountSpec): MountSpec =>
  isBind(mount) && mount.source !== '' ? {...mount, source: resolve(mount.source)} : mount;

/** Where a container has tini: in a file system of its own, so that the image's stays as it is. */
const INIT = '/dev/init';

/** A mount of tini. The static one runs in images that have no C library. @throws unavailable it is not installed */
function initMount(): MountSpec {
  const program = ['tini-static', 'tini'].map((name) => findProgram(name)).find((path) => path !== undefined);
  if (program === undefined) throw new ErrdefsError('unavailable', '--init: tini is not installed', {hint: 'install the package tini'});
  return {destination: INIT, type: 'bind', source: program, options: ['bind', 'ro']};
}

/** Whether the kernel filters system calls; see seccomp(2). */
const hasSeccomp = (): boolean => existsSync('/proc/sys/kernel/seccomp/actions_avail');

/** @throws not_found, invalid_argument the file of a profile */
async function seccompOf(
  {linux, process}: Spec,
  {options, architecture = hostPlatform().architecture, signal}: SpecRequest,
): Promise<Spec['linux']['seccomp']> {
  const {seccomp, privileged = false} = options;
  if (seccomp === 'unconfined' || (seccomp === undefined && (privileged || !hasSeccomp()))) return linux.seccomp;
  const capabilities = process.capabilities.bounding;
  if (seccomp === undefined || seccomp === '') return defaultSeccomp(capabilities, architecture);
  const what = `seccomp profile ${JSON.stringify(seccomp)}`;
  const text = await readWhole(seccomp, signal).catch((err: unknown) => {
    throw fromErrno(err, what);
  });
  return parseSeccomp(text, what, {capabilities, architecture: hostPlatform().architecture, kernel: release()});
}

/** The specification with the filter of system calls that the options ask for. @throws not_found, invalid_argument the file of a profile */
export async function withSeccomp(spec: Spec, request: SpecRequest): Promise<Spec> {
  const seccomp = await seccompOf(spec, request);
  return seccomp === undefined ? spec : {...spec, linux: {...spec.linux, seccomp}};
}

/** Checks bind mounts here, since the runtime's error has no class. */
function checkSources(spec: Spec): void {
  for (const {source} of spec.mounts.filter(isBind)) {
    try {
      statSync(source);
    } catch (err) {
      throw fromErrno(err, `mount source ${JSON.stringify(source)}`);
    }
  }
}

/** Of a process, where they are not called as in a specification. */
const NAMESPACE_FILES: Readonly<Record<string, string>> = {network: 'net', mount: 'mnt'};

/** See statfs(2). */
const NSFS_MAGIC = 0x6e736673;

/** Checks namespaces here, for the same reason; those that cannot be looked at are left to the runtime. @throws not_found, invalid_argument it is none */
function checkNamespaces({joinNamespaces = []}: SpecOptions): void {
  for (const {type, path} of joinNamespaces) {
    const what = `${type} namespace ${JSON.stringify(path)}`;
    let isOne: boolean;
    try {
      isOne = statfsSync(path).type === NSFS_MAGIC;
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code === 'EACCES') continue;
      throw fromErrno(err, what);
    }
    if (!isOne)
      throw new ErrdefsError('invalid_argument', `${what}: it is none`, {hint: `such as /proc/PID/ns/${NAMESPACE_FILES[type] ?? type}`});
  }
}

/**
 * Checks everything that needs no mounted root, and returns a function for the rest, which takes volumes that did not exist before.
 *
 * That function throws not_found for an unknown user or group or a missing command (`details.runExit` 127), failed_precondition for ids that
 * the mappings do not have, permission_denied for a command that cannot be executed (126), and the errors of `imageUser`.
 *
 * @throws invalid_argument an invalid option, or no command
 * @throws not_found an environment file, a device, a profile, or the source of a bind mount
 * @throws unavailable `init` without tini
 * @throws canceled `signal` was aborted
 */
export async function resolveSpec(request: SpecRequest): Promise<(rootfs: RootReader, volumes?: readonly Volume[]) => Spec> {
  const {cgroupsPath, image, options, signal} = request;
  const envFile: string[] = [];
  const mounts = options.mounts?.map(withAbsoluteSource);
  for (const path of options.envFiles ?? []) envFile.push(...(await readEnvFile(path, signal)));
  const root = {uid: 0, gid: 0, additionalGids: [0]};
  const volumes = options.volumes?.map((volume) => ({...volume, source: resolve(volume.source)}));
  const {apparmorProfile: _, ...others} = options;
  const {profile, annotations = {}} = apparmorOf(options);
  const given = {
    ...others,
    ...(profile === undefined ? {} : {apparmorProfile: profile}),
    annotations: {...options.annotations, ...annotations},
    mounts: [...(mounts ?? []), ...(options.init === true ? [initMount()] : [])],
    ...(volumes === undefined ? {} : {volumes}),
  };
  const host = readHostFacts(options);
  const plain = createSpec({cgroupsPath, image, options: given, envFile, user: root, host});
  const draft = await withSeccomp(plain, request);
  checkSources(draft);
  checkNamespaces(options);
  const mappings = idMappings(options);
  if (mappings !== undefined) refuseMoved(host.requestedDevices ?? []);
  return (rootfs, made = []) => {
    const found =
      options.user === undefined || options.user === '' ? imageUser(rootfs, image.User ?? '') : requestedUser(rootfs, options.user);
    const more = (options.groupAdd ?? []).map((group) => groupID(rootfs, group));
    const user = more.length === 0 ? found : {...found, additionalGids: [...new Set([...found.additionalGids, ...more])]};
    if (mappings !== undefined) assertMapped(user, idSets(mappings));
    const spec = withVolumes({...draft, process: {...draft.process, user}}, made);
    const points = mountPoints(rootfs, spec);
    try {
      rootfs.lookup(spec.process.cwd, () => undefined, points);
    } catch (err) {
      // Links may lead to /proc too. The runtime creates a missing directory, inside the container.
      const {code, path = ''} = err as NodeJS.ErrnoException;
      if (code === 'EXDEV') checkWorkingDirectory(path);
    }
    checkCommand(rootfs, spec, points);
    if (options.init !== true) return spec;
    return {...spec, process: {...spec.process, args: [INIT, '--', ...spec.process.args]}};
  };
}
