/** What is read out of an answer, and what of it is believed. */
import {type Descriptor, type Digest, digestParts} from '../oci/descriptor.ts';
import {createHash} from '../oci/hash.ts';
import {type Kind, kindOf} from '../oci/mediatypes.ts';
import {encodingsOf} from './content-encoding.ts';
import {type Attempt, refusal} from './errors.ts';
import type {BodySink, Head} from './transport.ts';

/** Types that registries and proxies give to what they do not know: they say nothing. */
export const SAYS_NOTHING = new Set(['', 'application/json', 'application/octet-stream', 'binary/octet-stream', 'text/plain', 'text/html']);

/** A media type without its parameters. */
export const mediaTypeOf = ({headers}: Head): string => (headers['content-type'] ?? '').split(';', 1)[0]!.trim();

/** Bytes that the answer says its content has; undefined when it does not, not in digits, or of its encoded form. */
export function lengthOf(head: Head): number | undefined {
  const text = head.headers['content-length'];
  if (encodingsOf(head).length > 0) return undefined;
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

export const hash = (body: Buffer, algorithm: string): Digest =>
  `${algorithm}:${createHash(algorithm).update(body).digest('hex')}` as Digest;

/** @throws failed_precondition another digest */
export function verify(body: Buffer, digest: Digest, on: Attempt): void {
  const got = hash(body, digestParts(digest)[0]);
  if (got !== digest) throw refusal(on, `${digest} (${body.length} B) arrived as ${got}`);
}

/** An index under a manifest's descriptor, or the other way round, could be read as either (CVE-2021-41190). */
export function checkKind(head: Head, {mediaType}: Descriptor, on: Attempt): void {
  const said = kindOf(mediaTypeOf(head));
  const promised = kindOf(mediaType);
  const isDocument = (kind: Kind): boolean => kind === 'index' || kind === 'manifest';
  if (isDocument(said) && isDocument(promised) && said !== promised)
    throw refusal(on, `answered with ${mediaTypeOf(head)} for ${mediaType}`);
}

/** Keeps a body, and refuses one of more than `limit` bytes before and while it is read. */
export class Collector {
  #chunks: Buffer[] = [];
  #size = 0;

  /** @param why what more bytes than `limit` are */
  start(head: Head, limit: number, on: Attempt, why: string): BodySink {
    const length = lengthOf(head);
    if (length !== undefined && length > limit) throw refusal(on, `${length} B, ${why}`);
    this.#chunks = [];
    this.#size = 0;
    return (chunk) => {
      this.#size += chunk.length;
      if (this.#size > limit) throw refusal(on, `more than ${limit} B, ${why}`);
      this.#chunks.push(chunk);
    };
  }

  body(): Buffer {
    return Buffer.concat(this.#chunks, this.#size);
  }
}
