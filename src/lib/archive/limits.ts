/** Limits of a layer. docs/LIMITS.md documents them. */
import {ErrdefsError} from '../errdefs.ts';

/** Longest link target in bytes. `PATH_MAX` of Linux is 4096, including the final NUL. */
export const MAX_TARGET_BYTES = 4095;
/** Longest name in bytes. The name and the path of the extraction directory together must be a valid path. */
export const MAX_NAME_BYTES = 3840;
/** Most components of a name: each one is a directory to walk and to keep in memory. */
export const MAX_NAME_DEPTH = 256;
/** Largest extended header (PAX records, GNU long name) and largest sparse map, in bytes. */
export const MAX_HEADER_BYTES = 1 << 20;
/** Most records in a PAX header; those of a sparse map do not count. */
export const MAX_PAX_RECORDS = 1000;
/** Most extended headers before an entry; tar writers need three. */
export const MAX_EXTENDED_HEADERS = 16;
export const MAX_ENTRIES = 2_000_000;
/**
 * Most implicit parents of a layer, each counted with its ancestors. One entry can have as many as its name is deep, and each takes as many
 * steps to reach.
 */
export const MAX_IMPLICIT_STEPS = 1_000_000;
/** Most bytes of a layer's files by their headers, holes included. */
export const MAX_LAYER_BYTES = 2 ** 40;
/** Most names, bytes of names, link targets and extended attributes, and implicit parents of a layer that is indexed. A layer with more is extracted. */
export const MAX_INDEXED_NAMES = 1_000_000;
export const MAX_INDEXED_BYTES = 2 ** 25;
export const MAX_INDEXED_IMPLICIT = 50_000;

/** Error for a well-formed layer that exceeds a limit. */
export const overLimit = (what: string, details: Readonly<Record<string, number>>): ErrdefsError =>
  new ErrdefsError('resource_exhausted', what, {hint: 'use --no-unpack to keep the image without unpacking it', details});

export const tooManyImplicit = (): ErrdefsError => overLimit('layer implies too many parent directories', {steps: MAX_IMPLICIT_STEPS});
