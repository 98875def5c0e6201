/** `attach`: pushes files as an artifact whose subject is a manifest. */
import {createReadStream, readFileSync, statSync} from 'node:fs';
import {stat} from 'node:fs/promises';
import {basename} from 'node:path';
import {ErrdefsError, fromErrno, wrap} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {createHash, digestOf} from '../../oci/hash.ts';
import {OCI_MANIFEST} from '../../oci/mediatypes.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import type {Context} from '../context.ts';
import {MAX_SIGNATURE_BYTES} from '../signatures/signature-sources.ts';
import {SIMPLE_SIGNING} from '../signatures/verify-evidence.ts';
import type {AttachFile, AttachOptions} from '../types/index.ts';
import {attachSignature} from './attach-signature.ts';
import {withRemote} from './read.ts';
import {pushReferrer} from './referrers.ts';

const EMPTY = Buffer.from('{}');
/** The empty config of the image specification, manifest.md ("Guidance for an Empty Descriptor"). */
const EMPTY_CONFIG: Descriptor = {mediaType: 'application/vnd.oci.empty.v1+json', digest: digestOf(EMPTY), size: EMPTY.length};
const TITLE = 'org.opencontainers.image.title';
/** RFC 6838, 4.2. */
const MEDIA_TYPE = /^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}\/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$/;

/** @throws invalid_argument */
function checkMediaType(text: string): string {
  if (!MEDIA_TYPE.test(text))
    throw new ErrdefsError('invalid_argument', `media type ${JSON.stringify(text)}`, {
      hint: 'write TYPE/SUBTYPE, such as application/spdx+json',
    });
  return text;
}

export async function attach(
  context: Context,
  text: string,
  artifactType: string,
  files: readonly AttachFile[],
  options: AttachOptions,
): Promise<Descriptor> {
  const ref = parseReference(text);
  const name = formatReference(ref);
  checkMediaType(artifactType);
  for (const {mediaType} of files) if (mediaType !== undefined) checkMediaType(mediaType);
  const {signal, signature, onEvent = () => {}} = options;
  const [payload, ...others] = files;
  if (signature !== undefined && (artifactType !== SIMPLE_SIGNING || payload === undefined || others.length > 0))
    throw new ErrdefsError('invalid_argument', 'a signature needs one file, which it signs, and another type of artifact', {
      hint: `write --artifact-type ${SIMPLE_SIGNING} --signature FILE REF PAYLOAD`,
    });
  try {
    return await withRemote(context, options, async (remote) => {
      const {descriptor: subject} = await remote.resolve(ref, {forChange: true, signal});
      if (signature !== undefined) return attachSignature(remote, ref, subject.digest, readPayload(payload!.path), signature, signal);
      const layers: Descriptor[] = [];
      const pusher = remote.pusher(ref);
      for (const file of files) {
        const layer = await describeFile(file, signal);
        layers.push(layer);
        const key = `layer-${layer.digest}`;
        await pusher.blob(layer, (offset) => createReadStream(file.path, {start: offset}), {
          signal,
          onProgress: (offset) => onEvent({ref: key, status: 'uploading', offset, total: layer.size}),
        });
        onEvent({ref: key, status: 'done', offset: layer.size, total: layer.size});
      }
      const empty = async function* (offset: number): AsyncGenerator<Buffer> {
        if (offset < EMPTY.length) yield EMPTY.subarray(offset);
      };
      await pusher.blob(EMPTY_CONFIG, empty, {signal});
      const bytes = Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          mediaType: OCI_MANIFEST,
          artifactType,
          config: EMPTY_CONFIG,
          layers: layers.length === 0 ? [EMPTY_CONFIG] : layers,
          subject: {mediaType: subject.mediaType, digest: subject.digest, size: subject.size},
          ...(options.annotations === undefined ? {} : {annotations: options.annotations}),
        }),
      );
      const manifest: Descriptor = {
        mediaType: OCI_MANIFEST,
        digest: digestOf(bytes),
        size: bytes.length,
        artifactType,
        ...(options.annotations === undefined ? {} : {annotations: options.annotations}),
      };
      await pushReferrer(remote, ref, subject.digest, {descriptor: manifest, bytes}, signal);
      return manifest;
    });
  } catch (err) {
    throw wrap(`unable to attach to ${name}`, err);
  }
}

function readPayload(path: string): Buffer {
  try {
    if (statSync(path).size > MAX_SIGNATURE_BYTES)
      throw new ErrdefsError('invalid_argument', `${path} has more than the ${MAX_SIGNATURE_BYTES} B that a payload may have`);
    return readFileSync(path);
  } catch (err) {
    throw fromErrno(err, `file ${JSON.stringify(path)}`);
  }
}

/** A layer for a file, which is read for its digest. The name alone becomes the title. */
async function describeFile(
  {path, mediaType = 'application/octet-stream'}: AttachFile,
  signal: AbortSignal | undefined,
): Promise<Descriptor> {
  try {
    if (!(await stat(path)).isFile()) throw new ErrdefsError('invalid_argument', `${path}: not a regular file`);
    const hash = createHash('sha256');
    let size = 0;
    for await (const chunk of createReadStream(path)) {
      signal?.throwIfAborted();
      hash.update(chunk as Buffer);
      size += (chunk as Buffer).length;
    }
    return {mediaType, digest: `sha256:${hash.digest('hex')}` as Digest, size, annotations: {[TITLE]: basename(path)}};
  } catch (err) {
    throw fromErrno(err, `file ${JSON.stringify(path)}`);
  }
}
