/**
 * Rows of `images ls`: a record, and what its manifests say. For many images the rows are cached. The cache carries the number of
 * the transaction it reflects; only rows that later transactions touched are read again. It can be deleted at any time.
 */
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {hasCode} from '../../errdefs.ts';
import {readIfPresent, writeAtomic} from '../../fs/durable.ts';
import {bootId} from '../../fs/process.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {parseImageConfig, parseManifest} from '../../oci/manifest.ts';
import {type Kind, kindOf} from '../../oci/mediatypes.ts';
import {formatPlatform, hostPlatform, matcher, normalizePlatform, type PlatformMatcher} from '../../oci/platform.ts';
import {walk} from '../../oci/walk.ts';
import {recordFile, recordPath} from '../../store/layout.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {Store} from '../../store/store.ts';
import type {StoreView} from '../../store/transaction-types.ts';
import {allVisibleAt, findDocument, type IsVisible, isVisibleAt} from '../pull/visible-content.ts';
import type {ImageSummary} from '../types/index.ts';

/** With fewer images, reading everything is as fast as the cache. */
const WORTH_CACHING = 256;
/** Version 1 counted documents as present that only another namespace had. */
const CACHE_VERSION = 2;
/** The cache is written again once so many rows had to be read. */
const WORTH_WRITING = 64;

interface Row {
  readonly image: ImageSummary;
  /** Digest prefixes of all documents that the row depends on, present or not. */
  readonly from: readonly string[];
}

interface Cache {
  readonly version: typeof CACHE_VERSION;
  /** After a power loss a generation number may be used again for another change. */
  readonly bootId: string;
  readonly generation: number;
  readonly rows: readonly Row[];
}

/** Prefix of a digest's hex. A collision only causes a row to be read once more. */
const digestPrefix = (digest: Digest): string => digest.slice(digest.indexOf(':') + 1, digest.indexOf(':') + 13);

/** Rows of all images of a namespace, sorted by name. */
export function imageSummaries(store: Store, namespace: string): readonly ImageSummary[] {
  const file = cacheFile(store, namespace);
  const {cache, fresh} = store.view((tx) => {
    const known = readCache(file);
    const changes = known === undefined ? undefined : tx.changesSince(known.generation);
    return known === undefined || changes === undefined ? readAll(store, tx, namespace) : refresh(store, tx, namespace, known, changes);
  });
  if (cache.rows.length >= WORTH_CACHING && fresh >= WORTH_WRITING) {
    try {
      writeAtomic(file, JSON.stringify(cache), {sync: false});
    } catch {
      // No permission, or a full disk: the next reader reads everything again.
    }
  }
  return cache.rows.map(({image}) => image);
}

/** Records of all images of a namespace, sorted by name; from the cache where there is one. Reads no manifest. */
export function imageRecords(store: Store, namespace: string): readonly ImageRecord[] {
  return existsSync(cacheFile(store, namespace))
    ? imageSummaries(store, namespace)
    : store.view((tx) => tx.namespace(namespace).images.list());
}

const cacheFile = (store: Store, namespace: string): string => join(store.layout.cache, 'images', `${namespace}.json`);

function readCache(file: string): Cache | undefined {
  try {
    const cache = JSON.parse(readIfPresent(file) ?? 'null') as Cache | null;
    return cache?.version === CACHE_VERSION && cache.bootId === bootId() && Array.isArray(cache.rows) ? cache : undefined;
  } catch {
    return undefined; // torn, or unreadable for this user
  }
}

/** @returns the rows, and how many of them are new */
function readAll(store: Store, tx: StoreView, namespace: string): {cache: Cache; fresh: number} {
  const here = {store, isVisible: allVisibleAt(tx, namespace)};
  const rows = tx
    .namespace(namespace)
    .images.list()
    .map((image) => makeRow(here, image));
  return {cache: {version: CACHE_VERSION, bootId: bootId(), generation: tx.generation, rows}, fresh: rows.length};
}

function refresh(
  store: Store,
  tx: StoreView,
  namespace: string,
  known: Cache,
  changes: ReadonlySet<string>,
): {cache: Cache; fresh: number} {
  const images = `${recordPath.directory(namespace, 'images')}/`;
  const content = `${recordPath.directory(namespace, 'content')}/`;
  const touched = [...changes];
  if (!touched.some((path) => path.startsWith(images) || path.startsWith(content))) return {cache: known, fresh: 0};
  const digests = new Set(
    touched.filter((path) => path.startsWith(content)).map((path) => digestPrefix(path.slice(content.length) as Digest)),
  );
  const records = tx.namespace(namespace).images;
  const here = {store, isVisible: isVisibleAt(tx, namespace)};
  const rows = new Map<string, Row>();
  let fresh = 0;
  const remake = (image: ImageRecord | undefined): void => {
    if (image === undefined) return;
    rows.set(image.name, makeRow(here, image));
    fresh++;
  };
  const seen = new Set<string>();
  for (const row of known.rows) {
    const path = images + recordFile(row.image.name);
    if (changes.has(path)) {
      seen.add(path);
      remake(records.find(row.image.name));
    } else if (row.from.some((digest) => digests.has(digest))) remake(row.image);
    else rows.set(row.image.name, row);
  }
  // Images that have no row yet.
  const added = touched.filter((path) => path.startsWith(images) && !seen.has(path));
  for (const path of added) remake(records.findByFile(path.slice(images.length)));
  const sorted = [...rows.values()].sort((a, b) => (a.image.name < b.image.name ? -1 : 1));
  return {cache: {version: CACHE_VERSION, bootId: bootId(), generation: tx.generation, rows: sorted}, fresh};
}

/** Where documents are looked for. */
interface Here {
  readonly store: Store;
  readonly isVisible: IsVisible;
  /** Receives each digest that is looked up. */
  readonly from: string[];
}

function makeRow(where: Omit<Here, 'from'>, record: ImageRecord): Row {
  const here: Here = {...where, from: []};
  const {from} = here;
  const manifests = manifestsHere(here, record.target);
  const platforms = [...new Set(manifests.map(({platform}) => platform))].filter((platform) => platform !== undefined).sort();
  const host = matcher([hostPlatform()]);
  const own = manifests.find(({matches}) => matches(host)) ?? manifests[0];
  const {name, target, labels, createdAt, updatedAt} = record;
  return {image: {name, target, labels, createdAt, updatedAt, ...(own === undefined ? {} : {size: own.size}), platforms}, from};
}

interface ManifestHere {
  /** As `os/arch[/variant]`. */
  readonly platform: string | undefined;
  /** Bytes of manifest, config and layers. */
  readonly size: number;
  matches(host: PlatformMatcher): boolean;
}

/** Manifests of an image that are present, each once, with their platforms. */
function manifestsHere(here: Here, root: Descriptor): readonly ManifestHere[] {
  const indexes = (desc: Descriptor, kind: Kind): Buffer | undefined => (kind === 'index' ? read(here, desc) : undefined);
  return [...walk(root, indexes)].flatMap(({descriptor, kind}) => (kind === 'manifest' ? manifestHere(here, descriptor) : []));
}

function read({store, isVisible, from}: Here, desc: Descriptor): Buffer | undefined {
  from.push(digestPrefix(desc.digest));
  return findDocument(store, isVisible, desc);
}

/** @returns none when the manifest is missing, or is not one: entries for other platforms were never checked at pull */
function manifestHere(here: Here, desc: Descriptor): readonly ManifestHere[] {
  try {
    return readManifest(here, desc);
  } catch (err) {
    if (hasCode(err, 'invalid_argument') || hasCode(err, 'failed_precondition') || hasCode(err, 'not_implemented')) return [];
    throw err;
  }
}

function readManifest(here: Here, desc: Descriptor): readonly ManifestHere[] {
  const bytes = read(here, desc);
  if (bytes === undefined) return [];
  const manifest = parseManifest(bytes, desc);
  const configBytes = kindOf(manifest.config.mediaType) === 'config' ? read(here, manifest.config) : undefined;
  const platform =
    desc.platform ?? (configBytes === undefined ? undefined : normalizePlatform(parseImageConfig(configBytes, manifest.config)));
  return [
    {
      platform: platform === undefined || platform.os === 'unknown' ? undefined : formatPlatform(platform),
      size: [manifest.config, ...manifest.layers].reduce((sum, {size}) => sum + size, bytes.length),
      matches: (host) => platform !== undefined && host.match(platform),
    },
  ];
}
