/** A specification for a container in a user namespace, where its runtime is root over some ids and over nothing of the machine. */
import {existsSync, readFileSync} from 'node:fs';
import {ErrdefsError} from '../errdefs.ts';
import {type IdSets, isRootless, mappedIds} from '../user-namespace-identity.ts';
import {type IdMappings, idSets} from './id-mappings.ts';
import type {Limits, Spec} from './spec.ts';
import type {MountSpec} from './spec-option-types.ts';

/** What the user namespace allows. */
export interface UserNamespace {
  readonly ids: IdSets;
  /** Groups of a process may be set; not where one id alone is mapped. */
  readonly setsGroups: boolean;
}

const ownNamespace = (): UserNamespace => ({
  ids: mappedIds(),
  setsGroups: readFileSync('/proc/self/setgroups', 'latin1').trim() === 'allow',
});

const refused = (what: string, hint: string): ErrdefsError => new ErrdefsError('failed_precondition', `without root: ${what}`, {hint});

/** Mounts that show a namespace, so that mounting them takes rights over that: what the machine has takes their place. */
const SHOWN: Readonly<Record<string, {readonly namespace: string; readonly source: string; readonly options: readonly string[]}>> = {
  sysfs: {namespace: 'network', source: '/sys', options: ['ro']},
  mqueue: {namespace: 'ipc', source: '/dev/mqueue', options: []},
};

/** A mount that needs rights over the machine, in a form that needs none; nothing where the machine has none such. */
function adaptMount(mount: MountSpec, own: ReadonlySet<string>, ids: IdSets): readonly MountSpec[] {
  const shown = SHOWN[mount.type];
  if (shown !== undefined && !own.has(shown.namespace)) {
    const {source, options} = shown;
    return existsSync(source) ? [{...mount, type: 'none', source, options: ['rbind', 'nosuid', 'noexec', 'nodev', ...options]}] : [];
  }
  if (mount.type !== 'devpts') return [mount];
  return [{...mount, options: mount.options.filter((option) => !option.startsWith('gid=') || ids.hasGroup(Number(option.slice(4))))}];
}

/** Where cgroups are of version 2 alone, so that systemd can give a user a part of them. See cgroups(7). */
const UNIFIED = '/sys/fs/cgroup/cgroup.controllers';

/**
 * How systemd limits a command with all that it starts, in a scope of its user: a container without a cgroup of its own stays in that of the command.
 *
 * Units after systemd.resource-control(5); shares to weight as runc has it, libcontainer/cgroups/utils.go (ConvertCPUSharesToCgroupV2Value).
 *
 * @returns its words before the command; `undefined` for what it has no property for
 */
export function scopeCommand({memory, cpu, pids}: Limits): string | undefined {
  const {limit, reservation, swap} = memory ?? {};
  const {quota = -1, period = 100_000, shares, cpus, mems} = cpu ?? {};
  const property = (name: string, value: number | string | undefined): readonly string[] =>
    value === undefined || value === -1 ? [] : [`-p ${name}=${value}`];
  const properties = [
    ...property('MemoryMax', limit),
    ...property('MemoryLow', reservation),
    ...property('MemorySwapMax', swap === undefined || swap === -1 || limit === undefined ? undefined : swap - limit),
    ...property('CPUQuota', quota === -1 ? undefined : `${Number(((quota / period) * 100).toFixed(2))}%`),
    ...property(
      'CPUWeight',
      shares === undefined ? undefined : 1 + Math.trunc(((Math.min(Math.max(shares, 2), 262_144) - 2) * 9999) / 262_142),
    ),
    ...property('AllowedCPUs', cpus),
    ...property('AllowedMemoryNodes', mems),
    ...property('TasksMax', pids?.limit),
  ];
  return properties.length === 0 ? undefined : `systemd-run --user --scope ${properties.join(' ')}`;
}

/** What to do instead, by the cgroups that the machine has. */
function limitsHint(limits: Limits, unified: boolean): string {
  const otherwise = 'leave out the limits, or run the command as root';
  if (!unified) return `${otherwise}; the cgroups of this machine are of version 1, of which a user gets no part`;
  const scope = scopeCommand(limits);
  return scope === undefined ? otherwise : `${otherwise}; or limit it with berth: ${scope} berth …`;
}

/**
 * Without cgroup, because those belong to root. See also runc's `--rootless`.
 *
 * @throws failed_precondition it has limits of a cgroup, a process namespace of others, or a user or group that the namespace does not have
 */
export function withoutRoot(spec: Spec, namespace: UserNamespace): Spec {
  const {process, linux, mounts} = spec;
  if (linux.uidMappings !== undefined)
    throw refused(
      'the container has no users but those of this user namespace',
      'leave out --uidmap and --gidmap, or run the command as root',
    );
  const {memory, cpu, pids} = linux.resources;
  const limits = Object.entries({memory, cpu, pids}).flatMap(([name, limit]) => (limit === undefined ? [] : [name]));
  if (limits.length > 0)
    throw refused(
      `no control group, so no limit of ${limits.join(', ')}`,
      limitsHint({...(memory && {memory}), ...(cpu && {cpu}), ...(pids && {pids})}, existsSync(UNIFIED)),
    );
  const own = new Set(linux.namespaces.map(({type}) => type));
  if (!linux.namespaces.some(({type, path}) => type === 'pid' && path === undefined))
    throw refused(
      "in a process namespace of others nobody could tell which processes are the container's",
      'leave out --pid, or --with-ns pid',
    );
  const {uid, gid, additionalGids} = process.user;
  const {ids} = namespace;
  const missing = [
    ...(ids.hasUser(uid) ? [] : [`user ${uid}`]),
    ...[gid, ...(namespace.setsGroups ? additionalGids : [])].filter((id) => !ids.hasGroup(id)).map((id) => `group ${id}`),
  ];
  if (missing.length > 0)
    throw refused(`the user namespace has no ${missing.join(', ')}`, 'give this user a larger range in /etc/subuid and /etc/subgid');
  return {
    ...spec,
    process: {...process, user: namespace.setsGroups ? process.user : {...process.user, additionalGids: []}},
    mounts: mounts.flatMap((mount) => adaptMount(mount, own, ids)),
    linux: {...linux, cgroupsPath: '', resources: {devices: []}},
  };
}

/** For a container with a user namespace of its own, which has no rights over namespaces that do not belong to that. */
function withMappedIds(spec: Spec, mappings: IdMappings): Spec {
  const {namespaces} = spec.linux;
  // A user namespace that was made for the container comes with the network in it.
  const isMade = namespaces.some(({type, path}) => type === 'user' && path !== undefined);
  const own = new Set(namespaces.filter(({path}) => path === undefined || isMade).map(({type}) => type));
  return {...spec, mounts: spec.mounts.flatMap((mount) => adaptMount(mount, own, idSets(mappings)))};
}

/**
 * The specification as this process can have it run.
 *
 * @param mappings of a container whose users are not the host's
 * @throws as `withoutRoot`
 */
export function asPermitted(spec: Spec, mappings?: IdMappings): Spec {
  if (isRootless()) return withoutRoot(spec, ownNamespace());
  return mappings === undefined ? spec : withMappedIds(spec, mappings);
}
