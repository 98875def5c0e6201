/** `oci-archive:` and `docker-archive:`, one image in a new tar, as targets of a copy. */
import {lstatSync} from 'node:fs';
import {type FileHandle, open} from 'node:fs/promises';
import {dirname} from 'node:path';
import {blobFile, dockerTag, formatDockerManifest, INDEX_FILE, OCI_LAYOUT, OCI_LAYOUT_FILE} from '../../archive/archive-documents.ts';
import {createStreamInflater} from '../../archive/inflate.ts';
import {TarFile} from '../../archive/random-access-tar-writer.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {removeTree, renameInto, sweepOwnTemporary, temporaryName} from '../../fs/durable.ts';
import {FreeSpaceGuard} from '../../fs/free-space.ts';
import {type Descriptor, type Digest, digestParts} from '../../oci/descriptor.ts';
import {createHash} from '../../oci/hash.ts';
import {MAX_CONFIG_BYTES, pairLayers, parseImageConfig, parseManifest} from '../../oci/manifest.ts';
import {kindOf, OCI_INDEX} from '../../oci/mediatypes.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import {layoutEntry} from './layout-target.ts';
import type {ImageTarget} from './types.ts';

/** A new file that gets its name when it is whole. */
class NewFile {
  readonly #path: string;
  readonly #temporary: string;
  #opened: Promise<{readonly file: FileHandle; readonly tar: TarFile}> | undefined;

  /** @throws already_exists */
  constructor(path: string) {
    if (lstatSync(path, {throwIfNoEntry: false}) !== undefined)
      throw new ErrdefsError('already_exists', path, {hint: 'remove it first, or name another file'});
    this.#path = path;
    this.#temporary = temporaryName(path);
  }

  async tar(): Promise<TarFile> {
    this.#opened ??= (async () => {
      sweepOwnTemporary(dirname(this.#path));
      const file = await open(this.#temporary, 'wx', 0o644);
      return {file, tar: new TarFile(file)};
    })();
    return (await this.#opened).tar;
  }

  async commit(): Promise<void> {
    await (await this.tar()).finish();
    const {file} = await this.#opened!;
    await file.datasync();
    renameInto(this.#temporary, this.#path, {sync: true});
  }

  async close(): Promise<void> {
    const opened = await this.#opened?.catch(() => undefined);
    if (opened === undefined) return;
    await opened.file.close();
    // After a commit the name is gone.
    removeTree(this.#temporary);
  }
}

async function addBytes(tar: TarFile, name: string, bytes: Buffer): Promise<void> {
  (await tar.reserve(name, bytes.length))(bytes, 0);
}

/** @throws already_exists */
export function layoutArchiveTarget(name: string, path: string, refName: string | undefined): ImageTarget {
  const output = new NewFile(path);
  return {
    name,
    keepsForeignLayers: true,
    format: 'oci',
    isCurrent: async () => false,
    hasManifest: async () => false,
    blob: async ({digest, size}, source, {onProgress}) => {
      const write = await (await output.tar()).reserve(blobFile(digest), size);
      let offset = 0;
      for await (const chunk of source(0)) {
        write(chunk, offset);
        offset += chunk.length;
        onProgress(offset);
      }
      return 'copied';
    },
    manifest: async ({descriptor, bytes}) => addBytes(await output.tar(), blobFile(descriptor.digest), bytes),
    commit: async ({descriptor, bytes}) => {
      const tar = await output.tar();
      await addBytes(tar, blobFile(descriptor.digest), bytes);
      const index = {schemaVersion: 2, mediaType: OCI_INDEX, manifests: [layoutEntry(descriptor, refName)]};
      await addBytes(tar, INDEX_FILE, Buffer.from(JSON.stringify(index)));
      await addBytes(tar, OCI_LAYOUT_FILE, OCI_LAYOUT);
      await output.commit();
      return descriptor;
    },
    close: () => output.close(),
  };
}

/**
 * The archive that `docker load` reads: layers inflated, the manifest rewritten. One image only.
 *
 * Layers are inflated into their place, one after the other; the header, which has the size, is written after each.
 *
 * @param reference the image's tag in docker; absent: none
 * @throws already_exists
 * @throws failed_precondition a layer is not what the config says
 */
export function dockerArchiveTarget(name: string, path: string, reference: string | undefined): ImageTarget {
  const repoTags = reference === undefined ? [] : [formatReference(parseReference(reference))];
  if (reference !== undefined && dockerTag(repoTags[0]!) === undefined)
    throw new ErrdefsError('invalid_argument', `docker-archive:${path}:${reference}: a tag is required, not a digest`);
  const output = new NewFile(path);
  const configs = new Map<Digest, Buffer>();
  /** Digest of the inflated bytes of each layer, by that of the blob. */
  const inflated = new Map<Digest, Digest>();
  const layerFile = (diffID: Digest): string => `${digestParts(diffID)[1]}.tar`;
  /** Entries of unknown size are appended one at a time. */
  let last: Promise<unknown> = Promise.resolve();

  const addLayer = async (desc: Descriptor, source: AsyncIterable<Buffer>, onProgress: (offset: number) => void): Promise<void> => {
    const tar = await output.tar();
    const hash = createHash('sha256');
    const space = new FreeSpaceGuard(dirname(path), name);
    // The name, which is the digest of what comes, is known from the config; it was read first.
    const diffID = diffIDs.get(desc.digest)!;
    if ([...inflated.values()].includes(diffID)) {
      inflated.set(desc.digest, diffID);
      return;
    }
    await tar.append(
      layerFile(diffID),
      inflate(source, hash, (read, written) => {
        onProgress(read);
        space.check(written);
      }),
    );
    const actual = `sha256:${hash.digest('hex')}` as Digest;
    if (actual !== diffID)
      throw new ErrdefsError('failed_precondition', `layer ${desc.digest} is ${actual} inflated, but the config says ${diffID}`);
    inflated.set(desc.digest, actual);
  };
  const diffIDs = new Map<Digest, Digest>();

  return {
    name,
    keepsForeignLayers: false,
    rewrites: true,
    isCurrent: async () => false,
    hasManifest: async () => false,
    prepare: async ({descriptor, bytes}, config) => {
      if (kindOf(descriptor.mediaType) !== 'manifest')
        throw new ErrdefsError('invalid_argument', 'docker-archive: takes one image, not an index', {hint: 'choose one with --platform'});
      const manifest = parseManifest(bytes, descriptor);
      if (kindOf(manifest.config.mediaType) !== 'config')
        throw new ErrdefsError('failed_precondition', `${descriptor.digest} is an artifact: docker cannot load it`);
      const configBytes = await config(manifest.config, MAX_CONFIG_BYTES);
      configs.set(manifest.config.digest, configBytes);
      for (const {layer, diffID} of pairLayers(manifest, parseImageConfig(configBytes, manifest.config))) diffIDs.set(layer.digest, diffID);
    },
    blob: async (desc, open, {onProgress}) => {
      if (configs.has(desc.digest)) return 'copied';
      // Two blobs may inflate to one layer.
      const mine = last.then(() => addLayer(desc, open(0), onProgress));
      last = mine.catch(() => undefined);
      await mine;
      return 'copied';
    },
    manifest: async () => {},
    commit: async ({descriptor, bytes}) => {
      const tar = await output.tar();
      const {config, layers} = parseManifest(bytes, descriptor);
      const configFile = `${digestParts(config.digest)[1]}.json`;
      await addBytes(tar, configFile, configs.get(config.digest)!);
      const image = {config: configFile, repoTags, layers: layers.map(({digest}) => layerFile(inflated.get(digest)!))};
      await addBytes(tar, 'manifest.json', formatDockerManifest([image]));
      await output.commit();
      return descriptor;
    },
    close: () => output.close(),
  };
}

/** Inflates bytes, and hashes the result. @param onBytes bytes read and written so far */
async function* inflate(
  source: AsyncIterable<Buffer>,
  hash: ReturnType<typeof createHash>,
  onBytes: (read: number, written: number) => void,
): AsyncGenerator<Buffer> {
  let chunks: Buffer[] = [];
  let read = 0;
  let written = 0;
  // The inflater reuses its memory.
  const inflater = createStreamInflater((chunk) => void chunks.push(Buffer.from(chunk)));
  const ready = (): readonly Buffer[] => {
    const those = chunks;
    chunks = [];
    for (const chunk of those) {
      hash.update(chunk);
      written += chunk.length;
    }
    onBytes(read, written);
    return those;
  };
  try {
    for await (const chunk of source) {
      await inflater.write(chunk);
      read += chunk.length;
      yield* ready();
    }
    await inflater.end();
    yield* ready();
  } finally {
    inflater.close();
  }
}
