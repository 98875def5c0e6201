/**
 * The names that images of an archive get.
 *
 * After containerd, core/images/archive/reference.go, and the flags of `ctr images import`. Names are normalised, as everywhere here.
 */
import type {NamedDescriptor} from '../../archive/archive-documents.ts';
import {ErrdefsError} from '../../errdefs.ts';
import type {Digest} from '../../oci/descriptor.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';

export interface NamingOptions {
  /** Repository of names that have none. Where it is given, other names are taken only if they lie in it, or are containerd's or docker's. */
  readonly baseName?: string;
  /** Adds the name `BASE@DIGEST` to each image. */
  readonly digests?: boolean;
  /** Adds it only to images without a name. */
  readonly skipDigestForNamed?: boolean;
}

/** The repository of images without one: `import-` and the date, as ctr has it. */
const defaultBase = (now: Date): string => `import-${now.toISOString().slice(0, 10)}`;

/** Whether a name lies in a repository, or is a repository below it. */
const isWithin = (name: string, base: string): boolean => name.startsWith(base) && /^(?:$|[/:@])/.test(name.slice(base.length));

/** The full name of what a user or an archive calls an image. @throws invalid_argument */
const normalized = (text: string): string => formatReference(parseReference(text));

/** A repository, normalised. @throws invalid_argument */
function repository(text: string): string {
  const {domain, path, tag, digest} = parseReference(text);
  if (/[:@]/.test(text.slice(text.lastIndexOf('/') + 1)) || digest !== undefined)
    throw new ErrdefsError(
      'invalid_argument',
      `base name ${JSON.stringify(text)} must be a repository, without ${tag === undefined ? 'digest' : 'tag or digest'}`,
    );
  return `${domain}/${path}`;
}

/** A tag, or a digest with `@` before it. */
const isObject = (refName: string): boolean => /^[\w][\w.-]{0,127}$/.test(refName) || /^@[a-z0-9]+:[0-9a-f]+$/.test(refName);

/** @param now for the default repository @throws invalid_argument `baseName` is no repository */
export function createNaming(
  {baseName, digests = false, skipDigestForNamed = false}: NamingOptions,
  now = new Date(),
): (image: NamedDescriptor) => readonly string[] {
  const base = repository(baseName ?? defaultBase(now));
  const byDigest = (digest: Digest): string => `${base}@${digest}`;
  const own = ({name, refName}: NamedDescriptor): string | undefined => {
    const full = name ?? refName;
    if (full === undefined) return undefined;
    if (name === undefined && isObject(full)) return `${base}${full.startsWith('@') ? full : `:${full}`}`;
    return normalized(full);
  };
  return (image) => {
    const name = own(image);
    // An image without any name would be lost.
    if (name === undefined) return [byDigest(image.descriptor.digest)];
    const isTaken = baseName === undefined || image.name !== undefined || isWithin(name, base);
    const named = isTaken ? [name] : [];
    return digests && !(skipDigestForNamed && named.length > 0) ? [...named, byDigest(image.descriptor.digest)] : named;
  };
}
