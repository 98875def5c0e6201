/**
 * An image as a bundle on disk, with umoci's layout, so that either program goes on with what the other has unpacked:
 *
 *     config.json            specification; the runtime runs the bundle as it is
 *     rootfs/                the image's tree
 *     sha256_<hex>.mtree     the tree as it was unpacked, named after the manifest; for umoci, while we compare with the image
 *     umoci.json             the manifest's descriptor; written last. Before, it is `.umoci.json.<identity>`, empty: who unpacks
 */
import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  type Stats,
  statSync,
  writeFileSync,
} from 'node:fs';
import {open} from 'node:fs/promises';
import {dirname, join, resolve} from 'node:path';
import {mtreeOf} from '../../archive/mtree.ts';
import {ErrdefsError, fromErrno, hasCode} from '../../errdefs.ts';
import {
  discardTree,
  isErrno,
  removeIfEmpty,
  removeTree,
  sweepOwnTemporary,
  temporaryName,
  unlinkIfPresent,
  writeAtomic,
} from '../../fs/durable.ts';
import {describeProcess, liveness, parseIdentity, uniqueName} from '../../fs/process.ts';
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
const SPECIFICATION = 'config.json';
const METADATA = 'umoci.json';
/** Before the identity of a process that unpacks. */
const CLAIM = `.${METADATA}.`;
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
  const directory = resolve(path);
  const what = `bundle ${JSON.stringify(directory)}`;
  let isNew = false;
  let claim: string;
  try {
    isNew = mkdirSync(directory, {recursive: true, mode: 0o700}) !== undefined;
    claim = claimDirectory(directory);
  } catch (err) {
    if (isNew) removeIfEmpty(directory);
    throw obstacle(directory) ?? fromErrno(err, what);
  }
  const work = temporaryName(join(directory, ROOTFS));
  /** Whether what a bundle consists of is ours here. */
  let isOurs = false;
  try {
    chmodSync(directory, 0o700); // its set-ID programs are for nobody else
    mkdirSync(work, {mode: 0o700});
    const tree = await extractImage(context, namespace, {name: image.name, plan}, work, signal);
    const spec = `${JSON.stringify(await bundleSpec(planned.image.config.config, tree), undefined, 2)}\n`;
    // Of several that began at once, one makes the bundle.
    writeFileSync(join(work, SPECIFICATION), spec, {mode: 0o600});
    isOurs = linkIfFree(join(work, SPECIFICATION), join(directory, SPECIFICATION));
    if (!isOurs) throw notEmpty(directory);
    renameSync(tree, join(directory, ROOTFS));
    removeTree(work);
    await describeBundle(directory, planned.descriptor, signal, claim);
    return {directory, image: image.name, digest: planned.descriptor.digest};
  } catch (err) {
    try {
      discardTree(work);
      if (isOurs) removeParts(directory);
      unlinkIfPresent(claim);
      if (isNew) removeIfEmpty(directory);
    } catch (left) {
      context.store.housekeeping.warn(what, left);
    }
    throw fromErrno(err, what);
  }
}

const notEmpty = (directory: string): ErrdefsError =>
  new ErrdefsError('failed_precondition', `directory ${JSON.stringify(directory)} is not empty`, {hint: 'name a new or empty directory'});

/** The error for what stands in the place of a directory, or of one above it: errnos tell little of it, and Node and Bun give others. */
function obstacle(directory: string): ErrdefsError | undefined {
  const attempt = (look: () => Stats): Stats | undefined => {
    try {
      return look();
    } catch {
      return undefined; // there is nothing, or it may not be seen, or it is below the obstacle
    }
  };
  for (let path = directory; ; path = dirname(path)) {
    const there = attempt(() => lstatSync(path));
    if (there === undefined) continue;
    if (attempt(() => statSync(path))?.isDirectory() === true) return undefined;
    const kind = there.isSymbolicLink() ? `a link to ${JSON.stringify(readlinkSync(path))}, which is no directory` : 'not a directory';
    return new ErrdefsError('failed_precondition', `${JSON.stringify(path)} is ${kind}`, {hint: 'name a new or empty directory'});
  }
}

/**
 * Takes an empty directory, or one that holds what a killed `unpack` has left, which is removed.
 *
 * The file that will be umoci.json is made first, under a name that tells whose it is: so a directory with one of a dead process was empty
 * before that process came.
 *
 * @returns the path of that file
 * @throws failed_precondition there is something in it, or another process unpacks into it
 */
function claimDirectory(directory: string): string {
  const mine = join(directory, `${CLAIM}${uniqueName()}`);
  for (;;) {
    const names = readdirSync(directory);
    const claims = names.flatMap((name) => {
      const owner = name.startsWith(CLAIM) ? parseIdentity(name.slice(CLAIM.length)) : undefined;
      return owner === undefined ? [] : [{path: join(directory, name), owner}];
    });
    const living = claims.find(({owner}) => liveness(owner) !== 'dead');
    if (living !== undefined && !names.includes(METADATA))
      throw new ErrdefsError('failed_precondition', `${describeProcess(living.owner)} unpacks into ${JSON.stringify(directory)}`, {
        hint: 'name another directory, or wait for it',
      });
    if (claims.length === 0) {
      if (names.length > 0) throw notEmpty(directory);
      try {
        writeFileSync(mine, '', {flag: 'wx', mode: 0o600});
      } catch (err) {
        unlinkIfPresent(mine);
        throw err;
      }
      return mine;
    }
    const dead = claims.filter((one) => one !== living);
    if (names.includes(METADATA)) {
      // Another one was faster, and is whole.
      sweepOwnTemporary(directory);
      for (const {path} of dead) unlinkIfPresent(path);
      throw notEmpty(directory);
    }
    // Of several that find it, the one that puts its name in place of the dead one's removes what there is.
    if (!dead.map(({path}) => renameIfPresent(path, mine)).includes(true)) continue;
    removeParts(directory);
    sweepOwnTemporary(directory);
    return mine;
  }
}

function linkIfFree(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (err) {
    if (isErrno(err, 'EEXIST')) return false;
    throw err;
  }
}

function renameIfPresent(from: string, to: string): boolean {
  try {
    renameSync(from, to);
    return true;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return false;
    throw err;
  }
}

/** Removes what of a bundle has its name before umoci.json has. */
function removeParts(directory: string): void {
  for (const name of readdirSync(directory))
    if (name === ROOTFS || name === SPECIFICATION || /^sha\d+_[0-9a-f]+\.mtree$/.test(name)) removeTree(join(directory, name));
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

/**
 * Writes the description of the tree, and the descriptor of its manifest.
 *
 * @param claim a file in the directory that becomes the last of it
 */
export async function describeBundle(
  directory: string,
  {mediaType, digest, size}: Pick<Descriptor, 'digest' | 'mediaType' | 'size'>,
  signal: AbortSignal | undefined,
  claim?: string,
): Promise<void> {
  const name = `${digest.replace(':', '_')}.mtree`;
  const temporary = temporaryName(join(directory, name));
  try {
    const file = await open(temporary, 'wx', 0o644);
    try {
      for await (const text of mtreeOf(join(directory, ROOTFS), signal)) await file.writeFile(text, 'latin1');
    } finally {
      await file.close();
    }
    renameSync(temporary, join(directory, name));
  } catch (err) {
    unlinkIfPresent(temporary);
    throw err;
  }
  const metadata = {
    umoci_version: '2',
    from_descriptor_path: {descriptor_walk: [{mediaType, digest, size}]},
    map_options: {uid_mappings: null, gid_mappings: null, rootless: false},
    whiteout_mode: 0,
  };
  const text = `${JSON.stringify(metadata)}\n`;
  if (claim === undefined) writeAtomic(join(directory, METADATA), text, {sync: false});
  else {
    writeFileSync(claim, text);
    renameSync(claim, join(directory, METADATA));
  }
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
