/** Opens the places of a copy. */
import type {Remote} from '../../remotes/types.ts';
import type {RegistryOptions} from '../types/index.ts';
import type {BlobLocations} from './blob-locations.ts';
import {directorySource, directoryTarget} from './directory.ts';
import {formatPlace, type Place} from './place.ts';
import type {ImageSource, ImageTarget} from './types.ts';

/** What copies share: connections to registries, where blobs are there, limits. */
export interface Opener {
  remote(options: RegistryOptions): Promise<Remote>;
  readonly blobLocations: BlobLocations;
  readonly signal: AbortSignal;
  readonly maxConcurrent: number;
}

export async function openSource({remote, signal}: Opener, place: Place, options: RegistryOptions): Promise<ImageSource> {
  const name = formatPlace(place);
  if (place.transport === 'docker') {
    const {registrySource} = await import('./registry.ts');
    return registrySource(name, await remote(options), place.ref, signal);
  }
  if (place.transport === 'dir') return directorySource(name, place.path);
  const {archivedSource} = await import('./archive-source.ts');
  return archivedSource(name, {...place, transport: place.transport}, signal);
}

export async function openTarget({remote, ...limits}: Opener, place: Place, options: RegistryOptions): Promise<ImageTarget> {
  const name = formatPlace(place);
  switch (place.transport) {
    case 'docker': {
      const {registryTarget} = await import('./registry.ts');
      return registryTarget(name, await remote(options), place.ref, limits);
    }
    case 'dir':
      return directoryTarget(name, place.path, limits.signal);
    case 'oci':
      return (await import('./layout-target.ts')).layoutTarget(name, place.path, place.name, limits.signal);
    case 'oci-archive':
      return (await import('./archive-target.ts')).layoutArchiveTarget(name, place.path, place.name);
    case 'docker-archive':
      return (await import('./archive-target.ts')).dockerArchiveTarget(name, place.path, place.name);
  }
}
