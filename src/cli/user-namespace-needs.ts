/** Which commands become the user's root in a user namespace, where the user is not root: docs/decisions/0040-rootless.md. */

/**
 * - `never`: reads records and blobs, or talks to a registry.
 * - `layers`: may meet files of layers, which belong to other users; enters once the store has layers, and where that is possible.
 * - `possible`: says what it finds there; enters where that is possible.
 * - `always`: makes or mounts layers, or starts processes as other users, or signals them.
 */
export type UserNamespaceNeed = 'never' | 'layers' | 'possible' | 'always';

const ALWAYS: readonly string[] = [
  'commit',
  'containers checkpoint',
  'containers cp',
  'containers create',
  'containers restart',
  'containers restore',
  'containers start',
  'containers update',
  'diff',
  'images import',
  'pull',
  'repack',
  'run',
  'snapshots commit',
  'snapshots diff',
  'snapshots prepare',
  'snapshots unpack',
  'snapshots view',
  'tasks checkpoint',
  'tasks exec',
  'tasks kill',
  'tasks pause',
  'tasks resume',
  'tasks rm',
  'tasks start',
  'tasks stop',
  'unpack',
  'volumes create',
];

const LAYERS: readonly string[] = [
  'check',
  'containers rm',
  'content edit',
  'content fetch',
  'content ingest',
  'content prune',
  'content rm',
  'df',
  'gc',
  'images append',
  'images convert',
  'images flatten',
  'images label',
  'images mutate',
  'images prune',
  'images rebase',
  'images rm',
  'images tag',
  'images usage',
  'leases rm',
  'namespaces rm',
  'prune',
  'snapshots rm',
  'snapshots usage',
  'volumes prune',
  'volumes rm',
];

/** @param noUnpack flag --no-unpack, of the commands that have it */
export function userNamespaceNeed(id: string, noUnpack: boolean): UserNamespaceNeed {
  if (ALWAYS.includes(id)) return noUnpack ? 'layers' : 'always';
  if (id === 'doctor') return 'possible';
  return LAYERS.includes(id) ? 'layers' : 'never';
}

/** Words that change where a command works, or whether it does. */
const SLOW = /^--?(?:h|help|no-unpack|root|state)(?:=|$)/;

/**
 * Whether a command enters whatever its flags say, so that it can do so before it is loaded. A word of the container's own that looks like one of
 * ours costs time only.
 */
export const entersAtOnce = (id: string, argv: readonly string[]): boolean => ALWAYS.includes(id) && !argv.some((word) => SLOW.test(word));
