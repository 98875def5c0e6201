/** skopeo's `dir:`, one image in a directory: `version`, `manifest.json`, blobs by the hex digits of their digests. */
import {existsSync, readdirSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {openDirectoryFiles, readFile} from '../../archive/archive-reader.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {readIfPresent, removeTree, renameInto, sweepOwnTemporary, syncPath, temporaryName, writeAtomic} from '../../fs/durable.ts';
import {acquireLock, type Lock} from '../../fs/lock.ts';
import {type Digest, digestParts} from '../../oci/descriptor.ts';
import {digestOf, verifyBytes} from '../../oci/hash.ts';
import {MAX_MANIFEST_BYTES, mediaTypeOfDocument} from '../../oci/manifest.ts';
import {kindOf} from '../../oci/mediatypes.ts';
import {hasEntries, makeDirectory, writeBlobFile} from '../archives/write-blob-file.ts';
import type {Document, ImageSource, ImageTarget} from './types.ts';

const VERSION = 'Directory Transport Version: 1.1\n';
/** Any version of the format: containers/image writes 1.1 and 1.0. Many a directory has a file `version` that is about something else. */
const ANY_VERSION = /^Directory Transport Version: \d+\.\d+\s*$/;
/** What the format has besides `version` and `manifest.json`: blobs, manifests and signatures. */
const OWN_NAME = /^(?:(?:[a-z0-9]+-)?[0-9a-f]{64,128}(?:\.manifest\.json|\.signature-\d+)?|signature-\d+)$/;

/** Names after containers/image, directory/directory_transport.go: sha256 without its name, others with it. */
const blobName = (digest: Digest): string => {
  const [algorithm, hex] = digestParts(digest);
  return algorithm === 'sha256' ? hex : `${algorithm}-${hex}`;
};
const manifestName = (digest: Digest): string => `${blobName(digest)}.manifest.json`;

async function readRoot(path: string): Promise<Document> {
  const what = `dir:${path}`;
  const bytes = await readFile(openDirectoryFiles(path, what), 'manifest.json', MAX_MANIFEST_BYTES);
  const mediaType = mediaTypeOfDocument(bytes);
  if (mediaType === undefined) throw new ErrdefsError('invalid_argument', `${what}: manifest.json is no manifest`);
  return {descriptor: {mediaType, digest: digestOf(bytes), size: bytes.length}, bytes};
}

export function directorySource(name: string, path: string): ImageSource {
  const files = openDirectoryFiles(path, `dir:${path}`);
  return {
    name,
    root: () => readRoot(path),
    document: async (desc, limit) => {
      const kind = kindOf(desc.mediaType);
      const file = kind === 'manifest' || kind === 'index' ? manifestName(desc.digest) : blobName(desc.digest);
      const bytes = await readFile(files, file, limit);
      verifyBytes(`${file} of dir:${path}`, bytes, desc);
      return bytes;
    },
    blob: ({digest}, offset) => files.read(blobName(digest), offset),
    close: async () => files.close(),
  };
}

/** Lock of all writers of a directory that has an image, in it: what one adds, another one would remove. */
const LOCK = '.copy.lock';
const LOCK_TIMEOUT_MS = 60_000;

/**
 * A new directory is filled under a temporary name. In an existing one of the same format blobs are added first, then the manifest is
 * replaced, then the blobs of others are removed: at each moment it has one whole image, and one copy at a time writes to it. Files that
 * the format does not have stay.
 *
 * @throws failed_precondition the directory has files, and no image
 */
export function directoryTarget(name: string, path: string, signal?: AbortSignal): ImageTarget {
  const isUpdate = hasEntries(path);
  if (isUpdate && !ANY_VERSION.test(readIfPresent(join(path, 'version')) ?? ''))
    throw new ErrdefsError('failed_precondition', `directory ${path} is not empty, and has no image`, {
      hint: 'name an empty directory, or one that does not exist',
    });
  const work = isUpdate ? path : temporaryName(path);
  const kept = new Set(['version', 'manifest.json']);
  let lock: Lock | undefined;
  let begun: Promise<void> | undefined;
  const begin = (): Promise<void> => {
    begun ??= (async () => {
      makeDirectory(dirname(path));
      sweepOwnTemporary(dirname(path));
      makeDirectory(work);
      if (isUpdate)
        lock = await acquireLock(join(path, LOCK), {
          timeoutMs: LOCK_TIMEOUT_MS,
          whileAlive: true,
          purpose: `copy to ${name}`,
          ...(signal && {signal}),
        });
      sweepOwnTemporary(work);
    })();
    return begun;
  };
  return {
    name,
    keepsForeignLayers: false,
    takesAgain: true,
    // Blobs may be missing: they are looked at one by one.
    isCurrent: async () => false,
    hasManifest: async () => false,
    blob: async (desc, open, {onProgress}) => {
      await begin();
      kept.add(blobName(desc.digest));
      return writeBlobFile(join(work, blobName(desc.digest)), desc, () => open(0), {onProgress, signal});
    },
    manifest: async ({descriptor, bytes}) => {
      await begin();
      kept.add(manifestName(descriptor.digest));
      writeAtomic(join(work, manifestName(descriptor.digest)), bytes, {sync: true, mode: 0o644});
    },
    commit: async ({descriptor, bytes}) => {
      await begin();
      // No manifest before the names of its blobs.
      syncPath(work);
      writeAtomic(join(work, 'version'), VERSION, {sync: true, mode: 0o644});
      writeAtomic(join(work, 'manifest.json'), bytes, {sync: true, mode: 0o644});
      if (isUpdate) for (const other of readdirSync(path)) if (OWN_NAME.test(other) && !kept.has(other)) removeTree(join(path, other));
      // rename(2) replaces an empty directory.
      if (work !== path) renameInto(work, path, {sync: true});
      return descriptor;
    },
    close: async () => {
      await begun?.catch(() => {});
      lock?.release();
      if (work !== path && begun !== undefined && existsSync(work)) removeTree(work);
    },
  };
}
