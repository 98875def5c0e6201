/** Files that a copy writes: under temporary names until they are whole, verified and on the disk. */
import {readdirSync, statSync} from 'node:fs';
import {type FileHandle, open} from 'node:fs/promises';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import {isTemporary, makeDirectories, removeTree, renameInto, temporaryName} from '../../fs/durable.ts';
import type {BlobOutcome} from './types.ts';

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

export function makeDirectory(path: string): void {
  try {
    makeDirectories(path, {sync: false, mode: 0o755});
  } catch (err) {
    throw fromErrno(err, `directory ${path}`);
  }
}

/** Writes all of a buffer at a position. */
export async function writeAt(file: FileHandle, chunk: Buffer, position: number): Promise<void> {
  for (let done = 0; done < chunk.length; ) done += (await file.write(chunk, done, chunk.length - done, position + done)).bytesWritten;
}

/**
 * Writes a blob to a file that has its name only when it is whole.
 *
 * @param size a file of this size is the blob: it has got its name when it was whole
 * @throws errors of the source; resource_exhausted and others of the disk
 */
export async function writeBlobFile(
  path: string,
  size: number,
  source: () => AsyncIterable<Buffer>,
  onProgress: (offset: number) => void,
): Promise<BlobOutcome> {
  if (sizeOf(path) === size) return 'exists';
  const temporary = temporaryName(path);
  try {
    const file = await open(temporary, 'wx', 0o644);
    try {
      let offset = 0;
      for await (const chunk of source()) {
        await writeAt(file, chunk, offset);
        offset += chunk.length;
        onProgress(offset);
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
