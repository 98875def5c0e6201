/** `oci:`, an OCI layout in a directory, as target of a copy. */
import {join} from 'node:path';
import {
  blobFile,
  checkOCILayout,
  INDEX_FILE,
  INDEX_LOCK,
  OCI_LAYOUT,
  OCI_LAYOUT_FILE,
  parseLayoutIndex,
  REF_NAME,
} from '../../archive/image-layout.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {readIfPresent, removeTree, sweepOwnTemporary, writeAtomic} from '../../fs/durable.ts';
import {acquireLock} from '../../fs/lock.ts';
import type {Descriptor} from '../../oci/descriptor.ts';
import {OCI_INDEX} from '../../oci/mediatypes.ts';
import {hasEntries, makeDirectory, sizeOf, writeBlobFile} from './output.ts';
import type {Document, ImageTarget} from './types.ts';

const LOCK_TIMEOUT_MS = 60_000;

/** The entry of `index.json` for an image. @param name absent: the image has none */
export const layoutEntry = ({mediaType, digest, size}: Descriptor, name: string | undefined): object => ({
  mediaType,
  digest,
  size,
  ...(name === undefined ? {} : {annotations: {[REF_NAME]: name}}),
});

/**
 * Adds an image to a layout, or makes the layout. Blobs come first, `index.json` last; other images stay. Several copies may write to one
 * layout at once.
 *
 * @throws failed_precondition the directory has other files @throws not_implemented another version of the layout
 */
export function layoutTarget(name: string, path: string, refName: string | undefined): ImageTarget {
  const marker = readIfPresent(join(path, OCI_LAYOUT_FILE));
  const isNew = !hasEntries(path);
  if (marker !== undefined) checkOCILayout(Buffer.from(marker));
  else if (!isNew)
    throw new ErrdefsError('failed_precondition', `directory ${path} is not empty, and is no OCI layout`, {
      hint: 'name an empty directory, or one that does not exist',
    });
  const fileOf = ({digest}: Descriptor): string => join(path, blobFile(digest));
  const swept = new Set<string>();
  const begin = (file: string): void => {
    const directory = join(file, '..');
    if (swept.has(directory)) return;
    swept.add(directory);
    makeDirectory(directory);
    sweepOwnTemporary(directory);
    if (marker === undefined) writeAtomic(join(path, OCI_LAYOUT_FILE), OCI_LAYOUT, {sync: true, mode: 0o644});
  };
  const writeDocument = ({descriptor, bytes}: Document): void => {
    begin(fileOf(descriptor));
    if (sizeOf(fileOf(descriptor)) !== descriptor.size) writeAtomic(fileOf(descriptor), bytes, {sync: true, mode: 0o644});
  };
  let committed = false;
  return {
    name,
    keepsForeignLayers: true,
    takesAgain: true,
    // skopeo and umoci do not read docker's manifests there.
    format: 'oci',
    // Blobs may be missing: they are looked at one by one.
    isCurrent: async () => false,
    hasManifest: async () => false,
    blob: async (desc, open, {onProgress}) => {
      begin(fileOf(desc));
      return writeBlobFile(fileOf(desc), desc.size, () => open(0), onProgress);
    },
    manifest: async (document) => writeDocument(document),
    commit: async (root) => {
      writeDocument(root);
      using _ = await acquireLock(join(path, INDEX_LOCK), {timeoutMs: LOCK_TIMEOUT_MS, purpose: INDEX_FILE});
      const text = readIfPresent(join(path, INDEX_FILE));
      writeAtomic(join(path, INDEX_FILE), updatedIndex(text, root.descriptor, refName), {sync: true, mode: 0o644});
      committed = true;
      return root.descriptor;
    },
    close: async () => {
      // Another copy may have committed to it meanwhile.
      if (isNew && !committed && swept.size > 0 && readIfPresent(join(path, INDEX_FILE)) === undefined) removeTree(path);
    },
  };
}

/** `index.json` with one more image, in place of that of the same name. What is not known in it stays. */
function updatedIndex(text: string | undefined, root: Descriptor, refName: string | undefined): string {
  if (text !== undefined) parseLayoutIndex(Buffer.from(text));
  const index = (text === undefined ? {schemaVersion: 2, mediaType: OCI_INDEX} : JSON.parse(text)) as {
    manifests?: readonly {digest: string; annotations?: Record<string, string>}[] | null;
  };
  const others = (index.manifests ?? []).filter((entry) => {
    const other = entry.annotations?.[REF_NAME];
    return refName === undefined ? other !== undefined || entry.digest !== root.digest : other !== refName;
  });
  return JSON.stringify({...index, manifests: [...others, layoutEntry(root, refName)]});
}
