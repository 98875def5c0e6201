/** Reads from a registry without a store: descriptors, lists, documents and blobs. */
import {ErrdefsError} from '../../errdefs.ts';
import {type Descriptor, parseDigest} from '../../oci/descriptor.ts';
import {MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, type Manifest, parseImageConfig, parseIndex, parseManifest} from '../../oci/manifest.ts';
import {kindOf} from '../../oci/mediatypes.ts';
import {parseReference, type Reference} from '../../oci/reference.ts';
import {MAX_DEPTH} from '../../oci/walk.ts';
import type {Remote} from '../../remotes/types.ts';
import type {Context} from '../context.ts';
import {choose, type PlatformChoice, platformChoice} from '../pull/plan.ts';
import type {RegistryCallOptions, RegistryListOptions, RemoteImage, RemoteImageOptions, RemoteObject} from '../types/index.ts';
import {streamBlob} from './stream-blob.ts';
import {verified} from './verify-stream.ts';

/** Calls `use` with a remote that is closed afterwards. */
export async function withRemote<T>(context: Context, options: RegistryCallOptions, use: (remote: Remote) => Promise<T>): Promise<T> {
  const remote = await context.openRemote(options);
  try {
    return await use(remote);
  } finally {
    await remote.close();
  }
}

/** As `withRemote`, for items that the caller takes one by one. The remote is closed when the caller stops. */
async function* streaming<T>(context: Context, options: RegistryCallOptions, use: (remote: Remote) => AsyncIterable<T>): AsyncGenerator<T> {
  const remote = await context.openRemote(options);
  try {
    yield* use(remote);
  } finally {
    await remote.close();
  }
}

export async function resolve(context: Context, text: string, options: RegistryCallOptions): Promise<Descriptor> {
  const ref = parseReference(text);
  return withRemote(context, options, async (remote) => (await remote.resolve(ref)).descriptor);
}

export function tags(context: Context, text: string, options: RegistryListOptions): AsyncIterable<string> {
  const {domain, path} = parseReference(text);
  return streaming(context, options, (remote) => remote.api({domain, path}).tags({limit: options.limit}));
}

/** @throws invalid_argument not a host */
export function catalog(context: Context, registry: string, options: RegistryListOptions): AsyncIterable<string> {
  // The rules for a reference's domain; `localhost` needs its port or dot as there.
  const {domain} = parseReference(`${registry}/x`);
  if (domain !== registry && registry !== 'index.docker.io')
    throw new ErrdefsError('invalid_argument', `registry ${JSON.stringify(registry)}`, {
      hint: 'write HOST[:PORT], such as registry.example:5000',
    });
  return streaming(context, options, (remote) => remote.catalog(domain, {limit: options.limit}));
}

/** The document that a reference names, verified. @param options.forChange as in `Remote.resolve` */
export async function readDocument(
  remote: Remote,
  ref: Reference,
  signal?: AbortSignal,
  options: {readonly forChange?: boolean} = {},
): Promise<{readonly descriptor: Descriptor; readonly bytes: Buffer}> {
  const {descriptor, body} = await remote.resolve(ref, {...options, signal});
  return {descriptor, bytes: body ?? (await remote.fetcher(ref).bytes(descriptor, {limit: MAX_MANIFEST_BYTES, signal}))};
}

export async function fetchObject(context: Context, text: string, options: RegistryCallOptions): Promise<RemoteObject> {
  const ref = parseReference(text);
  return withRemote(context, options, (remote) => readDocument(remote, ref));
}

export async function fetchBlob(
  context: Context,
  text: string,
  digestText: string,
  options: RegistryCallOptions,
): Promise<AsyncIterable<Uint8Array>> {
  const {domain, path} = parseReference(text);
  const digest = parseDigest(digestText);
  return streaming(context, options, async function* (remote) {
    const descriptor = await remote.api({domain, path}).stat(digest);
    yield* verified(descriptor, streamBlob(remote.fetcher({domain, path}), descriptor, 0));
  });
}

interface SelectedImage {
  /** What the reference names. */
  readonly root: Descriptor;
  readonly manifest: Manifest;
}

/** The manifest for one platform, by way of the indexes above it. @throws not_found no platform matches */
async function selectImage(remote: Remote, ref: Reference, platforms: PlatformChoice): Promise<SelectedImage> {
  const {descriptor: root, bytes} = await readDocument(remote, ref);
  let at = {descriptor: root, bytes};
  for (let depth = 1; kindOf(at.descriptor.mediaType) === 'index'; depth++) {
    if (depth > MAX_DEPTH) throw new ErrdefsError('invalid_argument', `index ${root.digest} is nested more than ${MAX_DEPTH} deep`);
    const [descriptor] = choose(parseIndex(at.bytes, at.descriptor).manifests, platforms);
    at = {descriptor: descriptor!, bytes: await remote.fetcher(ref).bytes(descriptor!, {limit: MAX_MANIFEST_BYTES})};
  }
  return {root, manifest: parseManifest(at.bytes, at.descriptor)};
}

const platformsOf = ({platform}: RemoteImageOptions): PlatformChoice =>
  platformChoice(platform === undefined ? {} : {platforms: [platform]});

export async function config(context: Context, text: string, options: RemoteImageOptions): Promise<RemoteObject> {
  const ref = parseReference(text);
  const platforms = platformsOf(options);
  return withRemote(context, options, async (remote) => {
    const {config: descriptor} = (await selectImage(remote, ref, platforms)).manifest;
    return {descriptor, bytes: await remote.fetcher(ref).bytes(descriptor, {limit: MAX_CONFIG_BYTES})};
  });
}

export async function inspect(context: Context, text: string, options: RemoteImageOptions): Promise<RemoteImage> {
  const ref = parseReference(text);
  const platforms = platformsOf(options);
  return withRemote(context, options, async (remote) => {
    const {root, manifest} = await selectImage(remote, ref, platforms);
    const {config: descriptor, layers} = manifest;
    if (kindOf(descriptor.mediaType) !== 'config')
      throw new ErrdefsError('failed_precondition', `${root.digest} is an artifact, not an image: its config is ${descriptor.mediaType}`, {
        hint: 'inspect --raw prints its manifest',
      });
    const bytes = await remote.fetcher(ref).bytes(descriptor, {limit: MAX_CONFIG_BYTES});
    const image = parseImageConfig(bytes, descriptor);
    const {docker_version: version} = JSON.parse(bytes.toString()) as {docker_version?: unknown};
    return {
      Name: `${ref.domain}/${ref.path}`,
      Digest: root.digest,
      ...(image.created === undefined ? {} : {Created: image.created}),
      DockerVersion: typeof version === 'string' ? version : '',
      Labels: image.config.Labels ?? null,
      Architecture: image.architecture,
      ...(image.variant === undefined ? {} : {Variant: image.variant}),
      Os: image.os,
      Layers: layers.map(({digest}) => digest),
      LayersData: layers.map(({mediaType, digest, size, annotations}) => ({
        MIMEType: mediaType,
        Digest: digest,
        Size: size,
        Annotations: annotations ?? null,
      })),
      Env: image.config.Env ?? null,
    };
  });
}
