/** A specification for a container in a user namespace, where its runtime is root over some ids and over nothing of the machine. */
import {existsSync, readFileSync} from 'node:fs';
import {dirname} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';
import {type IdSets, isRootless, mappedIds, userID} from '../user-namespace-identity.ts';
import {type DelegatedGroup, isUnified} from './delegated-cgroup.ts';
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

/** The controller of each kind of limit. See the files' names in cgroups(7). */
const neededControllers = ({memory, cpu, pids}: Limits): readonly string[] => {
  const {cpus, mems, ...times} = cpu ?? {};
  return [
    ...(memory === undefined ? [] : ['memory']),
    ...(Object.values(times).every((value) => value === undefined) ? [] : ['cpu']),
    ...(cpus === undefined && mems === undefined ? [] : ['cpuset']),
    ...(pids === undefined ? [] : ['pids']),
  ];
};

const OTHERWISE = 'leave out the limits, or run the command as root';

/** How a user without root comes to a control group, by the cgroups that the machine has. */
const groupHint = (): string =>
  isUnified()
    ? `systemd gives this user one: as root, loginctl enable-linger ${userID()}; or ${OTHERWISE}`
    : `${OTHERWISE}; the cgroups of this machine are of version 1, of which a user gets no part`;

/** How root delegates further controllers, to the users' managers of systemd or from group to group. See systemd.resource-control(5). */
function delegationHint({path, controllers}: DelegatedGroup, missing: readonly string[]): string {
  const directory = '/etc/systemd/system/user@.service.d';
  const words = [...controllers, ...missing].sort().join(' ');
  const how = path.includes('/user@')
    ? `mkdir -p ${directory}; printf '[Service]\\nDelegate=${words}\\n' >${directory}/delegate.conf; systemctl daemon-reload; systemctl restart user@${userID()}`
    : `echo ${missing.map((name) => `+${name}`).join(' ')} >/sys/fs/cgroup${dirname(path)}/cgroup.subtree_control`;
  return `as root: ${how}; or ${OTHERWISE}`;
}

/** @param group of which the container's is a part @throws failed_precondition it has no group, or one without a controller for a limit */
export function assertLimitable(limits: Limits, group: DelegatedGroup | undefined): void {
  const needed = neededControllers(limits);
  if (needed.length === 0) return;
  if (group === undefined) throw refused(`no control group, so no limit of ${needed.join(', ')}`, groupHint());
  const missing = needed.filter((name) => !group.controllers.has(name));
  if (missing.length > 0)
    throw refused(
      `control group ${group.path || '/'} has not been given the controller ${missing.join(', ')}`,
      delegationHint(group, missing),
    );
}

/** A container's place in a group of this user. */
export interface GroupPlace {
  readonly group: DelegatedGroup;
  /** Of the container, below it. */
  readonly path: string;
}

/**
 * Without cgroup unless the user has a group, because others belong to root. See also runc's `--rootless`.
 *
 * @throws failed_precondition it has limits that it cannot have, a process namespace of others, or a user or group that the namespace does not have
 */
export function withoutRoot(spec: Spec, namespace: UserNamespace, place?: GroupPlace): Spec {
  const {process, linux, mounts} = spec;
  if (linux.uidMappings !== undefined)
    throw refused(
      'the container has no users but those of this user namespace',
      'leave out --uidmap and --gidmap, or run the command as root',
    );
  const {memory, cpu, pids} = linux.resources;
  const limits: Limits = {...(memory && {memory}), ...(cpu && {cpu}), ...(pids && {pids})};
  assertLimitable(limits, place?.group);
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
    linux: {...linux, cgroupsPath: place?.path ?? '', resources: {...limits, devices: []}},
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
 * @param place without root, where there is one
 * @throws as `withoutRoot`
 */
export function asPermitted(spec: Spec, mappings?: IdMappings, place?: GroupPlace): Spec {
  if (isRootless()) return withoutRoot(spec, ownNamespace(), place);
  return mappings === undefined ? spec : withMappedIds(spec, mappings);
}
