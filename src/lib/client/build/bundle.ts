/**
 * An image as a bundle on disk, with umoci's layout, so that either program goes on with what the other has unpacked:
 *
 *     config.json            specification; the runtime runs the bundle as it is
 *     rootfs/                the image's tree
 *     sha256_<hex>.mtree     the tree as it was unpacked, named after the manifest; for umoci, while we compare with the image
 *     umoci.json             the manifest's descriptor; written last
 */
import {chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync} from 'node:fs';
import {open} from 'node:fs/promises';
import {join, resolve} from 'node:path';
import {mtreeOf} from '../../archive/mtree.ts';
import {ErrdefsError, fromErrno, hasCode} from '../../errdefs.ts';
import {discardTree, writeAtomic} from '../../fs/durable.ts';
import {type Descriptor, parseDigest} from '../../oci/descriptor.ts';
import type {ExecConfig} from '../../oci/manifest.ts';
import {RootReader} from '../../runtime/path-in-root.ts';
import {withSeccomp} from '../../runtime/resolve-spec.ts';
import {createSpec} from '../../runtime/spec.ts';
import {imageUser} from '../../runtime/user.ts';
import {findImage, planLocally} from '../api/find-image.ts';
import {assertPath} from '../archives/assert-path.ts';
import type {Context} from '../context.ts';
import {assertAllowed} from '../signatures/assert-allowed.ts';
import type {Bundle, UnpackImageOptions} from '../types/index.ts';
import {extractImage} from './extract-image.ts';

const ROOTFS = 'rootfs';
const METADATA = 'umoci.json';
const MAX_METADATA_BYTES = 1 << 20;

export interface OpenBundle {
  readonly rootfs: string;
  readonly manifest: Pick<Descriptor, 'digest' | 'mediaType' | 'size'>;
}

/** @throws not_found @throws failed_precondition the directory is not empty */
export async function unpackImage(
  context: Context,
  namespace: string,
  ref: string,
  path: string,
  options: UnpackImageOptions,
): Promise<Bundle> {
  const {platform, signal} = options;
  assertPath(path);
  const image = findImage(context, namespace, ref);
  await assertAllowed(context, namespace, image);
  const plan = await planLocally(context, namespace, image, platform);
  const planned = plan.manifests.find((manifest) => manifest.image !== undefined);
  if (planned?.image === undefined) throw new ErrdefsError('failed_precondition', `${image.name} is not an image with a tree`);
  const {config} = planned.image;
  const directory = resolve(path);
  const what = `bundle ${JSON.stringify(directory)}`;
  let isNew = false;
  try {
    isNew = mkdirSync(directory, {recursive: true, mode: 0o700}) !== undefined;
    if (readdirSync(directory).length > 0)
      throw new ErrdefsError('failed_precondition', `directory ${JSON.stringify(directory)} is not empty`);
    chmodSync(directory, 0o700); // its set-ID programs are for nobody else
  } catch (err) {
    throw fromErrno(err, what);
  }
  try {
    const rootfs = join(directory, ROOTFS);
    renameSync(await extractImage(context, namespace, {name: image.name, plan}, directory, signal), rootfs);
    writeAtomic(join(directory, 'config.json'), `${JSON.stringify(await bundleSpec(config.config, rootfs), undefined, 2)}\n`, {
      sync: false,
    });
    await describeBundle(directory, planned.descriptor, signal);
    return {directory, image: image.name, digest: planned.descriptor.digest};
  } catch (err) {
    for (const name of readdirSync(directory)) discardTree(join(directory, name));
    if (isNew) rmSync(directory, {recursive: true, force: true});
    throw fromErrno(err, what);
  }
}

/** What `umoci unpack` would run: the image's command, or a shell. */
async function bundleSpec(image: ExecConfig, rootfs: string): Promise<unknown> {
  const isSet = [...(image.Entrypoint ?? []), ...(image.Cmd ?? [])].length > 0;
  const options = isSet ? {} : {args: ['sh']};
  const root = new RootReader(rootfs);
  try {
    const host = {hostname: '', files: [], capabilities: [], devices: []};
    const user = imageUser(root, image.User ?? '');
    const spec = await withSeccomp(createSpec({cgroupsPath: '', image, options, envFile: [], user, host}), {
      cgroupsPath: '',
      image,
      options,
    });
    const {cgroupsPath: _, ...linux} = spec.linux;
    return {...spec, linux};
  } finally {
    root.close();
  }
}

/** Writes the description of the tree, and the descriptor of its manifest. */
export async function describeBundle(
  directory: string,
  {mediaType, digest, size}: Pick<Descriptor, 'digest' | 'mediaType' | 'size'>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const name = `${digest.replace(':', '_')}.mtree`;
  const temporary = join(directory, `.${name}`);
  rmSync(temporary, {force: true});
  const file = await open(temporary, 'wx', 0o644);
  try {
    for await (const text of mtreeOf(join(directory, ROOTFS), signal)) await file.writeFile(text, 'latin1');
  } finally {
    await file.close();
  }
  writeAtomic(join(directory, name), readFileSync(temporary), {sync: false});
  rmSync(temporary);
  const metadata = {
    umoci_version: '2',
    from_descriptor_path: {descriptor_walk: [{mediaType, digest, size}]},
    map_options: {uid_mappings: null, gid_mappings: null, rootless: false},
    whiteout_mode: 0,
  };
  writeAtomic(join(directory, METADATA), `${JSON.stringify(metadata)}\n`, {sync: false});
}

/**
 * Reads what a bundle, ours or umoci's, was unpacked from.
 *
 * @throws failed_precondition it is no bundle
 * @throws data_loss umoci.json is damaged
 * @throws not_implemented it was unpacked with mapped owners
 */
export function openBundle(path: string): OpenBundle {
  assertPath(path);
  const directory = resolve(path);
  const what = `bundle ${JSON.stringify(directory)}`;
  const file = join(directory, METADATA);
  const noBundle = (cause?: unknown): ErrdefsError =>
    new ErrdefsError('failed_precondition', `${what} has no ${METADATA}`, {hint: 'make it with unpack, or umoci unpack', cause});
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (err) {
    const failure = fromErrno(err, what);
    throw hasCode(failure, 'not_found') ? noBundle(err) : failure;
  }
  try {
    if (text.length > MAX_METADATA_BYTES) throw new Error('too long');
    const {from_descriptor_path: from, map_options: map, whiteout_mode: whiteouts} = JSON.parse(text) as Metadata;
    const {mediaType, digest, size} = from.descriptor_walk.at(-1)!;
    const isMapped = map?.rootless === true || [map?.uid_mappings, map?.gid_mappings].some((maps) => (maps ?? []).length > 0);
    if (isMapped || (whiteouts ?? 0) !== 0)
      throw new ErrdefsError('not_implemented', `${what} was unpacked with mapped owners, or with overlay's whiteouts`, {
        hint: 'repack it with umoci',
      });
    if (typeof mediaType !== 'string' || !Number.isSafeInteger(size)) throw new Error('no descriptor');
    return {rootfs: join(directory, ROOTFS), manifest: {mediaType, digest: parseDigest(digest), size}};
  } catch (err) {
    if (hasCode(err, 'not_implemented')) throw err;
    throw new ErrdefsError('data_loss', `${file} has no descriptor of a manifest`, {cause: err});
  }
}

interface Metadata {
  readonly from_descriptor_path: {readonly descriptor_walk: readonly {mediaType: string; digest: string; size: number}[]};
  readonly map_options?: {readonly uid_mappings?: unknown[] | null; readonly gid_mappings?: unknown[] | null; readonly rootless?: boolean};
  readonly whiteout_mode?: number;
}
