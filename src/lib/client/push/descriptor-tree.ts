/** What a push consists of: a tree of descriptors, and which of them are stored. */
import {ErrdefsError} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {children} from '../../oci/manifest.ts';
import {isForeignLayer, type Kind, kindOf} from '../../oci/mediatypes.ts';
import {MAX_DEPTH} from '../../oci/walk.ts';
import {MAX_DOCUMENTS} from '../pull/plan.ts';

export interface Node {
  readonly descriptor: Descriptor;
  readonly kind: Kind;
  /** Whether the namespace has it, complete. */
  readonly isStored: boolean;
  /** Whether something in or below it is not stored. */
  readonly isIncomplete: boolean;
  readonly isForeign: boolean;
  /** A foreign layer that is not pushed: its URLs say where to fetch it. */
  readonly isSkipped: boolean;
  readonly children: readonly Node[];
}

export interface TreeSource {
  has(desc: Descriptor): boolean;
  /** A stored document. */
  read(desc: Descriptor): Buffer;
}

export const isDocument = (kind: Kind): boolean => kind === 'index' || kind === 'manifest';

/**
 * Reads the documents below `root`; of a digest that occurs more than once there is one node.
 *
 * @throws invalid_argument a document is malformed, or nested too deep
 * @throws resource_exhausted too many documents
 */
export function readTree(root: Descriptor, source: TreeSource, {withForeign}: {readonly withForeign: boolean}): Node {
  const nodes = new Map<Digest, Node>();
  let documents = 0;
  const visit = (descriptor: Descriptor, depth: number): Node => {
    const {digest, mediaType} = descriptor;
    const known = nodes.get(digest);
    if (known !== undefined) return known;
    const kind = kindOf(mediaType);
    const isForeign = isForeignLayer(mediaType);
    const isSkipped = !withForeign && isForeign;
    const isStored = source.has(descriptor);
    let below: readonly Node[] = [];
    if (isStored && isDocument(kind)) {
      if (depth > MAX_DEPTH) throw new ErrdefsError('invalid_argument', `index ${root.digest} is nested more than ${MAX_DEPTH} deep`);
      if (++documents > MAX_DOCUMENTS)
        throw new ErrdefsError('resource_exhausted', `index ${root.digest} refers to more than ${MAX_DOCUMENTS} manifests`);
      below = children(kind, source.read(descriptor), descriptor).map((child) => visit(child, depth + 1));
    }
    const isIncomplete = !isSkipped && (!isStored || below.some((child) => child.isIncomplete));
    const node: Node = {descriptor, kind, isStored, isIncomplete, isForeign, isSkipped, children: below};
    nodes.set(digest, node);
    return node;
  };
  return visit(root, 1);
}

/** The node and all below it, each once. */
export function nodesOf(root: Node): readonly Node[] {
  const found = new Set<Node>();
  const visit = (node: Node): void => {
    if (found.has(node)) return;
    found.add(node);
    node.children.forEach(visit);
  };
  visit(root);
  return [...found];
}
