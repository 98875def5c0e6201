/** Where everything lies. No other module joins a path below the state directory. */
import {join, resolve} from 'node:path';
import {DIGEST_HEX_LENGTH, type Digest, digestParts} from '../oci/descriptor.ts';
import {createHash} from '../oci/hash.ts';

export const RECORD_KINDS = ['images', 'containers', 'content', 'leases'] as const;
export type RecordKind = (typeof RECORD_KINDS)[number];

const LONGEST_NAME = 200;

/**
 * A file name for any key: readable, reversible by eye, never `.` or `..`, unique. Long keys keep their beginning and
 * get their SHA-256; the record inside holds the key itself.
 */
export function recordFile(key: string): string {
  const name = encodeURIComponent(key.toWellFormed())
    .replaceAll('%3A', ':')
    .replaceAll('%40', '@')
    .replaceAll('%2B', '+')
    .replaceAll('~', '%7E')
    .replace(/^\./, '%2E');
  if (name.length <= LONGEST_NAME && key.isWellFormed()) return `${name}.json`;
  return `${name.slice(0, 100)}~${createHash('sha256').update(Buffer.from(key, 'utf16le')).digest('hex')}.json`;
}

/** Paths of records, relative to the root: they are the keys of the journal. */
export const recordPath = {
  namespaces: 'namespaces',
  namespace: (name: string): string => `namespaces/${name}/namespace.json`,
  directory: (ns: string, kind: RecordKind): string => `namespaces/${ns}/${kind}`,
  /** Counts of references; see refcounts.ts. */
  refs: (ns: string): string => `namespaces/${ns}/refs`,
  sharedRefs: 'refs',
  snapshotters: (ns: string): string => `namespaces/${ns}/snapshots`,
  snapshots: (ns: string, snapshotter: string): string => `namespaces/${ns}/snapshots/${snapshotter}`,
} as const;

/** Paths below the directory of what ends with the boot. */
export const runtimeStatePath = {
  /** Bundles of containers and the runtime's own, by namespace: one below, so that no namespace has the name of anything else. */
  runs: (state: string): string => join(state, 'runs'),
  /** Where trees are mounted for a moment. */
  views: (state: string): string => join(state, 'views'),
  /** What is mounted on this machine; see client/api/host-mounts.ts. */
  mounts: (state: string): string => join(state, 'mounts'),
  /** What the probe of this kernel and its tools found; see client/erofs-probe.ts. */
  erofs: (state: string): string => join(state, 'erofs.json'),
} as const;

export interface Layout {
  readonly root: string;
  /** Directories that others hang on, those above before those below. */
  readonly requiredDirectories: readonly string[];
  readonly version: string;
  readonly journal: string;
  /** There when something died that may have left garbage; removed by the next full collection. */
  readonly unswept: string;
  readonly locks: string;
  readonly trash: string;
  /** What `check --repair` took out of the way; nothing reads it, and nothing removes it. */
  readonly damaged: string;
  /** What can be made anew from everything else; deleting it costs time only. */
  readonly cache: string;
  /** Half-made layers; each entry begins with its maker's identity. */
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
