/** `oci:`, an OCI layout in a directory, as target of a copy. */
import {IMAGE_NAME, REF_NAME} from '../../archive/archive-documents.ts';
import type {Descriptor} from '../../oci/descriptor.ts';
import {LayoutDirectory, type LayoutEntry} from '../archives/layout-directory.ts';
import type {ImageTarget} from './types.ts';

/** The entry of `index.json` for an image. @param name absent: the image has none */
export const layoutEntry = ({mediaType, digest, size}: Descriptor, name: string | undefined): object => ({
  mediaType,
  digest,
  size,
  ...(name === undefined ? {} : {annotations: {[REF_NAME]: name}}),
});

/**
 * Adds an image to a layout, or makes the layout. Other images stay. Several copies may write to one layout at once.
 *
 * @throws failed_precondition the directory has other files @throws not_implemented another version of the layout
 */
export function layoutTarget(name: string, path: string, refName: string | undefined, signal?: AbortSignal): ImageTarget {
  const layout = new LayoutDirectory(path, signal);
  return {
    name,
    keepsForeignLayers: true,
    takesAgain: true,
    // skopeo and umoci do not read docker's manifests there.
    format: 'oci',
    // Blobs may be missing: they are looked at one by one.
    isCurrent: async () => false,
    hasManifest: async () => false,
    blob: (desc, open, {onProgress}) => layout.blob(desc, () => open(0), onProgress),
    manifest: async ({descriptor, bytes}) => layout.document(descriptor, bytes),
    commit: async ({descriptor, bytes}) => {
      layout.document(descriptor, bytes);
      await layout.update((entries) => [
        ...entries.flatMap((entry) => withoutName(entry, descriptor, refName)),
        layoutEntry(descriptor, refName),
      ]);
      return descriptor;
    },
    close: async () => {},
  };
}

/** An entry beside a new one: not without any name, and an image that has a full name, as containerd writes it, keeps only that. */
function withoutName(entry: LayoutEntry, root: Descriptor, refName: string | undefined): readonly LayoutEntry[] {
  const {[REF_NAME]: other, ...annotations} = entry.annotations ?? {};
  if (refName === undefined)
    return other !== undefined || annotations[IMAGE_NAME] !== undefined || entry.digest !== root.digest ? [entry] : [];
  if (other !== refName) return [entry];
  return annotations[IMAGE_NAME] === undefined ? [] : [{...entry, annotations}];
}
