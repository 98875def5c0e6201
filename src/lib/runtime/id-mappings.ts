/** Mappings of a container's users and groups to those of the host; see user_namespaces(7). */
import {readlinkSync} from 'node:fs';
import {ErrdefsError} from '../errdefs.ts';
import {type IdSets, idRanges} from '../user-namespace-identity.ts';
import type {IdMapping} from './spec-option-types.ts';
import type {User} from './user.ts';

/** As UID_GID_MAP_MAX_EXTENTS of the kernel. */
const MAX_EXTENTS = 340;
/** Bytes of a mapping's text: less than a page, which is written at once. See user_namespaces(7). */
const MAX_TEXT = 4095;
/** The largest id, and one more: what 32 bits can hold but `(uid_t)-1`. */
const IDS = 2 ** 32 - 1;

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

export interface IdMappings {
  readonly users: readonly IdMapping[];
  readonly groups: readonly IdMapping[];
}

const invalid = (what: string, hint?: string): ErrdefsError => new ErrdefsError('invalid_argument', what, hint === undefined ? {} : {hint});

const format = ({containerID, hostID, size}: IdMapping): string => `${containerID}:${hostID}:${size}`;

/** @param kind for messages @throws invalid_argument the kernel, or the runtime, would refuse it */
function checkMapping(kind: 'user' | 'group', list: readonly IdMapping[]): void {
  const tooMany = (): ErrdefsError =>
    invalid(
      `${list.length} mappings of ${kind}s are more than the kernel takes`,
      `it takes ${MAX_EXTENTS}, in a text of ${MAX_TEXT} bytes: use fewer that are longer`,
    );
  if (list.length > MAX_EXTENTS) throw tooMany();
  for (const mapping of list) {
    const {containerID, hostID, size} = mapping;
    const isId = (id: number): boolean => Number.isSafeInteger(id) && id >= 0 && id + size <= IDS;
    if (!Number.isSafeInteger(size) || size < 1 || !isId(containerID) || !isId(hostID))
      throw invalid(`mapping of ${kind}s ${format(mapping)}: ids are 0 to ${IDS - 1}, and at least one is mapped`);
  }
  for (const side of ['containerID', 'hostID'] as const) {
    const sorted = [...list].sort((a, b) => a[side] - b[side]);
    for (const [i, next] of sorted.entries()) {
      const before = sorted[i - 1];
      if (before !== undefined && before[side] + before.size > next[side])
        throw invalid(`mappings of ${kind}s ${format(before)} and ${format(next)} overlap`);
    }
  }
  if (hostId(list, 0) === undefined)
    throw invalid(`no mapping of ${kind}s has the container's ${kind} 0`, 'the runtime sets the container up as its root: map 0, too');
  const written = withHostRoot(list);
  const text = written.map(({containerID, hostID, size}) => `${containerID} ${hostID} ${size}\n`).join('');
  if (written.length > MAX_EXTENTS || text.length > MAX_TEXT) throw tooMany();
}

/**
 * The mappings of a container; what is given for users only, or for groups only, is for both.
 *
 * @returns `undefined` where there are none: ids are the host's
 * @throws invalid_argument
 */
export function idMappings({
  uidMappings = [],
  gidMappings = [],
}: {
  readonly uidMappings?: readonly IdMapping[] | undefined;
  readonly gidMappings?: readonly IdMapping[] | undefined;
}): IdMappings | undefined {
  if (uidMappings.length + gidMappings.length === 0) return undefined;
  const users = uidMappings.length === 0 ? gidMappings : uidMappings;
  const groups = gidMappings.length === 0 ? uidMappings : gidMappings;
  checkMapping('user', users);
  checkMapping('group', groups);
  return {users, groups};
}

/** What the host calls a container's id; `undefined` where it is not mapped. */
export function hostId(list: readonly IdMapping[], id: number): number | undefined {
  const found = list.find(({containerID, size}) => id >= containerID && id < containerID + size);
  return found === undefined ? undefined : found.hostID + (id - found.containerID);
}

/** What a container calls an id of the host; `undefined` where it is not mapped. */
export const containerId = (list: readonly IdMapping[], id: number): number | undefined =>
  hostId(
    list.map(({containerID, hostID, size}) => ({containerID: hostID, hostID: containerID, size})),
    id,
  );

const has = (list: readonly IdMapping[], id: number): boolean => hostId(list, id) !== undefined;

export const idSets = ({users, groups}: IdMappings): IdSets => ({
  hasUser: (id) => has(users, id),
  hasGroup: (id) => has(groups, id),
  single: false,
});

/**
 * Refuses users and groups that a container's mappings do not have.
 *
 * @throws failed_precondition
 */
export function assertMapped({uid, gid, additionalGids}: User, {hasUser, hasGroup}: IdSets): void {
  const groups = [...new Set([gid, ...additionalGids])].filter((id) => !hasGroup(id));
  const missing = [...(hasUser(uid) ? [] : [`user ${uid}`]), ...groups.map((id) => `group ${id}`)];
  if (missing.length > 0)
    throw new ErrdefsError('failed_precondition', `the container's user namespace has no ${missing.join(', ')}`, {
      hint: 'map it by --uidmap and --gidmap',
    });
}

/** The mappings of a process; `undefined` where it is in the user namespace of this one. */
export function mappingsOfProcess(pid: number): IdMappings | undefined {
  const namespace = (process: number | 'self'): string => readlinkSync(`/proc/${process}/ns/user`);
  if (namespace(pid) === namespace('self')) return undefined;
  const list = (file: string): readonly IdMapping[] =>
    idRanges(pid, file).map(([containerID = 0, hostID = 0, size = 0]) => ({containerID, hostID, size}));
  return {users: list('uid_map'), groups: list('gid_map')};
}

/** What the kernel shows for an id that is not mapped. */
const OVERFLOW_ID = 65534;

/** Owner of a file as a container has it. */
export const inContainer = ({users, groups}: IdMappings, {uid, gid}: Owner): Owner => ({
  uid: containerId(users, uid) ?? OVERFLOW_ID,
  gid: containerId(groups, gid) ?? OVERFLOW_ID,
});

/** Owner of a file as the host has it. @throws failed_precondition an id is not mapped */
export function onHost(mappings: IdMappings, {uid, gid}: Owner): Owner {
  assertMapped({uid, gid, additionalGids: []}, idSets(mappings));
  return {uid: hostId(mappings.users, uid)!, gid: hostId(mappings.groups, gid)!};
}

/** The highest id that the container has not. */
function unusedId(list: readonly IdMapping[]): number {
  let id = IDS - 1;
  for (let taken = true; taken; ) {
    const at = list.find(({containerID, size}) => id >= containerID && id < containerID + size);
    taken = at !== undefined;
    if (at !== undefined) id = at.containerID - 1;
  }
  return id;
}

/**
 * The mappings of mounts. The host's root may make files there, too, as overlayfs does for its marks, and `cp` before it gives them their owners:
 * on the disk they belong to an id that the container has not.
 */
export const withHostRoot = (list: readonly IdMapping[]): readonly IdMapping[] =>
  containerId(list, 0) === undefined ? [...list, {containerID: unusedId(list), hostID: 0, size: 1}] : list;
