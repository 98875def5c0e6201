/** Directories for files of programs: root's after the FHS, other users' after the XDG base directories. */
import {isAbsolute, join} from 'node:path';
import {userID} from './user-namespace-identity.ts';

const BASE = {
  data: {root: '/var/lib', variable: 'XDG_DATA_HOME', home: '.local/share'},
  config: {root: '/etc', variable: 'XDG_CONFIG_HOME', home: '.config'},
  cache: {root: '/var/cache', variable: 'XDG_CACHE_HOME', home: '.cache'},
  runtime: {root: '/run', variable: 'XDG_RUNTIME_DIR', home: undefined},
} as const;

/**
 * A variable that is empty or a relative path counts as unset.
 *
 * @returns an absolute path; `undefined` if the environment names none
 */
export function baseDirectory(kind: keyof typeof BASE, env: NodeJS.ProcessEnv = process.env, uid = userID(env)): string | undefined {
  const {root, variable, home} = BASE[kind];
  const absolute = (name: string): string | undefined => (isAbsolute(env[name] ?? '') ? env[name] : undefined);
  if (uid === 0) return root;
  const homeDirectory = absolute('HOME');
  return absolute(variable) ?? (home === undefined || homeDirectory === undefined ? undefined : join(homeDirectory, home));
}
