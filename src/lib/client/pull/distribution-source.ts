/**
 * The label that says from which repositories of a registry a blob came, and to which it went: there it can be mounted from.
 *
 * After containerd, core/remotes/docker/handler.go, with which it is shared.
 */
import {isErrdefs} from '../../errdefs.ts';
import {validateLabels} from '../../oci/identifier.ts';
import type {Reference} from '../../oci/reference.ts';
import type {Labels} from '../../store/records.ts';

const PREFIX = 'containerd.io/distribution.source.';

type Repository = Pick<Reference, 'domain' | 'path'>;

/** Repositories of a registry that are known to have the blob, sorted. */
export const sourcesOf = (labels: Labels, domain: string): readonly string[] =>
  labels[PREFIX + domain]?.split(',').filter((path) => path !== '') ?? [];

/** The labels with one more repository; the same ones where it is in them, or where the label would become too long. */
export function withSource(labels: Labels, {domain, path}: Repository): Labels {
  const known = sourcesOf(labels, domain);
  if (known.includes(path)) return labels;
  const label = {[PREFIX + domain]: [...known, path].sort().join(',')};
  try {
    validateLabels(label);
  } catch (err) {
    // A blob that very many images share. What is not noted costs an upload some day.
    if (isErrdefs(err)) return labels;
    throw err;
  }
  return {...labels, ...label};
}

/** Repositories that are known to have the blob, of all registries. */
export const allSources = (labels: Labels): readonly Repository[] =>
  Object.keys(labels)
    .filter((key) => key.startsWith(PREFIX))
    .map((key) => key.slice(PREFIX.length))
    .flatMap((domain) => sourcesOf(labels, domain).map((path) => ({domain, path})));
