/** Images in a fake registry with every kind of media type, and images of a store as other tools read them. */
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {gunzipSync, gzipSync, zstdCompressSync, zstdDecompressSync} from 'node:zlib';
import type {ImageTree, NamespaceClient} from '../../src/lib/client/types/index.ts';
import {type Descriptor, digestParts} from '../../src/lib/oci/descriptor.ts';
import {documentType, layerType, type MediaTypeFamily} from '../../src/lib/oci/mediatypes.ts';
import {digestOf, type FakeRegistry} from '../fakes/registry.ts';
import {ARCHITECTURE, type Compression} from './layouts.ts';

export const COMPRESSIONS: readonly Compression[] = ['gzip', 'zstd', 'none'];

export const compress = (compression: Compression, bytes: Buffer): Buffer =>
  compression === 'gzip' ? gzipSync(bytes) : compression === 'zstd' ? zstdCompressSync(bytes) : bytes;

/** Inflates bytes by what they begin with. */
export function inflate(bytes: Buffer): {readonly compression: Compression; readonly bytes: Buffer} {
  if (bytes.readUInt16BE(0) === 0x1f8b) return {compression: 'gzip', bytes: gunzipSync(bytes)};
  if (bytes.readUInt32LE(0) === 0xfd2fb528) return {compression: 'zstd', bytes: zstdDecompressSync(bytes)};
  return {compression: 'none', bytes};
}

export interface PublishedImage {
  readonly family?: MediaTypeFamily;
  readonly compression?: Compression;
  readonly architecture?: string;
  /** Layers are foreign ones, with a URL. */
  readonly foreign?: boolean;
  /** Members of the config's `config`, and of the config itself. */
  readonly exec?: object;
  readonly config?: object;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** Adds an image to the registry. @returns descriptor of its manifest, with its platform */
export function publishImage(registry: FakeRegistry, name: string, layers: readonly Buffer[], options: PublishedImage = {}): Descriptor {
  const {family = 'oci', compression = 'gzip', architecture = ARCHITECTURE, foreign = false, exec = {}, config = {}, annotations} = options;
  const created = '2024-01-01T00:00:00Z';
  const document = {
    created,
    architecture,
    os: 'linux',
    config: {Env: ['PATH=/bin'], Cmd: ['/bin/sh'], Labels: {a: '1'}, ...exec},
    rootfs: {type: 'layers', diff_ids: layers.map((layer) => digestOf(layer))},
    history: layers.map((_, i) => ({created, created_by: `layer ${i}`})),
    'org.example.unknown': {kept: true},
    ...config,
  };
  const configured = registry.addBlob(Buffer.from(JSON.stringify(document)), documentType('config', family));
  const layered = layers.map((bytes) => ({
    ...registry.addBlob(compress(compression, bytes), layerType(family, compression, foreign)),
    ...(foreign ? {urls: ['https://example.org/layer']} : {}),
  }));
  const mediaType = documentType('manifest', family);
  const manifest = {schemaVersion: 2, mediaType, config: configured, layers: layered, ...(annotations === undefined ? {} : {annotations})};
  return {...registry.addManifest(name, manifest, mediaType, 'latest'), platform: {os: 'linux', architecture}};
}

/** All bytes of a blob. */
export async function readBlob(namespace: NamespaceClient, digest: string): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of await namespace.content.open(digest)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** A document, as a value. */
export const readDocument = async (namespace: NamespaceClient, digest: string): Promise<never> =>
  JSON.parse((await readBlob(namespace, digest)).toString()) as never;

/** Writes an image of a namespace as an OCI layout. */
export async function writeLayout(namespace: NamespaceClient, name: string, directory: string): Promise<void> {
  const tree = await namespace.images.inspect(name);
  const write = async ({descriptor: {digest}, children}: ImageTree): Promise<void> => {
    const [algorithm, hex] = digestParts(digest);
    mkdirSync(join(directory, 'blobs', algorithm), {recursive: true});
    writeFileSync(join(directory, 'blobs', algorithm, hex), await readBlob(namespace, digest));
    for (const child of children) await write(child);
  };
  await write(tree);
  writeFileSync(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  const annotations = {'org.opencontainers.image.ref.name': 'latest'};
  writeFileSync(join(directory, 'index.json'), JSON.stringify({schemaVersion: 2, manifests: [{...tree.descriptor, annotations}]}));
}

/** Writes an image of one manifest in skopeo's format `dir:`, which takes docker's media types as well. */
export async function writeSkopeoDirectory(namespace: NamespaceClient, name: string, directory: string): Promise<void> {
  const tree = await namespace.images.inspect(name);
  mkdirSync(directory, {recursive: true});
  writeFileSync(join(directory, 'version'), 'Directory Transport Version: 1.1\n');
  writeFileSync(join(directory, 'manifest.json'), await readBlob(namespace, tree.descriptor.digest));
  for (const {descriptor} of tree.children)
    writeFileSync(join(directory, digestParts(descriptor.digest)[1]), await readBlob(namespace, descriptor.digest));
}
