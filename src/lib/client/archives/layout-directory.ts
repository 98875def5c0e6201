/** An OCI layout in a directory that images are added to, by exports and by copies, by several at once. */
import {join} from 'node:path';
import {
  blobFile,
  checkOCILayout,
  INDEX_FILE,
  INDEX_LOCK,
  OCI_LAYOUT,
  OCI_LAYOUT_FILE,
  parseLayoutIndex,
} from '../../archive/archive-documents.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {isTemporary, listIfPresent, readIfPresent, sweepOwnTemporary, syncPath, writeAtomic} from '../../fs/durable.ts';
import {acquireLock} from '../../fs/lock.ts';
import type {Descriptor} from '../../oci/descriptor.ts';
import {OCI_INDEX} from '../../oci/mediatypes.ts';
import {type BlobFileOptions, hasEntries, makeDirectory, writeBlobFile} from './write-blob-file.ts';

const LOCK_TIMEOUT_MS = 60_000;

/** An entry of `index.json`, with what others have written to it. */
export interface LayoutEntry {
  readonly mediaType: string;
  readonly digest: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly [key: string]: unknown;
}

/**
 * Blobs come first, `index.json` last, so that an image is there whole or not at all. Nothing of others is removed: other writers count on
 * blobs that they have seen, so that those of a failed copy stay, too, and the next one uses them.
 */
export class LayoutDirectory {
  readonly #path: string;
  readonly #signal: AbortSignal | undefined;
  /** Directories that this writer has prepared. */
  readonly #prepared = new Set<string>();

  /** @throws failed_precondition the directory has other files @throws not_implemented another version of the layout */
  constructor(path: string, signal?: AbortSignal) {
    this.#path = path;
    this.#signal = signal;
    const marker = readIfPresent(join(path, OCI_LAYOUT_FILE));
    if (marker !== undefined) checkOCILayout(Buffer.from(marker));
    else if (hasEntries(path) && !listIfPresent(path).every((name) => name === 'blobs' || isTemporary(name)))
      throw new ErrdefsError('failed_precondition', `directory ${path} is not empty, and is no OCI layout`, {
        hint: 'name an empty directory, or one that does not exist',
      });
  }

  #fileOf({digest}: Pick<Descriptor, 'digest'>): string {
    const file = join(this.#path, blobFile(digest));
    const directory = join(file, '..');
    if (this.#prepared.has(directory)) return file;
    this.#prepared.add(directory);
    // First what tells that the directory is a layout: whoever is killed leaves one.
    makeDirectory(this.#path, {sync: true});
    sweepQuietly(this.#path);
    if (readIfPresent(join(this.#path, OCI_LAYOUT_FILE)) === undefined)
      writeAtomic(join(this.#path, OCI_LAYOUT_FILE), OCI_LAYOUT, {sync: 'bytes', mode: 0o644});
    makeDirectory(directory, {sync: true});
    sweepQuietly(directory);
    return file;
  }

  /** Adds a blob unless it is there, intact. @param source the bytes, verified */
  async blob(
    desc: Pick<Descriptor, 'digest' | 'size'>,
    source: () => AsyncIterable<Uint8Array>,
    onProgress?: BlobFileOptions['onProgress'],
  ): Promise<'copied' | 'exists'> {
    return writeBlobFile(this.#fileOf(desc), desc, source, {signal: this.#signal, ...(onProgress && {onProgress})});
  }

  /** Adds a document. */
  document({digest}: Pick<Descriptor, 'digest'>, bytes: Buffer): void {
    writeAtomic(this.#fileOf({digest}), bytes, {sync: 'bytes', mode: 0o644});
  }

  /** Changes the list of images. What is not known in `index.json` stays. @param change gets the entries, as others may have left them since */
  async update(change: (entries: readonly LayoutEntry[]) => readonly object[]): Promise<void> {
    // No index before the names of what it leads to.
    for (const directory of [...this.#prepared, this.#path]) syncPath(directory);
    const file = join(this.#path, INDEX_FILE);
    using _ = await acquireLock(join(this.#path, INDEX_LOCK), {
      timeoutMs: LOCK_TIMEOUT_MS,
      purpose: INDEX_FILE,
      ...(this.#signal && {signal: this.#signal}),
    });
    const text = readIfPresent(file);
    if (text !== undefined) parseLayoutIndex(Buffer.from(text));
    const {manifests, ...rest} = (text === undefined ? {schemaVersion: 2, mediaType: OCI_INDEX} : JSON.parse(text)) as {
      readonly manifests?: readonly LayoutEntry[] | null;
    };
    writeAtomic(file, JSON.stringify({...rest, manifests: change(manifests ?? [])}), {sync: true, mode: 0o644});
  }
}

/** Removes what killed writers left. The directory is the user's: what cannot be removed stays. */
function sweepQuietly(directory: string): void {
  try {
    sweepOwnTemporary(directory);
  } catch {
    // Not this user's to remove.
  }
}
