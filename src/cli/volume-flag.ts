/** Parses --volume of the `run` command, and --mount for volumes. */
import type {CreateOptions, MountSpec, StoredVolume, Volume} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';

const invalid = (message: string, hint?: string): ErrdefsError =>
  new ErrdefsError('invalid_argument', message, hint === undefined ? {} : {hint});

const isPath = (source: string): boolean => source.includes('/') || source === '.' || source === '..';

/**
 * `SRC:DST[:OPTIONS]` of docker, where SRC is a path or the name of a volume; or `DST`, for a volume of the container's own.
 *
 * @throws invalid_argument
 */
export function parseVolume(text: string): Volume | StoredVolume {
  const what = `volume ${JSON.stringify(text)}`;
  if (text.startsWith('/') && !text.includes(':')) return {destination: text};
  const [source = '', destination = '', given, ...more] = text.split(':');
  if (more.length > 0) throw invalid(`${what} has too many colons`, 'paths with a colon can be given by --mount');
  if (source === '' || destination === '') throw invalid(`${what} is not [SRC:]DST[:OPTIONS]`);
  const options = given?.split(',').filter((option) => option !== 'z' && option !== 'Z');
  if (isPath(source)) return {source, destination, ...(options === undefined ? {} : {options})};
  return storedVolume(source, destination, options);
}

function storedVolume(name: string, destination: string, given: readonly string[] | undefined): StoredVolume {
  const options = given?.filter((option) => option !== 'nocopy');
  return {
    ...(name === '' ? {} : {name}),
    destination,
    ...(options === undefined || options.length === 0 ? {} : {options}),
    ...(given?.includes('nocopy') ? {noCopy: true} : {}),
  };
}

/** @param mounts those of --mount; the ones of type `volume` are volumes */
export function volumesOf(
  texts: readonly string[],
  mounts: readonly MountSpec[],
): {volumes: CreateOptions['volumes'] | undefined; storedVolumes: CreateOptions['storedVolumes'] | undefined} {
  const parsed = texts.map(parseVolume);
  const mounted = mounts
    .filter(({type}) => type === 'volume')
    .map(({source, destination, options}) => storedVolume(source, destination, options));
  const volumes = parsed.filter((volume): volume is Volume => 'source' in volume);
  const storedVolumes = [...parsed.filter((volume): volume is StoredVolume => !('source' in volume)), ...mounted];
  return {
    volumes: volumes.length === 0 ? undefined : volumes,
    storedVolumes: storedVolumes.length === 0 ? undefined : storedVolumes,
  };
}

/** `ID[:ro|rw]` of docker's --volumes-from. @throws invalid_argument */
export function parseVolumesFrom(text: string): {container: string; readOnly?: boolean} {
  const [container = '', mode, ...more] = text.split(':');
  if (container === '' || more.length > 0 || (mode !== undefined && !['ro', 'rw', 'z', 'Z'].includes(mode)))
    throw invalid(`volumes of ${JSON.stringify(text)}: it is not ID[:ro]`);
  return {container, ...(mode === 'ro' ? {readOnly: true} : {})};
}
