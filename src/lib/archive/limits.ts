/** What a layer, written by a stranger, may ask for. docs/LIMITS.md says the same to people. */
import {ErrdefsError} from '../errdefs.ts';

/** Longest link target in bytes: `PATH_MAX` of Linux is 4096 and counts the NUL at the end. */
export const MAX_TARGET_BYTES = 4095;
/** Longest name in bytes: with the directory that the layer is unpacked in it has to be a path as well. */
export const MAX_NAME_BYTES = 3840;
/** Deepest name in components: each is a directory that is walked through and remembered. */
export const MAX_NAME_DEPTH = 256;
/** Largest header about the next entry – PAX records, GNU long name – and largest sparse map, in bytes. */
export const MAX_HEADER_BYTES = 1 << 20;
/** Most records in a PAX header, but for those of a sparse map. */
export const MAX_PAX_RECORDS = 1000;
/** Most headers about the next entry in a row; writers need three. */
export const MAX_EXTENDED_HEADERS = 16;
/** Most entries of a layer. */
export const MAX_ENTRIES = 2_000_000;
/**
 * What the directories that a layer needs and does not carry may come to, each counted with those above it: one entry can need
 * as many as it is deep, and each takes as many steps to reach.
 */
export const MAX_IMPLICIT_STEPS = 1_000_000;
/** Most bytes that the files of a layer may have together by their headers, holes included. */
export const MAX_LAYER_BYTES = 2 ** 40;
/** Names that are kept in memory to find out whether a layer can be indexed, and directories that an index is given; a layer with more is extracted. */
export const MAX_INDEXED_NAMES = 1_000_000;
export const MAX_INDEXED_IMPLICIT = 50_000;

/** A layer that is well-formed and too much. */
export const overLimit = (what: string, details: Readonly<Record<string, number>>): ErrdefsError =>
  new ErrdefsError('resource_exhausted', what, {hint: 'use --no-unpack to keep the image without unpacking it', details});

export const tooManyImplicit = (): ErrdefsError => overLimit('layer implies too many parent directories', {steps: MAX_IMPLICIT_STEPS});
