/** A plan with the signatures of its image, which are stored, leased and recorded as the image's documents are. */
import type {Digest} from '../../oci/descriptor.ts';
import {signatureLabel} from '../signatures/signature-sources.ts';
import type {Evidence} from '../signatures/verify-evidence.ts';
import type {Plan} from './plan.ts';

export function withEvidence(plan: Plan, evidence: readonly Evidence[]): Plan {
  if (evidence.length === 0) return plan;
  const documents = new Map(plan.documents);
  const keep = (by: Digest, digest: Digest): void => {
    const document = documents.get(by)!;
    documents.set(by, {...document, labels: {...document.labels, ...signatureLabel(digest)}});
  };
  for (const {descriptor, bytes, layers} of evidence) {
    documents.set(descriptor.digest, {descriptor, bytes, labels: {}});
    for (const layer of layers) {
      documents.set(layer.descriptor.digest, {...layer, labels: {}});
      keep(descriptor.digest, layer.descriptor.digest);
    }
    keep(plan.root.digest, descriptor.digest);
  }
  return {...plan, documents};
}
