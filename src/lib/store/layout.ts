/** Paths in the state directory. No other module joins paths below it. */
import {join, resolve} from 'node:path';
import {DIGEST_HEX_LENGTH, type Digest, digestParts} from '../oci/descriptor.ts';
import {createHash} from '../oci/hash.ts';

export const RECORD_KINDS = ['images', 'containers', 'content', 'leases'] as const;
export type RecordKind = (typeof RECORD_KINDS)[number];

const MAX_NAME_LENGTH = 200;

/**
 * File name of a record's key: readable, unique, never `.` or `..`. A long key keeps its beginning and gets its SHA-256; the record itself
 * holds the key.
 */
export function recordFile(key: string): string {
  const name = encodeURIComponent(key.toWellFormed())
    .replaceAll('%3A', ':')
    .replaceAll('%40', '@')
    .replaceAll('%2B', '+')
    .replaceAll('~', '%7E')
    .replace(/^\./, '%2E');
  if (name.length <= MAX_NAME_LENGTH && key.isWellFormed()) return `${name}.json`;
  return `${name.slice(0, 100)}~${createHash('sha256').update(Buffer.from(key, 'utf16le')).digest('hex')}.json`;
}

/** Paths of records relative to the root; they are the keys of the journal. */
export const recordPath = {
  namespaces: 'namespaces',
  namespace: (name: string): string => `namespaces/${name}/namespace.json`,
  directory: (ns: string, kind: RecordKind): string => `namespaces/${ns}/${kind}`,
  /** Reference counts; see refcounts.ts. */
  refs: (ns: string): string => `namespaces/${ns}/refs`,
  sharedRefs: 'refs',
  snapshotters: (ns: string): string => `namespaces/${ns}/snapshots`,
  snapshots: (ns: string, snapshotter: string): string => `namespaces/${ns}/snapshots/${snapshotter}`,
} as const;

/** Paths below the runtime state directory (`--state`), which is lost with the boot. */
export const runtimeStatePath = {
  /** Bundles and runtime state of containers, by namespace. A subdirectory, so that no namespace name collides with another entry. */
  runs: (state: string): string => join(state, 'runs'),
  /** Temporary mount points. */
  views: (state: string): string => join(state, 'views'),
  /** An empty directory, on which the tree of a container with mapped users is mounted privately: the container's root reaches it. */
  rootfs: (state: string): string => join(state, 'rootfs'),
  /** Records of host mounts; see client/api/host-mounts.ts. */
  mounts: (state: string): string => join(state, 'mounts'),
  /** Log of events; see client/event-log.ts. */
  events: (state: string): string => join(state, 'events'),
  /** Tokens of registries; see client/credentials/token-store.ts. */
  tokens: (state: string): string => join(state, 'tokens'),
  /** Result of the EROFS probe; see client/erofs-probe.ts. */
  erofs: (state: string): string => join(state, 'erofs.json'),
  /** Cool-downs of registries; see client/pull/shared-cool-downs.ts. */
  coolDowns: (state: string): string => join(state, 'cool-downs'),
  /** Processes in the user namespace of a user without root; see client/enter-user-namespace.ts. */
  userNamespace: (state: string): string => join(state, 'user-namespace'),
} as const;

export interface Layout {
  readonly root: string;
  /** Directories that must be directories where they exist, parents first. */
  readonly requiredDirectories: readonly string[];
  readonly version: string;
  readonly journal: string;
  /** Exists when a killed process may have left garbage; the next full collection removes it. */
  readonly unswept: string;
  readonly locks: string;
  readonly trash: string;
  /** Quarantine of `check --repair`; nothing reads or removes it. */
  readonly damaged: string;
  /** Derived data; deleting it costs time only. */
  readonly cache: string;
  /** Unpublished layers; each name begins with its owner's process identity. */
  readonly work: string;
  readonly blobs: string;
  readonly ingests: string;
  readonly layers: string;
  blob(digest: Digest): string;
  ingest(key: string): string;
  layer(id: string): string;
  lock(name: string): string;
}

export function createLayout(directory: string): Layout {
  const root = resolve(directory);
  const blobs = join(root, 'content', 'blobs');
  const ingests = join(root, 'content', 'ingest');
  const layers = join(root, 'layers');
  const locks = join(root, 'locks');
  const names = ['namespaces', 'refs', 'content', 'content/blobs', 'content/ingest', 'layers', 'journal', 'locks', 'trash', 'work'];
  const algorithms = Object.keys(DIGEST_HEX_LENGTH).map((algorithm) => join(blobs, algorithm));
  return {
    root,
    requiredDirectories: [...names.map((name) => join(root, name)), ...algorithms],
    version: join(root, 'version'),
    journal: join(root, 'journal'),
    unswept: join(root, 'journal', 'unswept'),
    locks,
    trash: join(root, 'trash'),
    damaged: join(root, 'damaged'),
    cache: join(root, 'cache'),
    work: join(root, 'work'),
    blobs,
    ingests,
    layers,
    blob: (digest) => join(blobs, ...digestParts(digest)),
    ingest: (key) => join(ingests, key),
    layer: (id) => join(layers, id),
    lock: (name) => join(locks, name),
  };
}
