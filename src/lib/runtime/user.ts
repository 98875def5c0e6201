/**
 * Resolves the user of a container (`user`, `uid`, `user:group`, `uid:gid`) with the image's own /etc/passwd and /etc/group.
 *
 * Rules and messages after containerd, pkg/oci/spec_opts.go (WithUser, WithAdditionalGIDs).
 */
import {ErrdefsError} from '../errdefs.ts';

/** Reads files of the image; see `RootReader`. */
export interface UserFiles {
  /** @returns `undefined` if the file does not exist */
  readFile(path: string, limit: number): string | undefined;
}

export interface User {
  readonly uid: number;
  readonly gid: number;
  /** Always has `gid`. */
  readonly additionalGids: readonly number[];
}

interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** runc accepts no larger ID (CVE-2024-40635). */
const MAX_ID = 2 ** 31 - 1;
/** The most bytes of /etc/passwd or /etc/group (CVE-2026-47262). */
export const MAX_USER_FILE_BYTES = 10 * 1024 * 1024;

const NUMBER = /^[+-]?\d+$/;

/** An ID in passwd or group. Entries with an invalid ID are skipped: reading it as 0 would make the user root. */
const entryID = (text: string | undefined): number | undefined =>
  text !== undefined && /^\d{1,10}$/.test(text) && Number(text) <= MAX_ID ? Number(text) : undefined;

const records = (text: string): readonly (readonly string[])[] =>
  text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(':'));

/** Entries of a passwd(5) file; malformed lines are skipped. */
export function parsePasswd(text: string): readonly PasswdEntry[] {
  return records(text).flatMap(([name = '', , uidText, gidText]) => {
    const [uid, gid] = [entryID(uidText), entryID(gidText)];
    return uid === undefined || gid === undefined ? [] : [{name, uid, gid}];
  });
}

/** Entries of a group(5) file; malformed lines are skipped. */
export function parseGroup(text: string): readonly GroupEntry[] {
  return records(text).flatMap(([name = '', , gidText, members = '']) => {
    const gid = entryID(gidText);
    return gid === undefined ? [] : [{name, gid, members: members.split(',')}];
  });
}

const passwd = (files: UserFiles): readonly PasswdEntry[] => parsePasswd(files.readFile('/etc/passwd', MAX_USER_FILE_BYTES) ?? '');
const group = (files: UserFiles): readonly GroupEntry[] => parseGroup(files.readFile('/etc/group', MAX_USER_FILE_BYTES) ?? '');

/**
 * @param name never taken for a number
 * @throws not_found
 */
export function userByName(files: UserFiles, name: string): PasswdEntry {
  const found = passwd(files).find((entry) => entry.name === name);
  if (found === undefined) throw new ErrdefsError('not_found', `user ${JSON.stringify(name)}: no users found`);
  return found;
}

function groupByName(files: UserFiles, name: string): GroupEntry {
  const found = group(files).find((entry) => entry.name === name);
  if (found === undefined) throw new ErrdefsError('not_found', `group ${JSON.stringify(name)}: no groups found`);
  return found;
}

/** A number in USER is always an ID, even if a user has that name. */
function numericID(text: string, value: string, kind: 'uid' | 'gid'): number | undefined {
  if (!NUMBER.test(text)) return undefined;
  const id = Number(text);
  if (id < 0 || id > MAX_ID)
    throw new ErrdefsError('invalid_argument', `invalid USER value ${JSON.stringify(value)}: ${kind} out of range`);
  return id;
}

/** A group by name or number. @throws not_found @throws invalid_argument beyond 2147483647 */
export const groupID = (files: UserFiles, value: string): number => numericID(value, value, 'gid') ?? groupByName(files, value).gid;

function parseUser(files: UserFiles, value: string): {readonly uid: number; readonly gid: number} {
  const [userPart = '', groupPart, ...more] = value.split(':');
  if (more.length > 0) throw new ErrdefsError('invalid_argument', `invalid USER value ${JSON.stringify(value)}`);
  const uid = numericID(userPart, value, 'uid');
  if (groupPart === undefined) {
    if (uid === undefined) return userByName(files, userPart);
    return passwd(files).find((entry) => entry.uid === uid) ?? {uid, gid: 0};
  }
  const gid = numericID(groupPart, value, 'gid');
  return {
    uid: uid ?? (userPart === '' ? 0 : userByName(files, userPart).uid),
    gid: gid ?? (groupPart === '' ? 0 : groupByName(files, groupPart).gid),
  };
}

/**
 * The primary group and those that /etc/group lists the user in.
 *
 * @param user name or uid; a `user:group` is in no further group
 * @param gid the primary group, which comes first unless it is listed anyway
 */
export function additionalGids(files: UserFiles, user: string, gid: number): readonly number[] {
  const name = NUMBER.test(user) ? passwd(files).find((entry) => entry.uid === Number(user))?.name : user;
  const gids = name === undefined ? [] : group(files).filter((entry) => entry.name !== name && entry.members.includes(name));
  const listed = gids.map((entry) => entry.gid);
  return listed.includes(gid) ? listed : [gid, ...listed];
}

/**
 * The user of an image's config. Empty is root; the further groups are those of the uid, whatever group was named.
 *
 * @throws not_found no such user or group
 * @throws invalid_argument not a USER value, or an ID beyond 2147483647
 * @throws failed_precondition the image's /etc/passwd or /etc/group is not a regular file of acceptable size
 */
export function imageUser(files: UserFiles, value: string): User {
  if (value === '') return {uid: 0, gid: 0, additionalGids: additionalGids(files, 'root', 0)};
  const {uid, gid} = parseUser(files, value);
  return {uid, gid, additionalGids: additionalGids(files, String(uid), gid)};
}

/** The user that a caller requests: as `imageUser`, but with a named group there are no additional groups. Same errors. */
export function requestedUser(files: UserFiles, value: string): User {
  const {uid, gid} = parseUser(files, value);
  return {uid, gid, additionalGids: additionalGids(files, value, gid)};
}
