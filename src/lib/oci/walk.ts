/** Walks the documents of an image, as far as they are present. Planning a pull, which is strict and selects, is client/pull/plan.ts. */
import {isErrdefs} from '../errdefs.ts';
import type {Descriptor, Digest} from './descriptor.ts';
import {children} from './manifest.ts';
import {type Kind, kindOf} from './mediatypes.ts';

/** Largest nesting of indexes and manifests. The specification sets no limit; two levels occur in practice. */
export const MAX_DEPTH = 4;

/** A descriptor that a walk has come to. */
export interface Visit {
  readonly descriptor: Descriptor;
  readonly kind: Kind;
  /** The document; `undefined` when `read` did not give it. */
  readonly bytes: Buffer | undefined;
  /** Descriptors in the document; none when it does not have the form of its media type. */
  readonly children: readonly Descriptor[];
}

/**
 * Visits an image's descriptors: each digest once, parents before children, children in order. Indexes nested deeper than `MAX_DEPTH`
 * count as empty.
 *
 * @param read a document's bytes; `undefined` ends the walk below it
 */
export function* walk(root: Descriptor, read: (desc: Descriptor, kind: Kind) => Buffer | undefined): Generator<Visit> {
  const seen = new Set<Digest>();
  function* visit(descriptor: Descriptor, depth: number): Generator<Visit> {
    if (seen.has(descriptor.digest)) return;
    seen.add(descriptor.digest);
    const kind = kindOf(descriptor.mediaType);
    const bytes = read(descriptor, kind);
    const below = bytes === undefined || (kind === 'index' && depth === MAX_DEPTH) ? [] : childrenOf(kind, bytes, descriptor);
    yield {descriptor, kind, bytes, children: below};
    for (const child of below) yield* visit(child, depth + 1);
  }
  yield* visit(root, 1);
}

function childrenOf(kind: Kind, bytes: Buffer, desc: Descriptor): readonly Descriptor[] {
  try {
    return children(kind, bytes, desc);
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return [];
  }
}
