/** Images made to measure: so many layers, so many files, so many bytes. */
import {createHash} from 'node:crypto';
import {createReadStream, createWriteStream, mkdirSync, readFileSync, renameSync} from 'node:fs';
import {join} from 'node:path';
import {Readable} from 'node:stream';
import {pipeline} from 'node:stream/promises';
import {createGzip, gunzipSync} from 'node:zlib';
import {type Descriptor, type Digest, digestParts} from '../src/lib/oci/descriptor.ts';
import {OCI_CONFIG, OCI_LAYER, OCI_MANIFEST} from '../src/lib/oci/mediatypes.ts';
import {buildImage} from '../test/support/cached-images.ts';
import {ARCHITECTURE, addImage, addJSON, getTarget, setTarget} from '../test/support/layouts.ts';
import {dir, encode, file, tar} from '../test/support/tartest.ts';

/** The same numbers each time; see Knuth's MMIX. */
function randomNumbers(seed: bigint): () => number {
  let state = seed;
  return () => {
    state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffff_ffff_ffff_ffffn;
    return Number(state >> 33n) / 2 ** 31;
  };
}

const MEBIBYTE = 1 << 20;

/** A mebibyte that gzip brings to about a third, as it does programs and libraries: noise, and pieces of it again. */
function filler(): Buffer {
  const random = randomNumbers(1n);
  const bytes = Buffer.alloc(MEBIBYTE);
  const noise = 300 << 10;
  for (let i = 0; i < noise; i++) bytes[i] = random() * 256;
  for (let at = noise; at < MEBIBYTE; ) {
    const length = Math.min(16 + Math.floor(random() * 240), MEBIBYTE - at);
    const from = at - 1024 - Math.floor(random() * 16_000);
    bytes.copyWithin(at, from, from + length);
    at += length;
  }
  return bytes;
}

/** busybox and its applets. */
function busyboxLayer(): Buffer {
  const {layout} = buildImage('busybox');
  const blob = (digest: Digest): Buffer => readFileSync(join(layout, 'blobs', ...digestParts(digest)));
  const {layers} = JSON.parse(blob(getTarget(layout).digest).toString()) as {layers: Descriptor[]};
  return gunzipSync(blob(layers[0]!.digest));
}

/** busybox, and layers of one small file each on top: so many in all. */
export function layeredImage(layout: string, layers: number): void {
  const small = Array.from({length: layers - 1}, (_, i) => tar(dir(`layer${i}/`), file(`layer${i}/file`, `${i}\n`)));
  setTarget(layout, addImage(layout, {layers: [busyboxLayer(), ...small], config: {Cmd: ['sh']}}));
}

const FILES_PER_DIRECTORY = 100;

/** Files in directories of a hundred. @param sizeOf size of the file of that number, in bytes */
export function filesTar(files: number, sizeOf: (i: number) => number): Buffer {
  const bytes = filler();
  const entries = Array.from({length: files}, (_, i) => {
    const directory = `directory${Math.floor(i / FILES_PER_DIRECTORY)}`;
    const size = sizeOf(i);
    const from = (i * 4099) % (MEBIBYTE - size);
    const entry = file(`${directory}/file${i}`, bytes.subarray(from, from + size));
    return i % FILES_PER_DIRECTORY === 0 ? [dir(`${directory}/`), entry] : [entry];
  });
  return tar(...entries.flat());
}

/** One layer of so many small files. */
export function filesImage(layout: string, files: number): void {
  setTarget(layout, addImage(layout, {layers: [filesTar(files, () => 200)]}));
}

/** One layer of so many small files, all in one directory. */
export function flatImage(layout: string, files: number): void {
  const entries = Array.from({length: files}, (_, i) => file(`flat/file${i}`, `${i}\n`));
  setTarget(layout, addImage(layout, {layers: [tar(dir('flat/'), ...entries)]}));
}

/** The layers of another image, compressed by zstd. */
export function zstdImage(layout: string, of: string): void {
  const read = (digest: Digest): Buffer => readFileSync(join(of, 'blobs', ...digestParts(digest)));
  const {layers} = JSON.parse(read(getTarget(of).digest).toString()) as {layers: Descriptor[]};
  setTarget(layout, addImage(layout, {compression: 'zstd', layers: layers.map(({digest}) => gunzipSync(read(digest)))}));
}

/** As many files, of the sizes that a tree of a package manager has: most are small, few are large. */
export function packagesTar(files: number): Buffer {
  const random = randomNumbers(2n);
  const sizes = Array.from({length: files}, () => Math.floor(200 * 2 ** (random() ** 2 * 10.5)));
  return filesTar(files, (i) => sizes[i]!);
}

const FILE_BYTES = 64 * MEBIBYTE;

function* bytesTar(size: number): Generator<Buffer> {
  const bytes = filler();
  for (let done = 0, i = 0; done < size; i++) {
    const length = Math.min(FILE_BYTES, size - done);
    yield encode({...file(`file${i}`), size: length});
    for (let at = 0; at < length; at += MEBIBYTE) {
      bytes.writeUInt32LE((i << 8) + at / MEBIBYTE); // no two are the same
      yield Buffer.from(bytes.subarray(0, Math.min(MEBIBYTE, length - at)));
    }
    yield Buffer.alloc(-length & 511);
    done += length;
  }
  yield Buffer.alloc(1024);
}

/** One layer of so many bytes, in files of 64 MiB; made without having it in memory. */
export async function bytesImage(layout: string, size: number): Promise<void> {
  const blobs = join(layout, 'blobs', 'sha256');
  mkdirSync(blobs, {recursive: true});
  const [diff, blob, blobFile] = [createHash('sha256'), createHash('sha256'), join(layout, 'layer')];
  const chunks = function* (): Generator<Buffer> {
    for (const chunk of bytesTar(size)) {
      diff.update(chunk);
      yield chunk;
    }
  };
  await pipeline(Readable.from(chunks()), createGzip({level: 1, chunkSize: 256 << 10}), createWriteStream(blobFile));
  let blobSize = 0;
  for await (const chunk of createReadStream(blobFile, {highWaterMark: MEBIBYTE})) {
    blob.update(chunk as Buffer);
    blobSize += (chunk as Buffer).length;
  }
  const hex = blob.digest('hex');
  renameSync(blobFile, join(blobs, hex));
  const layers = [{mediaType: `${OCI_LAYER}+gzip`, digest: `sha256:${hex}`, size: blobSize}];
  const platform = {os: 'linux', architecture: ARCHITECTURE};
  const config = addJSON(layout, OCI_CONFIG, {
    ...platform,
    config: {},
    rootfs: {type: 'layers', diff_ids: [`sha256:${diff.digest('hex')}`]},
  });
  setTarget(layout, addJSON(layout, OCI_MANIFEST, {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers}));
}
