/** `repack`: an image of what was changed in a bundle, on top of the image that it was unpacked from. */
import {lstatSync, rmSync} from 'node:fs';
import {join, posix, resolve} from 'node:path';
import {findChanges, type TreeChange} from '../../archive/find-tree-changes.ts';
import {writeLayerDiff} from '../../archive/layer-diff.ts';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {kindOf} from '../../oci/mediatypes.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {Context} from '../context.ts';
import {readVisible, visibleIn} from '../pull/visible-content.ts';
import {assertAllowed} from '../signatures/assert-allowed.ts';
import type {RepackOptions} from '../types/index.ts';
import {describeBundle, openBundle} from './bundle.ts';
import {ImageBuild, sourceManifest} from './image-build.ts';
import {layerOnTop} from './layer-on-top.ts';
import {checkLevel} from './new-blob.ts';
import {withImageTree} from './unpacked-image.ts';

export async function repackBundle(
  context: Context,
  namespace: string,
  path: string,
  target: string,
  options: RepackOptions,
): Promise<ImageRecord> {
  const {author, message, created, compression = 'gzip', level, maskPaths = [], maskVolumes = true} = options;
  const {refreshBundle = false, snapshotter, signal} = options;
  checkLevel(compression, level);
  const {rootfs, manifest} = openBundle(path);
  const root = lstatSync(rootfs, {throwIfNoEntry: false});
  if (root?.isDirectory() !== true) throw new ErrdefsError('failed_precondition', `${JSON.stringify(rootfs)} is not a directory`);
  const {image, target: manifestOfBase} = baseOf(context, namespace, manifest.digest);
  await assertAllowed(context, namespace, image);
  const base = {name: image.name, target: manifestOfBase};
  const build = new ImageBuild(context, namespace, formatReference(parseReference(target)), options);
  try {
    const plan = await build.sourceOf(base, {});
    const planned = plan.manifests.find(({descriptor}) => descriptor.digest === manifest.digest);
    if (planned === undefined) throw new ErrdefsError('failed_precondition', `manifest ${manifest.digest} is not an image with a tree`);
    const from = sourceManifest(plan, planned);
    const volumes = maskVolumes ? Object.keys((from.config.config as {Volumes?: object} | undefined)?.Volumes ?? {}) : [];
    const isMasked = maskOf([...maskPaths, ...volumes]);
    const changes = await withImageTree(context, namespace, {name: base.name, plan}, {snapshotter, signal}, async (tree) =>
      (await findChanges({lower: tree, upper: rootfs, wholeSeconds: true}, signal)).filter((change) => !isMasked(change)),
    );
    const isChanged = changes.some(({kind}) => kind !== 'unmodified');
    const repacked = isChanged
      ? await layerOnTop(build, from, {
          ref: `repack ${resolve(path)}`,
          author,
          message,
          createdBy: 'berth repack',
          created,
          content: (latest) => writeLayerDiff(rootfs, changes, {latest, signal}),
          compression,
          level,
        })
      : {...planned.descriptor};
    const made = await build.commit(repacked, {});
    if (refreshBundle && isChanged) {
      await describeBundle(resolve(path), made.target, signal);
      rmSync(join(resolve(path), `${manifest.digest.replace(':', '_')}.mtree`), {force: true});
    }
    return made;
  } catch (err) {
    throw fromErrno(err, `bundle ${JSON.stringify(resolve(path))}`);
  } finally {
    await build.close();
  }
}

/** Whether a change lies at one of the paths, or below it. */
function maskOf(paths: readonly string[]): (change: TreeChange) => boolean {
  const masks = paths.map((path) => Buffer.from(posix.resolve('/', path)).toString('latin1').slice(1));
  return ({path}) => masks.some((mask) => mask === '' || path === mask || path.startsWith(`${mask}/`));
}

/** The image of the namespace that has the manifest, as itself or in its index, and the manifest's descriptor. @throws not_found */
function baseOf({store}: Context, namespace: string, digest: Digest): {readonly image: ImageRecord; readonly target: Descriptor} {
  const isVisible = visibleIn(store, namespace);
  for (const image of store.view((tx) => tx.namespace(namespace).images.list())) {
    const {target} = image;
    if (target.digest === digest) return {image, target};
    if (kindOf(target.mediaType) !== 'index') continue;
    const bytes = readVisible(store, isVisible, target);
    if (bytes === undefined) continue;
    const {manifests} = JSON.parse(bytes.toString()) as {readonly manifests?: readonly Descriptor[]};
    const found = manifests?.find((one) => one.digest === digest);
    if (found !== undefined) return {image, target: found};
  }
  throw new ErrdefsError('not_found', `image with manifest ${digest} in namespace ${JSON.stringify(namespace)}`, {
    hint: 'pull or import the image that the bundle was unpacked from',
  });
}
