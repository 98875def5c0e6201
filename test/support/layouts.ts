/** OCI layouts made by hand, for tests that need exact content in a registry or a store. Docker's media types work, too. */
import {createHash} from 'node:crypto';
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {gzipSync, zstdCompressSync} from 'node:zlib';
import {type Descriptor, type Digest, digestParts, type Platform} from '../../src/lib/oci/descriptor.ts';
import {
  DOCKER_CONFIG,
  DOCKER_LAYER,
  DOCKER_LIST,
  DOCKER_MANIFEST,
  OCI_CONFIG,
  OCI_INDEX,
  OCI_LAYER,
  OCI_MANIFEST,
} from '../../src/lib/oci/mediatypes.ts';

/** This machine's architecture as images name it. */
export const ARCHITECTURE: string = {x64: 'amd64', ia32: '386', ppc64: 'ppc64le'}[process.arch as string] ?? process.arch;

export type Compression = 'gzip' | 'zstd' | 'none';

export interface ImageSource {
  /** Uncompressed layers, the base first. */
  readonly layers: readonly Uint8Array[];
  /** One for all layers; default gzip. */
  readonly compression?: Compression;
  /** Docker's media types instead of OCI's. */
  readonly docker?: boolean;
  /** Default: linux on this machine. */
  readonly platform?: Platform;
  /** The `config` object of the image's configuration: `Env`, `Cmd`, `Entrypoint`, … */
  readonly config?: Readonly<Record<string, unknown>>;
}

const COMPRESS: Readonly<Record<Compression, {suffix: {oci: string; docker: string}; run: (tar: Uint8Array) => Uint8Array}>> = {
  gzip: {suffix: {oci: '+gzip', docker: '.gzip'}, run: (tar) => gzipSync(tar)},
  zstd: {suffix: {oci: '+zstd', docker: '.zstd'}, run: (tar) => zstdCompressSync(tar)},
  none: {suffix: {oci: '', docker: ''}, run: (tar) => tar},
};

/** Adds a blob to a layout. */
export function addBlob(layout: string, mediaType: string, bytes: Uint8Array): Descriptor {
  const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}` as Digest;
  mkdirSync(join(layout, 'blobs', 'sha256'), {recursive: true});
  writeFileSync(join(layout, 'blobs', ...digestParts(digest)), bytes);
  return {mediaType, digest, size: bytes.length};
}

/** Adds a document to a layout. */
export const addJSON = (layout: string, mediaType: string, value: unknown): Descriptor =>
  addBlob(layout, mediaType, Buffer.from(JSON.stringify(value)));

/** Adds layers, configuration and manifest to a layout. @returns the manifest's descriptor, with its platform */
export function addImage(layout: string, source: ImageSource): Descriptor {
  const {compression = 'gzip', docker = false, platform = {os: 'linux', architecture: ARCHITECTURE}} = source;
  const {suffix, run} = COMPRESS[compression];
  const layerType = docker ? `${DOCKER_LAYER}${suffix.docker}` : `${OCI_LAYER}${suffix.oci}`;
  const layers = source.layers.map((tar) => addBlob(layout, layerType, run(tar)));
  const config = addJSON(layout, docker ? DOCKER_CONFIG : OCI_CONFIG, {
    created: '2024-01-01T00:00:00Z',
    ...platform,
    config: source.config ?? {},
    rootfs: {type: 'layers', diff_ids: source.layers.map((tar) => `sha256:${createHash('sha256').update(tar).digest('hex')}`)},
    history: source.layers.map((_, i) => ({created: '2024-01-01T00:00:00Z', created_by: `layer ${i}`})),
  });
  const mediaType = docker ? DOCKER_MANIFEST : OCI_MANIFEST;
  return {...addJSON(layout, mediaType, {schemaVersion: 2, mediaType, config, layers}), platform};
}

/** Adds an index (or docker's manifest list) of what is in the layout already. */
export function addIndex(layout: string, manifests: readonly Descriptor[], options: {readonly docker?: boolean} = {}): Descriptor {
  const mediaType = options.docker === true ? DOCKER_LIST : OCI_INDEX;
  return addJSON(layout, mediaType, {schemaVersion: 2, mediaType, manifests});
}

/** Makes `target` the image of the layout: `index.json` names it `latest`. */
export function setTarget(layout: string, {mediaType, digest, size}: Descriptor): Descriptor {
  const target = {mediaType, digest, size};
  writeFileSync(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(
    join(layout, 'index.json'),
    JSON.stringify({schemaVersion: 2, manifests: [{...target, annotations: {'org.opencontainers.image.ref.name': 'latest'}}]}),
  );
  return target;
}

/** Descriptor of the layout's image. */
export function getTarget(layout: string): Descriptor {
  const {mediaType, digest, size} = (JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as {manifests: Descriptor[]})
    .manifests[0]!;
  return {mediaType, digest, size};
}
