/** Images in an OCI layout, in a tar of one, and in docker's archive, as sources of a copy. */
import {createReadStream} from 'node:fs';
import {open} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {NamedDescriptor} from '../../archive/archive-documents.ts';
import {type ArchiveFiles, archiveKind, openDirectoryFiles, openTarFiles} from '../../archive/archive-reader.ts';
import {readArchivedImages} from '../../archive/archived-images.ts';
import {createStreamInflater} from '../../archive/inflate.ts';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import {removeTree, temporaryName, writeAt} from '../../fs/durable.ts';
import {FreeSpaceGuard} from '../../fs/free-space.ts';
import {MAX_MANIFEST_BYTES} from '../../oci/manifest.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import type {ImageSource} from './types.ts';

export interface ArchivePlace {
  readonly transport: 'oci' | 'oci-archive' | 'docker-archive';
  readonly path: string;
  readonly name?: string;
}

/** @throws not_found, invalid_argument no such file or image, or several images and no name */
export async function archivedSource(name: string, place: ArchivePlace, signal: AbortSignal | undefined): Promise<ImageSource> {
  const files = await openFiles(place, signal);
  try {
    const archived = await readArchivedImages(files, signal);
    const isDocker = place.transport === 'docker-archive';
    if (isDocker !== (archived.format === 'docker') && !isDocker)
      throw new ErrdefsError('invalid_argument', `${files.what} is no OCI layout`, {hint: `name it as docker-archive:${place.path}`});
    const {descriptor} = choose(archived.images, place, files.what);
    return {
      name,
      root: async () => {
        const {annotations: _, platform: __, ...root} = descriptor;
        return {descriptor: root, bytes: await archived.document(root, MAX_MANIFEST_BYTES)};
      },
      document: (desc, limit) => archived.document(desc, limit),
      blob: (desc, offset) => archived.blob(desc, offset),
      close: async () => files.close(),
    };
  } catch (err) {
    files.close();
    throw err;
  }
}

async function openFiles({transport, path}: ArchivePlace, signal: AbortSignal | undefined): Promise<ArchiveFiles> {
  const what = `${transport}:${path}`;
  const kind = archiveKind(path, what);
  if ((kind === 'directory') !== (transport === 'oci'))
    throw new ErrdefsError('invalid_argument', `${what} is ${kind === 'directory' ? 'a directory' : 'no directory'}`, {
      hint: kind === 'directory' ? `an OCI layout is named oci:${path}` : `a tar is named oci-archive:${path} or docker-archive:${path}`,
    });
  if (kind === 'directory') return openDirectoryFiles(path, what);
  return kind === 'tar' ? openTarFiles(path, what) : openInflated(path, what, signal);
}

/** Inflates an archive, or reads a pipe, into a file without a name. */
async function openInflated(path: string, what: string, signal: AbortSignal | undefined): Promise<ArchiveFiles> {
  const temporary = temporaryName(join(tmpdir(), 'archive'));
  try {
    const file = await open(temporary, 'wx', 0o600);
    const space = new FreeSpaceGuard(tmpdir(), what);
    try {
      let written = 0;
      let chunks: Buffer[] = [];
      const flush = async (): Promise<void> => {
        const ready = chunks;
        chunks = [];
        for (const chunk of ready) {
          space.check(written);
          writeAt(file.fd, chunk, written);
          written += chunk.length;
        }
      };
      // The inflater reuses its memory.
      const inflater = createStreamInflater((chunk) => void chunks.push(Buffer.from(chunk)));
      try {
        for await (const chunk of createReadStream(path, {highWaterMark: 1 << 20, ...(signal && {signal})})) {
          await inflater.write(chunk as Buffer);
          await flush();
        }
        await inflater.end();
        await flush();
      } finally {
        inflater.close();
      }
    } finally {
      await file.close();
    }
    return openTarFiles(temporary, what);
  } catch (err) {
    throw fromErrno(err, what);
  } finally {
    // The open file outlives its name.
    removeTree(temporary);
  }
}

/** The image that a place names. */
function choose(images: readonly NamedDescriptor[], {transport, name}: ArchivePlace, what: string): NamedDescriptor {
  const names = images.flatMap((image) => image.name ?? image.refName ?? []);
  const hint = names.length === 0 ? 'its images have no names' : `it has ${names.slice(0, 20).join(', ')}`;
  if (name === undefined) {
    const digests = new Set(images.map(({descriptor}) => descriptor.digest));
    if (digests.size === 1) return images[0]!;
    throw digests.size === 0
      ? new ErrdefsError('not_found', `an image in ${what}`)
      : new ErrdefsError('invalid_argument', `${what} has ${digests.size} images`, {hint: `name one, as ${what}:NAME; ${hint}`});
  }
  const index = transport === 'docker-archive' ? /^@(\d{1,6})$/.exec(name)?.[1] : undefined;
  const full = transport === 'docker-archive' && index === undefined ? formatReference(parseReference(name)) : name;
  const distinct = [...new Map(images.map((image) => [image.descriptor.digest, image])).values()];
  const found =
    index === undefined
      ? images.find((image) => image.name === full || (image.refName === name && transport !== 'docker-archive'))
      : distinct[Number(index)];
  if (found === undefined) throw new ErrdefsError('not_found', `image ${JSON.stringify(name)} in ${what}`, {hint});
  return found;
}
