/**
 * The OCI runtime specification of a container: containerd's defaults, the image's config over them, the caller's
 * options over both.
 *
 * Defaults and order after containerd, pkg/oci/spec.go, mounts.go and cmd/ctr/commands/run/run_unix.go; field names are
 * those of opencontainers/runtime-spec.
 */

import {posix} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';
import type {ExecConfig} from '../oci/manifest.ts';
import {idMappings} from './id-mappings.ts';
import {checkHostName} from './network/network-files.ts';
import type {SeccompFilter} from './seccomp.ts';
import type {ContainerLimits, IdMapping, MountSpec, Rlimit, SpecOptions, Volume} from './spec-option-types.ts';
import type {User} from './user.ts';

export interface DeviceRule {
  readonly allow: boolean;
  readonly type?: 'c' | 'b';
  readonly major?: number;
  readonly minor?: number;
  readonly access: string;
}

export interface Device {
  readonly path: string;
  readonly type: 'c' | 'b';
  readonly major: number;
  readonly minor: number;
  readonly fileMode: number;
  readonly uid: number;
  readonly gid: number;
}

export interface CPULimits {
  readonly shares?: number;
  /** Microseconds. */
  readonly quota?: number;
  /** Microseconds. */
  readonly period?: number;
  readonly cpus?: string;
  readonly mems?: string;
}

/** Limits of a container's control group. */
export interface Limits {
  readonly memory?: {readonly limit?: number; readonly reservation?: number; readonly swap?: number};
  readonly cpu?: CPULimits;
  readonly pids?: {readonly limit: number};
}

/** A program of the host that the runtime starts. */
export interface Hook {
  readonly path: string;
  readonly args: readonly string[];
  readonly env: readonly string[];
  /** Seconds. */
  readonly timeout: number;
}

export interface Spec {
  readonly ociVersion: string;
  readonly process: {
    readonly terminal?: boolean;
    /** Characters. */
    readonly consoleSize?: {readonly height: number; readonly width: number};
    readonly user: User;
    readonly args: readonly string[];
    readonly env: readonly string[];
    readonly cwd: string;
    /** No inheritable and no ambient set: they would survive into programs of other users (CVE-2022-24769). */
    readonly capabilities: Readonly<Record<'bounding' | 'effective' | 'permitted', readonly string[]>>;
    readonly rlimits: readonly Rlimit[];
    readonly noNewPrivileges: boolean;
    readonly apparmorProfile?: string;
    readonly oomScoreAdj?: number;
  };
  readonly root: {readonly path: string; readonly readonly?: boolean};
  readonly hostname?: string;
  readonly mounts: readonly MountSpec[];
  readonly annotations?: Readonly<Record<string, string>>;
  readonly hooks?: {readonly createRuntime?: readonly Hook[]};
  readonly linux: {
    readonly cgroupsPath: string;
    readonly namespaces: readonly {readonly type: string; readonly path?: string}[];
    readonly uidMappings?: readonly IdMapping[];
    readonly gidMappings?: readonly IdMapping[];
    readonly rootfsPropagation?: string;
    readonly sysctl?: Readonly<Record<string, string>>;
    readonly devices?: readonly Device[];
    readonly resources: Limits & {readonly devices: readonly DeviceRule[]};
    readonly seccomp?: SeccompFilter;
    readonly maskedPaths?: readonly string[];
    readonly readonlyPaths?: readonly string[];
  };
}

/** Facts of the host that the options need. */
export interface HostFacts {
  /** Looked up only for the network of the host. */
  readonly hostname: string;
  /** Those of /etc/hosts and /etc/resolv.conf that exist. */
  readonly files: readonly string[];
  /** Effective capabilities of this process. */
  readonly capabilities: readonly string[];
  /** All of /dev, for a privileged container. */
  readonly devices: readonly Device[];
  /** Those of `options.devices`, and what may be done with them: of `rwm`. */
  readonly requestedDevices?: readonly {readonly device: Device; readonly access: string}[];
}

export interface SpecInput {
  /** Such as `/<namespace>/<id>`. */
  readonly cgroupsPath: string;
  readonly image: ExecConfig;
  readonly options: SpecOptions;
  /** Entries of the environment files; `options.env` overrides them. */
  readonly envFile: readonly string[];
  readonly user: User;
  readonly host: HostFacts;
}

/** Linux capabilities by number; see capabilities(7). */
export const CAPABILITIES: readonly string[] = (
  'CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST ' +
  'NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE ' +
  'SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM ' +
  'BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE'
)
  .split(' ')
  .map((name) => `CAP_${name}`);

const DEFAULT_CAPABILITIES =
  'CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE'
    .split(' ')
    .map((name) => `CAP_${name}`);

const DEFAULT_ENV = ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'];

const DEFAULT_MOUNTS: readonly MountSpec[] = [
  {destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev']},
  {destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k']},
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  {destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k']},
  {destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev']},
  {destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro']},
  {destination: '/run', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k']},
];

const MASKED_PATHS = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/sys/firmware',
  '/sys/devices/virtual/powercap',
  '/proc/scsi',
];

const READONLY_PATHS = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

/** null, random, full, tty, zero, urandom, console, the terminals of /dev/pts, ptmx. */
const DEFAULT_DEVICES: readonly (readonly [major: number, minor?: number])[] = [
  [1, 3],
  [1, 8],
  [1, 7],
  [5, 0],
  [1, 5],
  [1, 9],
  [5, 1],
  [136],
  [5, 2],
];

const invalid = (what: string): ErrdefsError => new ErrdefsError('invalid_argument', what);

/**
 * Environment with overrides: replaced in place by key, appended when new, removed by a bare key.
 *
 * After containerd, pkg/oci/spec_opts.go (replaceOrAppendEnvValues).
 */
export function mergeEnv(defaults: readonly string[], overrides: readonly string[]): readonly string[] {
  const key = (entry: string): string => entry.split('=', 1)[0]!;
  const result: (string | undefined)[] = [...defaults];
  const places = new Map(defaults.map((entry, place) => [key(entry), place] as const));
  for (const entry of overrides) {
    const place = places.get(key(entry));
    if (!entry.includes('=')) {
      if (place !== undefined) result[place] = undefined;
    } else if (place !== undefined) result[place] = entry;
    else places.set(key(entry), result.push(entry) - 1);
  }
  return result.filter((entry) => entry !== undefined);
}

function checkEnv(entries: readonly string[]): readonly string[] {
  for (const entry of entries)
    if (entry === '' || entry.startsWith('=')) throw invalid(`environment entry ${JSON.stringify(entry)} has no name`);
  return entries;
}

function capabilities(options: SpecOptions, host: HostFacts): readonly string[] {
  const add = options.capAdd ?? [];
  const drop = options.capDrop ?? [];
  for (const name of [...add, ...drop]) {
    if (name === 'ALL' || CAPABILITIES.includes(name)) continue;
    if (name.startsWith('CAP_')) throw invalid(`capability ${JSON.stringify(name)} is not known`);
    const meant = `CAP_${name.toUpperCase()}`;
    throw new ErrdefsError(
      'invalid_argument',
      "capabilities must be specified with 'CAP_' prefix",
      CAPABILITIES.includes(meant) ? {hint: `write ${meant}`} : {},
    );
  }
  const everything = options.privileged === true || add.includes('ALL');
  // Without everything, one adds what one names; so `ALL` is taken away before anything is added, the names after.
  const base = everything ? host.capabilities : drop.includes('ALL') ? [] : DEFAULT_CAPABILITIES;
  return [...new Set([...base, ...add])].filter((name) => name !== 'ALL' && !drop.includes(name));
}

function processArgs(image: ExecConfig, options: SpecOptions): readonly string[] {
  const args = options.args ?? [];
  if (options.entrypoint !== undefined) return [...(options.entrypoint === '' ? [] : [options.entrypoint]), ...args];
  return args.length > 0 ? args : [...(image.Entrypoint ?? []), ...(image.Cmd ?? [])];
}

/**
 * Refuses a working directory in /proc: through /proc/self/fd it could be a host directory (CVE-2024-21626).
 *
 * @param cwd absolute path without symbolic links
 * @throws invalid_argument
 */
export function checkWorkingDirectory(cwd: string): void {
  if (/^\/proc(\/|$)/.test(cwd)) throw invalid(`working directory ${JSON.stringify(cwd)} must not be in /proc`);
}

/** Whether a mount's source is a host path. */
export const isBind = ({type, options}: MountSpec): boolean => type === 'bind' || options.includes('bind') || options.includes('rbind');

/** @throws not_implemented runc before 1.2 would take no notice of it */
function refuseIdMapped({destination, options = []}: Pick<Volume, 'destination' | 'options'>): void {
  if (options.some((option) => /^r?idmap(?:=|$)/.test(option)))
    throw new ErrdefsError('not_implemented', `mount on ${JSON.stringify(destination)}: a host directory with mapped owners`, {
      hint: 'leave out idmap: a container with --uidmap sees the owners of the host, as far as they are mapped; those of a volume of the store are mapped',
    });
}

/** Options whose value is a host path. */
const PATH_OPTION = /^(?:lowerdir|upperdir|workdir)\+?=(?!\/)/;

/**
 * A requested mount; type `bind` implies the option. Relative host paths are refused: the runtime would resolve them in the bundle, which
 * no container must see.
 */
function userMount(mount: MountSpec): MountSpec {
  refuseIdMapped(mount);
  const relative = isBind(mount) ? !posix.isAbsolute(mount.source) : /^\.\.?(?:\/|$)/.test(mount.source);
  if (relative) throw invalid(`mount source ${JSON.stringify(mount.source)} must be an absolute path`);
  const option = mount.options.find((text) => PATH_OPTION.test(text));
  if (option !== undefined) throw invalid(`mount option ${JSON.stringify(option)} must have an absolute path`);
  if (!posix.isAbsolute(mount.destination))
    throw invalid(`mount destination ${JSON.stringify(mount.destination)} must be an absolute path`);
  const implied = isBind(mount) && !mount.options.some((option) => option === 'bind' || option === 'rbind');
  return {...mount, destination: posix.resolve('/', mount.destination), options: implied ? ['rbind', ...mount.options] : mount.options};
}

const PROPAGATION = ['private', 'slave', 'shared', 'unbindable'].flatMap((name) => [name, `r${name}`]);
const VOLUME_OPTIONS = ['ro', 'rw', 'bind', 'rbind', 'nosuid', 'nodev', 'noexec', ...PROPAGATION];

/** A bind mount; recursive, and private as docker's, unless its options say otherwise. */
function volumeMount({source, destination, options = []}: Volume): MountSpec {
  refuseIdMapped({destination, options});
  const odd = options.find((option) => !VOLUME_OPTIONS.includes(option));
  if (odd !== undefined)
    throw new ErrdefsError('invalid_argument', `volume ${JSON.stringify(destination)}: unknown option ${JSON.stringify(odd)}`, {
      hint: `options are ${VOLUME_OPTIONS.join(', ')}`,
    });
  const bind = options.includes('bind') || options.includes('rbind') ? [] : ['rbind'];
  const propagation = options.some((option) => PROPAGATION.includes(option)) ? [] : ['rprivate'];
  return {type: 'bind', source, destination, options: [...bind, ...options, ...propagation]};
}

/** @throws invalid_argument unknown options, a relative path */
export const checkVolume = (volume: Volume): void => void userMount(volumeMount(volume));

/** A specification with further volumes, which take the place of default mounts; each comes before what is mounted in it. */
export function withVolumes(spec: Spec, volumes: readonly Volume[]): Spec {
  if (volumes.length === 0) return spec;
  const own = volumes.map(volumeMount).map(userMount);
  const taken = new Set(own.map(({destination}) => destination));
  const mounts = spec.mounts.filter(({destination}) => !taken.has(destination));
  for (const mount of own) {
    const inside = mounts.findIndex(({destination}) => destination.startsWith(`${mount.destination}/`));
    mounts.splice(inside === -1 ? mounts.length : inside, 0, mount);
  }
  return {...spec, mounts};
}

function withShmSize(bytes: number | undefined): readonly MountSpec[] {
  if (bytes === undefined) return DEFAULT_MOUNTS;
  return DEFAULT_MOUNTS.map((mount) =>
    mount.destination === '/dev/shm'
      ? {...mount, options: mount.options.map((option) => (option.startsWith('size=') ? `size=${bytes}` : option))}
      : mount,
  );
}

function mounts(options: SpecOptions, host: HostFacts): readonly MountSpec[] {
  const own = [...(options.mounts ?? []), ...(options.volumes ?? []).map(volumeMount)].map(userMount);
  const taken = new Set(own.map((mount) => mount.destination));
  const defaults = withShmSize(options.shmSize).map((mount) =>
    options.privileged === true && mount.type === 'sysfs'
      ? {...mount, options: mount.options.map((option) => (option === 'ro' ? 'rw' : option))}
      : mount,
  );
  const files = options.netHost === true ? host.files : [];
  const net = files.map((file) => ({destination: file, type: 'bind', source: file, options: ['rbind', 'ro']}));
  // A tmpfs is no part of an IPC namespace; message queues are.
  const shm = {destination: '/dev/shm', type: 'bind', source: '/dev/shm', options: ['rbind']};
  const standard = defaults.map((mount) => (options.namespaces?.ipc === 'host' && mount.destination === '/dev/shm' ? shm : mount));
  return [...standard.filter((m) => !taken.has(m.destination)), ...own, ...net.filter((m) => !taken.has(m.destination))];
}

function cpuLimits({cpus = 0, cpuQuota, cpuPeriod, cpuShares, cpusetCpus, cpusetMems}: ContainerLimits): CPULimits | undefined {
  // The kernel's smallest quota is 1 ms.
  if (!Number.isFinite(cpus) || (cpus !== 0 && cpus < 0.01)) throw invalid(`cpus ${cpus} must be at least 0.01`);
  if (cpus !== 0 && (cpuQuota !== undefined || cpuPeriod !== undefined)) throw invalid('cpus and quota/period should be used separately');
  const limits: CPULimits = {
    ...(cpuShares === undefined ? {} : {shares: cpuShares}),
    ...(cpus === 0 ? {} : {quota: Math.trunc(cpus * 100_000), period: 100_000}),
    ...(cpuQuota === undefined ? {} : {quota: cpuQuota}),
    ...(cpuPeriod === undefined ? {} : {period: cpuPeriod}),
    ...(cpusetCpus === undefined ? {} : {cpus: cpusetCpus}),
    ...(cpusetMems === undefined ? {} : {mems: cpusetMems}),
  };
  return Object.keys(limits).length === 0 ? undefined : limits;
}

/** As the kernel's: swap counts memory too, and the kernel refuses less than the limit. */
function memoryLimits({memoryLimit = 0, memoryReservation, memorySwap}: ContainerLimits): Limits['memory'] {
  if (!Number.isSafeInteger(memoryLimit) || memoryLimit < 0) throw invalid(`memory limit ${memoryLimit} must be a whole number of bytes`);
  if (memorySwap !== undefined && memorySwap !== -1 && (memoryLimit === 0 || memorySwap < memoryLimit))
    throw invalid(`${memorySwap} B of memory and swap are less than the memory limit, or there is none`);
  if (memoryReservation !== undefined && memoryLimit !== 0 && memoryReservation > memoryLimit)
    throw invalid(`a memory reservation of ${memoryReservation} B is above the limit of ${memoryLimit} B`);
  const limits = {
    ...(memoryLimit === 0 ? {} : {limit: memoryLimit}),
    ...(memoryReservation === undefined ? {} : {reservation: memoryReservation}),
    ...(memorySwap === undefined ? {} : {swap: memorySwap}),
  };
  return Object.keys(limits).length === 0 ? undefined : limits;
}

/** @throws invalid_argument limits that contradict one another */
export function limitsOf(options: ContainerLimits): Limits {
  const {pidsLimit} = options;
  const memory = memoryLimits(options);
  const cpu = cpuLimits(options);
  return {
    ...(memory === undefined ? {} : {memory}),
    ...(cpu === undefined ? {} : {cpu}),
    ...(pidsLimit === undefined ? {} : {pids: {limit: pidsLimit}}),
  };
}

function resources(options: SpecOptions, {requestedDevices = []}: HostFacts): Spec['linux']['resources'] {
  const rules = DEFAULT_DEVICES.map(
    ([major, minor]): DeviceRule => ({allow: true, type: 'c', major, ...(minor === undefined ? {} : {minor}), access: 'rwm'}),
  );
  const requested = requestedDevices.map(
    ({device: {type, major, minor}, access}): DeviceRule => ({allow: true, type, major, minor, access}),
  );
  return {
    devices: [...(hasHostDevices(options) ? [{allow: true, access: 'rwm'}] : [{allow: false, access: 'rwm'}, ...rules]), ...requested],
    ...limitsOf(options),
  };
}

/** Whether a container gets all devices of the host. */
export const hasHostDevices = ({privileged = false, privilegedWithoutHostDevices = false}: SpecOptions): boolean => {
  if (privilegedWithoutHostDevices && !privileged)
    throw invalid("flag '--privileged-without-host-devices' can only be used with '--privileged'");
  return privileged && !privilegedWithoutHostDevices;
};

const NAMESPACES = ['pid', 'network', 'uts', 'mount', 'user', 'ipc', 'cgroup'];

function namespaces(
  {netHost = false, joinNamespaces = [], namespaces: chosen = {}, hostname = ''}: SpecOptions,
  hasMappings: boolean,
): Spec['linux']['namespaces'] {
  const odd = joinNamespaces.find(({type, path}) => !NAMESPACES.includes(type) || !posix.isAbsolute(path));
  if (odd !== undefined)
    throw new ErrdefsError('invalid_argument', `namespace ${JSON.stringify(`${odd.type}:${odd.path}`)}`, {
      hint: `write it as TYPE:PATH, with an absolute path and a type of ${NAMESPACES.join(', ')}`,
    });
  if (chosen.uts === 'host' && hostname !== '')
    throw invalid("the host's name is not the container's to choose: hostname and its UTS namespace");
  const hosts = Object.entries({network: netHost ? 'host' : undefined, ...chosen}).flatMap(([type, of]) => (of === 'host' ? type : []));
  const twice = joinNamespaces.find(({type}) => hosts.includes(type));
  if (twice !== undefined) throw invalid(`${twice.type} namespace: the host's and ${JSON.stringify(twice.path)}`);
  const all = ['pid', 'ipc', 'uts', 'mount', 'network', ...(chosen.cgroup === 'private' ? ['cgroup'] : [])];
  const own = all.filter((type) => !hosts.includes(type));
  const joined = new Map(joinNamespaces.map((namespace) => [namespace.type, namespace]));
  const others = [...joined.keys()].filter((type) => !own.includes(type));
  const mapped = hasMappings ? ['user'] : [];
  if (hasMappings && (hosts.includes('pid') || joined.has('pid')))
    throw new ErrdefsError('invalid_argument', 'a container with mapped users cannot see the processes of others', {
      hint: 'leave out --uidmap and --gidmap, or --pid and --with-ns pid',
    });
  if (hasMappings && joined.has('user')) throw invalid('a user namespace to join, and mappings of a new one');
  return [...own, ...mapped, ...others].map((type) => joined.get(type) ?? {type});
}

const RLIMITS = 'AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK'
  .split(' ')
  .map((name) => `RLIMIT_${name}`);

function rlimits(requested: readonly Rlimit[] = []): readonly Rlimit[] {
  const limits = new Map([{type: 'RLIMIT_NOFILE', hard: 1024, soft: 1024}, ...requested].map((limit) => [limit.type, limit]));
  for (const {type, soft, hard} of limits.values()) {
    if (!RLIMITS.includes(type)) throw invalid(`resource limit ${JSON.stringify(type)} is not known`);
    if (soft > hard) throw invalid(`resource limit ${type}: the soft limit ${soft} is above the hard one, ${hard}`);
  }
  return [...limits.values()];
}

function cgroupOf(given: string | undefined, own: string): string {
  if (given === undefined || given === '') return given ?? own;
  if (!posix.isAbsolute(given) || posix.normalize(given) !== given)
    throw invalid(`control group ${JSON.stringify(given)} must be an absolute path without "." and ".."`);
  return given;
}

function propagation(name: string | undefined): {rootfsPropagation?: string} {
  if (name === undefined || name === '') return {};
  if (!PROPAGATION.includes(name))
    throw new ErrdefsError('invalid_argument', `rootfs propagation ${JSON.stringify(name)}`, {
      hint: `it is one of ${PROPAGATION.join(', ')}`,
    });
  return {rootfsPropagation: name};
}

/**
 * Builds the specification; a pure function.
 *
 * @throws invalid_argument an invalid option, or no command
 */
export function createSpec({cgroupsPath, image, options, envFile, user, host}: SpecInput): Spec {
  const args = processArgs(image, options);
  if (args.length === 0)
    throw new ErrdefsError('invalid_argument', 'no command', {
      hint: 'the image has neither Entrypoint nor Cmd: give a command after the ID',
    });

  const imageEnv = (image.Env ?? []).filter((entry) => entry.indexOf('=') > 0);
  const requested = checkEnv([...envFile, ...(options.env ?? [])]);
  const merged = mergeEnv(imageEnv.length === 0 ? DEFAULT_ENV : imageEnv, requested);
  const has = (entries: readonly string[], name: string): boolean => entries.some((entry) => entry.split('=', 1)[0] === name);
  const term = options.tty === true && !has(merged, 'TERM') ? ['TERM=xterm'] : [];
  const net = options.netHost === true && !has(requested, 'HOSTNAME') ? [`HOSTNAME=${host.hostname}`] : [];
  const env = mergeEnv([...merged, ...term], net);

  const cwd = posix.resolve('/', options.cwd || image.WorkingDir || '');
  checkWorkingDirectory(cwd);

  if (options.hostname !== undefined && options.hostname !== '') checkHostName(options.hostname);
  const granted = capabilities(options, host);
  const mappings = idMappings(options);
  const annotations = {...options.annotations, ...options.labels};
  const {apparmorProfile, oomScoreAdj, sysctls = {}} = options;
  const devices = [...(hasHostDevices(options) ? host.devices : []), ...(host.requestedDevices ?? []).map(({device}) => device)];

  return {
    ociVersion: '1.1.0',
    process: {
      ...(options.tty === true ? {terminal: true} : {}),
      user,
      args,
      env,
      cwd,
      capabilities: {bounding: granted, effective: granted, permitted: granted},
      rlimits: rlimits(options.rlimits),
      noNewPrivileges: options.allowNewPrivileges !== true,
      ...(apparmorProfile === undefined ? {} : {apparmorProfile}),
      ...(oomScoreAdj === undefined ? {} : {oomScoreAdj}),
    },
    root: {path: 'rootfs', ...(options.readOnly === true ? {readonly: true} : {})},
    ...(options.hostname === undefined || options.hostname === '' ? {} : {hostname: options.hostname}),
    mounts: mounts(options, host),
    ...(Object.keys(annotations).length === 0 ? {} : {annotations}),
    linux: {
      cgroupsPath: cgroupOf(options.cgroup, cgroupsPath),
      namespaces: namespaces(options, mappings !== undefined),
      ...(mappings === undefined ? {} : {uidMappings: mappings.users, gidMappings: mappings.groups}),
      ...propagation(options.rootfsPropagation),
      ...(Object.keys(sysctls).length === 0 ? {} : {sysctl: sysctls}),
      ...(options.privileged === true || devices.length > 0 ? {devices} : {}),
      resources: resources(options, host),
      ...(options.privileged === true ? {} : {maskedPaths: MASKED_PATHS, readonlyPaths: READONLY_PATHS}),
    },
  };
}
