/** Reads headers and bodies of responses, and checks them against the descriptor. */
import {type Descriptor, type Digest, digestParts} from '../oci/descriptor.ts';
import {digestOf} from '../oci/hash.ts';
import {type Kind, kindOf} from '../oci/mediatypes.ts';
import {encodingsOf} from './content-encoding.ts';
import {protocolError, type RequestContext} from './errors.ts';
import type {BodySink, ResponseHead} from './undici-exchange.ts';

/** Types that registries and proxies send for unknown content. */
export const GENERIC_MEDIA_TYPES = new Set([
  '',
  'application/json',
  'application/octet-stream',
  'binary/octet-stream',
  'text/plain',
  'text/html',
]);

/** A media type without its parameters. */
export const mediaTypeOf = ({headers}: ResponseHead): string => (headers['content-type'] ?? '').split(';', 1)[0]!.trim();

/** The `Content-Length` in bytes; undefined where it is absent, malformed, or counts encoded bytes. */
export function contentLength(head: ResponseHead): number | undefined {
  const text = head.headers['content-length'];
  if (encodingsOf(head).length > 0) return undefined;
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/** @throws failed_precondition the body has another digest */
export function verify(body: Buffer, digest: Digest, context: RequestContext): void {
  const got = digestOf(body, digestParts(digest)[0]);
  if (got !== digest) throw protocolError(context, `${digest} (${body.length} B) arrived as ${got}`);
}

/** Refuses an index for the descriptor of a manifest and vice versa: a client could read either (CVE-2021-41190). */
export function checkKind(head: ResponseHead, {mediaType}: Descriptor, context: RequestContext): void {
  const got = kindOf(mediaTypeOf(head));
  const expected = kindOf(mediaType);
  const isDocument = (kind: Kind): boolean => kind === 'index' || kind === 'manifest';
  if (isDocument(got) && isDocument(expected) && got !== expected)
    throw protocolError(context, `answered with ${mediaTypeOf(head)} for ${mediaType}`);
}

/** Collects a body, and refuses more than `limit` bytes both before and while reading. */
export class BodyCollector {
  #chunks: Buffer[] = [];
  #size = 0;

  /** @param why the meaning of `limit`, for the error */
  start(head: ResponseHead, limit: number, context: RequestContext, why: string): BodySink {
    const length = contentLength(head);
    if (length !== undefined && length > limit) throw protocolError(context, `${length} B, ${why}`);
    this.#chunks = [];
    this.#size = 0;
    return (chunk) => {
      this.#size += chunk.length;
      if (this.#size > limit) throw protocolError(context, `more than ${limit} B, ${why}`);
      this.#chunks.push(chunk);
    };
  }

  body(): Buffer {
    return Buffer.concat(this.#chunks, this.#size);
  }
}
