/** The images of an archive: an OCI layout as it is, and what `docker save` writes as an image with the manifest that containerd gives it. */
import {ErrdefsError} from '../errdefs.ts';
import type {Descriptor, Digest} from '../oci/descriptor.ts';
import {createHash, digestOf, verifyBytes} from '../oci/hash.ts';
import {type ImageConfig, MAX_CONFIG_BYTES, parseImageConfig} from '../oci/manifest.ts';
import {DOCKER_CONFIG, DOCKER_MANIFEST, kindOf, OCI_INDEX} from '../oci/mediatypes.ts';
import {
  blobFile,
  checkOCILayout,
  cleanName,
  DOCKER_FILE,
  type DockerImage,
  formatArchiveIndex,
  INDEX_FILE,
  MAX_LAYOUT_BYTES,
  makeDockerManifest,
  type NamedDescriptor,
  nameDockerImage,
  OCI_LAYOUT_FILE,
  parseDockerManifest,
  parseLayoutIndex,
} from './archive-documents.ts';
import {type ArchiveFiles, compressionOf, missingFile, ofArchive, readFile} from './archive-reader.ts';

/** A document and its descriptor. */
export interface Document {
  readonly descriptor: Descriptor;
  readonly bytes: Buffer;
}

/** The images of an archive, and the blobs that they refer to. */
export interface ArchivedImages {
  readonly format: 'oci' | 'docker';
  readonly images: readonly NamedDescriptor[];
  /** Index of all images. */
  readonly index: Document;
  has(digest: Digest): boolean;
  /**
   * A document, whole.
   *
   * @throws not_found the archive does not have it
   * @throws failed_precondition its bytes are not what the descriptor says
   */
  document(desc: Descriptor, limit: number): Promise<Buffer>;
  /**
   * Bytes of a blob from an offset on. The caller verifies them.
   *
   * @throws not_found the archive does not have it @throws failed_precondition it has another size
   */
  blob(desc: Descriptor, offset?: number): AsyncIterable<Buffer>;
}

/**
 * Reads what images an archive has.
 *
 * @throws invalid_argument it holds no images, or a document is malformed
 * @throws not_implemented a version of the OCI layout that is not 1.0.0
 */
export async function readArchivedImages(files: ArchiveFiles, signal?: AbortSignal): Promise<ArchivedImages> {
  try {
    if (files.size(OCI_LAYOUT_FILE) !== undefined) return await readLayout(files);
    if (files.size(DOCKER_FILE) !== undefined) return await new DockerArchive(files, signal).read();
  } catch (err) {
    throw ofArchive(files.what, err);
  }
  throw new ErrdefsError('invalid_argument', `${files.what} holds no images: it has neither ${OCI_LAYOUT_FILE} nor ${DOCKER_FILE}`, {
    hint: 'it must be an OCI layout or the output of docker save (version 1.10 or newer)',
  });
}

const describe = (bytes: Uint8Array, mediaType: string): Descriptor => ({mediaType, digest: digestOf(bytes), size: bytes.length});

class Archived implements ArchivedImages {
  readonly format: 'oci' | 'docker';
  readonly images: readonly NamedDescriptor[];
  readonly index: Document;
  /** Name of the file that has a blob. */
  readonly #fileOf: (digest: Digest) => string | undefined;
  readonly #files: ArchiveFiles;
  /** Documents that the archive does not have as a file. */
  readonly #made: ReadonlyMap<Digest, Buffer>;

  constructor(
    files: ArchiveFiles,
    {format, images, index}: Pick<ArchivedImages, 'format' | 'images' | 'index'>,
    fileOf: (digest: Digest) => string | undefined,
    made: ReadonlyMap<Digest, Buffer>,
  ) {
    this.#files = files;
    this.format = format;
    this.images = images;
    this.index = index;
    this.#fileOf = fileOf;
    this.#made = new Map([...made, [index.descriptor.digest, index.bytes]]);
  }

  has(digest: Digest): boolean {
    return this.#made.has(digest) || this.#fileOf(digest) !== undefined;
  }

  #require(desc: Descriptor): string {
    const name = this.#fileOf(desc.digest);
    if (name === undefined) throw missingFile(this.#files.what, blobFile(desc.digest));
    const size = this.#files.size(name);
    if (size !== desc.size)
      throw new ErrdefsError('failed_precondition', `${this.#files.what}: ${name} has ${size} B, but its descriptor says ${desc.size} B`);
    return name;
  }

  async document(desc: Descriptor, limit: number): Promise<Buffer> {
    const bytes = this.#made.get(desc.digest) ?? (await readFile(this.#files, this.#require(desc), limit));
    verifyBytes(`${kindOf(desc.mediaType)} ${desc.digest}`, bytes, desc);
    return bytes;
  }

  async *blob(desc: Descriptor, offset = 0): AsyncGenerator<Buffer> {
    const made = this.#made.get(desc.digest);
    if (made === undefined) yield* this.#files.read(this.#require(desc), offset);
    else yield made.subarray(offset);
  }
}

async function readLayout(files: ArchiveFiles): Promise<ArchivedImages> {
  checkOCILayout(await readFile(files, OCI_LAYOUT_FILE, MAX_LAYOUT_BYTES));
  const bytes = await readFile(files, INDEX_FILE, MAX_LAYOUT_BYTES);
  const fileOf = (digest: Digest): string | undefined => (files.size(blobFile(digest)) === undefined ? undefined : blobFile(digest));
  const index = {descriptor: describe(bytes, OCI_INDEX), bytes};
  return new Archived(files, {format: 'oci', images: parseLayoutIndex(bytes), index}, fileOf, new Map());
}

/** A layer of a docker archive. */
type Layer = Pick<Descriptor, 'digest' | 'size'> & {readonly name: string; readonly isCompressed: boolean};

/** Most layers of all images in docker's `manifest.json`, each counted as often as it is named; a manifest is made of them. */
export const MAX_DOCKER_LAYERS = 100_000;

/** Reads docker's archive: each of its files once, however many images name it. */
class DockerArchive {
  readonly #files: ArchiveFiles;
  readonly #signal: AbortSignal | undefined;
  readonly #configs = new Map<string, {readonly descriptor: Descriptor; readonly parsed: ImageConfig}>();
  readonly #compressed = new Map<string, boolean>();
  readonly #hashes = new Map<string, Digest>();

  constructor(files: ArchiveFiles, signal: AbortSignal | undefined) {
    this.#files = files;
    this.#signal = signal;
  }

  async read(): Promise<ArchivedImages> {
    const names = new Map<Digest, string>();
    const made = new Map<Digest, Buffer>();
    const images: NamedDescriptor[] = [];
    const listed = parseDockerManifest(await readFile(this.#files, DOCKER_FILE, MAX_LAYOUT_BYTES));
    const count = listed.reduce((sum, {layers}) => sum + 1 + layers.length, 0);
    if (count > MAX_DOCKER_LAYERS)
      throw new ErrdefsError('resource_exhausted', `${DOCKER_FILE} has ${count} images and layers, at most ${MAX_DOCKER_LAYERS} are read`);
    for (const image of listed) {
      this.#signal?.throwIfAborted();
      const configName = this.#nameOf(image.config);
      const config = await this.#config(configName);
      names.set(config.descriptor.digest, configName);
      const layers = await this.#layers(image, config.parsed.rootfs.diffIDs);
      for (const {name, digest} of layers) names.set(digest, name);
      const manifest = makeDockerManifest(config.descriptor, layers);
      const descriptor = describe(manifest, DOCKER_MANIFEST);
      made.set(descriptor.digest, manifest);
      images.push(...nameDockerImage(descriptor, config.parsed, image.repoTags));
    }
    const bytes = formatArchiveIndex(images.map(({descriptor}) => descriptor));
    const index = {descriptor: describe(bytes, OCI_INDEX), bytes};
    return new Archived(this.#files, {format: 'docker', images, index}, (digest) => names.get(digest), made);
  }

  /** The name of a file that an entry leads to. */
  #nameOf(text: string): string {
    const name = cleanName(text);
    const found = name === undefined ? undefined : this.#files.resolve(name);
    if (found === undefined) throw missingFile(this.#files.what, text);
    return found;
  }

  async #config(name: string): Promise<{readonly descriptor: Descriptor; readonly parsed: ImageConfig}> {
    const known = this.#configs.get(name);
    if (known !== undefined) return known;
    const bytes = await readFile(this.#files, name, MAX_CONFIG_BYTES);
    const descriptor = describe(bytes, DOCKER_CONFIG);
    const config = {descriptor, parsed: parseImageConfig(bytes, descriptor)};
    this.#configs.set(name, config);
    return config;
  }

  async #layers(image: DockerImage, diffIDs: readonly Digest[]): Promise<readonly Layer[]> {
    if (image.layers.length !== diffIDs.length)
      throw new ErrdefsError('invalid_argument', `number of layers and diffIDs don't match: ${image.layers.length} != ${diffIDs.length}`);
    const layers: Layer[] = [];
    for (const [i, text] of image.layers.entries()) {
      this.#signal?.throwIfAborted();
      const name = this.#nameOf(text);
      const isCompressed = await this.#isCompressed(name);
      // The diff ID is the digest of an uncompressed layer, and whoever stores the layer verifies it.
      const digest = this.#files.digest?.(name) ?? (isCompressed ? await this.#hash(name) : diffIDs[i]!);
      if (!isCompressed && digest !== diffIDs[i])
        throw new ErrdefsError(
          'failed_precondition',
          `layer ${JSON.stringify(text)} is ${digest}, but the image's config says ${diffIDs[i]}`,
        );
      layers.push({name, digest, size: this.#files.size(name)!, isCompressed});
    }
    return layers;
  }

  async #isCompressed(name: string): Promise<boolean> {
    const known = this.#compressed.get(name) ?? (await compressionOf(this.#files, name)) !== 'none';
    this.#compressed.set(name, known);
    return known;
  }

  async #hash(name: string): Promise<Digest> {
    const known = this.#hashes.get(name);
    if (known !== undefined) return known;
    const hash = createHash('sha256');
    for await (const chunk of this.#files.read(name)) {
      this.#signal?.throwIfAborted();
      hash.update(chunk);
    }
    const digest = `sha256:${hash.digest('hex')}` as Digest;
    this.#hashes.set(name, digest);
    return digest;
  }
}
