/**
 * Decodes `Content-Encoding`. Requests ask for none (`Accept-Encoding: identity`), but some servers and proxies encode anyway.
 * Digests and sizes are those of the decoded bytes. Encodings after containerd, core/remotes/docker/fetcher.go.
 */
import type {Transform} from 'node:stream';
import {protocolError, type RequestContext} from './errors.ts';
import {type BodySink, ENOUGH, type ResponseHead} from './undici-exchange.ts';

/** Each encoding may expand its input a thousandfold. */
const MAX_ENCODINGS = 2;
/** Whether a `deflate` body has the zlib header (RFC 1950, 2.2); some servers send raw deflate. */
const isZlib = ([first = 0]: Buffer): boolean => (first & 15) === 8;

type Open = (first: Buffer) => Transform;

const zlib = () => process.getBuiltinModule('node:zlib');
const gunzip: Open = () => zlib().createGunzip();
const DECODERS: Readonly<Record<string, Open>> = {
  gzip: gunzip,
  'x-gzip': gunzip,
  deflate: (first) => (isZlib(first) ? zlib().createInflate() : zlib().createInflateRaw()),
  zstd: () => zlib().createZstdDecompress(),
};

/** Encodings of a body, in the order of their application. */
export function encodingsOf({headers}: ResponseHead): string[] {
  const words = (headers['content-encoding'] ?? '').split(',').map((word) => word.trim().toLowerCase());
  return words.filter((word) => word !== '' && word !== 'identity');
}

/** Wraps `sink` so that it gets decoded bytes. @throws failed_precondition an unknown encoding, or too many */
export function decode(head: ResponseHead, context: RequestContext, sink: BodySink): BodySink {
  const encodings = encodingsOf(head);
  if (encodings.length > MAX_ENCODINGS || encodings.some((encoding) => DECODERS[encoding] === undefined))
    throw protocolError(
      context,
      `answered in Content-Encoding ${JSON.stringify(head.headers['content-encoding'])}, which was not asked for`,
    );
  return encodings.reduce((inner, encoding) => decodeOne(DECODERS[encoding]!, encoding, context, inner), sink);
}

function decodeOne(open: Open, encoding: string, context: RequestContext, sink: BodySink): BodySink {
  let decoder: Transform | undefined;
  let drained: Promise<void> | undefined;
  const drain = async (stream: Transform): Promise<void> => {
    let taken: {readonly err: unknown} | undefined;
    try {
      for await (const chunk of stream) {
        try {
          if ((await sink(chunk as Buffer)) === ENOUGH) throw protocolError(context, 'the response is too long');
        } catch (err) {
          taken = {err};
          throw err;
        }
      }
    } catch (err) {
      throw taken === undefined
        ? protocolError(context, `the response is not valid ${encoding}, its Content-Encoding`, {cause: err})
        : taken.err;
    }
  };
  const start = (first: Buffer): Transform => {
    const stream = open(first);
    drained = drain(stream);
    drained.catch(() => {}); // `take` awaits it
    return stream;
  };
  const take: BodySink = async (chunk) => {
    decoder ??= start(chunk);
    const stream = decoder;
    const written = new Promise<void>((resolve) => void stream.write(chunk, () => resolve()));
    // The decoder accepts no bytes after the end of the encoded stream, so `written` may stay pending.
    await Promise.race([written, drained!]);
  };
  take.end = async () => {
    // Undefined after a HEAD or an empty body.
    decoder?.end();
    await drained;
    await sink.end?.();
  };
  return take;
}
