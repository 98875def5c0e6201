/** Flags of the commands that make a container, `run` and `containers create`, and the library's options for them. */
import {readFileSync} from 'node:fs';
import type {FlagInput} from '@oclif/core/parser';
import type {ContainerLimits, CreateOptions, IdMapping, Labels, Namespace, ProgressEvent, Rlimit} from '../lib/client/types/index.ts';
import {ErrdefsError, fromErrno, isErrdefs} from '../lib/errdefs.ts';
import type {Context} from './command-context.ts';
import {Flags} from './define-flags.ts';
import {parseMount} from './mount-flag.ts';
import {omitUndefined} from './omit-undefined.ts';
import {openProgress} from './progress.ts';
import {connectionOptions} from './registry-options.ts';
import {CONNECTION_FLAGS, count, decimal, type GlobalFlags, repeated, size, snapshotter} from './shared-flags.ts';
import {STOP_TIMEOUT} from './task-flags.ts';
import {parseLabels, parseSize} from './value-parsers.ts';
import {parseVolumesFrom, volumesOf} from './volume-flag.ts';

const invalid = (message: string, hint?: string): ErrdefsError =>
  new ErrdefsError('invalid_argument', message, hint === undefined ? {} : {hint});

/** A whole number above 0, or -1 for no limit. */
const limit = Flags.custom<number>({
  helpValue: 'N',
  parse: async (input) => {
    if (!/^(?:-1|[1-9]\d{0,14})$/.test(input)) throw invalid(`${JSON.stringify(input)} is not a whole number above 0, or -1`);
    return Number(input);
  },
});

/** `host`, or `private`: the container's own. */
const namespaceOf = (what: string, type: string) =>
  Flags.custom<'host' | 'private'>({
    helpValue: 'host|private',
    description: `${what}: the host's, or its own`,
    parse: async (input) => {
      if (input !== 'host' && input !== 'private')
        throw invalid(`${JSON.stringify(input)} is neither host nor private`, `to join one, write --with-ns ${type}:/proc/PID/ns/${type}`);
      return input;
    },
  })();

/** Limits of what a container may use. */
export const LIMIT_FLAGS = {
  'memory-limit': size({char: 'm', aliases: ['memory'], description: 'memory limit'}),
  'memory-reservation': size({description: 'memory that the container keeps when memory is short'}),
  'memory-swap': Flags.custom<number>({
    helpValue: '1G',
    description: 'limit of memory and swap together; -1 is no limit',
    parse: async (input) => (input === '-1' ? -1 : parseSize(input)),
  })(),
  cpus: decimal({description: 'CPU limit'}),
  'cpu-quota': limit({description: 'CPU time in each period, in microseconds; -1 is no limit'}),
  'cpu-period': count({description: 'period of the CPU quota, in microseconds'}),
  'cpu-shares': count({description: 'share of the CPU among those that want it'}),
  'cpuset-cpus': Flags.string({helpValue: 'LIST', description: 'CPUs to run on, such as 0-2,7'}),
  'cpuset-mems': Flags.string({helpValue: 'LIST', description: 'memory nodes to use'}),
  'pids-limit': limit({description: 'most processes and threads; -1 is no limit'}),
};

/** What scripts for docker say, and what is so here anyway. */
const DOCKER_FLAGS = {
  restart: Flags.custom<'no'>({
    helpValue: 'no',
    description: 'no: nothing of berth stays to restart a container; "containers systemd" prints a unit that does',
    parse: async (input) => {
      if (input !== 'no')
        throw invalid(
          `${JSON.stringify(input)} is not supported`,
          'nothing of berth stays to restart a container: let systemd, by the unit of "berth containers systemd ID"',
        );
      return input;
    },
  })(),
  'no-healthcheck': Flags.boolean({description: 'no health is checked, with and without it'}),
  expose: repeated({helpValue: 'PORT', description: 'every port can be reached in the networks of the container, with and without it'}),
};

export const CONTAINER_FLAGS = {
  name: Flags.string({
    helpValue: 'NAME',
    description: 'name of the container, which then is not the second word; an empty one is made up',
  }),
  tty: Flags.boolean({char: 't', description: 'allocate a terminal'}),
  interactive: Flags.boolean({
    char: 'i',
    description: 'connect standard input, which a container in the foreground has anyway; a detached one keeps it open for "tasks attach"',
  }),
  rootfs: Flags.boolean({description: 'IMAGE is a directory, which is the root as it is: what the container changes stays'}),
  config: Flags.string({
    char: 'c',
    helpValue: 'FILE',
    description: 'runtime specification as it is, instead of IMAGE and of flags that would shape one',
  }),
  cidfile: Flags.string({helpValue: 'FILE', description: 'write the name of the container to this file, which must not exist'}),
  env: repeated({
    char: 'e',
    helpValue: 'KEY[=VALUE]',
    description: 'set an environment variable, or without a value remove it; may be repeated',
  }),
  'env-file': repeated({helpValue: 'FILE', description: 'file of environment variables, one a line; may be repeated'}),
  cwd: Flags.string({aliases: ['workdir'], char: 'w', helpValue: 'DIR', description: 'working directory'}),
  user: Flags.string({char: 'u', helpValue: 'USER[:GROUP]', description: 'user, by name or number'}),
  'group-add': repeated({helpValue: 'GROUP', description: 'further group of the user, by name or number; may be repeated'}),
  entrypoint: Flags.string({helpValue: 'PROGRAM', description: "replace the image's ENTRYPOINT only, as docker does"}),
  init: Flags.boolean({description: 'run tini as the first process: it passes signals on and reaps zombies'}),
  volume: repeated({
    char: 'v',
    helpValue: '[SRC:]DST[:ro]',
    description:
      'file or directory of the host, relative to the current directory; or the name of a volume, made if there is none; or nothing, for a volume that ends with the container; options after a second colon; may be repeated',
  }),
  'volumes-from': repeated({
    helpValue: 'ID[:ro]',
    description: 'volumes of another container, and what it has mounted of the host; may be repeated',
  }),
  'image-volume': Flags.custom<'own' | 'tmpfs' | 'ignore'>({
    helpValue: 'own|tmpfs|ignore',
    description: "what the image's VOLUMEs become: volumes that end with the container, file systems in memory, or nothing",
    parse: async (input) => {
      if (input === 'bind' || input === 'anonymous') return 'own';
      if (input === 'own' || input === 'tmpfs' || input === 'ignore') return input;
      throw invalid(`${JSON.stringify(input)} is none of own, tmpfs, ignore`);
    },
  })(),
  mount: repeated({
    helpValue: 'KEY=VALUE,…',
    description:
      'mount, such as type=bind,src=/a,dst=/b,options=rbind:ro, or in the words of docker; a relative src is relative to the current directory; may be repeated',
  }),
  tmpfs: repeated({helpValue: 'DST[:OPTIONS]', description: 'file system in memory, such as /tmp:size=64m,exec; may be repeated'}),
  'shm-size': size({helpValue: '64M', description: 'size of /dev/shm'}),
  device: repeated({
    helpValue: 'PATH[:DST][:rwm]',
    description: 'device of the host, or directory of devices; its path in the container; what it may do; may be repeated',
  }),
  'net-host': Flags.boolean({description: "use the host's network"}),
  cni: Flags.boolean({description: 'connect it to the default network; as --network default'}),
  network: Flags.string({
    aliases: ['net'],
    helpValue: 'NAME',
    description:
      'network of CNI; or default, which without root is pasta; or host, none, container:ID; with --publish default is the default',
  }),
  publish: repeated({
    char: 'p',
    helpValue: '[[IP:]HOST:]PORT[/PROTOCOL]',
    description: 'publish a port of the container, or a range, on the host; without HOST on one that is free; may be repeated',
  }),
  dns: repeated({helpValue: 'IP', description: "name server, instead of the host's; may be repeated"}),
  'dns-search': repeated({helpValue: 'DOMAIN', description: 'domain in which names are looked up; may be repeated'}),
  'dns-option': repeated({aliases: ['dns-opt'], helpValue: 'OPTION', description: 'option of resolv.conf(5); may be repeated'}),
  'add-host': repeated({helpValue: 'NAME:IP', description: "entry of /etc/hosts; the IP host-gateway is the host's; may be repeated"}),
  'with-ns': repeated({helpValue: 'TYPE:PATH', description: 'join an existing namespace, such as network:/run/netns/a; may be repeated'}),
  pid: namespaceOf('processes that the container sees', 'pid'),
  ipc: namespaceOf('shared memory and message queues', 'ipc'),
  uts: namespaceOf('host name', 'uts'),
  cgroupns: namespaceOf("control groups that the container sees, by default the host's", 'cgroup'),
  uidmap: repeated({
    helpValue: 'CONTAINER:HOST:SIZE',
    description: 'users of the container, and which users of the host they are, such as 0:100000:65536; may be repeated',
  }),
  gidmap: repeated({helpValue: 'CONTAINER:HOST:SIZE', description: 'the same for groups; by default as --uidmap; may be repeated'}),
  userns: Flags.custom<'host'>({
    helpValue: 'host',
    description: "users are the host's, which is the default",
    parse: async (input) => {
      if (input !== 'host') throw invalid(`${JSON.stringify(input)} is not supported`, 'name the users: --uidmap 0:100000:65536');
      return input;
    },
  })(),
  hostname: Flags.string({helpValue: 'NAME', description: 'host name of the container'}),
  'read-only': Flags.boolean({description: 'make the root filesystem read-only'}),
  'rootfs-propagation': Flags.string({helpValue: 'NAME', description: 'propagation of mounts in the root, such as rslave'}),
  privileged: Flags.boolean({description: 'give the container all capabilities and devices'}),
  'privileged-without-host-devices': Flags.boolean({
    description: 'give a privileged container no devices of the host',
    dependsOn: ['privileged'],
  }),
  'cap-add': repeated({helpValue: 'CAP_NAME', description: 'add a capability; may be repeated'}),
  'cap-drop': repeated({helpValue: 'CAP_NAME', description: 'drop a capability; may be repeated'}),
  'allow-new-privs': Flags.boolean({description: 'let programs gain privileges, as sudo does'}),
  seccomp: Flags.boolean({description: 'filter system calls, which is the default'}),
  'seccomp-profile': Flags.string({helpValue: 'FILE', description: "profile of system calls instead of berth's own"}),
  'apparmor-profile': Flags.string({
    helpValue: 'NAME',
    description: 'AppArmor profile, which the kernel has loaded; or unconfined, the default',
  }),
  'apparmor-default-profile': Flags.string({
    helpValue: 'NAME',
    description: "AppArmor profile of berth's own, by this name; loaded when the container starts, unless there is one",
    exclusive: ['apparmor-profile'],
  }),
  'security-opt': repeated({
    helpValue: 'OPTION',
    description:
      'seccomp=unconfined, seccomp=FILE, apparmor=unconfined, apparmor=NAME, no-new-privileges[=false], or label=…, of which nothing is set; may be repeated',
  }),
  sysctl: repeated({helpValue: 'KEY=VALUE', description: 'kernel parameter of the container; may be repeated'}),
  ulimit: repeated({helpValue: 'NAME=SOFT[:HARD]', description: 'resource limit, such as nofile=1024:4096; may be repeated'}),
  'rlimit-nofile': Flags.string({helpValue: 'SOFT:HARD', description: 'the same as --ulimit nofile=SOFT:HARD'}),
  ...LIMIT_FLAGS,
  'oom-score-adj': Flags.custom<number>({
    helpValue: 'N',
    description: 'how soon the kernel ends it when memory is short: -1000, which is never, to 1000',
    parse: async (input) => {
      if (!/^-?\d{1,4}$/.test(input) || Math.abs(Number(input)) > 1000)
        throw invalid(`${JSON.stringify(input)} is not a whole number from -1000 to 1000`);
      return Number(input);
    },
  })(),
  cgroup: Flags.string({helpValue: 'PATH', description: 'control group; empty: what the runtime chooses'}),
  'stop-signal': Flags.string({
    helpValue: 'SIGNAL',
    description: "signal that asks the container to end; by default the image's, else SIGTERM",
  }),
  'stop-timeout': STOP_TIMEOUT,
  label: repeated({char: 'l', helpValue: 'KEY=VALUE', description: 'label of the container; may be repeated'}),
  'label-file': repeated({helpValue: 'FILE', description: 'file of labels, one a line; may be repeated'}),
  annotation: repeated({helpValue: 'KEY=VALUE', description: 'annotation of the runtime specification; may be repeated'}),
  runtime: Flags.string({helpValue: 'PROGRAM', description: 'runtime, such as crun or a path; by default runc, else crun'}),
  'runc-binary': Flags.string({helpValue: 'PROGRAM', description: 'the same as --runtime', exclusive: ['runtime']}),
  platform: Flags.string({helpValue: 'OS/ARCH', description: "platform of the image; by default this machine's"}),
  snapshotter: snapshotter(),
  'snapshotter-label': repeated({helpValue: 'KEY=VALUE', description: "label of the container's snapshot; may be repeated"}),
  pull: Flags.option({
    options: ['always', 'missing', 'never', 'newer'] as const,
    default: 'never' as const,
    description: 'pull the image first: always, if it is missing, or if the registry has a newer one',
  })(),
  quiet: Flags.boolean({char: 'q', description: 'show no progress of the pull'}),
  ...DOCKER_FLAGS,
  ...CONNECTION_FLAGS,
};

type Parsed<T> = T extends FlagInput<infer F> ? F : never;
export type ContainerFlags = Parsed<typeof CONTAINER_FLAGS>;

/** Arguments of the commands with `CONTAINER_FLAGS` that a flag replaces. */
export const REPLACED_ARGS = {image: 'config', id: 'name'} as const;

/** `DST[:OPTIONS]` of docker's --tmpfs, with its defaults. @throws invalid_argument */
export function parseTmpfs(text: string): {type: string; source: string; destination: string; options: readonly string[]} {
  const colon = text.indexOf(':');
  const destination = colon === -1 ? text : text.slice(0, colon);
  const given = colon === -1 ? [] : text.slice(colon + 1).split(',');
  const base = ['noexec', 'nosuid', 'nodev'].filter((option) => !given.includes(option.slice(2)) && !given.includes(option));
  return {type: 'tmpfs', source: 'tmpfs', destination, options: [...base, ...given.filter((option) => option !== '')]};
}

/** The largest that JSON's numbers hold exactly stands for no limit: the kernel has no more than that of anything limited. */
const UNLIMITED = Number.MAX_SAFE_INTEGER;

/** `NAME=SOFT[:HARD]` of docker's --ulimit. @throws invalid_argument */
export function parseUlimit(text: string): Rlimit {
  const match = /^([a-z]+)=(-1|unlimited|\d{1,15})(?::(-1|unlimited|\d{1,15}))?$/.exec(text);
  if (match === null) throw invalid(`resource limit ${JSON.stringify(text)} is not NAME=SOFT[:HARD]`);
  const value = (number: string): number => (/^\d/.test(number) ? Number(number) : UNLIMITED);
  return {type: `RLIMIT_${match[1]!.toUpperCase()}`, soft: value(match[2]!), hard: value(match[3] ?? match[2]!)};
}

function parseNamespace(text: string): Namespace {
  const colon = text.indexOf(':');
  if (colon < 1) throw invalid(`namespace ${JSON.stringify(text)} is not TYPE:PATH`);
  return {type: text.slice(0, colon), path: text.slice(colon + 1)};
}

function parseIdMapping(text: string): IdMapping {
  const match = /^(\d{1,10}):(\d{1,10}):(\d{1,10})$/.exec(text);
  if (match === null) throw invalid(`mapping ${JSON.stringify(text)} is not CONTAINER:HOST:SIZE`, 'such as 0:100000:65536');
  const [containerID, hostID, size] = match.slice(1).map(Number) as [number, number, number];
  return {containerID, hostID, size};
}

/** @throws invalid_argument mappings, and --userns host */
function mappingsOf({uidmap, gidmap, userns}: ContainerFlags): Pick<CreateOptions, 'uidMappings' | 'gidMappings'> {
  if (userns === 'host' && (uidmap ?? gidmap) !== undefined)
    throw invalid('--userns host and mappings exclude each other', 'leave out one');
  return omitUndefined({uidMappings: uidmap?.map(parseIdMapping), gidMappings: gidmap?.map(parseIdMapping)});
}

interface SecurityOptions {
  readonly seccomp?: string;
  readonly apparmorProfile?: string;
  readonly apparmorDefaultProfile?: string;
  readonly allowNewPrivileges?: boolean;
}

function securityOptions(flags: ContainerFlags): SecurityOptions {
  const chosen: {-readonly [name in keyof SecurityOptions]: SecurityOptions[name]} = {};
  for (const text of flags['security-opt'] ?? []) {
    const [, key = '', , value] = /^([^=:]*)([=:](.*))?$/s.exec(text) ?? [];
    if (key === 'seccomp' && value) chosen.seccomp = value === 'builtin' ? '' : value;
    else if (key === 'apparmor' && value) chosen.apparmorProfile = value;
    else if (key === 'no-new-privileges' && (value === undefined || value === 'true' || value === 'false'))
      chosen.allowNewPrivileges = value === 'false';
    else if (key === 'label') continue;
    else throw invalid(`security option ${JSON.stringify(text)} is not supported`, 'see the help of --security-opt');
  }
  if (flags['allow-new-privs']) chosen.allowNewPrivileges = true;
  const profile = flags['seccomp-profile'];
  if (profile !== undefined && !flags.seccomp)
    throw invalid('seccomp must be set to true, if using a custom seccomp-profile', 'add --seccomp');
  if (profile !== undefined) chosen.seccomp = profile;
  const {'apparmor-profile': apparmor, 'apparmor-default-profile': apparmorDefaultProfile} = flags;
  if (apparmor !== undefined) chosen.apparmorProfile = apparmor;
  if (apparmorDefaultProfile !== undefined) chosen.apparmorDefaultProfile = apparmorDefaultProfile;
  return chosen;
}

/** `NET_ADMIN` of docker is `CAP_NET_ADMIN`. */
const capability = (name: string): string => (/^(?:ALL$|CAP_)/i.test(name) ? name : `CAP_${name}`).toUpperCase();

/** A program; of containerd's names for runtimes that of runc, which is the default. */
function runtimeProgram(name: string | undefined): string | undefined {
  if (name === undefined || /^io\.containerd\.runc\.v[12]$/.test(name)) return undefined;
  if (name.startsWith('io.containerd.'))
    throw invalid(`runtime ${JSON.stringify(name)} is a shim of containerd`, 'name a program, such as crun');
  return name;
}

const optionalLabels = (texts: readonly string[] | undefined): Labels | undefined => (texts === undefined ? undefined : parseLabels(texts));

type LimitFlags = Pick<ContainerFlags, keyof typeof LIMIT_FLAGS>;

/** The library's options for `LIMIT_FLAGS`. */
export const limitOptions = (flags: LimitFlags): ContainerLimits =>
  omitUndefined({
    memoryLimit: flags['memory-limit'],
    memoryReservation: flags['memory-reservation'],
    memorySwap: flags['memory-swap'],
    cpus: flags.cpus,
    cpuQuota: flags['cpu-quota'],
    cpuPeriod: flags['cpu-period'],
    cpuShares: flags['cpu-shares'],
    cpusetCpus: flags['cpuset-cpus'],
    cpusetMems: flags['cpuset-mems'],
    pidsLimit: flags['pids-limit'],
  });

/**
 * The library's options for `CONTAINER_FLAGS`.
 *
 * @throws invalid_argument
 */
export function containerOptions(flags: ContainerFlags): CreateOptions {
  const nofile = flags['rlimit-nofile'];
  const limits = [...(flags.ulimit ?? []), ...(nofile === undefined ? [] : [`nofile=${nofile}`])].map(parseUlimit);
  const requested = (flags.mount ?? []).map(parseMount);
  const mounts = [...requested.filter(({type}) => type !== 'volume'), ...(flags.tmpfs ?? []).map(parseTmpfs)];
  return {
    ...omitUndefined({
      entrypoint: flags.entrypoint,
      env: flags.env,
      envFiles: flags['env-file'],
      cwd: flags.cwd,
      user: flags.user,
      groupAdd: flags['group-add'],
      mounts: mounts.length === 0 ? undefined : mounts,
      ...volumesOf(flags.volume ?? [], requested),
      imageVolumes: flags['image-volume'],
      volumesFrom: flags['volumes-from']?.map(parseVolumesFrom),
      shmSize: flags['shm-size'],
      devices: flags.device,
      namespaces: namespacesOf(flags),
      joinNamespaces: flags['with-ns']?.map(parseNamespace),
      hostname: flags.hostname,
      rootfsPropagation: flags['rootfs-propagation'],
      capAdd: flags['cap-add']?.map(capability),
      capDrop: flags['cap-drop']?.map(capability),
      sysctls: optionalLabels(flags.sysctl),
      rlimits: limits.length === 0 ? undefined : limits,
      config: flags.config,
      oomScoreAdj: flags['oom-score-adj'],
      cgroup: flags.cgroup,
      stopSignal: flags['stop-signal'],
      stopTimeoutMs: flags['stop-timeout'],
      runtime: runtimeProgram(flags.runtime ?? flags['runc-binary']),
      platform: flags.platform,
      snapshotter: flags.snapshotter,
      network: networkOf(flags),
      ports: flags.publish,
      dns: flags.dns,
      dnsSearch: flags['dns-search'],
      dnsOptions: flags['dns-option'],
      addHosts: flags['add-host'],
      snapshotLabels: optionalLabels(flags['snapshotter-label']),
    }),
    ...limitOptions(flags),
    ...securityOptions(flags),
    ...mappingsOf(flags),
    rootfs: flags.rootfs,
    init: flags.init,
    tty: flags.tty,
    netHost: flags['net-host'],
    readOnly: flags['read-only'],
    privileged: flags.privileged,
    privilegedWithoutHostDevices: flags['privileged-without-host-devices'],
    labels: parseLabels([...(flags['label-file'] ?? []).flatMap(labelLines), ...(flags.label ?? [])]),
    annotations: parseLabels(flags.annotation ?? []),
  };
}

/** Lines of a file of docker's --label-file. */
function labelLines(file: string): readonly string[] {
  try {
    return readFileSync(file, 'utf8')
      .split(/\r?\n/)
      .map((line) => line.trim())
      .filter((line) => line !== '' && !line.startsWith('#'));
  } catch (err) {
    throw fromErrno(err, `file ${JSON.stringify(file)} of labels`);
  }
}

const ID_HINT = "after IMAGE comes the container's ID; or leave it out, with --name NAME, or --name '' for one that is made up";

export const MISSING_HINTS = {id: ID_HINT} as const;

/**
 * The identifier of a new container: the argument, what --name says, or where that is empty a new one.
 *
 * @param command of the container
 * @throws invalid_argument the argument is the first word of a command, as docker reads it
 */
export async function containerID(argument: string | undefined, name: string | undefined, command: readonly string[]): Promise<string> {
  if (argument !== undefined && command[0]?.startsWith('-') === true)
    throw invalid(
      `${JSON.stringify(command[0])} is no command: ${JSON.stringify(argument)} before it is taken as the container's ID`,
      ID_HINT,
    );
  if (argument !== undefined || (name !== undefined && name !== '')) return (argument ?? name)!;
  const {randomBytes} = await import('node:crypto');
  return randomBytes(6).toString('hex');
}

/** The error of a command that was not found, with a hint where the word before it may have been meant as the command. */
export function explainID(err: unknown, argument: string | undefined, command: readonly string[]): unknown {
  if (argument === undefined || command.length === 0 || !isErrdefs(err)) return err;
  const {code, message, hint, details} = err;
  if (details?.runExit !== 126 && details?.runExit !== 127) return err;
  const why = `${JSON.stringify(argument)} was taken as the container's ID, which stands before the command; with --name NAME it is left out`;
  return new ErrdefsError(code, message, {cause: err, hint: hint === undefined ? why : `${hint}; ${why}`, details});
}

function namespacesOf({pid, ipc, uts, cgroupns}: ContainerFlags): CreateOptions['namespaces'] {
  const chosen = omitUndefined({pid, ipc, uts, cgroup: cgroupns});
  return Object.keys(chosen).length === 0 ? undefined : chosen;
}

function networkOf({cni, network}: {readonly cni: boolean; readonly network?: string | undefined}): string | undefined {
  if (cni && network !== undefined) throw invalid('--cni and --network exclude each other', '--cni is --network default');
  return cni ? 'default' : network;
}

/**
 * Calls `make` while the file says the container's name: from before its start, so that a script need not wait. Without a container there
 * is no file.
 *
 * @throws already_exists the file is there
 */
async function withIDFile<T>(file: string | undefined, id: string, make: () => Promise<T>): Promise<T> {
  if (file === undefined) return make();
  const {unlinkSync, writeFileSync} = await import('node:fs');
  try {
    writeFileSync(file, id, {flag: 'wx', mode: 0o644});
  } catch (err) {
    throw fromErrno(err, `file ${JSON.stringify(file)} for the name of the container`);
  }
  try {
    return await make();
  } catch (err) {
    unlinkSync(file);
    throw err;
  }
}

/**
 * Calls `make` with the options of a container, and shows the progress of the pull that they may ask for.
 *
 * @param id for --cidfile
 * @param args the container's command
 */
export async function withContainerOptions<T>(
  flags: ContainerFlags & GlobalFlags,
  id: string,
  args: readonly string[],
  context: Context,
  make: (options: CreateOptions) => Promise<T>,
): Promise<T> {
  const {pull, quiet} = flags;
  const mode = quiet ? 'none' : flags.progress;
  // Lines, not bars: the terminal is the container's as soon as it runs.
  const lineMode = mode === 'auto' || mode === 'tty' ? (flags.json ? 'json' : 'plain') : mode;
  const options = containerOptions(flags);
  const progress = pull === 'never' ? undefined : await openProgress({...flags, progress: lineMode}, context);
  const pulling = progress && {
    pull,
    registry: connectionOptions(flags, context),
    onEvent: (event: ProgressEvent): void => progress.update(event),
  };
  try {
    return await withIDFile(flags.cidfile, id, () => make({args, ...pulling, ...options}));
  } finally {
    progress?.close();
  }
}
