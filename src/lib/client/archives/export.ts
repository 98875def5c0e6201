/**
 * `images export`: writes images as an OCI layout that docker reads as well. The bytes depend on the images only: entries are sorted, times
 * are 0, and blobs are verified while they are read. A file or a layout directory gets its name, or its index, last.
 */
import {closeSync, existsSync, fsyncSync, lstatSync, openSync, realpathSync, renameSync, statSync, writeSync} from 'node:fs';
import {dirname, resolve} from 'node:path';
import type {Writable} from 'node:stream';
import {
  blobDirectories,
  blobFile,
  DOCKER_FILE,
  formatDockerManifest,
  formatLayoutIndex,
  IMAGE_NAME,
  INDEX_FILE,
  OCI_LAYOUT,
  OCI_LAYOUT_FILE,
  REF_NAME,
} from '../../archive/archive-documents.ts';
import {type NewEntry, writeTar} from '../../archive/outer-tar-writer.ts';
import {ErrdefsError, fromErrno, isErrdefs, wrap} from '../../errdefs.ts';
import {sweepOwnTemporary, syncPath, temporaryName, unlinkIfPresent} from '../../fs/durable.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {kindOf} from '../../oci/mediatypes.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {Store} from '../../store/store.ts';
import type {Context} from '../context.ts';
import {leaseContent, releaseLeases} from '../pull/content-leases.ts';
import {lacksContent, visibleIn} from '../pull/visible-content.ts';
import type {ExportOptions, ExportResult, ProgressEvent} from '../types/index.ts';
import {assertPath} from './assert-path.ts';
import {type ExportPlan, planExport} from './export-plan.ts';
import {LayoutDirectory, type LayoutEntry} from './layout-directory.ts';

const FILE_MODE = 0o644;
const BLOB_MODE = 0o444;
const DIRECTORY_MODE = 0o755;

/** Milliseconds between two progress events of one blob. */
const PROGRESS_MS = 100;

/** @param target a path, which ends with a slash or leads to a directory for a layout directory; or a stream that takes a tar */
export async function exportImages(
  context: Context,
  namespace: string,
  target: string | Writable,
  images: readonly ImageRecord[],
  options: ExportOptions,
): Promise<ExportResult> {
  const started = performance.now();
  if (typeof target === 'string') assertPath(target);
  if (images.length === 0) throw new ErrdefsError('invalid_argument', 'no image to export');
  const plan = await planExport({store: context.store, namespace, isVisible: visibleIn(context.store, namespace)}, images, options);
  const warnings = [...plan.warnings];
  await using _ = await holdContent(context, namespace, plan);
  const blobs = new Blobs(context.store, plan, options);
  if (typeof target !== 'string') await writeAll(target, archiveOf(plan, blobs, options), options.signal);
  else if (isDirectory(target)) warnings.push(...(await exportDirectory(target, plan, blobs, options)));
  else await exportFile(target, plan, blobs, options);
  return {
    images: plan.images.map(({annotations, ...descriptor}) => ({name: annotations![IMAGE_NAME]!, target: descriptor})),
    transferredBytes: plan.contents.reduce((sum, {size}) => sum + size, 0),
    elapsedMs: performance.now() - started,
    unpacked: [],
    warnings,
  };
}

/**
 * Keeps what an export reads, whatever is removed meanwhile. On a full or a read-only disk, which an export may be about, it goes without.
 *
 * @throws not_found something was removed before it was held
 */
async function holdContent({store}: Context, namespace: string, {images, contents, made}: ExportPlan): Promise<AsyncDisposable> {
  const purpose = `export of ${images[0]!.annotations![IMAGE_NAME]}`;
  const stored = contents.filter(({digest}) => !made.has(digest));
  let lease: string | undefined;
  try {
    lease = await leaseContent(
      store,
      namespace,
      purpose,
      stored.map(({digest}) => digest),
    );
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    store.housekeeping.warn(purpose, err);
  }
  const release = async (): Promise<void> => {
    if (lease !== undefined) await releaseLeases(store, namespace, purpose, [lease]);
  };
  const gone = stored.find((desc) => !store.blobs.has(desc));
  if (gone === undefined) return {[Symbol.asyncDispose]: release};
  await release();
  throw lacksContent(namespace, images[0]!.annotations![IMAGE_NAME]!, gone.digest);
}

/** Contents of the blobs of an export. */
class Blobs {
  readonly #store: Store;
  readonly #made: ReadonlyMap<Digest, Buffer>;
  readonly #emit: (event: ProgressEvent) => void;
  readonly #signal: AbortSignal | undefined;

  constructor(store: Store, {made}: ExportPlan, {onEvent = () => {}, signal}: ExportOptions) {
    this.#store = store;
    this.#made = made;
    this.#emit = onEvent;
    this.#signal = signal;
  }

  /** Streams a blob. @throws data_loss its bytes are not what its digest says */
  async *read({mediaType, digest, size}: Descriptor): AsyncGenerator<Uint8Array> {
    const made = this.#made.get(digest);
    if (made !== undefined) {
      yield made;
      return;
    }
    const ref = `${kindOf(mediaType)}-${digest}`;
    let offset = 0;
    let shown = performance.now();
    this.#emit({ref, status: 'reading', offset, total: size});
    for await (const chunk of this.#store.blobs.read(digest)) {
      this.#signal?.throwIfAborted();
      yield chunk;
      offset += chunk.length;
      const now = performance.now();
      if (now - shown < PROGRESS_MS) continue;
      shown = now;
      this.#emit({ref, status: 'reading', offset, total: size});
    }
    this.#emit({ref, status: 'done', offset: size, total: size});
  }
}

const document = (name: string, bytes: Buffer): NewEntry => ({
  name,
  mode: FILE_MODE,
  size: bytes.length,
  open: async function* () {
    yield bytes;
  },
});

/** The archive's tar, compressed if that was asked for. */
function archiveOf(plan: ExportPlan, blobs: Blobs, {compression = 'none'}: ExportOptions): AsyncIterable<Uint8Array> {
  const directories = blobDirectories(plan.contents.map(({digest}) => digest)).map((name) => ({name, mode: DIRECTORY_MODE, size: 0}));
  const files = plan.contents.map(
    (desc): NewEntry => ({name: blobFile(desc.digest), mode: BLOB_MODE, size: desc.size, open: () => blobs.read(desc)}),
  );
  const documents = [
    document(INDEX_FILE, formatLayoutIndex(plan.images)),
    ...(plan.dockerImages.length === 0 ? [] : [document(DOCKER_FILE, formatDockerManifest(plan.dockerImages))]),
    document(OCI_LAYOUT_FILE, OCI_LAYOUT),
  ];
  const tar = writeTar([...directories, ...files, ...documents].sort((a, b) => (a.name < b.name ? -1 : 1)));
  return compression === 'none' ? tar : compressed(tar, compression);
}

async function* compressed(source: AsyncIterable<Uint8Array>, compression: 'gzip' | 'zstd'): AsyncGenerator<Uint8Array> {
  const {createGzip, createZstdCompress} = await import('node:zlib');
  const {pipeline, Readable} = await import('node:stream');
  // A failure of one side ends the other; the reader gets it.
  yield* pipeline(Readable.from(source), compression === 'gzip' ? createGzip() : createZstdCompress(), () => {});
}

/** Writes everything to a stream and ends it. */
async function writeAll(target: Writable, source: AsyncIterable<Uint8Array>, signal: AbortSignal | undefined): Promise<void> {
  const {pipeline} = await import('node:stream/promises');
  try {
    await pipeline(source, target, signal === undefined ? {} : {signal});
  } catch (err) {
    throw fromErrno(err, 'unable to write the archive');
  }
}

const isDirectory = (path: string): boolean => path.endsWith('/') || statSync(path, {throwIfNoEntry: false})?.isDirectory() === true;

/** Whether a path can get a new file. What /dev/stdout and its like lead to is open already, and the link is the system's. */
function mayReplace(path: string): boolean {
  if (lstatSync(path, {throwIfNoEntry: false})?.isSymbolicLink() === true && /^\/(?:dev|proc)\//.test(resolve(path))) return false;
  return statSync(path, {throwIfNoEntry: false})?.isFile() !== false;
}

/** The file that a link leads to, so that the link stays. */
const followed = (path: string): string => (existsSync(path) ? realpathSync(path) : path);

/** Writes a tar file: under a temporary name first, unless the path is a device, a pipe or a descriptor. */
async function exportFile(path: string, plan: ExportPlan, blobs: Blobs, options: ExportOptions): Promise<void> {
  const what = `archive ${JSON.stringify(path)}`;
  const isReplaceable = mayReplace(path);
  const target = isReplaceable ? followed(path) : path;
  if (isReplaceable) sweepQuietly(dirname(target));
  const file = isReplaceable ? temporaryName(target) : target;
  let fd: number | undefined;
  try {
    fd = openSync(file, isReplaceable ? 'wx' : 'w', 0o666);
    for await (const chunk of archiveOf(plan, blobs, options)) {
      options.signal?.throwIfAborted();
      for (let done = 0; done < chunk.length; ) done += writeSync(fd, chunk, done);
    }
    if (!isReplaceable) return;
    fsyncSync(fd);
    renameSync(file, target);
    syncPath(dirname(target));
  } catch (err) {
    if (isReplaceable) unlinkIfPresent(file);
    throw wrapped(err, what);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** Writes a layout directory, or adds to one: blobs, and the index last. @returns warnings */
async function exportDirectory(path: string, plan: ExportPlan, blobs: Blobs, {signal}: ExportOptions): Promise<readonly string[]> {
  const what = `directory ${JSON.stringify(path)}`;
  try {
    const layout = new LayoutDirectory(path, signal);
    for (const desc of plan.contents) await layout.blob(desc, () => blobs.read(desc));
    const warnings: string[] = [];
    await layout.update((entries) => mergeEntries(entries, plan.images, warnings));
    return warnings;
  } catch (err) {
    throw wrapped(err, what);
  }
}

/** Entries of a layout with new images in the place of those of the same full name. A short name that another entry has stays with that one. */
function mergeEntries(entries: readonly LayoutEntry[], images: readonly Descriptor[], warnings: string[]): readonly object[] {
  const names = new Set(images.map(({annotations}) => annotations![IMAGE_NAME]));
  const others = entries.filter(({annotations}) => !names.has(annotations?.[IMAGE_NAME]));
  const taken = new Map(others.map(({annotations, digest}) => [annotations?.[REF_NAME], digest]));
  const added = images.map((image) => {
    const {[REF_NAME]: short, ...annotations} = image.annotations!;
    if (!taken.has(short)) {
      taken.set(short, image.digest);
      return image;
    }
    if (taken.get(short) !== image.digest)
      warnings.push(`another image of the layout is named ${short}, so that ${annotations[IMAGE_NAME]} has only its full name there`);
    return {...image, annotations};
  });
  return [...others, ...added];
}

/** Removes what killed exports left. The directory is the user's: names that do not tell a dead process stay, whatever they look like. */
function sweepQuietly(directory: string): void {
  try {
    sweepOwnTemporary(directory);
  } catch {
    // Not this user's to remove.
  }
}

function wrapped(err: unknown, what: string): unknown {
  const known = fromErrno(err, what);
  return known === err ? wrap(`unable to write ${what}`, err) : known;
}
