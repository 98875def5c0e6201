/**
 * `Content-Encoding`. Requests ask for none (`Accept-Encoding: identity`); some servers and proxies encode all the same, and digests
 * and sizes are of what was encoded. Encodings as containerd has them, core/remotes/docker/fetcher.go.
 */
import type {Transform} from 'node:stream';
import {type Attempt, refusal} from './errors.ts';
import {type BodySink, ENOUGH, type Head} from './transport.ts';

/** Of several each may multiply by a thousand. */
const MAX_ENCODINGS = 2;
/** The first byte of a zlib stream says so in its low half: RFC 1950, 2.2. Without it, `deflate` is bare, as some send it. */
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

/** Encodings of an answer's body, the first applied first. */
export function encodingsOf({headers}: Head): string[] {
  const words = (headers['content-encoding'] ?? '').split(',').map((word) => word.trim().toLowerCase());
  return words.filter((word) => word !== '' && word !== 'identity');
}

/** Gives `sink` an encoded body's bytes without its encodings, as they come. @throws failed_precondition an encoding that is not known */
export function decode(head: Head, on: Attempt, sink: BodySink): BodySink {
  const encodings = encodingsOf(head);
  if (encodings.length > MAX_ENCODINGS || encodings.some((encoding) => DECODERS[encoding] === undefined))
    throw refusal(on, `answered in Content-Encoding ${JSON.stringify(head.headers['content-encoding'])}, which was not asked for`);
  return encodings.reduce((inner, encoding) => decodeOne(DECODERS[encoding]!, encoding, on, inner), sink);
}

function decodeOne(open: Open, encoding: string, on: Attempt, sink: BodySink): BodySink {
  let decoder: Transform | undefined;
  let drained: Promise<void> | undefined;
  const drain = async (stream: Transform): Promise<void> => {
    let taken: {readonly err: unknown} | undefined;
    try {
      for await (const chunk of stream) {
        try {
          if ((await sink(chunk as Buffer)) === ENOUGH) throw refusal(on, 'the answer is too long');
        } catch (err) {
          taken = {err};
          throw err;
        }
      }
    } catch (err) {
      throw taken === undefined ? refusal(on, `the answer is not in Content-Encoding ${encoding}, as it says`, {cause: err}) : taken.err;
    }
  };
  const start = (first: Buffer): Transform => {
    const stream = open(first);
    drained = drain(stream);
    drained.catch(() => {}); // the next write hears of it
    return stream;
  };
  const take: BodySink = async (chunk) => {
    decoder ??= start(chunk);
    const stream = decoder;
    const written = new Promise<void>((resolve) => void stream.write(chunk, () => resolve()));
    // What follows the end of the encoded bytes is not taken any more.
    await Promise.race([written, drained!]);
  };
  take.end = async () => {
    // Nothing came: a HEAD, or an empty body.
    decoder?.end();
    await drained;
    await sink.end?.();
  };
  return take;
}
