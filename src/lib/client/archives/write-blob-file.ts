/** Files of images in directories of the user: under temporary names until they are whole, verified and on the disk. */
import {readdirSync, statSync} from 'node:fs';
import {open} from 'node:fs/promises';
import {openFile, readRange} from '../../archive/outer-tar-reader.ts';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import {isTemporary, makeDirectories, removeTree, renameInto, temporaryName, writeAt} from '../../fs/durable.ts';
import {type Descriptor, digestParts} from '../../oci/descriptor.ts';
import {createHash} from '../../oci/hash.ts';

/** Size of a regular file; undefined where there is none. */
export const sizeOf = (path: string): number | undefined => {
  const stat = statSync(path, {throwIfNoEntry: false});
  return stat?.isFile() ? stat.size : undefined;
};

/** Whether a directory is there and has entries other than temporary ones. @throws failed_precondition something else is there */
export function hasEntries(path: string): boolean {
  try {
    return readdirSync(path).some((name) => !isTemporary(name));
  } catch (err) {
    const failure = fromErrno(err, `directory ${path}`);
    if (failure instanceof ErrdefsError && failure.code === 'not_found') return false;
    throw failure;
  }
}

/** @param options.sync whether the names of new directories are on the disk on return */
export function makeDirectory(path: string, {sync = false}: {readonly sync?: boolean} = {}): void {
  try {
    makeDirectories(path, {sync, mode: 0o755});
  } catch (err) {
    throw fromErrno(err, `directory ${path}`);
  }
}

/** Whether a file is a blob: its size tells little, other programs may have written it, or lost a part of it with the power. */
export async function holdsBlob(path: string, desc: Pick<Descriptor, 'digest' | 'size'>, signal?: AbortSignal): Promise<boolean> {
  if (sizeOf(path) !== desc.size) return false;
  const [algorithm] = digestParts(desc.digest);
  const hash = createHash(algorithm);
  const {fd, close} = openFile(path, path);
  try {
    for await (const chunk of readRange(fd, 0, desc.size, path)) {
      signal?.throwIfAborted();
      hash.update(chunk);
    }
  } finally {
    close();
  }
  return `${algorithm}:${hash.digest('hex')}` === desc.digest;
}

export interface BlobFileOptions {
  /** @param offset bytes that are written */
  readonly onProgress?: (offset: number) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Writes a blob to a file, unless that has it. The file gets its name when it is whole and its bytes are on the disk; the name is the
 * caller's to sync.
 *
 * @param source the bytes, verified
 * @throws errors of the source; resource_exhausted and others of the disk
 */
export async function writeBlobFile(
  path: string,
  desc: Pick<Descriptor, 'digest' | 'size'>,
  source: () => AsyncIterable<Uint8Array>,
  {onProgress, signal}: BlobFileOptions = {},
): Promise<'copied' | 'exists'> {
  if (await holdsBlob(path, desc, signal)) return 'exists';
  const temporary = temporaryName(path);
  try {
    const file = await open(temporary, 'wx', 0o644);
    try {
      let offset = 0;
      for await (const chunk of source()) {
        signal?.throwIfAborted();
        writeAt(file.fd, chunk, offset);
        offset += chunk.length;
        onProgress?.(offset);
      }
      await file.datasync();
    } finally {
      await file.close();
    }
    renameInto(temporary, path);
    return 'copied';
  } catch (err) {
    removeTree(temporary);
    throw fromErrno(err, path);
  }
}
