/** `registry rm`: a manifest by its digest, or a tag. */
import {berth} from '../../berth-command.ts';
import {type Code, ErrdefsError, isErrdefs} from '../../errdefs.ts';
import {parseIndex, parseManifest} from '../../oci/manifest.ts';
import {kindOf} from '../../oci/mediatypes.ts';
import {parseReference, type Reference} from '../../oci/reference.ts';
import type {Remote} from '../../remotes/types.ts';
import type {Context} from '../context.ts';
import type {RegistryDeleteOptions} from '../types/index.ts';
import {readDocument, withRemote} from './read.ts';
import {updateReferrersTag} from './referrers.ts';

/** Responses of registries to the deletion of a tag that they do not support. */
const NO_TAG_DELETION: ReadonlySet<Code> = new Set<Code>(['invalid_argument', 'not_implemented', 'not_found']);

/**
 * Deletes what a reference names. A digest: the manifest, with all its tags. A tag: only this tag; the manifest, too, with `manifest`.
 *
 * @returns the deleted name
 * @throws not_implemented the registry does not delete tags, or nothing at all
 */
export async function deleteFrom(context: Context, text: string, options: RegistryDeleteOptions): Promise<string> {
  const ref = parseReference(text);
  const {domain, path, tag, digest} = ref;
  const {signal} = options;
  return withRemote(context, options, async (remote) => {
    const api = remote.api(ref);
    const found = await readDocument(remote, ref, signal, {forChange: true});
    if (digest !== undefined || options.manifest) {
      await api.delete(found.descriptor.digest, {signal}).catch((err: unknown) => {
        throw isDisabled(err) ? disabled(err) : err;
      });
      await forgetReferrer(remote, ref, found, signal);
      return `${domain}/${path}@${found.descriptor.digest}`;
    }
    try {
      await api.delete(tag!, {signal});
    } catch (err) {
      if (!isErrdefs(err) || !NO_TAG_DELETION.has(err.code)) throw err;
      throw new ErrdefsError('not_implemented', `delete ${domain}/${path}:${tag}: this registry deletes no tags, or nothing at all`, {
        cause: err,
        hint: `delete the manifest with all its tags: ${berth`registry rm --manifest ${`${domain}/${path}@${found.descriptor.digest}`}`}`,
        ...(err.details === undefined ? {} : {details: err.details}),
      });
    }
    return `${domain}/${path}:${tag}`;
  });
}

const isDisabled = (err: unknown): err is ErrdefsError => isErrdefs(err) && err.code === 'not_implemented';

const disabled = (err: ErrdefsError): ErrdefsError =>
  new ErrdefsError('not_implemented', err.message, {
    cause: err,
    hint: "deletion is disabled in this registry; docker's has storage.delete.enabled, or REGISTRY_STORAGE_DELETE_ENABLED=true",
    ...(err.details === undefined ? {} : {details: err.details}),
  });

/** Removes a deleted artifact from the index of its subject's referrers, where the registry does not keep that list itself. */
async function forgetReferrer(
  remote: Remote,
  ref: Reference,
  {descriptor, bytes}: Awaited<ReturnType<typeof readDocument>>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const {subject} = (kindOf(descriptor.mediaType) === 'index' ? parseIndex : parseManifest)(bytes, descriptor);
  if (subject === undefined || (await remote.api(ref).referrers(subject.digest, {signal, forChange: true})) !== undefined) return;
  await updateReferrersTag(remote, ref, subject.digest, {remove: descriptor.digest}, signal);
}
