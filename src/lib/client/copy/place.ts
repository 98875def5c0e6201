/** Names of places: references, and the transports of skopeo. */
import {resolve} from 'node:path';
import {ErrdefsError} from '../../errdefs.ts';
import {formatReference, parseReference, type Reference} from '../../oci/reference.ts';

/** A place, as it was named. */
export type Place =
  | {readonly transport: 'docker'; readonly ref: Reference}
  | {
      readonly transport: 'oci' | 'oci-archive' | 'docker-archive' | 'dir';
      /** Absolute. */
      readonly path: string;
      /** Name of the image in it; not of `dir`. */
      readonly name?: string;
    };

const FILES = ['oci', 'oci-archive', 'docker-archive', 'dir'] as const;
/** Transports of skopeo that need more than a registry or files. */
const OTHERS = ['containers-storage', 'docker-daemon', 'ostree', 'sif', 'tarball', 'atomic'];

/** What a place begins with, up to its path: `http://…`. */
function transportOf(text: string): string {
  const [, begin] = /^([^:/@]{0,40}:(?:\/\/)?)/.exec(text) ?? [];
  return begin === undefined ? '…' : `${begin}…`;
}

/**
 * Reads the name of a place: `docker://REFERENCE`, `oci:DIR[:NAME]`, `oci-archive:FILE[:NAME]`, `docker-archive:FILE[:REFERENCE]`,
 * `dir:DIR`, or a bare reference. As in skopeo, a path ends at its first colon, except that of `dir`.
 *
 * @throws invalid_argument
 */
export function parsePlace(text: string): Place {
  if (text.startsWith('docker://')) return {transport: 'docker', ref: parseReference(text.slice('docker://'.length))};
  const colon = text.indexOf(':');
  const prefix = text.slice(0, Math.max(colon, 0));
  const transport = FILES.find((name) => name === prefix);
  if (transport === undefined) {
    if (OTHERS.includes(prefix) || text.includes('://'))
      // The rest of it may have credentials.
      throw new ErrdefsError('invalid_argument', `place ${JSON.stringify(transportOf(text))}: the transport is not known`, {
        hint: `use a reference, docker://, ${FILES.map((name) => `${name}:`).join(', ')}`,
      });
    return {transport: 'docker', ref: parseReference(text)};
  }
  const rest = text.slice(colon + 1);
  const end = transport === 'dir' ? -1 : rest.indexOf(':');
  const path = end < 0 ? rest : rest.slice(0, end);
  const name = end < 0 ? undefined : rest.slice(end + 1);
  if (path === '' || path.includes('\0')) throw new ErrdefsError('invalid_argument', `place ${JSON.stringify(text)}: no path`);
  return {transport, path: resolve(path), ...(name === undefined || name === '' ? {} : {name})};
}

/** The place in full, such as `docker://docker.io/library/redis:7` or `oci:/var/images:7`. */
export const formatPlace = (place: Place): string =>
  place.transport === 'docker'
    ? `docker://${formatReference(place.ref)}`
    : `${place.transport}:${place.path}${place.name === undefined ? '' : `:${place.name}`}`;
