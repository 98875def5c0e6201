/** Default root and state directories. */
import {join, resolve} from 'node:path';
import {baseDirectory} from '../base-directories.ts';
import {ErrdefsError} from '../errdefs.ts';
import {assertPrivate} from '../fs/assert-private-directory.ts';
import {userID} from '../user-namespace-identity.ts';

export interface Directories {
  readonly root: string;
  readonly state: string;
  /** Directories that `assertState` checks, outermost first. */
  readonly guarded: readonly string[];
}

/** Absolute path of a directory that the caller gives. @throws invalid_argument it is empty */
function named(directory: string | undefined, what: 'root' | 'state'): string | undefined {
  if (directory === '') throw new ErrdefsError('invalid_argument', `--${what} is empty`, {hint: 'name a directory, or leave it out'});
  return directory === undefined ? undefined : resolve(directory);
}

/**
 * Root's directories follow the FHS, those of other users the XDG base directory specification. An empty variable counts as unset,
 * and so does an XDG variable that is not an absolute path. A relative BERTH_ROOT or BERTH_STATE is resolved against the working directory.
 *
 * @param given directories from the caller; they override the environment
 * @returns absolute paths
 * @throws invalid_argument an empty path is given
 */
export function findDirectories(
  given: {readonly root?: string; readonly state?: string},
  env: NodeJS.ProcessEnv = process.env,
  uid = userID(env),
): Directories {
  const variable = (name: string): string | undefined => (env[name] ? resolve(env[name]) : undefined);
  const root = named(given.root, 'root') ?? variable('BERTH_ROOT') ?? join(baseDirectory('data', env, uid) ?? '/.local/share', 'berth');
  const chosen = named(given.state, 'state') ?? variable('BERTH_STATE');
  if (chosen !== undefined) return {root, state: chosen, guarded: [chosen]};
  const runtime = baseDirectory('runtime', env, uid);
  const shared = `/tmp/berth-${uid}`;
  const state = join(runtime ?? shared, 'berth');
  return {root, state, guarded: runtime === undefined ? [shared, state] : [state]};
}

/**
 * The state directory, after a check that it belongs to this user.
 *
 * @throws permission_denied it, or its parent in /tmp, belongs to another user or is writable by others
 */
export function assertState({state, guarded}: Directories): string {
  for (const directory of guarded) assertPrivate(directory, `state directory ${directory}`);
  return state;
}
