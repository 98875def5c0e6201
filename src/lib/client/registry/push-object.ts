/** One object into a registry, without what it refers to: of the store, of a file or of a stream. */
import {createReadStream} from 'node:fs';
import {open, stat} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, wrap} from '../../errdefs.ts';
import {removeTree, temporaryName} from '../../fs/durable.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {createHash} from '../../oci/hash.ts';
import {MAX_MANIFEST_BYTES, mediaTypeOfDocument} from '../../oci/manifest.ts';
import {kindOf} from '../../oci/mediatypes.ts';
import {formatReference, parseReference, type Reference} from '../../oci/reference.ts';
import {assertPath} from '../archives/assert-path.ts';
import type {Context} from '../context.ts';
import {refKey} from '../pull/fetch-and-unpack.ts';
import type {PushObjectOptions, PushObjectResult} from '../types/index.ts';
import {withRemote} from './read.ts';

const ANY_TYPE = 'application/octet-stream';

export interface LocalObject extends Pick<Descriptor, 'digest' | 'size'> {
  /** All of its bytes, unless there are more than a document may have. */
  readonly document: Buffer | undefined;
  /** Repositories of the registry that are known to have it. */
  readonly repositories: readonly string[];
  open(offset: number): AsyncIterable<Uint8Array>;
}

/** @throws invalid_argument the reference has another digest */
export async function putObject(
  context: Context,
  text: string,
  ref: Reference,
  {digest, size, document, repositories, open}: LocalObject,
  options: PushObjectOptions,
): Promise<PushObjectResult> {
  if (ref.digest !== undefined && ref.digest !== digest)
    throw new ErrdefsError('invalid_argument', `the object is ${digest}, not what the reference ${JSON.stringify(text)} says`);
  const mediaType = options.mediaType ?? (document && mediaTypeOfDocument(document)) ?? ANY_TYPE;
  const desc: Descriptor = {mediaType, digest, size};
  const kind = kindOf(mediaType);
  // Without a tag of the user's own a manifest gets none, as in ctr.
  const tag = ref.tag !== undefined && text.endsWith(`:${ref.tag}`) ? ref.tag : undefined;
  const {onEvent, signal} = options;
  const report = (status: 'uploading' | 'done' | 'exists', offset: number): void =>
    onEvent?.({ref: refKey(desc), status, offset, total: size});
  try {
    return await withRemote(context, options, async (remote) => {
      const pusher = remote.pusher(ref);
      if (kind === 'manifest' || kind === 'index') {
        if (document === undefined)
          throw new ErrdefsError('invalid_argument', `content ${digest} has ${size} B, more than a manifest may have`);
        if (await pusher.exists(desc, {tag, signal})) {
          report('exists', size);
          return {...desc, status: 'exists'};
        }
        await pusher.manifest(desc, document, {tag, signal});
        report('done', size);
        return {...desc, status: 'uploaded'};
      }
      const status = await pusher.blob(desc, open, {
        // Asks first: nothing notes where objects were pushed by themselves.
        from: [ref.path, ...repositories],
        onProgress: (offset) => report('uploading', offset),
        signal,
      });
      report(status === 'uploaded' ? 'done' : 'exists', size);
      return {...desc, status};
    });
  } catch (err) {
    throw wrap(`unable to push ${digest} to ${formatReference({domain: ref.domain, path: ref.path})}`, err);
  }
}

/** Pushes a file, or a stream, which is kept in a temporary file: its digest and size come before its bytes. */
export async function pushObject(
  context: Context,
  text: string,
  source: string | AsyncIterable<Uint8Array>,
  options: PushObjectOptions,
): Promise<PushObjectResult> {
  const ref = parseReference(text);
  if (typeof source === 'string') {
    assertPath(source);
    return putObject(context, text, ref, await describe(source, options.signal), options);
  }
  const path = temporaryName(join(tmpdir(), 'object'));
  try {
    await keep(source, path, options.signal);
    return await putObject(context, text, ref, await describe(path, options.signal), options);
  } finally {
    removeTree(path);
  }
}

async function keep(source: AsyncIterable<Uint8Array>, path: string, signal: AbortSignal | undefined): Promise<void> {
  const file = await open(path, 'wx', 0o600).catch((err: unknown) => {
    throw fromErrno(err, `file ${JSON.stringify(path)}`);
  });
  try {
    for await (const chunk of source) {
      signal?.throwIfAborted();
      await file.writeFile(chunk).catch((err: unknown) => {
        throw fromErrno(err, `file ${JSON.stringify(path)}`);
      });
    }
  } finally {
    await file.close();
  }
}

async function describe(path: string, signal: AbortSignal | undefined): Promise<LocalObject> {
  try {
    if (!(await stat(path)).isFile()) throw new ErrdefsError('invalid_argument', `${path}: not a regular file`);
    const hash = createHash('sha256');
    let chunks: Buffer[] | undefined = [];
    let size = 0;
    for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
      signal?.throwIfAborted();
      hash.update(chunk);
      size += chunk.length;
      if (size > MAX_MANIFEST_BYTES) chunks = undefined;
      chunks?.push(chunk);
    }
    return {
      digest: `sha256:${hash.digest('hex')}` as Digest,
      size,
      document: chunks && Buffer.concat(chunks),
      repositories: [],
      open: (offset) => createReadStream(path, {start: offset}),
    };
  } catch (err) {
    throw fromErrno(err, `file ${JSON.stringify(path)}`);
  }
}
