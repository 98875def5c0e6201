/** Volumes of a new container: named ones, which outlive it, and its own, which lie beside its tree and end with it. */
import {chmodSync, existsSync, mkdirSync} from 'node:fs';
import {join, posix} from 'node:path';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import {copyTree} from '../../fs/copy.ts';
import {validateIdentifier} from '../../oci/identifier.ts';
import type {ExecConfig} from '../../oci/manifest.ts';
import type {RootReader} from '../../runtime/path-in-root.ts';
import {checkVolume} from '../../runtime/spec.ts';
import type {MountSpec, Volume} from '../../runtime/spec-option-types.ts';
import {treeUsage} from '../../store/disk-usage.ts';
import {Quota} from '../../store/quota.ts';
import type {Labels} from '../../store/records.ts';
import {useVolume, volumeKey, volumeReference} from '../api/volumes.ts';
import type {Context} from '../context.ts';
import type {CreateOptions, StoredVolume} from '../types/index.ts';

const normalized = (path: string): string => posix.resolve('/', path);

/** Docker's images have one or two. */
export const MAX_IMAGE_VOLUMES = 100;

/** The image's VOLUMEs for which the options have nothing else. */
function imageVolumes({Volumes = {}}: ExecConfig, {mounts = [], volumes = [], storedVolumes = []}: CreateOptions): readonly string[] {
  const taken = new Set([...mounts, ...volumes, ...storedVolumes].map(({destination}) => normalized(destination)));
  return [...new Set(Object.keys(Volumes).map(normalized))].filter((path) => path !== '/' && !taken.has(path)).sort();
}

/** What `imageVolumes: 'tmpfs'` makes of the image's VOLUMEs. */
export const volumesInMemory = (config: ExecConfig, options: CreateOptions): readonly MountSpec[] =>
  options.imageVolumes === 'tmpfs'
    ? imageVolumes(config, options).map((destination) => ({destination, type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'nodev']}))
    : [];

/**
 * The volumes that the container gets from the store, those that are asked for before those of its image.
 *
 * @param isDirectory the container has a directory of the host as its root, and no tree in the store
 * @throws invalid_argument a name, a path or an option
 */
export function plannedVolumes(config: ExecConfig, options: CreateOptions, isDirectory: boolean): readonly StoredVolume[] {
  const {storedVolumes: asked = [], imageVolumes: policy = 'own', mounts = [], volumes = []} = options;
  const others = new Set([...mounts, ...volumes].map(({destination}) => normalized(destination)));
  for (const {name, destination, options: words = []} of asked) {
    const what = `volume ${JSON.stringify(name ?? destination)}`;
    if (name !== undefined) validateIdentifier(name);
    else if (isDirectory)
      throw new ErrdefsError('invalid_argument', `${what}: a container without an image keeps no volume of its own`, {
        hint: `name it: --volume NAME:${destination}`,
      });
    const path = normalized(destination);
    if (path === '/' || !posix.isAbsolute(destination))
      throw new ErrdefsError('invalid_argument', `${what}: ${JSON.stringify(destination)} must be an absolute path, and not the root`);
    if (others.has(path)) throw new ErrdefsError('invalid_argument', `${what}: something else is mounted on ${JSON.stringify(path)}`);
    others.add(path);
    checkVolume({source: '/', destination, options: words});
  }
  const own = policy === 'own' && !isDirectory ? imageVolumes(config, options) : [];
  if (own.length > MAX_IMAGE_VOLUMES)
    throw new ErrdefsError('invalid_argument', `${own.length} VOLUMEs of the image are more than ${MAX_IMAGE_VOLUMES}`, {
      hint: 'leave them out: --image-volume ignore',
    });
  return [...asked, ...own.map((destination) => ({destination}))];
}

/** Labels by which a container holds its named volumes, whether or not they exist. */
export const volumeLabels = (volumes: readonly StoredVolume[]): Labels =>
  Object.fromEntries(volumes.flatMap(({name}) => (name === undefined ? [] : [[volumeReference(name), volumeKey(name)]])));

/**
 * Makes the volumes that do not exist, each with what the image has at its path, and returns what is to be mounted.
 *
 * @param how.ownLayer layer of the container, for volumes of its own
 * @param how.from the container's root, in which nothing runs yet; absent: new volumes are empty
 * @param how.transient the container's own volumes need not be synced
 */
export async function makeVolumes(
  context: Context,
  namespace: string,
  planned: readonly StoredVolume[],
  how: {readonly ownLayer: string | undefined; readonly from: RootReader | undefined; readonly transient: boolean},
): Promise<readonly Volume[]> {
  const {layers} = context.store;
  const quota = planned.length === 0 ? undefined : Quota.of(context.store, namespace);
  const made: Volume[] = [];
  let hasCopied = false;
  for (const [index, {name, destination, options, noCopy = false}] of planned.entries()) {
    const from = noCopy ? undefined : how.from;
    let source: string;
    if (name === undefined) {
      const directory = layers.ownVolumes(how.ownLayer!);
      source = join(directory, String(index));
      try {
        mkdirSync(directory, {recursive: true, mode: 0o700});
        hasCopied = fillVolume(source, destination, from, quota) || hasCopied;
      } catch (err) {
        throw fromErrno(err, `volume ${JSON.stringify(destination)}`);
      }
    } else source = await useVolume(context, namespace, name, (tree) => void fillVolume(tree, destination, from, quota));
    made.push({source, destination, ...(options === undefined ? {} : {options})});
  }
  if (hasCopied && !how.transient) layers.sync();
  return made;
}

/**
 * Makes the directory `tree`, with what the container's root has at `path`.
 *
 * @returns whether it has anything
 * @throws resource_exhausted the namespace would hold more than its quota
 */
function fillVolume(tree: string, path: string, from: RootReader | undefined, quota: Quota | undefined): boolean {
  from?.withDirectory(path, (directory) => {
    quota?.takeTree(treeUsage(`${directory}/.`));
    copyTree(`${directory}/.`, tree);
  });
  if (existsSync(tree)) return true;
  mkdirSync(tree);
  chmodSync(tree, 0o755);
  return false;
}
