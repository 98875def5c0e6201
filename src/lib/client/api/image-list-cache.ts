/**
 * Rows of `images ls`: a record, and what its manifests say. For many images they are cached; the cache says which
 * transaction it is of, and only what later ones touched is read again. Deleting it changes nothing but time.
 */
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {is, isErrdefs} from '../../errdefs.ts';
import {readIfPresent, writeAtomic} from '../../fs/durable.ts';
import {bootId} from '../../fs/process.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {parseImageConfig, parseIndex, parseManifest} from '../../oci/manifest.ts';
import {kindOf} from '../../oci/mediatypes.ts';
import {formatPlatform, hostPlatform, matcher, normalizePlatform, type PlatformMatcher} from '../../oci/platform.ts';
import {recordFile, recordPath} from '../../store/layout.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {Store, StoreView} from '../../store/store.ts';
import {allVisibleAt, type IsVisible, isVisibleAt, readVisible} from '../pull/visible-content.ts';
import type {ImageSummary} from '../types/index.ts';

/** Images below which reading everything is as fast as a cache. */
const WORTH_CACHING = 256;
/** 1 took documents for present that only another namespace had. */
const CACHE_VERSION = 2;
/** Rows that may be read anew before the cache is written again. */
const WORTH_WRITING = 64;

interface Row {
  readonly image: ImageSummary;
  /** Beginnings of the hex of each digest that the row was made from, here or not. */
  readonly from: readonly string[];
}

interface Cache {
  readonly version: typeof CACHE_VERSION;
  /** A change that was seen before it was on the disk may be lost with the power, and another have its number. */
  readonly bootId: string;
  readonly generation: number;
  readonly rows: readonly Row[];
}

/** Enough of a digest to tell when a row has to be made anew; one too many costs nothing but that. */
const brief = (digest: Digest): string => digest.slice(digest.indexOf(':') + 1, digest.indexOf(':') + 13);

/** All images of a namespace with what is known of them, sorted by name. */
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
      // A reader that may not write, or a full disk: the next one reads it all again.
    }
  }
  return cache.rows.map(({image}) => image);
}

/** The records of all images of a namespace, sorted by name; reads no manifest, and where there is a cache no record either. */
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
    return undefined; // torn, or not ours to read
  }
}

/** @returns the rows, and how many of them were made just now */
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
  const digests = new Set(touched.filter((path) => path.startsWith(content)).map((path) => brief(path.slice(content.length) as Digest)));
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
  // New ones: their names stand in the records.
  const added = touched.filter((path) => path.startsWith(images) && !seen.has(path));
  for (const path of added) remake(records.at(path.slice(images.length)));
  const sorted = [...rows.values()].sort((a, b) => (a.image.name < b.image.name ? -1 : 1));
  return {cache: {version: CACHE_VERSION, bootId: bootId(), generation: tx.generation, rows: sorted}, fresh};
}

/** Where documents are looked for. */
interface Here {
  readonly store: Store;
  readonly isVisible: IsVisible;
  /** Gets each digest that was looked for. */
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

/** The manifests of an image that are here, each once, with the platform that they are for. */
function manifestsHere(here: Here, root: Descriptor): readonly ManifestHere[] {
  const found: ManifestHere[] = [];
  const seen = new Set<Digest>();
  const visit = (desc: Descriptor): void => {
    const kind = kindOf(desc.mediaType);
    if ((kind !== 'index' && kind !== 'manifest') || seen.has(desc.digest)) return;
    seen.add(desc.digest);
    try {
      if (kind === 'index') for (const child of indexHere(here, desc)) visit(child);
      else found.push(...manifestHere(here, desc));
    } catch (err) {
      // Nobody has looked at what an index offers for other platforms: it need not be what it is called.
      if (!isErrdefs(err) || is(err, 'data_loss') || is(err, 'resource_exhausted')) throw err;
    }
  };
  visit(root);
  return found;
}

function read({store, isVisible, from}: Here, desc: Descriptor): Buffer | undefined {
  from.push(brief(desc.digest));
  return readVisible(store, isVisible, desc);
}

function indexHere(here: Here, desc: Descriptor): readonly Descriptor[] {
  const bytes = read(here, desc);
  return bytes === undefined ? [] : parseIndex(bytes, desc).manifests;
}

function manifestHere(here: Here, desc: Descriptor): readonly ManifestHere[] {
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
